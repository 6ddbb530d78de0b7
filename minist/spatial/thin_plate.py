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

from functools import lru_cache
from typing import Any

import numpy as np

from ..autograd import Tensor
from ..backend import array_module
from .grid import BasisGrid, Size, Transformation, floating, regular_axis, regular_grid


class ThinPlateSpline(Transformation):
    """A thin plate spline through a regular grid of control points, 4x4 as in the paper.

    theta (N, 2 rows cols): where each control point looks, its absolute (x, y), points row-major.
    The points lie at the corners, edges and inside of -1..1.

    Parameters
    ----------
    rows, cols : int
        At least 2 each, or the points would lie on a line.
    """

    def __init__(self, rows: int = 4, cols: int = 4):
        if rows < 2 or cols < 2:
            raise ValueError(
                f"ThinPlateSpline: {rows}x{cols} points lie on a line; take 2x2 or more"
            )
        self.rows, self.cols = rows, cols
        self.num_parameters = 2 * rows * cols
        y, x = np.meshgrid(regular_axis(rows), regular_axis(cols), indexing="ij")
        self.control_points = np.stack([x.ravel(), y.ravel()], axis=1)
        self.solution = solve(self.control_points)

    def identity(self) -> np.ndarray:
        return self.control_points.ravel().copy()

    def matrix(self, theta: Tensor) -> Tensor:
        return theta.reshape(len(theta), self.rows * self.cols, 2).transpose(0, 2, 1)

    def basis(self, size: Size, align_corners: bool) -> np.ndarray:
        return _basis(self.rows, self.cols, size, align_corners)

    def __repr__(self) -> str:
        return f"ThinPlateSpline({self.rows}, {self.cols})"


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
    system[:p, :p] = _phi(points, points)
    system[:p, p:] = affine
    system[p:, :p] = affine.T
    return np.linalg.inv(system)[:, :p]


def features(control_points: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """(phi, 1, x, y) at the points of a homogeneous grid (3, points): (P + 3, points)."""
    if len(grid) != 3:
        raise ValueError("a thin plate spline moves the plane: its grid has a size (H', W')")
    x, y, one = grid
    return np.concatenate([_phi(control_points, np.stack([x, y], axis=1)), [one, x, y]])


def _phi(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """phi(|a_i - b_j|) = r^2 log r^2, 0 at r = 0."""
    r2 = ((a[:, None] - b[None]) ** 2).sum(axis=-1)
    return r2 * np.log(np.where(r2 == 0, 1.0, r2))


@lru_cache(maxsize=64)
def _basis(rows: int, cols: int, size: Size, align_corners: bool) -> np.ndarray:
    spline = ThinPlateSpline(rows, cols)
    return spline.solution.T @ features(spline.control_points, regular_grid(size, align_corners))


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
    theta = floating(theta)
    p = len(control_points)
    if theta.ndim < 2 or theta.shape[1:] not in ((2 * p,), (p, 2)):
        raise ValueError(
            f"tps_grid: {p} control points need theta (N, {2 * p}) or (N, {p}, 2), "
            f"not {theta.shape}"
        )
    basis = solve(control_points).T @ features(
        np.asarray(control_points, np.float64), regular_grid(tuple(size[2:]), align_corners)
    )
    basis = array_module(theta.data).asarray(basis, dtype=theta.dtype)
    m = theta.reshape(len(theta), p, 2).transpose(0, 2, 1)
    return BasisGrid.apply(m, basis, size=tuple(size[2:]))
