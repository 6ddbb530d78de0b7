"""Reductions: many elements to one, along axes; g = dL/dy is the gradient of the output y."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autograd import Function, Tensor
from ..backend import Array, array_module, masked

Axis = int | Sequence[int] | None


class Sum(Function):
    """y = sum of x over axes;  dL/dx repeats g along them."""

    def forward(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        self.shape = x.shape
        self.kept = _kept_shape(x, axis)
        return x.sum(axis=axis, keepdims=keepdims)

    def backward(self, grad: Array) -> Array:
        return array_module(grad).broadcast_to(grad.reshape(self.kept), self.shape)


class Mean(Sum):
    """y = sum of x over axes / number of elements;  dL/dx = g / number, repeated.

    The mean of no elements is NaN.
    """

    def forward(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        total = super().forward(x, axis, keepdims)
        self.count = x.size // max(total.size, 1)
        if self.count == 0:
            return total + np.nan
        return total / self.count

    def backward(self, grad: Array) -> Array:
        return super().backward(grad / max(self.count, 1))


class Max(Function):
    """y = largest element over axes;  dL/dx = g there, 0 elsewhere.

    Of equal elements the first in reading order takes the whole gradient.
    """

    def forward(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        xp = array_module(x)
        self.axes = _axes(x, axis)
        if 0 in x.shape and 0 in [x.shape[i] for i in self.axes]:
            raise ValueError("an empty tensor has no largest element")
        kept = x.ndim - len(self.axes)
        self.last = tuple(range(kept, x.ndim))
        moved = xp.moveaxis(x, self.axes, self.last)
        self.moved_shape = moved.shape
        flat = moved.reshape(*moved.shape[:kept], math.prod(moved.shape[kept:]))
        self.is_first = xp.arange(flat.shape[-1]) == flat.argmax(axis=-1)[..., None]
        return x.max(axis=axis, keepdims=keepdims)

    def backward(self, grad: Array) -> Array:
        flat = masked(grad.reshape(*self.is_first.shape[:-1], 1), self.is_first)
        return array_module(grad).moveaxis(flat.reshape(self.moved_shape), self.last, self.axes)


def _axes(x: Array, axis: Axis) -> tuple[int, ...]:
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return tuple(sorted(i % max(x.ndim, 1) for i in axes))


def _kept_shape(x: Array, axis: Axis) -> tuple[int, ...]:
    """The shape of a reduction with keepdims."""
    axes = _axes(x, axis) if x.ndim else ()
    return tuple(1 if i in axes else n for i, n in enumerate(x.shape))


def sum_(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Sum over an axis or several, all by default; `keepdims` leaves them in the shape, as 1."""
    return Sum.apply(x, axis=_several(axis), keepdims=keepdims)


def mean(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Mean over an axis or several, all by default; `keepdims` leaves them in the shape, as 1."""
    return Mean.apply(x, axis=_several(axis), keepdims=keepdims)


def max_(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Largest element over an axis or several, all by default.

    Ties go to the first in reading order; `keepdims` leaves the axes in the shape, as 1. Raises
    ValueError where there is no element.
    """
    return Max.apply(x, axis=_several(axis), keepdims=keepdims)


def _several(axis: Axis) -> Axis:
    """A list of axes as the tuple that NumPy wants."""
    return tuple(axis) if isinstance(axis, list) else axis
