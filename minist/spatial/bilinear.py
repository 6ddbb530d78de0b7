"""The paper's sampler: bilinear interpolation in the plane, equations (5) to (7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from ..backend import Array, array_module, columns_at
from .kernels import Bilinear, Kernel
from .separable import GRID, GridSample, check, locate

MARGINS = [len(Bilinear().taps())] * 2
CORNERS = MARGINS  # the first tap of pixel 0 is pixel 0 itself


class BilinearSample(GridSample):
    """V from U (N, C, H, W) and a grid (N, H', W', 2) for the bilinear kernel.

    Of the n and m of Eq. (5), row n and column m here are those of the pixel above and to the left
    of the point, and (t_y, t_x) is the rest of the way to it. Of all factors max(0, 1 - |x - m|)
    only those of column m and the next are not 0: 1 - t_x and t_x; likewise in y. The sums are thus
    two steps of linear interpolation, along x in the row above the point and the one below, then
    along y:

        above = U[n, m] + t_x (U[n, m + 1] - U[n, m]),      below likewise in row n + 1,
        V = above + t_y (below - above).

    dV/dt_y is below - above, and dV/dt_x the interpolation along y of the two differences: both
    are there already. (Differences have to be finite: where a pixel is infinite, points beside it
    become NaN also where its weight is 0.) Backwards, g is split in the same proportions: t_y of it
    goes down, of both parts t_x to the right, and what is left stays. The rest of the backward is
    inherited. (`GridSample` itself serves any kernel, in twice as many passes over the points.)
    """

    def forward(
        self,
        u: Array,
        grid: Array,
        *,
        kernels: Sequence[Kernel],
        padding_mode: str,
        align_corners: bool,
    ) -> Array:
        check(u, grid, kernels)
        if u.dtype != grid.dtype:  # V, and its derivatives, are of the wider type
            u = u.astype(array_module(u).result_type(u, grid), copy=False)
        points = grid.transpose(3, 1, 2, 0)  # (2, H', W', N): x, y
        self.points_shape = points.shape[1:]
        x, y = points.reshape(2, prod(self.points_shape))
        options = kernels[0], padding_mode, align_corners
        n, self.t_y, y_per_unit = locate(y, u.shape[2], *options)
        m, self.t_x, x_per_unit = locate(x, u.shape[3], *options)
        image = self.bordered(u, MARGINS, padding_mode, align_corners)
        self.index = self.first_taps([n, m], CORNERS)

        v, *self.derivatives = self.interpolated(image)
        self.inputs = [GRID] * len(self.derivatives)
        units = y_per_unit, x_per_unit
        for derivative, per_unit in zip(self.derivatives, units, strict=False):  # two, or none
            derivative *= per_unit  # Eq. (7), and from pixels to the grid's units
        return self.as_images(v)

    def interpolated(self, image: Array) -> list[Array]:
        """V; and where the grid's gradient is wanted dV/dt_y and dV/dt_x."""
        step_y, step_x = self.steps  # from a pixel to the one below, and to the next

        def along_x(offset: int) -> tuple[Array, Array]:
            """In the row at this offset: the value, and its derivative by t_x."""
            left = columns_at(image[:, offset:], self.index)
            difference = columns_at(image[:, offset + step_x :], self.index)
            difference -= left
            left += self.t_x * difference
            return left, difference

        above, above_by_x = along_x(0)
        below, below_by_x = along_x(step_y)
        by_y = below
        by_y -= above
        v = above
        v += self.t_y * by_y  # Eq. (5)
        if not self.needs_grad[GRID]:
            return [v]
        by_x = below_by_x
        by_x -= above_by_x
        by_x *= self.t_y
        by_x += above_by_x
        return [v, by_y, by_x]

    def shares(self, g: Array) -> Iterator[tuple[int, Array]]:
        step_y, step_x = self.steps
        down = g * self.t_y
        for offset, part in ((0, g - down), (step_y, down)):
            right = part * self.t_x
            part -= right
            yield offset, part  # Eq. (6)
            yield offset + step_x, right
