"""Pooling: windows of every size, overlap, padding and rounding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minist
import minist.functional as F
from minist import Tensor, gradcheck, tensor

WINDOWS = {
    "plain": ((2, 2, 4, 6), {"kernel_size": 2}),
    "one pixel": ((1, 1, 1, 1), {"kernel_size": 1}),
    "one pixel, padded": ((1, 1, 1, 1), {"kernel_size": 3, "padding": 1}),
    "empty batch": ((0, 2, 4, 4), {"kernel_size": 2}),
    "a window of one": ((2, 1, 3, 4), {"kernel_size": 1, "stride": (2, 1)}),
    "a rest": ((2, 2, 5, 7), {"kernel_size": (2, 3)}),
    "overlap": ((2, 2, 5, 6), {"kernel_size": 3, "stride": (1, 2)}),
    "stride beyond the kernel": ((1, 2, 7, 9), {"kernel_size": (1, 2), "stride": (3, 4)}),
    "padding": ((2, 2, 5, 4), {"kernel_size": (3, 2), "stride": 2, "padding": (1, 1)}),
    "ceil": ((2, 2, 5, 7), {"kernel_size": 2, "ceil_mode": True}),
    "ceil, nothing over": ((1, 1, 4, 6), {"kernel_size": 2, "ceil_mode": True}),
    "ceil, overlap": ((1, 2, 6, 5), {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    "ceil, padding": (
        (1, 2, 6, 7),
        {"kernel_size": (3, 4), "stride": (2, 3), "padding": (1, 2), "ceil_mode": True},
    ),
    "ceil, a last window in the padding is left out": (
        (1, 1, 4, 3),
        {"kernel_size": 2, "stride": 2, "padding": 1, "ceil_mode": True},
    ),
    "ceil, smaller than the window": (
        (1, 1, 2, 3),
        {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    ),
}
every_window = pytest.mark.parametrize(("shape", "window"), WINDOWS.values(), ids=WINDOWS)
AVERAGES = {
    "avg_pool2d": F.avg_pool2d,
    "without padding": lambda x, **w: F.avg_pool2d(x, **w, count_include_pad=False),
}


@every_window
@pytest.mark.parametrize("pool", [F.max_pool2d, *AVERAGES.values()], ids=["max", *AVERAGES])
def test_gradient(leaf, pool, shape, window):
    assert gradcheck(lambda x: pool(x, **window), leaf(*shape))


@every_window
@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d", "without padding"])
def test_parity_with_torch(assert_same_as_torch, rng, name, shape, window):
    torch = pytest.importorskip("torch").nn.functional
    options = {"count_include_pad": False} if name == "without padding" else {}
    name = name if name == "max_pool2d" else "avg_pool2d"
    assert_same_as_torch(
        lambda x: getattr(F, name)(x, **window, **options),
        lambda x: getattr(torch, name)(x, **window, **options),
        rng.normal(size=shape),
    )


def test_an_infinite_gradient_of_the_largest_is_torchs(assert_same_as_torch, rng):
    torch = pytest.importorskip("torch")
    with np.errstate(divide="ignore"):
        assert_same_as_torch(
            lambda x: F.sqrt(F.max_pool2d(x, 2)),
            lambda x: torch.sqrt(torch.nn.functional.max_pool2d(x, 2)),
            rng.integers(0, 2, (2, 3, 6, 4)),
        )


SIZES = [((2, 3, 6, 4), (3, 2)), ((2, 1, 5, 7), (3, 4)), ((1, 1, 2, 3), (4, 5)), ((2, 2, 3, 3), 1)]
SIZES += [((1, 1, 1, 1), 1), ((0, 2, 4, 5), 2), ((2, 2, 4, 5), (4, 5))]


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_gradient_of_the_adaptive_average(leaf, shape, size):
    assert gradcheck(lambda x: F.adaptive_avg_pool2d(x, size), leaf(*shape))


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_parity_of_the_adaptive_average(assert_same_as_torch, rng, shape, size):
    torch = pytest.importorskip("torch").nn.functional
    assert_same_as_torch(
        lambda x: F.adaptive_avg_pool2d(x, size),
        lambda x: torch.adaptive_avg_pool2d(x, size),
        rng.normal(size=shape),
    )


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: F.max_pool2d(x, (3, 2), 2, 1, True),
        lambda x: F.avg_pool2d(x, (3, 2), 2, 1, True),
        lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    ],
    ids=["max", "average", "adaptive"],
)
def test_layout(leaf, layout, rng, pool):
    x = leaf(3, 2, 6, 5)
    other = Tensor(layout(x.data), requires_grad=True)
    y, z = pool(x), pool(other)
    grad = rng.normal(size=y.shape)
    y.backward(grad)
    z.backward(layout(grad))
    np.testing.assert_allclose(z.numpy(), y.numpy(), rtol=1e-12)
    np.testing.assert_allclose(other.grad, x.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("pool", [F.max_pool2d, F.avg_pool2d])
@pytest.mark.parametrize(
    "window", [{"kernel_size": 2}, {"kernel_size": 1}, {"kernel_size": (3, 1)}]
)
@pytest.mark.parametrize("padding", [0, (1, 0)])
def test_the_order_of_memory_is_kept(rng, pool, window, padding):
    if padding and window["kernel_size"] == 1:
        padding = 0
    x = Tensor(rng.normal(size=(2, 6, 4, 3)).transpose(3, 0, 1, 2), requires_grad=True)
    y = pool(x, **window, padding=padding)
    y.backward(np.ones(y.shape))
    assert np.moveaxis(y.numpy(), 0, -1).flags.c_contiguous
    assert np.moveaxis(x.grad, 0, -1).flags.c_contiguous


# --- ties, and numbers beyond numbers -----------------------------------------------------------


@pytest.mark.parametrize("fill", [0.0, -3.0])
def test_ties_go_to_the_first_in_reading_order(fill):
    # tensorflow 4886; the black background of a digit is nothing but ties
    x = Tensor(np.full((2, 1, 4, 4), fill), requires_grad=True)
    F.max_pool2d(x, 2).sum().backward()
    first = np.zeros((4, 4))
    first[::2, ::2] = 1.0
    assert np.array_equal(x.grad, np.broadcast_to(first, x.shape))


@pytest.mark.parametrize(
    ("window", "first"),
    [
        ([[1, 2], [2, 1]], [[0, 1], [0, 0]]),
        ([[1, 1], [2, 2]], [[0, 0], [1, 0]]),
        ([[1, 2], [1, 2]], [[0, 1], [0, 0]]),
        ([[0, 0, 1], [1, 1, 1]], [[0, 0, 1], [0, 0, 0]]),
    ],
)
def test_ties_within_a_window(window, first):
    x = Tensor(np.array([[window]], dtype=float), requires_grad=True)
    F.max_pool2d(x, np.shape(window)).sum().backward()
    assert x.grad.tolist() == [[first]]


def test_windows_that_overlap_hand_all_they_have_to_their_tie():
    x = Tensor(np.zeros((1, 1, 1, 4)), requires_grad=True)
    F.max_pool2d(x, (1, 2), 1).sum().backward()
    assert x.grad.tolist() == [[[[1, 1, 1, 0]]]]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_infinite_gradient_stops_where_the_slope_is_zero(stride, dtype):
    x = Tensor(np.array([[[[1, 2, 0, 3], [0, 0, 0, 0]]]], dtype), requires_grad=True)
    y = F.max_pool2d(x, 2, stride)
    y.backward(np.full(y.shape, np.inf))
    assert x.grad.tolist() == [[[[0, np.inf, 0, np.inf], [0, 0, 0, 0]]]]


@given(
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    k=st.integers(1, 4),
    s=st.integers(1, 3),
    ceil_mode=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_a_maximum_hands_on_the_whole_gradient(h, w, k, s, ceil_mode, seed, data):
    """Whatever ties there are, what comes in goes out, to pixels that hold the maximum."""
    ceil_mode = ceil_mode or min(h, w) < k
    p = data.draw(st.integers(0, k // 2))
    rng = np.random.default_rng(seed)
    x = Tensor(rng.integers(0, 3, (2, 1, h, w)).astype(float), requires_grad=True)
    y = F.max_pool2d(x, k, s, p, ceil_mode)
    grad = rng.integers(1, 9, y.shape).astype(float)
    (gradient,) = minist.grad(y, [x], grad)
    assert gradient.sum() == grad.sum()
    assert (gradient * x.data).sum() == (grad * y.data).sum()


@given(
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    k=st.integers(1, 4),
    s=st.integers(1, 3),
    include=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_the_backward_of_an_average_is_its_adjoint(h, w, k, s, include, seed, data):
    rng = np.random.default_rng(seed)
    x = Tensor(rng.normal(size=(2, 1, h, w)), requires_grad=True)
    p = data.draw(st.integers(0, k // 2))
    for Ax in (
        F.avg_pool2d(x, k, s, p, ceil_mode=True, count_include_pad=include),
        F.adaptive_avg_pool2d(x, (k, s)),
    ):
        y = rng.normal(size=Ax.shape)
        (Aty,) = minist.grad(Ax, [x], y)
        np.testing.assert_allclose((Ax.data * y).sum(), (x.data * Aty).sum(), atol=1e-10)


@given(h=st.integers(1, 7), w=st.integers(1, 7), k=st.integers(1, 5), s=st.integers(1, 4))
def test_the_average_of_a_constant_is_the_constant(h, w, k, s):
    x = tensor(np.full((1, 1, h, w), 3.0))
    for y in (
        F.avg_pool2d(x, k, s, k // 2, ceil_mode=True, count_include_pad=False),
        F.adaptive_avg_pool2d(x, (k, s)),
    ):
        np.testing.assert_allclose(y.numpy(), 3.0, rtol=1e-14)


def test_a_pixel_that_is_no_number_is_felt_in_its_image_alone():
    x = np.ones((2, 1, 6, 6))
    x[0, 0, 0, 0] = np.nan
    y = F.adaptive_avg_pool2d(x, 3).numpy()
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()


def test_the_padding_of_a_maximum_is_below_everything():
    x = tensor(np.full((1, 1, 2, 2), -1e30, dtype=np.float32))
    assert (F.max_pool2d(x, 3, 1, 1).numpy() == np.float32(-1e30)).all()


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "window", "words"),
    [
        (
            (1, 1, 2, 5),
            {"kernel_size": 3},
            "a window of 3 does not fit into 2 pixels and padding 0",
        ),
        (
            (1, 1, 5, 5),
            {"kernel_size": 3, "padding": 2},
            "padding 2 is more than half the window 3",
        ),
        ((1, 5, 5), {"kernel_size": 3}, r"expected images \(N, C, H, W\), got 3 axes"),
    ],
)
@pytest.mark.parametrize("pool", [F.max_pool2d, F.avg_pool2d])
def test_windows_that_do_not_fit(pool, shape, window, words):
    with pytest.raises(ValueError, match=f"^(Max|Avg)Pool2d: {words}"):
        pool(tensor(np.ones(shape)), **window)


@pytest.mark.parametrize("options", [{"kernel_size": 0}, {"kernel_size": 2, "stride": 0}])
@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_options_that_are_none(name, options):
    with pytest.raises(ValueError, match=rf"^{name}: \w+ must be one or two whole numbers from 1"):
        getattr(F, name)(tensor(np.ones((1, 1, 4, 4))), **options)


def test_other_errors():
    with pytest.raises(ValueError, match=r"^AdaptiveAvgPool2d: no pixels to average"):
        F.adaptive_avg_pool2d(tensor(np.ones((1, 1, 0, 4))), 2)
    with pytest.raises(ValueError, match="adaptive_avg_pool2d: size must be one or two whole"):
        F.adaptive_avg_pool2d(tensor(np.ones((1, 1, 4, 4))), 0)
    with pytest.raises(TypeError, match=r"^MaxPool2d: images must be floating, not uint8"):
        F.max_pool2d(Tensor(np.ones((1, 1, 4, 4), dtype=np.uint8)), 2)
