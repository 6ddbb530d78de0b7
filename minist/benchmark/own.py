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
from ..training.step import MicroBatches, evaluation_step, micro_batch_size, training_step
from .contest import Contestant

TRAINING, OWN_LOOP = "minist", "own loop"
MICRO_BATCH = 64  # of a single operation: what most networks here are cut into


class Threads:
    """Micro-batches on all threads, open only in their contestant's turns."""

    def __init__(self, size: int):
        self.size = size

    @contextmanager
    def __call__(self):
        with MicroBatches(self.size) as self.micro_batches:
            yield


@contextmanager
def blas_threads():
    with threadpool_limits(num_threads(), "blas"):
        yield


def training(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> dict[str, Contestant]:
    """A step of SGD: forward, loss, backward, update."""
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    threads = Threads(micro_batch_size(model, images.shape[1:], len(images)))

    def through_training() -> None:
        training_step(model, images, labels, threads.micro_batches)
        optimizer.step()

    def in_own_loop() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(Tensor(images)), labels).backward()
        optimizer.step()

    return {
        TRAINING: Contestant(through_training, threads),
        OWN_LOOP: Contestant(in_own_loop, blas_threads),
    }


def inference(model: nn.Module, images: np.ndarray) -> dict[str, Contestant]:
    threads = Threads(micro_batch_size(model, images.shape[1:], len(images)))
    labels = np.zeros(len(images), np.int64)

    @no_grad()
    def in_own_loop() -> None:
        model(Tensor(images))

    return {
        TRAINING: Contestant(
            lambda: evaluation_step(model, images, labels, threads.micro_batches), threads
        ),
        OWN_LOOP: Contestant(in_own_loop, blas_threads),
    }


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
    threads = Threads(size)
    return {
        TRAINING: Contestant(
            lambda: threads.micro_batches.map(lambda i, _: parts[i](), n), threads
        ),
        OWN_LOOP: Contestant(step_on(slice(n)), blas_threads),
    }


def batch_innermost(array: np.ndarray) -> np.ndarray:
    if array.ndim < 2:
        return array
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 0, -1)), -1, 0)
