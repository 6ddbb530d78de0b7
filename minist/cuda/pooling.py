"""Max-pooling's kernels: the largest with its place, and the gradient gathered from there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..backend import Array, array_module
from . import launch, steps, struct

PLACES = 1 << 16  # in a window, that an index of 16 bits can tell apart


class Windows(NamedTuple):
    size_in: tuple[int, int]
    size_out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


def max_pool(x: Array, windows: Windows) -> tuple[Array, Array]:
    """y, and the place in its window that each y was found at; in the memory order of x."""
    xp = array_module(x)
    y = xp.empty_like(x, shape=(*x.shape[:2], *windows.size_out))
    chosen = xp.empty_like(y, dtype=np.uint16)
    launch("pooling.cu", "max_pool", y.size, x, y, chosen, geometry(windows, x, y, chosen))
    return y, chosen


def max_pool_backward(grad: Array, chosen: Array, windows: Windows) -> Array:
    """dL/dx, in the memory order of the gradient."""
    grad_x = array_module(grad).empty_like(grad, shape=(*grad.shape[:2], *windows.size_in))
    numbers = geometry(windows, grad_x, grad, chosen)
    launch("pooling.cu", "max_pool_backward", grad_x.size, grad, chosen, grad_x, numbers)
    return grad_x


def geometry(windows: Windows, x: Array, y: Array, chosen: Array) -> list[int]:
    batch_last = abs(x.strides[0]) < abs(x.strides[3])
    arrays = [steps(array, 4) for array in (x, y, chosen)]
    return struct(*x.shape[:2], *windows, int(batch_last), *arrays)
