"""PyTorch on a GPU: eager, and its own CUDA graph."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .. import nn
from .gpu import GRAPHED, Step
from .report import EAGER
from .torch_peer import translate


class Peer:
    """Makes the steps that are timed, by name."""

    def __init__(self, device: str):
        self.device = device
        for library in (torch.backends.cuda.matmul, torch.backends.cudnn):
            library.allow_tf32 = os.environ.get("MINIST_TF32") == "1"

    def both(self, step: Step) -> dict[str, Step]:
        found = {EAGER: step}
        if self.device == "cuda":
            found[GRAPHED] = graph_of(step)
        return found

    def training(self, model: nn.Module, images: np.ndarray, labels: np.ndarray) -> dict[str, Step]:
        peer = translate(model).to(self.device)
        x, y = (torch.tensor(a).to(self.device) for a in (images, labels))
        optimizer = torch.optim.SGD(peer.parameters(), lr=0.01)

        def step() -> None:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(peer(x), y).backward()
            optimizer.step()

        return self.both(step)

    def inference(self, model: nn.Module, images: np.ndarray) -> dict[str, Step]:
        peer, x = translate(model).to(self.device).eval(), torch.tensor(images).to(self.device)
        return self.both(torch.no_grad()(lambda: peer(x)))

    def operation(
        self, function: Callable[..., Any], arrays: list[np.ndarray], backward: bool
    ) -> dict[str, Step]:
        inputs = [torch.tensor(a).to(self.device).requires_grad_(backward) for a in arrays]
        if not backward:
            return self.both(torch.no_grad()(lambda: function(torch, *inputs)))
        grad = torch.ones_like(function(torch, *inputs).detach())
        return self.both(lambda: torch.autograd.grad(function(torch, *inputs), inputs, grad))


def graph_of(step: Step) -> Step:
    """A step as a CUDA graph, as PyTorch's manual has it: warmed up on a stream of its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
