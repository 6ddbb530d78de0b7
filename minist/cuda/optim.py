"""The update of all parameters in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..backend import Array, array_module
from . import by_value, launch, pointer, struct

TENSORS, SETTINGS = 48, 6  # what a launch takes, as in optim.cu; more parameters take more launches


class Update:
    """The kernel of an optimiser, "adam" or "sgd". Its settings lie on the card: a graph of the
    update can be replayed with others."""

    def __init__(self, kernel: str):
        self.kernel = kernel
        self.settings: Array = None  # (parameters, SETTINGS), float64

    def set(self, rows: Sequence[Sequence[float]], like: Array) -> None:
        """The settings of the next update, for each parameter; handed over without a copy that the
        host would wait for."""
        if self.settings is None or len(self.settings) != len(rows):
            self.settings = array_module(like).empty((len(rows), SETTINGS), dtype=np.float64)
        for i in range(0, len(rows), TENSORS):
            part = rows[i : i + TENSORS]
            values = np.zeros((TENSORS, SETTINGS))
            values[: len(part), : len(part[0])] = part
            count = len(part) * SETTINGS
            values = by_value(values.reshape(-1))
            launch("optim.cu", "set", count, like, values, self.settings[i:], count)

    def run(self, weights: list[Array], grads: list[Array], states: list[list[Array]]) -> None:
        """Change the weights and each one's state, at most two arrays, in place; all in C order."""
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
            launch("optim.cu", self.kernel, ends[-1], weights[0], parameters, self.settings[i:])


def filled(numbers: list[int]) -> list[int]:
    return numbers + [0] * (TENSORS - len(numbers))


def addresses(arrays: Sequence[Array | None]) -> list[int]:
    return filled([0 if array is None else pointer(array) for array in arrays])
