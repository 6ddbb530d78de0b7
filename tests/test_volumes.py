"""Solid digits: where each voxel's ink comes from, and that a solid is whole wherever it lies."""

import numpy as np
import pytest

from minist.datasets import MNIST, solids
from minist.datasets.volumes import DEPTH, rotations, shrunk, thickness


@pytest.fixture(scope="module")
def digits():
    return MNIST(train=False).images[:64]


@pytest.mark.parametrize("turn", [0, 45, 180])
@pytest.mark.parametrize("size", [24, 45, 60])
def test_every_voxel_is_where_its_ink_comes_from(digits, size, turn):
    """Against all voxels turned back one digit at a time, and SciPy's linear interpolation."""
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is the oracle of this test")
    made = solids(digits[:3], np.random.default_rng(7), size, turn)
    rng = np.random.default_rng(7)
    angles, places = np.deg2rad(rng.uniform(-turn, turn, (3, 3))), rng.uniform(-1, 1, (3, 3))
    images = shrunk(digits[:3] / np.float32(255), size / 60)[:, 0]
    for volume, image, r, place in zip(made, images, rotations(angles), places, strict=True):
        rows, columns = (np.flatnonzero((image > 0).any(axis=axis)) for axis in (1, 0))
        low, high = (np.array([columns[i], rows[i]]) for i in (0, -1))
        half = np.array([*(high - low + 1) / 2, DEPTH / 2 * size / 60])
        centre = (size - 1) / 2 + place * ((size - 1) / 2 - abs(r) @ half)
        z, y, x = np.indices((size, size, size))
        p = np.stack([x, y, z], axis=-1).reshape(-1, 3)
        q = (p - centre) @ r
        ink_x, ink_y = (q[:, :2] + (low + high) / 2).T
        ink = ndimage.map_coordinates(image, [ink_y, ink_x], order=1, mode="grid-constant")
        expected = ink * np.clip(half[2] + 0.5 - abs(q[:, 2]), 0, 1)
        np.testing.assert_allclose(volume[0].ravel(), expected, atol=2e-4)


@pytest.mark.parametrize(("turn", "tolerance"), [(0, 1e-4), (45, 0.08)])
def test_no_solid_is_cut(digits, turn, tolerance):
    volumes = solids(digits, np.random.default_rng(1), 45, turn)
    ink = shrunk(digits / np.float32(255), 45 / 60).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(volumes.sum(axis=(1, 2, 3, 4)) / ink, thickness(45), rtol=tolerance)


def test_solids_lie_everywhere(digits):
    volumes = solids(digits, np.random.default_rng(1), 40)
    touched = [volumes.sum(axis=(0, 1, *others)) > 0 for others in ((3, 4), (2, 4), (2, 3))]
    for axis in touched:
        assert axis[2:-2].all()


def test_the_generator_is_the_volume(digits):
    first, again, other = (solids(digits[:2], np.random.default_rng(s), 24) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_values_and_memory(digits):
    volumes = solids(digits, np.random.default_rng(0), 24)
    assert volumes.shape == (64, 1, 24, 24, 24) and volumes.dtype == np.float32
    assert volumes.min() == 0 and 0.5 < volumes.max() <= 1
    assert volumes.transpose(1, 2, 3, 4, 0).flags.c_contiguous
    assert solids(digits[:0], np.random.default_rng(0), 24).shape == (0, 1, 24, 24, 24)
    assert not solids(np.zeros((2, 1, 28, 28), np.uint8), np.random.default_rng(0), 24).any()


def test_rotations_turn_about_x_then_y_then_z():
    quarter = np.pi / 2
    about_x, about_y, about_z = rotations(quarter * np.eye(3))
    for r, before, after in ((about_x, 1, 2), (about_y, 2, 0), (about_z, 0, 1)):
        np.testing.assert_allclose(r @ np.eye(3)[before], np.eye(3)[after], atol=1e-15)
    (both,) = rotations(quarter * np.array([[1, 0, 1]]))
    np.testing.assert_allclose(both, about_z @ about_x, atol=1e-15)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"images must be \(N, 1, H, W\), not \(5, 28, 28\)"):
        solids(np.zeros((5, 28, 28), np.float32), np.random.default_rng(0))
