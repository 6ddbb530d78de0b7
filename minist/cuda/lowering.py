"""Convolution as one matrix product: im2col, cuBLAS, and col2im on the way back."""

from __future__ import annotations

from typing import Any

from ..backend import Array, array_module
from . import launch, steps, struct
from .blas import matmul


class Columns:
    """The GPU's way to a convolution, with the methods of `lowering.Rows` and `fourier.Fourier`.

    `geometry` is the convolution's `Geometry`; arrays are (C, H, W, N) and (F, C / groups, kh, kw);
    `wanted`: whether gradients are, of x and of the weight. All that each place of the kernel sees
    is copied, kh kw times as many pixels as the images have, in exchange for one large product: on
    a card products are cheap, and starting many small ones is not.
    """

    def __init__(self, geometry: Any, weight: Array, wanted: tuple[bool, bool]):
        self.geometry, self.wanted = geometry, wanted
        self.weight_shape = weight.shape
        self.weight = weight.reshape(geometry.groups, geometry.filters // geometry.groups, -1)

    def forward(self, x: Array) -> Array:
        g = self.geometry
        positions = g.size_out[0] * g.size_out[1] * g.images
        columns = array_module(x).empty((g.groups, self.weight.shape[2], positions), dtype=x.dtype)
        launch("lowering.cu", "im2col", columns.size, x, columns, self.numbers(x))
        if self.wanted[1]:
            self.columns = columns
        y = matmul(self.weight, columns)
        return y.reshape(g.filters, *g.size_out, g.images)

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        """dL/dx and dL/dW."""
        g = self.geometry
        grad = grad.reshape(g.groups, g.filters // g.groups, -1)
        grad_x = grad_weight = None
        if self.wanted[0]:
            columns = matmul(self.weight.swapaxes(1, 2), grad)
            shape = (g.channels, *g.size_in, g.images)
            grad_x = array_module(grad).empty(shape, dtype=grad.dtype)
            launch("lowering.cu", "col2im", grad_x.size, columns, grad_x, self.numbers(grad_x))
        if self.wanted[1]:
            grad_weight = matmul(grad, self.columns.swapaxes(1, 2)).reshape(self.weight_shape)
        return grad_x, grad_weight

    def numbers(self, x: Array) -> list[int]:
        g = self.geometry
        return struct(
            *(g.channels, *g.size_in, g.images),
            *(g.kernel, g.size_out, g.stride, g.dilation),
            steps(x, 4),
        )
