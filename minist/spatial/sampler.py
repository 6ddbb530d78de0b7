"""Differentiable image sampling (Sect. 3.3): equations (3) to (7).

    V[c, i] = sum over n, m of  U[c, n, m] k(x_i - m; Phi_x) k(y_i - n; Phi_y)              Eq. (3)

The kernel is 0 but for a few pixels around (x_i, y_i), its taps, so the sums are short. They are
separable: along x for each row of taps, then along y. Differentiating gives

    dV/dU[c, n, m] = k(x_i - m) k(y_i - n)                                                  Eq. (6)
    dV/dx_i = sum over n, m of  U[c, n, m] k'(x_i - m) k(y_i - n),   likewise in y          Eq. (7)

(the sums printed in the paper's (6) are a slip). For Phi_x it is the same as for x_i, with
dk/dPhi_x in the place of k'. The gradient to U is thus the adjoint of the sampling: g is added,
with the weights that it was read with, to the pixels that it was read from.

The image is copied once with a border as wide as the taps reach, zeros or pixels repeated or
mirrored, and points beyond the border are moved to its edge (`borders.py`). After that no point is
special: there is nothing left to check, pixel by pixel, and nothing can be read out of bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

import numpy as np

from .. import cuda
from ..autograd import Function, Tensor
from ..backend import Array, add_at, array_module, columns_at, device_of
from ..cuda.sampler import Sampler
from ..functional.dtypes import check_floating
from .antialias import Widened, footprint
from .borders import PADDINGS, check_padding, into_image, outside, pad, unpad
from .grid import pixels_per_unit, rounding
from .kernels import Bicubic, Bilinear, Kernel, Nearest, kernel_of

GRID = 1  # its place among the inputs U, grid and Phi


class Axis:
    """One axis of the points: which pixels each takes part in, with which weights.

    `x` (points) are normalised coordinates along an axis of `size` pixels. In pixels a point is at
    `pixel` + `t`, and its taps are counted from `pixel`; the first tap of pixel 0 is at `corner` in
    the padded image. `weights` are k(t - tap) for each tap, divided by their sum if the kernel is
    normalised; `derivatives` holds the same for dk/dx and dk/dPhi, as far as they are wanted, and
    `inputs` the numbers of the inputs that they belong to.
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
        xp = array_module(x)
        taps = kernel.taps()
        self.margin = len(taps) + 1
        pixel, inside = into_image(x, size, kernel, padding_mode, align_corners, self.margin)
        # A point that rounding left just beside a pixel is at the pixel: the identity grid must
        # see each pixel's own value and slope, not its left neighbour's.
        slack = rounding(x.dtype, size)
        m = kernel.floor(pixel + slack, taps)
        self.pixel = m.astype(xp.int32)
        self.corner = self.margin + taps[0]
        t = xp.subtract(pixel, m, out=m)
        if len(taps) % 2:
            t *= abs(t) > slack
            t = xp.maximum(t, -0.5)  # not beyond by rounding, where a box would be 0
        else:
            t *= t > slack  # at least -slack as it is
        self.t, self.kernel, self.phi = t, kernel, list(phi.values())
        derivatives = {}
        if needs_grad[GRID]:
            scale = pixels_per_unit(size, align_corners)
            slope = scale if inside is None else inside * scale
            derivatives[GRID] = [k * slope for k in kernel.slopes(t, *self.phi)]
        if any(needs_grad[i] for i in phi):
            derivatives |= dict(zip(phi, kernel.by_phi(t, *self.phi), strict=True))
        self.inputs, self.derivatives = list(derivatives), list(derivatives.values())
        if kernel.normalised:
            self.weights, self.derivatives = normalise(self.weights, self.derivatives)

    @cached_property  # made when they are first read: `BilinearSample` needs t alone
    def weights(self) -> list[Array | float]:
        return self.kernel.weights(self.t, *self.phi)


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

    `kernels` has one for each coordinate of the grid; then come their parameters, those of a
    kernel that serves several axes once.
    """

    def forward(
        self,
        u: Array,
        grid: Array,
        *phi: Array,
        kernels: Sequence[Kernel],
        padding_mode: str,
        align_corners: bool,
        antialias: bool,
    ) -> Array:
        check(u, grid, kernels)
        sizes = u.shape[2:]
        d = len(sizes)
        self.num_phi = len(phi)
        phi_of = by_kernel(kernels, [p.astype(grid.dtype) for p in phi])
        points = grid.transpose(-1, *range(1, d + 1), 0)  # (d, *sizes', N): x, y (, z)
        self.points_shape = points.shape[1:]
        self.axes = []
        # Axes from the outermost of the image, whose coordinate is the grid's last, inwards.
        for size, x, kernel in zip(sizes, points[::-1], reversed(kernels), strict=True):
            values = phi_of[kernel]
            if antialias:
                kernel = Widened(kernel, footprint(x, size, kernel.support, align_corners))
            self.axes.append(
                Axis(
                    x.reshape(-1),
                    size,
                    kernel,
                    values,
                    padding_mode,
                    align_corners,
                    self.needs_grad,
                )
            )
        self.outside = [
            outside(size, axis.margin, padding_mode, align_corners)
            for size, axis in zip(sizes, self.axes, strict=True)
        ]
        padded = pad(u.transpose(*range(1, d + 2), 0), self.margins, self.outside)
        self.padded_shape = padded.shape
        # Steps in the padded image, flattened to (C, sizes and batch).
        inner = padded.shape[1:]
        self.steps = [prod(inner[i + 1 :]) for i in range(d)]
        self.index = self.first_taps(inner).astype(np.intp)
        flat = padded.reshape(len(padded), prod(inner))

        v, *self.derivatives = self.interpolate(flat, 0, 0)  # Eq. (3)
        return self.as_images(v)

    def first_taps(self, inner: tuple[int, ...]) -> Array:
        """Where each point's first tap is in the flattened `inner`, (*sizes, N) or (*sizes, 1)."""
        xp = array_module(self.axes[0].pixel)
        integer = xp.int32 if prod(inner) < 2**31 else xp.int64  # half the bytes, where they do
        place, *others = (axis.pixel.astype(integer, copy=False) for axis in self.axes)
        for pixel, size in zip(others, inner[1:], strict=False):
            place = place * size
            place += pixel
        images = inner[-1]
        place *= images
        place = place.reshape(self.points_shape)
        corner = sum(axis.corner * step for axis, step in zip(self.axes, self.steps, strict=True))
        place += xp.arange(corner, corner + images, dtype=integer)
        return place.ravel()

    @property
    def margins(self) -> list[int]:
        return [axis.margin for axis in self.axes]

    def interpolate(self, flat: Array, i: int, offset: int) -> list[Array]:
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
        d = len(self.axes)
        g = grad.transpose(1, *range(2, d + 2), 0).reshape(grad.shape[1], len(self.index))
        xp = array_module(g)
        grad_phi: dict[int, Array] = {}
        inputs = [i for axis in self.axes for i in axis.inputs]
        along = xp.empty((d, g.shape[1]), dtype=g.dtype)
        rows = reversed(along)  # y before x, as the axes of the image
        for i, derivative in zip(inputs, self.derivatives, strict=True):
            if i == GRID:
                row = next(rows)
                if len(g) == 1:  # of one channel there is nothing to sum
                    xp.multiply(derivative[0], g[0], out=row)
                else:
                    (derivative * g).sum(axis=0, out=row)
            else:
                grad_phi[i] = grad_phi.get(i, 0) + (derivative * g).sum()
        grad_grid = self.as_grid(along) if GRID in inputs else None
        grad_u = self.adjoint(g) if self.needs_grad[0] else None
        return grad_u, grad_grid, *(grad_phi.get(GRID + 1 + i) for i in range(self.num_phi))

    def adjoint(self, g: Array) -> Array:
        """dL/dU from dL/dV (C, points)."""
        padded = array_module(g).zeros((len(g), prod(self.padded_shape[1:])), dtype=g.dtype)
        for offset, parts in self.taps(g):
            for channel, part in zip(padded, parts, strict=True):
                add_at(channel[offset:], self.index, part)
        padded = padded.reshape(self.padded_shape)
        grad_u = unpad(padded, self.margins, self.outside)
        return grad_u.transpose(-1, *range(len(self.axes) + 1))

    def taps(self, g: Array) -> Iterator[tuple[int, Array]]:
        """(offset in the flat image, what of g goes there) for every tap."""
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


class BilinearSample(GridSample):
    """The same for the bilinear kernel in the plane, in half the passes over the points.

    The sums of Eq. (5) are two steps of linear interpolation, along x in the row above the point
    (v) and the one below (w), then along y:

        v = U[n, m] + t_x (U[n, m + 1] - U[n, m]),   w likewise,   V = v + t_y (w - v).

    dV/dt_y is w - v, and dV/dt_x the interpolation along y of the two differences: both are there
    already. Backwards, g is split in the same proportions: t_y of it goes down, of both parts t_x
    to the right, and what is left stays.
    """

    def interpolate(self, flat: Array, *first: int) -> list[Array]:
        along_y, along_x = self.axes
        t_y, t_x = along_y.t, along_x.t

        def row(offset: int) -> tuple[Array, Array]:
            """Along x: the value, and its derivative by t_x."""
            left = columns_at(flat[:, offset:], self.index)
            difference = columns_at(flat[:, offset + self.steps[1] :], self.index)
            difference -= left
            left += t_x * difference
            return left, difference

        (value, by_x), (below, by_x_below) = row(0), row(self.steps[0])
        below -= value  # dV/dt_y
        value += t_y * below  # Eq. (5)
        if not along_x.inputs:
            return [value]
        by_x_below -= by_x
        by_x_below *= t_y
        by_x += by_x_below  # dV/dt_x
        below *= along_y.derivatives[0][1]  # dt/dx, in each direction
        by_x *= along_x.derivatives[0][1]
        return [value, below, by_x]

    def taps(self, g: Array) -> Iterator[tuple[int, Array]]:
        step_y, step_x = self.steps
        t_y, t_x = (axis.t for axis in self.axes)
        down = g * t_y
        for offset, part in ((0, g - down), (step_y, down)):
            right = part * t_x
            part -= right
            yield offset, part  # Eq. (6)
            yield offset + step_x, right


class CudaSample(Function):
    """The same on a GPU, in one pass forward and one backward (`cuda/sampler.cu`)."""

    def forward(
        self,
        u: Array,
        grid: Array,
        *phi: Array,
        kernels: Sequence[Kernel],
        padding_mode: str,
        align_corners: bool,
        antialias: bool,
    ) -> Array:
        check(u, grid, kernels)
        a = phi[0].astype(grid.dtype, copy=False) if phi else None
        taps, padding = len(kernels[0].taps()), PADDINGS.index(padding_mode)
        self.sampler = Sampler(taps, padding, align_corners, a)
        self.u, self.grid = u, grid
        return self.sampler.forward(u, grid)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        wanted, of_phi = self.needs_grad[: GRID + 1], self.needs_grad[GRID + 1 :]
        gradients = self.sampler.backward(grad, self.u, self.grid, *wanted)
        return *gradients, *[None] * len(of_phi)


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
    if len(u) not in (1, len(grid)):
        raise ValueError(f"{len(u)} images but {len(grid)} grids; one image may have many grids")
    check_number(kernels, d)
    if 0 in u.shape[2:]:
        raise ValueError(f"images without pixels: {u.shape}")


def check_number(kernels: Sequence[Kernel], d: int) -> None:
    if len(kernels) != d:
        raise ValueError(f"{len(kernels)} kernels for {d} axes: give one, or one for each axis")


def kernels_of(mode: str | Kernel | Sequence[Kernel], d: int, device: str = "cpu") -> list[Kernel]:
    """The kernels that a mode names, as of `grid_sample`, for d axes."""
    if isinstance(mode, list | tuple):
        return [kernel_of(m, device) for m in mode]
    return [kernel_of(mode, device)] * d


def grid_sample(
    U: Any,
    grid: Any,
    mode: str | Kernel | Sequence[Kernel] = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = True,
    antialias: bool = False,
) -> Tensor:
    """Sample images at the points of a grid: Eq. (3), differentiable in both.

    Parameters
    ----------
    U : (N, C, H, W) or (N, C, D, H, W)
        One image, N = 1, may be sampled by many grids.
    grid : (N, H', W', 2) or (N, D', H', W', 3)
        Points (x, y) or (x, y, z) in normalised coordinates.
    mode : "bilinear", "nearest", "bicubic", Kernel, or one Kernel for each of x, y (, z)
        Eq. (5), Eq. (4), PyTorch's cubic, or any other (see `spatial.kernels`). The parameters
        Phi of a kernel get their gradients, too.
    padding_mode : "zeros", "border" or "reflection"
        What lies outside: nothing, the border pixel on and on, or the image mirrored.
    align_corners : bool
        Whether -1 and 1 are the centres of the border pixels (the default, the paper's reading),
        or their outer edges. Give the grid and the sampler the same.
    antialias : bool
        Where neighbours of the output lie more than a pixel of U apart, make the kernel that much
        wider (Sect. 3.4 warns of what happens else). Costs the square, of volumes the cube, of the
        largest reduction in the batch. For the gradient the widths count as given. Along an axis
        of the output of one pixel no reduction is known, and nothing is widened.

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
    check_padding(padding_mode)
    u, points = (x.data if isinstance(x, Tensor) else x for x in (U, grid))
    kernels = kernels_of(mode, np.ndim(points) - 2, device_of(points))
    phi = [p for kernel in dict.fromkeys(kernels) for p in kernel.parameters()]
    operation = GridSample
    if not antialias:
        if len(kernels) == 2 and all(type(k) is Bilinear for k in kernels):
            operation = BilinearSample
        if cuda.usable(u, points) and has_cuda_kernel(kernels, phi):
            operation = CudaSample
    return operation.apply(
        U,
        grid,
        *phi,
        kernels=kernels,
        padding_mode=padding_mode,
        align_corners=align_corners,
        antialias=antialias,
    )


def has_cuda_kernel(kernels: Sequence[Kernel], phi: Sequence[Tensor]) -> bool:
    """Whether it is one of the three that have one, for all axes, and learns nothing."""
    one = len(set(kernels)) == 1 and type(kernels[0]) in (Nearest, Bilinear, Bicubic)
    return one and not any(p.requires_grad for p in phi)
