"""Batch normalisation (Ioffe and Szegedy, 2015)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import Function, Tensor, tensor
from ..backend import Array, array_module
from ..effects import lasting
from .dtypes import check_floating


class BatchNorm(Function):
    """y = gamma z + beta,  z = (x - mean) / s,  s = sqrt(var + eps), per channel.

    mean and var are of the batch and depend on x. With m elements a channel, dmean/dx_k = 1/m and
    ds/dx_k = z_k/m, so

        dz_i/dx_k = (1[i = k] - 1/m - z_i z_k/m) / s,

    and the sum over i with gz = gamma g is

        dL/dx = (gz - mean(gz) - z mean(gz z)) / s,

    the two means being what flows through the mean and through s.
    dL/dgamma = sum of g z,  dL/dbeta = sum of g.

    With statistics given from outside (evaluation) they are constants: dL/dx = gz / s.
    """

    def forward(
        self,
        x: Array,
        gamma: Array | None,
        beta: Array | None,
        mean: Array,
        var: Array,
        eps: float,
        of_batch: bool,
    ) -> Array:
        self.of_batch = of_batch
        self.axes = (0, *range(2, x.ndim))
        self.s = _per_channel(array_module(x).sqrt(var + eps), x).astype(x.dtype)
        self.z = (x - _per_channel(mean, x).astype(x.dtype)) / self.s
        self.gamma = None if gamma is None else _per_channel(gamma, x)
        y = self.z if gamma is None else self.z * self.gamma
        return y if beta is None else y + _per_channel(beta, x)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        grad_x = grad_gamma = grad_beta = None
        if self.needs_grad[0]:
            gz = grad if self.gamma is None else grad * self.gamma
            if self.of_batch:
                along_1 = gz.mean(axis=self.axes, keepdims=True)
                along_z = (gz * self.z).mean(axis=self.axes, keepdims=True)
                gz = gz - along_1 - self.z * along_z
            grad_x = gz / self.s
        if self.needs_grad[1]:
            grad_gamma = (grad * self.z).sum(axis=self.axes)
        if self.needs_grad[2]:
            grad_beta = grad.sum(axis=self.axes)
        return grad_x, grad_gamma, grad_beta


def _per_channel(values: Array, x: Array) -> Array:
    """(C,) shaped to stand beside (N, C, ...)."""
    return values.reshape(-1, *[1] * (x.ndim - 2))


def batch_norm(
    x: Any,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Give every channel mean 0 and variance 1, then scale and shift it.

    Parameters
    ----------
    x : (N, C) or (N, C, H, W)
    running_mean, running_var : (C,) arrays or None
        Used when not training. In training they move towards the statistics of the batch, in
        place, by `momentum`; the variance that they learn is the unbiased one, as in PyTorch.
    weight, bias : (C,), optional
        Scale and shift.
    training : bool
        Normalise by the batch (also where there are no running statistics).
    eps : float
        Added to the variance, so that a constant channel divides nothing by 0.

    Raises
    ------
    ValueError
        If x has no channels or sizes do not fit, or a channel of a training batch has just one
        element, whose variance means nothing.
    TypeError
        If x is not floating.
    """
    x = x if isinstance(x, Tensor) else tensor(x)
    if x.ndim < 2:
        raise ValueError(f"batch_norm: expected (N, C) or (N, C, H, W), got {x.shape}")
    check_floating(x, "batch_norm: x")
    for name, values in {
        "running_mean": running_mean,
        "running_var": running_var,
        "weight": weight,
        "bias": bias,
    }.items():
        if values is not None and np.shape(values) != x.shape[1:2]:
            raise ValueError(f"batch_norm: {name} must be ({x.shape[1]},), not {np.shape(values)}")
    of_batch = training or running_mean is None or running_var is None
    mean, var = batch_statistics(x.data) if of_batch else (running_mean, running_var)
    y = BatchNorm.apply(x, weight, bias, mean=mean, var=var, eps=eps, of_batch=of_batch)
    if training and running_mean is not None and running_var is not None:
        count = x.size // x.shape[1]  # not x itself: it would live until the effect is applied
        lasting(lambda: update_statistics(running_mean, running_var, mean, var, count, momentum))
    return y


def batch_statistics(x: Array) -> tuple[Array, Array]:
    """Mean and (biased) variance of each channel of (N, C, ...)."""
    axes = (0, *range(2, x.ndim))
    if x.size // max(x.shape[1], 1) < 2:
        raise ValueError(
            f"batch_norm: in training a channel needs more than one element, got {x.shape}"
        )
    return x.mean(axis=axes), x.var(axis=axes)


def update_statistics(
    running_mean: Array, running_var: Array, mean: Array, var: Array, count: int, momentum: float
) -> None:
    """Move the running statistics towards a batch's, whose channels had `count` elements."""
    running_mean *= 1 - momentum
    running_mean += momentum * mean
    running_var *= 1 - momentum
    running_var += momentum * count / (count - 1) * var
