"""Sampling kernels: Eq. (3) to the letter, their slopes, what is learnt, and kernels widened."""

from itertools import product

import numpy as np
import pytest

from minist import Tensor, gradcheck, nn, spatial
from minist.backend import array_module
from minist.spatial import separable
from minist.spatial.antialias import footprint
from minist.spatial.grid import regular_grid
from minist.spatial.kernels import Bicubic, Bilinear, BSpline, Gaussian, Kernel, Lanczos, Nearest
from minist.spatial.separable import GridSample


class Tent(Kernel):
    """A tent over four pixels."""

    support = 2.0

    def k(self, x):
        return (1 - abs(x) / 2) / 2

    def dk(self, x):
        return np.where(x < 0, 0.25, -0.25)


class Behind(Kernel):
    """The pixel two to the left, and half of the third."""

    support = 4.0

    def k(self, x):
        return 1.0 * ((x >= 2) & (x < 3)) + 0.5 * (x >= 3)

    def dk(self, x):
        return 0 * x


class Laplace(Kernel):
    """exp(-r |x|), r learnt: a kernel of ten lines."""

    support, normalised = 2.0, True

    def __init__(self, r=1.5):
        self.r = nn.Parameter(r)

    def k(self, x, r):
        return np.exp(-r * abs(x))

    def dk(self, x, r):
        return np.where(x < 0, r, -r) * self.k(x, r)

    def dphi(self, x, r):
        return [-abs(x) * self.k(x, r)]


class Hat4(Kernel):
    """The bilinear kernel, from four taps of which the outer two weigh nothing."""

    support = 2.0

    def k(self, x):
        return np.maximum(0, 1 - abs(x))

    def dk(self, x):
        return (abs(x + 0.5) < 0.5) * 1.0 - (abs(x - 0.5) < 0.5)


def cubic(x, a):
    r = abs(x)
    near, far = (a + 2) * r**3 - (a + 3) * r**2 + 1, a * (r**3 - 5 * r**2 + 8 * r - 4)
    return np.where(r < 1, near, np.where(r < 2, far, 0))


def bell(x, n):
    """Cox and de Boor: each B-spline from the one before."""
    if n == 0:
        return 1.0 * ((x >= -0.5) & (x < 0.5))
    c = (n + 1) / 2
    return ((c + x) * bell(x + 0.5, n - 1) + (c - x) * bell(x - 0.5, n - 1)) / n


K = {  # k(x) as it stands in an equation
    "Eq. (4)": (Nearest(), lambda x: np.floor(x + 0.5) == 0),
    "Eq. (5)": (Bilinear(), lambda x: np.maximum(0, 1 - abs(x))),
    "bicubic": (Bicubic(learn=True), lambda x: cubic(x, -0.75)),
    "Keys": (Bicubic(a=-0.5), lambda x: cubic(x, -0.5)),
    "Lanczos": (Lanczos(2), lambda x: (abs(x) < 2) * np.sinc(x) * np.sinc(x / 2)),
    "Gaussian": (Gaussian(0.5, learn=True), lambda x: (abs(x) < 1.5) * np.exp(-2 * x**2)),
    "sharp": (Gaussian(0.05), lambda x: (abs(x) < 1) * np.exp(-50 * x**2)),
    **{f"B-spline {n}": (BSpline(n), lambda x, n=n: bell(x, n)) for n in (2, 3, 4, 5)},
    "a wide tent": (Tent(), lambda x: np.maximum(0, 1 - abs(x) / 2) / 2),
    "to the left": (Behind(), lambda x: 1.0 * ((x >= 2) & (x < 3)) + 0.5 * ((x >= 3) & (x < 4))),
    "learnt": (Laplace(), lambda x: (abs(x) < 2) * np.exp(-1.5 * abs(x))),
}
every_equation = pytest.mark.parametrize(("kernel", "k"), K.values(), ids=K)
KERNELS = {name: kernel for name, (kernel, k) in K.items()}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
EVEN = {name: kernel for name, kernel in KERNELS.items() if name != "to the left"}
# One of each kind, where time is short.
KINDS = {
    name: KERNELS[name]
    for name in ("Eq. (4)", "Eq. (5)", "bicubic", "Lanczos", "Gaussian", "B-spline 2", "learnt")
}
every_kind = pytest.mark.parametrize("kernel", KINDS.values(), ids=KINDS)
interpolating = pytest.mark.parametrize("kernel", [Nearest(), Bilinear(), Bicubic(), Lanczos(3)])
blurring = pytest.mark.parametrize("kernel", [Gaussian(0.7), BSpline(2), BSpline(3), Tent()])
both_conventions = pytest.mark.parametrize("align_corners", [True, False])
every_padding = pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])


def values_of(kernel, dtype=np.float64):
    return [p.data.astype(dtype) for p in kernel.parameters()]


def in_the_first_cell(kernel, t):
    """t of 0..1 as the kernel counts it: from the pixel to the left, or from the nearest one."""
    return t - kernel.floor(t, kernel.taps())


def normalised(pixels, sizes, align_corners=True):
    """Points (..., d) in pixels, x first, as coordinates in -1..1 of an image of `sizes`."""
    sizes = np.array(sizes[::-1])
    return (2 * pixels - (sizes - 1)) / np.maximum(sizes - 1 if align_corners else sizes, 1)


def generic_points(rng, sizes, size, align_corners):
    """Within and beyond the image, away from every multiple of half a pixel: from the kinks."""
    low, high = (-3 * np.ones(len(sizes), int), 2 * np.array(sizes[::-1]) + 3)
    half = rng.integers(low, high, (*size, len(sizes)))
    return normalised((half + rng.uniform(0.1, 0.9, half.shape)) / 2, sizes, align_corners)


def identity(sizes, align_corners=True, size=None):
    size = size or sizes
    return regular_grid(size, align_corners)[:-1].T.reshape(1, *size, len(size)).copy()


# --- k, dk and dphi -----------------------------------------------------------------------------


@every_equation
def test_the_taps_reach_all_of_the_support(kernel, k):
    """The weights are k of every pixel, and a pixel without a tap has k = 0."""
    t = in_the_first_cell(kernel, np.linspace(0, 0.999, 77) + 1e-4)
    weights = dict(zip(kernel.taps(), kernel.weights(t, *values_of(kernel)), strict=True))
    for pixel in range(-9, 10):
        np.testing.assert_allclose(weights.get(pixel, 0 * t), k(t - pixel), atol=1e-12)


@every_kernel
def test_slopes_are_those_of_the_weights(rng, kernel):
    t, step, phi = in_the_first_cell(kernel, rng.uniform(0.05, 0.45, 20)), 1e-6, values_of(kernel)
    before, after = kernel.weights(t - step, *phi), kernel.weights(t + step, *phi)
    for k0, k1, slope in zip(before, after, kernel.slopes(t, *phi), strict=True):
        np.testing.assert_allclose(np.broadcast_to(slope, 20), (k1 - k0) / (2 * step), atol=1e-8)


@every_kernel
@pytest.mark.parametrize("at", [0.0, 0.5])
def test_at_a_kink_the_slope_is_the_right_hand_one(kernel, at):
    t, step, phi = in_the_first_cell(kernel, np.array([at])), 1e-7, values_of(kernel)
    here, right = kernel.weights(t, *phi), kernel.weights(t + step, *phi)
    for k0, k1, slope in zip(here, right, kernel.slopes(t, *phi), strict=True):
        np.testing.assert_allclose(slope, (k1[0] - k0[0]) / step, atol=1e-5)


def test_near_zero_the_slope_of_a_sinc_is_no_quotient_of_zeros():
    for dtype, atol in (("float64", 1e-7), ("float32", 1e-4)):
        x = np.array([-1e-3, -1e-9, 0, 1e-30, 1e-6, 2e-3], dtype)
        np.testing.assert_allclose(Lanczos(2).dk(x), -(np.pi**2) / 3 * 1.25 * x, atol=atol)


@pytest.mark.parametrize("kernel", [Bicubic(), Bicubic(a=-0.5), Gaussian(0.4), Laplace()])
def test_what_is_learnt_changes_the_weights_as_dphi_says(rng, kernel):
    t, step = in_the_first_cell(kernel, rng.uniform(0.05, 0.45, 20)), 1e-6
    (phi,) = values_of(kernel)
    less, more = kernel.weights(t, phi - step), kernel.weights(t, phi + step)
    (slopes,) = kernel.by_phi(t, phi)
    for k0, k1, slope in zip(less, more, slopes, strict=True):
        np.testing.assert_allclose(slope, (k1 - k0) / (2 * step), atol=1e-8)


def test_a_gaussian_grows_no_sharper_than_its_smallest():
    x, tiny = np.linspace(-1, 0.9, 9), np.array(0.01)
    kernel = Gaussian(0.5)
    np.testing.assert_array_equal(kernel.k(x, tiny), kernel.k(x, np.array(0.1)))
    assert not kernel.dphi(x, tiny)[0].any()
    assert np.isfinite(kernel.dk(x, tiny)).all()


def test_parameters_without_a_derivative_are_named(leaf):
    class Forgetful(Laplace):
        dphi = Kernel.dphi

    with pytest.raises(NotImplementedError, match="Forgetful has parameters, but no dphi"):
        spatial.grid_sample(leaf(1, 1, 2, 2), np.zeros((1, 1, 1, 2)), Forgetful())


# --- laws of single kernels ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "kernel",
    [Nearest(), Bilinear(), Bicubic(), Bicubic(a=-0.3), *(BSpline(n) for n in range(1, 6))],
    ids=repr,
)
@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-14), ("float32", 1e-6)])
def test_weights_sum_to_one_and_slopes_to_zero(kernel, dtype, atol):
    phi = values_of(kernel, dtype)
    t = in_the_first_cell(kernel, np.linspace(0, 1, 65, endpoint=False)).astype(dtype)
    np.testing.assert_allclose(sum(kernel.weights(t, *phi)), 1, atol=atol)
    np.testing.assert_allclose(sum(kernel.slopes(t, *phi)), 0, atol=atol)


@every_kind
@both_conventions
@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-12), ("float32", 2e-6)])
def test_a_grey_image_stays_grey(rng, kernel, align_corners, padding_mode, dtype, atol):
    """Where there is no outside: at all points, pixels and the middles between them too."""
    u = np.ones((1, 1, 3, 5), dtype)
    pixels = np.concatenate([rng.integers(-16, 28, (40, 2)) / 4, rng.uniform(-4, 7, (40, 2))])
    points = normalised(pixels, (3, 5), align_corners)[None, None].astype(dtype)
    grid = Tensor(points, requires_grad=True)
    v = spatial.grid_sample(u, grid, kernel, padding_mode, align_corners)
    v.sum().backward()
    np.testing.assert_allclose(v.numpy(), 1, atol=atol)
    np.testing.assert_allclose(grid.grad, 0, atol=10 * atol)


def test_the_first_b_spline_is_bilinear(rng):
    t = rng.uniform(size=20)
    assert BSpline(1).taps() == Bilinear().taps()
    np.testing.assert_allclose(BSpline(1).weights(t), Bilinear().weights(t), atol=1e-15)
    np.testing.assert_array_equal([s[0] for s in BSpline(1).slopes(0 * t)], Bilinear().slopes(t))


@pytest.mark.parametrize("degree", [0, -1])
def test_a_b_spline_has_a_degree(degree):
    with pytest.raises(ValueError, match=f"degree must be 1 or more, not {degree}"):
        BSpline(degree)


@interpolating
@both_conventions
def test_kernels_that_interpolate_give_the_identity_back(rng, kernel, align_corners):
    for n in range(2, 129):
        u = rng.uniform(size=(1, 1, n, 2)).astype(np.float32)
        grid = identity((n, 2), align_corners).astype(np.float32)
        v = spatial.grid_sample(u, grid, kernel, align_corners=align_corners).numpy()
        np.testing.assert_allclose(v, u, atol=1e-6, err_msg=f"{n} pixels", strict=True)


@both_conventions
def test_at_a_pixel_the_slope_of_a_cubic_is_a_central_difference(rng, align_corners):
    """-a (U[m + 1] - U[m - 1]), exactly the parabola's for a = -1/2."""
    for n in range(2, 129):
        row = rng.uniform(size=n).astype(np.float32)
        points = identity((1, n), align_corners).astype(np.float32)
        grid = Tensor(points, requires_grad=True)
        options = {"align_corners": align_corners}
        spatial.grid_sample(row.reshape(1, 1, 1, n), grid, Bicubic(), **options).sum().backward()
        padded = np.pad(row, 1)
        slope = 0.75 * (padded[2:] - padded[:-2]) * ((n - 1) if align_corners else n) / 2
        np.testing.assert_allclose(grid.grad[0, 0, :, 0], slope, atol=1e-3)


@blurring
def test_kernels_that_blur_do(rng, kernel):
    u = rng.uniform(size=(1, 1, 20, 30))
    v = spatial.grid_sample(u, identity((20, 30)), kernel, "border").numpy()
    assert v.std() < 0.8 * u.std()
    assert u.min() < v.min() and v.max() < u.max()


@interpolating
@both_conventions
@pytest.mark.parametrize("shift", [(2, 0), (-1, 3), (0, -2)])
def test_shifts_by_whole_pixels_are_exact(rng, kernel, align_corners, shift):
    h, w = 5, 7
    u = rng.normal(size=(1, 1, h, w))
    pixels = np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1) + shift
    grid = normalised(pixels, (h, w), align_corners)[None]
    v = spatial.grid_sample(u, grid, kernel, align_corners=align_corners).numpy()
    expected = np.pad(u, ((0, 0), (0, 0), (3, 3), (3, 3)))
    x, y = shift
    np.testing.assert_allclose(v, expected[..., 3 + y : 3 + y + h, 3 + x : 3 + x + w], atol=1e-12)


# --- Eq. (3) ------------------------------------------------------------------------------------


def all_weights(kernel, k, x, n):
    """k(x - pixel) for each of n pixels; a normalised kernel divided by its sum over all."""
    everywhere = k(x[:, None] - np.arange(-40, n + 40))
    total = everywhere.sum(axis=1, keepdims=True) if kernel.normalised else 1
    return (everywhere / total)[:, 40:-40]


@every_equation
@both_conventions
def test_equation_3_to_the_letter(rng, kernel, k, align_corners):
    h, w = 5, 4
    u = rng.normal(size=(1, 2, h, w))
    pixels = rng.uniform(-9, 13, (400, 2))  # many of them far outside
    kx, ky = (all_weights(kernel, k, x, n) for x, n in zip(pixels.T, (w, h), strict=True))
    v = np.einsum("cnm,im,in->ci", u[0], kx, ky)
    grid = normalised(pixels, (h, w), align_corners)
    sampled = spatial.grid_sample(u, grid[None, None], kernel, align_corners=align_corners)
    np.testing.assert_allclose(sampled.numpy()[0, :, 0], v, atol=1e-12)


def test_a_kernel_for_each_axis(rng):
    """In the order of the grid's coordinates, x, y and z."""
    kernels, sizes = ["Gaussian", "to the left", "bicubic"], (4, 5, 3)
    u = rng.normal(size=(1, 2, *sizes))
    pixels = rng.uniform(-2, 7, (60, 3))
    kx, ky, kz = (
        all_weights(*K[kernel], x, n)
        for kernel, x, n in zip(kernels, pixels.T, sizes[::-1], strict=True)
    )
    v = np.einsum("clnm,im,in,il->ci", u[0], kx, ky, kz)
    grid = normalised(pixels, sizes)[None, None, None]
    sampled = spatial.grid_sample(u, grid, [KERNELS[name] for name in kernels])
    np.testing.assert_allclose(sampled.numpy()[0, :, 0, 0], v, atol=1e-12)


@pytest.mark.parametrize("kernel", EVEN.values(), ids=EVEN)
@every_padding
@both_conventions
def test_padding_is_as_if_the_image_were_larger(rng, kernel, padding_mode, align_corners):
    sizes, more = (2, 3), 9
    modes = {"zeros": "constant", "border": "edge"}
    mode = modes.get(padding_mode, "reflect" if align_corners else "symmetric")
    u = rng.normal(size=(1, 1, *sizes))
    wide = np.pad(u, ((0, 0), (0, 0), (more, more), (more, more)), mode=mode)
    grid = generic_points(rng, sizes, (1, 5, 6), align_corners)
    pixels = (grid * (np.array([3, 2]) - align_corners) + [2, 1]) / 2
    v = spatial.grid_sample(u, grid, kernel, padding_mode, align_corners)
    expected = spatial.grid_sample(wide, normalised(pixels + more, wide.shape[2:]), kernel)
    np.testing.assert_allclose(v.numpy(), expected.numpy(), atol=1e-12)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflection"])
@pytest.mark.parametrize(("sizes", "size"), [((3, 5), (2, 4, 2)), ((3, 2, 4), (1, 2, 1, 3))])
def test_a_support_wider_than_the_kernel_changes_nothing(rng, padding_mode, sizes, size):
    u, points = rng.normal(size=(size[0], 2, *sizes)), generic_points(rng, sizes, size, True)
    plain, wide = (Tensor(points, requires_grad=True) for _ in range(2))
    v = spatial.grid_sample(u, plain, "bilinear", padding_mode)
    w = spatial.grid_sample(u, wide, Hat4(), padding_mode)
    np.testing.assert_allclose(w.numpy(), v.numpy(), atol=1e-12)
    v.sum().backward()
    w.sum().backward()
    np.testing.assert_allclose(wide.grad, plain.grad, atol=1e-12)


# --- gradients ----------------------------------------------------------------------------------


def sampled(kernels, *inputs, padding_mode="zeros", align_corners=True, antialias=False):
    """grid_sample as a function of U, the grid and Phi."""
    return GridSample.apply(
        *inputs,
        kernels=kernels,
        padding_mode=padding_mode,
        align_corners=align_corners,
        antialias=antialias,
    )


def leaves(kernel):
    """Its parameters in float64."""
    return [Tensor(value, requires_grad=True) for value in values_of(kernel)]


@pytest.mark.parametrize(
    "kernel", [*KINDS.values(), KERNELS["to the left"]], ids=[*KINDS, "to the left"]
)
@every_padding
@both_conventions
@pytest.mark.parametrize("sizes", [(3, 4), (2, 3, 2), (3, 1)], ids=["image", "volume", "column"])
def test_gradient_to_image_grid_and_phi(rng, leaf, kernel, padding_mode, align_corners, sizes):
    size, images = ((2, 2, 2), 2) if len(sizes) == 2 else ((2, 2, 1, 1), 1)
    grid = Tensor(generic_points(rng, sizes, size, align_corners), requires_grad=True)
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    assert gradcheck(
        lambda *inputs: sampled([kernel] * len(sizes), *inputs, **options),
        [leaf(images, 1, *sizes), grid, *leaves(kernel)],
    )


@every_padding
def test_gradient_to_the_phi_of_each_axis(rng, leaf, padding_mode):
    kernels = [Gaussian(0.5, learn=True), Bicubic(learn=True)]
    grid = Tensor(generic_points(rng, (3, 4), (1, 3, 2), True), requires_grad=True)
    phi = [p for kernel in kernels for p in leaves(kernel)]
    assert gradcheck(
        lambda *inputs: sampled(kernels, *inputs, padding_mode=padding_mode),
        [leaf(1, 2, 3, 4), grid, *phi],
    )


def phi_gradients(u, grid, mode, kernels, antialias=False):
    """What kernels' parameters get from the sum of squares of what was sampled."""
    for kernel in kernels:
        kernel.zero_grad()
    (spatial.grid_sample(u, grid, mode, antialias=antialias) ** 2).sum().backward()
    return [p.grad for kernel in kernels for p in kernel.parameters()]


@pytest.mark.parametrize("kind", [Gaussian, Bicubic])
@pytest.mark.parametrize("antialias", [False, True])
def test_one_kernel_for_both_axes_gets_the_sum_of_two(rng, kind, antialias):
    u, grid = rng.normal(size=(2, 1, 4, 5)), generic_points(rng, (4, 5), (2, 3, 3), True)
    one, x, y = (kind(learn=True) for _ in range(3))
    (both,) = phi_gradients(u, grid, one, [one], antialias)
    gx, gy = phi_gradients(u, grid, [x, y], [x, y], antialias)
    assert gx != 0 and gy != 0
    np.testing.assert_allclose(both, gx + gy, rtol=1e-6)
    (again,) = phi_gradients(u, grid, [one, one], [one], antialias)
    assert again == both


def test_a_float32_parameter_beside_float64_images(rng):
    u, grid = rng.normal(size=(1, 1, 4, 5)), generic_points(rng, (4, 5), (1, 3, 3), True)
    kernel = Gaussian(0.5, learn=True)
    (g32,) = phi_gradients(u, grid, kernel, [kernel])
    assert spatial.grid_sample(u, grid, kernel).dtype == np.float64
    assert (kernel.sigma.dtype, g32.dtype) == (np.float32, np.float32)
    kernel.sigma = nn.Parameter(np.array(0.5))
    (g64,) = phi_gradients(u, grid, kernel, [kernel])
    assert g64.dtype == np.float64
    np.testing.assert_allclose(g32, g64, rtol=1e-6)


def test_a_parameter_that_is_not_learnt_gets_no_gradient(rng):
    u, grid = rng.normal(size=(1, 1, 4, 5)), np.zeros((1, 2, 2, 2))
    kernels = [Bicubic(), Gaussian(learn=True)]
    assert phi_gradients(u, grid, kernels, kernels)[0] is None


@pytest.mark.parametrize("wanted", list(product([False, True], repeat=3)))
def test_nothing_is_computed_that_nobody_wants(rng, monkeypatch, wanted):
    # pytorch 64977, 71415
    called, kernel = set(), Laplace()
    for name in ("k", "dk", "dphi"):
        plain = getattr(Laplace, name)
        monkeypatch.setattr(
            kernel, name, lambda *a, name=name, f=plain: called.add(name) or f(kernel, *a)
        )
    monkeypatch.setattr(GridSample, "adjoint", lambda node, g: called.add("U") or np.ones((1,) * 4))
    kernel.r.requires_grad = wanted[2]
    u = Tensor(rng.normal(size=(1, 1, 3, 4)), requires_grad=wanted[0])
    grid = Tensor(rng.uniform(-1, 1, (1, 2, 5, 2)), requires_grad=wanted[1])
    v = spatial.grid_sample(u, grid, kernel)
    if v.requires_grad:
        given = v.grad_fn.backward(np.ones(v.shape))
        assert tuple(g is not None for g in given) == wanted
    parts = zip(wanted, ("U", "dk", "dphi"), strict=True)
    assert called == {"k", *(name for want, name in parts if want)}


# --- a kernel of one's own, learnt in a network -------------------------------------------------


@pytest.mark.parametrize("sizes", [(3, 4), (2, 3, 4)])
def test_a_kernel_of_ten_lines_is_learnt(rng, sizes):
    """Gradient descent on r finds the kernel with which a picture was read."""
    u = rng.normal(size=(1, 1, *sizes))
    grid = generic_points(rng, sizes, (1,) + (5,) * len(sizes), True)
    target = spatial.grid_sample(u, grid, Laplace(r=2.5)).data
    kernel = Laplace(r=1.5)
    for _ in range(60):
        kernel.zero_grad()
        ((spatial.grid_sample(u, grid, kernel) - target) ** 2).mean().backward()
        kernel.r.data = kernel.r.data - 20 * kernel.r.grad
    assert kernel.r.item() == pytest.approx(2.5, abs=0.05)


@pytest.mark.parametrize("mode", [Laplace(), [Gaussian(learn=True), Laplace()]], ids=["one", "two"])
def test_a_transformer_learns_its_kernels(rng, mode):
    localisation = nn.Sequential(nn.Flatten(), spatial.ThetaRegression(12, spatial.Affine()))
    st = spatial.SpatialTransformer(localisation, spatial.Affine(), output_size=(5, 2), mode=mode)
    mine = [p for kernel in np.ravel(mode) for p in kernel.parameters()]
    assert {id(p) for p in mine} < {id(p) for p in st.parameters()}
    assert {name.split(".")[0] for name in st.state_dict()} == {"localisation", "mode"}
    st.zero_grad()
    st(rng.normal(size=(2, 1, 3, 4)).astype(np.float32)).sum().backward()
    assert all(p.grad is not None and p.grad != 0 for p in mine)


# --- far away, and no number at all -------------------------------------------------------------

FAR = (1e20, 3e38, np.inf, -1e20, -3e38, -np.inf, np.nan)


@pytest.mark.filterwarnings("error")
@every_kind
@every_padding
@both_conventions
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_far_away_is_padding_without_slope(kernel, padding_mode, align_corners, dtype):
    # pytorch 24823, 51911, 42616
    u = Tensor(np.arange(1.0, 13).reshape(1, 1, 3, 4).astype(dtype), requires_grad=True)
    points = np.full((1, 2, len(FAR) + 1, 2), 0.1, dtype)
    points[0, 0, 1:, 0] = points[0, 1, 1:, 1] = FAR
    far, first = np.isin(points[0], points[0, :, :1], invert=True), points[:, :1, :1]
    grid, alone = Tensor(points, requires_grad=True), Tensor(first, requires_grad=True)
    v = spatial.grid_sample(u, grid, kernel, padding_mode, align_corners)
    v.sum().backward()
    to_u, u.grad = u.grad, None
    ordinary = spatial.grid_sample(u, alone, kernel, padding_mode, align_corners)
    ordinary.sum().backward()
    assert (v.numpy()[0, 0, :, 0] == ordinary.item()).all()
    np.testing.assert_array_equal(grid.grad[0, :, 0], np.tile(alone.grad[0, 0], (2, 1)))
    assert (grid.grad[0][far] == 0).all() and np.isfinite(grid.grad).all()
    if padding_mode == "zeros":
        assert (v.numpy()[..., 1:] == 0).all()
        np.testing.assert_allclose(to_u, 2 * u.grad, rtol=1e-6)
        return
    assert np.isfinite(to_u).all()
    assert to_u.sum() == pytest.approx(v.size, rel=1e-5)  # each point sees the image, once
    if padding_mode == "border":
        beyond = np.where(np.isnan(points), -50, np.clip(points, -50, 50))
        expected = spatial.grid_sample(u, beyond, kernel, padding_mode, align_corners)
        np.testing.assert_array_equal(v.numpy(), expected.numpy())


@every_kind
@both_conventions
def test_what_is_no_number_is_reflected_as_pixel_0(rng, kernel, align_corners):
    u = rng.normal(size=(1, 1, 3, 4))
    at_0 = normalised(np.zeros((1, 1, 1, 2)), (3, 4), align_corners)
    v, expected = (
        spatial.grid_sample(u, grid, kernel, "reflection", align_corners).item()
        for grid in (np.full((1, 1, 1, 2), np.nan), at_0)
    )
    assert v == pytest.approx(expected, abs=1e-12)


@every_kernel
def test_far_outside_there_is_nothing_and_before_that_no_wild_slope(kernel):
    # pytorch 23925
    u = Tensor(np.full((1, 1, 3, 4), 5.0), requires_grad=True)
    points = np.stack(np.broadcast_arrays([-9.0, -3.3, 2.6, 2.75, 7.0], 0.1), axis=-1)
    grid = Tensor(points[None, None], requires_grad=True)
    spatial.grid_sample(u, grid, kernel, "border").sum().backward()
    np.testing.assert_allclose(grid.grad, 0, atol=1e-12)
    grid.grad = u.grad = None
    far = Tensor(np.full((1, 1, 1, 2), 50.0), requires_grad=True)
    v = spatial.grid_sample(u, far, kernel)
    v.sum().backward()
    assert v.item() == 0 and not u.grad.any() and not far.grad.any()


# --- antialias: kernels widened where the grid reduces ------------------------------------------

lowpass = pytest.mark.parametrize("kernel", [Bilinear(), Bicubic(), Lanczos(3), Gaussian()])


def turned(sizes, angle=0.0, step=1.0, centre=None, size=None):
    """A grid whose neighbours lie `step` pixels apart, turned in pixels."""
    size = size or sizes
    y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    c, s = step * np.cos(angle), step * np.sin(angle)
    pixels = np.stack([c * x - s * y, s * x + c * y], axis=-1) + (np.array(sizes[::-1]) - 1) / 2
    return normalised(pixels, sizes)[None]


@lowpass
def test_a_zone_plate_reduced_four_times_does_not_alias(kernel):
    # pytorch 21457, MONAI 178
    n = 256
    x = np.arange(n) - (n - 1) / 2
    square = x**2 + x[:, None] ** 2
    u = np.cos(np.pi * square / n)[None, None]  # r / n waves per pixel, at r pixels from the centre
    grid = turned((n, n), step=4, size=(n // 4, n // 4))
    plain, smooth = (
        spatial.grid_sample(u, grid, kernel, antialias=antialias).numpy()[0, 0]
        for antialias in (False, True)
    )
    seen = np.sqrt(square).reshape(n // 4, 4, n // 4, 4).mean(axis=(1, 3))
    beyond = seen > 40  # the new pixels carry 1 / 8 wave per old one, up to r = 32
    assert (smooth[beyond] ** 2).sum() < (plain[beyond] ** 2).sum() / 10
    assert (smooth[seen < 12] ** 2).sum() > (plain[seen < 12] ** 2).sum() / 2


@every_kind
@pytest.mark.parametrize("angle", [0, 0.4, np.pi / 2, 2.0])
@pytest.mark.parametrize("step", [1, 0.4])
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
def test_where_nothing_is_reduced_nothing_changes(rng, kernel, angle, step, padding_mode):
    u, grid = rng.normal(size=(1, 2, 6, 7)), turned((6, 7), angle, step)
    plain, widened = (Tensor(grid, requires_grad=True) for _ in range(2))
    v = spatial.grid_sample(u, plain, kernel, padding_mode)
    w = spatial.grid_sample(u, widened, kernel, padding_mode, antialias=True)
    np.testing.assert_allclose(w.numpy(), v.numpy(), atol=1e-12)
    g = rng.normal(size=v.shape)
    v.backward(g)
    w.backward(g)
    np.testing.assert_allclose(widened.grad, plain.grad, atol=1e-10)


@interpolating
@both_conventions
@pytest.mark.parametrize("n", [2, 28, 127, 128])
def test_the_identity_stays_exact(rng, kernel, align_corners, n):
    for sizes in [(n, 3), (3, n), (2, n, 2)]:
        u = rng.uniform(size=(1, 1, *sizes)).astype(np.float32)
        grid = identity(sizes, align_corners).astype(np.float32)
        v = spatial.grid_sample(u, grid, kernel, "border", align_corners, antialias=True)
        np.testing.assert_allclose(v.numpy(), u, atol=1e-6, strict=True)


@pytest.mark.parametrize("times", [(2, 3), (1, 4), (3, 1), (2, 1, 3)])
def test_the_nearest_pixel_widened_is_the_mean_of_a_block(rng, times):
    size = (2, 3, 2)[: len(times)]
    sizes = tuple(n * k for n, k in zip(size, times, strict=True))
    u = rng.normal(size=(1, 1, *sizes))
    blocks = u.reshape([m for pair in zip(size, times, strict=True) for m in pair])
    grid = identity(sizes, align_corners=False, size=size)
    v = spatial.grid_sample(u, grid, "nearest", align_corners=False, antialias=True)
    means = blocks.mean(axis=tuple(range(1, 2 * len(times), 2)))
    np.testing.assert_allclose(v.numpy()[0, 0], means, atol=1e-12)


@every_kind
def test_each_axis_is_widened_by_its_own_reduction(rng, kernel):
    """What varies in y alone keeps its sharpness where only x is reduced."""
    column = rng.normal(size=(1, 1, 6, 1))
    grid = identity((6, 12), size=(6, 3))
    v = spatial.grid_sample(np.tile(column, 12), grid, kernel, "border", antialias=True).numpy()
    sharp = spatial.grid_sample(column, identity((6, 1)), kernel, "border").numpy()
    np.testing.assert_allclose(v, np.tile(sharp, 3), atol=1e-12)


@every_kind
@every_padding
@both_conventions
@pytest.mark.parametrize("sizes", [(5, 6), (4, 3, 3)], ids=["image", "volume"])
def test_gradient_under_shifts_of_a_reducing_grid(
    rng, leaf, kernel, padding_mode, align_corners, sizes
):
    """The same shift of all points leaves the widths, so differences see the very gradient."""
    size = (2, 3, 1)[: len(sizes)]
    grid = Tensor(2.3 * rng.uniform(0.3, 0.4) * identity(sizes, align_corners, size) + 0.05)
    options = {"padding_mode": padding_mode, "align_corners": align_corners, "antialias": True}

    u = rng.normal(size=(1, 1, *sizes))
    assert gradcheck(
        lambda shift, *phi: sampled([kernel] * len(sizes), u, grid + shift, *phi, **options),
        [leaf(len(sizes)), *leaves(kernel)],
    )


@every_kind
def test_for_the_gradient_to_the_grid_widths_are_constants(rng, leaf, monkeypatch, kernel):
    grid = Tensor(rng.uniform(-1.2, 1.2, (2, 2, 2, 2)), requires_grad=True)
    inputs = [leaf(2, 1, 4, 5), grid, *leaves(kernel)]
    along = grid.data.transpose(3, 1, 2, 0)
    widths = {n: footprint(x, n, kernel.support, True) for n, x in zip((5, 4), along, strict=True)}

    def sample(*inputs):
        return sampled([kernel] * 2, *inputs, antialias=True)

    sample(*inputs).sum().backward()
    gradients = [x.grad for x in inputs]
    monkeypatch.setattr(
        separable, "footprint", lambda x, size, *_: array_module(x).asarray(widths[size])
    )
    assert gradcheck(sample, inputs)
    for x in inputs:
        x.grad = None
    sample(*inputs).sum().backward()
    for x, gradient in zip(inputs, gradients, strict=True):
        np.testing.assert_array_equal(x.grad, gradient)
    assert max(w.max() for w in widths.values()) > 2


@every_kind
def test_a_single_pixel_of_output_says_nothing_of_a_reduction(rng, kernel):
    u, point = rng.normal(size=(1, 1, 5, 6)), rng.uniform(-1, 1, (1, 1, 1, 2))
    v, w = (spatial.grid_sample(u, point, kernel, antialias=a).item() for a in (False, True))
    assert w == pytest.approx(v, abs=1e-12)


@pytest.mark.filterwarnings("error")
@every_kind
@every_padding
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e6, -3e38])
def test_widths_at_the_horizon_and_where_there_is_no_number(rng, kernel, padding_mode, wrong):
    """A constant image shows that no weight is lost; each of the others sees a finite image."""
    points = identity((5, 6), size=(4, 5)).astype(np.float32)
    points[0, 1, 2] = points[0, 3, :, 0] = wrong
    grid = Tensor(points, requires_grad=True)
    u = Tensor(np.ones((1, 1, 5, 6), np.float32), requires_grad=True)
    v = spatial.grid_sample(u, grid, kernel, padding_mode, antialias=True)
    v.sum().backward()
    assert np.isfinite(u.grad).all() and np.isfinite(grid.grad).all()
    np.testing.assert_allclose(grid.grad[0, 1, 2], 0, atol=1e-6)
    np.testing.assert_allclose(grid.grad[0, 3, :, 0], 0, atol=1e-6)
    if padding_mode == "zeros":
        assert v.numpy()[0, 0, 1, 2] == 0
    else:
        np.testing.assert_allclose(v.numpy(), 1, atol=2e-6)


@every_kind
@pytest.mark.parametrize("size", [(0, 5), (5, 0), (1, 0)])
@pytest.mark.parametrize("n", [0, 2])
def test_empty_grids_of_any_kernel(leaf, kernel, size, n):
    u, grid = leaf(n, 2, 3, 4), Tensor(np.ones((n, *size, 2)), requires_grad=True)
    for antialias in (False, True):
        v = spatial.grid_sample(u, grid, kernel, antialias=antialias)
        v.sum().backward()
        assert v.shape == (n, 2, *size)
    assert not u.grad.any() and grid.grad.shape == grid.shape


def test_a_horizon_widens_no_point_that_sees_nothing_or_has_a_near_neighbour():
    x = np.array([0.0, 0.25, 0.5, 1e6, 50.0, 40.0])[None, :, None]  # a row of the output
    width = footprint(x, 9, 1.0, True)
    np.testing.assert_allclose(width, 1.0)
    x[0, 2] = 1.0  # three pixels further
    np.testing.assert_allclose(footprint(x, 9, 1.0, True), [1, 1, 3, 1, 1, 1])


def test_the_slope_at_the_border_does_not_depend_on_the_rest_of_the_batch(rng):
    """An identity beside a fourfold reduction, which widens the kernel of its own points only."""
    u = rng.normal(size=(1, 1, 8, 8))
    grids = np.concatenate([identity((8, 8)), 0.1 * identity((8, 8)), 4 * identity((8, 8))])
    alone = Tensor(grids[:2].copy(), requires_grad=True)
    beside = Tensor(grids, requires_grad=True)
    for grid in (alone, beside):
        spatial.grid_sample(u, grid, padding_mode="border", antialias=True).sum().backward()
    np.testing.assert_allclose(beside.grad[:2], alone.grad, atol=1e-12)
    assert not alone.grad[0, :, 0, 0].any()
