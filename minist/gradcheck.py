"""Is a backward right? Compare it with differences on both sides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .autograd import Tensor, grad, no_grad
from .backend import array_module, to_numpy


def gradcheck(
    fn: Callable[..., Tensor],
    inputs: Tensor | Sequence[Tensor],
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-7,
) -> bool:
    """Compare the backward of `fn` with what a small step of each input really does.

    The output is weighed with fixed random numbers v to one number L = sum of v y, so that each
    element x of the inputs takes two evaluations: the slopes (L(x + eps) - L(x)) / eps and
    (L(x) - L(x - eps)) / eps. The gradient must lie between the two, within the tolerance. Where
    L is smooth they differ by no more than about eps L''; at a kink every number between them is a
    sub-gradient.

    Parameters
    ----------
    fn : callable
        Takes the inputs, returns a tensor; must give the same result each time.
    inputs : tensor or sequence of tensors
        float64, those to be checked with requires_grad=True. No `grad` is changed.
    eps, rtol, atol : float
        Step; relative and absolute tolerance.

    Returns
    -------
    True

    Raises
    ------
    AssertionError
        With the worst element, where the gradient is wrong.
    TypeError
        For float32, whose rounding is larger than the differences to be seen.
    ValueError
        If no input requires a gradient.

    Examples
    --------
    >>> import numpy as np, minist, minist.functional as F
    >>> x = minist.tensor(np.array([[1.0, -2.0]]), requires_grad=True)
    >>> minist.gradcheck(F.tanh, x)
    True
    """
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    checked = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    if not checked:
        raise ValueError("gradcheck: no input has requires_grad=True")
    for i in checked:
        if inputs[i].dtype != np.float64:
            raise TypeError(
                f"gradcheck: input {i} is {inputs[i].dtype}; differences of so small a step drown "
                "in its rounding, use float64"
            )
    here, explicit = _value_and_gradients(fn, inputs, checked)
    worst, where = 0.0, ""
    for i in checked:
        for index in np.ndindex(inputs[i].shape):
            left = (here - _value_beside(fn, inputs, i, index, -eps)) / eps
            right = (_value_beside(fn, inputs, i, index, eps) - here) / eps
            found = float(explicit[i][index])
            low, high = min(left, right), max(left, right)
            distance = max(low - found, found - high)
            excess = distance - atol - rtol * max(abs(low), abs(high))
            if not math.isfinite(left + right + found):
                excess = math.inf
            if excess > worst:
                worst = excess
                where = (
                    f"input {i} at {index}: backward says {found:.10g}, "
                    f"differences say {(left + right) / 2:.10g} "
                    f"(left {left:.6g}, right {right:.6g})"
                )
    if where:
        raise AssertionError(f"gradcheck: {where}")
    return True


def _weighed(y: Tensor) -> tuple[Any, Any]:
    """Fixed weights v of the shape of y, and sum of v y."""
    v = np.random.default_rng(0).uniform(0.5, 1.5, y.shape) * np.resize([1.0, -1.0], y.shape)
    v = array_module(y.data).asarray(v)
    return v, (v * y.data).sum()


def _value_and_gradients(
    fn: Callable, inputs: tuple, checked: list[int]
) -> tuple[float, dict[int, np.ndarray]]:
    """L, and what backward says of it."""
    leaves = {i: Tensor(inputs[i].data, requires_grad=True) for i in checked}
    y = fn(*[leaves.get(i, x) for i, x in enumerate(inputs)])
    v, value = _weighed(y)
    gradients = [to_numpy(g) for g in grad(y, list(leaves.values()), v)]
    return float(value), dict(zip(checked, gradients, strict=True))


@no_grad()
def _value_beside(
    fn: Callable, inputs: tuple, i: int, index: tuple[int, ...], step: float
) -> float:
    """L with one element of one input moved by a step."""
    moved = inputs[i].data.copy(order="K")
    moved[index] += step
    y = fn(*[Tensor(moved) if j == i else x for j, x in enumerate(inputs)])
    return float(_weighed(y)[1])
