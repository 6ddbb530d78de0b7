"""Digits as solids, each somewhere in a volume and turned in it: the paper's demonstration of
transformers in more than two dimensions (its appendix).

A solid is a digit times an interval of depth, so nothing is ever sampled in three dimensions.
Turned back about the solid's centre c, a voxel p becomes

    (x, y, z) = R^T (p - c),

a place (x, y) on the digit, whose ink is read there with the bilinear kernel, Eq. (5), and a depth
z, which lies in the interval or does not. Only the voxels of a box around the solid are turned
back, and ink is read only for those that turn out to lie in it, one in forty of all.
"""

from __future__ import annotations

import numpy as np

from ..autograd import Tensor, no_grad
from ..backend import Array, array_module, to_numpy
from ..spatial import Affine, grid_sample
from .distortions import as_floats

PAPER_SIZE = 60  # the volume in which a digit has all its 28x28 pixels; in a smaller one, fewer
DEPTH = 10  # of a solid, in pixels of the digit


def solids(images: Array, rng: np.random.Generator, size: int = 60, turn: float = 45) -> Array:
    """Extrude each digit, turn it at random, and put it at a random place in a volume.

    The solid is at any place where the box around it fits, each as likely as the others.

    Parameters
    ----------
    images : (N, 1, H, W)
        Bytes 0..255, or floating in 0..1; NumPy or CuPy.
    rng : numpy.random.Generator
        The same state gives the same volumes.
    size : int
        Of each side of the volume, in voxels.
    turn : float
        In degrees: the angles about x, y and z are uniform in -turn to turn.

    Returns
    -------
    (N, 1, size, size, size) float32 in 0..1, the batch innermost in memory

    Raises
    ------
    ValueError
        For images of another shape.
    """
    if images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(f"solids: images must be (N, 1, H, W), not {images.shape}")
    xp, n = array_module(images), len(images)
    digits = shrunk(as_floats(images), size / PAPER_SIZE)
    ink, half = ink_boxes(digits, thickness(size))
    turns = rotations(np.deg2rad(rng.uniform(-turn, turn, (n, 3))))
    reach = (abs(turns) @ half[..., None])[..., 0]  # half the box around the turned solid
    middle = (size - 1) / 2
    centre = middle + rng.uniform(-1, 1, (n, 3)) * np.maximum(middle - reach, 0)
    # Boxes of one size for the batch, (z, y, x, N), each with a first voxel of its own.
    sides = np.minimum(np.ceil(2 * reach.max(axis=0, initial=0)) + 2, size).astype(int)
    first = np.clip(np.floor(centre - reach), 0, size - sides).astype(int)

    def on_device(values: np.ndarray) -> Array:
        """(N, 3) as (3, N) where the images are."""
        return xp.asarray(values.T.astype(np.float32 if values.dtype.kind == "f" else int))

    to_centre, half, ink, first = map(on_device, (first - centre, half, ink, first))
    r = xp.asarray(turns.transpose(1, 2, 0).astype(np.float32))
    dx, dy, dz = (
        xp.arange(side, dtype=np.float32)[:, None] + start
        for side, start in zip(sides, to_centre, strict=True)
    )
    dx, dy, dz = dx[None, None], dy[None, :, None], dz[:, None, None]  # p - c
    x, y, z = (r[0, i] * dx + (r[1, i] * dy + r[2, i] * dz) for i in range(3))  # R^T (p - c)
    inside = (abs(x) < half[0] + 0.5) & (abs(y) < half[1] + 0.5) & (abs(z) < half[2] + 0.5)
    # Waits for a GPU: how many voxels lie in the solids decides what is to be done.
    box_z, box_y, box_x, which = xp.nonzero(inside)
    x, y, z = x[inside], y[inside], z[inside]
    filled = xp.minimum(half[2][which] + 0.5 - abs(z), 1)  # a voxel at the face is half full
    volumes = xp.zeros((1, size, size, size, n), dtype=np.float32)
    x0, y0, z0 = first[:, which]
    volumes[0, box_z + z0, box_y + y0, box_x + x0, which] = filled * ink_at(
        digits, x + ink[0][which], y + ink[1][which], which
    )
    return volumes.transpose(4, 0, 1, 2, 3)


def thickness(size: int) -> float:
    """Of the solids in a volume of this size, in voxels."""
    return DEPTH * size / PAPER_SIZE


@no_grad()
def shrunk(images: Array, scale: float) -> Array:
    """Images (N, 1, H, W) with so many times the pixels along each side, without aliasing."""
    size = tuple(max(round(side * scale), 1) for side in images.shape[2:])
    if size == images.shape[2:]:
        return images
    theta = np.tile(Affine().identity(), (len(images), 1))
    theta = array_module(images).asarray(theta, dtype=images.dtype)
    grid = Affine().grid(theta, size, align_corners=False)
    return grid_sample(Tensor(images), grid, align_corners=False, antialias=True).data


def ink_boxes(images: Array, depth: float) -> tuple[np.ndarray, np.ndarray]:
    """The box around each digit's ink: its centre, and half its sides, both (N, 3), x, y, z."""
    ink = to_numpy(images[:, 0] > 0)  # waits for a GPU: the host draws places that fit
    ends = []
    for other in (1, 2):  # along x, then y
        line = ink.any(axis=other)
        ends.append((line.argmax(axis=1), line.shape[1] - 1 - line[:, ::-1].argmax(axis=1)))
    low, high = (np.stack(sides, axis=1) for sides in zip(*ends, strict=True))
    column = np.ones((len(ink), 1))
    centre = np.concatenate([(low + high) / 2, 0 * column], axis=1)
    half = np.concatenate([(high - low + 1) / 2, depth / 2 * column], axis=1)
    return centre, half


def rotations(angles: np.ndarray) -> np.ndarray:
    """Matrices (N, 3, 3) that turn about x, then y, then z, by angles (N, 3) in radians."""
    turns = np.eye(3)
    for axis in range(3):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        cos, sin = np.cos(angles[:, axis]), np.sin(angles[:, axis])
        about = np.zeros((len(angles), 3, 3))
        about[:, axis, axis] = 1
        about[:, a, a], about[:, a, b] = cos, -sin
        about[:, b, a], about[:, b, b] = sin, cos
        turns = about @ turns
    return turns


def ink_at(images: Array, x: Array, y: Array, which: Array) -> Array:
    """The ink of image `which` at (x, y), in pixels, each (points,); Eq. (5).

    The points lie in the image or up to a pixel outside; but for rounding, less than that.
    """
    n, _, h, w = images.shape
    padded = array_module(images).zeros((h + 3, w + 3, n), dtype=images.dtype)
    padded[1:-2, 1:-2] = images[:, 0].transpose(1, 2, 0)
    pixels = padded.reshape(-1)
    column, row = array_module(x).floor(x), array_module(y).floor(y)
    tx, ty = x - column, y - row
    index = ((row.astype(int) + 1) * (w + 3) + column.astype(int) + 1) * n + which
    below = index + (w + 3) * n
    upper = pixels[index] * (1 - tx) + pixels[index + n] * tx
    lower = pixels[below] * (1 - tx) + pixels[below + n] * tx
    return upper * (1 - ty) + lower * ty
