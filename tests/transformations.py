"""Every transformation of Sect. 3.2, for the tests that hold for all of them."""

import numpy as np
import pytest

from minist import spatial
from minist.spatial import (
    Affine,
    Attention,
    LinearBasis,
    PiecewiseAffine,
    Projective,
    Rotation,
    Scale,
    Similarity,
    ThinPlateSpline,
    Translation,
    regular_grid,
)


def waves(size, align_corners, learn=False):
    """A basis of one's own: x, y (, z), 1 and a wave, which the identity leaves alone."""
    grid = regular_grid(tuple(size), align_corners)
    rows = np.concatenate([grid, np.sin(np.pi * grid[1:2] + 0.3)])
    return LinearBasis(rows.reshape(len(rows), *size), learn, align_corners)


PLANE = {
    "Affine": Affine(),
    "Attention": Attention(),
    "Translation": Translation(),
    "Scale": Scale(),
    "Rotation": Rotation(aspect=1.5),
    "Similarity": Similarity(aspect=1.5),
    "Projective": Projective(),
    "ThinPlateSpline": ThinPlateSpline(4, 4),
    "ThinPlateSpline 2x3": ThinPlateSpline(2, 3),
    "ThinPlateSpline 8x8": ThinPlateSpline(8, 8),
    "PiecewiseAffine": PiecewiseAffine(4, 4),
    "PiecewiseAffine 2x3": PiecewiseAffine(2, 3),
    "affine @ spline": Affine() @ ThinPlateSpline(3, 2),
    "spline @ projective": ThinPlateSpline(3, 2) @ Projective(),
    "mesh @ similarity": PiecewiseAffine(3, 4) @ Similarity(),
    "of three": Projective() @ Translation() @ Attention(),
}
FIXED_SCALE = {"Attention of a fixed scale": Attention(scale=0.5)}
SPACE = {"Affine 3-D": Affine(3), "affine @ affine 3-D": Affine(3) @ Affine(3)}
BASES = {"LinearBasis", "LinearBasis 3-D", "affine @ LinearBasis"}
SIMPLE = PLANE | FIXED_SCALE | SPACE  # those that can be had without knowing the output


def made(name, size, align_corners=True):
    """The transformation of a name, and its size for an output of (H', W'): one for volumes has
    two slices."""
    size = (2, *size) if name.endswith("3-D") else tuple(size)
    if name in SIMPLE:
        return SIMPLE[name], size
    basis = waves(size, align_corners)
    return (Affine() @ basis if name.startswith("affine") else basis), size


EVERY = [*SIMPLE, *sorted(BASES)]
UNFIXED = [name for name in EVERY if name not in FIXED_SCALE]
every_transformation = pytest.mark.parametrize("name", EVERY)
with_an_identity = pytest.mark.parametrize("name", UNFIXED)
both_conventions = pytest.mark.parametrize("align_corners", [True, False])


def near_identity(transformation, n, rng, scale=0.1):
    """theta (n, num_parameters) not far from the identity's."""
    deviation = rng.uniform(-scale, scale, (n, transformation.num_parameters))
    return transformation.identity() + deviation


def theta_of(transformation, matrix):
    """theta (1, num_parameters) of the affine map (d, d + 1) in any class that contains it."""
    matrix = np.asarray(matrix, dtype=float)
    diagonal, shift = matrix[:, :-1].diagonal(), matrix[:, -1]
    if isinstance(transformation, spatial.Composition):
        # The left part stays the identity.
        parts = transformation.a.identity(), theta_of(transformation.b, matrix)[0]
        theta = np.concatenate(parts)
    elif hasattr(transformation, "control_points"):
        theta = transformation.control_points @ matrix[:, :2].T + shift
    elif isinstance(transformation, LinearBasis):
        theta = np.pad(matrix, [(0, 0), (0, 1)])
    elif isinstance(transformation, Projective):
        theta = np.append(matrix, [0, 0])
    elif isinstance(transformation, Translation):
        theta = shift
    elif isinstance(transformation, Attention):
        theta = np.append(diagonal[0], shift)
    elif isinstance(transformation, Similarity):
        theta = np.array([diagonal[0], 0.0, *shift])
    else:
        theta = matrix
    return theta.reshape(1, -1)


def pixels_of(grid, size, align_corners=True):
    """Points (..., d) of a grid, in pixels of an image of `size`."""
    sides = np.array(size[::-1])
    return (grid * (sides - align_corners) + sides - 1) / 2


def clear_of_kinks(grid, size, align_corners=True, distance=1e-3):
    """Whether no point is near a pixel, the middle of two, or the border: a multiple of 1/2."""
    twice = 2 * pixels_of(np.asarray(grid), size, align_corners)
    return bool((abs(twice - np.round(twice)) > 2 * distance).all())
