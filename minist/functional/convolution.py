"""Two-dimensional convolution, as matrix products on shifted rows.

A convolution (as the field says; a mathematician's cross-correlation) gives

    y[f, h] = b[f] + sum over i, j, c of  W[f, c, i, j] x[c, s h + d i - p, s w + d j - p]

for each row h of the output, all its pixels w and all images n at once, with stride s, dilation d
and padding p. The sum over (i, j, c) is a matrix product with the numbers that each pixel looks
at as a column. To write all those columns out ("im2col") would copy every pixel kh kw times. It
is enough to lower one axis: write side by side what the kernel's columns j see of each row,

    rows[h, j, c, w] = x[c, h - p, s w + d j - p]                  every pixel kw times

(h counting the rows of the padded image), and the matrix for row h of the output lies in `rows`
ready-made, since the rows s h + d i follow one another in memory: with K = kh kw C,

    y[h] = W2 window[h] + b         W2 (F, K), window[h] (K, W' N): a view into rows.

Windows of neighbouring h overlap. With g = dL/dy the backward is the same three steps reversed:

    dL/dW2 = sum over h of  g[h] window[h]^T,       dL/db = sum of g,
    dL/drows: add W2^T g[h] to the window of h, for each h in turn,
    dL/dx:    add each j of rows back to the pixels that it was copied from.

Everything is kept with the batch innermost in memory, (C, H, W, N), so that all copies and sums
run over long stretches. Outputs and input gradients come back in that order, as a transposed
view, whatever the order of the input.
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

        xp = array_module(x)
        self.stride, self.dilation, self.padding = stride, dilation, padding
        self.weight_shape, self.size_in = weight.shape, (h, w)
        self.size_out = h_out, w_out = tuple(
            output_size(*sizes)
            for sizes in zip((h, w), (kh, kw), stride, padding, dilation, strict=True)
        )
        # Filters as rows, in the order of a window: (groups, 1, F / groups, kh kw C / groups).
        by_group = weight.reshape(groups, f // groups, c_group, kh, kw)
        self.weight2 = by_group.transpose(0, 1, 3, 4, 2).reshape(groups, 1, f // groups, -1)
        padded = pad(x.transpose(1, 2, 3, 0), padding)
        rows = xp.ascontiguousarray(self.shifted(padded, groups))
        self.rows_shape = rows.shape
        if self.needs_grad[1]:
            self.rows = rows
        dtype = xp.result_type(x, weight)
        y = xp.empty((groups, f // groups, h_out, w_out * n), dtype=dtype)
        xp.matmul(self.weight2, self.windows(rows), out=y.swapaxes(1, 2))
        y = y.reshape(f, h_out * w_out * n)
        if bias is not None:
            y += bias[:, None]
        return y.reshape(f, h_out, w_out, n).transpose(3, 0, 1, 2)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        n, f, h_out, w_out = grad.shape
        groups = len(self.weight2)
        grad = array_module(grad).ascontiguousarray(grad.transpose(1, 2, 3, 0))
        g = grad.reshape(groups, f // groups, h_out, w_out * n)
        grad_x = grad_weight = grad_bias = None
        if self.needs_grad[0]:
            grad_x = self.add_back(self.grad_rows(g)).transpose(3, 0, 1, 2)
        if self.needs_grad[1]:
            # window g^T, not its transpose g window^T: BLAS is quicker at the tall product.
            by_row = self.windows(self.rows) @ g.transpose(0, 2, 3, 1)
            _, c_group, kh, kw = self.weight_shape
            by_group = by_row.sum(axis=1).reshape(groups, kh, kw, c_group, f // groups)
            grad_weight = by_group.transpose(0, 4, 3, 1, 2).reshape(self.weight_shape)
        if self.needs_grad[2]:
            grad_bias = g.reshape(f, h_out * w_out * n).sum(axis=1)
        return grad_x, grad_weight, grad_bias

    def shifted(self, padded: Array, groups: int) -> Array:
        """(C, H, W, N) as a view (groups, H, kw, C / groups, W', N): rows[h, j, c, w]."""
        c, h, _, n = padded.shape
        sc, sh, sw, sn = padded.strides
        shape = (groups, h, self.weight_shape[3], c // groups, self.size_out[1], n)
        strides = (c // groups * sc, sh, self.dilation[1] * sw, sc, self.stride[1] * sw, sn)
        return array_module(padded).lib.stride_tricks.as_strided(padded, shape, strides)

    def windows(self, rows: Array) -> Array:
        """The window of each row of the output: (groups, H', K, W' N).

        A view, unless a dilation leaves rows out.
        """
        groups, height, kw, c, w_out, n = rows.shape
        kh, h_out = self.weight_shape[2], self.size_out[0]
        by_row = rows.reshape(groups, height, kw * c, w_out * n)
        sg, sh, sk, sn = by_row.strides
        windows = array_module(rows).lib.stride_tricks.as_strided(
            by_row,
            (groups, h_out, kh, kw * c, w_out * n),
            (sg, self.stride[0] * sh, self.dilation[0] * sh, sk, sn),
        )
        return windows.reshape(groups, h_out, kh * kw * c, w_out * n)

    def grad_rows(self, g: Array) -> Array:
        """dL/drows: for each row of the output, W2^T g[h] added to its window."""
        groups, height, kw, c, w_out, n = self.rows_shape
        kh = self.weight_shape[2]
        grad_rows = array_module(g).zeros((groups, height, kw * c, w_out * n), dtype=g.dtype)
        weight2_t = self.weight2[:, 0].swapaxes(1, 2)
        for i in range(self.size_out[0]):
            columns = weight2_t @ g[:, :, i]
            window = strided(self.stride[0] * i, kh, self.dilation[0])
            grad_rows[:, window] += columns.reshape(groups, kh, kw * c, w_out * n)
        return grad_rows.reshape(self.rows_shape)

    def add_back(self, rows: Array) -> Array:
        """The adjoint of pad and shifted: (groups, H, kw, C / groups, W', N) to (C, H, W, N)."""
        groups, height, kw, c, w_out, n = rows.shape
        (h, w), (ph, pw) = self.size_in, self.padding
        padded = array_module(rows).zeros((groups, c, height, w + 2 * pw, n), dtype=rows.dtype)
        for j in range(kw):
            columns = strided(j * self.dilation[1], w_out, self.stride[1])
            padded[:, :, :, columns] += rows[:, :, j].swapaxes(1, 2)
        return padded.reshape(groups * c, *padded.shape[2:])[:, ph : ph + h, pw : pw + w]


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
