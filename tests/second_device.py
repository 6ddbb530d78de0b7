"""Every operation that a test runs on NumPy's arrays, run a second time on those of a device.

Inside `beside(device)` each `Function.apply`, and each step of `backward`, is repeated with its
inputs moved there, and must give the same: shapes, types, and values within a tolerance; or raise
the same error. So the suite of an operation, with all its shapes, edges and layouts, is one of
every device, and says nothing of devices.
"""

import copy
import sys
from contextlib import contextmanager
from unittest import mock

import numpy as np

from minist import Tensor, autograd
from minist.autograd import Function
from minist.backend import device_of, to_device, to_numpy

TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
STAY = {"centres", "solution"}  # options that are constants of the host


def moved(value, device):
    if isinstance(value, Tensor):
        return Tensor(moved(value.data, device), value.requires_grad)
    if isinstance(value, np.ndarray | np.generic):
        return to_device(np.asarray(value), device)
    if isinstance(value, np.random.Generator):
        return copy.deepcopy(value)  # it shall give the same numbers again
    if isinstance(value, tuple | list):
        return type(value)(moved(part, device) for part in value)
    return value


def assert_same(name, here, there, device):
    if here is None or there is None:
        assert here is there is None, name
        return
    assert device_of(there) == device, f"{name} left the device"
    assert (there.shape, there.dtype) == (here.shape, here.dtype), name
    found = to_numpy(there)
    if np.array_equal(found, here):  # a twentieth of the time of what follows
        return
    tolerance = TOLERANCE.get(here.dtype.name, 0)
    np.testing.assert_allclose(
        found, here, rtol=tolerance, atol=tolerance, err_msg=f"{name} on {device}"
    )


@contextmanager
def beside(device):
    """Repeat on a device what is done on the host."""
    apply, input_gradients = Function.apply.__func__, autograd._input_gradients
    gradcheck = sys.modules["minist.gradcheck"]  # minist.gradcheck is its function
    value_beside = gradcheck._value_beside
    once = 0  # in how many of gradcheck's small steps, which need no repetition

    def apply_twice(cls, *inputs, **options):
        arrays = [x.data if isinstance(x, Tensor) else x for x in inputs]
        if (
            once
            or cls.__name__ == "Move"
            or any(hasattr(a, "dtype") and device_of(a) == device for a in arrays)
        ):
            return apply(cls, *inputs, **options)
        inputs_there = moved(inputs, device)
        options_there = {
            name: value if name in STAY else moved(value, device) for name, value in options.items()
        }
        error = error_there = None
        try:
            output = apply(cls, *inputs, **options)
        except Exception as raised:
            error = raised
        try:
            output_there = apply(cls, *inputs_there, **options_there)
        except Exception as raised:
            error_there = raised
            if type(raised) is not type(error):
                raise
        if error is not None:
            # A label out of range is NaN there: the host does not wait to be told.
            assert error_there is not None or cls.__name__ == "CrossEntropy", error
            raise error
        assert_same(cls.__name__, output.data, output_there.data, device)
        if output.grad_fn is not None:
            output.grad_fn.again = output_there.grad_fn
        return output

    def input_gradients_twice(node, grad):
        node_there = node.__dict__.pop("again", None)
        gradients = input_gradients(node, grad)
        if node_there is not None:
            name = f"{type(node).__name__}.backward"
            gradients_there = input_gradients(node_there, to_device(grad, device))
            for here, there in zip(gradients, gradients_there, strict=True):
                assert_same(name, here, there, device)
            node.again = node_there
        return gradients

    def value_beside_once(*arguments):
        nonlocal once
        once += 1
        try:
            return value_beside(*arguments)
        finally:
            once -= 1

    with (
        mock.patch.object(gradcheck, "_value_beside", value_beside_once),
        mock.patch.object(Function, "apply", classmethod(apply_twice)),
        mock.patch.object(autograd, "_input_gradients", input_gradients_twice),
    ):
        yield
