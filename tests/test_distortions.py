"""Distorted digits: how far, how often and where each kind takes them."""

import numpy as np
import pytest

from minist import datasets, spatial
from minist.datasets import DISTORTIONS, distort
from minist.datasets.distortions import homography
from minist.training import TEST_SEED

SIZES = {"R": 28, "RTS": 42, "P": 28, "E": 28, "T": 84, "TC": 60}
every_kind = pytest.mark.parametrize("kind", DISTORTIONS)


@pytest.fixture(scope="module")
def digits():
    return datasets.MNIST(train=False).images[:40]


def generator(seed=0):
    return np.random.default_rng(seed)


def looks_at(kind, n, h=28, w=28, size=None):
    """Where each pixel of n distorted images looks, (n, H', W', 2) in pixels; NaN for outside.

    Seen in pictures whose grey is their x, or their y: bilinear sampling of a ramp is exact.
    """
    y, x = np.meshgrid(np.linspace(0, 1, h), np.linspace(0, 1, w), indexing="ij")
    x, y, one = (
        distort(np.tile(picture, (n, 1, 1, 1)), kind, generator(), size)[:, 0].astype(float)
        for picture in (x, y, np.ones((h, w)))
    )
    seen = np.stack([x * (w - 1), y * (h - 1)], axis=-1)
    seen[one < 0.9999] = np.nan
    return seen


def fitted(seen, columns):
    """Least squares over the pixels that look inside: rows of unknowns times pixels = seen."""
    y, x = np.indices(seen.shape[:2])
    inside = np.isfinite(seen[..., 0])
    x, y, (u, v) = x[inside], y[inside], seen[inside].T
    rows, right = columns(x, y, u, v)
    return np.linalg.lstsq(rows, right, rcond=None)[0]


def affine_matrix(seen):
    """The pixel matrix (2, 3), output to input, of one affinely distorted image."""
    return fitted(seen, lambda x, y, u, v: (np.stack([x, y, 0 * x + 1], 1), np.stack([u, v], 1))).T


def projective_matrix(seen):
    """The pixel matrix (3, 3), output to input, of one projectively distorted image."""

    def columns(x, y, u, v):
        one, zero = np.ones_like(u), np.zeros_like(u)
        upper = np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 1)
        lower = np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 1)
        return np.concatenate([upper, lower]), np.concatenate([u, v])

    return np.append(fitted(seen, columns), 1).reshape(3, 3)


# --- of every kind ------------------------------------------------------------------------------


@every_kind
def test_size_and_range(digits, kind):
    images = distort(digits, kind, generator())
    assert images.shape == (40, 1, SIZES[kind], SIZES[kind])
    assert images.dtype == np.float32
    assert images.min() == 0 and 0.5 < images.max() <= 1


@every_kind
def test_bytes_and_floats_alike(digits, kind):
    expected = distort(digits, kind, generator())
    for floats in (digits / 255, (digits / 255).astype("float32")):
        np.testing.assert_allclose(distort(floats, kind, generator()), expected, atol=1e-6)


@every_kind
def test_the_same_seed_gives_the_same_images(digits, kind):
    first, again, other = (distort(digits, kind, generator(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=(1, 2, 3)).all()


@every_kind
def test_each_image_is_distorted_its_own_way(digits, kind):
    images = distort(digits[:1].repeat(10, axis=0), kind, generator())
    assert len(np.unique(images.reshape(10, -1), axis=0)) == 10


@every_kind
def test_the_images_given_are_left_as_they_were(digits, kind):
    given = (digits / 255).astype("float32")
    before = given.copy()
    distort(given, kind, generator())
    assert (given == before).all()


@every_kind
@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_few(digits, kind, n):
    assert distort(digits[:n], kind, generator()).shape == (n, 1, SIZES[kind], SIZES[kind])


@every_kind
def test_the_batch_is_innermost_in_memory(digits, kind):
    images = distort(digits, kind, generator())
    assert np.moveaxis(images, 0, -1).flags.c_contiguous


@every_kind
def test_images_that_are_not_square(kind):
    images = distort(np.ones((3, 1, 20, 12)), kind, generator(), None if kind in "RPE" else 30)
    assert images.shape == ((3, 1, 20, 12) if kind in "RPE" else (3, 1, 30, 30))
    assert images.max() == pytest.approx(1)


# --- each kind ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("h", "w"), [(28, 28), (30, 16)])
def test_R_turns_about_the_centre_by_any_angle_up_to_90_degrees(h, w):
    # Lasagne 782: pixels are turned, so that right angles stay right where images are not square
    matrices = np.array([affine_matrix(seen) for seen in looks_at("R", 1000, h, w)])
    turn, move = matrices[:, :, :2], matrices[:, :, 2]
    np.testing.assert_allclose(
        turn @ turn.transpose(0, 2, 1), np.tile(np.eye(2), (1000, 1, 1)), atol=1e-3
    )
    assert (np.linalg.det(turn) > 0).all()
    centre = np.array([w - 1, h - 1]) / 2
    np.testing.assert_allclose(turn @ centre + move, np.tile(centre, (1000, 1)), atol=1e-2)
    degrees = np.rad2deg(np.arctan2(turn[:, 1, 0], turn[:, 0, 0]))
    assert abs(degrees).max() < 90.1
    shares, _ = np.histogram(degrees, np.linspace(-90, 90, 7))
    assert (abs(shares - 1000 / 6) < 60).all()  # five standard deviations of a uniform's


def test_RTS_turns_scales_and_moves():
    n = 1000
    backward = np.array([affine_matrix(seen) for seen in looks_at("RTS", n)])
    last = np.tile([0.0, 0, 1], (n, 1, 1))
    forward = np.linalg.inv(np.concatenate([backward, last], axis=1))
    scale = np.sqrt(np.linalg.det(forward[:, :2, :2]))
    assert 0.699 < scale.min() < 0.71 and 1.19 < scale.max() < 1.201
    assert scale.mean() == pytest.approx(0.95, abs=0.025)
    degrees = np.rad2deg(np.arctan2(forward[:, 1, 0], forward[:, 0, 0]))
    assert 43 < abs(degrees).max() < 45.1
    assert degrees.std() == pytest.approx(90 / np.sqrt(12), rel=0.1)
    centre = (forward @ [13.5, 13.5, 1])[:, :2] - 20.5
    share = centre / ((42 - 28 * scale) / 2)[:, None]  # of the room there is
    assert 0.98 < abs(share).max() < 1.01
    assert share.std(axis=0) == pytest.approx(2 / np.sqrt(12), rel=0.1)
    assert abs(np.corrcoef([scale, degrees, *share.T]) - np.eye(4)).max() < 0.15


def test_P_scales_and_moves_each_corner():
    n = 1000
    corners = np.array([[0, 0, 1], [27, 0, 1], [0, 27, 1], [27, 27, 1]], float)
    forward = np.linalg.inv([projective_matrix(seen) for seen in looks_at("P", n)])
    moved = forward @ corners.T
    moved = (moved[:, :2] / moved[:, 2:]).transpose(0, 2, 1)
    expected = (corners[:, :2] - 13.5) * 0.875 + 13.5
    np.testing.assert_allclose(np.median(moved, axis=0), expected, atol=0.7)
    spread = np.hypot(5, 13.5 * 0.25 / np.sqrt(12))  # of the corner, and of the scale
    np.testing.assert_allclose(moved.std(axis=0), spread, rtol=0.12)
    deviation = (moved - expected).reshape(n, 8)
    assert abs(np.corrcoef(deviation.T) - np.eye(8)).max() < 0.2


def test_E_moves_each_control_point():
    """Pixels 9 and 18 of 28 are control points: they look at ((p - c) + deviate) / scale + c."""
    seen = looks_at("E", 1000)[:, 9:19:9, 9:19:9]
    inside = np.isfinite(seen).all(axis=(1, 2, 3))
    assert inside.mean() > 0.99
    seen = seen[inside] - 13.5
    places = np.stack(np.meshgrid([-4.5, 4.5], [-4.5, 4.5]), axis=-1)
    np.testing.assert_allclose(seen.mean(axis=0), places * np.log(4 / 3) / 0.25, atol=0.3)
    spread = np.sqrt(1.5**2 * 4 / 3 + 4.5**2 * (4 / 3 - (np.log(4 / 3) / 0.25) ** 2))
    np.testing.assert_allclose(seen.std(axis=0), spread, rtol=0.12)
    bent = seen[:, 0, 0] - seen[:, 0, 1] - seen[:, 1, 0] + seen[:, 1, 1]  # 0 if affine
    np.testing.assert_allclose(bent.std(axis=0), 2 * 1.5 * np.sqrt(4 / 3), rtol=0.12)


@pytest.mark.parametrize("kind", ["R", "P", "E"])
def test_a_larger_canvas_is_a_border_not_a_zoom(kind):
    """Digits stay as large, in the middle: a distorted square of 28 pixels covers no more."""
    square = np.ones((400, 1, 28, 28))
    covered = distort(square, kind, generator(), 60).sum(axis=(1, 2, 3)).mean()
    scale = {"R": 1.0, "P": 0.875, "E": 0.875}[kind]
    assert covered == pytest.approx(28**2 * scale**2, rel=0.1)
    middle = distort(square, kind, generator(), 60)[:, 0, 29:31, 29:31]
    assert middle.mean() > 0.97


@pytest.mark.parametrize(("kind", "size"), [("T", 84), ("TC", 60), ("T", 30), ("TC", 28)])
def test_T_and_TC_hold_the_whole_digit(digits, kind, size):
    """Each digit is found at one place, whole; every place is possible."""
    images = distort(digits.repeat(8, axis=0), kind, generator(), size, None if kind == "T" else 0)
    tops, lefts = [], []
    for digit, image in zip(digits.repeat(8, axis=0)[:, 0] / 255, images[:, 0], strict=True):
        ink = np.argwhere(digit)
        top, left = np.argwhere(image).min(axis=0) - ink.min(axis=0)
        expected = np.zeros((size, size))
        expected[top : top + 28, left : left + 28] = digit
        np.testing.assert_allclose(image, expected, atol=1e-6)
        tops.append(top)
        lefts.append(left)
    room = size - 28
    for places in (tops, lefts):
        assert min(places) >= 0 and max(places) <= room
        assert min(places) <= room / 20 and max(places) >= room * 19 / 20
        assert np.std(places) == pytest.approx(np.sqrt(((room + 1) ** 2 - 1) / 12), rel=0.15)


def test_TC_adds_patches_to_T(digits):
    plain = distort(digits, "T", generator(), 60)
    for patches in (None, 1, 16):
        cluttered = distort(digits, "TC", generator(), patches=patches)
        assert (cluttered >= plain).all()
        added = (cluttered > plain).sum(axis=(1, 2, 3))
        assert added.max() <= 36 * (patches or 6)
        assert (added > 0).any()
    more = distort(digits, "TC", generator(), patches=40)
    assert (more > 0).sum() > 1.5 * (cluttered > 0).sum()


def test_the_patches_are_of_other_digits():
    """Among three pictures of one grey each, every patch has the grey of another."""
    greys = np.array([0.25, 0.5, 1.0])
    dark = np.zeros((3, 1, 28, 28))
    plain = greys[:, None, None, None] + dark
    images = distort(np.concatenate([dark[:1], plain]), "TC", generator(), 90, patches=30)
    assert set(np.unique(images[0])) == {0, *greys}
    for i, own in enumerate(greys):
        others = {*greys} - {own}
        inked = np.unique(images[i + 1])
        assert {0, own} < set(inked) <= {0, own, *others}


def test_no_patch_is_of_the_digit_itself():
    dark, bright = np.zeros((1, 1, 28, 28)), np.ones((1, 1, 28, 28))
    images = distort(np.concatenate([dark, bright]), "TC", generator(), 90, patches=30)
    assert images[0].max() == 1
    assert images[1].sum() == 28 * 28


def test_ink_of_a_patch_covers_and_its_background_does_not():
    bright, faint = np.ones((1, 1, 28, 28)), np.full((1, 1, 28, 28), 0.5)
    images = distort(np.concatenate([bright, faint]), "TC", generator(), 28, patches=9)
    assert (images[0] == 1).all()
    assert set(np.unique(images[1])) == {0.5, 1}


# --- homographies -------------------------------------------------------------------------------


def test_a_homography_takes_four_points_where_they_shall_go(rng):
    points = rng.uniform(0, 27, (4, 2))
    moved = points + rng.normal(0, 2, (5, 4, 2))
    h = homography(points, moved)
    there = h @ np.concatenate([points.T, np.ones((1, 4))])
    np.testing.assert_allclose((there[:, :2] / there[:, 2:]).transpose(0, 2, 1), moved, atol=1e-8)
    assert (h[:, 2, 2] == 1).all()


def test_theta_of_a_homography_takes_the_corners_back():
    """The corners of the output window, seen in the input, are where they came from."""
    corners = np.array([[0.0, 0], [8, 0], [0, 4], [8, 4]])
    moved = np.array([[[1.0, 0], [8, 1], [0, 3], [7, 4]]])
    theta = spatial.theta_from_pixels(homography(corners, moved), (5, 9), (5, 9))
    grid = spatial.Projective().grid(theta, (5, 9)).numpy()[0]
    seen = [(grid[int(y), int(x)] + 1) * [4, 2] for x, y in moved[0]]
    np.testing.assert_allclose(seen, corners, atol=1e-9)


# --- wrong input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "kind", "options", "words"),
    [
        ((2, 1, 28, 28), "Q", {}, "kind must be one of R, RTS, P, E, T, TC, not 'Q'"),
        ((2, 28, 28), "R", {}, r"images must be \(N, 1, H, W\), not \(2, 28, 28\)"),
        ((2, 3, 28, 28), "T", {}, r"images must be \(N, 1, H, W\), not \(2, 3, 28, 28\)"),
        ((2, 28, 28, 1), "R", {}, r"images must be \(N, 1, H, W\), not \(2, 28, 28, 1\)"),
        ((2, 1, 28, 28), "T", {"size": 27}, r"\(27, 27\) is smaller than the images, \(28, 28\)"),
        ((2, 1, 28, 28), "R", {"size": 0}, r"\(0, 0\) is smaller than the images, \(28, 28\)"),
        ((2, 1, 50, 28), "RTS", {}, r"\(42, 42\) is smaller than the images, \(50, 28\)"),
        ((2, 1, 28, 28), "T", {"patches": 6}, "T has no patches, only TC has"),
    ],
)
def test_what_cannot_be_distorted(shape, kind, options, words):
    with pytest.raises(ValueError, match=f"^distort: {words}"):
        distort(np.zeros(shape), kind, generator(), **options)


# The ink of the first ten test digits, and of each of the first four its sum weighted by cos(i) for
# pixel i. Sums, not bytes: machines may differ in the last digit of a bilinear sample.
FIRST_IMAGES = {
    "R": (908.19, [-0.457, -0.797, -0.645, 1.938]),
    "RTS": (824.79, [-0.678, -1.34, -1.206, 1.596]),
    "P": (628.50, [-0.637, -1.463, -0.04, -1.402]),
    "E": (776.49, [1.75, -0.93, 0.443, 0.067]),
    "T": (908.28, [-1.74, -0.156, -1.249, 0.262]),
    "TC": (1297.01, [2.126, 2.437, 0.362, 3.99]),
}


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_the_test_set_is_always_the_same(kind):
    """A table whose digits changed unnoticed would compare nothing."""
    digits = datasets.MNIST(train=False)
    thousand = datasets.Images(digits.images[:1000], digits.labels[:1000])
    images, labels = datasets.distorted(thousand, kind, TEST_SEED)
    flat = images[:10].reshape(10, -1).astype(np.float64)
    ink, weighted = FIRST_IMAGES[kind]
    assert flat.sum() == pytest.approx(ink, abs=0.02)
    np.testing.assert_allclose((flat @ np.cos(np.arange(flat.shape[1])))[:4], weighted, atol=2e-3)
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
