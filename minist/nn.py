"""Modules: parameters and the functions that use them, in a tree.

A `Module` finds its parameters by looking at its own attributes, so a layer is an ordinary class:
parameters are made in `__init__`, used in `forward`. Names and layouts are PyTorch's, and weights
go from one to the other by `state_dict()` or a safetensors file.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np

from . import functional as F
from .autograd import Tensor, tensor
from .backend import Array, device_of, generator, is_cupy, to_device
from .files import load_arrays, save_arrays
from .functional.arithmetic import check_floating
from .functional.convolution import Pair, pair
from .functional.normalisation import BatchNorm, batch_statistics, update_statistics


class Parameter(Tensor):
    """A tensor that a module learns; data as for `tensor`, float32 from numbers and lists.

    With requires_grad=False it is kept, saved and moved with the module, but not learnt.
    """

    def __init__(self, data: Any, requires_grad: bool = True):
        super().__init__(tensor(data).data, requires_grad)


# --- initialisers -------------------------------------------------------------------------------


def small_uniform(shape: tuple[int, ...]) -> np.ndarray:
    """What `Linear` and `Conv2d` start with, here and in PyTorch: within 1 / sqrt(fan_in).

    A sixth of He's variance. Small first weights give a localisation network time to learn while
    the classifier behind it is not yet used to the digits as they come: after six epochs of
    turned digits a transformer undid 75 % of the turn, started with He's weights 44 %.

    Shape (out, in) or (F, C, kh, kw); drawn from the thread's generator, float32.
    """
    bound = math.sqrt(1 / _fans(shape)[0])
    return generator().uniform(-bound, bound, shape).astype(np.float32)


def he_uniform(shape: tuple[int, ...]) -> np.ndarray:
    """For layers followed by ReLU (He et al., 2015): keeps variance, 2 / fan_in.

    Shape (out, in) or (F, C, kh, kw); drawn from the thread's generator, float32.
    """
    bound = math.sqrt(6 / _fans(shape)[0])
    return generator().uniform(-bound, bound, shape).astype(np.float32)


def glorot_uniform(shape: tuple[int, ...]) -> np.ndarray:
    """For layers without ReLU (Glorot and Bengio, 2010): variance 2 / (fan_in + fan_out).

    Shape (out, in) or (F, C, kh, kw); drawn from the thread's generator, float32.
    """
    bound = math.sqrt(6 / sum(_fans(shape)))
    return generator().uniform(-bound, bound, shape).astype(np.float32)


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Numbers that an output sees, and outputs that see a number; at least 1."""
    if len(shape) < 2 or not all(isinstance(n, Integral) and n >= 0 for n in shape):
        raise ValueError(
            f"weights are (out, in) or (F, C, kh, kw), whole numbers from 0 on, not {shape}"
        )
    field = math.prod(shape[2:])
    return max(shape[1] * field, 1), max(shape[0] * field, 1)


# --- what a forward leaves behind ---------------------------------------------------------------


class _Thread(threading.local):
    def __init__(self) -> None:
        self.memory: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self.deferred: list[Callable[[], None]] | None = None


_thread = _Thread()


@contextmanager
def deferred() -> Iterator[list[Callable[[], None]]]:
    """Collect, in this thread, the lasting effects of forwards instead of applying them.

    Batch norm's running statistics depend on the order of batches. Training that spreads a step
    over threads collects each micro-batch's effects and applies them in a fixed order.
    """
    before, _thread.deferred = _thread.deferred, []
    try:
        yield _thread.deferred
    finally:
        _thread.deferred = before


def lasting(effect: Callable[[], None]) -> None:
    """Apply an effect of a forward that outlives it: now, or when `deferred` effects are."""
    if _thread.deferred is None:
        effect()
    else:
        _thread.deferred.append(effect)


# --- modules ------------------------------------------------------------------------------------


CONTAINERS = (list, tuple, dict)


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
        _thread.memory[self] = values

    def last(self, name: str) -> Any:
        """What the calling thread's last forward remembered; None before the first."""
        return _thread.memory.get(self, {}).get(name)

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


class Sequential(Module):
    """Modules one after the other; `net[i]` is the i-th, parameters are named "i.name".

    Raises TypeError if one of the layers is no Module.
    """

    def __init__(self, *layers: Module):
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(f"Sequential: layer {i} must be a Module, not {layer!r}")
            setattr(self, str(i), layer)

    def __iter__(self) -> Iterator[Module]:
        return (child for _, child in self.children())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, i: int) -> Module:
        return list(self)[i]

    def forward(self, x: Any) -> Any:
        layers = list(self)
        while layers:
            layer = layers.pop(0)
            if isinstance(layer, Biased) and layer.joins(x, layers[:1]):
                layers.pop(0)
                x = F.bias_relu(layer.product(x), layer.bias)  # in one pass
            else:
                x = layer(x)
        return x


class ForImages(Sequential):
    """`layers` for images, or feature maps, of one shape: (N, *in_shape), in_shape (C, H, W).

    Raises ValueError in forward for others. Flattened, one with its channels last would pass for
    another picture.
    """

    def __init__(self, in_shape: tuple[int, int, int], *layers: Module):
        super().__init__(*layers)
        self.in_shape = tuple(in_shape)

    def forward(self, x: Any) -> Tensor:
        if x.shape[1:] != self.in_shape:
            c, h, w = self.in_shape
            last = x.shape[1:] == (h, w, c)
            raise ValueError(
                f"{type(self).__name__}: expected images (N, {c}, {h}, {w}), got {x.shape}"
                + last * ", which look like (N, H, W, C): transpose(0, 3, 1, 2) mends it"
            )
        return super().forward(x)


# --- layers -------------------------------------------------------------------------------------


class Biased(Module):
    """What linear layers and convolutions share: a product, and then a bias."""

    weight: Parameter
    bias: Parameter | None

    def product(self, x: Any, bias: Parameter | None = None) -> Tensor:
        """What the layer makes of x with its weight, plus the bias if it is given one."""
        raise NotImplementedError

    def forward(self, x: Any) -> Tensor:
        return self.product(x, self.bias)

    def joins(self, x: Any, following: list[Module]) -> bool:
        """Whether its bias and the ReLU that follows are better taken at once: on a GPU."""
        relu = len(following) == 1 and type(following[0]) is ReLU and self.bias is not None
        return relu and x.ndim in (2, 4) and is_cupy(self.weight.data)


class Linear(Biased):
    """x W^T + b: (..., in_features) to (..., out_features). `weight` (out, in), `bias` (out,)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        self.weight = Parameter(small_uniform((out_features, in_features)))
        self.bias = Parameter(np.zeros(out_features, np.float32)) if bias else None

    def product(self, x: Any, bias: Parameter | None = None) -> Tensor:
        return F.linear(x, self.weight, bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


class Conv2d(Biased):
    """Convolution (see `F.conv2d`): (N, C, H, W) to (N, F, H', W').

    `weight` (F, C / groups, kh, kw), `bias` (F,), or none with bias=False.

    Parameters
    ----------
    in_channels, out_channels : int
        C and F.
    kernel_size, stride, padding, dilation : int or (int, int)
    groups : int

    Raises
    ------
    ValueError
        If channels cannot be cut into groups, or a size is out of range; in forward, if the
        images do not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ):
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Conv2d: {in_channels} and {out_channels} channels cannot be cut into {groups} "
                "groups"
            )
        kernel = pair(kernel_size, "Conv2d: kernel_size")
        self.weight = Parameter(small_uniform((out_channels, in_channels // groups, *kernel)))
        self.bias = Parameter(np.zeros(out_channels, np.float32)) if bias else None
        self.geometry = {
            "stride": pair(stride, "Conv2d: stride"),
            "padding": pair(padding, "Conv2d: padding", least=0),
            "dilation": pair(dilation, "Conv2d: dilation"),
            "groups": groups,
        }

    def product(self, x: Any, bias: Parameter | None = None) -> Tensor:
        return F.conv2d(x, self.weight, bias, **self.geometry)

    def extra_repr(self) -> str:
        f, c, kh, kw = self.weight.shape
        usual = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
        options = [f", {k}={v}" for k, v in self.geometry.items() if v != usual[k]]
        return f"{c * self.geometry['groups']}, {f}, kernel_size=({kh}, {kw})" + "".join(options)


class MaxPool2d(Module):
    """The largest value of each window (see `F.max_pool2d`)."""

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        ceil_mode: bool = False,
    ):
        name = type(self).__name__
        kernel = pair(kernel_size, f"{name}: kernel_size")
        stride = kernel if stride is None else pair(stride, f"{name}: stride")
        self.window = (kernel, stride, pair(padding, f"{name}: padding", least=0), ceil_mode)

    def forward(self, x: Any) -> Tensor:
        return F.max_pool2d(x, *self.window)

    def extra_repr(self) -> str:
        kernel, stride, padding, ceil_mode = self.window
        text = f"{kernel}, stride={stride}"
        text += f", padding={padding}" if any(padding) else ""
        return text + (", ceil_mode=True" if ceil_mode else "")


class AvgPool2d(MaxPool2d):
    """The mean of each window (see `F.avg_pool2d`)."""

    def forward(self, x: Any) -> Tensor:
        return F.avg_pool2d(x, *self.window)


class AdaptiveAvgPool2d(Module):
    """The mean of windows that cover the image, to a given size (see `F.adaptive_avg_pool2d`)."""

    def __init__(self, output_size: Pair):
        self.output_size = pair(output_size, "AdaptiveAvgPool2d: output_size")

    def forward(self, x: Any) -> Tensor:
        return F.adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        return str(self.output_size)


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Any) -> Tensor:
        return F.relu(x)


class LeakyReLU(Module):
    """x where positive, else negative_slope * x."""

    def __init__(self, negative_slope: float = 0.01):
        self.negative_slope = negative_slope

    def forward(self, x: Any) -> Tensor:
        return F.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return str(self.negative_slope)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Any) -> Tensor:
        return F.sigmoid(x)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, x: Any) -> Tensor:
        return F.tanh(x)


class Flatten(Module):
    """(N, ...) to (N, product of the rest)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), math.prod(x.shape[1:]))


class Dropout(Module):
    """Zeroes elements with probability p while training (see `F.dropout`)."""

    def __init__(self, p: float = 0.5):
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p is a probability in 0..1, not {p}")
        self.p = p

    def forward(self, x: Any) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return str(self.p)


class BatchNorm1d(Module):
    """Batch normalisation of (N, C) (see `F.batch_norm`).

    In training through `minist.training` a step is cut into micro-batches, and the statistics are
    those of a micro-batch.

    Parameters
    ----------
    num_features : int
        C.
    eps, momentum : float

    Raises
    ------
    ValueError
        For less than one feature; in forward, if x has another shape.
    TypeError
        In forward, if x is not floating.
    """

    buffers = ("running_mean", "running_var", "num_batches_tracked")
    ndim = 2

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1):
        if num_features < 1:
            raise ValueError(
                f"{type(self).__name__}: expected 1 feature or more, not {num_features}"
            )
        self.eps, self.momentum = eps, momentum
        self.weight = Parameter(np.ones(num_features, np.float32))
        self.bias = Parameter(np.zeros(num_features, np.float32))
        self.running_mean = np.zeros(num_features, np.float32)
        self.running_var = np.ones(num_features, np.float32)
        self.num_batches_tracked = np.zeros((), np.int64)

    def forward(self, x: Any) -> Tensor:
        x = x if isinstance(x, Tensor) else tensor(x)
        check_floating(x, f"{type(self).__name__}: x")
        if x.ndim != self.ndim or x.shape[1] != self.weight.size:
            axes = ", H, W" if self.ndim == 4 else ""
            raise ValueError(
                f"{type(self).__name__}: expected (N, {self.weight.size}{axes}), got {x.shape}"
            )
        if not self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        mean, var = batch_statistics(x.data)
        count = x.size // x.shape[1]  # not x itself: it would live until the effect is applied
        lasting(lambda: self.track(mean, var, count))
        return BatchNorm.apply(
            x, self.weight, self.bias, mean=mean, var=var, eps=self.eps, of_batch=True
        )

    def track(self, mean: Array, var: Array, count: int) -> None:
        """Move the running statistics towards a batch's, whose channels had `count` elements."""
        update_statistics(self.running_mean, self.running_var, mean, var, count, self.momentum)
        self.num_batches_tracked += 1

    def extra_repr(self) -> str:
        return str(self.weight.size)


class BatchNorm2d(BatchNorm1d):
    """Batch normalisation of each channel of (N, C, H, W); see `BatchNorm1d`."""

    ndim = 4


# --- files --------------------------------------------------------------------------------------


def save(module: Module, path: str | os.PathLike) -> None:
    """Write a module's `state_dict` to a safetensors file at `path`, which PyTorch reads, too."""
    save_arrays(module.state_dict(), path)


def load(module: Module, path: str | os.PathLike) -> Module:
    """Read the safetensors file at `path` into a module, and return the module.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If it is no whole safetensors file, or its names and shapes are not the module's.
    """
    module.load_state_dict(load_arrays(path)[0])
    return module
