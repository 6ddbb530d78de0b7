"""The demonstration of the appendix: a digit as a solid, somewhere in a volume and turned in it, is
found by a 3-D affine transformer and read as a picture, from class labels alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from .. import nn
from ..autograd import Tensor, no_grad
from ..datasets import Images, solids
from ..datasets.volumes import thickness
from ..models import volume
from ..training import (
    Experiment,
    load_examples,
    load_trained,
    setting,
    test,
    transformers,
)


@dataclass(frozen=True)
class Volume(Experiment):
    """Solid digits in a volume (the appendix, on higher dimensions)."""

    command: ClassVar[str] = "volume"
    at_once: ClassVar[int] = 250

    # The network
    model: str = setting(
        "st-cnn",
        "st-cnn, with the transformer, or cnn, the same classifier on the X-ray of the volume",
        volume.MODELS,
    )
    filters: int = setting(32, "filters of each convolution of the classifier", least=1)
    slices: int = setting(6, "that the transformer's output is deep", least=1)

    # Its volumes
    size: int = setting(30, "voxels along each side of a volume; the paper's have 60", least=21)
    turn: float = setting(
        45.0, "degrees that a solid is turned by at most, about each axis", least=0
    )

    # The training
    epochs: int = setting(12, "passes over the digits, each time as other solids", least=1)

    @classmethod
    def going_on(cls, folder: str | os.PathLike) -> str:
        return f"minist volume --resume --out {folder}"

    def build(self) -> nn.Module:
        return volume.build(self.model, self.size, self.filters, self.slices, thickness(self.size))

    def examples(self, digits: Images, rng: np.random.Generator) -> Images:
        return Images(solids(digits.images, rng, self.size, self.turn), digits.labels)

    @property
    def name(self) -> str:
        return f"volume-{self.model}"


@no_grad()
def draw(folder: str | Path, digits: int = 6, first: int = 0) -> Path:
    """The run's picture, `result.png`; returns its path.

    For `digits` test volumes from number `first` on: their X-rays along the three axes, the box
    that is looked at, what the classifier is given and what it takes it for.
    """
    from .. import plotting  # brings in Matplotlib

    model, settings, run = load_trained(folder)
    volumes, labels = load_examples(settings, first, digits)
    predicted = model(Tensor(volumes)).data.argmax(axis=1)
    *_, flatten, _ = model
    st = next(iter(transformers(model)), None)
    error = run.test_error()
    figure = plotting.volume_result(
        volumes,
        labels,
        predicted,
        grid=None if st is None else st.grid,
        outputs=flatten(Tensor(volumes) if st is None else st(Tensor(volumes))),
        curve=run.lines(),
        title=f"{settings.name}: test error {test(run)['error'] if error is None else error:.2f} %",
    )
    run.save_picture(figure)
    return run.picture
