"""The fully connected layer."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minist
import minist.functional as F
from minist import Tensor, gradcheck, tensor

LEADING = [(), (1,), (4,), (0,), (2, 3), (2, 0, 3)]


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("features", "out"), [(3, 2), (1, 1), (2, 5)])
@pytest.mark.parametrize("relu", [False, True])
def test_gradient(leaf, leading, bias, features, out, relu):
    inputs = [leaf(*leading, features), leaf(out, features)] + [leaf(out)] * bias
    assert F.linear(*inputs, relu=relu).shape == (*leading, out)
    assert gradcheck(partial(F.linear, relu=relu), inputs)


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_parity_with_torch(assert_same_as_torch, rng, leading, bias):
    torch = pytest.importorskip("torch")
    arrays = [rng.normal(size=(*leading, 6)), rng.normal(size=(5, 6))]
    arrays += [rng.normal(size=5)] * bias
    assert_same_as_torch(F.linear, torch.nn.functional.linear, *arrays)


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_with_relu_it_is_linear_and_then_relu_to_the_bit(rng, leading, bias, dtype):
    shapes = [(*leading, 6), (5, 6), *[(5,)] * bias]
    arrays = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    grad = rng.normal(size=(*leading, 5)).astype(dtype)

    def outcome(f):
        inputs = [Tensor(x, requires_grad=True) for x in arrays]
        y = f(*inputs)
        return [y.data, *minist.grad(y, inputs, grad)]

    apart, at_once = outcome(lambda *x: F.relu(F.linear(*x))), outcome(partial(F.linear, relu=True))
    for expected, found in zip(apart, at_once, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_relu_of_what_is_not_a_number():
    """As of F.relu: NaN stays, infinity too, and what is below 0 has no gradient."""
    bias = Tensor(np.array([np.nan, np.inf, -np.inf, 0.0]), requires_grad=True)
    y = F.linear(np.zeros((1, 1)), np.zeros((4, 1)), bias, relu=True)
    np.testing.assert_array_equal(y.data, [[np.nan, np.inf, 0, 0]])
    y.backward(np.ones((1, 4)))
    np.testing.assert_array_equal(bias.grad, [0, 1, 0, 0])


def test_with_relu_an_infinite_gradient_stops_where_the_slope_is_zero():
    bias = Tensor(np.array([-1.0, 0.0, 4.0]), requires_grad=True)
    y = F.linear(np.zeros((1, 1)), np.zeros((3, 1)), bias, relu=True)
    (gradient,) = minist.grad(y, [bias], [[np.inf, -np.inf, np.inf]])
    assert gradient.tolist() == [0, 0, np.inf]


def test_layout(rng, layout):
    arrays = rng.normal(size=(4, 6)), rng.normal(size=(5, 6)), rng.normal(size=5)
    plain = [Tensor(x, requires_grad=True) for x in arrays]
    other = [Tensor(layout(x), requires_grad=True) for x in arrays]
    y, z = F.linear(*plain), F.linear(*other)
    grad = rng.normal(size=y.shape)
    y.backward(grad)
    z.backward(layout(grad))
    for p, q in zip(
        [y.data, *(x.grad for x in plain)], [z.data, *(x.grad for x in other)], strict=True
    ):
        np.testing.assert_allclose(q, p, rtol=1e-12, atol=1e-14)


@given(
    seed=st.integers(0, 2**32 - 1), n=st.integers(1, 4), i=st.integers(1, 4), o=st.integers(1, 4)
)
def test_the_backward_is_the_adjoint(seed, n, i, o):
    rng = np.random.default_rng(seed)
    x, weight = (Tensor(rng.normal(size=s), requires_grad=True) for s in ((n, i), (o, i)))
    y = rng.normal(size=(n, o))
    Wx = F.linear(x, weight)
    for leaf, gradient in zip((x, weight), minist.grad(Wx, [x, weight], y), strict=True):
        np.testing.assert_allclose((Wx.data * y).sum(), (leaf.data * gradient).sum(), atol=1e-12)


def test_only_what_is_wanted(leaf):
    inputs = [leaf(2, 3), leaf(4, 3), leaf(4)]
    for wanted in range(3):
        given = [x if i == wanted else x.detach() for i, x in enumerate(inputs)]
        gradients = F.linear(*given).grad_fn.backward(np.ones((2, 4)))
        assert [g is not None for g in gradients] == [i == wanted for i in range(3)]


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(2, 3), (4, 5)], "x has 3 features, weight expects 5"),
        ([(), (4, 5)], "x has none features, weight expects 5"),
        ([(2, 3), (3,)], r"weight must be \(out, in\), not \(3,\)"),
        ([(2, 3), (4, 3), (3,)], r"bias must be \(4,\), not \(3,\)"),
    ],
)
def test_errors(shapes, words):
    with pytest.raises(ValueError, match=f"^Linear: {words}"):
        F.linear(*[tensor(np.ones(shape)) for shape in shapes])


@pytest.mark.parametrize("wrap", [np.asarray, tensor])
def test_bytes_are_refused_with_the_cure(wrap):
    with pytest.raises(TypeError, match=r"^Linear: x must be floating, not uint8: use astype"):
        F.linear(wrap(np.ones((2, 3), np.uint8)), tensor(np.ones((4, 3))))
