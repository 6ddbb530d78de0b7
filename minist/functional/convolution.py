"""Two-dimensional convolution.

A convolution (as the field says; a mathematician's cross-correlation) gives

    y[f, h, w] = b[f] + sum over c, i, j of  W[f, c, i, j] x[c, s h + d i - p, s w + d j - p]

with stride s, dilation d and padding p. There are two ways to it: matrix products on shifted rows
(`lowering.py`), which is quick for small kernels, few channels, few images and anything with a
stride, and the discrete Fourier transform (`fourier.py`), which needs a fraction of the
multiplications for large kernels between many channels. A count decides, of multiplications and of
the numbers that are written out and read again between them (`quickest`). (On a GPU it is one
product with all windows written out, `cuda/lowering.py`.)

Inside, arrays have the batch innermost in memory, (C, H, W, N), so that all copies and sums run
over long stretches. Outputs and input gradients come back in that order, as a transposed view,
whatever the order of the input.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, NamedTuple

from .. import cuda
from ..autograd import Function, Tensor
from ..backend import Array, array_module
from ..cuda.lowering import Columns
from . import fourier, lowering
from .dtypes import check_floating

Pair = int | tuple[int, int]


class Geometry(NamedTuple):
    """The sizes of a convolution; the images with their padding."""

    images: int
    channels: int
    size_in: tuple[int, int]
    filters: int
    kernel: tuple[int, int]
    size_out: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


class Conv2d(Function):
    """y = b + W * x. With q the pixel (s h + d i - p, s w + d j - p), which (i, j) of W sees from
    the place (h, w) of y, and g = dL/dy:

        y[f, h, w]        = b[f] + sum over c, i, j of  W[f, c, i, j] x[c, q]
        dL/dx[c, q]      += sum over f of  W[f, c, i, j] g[f, h, w],       for each i, j, h, w
        dL/dW[f, c, i, j] = sum over images, h, w of  g[f, h, w] x[c, q]
        dL/db[f]          = sum over images, h, w of  g[f, h, w]

    Sizes are checked and x is padded here. The sums with W are taken by the way that is quickest:
    forward and backward, side by side, of `Rows` (`lowering.py`), `Fourier` (`fourier.py`) or, on
    a GPU, `Columns` (`cuda/lowering.py`).
    """

    def forward(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Array:
        check_images(x)
        check_floating(weight, "weight")
        n, c, h, w = x.shape
        if weight.ndim != 4 or 0 in weight.shape:
            raise ValueError(f"weight must be (F, C, kh, kw), not {weight.shape}")
        f, c_group, *kernel = weight.shape
        if groups < 1 or f % groups:
            raise ValueError(f"{f} filters cannot be cut into {groups} groups")
        if c != c_group * groups:
            of_groups = f" in {groups} groups" if groups > 1 else ""
            raise ValueError(
                f"images have {c} channels, weight expects {c_group * groups}{of_groups}"
            )
        if bias is not None and bias.shape != (f,):
            raise ValueError(f"bias must be ({f},), not {bias.shape}")

        self.padding, self.size = padding, (h, w)
        padded_size = h + 2 * padding[0], w + 2 * padding[1]
        size_out = tuple(
            output_size(*sizes)
            for sizes in zip((h, w), kernel, stride, padding, dilation, strict=True)
        )
        geometry = Geometry(n, c, padded_size, f, tuple(kernel), size_out, stride, dilation, groups)
        # In the wider type of the two: each way builds its matrices in the weight's.
        weight = weight.astype(array_module(x).result_type(x, weight), copy=False)
        way = Columns if cuda.usable(x, weight) else quickest(geometry)
        self.way = way(geometry, weight, self.needs_grad[:2])
        y = self.way.forward(pad(x.transpose(1, 2, 3, 0), padding))
        if bias is not None:
            y += bias[:, None, None, None]
        return y.transpose(3, 0, 1, 2)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        grad = array_module(grad).ascontiguousarray(grad.transpose(1, 2, 3, 0))
        grad_x, grad_weight = self.way.backward(grad)
        if grad_x is not None:
            (h, w), (ph, pw) = self.size, self.padding
            grad_x = grad_x[:, ph : ph + h, pw : pw + w].transpose(3, 0, 1, 2)
        if not self.needs_grad[2]:
            return grad_x, grad_weight, None
        # Row upon row first: NumPy adds long stretches up to twice as quickly as it sums up one.
        rows = grad.reshape(*grad.shape[:2], -1).sum(axis=1)
        return grad_x, grad_weight, rows.sum(axis=1)


def quickest(geometry: Geometry) -> type[lowering.Rows] | type[fourier.Fourier]:
    """The way that costs less; `Fourier` knows no stride, dilation or groups."""
    plain = geometry.stride == geometry.dilation == (1, 1) and geometry.groups == 1
    if plain and cost(fourier.Fourier, geometry) < cost(lowering.Rows, geometry):
        return fourier.Fourier
    return lowering.Rows


def cost(way: type[lowering.Rows] | type[fourier.Fourier], geometry: Geometry) -> float:
    """What a training step costs, for each image, counted in multiplications: three times those of
    a forward, and thirty for each number that is written out and read again.

    The rule is fitted to measured times and no exact account: a step takes the Fourier way's
    transforms twice, not three times, and that way passes more through memory than `traffic`
    counts. Inference is counted as a step, so that both answer the same batch alike.
    """
    return 3 * way.operations(geometry) + 30 * way.traffic(geometry)


def pad(x: Array, padding: tuple[int, int]) -> Array:
    """(C, H, W, N) with a border of zeros; x itself where there is none to add."""
    ph, pw = padding
    if ph == pw == 0:
        return x
    c, h, w, n = x.shape
    padded = array_module(x).zeros((c, h + 2 * ph, w + 2 * pw, n), dtype=x.dtype)
    padded[:, ph : ph + h, pw : pw + w] = x
    return padded


def output_size(n: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Pixels of the output along an axis."""
    reach = dilation * (kernel - 1) + 1
    if n + 2 * padding < reach:
        raise ValueError(
            f"a kernel that reaches over {reach} pixels does not fit into {n} and padding {padding}"
        )
    return (n + 2 * padding - reach) // stride + 1


def check_images(x: Array) -> None:
    """ValueError or TypeError unless x is (N, C, H, W) of a floating type."""
    if x.ndim != 4:
        raise ValueError(f"expected images (N, C, H, W), got {x.ndim} axes: {x.shape}")
    if x.dtype.kind != "f":
        raise TypeError(
            f"images must be floating, not {x.dtype}: x.astype(numpy.float32) / 255 for bytes"
        )


def pair(value: Pair, name: str, least: int = 1) -> tuple[int, int]:
    """An int or a pair of ints as a pair; ValueError below `least`."""
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(values) != 2 or not all(isinstance(v, Integral) and v >= least for v in values):
        raise ValueError(f"{name} must be one or two whole numbers from {least} on, not {value!r}")
    return values


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve images with filters.

    The Fourier way mixes all pixels of an image: one that is infinite or not a number may be felt
    in all of it, not only where the kernel reaches, and one very much larger than the others costs
    them digits.

    Parameters
    ----------
    x : (N, C, H, W)
    weight : (F, C / groups, kh, kw)
    bias : (F,), optional
    stride, padding, dilation : int or (int, int)
        In pixels, for rows and columns; padding is with zeros, on both sides.
    groups : int
        Channels and filters are cut into so many groups, each convolved on its own.

    Returns
    -------
    (N, F, H', W'), H' = floor((H + 2 padding - dilation (kh - 1) - 1) / stride) + 1

    Raises
    ------
    ValueError
        If sizes do not fit, or the kernel is larger than the padded image.
    TypeError
        If the images or the filters are not floating.
    """
    return Conv2d.apply(
        x,
        weight,
        bias,
        stride=pair(stride, "conv2d: stride"),
        padding=pair(padding, "conv2d: padding", least=0),
        dilation=pair(dilation, "conv2d: dilation"),
        groups=groups,
    )
