"""The spatial transformer (Fig. 2, Sect. 3.4): localisation, grid and sampler in one module."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from .. import functional as F
from .. import nn
from ..autograd import Tensor
from ..backend import Array, array_module, is_cupy
from ..effects import lasting
from .borders import check_padding
from .grid import Transformation, checked_size, floating
from .kernels import Kernel
from .sampler import grid_sample, kernels_of
from .separable import check_number


class SpatialTransformer(nn.Module):
    """Transforms each feature map the way a localisation network says.

    It can stand anywhere in a network, in any number: on the input or on feature maps, one behind
    the other, or several side by side (`ParallelTransformers`). The localisation network's
    parameters, `localisation.parameters()`, can have a learning rate of their own.

    Parameters
    ----------
    localisation : Module
        U (N, C, H, W) to theta (N, transformation.num_parameters).
    transformation : Transformation
        What theta means.
    output_size : (H', W'), optional
        The size of U by default. Of volumes (D', H', W').
    mode, padding_mode, align_corners, antialias
        Of the sampler; align_corners of the grid, too (see `grid_sample`).
    iterations : int
        How often to look. From the second time on the localisation network sees what the
        transformer has made of U so far and says what is still missing (Lin and Lucey, 2017);
        theta is composed, and U itself sampled again, so that nothing is blurred twice. Needs a
        transformation with `compose`.

    Attributes
    ----------
    theta, grid : Tensor or None
        Of the last forward in the calling thread, with their gradients' history: for looking at,
        and theta for feeding forward as the pose of what was seen. They are held until the next
        forward; under `no_grad`, without history.
    outside : (N,) or None
        The share of each image's points that lay outside it; of k parallel transformers (N, k).

    Raises
    ------
    NotImplementedError
        For iterations of a transformation that does not compose.
    ValueError
        For another mode, padding_mode or output_size; in forward, if the localisation network gives
        a theta of another width.
    TypeError
        If transformation is none.

    Warns
    -----
    UserWarning
        Once, in training, if more than half of the images of a forward are sampled mostly outside:
        there is no gradient out there to come back by. On a GPU, where to ask at once would mean
        to wait, when `warn_if_drifted` is called, as training does with each line of its log.
    """

    def __init__(
        self,
        localisation: nn.Module,
        transformation: Transformation,
        output_size: Sequence[int] | None = None,
        mode: str | Kernel | Sequence[Kernel] = "bilinear",
        padding_mode: str = "zeros",
        align_corners: bool = True,
        antialias: bool = False,
        iterations: int = 1,
    ):
        name = type(self).__name__
        if not isinstance(transformation, Transformation):
            raise TypeError(
                f"{name}: expected a localisation network and a Transformation, in this order, "
                f"not {transformation!r} as the transformation"
            )
        check_padding(padding_mode)
        check_number(kernels_of(mode, transformation.dimensions), transformation.dimensions)
        if iterations < 1:
            raise ValueError(f"{name}: iterations must be 1 or more, not {iterations}")
        if iterations > 1:
            one = transformation.identity()[None]
            transformation.compose(one, one)  # raises where there is none
        if output_size is not None:
            output_size = checked_size(
                output_size, f"{name}: output_size", transformation.dimensions
            )
        self.localisation = localisation
        self.transformation = transformation
        self.output_size = output_size
        self.mode, self.padding_mode, self.align_corners = mode, padding_mode, align_corners
        self.antialias, self.iterations = antialias, iterations
        self.warned = False
        self.drifted: Array | None = None  # on a GPU: whether a forward was, a 0-d array of bool

    @property
    def theta(self) -> Tensor | None:
        return self.last("theta")

    @property
    def grid(self) -> Tensor | None:
        return self.last("grid")

    @property
    def outside(self) -> Array | None:
        if self.grid is None:
            return None
        known = self.last("outside")
        if known is None:
            grid = self.grid.data
            before = grid.ndim - 1 - self.transformation.dimensions  # N, or N and k
            known = points_outside(grid, before) / max(prod(grid.shape[before:-1]), 1)
            self.remember(theta=self.theta, grid=self.grid, outside=known)
        return known

    def forward(self, u: Any) -> Tensor:
        theta = self.localise(u)  # Sect. 3.1
        for _ in range(self.iterations - 1):
            seen = self.sample(u, self.grid_of(theta, u.shape[2:]))
            theta = self.transformation.compose(theta, self.localise(seen))
        grid = self.grid_of(theta, self.output_size or u.shape[2:])  # Sect. 3.2
        self.remember(theta=theta, grid=grid)
        self.watch()
        return self.sample(u, grid)  # Sect. 3.3

    def localise(self, u: Any) -> Tensor:
        """theta of each image (Sect. 3.1), (N, num_parameters)."""
        theta = self.localisation(u)
        self.check_width(theta, len(u), self.transformation.num_parameters)
        return theta

    def check_width(self, theta: Tensor, n: int, width: int) -> None:
        """ValueError unless theta is (n, width)."""
        if theta.shape != (n, width):
            raise ValueError(
                f"{type(self).__name__}: the localisation network gave {theta.shape}, but "
                f"{self.transformation!r} needs theta ({n}, {width}); let it end in ThetaRegression"
            )

    def grid_of(self, theta: Tensor, size: Sequence[int]) -> Tensor:
        """The grid of each image (Sect. 3.2), (N, H', W', 2)."""
        return self.transformation.grid(theta, size, self.align_corners)

    def sample(self, u: Any, grid: Tensor) -> Tensor:
        """The images read at a grid (Sect. 3.3), (N, C, H', W')."""
        return grid_sample(
            u, grid, self.mode, self.padding_mode, self.align_corners, self.antialias
        )

    def watch(self) -> None:
        """Warn, once, when most images are no longer looked at; on a GPU, note it."""
        if self.training and not self.warned:
            lost = (self.outside > 0.5).sum(axis=0)  # images, of each transformer
            drifted = (lost > len(self.outside) / 2).any()
            if is_cupy(drifted):
                lasting(lambda: self.note(drifted))
            elif drifted:
                lasting(self.warn)

    def note(self, drifted: Array) -> None:
        """Remember on the GPU that the transformer has drifted, for `warn_if_drifted`."""
        if self.drifted is None:
            self.drifted = drifted
        else:
            self.drifted |= drifted  # in place, as a CUDA graph wants it

    def warn_if_drifted(self) -> None:
        """Give the warning that forwards on a GPU have left open. Waits for the card."""
        if self.drifted is not None and not self.warned:
            if self.drifted:
                self.warn()
            self.drifted[...] = False

    def warn(self) -> None:
        """Say once that theta has drifted off."""
        if not self.warned:
            self.warned = True
            warnings.warn(
                "more than half of the images are sampled mostly outside: theta has drifted off, "
                "and finds no gradient to return by. Give the localisation network a smaller "
                "learning rate or a warm-up, or add spatial.outside_penalty(st.grid) to the loss",
                stacklevel=2,
            )


class ParallelTransformers(SpatialTransformer):
    """k spatial transformers side by side, for several objects or parts (Sect. 3.4, Table 3).

    In a feedforward network k is the most objects that can be told apart in this way.

    Parameters
    ----------
    k : int
    localisation : Module, or k of them
        One network for all gives theta (N, k num_parameters), as in the bird experiment; let it
        end in `ThetaRegression` with k starts. Or each transformer has its own.
    transformation : Transformation
        The same class for all.
    concatenate : bool
        Whether the outputs are joined, (N, k C, H', W'), or returned apart as a list of k.
    **options
        output_size and the sampler's, as of `SpatialTransformer`.

    Attributes
    ----------
    theta, grid : Tensor or None
        (N, k, num_parameters) and (N, k, H', W', 2) of the last forward in the calling thread.

    Raises
    ------
    ValueError
        If there are not k networks; in forward, if theta has another width.
    TypeError
        For iterations.
    """

    def __init__(
        self,
        k: int,
        localisation: nn.Module | Sequence[nn.Module],
        transformation: Transformation,
        concatenate: bool = True,
        **options: Any,
    ):
        if k < 1:
            raise ValueError(f"ParallelTransformers: k must be 1 or more, not {k}")
        if "iterations" in options:
            raise TypeError("ParallelTransformers looks once; it has no iterations")
        self.shared = isinstance(localisation, nn.Module)
        if not self.shared:
            if len(localisation) != k:
                raise ValueError(
                    f"ParallelTransformers: {len(localisation)} localisation networks for k = {k}"
                )
            localisation = nn.Sequential(*localisation)  # not one after the other: a container
        super().__init__(localisation, transformation, **options)
        self.k, self.concatenate = k, concatenate

    def forward(self, u: Any) -> Tensor | list[Tensor]:
        theta = self.localise(u)
        size = self.output_size or u.shape[2:]
        grids = [self.grid_of(theta[:, i], size) for i in range(self.k)]
        self.remember(theta=theta, grid=F.stack(grids, axis=1))
        self.watch()
        outputs = [self.sample(u, grid) for grid in grids]
        return F.concatenate(outputs, axis=1) if self.concatenate else outputs

    def localise(self, u: Any) -> Tensor:
        """theta of all, (N, k, num_parameters)."""
        p = self.transformation.num_parameters
        if self.shared:
            theta = self.localisation(u)
            self.check_width(theta, len(u), self.k * p)
            return theta.reshape(len(u), self.k, p)
        thetas = [net(u) for net in self.localisation]
        for theta in thetas:
            self.check_width(theta, len(u), p)
        return F.stack(thetas, axis=1)


ROUNDING = 1e-5  # a coordinate, -1 to 1, may be off by less: in float32 a spline's by 2e-7


def points_outside(grid: Array, first: int) -> Array:
    """How many points of a grid (..., d) lie outside the image, over the axes from `first` on.

    NaN does; a point that rounding put beyond the border does not.
    """
    outside = ~(abs(grid) <= 1 + ROUNDING).all(axis=-1)
    axes = tuple(range(first, outside.ndim))
    return outside.view(np.int8).sum(axis=axes)  # twice as quick as of bool


def share_outside(grid: Any) -> Array:
    """The share of a grid's points that lie outside the image, 0..1, a 0-d array; 0 without points.

    A transformer that drifts off its image gets no gradient to come back by; this is how its
    training fails, and what to watch. `SpatialTransformer.outside` is the share of each image.
    """
    points = floating(grid, "grid").data
    return points_outside(points, 0) / max(prod(points.shape[:-1]), 1)


def outside_penalty(grid: Any) -> Tensor:
    """How far the points of a grid (..., d) lie outside the image, on average; differentiable.

    Added to the loss, with a weight of about 0.1, it brings back a transformer that has left its
    image. In half images; points more than 10 away count as at 10 and are given up. A 0-d tensor.
    """
    away = F.clip(F.relu(abs(floating(grid, "grid")) - 1.0), high=10.0)
    return away.sum() / max(away.size // away.shape[-1], 1)


def identity_penalty(theta: Any, transformation: Transformation) -> Tensor:
    """The mean square of theta's distance from the transformation's identity; differentiable.

    theta (N, num_parameters) gives a 0-d tensor. Added to the loss, it holds a transformer back
    that strays before the rest has learnt.
    """
    theta = floating(theta)
    identity = array_module(theta.data).asarray(transformation.identity(), dtype=theta.dtype)
    return ((theta - identity) ** 2).sum() / max(theta.size, 1)
