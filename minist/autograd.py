"""The engine: reverse-mode automatic differentiation.

A `Tensor` holds an array. A `Function` is one operation on arrays, with its derivative beside it.
Calling `Function.apply` runs the operation and, where a gradient is wanted, leaves a node in a
graph: the output tensor points to the node that made it, the node points to where its inputs came
from, and nothing points forward, so a graph lives exactly as long as its last output.

`Tensor.backward` walks that graph from the end to the beginning and applies the chain rule

    dL/dx = sum over uses y of x:  (dy/dx)^T dL/dy

once per node. The engine knows no operation: broadcasting, repeated use of a value and unwanted
gradients are settled here, so that a `backward` need only state its own derivative.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from typing import Any, NamedTuple

import numpy as np

from .backend import Array, array_module, beside, device_of, is_cupy, to_device, to_numpy


class _State(threading.local):
    no_grads = 0  # how many no_grad blocks the thread is in


_state = _State()


class no_grad(ContextDecorator):
    """Context manager and decorator: operations inside build no graph (in this thread)."""

    def __enter__(self) -> None:
        _state.no_grads += 1

    def __exit__(self, *error: Any) -> None:
        _state.no_grads -= 1

    def __call__(self, function: Callable) -> Callable:
        if inspect.isgeneratorfunction(function):
            raise TypeError("a generator runs after no_grad is over: put `with no_grad():` inside")
        return super().__call__(function)


class Tensor:
    """An array that knows how it was made.

    Parameters
    ----------
    data : numpy.ndarray or cupy.ndarray
        Shared, not copied.
    requires_grad : bool
        Whether `backward` shall leave a gradient in `grad`. Floating arrays only, else a TypeError.

    Attributes
    ----------
    data : array
        The values.
    grad : array or None
        d(result)/d(this) after `result.backward()`, of the shape and dtype of `data`; a second
        backward adds to it. Kept for tensors that the user made (the leaves of the graph).
    grad_fn : Function or None
        The node that made this tensor; None for a leaf.
    """

    __slots__ = ("__weakref__", "data", "grad", "grad_fn", "requires_grad")
    __hash__ = object.__hash__  # by identity, also once == compares elements
    __array_ufunc__ = None  # numpy_array * tensor asks Tensor.__rmul__

    def __init__(self, data: Array, requires_grad: bool = False):
        if not isinstance(data, np.ndarray) and not is_cupy(data):
            raise TypeError(f"Tensor takes a NumPy array, minist.tensor a {type(data).__name__}")
        if requires_grad and data.dtype.kind != "f":
            raise TypeError(
                f"only a floating tensor can require a gradient, this is {data.dtype}; "
                "convert it first: x.astype(numpy.float32)"
            )
        self.data, self.requires_grad = data, requires_grad
        self.grad = self.grad_fn = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def device(self) -> str:
        return device_of(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        text = np.array2string(self.numpy(), separator=", ", prefix="tensor(")
        extras = "" if self.dtype == np.float32 else f", dtype={self.dtype}"
        extras += "" if self.device == "cpu" else f", device={self.device!r}"
        if self.grad_fn is not None:
            extras += f", grad_fn={type(self.grad_fn).__name__}"
        elif self.requires_grad:
            extras += ", requires_grad=True"
        return f"tensor({text}{extras})"

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array: shared on the CPU, copied from a GPU."""
        return to_numpy(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.requires_grad:
            raise TypeError("NumPy knows no gradients: use F.stack and the like, or x.detach()")
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def item(self) -> float:
        """The value of a tensor of one element, as a Python number (waits for a GPU)."""
        return self.data.item()

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.size == 1 and spec else str(self), spec)

    def detach(self) -> Tensor:
        """The same values without their history."""
        return Tensor(self.data)

    def backward(self, grad: Any = None, retain_graph: bool = False) -> None:
        """Add d(this)/d(leaf) to `leaf.grad`, for every leaf that requires a gradient.

        Parameters
        ----------
        grad : array, optional
            dL/d(this), of this tensor's shape; 1 for a scalar.
        retain_graph : bool
            Keep what the graph holds, so that a second `backward` can follow.

        Raises
        ------
        RuntimeError
            If this tensor has no history, or its graph was freed by an earlier backward.
        ValueError
            If this is not a scalar and `grad` is missing, or `grad` has another shape.
        """
        for leaf, gradient in _backpropagate(self, grad, retain_graph).items():
            if leaf.grad is None:
                leaf.grad = _own(gradient, leaf)
            else:
                leaf.grad += gradient


def tensor(data: Any, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """A tensor from data: an array, a number, nested lists or another tensor.

    An array keeps its dtype; Python numbers and lists become float32; a tensor gives a new leaf.
    An array already on `device` (default: where it is, lists on the CPU) is shared, not copied.
    With requires_grad, `backward` leaves a gradient in it; it must be floating, else a TypeError,
    as for what does not hold real numbers.
    """
    data = data.data if isinstance(data, Tensor) else data
    if not is_cupy(data):
        array = np.asarray(data)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"a tensor holds real numbers, not {type(data).__name__} {array.dtype}")
        data = array if hasattr(data, "dtype") else array.astype(np.float32)
    return Tensor(data if device is None else to_device(data, device), requires_grad)


class Edge(NamedTuple):
    """Where an input of a node came from: another node or a leaf, and what its gradient must be."""

    source: Function | Tensor
    shape: tuple[int, ...]
    dtype: np.dtype


class Function:
    """One differentiable operation: `forward` and, below it, `backward`.

    A subclass writes both on plain arrays. `forward(*arrays, **options)` returns an array and
    keeps on `self` what `backward` needs. `backward(grad)`, with grad = dL/d(output), returns
    dL/d(input) for each input; where `self.needs_grad[i]` is false that is not looked at, and may
    be None. It may return the gradient in the broadcast shape, and must not change `grad`.
    """

    edges: Sequence[Edge | None] | None = None  # None again once the node has been freed
    needs_grad: tuple[bool, ...] = ()

    def forward(self, *arrays: Array, **options: Any) -> Array:
        raise NotImplementedError

    def backward(self, grad: Array) -> Array | tuple[Array | None, ...]:
        raise NotImplementedError

    @classmethod
    def apply(cls, *inputs: Any, **options: Any) -> Tensor:
        """Run the operation: the one door through which every operation passes.

        Inputs are tensors, or what can stand beside one: arrays, numbers, None (left out).
        A result that is not floating has no gradient.
        """
        node = cls()
        try:
            inputs = _as_tensors(inputs)
            node.needs_grad = (False,) * len(inputs)
            if _state.no_grads == 0:
                node.needs_grad = tuple([x is not None and x.requires_grad for x in inputs])
            data = node.forward(*[None if x is None else x.data for x in inputs], **options)
        except (ValueError, TypeError, IndexError) as error:
            kind = next(k for k in (ValueError, TypeError, IndexError) if isinstance(error, k))
            words = _describe_call(cls, error, inputs, options)
            raise kind(words).with_traceback(error.__traceback__) from None
        output = Tensor(np.asarray(data) if isinstance(data, np.generic) else data)
        if True in node.needs_grad and data.dtype.kind == "f":
            node.edges = [
                Edge(x.grad_fn or x, x.data.shape, x.data.dtype) if needed else None
                for x, needed in zip(inputs, node.needs_grad, strict=True)
            ]
            output.grad_fn = node
            output.requires_grad = True
        return output


def _as_tensors(inputs: Sequence[Any]) -> Sequence[Tensor | None]:
    """Inputs as tensors of one device; a number takes the dtype of the tensors beside it."""
    kinds = {isinstance(x, Tensor) and type(x.data) for x in inputs if x is not None}  # mostly one
    if False in kinds:
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        like = max(tensors, key=lambda x: x.dtype.kind == "f", default=None)  # floating if any
        inputs = [x if isinstance(x, Tensor) or x is None else _beside(x, like) for x in inputs]
    if kinds != {np.ndarray} and len({is_cupy(x.data) for x in inputs if x is not None}) > 1:
        raise ValueError('inputs lie on different devices; move one of them, as in x.to("cuda")')
    return inputs


def _beside(value: Any, like: Tensor | None) -> Tensor:
    """An array with its own dtype, a number or list with that of `like`, as a tensor."""
    own = like is None or getattr(value, "ndim", 0) > 0
    return tensor(value) if own else Tensor(beside(value, like.data))


def _describe_call(cls: type[Function], error: Exception, inputs: Sequence, options: dict) -> str:
    """The inner fact of an error, with the operation and all that it was given."""
    parameters = list(inspect.signature(cls.forward).parameters.values())[1:]
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    names += [f"input {i}" for i in range(len(names), len(inputs))]
    given = dict(zip(names, inputs, strict=False)) | options
    lines = [f"  {name}: {_describe(value)}" for name, value in given.items() if value is not None]
    return "\n".join([f"{cls.__name__}: {error}", *lines])


def _describe(value: Any) -> str:
    data = value.data if isinstance(value, Tensor) else value
    if isinstance(data, np.ndarray) or is_cupy(data):
        return f"{data.shape} {data.dtype} on {device_of(data)}"
    return repr(value)


def grad(output: Tensor, inputs: Sequence[Tensor], grad: Any = None, own: bool = True) -> list:
    """d(output)/d(input) for each of the inputs, returned instead of added to `input.grad`.

    They are leaves or results on the way; one that the output does not depend on gets zeros. `grad`
    is dL/d(output), 1 for a scalar. With own=False they are only to be read: views, or shared ones.
    Several threads may call it on graphs that share their leaves.

    Raises ValueError if an input does not require a gradient, and as `Tensor.backward` does.
    """
    inputs = [inputs] if isinstance(inputs, Tensor) else inputs  # not the rows of a tensor
    for i, x in enumerate(inputs):
        if not x.requires_grad:
            raise ValueError(f"grad: input {i} of shape {x.shape} has requires_grad=False")
    sources = [x.grad_fn or x for x in inputs]
    gradients = _backpropagate(output, grad, retain_graph=False, keep=frozenset(sources))
    found = [(x, gradients.get(source, 0.0)) for source, x in zip(sources, inputs, strict=True)]
    return [_own(g, x) if own or isinstance(g, float) else g for x, g in found]


def _own(gradient: Array, x: Tensor) -> Array:
    """A copy, in the memory order of x: a gradient may be a view, or shared with other inputs."""
    own = array_module(x.data).empty_like(x.data)
    own[...] = gradient
    return own


def _backpropagate(
    output: Tensor, grad: Any, retain_graph: bool, keep: frozenset = frozenset()
) -> dict[Any, Array]:
    """The chain rule from `output` back to the leaves: their gradients, and those of `keep`."""
    root = output.grad_fn or output
    gradients: dict[Any, Array] = {root: _seed_gradient(output, grad)}
    uses = _count_uses(root)
    ready = [root] if isinstance(root, Function) else []
    while ready:
        node = ready.pop()
        grad = gradients[node] if node in keep else gradients.pop(node)
        for edge, gradient in zip(node.edges, _input_gradients(node, grad), strict=True):
            if edge is None:
                continue
            source = edge.source
            gradients[source] = gradients[source] + gradient if source in gradients else gradient
            uses[source] -= 1
            if uses[source] == 0 and isinstance(source, Function):
                ready.append(source)  # all uses of its output have been heard
        if not retain_graph:
            node.__dict__.clear()  # frees what forward kept, and the way further back
    return gradients


def _seed_gradient(output: Tensor, grad: Any) -> Array:
    xp = array_module(output.data)
    if not output.requires_grad:
        raise RuntimeError(
            "backward() needs a tensor that depends on one with requires_grad=True; this has no "
            "history (was it made under no_grad(), or detached?)"
        )
    if grad is None:
        if output.size != 1:
            raise ValueError(
                f"backward() on a tensor of shape {output.shape} needs dL/d(tensor) of that shape: "
                "call backward(grad), or reduce it to a scalar, as in y.sum().backward()"
            )
        return xp.ones_like(output.data)
    grad = xp.asarray(grad.data if isinstance(grad, Tensor) else grad, dtype=output.dtype)
    if grad.shape != output.shape:
        raise ValueError(f"backward(): grad has shape {grad.shape}, the tensor {output.shape}")
    return grad


def _count_uses(root: Function | Tensor) -> dict[Function | Tensor, int]:
    """How often the output of each node, and each leaf, is used on the way to `root`."""
    uses, stack = {}, [root] if isinstance(root, Function) else []
    while stack:
        node = stack.pop()
        if node.edges is None:
            raise RuntimeError(
                "the graph of this tensor was freed by an earlier backward(); to go through it "
                "twice, make the first call backward(retain_graph=True)"
            )
        for edge in node.edges:
            if edge is not None:
                uses[edge.source] = uses.get(edge.source, 0) + 1
                if uses[edge.source] == 1 and isinstance(edge.source, Function):
                    stack.append(edge.source)
    return uses


def _input_gradients(node: Function, grad: Array) -> list[Array | None]:
    """What `node.backward` returns, checked, and fitted to the inputs."""
    gradients = node.backward(grad)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    if len(gradients) != len(node.edges):
        raise _fault(node, f"{len(gradients)} gradients for {len(node.edges)} inputs")
    pairs = zip(gradients, node.edges, strict=True)
    return [None if edge is None else _fit(g, edge, node, grad.dtype) for g, edge in pairs]


def _fit(gradient: Array, edge: Edge, node: Function, dtype: np.dtype) -> Array:
    """A gradient in the shape and dtype of the input it belongs to.

    This is where broadcasting is undone: an input that was repeated along an axis was used that
    many times, so its gradient is the sum along it.
    """
    if isinstance(gradient, Tensor) or not hasattr(gradient, "shape"):
        raise _fault(node, f"{gradient!r}, no array of shape {edge.shape}")
    if gradient.shape != edge.shape:
        shape = (1,) * (gradient.ndim - len(edge.shape)) + edge.shape  # as it was broadcast
        sizes = zip(shape, gradient.shape, strict=False)
        if len(shape) > gradient.ndim or any(m not in (1, n) for m, n in sizes):
            raise _fault(node, f"shape {gradient.shape} for an input of shape {edge.shape}")
        repeated = tuple(axis for axis, size in enumerate(shape) if size == 1)
        gradient = gradient.sum(axis=repeated, keepdims=True).reshape(edge.shape)
    if gradient.dtype != dtype:
        raise _fault(node, f"a {gradient.dtype} gradient, given a {dtype} one")
    return gradient.astype(edge.dtype, copy=False)  # differs where precisions were mixed


def _fault(node: Function, what: str) -> RuntimeError:
    return RuntimeError(f"{type(node).__name__}.backward returned {what}")
