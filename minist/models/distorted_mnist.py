"""The networks of Sect. 4.1: FCN and CNN, and each behind a spatial transformer.

All classifiers have three weight layers. With 48 filters and 130 units, CNN and FCN have about
119,000 parameters each at 28x28, and those of a transformer besides; larger images are not yet
balanced, and nothing is pooled behind a transformer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import nn
from ..autograd import Tensor
from ..spatial import (
    Affine,
    Attention,
    LocalisationCNN,
    LocalisationFC,
    Projective,
    SpatialTransformer,
    ThinPlateSpline,
    Transformation,
)

MODELS = ("fcn", "cnn", "st-fcn", "st-cnn")
TRANSFORMATIONS: dict[str, Callable[[], Transformation]] = {
    "affine": Affine,
    "attention": Attention,
    "projective": Projective,
    "tps": lambda: ThinPlateSpline(4, 4),
}
SIZES = {None: 28, "R": 28, "P": 28, "E": 28, "RTS": 42, "TC": 60, "T": 84}
CLASSES = 10


class FCN(nn.Sequential):
    """Fully connected: two hidden layers of `units`, and the classifier."""

    def __init__(self, in_shape: tuple[int, int, int], units: int = 130, classes: int = CLASSES):
        channels, h, w = in_shape
        super().__init__(
            nn.Flatten(),
            nn.Linear(channels * h * w, units),
            nn.ReLU(),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Linear(units, classes),
        )


class CNN(nn.Sequential):
    """Two convolutions, 9x9 and 7x7, each with a 2x2 max-pool, and the classifier.

    Each ReLU stands after the pooling: the two may be exchanged, and a quarter is left to do.
    """

    def __init__(self, in_shape: tuple[int, int, int], filters: int = 48, classes: int = CLASSES):
        channels, *size = in_shape
        h, w = (((n - 8) // 2 - 6) // 2 for n in size)
        if min(h, w) < 1:
            raise ValueError(f"CNN: images must be at least 24x24, not {tuple(size)}")
        super().__init__(
            nn.Conv2d(channels, filters, 9),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 7),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(filters * h * w, classes),
        )


class STNetwork(nn.Module):
    """A spatial transformer on the input, and a classifier of what it hands on (Fig. 1)."""

    def __init__(self, transformer: SpatialTransformer, classifier: nn.Module):
        self.transformer = transformer
        self.classifier = classifier

    def forward(self, images: Any) -> Tensor:
        return self.classifier(self.transformer(images))


def build(
    name: str,
    transformation: str = "affine",
    distortion: str | None = "R",
    filters: int = 48,
    units: int = 130,
) -> nn.Module:
    """A network by its name in the paper, its first weights drawn from the thread's generator.

    Parameters
    ----------
    name : "fcn", "cnn", "st-fcn" or "st-cnn"
    transformation : "affine", "attention", "projective" or "tps"
        Of the transformer, where there is one.
    distortion : str, optional
        Of the images, which gives their size: 28x28, RTS 42x42, TC 60x60.
    filters, units : int
        Filters of each convolution, units of each hidden layer.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    for what, value, known in (
        ("model", name, MODELS),
        ("transformation", transformation, TRANSFORMATIONS),
        ("distortion", distortion, SIZES),
    ):
        if value not in known:
            names = ", ".join(str(k) for k in known)
            raise ValueError(f"unknown {what} {value!r}; there are {names}")
    in_shape = (1, SIZES[distortion], SIZES[distortion])
    convolutional = name.endswith("cnn")
    classifier = CNN(in_shape, filters) if convolutional else FCN(in_shape, units)
    if not name.startswith("st-"):
        return classifier
    chosen = TRANSFORMATIONS[transformation]()
    localisation = (LocalisationCNN if convolutional else LocalisationFC)(in_shape, chosen)
    return STNetwork(SpatialTransformer(localisation, chosen), classifier)
