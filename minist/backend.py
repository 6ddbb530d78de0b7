"""NumPy or CuPy: what an operation need know of there being two.

It asks `array_module(x)` for the library that its array belongs to and calls it `xp`; what it
writes with that is the same for both. The few places that do differ ask `is_cupy`, where the host
must not wait for a card, or `cuda.usable`, where a kernel takes over. CuPy is imported here and in
`cuda/` alone, and looked up through the arrays that arrive: a machine without a GPU never loads it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed arrays instead of returning it to the system.

    By default glibc maps every large array anew and unmaps it when freed, and the kernel clears
    each page again at its first touch (docs/performance.md says what that costs).
    Other C libraries have no `mallopt` and are left as they are; so is glibc where the environment
    variable `MINIST_KEEP_MEMORY` is 0, since the setting is the whole process's.
    """
    if os.environ.get("MINIST_KEEP_MEMORY") == "0":
        return
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


keep_freed_memory()


def is_cupy(array: Array) -> bool:
    """True for an array of CuPy, told from its type alone."""
    kind = type(array)
    return kind is not np.ndarray and kind.__module__.partition(".")[0] == "cupy"


def array_module(array: Array) -> ModuleType:
    """The library an array belongs to: `numpy` or `cupy`."""
    return sys.modules["cupy"] if is_cupy(array) else np


def device_of(array: Array) -> str:
    """`"cpu"` or `"cuda"`."""
    return "cuda" if is_cupy(array) else "cpu"


def require_cupy() -> ModuleType:
    """CuPy with a working GPU, or a RuntimeError that says what is missing."""
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            'device "cuda" needs CuPy: install it with pip install "minist[cuda12]" '
            '(or "minist[cuda13]", as your CUDA driver is)'
        ) from error
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f'device "cuda" needs a GPU: CuPy {cupy.__version__} is installed but finds none '
            f"({error}); is its package, cupy-cuda12x or cupy-cuda13x, the one of your driver?"
        ) from error
    return cupy


def module_of(device: str) -> ModuleType:
    """The array library of a device.

    Raises
    ------
    ValueError
        For a device other than `"cpu"` and `"cuda"`.
    RuntimeError
        For `"cuda"` where CuPy or a GPU is missing.
    """
    if device == "cpu":
        return np
    if device == "cuda":
        return require_cupy()
    raise ValueError(f'device must be "cpu" or "cuda", not {device!r}')


def to_device(array: Array, device: str) -> Array:
    """The array on a device; the same object where it is there already."""
    if device_of(array) == device:
        return array
    xp = module_of(device)
    return to_numpy(array) if xp is np else xp.asarray(array)


def to_numpy(array: Array) -> np.ndarray:
    """The array on the host. For a GPU array this waits for the card and copies."""
    return array.get() if is_cupy(array) else np.asarray(array)


def beside(value: Any, array: Array) -> Array:
    """A number or list as an array where another lies, in its dtype if that is of its kind.

    0.5 beside integers keeps its own. A number is filled in, not copied there.
    """
    xp = array_module(array)
    own = xp.full((), value) if np.isscalar(value) else xp.asarray(value)
    return own.astype(array.dtype) if array.dtype.kind in ("f", own.dtype.kind) else own


def masked(x: Array, mask: Array, out: Array | None = None) -> Array:
    """x where `mask` is true, else 0, also of an infinite x, whose product with 0 is no number.

    The bits of x, as a whole number, times 1 or 0: as quick as x * mask. NumPy's `where` takes
    several times as long on large arrays.
    """
    bits = f"i{x.itemsize}"
    out = None if out is None else out.view(bits)
    return array_module(x).multiply(x.view(bits), mask, out=out).view(x.dtype)


def add_at(target: Array, index: Array, values: Array) -> None:
    """target[index] += values for flat arrays, adding up where an index comes more than once."""
    array_module(target).add.at(target, index, values)


def columns_at(x: Array, index: Array) -> Array:
    """x[:, index] for a flat index, every place of which must be inside x: beyond it `take` would
    silently begin anew at 0.

    That ("wrap") spares NumPy the check for an IndexError, a quarter of its time. CuPy's `take`
    always wraps and has no `mode`.
    """
    return x.take(index, axis=1) if is_cupy(x) else x.take(index, axis=1, mode="wrap")


def concatenate(arrays: Sequence[Array], axis: int) -> Array:
    """Arrays of one type, one after the other along an axis.

    On a GPU part by part: CuPy's own sends a list of addresses to the card, and a CUDA graph cannot
    hold a copy from the host.
    """
    xp = array_module(arrays[0])
    if not is_cupy(arrays[0]):
        return xp.concatenate(arrays, axis=axis)
    shape, axis = list(arrays[0].shape), axis % arrays[0].ndim
    shape[axis] = sum(array.shape[axis] for array in arrays)
    whole, start = xp.empty(shape, dtype=xp.result_type(*arrays)), 0
    for array in arrays:
        end = start + array.shape[axis]
        whole[(slice(None),) * axis + (slice(start, end),)] = array
        start = end
    return whole


def processor(device: str = "cpu") -> str:
    """The processor of a device, "cpu" or "cuda", by its trade name where the system tells it.

    Raises RuntimeError for "cuda" without CuPy and a GPU.
    """
    if device == "cuda":
        return require_cupy().cuda.runtime.getDeviceProperties(0)["name"].decode()
    with suppress(OSError):  # Linux tells more than platform does
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# --- random numbers -----------------------------------------------------------------------------


Seed = np.random.Generator | Sequence[int] | int | None


class _Generators(threading.local):
    """Each thread's own generator, or the seed to make it from at the first draw.

    Generators are not safe to share between threads, and take as long to make as many a layer.
    """

    current: Seed = None


_generators = _Generators()


def generator() -> np.random.Generator:
    """The calling thread's random generator; seeded from the system unless `manual_seed` was."""
    if not isinstance(_generators.current, np.random.Generator):
        _generators.current = np.random.default_rng(_generators.current)
    return _generators.current


def manual_seed(seed: int) -> None:
    """Seed the calling thread's generator, from which layers and dropout draw.

    Numbers are drawn on the host on every device, so the same seed starts the same network on a
    CPU and on a GPU.
    """
    _generators.current = np.random.default_rng(seed)


@contextmanager
def random_state(rng: Seed) -> Iterator[None]:
    """Let the calling thread draw from `rng`, or a generator of this seed, inside the block."""
    before, _generators.current = _generators.current, rng
    try:
        yield
    finally:
        _generators.current = before


def num_threads() -> int:
    """Threads to train on: `MINIST_NUM_THREADS`, or the cores this process may use.

    Raises
    ------
    ValueError
        Where the variable holds no whole number above 0.
    """
    text = os.environ.get("MINIST_NUM_THREADS")
    if text is None:
        if hasattr(os, "sched_getaffinity"):  # respects containers and taskset
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"MINIST_NUM_THREADS must be a whole number above 0, not {text!r}")
    return int(text)


def on_this_device() -> Callable[[], None]:
    """What puts another thread on the GPU that this one uses: each begins on the first."""
    if "cupy" not in sys.modules:
        return lambda: None
    runtime = sys.modules["cupy"].cuda.runtime
    try:
        device = runtime.getDevice()
    except runtime.CUDARuntimeError:  # there is none
        return lambda: None
    return lambda: runtime.setDevice(device)
