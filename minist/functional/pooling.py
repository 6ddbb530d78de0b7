"""Pooling: the maximum or the mean of small windows.

The image is looked at through kh kw views, one for each place in a window: view (i, j) holds the
pixel (i, j) of every window. The maximum of all windows at once is then the maximum of a few
arrays, in whatever memory order the image came.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from .. import cuda
from ..autograd import Function, Tensor
from ..backend import Array, array_module, masked
from ..cuda import pooling as on_card
from .convolution import Pair, check_images, pair
from .lowering import strided


class Pool(Function):
    """What maximum and mean share: the places of the windows, and the border around the image."""

    border: float

    def fix(
        self,
        x: Array,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        ceil_mode: bool,
    ) -> None:
        """Fix the places of the windows."""
        check_images(x)
        self.kernel, self.stride, self.size_in = kernel, stride, x.shape[2:]
        self.padding = padding
        self.size_out = tuple(
            output_size(*sizes, ceil_mode)
            for sizes in zip(x.shape[2:], kernel, stride, padding, strict=True)
        )

    def bordered(self, x: Array) -> Array:
        """The image with as much border as the windows reach into."""
        sizes = zip(self.size_out, self.stride, self.kernel, strict=True)
        reach = [(n - 1) * s + k for n, s, k in sizes]
        h, w = self.size_in
        ph, pw = self.padding
        after_h, after_w = max(reach[0] - h - ph, 0), max(reach[1] - w - pw, 0)
        if not (ph or pw or after_h or after_w):
            return x
        xp = array_module(x)
        padded = xp.full_like(
            x, self.border, shape=(*x.shape[:2], h + ph + after_h, w + pw + after_w)
        )
        padded[:, :, ph : ph + h, pw : pw + w] = x
        return padded

    def views(self, padded: Array) -> list[Array]:
        """Pixel (i, j) of every window, (N, C, H', W'), for each (i, j) in reading order."""
        rows, columns = (
            [strided(i, count, step) for i in range(k)]
            for k, count, step in zip(self.kernel, self.size_out, self.stride, strict=True)
        )
        return [padded[:, :, row, column] for row in rows for column in columns]

    def crop(self, padded: Array) -> Array:
        (h, w), (ph, pw) = self.size_in, self.padding
        return padded[:, :, ph : ph + h, pw : pw + w]


class MaxPool2d(Pool):
    """y = the largest x of each window;  dL/dx = g there, 0 elsewhere.

    Ties go to the first in reading order. (On the black background of a digit they are the common
    case.) Which place of its window that is, is settled in the forward, while the image is in the
    cache; the backward needs no more than yes or no, a byte, for each pixel.
    """

    border = -np.inf
    windows: on_card.Windows | None = None  # where a kernel did it

    def forward(self, x: Array, **window: Any) -> Array:
        self.fix(x, **window)
        if cuda.usable(x) and prod(self.kernel) <= on_card.PLACES:
            self.windows = on_card.Windows(
                self.size_in, self.size_out, self.kernel, self.stride, self.padding
            )
            y, self.chosen = on_card.max_pool(x, self.windows)
            return y
        xp = array_module(x)
        padded = self.bordered(x)
        y, *others = views = self.views(padded)
        if not others:
            y = y.copy(order="K")
        for i, view in enumerate(others):
            # The first maximum makes a new array, the others go into it.
            y = xp.maximum(y, view, out=y if i else None)
        if self.needs_grad[0]:
            self.padded_shape = padded.shape
            self.chosen = first_equal(views, y)
        return y

    def backward(self, grad: Array) -> Array:
        if self.windows is not None:
            return on_card.max_pool_backward(grad, self.chosen, self.windows)
        xp = array_module(grad)
        h, w = (n * k for n, k in zip(self.size_out, self.kernel, strict=True))
        if self.kernel == self.stride and self.padded_shape[2:] == (h, w):  # each pixel once
            grad_x = xp.empty_like(grad, shape=self.padded_shape)
            for chosen, view in zip(self.chosen, self.views(grad_x), strict=True):
                masked(grad, chosen, out=view)
        else:
            grad_x = xp.zeros_like(grad, shape=self.padded_shape)
            for chosen, view in zip(self.chosen, self.views(grad_x), strict=True):
                view += masked(grad, chosen)
        return self.crop(grad_x)


def first_equal(views: list[Array], y: Array) -> list[Array]:
    """For each view whether it is the first that holds y; the last, if no other does (NaN)."""
    chosen = []
    free = True
    for view in views[:-1]:
        first = (view == y) & free
        chosen.append(first)
        free = free ^ first
    return [*chosen, free]


class AvgPool2d(Pool):
    """y = the mean of each window;  dL/dx = g / (size of the window) to each pixel in it."""

    border = 0.0

    def forward(self, x: Array, count_include_pad: bool, **window: Any) -> Array:
        self.fix(x, **window)
        padded = self.bordered(x)
        self.padded_shape = padded.shape
        counts = [self.counts(i, count_include_pad) for i in range(2)]
        size = np.outer(*counts)
        if (size == size[0, 0]).all():  # a number is no copy to the GPU
            self.size = float(size[0, 0])
        else:
            self.size = array_module(x).asarray(size, dtype=x.dtype)
        return sum(self.views(padded)) / self.size

    def counts(self, i: int, count_include_pad: bool) -> np.ndarray:
        """How many pixels each window has along an axis: padding may count, beyond it never."""
        start = np.arange(self.size_out[i]) * self.stride[i] - self.padding[i]
        reach = self.padding[i] if count_include_pad else 0
        end = np.minimum(start + self.kernel[i], self.size_in[i] + reach)
        return end - np.maximum(start, -reach)

    def backward(self, grad: Array) -> Array:
        grad = grad / self.size
        padded = array_module(grad).zeros_like(grad, shape=self.padded_shape)
        for view in self.views(padded):
            view += grad
        return self.crop(padded)


class AdaptiveAvgPool2d(Function):
    """y = A_h x A_w^T, where row i of A holds 1/n at the n pixels that output i averages.

    dL/dx = A_h^T g A_w.
    """

    def forward(self, x: Array, size: tuple[int, int]) -> Array:
        check_images(x)
        xp = array_module(x)
        if 0 in x.shape[2:]:
            raise ValueError(f"no pixels to average in {x.shape}")
        self.rows, self.columns = (
            xp.asarray(averaging_matrix(n_in, n_out), dtype=x.dtype)
            for n_in, n_out in zip(x.shape[2:], size, strict=True)
        )
        return multiply_both(self.rows, x, self.columns)

    def backward(self, grad: Array) -> Array:
        return multiply_both(self.rows.T, grad, self.columns.T)


def multiply_both(a: Array, x: Array, b: Array) -> Array:
    """a x b^T for each image and channel of (N, C, H, W), the batch innermost in memory."""
    n, c, h, w = x.shape
    x = a @ x.transpose(1, 2, 3, 0).reshape(c, h, w * n)
    x = b @ x.reshape(c * len(a), w, n)
    return x.reshape(c, len(a), len(b), n).transpose(3, 0, 1, 2)


def averaging_matrix(n_in: int, n_out: int) -> np.ndarray:
    """(n_out, n_in): output i averages the pixels from floor(i n_in / n_out) to the ceiling of
    (i + 1) n_in / n_out."""
    matrix = np.zeros((n_out, n_in))
    for i in range(n_out):
        start, end = i * n_in // n_out, -(-(i + 1) * n_in // n_out)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def output_size(n: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """Windows along an axis: those that fit, and with ceil_mode one that hangs over the end, as
    long as it begins inside the image or the padding before it."""
    if padding > kernel // 2:
        raise ValueError(f"padding {padding} is more than half the window {kernel}")
    room = n + 2 * padding - kernel
    if room < 0 and not (ceil_mode and n):
        raise ValueError(f"a window of {kernel} does not fit into {n} pixels and padding {padding}")
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (count - 1) * stride >= n + padding:
        count -= 1
    return max(count, 1) if ceil_mode else count


def max_pool2d(
    x: Any,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest value of each window.

    Parameters
    ----------
    x : (N, C, H, W)
    kernel_size : int or (int, int)
        Rows and columns of a window.
    stride : int or (int, int), optional
        From window to window; the kernel size by default.
    padding : int or (int, int)
        Of -inf on all sides, at most half the kernel.
    ceil_mode : bool
        Whether a last window that hangs over the edge counts: H' is rounded up, not down.

    Returns
    -------
    (N, C, H', W'), H' = floor((H + 2 padding - kernel) / stride) + 1

    Raises
    ------
    ValueError
        If no window fits, or the padding is too large.
    """
    return MaxPool2d.apply(x, **_window("max_pool2d", kernel_size, stride, padding, ceil_mode))


def avg_pool2d(
    x: Any,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window; parameters as `max_pool2d`, padding with zeros.

    With count_include_pad=False the padding does not count among the pixels of a window.
    """
    window = _window("avg_pool2d", kernel_size, stride, padding, ceil_mode)
    return AvgPool2d.apply(x, count_include_pad=count_include_pad, **window)


def adaptive_avg_pool2d(x: Any, size: Pair) -> Tensor:
    """(N, C, H, W) averaged down to (N, C, *size), whatever H and W: windows of about equal size,
    the smallest that cover the image.

    Taken as a product of matrices, 0 outside a window: a pixel that is infinite or not a number is
    felt in all of its channel, not in its own windows alone.
    """
    return AdaptiveAvgPool2d.apply(x, size=pair(size, "adaptive_avg_pool2d: size"))


def _window(
    name: str, kernel_size: Pair, stride: Pair | None, padding: Pair, ceil_mode: bool
) -> dict[str, Any]:
    kernel = pair(kernel_size, f"{name}: kernel_size")
    return {
        "kernel": kernel,
        "stride": kernel if stride is None else pair(stride, f"{name}: stride"),
        "padding": pair(padding, f"{name}: padding", least=0),
        "ceil_mode": ceil_mode,
    }
