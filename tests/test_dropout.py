"""Dropout."""

import threading

import numpy as np
import pytest

import minist
import minist.functional as F
from minist import Tensor, backend, gradcheck, tensor


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (3, 4), (2, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_gradient(leaf, shape, p):
    assert gradcheck(lambda x: F.dropout(x, p, rng=np.random.default_rng(1)), leaf(*shape))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_share_p_is_zero_and_the_mean_stays(rng, p, dtype):
    n = 100_000
    y = F.dropout(tensor(np.ones(n, dtype=dtype)), p, rng=rng).numpy()
    assert set(np.unique(y)) == {dtype(0.0), dtype(1.0) / dtype(1 - p)}
    error = 5 * np.sqrt(p * (1 - p) / n)  # of a binomial share, 5 standard deviations
    assert abs((y == 0).mean() - p) < error
    assert abs(y.mean() - 1) < error / (1 - p)


def test_p_of_0_and_evaluation_return_x_itself():
    x = tensor([1.0, 2.0])
    assert F.dropout(x, 0.0) is x
    assert F.dropout(x, 0.7, training=False) is x


def test_p_of_1_leaves_nothing():
    x = tensor([1.0, 2.0], requires_grad=True)
    y = F.dropout(x, 1.0)
    y.sum().backward()
    assert y.numpy().tolist() == x.grad.tolist() == [0.0, 0.0]


def test_the_draw_does_not_depend_on_dtype_or_layout(layout, rng):
    x = rng.uniform(1, 2, (3, 2, 4, 5))
    plain = F.dropout(tensor(x), rng=np.random.default_rng(1)).numpy()
    for other in (layout(x), layout(x.astype(np.float32))):
        y = F.dropout(tensor(other), rng=np.random.default_rng(1)).numpy()
        assert np.array_equal(y == 0, plain == 0)


def test_the_same_seed_draws_the_same(rng):
    x = tensor(np.ones(100))

    def draw():
        return F.dropout(x).numpy()

    minist.manual_seed(3)
    first, second = draw(), draw()
    minist.manual_seed(3)
    assert np.array_equal(draw(), first)
    assert not np.array_equal(first, second)
    with backend.random_state(np.random.default_rng(3)):
        assert np.array_equal(draw(), first)
    assert np.array_equal(draw(), second)  # the thread's own generator goes on where it was


def test_threads_draw_from_generators_of_their_own():
    # pytorch 5059: workers that share a seed repeat each other; a shared generator would race
    x, n = tensor(np.ones(1000)), 4
    all_seeded = threading.Barrier(n)
    unseeded, seeded = {}, {}

    def run(i):
        unseeded[i] = F.dropout(x).numpy()
        minist.manual_seed(i)
        all_seeded.wait()
        seeded[i] = F.dropout(x).numpy()

    threads = [threading.Thread(target=run, args=[i]) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({y.tobytes() for y in unseeded.values()}) == n
    for i in range(n):
        assert np.array_equal(seeded[i], F.dropout(x, rng=np.random.default_rng(i)).numpy())


def test_integers_are_refused():
    with pytest.raises(TypeError, match=r"^Dropout: x must be floating, not int64"):
        F.dropout(tensor(np.arange(3)))


@pytest.mark.parametrize("p", [-0.1, 1.5, np.nan])
def test_p_must_be_a_probability(p):
    with pytest.raises(ValueError, match=r"dropout: p is a probability in 0\.\.1, not"):
        F.dropout(Tensor(np.ones(3)), p)
