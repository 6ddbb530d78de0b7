"""The update of all parameters in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..backend import Array
from . import by_value, launch, pointer, struct

TENSORS, SETTINGS = 40, 6  # what a launch takes, as in optim.cu; more parameters take more launches


def update(
    kernel: str,
    weights: list[Array],
    grads: list[Array],
    states: list[list[Array]],
    settings: Sequence[Sequence[float]],
) -> None:
    """Change the weights and each one's state, at most two arrays, in place; all in C order.

    `kernel` is "adam" or "sgd", `settings` what it is given for each parameter.
    """
    for i in range(0, len(weights), TENSORS):
        part = slice(i, i + TENSORS)
        ends = np.cumsum([weight.size for weight in weights[part]]).tolist()
        first, second = (
            [state[j] if j < len(state) else None for state in states[part]] for j in range(2)
        )
        parameters = struct(
            len(ends),
            filled(ends),
            *(addresses(arrays) for arrays in (weights[part], grads[part], first, second)),
        )
        parameters = by_value(np.array(parameters, np.int64))  # addresses are always long
        numbers = np.zeros((TENSORS, SETTINGS))
        numbers[: len(ends), : len(settings[0])] = settings[part]
        numbers = by_value(numbers.reshape(-1))
        launch("optim.cu", kernel, ends[-1], parameters, numbers, like=weights[0])


def filled(numbers: list[int]) -> list[int]:
    return numbers + [0] * (TENSORS - len(numbers))


def addresses(arrays: Sequence[Array | None]) -> list[int]:
    return filled([0 if array is None else pointer(array) for array in arrays])
