"""Two-dimensional convolution, as one matrix product.

A convolution (as the field says; a mathematician's cross-correlation) gives

    y[n, f, h, w] = b[f] + sum over c, i, j of  W[f, c, i, j] x[n, c, s h + d i - p, s w + d j - p]

with stride s, dilation d and padding p. The sum over (c, i, j) is a matrix product once the
numbers that each output pixel looks at are written into a column ("im2col"):

    y = W2 columns + b      W2 (F, K), columns (K, L),  K = C kh kw,  L = H' W' N

so that with g = dL/dy, (F, L), the backward is two more products and the way back of the copy:

    dL/dW2 = g columns^T,   dL/db = sum of g over L,   dL/dcolumns = W2^T g,
    dL/dx  = columns added back to the pixels they were copied from ("col2im").

Everything is kept with the batch innermost in memory, (C, H, W, N): a row of `columns` is then a
few long stretches of x, and the copies run at the speed of memory. Outputs and input gradients
come back in that order, as a transposed view, whatever the order of the input.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

from ..autograd import Function, Tensor
from ..backend import Array, array_module

Pair = int | tuple[int, int]


class Conv2d(Function):
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
        n, c, h, w = x.shape
        if weight.ndim != 4 or 0 in weight.shape:
            raise ValueError(f"weight must be (F, C, kh, kw), not {weight.shape}")
        f, c_group, kh, kw = weight.shape
        if groups < 1 or f % groups:
            raise ValueError(f"{f} filters cannot be cut into {groups} groups")
        if c != c_group * groups:
            of_groups = f" in {groups} groups" if groups > 1 else ""
            raise ValueError(
                f"images have {c} channels, weight expects {c_group * groups}{of_groups}"
            )
        if bias is not None and bias.shape != (f,):
            raise ValueError(f"bias must be ({f},), not {bias.shape}")

        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.kernel = (kh, kw)
        self.channels, self.size_in = c, (h, w)
        self.weight_shape = weight.shape
        self.weight2 = weight.reshape(groups, f // groups, c_group * kh * kw)
        padded = pad(x.transpose(1, 2, 3, 0), padding)
        windows = sliding_windows(padded, self.kernel, stride, dilation)
        self.size_out = windows.shape[3:5]
        columns = array_module(x).ascontiguousarray(windows)
        columns = columns.reshape(groups, c_group * kh * kw, -1)
        if self.needs_grad[1]:
            self.columns = columns

        y = self.weight2 @ columns
        y = y.reshape(f, -1)
        if bias is not None:
            y += bias[:, None]
        return y.reshape(f, *self.size_out, n).transpose(3, 0, 1, 2)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        xp = array_module(grad)
        n, f = grad.shape[:2]
        grad = xp.ascontiguousarray(grad.transpose(1, 2, 3, 0))
        g = grad.reshape(self.weight2.shape[0], self.weight2.shape[1], -1)
        grad_x = grad_weight = grad_bias = None
        if self.needs_grad[0]:
            columns = self.weight2.swapaxes(1, 2) @ g
            columns = columns.reshape(self.channels, *self.kernel, *self.size_out, n)
            grad_x = self.add_back(columns).transpose(3, 0, 1, 2)
        if self.needs_grad[1]:
            # (columns g^T)^T: BLAS is quicker at the tall product than at the wide one.
            grad_weight = (self.columns @ g.swapaxes(1, 2)).swapaxes(1, 2)
            grad_weight = grad_weight.reshape(self.weight_shape)
        if self.needs_grad[2]:
            grad_bias = grad.reshape(f, -1).sum(axis=1)
        return grad_x, grad_weight, grad_bias

    def add_back(self, columns: Array) -> Array:
        """The adjoint of pad and sliding_windows: (C, kh, kw, H', W', N) to (C, H, W, N)."""
        c, kh, kw, h_out, w_out, n = columns.shape
        (h, w), (ph, pw) = self.size_in, self.padding
        padded = array_module(columns).zeros((c, h + 2 * ph, w + 2 * pw, n), dtype=columns.dtype)
        for i in range(kh):
            rows = strided(i * self.dilation[0], h_out, self.stride[0])
            for j in range(kw):
                cols = strided(j * self.dilation[1], w_out, self.stride[1])
                padded[:, rows, cols] += columns[:, i, j]
        return padded[:, ph : ph + h, pw : pw + w]


def strided(start: int, count: int, step: int) -> slice:
    """`count` places from `start` on, `step` apart."""
    return slice(start, start + (count - 1) * step + 1, step)


def pad(x: Array, padding: tuple[int, int]) -> Array:
    """(C, H, W, N) with a border of zeros; x itself where there is none to add."""
    ph, pw = padding
    if ph == pw == 0:
        return x
    c, h, w, n = x.shape
    padded = array_module(x).zeros((c, h + 2 * ph, w + 2 * pw, n), dtype=x.dtype)
    padded[:, ph : ph + h, pw : pw + w] = x
    return padded


def sliding_windows(
    x: Array, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> Array:
    """Every window of (C, H, W, N) as a view: (C, kh, kw, H', W', N)."""
    c, h, w, n = x.shape
    h_out = (h - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    w_out = (w - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    if h_out < 1 or w_out < 1:
        reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
        raise ValueError(f"a window of {reach} does not fit into the padded image, {(h, w)}")
    sc, sh, sw, sn = x.strides
    return array_module(x).lib.stride_tricks.as_strided(
        x,
        (c, *kernel, h_out, w_out, n),
        (sc, sh * dilation[0], sw * dilation[1], sh * stride[0], sw * stride[1], sn),
    )


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
        If the images are not floating.
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
