"""Transformations that are one matrix in homogeneous coordinates (Sect. 3.2): affine, Eq. (1),
its special cases, Eq. (2) among them, and projective.

Two of one class are one of it, and each has an inverse, by product and inverse of their matrices
(where the scale is not fixed, nor 0).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import functional as F
from ..autograd import Function, Tensor
from ..backend import Array, array_module, concatenate
from .grid import Size, Transformation, checked_size, floating


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
        return concatenate([grad, grad_w], axis=-1)


class Inverse(Function):
    """Y = A^-1 of each matrix (N, d, d); infinite, or by rounding huge, where there is none.

    From A Y = 1:  dY = -Y dA Y,  so dL/dA = -Y^T g Y^T.
    """

    def forward(self, a: Array) -> Array:
        xp = array_module(a)
        singular = (xp.linalg.det(a) == 0)[:, None, None]
        y = xp.linalg.inv(xp.where(singular, xp.eye(a.shape[1], dtype=a.dtype), a))
        self.y = xp.where(singular, y.dtype.type(np.inf), y)
        return self.y

    def backward(self, grad: Array) -> Array:
        y = self.y.swapaxes(1, 2)
        return -y @ grad @ y


class Homogeneous(Transformation):
    """A transformation x_s = A x + t, or for `Projective` its generalisation.

    A subclass writes `identity`, `matrix` and `theta_of`, the opposite of `matrix`; or `inverse`
    and `compose`, where that is simpler.
    """

    def theta_of(self, matrix: Tensor) -> Tensor:
        """theta of square homogeneous matrices (N, d + 1, d + 1) of this class."""
        raise NotImplementedError

    def basis_at(self, points: Tensor) -> Tensor:
        ones = array_module(points.data).ones_like(points.data[:, :1])
        return F.concatenate([points, ones], axis=1)

    def square(self, theta: Any) -> Tensor:
        """The whole homogeneous matrix, (N, d + 1, d + 1)."""
        m = self.matrix(self.checked(theta))
        n, rows, d = m.shape
        if rows == d:
            return m
        last = array_module(m.data).zeros((n, 1, d), dtype=m.dtype)
        last[..., -1] = 1
        return F.concatenate([m, last], axis=1)

    def inverse(self, theta: Any) -> Tensor:
        """theta that undoes this one; not finite, or huge, where there is none."""
        return self.theta_of(Inverse.apply(self.square(theta)))

    def compose(self, first: Any, second: Any) -> Tensor:
        return self.theta_of(self.square(first) @ self.square(second))


class Affine(Homogeneous):
    """The affine transformation of Eq. (1): crop, translation, rotation, scale and skew.

    theta (N, 6), row-major:  x_s = t11 x + t12 y + t13,  y_s = t21 x + t22 y + t23.
    In three dimensions (N, 12), the rows of a 3x4 matrix.

    Parameters
    ----------
    dimensions : 2 or 3
        3 for volumes; else a ValueError.

    Examples
    --------
    >>> from minist import spatial
    >>> affine = spatial.Affine()
    >>> affine.grid(affine.identity()[None], (2, 2)).data[0].tolist()
    [[[-1.0, -1.0], [1.0, -1.0]], [[-1.0, 1.0], [1.0, 1.0]]]
    """

    def __init__(self, dimensions: int = 2):
        if dimensions not in (2, 3):
            raise ValueError(f"Affine: dimensions are 2 or 3, not {dimensions}")
        self.dimensions = dimensions
        self.num_parameters = dimensions * (dimensions + 1)

    def identity(self) -> np.ndarray:
        return np.eye(self.dimensions, self.dimensions + 1).ravel()

    def matrix(self, theta: Tensor) -> Tensor:
        return theta.reshape(len(theta), self.dimensions, self.dimensions + 1)  # Eq. (1)

    def theta_of(self, matrix: Tensor) -> Tensor:
        return matrix[:, :-1].reshape(len(matrix), self.num_parameters)

    def extra_repr(self) -> str:
        return "" if self.dimensions == 2 else f"dimensions={self.dimensions}"


class Attention(Homogeneous):
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
        *s, tx, ty = columns(theta)
        s = s[0] if s else 0.0 * tx + self.scale
        return rows(s, 0.0 * s, tx, 0.0 * s, s, ty)  # Eq. (2)

    def theta_of(self, matrix: Tensor) -> Tensor:
        if self.scale not in (None, 1):
            raise NotImplementedError(
                f"{self!r} has no inverse, and two of them are not one: the scale would be another"
            )
        theta = [matrix[:, 0, 0], matrix[:, 0, 2], matrix[:, 1, 2]]
        return F.stack(theta[-self.num_parameters :], axis=1)

    def extra_repr(self) -> str:
        return "" if self.scale is None else f"scale={self.scale}"


class Translation(Attention):
    """A translation, the whole image kept: Eq. (2) with s = 1. theta (N, 2), (tx, ty)."""

    def __init__(self) -> None:
        super().__init__(scale=1.0)

    def extra_repr(self) -> str:
        return ""


class Scale(Homogeneous):
    """A scale for each axis, about the middle. theta (N, 2):  x_s = sx x,  y_s = sy y."""

    num_parameters = 2

    def identity(self) -> np.ndarray:
        return np.ones(2)

    def matrix(self, theta: Tensor) -> Tensor:
        sx, sy = columns(theta)
        zero = 0.0 * sx
        return rows(sx, zero, zero, zero, sy, zero)

    def theta_of(self, matrix: Tensor) -> Tensor:
        return F.stack([matrix[:, 0, 0], matrix[:, 1, 1]], axis=1)


class Similarity(Homogeneous):
    """Scale, rotation and translation, which keep angles.

    theta (N, 4), (s, angle, tx, ty), the angle in radians; a positive one turns the window
    clockwise, and what is seen in it the other way:

        x_s = s (cos(angle) x - sin(angle) y / aspect) + tx
        y_s = s (sin(angle) aspect x + cos(angle) y) + ty

    Parameters
    ----------
    aspect : float
        W / H of the image, whose pixels are square, though -1..1 spans both sides; exactly, it is
        (W - 1) / (H - 1) with align_corners. Left at 1, a turn of an image that is not square
        would shear it.
    """

    num_parameters = 4

    def __init__(self, aspect: float = 1.0):
        self.aspect = positive(aspect)

    def identity(self) -> np.ndarray:
        return np.array([1.0, 0.0, 0.0, 0.0])

    def matrix(self, theta: Tensor) -> Tensor:
        s, angle, tx, ty = columns(theta)
        a, b = s * F.cos(angle), s * F.sin(angle)
        return rows(a, -b / self.aspect, tx, b * self.aspect, a, ty)

    def inverse(self, theta: Any) -> Tensor:
        """theta that undoes this one; not finite where s is 0."""
        theta = self.checked(theta)
        with np.errstate(divide="ignore"):
            scale = 1.0 / theta[:, 0]
        return self.moved(scale, -theta[:, 1], Inverse.apply(self.square(theta)))

    def compose(self, first: Any, second: Any) -> Tensor:
        first, second = self.checked(first), self.checked(second)
        scale, angle = first[:, 0] * second[:, 0], first[:, 1] + second[:, 1]
        return self.moved(scale, angle, self.square(first) @ self.square(second))

    def moved(self, scale: Tensor, angle: Tensor, matrix: Tensor) -> Tensor:
        """theta with the translation of a matrix."""
        return F.stack([scale, angle, matrix[:, 0, 2], matrix[:, 1, 2]], axis=1)

    def extra_repr(self) -> str:
        return "" if self.aspect == 1 else f"aspect={self.aspect:g}"


class Rotation(Homogeneous):
    """A rotation about the middle. theta (N, 1), in radians.

    `Similarity` with s fixed at 1 and no translation.

    Parameters
    ----------
    aspect : float
        As of `Similarity`.
    """

    num_parameters = 1

    def __init__(self, aspect: float = 1.0):
        self.aspect = positive(aspect)

    def identity(self) -> np.ndarray:
        return np.zeros(1)

    def matrix(self, theta: Tensor) -> Tensor:
        (angle,) = columns(theta)
        one, zero = 0.0 * angle + 1.0, 0.0 * angle
        return Similarity(self.aspect).matrix(F.stack([one, angle, zero, zero], axis=1))

    def inverse(self, theta: Any) -> Tensor:
        return -self.checked(theta)

    def compose(self, first: Any, second: Any) -> Tensor:
        return self.checked(first) + self.checked(second)

    extra_repr = Similarity.extra_repr


class Projective(Homogeneous):
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

    def divide(self, points: Tensor) -> Tensor:
        return PerspectiveDivision.apply(points)

    def theta_of(self, matrix: Tensor) -> Tensor:
        entries = matrix.reshape(len(matrix), 9)
        with np.errstate(divide="ignore", invalid="ignore"):  # h33 = 0: not of this class
            return entries[:, :8] / entries[:, 8:]


def positive(aspect: float) -> float:
    """aspect, or a ValueError."""
    if not 0 < aspect < float("inf"):
        raise ValueError(f"aspect is W / H, above 0, not {aspect}")
    return float(aspect)


def columns(theta: Tensor) -> list[Tensor]:
    """Each parameter, (N,)."""
    return [theta[:, i] for i in range(theta.shape[1])]


def rows(*entries: Tensor) -> Tensor:
    """2x3 matrices (N, 2, 3) of their six entries (N,)."""
    return F.stack(entries, axis=1).reshape(len(entries[0]), 2, 3)


AFFINE, PROJECTIVE = {2: Affine(), 3: Affine(3)}, Projective()


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
    theta, size = floating(theta), checked_size(size, "affine_grid: size", 4, 5)
    d = len(size) - 2
    if theta.shape != (size[0], d, d + 1):
        raise ValueError(
            "affine_grid: expected theta (N, 2, 3) with size (N, C, H, W), or (N, 3, 4) with "
            f"(N, C, D, H, W); got theta {theta.shape} and size {size}"
        )
    transformation = AFFINE[d]
    theta = theta.reshape(size[0], transformation.num_parameters)
    return transformation.grid(theta, size[2:], align_corners)


def projective_grid(theta: Any, size: Size, align_corners: bool = True) -> Tensor:
    """A projective grid (N, H', W', 2): theta (N, 8), and size the output's shape (N, C, H', W').

    align_corners as of `affine_grid`. Raises ValueError for shapes that do not fit, TypeError for
    a theta that is not floating.
    """
    size = checked_size(size, "projective_grid: size", 4)
    if len(theta) != size[0]:
        raise ValueError(f"projective_grid: {len(theta)} theta for a size of {size[0]} images")
    return PROJECTIVE.grid(theta, size[2:], align_corners)
