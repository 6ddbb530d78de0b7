"""Two-dimensional convolution by the discrete Fourier transform, as matrix products.

By the correlation theorem a correlation is a product, frequency by frequency: along one axis of
n pixels, with hats for transforms of length n,

    y[h] = sum over i of  w[i] x[h + i]    has    y^[u] = conj(w^[u]) x^[u]

wherever no window reaches around the end: for the n - k + 1 outputs that a kernel of k pixels has.

Real numbers have conjugate frequencies u and n - u, so half of them are enough; and a product of
complex numbers takes three of real numbers (Gauss). With w^ = a + i b and x^ = c + i d,

    conj(w^) x^ = (P1 - P3) + i (P1 - P2),    P1 = a (c + d),  P2 = (a + b) c,  P3 = (a - b) d.

All sums are linear and go into constant matrices: A turns the kernel into its side of the
products, B the image, and C the products into y,

    y = C [(A w) * (B x)]        A (Q, k), B (Q, n), C (n - k + 1, Q), about Q = 1.5 n products.

Along both axes of an image, and summed over channels, which are mixed in each product alone,

    y[f] = C_h [ sum over c of (A_h w[f, c] A_w^T) * (B_h x[c] B_w^T) ] C_w^T,

the sum is a matrix product for each of the Q_h Q_w places, (F, C) times (C, N). (Winograd's
convolutions have the same form, with other matrices.) Each of the three parts is linear, so the
backward is made of the same parts with their matrices transposed.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from ..backend import Array, array_module

if TYPE_CHECKING:
    from .convolution import Geometry


@lru_cache(maxsize=64)
def matrices(n: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A (Q, k), B (Q, n) and C (n - k + 1, Q) for n pixels and a kernel of k, float64."""
    a, b, c = [], [], []
    for u in range(n // 2 + 1):
        angle = 2 * np.pi * u * np.arange(n) / n
        cos, sin = np.cos(angle), np.sin(angle)  # x^[u] = sum of x (cos - i sin)
        if 2 * u in (0, n):  # a real frequency
            a += [cos]
            b += [cos]
            c += [cos / n]
        else:  # and its conjugate
            a += [cos, cos - sin, cos + sin]
            b += [cos - sin, cos, -sin]
            c += [2 / n * (cos - sin), 2 / n * sin, -2 / n * cos]
    return np.array(a)[:, :k], np.array(b), np.array(c)[:, : n - k + 1].T


@lru_cache(maxsize=64)
def matrices_on(xp: ModuleType, dtype: np.dtype, n: int, k: int) -> list[Array]:
    """A, B and C in the precision and on the device of a network, kept there."""
    return [xp.asarray(matrix, dtype=dtype) for matrix in matrices(n, k)]


def products(n: int) -> int:
    """Q, the real products for n pixels: one or two real frequencies, three for each other."""
    return 1 + 3 * (n // 2) if n % 2 else 3 * (n // 2) - 1


class Fourier:
    """Without stride, dilation and groups. Arrays are (C, H, W, N) and (F, C, kh, kw).

    `wanted`: whether gradients are, of x and of the weight.
    """

    def __init__(self, geometry: Geometry, weight: Array, wanted: tuple[bool, bool]):
        xp = array_module(weight)
        self.geometry, self.wanted = geometry, wanted
        by_axis = [
            matrices_on(xp, weight.dtype, n, k)
            for n, k in zip(geometry.size_in, geometry.kernel, strict=True)
        ]
        self.A, self.B, self.C = zip(*by_axis, strict=True)
        (a_h, a_w), (kh, kw) = self.A, geometry.kernel
        f, c = weight.shape[:2]
        kernel = weight.transpose(2, 3, 0, 1).reshape(kh, kw, f * c)
        self.w = (a_h @ (a_w @ kernel).reshape(kh, -1)).reshape(len(a_h), len(a_w), f, c)

    @staticmethod
    def operations(g: Geometry) -> float:
        """Multiplications of a forward, for each image: of the three transforms and of the
        products. The images of a batch share the kernel's."""
        (h, w), (kh, kw), (h_out, w_out) = g.size_in, g.kernel, g.size_out
        qh, qw = products(h), products(w)
        kernel = g.filters * g.channels * (kh * kw * qw + kh * qw * qh) / max(g.images, 1)
        image = g.channels * (qh * h * w + qh * qw * w)
        output = g.filters * (qh * qw * w_out + qh * h_out * w_out)
        return kernel + image + g.filters * g.channels * qh * qw + output

    @staticmethod
    def traffic(g: Geometry) -> float:
        """Most of what a step writes out and reads again, in numbers for each image: at each of the
        Qh Qw places C of x and F of y, and as many of their gradients; and F C of the kernel,
        counted twice as it is read twice, and of its gradient. (Second readings of x and of y's
        gradient, and transforms along one axis, are left out.)"""
        kernel = (2 + 1) * g.filters * g.channels / max(g.images, 1)
        return (2 * g.channels + 2 * g.filters + kernel) * prod(map(products, g.size_in))

    def forward(self, x: Array) -> Array:
        x = into(self.B, x)
        if self.wanted[1]:
            self.x = x
        return back(self.C, self.w @ x)

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        """dL/dx and dL/dW."""
        g = into(transposed(self.C), grad)
        grad_x = back(transposed(self.B), self.w.swapaxes(2, 3) @ g) if self.wanted[0] else None
        if not self.wanted[1]:
            return grad_x, None
        # A copy, since BLAS is slow at small products whose second matrix lies transposed.
        g = g @ array_module(grad).ascontiguousarray(self.x.swapaxes(2, 3))
        (a_h, a_w), (qh, qw, f, c) = self.A, g.shape
        g = a_w.T @ (a_h.T @ g.reshape(qh, -1)).reshape(-1, qw, f * c)
        return grad_x, g.reshape(*g.shape[:2], f, c).transpose(2, 3, 0, 1)


def transposed(matrices: tuple[Array, Array]) -> tuple[Array, Array]:
    return matrices[0].T, matrices[1].T


def into(matrices: tuple[Array, Array], x: Array) -> Array:
    """(C, H, W, N) to (Qh, Qw, C, N): M_h x M_w^T, channels and images last for the products."""
    m_h, m_w = matrices
    c, h, w, n = x.shape
    rows = (m_h @ x.reshape(c, h, w * n)).reshape(c, len(m_h), w, n)
    xp = array_module(x)
    places = xp.empty((len(m_h), len(m_w), c, n), dtype=rows.dtype)
    xp.matmul(m_w, rows, out=places.transpose(2, 0, 1, 3))
    return places


def back(matrices: tuple[Array, Array], places: Array) -> Array:
    """(Qh, Qw, F, N) to (F, H', W', N), the same in the other direction."""
    m_h, m_w = matrices
    qh, _, f, n = places.shape
    rows = m_w @ places.transpose(2, 0, 1, 3)
    return (m_h @ rows.reshape(f, qh, -1)).reshape(f, len(m_h), len(m_w), n)
