"""The sampler: equations (3) to (7), at pixels, between them, at the border and far away."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minist
from minist import Tensor, gradcheck, no_grad, spatial
from minist.spatial.grid import regular_grid
from minist.spatial.kernels import BSpline, Gaussian, Lanczos
from minist.spatial.separable import GridSample

MODES = ("nearest", "bilinear", "bicubic")
KERNELS = (*MODES, Lanczos(2), Gaussian(), BSpline(2), ["bicubic", Gaussian(0.8)])
PADDINGS = ("zeros", "border", "reflection")
every_mode = pytest.mark.parametrize("mode", MODES)
every_padding = pytest.mark.parametrize("padding_mode", PADDINGS)
both_conventions = pytest.mark.parametrize("align_corners", [True, False])

SHAPES = {
    "image": ((2, 2, 3, 5), (3, 4)),
    "one pixel": ((2, 1, 1, 1), (3, 2)),
    "a row": ((1, 2, 1, 5), (2, 3)),
    "a column": ((2, 1, 5, 1), (2, 3)),
    "volume": ((2, 1, 3, 2, 4), (2, 3, 2)),
    "one voxel": ((1, 1, 1, 1, 1), (2, 1, 3)),
    "empty batch": ((0, 2, 3, 4), (2, 5)),
    "empty grid": ((2, 2, 3, 4), (0, 5)),
}
every_shape = pytest.mark.parametrize(("shape", "size"), SHAPES.values(), ids=SHAPES)


def normalised(pixel, n, align_corners=True):
    """The coordinate in -1..1 of a place in pixels."""
    pixel = np.asarray(pixel, dtype=float)
    return (2 * pixel - (n - 1)) / (max(n - 1, 1) if align_corners else n)


def generic_grid(rng, n, sizes, size, align_corners):
    """Points (n, *size, d) within and beyond the image, each well away from every kink.

    Kinks are pixels, the middles between them, the borders and the mirrors: multiples of half a
    pixel.
    """
    axes = []
    for side in reversed(sizes):
        half = rng.integers(-2 * side - 3, 4 * side + 3, (n, *size))
        axes.append(normalised((half + rng.uniform(0.1, 0.9, half.shape)) / 2, side, align_corners))
    return np.stack(axes, axis=-1)


def row_sampled(row, x, requires_grad=True, **options):
    """Values and slopes per pixel of a row of pixels at x, in pixels."""
    n, align_corners = len(row), options.get("align_corners", True)
    u = Tensor(np.asarray(row, dtype=float).reshape(1, 1, 1, n))
    points = np.zeros((1, 1, len(x), 2))
    points[..., 0] = normalised(x, n, align_corners)
    grid = Tensor(points, requires_grad=True)
    v = spatial.grid_sample(u, grid, **options)
    v.sum().backward()
    per_pixel = 2 / ((n - 1) if align_corners else n)
    return v.numpy().ravel(), grid.grad[..., 0].ravel() * per_pixel


# --- the equations, to the letter ---------------------------------------------------------------


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@both_conventions
def test_the_sums_of_the_paper(rng, mode, align_corners):
    """Eq. (4) and (5), summed over every pixel of the image for each point."""
    h, w = 3, 5
    u = rng.normal(size=(2, 2, h, w))
    grid = generic_grid(rng, 2, (h, w), (4, 3), align_corners)
    v = spatial.grid_sample(u, grid, mode, align_corners=align_corners).numpy()
    expected = np.zeros_like(v)
    for b, c, i, j in np.ndindex(*v.shape):
        x, y = (
            (g * ((side - 1) if align_corners else side) + side - 1) / 2
            for g, side in zip(grid[b, i, j], (w, h), strict=True)
        )
        for n, m in product(range(h), range(w)):
            if mode == "bilinear":
                k = max(0, 1 - abs(x - m)) * max(0, 1 - abs(y - n))
            else:
                k = (np.floor(x + 0.5) == m) * (np.floor(y + 0.5) == n)
            expected[b, c, i, j] += u[b, c, n, m] * k
    np.testing.assert_allclose(v, expected, atol=1e-12)


@every_shape
@every_mode
@every_padding
@both_conventions
def test_parity_with_torch(
    assert_same_as_torch, rng, shape, size, mode, padding_mode, align_corners
):
    torch = pytest.importorskip("torch").nn.functional
    if mode == "bicubic" and len(shape) == 5:
        pytest.skip("PyTorch has no tricubic")
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    assert_same_as_torch(
        lambda u, grid: spatial.grid_sample(u, grid, **options),
        lambda u, grid: torch.grid_sample(u, grid, **options),
        rng.normal(size=shape),
        generic_grid(rng, shape[0], shape[2:], size, align_corners),
    )


@every_mode
@every_padding
@both_conventions
def test_parity_with_torch_far_beyond(assert_same_as_torch, rng, mode, padding_mode, align_corners):
    """Up to ten images away, at quarters between pixels, whose coordinates are exact in float32."""
    torch = pytest.importorskip("torch").nn.functional
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    h, w = (3, 5) if align_corners else (2, 4)
    x, y = (normalised(rng.integers(-40, 40, 60) + 0.25, n, align_corners) for n in (w, h))
    assert_same_as_torch(
        lambda u, grid: spatial.grid_sample(u, grid, **options),
        lambda u, grid: torch.grid_sample(u, grid, **options),
        rng.normal(size=(1, 2, h, w)),
        np.stack([x, y], axis=-1)[None, None],
    )


@every_shape
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@every_padding
@both_conventions
def test_gradient(rng, leaf, shape, size, mode, padding_mode, align_corners):
    grid = generic_grid(rng, shape[0], shape[2:], size, align_corners)
    assert gradcheck(
        lambda u, g: spatial.grid_sample(u, g, mode, padding_mode, align_corners),
        [leaf(*shape), Tensor(grid, requires_grad=True)],
    )


# --- at the kinks -------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_parity_with_torch_at_pixels(assert_same_as_torch, rng, padding_mode):
    torch = pytest.importorskip("torch").nn.functional
    # On 5 pixels the coordinates are exact in both; beyond zeros, the outermost are another kink.
    x = normalised(np.arange(-2, 7) if padding_mode == "zeros" else np.arange(1, 4), 5)
    options = {"padding_mode": padding_mode, "align_corners": True}
    assert_same_as_torch(
        lambda u, grid: spatial.grid_sample(u, grid, **options),
        lambda u, grid: torch.grid_sample(u, grid, **options),
        rng.normal(size=(1, 2, 5, 5)),
        np.stack(np.meshgrid(x, x), axis=-1)[None],
    )


ROW = [2.0, 5.0, -1.0, 4.0, 3.0]


@both_conventions
@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
def test_the_slope_at_an_inner_pixel_is_the_right_hand_difference(padding_mode, align_corners):
    values, slopes = row_sampled(
        ROW, [1, 2, 3], padding_mode=padding_mode, align_corners=align_corners
    )
    assert values.tolist() == ROW[1:4]
    np.testing.assert_allclose(slopes, np.diff(ROW)[1:])


@both_conventions
def test_under_zeros_every_pixel_has_a_right_hand_slope(align_corners):
    """Of the last, -U[W - 1]; and one pixel before the first, U[0]."""
    values, slopes = row_sampled(ROW, range(-2, 7), align_corners=align_corners)
    np.testing.assert_allclose(values, [0, 0, *ROW, 0, 0], atol=1e-14)
    np.testing.assert_allclose(slopes, np.diff([0, 0, *ROW, 0, 0, 0]), atol=1e-14)


@both_conventions
def test_the_slope_is_zero_at_and_beyond_the_border_pixel(align_corners):
    # pytorch 23925
    values, slopes = row_sampled(
        ROW, [-7, -0.3, 0, 4, 4.2, 11], padding_mode="border", align_corners=align_corners
    )
    assert values.tolist() == [2, 2, 2, 3, 3, 3]
    assert (slopes == 0).all()


def test_reflection_turns_the_slope_round_at_the_centre_of_the_border_pixel():
    x = [-1.25, -0.25, 0, 0.25, 3.75, 4, 4.25, 8.25]
    values, slopes = row_sampled(ROW, x, padding_mode="reflection")
    assert values.tolist() == pytest.approx([3.5, 2.75, 2, 2.75, 3.25, 3, 3.25, 2.75])
    assert slopes.tolist() == pytest.approx([6, -3, 3, 3, -1, 1, 1, 3])


def test_reflection_at_the_edge_of_the_border_pixel():
    """Without align_corners the border pixel comes twice; between the two it is flat."""
    x = [-1.25, -0.75, -0.25, 4.25, 4.75, 5.25]
    values, slopes = row_sampled(ROW, x, padding_mode="reflection", align_corners=False)
    assert values.tolist() == pytest.approx([2.75, 2, 2, 3, 3, 3.25])
    assert slopes.tolist() == pytest.approx([-3, 0, 0, 0, 0, 1])


@both_conventions
def test_the_integer_kernel_rounds_half_up(align_corners):
    """floor(x + 0.5), Eq. (4), and its slope is 0, not missing."""
    values, slopes = row_sampled(
        ROW, [0.25, 0.5, 1.25, 1.5, 2.5, 3.75], mode="nearest", align_corners=align_corners
    )
    assert values.tolist() == [2, 5, 5, -1, 4, 3]
    assert (slopes == 0).all()


@both_conventions
@pytest.mark.parametrize("m", range(4))
def test_a_step_to_the_right_is_what_the_slope_says(m, align_corners):
    """Bilinear sampling is straight between pixels, so that even a long step tells the slope."""
    (here, there), (slope, _) = row_sampled(ROW, [m, m + 0.5], align_corners=align_corners)
    assert (there - here) / 0.5 == pytest.approx(slope)


# --- identity and shifts ------------------------------------------------------------------------


@both_conventions
@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_regular_grid_sees_every_pixel_and_its_right_hand_slope(
    rng, axis, align_corners, dtype
):
    # pytorch 81868, Lasagne 444
    for n in range(2, 129):
        shape = (1, 1, n, 3) if axis == 2 else (1, 1, 3, n)
        u = rng.uniform(size=shape).astype(dtype)
        points = regular_grid(shape[2:], align_corners)[:2].T.reshape(1, *shape[2:], 2)
        grid = Tensor(points.astype(dtype), requires_grad=True)
        v = spatial.grid_sample(u, grid, align_corners=align_corners)
        v.sum().backward()
        np.testing.assert_allclose(v.numpy(), u, atol=1e-6, strict=True)
        slope = np.diff(u, axis=axis, append=0) * ((n - 1) if align_corners else n) / 2
        found = grid.grad[..., 3 - axis]
        np.testing.assert_allclose(found, slope[:, 0], atol=1e-4, err_msg=f"{n} pixels")


def test_theta_moves_the_window_not_the_picture():
    # STN.keras 4
    row = np.arange(5.0).reshape(1, 1, 1, 5)
    theta = np.array([[[1.0, 0, 0.5], [0, 1, 0]]])
    v = spatial.grid_sample(row, spatial.affine_grid(theta, row.shape))
    assert v.numpy().ravel().tolist() == [1, 2, 3, 4, 0]


@pytest.mark.parametrize("c", [-0.42, 2.0])
def test_padded_with_a_constant(rng, c):
    # pytorch/tutorials 1117: a background other than 0
    u = rng.normal(size=(2, 1, 3, 4))
    grid = generic_grid(rng, 2, (3, 4), (5, 6), True)
    v = spatial.grid_sample(u - c, grid).numpy() + c
    wide = np.pad(u, ((0, 0), (0, 0), (9, 9), (9, 9)), constant_values=c)
    scale = np.array([3 / 21, 2 / 20])  # the same pixels in the wider image
    expected = spatial.grid_sample(wide, grid * scale, padding_mode="border").numpy()
    np.testing.assert_allclose(v, expected, atol=1e-10)


# --- far away, and no number at all -------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("x", [1e20, 3e38, np.inf, -np.inf, np.nan])
@every_mode
@every_padding
@both_conventions
def test_far_from_a_single_pixel(x, mode, padding_mode, align_corners):
    grid = Tensor(np.array([[[[x, 0.0]]]], dtype="float32"), requires_grad=True)
    u = np.full((1, 1, 1, 1), 7, dtype="float32")
    v = spatial.grid_sample(u, grid, mode, padding_mode, align_corners)
    v.backward(np.ones((1, 1, 1, 1)))
    assert v.item() in ((0, 7) if padding_mode == "zeros" else (7,))
    assert (grid.grad == 0).all()


@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_mode
@both_conventions
def test_what_is_no_number_is_pixel_0(padding_mode, dtype, mode, align_corners):
    u = np.arange(1.0, 13, dtype=dtype).reshape(1, 1, 3, 4)
    grid = Tensor(np.full((1, 1, 1, 2), np.nan, dtype), requires_grad=True)
    v = spatial.grid_sample(u, grid, mode, padding_mode, align_corners)
    v.sum().backward()
    assert v.item() == 1
    assert (grid.grad == 0).all()


# --- what is computed, and for whom -------------------------------------------------------------


@every_mode
@every_padding
def test_one_image_under_many_grids(rng, mode, padding_mode):
    # pytorch 71415: no copies are needed, and the gradient adds up
    u = rng.normal(size=(1, 2, 3, 5))
    grid = generic_grid(rng, 4, (3, 5), (2, 6), True)
    one = Tensor(u, requires_grad=True)
    many = Tensor(np.tile(u, (4, 1, 1, 1)), requires_grad=True)
    v = spatial.grid_sample(one, grid, mode, padding_mode)
    expected = spatial.grid_sample(many, grid, mode, padding_mode)
    g = rng.normal(size=v.shape)
    v.backward(g)
    expected.backward(g)
    np.testing.assert_allclose(v.numpy(), expected.numpy(), strict=True)
    np.testing.assert_allclose(one.grad, many.grad.sum(axis=0, keepdims=True), atol=1e-12)


@every_padding
@pytest.mark.parametrize("align_corners", [True, False])
def test_the_quick_way_of_the_bilinear_kernel_is_the_general_one(rng, padding_mode, align_corners):
    class General(spatial.kernels.Bilinear):
        pass

    found = []
    values, points = rng.normal(size=(3, 2, 4, 7)), rng.uniform(-1.4, 1.4, (3, 5, 2, 2))
    points[0, 0] = [[np.nan, 0.2], [-1.0, 1e30]]
    for mode in ("bilinear", General()):
        u, grid = (Tensor(a, requires_grad=True) for a in (values, points))
        v = spatial.grid_sample(u, grid, mode, padding_mode, align_corners)
        v.backward(np.cos(np.arange(v.size)).reshape(v.shape))
        found.append((v.grad_fn, v.numpy(), u.grad, grid.grad))
    (quick, *ours), (general, *expected) = found
    assert type(quick) is not type(general)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@every_mode
@pytest.mark.parametrize(("u", "grid"), [("f4", "f8"), ("f8", "f4"), ("f2", "f4")])
def test_mixed_precisions_meet_in_the_wider_one(rng, mode, u, grid):
    image = rng.random((1, 1, 4, 5)).astype(u)
    points = rng.uniform(-1, 1, (1, 3, 3, 2)).astype(grid)
    leaves = [Tensor(image, requires_grad=True), Tensor(points, requires_grad=True)]
    wider = np.result_type(u, grid)
    expected = [Tensor(leaf.data.astype(wider), requires_grad=True) for leaf in leaves]
    v, w = (spatial.grid_sample(*inputs, mode) for inputs in (leaves, expected))
    assert v.dtype == wider
    np.testing.assert_allclose(v.data, w.data, rtol=1e-5, atol=1e-5)
    for y in (v, w):
        y.sum().backward()
    for leaf, wide in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(leaf.grad, wide.grad.astype(leaf.dtype), rtol=1e-5, atol=1e-5)


@every_mode
def test_places_are_whole_also_where_float32_counts_no_more_by_ones(rng, mode):
    u = rng.random((16, 1, 1024, 1024), dtype=np.float32)  # more than 2^24 pixels
    last = np.array([1021, 1022, 1023])
    points = normalised(np.stack(np.meshgrid(last, last), axis=-1), 1024)
    grid = np.tile(points.astype(np.float32), (16, 1, 1, 1))
    v = spatial.grid_sample(u, grid, mode)
    np.testing.assert_array_equal(v.data, u[..., 1021:, 1021:])


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_only_the_wanted_gradient_is_computed(rng, monkeypatch, wanted):
    # pytorch 64977, 71415: an image that is data costs no scatter
    called = []
    plain = GridSample.adjoint
    monkeypatch.setattr(GridSample, "adjoint", lambda node, g: called.append(1) or plain(node, g))
    u = Tensor(rng.normal(size=(1, 1, 3, 4)), requires_grad=wanted[0])
    grid = Tensor(rng.uniform(-1, 1, (1, 2, 5, 2)), requires_grad=wanted[1])
    v = spatial.grid_sample(u, grid)
    given = v.grad_fn.backward(np.ones(v.shape))
    assert tuple(g is not None for g in given) == wanted
    assert (bool(called), bool(v.grad_fn.derivatives)) == wanted


def test_without_gradients_there_is_no_history(leaf):
    with no_grad():
        assert spatial.grid_sample(leaf(1, 1, 3, 4), leaf(1, 2, 2, 2)).grad_fn is None


shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))


kernels = st.sampled_from(KERNELS)


@given(
    shape=shapes,
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    mode=kernels,
    padding_mode=st.sampled_from(PADDINGS),
    align_corners=st.booleans(),
    antialias=st.booleans(),
    pixels=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_sampling_is_linear_in_U_and_backward_is_its_adjoint(
    shape, size, mode, padding_mode, align_corners, antialias, pixels, seed
):
    """<A u, g> = <u, A^T g> at all points, kinks too; Eq. (6) is the transpose of Eq. (3)."""
    rng = np.random.default_rng(seed)
    grid = rng.uniform(-2, 2, (shape[0], *size, 2))
    if pixels:
        grid = np.round(4 * grid) / 4
    u, other = (Tensor(rng.normal(size=shape), requires_grad=True) for _ in range(2))

    def sample(x):
        return spatial.grid_sample(x, grid, mode, padding_mode, align_corners, antialias)

    v = sample(u)
    combined = sample(Tensor(2 * u.data - 3 * other.data))
    np.testing.assert_allclose(combined.data, 2 * v.data - 3 * sample(other).data, atol=1e-10)
    g = rng.normal(size=v.shape)
    (adjoint,) = minist.grad(v, [u], g)
    np.testing.assert_allclose((v.data * g).sum(), (u.data * adjoint).sum(), atol=1e-10)


@given(
    shape=shapes,
    padding_mode=st.sampled_from(["border", "reflection"]),
    mode=kernels,
    align_corners=st.booleans(),
    antialias=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_a_constant_image_stays_constant(shape, padding_mode, mode, align_corners, antialias, seed):
    """Where there is no outside, the weights of every point sum to 1."""
    rng = np.random.default_rng(seed)
    grid = rng.uniform(-9, 9, (shape[0], 3, 4, 2))
    u = np.full(shape, 3.0)
    v = spatial.grid_sample(u, grid, mode, padding_mode, align_corners, antialias)
    np.testing.assert_allclose(v.numpy(), 3, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1), align_corners=st.booleans())
def test_on_a_ramp_composed_grids_are_composed_warps(seed, align_corners):
    """Bilinear sampling of x and y gives the coordinates back, inside of the image."""
    rng = np.random.default_rng(seed)
    first, second = (
        np.concatenate([rng.uniform(-0.3, 0.3, (2, 2)), rng.uniform(-0.2, 0.2, (2, 1))], axis=1)
        for _ in range(2)
    )
    square = np.vstack([second, [0, 0, 1]])
    ramps = np.moveaxis(regular_grid((6, 9), align_corners)[:2].reshape(2, 6, 9), 0, 0)[None]

    def warp(u, theta):
        grid = spatial.affine_grid(theta[None], (1, 1, 6, 9), align_corners)
        return spatial.grid_sample(u, grid, align_corners=align_corners)

    once, twice = warp(ramps, first @ square), warp(warp(ramps, first), second)
    np.testing.assert_allclose(once.numpy(), twice.numpy(), atol=1e-12)


@every_mode
@every_padding
@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (3, 2, 2, 4, 5)])
def test_layout(rng, layout, mode, padding_mode, shape):
    grid = generic_grid(rng, 3, shape[2:], (2, 3, 4)[: len(shape) - 2], True)
    arrays = rng.normal(size=shape), grid
    plain = [Tensor(a, requires_grad=True) for a in arrays]
    others = [Tensor(layout(a), requires_grad=True) for a in arrays]
    v = spatial.grid_sample(*plain, mode, padding_mode)
    w = spatial.grid_sample(*others, mode, padding_mode)
    g = rng.normal(size=v.shape)
    v.backward(g)
    w.backward(layout(g))
    np.testing.assert_allclose(w.numpy(), v.numpy(), rtol=1e-12)
    for a, b in zip(plain, others, strict=True):
        np.testing.assert_allclose(b.grad, a.grad, rtol=1e-10, atol=1e-12)


def test_the_batch_stays_innermost_in_memory(rng):
    u = Tensor(rng.normal(size=(2, 4, 5, 3)).transpose(3, 0, 1, 2), requires_grad=True)
    theta = Tensor(np.tile([1.0, 0, 0.2, 0, 1, 0], (3, 1)), requires_grad=True)
    v = spatial.grid_sample(u, spatial.Affine().grid(theta, (4, 5)))
    v.backward(np.ones(v.shape))
    assert np.moveaxis(v.numpy(), 0, -1).flags.c_contiguous
    assert np.moveaxis(u.grad, 0, -1).flags.c_contiguous


@every_mode
@every_padding
def test_float32_stays_float32(rng, mode, padding_mode):
    u = Tensor(rng.normal(size=(2, 1, 3, 4)).astype("float32"), requires_grad=True)
    grid = Tensor(rng.uniform(-2, 2, (2, 3, 2, 2)).astype("float32"), requires_grad=True)
    v = spatial.grid_sample(u, grid, mode, padding_mode)
    v.sum().backward()
    assert {v.dtype, u.grad.dtype, grid.grad.dtype} == {np.dtype("float32")}


def test_inputs_are_left_as_they_were(rng):
    u, grid = rng.normal(size=(1, 1, 3, 4)), rng.uniform(-2, 2, (1, 2, 2, 2))
    before = u.copy(), grid.copy()
    v = spatial.grid_sample(Tensor(u, requires_grad=True), Tensor(grid, requires_grad=True))
    g = np.ones(v.shape)
    v.backward(g)
    assert (u == before[0]).all() and (grid == before[1]).all() and (g == 1).all()


def test_images_without_channels(rng):
    v = spatial.grid_sample(
        Tensor(np.ones((2, 0, 3, 4)), True), Tensor(np.ones((2, 2, 5, 2)), True)
    )
    v.backward(np.ones(v.shape))
    assert v.shape == (2, 0, 2, 5)


# --- wrong input --------------------------------------------------------------------------------

IMAGE, GRID = np.ones((2, 1, 3, 4)), np.zeros((2, 5, 6, 2))


@pytest.mark.parametrize(
    ("u", "grid", "error", "words"),
    [
        (IMAGE[0], GRID, ValueError, r"expected images \(N, C, H, W\) with a grid"),
        (IMAGE, GRID[..., 0], ValueError, r"expected images \(N, C, H, W\) with a grid"),
        (IMAGE, np.zeros((2, 5, 6, 3)), ValueError, r"expected images \(N, C, H, W\) with a grid"),
        (IMAGE[:, :, None], GRID, ValueError, r"volumes \(N, C, D, H, W\) with a grid"),
        (IMAGE.astype("uint8"), GRID, TypeError, "images must be floating, not uint8: use astype"),
        (IMAGE, GRID.astype("int64"), TypeError, "grid must be floating, not int64: use astype"),
        (IMAGE, GRID.astype("float16"), TypeError, "a grid of float16 is too coarse"),
        (IMAGE, np.zeros((3, 5, 6, 2)), ValueError, "2 images but 3 grids"),
        (IMAGE, GRID[:1], ValueError, "2 images but 1 grids"),
        (np.ones((2, 1, 0, 4)), GRID, ValueError, "images without pixels"),
    ],
)
def test_arrays_that_do_not_fit(u, grid, error, words):
    with pytest.raises(error, match=f"^(Grid|Bilinear)Sample: .*{words}"):
        spatial.grid_sample(u, grid)


def test_kernels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"^(Grid|Bilinear)Sample: 1 kernels for 2 axes: give one"):
        spatial.grid_sample(IMAGE, GRID, ["bilinear"])


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (
            {"mode": "linear"},
            "mode must be one of nearest, bilinear, bicubic or a Kernel, not 'linear'",
        ),
        ({"mode": ["bilinear", "cubic"]}, "bicubic or a Kernel, not 'cubic'"),
        ({"padding_mode": "zero"}, "padding_mode must be one of zeros, border, reflection"),
    ],
)
def test_unknown_names(option, words):
    with pytest.raises(ValueError, match=words):
        spatial.grid_sample(IMAGE, GRID, **option)


@pytest.mark.parametrize("shape", [(1, 4, 4, 1), (2, 8, 8, 3), (1, 5, 4, 3)])
def test_a_narrow_image_of_many_channels_is_an_image(rng, shape):
    """No shape alone tells that channels stand last; what is known of its nets, a layer checks."""
    u = rng.normal(size=shape)
    grid = np.tile(regular_grid(shape[2:])[:2].T.reshape(*shape[2:], 2), (shape[0], 1, 1, 1))
    np.testing.assert_allclose(spatial.grid_sample(u, grid).numpy(), u)
