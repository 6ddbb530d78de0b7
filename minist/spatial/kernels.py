"""Sampling kernels k (Sect. 3.3): how a point between pixels is made of the pixels around it."""

from __future__ import annotations

import numpy as np

from ..backend import Array, array_module


class Kernel:
    """A sampling kernel for Eq. (3).

    A point at x takes part in `taps` pixels, m + first, ..., m + first + taps - 1, with
    m = floor(x + base_shift) and t = x - m. A subclass says what each weighs.
    """

    taps: int
    first: int = 0
    base_shift: float = 0.0

    def weights(self, t: Array) -> list[Array | float]:
        """k(x - pixel) for each tap."""
        raise NotImplementedError

    def slopes(self, t: Array) -> list[Array | float]:
        """dk/dx for each tap."""
        raise NotImplementedError


class Nearest(Kernel):
    """The integer kernel of Eq. (4): the pixel at floor(x + 0.5), whose slope is 0 everywhere."""

    taps = 1
    base_shift = 0.5

    def weights(self, t: Array) -> list[Array | float]:
        return [array_module(t).ones_like(t)]  # Eq. (4)

    def slopes(self, t: Array) -> list[Array | float]:
        return [array_module(t).zeros_like(t)]


class Bilinear(Kernel):
    """k(x) = max(0, 1 - |x|), of Eq. (5).

    Of all pixels only the two around x have a weight: with 0 <= t < 1 from the left one,
    1 - t and t. Their slopes are -1 and 1 (Eq. (7)); at a pixel, t = 0, that is the right-hand
    difference. Eq. (7) read to the letter would count the pixel alone there, since both its
    neighbours are at distance 1.
    """

    taps = 2

    def weights(self, t: Array) -> list[Array | float]:
        return [1.0 - t, t]  # Eq. (5), Eq. (6)

    def slopes(self, t: Array) -> list[Array | float]:
        return [-1.0, 1.0]  # Eq. (7)


def kernel_of(mode: str | Kernel) -> Kernel:
    """The kernel of a name, "nearest" or "bilinear"; a Kernel as it is."""
    named = {"nearest": Nearest, "bilinear": Bilinear}
    if isinstance(mode, Kernel):
        return mode
    if mode not in named:
        raise ValueError(f"mode must be one of {', '.join(named)} or a Kernel, not {mode!r}")
    return named[mode]()


def rounding(dtype: np.dtype) -> float:
    """How far a coordinate in -1..1 may be off by rounding: a few units in the last place."""
    return 8 * float(np.finfo(dtype).eps)
