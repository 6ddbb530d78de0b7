"""Modules: parameters and the functions that use them, in a tree.

A `Module` finds its parameters by looking at its own attributes, so a layer is an ordinary class:
parameters are made in `__init__`, used in `forward`. Names are PyTorch's, and weights go from one
to the other by `state_dict()` or a safetensors file.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from .autograd import Tensor, tensor
from .backend import Array, device_of, is_cupy, to_device

CONTAINERS = (list, tuple, dict)


class Parameter(Tensor):
    """A tensor that a module learns; data as for `tensor`, float32 from numbers and lists.

    With requires_grad=False it is kept, saved and moved with the module, but not learnt.
    """

    def __init__(self, data: Any, requires_grad: bool = True):
        super().__init__(tensor(data).data, requires_grad)


class _Memory(threading.local):
    def __init__(self) -> None:
        self.of: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


_memory = _Memory()


class Module:
    """A function with parameters, and with modules inside. Subclasses write `forward`.

    Parameters and modules are found as attributes, or in lists, tuples and dicts that are. What is
    to be learnt must be a `Parameter`: `parameters` raises a TypeError that names an attribute
    which is another tensor with requires_grad.

    Attributes
    ----------
    training : bool
        Set by `train()` and `eval()`; dropout and batch norm behave accordingly.
    buffers : tuple of str
        Names of attributes that are arrays to be saved, moved and loaded, but not learnt.
    """

    training = True
    buffers: tuple[str, ...] = ()

    def forward(self, *inputs: Any) -> Any:
        raise NotImplementedError

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self.forward(*inputs, **options)

    def children(self) -> list[tuple[str, Module]]:
        """(attribute name, module) of the modules directly inside, also those in lists or dicts.

        The second of a list `layers` is named "layers.1", that of a dict's key "a" "layers.a".
        """
        return _held(vars(self).items(), Module)

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module and all inside."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def _every(
        self, kind: Callable[[Module], Iterable[tuple[str, Any]]]
    ) -> Iterator[tuple[str, Any]]:
        """(dotted name, what) of what `kind` names in this module and in all inside."""
        for prefix, module in self.named_modules():
            for name, what in kind(module):
                yield f"{prefix}.{name}" if prefix else name, what

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter), each parameter once, also where modules share it."""
        seen = set()
        for path, parameter in self._every(_own_parameters):
            if parameter not in seen:
                seen.add(parameter)
                yield path, parameter

    def parameters(self) -> list[Parameter]:
        """All parameters, of this module and of those inside, each once."""
        return [parameter for _, parameter in self.named_parameters()]

    def count_parameters(self) -> int:
        """How many numbers the module learns."""
        return sum(p.size for p in self.parameters() if p.requires_grad)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def train(self, mode: bool = True) -> Module:
        """Set `training` here and in all modules inside; returns the module."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """The opposite of `train`: dropout does nothing, batch norm uses its running statistics."""
        return self.train(False)

    def to(self, device: str) -> Module:
        """Move parameters and buffers to "cpu" or "cuda", in place."""
        for parameter in self.parameters():
            parameter.data = to_device(parameter.data, device)
            parameter.grad = None
        for _, module in self.named_modules():
            for name in module.buffers:
                setattr(module, name, to_device(getattr(module, name), device))
        return self

    def state_dict(self) -> dict[str, Array]:
        """Dotted name -> array (not copied) of every parameter and buffer."""
        state = {path: parameter.data for path, parameter in self._every(_own_parameters)}
        return state | dict(self._every(lambda m: [(name, getattr(m, name)) for name in m.buffers]))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy arrays into parameters and buffers, keeping each one's dtype and device.

        Parameters
        ----------
        state : mapping of name to array
            Arrays of either backend, or what NumPy can read, such as PyTorch's tensors.

        Raises
        ------
        ValueError
            If a name is missing, unknown, of another shape, or no array of numbers. All at
            fault are named, and nothing is copied.
        """
        own = self.state_dict()
        faults = [f"{name} is missing" for name in own if name not in state]
        faults += [f"{name} is unknown" for name in state if name not in own]
        arrays = {}
        for name in (name for name in own if name in state):
            value = state[name].data if isinstance(state[name], Tensor) else state[name]
            array = value if is_cupy(value) else np.asarray(value)
            if array.shape != own[name].shape:
                faults.append(f"{name} has shape {array.shape}, not {own[name].shape}")
            elif array.dtype.kind not in "fiub":
                faults.append(f"{name} holds {array.dtype}, not real numbers")
            arrays[name] = array
        if faults:
            raise ValueError(f"{type(self).__name__}.load_state_dict: " + "; ".join(sorted(faults)))
        for name, array in arrays.items():
            own[name][...] = to_device(array, device_of(own[name]))

    def remember(self, **values: Any) -> None:
        """Keep what the last forward made, for looking at. Each thread has its own."""
        _memory.of[self] = values

    def last(self, name: str) -> Any:
        """What the calling thread's last forward remembered; None before the first."""
        return _memory.of.get(self, {}).get(name)

    def extra_repr(self) -> str:
        """What stands between the parentheses of a layer's repr."""
        return ""

    def __repr__(self) -> str:
        inside = [f"({name}): {child!r}" for name, child in self.children()]
        if not inside:
            return f"{type(self).__name__}({self.extra_repr()})"
        body = "\n".join(inside).replace("\n", "\n  ")
        return f"{type(self).__name__}(\n  {body}\n)"


def _held(values: Iterable[tuple[Any, Any]], kind: type) -> list[tuple[str, Any]]:
    """(name, value) of the values of a kind, also of those in lists, tuples and dicts inside."""
    found = []
    for name, value in values:
        if isinstance(value, kind):
            found.append((name, value))
        elif isinstance(value, CONTAINERS):
            inside = tuple(value.items()) if isinstance(value, dict) else enumerate(value)
            found += [(f"{name}.{below}", item) for below, item in _held(inside, kind)]
    return found


def _own_parameters(module: Module) -> Iterator[tuple[str, Parameter]]:
    for name, value in _held(vars(module).items(), Tensor):
        if isinstance(value, Parameter):
            yield name, value
        elif value.requires_grad and value.grad_fn is None:
            raise TypeError(
                f"{type(module).__name__}.{name} requires a gradient but would not be learnt: "
                "make it an nn.Parameter"
            )
