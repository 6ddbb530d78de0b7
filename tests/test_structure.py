"""The shape of the house: imports go one way only, and what must stay small and light does."""

import ast
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import minist

PACKAGE = Path(minist.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Each part may import what stands above its own line. A part is a module or a folder of the
# package, and a folder's modules may import one another. "minist" is its __init__.py, which
# gathers the names of what stands above it and itself imports what it likes.
ORDER = """
    backend effects
    cuda
    autograd files
    functional gradcheck module
    nn optim
    spatial
    datasets models
    minist
    plotting training
    experiments benchmark
    cli
    __main__
"""
RANK = {part: rank for rank, line in enumerate(ORDER.split("\n")) for part in line.split()}


def dotted_name(path):
    """The name under which a file of the package is imported: minist.functional.loss."""
    parts = ["minist", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source, package):
    """The full name of whatever a source imports, inside functions too.

    ``package`` is what the source's relative imports start from.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: 1 - node.level or None] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


def part_of(name):
    """The part that a full name belongs to, or None outside of the package."""
    first, *rest = name.split(".")
    if first != "minist":
        return None
    is_module = rest and ((PACKAGE / rest[0]).is_dir() or (PACKAGE / f"{rest[0]}.py").is_file())
    return rest[0] if is_module else "minist"


def imports_of(path):
    name = dotted_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return set(imported(path.read_text(encoding="utf-8"), package))


every_module = pytest.mark.parametrize("path", MODULES, ids=dotted_name)


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("import numpy as np, minist.nn", "minist", {"numpy", "minist.nn"}),
        ("from minist import nn, Tensor", "minist", {"minist.nn", "minist.Tensor"}),
        ("from . import nn", "minist", {"minist.nn"}),
        ("from .nn import Linear", "minist", {"minist.nn.Linear"}),
        ("from .grid import Affine", "minist.spatial", {"minist.spatial.grid.Affine"}),
        ("from .. import functional as F", "minist.spatial", {"minist.functional"}),
        ("from ..autograd import Tensor", "minist.spatial", {"minist.autograd.Tensor"}),
        ("def f():\n    if f:\n        import cupy", "minist", {"cupy"}),
    ],
)
def test_every_way_to_import_is_seen(source, package, expected):
    assert set(imported(source, package)) == expected


@every_module
def test_imports_go_one_way_only(path):
    part = part_of(dotted_name(path))
    assert part in RANK, f"{part} has no place in the order of imports"
    if part == "minist":
        return
    others = {other for name in imports_of(path) if (other := part_of(name))} - {part}
    assert not {other for other in others if RANK[other] >= RANK[part]}


@every_module
def test_only_the_backend_and_the_kernels_import_cupy(path):
    if part_of(dotted_name(path)) not in ("backend", "cuda"):
        assert not {name for name in imports_of(path) if name.split(".")[0] in {"cupy", "cupyx"}}


def test_the_engine_is_short():
    assert len((PACKAGE / "autograd.py").read_text(encoding="utf-8").splitlines()) < 400


@pytest.mark.parametrize(("wish", "calls"), [(None, 2), ("1", 2), ("0", 0)])
def test_the_setting_of_the_whole_process_can_be_declined(wish, calls, monkeypatch):
    made = []
    library = SimpleNamespace(mallopt=lambda *setting: made.append(setting))
    monkeypatch.setattr(minist.backend.ctypes, "CDLL", lambda name: library)
    monkeypatch.delenv("MINIST_KEEP_MEMORY", raising=False)
    if wish is not None:
        monkeypatch.setenv("MINIST_KEEP_MEMORY", wish)
    minist.backend.keep_freed_memory()
    assert len(made) == calls


def test_importing_minist_is_light():
    heavy = {"cupy", "matplotlib", "scipy", "torch"}
    program = f"import sys, minist; print(*{heavy} & set(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE.parent, check=True, capture_output=True
    )
    assert loaded.stdout.decode().split() == []
