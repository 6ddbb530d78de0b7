"""minist's side: through `training/`, in micro-batches, and in a user's own loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from .. import functional as F
from .. import nn, optim
from ..autograd import Tensor, _backpropagate, no_grad
from ..backend import num_threads
from ..training.processes import micro_batches_on_all_cores
from ..training.step import MicroBatches, micro_batch_size, training_step
from .contest import Contestant

TRAINING, OWN_LOOP = "minist", "own loop"
MICRO_BATCH = 64  # of a single operation: what most networks here are cut into


class AllCores:
    """Work in micro-batches on all cores, which it has only in its contestant's turns."""

    def __init__(self, make: Callable[[], MicroBatches], work: Callable[[MicroBatches], Any]):
        self.make, self.work = make, work

    def contestant(self) -> Contestant:
        return Contestant(lambda: self.work(self.micro_batches), self.opened)

    @contextmanager
    def opened(self):
        with self.make() as self.micro_batches:
            while self.micro_batches.rank > 0:  # another process, which the first one ends
                self.work(self.micro_batches)
            yield


def cores(model: nn.Module, images: np.ndarray) -> MicroBatches:
    """The micro-batches that training would take."""
    size = micro_batch_size(model, images.shape[1:], len(images))
    return micro_batches_on_all_cores(model, size, len(images))


@contextmanager
def blas_threads():
    with threadpool_limits(num_threads(), "blas"):
        yield


def training(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> dict[str, Contestant]:
    """A step of SGD: forward, loss, backward, update."""
    optimizer = optim.SGD(model.parameters(), lr=0.01)

    def through_training(micro_batches: MicroBatches) -> None:
        training_step(model, images, labels, micro_batches)
        optimizer.step()

    def in_own_loop() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(Tensor(images)), labels).backward()
        optimizer.step()

    return {
        TRAINING: AllCores(lambda: cores(model, images), through_training).contestant(),
        OWN_LOOP: Contestant(in_own_loop, blas_threads),
    }


def inference(model: nn.Module, images: np.ndarray) -> dict[str, Contestant]:
    model.eval()

    @no_grad()
    def forward(images: np.ndarray) -> list:
        model(Tensor(images))
        return []

    def in_micro_batches(micro_batches: MicroBatches) -> None:
        micro_batches.map(lambda _, part: forward(images[part]), len(images))

    at_once = Contestant(lambda: forward(images), blas_threads)
    if len(images) == 1:  # one micro-batch, for which no process or thread is begun
        return {TRAINING: at_once, OWN_LOOP: at_once}
    cut = AllCores(lambda: cores(model, images), in_micro_batches).contestant()
    return {TRAINING: cut, OWN_LOOP: at_once}


def operation(
    function: Callable[..., Tensor],
    arrays: list[np.ndarray],
    wanted: list[bool],
    batched: list[bool],
    backward: bool,
) -> dict[str, Contestant]:
    """`function` forward, or forward and backward to the arrays that want a gradient.

    As inside a network: arrays come with the batch innermost in memory, and gradients are handed
    on without the copy that a leaf is given.
    """
    n = next(len(a) for a, cut in zip(arrays, batched, strict=True) if cut)
    size = min(n, MICRO_BATCH)

    def step_on(part: slice) -> Callable[[], Any]:
        inputs = [
            Tensor(batch_innermost(a[part]) if cut else a, requires_grad=want and backward)
            for a, want, cut in zip(arrays, wanted, batched, strict=True)
        ]
        if not backward:
            return no_grad()(lambda: function(*inputs))
        y = function(*inputs)
        grad = batch_innermost(np.ones(y.shape, y.dtype))
        return lambda: _backpropagate(function(*inputs), grad, retain_graph=False)

    parts = [step_on(slice(i, i + size)) for i in range(0, n, size)]

    def in_micro_batches(micro_batches: MicroBatches) -> None:
        def one(number: int, part: slice) -> list:
            parts[number]()
            return []

        micro_batches.map(one, n)

    return {
        TRAINING: AllCores(
            lambda: micro_batches_on_all_cores(nn.Sequential(), size, n), in_micro_batches
        ).contestant(),
        OWN_LOOP: Contestant(step_on(slice(n)), blas_threads),
    }


def batch_innermost(array: np.ndarray) -> np.ndarray:
    if array.ndim < 2:
        return array
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 0, -1)), -1, 0)
