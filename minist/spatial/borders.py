"""What a sampler sees beyond the border of an image: zeros, the border on and on, or a mirror.

Two things are done about it. Points are brought into an image that has a border as wide as the
kernel reaches, and the border's pixels are given their values. After that no point is special.
"""

from __future__ import annotations

import numpy as np

from ..backend import Array, array_module
from .grid import pixels_per_unit, to_pixels
from .kernels import Kernel

PADDINGS = ("zeros", "border", "reflection")
Pairs = list[tuple[int, int]]  # of positions: one outside, and the one that is seen there


def check_padding(padding_mode: str) -> None:
    if padding_mode not in PADDINGS:
        raise ValueError(f"padding_mode must be one of {', '.join(PADDINGS)}, not {padding_mode!r}")


# --- points -------------------------------------------------------------------------------------


def into_image(
    x: Array, size: int, kernel: Kernel, padding_mode: str, align_corners: bool
) -> tuple[Array, Array | float]:
    """Normalised coordinates in pixels, brought into the padded image; and d pixel / dx.

    The derivative is one number, pixels per unit, under "zeros"; else an array, with 0 where a
    point was moved to the border pixel, and negative where it was reflected. NaN counts as outside,
    under "border" and "reflection" as pixel 0.

    The border is as wide as a point has taps, so that all of them can be in it.

    Beyond the border a narrow kernel sees the border pixel alone, so the point is moved there. A
    wider one still mixes both sides of it: there only the pixels are repeated or mirrored.
    """
    xp = array_module(x)
    per_unit = pixels_per_unit(size, align_corners)
    with np.errstate(over="ignore", invalid="ignore"):  # huge and infinite: brought back below
        x = to_pixels(x, size, align_corners)
    lowest, highest = 0.0, size - 1.0
    if padding_mode == "reflection":
        pixel, sign = fold(x, size, align_corners)
        if kernel.narrow:
            sign = sign * ((pixel >= lowest) & (pixel <= highest))
            pixel = xp.clip(pixel, lowest, highest)
        return pixel, sign * per_unit
    if padding_mode == "zeros" or not kernel.narrow:
        # From the first pixel to the last whose taps are all in the border of the padded image.
        taps = kernel.taps()
        lowest, highest = -float(len(taps) + taps[0]), highest + len(taps) - taps[-1]
    # fmax, not maximum: of a number and NaN it takes the number. With an array of the bound it
    # takes half of the time that it takes with a scalar. `fill` and the method `clip`, not
    # `full_like` and `xp.clip`, whose wrappers are felt with a single image.
    pixel = xp.empty_like(x)
    pixel.fill(lowest)
    xp.fmax(x, pixel, out=pixel)
    pixel.clip(lowest, highest, out=pixel)
    if padding_mode == "zeros":
        return pixel, per_unit
    inside = (pixel > lowest) & (pixel < highest) if kernel.narrow else pixel == x
    return pixel, inside.astype(x.dtype) * per_unit


def fold(x: Array, size: int, align_corners: bool) -> tuple[Array, Array]:
    """Pixel coordinates reflected at the border of the image, and the sign of the slope.

    The mirrors stand at the centres of the border pixels with align_corners, else at their outer
    edges.
    """
    xp = array_module(x)
    edge = 0.0 if align_corners else 0.5
    length = size - 1 + 2 * edge
    if length == 0:
        return xp.zeros_like(x), xp.zeros_like(x)
    far = 1e6 * size  # finite, and no place is known to a pixel out there
    near = abs(x) < far
    x = xp.where(xp.isnan(x), x.dtype.type(0), xp.fmin(xp.fmax(x, -far), far)) + edge
    phase = x % (2 * length)
    sign = xp.where(phase <= length, 1.0, -1.0).astype(x.dtype)
    return length - abs(phase - length) - edge, sign * near


# --- pixels -------------------------------------------------------------------------------------


def pad(u: Array, margins: list[int], outside: list[Pairs]) -> Array:
    """(C, *sizes, N) with so many more pixels on both sides of every spatial axis."""
    c, *sizes, n = u.shape
    sizes = [size + 2 * margin for size, margin in zip(sizes, margins, strict=True)]
    padded = array_module(u).zeros((c, *sizes, n), dtype=u.dtype)
    padded[own_pixels(margins)] = u
    for axis, pairs in enumerate(outside, start=1):
        for there, seen in pairs:
            padded[at(axis, there)] = padded[at(axis, seen)]
    return padded


def unpad(padded: Array, margins: list[int], outside: list[Pairs]) -> Array:
    """The adjoint of `pad`: what the border received goes to the pixels that are seen there."""
    for axis, pairs in reversed(list(enumerate(outside, start=1))):
        for there, seen in pairs:
            padded[at(axis, seen)] += padded[at(axis, there)]
    return padded[own_pixels(margins)]


def own_pixels(margins: list[int]) -> tuple[slice, ...]:
    """Where the image itself is in the padded one, all channels."""
    return (slice(None), *[slice(margin, -margin) for margin in margins])


def outside(size: int, margin: int, padding_mode: str, align_corners: bool) -> Pairs:
    """Pairs of padded positions along an axis: one outside, and the pixel that is seen there.

    Under "zeros" there are none; under "border" it is the border pixel, under "reflection" the
    mirrored one, where the border pixel itself comes once with align_corners, else twice.
    """
    if padding_mode == "zeros":
        return []
    edge = 0 if align_corners else 1
    period = max(2 * (size - 1 + edge), 1)
    pairs = []
    for k in (*range(-margin, 0), *range(size, size + margin)):
        if padding_mode == "border":
            seen = 0 if k < 0 else size - 1
        else:
            seen = min(k % period, (-edge - k) % period)
        pairs.append((margin + k, margin + seen))
    return pairs


def at(axis: int, i: int) -> tuple:
    return (*[slice(None)] * axis, i)
