"""Fixtures that several test files share."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from second_device import beside
from strict import on_strict_device

from minist import Function, Tensor
from minist.backend import require_cupy
from minist.datasets import MNIST, distorted, split

# An example may take its time: a busy machine is no fault of the code.
settings.register_profile("minist", deadline=None)
settings.load_profile("minist")


def missing_gpu():
    """Why no test can run on a GPU here; None where it can."""
    try:
        require_cupy()
    except RuntimeError as error:
        return str(error)
    return None


def pytest_collection_modifyitems(items):
    """Skip what needs a GPU where there is none, and say why."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (reason := missing_gpu()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


# What these do is repeated on a device, operation by operation: on one as strict as CuPy, and where
# there is a GPU once more on it (`-m gpu`).
OPERATIONS = (
    "activation arithmetic convolution dropout fourier grid homogeneous kernels linear loss "
    "normalisation piecewise pooling sampler thin_plate transformer"
)


def pytest_generate_tests(metafunc):
    if metafunc.module.__name__.removeprefix("test_") in OPERATIONS.split():
        devices = ["strict"]
        if missing_gpu() is None:
            devices.append(pytest.param("cuda", marks=pytest.mark.gpu))
        metafunc.fixturenames.append("second_device")
        metafunc.parametrize("second_device", devices, indirect=True, scope="module")


@pytest.fixture(autouse=True)
def repeated(request):
    """No test names `second_device`, so it has to be set up for those that it is made for."""
    if "second_device" in getattr(getattr(request.node, "callspec", None), "params", {}):
        request.getfixturevalue("second_device")
        assert Function.apply.__name__ == "apply_twice"


@pytest.fixture(scope="module")
def second_device(request):
    with on_strict_device() if request.param == "strict" else nullcontext(), beside("cuda"):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def leaf(rng):
    """Makes a float64 tensor of normal random numbers that requires a gradient."""

    def make(*shape):
        return Tensor(rng.normal(size=shape), requires_grad=True)

    return make


def batch_innermost(x):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)


def negative_strides(x):
    return np.flip(np.ascontiguousarray(np.flip(x)))


@pytest.fixture(
    params=[np.ascontiguousarray, batch_innermost, np.asfortranarray, negative_strides],
    ids=["C order", "batch innermost", "Fortran order", "negative strides"],
)
def layout(request):
    """Puts an array into an order of memory."""
    return request.param


@pytest.fixture
def assert_same_as_torch(rng):
    """Compares two operations on the same arrays: values, and the gradient of every input."""
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")

    def compare(ours, theirs, *arrays):
        for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-5)):
            close = {"rtol": tolerance, "atol": tolerance, "strict": True}
            leaves = [Tensor(array.astype(dtype), requires_grad=True) for array in arrays]
            others = [torch.tensor(x.numpy(), requires_grad=True) for x in leaves]
            y, other = ours(*leaves), theirs(*others)
            np.testing.assert_allclose(y.numpy(), other.detach().numpy(), **close)
            grad = rng.normal(size=y.shape).astype(dtype)
            y.backward(grad)
            other.backward(torch.tensor(grad))
            for x, other in zip(leaves, others, strict=True):
                np.testing.assert_allclose(x.grad, other.grad.numpy(), **close)

    return compare


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The built documentation, a folder of pages."""
    for package in ("sphinx", "myst_parser", "furo", "math_core", "ziamath"):
        pytest.importorskip(package, reason="the site needs pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    docs = Path(__file__).parents[1] / "docs"
    build = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", docs, folder],
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stderr
    return folder


@pytest.fixture(scope="module")
def digits():
    """200 test digits, turned, and their labels."""
    _, some = split(MNIST(train=False), 200)
    return distorted(some, "R", 0)
