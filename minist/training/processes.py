"""Micro-batches in processes instead of threads.

Python runs one thread of a process at a time. A micro-batch of a small network is a few dozen calls
of some ten microseconds each, and two threads of them spend as long on handing the interpreter to
one another as a second core can save: a step of ST-FCN takes no less on two threads than on one.
Two processes have an interpreter each, and take three fifths.

A process that is forked off begins as a copy of the first, with the model and the data, and goes on
to run the same lines: it draws the same batches and makes the same updates, so that all processes
have the same weights at any time. They differ in `Processes.map` alone, where each does its share
of the micro-batches and reads from shared memory what the others have found. The gradients are
added in the order of the micro-batches, as ever, so that the result does not depend on the number
of processes.

    with Processes(...) as micro_batches:      # here the others are forked off
        ...                                    # all run this; `meet`, and `map` with it, waits
    ...                                        # here the first goes on alone, the others are gone

A process sends the first a byte when it comes to a meeting, or what broke it off; the first answers
when all are there. Whoever hears the end of the line knows that the other is no more.

Not every system can fork a process that computes, and what a forward keeps for later, as batch norm
its running statistics, would have to go from process to process: there micro-batches stay in
threads.
"""

from __future__ import annotations

import math
import mmap
import os
import pickle
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from .. import nn
from ..backend import Array, num_threads
from .step import MicroBatches

ALIGNED = 64  # bytes: an array begins with a line of the cache
REPORT = 16 * ALIGNED  # bytes for what a step returns beside gradients, and to spare
LOOKS = 300  # at a line, a fifth of a millisecond, before waiting asleep: to wake up takes as long
HERE, GO_ON, STOP, ERROR = b".", b"0", b"1", b"!"


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
        Images that are looked at together between steps, if those are more.
    """
    processes = min(num_threads(), math.ceil(batch_size / size))
    keeps_statistics = any(module.buffers for _, module in model.named_modules())
    # macOS can fork, but its libraries (Accelerate among them) do not work in the child.
    if processes == 1 or keeps_statistics or sys.platform != "linux":
        return MicroBatches(size)
    room = sum(p.data.nbytes + ALIGNED for p in model.parameters()) + REPORT
    return Processes(size, processes, math.ceil(max(batch_size, at_once) / size), room)


class Processes(MicroBatches):
    """Runs a function over slices of a batch in several processes; a context manager.

    Its block is run by every process, from the same state on, and must be the same work in each:
    the same calls of `map` and `meet`, in the same order. What is written, printed or drawn should
    be by the first alone; warnings are. An error in another process is raised in the first. A
    Ctrl-C is the first one's.

    Parameters
    ----------
    size : int
        Images in a micro-batch.
    count : int
        Processes, the first one included.
    slots : int
        Micro-batches that are mapped at once, at most.
    room : int
        Bytes for what the function returns of one. Memory is taken up as it is used.

    Attributes
    ----------
    rank : int
        The number of this process; 0 is the one that was there before.
    """

    def __init__(self, size: int, count: int, slots: int, room: int):
        super().__init__(size, threads=1)
        self.count, self.slots, self.room = count, slots, -(-room // ALIGNED) * ALIGNED

    def __enter__(self) -> Processes:
        super().__enter__()
        # Two turns: while one process still reads the results of the last map, another may write
        # those of the next; it cannot come further before the first has been met again.
        shape = 2, self.slots, self.room
        self.turn, self.known = 0, {}
        self.children, self.lines = [], []  # of the first process, to each of the others
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.shared = np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape)
            for rank in range(1, self.count):
                self.fork(rank)
                if self.rank:
                    return self  # with Ctrl-C blocked for good
        except BaseException:
            self.end()
            raise
        finally:
            if self.rank == 0:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return self

    def fork(self, rank: int) -> None:
        """Begin another process, which also returns from here, with its `rank`."""
        ours, theirs = socket.socketpair()
        self.lines.append(ours)
        with ExitStack() as failed, warnings.catch_warnings():
            failed.callback(theirs.close)
            # Python (DeprecationWarning) and JAX, where it is loaded (RuntimeWarning), say that
            # locks which other threads hold stay locked in the child. The child takes none of them:
            # BLAS begins anew by itself, and only arrays are computed.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            child = os.fork()
            failed.pop_all()
        if child == 0:
            for line in self.lines:
                line.close()
            self.rank, self.line = rank, theirs
            warnings.simplefilter("ignore")
            return
        self.children.append(child)
        theirs.close()

    def __exit__(self, kind: type | None, error: BaseException | None, *where: Any) -> None:
        if self.rank:
            try:
                if error is not None:
                    self.line.sendall(ERROR + packed(error))
            finally:
                os._exit(error is not None)
        self.end()

    def end(self) -> None:
        """End the others, which have nothing that is still needed."""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        for child in self.children:
            with suppress(OSError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        for line in self.lines:
            line.close()
        self.shared, self.known = None, {}
        super().__exit__()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def map(self, function: Callable[[int, slice], Sequence[Array]], n: int) -> list:
        """[function(number, slice)] for each micro-batch of n images, in order, in all processes.

        The function returns arrays, of the same shapes and types for each. Those of others are to
        be used before the next map.
        """
        slices = self.slices(n)
        results: list[Any] = [None] * len(slices)
        for number in range(self.rank, len(slices), self.count):
            results[number] = list(map(np.asarray, function(number, slices[number])))
            places = self.places(number, results[number])
            for place, array in zip(places, results[number], strict=True):
                place[...] = array
        if slices and self.rank >= len(slices):
            # Nothing to do: the first micro-batch again tells what others' results look like.
            results[0] = list(map(np.asarray, function(0, slices[0])))
        self.meet()
        own = next((arrays for arrays in results if arrays is not None), ())
        for number in range(len(slices)):
            if results[number] is None:
                results[number] = self.places(number, own)
        self.turn = 1 - self.turn
        return results

    def places(self, number: int, like: Sequence[Array]) -> list[np.ndarray]:
        """Where a micro-batch's results lie in shared memory, arrays like these."""
        key = (self.turn, number, *[(a.shape, a.dtype) for a in like])
        if key not in self.known:
            self.known[key] = laid_out(self.shared[self.turn, number], like)
        return self.known[key]

    def meet(self, stop: bool = False) -> bool:
        """Wait until all processes are here; whether the first one says `stop`."""
        if self.rank:
            with suppress(OSError):
                self.line.send(HERE)
                if answer := heard(self.line, 1):
                    return answer == STOP
            os._exit(1)  # the first process is no more
        for line, child in zip(self.lines, self.children, strict=True):
            if (word := heard(line, 1)) != HERE:
                raise fault(line, child, word)
        for line in self.lines:
            with suppress(OSError):  # the next meeting tells who is missing
                line.send(STOP if stop else GO_ON)
        return stop


def laid_out(memory: np.ndarray, like: Sequence[Array]) -> list[np.ndarray]:
    """Arrays of the shapes and types of others in a stretch of bytes, one behind the other.

    In C order, whatever that of the others: it may differ from one micro-batch to another, as where
    a smaller one is convolved in another way.
    """
    places, start = [], 0
    for array in like:
        end = start + array.nbytes
        places.append(memory[start:end].view(array.dtype).reshape(array.shape))
        start = -(-end // ALIGNED) * ALIGNED
    return places


def packed(error: BaseException) -> bytes:
    """An error and its traceback as bytes; of one that cannot be sent the traceback alone."""
    text = "".join(traceback.format_exception(error))
    with suppress(Exception):
        message = pickle.dumps((error, text))
        pickle.loads(message)
        return message
    return pickle.dumps((RuntimeError(f"another process of this training failed:\n{text}"), text))


def heard(line: socket.socket, n: int) -> bytes:
    """The next n bytes at most; none where the other end is gone."""
    with suppress(OSError):
        for _ in range(LOOKS):
            with suppress(BlockingIOError):
                return line.recv(n, socket.MSG_DONTWAIT)
        return line.recv(n)
    return b""


def fault(line: socket.socket, child: int, word: bytes) -> BaseException:
    """What to raise for a process that has not come to a meeting."""
    if word == ERROR:
        error, text = pickle.loads(b"".join(iter(lambda: heard(line, 1 << 16), b"")))
        error.__cause__ = RuntimeError(f"in another process of this training:\n{text}")
        return error
    how = ""
    with suppress(OSError):
        status = os.waitpid(child, 0)[1]
        how = f", by signal {-code}" if (code := os.waitstatus_to_exitcode(status)) < 0 else ""
    return RuntimeError(f"another process of this training was ended{how}: is memory short?")
