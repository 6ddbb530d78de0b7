"""Dropout: which elements go is a matter of the seed alone, and the mean stays."""

import threading

import numpy as np
import pytest

import minist
import minist.functional as F
from minist import Tensor, gradcheck, tensor


def mask(seed, shape=(4, 5), p=0.5):
    return F.dropout(np.ones(shape, np.float32), p, rng=np.random.default_rng(seed)).numpy()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_share_p_is_zeroed_and_the_rest_scaled(p):
    y = mask(0, (100_000,), p)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / (1 - p))}
    assert abs((y == 0).mean() - p) < 0.01
    assert abs(y.mean() - 1) < 0.03


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 3, 4)])
def test_gradient(leaf, shape):
    assert gradcheck(lambda x: F.dropout(x, 0.4, rng=np.random.default_rng(1)), leaf(*shape))


def test_the_gradient_passes_where_the_value_did():
    x = Tensor(np.ones((8, 8)), requires_grad=True)
    y = F.dropout(x, 0.3)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, y.numpy())


def test_the_edges_of_p():
    x = tensor([1.0, -2.0], requires_grad=True)
    assert F.dropout(x, 0) is x
    assert F.dropout(x, 0.5, training=False) is x
    y = F.dropout(x, 1)
    y.sum().backward()
    assert y.numpy().tolist() == x.grad.tolist() == [0, 0]


def test_an_array_or_a_list_is_taken_too():
    assert F.dropout([1.0, 2.0], training=False).numpy().tolist() == [1, 2]


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_p_is_a_probability(p):
    with pytest.raises(ValueError, match=r"dropout: p is a probability in 0\.\.1"):
        F.dropout([1.0], p)


def test_the_seed_decides():
    assert (mask(1) == mask(1)).all()
    assert (mask(1) != mask(2)).any()
    minist.manual_seed(3)
    first = F.dropout(np.ones(50)).numpy()
    second = F.dropout(np.ones(50)).numpy()
    minist.manual_seed(3)
    np.testing.assert_array_equal(F.dropout(np.ones(50)).numpy(), first)
    assert (first != second).any()


def test_a_thread_draws_from_a_generator_of_its_own():
    minist.manual_seed(4)
    alone = F.dropout(np.ones(50)).numpy()
    minist.manual_seed(4)
    thread = threading.Thread(target=lambda: F.dropout(np.ones(50)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(F.dropout(np.ones(50)).numpy(), alone)


def test_the_layout_in_memory_changes_nothing(rng, layout):
    x = rng.normal(size=(2, 3, 4, 5))
    y = F.dropout(layout(x), rng=np.random.default_rng(5))
    np.testing.assert_array_equal(
        y.numpy(), F.dropout(x, rng=np.random.default_rng(5)).numpy(), strict=True
    )


def test_the_mask_does_not_depend_on_the_dtype():
    x = np.ones((3, 4))
    a, b = (
        F.dropout(x.astype(t), rng=np.random.default_rng(6)).numpy() for t in ("f4", "f8")
    )
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("p", [0.5, np.float64(0.5), np.float32(0.5), np.array(0.5)])
def test_float32_stays(p):
    x = tensor([1.0, 2.0], requires_grad=True)
    y = F.dropout(x, p)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == np.float32
