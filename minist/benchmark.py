"""minist beside PyTorch: one training step of the same network on the same cores, in one run.

The contestants take turns, with a pause between them: idle threads of BLAS and OpenMP spin for
tens of milliseconds and would slow whoever comes next. What is compared is the ratio of medians.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from . import functional as F
from . import models, nn, optim
from .autograd import Tensor
from .backend import num_threads
from .datasets import MNIST, distort
from .models import CNN, STNetwork
from .training import MicroBatches, training_step

PAUSE = 0.3  # seconds; longer than any thread spins
WARM_UP = 3


def run(model: str = "st-cnn", batch_size: int = 256, steps: int = 15, rounds: int = 3) -> str:
    """Time a training step (forward, loss, backward, SGD) and return a table.

    Rows: minist through `training/` and in a user's own loop over whole batches; PyTorch eager as
    its users write it and with channels_last, where it is installed.

    Parameters
    ----------
    model : "cnn" or "st-cnn"
    batch_size : int
    steps : int
        Steps of a contestant in each of its turns.
    rounds : int
        Turns of each contestant.
    """
    if model not in ("cnn", "st-cnn"):
        raise ValueError(f"benchmark: model must be cnn or st-cnn, not {model!r}")
    images = distort(MNIST().images[:batch_size], "R", np.random.default_rng(0))
    labels = MNIST().labels[:batch_size]
    contestants = {
        "minist, training/": lambda: micro_batched(model, images, labels),
        "minist, own loop": lambda: own_loop(model, images, labels),
    }
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: no peer to compare with")
    else:
        for name, memory in (
            ("PyTorch eager", torch.contiguous_format),
            ("PyTorch channels_last", torch.channels_last),
        ):
            contestants[name] = lambda m=memory: torch_loop(model, images, labels, m)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            time.sleep(PAUSE)
            with contestant() as step:
                times[name] += timed(step, steps)
    return table(model, batch_size, {name: statistics.median(t) for name, t in times.items()})


def timed(step: Callable[[], None], steps: int) -> list[float]:
    """Milliseconds of each step, after a few to warm up."""
    for _ in range(WARM_UP):
        step()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start))
    return times


@contextmanager
def micro_batched(
    name: str, images: np.ndarray, labels: np.ndarray
) -> Iterator[Callable[[], None]]:
    model = models.build(name)
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    with MicroBatches(64) as micro_batches:

        def step() -> None:
            training_step(model, images, labels, micro_batches)
            optimizer.step()

        yield step


@contextmanager
def own_loop(name: str, images: np.ndarray, labels: np.ndarray) -> Iterator[Callable[[], None]]:
    model = models.build(name)
    optimizer = optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(Tensor(images)), labels).backward()
        optimizer.step()

    with threadpool_limits(num_threads(), "blas"):
        yield step


@contextmanager
def torch_loop(
    name: str, images: np.ndarray, labels: np.ndarray, memory_format
) -> Iterator[Callable[[], None]]:
    """The same network in PyTorch, with the weights of ours."""
    import torch

    torch.set_num_threads(num_threads())
    model = torch_model(models.build(name)).to(memory_format=memory_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.tensor(np.ascontiguousarray(images)).to(memory_format=memory_format)
    y = torch.tensor(labels)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    yield step


def torch_model(model: nn.Module):
    """A network of `minist.models` with an affine transformer, or a CNN, as its PyTorch user would
    write it, with the same weights."""
    import torch

    def layers(net: nn.Sequential) -> torch.nn.Sequential:
        return torch.nn.Sequential(*(torch_layer(layer) for layer in net))

    def torch_layer(layer: nn.Module) -> torch.nn.Module:
        if isinstance(layer, nn.Conv2d):
            f, c, *kernel = layer.weight.shape
            return torch.nn.Conv2d(c, f, kernel)
        if isinstance(layer, nn.Linear):
            return torch.nn.Linear(*reversed(layer.weight.shape))
        if isinstance(layer, nn.AvgPool2d):
            return torch.nn.AvgPool2d(2)
        if isinstance(layer, nn.MaxPool2d):
            return torch.nn.MaxPool2d(2)
        return {nn.ReLU: torch.nn.ReLU, nn.Flatten: torch.nn.Flatten}[type(layer)]()

    class Transformer(torch.nn.Module):
        def __init__(self, localisation):
            super().__init__()
            self.localisation = localisation

        def forward(self, u):
            theta = self.localisation(u).view(-1, 2, 3)
            grid = torch.nn.functional.affine_grid(theta, u.shape, align_corners=True)
            return torch.nn.functional.grid_sample(u, grid, align_corners=True)

    class Network(torch.nn.Module):
        def __init__(self, st: STNetwork):
            super().__init__()
            self.transformer = Transformer(layers(st.transformer.localisation))
            self.classifier = layers(st.classifier)

        def forward(self, images):
            return self.classifier(self.transformer(images))

    peer = layers(model) if isinstance(model, CNN) else Network(model)
    peer.load_state_dict({k: torch.tensor(v) for k, v in model.state_dict().items()})
    return peer


def table(model: str, batch_size: int, medians: dict[str, float]) -> str:
    """Medians in milliseconds, and each as a ratio to PyTorch eager."""
    lines = [
        f"one training step of {model} at 28x28, batch {batch_size}, {num_threads()} threads",
        f"{platform.processor() or platform.machine()}, {blas()}, NumPy {np.__version__}",
        "",
        f"{'':24}{'ms':>8}{'of eager':>10}",
    ]
    eager = medians.get("PyTorch eager")
    for name, median in medians.items():
        ratio = f"{median / eager:10.2f}" if eager else ""
        lines.append(f"{name:24}{median:8.1f}{ratio}")
    return "\n".join(lines)


def blas() -> str:
    """The BLAS in use and its kernel."""
    for library in threadpool_info():
        if library["user_api"] == "blas":
            kernel = library.get("architecture", "unknown")
            return f"{library['internal_api']} {library['version']}, kernel {kernel}"
    return "BLAS unknown"
