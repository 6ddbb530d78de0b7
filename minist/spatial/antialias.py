"""Reduction without false rings (Sect. 3.4): the kernel widened by what a grid steps over."""

from __future__ import annotations

import numpy as np

from ..backend import Array, array_module
from .grid import pixels_per_unit, rounding
from .kernels import Kernel


class Widened(Kernel):
    """A kernel `width` times as wide, (points,): k(x / width), its weights brought to a sum of 1.

    Where a grid reduces an image, this is what keeps details too fine for the output from turning
    up in it as coarse ones.
    """

    normalised = True

    def __init__(self, kernel: Kernel, width: Array):
        self.kernel, self.width = kernel, width
        # Waits for a GPU: the number of taps decides what is to be done.
        self.support = kernel.support * float(width.max()) if width.size else kernel.support

    @property
    def narrow(self) -> bool:
        """As the kernel itself: what happens at the border must not depend on other points."""
        return self.kernel.narrow

    def k(self, x: Array, *phi: Array) -> Array:
        return self.kernel.within(self.kernel.k, x / self.width, *phi)

    def dk(self, x: Array, *phi: Array) -> Array:
        return self.kernel.within(self.kernel.dk, x / self.width, *phi) / self.width

    def dphi(self, x: Array, *phi: Array) -> list[Array]:
        x = x / self.width
        inside = self.kernel.within(lambda x, *phi: array_module(x).ones_like(x), x)
        return [inside * slope for slope in self.kernel.dphi(x, *phi)]


def footprint(x: Array, size: int, reach: float, align_corners: bool) -> Array:
    """How many pixels along an axis of the image lie between neighbours of the output.

    `x` (*sizes', N) is the points' coordinate along that axis; the answer (points,) is
    |grad x| over the output's axes, so that a turn alone widens nothing. At least 1, at most the
    image; and 1 where a kernel as wide, with `reach` pixels to each side, would see none of it.
    """
    xp = array_module(x)
    scale = pixels_per_unit(size, align_corners)
    square = xp.zeros_like(x)
    with np.errstate(over="ignore", invalid="ignore"):
        for axis in range(x.ndim - 1):
            if x.shape[axis] > 1:
                square += neighbour(x * scale, axis) ** 2
        width = xp.sqrt(square) - rounding(x.dtype, size)  # an identity stays exact
        width = xp.fmin(xp.fmax(width, 1.0), float(max(size, 1)))
        seen = (abs(x) - 1.0) * scale < reach * width + 1.0
    return xp.where(seen, width, x.dtype.type(1)).reshape(-1)


def neighbour(x: Array, axis: int) -> Array:
    """The way to the nearer of the two neighbours along an axis; the other may be beyond a
    horizon."""
    xp = array_module(x)
    steps = abs(xp.diff(x, axis=axis))
    first, last = (steps[(slice(None),) * axis + (end,)] for end in (slice(1), slice(-1, None)))
    return xp.fmin(
        xp.concatenate([first, steps], axis=axis), xp.concatenate([steps, last], axis=axis)
    )
