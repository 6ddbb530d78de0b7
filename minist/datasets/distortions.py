"""Distorted MNIST (Sect. 4.1): R, RTS, P, E, TC, and T of the co-localisation experiment.

    R    rotation, uniform in -90 to 90 degrees
    RTS  rotation within 45 degrees, scale 0.7 to 1.2, at a random place in 42x42
    P    scale 0.75 to 1, then each corner moved by a normal deviate of 5 pixels
    E    scale 0.75 to 1, then each of 4x4 points of a thin plate spline moved by 1.5 pixels
    T    at a random place in 84x84
    TC   at a random place in 60x60, with six 6x6 patches of other digits at random places

All deviates are drawn afresh for each image, and a whole batch is distorted at once, by the same
grids and sampler that the networks use. Rotations turn pixels, not normalised coordinates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..autograd import Tensor, no_grad
from ..backend import Array, array_module
from ..spatial import (
    Affine,
    Projective,
    ThinPlateSpline,
    Transformation,
    grid_sample,
    theta_from_pixels,
)

PATCH = 6
DEFAULT_SIZE = {"R": None, "RTS": 42, "P": None, "E": None, "T": 84, "TC": 60}
DISTORTIONS = tuple(DEFAULT_SIZE)
# Made once: they keep their grids' bases, on a GPU too.
AFFINE, PROJECTIVE, SPLINE = Affine(), Projective(), ThinPlateSpline(4, 4)


@no_grad()
def distort(
    images: Array,
    kind: str,
    rng: np.random.Generator,
    size: int | None = None,
    patches: int | None = None,
) -> Array:
    """Distort each image at random.

    Parameters
    ----------
    images : (N, 1, H, W)
        Bytes 0..255, or floating in 0..1; NumPy or CuPy.
    kind : "R", "RTS", "P", "E", "T" or "TC"
    rng : numpy.random.Generator
        The same state gives the same images.
    size : int, optional
        Height and width of the result; by default 42 for RTS, 60 for TC, 84 for T, else as it is.
    patches : int, optional
        Of clutter, for TC: 6 by default.

    Returns
    -------
    (N, 1, H', W') float32 in 0..1, the batch innermost in memory

    Raises
    ------
    ValueError
        For another kind or shape, a canvas smaller than the image, or patches without TC.
    """
    if kind not in DISTORTIONS:
        raise ValueError(f"distort: kind must be one of {', '.join(DISTORTIONS)}, not {kind!r}")
    if images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(f"distort: images must be (N, 1, H, W), not {images.shape}")
    if patches is not None and kind != "TC":
        raise ValueError(f"distort: {kind} has no patches, only TC has")
    size_in = images.shape[2:]
    size = DEFAULT_SIZE[kind] if size is None else size
    size_out = size_in if size is None else (size, size)
    if min(np.subtract(size_out, size_in)) < 0:
        raise ValueError(f"distort: {size_out} is smaller than the images, {size_in}")
    images = as_floats(images)
    if kind in ("T", "TC"):
        canvas = place(images, size_out, places(len(images), size_in, size_out, rng))
        return (
            clutter(canvas, images, rng, 6 if patches is None else patches)
            if kind == "TC"
            else canvas
        )
    warp: dict[str, Callable] = {"R": rotate, "RTS": rotate_and_place, "P": project, "E": bend}
    transformation, theta = warp[kind](len(images), size_in, size_out, rng)
    theta = array_module(images).asarray(theta, dtype=images.dtype)
    grid = transformation.grid(theta, size_out)
    return grid_sample(Tensor(images), grid).data


def as_floats(images: Array) -> Array:
    """Bytes 0..255 as float32 in 0..1; floating images as float32."""
    scale = 255 if images.dtype.kind in "iu" else 1
    return images.astype(np.float32) / np.float32(scale)


Warp = tuple[Transformation, np.ndarray]


def rotate(n: int, size_in: tuple, size_out: tuple, rng: np.random.Generator) -> Warp:
    """R: a rotation about the centre."""
    angle = rng.uniform(-np.pi / 2, np.pi / 2, n)
    matrix = similarity(angle, np.ones(n), np.zeros((n, 2)), size_in, size_out)
    return AFFINE, theta_from_pixels(matrix, size_in, size_out)


def rotate_and_place(n: int, size_in: tuple, size_out: tuple, rng: np.random.Generator) -> Warp:
    """RTS: rotated, scaled, and anywhere where the scaled image, unrotated, fits."""
    angle = rng.uniform(-np.pi / 4, np.pi / 4, n)
    scale = rng.uniform(0.7, 1.2, n)
    room = (np.array(size_out[::-1]) - scale[:, None] * np.array(size_in[::-1])) / 2
    shift = rng.uniform(-1, 1, (n, 2)) * np.maximum(room, 0)
    matrix = similarity(angle, scale, shift, size_in, size_out)
    return AFFINE, theta_from_pixels(matrix, size_in, size_out)


def project(n: int, size_in: tuple, size_out: tuple, rng: np.random.Generator) -> Warp:
    """P: scaled about the centre, then the four corners moved."""
    scale = rng.uniform(0.75, 1.0, n)
    h, w = size_in
    corners = np.array([[0, 0], [w - 1, 0], [0, h - 1], [w - 1, h - 1]], dtype=np.float64)
    centre_in, centre_out = centre(size_in), centre(size_out)
    moved = (corners - centre_in) * scale[:, None, None] + centre_out
    moved += rng.normal(0, 5, moved.shape)
    return PROJECTIVE, theta_from_pixels(homography(corners, moved), size_in, size_out)


def bend(n: int, size_in: tuple, size_out: tuple, rng: np.random.Generator) -> Warp:
    """E: scaled about the centre, then 4x4 control points moved, between them a thin plate."""
    scale = rng.uniform(0.75, 1.0, n)
    extent_in, extent_out = (np.array(size[::-1]) - 1 for size in (size_in, size_out))
    moved = SPLINE.control_points * extent_out / 2 + rng.normal(0, 1.5, (n, 16, 2))  # in pixels
    looks = moved / scale[:, None, None] / (extent_in / 2)
    return SPLINE, looks.reshape(n, SPLINE.num_parameters)


def centre(size: tuple) -> np.ndarray:
    """(x, y) of an image's centre in pixels."""
    return (np.array(size[::-1]) - 1) / 2


def similarity(
    angle: np.ndarray, scale: np.ndarray, shift: np.ndarray, size_in: tuple, size_out: tuple
) -> np.ndarray:
    """Pixel matrices (N, 2, 3), input to output: turned and scaled about the centre, then moved."""
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.stack([np.stack([a, -b], axis=-1), np.stack([b, a], axis=-1)], axis=-2)
    move = centre(size_out) + shift - turn @ centre(size_in)
    return np.concatenate([turn, move[..., None]], axis=-1)


def homography(points: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """The 3x3 matrices that take 4 points (4, 2) to (N, 4, 2), h33 = 1.

    x' (h31 x + h32 y + 1) = h11 x + h12 y + h13, and likewise y': 8 linear equations.
    """
    x, y = points.T
    one, zero = np.ones(4), np.zeros(4)
    system = np.empty((len(moved), 8, 8))
    for i, row in enumerate(([x, y, one, zero, zero, zero], [zero, zero, zero, x, y, one])):
        system[:, 4 * i : 4 * i + 4, :6] = np.stack(row, axis=1)
        system[:, 4 * i : 4 * i + 4, 6:] = -moved[:, :, i, None] * points
    right = moved.transpose(0, 2, 1).reshape(-1, 8, 1)
    h = np.linalg.solve(system, right)[..., 0]
    return np.concatenate([h, np.ones((len(h), 1))], axis=1).reshape(-1, 3, 3)


def places(n: int, size_in: tuple, size_out: tuple, rng: np.random.Generator) -> np.ndarray:
    """Whole pixels (top, left), (2, n), at which an image may begin on a larger one."""
    rooms = zip(size_out, size_in, strict=True)
    return np.stack([rng.integers(0, s - k + 1, n) for s, k in rooms])


def place(images: Array, size: tuple, at: np.ndarray) -> Array:
    """Each image on a black canvas, its first pixel at (top, left), (2, N)."""
    n, _, h, w = images.shape
    xp = array_module(images)
    canvas = xp.zeros((1, *size, n), dtype=images.dtype).transpose(3, 0, 1, 2)
    canvas[boxes(xp, *at, (h, w))] = images[:, 0]
    return canvas


def clutter(canvas: Array, digits: Array, rng: np.random.Generator, patches: int) -> Array:
    """Patches of others of the digits, at random places; ink covers, background does not."""
    n = len(canvas)
    xp = array_module(canvas)
    for _ in range(patches):
        other = xp.asarray((np.arange(n) + rng.integers(1, max(n, 2), n)) % max(n, 1))
        top, left = (rng.integers(0, s - PATCH + 1, n) for s in digits.shape[2:])
        patch = digits[other][boxes(xp, top, left, (PATCH, PATCH))]
        top, left = (rng.integers(0, s - PATCH + 1, n) for s in canvas.shape[2:])
        box = boxes(xp, top, left, (PATCH, PATCH))
        canvas[box] = xp.maximum(canvas[box], patch)
    return canvas


def boxes(xp, top: np.ndarray, left: np.ndarray, size: tuple) -> tuple:
    """The index of one box in channel 0 of each image: (N, height, width)."""
    rows = xp.asarray(top)[:, None, None] + xp.arange(size[0])[:, None]
    columns = xp.asarray(left)[:, None, None] + xp.arange(size[1])
    return xp.arange(len(top))[:, None, None], 0, rows, columns
