"""The table, and the same as JSON."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from ..backend import num_threads, processor
from .machine import blas, copy_rate, multiply_rate
from .own import OWN_LOOP, TRAINING

EAGER = "PyTorch"


@dataclass(frozen=True)
class Machine:
    """What the numbers were measured on."""

    cpu: str
    blas: str
    threads: int
    versions: dict[str, str]
    multiply_rate: float  # flop/s
    copy_rate: float  # byte/s, read and written

    @classmethod
    def here(cls) -> Machine:
        versions = {"Python": platform.python_version(), "NumPy": np.__version__}
        for name, package in (("PyTorch", "torch"), ("JAX", "jax")):
            try:
                versions[name] = version(package)
            except PackageNotFoundError:
                continue
        return cls(processor(), blas(), num_threads(), versions, multiply_rate(), copy_rate())

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.threads} threads, {self.blas}; "
            + ", ".join(f"{name} {number}" for name, number in self.versions.items())
            + f"; products {self.multiply_rate / 1e9:.0f} GFLOP/s, "
            + f"copies {self.copy_rate / 1e9:.1f} GB/s"
        )


@dataclass(frozen=True)
class Row:
    """A case and what was measured: milliseconds of each contestant, or megabytes."""

    group: str
    name: str
    measured: dict[str, float]
    floor: float | None = None  # ms
    images: int = 0

    @property
    def best_peer(self) -> str | None:
        peers = [name for name in self.measured if name not in (TRAINING, OWN_LOOP)]
        return min(peers, key=self.measured.get, default=None)

    def ratio(self, one: str, to: str | None) -> float | None:
        if one in self.measured and to in self.measured:
            return self.measured[one] / self.measured[to]
        return None

    def as_dict(self) -> dict[str, Any]:
        return {
            "group": self.group,
            "name": self.name,
            "unit": "MB" if self.group == "memory" else "ms",
            "measured": self.measured,
            "best_peer": self.best_peer,
            "ratio_to_eager": self.ratio(TRAINING, EAGER),
            "own_loop_ratio_to_eager": self.ratio(OWN_LOOP, EAGER),
            "ratio_to_best": self.ratio(TRAINING, self.best_peer),
            "floor": self.floor,
            "images_per_second": 1e3 * self.images / self.measured[TRAINING]
            if self.images and self.group != "memory"
            else None,
        }


COLUMNS = (
    "",
    "minist",
    "own loop",
    "PyTorch",
    "best peer",
    "",
    "/PyTorch",
    "own/PyTorch",
    "/best",
    "floor",
    "reached",
    "images/s",
)


def line(row: Row) -> str:
    """A row of a Markdown table; `COLUMNS` tells of its cells."""
    found, best = row.as_dict(), row.best_peer
    cells = [
        row.name,
        number(row.measured.get(TRAINING)),
        number(row.measured.get(OWN_LOOP)),
        number(row.measured.get(EAGER)),
        number(row.measured.get(best)),
        best or "",
        ratio(found["ratio_to_eager"]),
        ratio(found["own_loop_ratio_to_eager"]),
        ratio(found["ratio_to_best"]),
        number(row.floor),
        f"{row.floor / row.measured[TRAINING]:.0%}" if row.floor else "",
        f"{found['images_per_second']:,.0f}" if found["images_per_second"] else "",
    ]
    return "| " + " | ".join(cells) + " |"


def heading(group: str) -> str:
    unit = "megabytes" if group == "memory" else "milliseconds"
    return "\n".join(
        [
            f"\n**{group}**, {unit}\n",
            "| " + " | ".join(COLUMNS) + " |",
            "|---|" + "---:|" * (len(COLUMNS) - 1),
        ]
    )


def number(x: float | None) -> str:
    return "" if x is None else f"{x:.2f}" if x < 10 else f"{x:.1f}" if x < 100 else f"{x:,.0f}"


def ratio(x: float | None) -> str:
    return "" if x is None else f"{x:.2f}"
