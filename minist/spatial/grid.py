"""The parameterised sampling grid (Sect. 3.2): from theta to the points that are looked at.

Every transformation here has the form at the end of Sect. 3.2,

    T_theta(G) = M(theta) B,

B a representation of the regular grid G of the output that depends on its size alone, and M a
matrix made of theta. For the affine transformation of Eq. (1), B is G in homogeneous coordinates,
rows x, y and 1, and M is the matrix A_theta itself. A new transformation is a class that says
what its `matrix` and its `basis` are; it gets its grid and its gradient from here.

theta says where each output pixel looks. (So +0.5 in x moves the window to the right, and what is
seen in it to the left.)
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from .. import functional as F
from ..autograd import Function, Tensor, no_grad, tensor
from ..backend import Array, array_module

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
        points = basis.T @ self.m  # Eq. (1), transposed: (points, K) times (d, K, N)
        n, d = m.shape[:2]
        return points.reshape(d, *size, n).transpose(-1, *range(1, len(size) + 1), 0)

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        n, *_, d = grad.shape
        g = grad.transpose(-1, *range(1, grad.ndim - 1), 0).reshape(d, self.basis.shape[1], n)
        grad_m = (self.basis @ g).transpose(2, 0, 1) if self.needs_grad[0] else None
        grad_basis = (self.m @ g.swapaxes(1, 2)).sum(axis=0) if self.needs_grad[1] else None
        return grad_m, grad_basis


class PerspectiveDivision(Function):
    """(x, y, w) to (x / w, y / w), the last axis of homogeneous points.

    d(x/w)/dx = 1/w,  d(x/w)/dw = -(x/w) / w.

    On the line at infinity, |w| <= 1e-8, there is no such point: it is put far outside the image
    with gradient 0. A negative w is as good as any.
    """

    smallest = 1e-8
    far = 1e6  # in half images

    def forward(self, points: Array) -> Array:
        xp = array_module(points)
        w = points[..., -1:]
        self.valid = abs(w) > self.smallest
        # Replaced before the division: afterwards it would be too late for the gradient.
        self.w = xp.where(self.valid, w, xp.ones_like(w))
        self.y = points[..., :-1] / self.w
        return xp.where(self.valid, self.y, xp.full_like(self.y, self.far))

    def backward(self, grad: Array) -> Array:
        grad = grad * self.valid / self.w
        grad_w = -(grad * self.y).sum(axis=-1, keepdims=True)
        return array_module(grad).concatenate([grad, grad_w], axis=-1)


def regular_axis(n: int, align_corners: bool = True) -> np.ndarray:
    """Where the centres of n pixels lie in -1..1, float64.

    With align_corners the border pixels' centres are at -1 and 1; else their outer edges are. One
    pixel lies at 0.
    """
    pixels = np.arange(n, dtype=np.float64)
    extent = n - 1 if align_corners and n > 1 else n
    return (2 * pixels - (n - 1)) / extent if n else pixels


@lru_cache(maxsize=64)
def regular_grid(size: Size, align_corners: bool = True) -> np.ndarray:
    """The regular grid G of Sect. 3.2 in homogeneous coordinates: rows x, y (, z) and 1.

    size (H', W') gives (3, H' W'), size (D', H', W') gives (4, D' H' W'); float64, read-only.
    Raises ValueError for a size with fewer or more sides.
    """
    if len(size) not in (2, 3):
        raise ValueError(f"the size of a grid is (H', W') or (D', H', W'), not {size}")
    axes = [regular_axis(n, align_corners) for n in size]
    coordinates = np.meshgrid(*axes, indexing="ij")[::-1]
    grid = np.stack([*(c.ravel() for c in coordinates), np.ones(coordinates[0].size)])
    grid.flags.writeable = False
    return grid


def floating(theta: Any) -> Tensor:
    """theta as a tensor, lists as float32; a TypeError if it holds whole numbers."""
    theta = theta if isinstance(theta, Tensor) else tensor(theta)
    if theta.dtype.kind != "f":
        raise TypeError(f"theta must be floating, not {theta.dtype}: use astype(numpy.float32)")
    return theta


class Transformation:
    """A class of transformations T_theta (Sect. 3.2).

    A subclass sets `num_parameters` and writes `identity` and `matrix`, and `basis` where it is
    not the regular grid. theta is always (N, num_parameters), a tensor or an array.
    """

    num_parameters: int

    def identity(self) -> np.ndarray:
        """theta of the identity, (num_parameters,), float64."""
        raise NotImplementedError

    def matrix(self, theta: Tensor) -> Tensor:
        """M(theta), (N, 2, K), or (N, 3, K) for homogeneous points."""
        raise NotImplementedError

    def basis(self, size: Size, align_corners: bool) -> np.ndarray:
        """B, (K, H' W'), float64."""
        return regular_grid(size, align_corners)

    def grid(self, theta: Any, size: Size, align_corners: bool = True) -> Tensor:
        """Where each pixel of an output of `size` looks in the input, differentiable in theta.

        Parameters
        ----------
        theta : (N, num_parameters)
        size : (H', W')
        align_corners : bool
            Whether -1 and 1 are the centres of the border pixels, or their outer edges.

        Returns
        -------
        (N, H', W', 2), the last axis (x, y) in normalised coordinates

        Raises
        ------
        ValueError
            If theta has another width, or size other than two sides.
        TypeError
            If theta is not floating.
        """
        m = self.matrix(self.checked(theta))
        basis = array_module(m.data).asarray(self.basis(tuple(size), align_corners), dtype=m.dtype)
        return BasisGrid.apply(m, basis, size=tuple(size))

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
        raise NotImplementedError(f"{type(self).__name__} has no inverse of its own class")

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
        (N, 64, 2) array of (x, y), clockwise from the upper left corner
        """
        side = 17
        # The outer border of the output: with align_corners its first and last pixels' centres.
        grid = self.grid(theta, (side, side), align_corners=True).data
        walk = np.arange(side - 1)
        rows = np.concatenate([0 * walk, walk, 0 * walk + side - 1, walk[::-1] + 1])
        columns = np.concatenate([walk, 0 * walk + side - 1, walk[::-1] + 1, 0 * walk])
        h, w = size
        extent = np.array([w - 1, h - 1] if align_corners else [w, h])
        xp = array_module(grid)
        half, centre = (xp.asarray(a / 2, dtype=grid.dtype) for a in (extent, np.array([w, h]) - 1))
        return grid[:, xp.asarray(rows), xp.asarray(columns)] * half + centre

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Affine(Transformation):
    """The affine transformation of Eq. (1): crop, translation, rotation, scale and skew.

    theta (N, 6), row-major:  x_s = t11 x + t12 y + t13,  y_s = t21 x + t22 y + t23.

    Examples
    --------
    >>> from minist import spatial
    >>> affine = spatial.Affine()
    >>> affine.grid(affine.identity()[None], (2, 2)).data[0].tolist()
    [[[-1.0, -1.0], [1.0, -1.0]], [[-1.0, 1.0], [1.0, 1.0]]]
    """

    num_parameters = 6

    def identity(self) -> np.ndarray:
        return np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])

    def matrix(self, theta: Tensor) -> Tensor:
        return theta.reshape(len(theta), 2, 3)

    def inverse(self, theta: Any) -> Tensor:
        """theta that undoes this one; not finite where the matrix is singular."""
        theta = self.checked(theta)
        a, b, tx, c, d, ty = (theta[:, i] for i in range(6))
        det = a * d - b * c
        rows = [d, -b, b * ty - d * tx, -c, a, c * tx - a * ty]
        return F.stack([row / det for row in rows], axis=1)


class Attention(Transformation):
    """Attention, Eq. (2): crop, translation and isotropic scale.

    theta (N, 3), (s, tx, ty):  x_s = s x + tx,  y_s = s y + ty.

    Parameters
    ----------
    scale : float, optional
        Fixes s; theta is then (N, 2), (tx, ty), as in the bird experiment (Table 3).
    """

    def __init__(self, scale: float | None = None):
        self.scale = scale
        self.num_parameters = 3 if scale is None else 2

    def identity(self) -> np.ndarray:
        """theta that looks at the middle: of the whole image, unless the scale is fixed."""
        return np.array([1.0, 0.0, 0.0][-self.num_parameters :])

    def matrix(self, theta: Tensor) -> Tensor:
        *s, tx, ty = (theta[:, i] for i in range(self.num_parameters))
        s = s[0] if s else 0.0 * tx + self.scale
        return F.stack([s, 0.0 * s, tx, 0.0 * s, s, ty], axis=1).reshape(
            len(theta), 2, 3
        )  # Eq. (2)

    def inverse(self, theta: Any) -> Tensor:
        """theta that undoes this one; not finite where s is 0. The scale must not be fixed."""
        if self.scale is not None:
            return super().inverse(theta)
        theta = self.checked(theta)
        s, tx, ty = (theta[:, i] for i in range(3))
        return F.stack([1.0 / s, -tx / s, -ty / s], axis=1)

    def __repr__(self) -> str:
        return "Attention()" if self.scale is None else f"Attention(scale={self.scale})"


class Projective(Transformation):
    """The plane projective transformation with 8 parameters (Sect. 3.2).

    theta (N, 8), row-major h11 .. h32 with h33 = 1:  (x', y', w) = H (x, y, 1),
    x_s = x' / w,  y_s = y' / w.  Where the line at infinity (w = 0) crosses the output, its
    pixels look outside the image and give no gradient.
    """

    num_parameters = 8

    def identity(self) -> np.ndarray:
        return np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])

    def matrix(self, theta: Tensor) -> Tensor:
        ones = array_module(theta.data).ones((len(theta), 1), dtype=theta.dtype)
        return F.concatenate([theta, ones], axis=1).reshape(len(theta), 3, 3)

    def grid(self, theta: Any, size: Size, align_corners: bool = True) -> Tensor:
        return PerspectiveDivision.apply(super().grid(theta, size, align_corners))

    def inverse(self, theta: Any) -> Tensor:
        """theta that undoes this one; not finite where there is none with h33 = 1."""
        m = self.matrix(self.checked(theta))
        (a, b, c), (d, e, f), (g, h, i) = ([m[:, j, k] for k in range(3)] for j in range(3))
        adjugate = [
            *(e * i - f * h, c * h - b * i, b * f - c * e),
            *(f * g - d * i, a * i - c * g, c * d - a * f),
            *(d * h - e * g, b * g - a * h),
        ]
        return F.stack([entry / (a * e - b * d) for entry in adjugate], axis=1)


def affine_grid(theta: Any, size: Size, align_corners: bool = True) -> Tensor:
    """PyTorch's function: an affine grid for an output of shape `size` (Eq. (1)).

    Parameters
    ----------
    theta : (N, 2, 3), or (N, 3, 4) for volumes
    size : (N, C, H', W') or (N, C, D', H', W')
        Shape of the output; only its spatial part and N count.
    align_corners : bool
        True by default, the paper's reading; PyTorch's default is False.

    Returns
    -------
    (N, H', W', 2), the last axis (x, y); or (N, D', H', W', 3), (x, y, z)

    Raises
    ------
    ValueError
        If the shapes do not fit.
    TypeError
        If theta is not floating.
    """
    theta = floating(theta)
    d = len(size) - 2
    if d not in (2, 3) or theta.shape != (size[0], d, d + 1):
        raise ValueError(
            "affine_grid: expected theta (N, 2, 3) with size (N, C, H, W), or (N, 3, 4) with "
            f"(N, C, D, H, W); got theta {theta.shape} and size {tuple(size)}"
        )
    basis = regular_grid(tuple(size[2:]), align_corners)
    basis = array_module(theta.data).asarray(basis, dtype=theta.dtype)
    return BasisGrid.apply(theta, basis, size=tuple(size[2:]))


def projective_grid(theta: Any, size: Size, align_corners: bool = True) -> Tensor:
    """A projective grid: theta (N, 8) and the output's shape (N, C, H', W') to (N, H', W', 2)."""
    return Projective().grid(theta, tuple(size[2:]), align_corners)


def theta_from_pixels(
    matrix: Any, size_in: Size, size_out: Size, align_corners: bool = True
) -> np.ndarray:
    """theta of a matrix in pixels, as OpenCV's `warpAffine` and `warpPerspective` take it.

    Such a matrix says where a pixel (x, y) of the input goes in the output; theta says where an
    output pixel looks in the input, in normalised coordinates. It is the inverse, in other units.

    Parameters
    ----------
    matrix : (..., 2, 3) or (..., 3, 3)
    size_in, size_out : (H, W), (H', W')

    Returns
    -------
    (..., 6) for `Affine`, or (..., 8) for `Projective`, float64
    """
    forward = _square(np.asarray(matrix, dtype=np.float64))
    theta = (
        _to_normalised(size_in, align_corners)
        @ np.linalg.inv(forward)
        @ np.linalg.inv(_to_normalised(size_out, align_corners))
    )
    return _parameters(theta, affine=np.shape(matrix)[-2] == 2)


def theta_to_pixels(
    theta: Any, size_in: Size, size_out: Size, align_corners: bool = True
) -> np.ndarray:
    """The matrix in pixels, OpenCV's, of theta: the opposite of `theta_from_pixels`.

    theta (..., 6) or (..., 8) gives (..., 2, 3) or (..., 3, 3), the latter with h33 = 1; float64.
    Raises ValueError for another width.
    """
    theta = np.asarray(theta, dtype=np.float64)
    if theta.shape[-1:] not in ((6,), (8,)):
        raise ValueError(f"theta_to_pixels: theta is (..., 6) or (..., 8), not {theta.shape}")
    affine = theta.shape[-1] == 6
    if affine:
        theta = _square(theta.reshape(*theta.shape[:-1], 2, 3))
    else:
        ones = np.ones((*theta.shape[:-1], 1))
        theta = np.concatenate([theta, ones], axis=-1).reshape(*theta.shape[:-1], 3, 3)
    backward = (
        np.linalg.inv(_to_normalised(size_in, align_corners))
        @ theta
        @ _to_normalised(size_out, align_corners)
    )
    matrix = np.linalg.inv(backward)
    matrix = matrix / matrix[..., 2:, 2:]
    return matrix[..., :2, :] if affine else matrix


def _to_normalised(size: Size, align_corners: bool) -> np.ndarray:
    """The 3x3 matrix from pixels to -1..1; a side of one pixel goes to 0, one unit a pixel."""
    h, w = size
    rows = []
    for i, n in enumerate((w, h)):
        extent = max(n - 1, 1) if align_corners else n
        row = [0.0, 0.0, -(n - 1) / extent]
        row[i] = 2 / extent
        rows.append(row)
    return np.array([*rows, [0.0, 0.0, 1.0]])


def _square(matrix: np.ndarray) -> np.ndarray:
    if matrix.shape[-2:] == (3, 3):
        return matrix
    if matrix.shape[-2:] != (2, 3):
        raise ValueError(f"a pixel matrix is (..., 2, 3) or (..., 3, 3), not {matrix.shape}")
    last = np.broadcast_to([0.0, 0.0, 1.0], (*matrix.shape[:-2], 1, 3))
    return np.concatenate([matrix, last], axis=-2)


def _parameters(matrix: np.ndarray, affine: bool) -> np.ndarray:
    flat = (matrix / matrix[..., 2:, 2:]).reshape(*matrix.shape[:-2], 9)
    return flat[..., :6] if affine else flat[..., :8]
