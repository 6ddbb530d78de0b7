"""Is a backward right? Compare it with central differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .autograd import Tensor, no_grad
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
    (L(x) - L(x - eps)) / eps. Their mean is the central difference, which the gradient must meet.
    At a kink, where the two differ, every number between them is a sub-gradient and right.

    Parameters
    ----------
    fn : callable
        Takes the inputs, returns a tensor; must give the same result each time.
    inputs : tensor or sequence of tensors
        float64, those to be checked with requires_grad=True. `grad` is left as it was.
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
    >>> import minist, minist.functional as F
    >>> x = minist.tensor([[1.0, -2.0]]).astype("float64").detach()
    >>> x.requires_grad = True
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
    explicit = _explicit_gradients(fn, inputs, checked)
    worst, where = -1.0, ""
    for i in checked:
        for index in np.ndindex(inputs[i].shape):
            left, right = _slopes(fn, inputs, i, index, eps)
            found = float(explicit[i][index])
            low, high = min(left, right), max(left, right)
            distance = max(low - found, found - high)
            excess = distance - atol - rtol * max(abs(low), abs(high))
            if not excess <= worst:  # NaN counts as worst
                worst = excess
                where = (
                    f"input {i} at {index}: backward says {found:.10g}, "
                    f"differences say {(left + right) / 2:.10g} (left {left:.6g}, right {right:.6g})"
                )
    if not worst <= 0:
        raise AssertionError(f"gradcheck: {where}")
    return True


def _weighed(y: Tensor) -> tuple[Any, Any]:
    """Fixed weights v of the shape of y, and sum of v y."""
    v = np.random.default_rng(0).uniform(0.5, 1.5, y.shape) * np.resize([1.0, -1.0], y.shape)
    v = array_module(y.data).asarray(v)
    return v, (v * y.data).sum()


def _explicit_gradients(fn: Callable, inputs: tuple, checked: list[int]) -> dict[int, np.ndarray]:
    leaves = {i: Tensor(inputs[i].data, requires_grad=True) for i in checked}
    y = fn(*[leaves.get(i, x) for i, x in enumerate(inputs)])
    y.backward(_weighed(y)[0])
    return {
        i: np.zeros(x.shape) if x.grad is None else to_numpy(x.grad) for i, x in leaves.items()
    }


@no_grad()
def _slopes(
    fn: Callable, inputs: tuple, i: int, index: tuple[int, ...], eps: float
) -> tuple[float, float]:
    """The slopes of L on the left and on the right of one element."""

    def at(step: float) -> float:
        moved = inputs[i].data.copy()
        moved[index] += step
        y = fn(*[Tensor(moved) if j == i else x for j, x in enumerate(inputs)])
        return float(_weighed(y)[1])

    here = at(0.0)
    return (here - at(-eps)) / eps, (at(eps) - here) / eps
