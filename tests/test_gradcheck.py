"""The gradient check: it passes what is right, and shows the worst element of what is wrong."""

import doctest
import importlib

import numpy as np
import pytest

import minist.functional as F
from minist import Function, Tensor, gradcheck, tensor


class Square(Function):
    """y = x^2, with a backward that is off by a factor at one element."""

    def forward(self, x, factor=1.0):
        self.x, self.factor = x, factor
        return x * x

    def backward(self, grad):
        grad = 2.0 * grad * self.x
        grad[1, 0] *= self.factor
        return grad


class HalfSquare(Function):
    """y = x^2 / 2, with a backward that denies it."""

    def forward(self, x):
        return x * x / 2

    def backward(self, grad):
        return 0.0 * grad


def test_what_is_right_passes(leaf):
    assert gradcheck(Square.apply, leaf(2, 3))
    assert gradcheck(lambda a, b: a @ b + a.sum(), [leaf(2, 3), leaf(3, 2)])


@pytest.mark.parametrize("factor", [1.001, 0.0, -1.0, np.inf, np.nan])
def test_what_is_wrong_is_shown(leaf, factor):
    with pytest.raises(AssertionError, match=r"input 0 at \(1, 0\): backward says"):
        gradcheck(lambda x: Square.apply(x, factor=factor), leaf(2, 3))


def test_the_worst_element_is_shown():
    x = Tensor(np.array([1.0, 100.0, 1.0]), requires_grad=True)
    with pytest.raises(AssertionError, match=r"at \(1,\): backward says -0, .*left -76.9787"):
        gradcheck(HalfSquare.apply, x)


def test_a_result_that_is_not_a_number_fails():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    with pytest.raises(AssertionError, match="differences say nan"):
        gradcheck(lambda x: x * np.array([1.0, np.nan]), x)


@pytest.mark.parametrize("function", [F.relu, F.abs, F.max])
def test_any_subgradient_is_right_at_a_kink(function):
    assert gradcheck(function, Tensor(np.zeros(3), requires_grad=True))


def test_an_input_that_is_not_used_has_a_gradient_of_zero(leaf):
    assert gradcheck(lambda a, b: a * 2.0, [leaf(2), leaf(3)])


def test_no_input_is_changed(leaf):
    x, constant = leaf(2, 3), tensor(np.ones(3))
    before = x.data.copy()
    gradcheck(lambda a, b: a * b, [x, constant])
    assert np.array_equal(x.data, before)
    assert x.grad is None


def test_nothing_is_left_in_what_the_function_closes_over(leaf):
    x, inside = leaf(2, 3), leaf(3)
    inside.grad = before = np.ones(3)
    gradcheck(lambda x: x * inside, x)
    assert x.grad is None
    assert inside.grad is before
    assert before.tolist() == [1, 1, 1]


def test_float32_is_refused():
    # pytorch 4329
    with pytest.raises(TypeError, match=r"input 0 is float32; .* drown in its rounding"):
        gradcheck(F.exp, tensor([1.0], requires_grad=True))


def test_something_must_require_a_gradient():
    with pytest.raises(ValueError, match="no input has requires_grad=True"):
        gradcheck(F.exp, tensor(np.ones(3)))


def test_the_example_of_the_docstring():
    module = importlib.import_module("minist.gradcheck")
    assert doctest.testmod(module).attempted > 0
    assert doctest.testmod(module).failed == 0
