"""Batch normalisation: what it gives has mean 0 and variance 1, and its gradient knows it."""

import numpy as np
import pytest

import minist.functional as F
from minist import Tensor, gradcheck, tensor

SHAPES = [(4, 3), (2, 3), (4, 1), (2, 3, 4, 5), (1, 3, 1, 2), (3, 1, 2, 2), (2, 3, 4)]


def statistics(rng, channels, dtype=np.float64):
    return rng.normal(size=channels).astype(dtype), rng.uniform(0.5, 2, channels).astype(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_gradient(leaf, rng, shape, training):
    mean, var = statistics(rng, shape[1])

    def normalise(*inputs):
        return F.batch_norm(inputs[0], mean.copy(), var.copy(), *inputs[1:], training=training)

    assert gradcheck(normalise, [leaf(*shape), leaf(shape[1]), leaf(shape[1])])
    assert gradcheck(normalise, leaf(*shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_agrees_with_torch(assert_same_as_torch, rng, shape, training, affine):
    torch = pytest.importorskip("torch")
    channels = shape[1]
    mean, var = statistics(rng, channels)
    moved = {}

    def ours(*inputs):
        own = [a.astype(inputs[0].dtype) for a in (mean, var)]
        y = F.batch_norm(inputs[0], *own, *inputs[1:], training=training, momentum=0.3, eps=1e-3)
        moved["ours"] = own
        return y

    def theirs(*inputs):
        own = [torch.tensor(a, dtype=inputs[0].dtype) for a in (mean, var)]
        y = torch.nn.functional.batch_norm(
            inputs[0], *own, *inputs[1:], training=training, momentum=0.3, eps=1e-3
        )
        for a, b in zip(moved["ours"], own, strict=True):
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-5)
            assert np.array_equal(a, (mean if a is moved["ours"][0] else var)) != training or (
                a.dtype == np.float32
            )
        return y

    arrays = [rng.normal(2, 3, shape)]
    if affine:
        arrays += [rng.normal(size=channels), rng.normal(size=channels)]
    assert_same_as_torch(ours, theirs, *arrays)


def test_every_channel_gets_mean_0_and_variance_1(rng):
    y = F.batch_norm(rng.normal(5, 7, (8, 3, 4, 4)), None, None, training=True, eps=0).numpy()
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0, atol=1e-14)
    np.testing.assert_allclose(y.var(axis=(0, 2, 3)), 1)


def test_shift_and_scale_of_the_input_are_forgotten(rng):
    x = rng.normal(size=(6, 3))
    one, other = (F.batch_norm(a, None, None, eps=0).numpy() for a in (x, 5 * x - 3))
    np.testing.assert_allclose(one, other)


def test_the_gradient_has_no_part_along_a_shift_or_a_scale(rng):
    x = Tensor(rng.normal(size=(6, 3)), requires_grad=True)
    y = F.batch_norm(x, None, None, training=True, eps=0)
    y.backward(rng.normal(size=(6, 3)))
    np.testing.assert_allclose(x.grad.sum(axis=0), 0, atol=1e-13)
    np.testing.assert_allclose((x.grad * y.numpy()).sum(axis=0), 0, atol=1e-13)


def test_running_statistics_learn_the_unbiased_variance(rng):
    x = rng.normal(2, 3, (5, 2))
    mean, var = np.zeros(2), np.zeros(2)
    F.batch_norm(x, mean, var, training=True, momentum=1.0)
    np.testing.assert_allclose(mean, x.mean(axis=0))
    np.testing.assert_allclose(var, x.var(axis=0, ddof=1))


def test_evaluation_leaves_the_running_statistics_and_takes_any_batch(rng):
    mean, var = statistics(rng, 3)
    before = mean.copy(), var.copy()
    for n in (0, 1, 4):
        assert F.batch_norm(np.ones((n, 3)), mean, var).shape == (n, 3)
    np.testing.assert_array_equal((mean, var), before)


@pytest.mark.parametrize("momentum", [0.1, np.float64(0.1)])
def test_float32_stays_beside_statistics_of_float64(rng, momentum):
    mean, var = statistics(rng, 3)
    x = Tensor(rng.normal(size=(4, 3)).astype(np.float32), requires_grad=True)
    for training in (True, False):
        y = F.batch_norm(
            x, mean, var, training=training, momentum=momentum, eps=np.float64(1e-5)
        )
        y.sum().backward()
        assert y.dtype == x.grad.dtype == np.float32


def test_the_layout_in_memory_changes_nothing(rng, layout):
    x, grad = rng.normal(size=(2, 2, 3, 4, 5))
    for running in ((None, None), statistics(rng, 3)):
        found, expected = (Tensor(a, requires_grad=True) for a in (layout(x), x))
        ys = [F.batch_norm(a, *running) for a in (found, expected)]
        for a, y in zip((found, expected), ys, strict=True):
            y.backward(layout(grad) if a is found else grad)
        np.testing.assert_allclose(ys[0].numpy(), ys[1].numpy(), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found.grad, expected.grad, rtol=1e-12, atol=1e-12)


def test_a_constant_input_is_not_differentiated(leaf):
    y = F.batch_norm(np.ones((4, 3)), None, None, leaf(3))
    grad_x, grad_weight, grad_bias = y.grad_fn.backward(np.ones((4, 3)))
    assert grad_x is None
    assert grad_bias is None
    assert grad_weight.shape == (3,)


@pytest.mark.parametrize(
    ("x", "weight", "training", "error", "message"),
    [
        (np.ones(3), None, True, ValueError, r"expected \(N, C\) or \(N, C, H, W\), got \(3,\)"),
        (np.ones((4, 2)), None, False, ValueError, r"running_mean must be \(2,\), not \(3,\)"),
        (np.ones((4, 3)), [1.0, 2.0], True, ValueError, r"weight must be \(3,\), not \(2,\)"),
        (np.ones((1, 3)), None, True, ValueError, r"more than one element, got \(1, 3\)"),
        (np.ones((0, 3, 2, 2)), None, True, ValueError, r"more than one element, got \(0, 3"),
        (np.ones((4, 3), np.uint8), None, True, TypeError, "x must be floating, not uint8"),
    ],
)
def test_wrong_input_is_refused_and_nothing_learnt(x, weight, training, error, message):
    mean, var = np.zeros(3), np.ones(3)
    with pytest.raises(error, match=f"batch_norm: .*{message}"):
        F.batch_norm(x, mean, var, weight, training=training)
    assert mean.tolist() == [0, 0, 0]
    assert var.tolist() == [1, 1, 1]


def test_one_image_of_several_pixels_is_a_batch():
    assert F.batch_norm(tensor(np.eye(2).reshape(1, 1, 2, 2)), None, None).numpy().mean() == 0
