"""Losses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minist.functional as F
from minist import Tensor, gradcheck, tensor

REDUCTIONS = ["mean", "sum", "none"]


SMOOTHINGS = [0.0, 0.2, 1.0]


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("n", "classes"), [(1, 1), (1, 3), (5, 4)])
def test_gradient_of_cross_entropy(leaf, rng, reduction, n, classes, smoothing):
    labels = rng.integers(0, classes, n)
    assert gradcheck(lambda x: F.cross_entropy(x, labels, reduction, smoothing), leaf(n, classes))


@pytest.mark.parametrize(
    ("shape", "reduction"),
    [(shape, r) for shape in ((4, 3), (1, 1), (2, 3, 2)) for r in REDUCTIONS]
    + [((0, 3), "sum"), ((0, 3), "none")],
)
def test_gradient_of_other_losses(leaf, reduction, shape):
    inputs = [leaf(*shape) for _ in range(3)]
    assert gradcheck(lambda a, b: F.mse_loss(a, b, reduction), inputs[:2])
    for margin in (0.0, 1.0, 100.0):
        assert gradcheck(lambda *x, m=margin: F.triplet_hinge_loss(*x, m, reduction), inputs)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_parity_with_torch(assert_same_as_torch, rng, reduction, scale):
    torch = pytest.importorskip("torch")
    labels = rng.integers(0, 10, 6)
    for smoothing in SMOOTHINGS:
        assert_same_as_torch(
            lambda x, s=smoothing: F.cross_entropy(x, labels, reduction, label_smoothing=s),
            lambda x, s=smoothing: torch.nn.functional.cross_entropy(
                x, torch.tensor(labels), reduction=reduction, label_smoothing=s
            ),
            scale * rng.normal(size=(6, 10)),
        )
    assert_same_as_torch(
        lambda a, b: F.mse_loss(a, b, reduction),
        lambda a, b: torch.nn.functional.mse_loss(a, b, reduction=reduction),
        *rng.normal(size=(2, 6, 10)),
    )


def test_layout(leaf, layout):
    x = leaf(5, 4)
    other, labels = Tensor(layout(x.data), requires_grad=True), np.arange(5) % 4
    F.cross_entropy(x, labels).backward()
    F.cross_entropy(other, labels[::-1][::-1]).backward()
    np.testing.assert_allclose(other.grad, x.grad, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_of_logits_of_any_size(dtype):
    x = Tensor(np.array([[1e4, -1e4], [1e4, -1e4], [1e4, 1e4]], dtype=dtype), requires_grad=True)
    loss = F.cross_entropy(x, [0, 1, 0], "none")
    loss.sum().backward()
    np.testing.assert_allclose(loss.numpy(), [0.0, 2e4, np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(x.grad, [[0, 0], [1, -1], [-0.5, 0.5]], atol=1e-6)


@pytest.mark.parametrize("dtype", [*"bhilqBHILQ"])
def test_labels_are_integers_of_any_width(leaf, dtype):
    x = leaf(3, 300)
    expected = F.cross_entropy(x, [0, 7, 127]).item()
    labels = np.array([0, 7, 127], dtype=dtype)
    for same in (labels, Tensor(labels), labels.tolist()):
        assert F.cross_entropy(x, same).item() == expected


def test_the_loss_is_of_float32_whatever_the_labels_are():
    x = Tensor(np.zeros((2, 3), dtype=np.float32), requires_grad=True)
    loss = F.cross_entropy(x, np.array([0, 1], dtype=np.uint64))
    loss.backward()
    assert loss.dtype == x.grad.dtype == np.float32


logits = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.floats(-50, 50)
)


@given(x=logits, shift=st.floats(-1000, 1000), data=st.data())
def test_cross_entropy_is_minus_log_softmax_and_its_gradient_sums_to_0(x, shift, data):
    labels = data.draw(hnp.arrays(np.int64, len(x), elements=st.integers(0, x.shape[1] - 1)))
    leaf = Tensor(x, requires_grad=True)
    loss = F.cross_entropy(leaf, labels, "none")
    loss.sum().backward()
    expected = -F.log_softmax(tensor(x)).numpy()[np.arange(len(x)), labels]
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(leaf.grad.sum(axis=1), 0.0, atol=1e-12)
    shifted = F.cross_entropy(tensor(x + shift), labels, "none").numpy()
    np.testing.assert_allclose(shifted, expected, rtol=1e-9, atol=1e-9)


def test_the_mean_loss_of_an_empty_batch_is_not_a_number(leaf):
    x = leaf(0, 3)
    labels = np.zeros(0, dtype=int)
    loss = F.cross_entropy(x, labels)
    loss.backward()
    assert np.isnan(loss.item())
    assert F.cross_entropy(x, labels, "sum").item() == 0.0
    assert x.grad.shape == (0, 3)


def test_a_triplet_by_hand():
    a, p, n = (tensor([row]) for row in ([0.0, 0.0], [1.0, 0.0], [0.0, 2.0]))
    assert F.triplet_hinge_loss(a, p, n, margin=1.0).item() == 0.0  # 1 - 4 + 1 < 0
    assert F.triplet_hinge_loss(a, p, n, margin=5.0).item() == 2.0
    assert F.triplet_hinge_loss(a, n, p, margin=1.0).item() == 4.0


x43 = tensor(np.zeros((4, 3)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: F.cross_entropy(x43, [0, 1, 2, 3]), r"^CrossEntropy: label 3 is outside 0\.\.2"),
        (lambda: F.cross_entropy(x43, [0, -1, 2, 0]), r"^CrossEntropy: label -1 is outside 0\.\.2"),
        (lambda: F.cross_entropy(x43, [0, 1]), r"^CrossEntropy: .* got \(4, 3\) and \(2,\)"),
        (lambda: F.cross_entropy(x43, [[0], [1], [0], [1]]), r"got \(4, 3\) and \(4, 1\)"),
        (lambda: F.cross_entropy(x43.reshape(12), [0]), r"got \(12,\) and \(1,\)"),
        (lambda: F.cross_entropy(x43, [0, 1, 2, 0], "avg"), "reduction must be .* not 'avg'"),
        (lambda: F.cross_entropy(x43, [0, 1, 2, 0], "sum", 1.1), "label_smoothing .* not 1.1"),
        (
            lambda: F.mse_loss(x43, np.ones(3)),
            r"prediction .* differ in shape, \(4, 3\) and \(3,\)",
        ),
        (
            lambda: F.triplet_hinge_loss(x43, x43, x43[:2]),
            r"differ in shape, \(4, 3\) and \(2, 3\)",
        ),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("labels", [[0.0, 1.0], [True, False], np.eye(2)])
def test_labels_must_be_class_numbers(labels):
    with pytest.raises(TypeError, match=r"^CrossEntropy: labels .* must be integers"):
        F.cross_entropy(tensor(np.zeros((2, 2))), labels)


def test_a_tensor_made_of_a_list_of_labels_is_told_of():
    with pytest.raises(TypeError, match=r"not float32: use numpy\.array, since a tensor"):
        F.cross_entropy(tensor(np.zeros((2, 2))), tensor([0, 1]))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.mse_loss(x, x[::-1].copy()),
        lambda x: F.cross_entropy(x, [0, 1]),
        lambda x: F.triplet_hinge_loss(x, x, x),
    ],
)
def test_losses_of_integers_are_refused(call):
    """10 - 200 in bytes is 66."""
    with pytest.raises(TypeError, match=r"must be floating, not u?int"):
        call(np.array([[10, 20, 30], [200, 210, 220]], np.uint8))


def test_mse_loss_computes_nothing_for_a_constant_target(leaf):
    losses = F.mse_loss(leaf(3), np.ones(3), reduction="none")
    assert losses.grad_fn.backward(np.ones(3))[1] is None


@pytest.mark.parametrize("target", [[1, 2], np.array([1, 2]), np.array([True, False])])
def test_mse_loss_of_float32_and_integers_is_float32(target):
    x = tensor([1.5, 2.5], requires_grad=True)
    loss = F.mse_loss(x, target)
    loss.backward()
    assert loss.dtype == x.grad.dtype == np.float32
