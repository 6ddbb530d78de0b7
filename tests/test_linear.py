"""The fully connected layer."""

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
def test_gradient(leaf, leading, bias, features, out):
    inputs = [leaf(*leading, features), leaf(out, features)] + [leaf(out)] * bias
    assert F.linear(*inputs).shape == (*leading, out)
    assert gradcheck(F.linear, inputs)


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_parity_with_torch(assert_same_as_torch, rng, leading, bias):
    torch = pytest.importorskip("torch")
    arrays = [rng.normal(size=(*leading, 6)), rng.normal(size=(5, 6))]
    arrays += [rng.normal(size=5)] * bias
    assert_same_as_torch(F.linear, torch.nn.functional.linear, *arrays)


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
