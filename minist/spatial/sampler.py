"""Differentiable image sampling (Sect. 3.3): equations (3) to (7).

    V[c, i] = sum over n, m of  U[c, n, m] k(x_i - m) k(y_i - n)                            Eq. (3)

The kernel is 0 but for a few pixels around (x_i, y_i), its taps, so the sums are short. They are
separable: along x for each row of taps, then along y. Differentiating gives

    dV/dU[c, n, m] = k(x_i - m) k(y_i - n)                                                  Eq. (6)
    dV/dx_i = sum over n, m of  U[c, n, m] k'(x_i - m) k(y_i - n),   likewise in y          Eq. (7)

The gradient to U is thus the adjoint of the sampling: g is added, with the weights that it was
read with, to the pixels that it was read from.

The image is copied once with a border as wide as the taps reach, zeros or pixels repeated or
mirrored, and points beyond the border are moved to its edge. After that no point is special:
there is nothing left to check, pixel by pixel, and nothing can be read out of bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any

import numpy as np

from ..autograd import Function, Tensor
from ..backend import Array, add_at, array_module
from .kernels import Kernel, kernel_of, rounding

PADDINGS = ("zeros", "border", "reflection")


class Axis:
    """One axis of the points: which pixels each takes part in, with which weights and slopes.

    `x` (points) are normalised coordinates along an axis of `size` pixels. `index` counts from
    the first pixel of the padded image to the first tap.
    """

    def __init__(self, x: Array, size: int, kernel: Kernel, padding_mode: str, align_corners: bool):
        xp = array_module(x)
        self.margin = margin = kernel.taps + 1
        pixel, inside = to_pixels(x, size, kernel, padding_mode, align_corners, margin)
        # A point that rounding left just beside a pixel is at the pixel: the identity grid must
        # see each pixel's own value and slope, not its left neighbour's.
        slack = rounding(x.dtype) * max(size, 2) / 2
        m = xp.floor(pixel + (kernel.base_shift + slack))
        t = pixel - m
        t *= abs(t) > slack
        self.weights = kernel.weights(t)
        self.index = m.astype(xp.intp) + (margin + kernel.first)
        scale = (size - 1 if align_corners else size) / 2  # d pixel / d x
        slope = scale if inside is None else inside * scale
        self.slopes = [k * slope for k in kernel.slopes(t)]


def to_pixels(
    x: Array, size: int, kernel: Kernel, padding_mode: str, align_corners: bool, margin: int
) -> tuple[Array, Array | None]:
    """Normalised coordinates in pixels, brought into the padded image.

    Also how the slope changes on the way: None for not at all, else a factor (0 where a point was
    moved to the edge, -1 where it was reflected). NaN counts as outside, under "border" and
    "reflection" as pixel 0.
    """
    xp = array_module(x)
    # The order of these sums decides where rounding leaves a pixel's own coordinate.
    centre = (size - 1) / 2
    with np.errstate(over="ignore", invalid="ignore"):  # huge and infinite: brought back below
        x = x * ((size - 1) / 2) + centre if align_corners else x * size / 2 + centre
    if padding_mode == "reflection":
        return fold(x, size, align_corners)
    # fmax and fmin take the other number when one is NaN.
    if padding_mode == "border":
        pixel = xp.fmin(xp.fmax(x, 0.0), size - 1.0)
        return pixel, ((pixel > 0) & (pixel < size - 1)).astype(x.dtype)
    # From the first pixel to the last whose taps are all in the padded image: there, all are 0.
    lowest = -float(margin + kernel.first)
    highest = float(size + margin - kernel.taps - kernel.first)
    return xp.fmin(xp.fmax(x, lowest), highest), None


def fold(x: Array, size: int, align_corners: bool) -> tuple[Array, Array]:
    """Pixel coordinates reflected at the border into 0..size-1, and the sign of the slope.

    The mirrors stand at the centres of the border pixels with align_corners, else at their outer
    edges; beyond a centre the border pixel is all there is and the slope is 0.
    """
    xp = array_module(x)
    edge = 0.0 if align_corners else 0.5
    length = size - 1 + 2 * edge
    if length == 0:
        return xp.zeros_like(x), xp.zeros_like(x)
    far = 1e6 * size  # finite, and no place is known to a pixel out there
    near = abs(x) < far
    x = xp.where(xp.isnan(x), -edge, xp.fmin(xp.fmax(x, -far), far)) + edge
    phase = x % (2 * length)
    sign = xp.where(phase <= length, 1.0, -1.0).astype(x.dtype)
    pixel = length - abs(phase - length) - edge
    inside = near & (pixel >= 0) & (pixel <= size - 1)
    return xp.clip(pixel, 0, size - 1), sign * inside


class GridSample(Function):
    """V from U (N, C, *sizes) and a grid (N, *sizes', d) for any separable kernel, d = 2 or 3."""

    def forward(
        self, u: Array, grid: Array, kernel: Kernel, padding_mode: str, align_corners: bool
    ) -> Array:
        xp = array_module(u)
        check(u, grid)
        n, sizes = len(grid), u.shape[2:]
        d = len(sizes)
        self.kernel = kernel
        points = grid.transpose(-1, *range(1, d + 1), 0)  # (d, *sizes', N): x, y (, z)
        self.points_shape = points.shape[1:]
        # Axes from the outermost of the image, whose coordinate is the grid's last, inwards.
        self.axes = [
            Axis(points[d - 1 - i].reshape(-1), sizes[i], kernel, padding_mode, align_corners)
            for i in range(d)
        ]
        margin = self.axes[0].margin
        self.outside = [outside(size, margin, padding_mode, align_corners) for size in sizes]
        padded = pad(u.transpose(*range(1, d + 2), 0), margin, self.outside)
        self.padded_shape = padded.shape
        # Steps in the padded image, flattened to (C, sizes and batch).
        inner = padded.shape[1:]
        self.steps = [prod(inner[i + 1 :]) for i in range(d)]
        images = xp.arange(n) if len(u) == n else xp.zeros(n, dtype=int)
        self.index = xp.tile(images, prod(self.points_shape[:-1]))
        for axis, step in zip(self.axes, self.steps, strict=True):
            self.index += axis.index * step
        flat = padded.reshape(len(padded), prod(inner))

        v, *slopes = self.interpolate(flat, 0, 0)  # Eq. (3)
        self.slopes = slopes
        return self.as_images(v)

    def interpolate(self, flat: Array, i: int, offset: int) -> list[Array]:
        """Sum over the taps of axis i and the axes inside it: V, and its slope along each axis.

        Slopes come in the order of the axes from i on, and only where they are wanted.
        """
        if i == len(self.axes):
            return [flat[:, offset:].take(self.index, axis=1)]
        axis, step = self.axes[i], self.steps[i]
        parts = [self.interpolate(flat, i + 1, offset + k * step) for k in range(self.kernel.taps)]
        sums = [weigh(axis.weights, [part[j] for part in parts]) for j in range(len(parts[0]))]
        if not self.needs_grad[1]:
            return sums
        slope = weigh(axis.slopes, [part[0] for part in parts])  # Eq. (7)
        return [sums[0], slope, *sums[1:]]

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        xp = array_module(grad)
        d = len(self.axes)
        g = grad.transpose(1, *range(2, d + 2), 0).reshape(grad.shape[1], len(self.index))
        grad_u = grad_grid = None
        if self.needs_grad[1]:
            along = [(slope * g).sum(axis=0) for slope in reversed(self.slopes)]
            grad_grid = xp.stack(along).reshape(d, *self.points_shape)
            grad_grid = grad_grid.transpose(-1, *range(1, d + 1), 0)
        if self.needs_grad[0]:
            padded = xp.zeros((len(g), prod(self.padded_shape[1:])), dtype=g.dtype)
            for offset, weight in self.taps():  # Eq. (6)
                for channel, gc in zip(padded, g, strict=True):
                    add_at(channel[offset:], self.index, gc * weight)
            padded = padded.reshape(self.padded_shape)
            grad_u = unpad(padded, self.axes[0].margin, self.outside)
            grad_u = grad_u.transpose(-1, *range(d + 1))
        return grad_u, grad_grid

    def taps(self) -> Iterator[tuple[int, Array]]:
        """(offset in the flat image, product of the weights) of every tap."""
        for ks in product(range(self.kernel.taps), repeat=len(self.axes)):
            weight = 1.0
            for axis, k in zip(self.axes, ks, strict=True):
                weight = weight * axis.weights[k]
            yield sum(k * step for k, step in zip(ks, self.steps, strict=True)), weight

    def as_images(self, v: Array) -> Array:
        """(C, points) as (N, C, *sizes'), the batch innermost in memory."""
        return v.reshape(len(v), *self.points_shape).transpose(-1, *range(len(self.points_shape)))


def weigh(weights: list, values: list[Array]) -> Array:
    """Sum of weight * value."""
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total += weight * value
    return total


Pairs = list[tuple[int, int]]


def pad(u: Array, margin: int, outside: list[Pairs]) -> Array:
    """(C, *sizes, N) with `margin` more pixels on every side of every spatial axis."""
    xp = array_module(u)
    inner = tuple(slice(margin, margin + size) for size in u.shape[1:-1])
    padded = xp.zeros(
        (len(u), *(size + 2 * margin for size in u.shape[1:-1]), u.shape[-1]), dtype=u.dtype
    )
    padded[(slice(None), *inner)] = u
    for axis, pairs in enumerate(outside, start=1):
        for there, seen in pairs:
            padded[at(axis, there)] = padded[at(axis, seen)]
    return padded


def unpad(padded: Array, margin: int, outside: list[Pairs]) -> Array:
    """The adjoint of `pad`: what the border received goes to the pixels that are seen there."""
    for axis, pairs in reversed(list(enumerate(outside, start=1))):
        for there, seen in pairs:
            padded[at(axis, seen)] += padded[at(axis, there)]
    inner = tuple(slice(margin, size - margin) for size in padded.shape[1:-1])
    return padded[(slice(None), *inner)]


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


def check(u: Array, grid: Array) -> None:
    d = u.ndim - 2
    if d not in (2, 3) or grid.ndim != d + 2 or grid.shape[-1] != d:
        raise ValueError(
            "expected images (N, C, H, W) with a grid (N, H', W', 2), or volumes (N, C, D, H, W) "
            "with a grid (N, D', H', W', 3); transpose images (N, H, W, C)"
        )
    for name, array in (("images", u), ("grid", grid)):
        if array.dtype.kind != "f":
            raise TypeError(
                f"{name} must be floating, not {array.dtype}: use astype(numpy.float32)"
            )
    if len(u) not in (1, len(grid)):
        raise ValueError(f"{len(u)} images but {len(grid)} grids; one image may have many grids")
    if 0 in u.shape[2:]:
        raise ValueError(f"images without pixels: {u.shape}")


def grid_sample(
    U: Any,
    grid: Any,
    mode: str | Kernel = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = True,
) -> Tensor:
    """Sample images at the points of a grid: Eq. (3), differentiable in both.

    Parameters
    ----------
    U : (N, C, H, W) or (N, C, D, H, W)
        One image, N = 1, may be sampled by many grids.
    grid : (N, H', W', 2) or (N, D', H', W', 3)
        Points (x, y) or (x, y, z) in normalised coordinates.
    mode : "bilinear", "nearest" or Kernel
        Eq. (5), Eq. (4), or a kernel of one's own.
    padding_mode : "zeros", "border" or "reflection"
        What lies outside: nothing, the border pixel on and on, or the image mirrored.
    align_corners : bool
        Whether -1 and 1 are the centres of the border pixels (the default, the paper's reading),
        or their outer edges. Give the grid and the sampler the same.

    Returns
    -------
    (N, C, H', W') or (N, C, D', H', W')

    Raises
    ------
    ValueError, TypeError
        If shapes, types or names do not fit.

    Notes
    -----
    At a kink: the bilinear slope at a pixel is the right-hand difference U[m + 1] - U[m]; under
    "border" it is 0 at and beyond the border pixel. "nearest" gives the grid a gradient of zeros.
    A coordinate that is not a number counts as outside under "zeros", as pixel 0 otherwise;
    infinite and huge ones are just far away.

    Examples
    --------
    >>> import numpy as np, minist
    >>> from minist import spatial
    >>> row = minist.tensor(np.arange(5.0).reshape(1, 1, 1, 5))
    >>> right = minist.tensor(np.array([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]]))
    >>> spatial.grid_sample(row, spatial.affine_grid(right, row.shape)).data.ravel().tolist()
    [1.0, 2.0, 3.0, 4.0, 0.0]
    """
    if padding_mode not in PADDINGS:
        raise ValueError(f"padding_mode must be one of {', '.join(PADDINGS)}, not {padding_mode!r}")
    return GridSample.apply(
        U, grid, kernel=kernel_of(mode), padding_mode=padding_mode, align_corners=align_corners
    )
