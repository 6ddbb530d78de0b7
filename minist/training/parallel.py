"""Training on several GPUs: each process takes its part of every batch, and gradients are added up.

Every process has the same weights, draws the same batches and makes the same update; only the part
of the batch that it computes differs. So a step gives what one GPU gives at the same batch, but for
the order in which float32 numbers are added.

`minist train --gpus 4` starts four processes on this machine. A launcher that sets RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, as torchrun does, starts them on any number of
machines.
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import Array, array_module


def nothing(buffer: Array) -> None:
    """The sum over a single process."""


@dataclass(frozen=True)
class Group:
    """The processes that train together.

    Parameters
    ----------
    rank, size : int
        The number of this process, and how many there are.
    all_reduce : function
        Replaces an array by its sum over all processes.
    """

    rank: int = 0
    size: int = 1
    all_reduce: Callable[[Array], Any] = nothing

    def part(self, n: int) -> slice:
        """This process's images of a batch of n."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def add(self, arrays: Sequence[Array]) -> list[Array]:
        """Each array summed over all processes, by way of one flat buffer of the first one's type.

        One sum of many numbers takes the network hardly longer than one of few.
        """
        if self.size == 1:
            return list(arrays)
        xp = array_module(arrays[0])
        ends = np.cumsum([math.prod(np.shape(array)) for array in arrays]).tolist()
        buffer = xp.empty(ends[-1], dtype=arrays[0].dtype)
        stretches = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        for stretch, array in zip(stretches, arrays, strict=True):
            buffer[stretch] = array.reshape(-1) if np.shape(array) else array
        self.all_reduce(buffer)
        return [
            buffer[stretch].reshape(np.shape(array))
            for stretch, array in zip(stretches, arrays, strict=True)
        ]

    def any(self, flag: bool, like: Array) -> bool:
        """Whether a flag is up in any of the processes. `like` tells the device."""
        if self.size == 1:
            return flag
        total = array_module(like).full(1, float(flag), dtype=np.float32)
        self.all_reduce(total)
        return bool(total[0] > 0)  # the host waits


def group_of(environment: Mapping[str, str], device: str) -> Group:
    """The group that a launcher has put this process into; a group of one without a launcher.

    Raises RuntimeError if the processes cannot be joined.
    """
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1:
        return Group()
    if device != "cuda":
        raise RuntimeError("several processes train on GPUs only: add --device cuda")
    if "RANK" not in environment:
        raise RuntimeError("WORLD_SIZE is set and RANK is not: a launcher sets both")
    from ..cuda.nccl import all_reduce_over

    rank = int(environment["RANK"])
    all_reduce = all_reduce_over(
        rank,
        size,
        int(environment.get("LOCAL_RANK", rank)),
        environment.get("MASTER_ADDR", "127.0.0.1"),
        int(environment.get("MASTER_PORT", "29500")) + 1,  # torchrun itself listens at the other
    )
    return Group(rank, size, all_reduce)


def start(command: Sequence[str], count: int) -> int:
    """Run a command in `count` processes that train together on this machine; the exit code.

    When one fails the others are ended, since they would wait for it.
    """
    environment = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    environment["MASTER_PORT"] = str(free_port() - 1)  # see group_of
    processes = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    running = list(processes)
    try:
        while running:
            for process in running:
                try:
                    process.wait(timeout=0.1)
                except subprocess.TimeoutExpired:
                    continue
                running.remove(process)
                if process.returncode:
                    return process.returncode
                break
    except KeyboardInterrupt:  # they have had it, too, and write their checkpoint
        for process in running:
            process.wait()
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        for process in running:
            process.terminate()
            process.wait()
    return 0


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
