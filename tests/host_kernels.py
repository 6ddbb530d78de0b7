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
TYPES = list(product(cuda.REALS, cuda.INTEGERS))
STRUCTS = {  # what the kernels of a file are handed by value
    "lowering.cu": ["Lowering"],
    "optim.cu": ["Parameters", "Settings"],
    "pooling.cu": ["Pooling"],
    "sampler.cu": ["Sampling"],
}


class HostKernels:
    """Has `function`, as `minist.cuda` has it, for NumPy's arrays."""

    def __init__(self, folder):
        compiler = shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            pytest.skip("there is no C++ compiler")
        texts = [HEADER.read_text(), (cuda.FOLDER / "kernel.cuh").read_text()]
        for file in FILES:
            texts.append((cuda.FOLDER / file).read_text())
            for struct in STRUCTS.get(file, []):
                texts.append(f'extern "C" int size_of_{struct}() {{ return sizeof({struct}); }}')
        (folder / "kernels.cpp").write_text("\n".join(texts))
        jobs = []
        for types in TYPES:
            # Without fused multiply-add, as for the GPU.
            flags = ["-O1", "-ffp-contract=off", "-shared", "-fPIC"]
            flags += [flag for flag in cuda.options(*types) if flag != "--fmad=false"]
            command = [compiler, *flags, "-o", library_of(types), "kernels.cpp"]
            jobs.append(subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True))
        for job in jobs:
            errors = job.communicate()[1]
            assert job.returncode == 0, errors
        self.libraries = {types: ctypes.CDLL(str(folder / library_of(types))) for types in TYPES}
        self.launched = []

    def function(self, xp, file, name, *types):
        library = self.libraries[types]

        def launch(blocks, threads, arguments):
            self.launched.append(name)
            values = [as_c(argument) for argument in arguments]
            for block, thread in product(range(BLOCKS), range(THREADS)):
                library.be_thread(thread, THREADS, block, BLOCKS)
                getattr(library, name)(*values)

        return launch


def library_of(types):
    return "_".join(types) + ".so"


def as_c(value):
    """An argument as CuPy would hand it to a kernel."""
    if value is None:
        return ctypes.c_void_p(0)
    if isinstance(value, np.integer):
        return np.ctypeslib.as_ctypes_type(value.dtype)(value)
    if value.dtype.kind == "V":

        class Struct(ctypes.Structure):
            _fields_ = (("numbers", ctypes.c_int * (value.nbytes // 4)),)

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
