"""Micro-batches in processes instead of threads.

Python runs one thread of a process at a time. A micro-batch of a small network is a few dozen calls
of some ten microseconds each, and two threads of them spend as long on handing the interpreter to
one another as a second core can save: a step of ST-FCN takes no less on two threads than on one.
Two processes have an interpreter each, and take little more than half.

A process that is forked off begins as a copy of the first, with the model and the data, and goes on
to run the same lines: it draws the same batches and makes the same updates, so that all processes
have the same weights at any time. They differ in `Processes.map` alone, where each does its share
of the micro-batches and reads from shared memory what the others have found. The gradients are
added in the order of the micro-batches, as ever, so that the result does not depend on the number
of processes.

Only Linux forks safely; elsewhere, and for a model with batch norm, whose running statistics would
have to go from process to process, the micro-batches stay in threads.
"""

from __future__ import annotations

import math
import mmap
import os
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from .. import nn
from ..backend import Array, num_threads
from .step import MicroBatches

ALIGNED = 64  # bytes: where an array begins, no two processes write to one line of a cache


def micro_batches_on_all_cores(
    model: nn.Module, size: int, batch_size: int, at_once: int = 0
) -> MicroBatches:
    """Micro-batches for training a model on the CPU: in processes where that can be.

    To be opened around a whole training, since with processes all that stands in its block is run
    by each of them.

    Parameters
    ----------
    model : Module
    size : int
        Images in a micro-batch.
    batch_size : int
        Images in a step.
    at_once : int
        Images that are looked at together between steps, if that is more.
    """
    processes = min(num_threads(), math.ceil(batch_size / size))
    statistics = any(module.buffers for _, module in model.named_modules())
    if processes == 1 or statistics or sys.platform != "linux":
        return MicroBatches(size)
    room = sum(p.data.nbytes + ALIGNED for p in model.parameters()) + 16 * ALIGNED
    return Processes(size, processes, math.ceil(max(batch_size, at_once) / size), room)


class Processes(MicroBatches):
    """Runs a function over slices of a batch in several processes; a context manager.

    Its block is run by every process, from the same state on, and must be the same work in each:
    the same calls of `map` and `any`, in the same order. Behind the block only the first goes on.
    An error in another process is a RuntimeError in the first.

    Parameters
    ----------
    size : int
        Images in a micro-batch.
    count : int
        Processes, the first one included.
    most : int
        Micro-batches that are mapped at once, at most.
    room : int
        Bytes for what the function returns of one. Memory is taken up as it is used.

    Attributes
    ----------
    rank : int
        The number of this process; 0 is the one that was there before.
    """

    def __init__(self, size: int, count: int, most: int, room: int):
        super().__init__(size, threads=1)
        self.count, self.shape = count, (2, most, room)

    def __enter__(self) -> Processes:
        super().__enter__()
        # Two turns: while one process still reads the results of the last map, another may write
        # those of the next; it cannot come further before the first has been met again.
        self.shared = np.frombuffer(mmap.mmap(-1, math.prod(self.shape)), np.uint8)
        self.shared = self.shared.reshape(self.shape)
        self.turn = 0
        self.known: dict[tuple, list[np.ndarray]] = {}
        self.children, self.lines = [], []  # of the first process, to each of the others
        for rank in range(1, self.count):
            ours, theirs = socket.socketpair()
            child = fork()
            if child == 0:
                let_go(but=theirs)
                warnings.simplefilter("ignore")  # the first process gives them
                self.rank, self.line = rank, theirs
                return self
            theirs.close()
            self.children.append(child)
            self.lines.append(ours)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, *where: Any) -> None:
        if self.rank:
            failed = error is not None and kind is not SystemExit
            if failed:
                with suppress(OSError):
                    self.line.sendall(ERROR + "".join(traceback.format_exception(error)).encode())
            os._exit(failed)
        super().__exit__(kind, error, *where)
        for line in self.lines:
            line.shutdown(socket.SHUT_WR)  # whoever waits for an answer ends
        texts = [text_of(line) for line in self.lines]
        for line in self.lines:
            line.close()
        statuses = [os.waitpid(child, 0)[1] for child in self.children]
        if error is None and any(statuses):
            raise RuntimeError(ENDED + "".join(texts))

    def map(self, function: Callable[[int, slice], Sequence[Array]], n: int) -> list:
        """[function(number, slice)] for each micro-batch of n images, in order, in all processes.

        What the function returns must be arrays, whose shapes do not depend on the micro-batch.
        """
        slices = self.slices(n)
        # Who has nothing to do does the first one, too, to learn the shapes.
        mine = range(self.rank, len(slices), self.count) or range(min(len(slices), 1))
        results = [None] * len(slices)
        for number in mine:
            arrays = results[number] = list(map(np.asarray, function(number, slices[number])))
            for place, array in zip(self.places(number, arrays), arrays, strict=True):
                place[...] = array
        self.any(False)
        for number in range(len(slices)):
            if results[number] is None:
                results[number] = self.places(number, results[mine[0]])
        self.turn = 1 - self.turn
        return results

    def places(self, number: int, like: Sequence[Array]) -> list[np.ndarray]:
        """Where a micro-batch's results lie in shared memory, in the memory order of `like`."""
        key = (self.turn, number, *[(a.shape, a.strides, a.dtype) for a in like])
        if key not in self.known:
            self.known[key] = laid_out(self.shared[self.turn, number], like)
        return self.known[key]

    def any(self, flag: bool) -> bool:
        """Whether a flag is up in any process, asked by all at once: each waits for the others."""
        if self.rank:
            with suppress(OSError):
                self.line.send(RAISED if flag else QUIET)
                if answer := self.line.recv(1):
                    return answer == RAISED
            sys.exit()  # the first process has left its block, or is no more
        answers = [line.recv(1) for line in self.lines]
        for line, answer in zip(self.lines, answers, strict=True):
            if answer not in (RAISED, QUIET):
                raise RuntimeError(ENDED + text_of(line))
        flag = flag or RAISED in answers
        for line in self.lines:
            line.send(RAISED if flag else QUIET)
        return flag


def laid_out(memory: np.ndarray, like: Sequence[Array]) -> list[np.ndarray]:
    """Arrays in a stretch of bytes, one behind the other, each in the memory order of its model."""
    places, start = [], 0
    for array in like:
        end = start + array.nbytes
        outermost_first = np.argsort([-abs(stride) for stride in array.strides], kind="stable")
        place = memory[start:end].view(array.dtype)
        place = place.reshape([array.shape[axis] for axis in outermost_first])
        places.append(place.transpose(np.argsort(outermost_first)))
        start = -(-end // ALIGNED) * ALIGNED
    return places


# What processes say to one another: bytes, and behind the last a text.
RAISED, QUIET, ERROR = b"1", b"0", b"!"
ENDED = "another process of this training has ended\n"


def text_of(line: socket.socket) -> str:
    """The text of an error, up to the end of what a process says."""
    return b"".join(iter(lambda: line.recv(4096), b"")).decode().lstrip("01!")


def fork() -> int:
    with warnings.catch_warnings():
        # Python warns that locks of other threads stay locked in the child. It uses none of theirs:
        # BLAS, on one thread here, starts anew by itself, and nothing is printed or drawn.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def let_go(but: socket.socket) -> None:
    """Leave the files and sockets of the first process to itself: its locks, its connections.

    Their numbers stay taken, by nothing, so that objects that still close them do no harm.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number not in (but.fileno(), nothing):
            with suppress(OSError):  # that which listed them
                os.fstat(number)
                os.dup2(nothing, number)
