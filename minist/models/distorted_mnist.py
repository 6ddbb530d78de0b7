"""The networks of Sect. 4.1: FCN and CNN, and each behind a spatial transformer.

All classifiers have three weight layers. The networks for one distortion have the same number of
learnable parameters, localisation nets included: as many as the CNN, whose filters are given
(`FILTERS`). The others' widths follow, for images of any size (see `width`). Where the canvas is
larger than the digit (RTS, T, TC), what the transformer shows is halved by an average pool (see
`seen`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import nn
from ..autograd import Tensor, no_grad
from ..backend import random_state
from ..spatial import (
    Affine,
    Attention,
    LocalisationCNN,
    LocalisationFC,
    PiecewiseAffine,
    Projective,
    Similarity,
    SpatialTransformer,
    ThinPlateSpline,
    Transformation,
)

MODELS = ("fcn", "cnn", "st-fcn", "st-cnn")
TRANSFORMATIONS: dict[str, Callable[[], Transformation]] = {
    "affine": Affine,
    "attention": Attention,
    "similarity": Similarity,
    "projective": Projective,
    "tps": lambda: ThinPlateSpline(4, 4),
    "piecewise": lambda: PiecewiseAffine(4, 4),
}
SIZES = {None: 28, "R": 28, "P": 28, "E": 28, "RTS": 42, "TC": 60, "T": 84}
LARGE_CANVAS = ("RTS", "T", "TC")
CLASSES = 10
# Of the CNN that sets the size of a distortion's networks; the paper's have 32 to 64. On RTS more
# of them lower ST-CNN's error on held-out digits (docs/recipes.md).
FILTERS = {None: 48, "R": 48, "P": 48, "E": 48, "RTS": 64, "TC": 48, "T": 48}


class FCN(nn.ForImages):
    """Fully connected: two hidden layers of `units`, and the classifier.

    Takes images (N, *in_shape), in_shape (C, H, W), and gives logits (N, classes). Raises
    ValueError for images of another shape.
    """

    def __init__(self, in_shape: tuple[int, int, int], units: int, classes: int = CLASSES):
        channels, h, w = in_shape
        super().__init__(
            in_shape,
            nn.Flatten(),
            nn.Linear(channels * h * w, units),
            nn.ReLU(),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Linear(units, classes),
        )


class CNN(nn.ForImages):
    """Two convolutions, 9x9 and 7x7, each with a 2x2 max-pool, and the classifier.

    Pooling rounds up, so that 21x21 is enough: 13x13 after the first convolution, 7x7 pooled, 1x1
    after the second. Each ReLU stands after the pooling: the two may be exchanged, and a quarter is
    left to do.

    Takes images (N, *in_shape), in_shape (C, H, W), and gives logits (N, classes); `filters` in
    each convolution. Raises ValueError for an in_shape that is smaller, and for images of another.
    """

    def __init__(self, in_shape: tuple[int, int, int], filters: int, classes: int = CLASSES):
        channels, *size = in_shape
        h, w = (half(half(n - 8) - 6) for n in size)
        if min(h, w) < 1:
            raise ValueError(f"CNN: images must be at least 21x21, not {tuple(size)}")
        super().__init__(
            in_shape,
            nn.Conv2d(channels, filters, 9),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 7),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(filters * h * w, classes),
        )


def half(n: int) -> int:
    """Rounded up."""
    return -(-n // 2)


class STNetwork(nn.Module):
    """A spatial transformer on the input, and a classifier of what it hands on (Fig. 1).

    Parameters
    ----------
    transformer : SpatialTransformer
    classifier : Module
    downsample : Module, optional
        Between the two.
    """

    def __init__(
        self,
        transformer: SpatialTransformer,
        classifier: nn.Module,
        downsample: nn.Module | None = None,
    ):
        self.transformer = transformer
        self.downsample = downsample
        self.classifier = classifier

    def forward(self, images: Any) -> Tensor:
        v = self.transformer(images)
        if self.downsample is not None:
            v = self.downsample(v)
        return self.classifier(v)


def build(
    name: str,
    transformation: str = "affine",
    distortion: str | None = "R",
    filters: int | None = None,
    units: int | None = None,
) -> nn.Module:
    """A network by its name in the paper, its first weights drawn from the thread's generator.

    Parameters
    ----------
    name : "fcn", "cnn", "st-fcn" or "st-cnn"
    transformation : "affine", "attention", "similarity", "projective", "tps" or "piecewise"
        Of the transformer, where there is one.
    distortion : str, optional
        Of the images, which gives their size: 28x28, RTS 42x42, TC 60x60.
    filters, units : int, optional
        Filters of each convolution, units of each hidden layer; by default `width(...)`.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    check_names(name, transformation, distortion)
    chosen = filters if name.endswith("cnn") else units
    classifier = classifier_of(
        name, distortion, width(name, transformation, distortion) if chosen is None else chosen
    )
    if not name.startswith("st-"):
        return classifier
    downsample = nn.AvgPool2d(2) if halved(name, distortion) else None
    return STNetwork(transformer_of(name, transformation, distortion), classifier, downsample)


def halved(name: str, distortion: str | None) -> bool:
    """Whether what a network's transformer shows is halved: on a canvas larger than the digit."""
    return name.startswith("st-") and distortion in LARGE_CANVAS


def seen(name: str, distortion: str | None) -> int:
    """Height and width of what a network's classifier sees: that of the images, or of what the
    transformer shows, halved.

    A transformer may show more pixels than there are, or fewer, and halving takes the mean of four
    for each that is seen. A CNN sees half the canvas, but no less than a digit's 28x28 (of 21x21
    its second convolution would leave a single place); an FCN 14x14, since each of its units has a
    weight for every pixel: the fewer pixels, the more units.
    """
    size = SIZES[distortion]
    if not halved(name, distortion):
        return size
    return 14 if name == "st-fcn" else max(size // 2, SIZES[None])


def width(name: str, transformation: str = "affine", distortion: str | None = "R") -> int:
    """Filters, or units, with which a network has as many parameters as the CNN of its column.

    name, transformation and distortion as of `build`.
    """
    check_names(name, transformation, distortion)
    if name == "cnn":
        return FILTERS[distortion]
    with random_state(0):  # counted, and thrown away
        target = classifier_of("cnn", distortion, FILTERS[distortion]).count_parameters()
        if name.startswith("st-"):
            target -= transformer_of(name, transformation, distortion).count_parameters()
    return fitting_width(lambda w: classifier_of(name, distortion, w), target)


def fitting_width(classifier: Callable[[int], nn.Module], parameters: int) -> int:
    """The width with which a classifier has about so many parameters.

    `classifier` makes it by its width. Its parameters are a quadratic in the width, so three
    narrow ones tell it.
    """
    narrow = [1, 2, 3]
    with random_state(0):
        counts = [classifier(w).count_parameters() for w in narrow]
    return round(max(np.roots(np.polyfit(narrow, counts, 2) - [0, 0, parameters])))


def transformer_of(name: str, transformation: str, distortion: str | None) -> SpatialTransformer:
    """A network's transformer, with a localisation net of the classifier's kind."""
    t = TRANSFORMATIONS[transformation]()
    net = LocalisationCNN if name.endswith("cnn") else LocalisationFC
    size, shown = SIZES[distortion], seen(name, distortion)
    if halved(name, distortion):
        shown *= 2
    return SpatialTransformer(net((1, size, size), t), t, (shown, shown))


def classifier_of(name: str, distortion: str | None, width: int) -> nn.Module:
    """A network's classifier, for the images as they are or as the transformer hands them on."""
    size = seen(name, distortion)
    return (CNN if name.endswith("cnn") else FCN)((1, size, size), width)


def check_names(name: str, transformation: str, distortion: str | None) -> None:
    for what, value, known in (
        ("model", name, MODELS),
        ("transformation", transformation, TRANSFORMATIONS),
        ("distortion", distortion, SIZES),
    ):
        if value not in known:
            names = ", ".join(str(k) for k in known)
            raise ValueError(f"unknown {what} {value!r}; there are {names}")


class Layer(NamedTuple):
    """A layer of a network, as a table shows it: its shapes without the batch."""

    name: str
    layer: str
    output: tuple[int, ...]
    parameters: int


def layers(model: nn.Module, in_shape: tuple[int, ...]) -> list[Layer]:
    """The layers of a model, in the order in which images of in_shape (C, H, W) pass them.

    A transformer stands in one line, behind its localisation net, for its grid and sampler.
    """
    found: list[Layer] = []
    model = copy.deepcopy(model).to("cpu").eval()  # dropout would draw random numbers

    def note(name: str, module: nn.Module, forward: Callable) -> Callable:
        own = 0 if module.children() else sum(p.size for p in module.parameters())

        def noted(*inputs: Any) -> Tensor:
            output = forward(*inputs)
            kind = repr(module)
            if isinstance(module, SpatialTransformer):
                kind = f"{module.transformation!r}, {module.mode} sampler"
            one = output[0] if isinstance(output, list) else output  # k transformers give k alike
            found.append(Layer(name, kind, one.shape[1:], own))
            return output

        return noted

    watched = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, SpatialTransformer) or not list(module.children())
    ]
    for name, module in watched:
        module.forward = note(name, module, module.forward)  # of this copy alone
    with no_grad():
        model(Tensor(np.zeros((1, *in_shape), np.float32)))
    return found
