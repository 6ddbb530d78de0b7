"""Matrices in pixels, as OpenCV takes them, and theta."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformations import both_conventions

from minist import spatial
from minist.spatial.grid import pixels_per_unit

SIZES = [((5, 9), (5, 9)), ((5, 9), (7, 4)), ((28, 28), (42, 60)), ((6, 4), (2, 3))]


def warp_pixels(matrix, image, size_out):
    """What OpenCV's warpAffine and warpPerspective compute, pixel by pixel, bilinear, border 0."""
    backward = np.linalg.inv(matrix if len(matrix) == 3 else np.vstack([matrix, [0, 0, 1]]))
    out = np.zeros(size_out)
    padded = np.pad(image, 1)
    for row, column in np.ndindex(*size_out):
        x, y, w = backward @ [column, row, 1]
        x, y = np.clip([x / w, y / w], -1, np.array(image.shape[::-1])) + 1
        m, n = (min(int(c), side) for c, side in zip((x, y), image.shape[::-1], strict=True))
        s, t = x - m, y - n
        upper = (1 - s) * padded[n, m] + s * padded[n, m + 1]
        lower = (1 - s) * padded[n + 1, m] + s * padded[n + 1, m + 1]
        out[row, column] = (1 - t) * upper + t * lower
    return out


@both_conventions
@pytest.mark.parametrize(("size_in", "size_out"), SIZES)
@pytest.mark.parametrize("rows", [2, 3])
def test_theta_from_pixels_is_opencvs_warp(rng, rows, size_in, size_out, align_corners):
    # WarpAffine2GridSample 1, 3: other sizes in and out
    matrix = np.array([[0.9, -0.3, 1.7], [0.4, 1.1, -0.6], [0.01, -0.02, 1.0]])[:rows]
    image = rng.normal(size=size_in)
    transformation = spatial.Affine() if rows == 2 else spatial.Projective()
    theta = spatial.theta_from_pixels(matrix, size_in, size_out, align_corners)
    grid = transformation.grid(theta[None], size_out, align_corners)
    v = spatial.grid_sample(image[None, None], grid, align_corners=align_corners)
    np.testing.assert_allclose(v.numpy()[0, 0], warp_pixels(matrix, image, size_out), atol=1e-10)


@both_conventions
def test_theta_from_pixels_by_hand(align_corners):
    """Input pixel (x, y) goes to output pixel (x + 2, y + 1): outputs look that much back."""
    matrix = [[1, 0, 2], [0, 1, 1]]
    theta = spatial.theta_from_pixels(matrix, (5, 9), (5, 9), align_corners)
    dx, dy = (2 / 8, 1 / 4) if align_corners else (2 / 9, 1 / 5)
    np.testing.assert_allclose(theta, [1, 0, -2 * dx, 0, 1, -2 * dy], atol=1e-14)


def test_a_box_becomes_the_whole_output():
    # ALM-pedestrian-attribute 17: a crop of columns 2 to 4 and rows 0 to 2 to 5x9 pixels
    matrix = np.array([[8 / 2, 0, -8], [0, 4 / 2, 0]])
    theta = spatial.theta_from_pixels(matrix, (9, 5), (5, 9))
    x, y = spatial.Affine().outline(theta[None], (9, 5))[0].T
    np.testing.assert_allclose((x.min(), x.max(), y.min(), y.max()), (2, 4, 0, 2), atol=1e-12)


sides = st.tuples(st.integers(1, 40), st.integers(1, 40))


@pytest.mark.parametrize("width", [6, 8])
@given(size_in=sides, size_out=sides, align_corners=st.booleans(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_to_pixels_and_back(width, size_in, size_out, align_corners, seed):
    identity = (spatial.Affine() if width == 6 else spatial.Projective()).identity()
    theta = identity + np.random.default_rng(seed).uniform(-0.15, 0.15, (2, 3, width))
    matrix = spatial.theta_to_pixels(theta, size_in, size_out, align_corners)
    assert matrix.shape == (2, 3, width // 3 + (width == 8), 3)
    back = spatial.theta_from_pixels(matrix, size_in, size_out, align_corners)
    np.testing.assert_allclose(back, theta, rtol=1e-7, atol=1e-8)


@both_conventions
def test_pixels_go_where_theta_looks_from(rng, align_corners):
    """The matrix takes the pixel that is looked at to the one that looks."""
    size_in, size_out = (6, 11), (4, 3)
    theta = spatial.Projective().identity() + rng.uniform(-0.1, 0.1, 8)
    matrix = spatial.theta_to_pixels(theta, size_in, size_out, align_corners)
    grid = spatial.Projective().grid(theta[None], size_out, align_corners).numpy()[0]
    half, centre = np.array([11, 6]) - align_corners, (np.array([11, 6]) - 1) / 2
    for row, column in np.ndindex(*size_out):
        x, y, w = matrix @ [*(grid[row, column] * half / 2 + centre), 1]
        np.testing.assert_allclose([x / w, y / w], [column, row], atol=1e-10)


def test_a_rotation_of_pixels_keeps_right_angles():
    # Lasagne 782: in normalised coordinates a rotation shears an image that is not square
    a = np.deg2rad(30)
    matrix = [[np.cos(a), -np.sin(a), 3], [np.sin(a), np.cos(a), 5]]
    theta = spatial.theta_from_pixels(matrix, (28, 56), (28, 56))
    outline = spatial.Affine().outline(theta[None], (28, 56))[0]
    across, down = outline[16] - outline[0], outline[48] - outline[0]
    assert np.linalg.norm(across) == pytest.approx(55)
    assert np.linalg.norm(down) == pytest.approx(27)
    assert across @ down == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("n", "align_corners", "expected"),
    [(1, True, 0), (1, False, 0.5), (2, True, 0.5), (9, True, 4), (9, False, 4.5)],
)
def test_pixels_per_unit(n, align_corners, expected):
    """-1..1 spans n - 1 steps from centre to centre, or n pixels from edge to edge."""
    assert pixels_per_unit(n, align_corners) == expected


@pytest.mark.parametrize("shape", [(5,), (2, 9), ()])
def test_theta_to_pixels_of_another_width(shape):
    with pytest.raises(ValueError, match=r"theta is \(\.\.\., 6\) or"):
        spatial.theta_to_pixels(np.zeros(shape), (3, 4), (3, 4))


@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (4, 3)])
def test_a_pixel_matrix_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"a pixel matrix is \(\.\.\., 2, 3\) or"):
        spatial.theta_from_pixels(np.zeros(shape), (3, 4), (3, 4))
