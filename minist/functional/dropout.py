"""Dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import Function, Tensor, tensor
from ..backend import Array, array_module, generator
from .dtypes import check_floating


class Dropout(Function):
    """y = x m / (1 - p) with m in {0, 1}, 0 with probability p;  dL/dx = g m / (1 - p)."""

    def forward(self, x: Array, p: float, rng: np.random.Generator) -> Array:
        check_floating(x, "x")
        keep = rng.random(x.shape, dtype=np.float32) >= p  # drawn on the host on every device
        self.scale = array_module(x).asarray(keep).astype(x.dtype)
        if p < 1:
            self.scale /= 1 - p
        return x * self.scale

    def backward(self, grad: Array) -> Array:
        return grad * self.scale


def dropout(
    x: Any, p: float = 0.5, training: bool = True, rng: np.random.Generator | None = None
) -> Tensor:
    """Zero each element with probability p and scale the rest, so that the mean stays.

    Parameters
    ----------
    x : any shape
    p : float in 0..1
    training : bool
        False returns x as it is.
    rng : numpy.random.Generator, optional
        The calling thread's (see `manual_seed`) by default.

    Raises
    ------
    ValueError
        If p is not in 0..1.
    TypeError
        If x is not floating.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p is a probability in 0..1, not {p}")
    if not training or p == 0:
        return x if isinstance(x, Tensor) else tensor(x)
    return Dropout.apply(x, p=p, rng=rng or generator())
