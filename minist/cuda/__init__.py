"""CUDA kernels for what the array versions do in many passes: sampling, pooling, losses, updates.

Each `.cu` file of this folder is compiled by CuPy at its first use, for float or double, small
arrays or large ones, and kept in CuPy's cache; the module beside it allocates, and launches. An
operation asks `usable` and takes the kernel where its arrays are CuPy's; its array version, a few
lines away, says what the kernel computes, and serves every other case. Both give the same: kernels
are compiled without fused multiply-add, so that they round as NumPy does, operation by operation;
only float32 numbers below 1e-38 become 0 (CuPy compiles with -ftz=true).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, array_module, is_cupy

FOLDER = Path(__file__).parent
REALS = {"float32": "float", "float64": "double"}
INTEGERS = {"int32": "int", "int64": "long long"}
SMALL = 1 << 29  # int counts up to there and a few times as far, and is far sooner divided
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


def options(real: str, integer: str) -> tuple[str, ...]:
    """The compiler's, for NumPy's names of the two types."""
    types = (f"-DREAL={REALS[real]}", f"-DINTEGER={INTEGERS[integer]}")
    return ("-std=c++17", "--fmad=false", *types)


@cache
def function(xp: Any, file: str, name: str, real: str, integer: str) -> Callable[..., None]:
    """A compiled kernel, called with (blocks,), (threads,) and its arguments."""
    return xp.RawModule(code=source(file), options=options(real, integer)).get_function(name)


def launch(file: str, name: str, count: int, *arguments: Any, like: Array | None = None) -> None:
    """Run a kernel on `count` elements, compiled for the type of `like`: the first argument's.

    Arguments are arrays, None (a null pointer), ints (`integer` in the kernel), lists of them (a
    `struct`), and what is handed `by_value`.
    """
    if not count:
        return
    like = arguments[0] if like is None else like
    integer = np.int32 if max(count, *map(reach, arguments)) < SMALL else np.int64
    kernel = function(array_module(like), file, name, like.dtype.name, integer.__name__)
    values = tuple(handed(argument, integer) for argument in arguments)
    kernel((min(-(-count // BLOCK), BLOCKS),), (BLOCK,), values)


def reach(argument: Any) -> int:
    """The largest int in an argument, or from an array's first element to its farthest."""
    if isinstance(argument, int):
        return abs(argument)
    if isinstance(argument, list):
        return max(max(argument), -min(argument))
    if argument is None or argument.dtype.kind == "V":
        return 0
    axes = zip(argument.shape, argument.strides, strict=True)
    return sum([(size - 1) * abs(stride) for size, stride in axes]) // argument.itemsize


def handed(argument: Any, integer: type[np.integer]) -> Any:
    """An argument as CuPy takes it, its ints of the type that the kernel is compiled for."""
    if isinstance(argument, int):
        return integer(argument)
    if isinstance(argument, list):
        return by_value(np.array(argument, integer))
    return argument


def struct(*fields: int | Iterable[int]) -> list[int]:
    """The `integer`s of a struct in their order: numbers, and arrays of them."""
    numbers: list[int] = []
    for field in fields:
        numbers.extend([field] if isinstance(field, int) else field)
    return numbers


def by_value(array: np.ndarray) -> np.ndarray:
    """A host array as one element of as many bytes: CuPy hands a kernel one element by value."""
    return array.view(f"V{array.nbytes}")


def steps(array: Array | None, rank: int) -> list[int]:
    """From element to element along each axis, in elements; zeros for no array."""
    return [0] * rank if array is None else [s // array.itemsize for s in array.strides]


def pointer(array: Array) -> int:
    """The address of an array's first element."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
