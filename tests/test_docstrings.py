"""Every public name says what it is: its arguments, shapes, errors, and where it comes from."""

import ast
import importlib
import inspect
import re
import textwrap

import pytest

import minist
from minist import functional

MODULES = {
    name: importlib.import_module(name)
    for name in (
        "minist",
        "minist.functional",
        "minist.nn",
        "minist.optim",
        "minist.spatial",
        "minist.spatial.kernels",
        "minist.datasets",
        "minist.models",
        "minist.training",
        "minist.plotting",
    )
}


def public_names(module):
    """(name, object) of each class and function that a module offers."""
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    ]
    for name in names:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            yield name, value


NAMES = [
    pytest.param(value, id=f"{module}.{name}")
    for module, contents in MODULES.items()
    for name, value in public_names(contents)
]
every_name = pytest.mark.parametrize("value", NAMES)

SHAPE = r"\((N|F|C|K|P|k|in|out|num_parameters|\.\.\.),|shape|element|0-d|\(H|number"
REFERENCE = r"(?:see|as|As|of) `(?:F\.)?(\w+)`"


def docstring(value):
    """Its own, and those that it refers to for its arguments: "see `F.conv2d`"."""
    text = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
    text = inspect.cleandoc(text or "")
    for name in re.findall(REFERENCE, text):
        for module in (functional, inspect.getmodule(value), minist.spatial):
            other = getattr(module, name, None)
            if other is not None and other is not value:
                text += "\n" + inspect.cleandoc(other.__doc__ or "")
                break
    return text


def parameters(value):
    """The names of its arguments, for a class those of its own __init__."""
    if inspect.isclass(value):
        value = value.__dict__.get("__init__")
        if value is None:
            return []
    return [name for name in inspect.signature(value).parameters if name not in ("self", "args")]


def raised(function):
    """The errors that a function raises itself."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError):
        return set()
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    names = {
        call.func.id for call in calls if isinstance(call, ast.Call) and hasattr(call.func, "id")
    }
    return {name for name in names if name.endswith("Error") and name != "NotImplementedError"}


def methods(value):
    return {
        name: method
        for name, method in vars(value).items()
        if not name.startswith("_") and inspect.isfunction(method)
    }


@every_name
def test_it_has_a_docstring(value):
    assert docstring(value)
    if inspect.isclass(value):
        for name in methods(value):
            assert name in ("forward", "backward") or inspect.getdoc(getattr(value, name)), name


@every_name
def test_every_argument_is_spoken_of(value):
    """But for a first one that the docstring gives by its shape."""
    text = docstring(value)
    fields = getattr(value, "__dataclass_fields__", {})  # some tell what they are by themselves
    told = {name for name, field in fields.items() if field.metadata.get("help")}
    missing = [p for p in parameters(value) if p not in told and not re.search(rf"\b{p}\b", text)]
    if missing and missing[0] == parameters(value)[0] and re.search(SHAPE, text):
        missing = missing[1:]
    assert missing == []


@every_name
def test_errors_are_announced(value):
    functions = [value]
    if inspect.isclass(value):
        functions = [
            value.__dict__[name] for name in ("__init__", "forward") if name in vars(value)
        ]
    errors = set().union(*map(raised, functions)) if functions else set()
    assert {error for error in errors if error not in docstring(value)} == set()


@pytest.mark.parametrize(
    "value",
    [
        p
        for p in NAMES
        if p.id.startswith(("minist.functional.", "minist.spatial."))
        and not p.id.startswith("minist.spatial.kernels.")
    ],
)
def test_shapes_are_given(value):
    assert re.search(SHAPE, docstring(value))


@pytest.mark.parametrize(
    "value",
    [p for p in NAMES if p.id.startswith(("minist.spatial.", "minist.models."))],
)
def test_the_paper_is_cited_by_it_or_its_file(value):
    texts = docstring(value) + (inspect.getmodule(value).__doc__ or "")
    assert re.search(r"Eq\. \(\d\)|Sect\. \d|Fig\. \d|Table \d|\(\w+, \d{4}\)", texts)
