"""What is timed: operations at the shapes of the paper's models, steps, inference, distortions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .. import functional as F
from .. import spatial
from ..datasets import MNIST, distort
from ..functional.convolution import Geometry, quickest
from ..models import TRANSFORMATIONS
from . import networks, own
from .contest import Contestant

SIZES = (28, 42, 60)


@dataclass(frozen=True)
class Case:
    """A row of the table. `contestants` makes them when its turn comes: each holds memory."""

    group: str
    name: str
    contestants: Callable[[], dict[str, Contestant]]
    flops: float = 0.0
    bytes: float = 0.0
    images: int = 0  # where images a second are of interest


def cases(batch_size: int, peers: list[str], quick: bool) -> Iterator[Case]:
    yield from operations(batch_size, peers)
    sizes = SIZES[:1] if quick else SIZES
    for size in sizes:
        for name, transformation in NETWORKS:
            yield step(name, transformation, size, batch_size, peers)
    for n in (1, batch_size):
        for size in sizes:
            for name, transformation in NETWORKS[:4] if size == 28 else NETWORKS[1:4:2]:
                yield inference(name, transformation, size, n, peers)
    for kind in ("R", "RTS", "P", "E", "TC"):
        yield distortion(kind, batch_size)


NETWORKS = (
    ("fcn", None),
    ("cnn", None),
    ("st-fcn", "affine"),
    ("st-cnn", "affine"),
    ("st-fcn", "projective"),
    ("st-cnn", "projective"),
    ("st-fcn", "tps"),
    ("st-cnn", "tps"),
)


QUICKLY_MADE = ("PyTorch", "channels_last")
COMPILED = (("cnn", None), ("st-cnn", "affine"))  # by the others, which take a minute for each


def label(name: str, transformation: str | None, size: int) -> str:
    return f"{name}{f' {transformation}' if transformation else ''} {size}x{size}"


def step(name: str, transformation: str | None, size: int, n: int, peers: list[str]) -> Case:
    images, labels = networks.batch(n, size)
    model = networks.build(name, transformation, size)

    def contestants() -> dict[str, Contestant]:
        found = own.training(model, images, labels)
        for peer in [p for p in peers if p in QUICKLY_MADE or (name, transformation) in COMPILED]:
            found[peer] = module_of(peer).training(peer, model, images, labels)
        return found

    work = networks.work_of_step(model, images, labels)
    return Case("step", label(name, transformation, size), contestants, *work, n)


def inference(name: str, transformation: str | None, size: int, n: int, peers: list[str]) -> Case:
    images, _ = networks.batch(n, size)
    model = networks.build(name, transformation, size)

    def contestants() -> dict[str, Contestant]:
        found = own.inference(model, images)
        for peer in [p for p in peers if p in QUICKLY_MADE]:
            found[peer] = module_of(peer).inference(peer, model, images)
        return found

    many = "1 image" if n == 1 else f"{n} images"
    return Case("inference", f"{label(name, transformation, size)}, {many}", contestants, images=n)


def distortion(kind: str, n: int) -> Case:
    digits = np.resize(MNIST().images[:n], (n, 1, 28, 28))

    def contestants() -> dict[str, Contestant]:
        rng = np.random.default_rng(0)
        return {own.TRAINING: Contestant(lambda: distort(digits, kind, rng), own.blas_threads)}

    return Case("distortion", kind, contestants, images=n)


def module_of(peer: str) -> Any:
    """The module that brings a peer."""
    if peer == "JAX":
        from . import jax_peer

        return jax_peer
    from . import torch_peer

    return torch_peer


# --- operations ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """An operation with its name in `functional`, or a function for each library."""

    name: str
    ours: Callable[..., Any]
    theirs: Callable[..., Any]  # PyTorch itself comes first
    inputs: tuple[tuple[int, ...], ...]  # shapes, None for the batch
    wanted: tuple[bool, ...]  # gradients
    multiplications: float = 0.0  # for each image


def operations(n: int, peers: list[str]) -> Iterator[Case]:
    for one in listed(n):
        for backward in (False, True):
            yield operation(one, n, [p for p in peers if p in QUICKLY_MADE], backward)


def operation(one: Operation, n: int, peers: list[str], backward: bool) -> Case:
    rng = np.random.default_rng(0)
    batched = [shape[0] is None for shape in one.inputs]
    arrays = [
        rng.uniform(-1, 1, tuple(n if side is None else side for side in shape)).astype("f")
        for shape in one.inputs
    ]
    wanted = list(one.wanted)

    def contestants() -> dict[str, Contestant]:
        found = own.operation(one.ours, arrays, wanted, batched, backward)
        if peers:
            import torch

            theirs = partial(one.theirs, torch)
        for peer in peers:
            found[peer] = module_of(peer).operation(peer, theirs, arrays, wanted, backward)
        return found

    y = one.ours(*arrays)
    passes = 1 + backward * sum(wanted[:2])
    flops = 2.0 * one.multiplications * n * passes
    # Read and written once; in the backward its gradients likewise.
    numbers = sum(a.size for a in arrays) + y.size
    numbers += backward * (y.size + sum(a.size for a, w in zip(arrays, wanted, strict=True) if w))
    direction = "forward and backward" if backward else "forward"
    return Case("operation", f"{one.name}, {direction}", contestants, flops, 4.0 * numbers)


def listed(n: int) -> Iterator[Operation]:
    """The operations of the paper's models, at their shapes."""
    for c, f, k, size, wanted in (
        (1, 48, 9, 28, True),
        (1, 48, 9, 42, True),
        (1, 32, 9, 60, True),
        (1, 48, 9, 28, False),
        (48, 48, 7, 10, True),
        (48, 48, 7, 17, True),
        (32, 32, 7, 26, True),
        (1, 20, 5, 14, False),
        (20, 20, 5, 13, True),
        (32, 32, 3, 28, True),
    ):
        out, note = size - k + 1, "" if wanted else " (no input gradient)"
        geometry = Geometry(n, c, (size,) * 2, f, (k,) * 2, (out,) * 2, (1, 1), (1, 1), 1)
        yield Operation(
            f"conv {c} to {f}, {k}x{k} on {size}x{size}{note}",
            F.conv2d,
            lambda torch, *inputs: torch.nn.functional.conv2d(*inputs),
            ((None, c, size, size), (f, c, k, k), (f,)),
            (wanted, True, True),
            quickest(geometry).operations(geometry),
        )
    for c, size in ((48, 20), (48, 34), (32, 52)):
        yield Operation(
            f"max-pool {c}x{size}x{size}",
            lambda x: F.max_pool2d(x, 2),
            lambda torch, x: torch.nn.functional.max_pool2d(x, 2),
            ((None, c, size, size),),
            (True,),
        )
    yield Operation(
        "max-pool and ReLU 48x34x34",
        lambda x: F.relu(F.max_pool2d(x, 2)),
        lambda torch, x: torch.nn.functional.relu(torch.nn.functional.max_pool2d(x, 2)),
        ((None, 48, 34, 34),),
        (True,),
    )
    yield Operation(
        "ReLU 48x17x17",
        F.relu,
        lambda torch, x: torch.nn.functional.relu(x),
        ((None, 48, 17, 17),),
        (True,),
    )
    yield Operation(
        "average-pool 1x42x42",
        lambda x: F.avg_pool2d(x, 2),
        lambda torch, x: torch.nn.functional.avg_pool2d(x, 2),
        ((None, 1, 42, 42),),
        (True,),
    )
    for a, b in ((784, 130), (1200, 10)):
        yield Operation(
            f"linear {a} to {b}",
            F.linear,
            lambda torch, *inputs: torch.nn.functional.linear(*inputs),
            ((None, a), (b, a), (b,)),
            (True, True, True),
            a * b,
        )
    yield Operation(
        "cross entropy, 10 classes",
        lambda x: F.cross_entropy(x, np.arange(len(x)) % 10, "sum"),
        lambda torch, x: torch.nn.functional.cross_entropy(
            x, torch.arange(len(x)) % 10, reduction="sum"
        ),
        ((None, 10),),
        (True,),
    )
    for name, transformation in TRANSFORMATIONS.items():
        if name in ("affine", "projective", "tps"):
            chosen = transformation()
            yield Operation(
                f"{name} grid 28x28",
                lambda theta, t=chosen: t.grid(theta, (28, 28)),
                lambda torch, theta, t=chosen: torch_grid(t, theta),
                ((None, chosen.num_parameters),),
                (True,),
            )
    for size in SIZES:
        yield Operation(
            f"bilinear sampler {size}x{size}",
            lambda u, grid: spatial.grid_sample(u, grid),
            lambda torch, u, grid: torch.nn.functional.grid_sample(u, grid, align_corners=True),
            ((None, 1, size, size), (None, size, size, 2)),
            (True, True),
        )
    yield Operation(
        "bilinear sampler 28x28 (no input gradient)",
        lambda u, grid: spatial.grid_sample(u, grid),
        lambda torch, u, grid: torch.nn.functional.grid_sample(u, grid, align_corners=True),
        ((None, 1, 28, 28), (None, 28, 28, 2)),
        (False, True),
    )


def torch_grid(transformation: spatial.Transformation, theta: Any) -> Any:
    from .torch_peer import grid_of

    return grid_of(transformation, theta, (28, 28), True)
