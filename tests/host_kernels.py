"""The CUDA kernels compiled by the host's compiler, standing in for CuPy's."""

import ctypes
import shutil
import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from minist import cuda

FILES = sorted(path.name for path in cuda.FOLDER.glob("*.cu"))
HEADER = Path(__file__).with_name("host.h")
BLOCKS, THREADS = 2, 3  # few, so that each thread has several elements


class HostKernels:
    """Has `function`, as `minist.cuda` has it, for NumPy's arrays."""

    def __init__(self, folder):
        compiler = shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            pytest.skip("there is no C++ compiler")
        jobs, self.libraries = [], {}
        for dtype, real in cuda.REALS.items():
            texts = [HEADER.read_text(), *(cuda.FOLDER / f for f in ("kernel.cuh", *FILES))]
            code = "\n".join(t if isinstance(t, str) else t.read_text() for t in texts)
            (folder / f"{real}.cpp").write_text(code)
            # Without fused multiply-add, as for the GPU.
            flags = ["-O1", "-std=c++17", "-ffp-contract=off", "-shared", "-fPIC", f"-DREAL={real}"]
            command = [compiler, *flags, "-o", f"{real}.so", f"{real}.cpp"]
            jobs.append(subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True))
            self.libraries[dtype] = folder / f"{real}.so"
        for job in jobs:
            errors = job.communicate()[1]
            assert job.returncode == 0, errors
        self.libraries = {t: ctypes.CDLL(str(path)) for t, path in self.libraries.items()}
        self.launched = []

    def function(self, xp, file, name, dtype):
        library = self.libraries[dtype]

        def launch(blocks, threads, arguments):
            self.launched.append(name)
            values = [as_c(argument) for argument in arguments]
            for block, thread in product(range(BLOCKS), range(THREADS)):
                library.be_thread(thread, THREADS, block, BLOCKS)
                getattr(library, name)(*values)

        return launch


def as_c(value):
    """An argument as CuPy would hand it to a kernel."""
    if value is None:
        return ctypes.c_void_p(0)
    if isinstance(value, int):
        return ctypes.c_longlong(value)
    if value.dtype.kind == "V":

        class Struct(ctypes.Structure):
            _fields_ = (("numbers", ctypes.c_longlong * (value.nbytes // 8)),)

        return Struct.from_buffer_copy(value.tobytes())
    return ctypes.c_void_p(value.ctypes.data)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    return HostKernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def on_host(compiled, monkeypatch):
    """Lets the operations take the kernels for NumPy's arrays; the names of those that ran."""
    compiled.launched = []
    monkeypatch.setattr(cuda, "function", compiled.function)
    monkeypatch.setattr(cuda, "is_cupy", lambda array: isinstance(array, np.ndarray))
    return compiled.launched
