"""The same networks in PyTorch, as its users write them, with the same weights."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from .. import nn, spatial
from ..autograd import Tensor
from ..backend import num_threads
from .contest import Contestant

MEMORY = {"PyTorch": torch.contiguous_format, "channels_last": torch.channels_last}


def translate(module: nn.Module) -> torch.nn.Module:
    """A module of minist, weights and all; modules inside a module are taken to follow one
    another.

    Raises TypeError for a layer that has no translation here.
    """
    peer = _translate(module)
    peer.load_state_dict({name: torch.tensor(a) for name, a in module.state_dict().items()})
    return peer


def _translate(module: nn.Module) -> torch.nn.Module:
    if isinstance(module, nn.Conv2d):
        f, c, *kernel = module.weight.shape
        groups = module.geometry["groups"]
        bias = module.bias is not None
        return torch.nn.Conv2d(c * groups, f, kernel, bias=bias, **module.geometry)
    if isinstance(module, nn.Linear):
        return torch.nn.Linear(*reversed(module.weight.shape), bias=module.bias is not None)
    if isinstance(module, nn.AvgPool2d):
        return torch.nn.AvgPool2d(*module.window)
    if isinstance(module, nn.MaxPool2d):
        kernel, stride, padding, ceil_mode = module.window
        return torch.nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil_mode)
    if isinstance(module, spatial.SpatialTransformer):
        return SpatialTransformer(module)
    alike = {nn.ReLU: torch.nn.ReLU, nn.Flatten: torch.nn.Flatten}
    if type(module) in alike:
        return alike[type(module)]()
    children = OrderedDict((name, _translate(child)) for name, child in module.children())
    if not children:
        raise TypeError(f"no translation of {module!r} into PyTorch")
    return torch.nn.Sequential(children)


class SpatialTransformer(torch.nn.Module):
    def __init__(self, transformer: spatial.SpatialTransformer):
        super().__init__()
        self.localisation = _translate(transformer.localisation)
        self.transformation = transformer.transformation
        self.output_size = transformer.output_size
        self.options = {
            "mode": transformer.mode,
            "padding_mode": transformer.padding_mode,
            "align_corners": transformer.align_corners,
        }

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        size = tuple(self.output_size or u.shape[2:])
        theta = self.localisation(u)
        grid = grid_of(self.transformation, theta, size, self.options["align_corners"])
        return torch.nn.functional.grid_sample(u, grid, **self.options)


def grid_of(
    transformation: spatial.Transformation,
    theta: torch.Tensor,
    size: tuple[int, int],
    align_corners: bool,
) -> torch.Tensor:
    """`affine_grid`, or one matrix product with a constant."""
    n = len(theta)
    if isinstance(transformation, spatial.Affine):
        return torch.nn.functional.affine_grid(
            theta.view(n, 2, 3), (n, 1, *size), align_corners=align_corners
        )
    basis = constant(transformation, size, align_corners, theta.dtype)
    if isinstance(transformation, spatial.ThinPlateSpline):
        return (basis @ theta.view(n, -1, 2)).view(n, *size, 2)
    if isinstance(transformation, spatial.Projective):
        matrix = torch.cat([theta, theta.new_ones(n, 1)], dim=1).view(n, 3, 3)
        points = basis @ matrix.transpose(1, 2)
        return (points[..., :2] / points[..., 2:]).view(n, *size, 2)
    raise TypeError(f"no translation of {transformation!r} into PyTorch")


@lru_cache
def constant(
    transformation: spatial.Transformation,
    size: tuple[int, int],
    align_corners: bool,
    dtype: torch.dtype,
) -> torch.Tensor:
    """B^T, (points, K), of T = M B."""
    basis = transformation.basis(size, align_corners, Tensor(np.zeros(1)))
    return torch.tensor(np.ascontiguousarray(basis.data.T)).to(dtype)


def training(name: str, model: nn.Module, images: np.ndarray, labels: np.ndarray) -> Contestant:
    """A step of SGD: forward, loss, backward, update."""
    peer, x = prepared(name, model, images)
    y = torch.tensor(labels)
    optimizer = torch.optim.SGD(peer.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(peer(x), y).backward()
        optimizer.step()

    return Contestant(step)


def inference(name: str, model: nn.Module, images: np.ndarray) -> Contestant:
    peer, x = prepared(name, model, images)
    peer.eval()

    @torch.no_grad()
    def step() -> None:
        peer(x)

    return Contestant(step)


def prepared(
    name: str, model: nn.Module, images: np.ndarray
) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.set_num_threads(num_threads())
    memory_format = MEMORY.get(name, torch.channels_last)
    peer = translate(model).to(memory_format=memory_format)
    x = torch.tensor(np.ascontiguousarray(images)).to(memory_format=memory_format)
    return (torch.compile(peer) if name == "compiled" else peer), x


def operation(
    name: str, function: Any, arrays: list[np.ndarray], wanted: list[bool], backward: bool
) -> Contestant:
    """`function` forward, or forward and backward to the arrays that want a gradient."""
    torch.set_num_threads(num_threads())

    def of(array: np.ndarray, wanted: bool) -> torch.Tensor:
        x = torch.tensor(np.ascontiguousarray(array))
        if x.ndim == 4 and x.shape[-1] != 2:  # not a grid
            x = x.contiguous(memory_format=MEMORY[name])
        return x.requires_grad_(wanted and backward)

    inputs = [of(array, want) for array, want in zip(arrays, wanted, strict=True)]
    leaves = [x for x in inputs if x.requires_grad]
    if not backward:

        @torch.no_grad()
        def forward() -> None:
            function(*inputs)

        return Contestant(forward)

    grad = torch.ones_like(function(*inputs).detach())

    def step() -> None:
        torch.autograd.grad(function(*inputs), leaves, grad)

    return Contestant(step)
