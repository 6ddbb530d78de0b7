"""The CUDA kernels give what the array versions give, on every edge.

Without a GPU the host's compiler runs them (`host_kernels.py`); `nvcc` and CuPy, where they are,
compile them for real cards; with a GPU everything is compared there.
"""

import shutil
import subprocess
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import batch_innermost
from host_kernels import FILES, STRUCTS, TYPES, compiled, on_host  # noqa: F401  (fixtures)

import minist
import minist.functional as F
from minist import Tensor, cuda, nn, optim, spatial
from minist.backend import to_device, to_numpy
from minist.spatial import kernels

# Of the largest number in an array: a sum has other last digits in another order, and BLAS sums in
# another order on another processor.
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}
# A card's exponentials and sums have another last digit.
CARD = {"float32": 1e-4, "float64": 1e-9}
both_types = pytest.mark.parametrize("dtype", cuda.REALS)


def assert_close(a, b, tolerance):
    largest = abs(b).max(initial=1, where=np.isfinite(b))
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * largest, strict=True)


def outcome(function, arrays, wanted, device="cpu"):
    """The result of an operation, and its gradients to the arrays that are wanted."""
    inputs = [
        Tensor(to_device(a, device), requires_grad=w) for a, w in zip(arrays, wanted, strict=True)
    ]
    y = function(*inputs)
    grad = np.random.default_rng(0).normal(size=y.shape).astype(y.dtype)
    if any(wanted):
        y.backward(to_device(batch_innermost(grad) if grad.ndim == 4 else grad, device))
    return [to_numpy(a) for a in (y.data, *(x.grad for x in inputs if x.requires_grad))]


@pytest.fixture(params=["on the host", pytest.param("on a card", marks=pytest.mark.gpu)])
def assert_same(request, monkeypatch, compiled):  # noqa: F811
    """An operation by its array version and by its kernels, with either integer; they must run."""
    card = request.param == "on a card"
    function_of, launched = cuda.function if card else compiled.function, []

    def noted(xp, file, name, real, integer):
        launched.append((name, integer))
        return function_of(xp, file, name, real, integer)

    def check(function, arrays, wanted, kernels):
        expected = outcome(function, arrays, wanted)
        for integer, small in (("int32", cuda.SMALL), ("int64", 0)):
            launched.clear()
            with monkeypatch.context() as m:
                m.setattr(cuda, "SMALL", small)
                m.setattr(cuda, "function", noted)
                if not card:
                    m.setattr(cuda, "is_cupy", lambda array: isinstance(array, np.ndarray))
                found = outcome(function, arrays, wanted, "cuda" if card else "cpu")
            assert set(launched) == set(product(kernels, [integer]))
            tolerance = (CARD if card else TOLERANCE)[arrays[0].dtype.name]
            for a, b in zip(found, expected, strict=True):
                assert_close(a, b, tolerance)
        return found

    return check


# --- what Python and C++ share ------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # no kernel fills the arrays it is handed
@pytest.mark.parametrize(("real", "integer"), TYPES)
def test_structs_are_as_large_as_the_kernels_read_them(real, integer, compiled, monkeypatch):  # noqa: F811
    handed = {}

    def function(xp, file, *name_and_types):
        def launch(blocks, threads, arguments):
            structs = [a for a in arguments if a is not None and a.dtype.kind == "V"]
            handed[file] = [struct.nbytes for struct in structs]

        return launch

    monkeypatch.setattr(cuda, "function", function)
    monkeypatch.setattr(cuda, "is_cupy", lambda array: isinstance(array, np.ndarray))
    monkeypatch.setattr(cuda, "SMALL", cuda.SMALL if integer == "int32" else 0)
    x = np.ones((1, 1, 4, 4), real)
    spatial.grid_sample(x, np.zeros((1, 2, 2, 2), real))
    F.max_pool2d(x, 2)
    F.conv2d(x, x)
    p = nn.Parameter(x)
    p.grad = x
    optim.SGD([p], 0.1).step()
    library = compiled.libraries[real, integer]
    assert handed == {
        file: [getattr(library, f"size_of_{struct}")() for struct in structs]
        for file, structs in STRUCTS.items()
    }


@pytest.mark.parametrize(
    ("count", "shape", "steps", "number", "integer"),
    [
        (1, (2, 3), (3, 1), 7, "int32"),
        (cuda.SMALL, (2, 3), (3, 1), 7, "int64"),
        (1, (2, 3), (3, 1), cuda.SMALL, "int64"),
        (1, (2, 3), (3, 1), -cuda.SMALL, "int64"),
        (1, (2, 2), (1, cuda.SMALL), 7, "int64"),
        (1, (2, 2), (1, -cuda.SMALL), 7, "int64"),
        (1, (2, 1), (1, cuda.SMALL), 7, "int32"),  # a step that is not taken
    ],
)
def test_what_reaches_far_is_counted_in_long_integers(
    count, shape, steps, number, integer, monkeypatch
):
    chosen = []

    def function(xp, file, name, *types):
        chosen.append(types)
        return lambda blocks, threads, values: None

    monkeypatch.setattr(cuda, "function", function)
    x = np.lib.stride_tricks.as_strided(np.ones(1), shape, [8 * step for step in steps])
    cuda.launch("a file", "a kernel", count, x, number, None)
    cuda.launch("a file", "a kernel", count, x, cuda.struct(1, [2, number]))
    del x  # a message about it would read what is not there
    assert chosen == [("float64", integer)] * 2


# --- the sampler --------------------------------------------------------------------------------

MODES = {"nearest": 1, "bilinear": 2, "bicubic": 4}
IMAGES = {  # U, and the size of the output
    "2-D": ((2, 3, 5, 4), (3, 6)),
    "one pixel": ((2, 1, 1, 1), (2, 3)),
    "one row": ((2, 2, 1, 5), (4, 1)),
    "one image": ((1, 2, 4, 3), (2, 2)),
    "3-D": ((2, 2, 3, 4, 5), (2, 3, 2)),
    "one voxel": ((2, 1, 1, 1, 1), (2, 1, 2)),
    "one slice": ((1, 1, 1, 3, 2), (2, 2, 2)),
}


def points(rng, size_in, size_out, n, align_corners):
    """Points inside and outside, some on pixels, half-way between, at borders and far away."""
    d = len(size_in)
    grid = rng.uniform(-1.6, 1.6, (n, *size_out, d))
    special = [0.0, -1.0, 1.0, 3.0, -3.0, 1e3, -1e9, 1e30, np.inf, -np.inf, np.nan]
    for size in size_in:  # pixels, and half-way to the next
        at = np.arange(-1.5, size + 1, 0.5)
        special += list((2 * at - (size - 1)) / max(size - 1 if align_corners else size, 1))
    flat = grid.reshape(-1)
    chosen = rng.random(flat.size) < 0.6
    flat[chosen] = rng.choice(special, chosen.sum())
    return grid


@both_types
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("padding_mode", spatial.sampler.PADDINGS)
@pytest.mark.parametrize("mode", MODES)
def test_the_sampler(mode, padding_mode, align_corners, dtype, rng, assert_same):
    for shape, size in IMAGES.values():
        n = max(shape[0], 2)
        u = rng.normal(size=shape).astype(dtype)
        grid = points(rng, shape[2:], size, n, align_corners).astype(dtype)
        names = [f"{name}_{len(size)}_{MODES[mode]}" for name in ("sample", "sample_backward")]

        def sample(u, grid):
            return spatial.grid_sample(u, grid, mode, padding_mode, align_corners)

        for wanted in ((True, True), (True, False), (False, True)):
            assert_same(sample, [u, grid], wanted, names)


@both_types
def test_the_identity_grid_sees_each_pixel_itself(dtype, rng, assert_same):
    theta = Tensor(spatial.Affine().identity()[None].astype(dtype))
    for size in (2, 7, 28, 41):
        u = rng.normal(size=(1, 1, size, size)).astype(dtype)
        grid = spatial.Affine().grid(theta, (size, size)).data
        names = ["sample_2_2", "sample_backward_2_2"]
        v, *_ = assert_same(spatial.grid_sample, [u, grid], (True, True), names)
        np.testing.assert_array_equal(v, u)


@pytest.mark.parametrize("inner", [True, False], ids=["batch innermost", "C order"])
def test_the_sampler_keeps_the_order_of_memory(inner, rng, on_host):  # noqa: F811
    u = rng.normal(size=(3, 2, 5, 4))
    u = batch_innermost(u) if inner else u
    v = spatial.grid_sample(u, rng.uniform(-1, 1, (3, 2, 3, 2))).data
    assert on_host and (v.strides[0] == v.itemsize) == inner


def test_a_pixel_that_is_no_number_spreads_alike(rng, assert_same):
    u = rng.normal(size=(1, 2, 4, 4))
    u[0, 0, 1, 2] = np.nan
    grid = rng.uniform(-1.2, 1.2, (1, 6, 6, 2))
    names = ["sample_2_2", "sample_backward_2_2"]
    with np.errstate(invalid="ignore"):
        assert_same(spatial.grid_sample, [u, grid], (True, True), names)


def test_other_kernels_learnt_ones_and_antialiasing_have_the_array_version(rng, on_host):  # noqa: F811
    u, grid = rng.normal(size=(1, 1, 4, 4)), rng.uniform(-1, 1, (1, 3, 3, 2))
    for mode in (kernels.Lanczos(2), kernels.Bicubic(learn=True), ["bilinear", "nearest"]):
        spatial.grid_sample(u, grid, mode)
    spatial.grid_sample(u, grid, antialias=True)
    spatial.grid_sample(u, grid.astype(np.float32))  # of two types
    spatial.grid_sample(u[:0], grid[:0])
    assert on_host == []


# --- pooling, convolution, activation, loss -----------------------------------------------------


@both_types
@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((2, 3, 6, 4), {"kernel_size": 2}),
        ((2, 3, 7, 5), {"kernel_size": 2, "ceil_mode": True}),
        ((2, 2, 7, 6), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ((1, 1, 5, 8), {"kernel_size": (2, 3), "stride": (1, 2)}),
        ((2, 1, 9, 9), {"kernel_size": 2, "stride": 3}),
        ((2, 1, 9, 9), {"kernel_size": 2, "stride": 3, "ceil_mode": True}),
        ((3, 1, 1, 1), {"kernel_size": 1}),
    ],
)
def test_max_pool(shape, window, dtype, rng, layout, assert_same):
    def pool(x):
        return F.max_pool2d(x, **window)

    x = rng.normal(size=shape)
    for image in (x, np.round(x), np.where(x > 1, np.nan, x), np.where(x > 0, -np.inf, np.inf)):
        image = layout(image.astype(dtype))
        assert_same(pool, [image], (True,), ["max_pool", "max_pool_backward"])


@both_types
@pytest.mark.parametrize(
    ("shape", "filters", "kernel", "options"),
    [
        ((2, 3, 6, 5), 4, (3, 2), {}),
        ((2, 3, 7, 6), 4, (3, 3), {"padding": 1, "stride": 2}),
        ((2, 2, 9, 9), 2, (2, 2), {"stride": 3}),
        ((3, 4, 8, 7), 6, (2, 3), {"groups": 2, "dilation": (2, 1)}),
        ((2, 1, 1, 1), 1, (1, 1), {}),
    ],
)
def test_convolution(shape, filters, kernel, options, dtype, rng, layout, assert_same):
    c = shape[1] // options.get("groups", 1)
    x, w, b = (rng.normal(size=s) for s in (shape, (filters, c, *kernel), (filters,)))
    arrays = [layout(x.astype(dtype)), w.astype(dtype), b.astype(dtype)]

    def convolve(x, w, b):
        return F.conv2d(x, w, b, **options)

    assert_same(convolve, arrays, (True, True, True), ["im2col", "col2im"])
    assert_same(convolve, arrays, (False, True, True), ["im2col"])


@both_types
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 5), (1, 1), (2, 1, 3, 1)])
def test_bias_and_relu(shape, dtype, rng, layout, assert_same):
    x = layout(np.round(rng.normal(size=shape)).astype(dtype))  # some just at the kink
    x.reshape(-1)[:1] = np.nan
    bias = np.round(rng.normal(size=shape[1])).astype(dtype)
    assert_same(F.bias_relu, [x, bias], (True, True), ["bias_relu", "relu_backward"])


@both_types
def test_an_infinite_gradient_stops_where_the_slope_is_zero(dtype, rng, assert_same):
    """That of sqrt at 0; of a window of zeros, the first has it."""
    x = np.round(rng.normal(size=(2, 3, 4, 6))).astype(dtype)
    operations = [
        (lambda x, b: F.sqrt(F.bias_relu(x, b)), x, ["bias_relu", "relu_backward"]),
        (lambda x, b: F.sqrt(F.max_pool2d(x, 2)), abs(x), ["max_pool", "max_pool_backward"]),
    ]
    for function, images, launched in operations:
        with np.errstate(divide="ignore"):
            of_x = assert_same(function, [images, np.zeros(3, dtype)], (True, False), launched)[1]
        assert not np.isnan(of_x).any()


def test_bias_and_relu_are_the_two_after_each_other(rng):
    x, bias = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=3)
    found = outcome(F.bias_relu, [x, bias], (True, True))
    apart = outcome(lambda x, b: F.relu(x + b.reshape(3, 1, 1)), [x, bias], (True, True))
    for a, b in zip(found, apart, strict=True):
        np.testing.assert_allclose(a, b)


def test_bias_and_relu_refuse_other_sizes(rng):
    with pytest.raises(ValueError, match=r"x \(N, C, ...\) needs a bias \(C,\)"):
        F.bias_relu(np.ones((2, 3)), np.ones(2))


@both_types
@pytest.mark.parametrize("label_type", [np.uint8, np.int64])
def test_cross_entropy(label_type, dtype, rng, layout, assert_same):
    for n, classes in ((5, 10), (1, 1), (3, 2)):
        labels = rng.integers(0, classes, n).astype(label_type)
        for scale in (1.0, 1e4):  # at which exponentials would overflow
            logits = layout(scale * rng.normal(size=(n, classes)).astype(dtype))
            for reduction in ("none", "mean"):

                def loss(x, reduction=reduction, labels=labels):
                    return F.cross_entropy(x, labels, reduction)

                assert_same(loss, [logits], (True,), ["cross_entropy"])


def test_a_row_that_is_no_number_has_no_loss(rng, assert_same):
    logits = rng.normal(size=(3, 4))
    logits[1, 2], logits[2, 0] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        loss, _ = assert_same(
            lambda x: F.cross_entropy(x, np.zeros(3, int), "none"),
            [logits],
            (True,),
            ["cross_entropy"],
        )
    assert list(np.isnan(loss)) == [False, True, True]


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_out_of_range_gives_no_number_where_the_host_does_not_wait(label, on_host):  # noqa: F811
    x = Tensor(np.zeros((2, 4)), requires_grad=True)
    loss = F.cross_entropy(x, np.array([0, label]), "none")
    loss.backward(np.ones(2))
    assert list(np.isnan(loss.data)) == [False, True]
    assert np.isnan(x.grad[1]).all() and not np.isnan(x.grad[0]).any()


def test_an_empty_batch_has_the_array_version(on_host):  # noqa: F811
    assert F.cross_entropy(np.zeros((0, 3)), np.zeros(0, int), "none").shape == (0,)
    assert F.max_pool2d(np.zeros((0, 1, 4, 4)), 2).shape == (0, 1, 2, 2)
    assert F.conv2d(np.zeros((0, 1, 4, 4)), np.zeros((2, 1, 3, 3))).shape == (0, 2, 2, 2)
    assert on_host == []


# --- the optimisers -----------------------------------------------------------------------------


OPTIMISERS = {
    "SGD": lambda params: optim.SGD(params, lr=0.1),
    "momentum": lambda params: optim.SGD(params, 0.1, momentum=0.9, weight_decay=0.01),
    "Nesterov": lambda params: optim.SGD(params, 0.1, momentum=0.9, nesterov=True),
    "groups": lambda params: optim.SGD(
        [{"params": params[:2], "momentum": 0.5, "lr": 0.2}, {"params": params[2:]}], 0.1
    ),
    "Adam": lambda params: optim.Adam(params, 0.1),
    "decaying Adam": lambda params: optim.Adam(params, 0.1, (0.5, 0.7), 1e-3, weight_decay=0.1),
}


def after_steps(make, dtype, missing=2, count=50):
    """Parameters and state after three steps; one has no gradient in one of them."""
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (5,), (), (2, 1, 3)] + [(2,)] * (count - 4)
    params = [nn.Parameter(rng.normal(size=shape).astype(dtype)) for shape in shapes]
    optimizer = make(params)
    schedule = optim.StepLR(optimizer, 2)
    for step in range(3):
        for i, p in enumerate(params):
            grad = np.asarray(rng.normal(size=p.shape), dtype)
            p.grad = None if (i, step) == (missing, 1) else grad
        optimizer.step()
        schedule.step()
    state = optimizer.state_dict()
    return [p.data for p in params], state["arrays"], state["steps"]


@both_types
@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_update_of_all_parameters(name, dtype, request):
    expected, arrays, steps = after_steps(OPTIMISERS[name], dtype)
    launched = request.getfixturevalue("on_host")
    found, kept, counted = after_steps(OPTIMISERS[name], dtype)
    assert launched == ["adam" if "Adam" in name else "sgd"] * 6
    assert (kept.keys(), counted) == (arrays.keys(), steps)
    for a, b in zip([*found, *kept.values()], [*expected, *arrays.values()], strict=True):
        assert_close(a, b, TOLERANCE[dtype])


def test_the_update_takes_one_launch(on_host):  # noqa: F811
    after_steps(OPTIMISERS["Adam"], "float32", count=40)
    assert on_host == ["adam"] * 3


def test_a_state_goes_from_the_array_version_to_the_kernel(monkeypatch, compiled):  # noqa: F811
    def two_steps(then):
        p = nn.Parameter(np.arange(4.0))
        optimizer = optim.Adam([p], 0.1)
        for prepare in (lambda: None, then):
            prepare()
            p.grad = np.array([1.0, -2.0, 0.5, 0.0])
            optimizer.step()
        return p.data

    def to_kernel():
        monkeypatch.setattr(cuda, "function", compiled.function)
        monkeypatch.setattr(cuda, "is_cupy", lambda array: isinstance(array, np.ndarray))

    expected = two_steps(lambda: None)
    np.testing.assert_allclose(two_steps(to_kernel), expected, rtol=1e-14)


@pytest.mark.parametrize("name", ["st-cnn", "st-fcn"])
def test_a_network_learns_by_the_kernels_what_it_learns_by_arrays(name, rng, request, monkeypatch):
    images = rng.random((6, 1, 28, 28))
    labels = rng.integers(0, 10, 6)

    def losses():
        minist.manual_seed(0)
        model = minist.models.build(name, filters=4, units=8)
        for p in model.parameters():
            p.data = p.data.astype(np.float64)
        optimizer = optim.Adam(model.parameters(), 1e-2)
        seen = []
        for _ in range(4):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(Tensor(images)), labels)
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        return seen

    expected = losses()
    launched = request.getfixturevalue("on_host")
    monkeypatch.setattr(nn, "is_cupy", lambda array: True)
    np.testing.assert_allclose(losses(), expected, rtol=1e-9)
    assert {"sample_2_2", "cross_entropy", "bias_relu", "adam"} <= set(launched)


# --- compilers ----------------------------------------------------------------------------------

ARCHITECTURES = {"75": TYPES[0], "90": TYPES[-1]}  # Turing, the oldest of CUDA 13, and Hopper


@pytest.mark.parametrize("file", FILES)
def test_nvcc_compiles_each_file(file, tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc")
    (tmp_path / file).write_text(cuda.source(file))
    for architecture, types in ARCHITECTURES.items():
        options = [*cuda.options(*types), "-ftz=true", f"-arch=sm_{architecture}"]
        done = subprocess.run(
            ["nvcc", *options, "-Werror=all-warnings", "-cubin", "-o", "out.cubin", file],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


class Loaded(Exception):
    """What would go onto a card."""


@pytest.fixture
def compile_as_cupy_does(monkeypatch):
    """CuPy's own way from a source to what it loads, but for asking which card is there."""
    cupy = pytest.importorskip("cupy", reason="it is CuPy that compiles")
    if not cupy.__version__.startswith("14."):
        pytest.skip(f"CuPy 14 compiles like this, this is {cupy.__version__}")

    class Module:
        def load(self, binary):
            raise Loaded(binary)

        def _set_mapping(self, mapping):
            pass

    def for_card(architecture):
        return f"-arch=sm_{architecture}", "cubin"

    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "1")
    monkeypatch.setattr(cupy.cuda.compiler, "function", SimpleNamespace(Module=Module))
    monkeypatch.setattr(cupy.cuda.compiler, "_get_arch_for_options_for_nvrtc", for_card)

    def compile_module(code, options):
        cupy._core.core.compile_with_cache(code, options, "80", prepend_cupy_headers=False)

    return compile_module


@pytest.mark.parametrize(("file", "types"), list(product(FILES, TYPES)))
def test_cupy_compiles_each_file(file, types, compile_as_cupy_does):
    cupy = SimpleNamespace(RawModule=compile_as_cupy_does)
    with pytest.raises(Loaded) as loaded:
        cuda.function.__wrapped__(cupy, file, "", *types)
    assert loaded.value.args[0].startswith(b"\x7fELF")
