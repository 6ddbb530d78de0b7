"""A GPU's array library without a GPU: NumPy's arrays, behind all that CuPy refuses.

An array here keeps a NumPy array to itself and behaves as one of CuPy's does where the two
libraries differ:

- it is never turned into a NumPy array but by `get()`, and takes no NumPy array and no list as an
  operand or an index: each would be a copy over the bus that nobody asked for;
- names and keywords are those of CuPy, of which `cupy_names.txt` holds a list;
- a reduction, or a single element, is an array without axes, not a number;
- an index out of range, in an array of indices, wraps around;
- the result of an elementwise operation lies in C order, whatever the order of its inputs;
- to ask for a value (`float(x)`, `if x:`, `x.item()`, `x[mask]`) makes the host wait for the card,
  and each time is noted in `waits`; each copy from the host to the card is in `copies`.

`module()` is the library, which `on_strict_device` puts in the place of CuPy.

`python tests/strict.py > tests/cupy_names.txt` writes the list, where CuPy is installed.
"""

import inspect
import operator
import re
import sys
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from minist import cuda
from minist.cuda import blas

NAMES = Path(__file__).with_name("cupy_names.txt")
SCALARS = (bool, int, float, complex, np.generic)

waits: list[str] = []  # what the host waited for
copies: list[int] = []  # bytes, of each copy from the host
order = "C"  # of what an elementwise operation gives; "K", the inputs', is NumPy's


# --- the list of names --------------------------------------------------------------------------


def names_of(cupy):
    """A line for each name: the name and, as far as it tells, the names of its parameters."""
    parts = {
        "": cupy,
        "linalg.": cupy.linalg,
        "lib.stride_tricks.": cupy.lib.stride_tricks,
        "ndarray.": cupy.ndarray,
    }
    for prefix, owner in parts.items():
        for name in sorted(dir(owner)):
            if not name.startswith("_"):
                yield " ".join([prefix + name, *parameters_of(getattr(owner, name), name, cupy)])


def parameters_of(value, name, cupy):
    if isinstance(value, cupy.ufunc):
        return ["out", "dtype", "casting"]
    if isinstance(value, type) or not callable(value):
        return []
    try:
        return list(inspect.signature(value).parameters)
    except ValueError:  # compiled: the first line of its docstring tells
        found = re.match(
            rf"\S*\b{name}\((?:self(?:, )?)?(.*?)\)(?: ->|$)", value.__doc__ or "", re.M
        )
        return re.findall(r"(\w+)(?:=[^,]*)?(?:, |$)", found[1]) if found else []


@cache
def known():
    """Name -> its parameters."""
    lines = NAMES.read_text(encoding="utf-8").splitlines()
    return {name: set(parameters) for name, *parameters in (line.split() for line in lines)}


def check(name, keywords=()):
    if name not in known():
        raise AttributeError(f"CuPy has no {name}")
    if unknown := set(keywords) - known()[name]:
        raise TypeError(f"CuPy's {name} has no keyword {', '.join(sorted(unknown))}")


# --- in and out of the card ---------------------------------------------------------------------


def inner(value):
    """The NumPy array behind an array; TypeError for what lies on the host."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"a NumPy array {value.shape} among arrays of the card")
    if isinstance(value, list | tuple):
        return type(value)(inner(part) for part in value)
    return value


def outer(value):
    """What NumPy gave, as an array of the card."""
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(np.asarray(value))
    if isinstance(value, list | tuple):
        return type(value)(outer(part) for part in value)
    return value


def operand(value):
    if isinstance(value, ndarray):
        return value._host
    if value is None or isinstance(value, SCALARS):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def elementwise(function, *operands, out=None, **options):
    """A ufunc: scalars and arrays of the card only, the result in C order."""
    operands = [operand(value) for value in operands]
    if out is not None:
        function(*operands, out=out._host, **options)
        return out
    return ndarray(np.asarray(function(*operands, **options), order=order))


class Ufunc:
    def __init__(self, name):
        self.name, self.function = name, getattr(np, name)

    def __call__(self, *operands, **options):
        check(self.name, options)
        return elementwise(self.function, *operands, **options)

    def at(self, array, index, values):
        self.function.at(array._host, plain(index, array.shape), operand(values))


class Function:
    """A function of NumPy, on arrays of the card."""

    from_host = ("array", "asarray")
    yes_or_no = ("allclose", "array_equal")

    def __init__(self, name, module=np, prefix=""):
        self.name, self.function = prefix + name, getattr(module, name)

    def __call__(self, *arguments, **options):
        check(self.name, options)
        if self.name in self.from_host and not isinstance(arguments[0], ndarray):
            host, *rest = arguments
            copied = np.array(host, *rest, **options)
            copies.append(copied.nbytes)
            return ndarray(copied)
        if self.name in ("nonzero", "unique", "flatnonzero", "argwhere"):
            waits.append(self.name)
        options = {name: inner(value) for name, value in options.items()}
        result = self.function(*inner(arguments), **options)
        if self.name in self.yes_or_no:
            result = np.asarray(result)
        return outer(result)


# --- arrays -------------------------------------------------------------------------------------


class ndarray:
    """An array of the card."""

    __slots__ = ("__weakref__", "_host")
    __hash__ = None

    def __init__(self, host):
        self._host = host

    # what can be known without waiting
    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: self._host.flags)
    T = property(lambda self: ndarray(self._host.T))

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    # what NumPy asks of a stranger
    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use `.get()`")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if method != "__call__":
            return NotImplemented
        return Ufunc(ufunc.__name__)(*inputs, **options)

    def __array_function__(self, function, types, arguments, options):
        check(function.__name__)
        return Function(function.__name__)(*arguments, **options)

    # values: the host waits
    def _wait(self, what):
        waits.append(what)
        return self._host

    def get(self):
        return self._wait("get").copy(order="K")

    def item(self, *index):
        return self._wait("item").item(*index)

    def tolist(self):
        return self._wait("tolist").tolist()

    def __bool__(self):
        return bool(self._wait("bool"))

    def __float__(self):
        return float(self._wait("float"))

    def __int__(self):
        return int(self._wait("int"))

    def __index__(self):
        return operator.index(self._wait("index"))

    def __repr__(self):
        return repr(self._wait("repr"))

    def __format__(self, spec):
        return format(self._wait("format"), spec)

    # elements
    def __getitem__(self, key):
        if has_mask(key):
            waits.append("x[mask]")
        return outer(self._host[plain(key, self.shape)])

    def __setitem__(self, key, value):
        if has_mask(key) and isinstance(value, ndarray) and value.ndim:
            waits.append("x[mask] = array")
        self._host[plain(key, self.shape)] = operand(value)

    def take(self, indices, axis=None, out=None):
        return ndarray(np.asarray(self._host.take(operand(indices), axis=axis, mode="wrap")))

    def copy(self, order="C"):
        return ndarray(self._host.copy(order=order))

    def __getattr__(self, name):
        check(f"ndarray.{name}")
        method = getattr(self._host, name)

        def call(*arguments, **options):
            check(f"ndarray.{name}", options)
            if name == "nonzero":
                waits.append(name)
            options = {key: inner(value) for key, value in options.items()}
            return outer(method(*inner(arguments), **options))

        return call


ndarray.__module__ = "cupy"  # by which minist knows it

BINARY = "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift"


def _operators():
    def both(function):
        def forwards(self, other):
            return elementwise(function, self, other)

        def backwards(self, other):
            return elementwise(function, other, self)

        return forwards, backwards

    def in_place(function):
        def apply(self, other):
            function(self._host, operand(other))
            return self

        return apply

    def unary(function):
        return lambda self: elementwise(function, self)

    for name in BINARY.split():
        bare = name.rstrip("_")
        forwards, backwards = both(getattr(operator, name))
        setattr(ndarray, f"__{bare}__", forwards)
        setattr(ndarray, f"__r{bare}__", backwards)
        setattr(ndarray, f"__i{bare}__", in_place(getattr(operator, f"i{bare}")))
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(ndarray, f"__{name}__", both(getattr(operator, name))[0])
    for name in ("neg", "pos", "abs", "invert"):
        setattr(ndarray, f"__{name}__", unary(getattr(operator, name)))


_operators()


def parts_of(key):
    return key if isinstance(key, tuple) else (key,)


def has_mask(key):
    return any(isinstance(part, ndarray) and part.dtype == bool for part in parts_of(key))


def plain(key, shape):
    """An index as NumPy takes it, the numbers in its arrays wrapped into the shape."""
    parts = [ndarray(np.asarray(p)) if isinstance(p, list) else p for p in parts_of(key)]
    for part in parts:
        if not isinstance(part, ndarray | int | np.integer | slice | type(None) | type(Ellipsis)):
            raise IndexError(f"an index of {type(part)} on the card")

    def axes(part):
        if part is None or part is Ellipsis:
            return 0
        return part.ndim if isinstance(part, ndarray) and part.dtype == bool else 1

    axis, plain_parts = 0, []
    for part in parts:
        if part is Ellipsis:
            axis += len(shape) - sum(map(axes, parts))
        elif isinstance(part, ndarray) and part.dtype != bool:
            part = part._host.astype(np.intp)
            part = part % shape[axis] if shape[axis] else part
            axis += 1
        else:
            axis += axes(part)
            part = part._host if isinstance(part, ndarray) else part
        plain_parts.append(part)
    return tuple(plain_parts) if isinstance(key, tuple) else plain_parts[0]


# --- the library --------------------------------------------------------------------------------


class CUDARuntimeError(RuntimeError):
    pass


def no_graph(allocator):
    raise NotImplementedError("a strict device captures nothing")


class Module(ModuleType):
    """The names of CuPy, computed by NumPy."""

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        check(name)
        value = getattr(np, name)
        if isinstance(value, np.ufunc):
            return Ufunc(name)
        return Function(name) if callable(value) and not isinstance(value, type) else value


@cache
def module():
    cupy = Module("cupy")
    cupy.__spec__ = ModuleSpec("cupy", None)
    cupy.__version__ = "strict"
    cupy.ndarray = ndarray
    # Ufuncs of CuPy that are functions in NumPy.
    cupy.where, cupy.clip = Ufunc("where"), Ufunc("clip")
    cupy.linalg = SimpleNamespace(
        **{name: Function(name, np.linalg, "linalg.") for name in ("det", "inv", "norm", "solve")}
    )
    cupy.lib = SimpleNamespace(
        stride_tricks=SimpleNamespace(
            as_strided=Function("as_strided", np.lib.stride_tricks, "lib.stride_tricks.")
        )
    )
    runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=lambda: 1,
        getDevice=lambda: 0,
        setDevice=lambda device: None,
        getDeviceProperties=lambda i: {"name": b"a strict device"},
    )
    cupy.cuda = SimpleNamespace(runtime=runtime, MemoryPool=no_graph)
    return cupy


@contextmanager
def on_strict_device():
    """Let the device "cuda" be this one; it runs the array versions, no kernels."""

    def no_kernel(array):
        return False

    with (
        pytest.MonkeyPatch.context() as patch,  # of one module, and not of those imported meanwhile
        mock.patch.object(cuda, "is_cupy", no_kernel),
        mock.patch.object(blas, "is_cupy", no_kernel),
    ):
        patch.setitem(sys.modules, "cupy", module())
        yield


if __name__ == "__main__":
    import cupy

    print(*names_of(cupy), sep="\n")
