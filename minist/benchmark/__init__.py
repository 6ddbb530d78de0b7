"""minist beside its peers: what each operation, training step and inference takes on this machine.

All contestants do the same work on the same cores, in turns in one run (`contest.py`). A row
compares minist as training runs it, in micro-batches, and in a user's own loop over whole batches
with PyTorch as its users write it (eager), with the best that it can do (channels_last,
torch.compile) and with JAX, where they are installed; and with the floor: the larger of the
row's multiplications at the rate of large products, and its bytes at the rate of large copies.
(A row that stays in the cache can beat a floor of copies.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from importlib.util import find_spec

from . import cases, contest, gpu, growth, memory, report
from .machine import blas
from .report import Machine, Row

__all__ = ["PEERS", "blas", "growth", "installed", "run"]

PEERS = {"PyTorch": "torch", "channels_last": "torch", "compiled": "torch", "JAX": "jax"}


def installed() -> list[str]:
    """The peers that can be raced here."""
    return [peer for peer, package in PEERS.items() if find_spec(package)]


def run(
    batch_size: int = 256,
    peers: Sequence[str] | None = None,
    only: str = "*",
    quick: bool = False,
    as_json: bool = False,
    device: str = "cpu",
) -> None:
    """Measure and print a table, row by row.

    Parameters
    ----------
    batch_size : int
    peers : sequence of str, optional
        Of `PEERS`; by default all that are installed. Those that compile race in whole steps of
        ST-CNN affine and CNN only: they take minutes for it.
    only : str
        Rows whose "group name" match this pattern, or hold it; * and ? as in file names.
    quick : bool
        28x28 only, and short turns.
    as_json : bool
        Print JSON at the end instead.
    device : "cpu" or "cuda"
        On a GPU the peer is PyTorch, eager and with its own CUDA graph (`gpu.py`).
    """
    machine = Machine.here() if device == "cpu" else gpu.Card.here()
    found = []
    if not as_json:
        print(machine)
    peers = installed() if peers is None else list(peers)
    rows_of = rows if device == "cpu" else rows_on_gpu
    for row in rows_of(batch_size, peers, only, quick, machine):
        if not as_json:
            if not found or found[-1].group != row.group:
                print(report.heading(row.group))
            print(report.line(row), flush=True)
        found.append(row)
    if not found:
        raise ValueError(f"benchmark: no row is like {only!r}")
    if as_json:
        print(
            json.dumps({"machine": vars(machine), "rows": [r.as_dict() for r in found]}, indent=1)
        )


def rows(
    batch_size: int, peers: list[str], only: str, quick: bool, machine: Machine
) -> Iterator[Row]:
    for case in cases.cases(batch_size, peers, quick):
        if not matches(f"{case.group} {case.name}", only):
            continue
        rounds, seconds = (1, 0.1) if quick else (3, 0.3)
        measured = contest.medians(case.contestants(), rounds, seconds)
        floor = 1e3 * max(case.flops / machine.multiply_rate, case.bytes / machine.copy_rate)
        yield Row(case.group, case.name, measured, floor or None, case.images)
    sizes = cases.SIZES[:1] if quick else cases.SIZES
    peers = [p for p in peers if p in cases.QUICKLY_MADE]
    for name, transformation, size in memory.listed(sizes):
        label = cases.label(name, transformation, size)
        if matches(f"memory {label}", only):
            measured = memory.measured(name, transformation, size, batch_size, peers)
            yield Row("memory", label, measured)


def rows_on_gpu(
    batch_size: int, peers: list[str], only: str, quick: bool, card: gpu.Card
) -> Iterator[Row]:
    chosen = (
        case
        for case in gpu.cases(batch_size, peers, quick)
        if matches(f"{case.group} {case.name}", only)
    )
    return gpu.rows(chosen, card, quick)


def matches(name: str, pattern: str) -> bool:
    return fnmatch(name, f"*{pattern}*")
