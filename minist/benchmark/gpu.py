"""minist beside PyTorch on one GPU: steps, inference, the sampler and other operations.

The columns are those of the CPU's table: "minist" is what training runs, its step as a CUDA graph;
"own loop" the same operations started one by one; "PyTorch" is eager, its best peer may be its own
CUDA graph. Times are between two CUDA events around several steps, after a warm-up, in turns. Both
libraries work on the default stream, so that the same events time them. TF32 is off for both,
or on for both with MINIST_TF32=1.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np

from .. import functional as F
from .. import optim, spatial
from ..autograd import Tensor, _backpropagate, no_grad
from ..backend import module_of, processor
from ..cuda.blas import matmul
from ..training.captured import Captured
from ..training.step import MicroBatches, evaluation_step, training_step
from . import networks
from .cases import NETWORKS, SIZES, label
from .own import OWN_LOOP, TRAINING
from .report import Row

GRAPHED = "CUDA graph"  # PyTorch's

Step = Callable[[], Any]


@dataclass(frozen=True)
class Card:
    """A GPU, and how fast it multiplies and copies at best."""

    gpu: str
    versions: dict[str, str]
    tf32: bool
    multiply_rate: float  # flop/s, float32
    copy_rate: float  # byte/s, read and written

    @classmethod
    def here(cls) -> Card:
        versions = {"CuPy": module_of("cuda").__version__}
        if find_spec("torch"):
            versions["PyTorch"] = version("torch")
        tf32 = os.environ.get("MINIST_TF32") == "1"
        return cls(processor("cuda"), versions, tf32, multiply_rate(), copy_rate())

    def __str__(self) -> str:
        return (
            f"{self.gpu}, TF32 {'on' if self.tf32 else 'off'}; "
            + ", ".join(f"{name} {number}" for name, number in self.versions.items())
            + f"; products {self.multiply_rate / 1e12:.1f} TFLOP/s, "
            + f"copies {self.copy_rate / 1e9:.0f} GB/s"
        )


def multiply_rate(n: int = 4096) -> float:
    a = module_of("cuda").ones((n, n), dtype=np.float32)
    return 2 * n**3 / (1e-3 * min(timed(lambda: matmul(a, a), 10) for _ in range(5)))


def copy_rate(megabytes: int = 256) -> float:
    xp = module_of("cuda")
    a = xp.ones(megabytes * 2**20 // 4, dtype=np.float32)
    b = xp.empty_like(a)

    def copy() -> None:
        b[...] = a

    return 2 * a.nbytes / (1e-3 * min(timed(copy, 10) for _ in range(5)))


def timed(step: Step, times: int) -> float:
    """Milliseconds of a step: between events before and after so many."""
    cuda = module_of("cuda").cuda
    start, end = cuda.Event(), cuda.Event()
    start.record()
    for _ in range(times):
        step()
    end.record()
    end.synchronize()
    return cuda.get_elapsed_time(start, end) / times


def medians(steps: dict[str, Step], rounds: int = 5, milliseconds: float = 100) -> dict[str, float]:
    """Milliseconds of a step of each: medians over `rounds` turns of about so many milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    counts = {}
    for name, step in steps.items():
        timed(step, 5)  # compiles, fills pools, captures
        counts[name] = max(int(milliseconds / timed(step, 5)), 1)
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(timed(step, counts[name]))
    return {name: statistics.median(t) for name, t in times.items()}


@dataclass(frozen=True)
class Case:
    """A row of the table; its steps are made when its turn comes."""

    group: str
    name: str
    steps: Callable[[], dict[str, Step]]
    flops: float = 0.0
    bytes: float = 0.0
    images: int = 0


def rows(cases: Iterator[Case], card: Card, quick: bool) -> Iterator[Row]:
    for case in cases:
        found = medians(case.steps(), *((1, 20) if quick else ()))
        floor = 1e3 * max(case.flops / card.multiply_rate, case.bytes / card.copy_rate)
        yield Row(case.group, case.name, found, floor or None, case.images)


def cases(n: int, peers: list[str], quick: bool, device: str = "cuda") -> Iterator[Case]:
    """`device` is another for the tests alone."""
    torch = "PyTorch" in peers
    yield from operations(n, torch, device)
    for size in SIZES[:1] if quick else SIZES:
        for name, transformation in NETWORKS:
            yield training(name, transformation, size, n, torch, device)
    for size in SIZES[:1] if quick else SIZES:
        for name, transformation in (("cnn", None), ("st-cnn", "affine")):
            yield inference(name, transformation, size, n, torch, device)


def training(
    name: str, transformation: str | None, size: int, n: int, torch: bool, device: str
) -> Case:
    """A step of SGD: forward, loss, backward, update."""
    images, labels = networks.batch(n, size)
    model = networks.build(name, transformation, size)
    work = networks.work_of_step(model, images, labels)

    def steps() -> dict[str, Step]:
        found = theirs(device).training(model, images, labels) if torch else {}
        ours = model.to(device)
        xp = module_of(device)
        x, y = xp.asarray(images), xp.asarray(labels)
        optimizer, captured = optim.SGD(ours.parameters(), lr=0.01), Captured(training_step)
        whole = MicroBatches(n, threads=1)

        def graphed() -> None:
            captured(ours, x, y, whole)
            optimizer.step()

        def in_own_loop() -> None:
            optimizer.zero_grad()
            F.cross_entropy(ours(Tensor(x)), y).backward()
            optimizer.step()

        return {TRAINING: graphed, OWN_LOOP: in_own_loop, **found}

    return Case("step", label(name, transformation, size), steps, *work, n)


def inference(
    name: str, transformation: str | None, size: int, n: int, torch: bool, device: str
) -> Case:
    images, _ = networks.batch(n, size)
    model = networks.build(name, transformation, size).eval()

    def steps() -> dict[str, Step]:
        found = theirs(device).inference(model, images) if torch else {}
        ours, x = model.to(device), module_of(device).asarray(images)
        labels = module_of(device).zeros(n, dtype=np.int64)
        whole = MicroBatches(n, threads=1)
        return {
            TRAINING: lambda: evaluation_step(ours, x, labels, whole),
            OWN_LOOP: no_grad()(lambda: ours(Tensor(x))),
            **found,
        }

    return Case("inference", f"{label(name, transformation, size)}, {n} images", steps, images=n)


def operations(n: int, torch: bool, device: str) -> Iterator[Case]:
    """The sampler where memory decides, and the layers of the paper's networks."""
    image = (n, 32, 64, 64)
    listed = (
        (
            "bilinear sampler 32x64x64",
            spatial.grid_sample,
            lambda t, u, grid: t.nn.functional.grid_sample(u, grid, align_corners=True),
            [image, (n, 64, 64, 2)],
            0.0,
        ),
        (
            "conv 1 to 48, 9x9 on 28x28",
            F.conv2d,
            lambda t, x, w: t.nn.functional.conv2d(x, w),
            [(n, 1, 28, 28), (48, 1, 9, 9)],
            48 * 81 * 400.0,
        ),
        (
            "conv 48 to 48, 7x7 on 17x17",
            F.conv2d,
            lambda t, x, w: t.nn.functional.conv2d(x, w),
            [(n, 48, 17, 17), (48, 48, 7, 7)],
            48 * 48 * 49 * 121.0,
        ),
        (
            "max-pool 48x34x34",
            lambda x: F.max_pool2d(x, 2),
            lambda t, x: t.nn.functional.max_pool2d(x, 2),
            [(n, 48, 34, 34)],
            0.0,
        ),
    )
    for name, ours, others, shapes, products in listed:
        for backward in (False, True):
            yield operation(name, ours, others, shapes, products, backward, torch, device)


def operation(
    name: str,
    ours: Callable[..., Tensor],
    others: Callable[..., Any],
    shapes: list[tuple[int, ...]],
    products: float,
    backward: bool,
    torch: bool,
    device: str,
) -> Case:
    n = shapes[0][0]
    passes = 1 + backward * len(shapes)

    def arrays() -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        return [rng.uniform(-1, 1, shape).astype("f") for shape in shapes]

    def steps() -> dict[str, Step]:
        xp = module_of(device)
        found = theirs(device).operation(others, arrays(), backward) if torch else {}
        inputs = [Tensor(xp.asarray(a), requires_grad=backward) for a in arrays()]

        def forward() -> Any:
            return ours(*inputs)

        if not backward:
            return {TRAINING: no_grad()(forward), **found}
        grad = xp.ones_like(forward().data)
        step = partial(backpropagate, forward, grad)
        return {TRAINING: step, **found}

    # Read and written once; in the backward its gradients likewise.
    one = ours(*(np.zeros((1, *s[1:]) if s[0] == n else s, "f") for s in shapes))
    numbers = (sum(prod(shape) for shape in shapes) + n * one.size) * (1 + backward)
    direction = "forward and backward" if backward else "forward"
    return Case("operation", f"{name}, {direction}", steps, 2 * products * n * passes, 4 * numbers)


def backpropagate(forward: Step, grad: Any) -> None:
    _backpropagate(forward(), grad, retain_graph=False)


def theirs(device: str) -> Any:
    """PyTorch's side."""
    from .torch_gpu import Peer

    return Peer(device)
