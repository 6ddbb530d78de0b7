"""Activations: what gives a network its non-linearity, and the softmax that ends it.

Each takes floating numbers only; integers are a TypeError.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import cuda
from ..autograd import Function, Tensor
from ..backend import Array, array_module, masked
from ..cuda import activation as on_card
from .dtypes import check_floating


class ReLU(Function):
    """y = max(x, 0);  dL/dx = g where x > 0, else 0 (also at the kink x = 0)."""

    def forward(self, x: Array) -> Array:
        check_floating(x, "x")
        if self.needs_grad[0]:
            self.positive = x > 0
        return positive_part(x)

    def backward(self, grad: Array) -> Array:
        return masked(grad, self.positive)


def positive_part(x: Array, out: Array | None = None) -> Array:
    """max(x, 0). NumPy's clip takes less than half the time of its maximum with a number."""
    return x.clip(0.0, np.inf, out=out)


class BiasReLU(Function):
    """y = max(x + b, 0), b along the channels;  dL/dx = g where y > 0, else 0, dL/db = its sum.

    On a GPU in one pass instead of two; on the CPU the positive part is taken in place.
    """

    def forward(self, x: Array, bias: Array) -> Array:
        check_floating(x, "x")
        if x.ndim < 2 or bias.shape != x.shape[1:2]:
            raise ValueError(f"x (N, C, ...) needs a bias (C,), not {x.shape} and {bias.shape}")

        self.axes = tuple(i for i in range(x.ndim) if i != 1)
        self.on_card = cuda.usable(x, bias)
        if self.on_card:
            self.y = on_card.bias_relu(x, bias)
        else:
            b = bias.reshape(-1, *[1] * (x.ndim - 2))
            y = x + b
            self.y = positive_part(y, out=y)
        return self.y

    def backward(self, grad: Array) -> tuple[Array, Array]:
        grad = on_card.relu_backward(grad, self.y) if self.on_card else masked(grad, self.y > 0)
        return grad, grad.sum(axis=self.axes)


class LeakyReLU(Function):
    """y = x for x > 0, else a x;  dL/dx = g for x > 0, else a g."""

    def forward(self, x: Array, negative_slope: float) -> Array:
        check_floating(x, "x")
        self.slope = array_module(x).where(x > 0, 1.0, negative_slope).astype(x.dtype)
        return x * self.slope

    def backward(self, grad: Array) -> Array:
        return grad * self.slope


class Sigmoid(Function):
    """y = 1 / (1 + exp(-x));  dy/dx = y (1 - y).

    Computed as exp(min(x, 0)) / (1 + exp(-|x|)), the same number, which cannot overflow and keeps
    its digits where it is small.
    """

    def forward(self, x: Array) -> Array:
        check_floating(x, "x")
        xp = array_module(x)
        self.y = xp.exp(xp.minimum(x, 0.0)) / (1.0 + xp.exp(-abs(x)))
        return self.y

    def backward(self, grad: Array) -> Array:
        return grad * self.y * (1.0 - self.y)


class Tanh(Function):
    """y = tanh(x);  dy/dx = 1 - y^2."""

    def forward(self, x: Array) -> Array:
        check_floating(x, "x")
        self.y = array_module(x).tanh(x)
        return self.y

    def backward(self, grad: Array) -> Array:
        return grad * (1.0 - self.y * self.y)


class Softmax(Function):
    """y_i = exp(x_i) / sum_j exp(x_j) along an axis.

    dy_i/dx_j = y_i (1[i = j] - y_j), hence dL/dx = y (g - sum_i g_i y_i).
    Subtracting max(x) first changes nothing and keeps exp in range.
    """

    def forward(self, x: Array, dim: int) -> Array:
        check_floating(x, "x")
        self.dim = dim
        exp = array_module(x).exp(below_zero(x, dim))
        self.y = exp / exp.sum(axis=dim, keepdims=True)
        return self.y

    def backward(self, grad: Array) -> Array:
        return self.y * (grad - (grad * self.y).sum(axis=self.dim, keepdims=True))


class LogSoftmax(Function):
    """y_i = x_i - log sum_j exp(x_j) along an axis.

    dy_i/dx_j = 1[i = j] - softmax(x)_j, hence dL/dx = g - softmax(x) sum_i g_i.
    """

    def forward(self, x: Array, dim: int) -> Array:
        check_floating(x, "x")
        xp = array_module(x)
        self.dim = dim
        shifted = below_zero(x, dim)
        total = xp.exp(shifted).sum(axis=dim, keepdims=True)
        self.y = shifted - xp.log(total) if x.size else x  # an empty axis has no total
        return self.y

    def backward(self, grad: Array) -> Array:
        softmax = array_module(grad).exp(self.y)
        return grad - softmax * grad.sum(axis=self.dim, keepdims=True)


def below_zero(x: Array, dim: int) -> Array:
    """x - max(x) along an axis, whose exponentials cannot overflow; an empty axis has no max."""
    return x - x.max(axis=dim, keepdims=True) if x.size else x


def relu(x: Any) -> Tensor:
    """max(x, 0), element by element; its gradient at 0 is 0."""
    return ReLU.apply(x)


def bias_relu(x: Any, bias: Any) -> Tensor:
    """max(x + bias, 0), x (N, C, ...) and bias (C,): what follows a layer's product, at once.

    Raises ValueError if the sizes do not fit.
    """
    return BiasReLU.apply(x, bias)


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Tensor:
    """Element by element, x where it is positive, else negative_slope * x."""
    return LeakyReLU.apply(x, negative_slope=negative_slope)


def sigmoid(x: Any) -> Tensor:
    """1 / (1 + exp(-x)), in 0..1, element by element."""
    return Sigmoid.apply(x)


def tanh(x: Any) -> Tensor:
    """Hyperbolic tangent of each element of x, in -1..1."""
    return Tanh.apply(x)


def softmax(x: Any, dim: int = -1) -> Tensor:
    """Positive numbers that sum to 1 along the axis `dim`: exp(x) normalised, in the shape of x.

    Stable for any x.
    """
    return Softmax.apply(x, dim=dim)


def log_softmax(x: Any, dim: int = -1) -> Tensor:
    """The logarithm of the softmax along the axis `dim`, in the shape of x.

    Computed without forming the softmax; stable for any x.
    """
    return LogSoftmax.apply(x, dim=dim)
