"""Sums over the GPUs of a machine, or of several, by NVIDIA's NCCL as CuPy offers it."""

from __future__ import annotations

from typing import Any

from ..backend import Array, require_cupy


def all_reduce_over(rank: int, size: int, local_rank: int, host: str, port: int) -> Any:
    """Join `size` processes, of which this is number `rank`, each with a GPU of its own.

    Process 0 listens at (host, port) until all have come. `local_rank` is the number of the GPU on
    its machine. Returns a function that replaces an array by its sum over all processes.

    Raises
    ------
    RuntimeError
        If CuPy, the GPU or NCCL is missing.
    """
    cupy = require_cupy()
    count = cupy.cuda.runtime.getDeviceCount()
    if local_rank >= count:
        raise RuntimeError(f"process {rank} needs GPU {local_rank}, but there are {count}")
    cupy.cuda.Device(local_rank).use()
    try:
        import cupyx.distributed

        backend = cupyx.distributed.init_process_group(size, rank, host=host, port=port)
        backend.stop()  # the process by which all have met, which would outlive this one
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeError(
            f"several GPUs could not be joined ({error}); they need NCCL: "
            "pip install nvidia-nccl-cu12, or -cu13"
        ) from error

    def all_reduce(buffer: Array) -> None:
        backend.all_reduce(buffer, buffer)

    return all_reduce
