"""The networks of the paper's experiments, by name."""

from .distorted_mnist import (
    CNN,
    FCN,
    MODELS,
    SIZES,
    TRANSFORMATIONS,
    Layer,
    STNetwork,
    build,
    layers,
    width,
)
from .trained import pretrained

__all__ = [
    "CNN",
    "FCN",
    "MODELS",
    "SIZES",
    "TRANSFORMATIONS",
    "Layer",
    "STNetwork",
    "build",
    "layers",
    "pretrained",
    "width",
]
