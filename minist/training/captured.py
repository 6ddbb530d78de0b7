"""The training step on a GPU as a CUDA graph."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from .. import nn
from ..backend import Array, array_module
from ..cuda.graph import Graph
from .parallel import Group, nothing
from .step import MicroBatches, Report, add_up

WARM = 2  # steps before the capture: kernels are compiled, constants brought to the card


class Captured:
    """`training_step`, captured with the first batches' shape and replayed for each batch of it.

    Others, such as the last, smaller one of an epoch, go the ordinary way; so do networks that draw
    random numbers or keep statistics in a forward, and those with an operation that cannot be
    captured, which a line on standard error tells once. The sum over several GPUs is not captured.

    Parameters
    ----------
    step : function
        `training_step`, or what takes its place.
    """

    def __init__(self, step: Callable[..., Report]):
        self.step = step
        self.graph: Graph | None = None
        self.calls = 0
        self.refused = False

    def __call__(
        self,
        model: nn.Module,
        images: Array,
        labels: Array,
        micro_batches: MicroBatches,
        seed: Sequence[int] = (0,),
        group: Group = Group(),  # noqa: B008  (frozen)
    ) -> Report:
        self.calls += 1
        if self.graph is None and self.calls > WARM and not self.refused:
            self.capture(model, images, labels, micro_batches, group)
        if self.graph is None or alike(images) != self.kind:
            return self.step(model, images, labels, micro_batches, seed, group)
        self.fill(images, labels)
        report = self.graph.launch()
        sums = add_up([[*self.gradients, *report.numbers()]], group)
        for parameter, gradient in zip(self.parameters, sums, strict=False):
            parameter.grad = gradient
        # Copies, since the next launch writes there.
        return Report(*(number + 0 for number in sums[len(self.gradients) :]))

    def capture(
        self,
        model: nn.Module,
        images: Array,
        labels: Array,
        micro_batches: MicroBatches,
        group: Group,
    ) -> None:
        if not repeatable(model):
            self.refused = True
            return
        xp = array_module(images)
        self.kind = alike(images)
        self.images, self.labels = xp.empty_like(images), xp.empty_like(labels)
        self.fill(images, labels)
        alone = replace(group, all_reduce=nothing)
        try:
            self.graph = Graph(
                xp,
                lambda: self.step(model, self.images, self.labels, micro_batches, (0,), alone),
            )
        except (NotImplementedError, RuntimeError, MemoryError) as error:
            self.refused = True
            print(f"training goes on without a CUDA graph: {error}", file=sys.stderr)
            return
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.gradients = [p.grad for p in self.parameters]

    def fill(self, images: Array, labels: Array) -> None:
        """Bring a batch to where the graph takes it from."""
        self.images[...] = images
        self.labels[...] = labels


def alike(images: Array) -> tuple:
    return images.shape, images.strides, images.dtype


def repeatable(model: nn.Module) -> bool:
    """Whether a forward does the same each time: no random draws, nothing that it counts."""
    kinds = (nn.Dropout, nn.BatchNorm1d, nn.BatchNorm2d)
    return not any(isinstance(module, kinds) for _, module in model.named_modules())
