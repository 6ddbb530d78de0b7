"""Arithmetic, reductions and shapes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minist
import minist.functional as F
from minist import Tensor, gradcheck, tensor


def positive(x):
    return x * x + 0.5


OPERATIONS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / positive(b),
    "power": lambda a, b: positive(a) ** b,
}
FUNCTIONS = {
    "negate": lambda x: -x,
    "reflected subtract": lambda x: 2.0 - x,
    "reflected divide": lambda x: 2.0 / positive(x),
    "reflected power": lambda x: 2.0**x,
    "cube": lambda x: x**3,
    "exp": F.exp,
    "sin": F.sin,
    "cos": F.cos,
    "log": lambda x: F.log(positive(x)),
    "sqrt": lambda x: F.sqrt(positive(x)),
    "abs": F.abs,
    "clip": lambda x: F.clip(x, -0.5, 0.8),
    "clip from below": lambda x: x.clip(low=0.1),
    "clip from above": lambda x: x.clip(high=0.1),
    "sum": F.sum,
    "mean": F.mean,
    "max": F.max,
    "reshape": lambda x: x.reshape(-1),
    "T": lambda x: x.T,
    "permute": lambda x: F.permute(x, *range(1, x.ndim), 0),
    "concatenate": lambda x: F.concatenate([x, x * 2.0, np.ones(x.shape)], axis=-1),
    "stack": lambda x: F.stack([x, x * 2.0, np.ones(x.shape)], axis=1),
}
SHAPES = [(1,), (3,), (1, 1), (3, 4), (2, 1, 3), (2, 3, 2, 2)]
BROADCAST = [((), ()), ((3,), ()), ((2, 3), (3,)), ((2, 1), (1, 3)), ((1,), (2, 3)), ((0, 3), (3,))]


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize(("shape_a", "shape_b"), BROADCAST)
def test_gradient_of_operators(leaf, operation, shape_a, shape_b):
    assert gradcheck(operation, [leaf(*shape_a), leaf(*shape_b)])
    assert gradcheck(operation, [leaf(*shape_b), leaf(*shape_a)])


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_of_functions(leaf, function, shape):
    assert gradcheck(function, leaf(*shape))


@pytest.mark.parametrize(
    "name", sorted(set(FUNCTIONS) - {"mean", "max", "permute", "concatenate", "stack"})
)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3)])
def test_numbers_and_empty_arrays(leaf, name, shape):
    assert gradcheck(FUNCTIONS[name], leaf(*shape))


AXES = [None, 0, -1, np.int64(1), (0, 2), (2, 0), (-1, 1), (0, 1, 2), ()]


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", ["sum", "mean", "max"])
def test_reductions_over_axes(leaf, name, axis, keepdims):
    x = leaf(2, 3, 4)
    y = getattr(x, name)(axis=axis, keepdims=keepdims)
    expected = getattr(np, name)(x.data, axis=axis, keepdims=keepdims)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-14, strict=True)
    assert gradcheck(lambda x: getattr(F, name)(x, axis=axis, keepdims=keepdims), x)


@pytest.mark.parametrize("axis", [1, -1, (1, 2)])
def test_no_images_have_no_largest_elements(axis):
    x = Tensor(np.zeros((0, 2, 3)), requires_grad=True)
    y = x.max(axis=axis)
    assert y.shape == x.data.max(axis=axis).shape
    y.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("axis", [None, 0])
def test_the_mean_of_nothing_is_not_a_number(axis):
    x = Tensor(np.zeros((0, 3)), requires_grad=True)
    y = x.mean(axis=axis)
    assert np.isnan(y.numpy()).all()
    y.sum().backward()
    assert x.grad.shape == (0, 3)


def test_ties_of_max_go_to_the_first_in_reading_order():
    # tensorflow 4886
    x = Tensor(np.array([[[1.0, 5.0], [5.0, 2.0]], [[3.0, 3.0], [3.0, 3.0]]]), requires_grad=True)
    for axis, expected in (
        ((1, 2), [[[0, 1], [0, 0]], [[1, 0], [0, 0]]]),
        ((2, 1), [[[0, 1], [0, 0]], [[1, 0], [0, 0]]]),
        (-1, [[[0, 1], [1, 0]], [[1, 0], [1, 0]]]),
        (None, [[[0, 1], [0, 0]], [[0, 0], [0, 0]]]),
    ):
        (gradient,) = minist.grad(x.max(axis=axis).sum(), [x])
        assert gradient.tolist() == expected


MATRICES = [
    ((2, 3), (3, 4)),
    ((1, 1), (1, 1)),
    ((0, 3), (3, 2)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((2, 1, 2, 3), (5, 3, 2)),
]


@pytest.mark.parametrize(("shape_a", "shape_b"), MATRICES)
def test_gradient_of_matrix_products(leaf, shape_a, shape_b):
    a, b = leaf(*shape_a), leaf(*shape_b)
    np.testing.assert_array_equal((a @ b).numpy(), a.data @ b.data)
    assert gradcheck(lambda a, b: a @ b, [a, b])


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, 0.5])
def test_powers(exponent):
    x = Tensor(np.array([0.25, 1.0, 3.0]), requires_grad=True)
    assert gradcheck(lambda x: x**exponent, x)


@pytest.mark.parametrize(("exponent", "slope"), [(0, 0.0), (1, 1.0), (2, 0.0), (3, 0.0)])
def test_powers_of_zero(exponent, slope):
    x = Tensor(np.zeros(1), requires_grad=True)
    (x**exponent).backward()
    assert x.grad.tolist() == [slope]


def test_the_slope_of_zero_to_the_b_is_its_limit():
    b = Tensor(np.array([0.0, 0.5, 2.0]), requires_grad=True)
    (0.0**b).sum().backward()
    assert b.grad.tolist() == [0.0, 0.0, 0.0]


def test_there_is_no_slope_of_zero_to_a_negative_b():
    b = Tensor(np.array([-1.0]), requires_grad=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        (0.0**b).backward()
    assert np.isnan(b.grad).all()


def test_sine_and_cosine_by_hand():
    x = Tensor(np.array([0.0, np.pi / 6, np.pi / 2, -np.pi]), requires_grad=True)
    np.testing.assert_allclose(F.sin(x).numpy(), [0, 0.5, 1, 0], atol=1e-15)
    np.testing.assert_allclose(F.cos(x).numpy(), [1, 0.75**0.5, 0, -1], atol=1e-15)
    (of_sine,) = minist.grad(F.sin(x).sum(), [x])
    (of_cosine,) = minist.grad(F.cos(x).sum(), [x])
    np.testing.assert_allclose(of_sine, [1, 0.75**0.5, 0, -1], atol=1e-15)
    np.testing.assert_allclose(of_cosine, [0, -0.5, -1, 0], atol=1e-15)


def test_bounds_belong_to_the_inside_of_clip_and_kinks_have_slope_zero():
    x = Tensor(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), requires_grad=True)
    (of_clip,) = minist.grad(F.clip(x, -1.0, 1.0).sum(), [x])
    (of_abs,) = minist.grad(abs(x).sum(), [x])
    assert of_clip.tolist() == [0, 1, 1, 1, 0]
    assert of_abs.tolist() == [-1, -1, 0, 1, 1]


def test_an_infinite_gradient_stops_where_the_slope_is_zero():
    x = Tensor(np.array([0.0, 1.0, 2.0]), requires_grad=True)
    (of_clip,) = minist.grad(F.clip(x, 0.5, 1.5), [x], np.full(3, np.inf))
    (of_max,) = minist.grad(x.max(), [x], np.inf)
    assert of_clip.tolist() == [0, np.inf, 0]
    assert of_max.tolist() == [0, 0, np.inf]


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32"])
@pytest.mark.parametrize("bounds", [(1, 3), (None, 3), (np.int64(1), np.array(3))])
def test_integer_bounds_leave_the_dtype(dtype, bounds):
    x = np.arange(5).astype(dtype)
    y = F.clip(tensor(x), *bounds).numpy()
    np.testing.assert_array_equal(y, np.clip(np.arange(5), *bounds).astype(dtype), strict=True)


def test_integers_between_floating_bounds_become_numpys():
    x = np.arange(5)
    np.testing.assert_array_equal(F.clip(x, 0.5, 2).numpy(), np.clip(x, 0.5, 2), strict=True)


INDICES = [
    0,
    -1,
    np.int64(1),
    slice(1, None),
    slice(None, None, -2),
    (slice(None), 1),
    (Ellipsis, 0),
    (None, 1, Ellipsis, None),
    [0, 2],
    [2, 0, 2, 2],
    np.array([[0, 1], [1, 0]], dtype=np.uint8),
    (np.array([0, 0, 1]), np.array([1, 1, 3])),
    (slice(None), [1, 1]),
    (tensor(np.array([2, 2])), slice(0, 2)),
    np.arange(12).reshape(3, 4) % 3 == 0,
    np.array([True, False, True]),
    np.zeros(0, dtype=int),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_gradient_of_indexing(leaf, index):
    # an index read twice is heard twice
    x = leaf(3, 4)
    assert gradcheck(lambda x: x[index], x)


def test_indices_of_tensors_are_those_of_arrays():
    x = tensor(np.arange(12.0).reshape(3, 4))
    assert np.array_equal(x[x > 5.0].numpy(), np.arange(6.0, 12.0))
    assert [row.numpy().tolist() for row in x] == x.numpy().tolist()


@pytest.mark.parametrize("name", ["sum", "mean", "max"])
def test_a_list_of_axes_is_a_tuple_of_them(name):
    x = tensor(np.arange(24.0).reshape(2, 3, 4), requires_grad=True)
    function = getattr(F, name)
    assert np.array_equal(function(x, [0, -1]).numpy(), function(x, (0, -1)).numpy())
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'dim'"):
        function(x, dim=1)


@pytest.mark.parametrize("join", [F.concatenate, F.stack])
def test_integers_joined_to_floating_numbers_take_their_dtype(join):
    """As where the two are added."""
    whole, x = np.array([1, 2]), tensor([0.5, 1.5], requires_grad=True)
    for pair in ((whole, x), (x, whole), (tensor(whole), x)):
        assert join(pair).dtype == (pair[0] + pair[1]).dtype == np.float32
    assert join([whole, whole]).dtype == whole.dtype


@pytest.mark.parametrize("join", [F.concatenate, F.stack])
def test_what_comes_one_by_one_is_joined_too(join):
    x = tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = join(row * 2.0 for row in x)
    assert np.array_equal(y.numpy(), join([x[0] * 2.0, x[1] * 2.0]).numpy())
    assert y.requires_grad


def test_layout(rng, layout):
    a, b = rng.normal(size=(2, 4, 3, 5)), rng.normal(size=(2, 4, 3, 5))
    for function in (
        *OPERATIONS.values(),
        lambda a, b: F.concatenate([a, b], axis=1)[:, ::2],
        lambda a, b: (a.reshape(2, -1) @ b.reshape(2, -1).T).sum(axis=0),
        lambda a, b: (a * b).max(axis=(1, 2)),
        lambda a, b: F.stack([a, b], axis=-1).mean(axis=3),
    ):
        plain = [Tensor(x.copy(), requires_grad=True) for x in (a, b)]
        other = [Tensor(layout(x), requires_grad=True) for x in (a, b)]
        y, z = function(*plain), function(*other)
        np.testing.assert_allclose(z.numpy(), y.numpy(), rtol=1e-12)
        grad = rng.normal(size=y.shape)
        y.backward(grad)
        z.backward(layout(grad))
        for p, q in zip(plain, other, strict=True):
            np.testing.assert_allclose(q.grad, p.grad, rtol=1e-12, atol=1e-14)


# --- PyTorch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
def test_operators_agree_with_torch(assert_same_as_torch, rng, name):
    operation = OPERATIONS[name]
    arrays = rng.normal(size=(2, 4, 1)), rng.normal(size=(4, 3))
    assert_same_as_torch(operation, operation, *arrays)


TORCH = {
    "exp": lambda F: lambda x: F.exp(x),
    "sin": lambda F: lambda x: F.sin(3.0 * x),
    "cos": lambda F: lambda x: F.cos(3.0 * x),
    "log": lambda F: lambda x: F.log(positive(x)),
    "sqrt": lambda F: lambda x: F.sqrt(positive(x)),
    "abs": lambda F: lambda x: F.abs(x),
    "clip": lambda F: lambda x: F.clip(x, -0.5, 0.5),
    "matmul": lambda F: lambda x: x @ x.permute(0, 2, 1),
    "reshape": lambda F: lambda x: x.permute(2, 0, 1).reshape(-1, 2),
    "index": lambda F: lambda x: x[:, [0, 2, 0], 1:],
    "mean": lambda F: lambda x: x.mean((0, 2)),
    "sum": lambda F: lambda x: x.sum((1, 2)),
    "stack": lambda F: lambda x: F.stack([x, x * x]),
    "squares": lambda F: lambda x: x**2 / 3.0 - 1.0 / positive(x),
}


@pytest.mark.parametrize("name", TORCH)
def test_functions_agree_with_torch(assert_same_as_torch, rng, name):
    torch = pytest.importorskip("torch")
    assert_same_as_torch(TORCH[name](F), TORCH[name](torch), rng.normal(size=(2, 3, 4)))


def test_an_infinite_gradient_beyond_a_bound_is_torchs(assert_same_as_torch, rng):
    torch = pytest.importorskip("torch")
    with np.errstate(divide="ignore"):
        assert_same_as_torch(
            lambda x: F.sqrt(F.clip(x, 0.0, 1.0)),
            lambda x: torch.sqrt(torch.clamp(x, 0.0, 1.0)),
            rng.normal(size=(4, 5)),
        )


# --- laws ---------------------------------------------------------------------------------------

numbers = st.floats(-10, 10, width=32)


def arrays(**options):
    shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)
    return hnp.arrays(np.float64, shapes, elements=numbers, **options)


def assert_adjoint(linear, x, data):
    """<A x, y> = <x, A' y>, where A' is the backward of A."""
    leaf = Tensor(x, requires_grad=True)
    Ax = linear(leaf)
    y = data.draw(hnp.arrays(np.float64, Ax.shape, elements=numbers))
    (Aty,) = minist.grad(Ax, [leaf], grad=y)
    np.testing.assert_allclose((Ax.numpy() * y).sum(), (x * Aty).sum(), rtol=1e-9, atol=1e-9)


@given(x=arrays(), data=st.data())
def test_the_backward_of_a_transposition_is_its_adjoint(x, data):
    axes = data.draw(st.permutations(range(x.ndim)))
    assert_adjoint(lambda x: F.transpose(x, axes), x, data)


@given(x=arrays(), data=st.data())
def test_the_backward_of_a_change_of_shape_is_its_adjoint(x, data):
    assert_adjoint(lambda x: x.reshape(x.shape[-1], -1), x, data)


@given(x=arrays(), data=st.data())
def test_the_backward_of_joining_is_its_adjoint(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    assert_adjoint(lambda x: F.concatenate([x, x * 2.0, x * 3.0], axis), x, data)
    assert_adjoint(lambda x: F.stack([x, x * 2.0, x * 3.0], axis), x, data)


@given(x=arrays(), data=st.data())
def test_the_backward_of_indexing_is_its_adjoint(x, data):
    index = data.draw(hnp.basic_indices(x.shape, allow_newaxis=True))
    assert_adjoint(lambda x: x[index], x, data)
    index = data.draw(hnp.integer_array_indices(x.shape))
    assert_adjoint(lambda x: x[index], x, data)


@given(x=arrays(), data=st.data())
def test_sum_and_mean_are_linear_and_their_backward_the_adjoint(x, data):
    axis = data.draw(hnp.valid_tuple_axes(x.ndim))
    assert_adjoint(lambda x: x.sum(axis=axis), x, data)
    assert_adjoint(lambda x: x.mean(axis=axis), x, data)


@given(x=arrays())
def test_sine_and_cosine_lie_on_a_circle_and_turn_into_one_another(x):
    leaf = Tensor(x, requires_grad=True)
    sine, cosine = F.sin(leaf), F.cos(leaf)
    np.testing.assert_allclose((sine * sine + cosine * cosine).numpy(), 1, rtol=1e-14)
    np.testing.assert_array_equal(minist.grad(sine.sum(), [leaf])[0], cosine.numpy())
    np.testing.assert_array_equal(minist.grad(F.cos(leaf).sum(), [leaf])[0], -sine.numpy())


# --- errors -------------------------------------------------------------------------------------

x23, x45 = tensor(np.ones((2, 3))), tensor(np.ones((4, 5)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: x23 + x45, r"Add: .*\(2, 3\) and \(4, 5\) do not broadcast: .* 3 meets 5"),
        (lambda: x23 * np.ones(2), r"Multiply: .*\(2, 3\) and \(2,\) do not broadcast"),
        (lambda: np.ones(2) / x23, r"Divide: .*\(2,\) and \(2, 3\) do not broadcast"),
        (lambda: x23 < x45, r"lt: .*\(2, 3\) and \(4, 5\) do not broadcast"),
        (lambda: x23 @ x45, "MatMul: the left matrix has 3 columns, the right 4 rows"),
        (lambda: x23 @ np.ones(3), r"MatMul: @ multiplies matrices; .* second axis"),
        (
            lambda: tensor(np.ones((2, 4, 3))) @ np.ones((5, 3, 2)),
            r"MatMul: .*\(2,\) and \(5,\) do not broadcast",
        ),
        (lambda: x23.reshape(4, 2), r"Reshape: 6 elements do not fill the shape \(4, 2\)"),
        (lambda: x23.reshape(-1, 4), r"Reshape: 6 elements do not fill the shape \(-1, 4\)"),
        (lambda: x23.reshape(-2, 3), r"Reshape: 6 elements do not fill the shape \(-2, 3\)"),
        (lambda: x23.reshape(-1, -1), r"Reshape: 6 elements do not fill the shape \(-1, -1\)"),
        (lambda: x23.reshape(-1, 0), r"Reshape: 6 elements do not fill the shape \(-1, 0\)"),
        (
            lambda: tensor(np.ones((0, 3))).reshape(0, -1),
            r"Reshape: 0 elements do not fill the shape \(0, -1\)",
        ),
        (lambda: x23.transpose(0, 0), r"Transpose: \(0, 0\) does not name each of the 2 axes once"),
        (lambda: x23.sum(axis=2), "Sum: axis 2 is out of bounds"),
        (lambda: x23.max(axis=2), "Max: axis 2 is out of bounds"),
        (lambda: x23[:0].max(), "Max: an empty tensor has no largest element"),
        (lambda: F.concatenate([]), "Concatenate: nothing to concatenate"),
        (lambda: F.concatenate([x23, x45]), "Concatenate: shapes may differ along axis 0 only"),
        (lambda: F.concatenate([x23, x23], axis=2), "Concatenate: .* one rank .* axis 2"),
        (lambda: F.stack([x23, x45]), "Stack: needs one tensor or more, all of one shape"),
        (lambda: F.stack([]), "Stack: needs one tensor or more"),
        (lambda: F.clip(x23), "Clip: clip needs a lower or an upper bound"),
    ],
)
def test_errors_name_the_operation_and_the_numbers(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "could not be broadcast" not in str(error.value)


def test_an_index_outside_is_named():
    with pytest.raises(
        IndexError, match=r"^Index: index 2 is out of bounds .* size 2\n  x: \(2, 3"
    ):
        x23[2]


@pytest.mark.parametrize("other", [None, "a word"])
def test_comparison_with_what_is_no_number(other):
    assert not (x23 == other).numpy().any()
