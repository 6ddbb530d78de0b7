"""One training step, cut into micro-batches that run side by side.

A micro-batch is a few dozen images: one whole forward and backward of its own, whose numbers stay
in the cache of one core. They run on as many threads as there are cores (NumPy lets go of the
interpreter while it computes), or in as many processes (`processes.py`), BLAS on one thread in
each, and their gradients are added in the order of the micro-batches, so that the result does not
depend on the number of either. Memory falls with the size of a micro-batch, and no operation has to
know of threads.

Batch norm, if there is one, sees a micro-batch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from .. import functional as F
from .. import nn
from ..autograd import Edge, Function, Tensor, grad, no_grad
from ..backend import Array, array_module, num_threads, random_state
from ..datasets import Images
from ..effects import Effect, deferred
from ..spatial import SpatialTransformer
from .parallel import Group


@dataclass(frozen=True)
class Report:
    """What a batch showed, as sums over its images: numbers on the batch's device.

    Parameters
    ----------
    loss, errors, outside : numbers, on a GPU 0-d arrays
        Cross entropies; wrong answers; of the points of an image's sampling grids, the share that
        lies outside it.
    """

    loss: Array
    errors: Array
    outside: Array

    def numbers(self) -> list[Array]:
        """The three, in their order."""
        return [self.loss, self.errors, self.outside]

    def __add__(self, other: Report) -> Report:
        return Report(
            self.loss + other.loss, self.errors + other.errors, self.outside + other.outside
        )


IMAGES = 64
MOST, LEAST = 13e6, 2e6  # numbers that a micro-batch keeps between operations


def micro_batch_size(model: nn.Module, image: tuple[int, ...], batch_size: int) -> int:
    """Images of shape (C, H, W), or volumes, in a micro-batch, where nothing else is said.

    One micro-batch for each core, so that all have work. A larger share is cut into powers of two
    of at most 64 images, fewer if they would keep more numbers than a processor's outermost cache
    holds (`MOST`), but no fewer than 16, where calling an operation costs more than doing it; for
    the same reason what keeps less than `LEAST` is not cut. The machine's cores count, not the
    threads in use, on which the result must not depend.
    """
    share = math.ceil(batch_size / (os.cpu_count() or 1))
    each = activations(model, image)
    most = max(min(IMAGES, MOST / each), LEAST / each, 16)
    return max(share if share <= most else 2 ** int(math.log2(most)), 16)


def activations(model: nn.Module, image: tuple[int, ...]) -> int:
    """How many numbers pass from one operation to another in a forward, for each image.

    Of the model's own device: on the CPU a linear layer and its ReLU are one operation.
    """
    with random_state(0), deferred():
        xp = array_module(model.parameters()[0].data)
        output = model(Tensor(xp.zeros((2, *image), dtype=np.float32)))  # batch norm wants two
    inside = sum(math.prod(edge.shape) for node in nodes(output) for edge in inner(node))
    return (output.size + inside) // 2


def nodes(output: Tensor) -> Iterator[Function]:
    """The operations that an output came by, each once."""
    stack, seen = [output.grad_fn], {output.grad_fn}
    while stack:
        yield (node := stack.pop())
        found = {edge.source for edge in inner(node)} - seen
        seen |= found
        stack += found


def inner(node: Function) -> list[Edge]:
    """The inputs of an operation that are results of others."""
    return [edge for edge in node.edges if edge is not None and isinstance(edge.source, Function)]


class MicroBatches:
    """Runs a function over slices of a batch on a pool of threads; a context manager.

    While it is open, BLAS is held to one thread in the whole process (the setting is global), and
    lifted again when it closes.

    Parameters
    ----------
    size : int
        Images in a micro-batch.
    threads : int, optional
        `num_threads()` by default.
    """

    rank, count = 0, 1  # the process, and how many there are: see `Processes`

    def __init__(self, size: int, threads: int | None = None):
        self.size, self.threads = size, threads or num_threads()

    def __enter__(self) -> MicroBatches:
        self.limit = threadpool_limits(limits=1, user_api="blas")
        self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="minist-step")
        return self

    def __exit__(self, *error: Any) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.limit.restore_original_limits()

    def slices(self, n: int) -> list[slice]:
        """The micro-batches of n images."""
        return [slice(i, min(i + self.size, n)) for i in range(0, n, self.size)]

    def map(self, function: Callable[[int, slice], Any], n: int) -> list[Any]:
        """[function(number, slice)] for each micro-batch of n images, in order."""
        slices = self.slices(n)
        results: list[Any] = [None] * len(slices)
        waiting = iter(enumerate(slices))

        def work() -> None:
            for number, part in waiting:
                results[number] = function(number, part)

        helpers = [self.pool.submit(work) for _ in range(min(self.threads, len(slices)) - 1)]
        work()  # the caller's own thread is one of them: on a GPU the one that captures a graph
        for helper in helpers:
            helper.result()
        return results

    def meet(self, stop: bool = False) -> bool:
        """Wait for the other processes, of which there are none here; whether to stop."""
        return stop


def training_step(
    model: nn.Module,
    images: Array,
    labels: Array,
    micro_batches: MicroBatches,
    seed: Sequence[int] = (0,),
    group: Group = Group(),  # noqa: B008  (frozen)
    label_smoothing: float = 0.0,
    examples: Callable[[Images, int], Images] | None = None,
) -> Report:
    """Leave d(mean cross entropy of the batch)/d(parameter) in every parameter's `grad`.

    Parameters
    ----------
    model : Module
    images : (N, C, H, W)
    labels : (N,)
    micro_batches : MicroBatches
        An open pool.
    seed : sequence of int
        What is drawn inside (dropout) comes from a generator of (*seed, number of micro-batch).
    group : Group
        The processes that take the step together, each with its part of this batch.
    label_smoothing : float
        See `functional.cross_entropy`; the loss that is reported has it, too.
    examples : function, optional
        Makes of a micro-batch's images and labels, and its number, what the model is given and
        shall answer: as many examples.

    Raises
    ------
    ValueError
        If there are more or fewer examples than images.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    watched = transformers(model)
    n, mine = len(labels), group.part(len(labels))
    images, labels = images[mine], labels[mine]
    before = mine.start // micro_batches.size  # micro-batches of other members of the group
    effects: dict[int, list[Effect]] = {}
    alone = len(labels) <= micro_batches.size  # where nothing is added, so nothing else is made

    def forward_backward(number: int, part: slice) -> list[Array]:
        with random_state([*seed, before + number]), deferred() as effects[number]:
            batch = Images(images[part], labels[part])
            if examples is not None:
                batch = as_many(examples(batch, before + number), len(batch.labels))
            logits = model(Tensor(batch.images))
            losses = F.cross_entropy(logits, batch.labels, "none", label_smoothing)
            shown = report(watched, logits, losses, batch.labels)
            shares = array_module(images).full_like(losses.data, 1 / n)  # d mean / d loss of each
            return [*grad(losses, parameters, shares, own=alone), *shown.numbers()]

    parts = micro_batches.map(forward_backward, len(labels))
    if not parts:  # fewer images than members
        xp = array_module(images)
        parts = [[xp.zeros_like(p.data) for p in parameters] + [xp.zeros(())] * 3]
    sums = add_up(parts, group)
    for parameter, gradient in zip(parameters, sums, strict=False):
        parameter.grad = gradient
    for number in sorted(effects):
        for effect in effects[number]:
            effect()
    return Report(*sums[len(parameters) :])


def as_many(made: Images, n: int) -> Images:
    """The examples, if there are n of them; else a ValueError."""
    if len(made.labels) != n:
        raise ValueError(
            f"of {n} digits {len(made.labels)} examples were made: a step needs one of each"
        )
    return made


def add_up(
    parts: Sequence[Sequence[Array]],
    group: Group = Group(),  # noqa: B008  (frozen)
) -> list[Array]:
    """The sums of what each part, a list of arrays, has: of this process's parts always in their
    order, then of all processes."""
    return group.add([sum_in_order(arrays) for arrays in zip(*parts, strict=True)])


def evaluation_step(
    model: nn.Module, images: Array, labels: Array, micro_batches: MicroBatches
) -> Report:
    """What the model makes of a batch, without learning from it.

    Parameters
    ----------
    model : Module
    images : (N, C, H, W)
    labels : (N,)
    micro_batches : MicroBatches
        An open pool.
    """
    watched = transformers(model)

    def forward(number: int, part: slice) -> list[Array]:
        with no_grad():  # each thread has its own
            logits = model(Tensor(images[part]))
            losses = F.cross_entropy(logits, labels[part], reduction="none")
            return report(watched, logits, losses, labels[part]).numbers()

    return Report(*add_up(micro_batches.map(forward, len(labels))))


def report(
    watched: list[SpatialTransformer], logits: Tensor, losses: Tensor, labels: Array
) -> Report:
    """What a micro-batch showed, from its logits, the losses and its transformers."""
    shares = [st.outside.mean() for st in watched]
    return Report(
        loss=losses.data.sum(),
        errors=(logits.data.argmax(axis=1) != labels).sum(),
        outside=sum(shares) / max(len(shares), 1) * len(labels),
    )


def transformers(model: nn.Module) -> list[SpatialTransformer]:
    """The spatial transformers of a model, in the order of its attributes."""
    return [module for _, module in model.named_modules() if isinstance(module, SpatialTransformer)]


def sum_in_order(values: Sequence[Any]) -> Any:
    """v0 + v1 + v2 ..., always in this order."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
