"""Losses: a number that training makes small."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import cuda
from ..autograd import Function, Tensor, tensor
from ..backend import Array, array_module, device_of, is_cupy
from ..cuda import loss as on_card
from .activation import relu
from .arithmetic import Binary
from .dtypes import check_floating


class CrossEntropy(Function):
    """L_n = -log softmax(x_n)[label_n], straight from the logits x.

    With m = max(x):  L = log sum_j exp(x_j - m) - (x_label - m), in which no exponential can
    overflow and no logarithm meets 0.  dL/dx_j = softmax(x)_j - 1[j = label].

    Smoothed by s, the label is no longer certain: t_j = (1 - s) 1[j = label] + s / classes. Then
    L = log sum_j exp(x_j - m) - sum_j t_j (x_j - m), and dL/dx = softmax(x) - t.
    """

    def forward(self, logits: Array, labels: Array, smoothing: float) -> Array:
        check_floating(logits, "logits")
        if labels.dtype.kind not in "iu":
            raise TypeError(
                f"labels are class numbers and must be integers, not {labels.dtype}: "
                "use numpy.array, since a tensor made of a list is float32"
            )
        if logits.ndim != 2 or labels.shape != logits.shape[:1]:
            raise ValueError(
                "expected logits (N, classes) and labels (N,), "
                f"got {logits.shape} and {labels.shape}"
            )
        if cuda.usable(logits) and not smoothing:
            loss, self.residual = on_card.cross_entropy(logits, labels)
            return loss
        xp, classes = array_module(logits), logits.shape[1]
        if not is_cupy(labels):
            check_range(labels, classes)
        n = xp.arange(len(logits))
        shifted = logits - logits.max(axis=1, keepdims=True)
        exp = xp.exp(shifted)
        total = exp.sum(axis=1, keepdims=True)
        self.residual = exp
        self.residual /= total
        self.residual[n, labels] -= 1.0 - smoothing
        loss = xp.log(total[:, 0]) - (1.0 - smoothing) * shifted[n, labels]
        if smoothing:
            self.residual -= smoothing / classes
            loss -= smoothing * shifted.mean(axis=1)
        if is_cupy(labels):  # whose values the host does not wait for
            known = (labels >= 0) & (labels < classes)
            loss = xp.where(known, loss, loss.dtype.type(np.nan))
            self.residual = xp.where(known[:, None], self.residual, loss.dtype.type(np.nan))
        return loss

    def backward(self, grad: Array) -> tuple[Array, None]:
        return self.residual * grad[:, None], None


def check_range(labels: Array, classes: int) -> None:
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise ValueError(f"label {wrong[0]} is outside 0..{classes - 1}")


def cross_entropy(
    logits: Any, labels: Any, reduction: str = "mean", label_smoothing: float = 0.0
) -> Tensor:
    """Multinomial cross entropy from logits, stable for logits of any size (Sect. 4.1).

    Parameters
    ----------
    logits : (N, classes)
    labels : (N,) integers of any width in 0..classes-1; an array, a list or a tensor
    reduction : "mean", "sum" or "none"
        The mean of an empty batch is NaN.
    label_smoothing : float in 0..1
        The share of each label that is spread over all classes (Szegedy et al., 2016): a network
        that may not be quite certain generalises better.

    Raises
    ------
    TypeError
        If the labels are no integers, or the logits are.
    ValueError
        If shapes do not fit, a label or the smoothing is out of range. (Of labels on a GPU, where
        the host does not wait to be told, such a one gives a loss and gradients of NaN.)
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be within 0..1, not {label_smoothing}")
    logits = logits if isinstance(logits, Tensor) else tensor(logits)
    if not isinstance(labels, Tensor):  # as a data set gives them, on the host
        labels = labels if hasattr(labels, "dtype") else np.asarray(labels)
        if logits.device != device_of(labels) and logits.ndim == 2 and labels.dtype.kind in "iu":
            check_range(labels, logits.shape[1])  # while they are on the host
        labels = tensor(labels, device=logits.device)
    return _reduce(CrossEntropy.apply(logits, labels, smoothing=float(label_smoothing)), reduction)


class SquaredError(Binary):
    """d = (a - b)^2;  dL/da = 2 g (a - b), dL/db = -2 g (a - b)."""

    def forward(self, a: Array, b: Array) -> Array:
        if a.shape != b.shape:
            raise ValueError(f"prediction and target differ in shape, {a.shape} and {b.shape}")
        check_floating(a if a.dtype.kind == "f" else b, "prediction or target")
        self.difference = a - b
        return self.difference * self.difference

    def backward(self, grad: Array) -> tuple[Array, Array | None]:
        grad = 2.0 * grad * self.difference
        return grad, -grad if self.needs_grad[1] else None


def mse_loss(prediction: Any, target: Any, reduction: str = "mean") -> Tensor:
    """(prediction - target)^2, of two tensors of one shape, one of them floating.

    reduction is "mean", "sum" or "none".

    Raises TypeError if both hold integers, and ValueError if the shapes differ: they are not
    broadcast, since a forgotten axis would pair every prediction with every target.
    """
    return _reduce(SquaredError.apply(prediction, target), reduction)


def triplet_hinge_loss(
    anchor: Any, positive: Any, negative: Any, margin: float = 1.0, reduction: str = "mean"
) -> Tensor:
    """max(0, |a - p|^2 - |a - n|^2 + margin) for each row: p closer to a than n is, by a margin.

    The paper's loss for co-localisation (appendix), of encodings of two crops that the transformer
    found and of a random one. (`experiments.colocalise` compares all pairs of a batch at once and
    weighs the two distances, so it has its own: `contrast`.)

    Parameters
    ----------
    anchor, positive, negative : (N, D)
    margin : float
        In squared units of the encoding.
    reduction : "mean", "sum" or "none"
    """
    near = SquaredError.apply(anchor, positive).sum(axis=-1)
    far = SquaredError.apply(anchor, negative).sum(axis=-1)
    return _reduce(relu(near - far + margin), reduction)


def _reduce(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return losses.mean()
    if reduction == "sum":
        return losses.sum()
    if reduction == "none":
        return losses
    raise ValueError(f'reduction must be "mean", "sum" or "none", not {reduction!r}')
