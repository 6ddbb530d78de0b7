"""A CUDA graph: what a function does on the GPU, captured once and then launched as a whole.

A small network's training step is a few dozen kernels of microseconds each, and starting them one
by one from Python takes longer than they run. A graph starts them all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Graph:
    """A function's work, captured; `launch` does it again, on the same arrays.

    What the function takes must lie where it lay when it was captured, so arrays are written into,
    not exchanged; what it returns is `result`, overwritten by each launch. Nothing in it may wait
    for the card or bring numbers to it. All its memory comes from a pool of its own, which nothing
    else uses: between launches the graph's arrays keep their places.

    Parameters
    ----------
    xp : module
        CuPy.
    function : callable without arguments
        Has run before, so that kernels are compiled and constants lie on the card.

    Raises
    ------
    NotImplementedError, RuntimeError
        If it does what cannot be captured: copies from the host or to it, and CuPy's own matrix
        products. CuPy refuses them.
    MemoryError
        If the card has too little memory left for it.
    """

    def __init__(self, xp: Any, function: Callable[[], Any]):
        self.pool = pool_that_frees_nothing(xp)
        xp.get_default_memory_pool().free_all_blocks()  # room for it; here the host waits, once
        # Not on the default stream, where nothing can be captured; and one that does not wait for
        # it, since another thread prepares the next batch there meanwhile.
        # Kept, since cuBLAS stays set to it.
        self.stream = stream = xp.cuda.Stream(non_blocking=True)
        with xp.cuda.using_allocator(self.pool.malloc), stream:
            stream.begin_capture()
            try:
                self.result = function()
            except BaseException:
                with suppress(RuntimeError):  # the fault may have spoilt the capture already
                    stream.end_capture()
                raise
            self.graph = stream.end_capture()

    def launch(self) -> Any:
        """Do it all again, on the current stream; the result is there when the stream is."""
        self.graph.launch()
        return self.result


def pool_that_frees_nothing(xp: Any) -> Any:
    """A memory pool that raises MemoryError where the card is full.

    At its limit, and where the card is full, a pool of CuPy's frees the blocks that it has back,
    and tries again. In a capture these are blocks that the graph will write to.
    """

    def allocate(size: int) -> Any:
        try:
            return xp.cuda.MemoryPointer(xp.cuda.Memory(size), 0)
        except xp.cuda.runtime.CUDARuntimeError as error:  # at which the pool would free
            raise MemoryError(f"the card has no {size} bytes left for it") from error

    pool = xp.cuda.MemoryPool(allocate)
    pool.set_limit(size=0)  # none, whatever CUPY_GPU_MEMORY_LIMIT says
    return pool
