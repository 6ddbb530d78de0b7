"""Sampling kernels k(x; Phi) of Eq. (3): how a point is made of the pixels around it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from .. import nn
from ..backend import Array, array_module


class Kernel(nn.Module):
    """A sampling kernel for Eq. (3); x is the way from a pixel to the point, in pixels.

    A subclass sets `support` and writes `k` and `dk`, on arrays of either backend. If it has
    `nn.Parameter`s, numbers, Phi in Eq. (3), they are handed to both in the order in which they
    were made, and `dphi` says how k changes with each; they are learnt like any others of a
    network. Under "reflection" points are mirrored, not kernels: k is taken to be even there.

    Attributes
    ----------
    support : float
        k(x) is 0 for |x| beyond it. The fewer pixels within, the quicker.
    normalised : bool
        Divide the weights of each point by their sum, for a k whose sum over the pixels is not
        always 1: a grey image shall stay grey.

    Examples
    --------
    >>> class Cosine(Kernel):
    ...     support = 1.0
    ...
    ...     def k(self, x):
    ...         return (1 + np.cos(np.pi * x)) / 2
    ...
    ...     def dk(self, x):
    ...         return -np.pi / 2 * np.sin(np.pi * x)
    >>> Cosine().weights(np.array([0.25]))
    [array([0.85355339]), array([0.14644661])]
    """

    support: float
    normalised: bool = False

    def k(self, x: Array, *phi: Array) -> Array:
        """k(x; Phi); only what it gives for -support <= x < support is used."""
        raise NotImplementedError

    def dk(self, x: Array, *phi: Array) -> Array:
        """dk/dx; at a kink the right-hand derivative."""
        raise NotImplementedError

    def dphi(self, x: Array, *phi: Array) -> list[Array]:
        """dk/dPhi, for each parameter."""
        raise NotImplementedError(f"{type(self).__name__} has parameters, but no dphi")

    @property
    def narrow(self) -> bool:
        """Whether it reaches at most to the next pixel."""
        return self.support <= 1

    def taps(self) -> range:
        """Pixels that take part, counted from the one at `floor`."""
        count = max(math.ceil(2 * self.support - 1e-6), 1)
        first = -((count - 1) // 2)
        return range(first, first + count)

    @staticmethod
    def floor(x: Array, taps: range) -> Array:
        """The pixel to count from: the one to the left of x, of an odd number the nearest."""
        return array_module(x).floor(x + 0.5 if len(taps) % 2 else x)

    def weights(self, t: Array, *phi: Array) -> list[Array | float]:
        """k for each tap; t = x - floor, in [0, 1), or [-0.5, 0.5) for an odd number of taps."""
        return [self.within(self.k, t - tap, *phi) for tap in self.taps()]

    def slopes(self, t: Array, *phi: Array) -> list[Array | float]:
        """dk/dx for each tap."""
        return [self.within(self.dk, t - tap, *phi) for tap in self.taps()]

    def by_phi(self, t: Array, *phi: Array) -> list[list[Array]]:
        """dk/dPhi for each parameter and each tap."""

        def derivative(i: int) -> Callable[..., Array]:
            return lambda x, *phi: self.dphi(x, *phi)[i]

        return [
            [self.within(derivative(i), t - tap, *phi) for tap in self.taps()]
            for i in range(len(phi))
        ]

    def within(self, function: Callable[..., Array], x: Array, *phi: Array) -> Array:
        """function(x; Phi) on the support, else 0."""
        inside = (x >= -self.support) & (x < self.support)
        return array_module(x).where(inside, function(x, *phi), x.dtype.type(0))


class Nearest(Kernel):
    """The integer kernel of Eq. (4): the pixel at floor(x + 0.5), whose slope is 0 everywhere."""

    support = 0.5

    def k(self, x: Array) -> Array:
        return array_module(x).ones_like(x)

    def dk(self, x: Array) -> Array:
        return array_module(x).zeros_like(x)

    def weights(self, t: Array) -> list[Array]:
        return [self.k(t)]  # Eq. (4)

    def slopes(self, t: Array) -> list[Array]:
        return [self.dk(t)]


class Bilinear(Kernel):
    """k(x) = max(0, 1 - |x|), of Eq. (5).

    Of all pixels only the two around x have a weight: with 0 <= t < 1 from the left one,
    1 - t and t. Their slopes are -1 and 1 (Eq. (7)); at a pixel, t = 0, that is the right-hand
    difference. Eq. (7) read to the letter would count the pixel alone there, since both its
    neighbours are at distance 1.
    """

    support = 1.0

    def k(self, x: Array) -> Array:
        return 1.0 - abs(x)

    def dk(self, x: Array) -> Array:
        return array_module(x).where(x < 0, x.dtype.type(1), x.dtype.type(-1))

    def weights(self, t: Array) -> list[Array]:
        return [1.0 - t, t]  # Eq. (5), Eq. (6)

    def slopes(self, t: Array) -> list[float]:
        return [-1.0, 1.0]  # Eq. (7)


class Bicubic(Kernel):
    """Cubic convolution (Keys, 1981): k = 1 at 0, 0 at other pixels, and no kink.

    k(x) = (a + 2)|x|^3 - (a + 3) x^2 + 1         for |x| <= 1
           a |x|^3 - 5a x^2 + 8a |x| - 4a         for 1 < |x| < 2

    Parameters
    ----------
    a : float
        The slope at |x| = 1: -0.75 as in PyTorch and OpenCV; -0.5 follows a parabola exactly.
    learn : bool
        Whether a is learnt.
    """

    support = 2.0

    def __init__(self, a: float = -0.75, learn: bool = False):
        self.a = nn.Parameter(a, requires_grad=learn)

    def k(self, x: Array, a: Array) -> Array:
        r = abs(x)
        near = ((a + 2) * r - (a + 3)) * r * r + 1
        return array_module(x).where(r <= 1, near, a * (((r - 5) * r + 8) * r - 4))

    def dk(self, x: Array, a: Array) -> Array:
        xp = array_module(x)
        r = abs(x)
        near = (3 * (a + 2) * r - 2 * (a + 3)) * r
        return xp.sign(x) * xp.where(r <= 1, near, a * ((3 * r - 10) * r + 8))

    def dphi(self, x: Array, a: Array) -> list[Array]:
        r = abs(x)
        return [array_module(x).where(r <= 1, (r - 1) * r * r, ((r - 5) * r + 8) * r - 4)]

    def extra_repr(self) -> str:
        return f"a={self.a.item():g}"


class Lanczos(Kernel):
    """sinc(x) sinc(x / a): the ideal low-pass filter, ended by its own first lobe, drawn out.

    Parameters
    ----------
    a : int
        Lobes on each side, 1 or more, else a ValueError; 2 and 3 are usual.
    """

    normalised = True

    def __init__(self, a: int = 3):
        if a < 1:
            raise ValueError(f"Lanczos: a must be 1 or more, not {a}")
        self.a = self.support = a

    def k(self, x: Array) -> Array:
        xp = array_module(x)
        return xp.sinc(x) * xp.sinc(x / self.a)

    def dk(self, x: Array) -> Array:
        xp = array_module(x)
        y = x / self.a
        return sinc_slope(x) * xp.sinc(y) + xp.sinc(x) * sinc_slope(y) / self.a

    def extra_repr(self) -> str:
        return f"a={self.a}"


def sinc_slope(x: Array) -> Array:
    """d sinc(x)/dx = (cos(pi x) - sinc(x)) / x, which near 0 is -pi^2 x / 3."""
    xp = array_module(x)
    near = abs(x) < 1e-3
    apart = xp.where(near, x.dtype.type(1), x)
    return xp.where(near, -(np.pi**2) / 3 * x, (xp.cos(np.pi * apart) - xp.sinc(apart)) / apart)


class Gaussian(Kernel):
    """exp(-x^2 / (2 sigma^2)), normalised: it blurs, and so sees further.

    A transformer gets its gradient from what the kernel reaches; a wide one feels a digit several
    pixels away. Learnt, sigma says how much of that is worth its blur.

    Parameters
    ----------
    sigma : float
        In pixels, above 0, else a ValueError; below 0.1 it counts as 0.1, where nothing but the
        nearest pixel is left, and is not learnt any more.
    support : float, optional
        Where the kernel is cut off; 3 sigma by default, at least 1, so that no point lies between
        the pixels unseen by any. Give more where sigma is to grow.
    learn : bool
        Whether sigma is learnt.
    """

    normalised = True
    smallest = 0.1

    def __init__(self, sigma: float = 0.5, support: float | None = None, learn: bool = False):
        if sigma <= 0:
            raise ValueError(f"Gaussian: sigma must be above 0, not {sigma}")
        self.sigma = nn.Parameter(sigma, requires_grad=learn)
        self.support = max(3 * sigma, 1.0) if support is None else support

    def k(self, x: Array, sigma: Array) -> Array:
        xp = array_module(x)
        return xp.exp(-0.5 * (x / xp.maximum(sigma, self.smallest)) ** 2)

    def dk(self, x: Array, sigma: Array) -> Array:
        sigma = array_module(x).maximum(sigma, self.smallest)
        return -x / sigma**2 * self.k(x, sigma)

    def dphi(self, x: Array, sigma: Array) -> list[Array]:
        free = sigma >= self.smallest
        sigma = array_module(x).maximum(sigma, self.smallest)
        return [free * x**2 / sigma**3 * self.k(x, sigma)]

    def extra_repr(self) -> str:
        return f"sigma={self.sigma.item():g}"


class BSpline(Kernel):
    """The B-spline of a degree: a tent (1, the bilinear kernel), then ever rounder bells.

    With (x)_+ = max(x, 0), n the degree and c = (n + 1) / 2,

        beta_n(x) = 1/n!  sum over i < c of  (-1)^i binomial(n + 1, i) (c - i - |x|)_+^n,
        d beta_n/dx = beta_(n-1)(x + 1/2) - beta_(n-1)(x - 1/2).

    From degree 2 on it smooths: sampled at its own pixels, an image comes out blurred.

    Parameters
    ----------
    degree : int
        1 or more, else a ValueError; a box, of degree 0, is `Nearest`.
    """

    def __init__(self, degree: int = 3):
        if degree < 1:
            raise ValueError(f"BSpline: degree must be 1 or more, not {degree}")
        self.degree = degree
        self.support = (degree + 1) / 2

    def k(self, x: Array) -> Array:
        return bell(x, self.degree)

    def dk(self, x: Array) -> Array:
        return bell(x + 0.5, self.degree - 1) - bell(x - 0.5, self.degree - 1)

    def extra_repr(self) -> str:
        return f"degree={self.degree}"


def bell(x: Array, degree: int) -> Array:
    """beta_n(x) of a degree, element by element; a box's steps belong to their right-hand side."""
    xp = array_module(x)
    if degree == 0:
        return ((x >= -0.5) & (x < 0.5)).astype(x.dtype)
    total = xp.zeros_like(x)
    # From the nearer end the terms are few and small; from one end for all, float32 loses digits.
    for i in range(degree // 2 + 1):
        y = xp.maximum((degree + 1) / 2 - i - abs(x), 0)
        total += (-1) ** i * math.comb(degree + 1, i) / math.factorial(degree) * y**degree
    return total


KERNELS = {"nearest": Nearest, "bilinear": Bilinear, "bicubic": Bicubic}


def kernel_of(mode: str | Kernel, device: str = "cpu") -> Kernel:
    """The kernel of a mode, "nearest", "bilinear" or "bicubic", on a device; a Kernel as it is.

    Raises ValueError for another name.
    """
    if isinstance(mode, Kernel):
        return mode
    if mode not in KERNELS:
        raise ValueError(f"mode must be one of {', '.join(KERNELS)} or a Kernel, not {mode!r}")
    return built(mode, device)


@cache
def built(mode: str, device: str) -> Kernel:
    """Kept, since moving parameters to a GPU at every call would take longer than to sample."""
    return KERNELS[mode]().to(device)
