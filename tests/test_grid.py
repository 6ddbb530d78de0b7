"""Grids: where each transformation looks, its gradient, its border; composition; T = M B."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformations import (
    BASES,
    SIMPLE,
    UNFIXED,
    both_conventions,
    clear_of_kinks,
    every_transformation,
    made,
    near_identity,
    pixels_of,
    waves,
    with_an_identity,
)

import minist
from minist import Tensor, gradcheck, nn, optim, spatial, tensor
from minist.spatial import (
    Affine,
    Attention,
    LinearBasis,
    PiecewiseAffine,
    Projective,
    Rotation,
    Scale,
    Similarity,
    SpatialTransformer,
    ThinPlateSpline,
    Translation,
    kernels,
)
from minist.spatial.grid import BasisGrid, regular_axis, regular_grid

# --- the regular grid ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "align_corners", "expected"),
    [
        (0, True, []),
        (1, True, [0]),
        (1, False, [0]),
        (2, True, [-1, 1]),
        (2, False, [-0.5, 0.5]),
        (5, True, [-1, -0.5, 0, 0.5, 1]),
        (4, False, [-0.75, -0.25, 0.25, 0.75]),
    ],
)
def test_regular_axis(n, align_corners, expected):
    assert regular_axis(n, align_corners).tolist() == expected


def test_the_regular_grid_of_an_image_is_x_then_y():
    x, y, one = regular_grid((2, 3)).reshape(3, 2, 3)
    assert x.tolist() == [[-1, 0, 1], [-1, 0, 1]]
    assert y.tolist() == [[-1, -1, -1], [1, 1, 1]]
    assert (one == 1).all()


def test_the_regular_grid_of_a_volume_is_x_y_then_z():
    x, y, z, one = regular_grid((2, 3, 5)).reshape(4, 2, 3, 5)
    assert x[0, 0].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert y[0, :, 0].tolist() == [-1, 0, 1]
    assert z[:, 0, 0].tolist() == [-1, 1]
    assert (one == 1).all()


def test_the_shared_regular_grid_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        regular_grid((2, 2))[0, 0] = 5


@pytest.mark.parametrize("size", [(3,), (1, 2, 3, 4)])
def test_a_regular_grid_has_two_or_three_sides(size):
    with pytest.raises(ValueError, match=r"the size of a grid is \(H', W'\) or \(D', H', W'\)"):
        regular_grid(size)


# --- every transformation -----------------------------------------------------------------------

SIZES = [(3, 5), (1, 4), (1, 1), (0, 3)]


@with_an_identity
@both_conventions
@pytest.mark.parametrize("size", [(3, 5), (1, 4), (1, 1), (6, 2)])
def test_the_identity_looks_at_each_pixel_itself(name, size, align_corners):
    transformation, size = made(name, size, align_corners)
    identity = transformation.identity()
    assert identity.shape == (transformation.num_parameters,)
    assert identity.dtype == np.float64
    grid = transformation.grid(identity[None], size, align_corners).numpy()
    expected = regular_grid(size, align_corners)[:-1].T.reshape(1, *size, len(size))
    np.testing.assert_allclose(grid, expected, atol=1e-12, strict=True)


@pytest.mark.parametrize("name", sorted({*UNFIXED} - BASES))
def test_the_identity_leaves_points_of_ones_own(rng, name):
    transformation, size = made(name, (3, 5))
    points = rng.uniform(-2, 2, (1, 3, 4, len(size)))
    seen = transformation.transform(transformation.identity()[None], points).numpy()
    np.testing.assert_allclose(seen, points, atol=1e-12, strict=True)


def test_attention_of_a_fixed_scale_starts_in_the_middle():
    half = Attention(scale=0.5)
    grid = half.grid(half.identity()[None], (3, 5)).numpy()
    np.testing.assert_allclose(grid[0].reshape(-1, 2), regular_grid((3, 5))[:2].T / 2)


@every_transformation
def test_changing_the_identity_changes_nothing_else(name):
    transformation, _ = made(name, (3, 5))
    before = transformation.identity()
    transformation.identity()[:] = 7
    np.testing.assert_array_equal(transformation.identity(), before)


@every_transformation
@both_conventions
@pytest.mark.parametrize("size", SIZES)
def test_gradient(rng, name, size, align_corners):
    transformation, size = made(name, size, align_corners)
    theta = Tensor(near_identity(transformation, 2, rng), requires_grad=True)
    assert gradcheck(lambda theta: transformation.grid(theta, size, align_corners), theta)


@every_transformation
def test_gradient_of_points_of_ones_own(rng, name):
    transformation, size = made(name, (3, 5))
    theta = Tensor(near_identity(transformation, 2, rng), requires_grad=True)
    points = Tensor(rng.uniform(-1.4, 1.4, (2, 3, 1, len(size))), requires_grad=True)
    if "LinearBasis" in name:
        with pytest.raises(NotImplementedError, match="B is known at its own pixels only"):
            transformation.transform(theta, points)
    else:
        assert gradcheck(transformation.transform, [theta, points])


@pytest.mark.parametrize("name", SIMPLE)
@both_conventions
def test_a_grid_is_the_transform_of_the_regular_grid(rng, name, align_corners):
    transformation, size = made(name, (3, 4))
    theta = near_identity(transformation, 2, rng)
    regular = regular_grid(size, align_corners)[:-1].T.reshape(1, *size, len(size))
    np.testing.assert_allclose(
        transformation.grid(theta, size, align_corners).numpy(),
        transformation.transform(theta, np.concatenate([regular, regular])).numpy(),
        atol=1e-12,
    )


@pytest.mark.parametrize("shape", [(2, 2), (2, 5, 2), (2, 3, 0, 2), (2, 2, 3, 4, 2)])
def test_points_of_any_arrangement(rng, shape):
    theta, points = rng.normal(size=(2, 6)), rng.normal(size=shape)
    a = theta.reshape(2, 2, 3)
    expected = np.einsum("nij,n...j->n...i", a[..., :2], points)
    expected += a[..., 2].reshape(2, *[1] * (len(shape) - 2), 2)
    seen = Affine().transform(theta, points)
    np.testing.assert_allclose(seen.numpy(), expected, rtol=1e-12, atol=1e-14, strict=True)


@every_transformation
def test_every_image_has_a_grid_of_its_own(rng, name):
    transformation, size = made(name, (3, 4))
    theta = near_identity(transformation, 3, rng)
    together = transformation.grid(theta, size).numpy()
    for one, expected in zip(theta, together, strict=True):
        np.testing.assert_allclose(
            transformation.grid(one[None], size).numpy()[0], expected, rtol=1e-12, atol=1e-14
        )


@every_transformation
def test_layout_of_theta(rng, layout, name):
    transformation, size = made(name, (3, 4))
    theta = near_identity(transformation, 3, rng)
    expected = transformation.grid(theta, size).numpy()
    other = Tensor(layout(theta), requires_grad=True)
    grid = transformation.grid(other, size)
    np.testing.assert_allclose(grid.numpy(), expected, rtol=1e-12, atol=1e-14)
    weights = rng.normal(size=grid.shape)
    plain = Tensor(theta, requires_grad=True)
    transformation.grid(plain, size).backward(weights)
    grid.backward(layout(weights))
    np.testing.assert_allclose(other.grad, plain.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["Affine", "Similarity", "ThinPlateSpline", "LinearBasis 3-D"])
def test_each_coordinate_of_a_grid_is_one_stretch_of_memory(rng, name):
    """With the batch innermost, as the sampler reads it."""
    transformation, size = made(name, (3, 4))
    grid = transformation.grid(near_identity(transformation, 3, rng), size).data
    assert grid.transpose(-1, *range(1, grid.ndim - 1), 0).flags.c_contiguous


@every_transformation
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_is_kept(name, dtype):
    transformation, size = made(name, (3, 4))
    theta = Tensor(transformation.identity()[None].astype(dtype), requires_grad=True)
    grid = transformation.grid(theta, size)
    grid.sum().backward()
    assert grid.dtype == theta.grad.dtype == np.dtype(dtype)


@every_transformation
def test_empty_batch(name):
    transformation, size = made(name, (3, 4))
    theta = Tensor(np.zeros((0, transformation.num_parameters)), requires_grad=True)
    grid = transformation.grid(theta, size)
    grid.sum().backward()
    assert grid.shape == (0, *size, len(size))
    assert theta.grad.shape == theta.shape


@pytest.mark.parametrize("name", SIMPLE)
def test_an_empty_batch_of_points(name):
    transformation, size = made(name, (3, 4))
    theta, points = np.zeros((0, transformation.num_parameters)), np.zeros((0, 5, 2, len(size)))
    assert transformation.transform(theta, points).shape == points.shape


@every_transformation
def test_a_basis_is_kept_for_each_size_convention_and_type(rng, name):
    """Whatever was asked before, also so often that the oldest are forgotten."""
    theta = near_identity(made(name, (2, 3))[0], 1, rng)
    questions = [
        (size, align_corners, dtype)
        for dtype in ("float64", "float32")
        for align_corners in (True, False)
        for size in ((2, 3), (3, 2), (1, 4), (4, 1), (3, 3))
    ]

    def ask(transformation, size, align_corners, dtype):
        grid = transformation.grid(theta.astype(dtype), size, align_corners)
        return grid.numpy()

    answers = [ask(*made(name, q[0], q[1]), *q[1:]) for q in questions]
    for question, expected in zip(questions, answers, strict=True):
        transformation, size = made(name, *question[:2])
        transformation.__dict__.pop("_bases", None)  # as if new
        fresh = ask(transformation, size, *question[1:])
        np.testing.assert_array_equal(fresh, expected, strict=True)


def test_threads_share_the_bases_of_a_transformation():
    affine, failed = Affine(), []
    expected = {n: Affine().grid([[1.0, 0, 0, 0, 1, 0]], (n, 2)).numpy() for n in range(1, 40)}

    def run(step):
        try:
            for n in [*range(1, 40)][::step] * 8:
                grid = affine.grid([[1.0, 0, 0, 0, 1, 0]], (n, 2))
                np.testing.assert_array_equal(grid.numpy(), expected[n])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(step,)) for step in (1, -1, 2, -3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@every_transformation
def test_no_history_without_a_gradient(rng, name):
    transformation, size = made(name, (2, 3))
    assert transformation.grid(near_identity(transformation, 1, rng), size).grad_fn is None


@pytest.mark.parametrize(
    ("transformation", "expected"),
    [
        (Affine(), "Affine()"),
        (Affine(3), "Affine(dimensions=3)"),
        (Attention(), "Attention()"),
        (Attention(scale=0.5), "Attention(scale=0.5)"),
        (Translation(), "Translation()"),
        (Scale(), "Scale()"),
        (Rotation(), "Rotation()"),
        (Rotation(aspect=2), "Rotation(aspect=2)"),
        (Similarity(), "Similarity()"),
        (Similarity(aspect=1.5), "Similarity(aspect=1.5)"),
        (Projective(), "Projective()"),
        (ThinPlateSpline(2, 3), "ThinPlateSpline(2, 3)"),
        (PiecewiseAffine(), "PiecewiseAffine(4, 4)"),
        (waves((3, 5), True), "LinearBasis(4x3x5)"),
        (waves((3, 5), True, learn=True), "LinearBasis(4x3x5, learn=True)"),
        (waves((2, 3, 5), True), "LinearBasis(5x2x3x5)"),
        (Affine() @ Scale(), "Affine() @ Scale()"),
        (Affine() @ Scale() @ Rotation(), "Affine() @ Scale() @ Rotation()"),
    ],
    ids=str,
)
def test_repr(transformation, expected):
    assert repr(transformation) == expected


# --- wrong input --------------------------------------------------------------------------------


@every_transformation
def test_a_theta_of_another_width(name):
    transformation, size = made(name, (3, 4))
    p = transformation.num_parameters
    expected = rf"{type(transformation).__name__}: theta must be \(N, {p}\), not \(2, {p + 1}\)"
    with pytest.raises(ValueError, match=expected):
        transformation.grid(np.zeros((2, p + 1)), size)
    with pytest.raises(ValueError, match=r"theta must be \(N, "):
        transformation.grid(transformation.identity(), size)
    with pytest.raises(ValueError, match=expected):
        transformation.transform(np.zeros((2, p + 1)), np.zeros((2, 3, len(size))))


@every_transformation
def test_whole_numbers_are_refused_and_lists_are_not(name):
    transformation, size = made(name, (3, 4))
    with pytest.raises(TypeError, match=r"theta must be floating, not int64: use astype"):
        transformation.grid(np.zeros((1, transformation.num_parameters), "int64"), size)
    grid = transformation.grid([transformation.identity().tolist()], size)
    assert grid.dtype == np.float32
    corner = -0.5 if "fixed" in name else -1
    np.testing.assert_allclose(grid.numpy()[(0,) * (len(size) + 1)], corner, atol=1e-6)


@every_transformation
def test_sizes_of_another_number_of_sides(name):
    transformation, right = made(name, (3, 4))
    sides = "H', W'" if len(right) == 2 else "D', H', W'"
    for size in {(), (3,), (3, 4), (2, 3, 4), (1, 2, 3, 4)} - {right}:
        with pytest.raises(ValueError, match=rf"size of a grid is \({sides}\), not \("):
            transformation.grid(transformation.identity()[None], size)


THETA = np.array([[1.0, 0, 0, 0, 1, 0]])


@pytest.mark.parametrize("size", [28, (28,), (-1, 3), (2.5, 3), None, "28"])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (regular_grid, "the size of a grid"),
        (lambda size: Affine().grid(THETA, size), "Affine: the size of a grid"),
        (lambda size: Affine().outline(THETA, size), "Affine: the size of an input"),
        (lambda size: spatial.affine_grid(THETA.reshape(1, 2, 3), size), "affine_grid: size"),
        (lambda size: spatial.projective_grid(np.ones((1, 8)), size), "projective_grid: size"),
        (lambda size: spatial.tps_grid(np.ones((1, 6)), size, np.eye(3, 2)), "tps_grid: size"),
        (lambda size: spatial.theta_from_pixels(np.eye(3), size, (3, 3)), "the size of an image"),
        (lambda size: spatial.theta_to_pixels(THETA, (3, 3), size), "the size of an image"),
        (
            lambda size: spatial.SpatialTransformer(None, Affine(), output_size=size or 0),
            "SpatialTransformer: output_size",
        ),
    ],
)
def test_what_is_no_size(call, name, size):
    """A negative side gave an empty grid."""
    with pytest.raises(ValueError, match=rf"^{name} is \(.*, not "):
        call(size)


@pytest.mark.parametrize("shape", [(2,), (1, 3, 2), (2, 3, 3), (2, 0), ()])
@pytest.mark.parametrize("transformation", [Affine(), Affine() @ Projective()], ids=repr)
def test_points_that_do_not_fit(transformation, shape):
    theta = np.tile(transformation.identity(), (2, 1))
    with pytest.raises(ValueError, match=r"2 theta need points \(2, \.\.\., 2\), not \("):
        transformation.transform(theta, np.zeros(shape))


@pytest.mark.parametrize("other", [None, 3, "Affine", Affine])
def test_only_transformations_can_be_composed(other):
    with pytest.raises(ValueError, match=r"Affine\(\) cannot be composed with"):
        Affine() @ other


def test_plane_and_space_cannot_be_composed():
    with pytest.raises(ValueError, match=r"Affine\(\) cannot be composed with Affine\(dim"):
        Affine() @ Affine(3)


# --- outline ------------------------------------------------------------------------------------

PLANAR = [name for name in SIMPLE if not name.endswith("3-D")]


def area(outline):
    """Of a polygon, positive if it is walked clockwise, with y pointing down."""
    x, y = outline.T
    next_x, next_y = np.roll(outline, -1, axis=0).T
    return (x * next_y - next_x * y).sum() / 2


@pytest.mark.parametrize("name", PLANAR)
@both_conventions
def test_the_outline_of_the_identity_is_the_border(name, align_corners):
    transformation, _ = made(name, (3, 4))
    theta = Tensor(transformation.identity()[None], requires_grad=True)
    outline = transformation.outline(theta, (4, 7), align_corners)
    assert outline.shape == (1, 64, 2)
    corners = np.array([(0, 0), (6, 0), (6, 3), (0, 3)])
    if not align_corners:  # the outer edges of the border pixels
        corners = corners + 0.5 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    sides = 6 * 3 if align_corners else 7 * 4
    if "fixed" in name:
        corners, sides = np.add(corners, [3, 1.5]) / 2, sides / 4
    np.testing.assert_allclose(outline[0, ::16], corners, atol=1e-12)
    assert area(outline[0]) == pytest.approx(sides)


@pytest.mark.parametrize("name", ["LinearBasis", "affine @ LinearBasis"])
@both_conventions
def test_the_outline_of_a_basis_are_its_border_pixels(name, align_corners):
    transformation, _ = made(name, (3, 5), align_corners)
    outline = transformation.outline(transformation.identity()[None], (3, 5), align_corners)
    border = [(x, 0) for x in range(4)] + [(4, y) for y in range(2)]
    border += [(x, 2) for x in range(4, 0, -1)] + [(0, y) for y in range(2, 0, -1)]
    np.testing.assert_allclose(outline, [border], atol=1e-12)


@pytest.mark.parametrize("name", PLANAR)
@both_conventions
def test_the_outline_goes_where_the_border_is_seen(rng, name, align_corners):
    transformation, _ = made(name, (3, 4))
    theta = near_identity(transformation, 2, rng, 0.2)
    outline = transformation.outline(theta, (9, 5), align_corners)
    side = np.linspace(-1, 1, 17)
    border = [(x, -1) for x in side] + [(1, y) for y in side[1:]]
    border += [(x, 1) for x in side[-2::-1]] + [(-1, y) for y in side[-2:0:-1]]
    seen = transformation.transform(theta, np.array([border, border])).numpy()
    np.testing.assert_allclose(outline, pixels_of(seen, (9, 5), align_corners), atol=1e-9)


@pytest.mark.parametrize(
    ("transformation", "theta"),
    [
        (Affine(), [0.5, 0, 0.5, 0, 0.25, -0.75]),
        (Projective(), [0.5, 0, 0.5, 0, 0.25, -0.75, 0, 0]),
        (Scale() @ Translation(), [0.5, 0.25, 1, -3]),
        (ThinPlateSpline(2, 2), [0, -1, 1, -1, 0, -0.5, 1, -0.5]),
        (PiecewiseAffine(2, 2), [0, -1, 1, -1, 0, -0.5, 1, -0.5]),
    ],
    ids=repr,
)
def test_the_outline_of_a_crop(transformation, theta):
    x, y = transformation.outline(np.array([theta]), (9, 5))[0].T  # x in 0..1, y in -1..-0.5
    bounds = (x.min(), x.max(), y.min(), y.max())
    np.testing.assert_allclose(bounds, (2, 4, 0, 2), atol=1e-12)


# --- composition --------------------------------------------------------------------------------

PAIRS = [
    (Affine(), ThinPlateSpline(3, 2)),
    (ThinPlateSpline(3, 2), Attention()),
    (Projective(), PiecewiseAffine(2, 3)),
    (PiecewiseAffine(2, 3), Rotation(aspect=1.5)),
    (Similarity(), Projective()),
    (Translation(), Scale()),
]
pairs = pytest.mark.parametrize(("a", "b"), PAIRS, ids=repr)


@pairs
@both_conventions
def test_the_grid_of_a_composition_is_the_transform_of_the_grid(rng, a, b, align_corners):
    theta_a, theta_b = near_identity(a, 2, rng), near_identity(b, 2, rng)
    both = np.concatenate([theta_a, theta_b], axis=1)
    grid = (a @ b).grid(both, (3, 4), align_corners).numpy()
    expected = a.transform(theta_a, b.grid(theta_b, (3, 4), align_corners)).numpy()
    np.testing.assert_array_equal(grid, expected)
    assert (a @ b).num_parameters == a.num_parameters + b.num_parameters


@given(seed=st.integers(0, 2**32 - 1), align_corners=st.booleans())
@settings(max_examples=30, deadline=None)
def test_composition_is_associative(seed, align_corners):
    rng = np.random.default_rng(seed)
    parts = [rng.choice(np.array([pair[0] for pair in PAIRS], object)) for _ in range(3)]
    a, b, c = parts
    theta = np.concatenate([near_identity(part, 2, rng) for part in parts], axis=1)
    left = ((a @ b) @ c).grid(theta, (3, 4), align_corners).numpy()
    right = (a @ (b @ c)).grid(theta, (3, 4), align_corners).numpy()
    np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12)


def test_the_identity_is_the_neutral_element(rng):
    b, theta = ThinPlateSpline(3, 2), near_identity(ThinPlateSpline(3, 2), 2, rng)
    one = np.tile(Affine().identity(), (2, 1))
    expected = b.grid(theta, (3, 4)).numpy()
    for composed, both in ((Affine() @ b, [one, theta]), (b @ Affine(), [theta, one])):
        grid = composed.grid(np.concatenate(both, axis=1), (3, 4)).numpy()
        np.testing.assert_allclose(grid, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["affine @ spline", "ThinPlateSpline", "PiecewiseAffine 2x3"])
def test_what_has_no_inverse_and_no_composition_of_its_own_says_so(name):
    transformation, _ = made(name, (3, 4))
    one = transformation.identity()[None]
    with pytest.raises(NotImplementedError, match="has no inverse of its own class"):
        transformation.inverse(one)
    with pytest.raises(NotImplementedError, match="not one of its own class; a @ b is general"):
        transformation.compose(one, one)


# --- T = M(theta) B -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(3, 5), (2, 3, 4)])
def test_the_basis_has_a_gradient_too(leaf, size):
    """For a basis that is learnt (end of Sect. 3.2)."""
    m, basis = leaf(2, 3, 5), leaf(5, int(np.prod(size)))
    assert gradcheck(lambda m, b: BasisGrid.apply(m, b, size=size), [m, basis])


def test_a_matrix_and_a_basis_that_do_not_fit():
    with pytest.raises(ValueError, match="M has 4 columns, but B has 3 rows"):
        BasisGrid.apply(np.zeros((1, 2, 4)), np.zeros((3, 6)), size=(2, 3))


@given(
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    align_corners=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_grid_is_linear_in_theta_and_backward_is_its_adjoint(h, w, seed, align_corners):
    """T = M B (Sect. 3.2), where M is linear in theta: <T(theta), g> = <theta, T^T(g)>."""
    rng = np.random.default_rng(seed)
    linear = (Affine(), Scale(), Attention(), ThinPlateSpline(3, 2), PiecewiseAffine(2, 3))
    for transformation in (*linear, waves((h, w), align_corners)):
        theta = Tensor(rng.normal(size=(2, transformation.num_parameters)), requires_grad=True)
        grid = transformation.grid(theta, (h, w), align_corners)
        g = rng.normal(size=grid.shape)
        (adjoint,) = minist.grad(grid, [theta], g)
        np.testing.assert_allclose((grid.data * g).sum(), (theta.data * adjoint).sum(), atol=1e-9)


def basis_of(transformation, size, align_corners):
    """B of a transformation at the regular grid, as it stands in the table of `grid.py`."""
    points = regular_grid(size, align_corners)[:-1]
    return transformation.basis_at(tensor(points[None])).numpy()[0].reshape(-1, *size)


@pytest.mark.parametrize(
    "transformation",
    [
        Affine(),
        Affine(3),
        Attention(),
        Attention(scale=0.7),
        Translation(),
        Scale(),
        Rotation(aspect=1.5),
        Similarity(aspect=1.5),
        ThinPlateSpline(4, 4),
        ThinPlateSpline(2, 3),
        PiecewiseAffine(4, 4),
        PiecewiseAffine(2, 3),
    ],
    ids=repr,
)
@both_conventions
def test_every_transformation_is_an_instance_of_the_linear_basis(
    rng, transformation, align_corners
):
    """With its B and its M(theta), to the bit."""
    size = (2, 3, 4) if transformation.dimensions == 3 else (3, 4)
    general = LinearBasis(
        basis_of(transformation, size, align_corners), align_corners=align_corners
    )
    theta = near_identity(transformation, 2, rng)
    m = transformation.matrix(tensor(theta)).numpy()
    np.testing.assert_array_equal(
        general.grid(m.reshape(2, -1), size, align_corners).numpy(),
        transformation.grid(theta, size, align_corners).numpy(),
    )


@pytest.mark.parametrize("rows_and_cols", [(4, 4), (2, 3)])
@pytest.mark.parametrize("kind", [ThinPlateSpline, PiecewiseAffine])
def test_the_basis_of_control_points_is_theirs_at_themselves(kind, rows_and_cols):
    """The weight of each control point is 1 there and 0 at the others, and the weights sum to 1."""
    transformation = kind(*rows_and_cols)
    at_points = transformation.basis_at(tensor(transformation.control_points.T[None])).numpy()
    np.testing.assert_allclose(at_points[0], np.eye(len(at_points[0])), atol=1e-12)
    anywhere = basis_of(transformation, (7, 5), False)
    np.testing.assert_allclose(anywhere.sum(axis=0), 1, atol=1e-12)


# --- a linear basis -----------------------------------------------------------------------------


def test_a_basis_of_a_wave_by_hand():
    x, y, one = regular_grid((3, 5)).reshape(3, 3, 5)
    basis = LinearBasis(np.stack([x, y, one, np.sin(np.pi * x)]))
    theta = np.array([[2.0, 0, 0.5, 0.0, 0, 1, 0, 0.25]])
    grid = basis.grid(theta, (3, 5)).numpy()[0]
    np.testing.assert_allclose(grid[..., 0], 2 * x + 0.5, atol=1e-15)
    np.testing.assert_allclose(grid[..., 1], y + 0.25 * np.sin(np.pi * x), atol=1e-15)


def test_a_basis_without_an_identity_starts_as_near_as_it_can():
    """Least squares: of a row of x alone, x is had and y is not."""
    x, y, _ = regular_grid((3, 5)).reshape(3, 3, 5)
    np.testing.assert_allclose(LinearBasis(x[None]).identity(), [1, 0], atol=1e-15)
    np.testing.assert_allclose(LinearBasis(2 * (x + y)[None]).identity(), [0.5 * 3 / 7, 2 / 7])


@both_conventions
def test_a_learnt_basis_has_a_gradient(rng, leaf, align_corners):
    basis = waves((2, 3), align_corners, learn=True)
    theta = leaf(2, 8)

    def run(b, theta):
        fresh = LinearBasis(b.data, learn=True, align_corners=align_corners)
        fresh.__dict__["B"] = b
        return fresh.grid(theta, (2, 3), align_corners)

    assert gradcheck(run, [Tensor(basis.B.data, requires_grad=True), theta])


def learner(learn):
    """A transformer whose basis is learnt, or not, and what it is to see."""
    rng = np.random.default_rng(1)
    transformation = waves((4, 6), True, learn=learn)
    net = nn.Sequential(nn.Flatten(), spatial.ThetaRegression(24, transformation))
    u = rng.normal(size=(2, 1, 4, 6)).astype(np.float32)
    return SpatialTransformer(net, transformation), u, rng.normal(size=u.shape)


@pytest.mark.parametrize("learn", [True, False])
def test_an_optimiser_trains_a_basis_to_be_learnt_and_no_other(learn):
    transformer, u, target = learner(learn)
    basis = transformer.transformation.B
    names = [name for name, p in transformer.named_parameters() if p.requires_grad]
    assert ("transformation.B" in names) == learn
    before = basis.numpy().copy()
    optimiser = optim.SGD(transformer.transformation.parameters(), lr=0.01)

    def loss():
        error = transformer(u) - target
        return (error * error).mean()

    first = loss()
    first.backward()
    assert (basis.grad is not None) == learn
    optimiser.step()
    assert np.array_equal(basis.numpy(), before) == (not learn)
    assert (loss().item() < first.item()) == learn


@pytest.mark.parametrize("learn", [True, False])
def test_a_basis_is_saved_with_the_network(learn, tmp_path):
    transformer, u, _ = learner(learn)
    transformer.transformation.B.data[3] *= 2.0
    transformer.localisation[1].bias.data[3] = 0.3
    minist.save(transformer, tmp_path / "model.safetensors")
    other, _, _ = learner(learn)
    assert not np.array_equal(other(u).numpy(), transformer(u).numpy())
    minist.load(other, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(other(u).numpy(), transformer(u).numpy())


@pytest.mark.parametrize(("size", "align_corners"), [((5, 3), True), ((3, 5), False)])
def test_a_basis_is_for_one_output_only(size, align_corners):
    basis = waves((3, 5), True)
    words = r"B is for an output of \(3, 5\) with align_corners=True, not \("
    with pytest.raises(ValueError, match=words):
        basis.grid(basis.identity()[None], size, align_corners)


@pytest.mark.parametrize("shape", [(15,), (3, 15), (1, 1, 3, 5, 2)])
def test_a_basis_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"B is \(K, H', W'\) or \(K, D', H', W'\), not \("):
        LinearBasis(np.zeros(shape))


def test_a_basis_is_the_right_member_of_a_composition(rng):
    basis = waves((3, 5), True)
    theta_a, theta_b = rng.normal(size=(2, 6)), rng.normal(size=(2, 8))
    grid = (Affine() @ basis).grid(np.concatenate([theta_a, theta_b], axis=1), (3, 5)).numpy()
    a, inner = theta_a.reshape(2, 1, 2, 3), basis.grid(theta_b, (3, 5)).numpy()
    expected = np.einsum("nhij,nhwj->nhwi", a[..., :2], inner) + a[:, :, None, :, 2]
    np.testing.assert_allclose(grid, expected, rtol=1e-12, atol=1e-14)
    with pytest.raises(NotImplementedError, match="can be the right one in a @ b"):
        (basis @ Affine()).grid(np.zeros((2, 14)), (3, 5))


# --- grid and sampler together: gradients of the whole warp -------------------------------------

KERNELS = {
    "nearest": "nearest",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "Lanczos": kernels.Lanczos(2),
    "Gaussian": kernels.Gaussian(0.6),
    "B-spline": kernels.BSpline(2),
}


def generic_theta(transformation, size_out, size_in, align_corners):
    """theta whose points are all well away from every kink of the sampler."""
    for seed in range(200):
        theta = near_identity(transformation, 2, np.random.default_rng(seed), 0.15)
        grid = transformation.grid(theta, size_out, align_corners).numpy()
        if clear_of_kinks(grid, size_in, align_corners):
            return theta
    raise AssertionError("no generic theta found")


@every_transformation
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@both_conventions
def test_gradient_of_the_whole_warp(rng, name, kernel, align_corners):
    """To the image and to theta, under every padding; along random directions, since the gradient
    of the grid to each parameter is checked above."""
    transformation, size_out = made(name, (2, 4), align_corners)
    size_in = (2, 3, 4)[-len(size_out) :]
    theta = generic_theta(transformation, size_out, size_in, align_corners)
    u = rng.normal(size=(2, 1, *size_in))
    towards_u, towards_theta = rng.normal(size=(2, u.size)), rng.normal(size=(3, theta.size))
    a, b = (Tensor(np.zeros((1, k)), requires_grad=True) for k in (2, 3))
    for padding_mode in ("zeros", "border", "reflection"):

        def warp(a, b, padding_mode=padding_mode):
            moved = (b @ towards_theta).reshape(theta.shape) + theta
            grid = transformation.grid(moved, size_out, align_corners)
            image = (a @ towards_u).reshape(u.shape) + u
            return spatial.grid_sample(image, grid, kernel, padding_mode, align_corners)

        assert gradcheck(warp, [a, b])
