"""Peak memory of a training step, each contestant in a process of its own."""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from . import cases, networks, own


def listed(sizes: tuple[int, ...]) -> list[tuple[str, str | None, int]]:
    return [(*network, size) for size in sizes for network in (("cnn", None), ("st-cnn", "affine"))]


def measured(
    name: str, transformation: str | None, size: int, batch_size: int, peers: list[str]
) -> dict[str, float]:
    """Megabytes of each contestant."""
    return {
        who: in_process(who, name, transformation, size, batch_size)
        for who in (own.TRAINING, own.OWN_LOOP, *peers)
    }


def in_process(*what) -> float:
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit our own peak
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(grown, *what).result()


def grown(who: str, name: str, transformation: str | None, size: int, batch_size: int) -> float:
    """Megabytes by which three training steps raise the peak of this process.

    From where two steps on four images have left it: libraries are loaded by then. Where training
    goes on in several processes, times their number: each has micro-batches of its own.
    """
    model = networks.build(name, transformation, size)

    def run(n: int, steps: int) -> float:
        images, labels = networks.batch(n, size)
        if who in (own.TRAINING, own.OWN_LOOP):
            contestant = own.training(model, images, labels)[who]
        else:
            contestant = cases.module_of(who).training(who, model, images, labels)
        with contestant.context():
            for _ in range(steps):
                contestant.step()
        return peak()

    before = run(4, 2)
    more = run(batch_size, 3) - before
    if who == own.TRAINING:
        more *= own.cores(model, networks.batch(batch_size, size)[0]).count
    return more


def peak() -> float:
    """Megabytes of memory that this process has had at most."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    except (OSError, IndexError):
        import resource  # not on Windows

        # On Linux this would begin at the peak of the process that started us.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
