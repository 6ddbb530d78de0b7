"""CUDA kernels for what the array versions do in many passes: sampling, pooling, losses, updates.

Each `.cu` file of this folder is compiled by CuPy at its first use, for float or double, and kept
in CuPy's cache; the module beside it allocates, and launches. An operation asks `usable` and takes
the kernel where its arrays are CuPy's; its array version, a few lines away, says what the kernel
computes, and serves every other case. Both give the same: kernels are compiled without fused
multiply-add, so that they round as NumPy does, operation by operation;
only float32 numbers below 1e-38 become 0 (CuPy compiles with -ftz=true).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, array_module, is_cupy

FOLDER = Path(__file__).parent
REALS = {"float32": "float", "float64": "double"}
BLOCK = 256  # threads
BLOCKS = 1 << 16  # at most: beyond, each thread takes several elements


def usable(*arrays: Array) -> bool:
    """Whether the arrays lie on a GPU, are of one type that kernels are compiled for, not empty."""
    return (
        all(is_cupy(array) for array in arrays)
        and len({array.dtype for array in arrays}) == 1
        and arrays[0].dtype.name in REALS
        and 0 not in [array.size for array in arrays]
    )


def source(file: str) -> str:
    """The text of a `.cu` file, with what all kernels share in front."""
    return "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in ("kernel.cuh", file))


@cache
def function(xp: Any, file: str, name: str, dtype: str) -> Callable[..., None]:
    """A compiled kernel, called with (blocks,), (threads,) and its arguments."""
    options = ("-std=c++17", "--fmad=false", f"-DREAL={REALS[dtype]}")
    return xp.RawModule(code=source(file), options=options).get_function(name)


def launch(file: str, name: str, count: int, like: Array, *arguments: Any) -> None:
    """Run a kernel on `count` elements, compiled for the type of `like`.

    Arguments are arrays, None (a null pointer), ints (`integer` in the kernel) and `struct`s.
    """
    if count:
        kernel = function(array_module(like), file, name, like.dtype.name)
        kernel((min(-(-count // BLOCK), BLOCKS),), (BLOCK,), arguments)


def struct(*fields: int | Sequence[int]) -> np.ndarray:
    """A struct of `integer`s, which a kernel is handed by value: numbers, and arrays of them."""
    numbers: list[int] = []
    for field in fields:
        numbers.extend([field] if isinstance(field, int) else field)
    return by_value(np.array(numbers, np.int64))


def by_value(array: np.ndarray) -> np.ndarray:
    """A host array as one element of as many bytes: CuPy hands a kernel one element by value."""
    return array.view(f"V{array.nbytes}")


def steps(array: Array | None, rank: int) -> list[int]:
    """From element to element along each axis, in elements; zeros for no array."""
    return [0] * rank if array is None else [s // array.itemsize for s in array.strides]


def pointer(array: Array) -> int:
    """The address of an array's first element."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
