"""Layers: the modules that networks are made of, and what their weights start with.

Names and layouts are PyTorch's. What a module is, and how it finds its parameters, is said in
`module.py`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np

from . import functional as F
from .autograd import Tensor, tensor
from .backend import generator, is_cupy
from .effects import lasting
from .files import load_arrays, save_arrays
from .functional.convolution import Pair, pair
from .module import Module, Parameter

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Biased",
    "Conv2d",
    "Dropout",
    "Flatten",
    "ForImages",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "glorot_uniform",
    "he_uniform",
    "load",
    "save",
    "small_uniform",
]

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


# --- layers -------------------------------------------------------------------------------------


class Sequential(Module):
    """Modules one after the other; `net[i]` is the i-th, parameters are named "i.name".

    Its layers are the attributes that are Modules, in the order in which they were set, without
    those in lists or dicts. A linear layer or a convolution is computed together with a ReLU, or a
    max-pool and a ReLU, behind it (`fused`): their own `forward` is then not called, unless it is a
    subclass's or was set on the layer itself.

    Raises TypeError if one of the layers is no Module.
    """

    def __init__(self, *layers: Module):
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(f"Sequential: layer {i} must be a Module, not {layer!r}")
            setattr(self, str(i), layer)

    def _layers(self) -> list[Module]:
        # Not `children`, which also finds those in lists and dicts.
        return [layer for layer in vars(self).values() if isinstance(layer, Module)]

    def __iter__(self) -> Iterator[Module]:
        return iter(self._layers())

    def __len__(self) -> int:
        return len(self._layers())

    def __getitem__(self, i: int) -> Module:
        return self._layers()[i]

    def forward(self, x: Any) -> Any:
        for layer in fused(self._layers()):
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
            cure = ", which look like (N, H, W, C): transpose(0, 3, 1, 2) mends it" if last else ""
            raise ValueError(
                f"{type(self).__name__}: expected images (N, {c}, {h}, {w}), got {x.shape}{cure}"
            )
        return super().forward(x)


class Biased(Module):
    """What linear layers and convolutions share: a product, and then a bias."""

    weight: Parameter
    bias: Parameter | None
    ndim: int  # of an x whose channels are along axis 1

    def product(self, x: Any, bias: Parameter | None = None) -> Tensor:
        """What the layer makes of x with its weight, plus the bias if it is given one."""
        raise NotImplementedError

    def forward(self, x: Any) -> Tensor:
        return self.product(x, self.bias)

    def then_relu(self, x: Any) -> Tensor:
        """ReLU of what the layer makes of x; on a GPU the bias and the ReLU in one pass."""
        if self.bias is not None and is_cupy(self.weight.data) and x.ndim == self.ndim:
            return F.bias_relu(self.product(x), self.bias)
        return F.relu(self(x))


class Linear(Biased):
    """x W^T + b: (..., in_features) to (..., out_features). `weight` (out, in), `bias` (out,)."""

    ndim = 2

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        self.weight = Parameter(small_uniform((out_features, in_features)))
        self.bias = Parameter(np.zeros(out_features, np.float32)) if bias else None

    def product(self, x: Any, bias: Parameter | None = None) -> Tensor:
        return F.linear(x, self.weight, bias)

    def then_relu(self, x: Any) -> Tensor:
        """On the CPU product, bias and ReLU are one operation."""
        if is_cupy(self.weight.data):
            return super().then_relu(x)
        return F.linear(x, self.weight, self.bias, relu=True)

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

    ndim = 4

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

    def then_pool_and_relu(self, pool: MaxPool2d, x: Any) -> Tensor:
        """ReLU of the max-pool of what the layer makes of x.

        The bias is added after the pooling, where a 2x2 window leaves a quarter of the numbers:
        max(y + b) = max(y) + b, to the bit, since rounding keeps the order. (Pixels that would be
        equal only by the rounding of y + b are no ties here.)
        """
        y = pool(self.product(x))
        return F.relu(y) if self.bias is None else F.bias_relu(y, self.bias)

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
        if x.ndim != self.ndim or x.shape[1] != self.weight.size:
            axes = ", H, W" if self.ndim == 4 else ""
            raise ValueError(
                f"{type(self).__name__}: expected (N, {self.weight.size}{axes}), got {x.shape}"
            )
        statistics = self.running_mean, self.running_var
        y = F.batch_norm(
            x, *statistics, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        if self.training:
            lasting(self.count)
        return y

    def count(self) -> None:
        """One more batch has been seen."""
        self.num_batches_tracked += 1

    def extra_repr(self) -> str:
        return str(self.weight.size)


class BatchNorm2d(BatchNorm1d):
    """Batch normalisation of each channel of (N, C, H, W); see `BatchNorm1d`."""

    ndim = 4


# --- layers that are computed together ----------------------------------------------------------


def fused(layers: Sequence[Module]) -> Iterator[Callable[[Any], Any]]:
    """What computes the layers, one after the other: of a layer with a ReLU behind it `then_relu`,
    which does both, and may do them at once; of a convolution with a max-pool and a ReLU behind it
    `then_pool_and_relu`."""
    kinds = [*map(kind_of, layers), None, None]  # so that the last, too, have two behind them
    i = 0
    while i < len(layers):
        kind, second, third = kinds[i : i + 3]
        if second is ReLU and kind in (Linear, Conv2d):
            yield layers[i].then_relu
            i += 2
        elif third is ReLU and second is MaxPool2d and kind is Conv2d:
            yield partial(layers[i].then_pool_and_relu, layers[i + 1])
            i += 3
        else:
            yield layers[i]
            i += 1


def kind_of(layer: Module) -> type[Module] | None:
    """Its class, of which a subclass is another; None if it has a forward of its own."""
    return None if "forward" in vars(layer) else type(layer)


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
