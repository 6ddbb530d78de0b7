"""The fully connected layer."""

from __future__ import annotations

from typing import Any

from ..autograd import Function, Tensor
from ..backend import Array, masked
from ..cuda.blas import matmul
from .activation import positive_part
from .dtypes import check_floating


class Linear(Function):
    """y = x W^T + b for rows x.

    With g = dL/dy, (N, out):  dL/dx = g W,  dL/dW = g^T x,  dL/db = sum of g over the rows.

    The product is taken as (W x^T)^T, so that y has the batch innermost in memory, as the layers
    before and after it do.
    """

    def forward(self, x: Array, weight: Array, bias: Array | None) -> Array:
        if weight.ndim != 2:
            raise ValueError(f"weight must be (out, in), not {weight.shape}")
        if x.ndim < 1 or x.shape[-1] != weight.shape[1]:
            found = x.shape[-1] if x.ndim else "none"
            raise ValueError(f"x has {found} features, weight expects {weight.shape[1]}")
        check_floating(x, "x")
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"bias must be ({weight.shape[0]},), not {bias.shape}")
        self.leading = x.shape[:-1]
        self.x, self.weight = x.reshape(-1, x.shape[-1]), weight
        y = matmul(weight, self.x.T)
        if bias is not None:
            y += bias[:, None]
        return y.T.reshape(*self.leading, len(weight))

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        grad = grad.reshape(-1, len(self.weight)).T
        return (
            matmul(self.weight.T, grad).T.reshape(*self.leading, self.x.shape[1])
            if self.needs_grad[0]
            else None,
            matmul(grad, self.x) if self.needs_grad[1] else None,
            grad.sum(axis=1) if self.needs_grad[2] else None,
        )


class LinearReLU(Linear):
    """y = max(x W^T + b, 0).  The derivatives are Linear's, of g where y > 0, else 0, instead of g.

    One operation less, and the positive part is taken in place: in a small network it costs as much
    to call an operation as to do it.
    """

    def forward(self, x: Array, weight: Array, bias: Array | None) -> Array:
        y = super().forward(x, weight, bias)
        if True in self.needs_grad:
            self.positive = y > 0
        return positive_part(y, out=y)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return super().backward(masked(grad, self.positive))


def linear(x: Any, weight: Any, bias: Any = None, relu: bool = False) -> Tensor:
    """x W^T + b, or the positive part of it.

    Parameters
    ----------
    x : (..., in)
    weight : (out, in)
    bias : (out,), optional
    relu : bool
        Whether a ReLU follows: max(x W^T + b, 0), at once.

    Returns
    -------
    (..., out)

    Raises
    ------
    ValueError
        If the sizes do not fit.
    TypeError
        If x is not floating.
    """
    return (LinearReLU if relu else Linear).apply(x, weight, bias)
