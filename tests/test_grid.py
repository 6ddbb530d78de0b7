"""Grids: where each transformation looks, its gradient, inverse, outline, and pixel matrices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minist
from minist import Tensor, gradcheck, spatial, tensor
from minist.spatial.grid import BasisGrid, regular_axis, regular_grid
from minist.spatial.homogeneous import PerspectiveDivision

TRANSFORMATIONS = {
    "affine": spatial.Affine(),
    "attention": spatial.Attention(),
    "projective": spatial.Projective(),
    "tps": spatial.ThinPlateSpline(4, 4),
    "tps 2x3": spatial.ThinPlateSpline(2, 3),
}
every_transformation = pytest.mark.parametrize(
    "transformation", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS
)
invertible = pytest.mark.parametrize(
    "transformation", [spatial.Affine(), spatial.Attention(), spatial.Projective()]
)
both_conventions = pytest.mark.parametrize("align_corners", [True, False])


def near_identity(transformation, n, rng, scale=0.1):
    deviation = rng.uniform(-scale, scale, (n, transformation.num_parameters))
    return transformation.identity() + deviation


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


# --- grids --------------------------------------------------------------------------------------


@every_transformation
@both_conventions
@pytest.mark.parametrize("size", [(3, 5), (1, 4), (1, 1), (6, 2)])
def test_the_identity_looks_at_each_pixel_itself(transformation, size, align_corners):
    grid = transformation.grid(transformation.identity()[None], size, align_corners).numpy()
    expected = regular_grid(size, align_corners)[:2].T.reshape(1, *size, 2)
    np.testing.assert_allclose(grid, expected, atol=1e-12, strict=True)


def test_affine_by_hand():
    """Eq. (1) at the upper right and the lower left corner."""
    theta = np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    grid = spatial.Affine().grid(theta, (2, 2)).numpy()[0]
    assert grid[0, 1].tolist() == [1 - 2 + 3, 4 - 5 + 6]
    assert grid[1, 0].tolist() == [-1 + 2 + 3, -4 + 5 + 6]


def test_projective_by_hand():
    theta = np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.25, 0.5]])
    grid = spatial.Projective().grid(theta, (2, 2)).numpy()[0]
    np.testing.assert_allclose(grid[0, 1], [2 / 0.75, 5 / 0.75])
    np.testing.assert_allclose(grid[1, 0], [4 / 1.25, 7 / 1.25])


def test_a_projective_grid_without_a_horizon_is_affine(rng):
    theta = rng.normal(size=(3, 6))
    projective = np.concatenate([theta, np.zeros((3, 2))], axis=1)
    np.testing.assert_allclose(
        spatial.Projective().grid(projective, (4, 5)).numpy(),
        spatial.Affine().grid(theta, (4, 5)).numpy(),
    )


@every_transformation
@both_conventions
@pytest.mark.parametrize("size", [(3, 5), (1, 4), (1, 1), (0, 3)])
def test_gradient(rng, transformation, size, align_corners):
    theta = Tensor(near_identity(transformation, 2, rng), requires_grad=True)
    assert gradcheck(lambda t: transformation.grid(t, size, align_corners), theta)


@pytest.mark.parametrize("size", [(3, 5), (2, 3, 4)])
def test_the_basis_has_a_gradient_too(leaf, size):
    """For a basis that is learnt (end of Sect. 3.2)."""
    m, basis = leaf(2, 3, 5), leaf(5, int(np.prod(size)))
    assert gradcheck(lambda m, b: BasisGrid.apply(m, b, size=size), [m, basis])


@every_transformation
def test_every_image_has_a_grid_of_its_own(rng, transformation):
    theta = near_identity(transformation, 3, rng)
    together = transformation.grid(theta, (3, 4)).numpy()
    for one, expected in zip(theta, together, strict=True):
        np.testing.assert_allclose(transformation.grid(one[None], (3, 4)).numpy()[0], expected)


@every_transformation
def test_layout_of_theta(rng, layout, transformation):
    theta = near_identity(transformation, 3, rng)
    expected = transformation.grid(theta, (3, 4)).numpy()
    other = Tensor(layout(theta), requires_grad=True)
    grid = transformation.grid(other, (3, 4))
    np.testing.assert_allclose(grid.numpy(), expected, rtol=1e-12, atol=1e-14)
    weights = rng.normal(size=grid.shape)
    plain = Tensor(theta, requires_grad=True)
    transformation.grid(plain, (3, 4)).backward(weights)
    grid.backward(layout(weights))
    np.testing.assert_allclose(other.grad, plain.grad, rtol=1e-12, atol=1e-12)


@every_transformation
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_is_kept(transformation, dtype):
    theta = Tensor(transformation.identity()[None].astype(dtype), requires_grad=True)
    grid = transformation.grid(theta, (3, 4))
    grid.sum().backward()
    assert grid.dtype == theta.grad.dtype == np.dtype(dtype)


@every_transformation
def test_empty_batch(transformation):
    theta = Tensor(np.zeros((0, transformation.num_parameters)), requires_grad=True)
    grid = transformation.grid(theta, (3, 4))
    grid.sum().backward()
    assert grid.shape == (0, 3, 4, 2)
    assert theta.grad.shape == theta.shape


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
    grid = spatial.Projective().grid(theta, (1, 3))
    v = spatial.grid_sample(np.ones((1, 1, 5, 7)), grid)
    assert v.numpy().ravel().tolist() == [1, 1, 0]
    v.backward(np.array([[[[0.0, 0.0, 1.0]]]]))
    assert (theta.grad == 0).all()


# --- inverse and outline ------------------------------------------------------------------------


@invertible
def test_the_inverse_undoes(rng, transformation):
    theta = near_identity(transformation, 4, rng, 0.3)
    inverse = transformation.inverse(theta).numpy()
    np.testing.assert_allclose(transformation.inverse(inverse).numpy(), theta, atol=1e-10)

    def square(theta):
        m = transformation.matrix(Tensor(theta)).numpy()
        return np.concatenate([m, np.tile([[[0.0, 0, 1]]], (4, 1, 1))], axis=1)[:, :3]

    product = square(theta) @ square(inverse)
    product /= product[:, 2:, 2:]
    np.testing.assert_allclose(product, np.tile(np.eye(3), (4, 1, 1)), atol=1e-10)


@invertible
def test_the_inverse_has_a_gradient(rng, transformation):
    theta = Tensor(near_identity(transformation, 2, rng, 0.3), requires_grad=True)
    assert gradcheck(transformation.inverse, theta)


def test_a_class_without_an_inverse_says_so():
    spline = spatial.ThinPlateSpline()
    with pytest.raises(NotImplementedError, match="has no inverse of its own class"):
        spline.inverse(spline.identity()[None])


@every_transformation
@pytest.mark.parametrize(
    ("align_corners", "corners"),
    [
        (True, [(0, 0), (6, 0), (6, 3), (0, 3)]),
        (False, [(-0.5, -0.5), (6.5, -0.5), (6.5, 3.5), (-0.5, 3.5)]),
    ],
)
def test_the_outline_of_the_identity_is_the_border(transformation, align_corners, corners):
    theta = Tensor(transformation.identity()[None], requires_grad=True)
    outline = transformation.outline(theta, (4, 7), align_corners)
    assert outline.shape == (1, 64, 2)
    np.testing.assert_allclose(outline[0, ::16], corners, atol=1e-12)
    x, y = outline[0].T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    area = (x * next_y - next_x * y).sum() / 2  # positive: clockwise, y pointing down
    assert area == pytest.approx(6 * 3 if align_corners else 7 * 4)


def test_the_outline_of_a_crop():
    theta = np.array([[0.5, 0, 0.5, 0, 0.25, -0.75]])  # x in 0..1, y in -1..-0.5
    x, y = spatial.Affine().outline(theta, (9, 5))[0].T
    assert (x.min(), x.max(), y.min(), y.max()) == (2, 4, 0, 2)


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
        spatial.Affine().grid(theta, (4, 5), False).numpy(),
    )


def test_projective_grid_is_the_projective_transformation(rng):
    theta = near_identity(spatial.Projective(), 2, rng)
    np.testing.assert_array_equal(
        spatial.projective_grid(theta, (2, 1, 4, 5), False).numpy(),
        spatial.Projective().grid(theta, (4, 5), False).numpy(),
    )


# --- matrices in pixels -------------------------------------------------------------------------

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


@both_conventions
@pytest.mark.parametrize(("size_in", "size_out"), [*SIZES, ((1, 5), (3, 1))])
@pytest.mark.parametrize("width", [6, 8])
def test_to_pixels_and_back(rng, width, size_in, size_out, align_corners):
    identity = (spatial.Affine() if width == 6 else spatial.Projective()).identity()
    theta = identity + rng.uniform(-0.2, 0.2, (2, 3, width))
    matrix = spatial.theta_to_pixels(theta, size_in, size_out, align_corners)
    assert matrix.shape == (2, 3, width // 3 + (width == 8), 3)
    back = spatial.theta_from_pixels(matrix, size_in, size_out, align_corners)
    np.testing.assert_allclose(back, theta, rtol=1e-9, atol=1e-12)


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


# --- wrong input --------------------------------------------------------------------------------


@every_transformation
def test_a_theta_of_another_width(transformation):
    expected = rf"theta must be \(N, {transformation.num_parameters}\), not \(2, 5\)"
    with pytest.raises(ValueError, match=expected):
        transformation.grid(np.zeros((2, 5)), (3, 4))
    with pytest.raises(ValueError, match=r"theta must be \(N, "):
        transformation.grid(transformation.identity(), (3, 4))


@every_transformation
def test_whole_numbers_are_refused_and_lists_are_not(transformation):
    with pytest.raises(TypeError, match=r"theta must be floating, not int64: use astype"):
        transformation.grid(transformation.identity()[None].astype("int64"), (3, 4))
    grid = transformation.grid([transformation.identity().tolist()], (3, 4))
    np.testing.assert_allclose(grid.numpy()[0, 0, 0], [-1, -1], atol=1e-6)


@every_transformation
@pytest.mark.parametrize("size", [(3,), (2, 3, 4), (1, 2, 3, 4)])
def test_sizes_of_no_plane(transformation, size):
    with pytest.raises(ValueError, match=r"size of a grid is|B has 4 rows|moves the plane"):
        transformation.grid(transformation.identity()[None], size)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 3, 3), (1, 1, 4, 5)),
        ((2, 2, 3), (1, 1, 4, 5)),
        ((1, 2, 3), (4, 5)),
        ((1, 6), (1, 1, 4, 5)),
    ],
)
def test_affine_grid_shapes(shape, size):
    with pytest.raises(ValueError, match=r"affine_grid: expected theta \(N, 2, 3\)"):
        spatial.affine_grid(tensor(np.ones(shape)), size)


@pytest.mark.parametrize("shape", [(5,), (2, 9), ()])
def test_theta_to_pixels_of_another_width(shape):
    with pytest.raises(ValueError, match=r"theta is \(\.\.\., 6\) or"):
        spatial.theta_to_pixels(np.zeros(shape), (3, 4), (3, 4))


def test_a_pixel_matrix_of_another_shape():
    with pytest.raises(ValueError, match=r"a pixel matrix is \(\.\.\., 2, 3\) or"):
        spatial.theta_from_pixels(np.eye(2), (3, 4), (3, 4))


@given(
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    align_corners=st.booleans(),
)
def test_a_grid_is_linear_in_theta_and_backward_is_its_adjoint(h, w, seed, align_corners):
    """T = M B (Sect. 3.2), where M is linear in theta: <T(theta), g> = <theta, T^T(g)>."""
    rng = np.random.default_rng(seed)
    for transformation in (spatial.Affine(), spatial.ThinPlateSpline(3, 2)):
        theta = Tensor(rng.normal(size=(2, transformation.num_parameters)), requires_grad=True)
        grid = transformation.grid(theta, (h, w), align_corners)
        g = rng.normal(size=grid.shape)
        (adjoint,) = minist.grad(grid, [theta], g)
        np.testing.assert_allclose((grid.data * g).sum(), (theta.data * adjoint).sum(), atol=1e-9)


def test_repr():
    assert repr(spatial.Affine()) == "Affine()"
    assert repr(spatial.ThinPlateSpline(2, 3)) == "ThinPlateSpline(2, 3)"


# --- attention ----------------------------------------------------------------------------------


def test_attention_is_equation_2():
    grid = spatial.Attention().grid(np.array([[0.5, 0.1, -0.2]]), (3, 4)).numpy()
    affine = spatial.Affine().grid(np.array([[0.5, 0, 0.1, 0, 0.5, -0.2]]), (3, 4)).numpy()
    np.testing.assert_array_equal(grid, affine)


def test_attention_with_a_fixed_scale_only_moves():
    fixed = spatial.Attention(scale=0.5)
    assert fixed.num_parameters == 2
    theta = tensor(np.array([[0.1, -0.2]]), requires_grad=True)
    free = spatial.Attention().grid(np.array([[0.5, 0.1, -0.2]]), (3, 4)).numpy()
    np.testing.assert_array_equal(fixed.grid(theta, (3, 4)).numpy(), free)
    assert gradcheck(lambda theta: fixed.grid(theta, (3, 4)), theta)
    np.testing.assert_array_equal(fixed.identity(), [0, 0])
    with pytest.raises(NotImplementedError, match="has no inverse"):
        fixed.inverse(theta)
