"""The networks that add two digits (the appendix): with no transformer, with one, with two.

Each digit has a channel of its own. One transformer warps both channels alike, and cannot do
justice to both digits; of two in parallel (Sect. 3.4) each may follow one of them. Each hands on
both channels, four for the classifier, no larger than a digit needs: to a fully connected one at
14x14, since each of its units has a weight for every pixel, and the fewer pixels, the more units.

All have about `PARAMETERS` learnable parameters, localisation nets included. Two fully connected
localisation nets alone have 229,000 of them on 42x42, so that this cannot be less.
"""

from __future__ import annotations

from .. import nn
from ..spatial import (
    LocalisationCNN,
    LocalisationFC,
    ParallelTransformers,
    SpatialTransformer,
)
from .distorted_mnist import CNN, FCN, TRANSFORMATIONS, STNetwork, fitting_width

MODELS = ("fcn", "cnn", "st-fcn", "2xst-fcn", "st-cnn", "2xst-cnn")
SHAPE = (2, 42, 42)
SEEN = {FCN: (14, 14), CNN: (21, 21)}  # by the classifier; `CNN` takes no less
CLASSES = 19  # sums of two digits
PARAMETERS = 400_000  # the paper's


def build(name: str, transformation: str = "affine", width: int | None = None) -> nn.Module:
    """A network that adds, its first weights drawn from the thread's generator.

    Parameters
    ----------
    name : "fcn", "cnn", "st-fcn", "2xst-fcn", "st-cnn" or "2xst-cnn"
    transformation : "affine", "projective", "tps" or another of `models.TRANSFORMATIONS`
        Of the transformers, where there are any.
    width : int, optional
        Filters of each convolution, or units of each hidden layer; by default as many as make
        `PARAMETERS`.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    for what, value, known in (
        ("model", name, MODELS),
        ("transformation", transformation, TRANSFORMATIONS),
    ):
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}; there are {', '.join(known)}")
    kind = CNN if name.endswith("cnn") else FCN
    if name in ("fcn", "cnn"):
        return kind(SHAPE, width or fitting(kind, SHAPE, PARAMETERS), CLASSES)
    transformer = transformer_of(name, transformation, SEEN[kind])
    looks = 2 if name.startswith("2x") else 1
    seen = (looks * SHAPE[0], *SEEN[kind])
    left = PARAMETERS - transformer.count_parameters()
    classifier = kind(seen, width or fitting(kind, seen, left), CLASSES)
    return STNetwork(transformer, classifier)


def transformer_of(name: str, transformation: str, size: tuple[int, int]) -> SpatialTransformer:
    """One transformer, or two in parallel, each with a localisation net of its own."""
    t = TRANSFORMATIONS[transformation]()
    net = LocalisationCNN if name.endswith("cnn") else LocalisationFC
    if name.startswith("2x"):
        return ParallelTransformers(2, [net(SHAPE, t), net(SHAPE, t)], t, output_size=size)
    return SpatialTransformer(net(SHAPE, t), t, size)


def fitting(kind: type[CNN] | type[FCN], in_shape: tuple[int, int, int], parameters: int) -> int:
    """The width of a classifier with so many parameters."""
    return fitting_width(lambda width: kind(in_shape, width, CLASSES), parameters)
