"""Sampling kernels: the equations to the letter, and kernels of a user's own."""

import numpy as np
import pytest

from minist import Tensor, gradcheck, spatial
from minist.spatial.kernels import Bilinear, Kernel, Nearest


class Tent(Kernel):
    """A tent over four pixels."""

    taps, first = 4, -1

    def weights(self, t):
        return [(1 - abs(t - k) / 2) / 2 for k in range(-1, 3)]

    def slopes(self, t):
        return [-np.sign(t - k) / 4 for k in range(-1, 3)]


class Behind(Kernel):
    """The pixel two to the left, and half of the third."""

    taps, first = 2, -3

    def weights(self, t):
        return [0.5 + 0 * t, 1.0 + 0 * t]

    def slopes(self, t):
        return [0 * t, 0 * t]


K = {  # k(x) as it stands in an equation
    "Eq. (4)": (Nearest(), lambda x: (x >= -0.5) & (x < 0.5)),
    "Eq. (5)": (Bilinear(), lambda x: np.maximum(0, 1 - abs(x))),
    "a wide tent": (Tent(), lambda x: np.maximum(0, 1 - abs(x) / 2) / 2),
    "to the left": (Behind(), lambda x: 1.0 * ((x >= 2) & (x < 3)) + 0.5 * ((x >= 3) & (x < 4))),
}
every_kernel = pytest.mark.parametrize(("kernel", "k"), K.values(), ids=K)
kernels_of_ones_own = pytest.mark.parametrize("kernel", [Tent(), Behind()])
both_conventions = pytest.mark.parametrize("align_corners", [True, False])


@every_kernel
@both_conventions
def test_equation_3_to_the_letter(rng, kernel, k, align_corners):
    h, w = 5, 4
    u = rng.normal(size=(1, 2, h, w))
    x, y = rng.uniform(-9, 13, (2, 400))  # in pixels, many of them far outside
    extent = np.array([w - 1, h - 1] if align_corners else [w, h])
    grid = (2 * np.stack([x, y], axis=-1) - [w - 1, h - 1]) / extent
    kx, ky = k(x[:, None] - np.arange(w)), k(y[:, None] - np.arange(h))
    v = np.einsum("cnm,im,in->ci", u[0], kx, ky)
    sampled = spatial.grid_sample(u, grid[None, None], kernel, align_corners=align_corners)
    np.testing.assert_allclose(sampled.numpy()[0, :, 0], v, atol=1e-12)


@every_kernel
def test_slopes_are_those_of_the_weights(rng, kernel, k):
    # Of the nearest pixel t is -0.5..0.5, of all others 0..1; both lie in 0.1..0.4.
    t, step = rng.uniform(0.1, 0.4, 20), 1e-6
    before, after = kernel.weights(t - step), kernel.weights(t + step)
    for tap, slope in enumerate(kernel.slopes(t)):
        difference = (after[tap] - before[tap]) / (2 * step)
        np.testing.assert_allclose(np.broadcast_to(slope, 20), difference, atol=1e-9)
        np.testing.assert_allclose(kernel.weights(t)[tap], k(t - tap - kernel.first), atol=1e-12)


@kernels_of_ones_own
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(
    ("shape", "points"),
    [((2, 2, 4, 5), (2, 3, 4)), ((1, 1, 3, 1), (1, 2, 3)), ((1, 1, 2, 3, 2), (1, 2, 2, 2))],
)
@both_conventions
def test_gradient(rng, leaf, kernel, padding_mode, shape, points, align_corners):
    u = leaf(*shape)
    grid = Tensor(rng.uniform(-1.8, 1.8, (*points, len(shape) - 2)), requires_grad=True)
    sample = spatial.grid_sample
    assert gradcheck(lambda u, g: sample(u, g, kernel, padding_mode, align_corners), (u, grid))


@kernels_of_ones_own
@pytest.mark.parametrize("far", [-1e20, 50.0, np.inf, np.nan])
def test_far_outside_there_is_nothing(kernel, far):
    u = Tensor(np.ones((2, 1, 3, 4)), requires_grad=True)
    grid = Tensor(np.full((2, 2, 2, 2), far), requires_grad=True)
    v = spatial.grid_sample(u, grid, kernel)
    v.sum().backward()
    assert not v.numpy().any() and not u.grad.any() and not grid.grad.any()
