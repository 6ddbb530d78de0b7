"""The paper's sampler: bilinear interpolation in the plane, equations (5) to (7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from ..backend import Array, columns_at
from .kernels import Bilinear, Kernel
from .separable import GRID, GridSample, check, locate, margin_of

MARGINS = [margin_of(Bilinear().taps())] * 2  # also where the first tap of pixel 0 is


class BilinearSample(GridSample):
    """V from U (N, C, H, W) and a grid (N, H', W', 2) for the bilinear kernel.

    The sums of Eq. (5) are two steps of linear interpolation, along x in the row above the point
    (v) and the one below (w), then along y:

        v = U[n, m] + t_x (U[n, m + 1] - U[n, m]),   w likewise,   V = v + t_y (w - v).

    dV/dt_y is w - v, and dV/dt_x the interpolation along y of the two differences: both are there
    already. Backwards, g is split in the same proportions: t_y of it goes down, of both parts t_x
    to the right, and what is left stays. So nothing is done with weights as such: half the passes
    over the points that `GridSample` takes, which does the same with any kernel.
    """

    def forward(
        self,
        u: Array,
        grid: Array,
        *,
        kernels: Sequence[Kernel],
        padding_mode: str,
        align_corners: bool,
        antialias: bool,
    ) -> Array:
        check(u, grid, kernels)
        self.num_phi = 0
        points = grid.transpose(3, 1, 2, 0)
        self.points_shape = points.shape[1:]
        x, y = points.reshape(2, prod(self.points_shape))
        options = kernels[0], padding_mode, align_corners
        pixel_y, self.t_y, slope_y = locate(y, u.shape[2], *options)
        pixel_x, self.t_x, slope_x = locate(x, u.shape[3], *options)
        self.inputs = [GRID, GRID] if self.needs_grad[GRID] else []
        self.slopes = slope_y, slope_x
        image = self.bordered(u, MARGINS, padding_mode, align_corners)
        self.index = self.first_taps([pixel_y, pixel_x], MARGINS)
        v, *self.derivatives = self.interpolate(image)
        return self.as_images(v)

    def interpolate(self, flat: Array) -> list[Array]:
        t_y, t_x = self.t_y, self.t_x
        step_y, step_x = self.steps

        def row(offset: int) -> tuple[Array, Array]:
            """Along x: the value, and its derivative by t_x."""
            left = columns_at(flat[:, offset:], self.index)
            difference = columns_at(flat[:, offset + step_x :], self.index)
            difference -= left
            left += t_x * difference
            return left, difference

        (v, by_x), (w, by_x_below) = row(0), row(step_y)
        w -= v  # dV/dt_y
        v += t_y * w  # Eq. (5)
        if not self.inputs:
            return [v]
        by_x_below -= by_x
        by_x_below *= t_y
        by_x += by_x_below  # dV/dt_x
        w *= self.slopes[0]  # Eq. (7)
        by_x *= self.slopes[1]
        return [v, w, by_x]

    def taps(self, g: Array) -> Iterator[tuple[int, Array]]:
        step_y, step_x = self.steps
        down = g * self.t_y
        for offset, part in ((0, g - down), (step_y, down)):
            right = part * self.t_x
            part -= right
            yield offset, part  # Eq. (6)
            yield offset + step_x, right
