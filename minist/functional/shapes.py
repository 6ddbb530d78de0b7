"""The same elements in another shape, order, place or type; g is the gradient of the output."""

from __future__ import annotations

from collections.abc import Iterable
from types import EllipsisType
from typing import Any

import numpy as np

from ..autograd import Function, Tensor
from ..backend import Array, array_module, device_of, to_device
from ..backend import concatenate as concatenate_arrays
from .dtypes import promoted


class Reshape(Function):
    """The same elements in another shape, in reading order;  dL/dx = g in the old shape."""

    def forward(self, x: Array, shape: tuple[int, ...]) -> Array:
        self.shape = x.shape
        try:
            if min(shape, default=0) < -1:  # NumPy takes any negative size for -1
                raise ValueError
            return x.reshape(shape)
        except ValueError:
            raise ValueError(f"{x.size} elements do not fill the shape {shape}") from None

    def backward(self, grad: Array) -> Array:
        return grad.reshape(self.shape)


class Transpose(Function):
    """Axes in another order;  dL/dx is g in the old order."""

    def forward(self, x: Array, axes: tuple[int, ...] | None = None) -> Array:
        axes = tuple(reversed(range(x.ndim))) if axes is None else axes
        if sorted(i % x.ndim if x.ndim else i for i in axes) != list(range(x.ndim)):
            raise ValueError(f"{axes} does not name each of the {x.ndim} axes once")
        self.back = tuple(np.argsort([i % x.ndim for i in axes]).tolist())
        return x.transpose(axes)

    def backward(self, grad: Array) -> Array:
        return grad.transpose(self.back)


class Index(Function):
    """y = x[index];  dL/dx is 0 but at the index, where g is added as often as it was read."""

    def forward(self, x: Array, index: Any) -> Array:
        self.shape, self.index = x.shape, index
        return x[index]

    def backward(self, grad: Array) -> Array:
        xp = array_module(grad)
        whole = xp.zeros(self.shape, dtype=grad.dtype)
        parts = self.index if isinstance(self.index, tuple) else (self.index,)
        if all(part is None or isinstance(part, int | slice | EllipsisType) for part in parts):
            whole[self.index] = grad  # a view: no element is read twice
        else:
            xp.add.at(whole, self.index, grad)
        return whole


class Concatenate(Function):
    """Tensors one after the other along an axis;  each takes its own stretch of g."""

    def forward(self, *arrays: Array, axis: int = 0) -> Array:
        if not arrays:
            raise ValueError("nothing to concatenate")
        ranks = {x.ndim for x in arrays}
        if len(ranks) > 1 or not -min(ranks) <= axis < min(ranks):
            raise ValueError(f"needs tensors of one rank that have an axis {axis}")
        self.axis = axis % arrays[0].ndim
        rests = {x.shape[: self.axis] + x.shape[self.axis + 1 :] for x in arrays}
        if len(rests) > 1:
            raise ValueError(f"shapes may differ along axis {self.axis} only")
        self.ends = np.cumsum([x.shape[self.axis] for x in arrays]).tolist()
        return concatenate_arrays(arrays, self.axis)

    def backward(self, grad: Array) -> tuple[Array, ...]:
        return tuple(array_module(grad).split(grad, self.ends[:-1], axis=self.axis))


class Stack(Function):
    """Tensors side by side along a new axis;  each takes its own slice of g."""

    def forward(self, *arrays: Array, axis: int = 0) -> Array:
        if len({x.shape for x in arrays}) != 1:
            raise ValueError("needs one tensor or more, all of one shape")
        self.axis = axis
        xp = array_module(arrays[0])
        return concatenate_arrays([xp.expand_dims(array, axis) for array in arrays], axis)

    def backward(self, grad: Array) -> tuple[Array, ...]:
        return tuple(array_module(grad).moveaxis(grad, self.axis, 0))


class Cast(Function):
    """The values in another floating type;  dL/dx = g in the old one."""

    def forward(self, x: Array, dtype: Any) -> Array:
        self.dtype = x.dtype
        return x.astype(dtype)

    def backward(self, grad: Array) -> Array:
        return grad  # the engine gives every gradient its input's dtype


class Move(Function):
    """The values on another device;  dL/dx is g brought back."""

    def forward(self, x: Array, device: str) -> Array:
        self.device = device_of(x)
        return to_device(x, device)

    def backward(self, grad: Array) -> Array:
        return to_device(grad, self.device)


def reshape(x: Any, *shape: Any) -> Tensor:
    """The same elements in another shape; one size may be -1, for as many as are left.

    Raises ValueError if the elements do not fill the shape.
    """
    return Reshape.apply(x, shape=_unpacked(shape))


def transpose(x: Any, *axes: Any) -> Tensor:
    """The axes in the order given, reversed by default, as `numpy.transpose`: another shape.

    All of them are named: `transpose(x, 0, 2, 1)` swaps the last two of three, where PyTorch's
    would name those two alone. Raises ValueError unless each is named once.
    """
    return Transpose.apply(x, axes=_unpacked(axes) or None)


permute = transpose  # PyTorch's name


def concatenate(tensors: Iterable[Any], axis: int = 0) -> Tensor:
    """Tensors joined along an axis that they have.

    Raises ValueError if their shapes differ along another, or there is none to join.
    """
    return Concatenate.apply(*promoted(list(tensors)), axis=axis)


def stack(tensors: Iterable[Any], axis: int = 0) -> Tensor:
    """Tensors of one shape joined along a new axis. Raises ValueError if shapes differ."""
    return Stack.apply(*promoted(list(tensors)), axis=axis)


def astype(x: Any, dtype: Any) -> Tensor:
    """The same elements in another floating type; the gradient comes back in the old one."""
    return Cast.apply(x, dtype=dtype)


def to(x: Any, device: str) -> Tensor:
    """The same elements on a device, "cpu" or "cuda"; the gradient comes back to the old one.

    Raises RuntimeError where CuPy or a GPU is missing, ValueError for another device.
    """
    return Move.apply(x, device=device)


def _unpacked(sizes: tuple) -> tuple[int, ...]:
    """f(2, 3) and f((2, 3)) alike."""
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
