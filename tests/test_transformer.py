"""The whole transformer: grid and sampler agree on where a pixel is, and the module around them."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers

import minist
from minist import Tensor, gradcheck, nn, optim, spatial
from minist.spatial import (
    Affine,
    LocalisationCNN,
    LocalisationFC,
    Projective,
    SpatialTransformer,
    ThetaRegression,
    ThinPlateSpline,
    share_outside,
)

TRANSFORMATIONS = {
    "affine": Affine(),
    "projective": Projective(),
    "tps": ThinPlateSpline(4, 4),
    "tps of 2x3": ThinPlateSpline(2, 3),
    "tps of 8x8": ThinPlateSpline(8, 8),
}
every_transformation = pytest.mark.parametrize(
    "transformation", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS
)
both_conventions = pytest.mark.parametrize("align_corners", [True, False])


def theta_of(transformation, matrix):
    """theta (1, num_parameters) of the affine map (2, 3) in any class that contains it."""
    if isinstance(transformation, ThinPlateSpline):
        ones = np.ones((len(transformation.control_points), 1))
        theta = np.concatenate([transformation.control_points, ones], axis=1) @ matrix.T
    else:
        theta = transformation.identity()
        theta[:6] = matrix.ravel()
    return theta.reshape(1, -1)


def window(size_in, size_out, top, left, align_corners):
    """The affine map in which output pixel (i, j) looks at input pixel (i + top, j + left)."""
    extent = np.array(size_in[::-1], float) - align_corners
    extent_out = np.array(size_out[::-1], float) - align_corners
    first = np.array([left, top]) - (np.array(size_in[::-1]) - 1) / 2
    middle = first + (np.array(size_out[::-1]) - 1) / 2
    return np.column_stack([np.diag(extent_out / extent), 2 * middle / extent])


def cut(image, size, top, left):
    """The window of an image, zeros where it leaves it."""
    far = 20
    padded = np.pad(image, [(0, 0), (0, 0), (far, far), (far, far)])
    return padded[..., far + top : far + top + size[0], far + left : far + left + size[1]]


# --- one convention for grid and sampler --------------------------------------------------------


@every_transformation
@both_conventions
def test_the_identity_gives_back_the_image_and_its_right_hand_slopes(
    rng, transformation, align_corners
):
    # pytorch 81868, Lasagne 444: every transformer starts here, and it is nothing but kinks
    theta = transformation.identity()[None].astype(np.float32)
    for w in range(2, 129, 1 if transformation.num_parameters < 64 else 9):
        h = 130 - w
        u = rng.uniform(-1, 1, (1, 1, h, w)).astype(np.float32)
        grid = transformation.grid(theta, (h, w), align_corners).detach()
        grid.requires_grad = True
        v = spatial.grid_sample(u, grid, align_corners=align_corners)
        np.testing.assert_allclose(v.numpy(), u, rtol=0, atol=1e-6)
        v.backward(np.ones(v.shape, np.float32))
        for axis, n in ((0, w), (1, h)):
            after = np.zeros((h, 1)) if axis == 0 else np.zeros((1, w))
            slope = np.diff(u[0, 0], axis=1 - axis, append=after)
            slope = slope * (n - align_corners) / 2
            np.testing.assert_allclose(grid.grad[0, ..., axis], slope, rtol=1e-4, atol=1e-4)


@every_transformation
@both_conventions
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size_in", [(5, 7), (10, 6)])
@pytest.mark.parametrize(
    ("size_out", "top", "left"),
    [
        ("the same", 0, 0),
        ("the same", 0, 1),
        ("the same", 2, 0),
        ("the same", -1, 3),
        ((3, 4), 1, 2),
        ((9, 8), -2, -1),
        ((2, 11), 4, -6),
    ],
)
def test_windows_of_whole_pixels_are_exact(
    rng, transformation, align_corners, dtype, size_in, size_out, top, left
):
    # kornia 3904, 3928: an error that grid and sampler share cancels at the identity, not here
    size_out = size_in if size_out == "the same" else size_out
    u = rng.uniform(-1, 1, (1, 2, *size_in)).astype(dtype)
    matrix = window(size_in, size_out, top, left, align_corners)
    theta = theta_of(transformation, matrix).astype(dtype)
    grid = transformation.grid(theta, size_out, align_corners)
    v = spatial.grid_sample(u, grid, align_corners=align_corners)
    tolerance = 1e-5 if dtype == "float32" else 1e-11
    np.testing.assert_allclose(v.numpy(), cut(u, size_out, top, left), rtol=0, atol=tolerance)


@every_transformation
def test_theta_moves_the_window_not_the_picture(transformation):
    # STN.keras 4: theta says where each output pixel looks
    row = np.arange(5.0).reshape(1, 1, 1, 5)
    theta = theta_of(transformation, np.array([[1.0, 0, 0.5], [0, 1, 0]]))
    v = spatial.grid_sample(row, transformation.grid(theta, (1, 5)))
    np.testing.assert_allclose(v.numpy().ravel(), [1, 2, 3, 4, 0], atol=1e-12)


@every_transformation
@both_conventions
@given(seed=integers(0, 2**32 - 1))
def test_composed_grids_are_composed_warps(transformation, align_corners, seed):
    """On a ramp, where interpolation is exact, and while no point leaves the image."""
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(-0.3, 0.3, (2, 2, 3))
    (h, w), middle, last = rng.integers(6, 12, (3, 2))
    y, x = np.mgrid[:h, :w]
    ramp = (2.0 * x - 3.0 * y + 1.0)[None, None]

    def warp(u, matrix, size):
        grid = transformation.grid(theta_of(transformation, matrix), size, align_corners)
        # The border pixels' centres are at -1 and 1, or inside.
        assert abs(grid.numpy()).max() <= 1 - 1 / min(u.shape[2:])
        return spatial.grid_sample(u, grid, align_corners=align_corners).numpy()

    a, b = 0.9 * a, 0.9 * b
    twice = warp(warp(ramp, a, tuple(middle)), b, tuple(last))
    product = a[:, :2] @ b
    product[:, 2] += a[:, 2]
    np.testing.assert_allclose(twice, warp(ramp, product, tuple(last)), atol=1e-9)


@pytest.mark.parametrize("transformation", [Affine(), Projective()])
@both_conventions
def test_the_inverse_undoes_a_warp(rng, transformation, align_corners):
    y, x = np.mgrid[:9, :12]
    ramp = (0.5 * x - y)[None, None]
    theta = transformation.identity() + rng.uniform(-0.05, 0.05, transformation.num_parameters)
    # In the plane, where no interpolation blurs: looked at through one, then through the other.
    forth = transformation.grid(theta[None], (9, 12), align_corners).numpy()
    back = transformation.inverse(theta[None])
    if isinstance(transformation, Affine):
        a = back.numpy().reshape(2, 3)
        again = forth @ a[:, :2].T + a[:, 2]
        v = spatial.grid_sample(ramp, again, align_corners=align_corners)
        np.testing.assert_allclose(v.numpy(), ramp, atol=1e-9)
    else:
        h = np.append(back.numpy(), 1).reshape(3, 3)
        p = forth @ h[:, :2].T + h[:, 2]
        v = spatial.grid_sample(ramp, p[..., :2] / p[..., 2:], align_corners=align_corners)
        np.testing.assert_allclose(v.numpy(), ramp, atol=1e-9)


# --- the module ---------------------------------------------------------------------------------


def transformer(transformation, in_shape=(1, 28, 28), net=LocalisationFC, **options):
    return SpatialTransformer(net(in_shape, transformation), transformation, **options)


class Fixed(nn.Module):
    """A localisation network that says the same of every image."""

    def __init__(self, theta):
        self.theta = nn.Parameter(np.asarray(theta))

    def forward(self, u):
        return self.theta.reshape(1, -1) + np.zeros((len(u), 1))


@every_transformation
@pytest.mark.parametrize("net", [LocalisationFC, LocalisationCNN])
@both_conventions
def test_it_starts_as_the_identity(rng, transformation, net, align_corners):
    u = rng.uniform(-1, 1, (3, 2, 28, 32)).astype(np.float32)
    st = transformer(transformation, (2, 28, 32), net, align_corners=align_corners)
    np.testing.assert_allclose(st(u).numpy(), u, atol=1e-6)
    expected = np.tile(transformation.identity().astype(np.float32), (3, 1))
    assert np.array_equal(st.theta.numpy(), expected)


@every_transformation
def test_theta_regression(rng, transformation):
    layer = ThetaRegression(7, transformation)
    assert layer.weight.shape == (transformation.num_parameters, 7)
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}
    assert layer.weight.dtype == layer.bias.dtype == np.float32
    features = Tensor(rng.normal(size=(4, 7)).astype(np.float32), requires_grad=True)
    theta = layer(features)
    np.testing.assert_array_equal(
        theta.numpy(), np.tile(transformation.identity().astype(np.float32), (4, 1))
    )
    theta.sum().backward()
    assert layer.weight.grad.any() and layer.bias.grad.any()


@both_conventions
def test_align_corners_is_of_the_grid_and_the_sampler(rng, align_corners):
    # Of one of them alone, the window would be half a pixel off.
    u = rng.normal(size=(1, 1, 6, 8))
    matrix = window((6, 8), (4, 5), 1, 2, align_corners)
    st = SpatialTransformer(
        Fixed(matrix.ravel()), Affine(), output_size=(4, 5), align_corners=align_corners
    )
    np.testing.assert_allclose(st(u).numpy(), u[..., 1:5, 2:7], atol=1e-12)


@pytest.mark.parametrize("size", [(14, 14), (40, 12), (1, 1)])
def test_output_size(rng, size):
    u = rng.normal(size=(2, 3, 28, 28)).astype(np.float32)
    st = transformer(Affine(), (3, 28, 28), output_size=size)
    assert st(u).shape == (2, 3, *size)
    assert st.grid.shape == (2, *size, 2)


@pytest.mark.parametrize("size", [(5, 5), (3, 8), (16, 9)])
def test_images_of_any_size(rng, size):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), ThetaRegression(2, Affine()))
    u = rng.normal(size=(2, 2, *size)).astype(np.float32)
    np.testing.assert_allclose(SpatialTransformer(net, Affine())(u).numpy(), u, atol=1e-6)


def test_mode_and_padding_reach_the_sampler():
    row = np.arange(1.0, 6).reshape(1, 1, 1, 5)
    far_right = Fixed([1.0, 0, 0.6, 0, 1, 0])  # 1.2 pixels
    st = SpatialTransformer(far_right, Affine(), mode="nearest", padding_mode="border")
    assert st(row).numpy().ravel().tolist() == [2, 3, 4, 5, 5]


def test_gradient_reaches_the_image_and_theta(rng):
    u = Tensor(rng.normal(size=(2, 2, 4, 5)), requires_grad=True)
    theta = Tensor(Affine().identity() + rng.uniform(-0.2, 0.2, 6), requires_grad=True)

    def run(u, theta):
        st = SpatialTransformer(Fixed(Affine().identity()), Affine())
        st.localisation.forward = lambda u: theta.reshape(1, -1) + np.zeros((2, 1))
        return st(u)

    assert gradcheck(run, (u, theta))


def test_theta_can_be_fed_forward(rng):
    st = transformer(Affine())
    st(rng.normal(size=(2, 1, 28, 28)).astype(np.float32))
    st.theta.sum().backward()
    assert st.localisation[-1].bias.grad.tolist() == [2] * 6


def test_two_in_a_row(rng):
    net = nn.Sequential(transformer(Affine()), transformer(ThinPlateSpline(4, 4)))
    u = rng.uniform(0, 1, (2, 1, 28, 28)).astype(np.float32)
    v = net(u)
    np.testing.assert_allclose(v.numpy(), u, atol=1e-5)
    (v * v).sum().backward()
    for each in net:
        assert each.localisation[-1].bias.grad.any()


def test_theta_and_grid_belong_to_the_thread():
    st = SpatialTransformer(nn.Sequential(nn.Flatten(), ThetaRegression(4, Affine())), Affine())
    assert st.theta is None and st.grid is None
    st(np.zeros((1, 1, 2, 2), np.float32))
    seen = {}

    def run():
        seen["before"] = st.theta
        st(np.zeros((3, 1, 2, 2), np.float32))
        seen["after"] = st.theta.shape, st.grid.shape

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == {"before": None, "after": ((3, 6), (3, 2, 2, 2))}
    assert st.theta.shape == (1, 6) and st.grid.shape == (1, 2, 2, 2)


@every_transformation
def test_a_theta_of_another_width_is_named(transformation):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 7))
    words = rf"\(2, 7\).*{type(transformation).__name__}.*\(N, {transformation.num_parameters}\)"
    with pytest.raises(ValueError, match=words):
        SpatialTransformer(net, transformation)(np.zeros((2, 1, 2, 2), np.float32))


def test_a_localisation_network_for_smaller_images_than_it_can_take():
    LocalisationCNN((1, 28, 28), Affine())
    with pytest.raises(ValueError, match=r"at least 28x28.*27"):
        LocalisationCNN((1, 28, 27), Affine())


@pytest.mark.parametrize("net", [LocalisationFC, LocalisationCNN])
def test_images_with_channels_last_are_refused(net):
    # stn.pytorch 5, 15: flattened they would pass
    st = transformer(Affine(), (1, 28, 30), net)
    with pytest.raises(ValueError, match=r"\(N, 1, 28, 30\).*\(2, 28, 30, 1\).*\(N, H, W, C\)"):
        st(np.zeros((2, 28, 30, 1), np.float32))


@pytest.mark.parametrize(
    ("net", "count"),
    [
        (LocalisationFC, (784 + 1) * 32 + 2 * (32 + 1) * 32 + (32 + 1) * 6),
        (LocalisationCNN, (25 + 1) * 20 + (25 * 20 + 1) * 20 + (20 + 1) * 20 + (20 + 1) * 6),
    ],
)
def test_localisation_networks_of_the_paper(net, count):
    assert net((1, 28, 28), Affine()).num_parameters() == count


# --- learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("transformation", [Affine(), Projective(), ThinPlateSpline(4, 4)])
def test_it_learns_to_undo_a_shift(transformation):
    """A blob two pixels off is brought to the middle, with nothing but the picture to go by."""
    y, x = np.mgrid[:15, :15]
    middle, shifted = (
        np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 12)[None, None] for cx, cy in ((7, 7), (9, 6))
    )
    st = SpatialTransformer(Fixed(transformation.identity()), transformation)
    optimiser = optim.Adam(st.parameters(), lr=0.02)
    losses = []
    for _ in range(150):
        error = st(shifted) - middle
        loss = (error * error).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]
    centre = transformation.grid(st.theta.data, (15, 15)).data[0, 7, 7]
    np.testing.assert_allclose(centre, [2 / 7, -1 / 7], atol=0.05)


# --- the share outside --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "share"), [([0, 1, -1], 0), ([0, 1.01, -1], 1 / 3), ([np.nan, 9, np.inf], 1)]
)
def test_share_outside(x, share):
    grid = np.zeros((1, 1, 3, 2))
    grid[..., 0] = x
    assert share_outside(minist.tensor(grid)) == pytest.approx(share)
    assert share_outside(minist.tensor(grid[..., ::-1])) == pytest.approx(share)
