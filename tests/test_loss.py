"""Losses: cross entropy is exact for logits of any size, and no loss broadcasts by accident."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minist.functional as F
from minist import Tensor, gradcheck, tensor

REDUCTIONS = ["mean", "sum", "none"]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("n", "classes"), [(4, 3), (1, 1), (1, 5)])
def test_cross_entropy(assert_same_as_torch, leaf, rng, n, classes, reduction):
    labels = rng.integers(classes, size=n)
    assert gradcheck(lambda x: F.cross_entropy(x, labels, reduction), leaf(n, classes))

    torch = pytest.importorskip("torch")
    assert_same_as_torch(
        lambda x: F.cross_entropy(x, labels, reduction),
        lambda x: torch.nn.functional.cross_entropy(x, torch.tensor(labels), reduction=reduction),
        3 * rng.normal(size=(n, classes)),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_of_logits_of_ten_thousand(dtype):
    logits = Tensor(np.array([[1e4, 0, -1e4]] * 3, dtype), requires_grad=True)
    losses = F.cross_entropy(logits, [0, 1, 2], reduction="none")
    assert losses.numpy().tolist() == [0, 1e4, 2e4]
    losses.sum().backward()
    assert logits.grad.tolist() == [[0, 0, 0], [1, -1, 0], [1, 0, -1]]


@given(st.integers(1, 5), st.integers(1, 6), st.floats(-1e3, 1e3), st.integers(0, 2**32 - 1))
def test_cross_entropy_does_not_see_a_shift_of_the_logits(n, classes, shift, seed):
    rng = np.random.default_rng(seed)
    labels, x = rng.integers(classes, size=n), rng.normal(size=(n, classes))
    logits = Tensor(x, requires_grad=True)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    np.testing.assert_allclose(F.cross_entropy(Tensor(x + shift), labels).item(), loss.item())
    np.testing.assert_allclose(logits.grad.sum(axis=1), 0, atol=1e-15)


def test_cross_entropy_is_minus_the_log_softmax_at_the_label(rng):
    x, labels = Tensor(rng.normal(size=(5, 4))), rng.integers(4, size=5)
    np.testing.assert_allclose(
        F.cross_entropy(x, labels, "none").numpy(), -F.log_softmax(x).numpy()[range(5), labels]
    )


@pytest.mark.parametrize("width", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", ">i4"])
@pytest.mark.parametrize("wrap", [np.asarray, tensor])
def test_labels_are_integers_of_any_width(rng, width, wrap):
    x = Tensor(rng.normal(size=(3, 10)).astype(np.float32), requires_grad=True)
    labels = [9, 0, 4]
    loss = F.cross_entropy(x, wrap(np.array(labels, width)))
    assert loss.item() == F.cross_entropy(x, labels).item()
    assert loss.dtype == np.float32
    loss.backward()
    assert x.grad.dtype == np.float32


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 3], ValueError, r"label 3 is outside 0\.\.2"),
        ([-1, 0], ValueError, r"label -1 is outside 0\.\.2"),
        (np.array([0, 255], np.uint8), ValueError, r"label 255 is outside 0\.\.2"),
        ([0, 1, 2], ValueError, r"expected logits \(N, classes\) and labels \(N,\), .*\(3,\)"),
        (np.zeros((2, 3), int), ValueError, r"got \(2, 3\) and \(2, 3\)"),
        (np.zeros(2), TypeError, "labels are class numbers and must be integers, not float64"),
        ([True, False], TypeError, "must be integers, not bool"),
    ],
)
def test_wrong_labels_are_refused(labels, error, message):
    with pytest.raises(error, match=rf"CrossEntropy: .*{message}"):
        F.cross_entropy(tensor(np.zeros((2, 3))), labels)


def test_logits_need_an_axis_of_classes():
    with pytest.raises(ValueError, match=r"got \(3,\) and \(3,\)"):
        F.cross_entropy([1.0, 2.0, 3.0], [0, 1, 2])


def test_an_empty_batch_has_no_loss():
    x = Tensor(np.zeros((0, 3), np.float32), requires_grad=True)
    labels = np.zeros(0, int)
    assert np.isnan(F.cross_entropy(x, labels).item())
    assert F.cross_entropy(x, labels, "sum").item() == 0
    losses = F.cross_entropy(x, labels, "none")
    assert losses.shape == (0,)
    losses.backward(np.zeros(0))
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 3)])
def test_mse_loss(assert_same_as_torch, leaf, rng, shape, reduction):
    if np.prod(shape) or reduction != "mean":
        assert gradcheck(lambda a, b: F.mse_loss(a, b, reduction), [leaf(*shape), leaf(*shape)])
        torch = pytest.importorskip("torch")
        assert_same_as_torch(
            lambda a, b: F.mse_loss(a, b, reduction),
            lambda a, b: torch.nn.functional.mse_loss(a, b, reduction=reduction),
            rng.normal(size=shape),
            rng.normal(size=shape),
        )
    else:
        assert np.isnan(F.mse_loss(leaf(*shape), leaf(*shape)).item())


def test_mse_loss_does_not_broadcast(leaf):
    with pytest.raises(ValueError, match=r"differ in shape, \(4, 1\) and \(4,\)"):
        F.mse_loss(leaf(4, 1), leaf(4))


def test_mse_loss_leaves_a_target_alone(leaf):
    loss = F.mse_loss(leaf(3), np.ones(3), reduction="none")
    assert loss.grad_fn.backward(np.ones(3))[1] is None


@pytest.mark.parametrize("target", [[1, 2], np.array([1, 2]), np.array([True, False])])
def test_mse_loss_of_float32_and_integers_is_float32(target):
    x = tensor([1.5, 2.5], requires_grad=True)
    loss = F.mse_loss(x, target)
    loss.backward()
    assert loss.dtype == x.grad.dtype == np.float32


def test_triplet_hinge_loss_by_hand():
    anchor, positive, negative = [[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 2.0]]
    assert F.triplet_hinge_loss(anchor, positive, negative, margin=3.5).item() == 0.5
    assert F.triplet_hinge_loss(anchor, positive, negative, margin=2.5).item() == 0
    assert F.triplet_hinge_loss(anchor, anchor, anchor, margin=1.0).item() == 1


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_triplet_hinge_loss_is_differentiated(leaf, reduction):
    rows = [leaf(6, 3) for _ in range(3)]
    losses = F.triplet_hinge_loss(*rows, reduction="none").numpy()
    assert (losses == 0).any()
    assert (losses > 0).any()
    assert gradcheck(lambda *x: F.triplet_hinge_loss(*x, reduction=reduction), rows)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match='"mean", "sum" or "none", not \'average\''):
        F.mse_loss([1.0], [2.0], reduction="average")
