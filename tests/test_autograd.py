"""The engine: a graph is walked once, in the right order, and goes when it is no longer needed."""

import copy
import gc
import threading
import weakref

import numpy as np
import pytest

import minist
import minist.functional as F
from minist import Function, Tensor, backend, no_grad, tensor


@pytest.fixture
def without_cycle_collector():
    """What dies now dies because nothing refers to it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Double(Function):
    """y = 2 x, with a backward that a test chooses and the inputs that wanted a gradient."""

    def forward(self, *arrays, answer=lambda grad: 2 * grad, note=None):
        self.answer = answer
        if note is not None:
            note.append(self.needs_grad)
        return 2 * arrays[0]

    def backward(self, grad):
        return self.answer(grad)


# --- the chain rule -----------------------------------------------------------------------------


def test_a_chain_of_100000_additions():
    x = tensor([1.0], requires_grad=True)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    y.backward()
    assert y.item() == 100_001
    assert x.grad.tolist() == [1.0]


def test_a_long_graph_that_was_never_walked_is_deleted(without_cycle_collector):
    x = tensor([1.0], requires_grad=True)
    y = x + 1.0
    first = weakref.ref(y.grad_fn)
    for _ in range(100_000):
        y = y + 1.0
    del y
    assert first() is None


def test_gradients_of_several_uses_add_up():
    x = tensor([3.0], requires_grad=True)
    (x * x * x + x).backward()
    assert x.grad.tolist() == [3 * 3.0**2 + 1]


def test_a_diamond_waits_for_both_sides():
    x = tensor([2.0], requires_grad=True)
    y = x * 5.0
    long_way = F.exp(y * 0.0) * y  # 1 * y, and as much through the other factor as it is worth: 0
    (y + long_way).backward()
    assert x.grad.tolist() == [10.0]


def test_each_node_is_walked_once_however_many_paths_lead_to_it():
    calls = []

    def answer(grad):
        calls.append(1)
        return grad, grad

    x = y = tensor([1.0], requires_grad=True)
    for _ in range(60):  # 2^60 paths
        y = Double.apply(y, y, answer=answer)
    y.backward()
    assert len(calls) == 60
    assert x.grad.tolist() == [2.0**60]


@pytest.mark.parametrize(
    "shape", [(), (1,), (3,), (1, 1), (2, 1), (1, 3), (2, 3), (1, 2, 3), (4, 1, 1), (4, 2, 3)]
)
def test_broadcasting_is_undone_by_summing(shape):
    x = Tensor(np.ones(shape), requires_grad=True)
    weight = np.arange(24.0).reshape(4, 2, 3)
    (x * weight).sum().backward()
    whole = np.broadcast_to(np.ones(shape), weight.shape)
    axes = tuple(range(3 - len(shape))) + tuple(
        i for i in range(3 - len(shape), 3) if shape[i - 3] == 1
    )
    expected = (whole * weight).sum(axis=axes, keepdims=True).reshape(shape)
    np.testing.assert_allclose(x.grad, expected, strict=True)


def test_broadcasting_along_an_axis_of_no_elements():
    x = Tensor(np.ones((1, 3)), requires_grad=True)
    (x + np.ones((0, 3))).sum().backward()
    assert x.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_backward_adds_to_the_gradient_that_is_there():
    x = tensor([1.0], requires_grad=True)
    for _ in range(3):
        (x * 2.0).backward()
    assert x.grad.tolist() == [6.0]


def test_leaves_do_not_share_the_memory_of_their_gradients():
    a, b = tensor([1.0], requires_grad=True), tensor([1.0], requires_grad=True)
    seed = np.ones(1, dtype=np.float32)
    (a + b).backward(seed)
    a.grad += 1.0
    assert (a.grad.tolist(), b.grad.tolist(), seed.tolist()) == ([2.0], [1.0], [1.0])


def test_a_leaf_is_its_own_derivative():
    x = tensor(3.0, requires_grad=True)
    x.backward()
    assert x.grad == 1.0


def test_the_gradient_given_is_where_the_chain_begins():
    x = tensor([1.0, 2.0], requires_grad=True)
    (x * x).backward([10.0, 100.0])
    assert x.grad.tolist() == [20.0, 400.0]


def test_a_result_of_integers_has_no_gradient():
    x = tensor([1.5], requires_grad=True)
    assert not x.astype(np.int64).requires_grad


# --- only what is wanted ------------------------------------------------------------------------


def test_an_operation_is_told_which_inputs_want_a_gradient():
    wants, constant, note = tensor([1.0], requires_grad=True), tensor([1.0]), []
    for inputs in ([wants, constant], [constant, wants + 1.0], [constant, constant], [wants, None]):
        Double.apply(*inputs, note=note)
    with no_grad():
        Double.apply(wants, note=note)
    assert note == [(True, False), (False, True), (False, False), (True, False), (False,)]


def test_what_no_one_wants_is_not_walked():
    def fail(grad):
        raise AssertionError("a gradient was computed for constants")

    constant = Double.apply(tensor([1.0]), answer=fail)
    assert constant.grad_fn is None
    x = tensor([1.0], requires_grad=True)
    (x * constant).backward()
    assert constant.grad is None


@pytest.mark.parametrize("name", ["__mul__", "__truediv__", "__pow__", "__matmul__"])
def test_the_gradient_of_one_factor_is_left_out(name):
    for wanted in (0, 1):
        inputs = [Tensor(np.full((2, 2), 2.0), requires_grad=i == wanted) for i in range(2)]
        y = getattr(inputs[0], name)(inputs[1])
        gradients = y.grad_fn.backward(np.ones((2, 2)))
        assert [g is not None for g in gradients] == [i == wanted for i in range(2)]


def test_no_grad_is_a_context_and_a_decorator():
    x = tensor([1.0], requires_grad=True)

    @no_grad()
    def function(depth):
        return function(depth - 1) if depth else x * 2.0

    assert not function(3).requires_grad
    with no_grad():
        with no_grad():
            pass
        assert not (x * 2.0).requires_grad
    assert (x * 2.0).requires_grad


def test_one_no_grad_may_be_entered_again():
    x = tensor([1.0], requires_grad=True)
    block = no_grad()
    with block:
        with block:
            pass
        assert not (x * 2.0).requires_grad
    assert (x * 2.0).requires_grad


def test_no_grad_does_not_decorate_a_generator_function():
    def function():
        yield 1

    with pytest.raises(TypeError, match="runs after no_grad is over: put `with no_grad"):
        no_grad()(function)


def test_no_grad_ends_with_an_exception():
    x = tensor([1.0], requires_grad=True)
    with pytest.raises(ZeroDivisionError), no_grad():
        1 / 0  # noqa: B018
    assert (x * 2.0).requires_grad


# --- memory -------------------------------------------------------------------------------------


def test_backward_frees_the_graph_and_what_it_kept(without_cycle_collector):
    x = tensor([1.0], requires_grad=True)
    hidden = x * 2.0
    y = F.exp(hidden).sum()
    kept, node = weakref.ref(hidden.data), weakref.ref(hidden.grad_fn)
    del hidden
    y.backward()
    assert kept() is None
    assert node() is None


def test_a_graph_dies_with_its_last_output(without_cycle_collector):
    x = tensor([1.0], requires_grad=True)
    y = F.sigmoid(F.tanh(x) * 2.0)
    node = weakref.ref(y.grad_fn)
    del y
    assert node() is None


def test_an_error_leaves_nothing_behind(without_cycle_collector):
    x = tensor(np.ones((2, 3)), requires_grad=True)
    y = x * 2.0
    node = weakref.ref(y.grad_fn)
    with pytest.raises(ValueError, match="do not fill"):
        y.reshape(7)
    del y
    assert node() is None


def test_a_second_backward_says_that_the_graph_is_gone():
    x = tensor([1.0], requires_grad=True)
    y = x * x
    z = y + 1.0
    y.backward()
    for freed in (y, z):
        with pytest.raises(RuntimeError, match=r"freed by an earlier .*retain_graph=True"):
            freed.backward()
    assert x.grad.tolist() == [2.0]


def test_retain_graph_gives_the_same_gradient_again():
    x = tensor([3.0], requires_grad=True)
    y = x * x * x  # an inner node, whose own gradient must not add up (micrograd, 102)
    y.backward(retain_graph=True)
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [3 * 27.0]
    with pytest.raises(RuntimeError, match="freed"):
        y.backward()


def test_a_tensor_can_be_referred_to_weakly(without_cycle_collector):
    x = tensor([1.0])
    reference = weakref.ref(x)
    assert reference() is x
    del x
    assert reference() is None


# --- threads ------------------------------------------------------------------------------------


def in_threads(*functions):
    """Run functions at the same time; the results in their order."""
    results = [None] * len(functions)
    barrier = threading.Barrier(len(functions))

    def run(i):
        barrier.wait()
        results[i] = functions[i]()

    threads = [threading.Thread(target=run, args=[i]) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_no_grad_is_of_its_own_thread():
    x = tensor([1.0], requires_grad=True)
    with no_grad():
        assert in_threads(lambda: (x * 2.0).requires_grad) == [True]


def test_threads_share_leaves(rng):
    weight = Tensor(rng.normal(size=(20, 20)), requires_grad=True)
    batches = rng.normal(size=(4, 10, 20))

    def gradient(batch):
        def run():
            return [minist.grad(F.tanh(batch @ weight).sum(), [weight])[0] for _ in range(50)]

        return run

    expected = [gradient(batch)()[0] for batch in batches]
    for found, one in zip(in_threads(*map(gradient, batches)), expected, strict=True):
        assert all(np.array_equal(g, one) for g in found)
    assert weight.grad is None


# --- minist.grad --------------------------------------------------------------------------------


def test_grad_returns_what_backward_would_add():
    x, unused = (tensor([2.0], requires_grad=True) for _ in range(2))
    y = x * x
    of_x, of_unused = minist.grad(y, [x, unused], grad=[10.0])
    assert (of_x.tolist(), of_unused.tolist()) == ([40.0], [0.0])
    assert x.grad is None


def test_grad_of_a_result_on_the_way():
    x = tensor([2.0], requires_grad=True)
    y = x * x
    assert [g.tolist() for g in minist.grad(y * 3.0, [y, x])] == [[3.0], [12.0]]


def test_grad_of_the_same_leaf_twice_gives_two_arrays():
    x = tensor([2.0, 1.0], requires_grad=True)
    first, second = minist.grad(x.sum(), [x, x])
    first += 1.0
    assert second.tolist() == [1.0, 1.0]


def test_grad_of_one_tensor_is_not_of_its_rows():
    x = tensor([2.0, 1.0], requires_grad=True)
    assert [g.tolist() for g in minist.grad((x * x).sum(), x)] == [[4.0, 2.0]]


def test_grad_refuses_what_requires_no_gradient():
    x = tensor([2.0], requires_grad=True)
    with pytest.raises(ValueError, match=r"input 1 of shape \(3,\) has requires_grad=False"):
        minist.grad(x * x, [x, tensor(np.ones(3))])


# --- dtypes -------------------------------------------------------------------------------------

SCALARS = [2, 2.0, True, np.float64(2), np.float32(2), np.float16(2), np.int64(2), np.int8(2)]
SCALARS += [np.uint8(2), np.bool_(True), np.array(2.0), np.array(2)]
OPERATORS = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: a / b,
    lambda a, b: a**b,
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scalar", SCALARS, ids=lambda s: f"{type(s).__name__} {s!r}")
def test_a_scalar_leaves_the_dtype_and_that_of_the_gradient(scalar, dtype):
    # cupy 7630, numpy 25098
    for operator in OPERATORS:
        for shape in ((), (3,)):
            for in_order in (True, False):
                x = Tensor(np.ones(shape, dtype=dtype), requires_grad=True)
                y = operator(x, scalar) if in_order else operator(scalar, x)
                assert isinstance(y, Tensor)
                assert y.dtype == dtype
                (gradient,) = minist.grad(y.sum(), [x])
                assert gradient.dtype == dtype


UNARY = [F.relu, F.sigmoid, F.softmax, F.exp, F.abs, F.sum, F.mean, F.max, F.transpose]


@pytest.mark.parametrize("function", UNARY, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(2, 3), (1, 1)])
def test_every_step_keeps_float32(function, shape):
    # numpy 25098: reductions to one number and 0-d arrays fall back to NumPy scalars
    x = Tensor(np.full(shape, 0.5, dtype=np.float32), requires_grad=True)
    y = (function(x) * 0.5 + np.sqrt(2.0)).mean()
    y.backward()
    assert y.dtype == x.grad.dtype == np.float32


@pytest.mark.parametrize("scalar", [np.float64(0.5), np.array(0.5)])
def test_scalar_options_keep_float32(scalar):
    x = Tensor(np.linspace(-1, 1, 5, dtype=np.float32), requires_grad=True)
    image = x.reshape(5, 1)
    for y in (
        F.clip(x, -scalar, scalar),
        F.leaky_relu(x, scalar),
        F.dropout(x, scalar),
        F.batch_norm(image, None, None, eps=scalar),
        F.triplet_hinge_loss(image, image, image, margin=scalar),
    ):
        assert y.dtype == np.float32
        y.sum().backward(retain_graph=True)
    assert x.grad.dtype == np.float32


def test_integers_beside_float32_leave_it_float32():
    x = Tensor(np.ones(2, dtype=np.float32), requires_grad=True)
    for integers in ([1, 2], np.arange(2), np.arange(2, dtype=np.uint8), x.data > 0):
        for other in (integers, tensor(integers)):
            assert (x * other).dtype == (other * x).dtype == np.float32


def test_each_input_gets_a_gradient_of_its_own_precision():
    a = Tensor(np.ones((2, 2), dtype=np.float32), requires_grad=True)
    b = Tensor(np.ones((2, 2)), requires_grad=True)
    y = (a * b + a @ b + F.concatenate([a, b])[:2]).sum()
    y.backward()
    assert (y.dtype, a.grad.dtype, b.grad.dtype) == (np.float64, np.float32, np.float64)


def test_each_node_hears_the_precision_of_its_own_output():
    heard = []

    def answer(grad):
        heard.append(grad.dtype)
        return grad

    x = Tensor(np.ones(2, dtype=np.float32), requires_grad=True)
    (Double.apply(x, answer=answer) * np.ones(2)).sum().backward()
    assert heard == [np.float32]


def test_tensor_keeps_the_dtype_of_arrays_and_shares_them():
    for dtype in (np.float64, np.float32, np.float16, np.uint8, np.int64):
        array = np.zeros(3, dtype=dtype)
        assert tensor(array).data is array
    assert tensor([1, 2]).dtype == tensor(1.5).dtype == np.float32


class OfAnotherLibrary:
    """What NumPy can read, but no array of NumPy."""

    dtype = np.dtype("f4")

    def __array__(self, dtype=None, copy=None):
        return np.ones(2, self.dtype)


@pytest.mark.parametrize(
    "data",
    [[1.0, 2.0], 3.0, np.float32(3), tensor([1.0]), OfAnotherLibrary()],
    ids=lambda x: type(x).__name__,
)
def test_only_an_array_is_wrapped_as_it_is(data):
    words = f"Tensor takes a NumPy array, minist.tensor a {type(data).__name__}"
    with pytest.raises(TypeError, match=words):
        Tensor(data)
    assert tensor(data).dtype == np.float32


@pytest.mark.parametrize("data", [None, [1.0, None], "3", 1j, np.array([{}])], ids=repr)
def test_a_tensor_holds_real_numbers(data):
    """NumPy would read None as NaN, and "3" as 3."""
    with pytest.raises(TypeError, match="a tensor holds real numbers, not"):
        tensor(data)


def test_integers_cannot_require_a_gradient():
    with pytest.raises(TypeError, match=r"this is int64; convert it first"):
        tensor(np.arange(3), requires_grad=True)


# --- tensors beside arrays ----------------------------------------------------------------------


def test_an_array_on_the_left_gives_a_tensor():
    x = tensor([1.0, 2.0])
    ones = np.ones(2, dtype=np.float32)
    results = [operator(ones, x) for operator in OPERATORS]
    for y in (*results, np.ones((2, 2)) @ x.reshape(2, 1), ones < x):
        assert isinstance(y, Tensor)


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_numpy_reads_a_tensor_as_it_is(dtype):
    x = Tensor(np.arange(3, dtype=dtype))
    assert np.asarray(x) is x.data
    assert np.array(x).dtype == dtype
    assert not np.shares_memory(np.array(x), x.data)
    assert np.asarray(x, dtype=np.float64).dtype == np.float64


@pytest.mark.parametrize(
    "function",
    [np.asarray, np.array, np.sort, lambda x: np.stack([x, x]), lambda x: np.where([True], x, 0)],
)
def test_numpy_takes_no_gradient_away(function):
    x = tensor([1.0, 2.0], requires_grad=True)
    for tracked in (x, x * 2.0):
        with pytest.raises(TypeError, match=r"^NumPy knows no gradients: use F\.stack"):
            function(tracked)
        function(tracked.detach())
        function(tracked.numpy())
    with no_grad():
        function(x * 2.0)


@pytest.mark.parametrize("data", [2.5, [2.5], [[2.5]]], ids=str)
def test_numbers_and_their_text(data):
    x = tensor(data, requires_grad=True)
    assert (float(x), int(x), bool(x), x.item(), f"{x:.2f}") == (2.5, 2, True, 2.5, "2.50")


def test_lengths_and_the_text_of_arrays():
    assert (len(tensor([[1.0, 2.0]])), f"{tensor([1.0])}") == (1, "tensor([1.])")


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (tensor([1.0, 2.0]), "tensor([1., 2.])"),
        (tensor(np.array([1.0])), "tensor([1.], dtype=float64)"),
        (tensor([1.0], requires_grad=True), "tensor([1.], requires_grad=True)"),
        (tensor([1.0], requires_grad=True) + 1.0, "tensor([2.], grad_fn=Add)"),
        (tensor([[1.0], [2.0]]), "tensor([[1.],\n        [2.]])"),
        (tensor(2.0), "tensor(2.)"),
    ],
)
def test_repr(x, text):
    assert repr(x) == text


def test_detach_shares_the_values_without_the_history():
    x = tensor([1.0], requires_grad=True)
    y = (x * 2.0).detach()
    assert not y.requires_grad
    assert x.detach().data is x.data


def test_a_deep_copy_is_another_leaf():
    x = tensor([1.0], requires_grad=True)
    y = copy.deepcopy(x)
    y.data += 1.0
    assert y.requires_grad
    assert x.item() == 1.0


# --- errors -------------------------------------------------------------------------------------


def test_backward_needs_a_gradient_unless_there_is_one_number():
    x = tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ValueError, match=r"shape \(2,\) needs .* y\.sum\(\)\.backward\(\)"):
        (x * 2.0).backward()
    with pytest.raises(ValueError, match=r"grad has shape \(1,\), the tensor \(2,\)"):
        (x * 2.0).backward([1.0])


def test_backward_needs_a_history():
    x = tensor([1.0], requires_grad=True)
    with no_grad():
        y = x * 2.0
    for without in (y, x.detach(), tensor([1.0])):
        with pytest.raises(RuntimeError, match="no history"):
            without.backward()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda g: None, r"None, no array of shape \(2,\)"),
        (lambda g: tensor(g), r"tensor\(\[1\., 1\.\]\), no array of shape \(2,\)"),
        (lambda g: (g, g), "2 gradients for 1 inputs"),
        (lambda g: (), "0 gradients for 1 inputs"),
        (lambda g: g[:1], r"shape \(1,\) for an input of shape \(2,\)"),
        (lambda g: g[0], r"shape \(\) for an input of shape \(2,\)"),
        (lambda g: np.ones((3, 5)), r"shape \(3, 5\) for an input of shape \(2,\)"),
        (lambda g: g.astype(float), "a float64 gradient, given a float32 one"),
    ],
)
def test_a_wrong_backward_is_named(answer, words):
    x = tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(RuntimeError, match=f"^Double.backward returned {words}"):
        Double.apply(x, answer=answer).sum().backward()


def test_an_error_names_the_operation_and_all_it_was_given():
    x = Tensor(np.ones((2, 3, 5, 5), dtype=np.float32))
    with pytest.raises(ValueError, match="images have 3 channels") as error:
        F.conv2d(x, np.ones((4, 1, 3, 3)), stride=2)
    lines = str(error.value).split("\n")
    assert lines[0].startswith("Conv2d: ")
    assert "  x: (2, 3, 5, 5) float32 on cpu" in lines
    assert any(line.startswith("  weight: (4, 1, 3, 3) ") for line in lines)
    assert any(line.startswith("  stride") and line.endswith("(2, 2)") for line in lines)


def test_an_error_shows_the_line_at_fault():
    class Faulty(Function):
        def forward(self, x):
            return x.reshape(7)

    with pytest.raises(ValueError, match=r"^Faulty: cannot reshape") as error:
        Faulty.apply(tensor([1.0, 2.0]))
    assert "return x.reshape(7)" in str(error.traceback[-1].statement)


def test_inputs_of_any_number_are_counted_in_an_error():
    with pytest.raises(ValueError, match="Concatenate") as error:
        F.concatenate([tensor(np.ones((2, 3))), tensor(np.ones((4, 5)))])
    assert "input 0: (2, 3)" in str(error.value)
    assert "input 1: (4, 5)" in str(error.value)


def test_an_unknown_device_is_refused():
    for call in (
        lambda: tensor([1.0], device="gpu"),
        lambda: tensor([1.0]).to("gpu"),
        lambda: backend.module_of("gpu"),
    ):
        with pytest.raises(ValueError, match='device must be "cpu" or "cuda", not \'gpu\''):
            call()


def test_the_device_a_tensor_is_on_costs_nothing():
    x = tensor([1.0], requires_grad=True)
    assert x.to("cpu").data is x.data
    assert tensor(x.data, device="cpu").data is x.data


def test_gradients_that_are_not_copied():
    """Of x + y both gradients are that of the sum, the very array."""
    x, y, z = (minist.tensor([1.0, 2.0], requires_grad=True) for _ in range(3))
    seed = np.array([3.0, 4.0], dtype="f")
    mine = minist.grad(x + y, [x, y, z], seed)
    shared = minist.grad(x + y, [x, y, z], seed, own=False)
    for a, b in zip(mine, shared, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    assert shared[0] is shared[1]
    assert not np.shares_memory(mine[0], mine[1])
