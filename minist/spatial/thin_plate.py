"""The thin plate spline transformation (Sect. 3.2; Bookstein, 1989).

A thin metal plate is pinned at control points c_i to heights v_i and bends no more than it must:

    f(p) = a0 + a1 x + a2 y + sum_i w_i phi(|p - c_i|),   phi(r) = r^2 log r^2,

with f(c_i) = v_i, and sum_i w_i = sum_i w_i c_i = 0 so that far away it is flat. Both are linear
in (w, a):

    [ Phi  P ] [ w ]   [ v ]
    [ P^T  0 ] [ a ] = [ 0 ],      Phi_ij = phi(|c_i - c_j|),  P_i = (1, x_i, y_i).

Hence f(p) is linear in v. Two such splines, one for x and one for y, move the plane; v is theta,
and T = M(theta) B with B = (the first columns of the system's inverse)^T (phi, 1, x, y)(p), which
depends on the output's pixels alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import Function, Tensor
from ..backend import Array, array_module
from .grid import BasisGrid, ControlPoints, Size, checked_size, floating, regular_grid


class ThinPlateSpline(ControlPoints):
    """A thin plate spline through a regular grid of control points, 4x4 as in the paper.

    theta (N, 2 rows cols): where each control point looks, its absolute (x, y), points row-major.
    The points lie at the corners, edges and inside of -1..1. The system is solved once, when the
    transformation is made; a grid is then one product of matrices.

    Parameters
    ----------
    rows, cols : int
        At least 2 each, or the points would lie on a line.
    """

    def __init__(self, rows: int = 4, cols: int = 4):
        super().__init__(rows, cols)
        self.solution = solve(self.control_points)

    def basis_at(self, points: Tensor) -> Tensor:
        return SplineBasis.apply(points, centres=self.control_points, solution=self.solution)


class SplineBasis(Function):
    """B = S^T (phi, 1, x, y)(p) at points p (N, 2, points), S the solution: (N, P, points).

    phi(r) = r^2 log r^2 has dphi/dp = 2 (p - c) (log r^2 + 1), 0 at r = 0. With h = S g:

        dL/dp = sum over i of  h_i dphi_i/dp,  and the last two rows of h for x and y.
    """

    def forward(self, points: Array, centres: np.ndarray, solution: np.ndarray) -> Array:
        if points.shape[1] != 2:
            raise ValueError("a thin plate spline moves the plane: its grid has a size (H', W')")
        xp = array_module(points)
        centres, self.solution = (xp.asarray(a, dtype=points.dtype) for a in (centres, solution))
        self.apart = points[:, None] - centres[:, :, None]  # (N, P, 2, points)
        self.r2 = (self.apart**2).sum(axis=2)
        self.log = xp.log(xp.where(self.r2 == 0, xp.ones_like(self.r2), self.r2))
        ones = xp.ones_like(points[:, :1])
        return self.solution.T @ xp.concatenate([self.r2 * self.log, ones, points], axis=1)

    def backward(self, grad: Array) -> Array:
        h = self.solution @ grad
        p = self.r2.shape[1]
        slope = 2 * (self.log + (self.r2 > 0)) * h[:, :p]
        return (slope[:, :, None] * self.apart).sum(axis=1) + h[:, p + 1 :]


def solve(control_points: np.ndarray) -> np.ndarray:
    """The first P columns of the inverse of the system: (w, a) = solution v, (P + 3, P), float64.

    Raises ValueError if there are fewer than 3 points, two are equal, or all lie on a line.
    """
    points = np.asarray(control_points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise ValueError(
            f"a thin plate spline needs (P, 2) control points, P >= 3, not {points.shape}"
        )
    p = len(points)
    affine = np.concatenate([np.ones((p, 1)), points], axis=1)
    if np.linalg.matrix_rank(affine) < 3:
        raise ValueError("the control points lie on a line: they do not say how the plane moves")
    if len(np.unique(points, axis=0)) < p:
        raise ValueError("two control points are the same")
    system = np.zeros((p + 3, p + 3))
    system[:p, :p] = radial(points, points)
    system[:p, p:] = affine
    system[p:, :p] = affine.T
    return np.linalg.inv(system)[:, :p]


def radial(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """phi(|a_i - b_j|) = r^2 log r^2, 0 at r = 0."""
    r2 = ((a[:, None] - b[None]) ** 2).sum(axis=-1)
    return r2 * np.log(np.where(r2 == 0, 1.0, r2))


def tps_grid(
    theta: Any, size: Size, control_points: np.ndarray, align_corners: bool = True
) -> Tensor:
    """A thin plate spline grid through control points of one's own.

    Parameters
    ----------
    theta : (N, 2 P) or (N, P, 2)
        Where each control point looks.
    size : (N, C, H', W')
        Shape of the output.
    control_points : (P, 2)
        In -1..1, at least 3 that do not lie on a line.
    align_corners : bool
        Whether -1 and 1 are the centres of the border pixels, or their outer edges.

    Returns
    -------
    (N, H', W', 2)

    Raises
    ------
    ValueError
        If the shapes do not fit, or the control points lie on a line or coincide.
    TypeError
        If theta is not floating.
    """
    theta, size = floating(theta), checked_size(size, "tps_grid: size", 4)
    p = len(control_points)
    if theta.ndim < 2 or theta.shape[1:] not in ((2 * p,), (p, 2)):
        raise ValueError(
            f"tps_grid: {p} control points need theta (N, {2 * p}) or (N, {p}, 2), "
            f"not {theta.shape}"
        )
    if len(theta) != size[0]:
        raise ValueError(f"tps_grid: {len(theta)} theta for a size of {size[0]} images")
    points = regular_grid(size[2:], align_corners)[None, :-1]
    basis = SplineBasis.apply(points, centres=control_points, solution=solve(control_points))
    basis = array_module(theta.data).asarray(basis.data[0], dtype=theta.dtype)
    m = theta.reshape(len(theta), p, 2).transpose(0, 2, 1)
    return BasisGrid.apply(m, basis, size=size[2:])
