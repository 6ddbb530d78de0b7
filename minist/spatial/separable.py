"""Sampling with any separable kernel, in the plane or in space: equations (3) to (7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

import numpy as np

from ..autograd import Function
from ..backend import Array, add_at, array_module, columns_at
from ..functional.dtypes import check_floating
from .antialias import Widened, footprint
from .borders import into_image, outside, pad, unpad
from .grid import rounding
from .kernels import Kernel

GRID = 1  # its place among the inputs U, grid and Phi


def locate(
    x: Array, size: int, kernel: Kernel, padding_mode: str, align_corners: bool
) -> tuple[Array, Array, Array | float]:
    """Where points lie along an axis of `size` pixels: m, t, and dt/dx.

    `x` (points) are normalised coordinates. In pixels a point is at m + t, m the pixel that a
    kernel's taps are counted from, of two taps the left one. dt/dx is in pixels per unit (see
    `into_image`).
    """
    xp = array_module(x)
    taps = kernel.taps()
    pixel, per_unit = into_image(x, size, kernel, padding_mode, align_corners)
    # A point that rounding left just beside a pixel is at the pixel: the identity grid must see
    # each pixel's own value and slope, not its left neighbour's.
    slack = rounding(x.dtype, size)
    m = kernel.floor(pixel + slack, taps)
    t = pixel
    t -= m
    if len(taps) % 2:
        t *= abs(t) > slack
        t = xp.maximum(t, -0.5)  # not beyond by rounding, where a box would be 0
    else:
        t *= t > slack  # at least -slack as it is
    return m, t, per_unit


class Axis:
    """One axis of the points: which pixels each takes part in, with which weights.

    Taps are counted from pixel `m`; of pixel 0 the first is at `corner` in the padded image.
    `weights` are k(t - tap) for each tap, divided by their sum if the kernel is normalised;
    `derivatives` holds the same for dk/dx and dk/dPhi, as far as they are wanted, and `inputs` the
    numbers of the inputs that they belong to.
    """

    def __init__(
        self,
        x: Array,
        size: int,
        kernel: Kernel,
        phi: dict[int, Array],
        padding_mode: str,
        align_corners: bool,
        needs_grad: Sequence[bool],
    ):
        self.m, t, per_unit = locate(x, size, kernel, padding_mode, align_corners)
        taps = kernel.taps()
        self.margin = len(taps)
        self.corner = self.margin + taps[0]
        self.weights = kernel.weights(t, *phi.values())
        derivatives = {}
        if needs_grad[GRID]:
            derivatives[GRID] = [k * per_unit for k in kernel.slopes(t, *phi.values())]
        if any(needs_grad[i] for i in phi):
            derivatives |= dict(zip(phi, kernel.by_phi(t, *phi.values()), strict=True))
        self.inputs, self.derivatives = list(derivatives), list(derivatives.values())
        if kernel.normalised:
            self.weights, self.derivatives = normalise(self.weights, self.derivatives)


def normalise(weights: list, derivatives: list[list]) -> tuple[list, list[list]]:
    """Weights divided by their sum s, and their derivatives: (w / s)' = (w' - (w / s) s') / s."""
    total = sum(weights)
    total = array_module(total).where(total == 0, total.dtype.type(1), total)
    weights = [w / total for w in weights]
    derivatives = [
        [(slope - w * sum(slopes)) / total for w, slope in zip(weights, slopes, strict=True)]
        for slopes in derivatives
    ]
    return weights, derivatives


class GridSample(Function):
    """V from U (N, C, *sizes) and a grid (N, *sizes', d) for any separable kernel, d = 2 or 3.

    `kernels` has one for each coordinate of the grid; `phi` are their parameters, those of a kernel
    that serves several axes once.

    The forward leaves to the backward the `derivatives` of V that are wanted, by x or by Phi along
    each axis, with the numbers of the `inputs` that they belong to; the `index` of each point's
    first tap and what `shares` needs besides; and what `bordered` leaves.
    """

    def forward(
        self,
        u: Array,
        grid: Array,
        *phi: Array,
        kernels: Sequence[Kernel],
        padding_mode: str,
        align_corners: bool,
        antialias: bool = False,
    ) -> Array:
        check(u, grid, kernels)
        sizes, d = u.shape[2:], u.ndim - 2
        phi_of = by_kernel(kernels, [p.astype(grid.dtype) for p in phi])
        points = grid.transpose(-1, *range(1, d + 1), 0)  # (d, *sizes', N): x, y (, z)
        self.points_shape = points.shape[1:]
        self.axes = []
        # Axes from the outermost of the image, whose coordinate is the grid's last, inwards.
        for size, x, kernel in zip(sizes, points[::-1], reversed(kernels), strict=True):
            values = phi_of[kernel]
            if antialias:
                kernel = Widened(kernel, footprint(x, size, kernel.support, align_corners))
            options = padding_mode, align_corners, self.needs_grad
            self.axes.append(Axis(x.reshape(-1), size, kernel, values, *options))
        self.inputs = [i for axis in self.axes for i in axis.inputs]
        margins = [axis.margin for axis in self.axes]
        image = self.bordered(u, margins, padding_mode, align_corners)
        m, corners = [axis.m for axis in self.axes], [axis.corner for axis in self.axes]
        self.index = self.first_taps(m, corners)
        v, *self.derivatives = self.interpolate(image)  # Eq. (3)
        return self.as_images(v)

    def bordered(
        self, u: Array, margins: list[int], padding_mode: str, align_corners: bool
    ) -> Array:
        """U with its border, flattened to (C, sizes and batch).

        Leaves `steps`, how far neighbours along each axis are apart there, and what the way back
        needs: `margins`, `outside` and `padded_shape`.
        """
        sizes = u.shape[2:]
        d = len(sizes)
        self.margins = margins
        self.outside = [
            outside(size, margin, padding_mode, align_corners)
            for size, margin in zip(sizes, margins, strict=True)
        ]
        padded = pad(u.transpose(*range(1, d + 2), 0), margins, self.outside)
        self.padded_shape = padded.shape
        self.steps = [prod(padded.shape[i:]) for i in range(2, d + 2)]
        return padded.reshape(len(padded), prod(padded.shape[1:]))

    def first_taps(self, m: Sequence[Array], corners: Sequence[int]) -> Array:
        """Where each point's first tap is in the flattened image, from `m` and `corner` along each
        axis.

        Computed in floating point, in which m comes: whole numbers are exact in float32 up to 2^24.
        """
        _, _, *inner, images = self.padded_shape
        xp = array_module(m[0])
        bytes_each = 4 if prod(self.padded_shape[1:]) < 2**24 else 8
        place, first = m[0].astype(f"f{bytes_each}"), corners[0]
        for pixel, corner, size in zip(m[1:], corners[1:], inner, strict=True):
            place *= size
            place += pixel
            first = first * size + corner
        place *= images
        place = place.reshape(self.points_shape)
        place += xp.arange(first * images, (first + 1) * images, dtype=place.dtype)
        # By way of whole numbers of the same width: in two steps that NumPy has vector code for.
        return place.ravel().astype(f"i{bytes_each}").astype(np.intp, copy=False)

    def interpolate(self, flat: Array, i: int = 0, offset: int = 0) -> list[Array]:
        """Sum over the taps of axis i and of the axes inside it: V, then its derivatives.

        Those come in the order of the axes from i on, and only where they are wanted.
        """
        if i == len(self.axes):
            return [columns_at(flat[:, offset:], self.index)]
        axis, step = self.axes[i], self.steps[i]
        sums: list[Array] = []
        for k, weight in enumerate(axis.weights):
            value, *inner = self.interpolate(flat, i + 1, offset + k * step)
            terms = [weight * value]  # Eq. (3)
            terms += [slopes[k] * value for slopes in axis.derivatives]  # Eq. (7)
            terms += [weight * derivative for derivative in inner]
            if not sums:
                sums = terms
                continue
            for total, term in zip(sums, terms, strict=True):
                total += term
        return sums

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        d = grad.ndim - 2
        g = grad.transpose(1, *range(2, d + 2), 0).reshape(grad.shape[1], len(self.index))
        xp = array_module(g)
        grad_phi: dict[int, Array] = {}
        along = xp.empty((d, g.shape[1]), dtype=g.dtype)
        rows = reversed(along)  # y before x, as the axes of the image
        for i, derivative in zip(self.inputs, self.derivatives, strict=True):
            if i == GRID:
                row = next(rows)
                if len(g) == 1:  # of one channel there is nothing to sum
                    xp.multiply(derivative[0], g[0], out=row)
                else:
                    (derivative * g).sum(axis=0, out=row)
            else:
                grad_phi[i] = grad_phi.get(i, 0) + (derivative * g).sum()
        grad_grid = self.as_grid(along) if GRID in self.inputs else None
        grad_u = self.adjoint(g) if self.needs_grad[0] else None
        return grad_u, grad_grid, *(grad_phi.get(i) for i in range(GRID + 1, len(self.needs_grad)))

    def adjoint(self, g: Array) -> Array:
        """dL/dU from dL/dV (C, points)."""
        padded = array_module(g).zeros((len(g), prod(self.padded_shape[1:])), dtype=g.dtype)
        for offset, share in self.shares(g):
            for channel, of_channel in zip(padded, share, strict=True):
                add_at(channel[offset:], self.index, of_channel)
        padded = padded.reshape(self.padded_shape)
        grad_u = unpad(padded, self.margins, self.outside)
        return grad_u.transpose(-1, *range(grad_u.ndim - 1))

    def shares(self, g: Array) -> Iterator[tuple[int, Array]]:
        """For every tap, how far it is from the first, and what of g goes there."""
        for ks in product(*(range(len(axis.weights)) for axis in self.axes)):
            weight = 1.0
            for axis, k in zip(self.axes, ks, strict=True):
                weight = weight * axis.weights[k]
            offset = sum(k * step for k, step in zip(ks, self.steps, strict=True))
            yield offset, g * weight  # Eq. (6)

    def as_images(self, v: Array) -> Array:
        """(C, points) as (N, C, *sizes'), the batch innermost in memory."""
        return v.reshape(len(v), *self.points_shape).transpose(-1, *range(len(self.points_shape)))

    def as_grid(self, along: Array) -> Array:
        """Coordinates (d, points) as (N, *sizes', d)."""
        points = along.reshape(len(along), *self.points_shape)
        return points.transpose(-1, *range(1, points.ndim - 1), 0)


def by_kernel(kernels: Sequence[Kernel], phi: Sequence[Array]) -> dict[Kernel, dict[int, Array]]:
    """Each kernel's own parameters, by their places among the inputs."""
    of_kernel: dict[Kernel, dict[int, Array]] = {}
    start = 0
    for kernel in dict.fromkeys(kernels):
        end = start + len(kernel.parameters())
        of_kernel[kernel] = {GRID + 1 + i: phi[i] for i in range(start, end)}
        start = end
    return of_kernel


def check(u: Array, grid: Array, kernels: Sequence[Kernel]) -> None:
    d = u.ndim - 2
    if d not in (2, 3) or grid.ndim != d + 2 or grid.shape[-1] != d:
        last = d == 2 and u.shape[3] in (1, 3, 4) and u.shape[1] > 4
        cure = "; these look like (N, H, W, C): transpose(0, 3, 1, 2) mends it" if last else ""
        raise ValueError(
            "expected images (N, C, H, W) with a grid (N, H', W', 2), or volumes (N, C, D, H, W) "
            f"with a grid (N, D', H', W', 3), got {u.shape} and {grid.shape}{cure}"
        )
    check_floating(u, "images")
    check_floating(grid, "grid")
    if grid.dtype.itemsize < 4:
        raise TypeError(
            f"a grid of {grid.dtype} is too coarse to place points between pixels: "
            "use astype(numpy.float32)"
        )
    if len(u) not in (1, len(grid)):
        raise ValueError(f"{len(u)} images but {len(grid)} grids; one image may have many grids")
    check_number(kernels, d)
    if 0 in u.shape[2:]:
        raise ValueError(f"images without pixels: {u.shape}")


def check_number(kernels: Sequence[Kernel], d: int) -> None:
    if len(kernels) != d:
        raise ValueError(f"{len(kernels)} kernels for {d} axes: give one, or one for each axis")
