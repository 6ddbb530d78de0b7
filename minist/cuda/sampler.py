"""The sampler's kernels: forward, and both gradients, in one pass each."""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array, array_module
from . import launch, steps, struct


class Sampler(NamedTuple):
    """What a forward and its backward share.

    `taps` are 1 (nearest), 2 (bilinear) or 4 (bicubic, whose parameter is `a`); `padding` is the
    place of the padding mode in the sampler's `PADDINGS`.
    """

    taps: int
    padding: int
    align_corners: bool
    a: Array | None = None

    def forward(self, u: Array, grid: Array) -> Array:
        """V, in the memory order of U."""
        shape = (len(grid), u.shape[1], *grid.shape[1:-1])
        v = array_module(u).empty_like(u, shape=shape)
        self.run("sample", v, u, grid, [u, grid, self.a, v])
        return v

    def backward(
        self, grad: Array, u: Array, grid: Array, needs_u: bool, needs_grid: bool
    ) -> tuple[Array | None, Array | None]:
        """dL/dU and dL/dgrid, in the memory orders of U and the grid."""
        xp = array_module(u)
        grad_u = xp.zeros_like(u) if needs_u else None
        grad_grid = xp.empty_like(grid) if needs_grid else None
        arguments = [grad, u, grid, self.a, grad_u, grad_grid]
        self.run("sample_backward", grad, u, grid, arguments, grad_u, grad_grid)
        return grad_u, grad_grid

    def run(
        self,
        kernel: str,
        v: Array,
        u: Array,
        grid: Array,
        arguments: list[Array | None],
        grad_u: Array | None = None,
        grad_grid: Array | None = None,
    ) -> None:
        d = u.ndim - 2
        of_v, of_u, of_grad_u = (steps(array, d + 2) for array in (v, u, grad_u))
        of_grid, of_grad_grid = (steps(array, d + 2) for array in (grid, grad_grid))
        # The axes of the points: the batch and the output's own. One image has many grids.
        sizes = [len(v), *v.shape[2:]]
        along = [
            sizes,
            [of_v[0], *of_v[2:]],
            of_grid[:-1],
            [of_u[0] if len(u) > 1 else 0] + [0] * d,
            [of_grad_u[0] if len(u) > 1 else 0] + [0] * d,
            of_grad_grid[:-1],
        ]
        order = sorted(range(d + 1), key=lambda i: -abs(along[1][i]))  # as V lies in memory
        missing = 3 - d
        along = [
            [fill] * missing + [axis[i] for i in order]
            for axis, fill in zip(along, [1, 0, 0, 0, 0, 0], strict=True)
        ]
        geometry = struct(
            *along,
            *(v.shape[1], of_v[1], of_u[1], of_grad_u[1]),
            *([*axis, *[0] * missing] for axis in (u.shape[2:], of_u[2:], of_grad_u[2:])),
            *(of_grid[-1], of_grad_grid[-1]),
            *(self.padding, int(self.align_corners)),
        )
        points = len(v)
        for size in v.shape[2:]:
            points *= size
        launch("sampler.cu", f"{kernel}_{d}_{self.taps}", points, *arguments, geometry)
