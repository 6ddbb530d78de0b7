"""The piecewise affine transformation (Sect. 3.2): a mesh of triangles, moved by their corners."""

from __future__ import annotations

from ..autograd import Function, Tensor
from ..backend import Array, array_module
from .grid import ControlPoints


class PiecewiseAffine(ControlPoints):
    """An affine transformation for each triangle of a mesh over the control points.

    theta (N, 2 rows cols): where each control point looks, its absolute (x, y), points row-major.
    Each cell of the lattice is cut into two triangles from its upper left to its lower right
    corner. A point beyond the lattice moves as the nearest one on its border, and on from there as
    the four corners do on average.

    The mesh is that of the output, where nothing moves: a triangle that collapses or folds in the
    input is looked at as it is, as a line or from behind, and nothing is divided by its area.

    Parameters
    ----------
    rows, cols : int
        At least 2 each.
    """

    def __init__(self, rows: int = 4, cols: int = 4):
        super().__init__(rows, cols)

    def basis_at(self, points: Tensor) -> Tensor:
        return MeshBasis.apply(points, rows=self.rows, cols=self.cols)


class MeshBasis(Function):
    """The hat functions of the mesh at points (N, 2, P): (N, rows cols, P), three of them not 0.

    In a cell, with u and v in 0..1 from its upper left corner to the right and down:

        upper left   1 - max(u, v)        upper right  max(u - v, 0)
        lower left   max(v - u, 0)        lower right  min(u, v)

    These are barycentric coordinates, (u >= v) in the upper right triangle, else in the other, so
    their slopes are 0, 1 and -1. What lies beyond the lattice, b = p - (p brought back to it), adds
    (+-b_x +-b_y) / 4 to the weights of its four corners.
    """

    def forward(self, points: Array, rows: int, cols: int) -> Array:
        xp = array_module(points)
        n, _, p = points.shape
        basis = xp.zeros((n, rows * cols, p), dtype=points.dtype)
        self.scale = ((cols - 1) / 2, (rows - 1) / 2)  # cells per unit
        # fmin and fmax take the other number when one is NaN.
        inner = xp.fmin(xp.fmax(points, -1.0), 1.0)
        self.inside = (points >= -1) & (points < 1)
        places, cells = [], []
        for axis, count in enumerate((cols, rows)):
            place = (inner[:, axis] + 1) * self.scale[axis]
            cell = xp.minimum(xp.floor(place), count - 2.0)
            places.append(place - cell)
            cells.append(cell.astype(xp.intp))
        u, v = places
        self.upper = u >= v
        corner = cells[1] * cols + cells[0]
        image, point = xp.arange(n)[:, None], xp.arange(p)
        self.around = [(image, corner + step, point) for step in (0, 1, cols, cols + 1)]
        hats = [1 - xp.maximum(u, v), xp.maximum(u - v, 0), xp.maximum(v - u, 0), xp.minimum(u, v)]
        for index, hat in zip(self.around, hats, strict=True):
            basis[index] = hat
        x, y = ((points - inner)[:, axis] / 4 for axis in (0, 1))
        self.outermost = (0, cols - 1, (rows - 1) * cols, rows * cols - 1)
        for i, share in zip(self.outermost, (-x - y, x - y, y - x, x + y), strict=True):
            basis[:, i] += share
        return basis

    def backward(self, grad: Array) -> Array:
        xp = array_module(grad)
        left, right, below, opposite = (grad[index] for index in self.around)
        du = xp.where(self.upper, right - left, opposite - below)
        dv = xp.where(self.upper, opposite - right, below - left)
        within = xp.stack([du * self.scale[0], dv * self.scale[1]], axis=1)
        left, right, below, opposite = (grad[:, i] / 4 for i in self.outermost)
        beyond = xp.stack(
            [right + opposite - left - below, below + opposite - left - right], axis=1
        )
        return xp.where(self.inside, within, beyond)
