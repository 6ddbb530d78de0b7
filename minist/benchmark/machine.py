"""What the benchmark runs on: its name, and how fast it multiplies and copies at best."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from ..backend import num_threads


def blas() -> str:
    """NumPy's BLAS and its kernel."""
    libraries = [x for x in threadpool_info() if x["user_api"] == "blas"]
    # PyTorch and SciPy bring libraries of their own; NumPy's lies in a folder named after it.
    libraries.sort(key=lambda x: "numpy" not in x["filepath"])
    if not libraries:
        return "BLAS unknown"
    library = libraries[0]
    kernel = library.get("architecture", "unknown")
    return f"{library['internal_api']} {library['version']}, kernel {kernel}"


def multiply_rate(n: int = 1024) -> float:
    """Floating operations a second in products of large float32 matrices, on all threads."""
    a = np.ones((n, n), np.float32)

    def multiply() -> None:
        a @ a

    with threadpool_limits(num_threads(), "blas"):
        return 2 * n**3 / fastest(multiply)


def copy_rate(megabytes: int = 64) -> float:
    """Bytes read and written a second when all threads copy arrays larger than caches."""
    threads = num_threads()
    arrays = [np.ones(megabytes * 2**20 // 4, np.float32) for _ in range(2 * threads)]
    with ThreadPoolExecutor(threads) as pool:

        def copy() -> None:
            list(pool.map(np.copyto, arrays[:threads], arrays[threads:]))

        return 2 * threads * arrays[0].nbytes / fastest(copy)


def fastest(function, times: int = 10) -> float:
    """Seconds of the quickest of several calls."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
