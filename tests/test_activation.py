"""Activations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minist
import minist.functional as F
from minist import Tensor, gradcheck, tensor

ACTIVATIONS = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "leaky_relu 0.3": lambda x: F.leaky_relu(x, 0.3),
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "softmax": F.softmax,
    "softmax over 0": lambda x: F.softmax(x, dim=0),
    "log_softmax": F.log_softmax,
    "log_softmax over 0": lambda x: F.log_softmax(x, dim=0),
}
every_activation = pytest.mark.parametrize("function", ACTIVATIONS.values(), ids=ACTIVATIONS)


@every_activation
@pytest.mark.parametrize("shape", [(1,), (5,), (1, 1), (3, 4), (2, 3, 1, 2), (0, 3), (3, 0)])
def test_gradient(leaf, function, shape):
    assert gradcheck(function, leaf(*shape))


@every_activation
def test_layout(leaf, layout, rng, function):
    x, grad = leaf(2, 3, 4, 5), rng.normal(size=(2, 3, 4, 5))
    other = Tensor(layout(x.data), requires_grad=True)
    y, z = function(x), function(other)
    y.backward(grad)
    z.backward(layout(grad))
    np.testing.assert_allclose(z.numpy(), y.numpy(), rtol=1e-12)
    np.testing.assert_allclose(other.grad, x.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "name", ["relu", "leaky_relu", "sigmoid", "tanh", "softmax", "log_softmax"]
)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_parity_with_torch(assert_same_as_torch, rng, name, scale):
    torch = pytest.importorskip("torch")
    options = {"dim": 1} if "softmax" in name else {}
    assert_same_as_torch(
        lambda x: getattr(F, name)(x, **options),
        lambda x: getattr(torch.nn.functional, name)(x, **options),
        scale * rng.normal(size=(4, 7, 3)),
    )


def test_an_infinite_gradient_at_the_kink_is_torchs(assert_same_as_torch, rng):
    torch = pytest.importorskip("torch")
    with np.errstate(divide="ignore"):
        assert_same_as_torch(
            lambda x: F.sqrt(F.relu(x)),
            lambda x: torch.sqrt(torch.relu(x)),
            np.round(rng.normal(size=(4, 5))),
        )


@pytest.mark.parametrize("x", [-80.0, -20.0, -5.0])
def test_a_small_sigmoid_keeps_its_digits(x):
    y = F.sigmoid(tensor(x))  # in float32
    np.testing.assert_allclose(y.item(), 1 / (1 + np.exp(-x)), rtol=1e-6)


def test_the_slope_at_the_kink():
    x = Tensor(np.zeros(1), requires_grad=True)
    assert minist.grad(F.relu(x), [x])[0] == 0.0
    assert minist.grad(F.leaky_relu(x, 0.1), [x])[0] == 0.1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_infinite_gradient_stops_where_the_slope_is_zero(dtype):
    """As of sqrt at 0, where the product of infinity and 0 would be no number."""
    x = Tensor(np.array([[-1.0, 0.0, 4.0]], dtype), requires_grad=True)
    zero = np.zeros(3, dtype)
    for function in (F.relu, lambda x: F.bias_relu(x, zero)):
        with np.errstate(divide="ignore"):
            (gradient,) = minist.grad(F.sqrt(function(x)).sum(), [x])
        assert gradient.tolist() == [[0.0, 0.0, 0.25]]
        for grad in (np.inf, -np.inf, np.nan):
            (gradient,) = minist.grad(function(x), [x], np.full((1, 3), grad, dtype))
            np.testing.assert_array_equal(gradient, np.array([[0, 0, grad]], dtype), strict=True)


@every_activation
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_overflows(function, dtype):
    x = Tensor(np.array([[-1e4, 0.0, 1e4], [1e4, 1e4, 1e4]], dtype=dtype), requires_grad=True)
    y = function(x)
    y.backward(np.ones_like(x.data))
    assert np.isfinite(y.numpy()).all()
    assert np.isfinite(x.grad).all()


@every_activation
@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_integers_are_refused(function, dtype):
    """Bytes would wrap and give wrong numbers, and others would become float64."""
    with pytest.raises(TypeError, match=f"^[A-Z].*: x must be floating, not {dtype}: use astype"):
        function(tensor(np.ones((2, 3), dtype)))


logits = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=1, max_dims=3, max_side=5), elements=st.floats(-50, 50)
)


@given(x=logits, shift=st.floats(-1000, 1000), data=st.data())
def test_softmax_is_a_distribution_that_no_shift_changes(x, shift, data):
    dim = data.draw(st.integers(-x.ndim, x.ndim - 1))
    y = F.softmax(tensor(x), dim).numpy()
    assert (y >= 0).all()
    np.testing.assert_allclose(y.sum(axis=dim), 1.0)
    np.testing.assert_allclose(F.softmax(tensor(x + shift), dim).numpy(), y, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.exp(F.log_softmax(tensor(x), dim).numpy()), y, atol=1e-14)


@given(x=logits, data=st.data())
def test_the_gradient_of_softmax_has_no_part_along_a_shift(x, data):
    leaf = Tensor(x, requires_grad=True)
    grad = data.draw(hnp.arrays(np.float64, x.shape, elements=st.floats(-1, 1)))
    for function in (F.softmax, F.log_softmax):
        (gradient,) = minist.grad(function(leaf), [leaf], grad)
        np.testing.assert_allclose(gradient.sum(axis=-1), 0.0, atol=1e-12)


@given(x=hnp.arrays(np.float64, 5, elements=st.floats(-1e3, 1e3)))
def test_symmetries(x):
    np.testing.assert_allclose(F.sigmoid(tensor(x)).numpy() + F.sigmoid(tensor(-x)).numpy(), 1.0)
    np.testing.assert_allclose(F.relu(tensor(x)).numpy() - F.relu(tensor(-x)).numpy(), x)


def test_an_axis_that_is_not_there():
    for function, name in ((F.softmax, "Softmax"), (F.log_softmax, "LogSoftmax")):
        with pytest.raises(ValueError, match=f"^{name}: axis 2 is out of bounds"):
            function(tensor(np.ones((2, 3))), dim=2)
