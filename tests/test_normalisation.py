"""Batch normalisation, by the batch and by running statistics."""

import numpy as np
import pytest

import minist.functional as F
from minist import Tensor, gradcheck, tensor

SHAPES = [(4, 3), (2, 1), (2, 3, 4, 5), (1, 2, 1, 2), (1, 1, 3, 2), (3, 2, 5)]


def evaluate(x, *parameters):
    """In the mode of evaluation, with statistics that are not those of the batch."""
    channels = np.arange(x.shape[1])
    return F.batch_norm(x, 0.1 * channels - 0.2, 0.5 + channels, *parameters)


def train(x, *parameters):
    return F.batch_norm(x, None, None, *parameters, training=True)


@pytest.mark.parametrize("mode", [train, evaluate])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient(leaf, mode, shape):
    x, weight, bias = leaf(*shape), leaf(shape[1]), leaf(shape[1])
    x.data *= 1 + np.arange(x.size).reshape(shape) % 5  # no two elements of a channel alike
    assert gradcheck(mode, [x, weight, bias], atol=1e-6)
    assert gradcheck(mode, [x, weight.detach(), bias], atol=1e-6)
    assert gradcheck(mode, x, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 2, 2), (1, 3)], ids=str)
def test_evaluation_takes_batches_of_any_size(leaf, shape):
    assert gradcheck(evaluate, [leaf(*shape), leaf(3), leaf(3)])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4, 5), (3, 2, 5)], ids=str)
def test_parity_with_torch(assert_same_as_torch, rng, training, shape):
    torch = pytest.importorskip("torch")
    channels = shape[1]
    x, weight, bias = (
        rng.normal(1.0, 2.0, shape),
        rng.normal(size=channels),
        rng.normal(size=channels),
    )
    start = rng.normal(size=channels), rng.uniform(0.5, 2, channels)
    options = {"training": training, "momentum": 0.3, "eps": 1e-3}
    running = {}

    def ours(x, *parameters):
        running[x.dtype.name] = [s.astype(x.dtype) for s in start]
        return F.batch_norm(x, *running[x.dtype.name], *parameters, **options)

    def theirs(x, *parameters):
        statistics = [torch.tensor(s, dtype=x.dtype) for s in start]
        y = torch.nn.functional.batch_norm(x, *statistics, *parameters, **options)
        for own, other in zip(running[str(x.dtype).split(".")[1]], statistics, strict=True):
            np.testing.assert_allclose(
                own, other.numpy(), rtol=1e-5 if own.itemsize == 4 else 1e-10
            )
        return y

    assert_same_as_torch(ours, theirs, x, weight, bias)


def test_layout(leaf, layout, rng):
    x, weight, bias = leaf(3, 2, 4, 5), leaf(2), leaf(2)
    other = Tensor(layout(x.data), requires_grad=True)
    y, z = train(x, weight, bias), train(other, weight, bias)
    grad = rng.normal(size=y.shape)
    y.backward(grad)
    z.backward(layout(grad))
    np.testing.assert_allclose(z.numpy(), y.numpy(), rtol=1e-10)
    np.testing.assert_allclose(other.grad, x.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-1, 1.0, 1e3])
def test_every_channel_gets_mean_0_and_variance_1_but_for_eps(rng, scale):
    x = rng.normal(5.0, scale, (8, 3, 4, 4))
    y = train(tensor(x)).numpy()
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0.0, atol=1e-10)
    var = x.var(axis=(0, 2, 3))
    np.testing.assert_allclose(y.var(axis=(0, 2, 3)), var / (var + 1e-5), rtol=1e-10)


def test_the_gradient_has_no_part_along_shift_and_scale(leaf, rng):
    x = leaf(6, 3)
    z = F.batch_norm(x, None, None, training=True, eps=0.0)
    z.backward(rng.normal(size=z.shape))
    np.testing.assert_allclose(x.grad.sum(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose((x.grad * z.data).sum(axis=0), 0.0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_statistics_of_float64_leave_float32(rng, training):
    x = Tensor(rng.normal(size=(4, 3)).astype(np.float32), requires_grad=True)
    y = F.batch_norm(x, np.zeros(3), np.ones(3), training=training, eps=np.float64(1e-5))
    y.sum().backward()
    assert y.dtype == x.grad.dtype == np.float32


def test_running_statistics_move_in_training_only(rng):
    mean, var = np.zeros(3, dtype=np.float32), np.ones(3, dtype=np.float32)
    x = tensor(rng.normal(2.0, 3.0, (50, 3)))
    F.batch_norm(x, mean, var)
    assert (mean == 0).all()
    assert (var == 1).all()
    for _ in range(100):
        F.batch_norm(x, mean, var, training=True)
    np.testing.assert_allclose(mean, x.data.mean(axis=0), rtol=1e-3)
    np.testing.assert_allclose(var, x.data.var(axis=0, ddof=1), rtol=1e-3)


def test_constant_channels_give_the_bias():
    y = train(tensor(np.full((4, 2), 7.0)), np.full(2, 3.0), np.array([1.0, 2.0]))
    assert y.numpy().tolist() == [[1.0, 2.0]] * 4


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1), (0, 3), (0, 3, 2, 2)], ids=str)
def test_one_element_has_no_variance(shape):
    with pytest.raises(ValueError, match="batch_norm: in training a channel needs more than one"):
        train(tensor(np.ones(shape)))


@pytest.mark.parametrize("name", ["running_mean", "running_var", "weight", "bias"])
def test_sizes_that_do_not_fit(name):
    sizes = {"running_mean": np.zeros(3), "running_var": np.ones(3)} | {name: np.ones(2)}
    with pytest.raises(ValueError, match=rf"batch_norm: {name} must be \(3,\), not \(2,\)"):
        F.batch_norm(tensor(np.ones((4, 3))), **sizes)


def test_other_errors():
    with pytest.raises(ValueError, match=r"batch_norm: expected \(N, C\) .*, got \(3,\)"):
        train(tensor(np.ones(3)))
    with pytest.raises(TypeError, match="batch_norm: x must be floating, not uint8"):
        train(Tensor(np.ones((4, 3), dtype=np.uint8)))
