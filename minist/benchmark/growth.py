"""How cost grows: time per image against batch size, image size and threads, as a picture."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..backend import num_threads
from . import contest, networks, own
from .cases import module_of

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SIDES = (28, 36, 44, 52, 60, 76, 92, 108, 128, 160, 192, 224, 256)
SIDES_BATCH = 8
FILTERS = 32


def draw(path: Path, peers: Sequence[str] = (), quick: bool = False) -> None:
    """Measure ST-CNN, affine, 32 filters, and draw three sets of curves.

    peers : of `benchmark.PEERS`
    quick : a few points only
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    step = 4 if quick else 1
    batches, sides = BATCHES[:5:step] if quick else BATCHES, SIDES[:5:step] if quick else SIDES
    panels = (
        ("training step, 28x28", "images in the batch", [(n, 28) for n in batches], True),
        ("inference, 28x28", "images in the batch", [(n, 28) for n in batches], False),
        (
            f"training step, batch {SIDES_BATCH}",
            "pixels a side",
            [(SIDES_BATCH, s) for s in sides],
            True,
        ),
    )
    figure = Figure(figsize=(13, 4), layout="constrained")
    for axes, (title, label, points, training) in zip(figure.subplots(1, 3), panels, strict=True):
        along = batches if label.startswith("images") else sides
        for name, curve in curves(points, peers, training, quick).items():
            axes.plot(along, curve, "o-", markersize=3, label=name)
        axes.set(title=title, xlabel=label, ylabel="ms an image", xscale="log", yscale="log")
        axes.set_xticks(along, along, rotation=60)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def curves(
    points: Iterable[tuple[int, int]], peers: Sequence[str], training: bool, quick: bool
) -> dict[str, list[float]]:
    """Milliseconds an image at each (batch, side), by contestant and number of threads."""
    found: dict[str, list[float]] = {}
    for threads in sorted({1, num_threads()}):
        cores = f"{threads} thread{'s' * (threads > 1)}"
        for n, side in points:
            with limited(threads):
                for name, ms in point(n, side, peers, training, quick).items():
                    found.setdefault(f"{name}, {cores}", []).append(ms / n)
    return found


def point(n: int, side: int, peers: Sequence[str], training: bool, quick: bool) -> dict[str, float]:
    images, labels = networks.batch(n, side)
    model = networks.build("st-cnn", "affine", side, FILTERS)
    if training:
        contestants = {own.TRAINING: own.training(model, images, labels)[own.TRAINING]}
    else:
        contestants = {own.TRAINING: own.inference(model, images)[own.OWN_LOOP]}
    for peer in peers:
        module = module_of(peer)
        contestants[peer] = (
            module.training(peer, model, images, labels)
            if training
            else module.inference(peer, model, images)
        )
    # Several turns, so that a disturbed second does not show as a cliff.
    rounds, seconds = (1, 0.02) if quick else (3, 0.1)
    return contest.medians(contestants, rounds, seconds)


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """The given number of threads, for minist and for peers made inside."""
    before = os.environ.get("MINIST_NUM_THREADS")
    os.environ["MINIST_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        del os.environ["MINIST_NUM_THREADS"]
        if before is not None:
            os.environ["MINIST_NUM_THREADS"] = before
