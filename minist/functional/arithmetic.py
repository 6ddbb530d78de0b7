"""Arithmetic, element by element and of matrices, and the operators and methods of `Tensor`.

In the derivations g = dL/dy is the gradient of the output y. Broadcasting is not spoken of: a
backward answers in the broadcast shape and the engine sums over what was repeated.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import Function, Tensor, tensor
from ..backend import Array, array_module, masked
from .dtypes import promoted
from .reductions import max_, mean, sum_
from .shapes import Index, astype, permute, reshape, to, transpose


class Binary(Function):
    """An operation on two tensors."""

    @classmethod
    def apply(cls, a: Any, b: Any) -> Tensor:
        return super().apply(*promoted((a, b)))


class Elementwise(Binary):
    """An operation on pairs of elements; says so in words where two shapes do not fit."""

    @classmethod
    def apply(cls, a: Any, b: Any) -> Tensor:
        check_broadcast(cls.__name__, np.shape(a), np.shape(b))
        return super().apply(a, b)


def check_broadcast(name: str, shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> None:
    """ValueError unless the shapes are equal from the right, but for sizes of 1."""
    for m, n in zip(reversed(shape_a), reversed(shape_b), strict=False):
        if m != n and m != 1 and n != 1:
            raise ValueError(
                f"{name}: shapes {shape_a} and {shape_b} do not broadcast: "
                f"from the right, {m} meets {n}; sizes must be equal, or one of them 1"
            )


class Add(Elementwise):
    """y = a + b;  dL/da = g, dL/db = g."""

    def forward(self, a: Array, b: Array) -> Array:
        return a + b

    def backward(self, grad: Array) -> tuple[Array, Array]:
        return grad, grad


class Subtract(Elementwise):
    """y = a - b;  dL/da = g, dL/db = -g."""

    def forward(self, a: Array, b: Array) -> Array:
        return a - b

    def backward(self, grad: Array) -> tuple[Array, Array | None]:
        return grad, -grad if self.needs_grad[1] else None


class Multiply(Elementwise):
    """y = a b;  dL/da = g b, dL/db = g a."""

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        return a * b

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        return (
            grad * self.b if self.needs_grad[0] else None,
            grad * self.a if self.needs_grad[1] else None,
        )


class Divide(Elementwise):
    """y = a / b;  dL/da = g / b, dL/db = -g a / b^2 = -g y / b."""

    def forward(self, a: Array, b: Array) -> Array:
        self.b, self.y = b, a / b
        return self.y

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        return (
            grad / self.b if self.needs_grad[0] else None,
            -grad * self.y / self.b if self.needs_grad[1] else None,
        )


class Power(Elementwise):
    """y = a^b;  dL/da = g b a^(b-1), dL/db = g y log(a).

    Where a is 0, the derivative in b is 0 for b >= 0 (the limit for b > 0) and NaN for b < 0. It is
    NaN where a < 0.
    """

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b, self.y = a, b, a**b
        return self.y

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        xp = array_module(grad)
        grad_a = grad_b = None
        if self.needs_grad[0]:
            # Where b = 0, y is constant, also at a = 0 where a^(b-1) is infinite.
            power = self.a ** xp.where(self.b == 0, xp.ones_like(self.b), self.b - 1)
            grad_a = grad * self.b * power
        if self.needs_grad[1]:
            grad_b = grad * self.y * xp.log(xp.where(self.a == 0, xp.ones_like(self.a), self.a))
        return grad_a, grad_b


class Negate(Function):
    """y = -x;  dL/dx = -g."""

    def forward(self, x: Array) -> Array:
        return -x

    def backward(self, grad: Array) -> Array:
        return -grad


class Exp(Function):
    """y = exp(x);  dL/dx = g y."""

    def forward(self, x: Array) -> Array:
        self.y = array_module(x).exp(x)
        return self.y

    def backward(self, grad: Array) -> Array:
        return grad * self.y


class Log(Function):
    """y = log(x), the natural logarithm;  dL/dx = g / x."""

    def forward(self, x: Array) -> Array:
        self.x = x
        return array_module(x).log(x)

    def backward(self, grad: Array) -> Array:
        return grad / self.x


class Sqrt(Function):
    """y = sqrt(x);  dL/dx = g / (2 y), infinite at 0."""

    def forward(self, x: Array) -> Array:
        self.y = array_module(x).sqrt(x)
        return self.y

    def backward(self, grad: Array) -> Array:
        return grad / (2 * self.y)


class Sin(Function):
    """y = sin(x);  dL/dx = g cos(x)."""

    def forward(self, x: Array) -> Array:
        self.x = x
        return array_module(x).sin(x)

    def backward(self, grad: Array) -> Array:
        return grad * array_module(grad).cos(self.x)


class Cos(Function):
    """y = cos(x);  dL/dx = -g sin(x)."""

    def forward(self, x: Array) -> Array:
        self.x = x
        return array_module(x).cos(x)

    def backward(self, grad: Array) -> Array:
        return -grad * array_module(grad).sin(self.x)


class Abs(Function):
    """y = |x|;  dL/dx = g sign(x), and 0 at the kink x = 0."""

    def forward(self, x: Array) -> Array:
        self.sign = array_module(x).sign(x)
        return abs(x)

    def backward(self, grad: Array) -> Array:
        return grad * self.sign


class Clip(Function):
    """y = min(max(x, low), high);  dL/dx = g for low <= x <= high, else 0."""

    def forward(self, x: Array, low: float | None, high: float | None) -> Array:
        if low is None and high is None:
            raise ValueError("clip needs a lower or an upper bound")
        # Python's numbers: a NumPy scalar would bring its own dtype.
        low, high = (b.item() if hasattr(b, "item") else b for b in (low, high))
        self.inside = array_module(x).ones(x.shape, dtype=bool)
        if low is not None:
            self.inside &= x >= low
        if high is not None:
            self.inside &= x <= high
        return array_module(x).clip(x, low, high)

    def backward(self, grad: Array) -> Array:
        return masked(grad, self.inside)


class MatMul(Binary):
    """y = a b for matrices, or stacks of them;  dL/da = g b^T, dL/db = a^T g."""

    def forward(self, a: Array, b: Array) -> Array:
        if a.ndim < 2 or b.ndim < 2:
            raise ValueError("@ multiplies matrices; give a vector a second axis with reshape")
        if a.shape[-1] != b.shape[-2]:
            raise ValueError(
                f"the left matrix has {a.shape[-1]} columns, the right {b.shape[-2]} rows"
            )
        check_broadcast("stacks", a.shape[:-2], b.shape[:-2])
        self.a, self.b = a, b
        return a @ b

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        return (
            grad @ self.b.swapaxes(-1, -2) if self.needs_grad[0] else None,
            self.a.swapaxes(-1, -2) @ grad if self.needs_grad[1] else None,
        )


def exp(x: Any) -> Tensor:
    """e to the power of each element."""
    return Exp.apply(x)


def log(x: Any) -> Tensor:
    """Natural logarithm of each element."""
    return Log.apply(x)


def sqrt(x: Any) -> Tensor:
    """Square root of each element."""
    return Sqrt.apply(x)


def sin(x: Any) -> Tensor:
    """Sine of each element, in radians."""
    return Sin.apply(x)


def cos(x: Any) -> Tensor:
    """Cosine of each element, in radians."""
    return Cos.apply(x)


def abs_(x: Any) -> Tensor:
    """Absolute value of each element; its gradient at 0 is 0."""
    return Abs.apply(x)


def clip(x: Any, low: float | None = None, high: float | None = None) -> Tensor:
    """Each element, or the bound it exceeds, `low` or `high`; no gradient beyond a bound.

    Integers stay integers between bounds that are. Raises ValueError if both bounds are None.
    """
    return Clip.apply(x, low=low, high=high)


for _function in (abs_, sum_, max_):  # F.sum, told from Python's own sum here alone
    _function.__name__ = _function.__qualname__ = _function.__name__.rstrip("_")


# --- the operators and methods of Tensor --------------------------------------------------------


def _compare(name: str) -> Callable[[Tensor, Any], Tensor]:
    def compare(self: Tensor, other: Any) -> Tensor:
        """A tensor of booleans, without a gradient."""
        check_broadcast(name, self.shape, np.shape(other))
        other = other.data if isinstance(other, Tensor) else other
        return tensor(getattr(operator, name)(self.data, other))

    return compare


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Tensor, f"__{_name}__", _compare(_name))

Tensor.__add__ = Tensor.__radd__ = lambda a, b: Add.apply(a, b)
Tensor.__sub__ = lambda a, b: Subtract.apply(a, b)
Tensor.__rsub__ = lambda a, b: Subtract.apply(b, a)
Tensor.__mul__ = Tensor.__rmul__ = lambda a, b: Multiply.apply(a, b)
Tensor.__truediv__ = lambda a, b: Divide.apply(a, b)
Tensor.__rtruediv__ = lambda a, b: Divide.apply(b, a)
Tensor.__pow__ = lambda a, b: Power.apply(a, b)
Tensor.__rpow__ = lambda a, b: Power.apply(b, a)
Tensor.__matmul__ = lambda a, b: MatMul.apply(a, b)
Tensor.__rmatmul__ = lambda a, b: MatMul.apply(b, a)
Tensor.__neg__ = lambda x: Negate.apply(x)
Tensor.__abs__ = Tensor.abs = abs_
Tensor.__getitem__ = lambda x, index: Index.apply(x, index=_plain(index))
Tensor.exp, Tensor.log, Tensor.sqrt, Tensor.clip = exp, log, sqrt, clip
Tensor.sum, Tensor.mean, Tensor.max = sum_, mean, max_
Tensor.reshape, Tensor.transpose, Tensor.permute = reshape, transpose, permute
Tensor.T = property(transpose)
Tensor.astype, Tensor.to = astype, to


def _plain(index: Any) -> Any:
    """An index with the arrays of its tensors."""
    if isinstance(index, tuple):
        return tuple(_plain(part) for part in index)
    return index.data if isinstance(index, Tensor) else index
