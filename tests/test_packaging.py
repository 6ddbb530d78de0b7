"""What is published holds all that it needs: built as for a release, wheel from sdist."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77", reason="building needs setuptools 77")

ROOT = Path(__file__).parent.parent
SOURCES = ["minist", "LICENSE", "README.md", "pyproject.toml", "setup.cfg"]
PAYLOAD = {
    "minist/datasets/mnist/LICENSE.md",
    "minist/datasets/mnist/train-images-idx3-ubyte.gz",
    "minist/datasets/mnist/train-labels-idx1-ubyte.gz",
    "minist/datasets/mnist/t10k-images-idx3-ubyte.gz",
    "minist/datasets/mnist/t10k-labels-idx1-ubyte.gz",
    "minist/models/weights/cnn-R.safetensors",
    "minist/models/weights/st-cnn-affine-R.safetensors",
    "minist/models/weights/st-cnn-affine-RTS.safetensors",
}


def build(kind, sources, out):
    program = f"from setuptools.build_meta import build_{kind} as build; build({str(out)!r})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=sources, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, copy)
    (archive,) = build("sdist", copy, tmp_path_factory.mktemp("sdist")).glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as files:
        # Early releases of Python 3.10 and 3.11 have no filters; 3.12 and 3.13 ask for one.
        files.extraction_filter = getattr(tarfile, "data_filter", None)
        files.extractall(unpacked)
    (sources,) = unpacked.iterdir()
    (archive,) = build("wheel", sources, tmp_path_factory.mktemp("wheel")).glob("*.whl")
    return archive


def modules():
    """Code: of Python, and of CUDA."""
    every = (ROOT / "minist").rglob("*")
    return {p.relative_to(ROOT).as_posix() for p in every if p.suffix in (".py", ".cu", ".cuh")}


def test_the_sdist_holds_code_data_and_licences(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert modules() | PAYLOAD | {"LICENSE", "README.md"} <= names


def test_the_wheel_holds_code_data_and_licences_and_no_more(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = {name for name in names if ".dist-info/" in name}
    assert names - info == modules() | PAYLOAD
    assert any(name.endswith("licenses/LICENSE") for name in info)


def test_the_installed_wheel_loads_mnist_without_the_checkout(wheel, tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", tmp_path, wheel], check=True)
    program = "import minist.datasets; print(minist.__file__, len(minist.datasets.MNIST()))"
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "MINIST_DATA": ""},
        check=True,
        capture_output=True,
    )
    assert loaded.stdout.decode().split() == [str(tmp_path / "minist" / "__init__.py"), "60000"]
