"""Matrix products by cuBLAS, called directly.

CuPy's own products refuse to be captured in a CUDA graph ("calling cuBLAS API during stream
capture is currently unsupported"), cuBLAS itself does not. So its one function that serves all
products here is called through `ctypes`; the library is the one that CuPy has loaded.

TF32 rounds the factors of float32 products to 10 bits of mantissa, for several times the speed on
tensor cores. It is off, so that a GPU gives what a CPU gives, unless `MINIST_TF32=1` asks for it.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from ..backend import Array, array_module, is_cupy

# cublas_api.h, library_types.h
N, T = 0, 1
DEFAULT_MATH, TF32_MATH = 0, 3
REAL_32, REAL_64 = 0, 1
COMPUTE_32, COMPUTE_64 = 68, 70
DEFAULT_ALGORITHM = -1
WORKSPACE = 32 << 20  # bytes, as NVIDIA advises for Hopper; smaller cards need less


def matmul(a: Array, b: Array) -> Array:
    """a @ b for matrices, or for as many pairs as the leading axis has (one matrix goes with all).

    Factors may be transposed views; other views are copied first. The result is in C order.
    """
    if not is_cupy(a):
        return np.matmul(a, b)
    xp = array_module(a)
    if a.dtype != b.dtype or a.dtype.name not in ("float32", "float64"):
        return xp.matmul(a, b)
    if a.shape[-1] != b.shape[-2] or len({len(x) for x in (a, b) if x.ndim == 3}) > 1:
        raise ValueError(f"matmul: {a.shape} and {b.shape} do not fit")
    batch = max(len(x) if x.ndim == 3 else 1 for x in (a, b))
    (m, k), n = a.shape[-2:], b.shape[-1]
    shape = (batch, m, n) if 3 in (a.ndim, b.ndim) else (m, n)
    y = xp.empty(shape, dtype=a.dtype)
    if y.size and k:
        multiply(xp, a, b, y, batch)
    elif y.size:
        y.fill(0)
    return y


def multiply(xp: Any, a: Array, b: Array, y: Array, batch: int) -> None:
    m, k = a.shape[-2:]
    n = b.shape[-1]
    (a, a_flag, a_row, a_step), (b, b_flag, b_row, b_step) = laid_out(xp, a), laid_out(xp, b)
    single = y.dtype == np.float32
    number, step = (ctypes.c_float if single else ctypes.c_double) * 1, ctypes.c_longlong
    kind = REAL_32 if single else REAL_64
    # cuBLAS thinks in columns: what lies in memory as rows of y is y^T = b^T a^T to it.
    check(
        library(xp).cublasGemmStridedBatchedEx(
            *(handle(xp), b_flag, a_flag, n, m, k, number(1.0)),
            *(ctypes.c_void_p(b.data.ptr), kind, b_row, step(b_step)),
            *(ctypes.c_void_p(a.data.ptr), kind, a_row, step(a_step), number(0.0)),
            *(ctypes.c_void_p(y.data.ptr), kind, n, step(m * n), batch),
            *(COMPUTE_32 if single else COMPUTE_64, DEFAULT_ALGORITHM),
        ),
        "a matrix product",
    )


def laid_out(xp: Any, x: Array) -> tuple[Array, int, int, int]:
    """x, copied if it must be, whether it is transposed, and its steps from row to row and from
    matrix to matrix, in elements."""
    flag, row = layout(x.shape[-2:], x.strides[-2:], x.itemsize)
    if flag is None:
        x = xp.ascontiguousarray(x)
        flag, row = N, max(x.shape[-1], 1)
    step = x.strides[0] // x.itemsize if x.ndim == 3 and len(x) > 1 else 0
    return x, flag, row, step


def layout(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> tuple:
    """(N, step from row to row) for a matrix whose rows lie whole in memory, (T, step from column
    to column) where its columns do; (None, 0) for another."""
    rows, columns = shape
    down, across = (stride // itemsize for stride in strides)
    if (across == 1 or columns == 1) and (down >= columns or rows == 1):
        return N, max(down if rows > 1 else columns, columns, 1)
    if (down == 1 or rows == 1) and (across >= rows or columns == 1):
        return T, max(across if columns > 1 else rows, rows, 1)
    return None, 0


@cache
def library(xp: Any) -> Any:
    """cuBLAS, as CuPy has found it."""
    xp.cuda.Device().cublas_handle  # noqa: B018  (loads it)
    major = xp.cuda.runtime.runtimeGetVersion() // 1000
    name = f"cublas64_{major}.dll" if os.name == "nt" else f"libcublas.so.{major}"
    with suppress(ImportError):  # a CuPy of one's own making may come without
        from cuda.pathfinder import load_nvidia_dynamic_lib

        name = load_nvidia_dynamic_lib("cublas").abs_path or name
    return ctypes.CDLL(name)


class Handle:
    """A cuBLAS handle with a workspace of its own, so that it allocates none while a graph is
    captured."""

    def __init__(self, xp: Any):
        self.library, self.value = library(xp), ctypes.c_void_p()
        check(self.library.cublasCreate_v2(ctypes.byref(self.value)), "starting")
        mode = TF32_MATH if os.environ.get("MINIST_TF32") == "1" else DEFAULT_MATH
        check(self.library.cublasSetMathMode(self.value, mode), "setting the precision")
        self.workspace = xp.empty(WORKSPACE, dtype=np.uint8)
        self.stream: int | None = None

    def __del__(self) -> None:  # with its thread; a batch's is a new one in each epoch
        if not sys.is_finalizing():
            self.library.cublasDestroy_v2(self.value)

    def use(self, stream: int) -> ctypes.c_void_p:
        """The handle, set to a stream."""
        if stream != self.stream:
            check(
                self.library.cublasSetStream_v2(self.value, ctypes.c_void_p(stream)),
                "setting the stream",
            )
            check(  # a new stream takes it away
                self.library.cublasSetWorkspace_v2(
                    self.value,
                    ctypes.c_void_p(self.workspace.data.ptr),
                    ctypes.c_size_t(WORKSPACE),
                ),
                "setting the workspace",
            )
            self.stream = stream
        return self.value


class _Handles(threading.local):
    def __init__(self) -> None:
        self.by_device: dict[int, Handle] = {}


_handles = _Handles()


def handle(xp: Any) -> ctypes.c_void_p:
    """The calling thread's handle of the current device, set to the current stream."""
    device = xp.cuda.runtime.getDevice()
    if device not in _handles.by_device:
        _handles.by_device[device] = Handle(xp)
    return _handles.by_device[device].use(xp.cuda.get_current_stream().ptr)


def check(status: int, what: str) -> None:
    if status:
        raise RuntimeError(f"cuBLAS: {what} failed with status {status} (see cublasStatus_t)")
