"""The update of all parameters in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..backend import Array
from . import by_value, launch, pointer, struct, usable

TENSORS, SETTINGS = 40, 6  # what a launch takes, as in optim.cu; more parameters take more launches


def takes(arrays: Sequence[Sequence[Array]]) -> bool:
    """Whether all are as the kernels take them: on a card, of one floating type, in C order."""
    every = [array for of_one in arrays for array in of_one]
    return bool(every) and usable(*every) and all(array.flags.c_contiguous for array in every)


def update(
    kernel: str, arrays: Sequence[Sequence[Array]], settings: Sequence[Sequence[float]]
) -> None:
    """Change parameters and what is kept for them in place.

    Parameters
    ----------
    kernel : "adam" or "sgd"
    arrays : sequence of sequences
        Of each parameter: its weight, its gradient and at most two arrays that are kept.
    settings : sequence of sequences of float
        What the kernel is given for each parameter.
    """
    for i in range(0, len(arrays), TENSORS):
        part = arrays[i : i + TENSORS]
        ends = np.cumsum([weight.size for weight, *_ in part]).tolist()
        four = [[*of_one, None, None][:4] for of_one in part]
        columns = [addresses(column) for column in zip(*four, strict=True)]
        parameters = struct(len(ends), filled(ends), *columns)
        parameters = by_value(np.array(parameters, np.int64))  # addresses are always long
        numbers = np.zeros((TENSORS, SETTINGS))
        numbers[: len(ends), : len(settings[0])] = settings[i : i + TENSORS]
        numbers = by_value(numbers.reshape(-1))
        launch("optim.cu", kernel, ends[-1], parameters, numbers, like=part[0][0])


def filled(numbers: list[int]) -> list[int]:
    return numbers + [0] * (TENSORS - len(numbers))


def addresses(arrays: Sequence[Array | None]) -> list[int]:
    return filled([0 if array is None else pointer(array) for array in arrays])
