"""Two-dimensional convolution as matrix products on shifted rows.

For each row h of the output, all its pixels w and all images n at once,

    y[f, h] = sum over i, j, c of  W[f, c, i, j] x[c, s h + d i, s w + d j]

with stride s and dilation d is a matrix product with the numbers that each pixel looks at as a
column. To write all those columns out ("im2col") would copy every pixel kh kw times. It is enough
to lower one axis: write side by side what the kernel's columns j see of each row,

    rows[h, j, c, w] = x[c, h, s w + d j]                          every pixel kw times

and the matrix for row h of the output lies in `rows` ready-made, since the rows s h + d i follow
one another in memory: with K = kh kw C,

    y[h] = W2 window[h]             W2 (F, K), window[h] (K, W' N): a view into rows.

Windows of neighbouring h overlap. With g = dL/dy the backward is the same three steps reversed:

    dL/dW2 = sum over h of  g[h] window[h]^T,
    dL/drows: add W2^T g[h] to the window of h, for each h in turn,
    dL/dx:    add each j of rows back to the pixels that it was copied from.

Where a row of y has few columns, W' N, as with a single image, BLAS arranges all of W2 anew for
each row's few. There the forward sums over i outside of the product (`by_kernel_rows`),

    y = sum over i of  W[i] seen[i]        W[i] (F, kw C), seen[i] (kw C, H' W' N),

seen[i] the rows s h + d i of all h side by side, for which `rows` is written in another order,
(j, c, h, w). That makes kh products, each as wide as all of y. The backward stays as it is.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ..backend import Array, array_module

if TYPE_CHECKING:
    from .convolution import Geometry


class Rows:
    """Arrays are (C, H, W, N) and (F, C / groups, kh, kw).

    `wanted`: whether gradients are, of x and of the weight.
    """

    def __init__(self, geometry: Geometry, weight: Array, wanted: tuple[bool, bool]):
        self.geometry, self.wanted = geometry, wanted
        g = geometry
        # Filters as rows, in the order of a window: (groups, 1, F / groups, kh kw C / groups).
        by_group = weight.reshape(g.groups, g.filters // g.groups, -1, *g.kernel)
        self.weight2 = by_group.transpose(0, 1, 3, 4, 2).reshape(
            g.groups, 1, g.filters // g.groups, -1
        )

    @staticmethod
    def operations(g: Geometry) -> float:
        """Multiplications of a forward, for each image."""
        return g.filters * g.channels // g.groups * prod(g.kernel) * prod(g.size_out)

    @staticmethod
    def traffic(g: Geometry) -> float:
        """Numbers for each image that a step writes out and reads again: all columns. (Forward
        they are views; the backward makes them, those of a row at a time, `grad_rows`.)"""
        return g.channels * prod(g.kernel) * prod(g.size_out)

    def forward(self, x: Array) -> Array:
        xp, g = array_module(x), self.geometry
        shifted = self.shifted(x)
        self.rows_shape = shifted.shape
        if self.wanted[1]:
            self.rows = xp.ascontiguousarray(shifted)
        if goes_by_kernel_rows(g):
            return self.by_kernel_rows(shifted)
        rows = self.rows if self.wanted[1] else xp.ascontiguousarray(shifted)
        h_out, w_out = g.size_out
        y = xp.empty(
            (g.groups, g.filters // g.groups, h_out, w_out * g.images),
            dtype=xp.result_type(x, self.weight2),
        )
        xp.matmul(self.weight2, self.windows(rows), out=y.swapaxes(1, 2))
        return y.reshape(g.filters, h_out, w_out, g.images)

    def by_kernel_rows(self, shifted: Array) -> Array:
        """The same y, as a sum of products for each row i of the kernel."""
        g, (groups, height, kw, c, w_out, n) = self.geometry, shifted.shape
        # (j, c) down, (h, w, n) across; without a stride what a row of the kernel sees is a view.
        rows = array_module(shifted).ascontiguousarray(shifted.transpose(0, 2, 3, 1, 4, 5))
        rows = rows.reshape(groups, kw * c, height, w_out * n)
        y = 0.0
        for i in range(g.kernel[0]):
            weight = self.weight2[:, 0, :, i * kw * c : (i + 1) * kw * c]
            seen = rows[:, :, strided(i * g.dilation[0], g.size_out[0], g.stride[0])]
            y = y + weight @ seen.reshape(groups, kw * c, g.size_out[0] * w_out * n)
        return y.reshape(g.filters, *g.size_out, n)

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        """dL/dx and dL/dW."""
        g, (f, h_out, w_out, n) = self.geometry, grad.shape
        grad = grad.reshape(g.groups, f // g.groups, h_out, w_out * n)
        grad_x = grad_weight = None
        if self.wanted[0]:
            grad_x = self.add_back(self.grad_rows(grad))
        if self.wanted[1]:
            # window g^T, not its transpose g window^T: BLAS is quicker at the tall product.
            by_row = self.windows(self.rows) @ grad.transpose(0, 2, 3, 1)
            by_group = by_row.sum(axis=1).reshape(g.groups, *g.kernel, -1, f // g.groups)
            by_group = by_group.transpose(0, 4, 3, 1, 2)
            grad_weight = by_group.reshape(f, *by_group.shape[2:])
        return grad_x, grad_weight

    def shifted(self, x: Array) -> Array:
        """(C, H, W, N) as a view (groups, H, kw, C / groups, W', N): rows[h, j, c, w]."""
        groups, stride, dilation = self.geometry.groups, *self.geometry[6:8]
        c, h, _, n = x.shape
        sc, sh, sw, sn = x.strides
        shape = (groups, h, self.geometry.kernel[1], c // groups, self.geometry.size_out[1], n)
        strides = (c // groups * sc, sh, dilation[1] * sw, sc, stride[1] * sw, sn)
        return array_module(x).lib.stride_tricks.as_strided(x, shape, strides)

    def windows(self, rows: Array) -> Array:
        """The window of each row of the output: (groups, H', K, W' N).

        A view, unless a dilation leaves rows out. (NumPy's BLAS takes such a view as it is; CuPy's
        `matmul` copies it first, one more reason for the GPU's own way, `cuda/lowering.py`.)
        """
        groups, height, kw, c, w_out, n = rows.shape
        kh, h_out = self.geometry.kernel[0], self.geometry.size_out[0]
        by_row = rows.reshape(groups, height, kw * c, w_out * n)
        sg, sh, sk, sn = by_row.strides
        windows = array_module(rows).lib.stride_tricks.as_strided(
            by_row,
            (groups, h_out, kh, kw * c, w_out * n),
            (sg, self.geometry.stride[0] * sh, self.geometry.dilation[0] * sh, sk, sn),
        )
        return windows.reshape(groups, h_out, kh * kw * c, w_out * n)

    def grad_rows(self, grad: Array) -> Array:
        """dL/drows: for each row of the output, W2^T g[h] added to its window."""
        groups, height, kw, c, w_out, n = self.rows_shape
        kh = self.geometry.kernel[0]
        grad_rows = array_module(grad).zeros((groups, height, kw * c, w_out * n), dtype=grad.dtype)
        weight2_t = self.weight2[:, 0].swapaxes(1, 2)
        for h in range(self.geometry.size_out[0]):
            columns = weight2_t @ grad[:, :, h]
            window = strided(self.geometry.stride[0] * h, kh, self.geometry.dilation[0])
            grad_rows[:, window] += columns.reshape(groups, kh, kw * c, w_out * n)
        return grad_rows.reshape(self.rows_shape)

    def add_back(self, rows: Array) -> Array:
        """The adjoint of shifted: (groups, H, kw, C / groups, W', N) to (C, H, W, N)."""
        groups, height, kw, c, w_out, n = rows.shape
        g = self.geometry
        x = array_module(rows).zeros((groups, c, height, g.size_in[1], n), dtype=rows.dtype)
        for j in range(kw):
            seen = x[:, :, :, strided(j * g.dilation[1], w_out, g.stride[1])]
            if j == 0:  # to add to zeros would read them first: a tenth of this sum
                seen[...] = rows[:, :, j].swapaxes(1, 2)
            else:
                seen += rows[:, :, j].swapaxes(1, 2)
        return x.reshape(groups * c, *x.shape[2:])


def goes_by_kernel_rows(g: Geometry) -> bool:
    """Whether a forward does: few columns to a row of y, but channels enough to make each product a
    deep one, and fewer rows of the kernel than of y (docs/performance.md has the times)."""
    columns, depth = g.size_out[1] * g.images, g.kernel[1] * g.channels // g.groups
    return columns <= 32 and depth >= 96 and g.kernel[0] < g.size_out[0]


def strided(start: int, count: int, step: int) -> slice:
    """`count` places from `start` on, `step` apart."""
    return slice(start, start + (count - 1) * step + 1, step)
