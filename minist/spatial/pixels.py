"""Between theta, the pose of Sect. 3.4, and matrices in pixels, such as OpenCV's; on the host and
without gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from .grid import Size, checked_size, pixels_per_unit


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
    align_corners : bool
        What -1 and 1 mean in theta (see `affine_grid`).

    Returns
    -------
    (..., 6) for `Affine`, or (..., 8) for `Projective`, float64

    Raises
    ------
    ValueError
        For another shape, or a matrix without an inverse.
    """
    forward = _square(np.asarray(matrix, dtype=np.float64))
    if not has_inverse(forward):
        raise ValueError("theta_from_pixels: the matrix has no inverse, it maps a plane to a line")
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
    size_in, size_out and align_corners as of `theta_from_pixels`.
    Raises ValueError for another width, or where there is no inverse.
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
    if not has_inverse(backward):
        raise ValueError("theta_to_pixels: theta has no inverse, it looks along a line only")
    matrix = np.linalg.inv(backward)
    matrix = matrix / matrix[..., 2:, 2:]
    return matrix[..., :2, :] if affine else matrix


def has_inverse(matrices: np.ndarray) -> bool:
    """Whether all have one, more than rounding would make of a singular matrix."""
    return bool((np.linalg.cond(matrices) < 1e14).all())


def _to_normalised(size: Size, align_corners: bool) -> np.ndarray:
    """The 3x3 matrix from pixels to -1..1; a side of one pixel goes to 0, two units a pixel."""
    h, w = checked_size(size, "the size of an image", 2)
    rows = []
    for i, n in enumerate((w, h)):
        half = pixels_per_unit(n, align_corners) or 0.5
        row = [0.0, 0.0, -(n - 1) / 2 / half]
        row[i] = 1 / half
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
