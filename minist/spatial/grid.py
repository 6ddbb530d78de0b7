"""The parameterised sampling grid (Sect. 3.2): from theta to the points that are looked at.

Every transformation here, but for two in a row, has the form at the end of Sect. 3.2,

    T_theta(G) = M(theta) B,

M a matrix made of theta, and B a representation of the regular grid G of the output: K numbers
for each of its points, which do not depend on theta.

    transformation             M(theta)                                 B, at a point (x, y)
    Affine, Eq. (1)            theta, 2x3                               x, y, 1
    Attention, Eq. (2)         [[s, 0, tx], [0, s, ty]]                 x, y, 1
    Similarity, Rotation, ...  2x3, made of scale, angle, translation   x, y, 1
    Projective                 theta and a 1, 3x3, then divided         x, y, 1
    ThinPlateSpline            theta, the 2xP points that are seen      the spline of each point
    PiecewiseAffine            the same                                 the hat of each point
    LinearBasis                theta, 2xK                               given, or learnt

A new transformation is a class that says what its `matrix` and its `basis_at` are; it gets its
grid, its gradient and its composition with others from here.

theta says where each output pixel looks. (So +0.5 in x moves the window to the right, and what is
seen in it to the left.)
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import prod
from numbers import Integral
from typing import Any

import numpy as np

from .. import nn
from ..autograd import Function, Tensor, no_grad, tensor
from ..backend import Array, array_module
from ..cuda.blas import matmul
from ..functional.dtypes import check_floating

Size = tuple[int, ...]


class BasisGrid(Function):
    """T = M B for each image: points (N, *size, d) from M (N, d, K) and B (K, points).

    With g = dL/dT, (d, points) of an image:  dL/dM = g B^T,  dL/dB = sum over images of M^T g.

    Computed with the batch innermost in memory, (d, points, N), so that each coordinate of the
    grid is one stretch of memory for the sampler.
    """

    def forward(self, m: Array, basis: Array, size: Size) -> Array:
        if m.shape[2] != len(basis):
            raise ValueError(f"M has {m.shape[2]} columns, but B has {len(basis)} rows")
        self.m, self.basis = m.transpose(1, 2, 0), basis
        points = matmul(basis.T, self.m)  # Eq. (1), transposed: (points, K) times (d, K, N)
        n, d = m.shape[:2]
        return points.reshape(d, *size, n).transpose(-1, *range(1, len(size) + 1), 0)

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        n, *_, d = grad.shape
        g = grad.transpose(-1, *range(1, grad.ndim - 1), 0).reshape(d, self.basis.shape[1], n)
        grad_m = matmul(self.basis, g).transpose(2, 0, 1) if self.needs_grad[0] else None
        grad_basis = matmul(self.m, g.swapaxes(1, 2)).sum(axis=0) if self.needs_grad[1] else None
        return grad_m, grad_basis


def regular_axis(n: int, align_corners: bool = True) -> np.ndarray:
    """Where the centres of n pixels lie in -1..1, float64.

    With align_corners the border pixels' centres are at -1 and 1; else their outer edges are. One
    pixel lies at 0.
    """
    pixels = np.arange(n, dtype=np.float64)
    extent = n - 1 if align_corners and n > 1 else n
    return (2 * pixels - (n - 1)) / extent if n else pixels


def regular_grid(size: Size, align_corners: bool = True) -> np.ndarray:
    """The regular grid G of Sect. 3.2 in homogeneous coordinates: rows x, y (, z) and 1.

    size (H', W') gives (3, H' W'), size (D', H', W') gives (4, D' H' W'); float64, read-only. With
    align_corners -1 and 1 are the centres of the border pixels, else their outer edges.
    Raises ValueError for any other size.
    """
    return _regular_grid(checked_size(size, "the size of a grid", 2, 3), align_corners)


@lru_cache(maxsize=64)
def _regular_grid(size: Size, align_corners: bool) -> np.ndarray:
    axes = [regular_axis(n, align_corners) for n in size]
    coordinates = np.meshgrid(*axes, indexing="ij")[::-1]
    grid = np.stack([*(c.ravel() for c in coordinates), np.ones(coordinates[0].size)])
    grid.flags.writeable = False
    return grid


SIZES = {2: "(H', W')", 3: "(D', H', W')", 4: "(N, C, H', W')", 5: "(N, C, D', H', W')"}


def checked_size(size: Any, name: str, *lengths: int) -> Size:
    """size as a tuple of so many whole numbers, 0 or more, or a ValueError that calls it `name`."""
    sides = tuple(size) if isinstance(size, Iterable) else ()
    if len(sides) not in lengths or not all(isinstance(n, Integral) and n >= 0 for n in sides):
        forms = " or ".join(SIZES[n] for n in lengths)
        raise ValueError(f"{name} is {forms}, not {size!r}")
    return sides


def floating(x: Any, name: str = "theta") -> Tensor:
    """x as a tensor, lists as float32; a TypeError if it holds whole numbers."""
    x = x if isinstance(x, Tensor) else tensor(x)
    check_floating(x, name)
    return x


def pixels_per_unit(n: int, align_corners: bool) -> float:
    """Of an axis of n pixels: d pixel / d coordinate, half of what -1..1 spans."""
    return (n - 1 if align_corners else n) / 2


def to_pixels(x: Array, n: int, align_corners: bool) -> Array:
    """Coordinates in -1..1 as pixels of an axis of n, 0 at the centre of the first.

    In this order of operations: x (n - 1) / 2 + (n - 1) / 2 comes out at a whole number for nearly
    all of a regular axis, (x + 1) (n - 1) / 2 misses a quarter of them by rounding.
    """
    pixel = x * pixels_per_unit(n, align_corners)
    pixel += (n - 1) / 2
    return pixel


def rounding(dtype: np.dtype, size: int) -> float:
    """How far a point may be off by rounding, in pixels: a few units in its last place."""
    return 8 * float(np.finfo(dtype).eps) * max(size, 2) / 2


class Transformation(nn.Module):
    """A class of transformations T_theta (Sect. 3.2).

    A subclass sets `num_parameters` and writes `identity`, `matrix` and `basis_at`. theta is
    always (N, num_parameters), a tensor or an array. It is a module because a transformation may
    have something to learn itself, as `LinearBasis` has.
    """

    num_parameters: int
    dimensions: int = 2

    def identity(self) -> np.ndarray:
        """theta of the identity, (num_parameters,), float64."""
        raise NotImplementedError

    def matrix(self, theta: Tensor) -> Tensor:
        """M(theta), (N, d, K)."""
        raise NotImplementedError

    def basis_at(self, points: Tensor) -> Tensor:
        """B at points (N, d, P): (N, K, P)."""
        raise NotImplementedError

    def divide(self, points: Tensor) -> Tensor:
        """What is still to be done with M B; `Projective` divides by its last coordinate."""
        return points

    def grid(self, theta: Any, size: Size, align_corners: bool = True) -> Tensor:
        """Where each pixel of an output of `size` looks in the input, differentiable in theta.

        Parameters
        ----------
        theta : (N, num_parameters)
        size : (H', W'), or of volumes (D', H', W')
        align_corners : bool
            Whether -1 and 1 are the centres of the border pixels, or their outer edges.

        Returns
        -------
        (N, H', W', 2), the last axis (x, y) in normalised coordinates; of volumes
        (N, D', H', W', 3), (x, y, z)

        Raises
        ------
        ValueError
            If theta has another width, or size is of another kind.
        TypeError
            If theta is not floating.
        """
        m = self.matrix(self.checked(theta))
        size = checked_size(size, f"{type(self).__name__}: the size of a grid", self.dimensions)
        return self.divide(BasisGrid.apply(m, self.basis(size, align_corners, m), size=size))

    def transform(self, theta: Any, points: Any) -> Tensor:
        """T_theta of points of one's own, differentiable in both.

        Parameters
        ----------
        theta : (N, num_parameters)
        points : (N, ..., 2)
            In normalised coordinates.

        Returns
        -------
        (N, ..., 2)
        """
        m = self.matrix(self.checked(theta))
        points = points if isinstance(points, Tensor) else tensor(points)
        n, d = len(m), self.dimensions
        if points.ndim < 2 or (points.shape[0], points.shape[-1]) != (n, d):
            raise ValueError(f"{self!r}: {n} theta need points ({n}, ..., {d}), not {points.shape}")
        between = points.shape[1:-1]
        seen = m @ self.basis_at(points.reshape(n, prod(between), d).transpose(0, 2, 1))
        return self.divide(seen.transpose(0, 2, 1).reshape(n, *between, seen.shape[1]))

    def basis(self, size: Size, align_corners: bool, like: Tensor) -> Tensor:
        """B at the regular grid, (K, points), computed in float64 and kept in the dtype and on the
        device of `like`."""
        known = self.__dict__.setdefault("_bases", {})
        key = (size, align_corners, like.dtype, like.device)
        basis = known.get(key)
        if basis is None:
            points = regular_grid(size, align_corners)[: self.dimensions]
            with no_grad():
                basis = self.basis_at(Tensor(points[None])).data[0]
            basis = Tensor(array_module(like.data).asarray(basis, dtype=like.dtype))
            if len(known) >= 16:
                known.clear()  # other threads hold what they found
            known[key] = basis
        return basis

    def checked(self, theta: Any) -> Tensor:
        """theta as a tensor of the right shape, or a ValueError."""
        theta = floating(theta)
        if theta.ndim != 2 or theta.shape[1] != self.num_parameters:
            raise ValueError(
                f"{type(self).__name__}: theta must be (N, {self.num_parameters}), "
                f"not {theta.shape}"
            )
        return theta

    def inverse(self, theta: Any) -> Tensor:
        """theta of the inverse transformation, where the class has one."""
        raise NotImplementedError(f"{self!r} has no inverse of its own class")

    def compose(self, first: Any, second: Any) -> Tensor:
        """theta of one transformation for two: T_first(T_second(G)), where the class has it.

        Warping an image with `first`, and the outcome with `second`, is one warp with this.
        """
        raise NotImplementedError(f"two of {self!r} are not one of its own class; a @ b is general")

    def __matmul__(self, other: Transformation) -> Composition:
        """T_self(T_other(G)): two warps in one, first that of `self`, then that of `other`."""
        return Composition(self, other)

    def framed(self, theta: Any, align_corners: bool) -> Tensor:
        """A grid from -1 to 1, the border of the output in either convention."""
        return self.grid(theta, (17, 17), align_corners=True)

    @no_grad()
    def outline(self, theta: Any, size: Size, align_corners: bool = True) -> Array:
        """The border of what is looked at, in pixels of an input of `size`.

        Parameters
        ----------
        theta : (N, num_parameters)
        size : (H, W)
            Of the input; pixel (0, 0) is the centre of the first.

        Returns
        -------
        (N, 64, 2) array of (x, y), clockwise from the upper left corner; of a `LinearBasis` its
        own border pixels

        Raises
        ------
        ValueError
            In three dimensions, or as `grid` does.
        """
        if self.dimensions != 2:
            raise ValueError(f"{self!r}: an outline is one of two dimensions")
        size = checked_size(size, f"{type(self).__name__}: the size of an input", 2)
        grid = self.framed(theta, align_corners).data
        h, w = grid.shape[1:3]
        down, across = np.arange(h - 1), np.arange(w - 1)
        rows = np.concatenate([0 * across, down, 0 * across + h - 1, down[::-1] + 1])
        columns = np.concatenate([across, 0 * down + w - 1, across[::-1] + 1, 0 * down])
        xp = array_module(grid)
        border = grid[:, xp.asarray(rows), xp.asarray(columns)]
        along = [to_pixels(border[..., i], n, align_corners) for i, n in enumerate(reversed(size))]
        return xp.stack(along, axis=-1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class Composition(Transformation):
    """T_a(T_b(G)), made by `a @ b`: one grid, and one sampling, for two warps in a row.

    theta (N, a.num_parameters + b.num_parameters), those of a first. The points that b looks at
    are where a looks from, so a gradient goes to both. A spline or mesh on the left is evaluated at
    every point of every image, on the right once. Raises ValueError if they differ in their
    dimensions.
    """

    def __init__(self, a: Transformation, b: Transformation):
        if not isinstance(b, Transformation) or a.dimensions != b.dimensions:
            raise ValueError(f"{a!r} cannot be composed with {b!r}")
        self.a, self.b = a, b
        self.dimensions = a.dimensions
        self.num_parameters = a.num_parameters + b.num_parameters

    def identity(self) -> np.ndarray:
        return np.concatenate([self.a.identity(), self.b.identity()])

    def grid(self, theta: Any, size: Size, align_corners: bool = True) -> Tensor:
        theta_a, theta_b = self.parts(theta)
        return self.a.transform(theta_a, self.b.grid(theta_b, size, align_corners))

    def transform(self, theta: Any, points: Any) -> Tensor:
        theta_a, theta_b = self.parts(theta)
        return self.a.transform(theta_a, self.b.transform(theta_b, points))

    def framed(self, theta: Any, align_corners: bool) -> Tensor:
        theta_a, theta_b = self.parts(theta)
        return self.a.transform(theta_a, self.b.framed(theta_b, align_corners))

    def parts(self, theta: Any) -> tuple[Tensor, Tensor]:
        """theta of a, and theta of b."""
        theta = self.checked(theta)
        return theta[:, : self.a.num_parameters], theta[:, self.a.num_parameters :]

    def __repr__(self) -> str:
        return f"{self.a!r} @ {self.b!r}"


class ControlPoints(Transformation):
    """A transformation that moves a regular lattice of control points, and between them the plane.

    A subclass says in `basis_at` how much each control point moves a point, weights that sum to
    1 and are 1 at the control point itself.
    """

    def __init__(self, rows: int, cols: int):
        if rows < 2 or cols < 2:
            raise ValueError(
                f"{type(self).__name__}: {rows}x{cols} points lie on a line; take 2x2 or more"
            )
        self.rows, self.cols = rows, cols
        self.num_parameters = 2 * rows * cols
        y, x = np.meshgrid(regular_axis(rows), regular_axis(cols), indexing="ij")
        self.control_points = np.stack([x.ravel(), y.ravel()], axis=1)

    def identity(self) -> np.ndarray:
        return self.control_points.ravel().copy()

    def matrix(self, theta: Tensor) -> Tensor:
        return theta.reshape(len(theta), self.rows * self.cols, 2).transpose(0, 2, 1)

    def extra_repr(self) -> str:
        return f"{self.rows}, {self.cols}"


class LinearBasis(Transformation):
    """The general form at the end of Sect. 3.2, T = M(theta) B with a B of one's own.

    theta (N, d K) is M row by row. With B = x, y, 1 this is `Affine`; with more rows, whatever is
    linear in them. As the paper proposes, B itself may be learnt for the task at hand.

    Parameters
    ----------
    B : (K, H', W') or (K, D', H', W')
        K numbers for each pixel of the output, whose size is thus fixed.
    learn : bool
        Whether B is learnt.
    align_corners : bool
        What B's coordinates mean; for the identity.

    Raises
    ------
    ValueError
        If B has another number of axes; in `grid`, for another size.

    Examples
    --------
    >>> from minist import spatial
    >>> x, y, one = spatial.regular_grid((28, 28)).reshape(3, 28, 28)
    >>> waves = LinearBasis([x, y, one, np.sin(np.pi * y)])
    >>> waves
    LinearBasis(4x28x28)
    >>> (waves.identity().round(6) + 0.0).tolist()
    [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    """

    def __init__(self, B: Any, learn: bool = False, align_corners: bool = True):
        B = nn.Parameter(B, requires_grad=learn)
        if B.ndim not in (3, 4):
            raise ValueError(f"LinearBasis: B is (K, H', W') or (K, D', H', W'), not {B.shape}")
        self.size = B.shape[1:]
        self.dimensions = len(self.size)
        self.align_corners = align_corners
        self.num_parameters = self.dimensions * len(B)
        self.B = B

    def identity(self) -> np.ndarray:
        """theta whose grid is nearest to the regular one: the identity, if B's rows give it."""
        g = regular_grid(self.size, self.align_corners)[: self.dimensions]
        b = self.B.numpy().reshape(len(self.B), -1).astype(np.float64)
        return np.linalg.lstsq(b.T, g.T, rcond=None)[0].T.ravel()

    def matrix(self, theta: Tensor) -> Tensor:
        return theta.reshape(len(theta), self.dimensions, len(self.B))

    def basis(self, size: Size, align_corners: bool, like: Tensor) -> Tensor:
        if (size, align_corners) != (self.size, self.align_corners):
            raise ValueError(
                f"{self!r}: B is for an output of {self.size} with align_corners="
                f"{self.align_corners}, not {size} with {align_corners}"
            )
        return self.B.reshape(len(self.B), -1).astype(like.dtype)

    def basis_at(self, points: Tensor) -> Tensor:
        raise NotImplementedError(
            f"{self!r}: B is known at its own pixels only, so it can be the right one in a @ b"
        )

    def framed(self, theta: Any, align_corners: bool) -> Tensor:
        return self.grid(theta, self.size, align_corners)

    def extra_repr(self) -> str:
        learnt = ", learn=True" if self.B.requires_grad else ""
        return "x".join(map(str, (len(self.B), *self.size))) + learnt
