"""CuPy itself where there is no card: its memory is the host's, and its kernels do nothing.

CuPy's compiled modules reach CUDA through tables of C functions (`__pyx_capi__`) of two of them.
Before the others are loaded, each function there is replaced by one that answers as a card would
that has done its work. All above is CuPy's own: names, types, keywords, memory pools, what it
copies and launches, whether it refuses a capture. Numbers mean nothing.

`python tests/idle_card.py train --device cuda ...` is the command on such a card, and writes at the
end what happened there; `python tests/idle_card.py -c PROGRAM` is a program, which knows it as
`card`.
"""

import collections
import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TYPES = {
    "PyObject *": ctypes.py_object,
    "float": ctypes.c_float,
    "int": ctypes.c_int,
    "intptr_t": ctypes.c_ssize_t,
    "size_t": ctypes.c_size_t,
    "unsigned int": ctypes.c_uint,
}
KERNELS, STREAMS = 1 << 20, 1 << 24  # where their handles begin


class Card:
    """What CUDA's functions answer, those that must answer more than 0 or None."""

    def __init__(self):
        self.memory = {}
        self.kernels = []  # names, by handle
        self.launched = collections.Counter()
        self.streams = 0
        self.capturing = None  # the stream that is captured
        self.captures = self.replays = self.freed_in_capture = 0

    def malloc(self, size):
        block = np.ones(size + 512, np.uint8)  # ones: finite as floats, True as bool
        address = -(-block.ctypes.data // 512) * 512
        self.memory[address] = block
        return address

    def hostAlloc(self, size, flags):
        return self.malloc(size)

    def free(self, address):
        self.memory.pop(address, None)
        self.freed_in_capture += self.capturing is not None

    freeHost = free

    def memcpyAsync(self, to, source, size, kind, stream):
        ctypes.memmove(to, source, size)

    def memGetInfo(self):
        return 1 << 33, 1 << 34

    def getDeviceCount(self):
        return 1

    def deviceGetAttribute(self, attribute, device):
        return {75: 8, 76: 0}.get(attribute, 1)  # of compute capability 8.0

    def moduleLoadData(self, binary):
        return 1

    def moduleGetFunction(self, module, name):
        self.kernels.append(name if isinstance(name, str) else name.decode())
        return KERNELS + len(self.kernels) - 1

    def launchKernel(self, kernel, *rest):
        self.launched[self.kernels[kernel - KERNELS]] += 1

    def streamCreateWithPriority(self, flags, priority):
        self.streams += 1
        return STREAMS + self.streams

    def streamBeginCapture(self, stream):
        self.capturing = stream

    def streamIsCapturing(self, stream):
        return int(stream == self.capturing)

    def streamEndCapture(self, stream):
        self.capturing = None
        self.captures += 1
        return 1

    def graphInstantiate(self, graph):
        return 1

    def graphLaunch(self, graph, stream):
        self.replays += 1


new_capsule, name_of = ctypes.pythonapi.PyCapsule_New, ctypes.pythonapi.PyCapsule_GetName
new_capsule.restype, new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p] * 3
name_of.restype, name_of.argtypes = ctypes.c_void_p, [ctypes.py_object]
kept = []  # what C refers to


def replace(module, card):
    """Let a table of CuPy's, and the module's own functions, lead to the card."""
    for name, capsule in list(module.__pyx_capi__.items()):
        # Such as "intptr_t (size_t, int __pyx_skip_dispatch)"; what Cython adds comes last.
        signature = re.fullmatch(r"(.*?) ?\((.*)\)", ctypes.string_at(name_of(capsule)).decode())
        if signature is None:  # a variable
            continue
        result, parameters = signature[1], [p for p in signature[2].split(", ") if p != "void"]
        own = [p for p in parameters if "__pyx" not in p]
        if not {result, *own} <= TYPES.keys():
            continue
        added = [ctypes.c_void_p if "*" in p else ctypes.c_int for p in parameters[len(own) :]]
        answer = getattr(card, name, Nothing(None if result == "PyObject *" else 0))
        function_type = ctypes.PYFUNCTYPE(TYPES[result], *(TYPES[p] for p in own), *added)
        function = function_type(of_the_first(len(own), answer))
        address = ctypes.cast(function, ctypes.c_void_p)
        module.__pyx_capi__[name] = new_capsule(address, name_of(capsule), None)
        kept.extend((capsule, function))
        if hasattr(module, name):
            setattr(module, name, answer)


def of_the_first(n, function):
    return lambda *arguments: function(*arguments[:n])


class Nothing:
    """A function that does nothing."""

    def __init__(self, result=0):
        self.result = result

    def __call__(self, *arguments):
        return self.result


class Idle:
    """A library whose functions all succeed."""

    def __getattr__(self, name):
        return Nothing()


def install():
    """Put a card into CuPy, which must not have been imported yet."""
    os.environ["CUPY_CACHE_IN_MEMORY"] = "1"  # what is not compiled here must not be kept
    os.environ["CUPY_ACCELERATORS"] = ""  # CUB is linked to CUDA itself
    from cupy_backends.cuda.api import driver, runtime

    card = Card()
    replace(runtime, card)
    replace(driver, card)
    import cupy
    from cupy.cuda import compiler

    from minist.cuda import blas

    cupy.cuda.set_allocator(None)  # fresh memory for each array: what an isfinite() reads is True
    compiler._NVRTCProgram.compile = lambda *a, **k: (b"", {})
    compiler._preprocess = lambda *a: ""
    blas.library = lambda xp: Idle()
    return card


def main(arguments):
    card = install()
    if arguments[0] == "-c":
        exec(arguments[1], {"card": card})
        return 0
    from minist import cli

    code = cli.main(arguments)
    print(json.dumps({key: getattr(card, key) for key in ("captures", "replays", "launched")}))
    return code


def run(*arguments):
    """Run this script, if CuPy is as it knows it: what it wrote. It must succeed."""
    cupy = pytest.importorskip("cupy", reason="CuPy itself is to run")
    if not cupy.__version__.startswith("14."):
        pytest.skip(f"the card is made for CuPy 14, this is {cupy.__version__}")
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, here, *arguments],
        env={**os.environ, "PYTHONPATH": str(here.parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Python's own end would take away the functions that CuPy still calls
