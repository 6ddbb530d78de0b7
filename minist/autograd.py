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
from collections import Counter
from collections.abc import Sequence
from contextlib import ContextDecorator
from typing import Any, NamedTuple

import numpy as np

from .backend import Array, array_module, device_of, module_of, to_device, to_numpy


class _State(threading.local):
    grad_enabled = True


_state = _State()


class no_grad(ContextDecorator):
    """Context manager and decorator: operations inside build no graph (in this thread)."""

    def __enter__(self) -> None:
        self.before, _state.grad_enabled = _state.grad_enabled, False

    def __exit__(self, *error: Any) -> None:
        _state.grad_enabled = self.before

    def _recreate_cm(self) -> no_grad:
        return no_grad()  # a decorated function may run in several threads at once


class Tensor:
    """An array that knows how it was made.

    Parameters
    ----------
    data : numpy.ndarray or cupy.ndarray
        Shared, not copied.
    requires_grad : bool
        Whether `backward` shall leave a gradient in `grad`. Floating arrays only.

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
    __array_ufunc__ = None  # numpy_array * tensor asks Tensor.__rmul__

    def __init__(self, data: Array, requires_grad: bool = False):
        if requires_grad and data.dtype.kind != "f":
            raise TypeError(
                f"only a floating tensor can require a gradient, this is {data.dtype}; "
                "convert it first: x.astype(numpy.float32)"
            )
        self.data = data
        self.requires_grad = requires_grad
        self.grad: Array | None = None
        self.grad_fn: Function | None = None

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
        array = self.numpy()
        return array.astype(dtype) if copy or dtype not in (None, array.dtype) else array

    def item(self) -> float:
        """The value of a tensor of one element, as a Python number (waits for a GPU)."""
        return self.data.item()

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.data)

    def __int__(self) -> int:
        return int(self.data)

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
                # A copy: the gradient may be a view, or shared with another leaf.
                leaf.grad = array_module(leaf.data).empty_like(leaf.data)
                leaf.grad[...] = gradient
            else:
                leaf.grad += gradient


def tensor(data: Any, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """A tensor from an array, a number or nested lists.

    A floating array keeps its dtype, other arrays too; numbers and lists become float32.
    An array already on `device` (default: where it is, lists on the CPU) is shared, not copied.
    """
    if isinstance(data, Tensor):
        data = data.data
    if not hasattr(data, "dtype"):
        data = np.asarray(data, dtype=np.float32)
    elif isinstance(data, np.generic):
        data = np.asarray(data)
    if device is not None:
        module_of(device)
        data = to_device(data, device)
    return Tensor(data, requires_grad)


class Edge(NamedTuple):
    """Where an input of a node came from: another node or a leaf, and what its gradient must be."""

    source: Function | Tensor
    shape: tuple[int, ...]
    dtype: np.dtype


class Function:
    """One differentiable operation: `forward` and, below it, `backward`.

    A subclass writes both on plain arrays. `forward(*arrays, **options)` returns an array and
    keeps on `self` what `backward` needs. `backward(grad)`, with grad = dL/d(output), returns
    dL/d(input) for each input, None where `self.needs_grad[i]` is false. It may return the
    gradient in the broadcast shape, and must not change `grad` in place.
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
        """
        inputs = _as_tensors(inputs, cls)
        wanted = _state.grad_enabled
        node = cls()
        node.needs_grad = tuple([wanted and x is not None and x.requires_grad for x in inputs])
        try:
            data = node.forward(*[None if x is None else x.data for x in inputs], **options)
        except (ValueError, TypeError) as error:
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(_describe_call(cls, error, inputs, options)) from None
        output = Tensor(np.asarray(data) if isinstance(data, np.generic) else data)
        if True in node.needs_grad:
            node.edges = [
                Edge(x.grad_fn or x, x.data.shape, x.data.dtype) if needed else None
                for x, needed in zip(inputs, node.needs_grad, strict=True)
            ]
            output.grad_fn = node
            output.requires_grad = True
        return output


def _as_tensors(inputs: Sequence[Any], function: type[Function]) -> list[Tensor | None]:
    """Inputs as tensors of one device; a number takes the dtype of the tensors beside it."""
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    if len(tensors) < len(inputs):
        like = next((x for x in tensors if x.dtype.kind == "f"), None)
        inputs = [x if isinstance(x, Tensor) or x is None else _beside(x, like) for x in inputs]
        tensors = [x for x in inputs if x is not None]
    if len({type(x.data) for x in tensors}) > 1 and len({x.device for x in tensors}) > 1:
        places = ", ".join(f"{x.shape} on {x.device}" for x in tensors)
        raise ValueError(
            f"{function.__name__}: inputs lie on different devices ({places}); "
            'move one of them, as in x.to("cuda")'
        )
    return list(inputs)


def _beside(value: Any, like: Tensor | None) -> Tensor:
    """A number, list or array as a tensor; only a floating array brings its own dtype."""
    is_array = hasattr(value, "dtype") and getattr(value, "ndim", 0) > 0
    if like is None or (is_array and value.dtype.kind == "f"):
        return tensor(value)
    if is_array:
        return Tensor(value.astype(like.dtype))
    return Tensor(array_module(like.data).asarray(value, dtype=like.dtype))


def _describe_call(
    function: type[Function], error: Exception, inputs: Sequence[Tensor | None], options: dict
) -> str:
    """The inner fact of an error, with the operation and all that it was given."""
    names = list(inspect.signature(function.forward).parameters)[1:]
    names += [f"input {i}" for i in range(len(names), len(inputs))]
    lines = [f"{function.__name__}: {error}"]
    for name, x in zip(names, inputs, strict=False):
        if x is not None:
            lines.append(f"  {name}: {x.shape} {x.dtype} on {x.device}")
    lines += [f"  {name} = {value!r}" for name, value in options.items()]
    return "\n".join(lines)


def grad(output: Tensor, inputs: Sequence[Tensor], grad: Any = None) -> list[Array]:
    """d(output)/d(input) for each input, returned instead of added to `input.grad`.

    Several threads may call it on graphs that share their leaves. An input that the output does
    not depend on gets zeros. Raises as `Tensor.backward` does.
    """
    gradients = _backpropagate(output, grad, retain_graph=False)
    return [
        gradients[x] if x in gradients else array_module(x.data).zeros_like(x.data) for x in inputs
    ]


def _backpropagate(output: Tensor, grad: Any, retain_graph: bool) -> dict[Tensor, Array]:
    """The chain rule from `output` back to the leaves: their gradients."""
    root = output.grad_fn or output
    gradients: dict[Any, Array] = {root: _seed_gradient(output, grad)}
    uses = _count_uses(root)
    ready = [root] if isinstance(root, Function) else []
    while ready:
        node = ready.pop()
        node_gradients = _input_gradients(node, gradients.pop(node))
        for edge, gradient in zip(node.edges, node_gradients, strict=True):
            if edge is None:
                continue
            source = edge.source
            known = gradients.get(source)
            gradients[source] = gradient if known is None else known + gradient
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
        raise ValueError(f"gradient has shape {grad.shape}, the tensor {output.shape}")
    return grad


def _count_uses(root: Function | Tensor) -> Counter:
    """How often the output of each node, and each leaf, is used on the way to `root`."""
    uses: Counter = Counter()
    stack = [root] if isinstance(root, Function) else []
    while stack:
        node = stack.pop()
        if node.edges is None:
            raise RuntimeError(
                "the graph of this tensor was freed by an earlier backward(); to go through it "
                "twice, make the first call backward(retain_graph=True)"
            )
        for edge in node.edges:
            if edge is not None:
                uses[edge.source] += 1
                if uses[edge.source] == 1 and isinstance(edge.source, Function):
                    stack.append(edge.source)
    return uses


def _input_gradients(node: Function, grad: Array) -> list[Array | None]:
    """What `node.backward` returns, checked, and fitted to the inputs."""
    gradients = node.backward(grad)
    if not isinstance(gradients, tuple):
        gradients = (gradients,)
    if len(gradients) != len(node.edges):
        raise RuntimeError(
            f"{type(node).__name__}.backward returned {len(gradients)} gradients "
            f"for {len(node.edges)} inputs"
        )
    return [
        None if edge is None else _fit(gradient, edge, node, grad.dtype)
        for gradient, edge in zip(gradients, node.edges, strict=True)
    ]


def _fit(gradient: Array, edge: Edge, node: Function, dtype: np.dtype) -> Array:
    """A gradient in the shape and dtype of the input it belongs to.

    This is where broadcasting is undone: an input that was repeated along an axis was used that
    many times, so its gradient is the sum along it.
    """
    if gradient is None:
        raise RuntimeError(f"{type(node).__name__}.backward returned None for a wanted gradient")
    if gradient.shape != edge.shape:
        missing = gradient.ndim - len(edge.shape)
        repeated = tuple(
            axis
            for axis, size in enumerate(gradient.shape)
            if axis < missing or (edge.shape[axis - missing] == 1 and size != 1)
        )
        shape = gradient.shape
        gradient = gradient.sum(axis=repeated, keepdims=True)
        if missing < 0 or gradient.shape[missing:] != edge.shape:
            raise RuntimeError(
                f"{type(node).__name__}.backward returned a gradient of shape {shape} "
                f"for an input of shape {edge.shape}"
            )
        gradient = gradient.reshape(edge.shape)
    if gradient.dtype != dtype:
        raise RuntimeError(
            f"{type(node).__name__}.backward made a {gradient.dtype} gradient out of a {dtype} one"
        )
    return gradient.astype(edge.dtype, copy=False)  # differs where precisions were mixed
