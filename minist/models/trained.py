"""Networks of Sect. 4.1 that come trained with the package, to look at and to go on from.

Each file in weights/ holds what a run left, and as notes its settings and test error: written with
`files.save_arrays(model.state_dict(), path, {"settings": ..., "test_error": ...})`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import nn
from ..files import load_arrays
from .distorted_mnist import build

FOLDER = Path(__file__).parent / "weights"


def pretrained(name: str) -> nn.Module:
    """A trained network by the name of its run, in evaluation mode.

    Parameters
    ----------
    name : str
        Such as "st-cnn-affine-R".

    Raises
    ------
    ValueError
        If there is no such network.

    Examples
    --------
    >>> from minist import datasets, models
    >>> model = models.pretrained("st-cnn-affine-R")
    >>> images, labels = datasets.distorted(datasets.MNIST(train=False), "R", seed=0)
    >>> model(images[:8]).numpy().argmax(axis=1).tolist(), labels[:8].tolist()
    ([7, 2, 1, 0, 4, 1, 4, 9], [7, 2, 1, 0, 4, 1, 4, 9])
    """
    model, _ = read(name)
    return model


def read(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """A trained network, and what is known of its run: "settings" and "test_error"."""
    known = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
    if name not in known:
        raise ValueError(f"no network {name!r} comes trained; there are {', '.join(known)}")
    arrays, notes = load_arrays(FOLDER / f"{name}.safetensors")
    settings = notes["settings"]
    parts = ("transformation", "distortion", "filters", "units")
    model = build(settings["model"], **{part: settings.get(part) for part in parts})
    model.load_state_dict(arrays)
    return model.eval(), notes
