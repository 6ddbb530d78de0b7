"""Transformations that are one matrix: by hand, their inverses, their products, and infinity."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformations import both_conventions, near_identity, pixels_of

import minist
from minist import Tensor, gradcheck, spatial, tensor
from minist.spatial import (
    Affine,
    Attention,
    Projective,
    Rotation,
    Scale,
    Similarity,
    Translation,
)
from minist.spatial.homogeneous import Inverse, PerspectiveDivision

GROUPS = {
    "Affine": Affine(),
    "Affine 3-D": Affine(3),
    "Attention": Attention(),
    "Attention of scale 1": Attention(scale=1),
    "Translation": Translation(),
    "Scale": Scale(),
    "Rotation": Rotation(aspect=1.5),
    "Similarity": Similarity(aspect=1.5),
    "Projective": Projective(),
}
invertible = pytest.mark.parametrize("transformation", GROUPS.values(), ids=GROUPS)


def points_for(transformation, rng, n, count=7):
    return rng.uniform(-1, 1, (n, count, transformation.dimensions))


# --- by hand ------------------------------------------------------------------------------------


def test_affine_by_hand():
    """Eq. (1) at the upper right and the lower left corner."""
    theta = np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    grid = Affine().grid(theta, (2, 2)).numpy()[0]
    assert grid[0, 1].tolist() == [1 - 2 + 3, 4 - 5 + 6]
    assert grid[1, 0].tolist() == [-1 + 2 + 3, -4 + 5 + 6]


def test_affine_in_space_by_hand():
    """At the near upper right corner (1, -1, -1): x, y, z in this order."""
    theta = np.arange(1.0, 13)[None]
    grid = Affine(3).grid(theta, (2, 2, 2)).numpy()[0]
    assert grid[0, 0, 1].tolist() == [1 - 2 - 3 + 4, 5 - 6 - 7 + 8, 9 - 10 - 11 + 12]


@pytest.mark.parametrize("dimensions", [1, 4, 2.5])
def test_affine_is_of_the_plane_or_of_space(dimensions):
    with pytest.raises(ValueError, match=f"Affine: dimensions are 2 or 3, not {dimensions}"):
        Affine(dimensions)


SPECIAL_CASES = [
    (Attention(), [0.5, 0.1, -0.2], [[0.5, 0, 0.1], [0, 0.5, -0.2]]),  # Eq. (2)
    (Attention(scale=0.5), [0.1, -0.2], [[0.5, 0, 0.1], [0, 0.5, -0.2]]),
    (Translation(), [0.1, -0.2], [[1, 0, 0.1], [0, 1, -0.2]]),
    (Scale(), [0.5, 3], [[0.5, 0, 0], [0, 3, 0]]),
    (Rotation(), [np.pi / 6], [[0.75**0.5, -0.5, 0], [0.5, 0.75**0.5, 0]]),
    (Rotation(aspect=2), [np.pi / 6], [[0.75**0.5, -0.25, 0], [1, 0.75**0.5, 0]]),
    (Similarity(), [2, np.pi / 2, 0.1, -0.2], [[0, -2, 0.1], [2, 0, -0.2]]),
    (Similarity(aspect=4), [2, -np.pi / 2, 0.1, -0.2], [[0, 0.5, 0.1], [-8, 0, -0.2]]),
]


@pytest.mark.parametrize(("transformation", "theta", "matrix"), SPECIAL_CASES, ids=str)
def test_special_cases_of_the_affine_transformation(transformation, theta, matrix):
    grid = transformation.grid(np.array([theta], float), (3, 4)).numpy()
    affine = Affine().grid(np.array(matrix, float).reshape(1, 6), (3, 4)).numpy()
    np.testing.assert_allclose(grid, affine, rtol=1e-14, atol=1e-15)


def test_projective_by_hand():
    theta = np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.25, 0.5]])
    grid = Projective().grid(theta, (2, 2)).numpy()[0]
    np.testing.assert_allclose(grid[0, 1], [2 / 0.75, 5 / 0.75])
    np.testing.assert_allclose(grid[1, 0], [4 / 1.25, 7 / 1.25])


def test_a_projective_grid_without_a_horizon_is_affine(rng):
    theta = rng.normal(size=(3, 6))
    projective = np.concatenate([theta, np.zeros((3, 2))], axis=1)
    np.testing.assert_allclose(
        Projective().grid(projective, (4, 5)).numpy(), Affine().grid(theta, (4, 5)).numpy()
    )


def test_a_projective_transformation_keeps_lines_straight_and_cross_ratios(rng):
    theta = near_identity(Projective(), 1, rng)
    t = np.array([-0.9, -0.2, 0.3, 0.8])
    line = np.stack([0.3 + 0.7 * t, -0.2 + 0.4 * t], axis=1)
    seen = Projective().transform(theta, line[None]).numpy()[0]
    away = seen - seen[0]
    np.testing.assert_allclose(away[:, 0] * away[1, 1], away[:, 1] * away[1, 0], atol=1e-12)

    def cross_ratio(s):
        return (s[2] - s[0]) * (s[3] - s[1]) / ((s[2] - s[1]) * (s[3] - s[0]))

    assert cross_ratio(seen[:, 0]) == pytest.approx(cross_ratio(t))
    assert (seen[3] - seen[1])[0] / (seen[1] - seen[0])[0] != pytest.approx(1 / 0.7)


# --- turns of images that are not square --------------------------------------------------------


def aspect_of(h, w, align_corners):
    return (w - 1) / (h - 1) if align_corners else w / h


@pytest.mark.parametrize("kind", [Rotation, Similarity])
@both_conventions
@given(h=st.integers(2, 60), w=st.integers(2, 60), angle=st.floats(-7, 7), s=st.floats(0.2, 3))
@settings(max_examples=30, deadline=None)
def test_a_turn_keeps_angles_and_proportions(kind, align_corners, h, w, angle, s):
    # Lasagne 782: in normalised coordinates 30 degrees of 28x56 leave the axes 123.8 degrees apart
    transformation = kind(aspect=aspect_of(h, w, align_corners))
    theta, s = ([angle], 1.0) if kind is Rotation else ([s, angle, 0.3, -0.2], s)
    grid = transformation.grid(np.array([theta]), (h, w), align_corners).numpy()[0]
    pixels = pixels_of(grid, (h, w), align_corners)
    across, down = pixels[0, 1] - pixels[0, 0], pixels[1, 0] - pixels[0, 0]
    turned = s * np.array([np.cos(angle), np.sin(angle)])  # y points down: clockwise
    np.testing.assert_allclose(across, turned, atol=1e-9)
    np.testing.assert_allclose(down, [-turned[1], turned[0]], atol=1e-9)


def test_without_the_aspect_a_turn_shears():
    grid = Rotation().grid(np.array([[np.pi / 6]]), (28, 56), False).numpy()[0]
    pixels = pixels_of(grid, (28, 56), False)
    across, down = pixels[0, 1] - pixels[0, 0], pixels[1, 0] - pixels[0, 0]
    cosine = across @ down / np.linalg.norm(across) / np.linalg.norm(down)
    assert abs(np.rad2deg(np.arccos(cosine)) - 90) > 30


@both_conventions
def test_a_quarter_turn_is_numpy_s(rng, align_corners):
    u = rng.normal(size=(1, 1, 5, 5))
    grid = Rotation().grid(np.array([[np.pi / 2]]), (5, 5), align_corners)
    v = spatial.grid_sample(u, grid, align_corners=align_corners).numpy()
    # The window turns clockwise, what is seen in it the other way.
    np.testing.assert_allclose(v[0, 0], np.rot90(u[0, 0]), atol=1e-12)


# --- inverses -----------------------------------------------------------------------------------


@invertible
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_the_inverse_undoes(transformation, seed):
    rng = np.random.default_rng(seed)
    theta = near_identity(transformation, 3, rng, 0.25)
    back = transformation.inverse(theta)
    points = points_for(transformation, rng, 3)
    there = transformation.transform(theta, points)
    np.testing.assert_allclose(transformation.transform(back, there).numpy(), points, atol=1e-8)
    np.testing.assert_allclose(transformation.inverse(back).numpy(), theta, atol=1e-8)
    product = transformation.compose(theta, back).numpy()
    np.testing.assert_allclose(product, np.tile(transformation.identity(), (3, 1)), atol=1e-8)


@invertible
def test_the_inverse_has_a_gradient(rng, transformation):
    theta = Tensor(near_identity(transformation, 2, rng, 0.3), requires_grad=True)
    assert gradcheck(transformation.inverse, theta)


@invertible
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inverse_and_product_keep_the_dtype(transformation, dtype):
    theta = tensor(transformation.identity()[None].astype(dtype))
    assert transformation.inverse(theta).dtype == np.dtype(dtype)
    assert transformation.compose(theta, theta).dtype == np.dtype(dtype)


@invertible
def test_inverse_and_product_of_no_images(transformation):
    theta = np.zeros((0, transformation.num_parameters))
    assert transformation.inverse(theta).shape == theta.shape
    assert transformation.compose(theta, theta).shape == theta.shape


@pytest.mark.parametrize(
    ("transformation", "singular"),
    [
        (Affine(), [0, 0, 1, 0, 0, 2]),
        (Affine(), [1, 2, 0, 2, 4, 0]),
        (Affine(3), [0] * 12),
        (Attention(), [0, 1, 2]),
        (Scale(), [0, 2]),
        (Similarity(), [0, 1, 2, 3]),
        (Projective(), [0] * 8),
        (Projective(), [1, 0, 0, 0, 0, 1, 0, 1]),  # (x, y) from where h33 would be 0
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_where_there_is_no_inverse_it_is_not_finite_for_that_image_alone(
    transformation, singular, dtype
):
    """And there is no warning, which would be an error here."""
    theta = np.stack([singular, transformation.identity()]).astype(dtype)
    inverse = transformation.inverse(theta).numpy()
    assert not np.isfinite(inverse[0]).all()
    np.testing.assert_array_equal(inverse[1], transformation.identity())


def test_the_inverse_of_matrices_has_a_gradient(rng):
    a = Tensor(np.eye(3) + rng.uniform(-0.3, 0.3, (2, 3, 3)), requires_grad=True)
    np.testing.assert_allclose(Inverse.apply(a).numpy(), np.linalg.inv(a.data), rtol=1e-12)
    assert gradcheck(Inverse.apply, a)


def test_attention_with_a_fixed_scale_has_neither():
    fixed, theta = Attention(scale=0.5), np.zeros((1, 2))
    words = "has no inverse, and two of them are not one: the scale would be another"
    with pytest.raises(NotImplementedError, match=words):
        fixed.inverse(theta)
    with pytest.raises(NotImplementedError, match=words):
        fixed.compose(theta, theta)


# --- products -----------------------------------------------------------------------------------


@invertible
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_one_theta_for_two(transformation, seed):
    """compose(a, b) has the grid of a @ b."""
    rng = np.random.default_rng(seed)
    a, b = (near_identity(transformation, 2, rng, 0.3) for _ in range(2))
    size = (2, 3, 4)[-transformation.dimensions :]
    both = (transformation @ transformation).grid(np.concatenate([a, b], axis=1), size).numpy()
    one = transformation.grid(transformation.compose(a, b), size).numpy()
    near = abs(both) < 50  # a horizon may cross the output
    np.testing.assert_allclose(one[near], both[near], rtol=1e-7, atol=1e-9)


@invertible
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_products_are_associative_and_the_identity_is_neutral(transformation, seed):
    rng = np.random.default_rng(seed)
    a, b, c = (near_identity(transformation, 2, rng, 0.3) for _ in range(3))
    compose = transformation.compose
    np.testing.assert_allclose(
        compose(compose(a, b), c).numpy(), compose(a, compose(b, c)).numpy(), atol=1e-9
    )
    one = np.tile(transformation.identity(), (2, 1))
    np.testing.assert_allclose(compose(a, one).numpy(), a, atol=1e-12)
    np.testing.assert_allclose(compose(one, a).numpy(), a, atol=1e-12)


@invertible
def test_a_product_has_a_gradient_to_both(rng, transformation):
    a, b = (
        Tensor(near_identity(transformation, 2, rng, 0.3), requires_grad=True) for _ in range(2)
    )
    assert gradcheck(transformation.compose, [a, b])


def test_turns_add_up_beyond_half_a_turn():
    """The angle is the sum, not what a matrix would say of it: 3 turns are not none."""
    similarity, turn = Similarity(aspect=1.5), np.array([[1.0, 2.5, 0.1, 0.2]])
    theta = similarity.compose(similarity.compose(turn, turn), turn).numpy()
    assert theta[0, 1] == pytest.approx(7.5)
    assert similarity.inverse(theta).numpy()[0, 1] == pytest.approx(-7.5)
    assert Rotation().compose([[2.5]], [[2.5]]).numpy() == pytest.approx(5)
    assert Rotation().inverse([[2.5]]).numpy() == pytest.approx(-2.5)


def test_a_mirrored_similarity_stays_one(rng):
    """A negative scale is a half turn; the inverse keeps it negative."""
    theta = np.array([[-0.5, 0.3, 0.1, 0.2]])
    similarity, points = Similarity(), points_for(Similarity(), rng, 1)
    back = similarity.inverse(theta)
    assert back.numpy()[0, 0] == -2
    seen = similarity.transform(back, similarity.transform(theta, points))
    np.testing.assert_allclose(seen.numpy(), points, atol=1e-12)


@invertible
def test_widths_are_checked_here_too(transformation):
    p = transformation.num_parameters
    right, wrong = np.zeros((2, p)), np.zeros((2, p + 1))
    words = rf"theta must be \(N, {p}\), not \(2, {p + 1}\)"
    for call in (
        lambda: transformation.inverse(wrong),
        lambda: transformation.compose(wrong, right),
        lambda: transformation.compose(right, wrong),
    ):
        with pytest.raises(ValueError, match=words):
            call()


# --- the line at infinity -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("w", "slope"), [(4, -1 / 16), (6, -1 / 36), (0, 0), (-3, -1 / 9), (1e-9, 0), (-1e-9, 0)]
)
def test_the_gradient_of_the_division(w, slope):
    # kornia 367, 146
    point = Tensor(np.array([[1.0, 2.0, w]]), requires_grad=True)
    y = PerspectiveDivision.apply(point)
    y.backward(np.array([[1.0, 0.0]]))
    assert point.grad[0, 2] == pytest.approx(slope)
    assert point.grad[0, 0] == (pytest.approx(1 / w) if slope else 0)
    if slope:
        np.testing.assert_allclose(y.numpy(), [[1 / w, 2 / w]])
    else:
        assert (abs(y.numpy()) > 1e5).all()


def test_a_point_at_infinity_shows_nothing_and_teaches_nothing():
    theta = Tensor(np.array([[1.0, 0, 0, 0, 1, 0, -1, 0]]), requires_grad=True)  # w = 1 - x
    grid = Projective().grid(theta, (1, 3))
    v = spatial.grid_sample(np.ones((1, 1, 5, 7)), grid)
    assert v.numpy().ravel().tolist() == [1, 1, 0]
    v.backward(np.array([[[[0.0, 0.0, 1.0]]]]))
    assert (theta.grad == 0).all()


def test_points_of_ones_own_may_lie_at_infinity():
    theta = Tensor(np.array([[1.0, 0, 0, 0, 1, 0, -1, 0]]), requires_grad=True)
    points = Tensor(np.array([[[1.0, 0.5], [2.0, 0.5]]]), requires_grad=True)
    seen = Projective().transform(theta, points)
    assert (abs(seen.numpy()[0, 0]) > 1e5).all()
    np.testing.assert_allclose(seen.numpy()[0, 1], [-2, -0.5])
    to_points = minist.grad(seen.sum(), [points])[0]
    assert not to_points[0, 0].any() and np.isfinite(to_points).all() and to_points[0, 1].any()


# --- PyTorch's function -------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Since version 1.3.0, affine_grid:UserWarning")
@both_conventions
@pytest.mark.parametrize(
    "size", [(2, 3, 4, 5), (1, 1, 1, 1), (2, 1, 1, 6), (2, 1, 3, 4, 5), (1, 2, 1, 1, 3)]
)
def test_affine_grid_parity_with_torch(assert_same_as_torch, rng, size, align_corners):
    torch = pytest.importorskip("torch").nn.functional
    d = len(size) - 2
    assert_same_as_torch(
        lambda theta: spatial.affine_grid(theta, size, align_corners),
        lambda theta: torch.affine_grid(theta, size, align_corners=align_corners),
        rng.normal(size=(size[0], d, d + 1)),
    )


@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 1, 2, 4, 3)])
def test_affine_grid_gradient(leaf, size):
    d = len(size) - 2
    assert gradcheck(lambda theta: spatial.affine_grid(theta, size), leaf(2, d, d + 1))


def test_affine_grid_is_the_affine_transformation(rng):
    theta = rng.normal(size=(2, 6))
    np.testing.assert_array_equal(
        spatial.affine_grid(theta.reshape(2, 2, 3), (2, 1, 4, 5), False).numpy(),
        Affine().grid(theta, (4, 5), False).numpy(),
    )


def test_projective_grid_is_the_projective_transformation(rng):
    theta = near_identity(Projective(), 2, rng)
    np.testing.assert_array_equal(
        spatial.projective_grid(theta, (2, 1, 4, 5), False).numpy(),
        Projective().grid(theta, (4, 5), False).numpy(),
    )


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 3, 3), (1, 1, 4, 5)),
        ((2, 2, 3), (1, 1, 4, 5)),
        ((1, 6), (1, 1, 4, 5)),
        ((1, 2, 3), (1, 1, 2, 4, 5)),
    ],
)
def test_affine_grid_shapes(shape, size):
    with pytest.raises(ValueError, match=r"affine_grid: expected theta \(N, 2, 3\)"):
        spatial.affine_grid(tensor(np.ones(shape)), size)


def test_grids_of_whole_numbers():
    with pytest.raises(TypeError, match="theta must be floating, not int64"):
        spatial.affine_grid(np.ones((1, 2, 3), "int64"), (1, 1, 2, 2))
    with pytest.raises(TypeError, match="theta must be floating, not int64"):
        spatial.projective_grid(np.ones((1, 8), "int64"), (1, 1, 2, 2))
