"""The spatial transformer (Fig. 2, Sect. 3.4): localisation, grid and sampler in one module."""

from __future__ import annotations

from typing import Any

from .. import nn
from ..autograd import Tensor
from ..backend import Array
from .grid import Transformation
from .kernels import Kernel
from .sampler import grid_sample


class SpatialTransformer(nn.Module):
    """Transforms each feature map the way a localisation network says.

    It can stand anywhere in a network, in any number.

    Parameters
    ----------
    localisation : Module
        U (N, C, H, W) to theta (N, transformation.num_parameters).
    transformation : Transformation
        What theta means.
    output_size : (H', W'), optional
        The size of U by default.
    mode, padding_mode, align_corners
        Of the sampler; align_corners of the grid, too (see `grid_sample`).

    Attributes
    ----------
    theta, grid : Tensor or None
        Of the last forward in the calling thread, with their gradients' history: for looking at,
        and theta for feeding forward as the pose of what was seen.

    Raises
    ------
    ValueError
        In forward, if the localisation network gives a theta of another width.
    """

    def __init__(
        self,
        localisation: nn.Module,
        transformation: Transformation,
        output_size: tuple[int, int] | None = None,
        mode: str | Kernel = "bilinear",
        padding_mode: str = "zeros",
        align_corners: bool = True,
    ):
        self.localisation = localisation
        self.transformation = transformation
        self.output_size = output_size
        self.mode, self.padding_mode, self.align_corners = mode, padding_mode, align_corners

    @property
    def theta(self) -> Tensor | None:
        return self.last("theta")

    @property
    def grid(self) -> Tensor | None:
        return self.last("grid")

    def forward(self, u: Any) -> Tensor:
        theta = self.localisation(u)  # Sect. 3.1
        if theta.shape != (len(u), self.transformation.num_parameters):
            raise ValueError(
                f"SpatialTransformer: the localisation network gave {theta.shape}, but "
                f"{self.transformation!r} needs theta (N, {self.transformation.num_parameters}); "
                "let it end in ThetaRegression"
            )
        size = self.output_size or u.shape[2:]
        grid = self.transformation.grid(theta, size, self.align_corners)  # Sect. 3.2
        self.remember(theta=theta, grid=grid)
        return grid_sample(u, grid, self.mode, self.padding_mode, self.align_corners)  # Sect. 3.3


def share_outside(grid: Tensor) -> Array:
    """The share of a grid's points that lie outside the image, 0..1, a 0-d array.

    A transformer that drifts off its image gets no gradient to come back by; this is how its
    training fails, and what to watch.
    """
    inside = (abs(grid.data) <= 1).all(axis=-1)
    return 1.0 - inside.mean()
