"""Several transformers side by side: one localisation network for all, or one for each."""

import numpy as np
import pytest

import minist
from minist import Tensor, nn, optim, spatial
from minist.spatial import (
    Affine,
    Attention,
    ParallelTransformers,
    SpatialTransformer,
    ThetaRegression,
    ThinPlateSpline,
    Translation,
    kernels,
)

STARTS = {  # three of each, different
    "Affine": (Affine(), [[1, 0, 0.25, 0, 1, 0], [0.5, 0, 0, 0, 0.5, 0.1], [1, 0.2, 0, 0, 1, 0]]),
    "Attention": (Attention(), [[0.5, 0.5, 0], [0.5, -0.5, 0], [0.75, 0, 0.25]]),
    "fixed scale": (Attention(scale=0.5), [[0.5, 0.5], [-0.5, 0.5], [0, -0.5]]),
    "spline": (
        ThinPlateSpline(2, 2),
        np.add.outer([0.0, 0.2, -0.1], ThinPlateSpline(2, 2).identity()),
    ),
}
every_start = pytest.mark.parametrize(("transformation", "starts"), STARTS.values(), ids=STARTS)
shared_and_apart = pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
PIXELS = 2 * 5 * 6


def localisation_of(transformation, starts, shared):
    """One network with k starts, or k networks with one each; their weights are not zero."""
    rng = np.random.default_rng(7)

    def net(start):
        regression = ThetaRegression(PIXELS, transformation, start=start)
        regression.weight.data[...] = 0.01 * rng.normal(size=regression.weight.shape)
        return nn.Sequential(nn.Flatten(), regression)

    return net(starts) if shared else [net(start) for start in starts]


def thetas_of(localisation, u, k):
    """theta of each transformer, (N, num_parameters), as the networks say it."""
    if isinstance(localisation, nn.Module):
        return np.split(localisation(u).numpy(), k, axis=1)
    return [net(u).numpy() for net in localisation]


def images(rng, n=4):
    return rng.normal(size=(n, 2, 5, 6)).astype(np.float32)


@every_start
@shared_and_apart
@pytest.mark.parametrize("concatenate", [True, False])
@pytest.mark.parametrize("align_corners", [True, False])
def test_each_looks_where_its_own_theta_says(
    rng, transformation, starts, shared, concatenate, align_corners
):
    u, size = images(rng), (3, 4)
    net = localisation_of(transformation, starts, shared)
    parallel = ParallelTransformers(
        3, net, transformation, concatenate, output_size=size, align_corners=align_corners
    )
    v = parallel(u)
    outputs = np.split(v.numpy(), 3, axis=1) if concatenate else [part.numpy() for part in v]
    assert len(outputs) == 3
    for i, (theta, output) in enumerate(zip(thetas_of(net, u, 3), outputs, strict=True)):
        grid = transformation.grid(theta, size, align_corners)
        np.testing.assert_array_equal(parallel.theta.numpy()[:, i], theta)
        np.testing.assert_array_equal(parallel.grid.numpy()[:, i], grid.numpy())
        expected = spatial.grid_sample(u, grid, align_corners=align_corners).numpy()
        np.testing.assert_allclose(output, expected, rtol=1e-6, atol=1e-6, strict=True)
    assert not np.allclose(outputs[0], outputs[1])


@every_start
@shared_and_apart
def test_shapes(rng, transformation, starts, shared):
    parallel = ParallelTransformers(
        3, localisation_of(transformation, starts, shared), transformation, output_size=(3, 4)
    )
    assert parallel.theta is None and parallel.grid is None
    assert parallel(images(rng)).shape == (4, 6, 3, 4)
    assert parallel.theta.shape == (4, 3, transformation.num_parameters)
    assert parallel.grid.shape == (4, 3, 3, 4, 2)
    assert parallel(images(rng, 0)).shape == (0, 6, 3, 4)


@every_start
@shared_and_apart
def test_they_start_where_they_are_told(rng, transformation, starts, shared):
    parallel = ParallelTransformers(
        3, localisation_of(transformation, starts, shared), transformation
    )
    for _, module in parallel.named_modules():
        if isinstance(module, ThetaRegression):
            module.weight.data[...] = 0
    parallel(images(rng))
    expected = np.broadcast_to(np.float32(starts), (4, *np.shape(starts)))
    np.testing.assert_array_equal(parallel.theta.numpy(), expected)


def test_without_starts_all_look_at_all(rng):
    """Each network of its own begins at the identity."""
    nets = [nn.Sequential(nn.Flatten(), ThetaRegression(PIXELS, Affine())) for _ in range(2)]
    u = images(rng)
    for v in ParallelTransformers(2, nets, Affine(), concatenate=False)(u):
        np.testing.assert_allclose(v.numpy(), u, atol=1e-6)


@every_start
@shared_and_apart
def test_the_gradient_of_an_output_reaches_its_own_theta_only(rng, transformation, starts, shared):
    net = localisation_of(transformation, starts, shared)
    parallel = ParallelTransformers(3, net, transformation, concatenate=False)
    u = images(rng)
    for i in range(3):
        parallel.zero_grad()
        (parallel(u)[i] ** 2).sum().backward()
        if shared:
            of_each = net[1].weight.grad.reshape(3, -1)
        else:
            none = np.zeros(1)
            of_each = [none if each[1].weight.grad is None else each[1].weight.grad for each in net]
        assert [bool(gradient.any()) for gradient in of_each] == [j == i for j in range(3)]


@shared_and_apart
def test_the_gradient_goes_to_the_images_through_all(rng, shared):
    transformation, starts = STARTS["Affine"]
    net = localisation_of(transformation, starts, shared)
    u = Tensor(images(rng), requires_grad=True)
    thetas = [Tensor(theta) for theta in thetas_of(net, u, 3)]
    parallel = ParallelTransformers(3, net, transformation)
    for module in [net] if shared else net:
        module[1].weight.data[...] = 0
    (gradient,) = minist.grad(parallel(u).sum(), [u])
    thetas = [Tensor(theta) for theta in thetas_of(net, u, 3)]
    alone = Tensor(u.data, requires_grad=True)
    for theta in thetas:
        spatial.grid_sample(alone, transformation.grid(theta, (5, 6))).sum().backward()
    np.testing.assert_allclose(gradient, alone.grad, rtol=1e-5, atol=1e-6)


@shared_and_apart
def test_all_parameters_are_found_and_named_apart(shared):
    transformation, starts = STARTS["Attention"]
    parallel = ParallelTransformers(
        3, localisation_of(transformation, starts, shared), transformation
    )
    names = {name for name, _ in parallel.named_parameters()}
    apart = {f"localisation.{i}.1.{name}" for i in range(3) for name in ("weight", "bias")}
    assert names == ({"localisation.1.weight", "localisation.1.bias"} if shared else apart)


def test_two_find_two_things():
    """Each follows its own blob to its middle, from a start on its own side."""
    y, x = np.mgrid[:9, :19]

    def blob(cx, cy):
        return np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 8).astype(np.float32)

    u, target = (blob(4, 5) + blob(13, 3))[None, None], blob(9, 4)[None, None]
    net = nn.Sequential(nn.Flatten(), ThetaRegression(171, Translation(), [[-0.3, 0], [0.3, 0]]))
    parallel = ParallelTransformers(2, net, Translation(), concatenate=False)
    optimiser = optim.Adam([net[1].bias], lr=0.02)
    middle = np.exp(-((x - 9) ** 2 + (y - 4) ** 2) / 8).astype(np.float32)
    for _ in range(120):
        loss = sum((((v - target) * middle) ** 2).sum() for v in parallel(u))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    pixels = parallel.theta.numpy()[0] * [9, 4] + [9, 4]
    np.testing.assert_allclose(pixels, [[4, 5], [13, 3]], atol=0.3)


def test_options_reach_the_sampler(rng):
    u, theta = rng.normal(size=(2, 1, 5, 6)).astype(np.float32), np.float32([[0.4, 0.3]])
    options = {
        "mode": kernels.Lanczos(2),
        "padding_mode": "border",
        "align_corners": False,
        "antialias": True,
    }
    net = nn.Sequential(nn.Flatten(), ThetaRegression(30, Translation(), start=theta))
    parallel = ParallelTransformers(1, net, Translation(), output_size=(2, 3), **options)
    grid = Translation().grid(np.repeat(theta, 2, axis=0), (2, 3), False)
    np.testing.assert_array_equal(
        parallel(u).numpy(), spatial.grid_sample(u, grid, **options).numpy()
    )


def test_volumes_side_by_side(rng):
    u = rng.normal(size=(1, 2, 2, 3, 4)).astype(np.float32)
    starts = np.stack([Affine(3).identity(), Affine(3).identity() * 0.5])
    net = nn.Sequential(nn.Flatten(), ThetaRegression(48, Affine(3), starts))
    parallel = ParallelTransformers(2, net, Affine(3))
    v = parallel(u)
    assert v.shape == (1, 4, 2, 3, 4) and parallel.grid.shape == (1, 2, 2, 3, 4, 3)
    np.testing.assert_allclose(v.numpy()[:, :2], u, atol=1e-6)


def test_they_warn_as_one_does():
    """Each is watched by itself."""
    u = np.zeros((3, 1, 4, 4), np.float32)
    for starts, lost in (([[0, 0], [0, 5]], True), ([[0, 0], [0.5, 0]], False)):
        net = nn.Sequential(nn.Flatten(), ThetaRegression(16, Translation(), starts))
        parallel = ParallelTransformers(2, net, Translation())
        if lost:
            with pytest.warns(UserWarning, match="more than half of the images"):
                parallel(u)
        parallel(u)
        assert parallel.warned == lost


# --- wrong input --------------------------------------------------------------------------------


def test_a_shared_net_for_another_number():
    net = nn.Sequential(nn.Flatten(), ThetaRegression(60, Attention()))
    words = r"ParallelTransformers: .* gave \(4, 3\), but Attention\(\) needs theta \(4, 6\)"
    with pytest.raises(ValueError, match=words):
        ParallelTransformers(2, net, Attention())(np.zeros((4, 2, 5, 6), np.float32))


def test_one_net_of_several_for_another_transformation():
    nets = [nn.Sequential(nn.Flatten(), ThetaRegression(60, t)) for t in (Attention(), Affine())]
    words = r"ParallelTransformers: .* gave \(4, 6\), but Attention\(\) needs theta \(4, 3\)"
    with pytest.raises(ValueError, match=words):
        ParallelTransformers(2, nets, Attention())(np.zeros((4, 2, 5, 6), np.float32))


@pytest.mark.parametrize("k", [0, -1])
def test_no_transformers(k):
    with pytest.raises(ValueError, match=f"ParallelTransformers: k must be 1 or more, not {k}"):
        ParallelTransformers(k, nn.Flatten(), Affine())


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_nets(count):
    nets = [nn.Flatten() for _ in range(count)]
    with pytest.raises(ValueError, match=f"{count} localisation networks for k = 2"):
        ParallelTransformers(2, nets, Affine())


def test_what_is_no_net():
    with pytest.raises(TypeError, match="layer 1 must be a Module"):
        ParallelTransformers(2, [nn.Flatten(), "net"], Affine())


def test_side_by_side_they_look_once():
    SpatialTransformer(nn.Flatten(), Affine(), iterations=2)
    with pytest.raises(TypeError, match="looks once; it has no iterations"):
        ParallelTransformers(2, nn.Flatten(), Affine(), iterations=2)
