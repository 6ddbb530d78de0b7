"""The networks that are timed: those of Sect. 4.1, with stated widths, and their work.

48 filters in each convolution at 28x28 and 42x42, 32 at 60x60, 130 units in an FCN; nothing is
pooled between the transformer and the classifier. The numbers thus compare over versions, whatever
`models.build` chooses for training.
"""

from __future__ import annotations

import numpy as np

from .. import functional as F
from .. import nn
from ..autograd import Function, Tensor
from ..functional.convolution import Conv2d, quickest
from ..functional.linear import Linear
from ..models import CNN, FCN, TRANSFORMATIONS
from ..spatial import LocalisationCNN, LocalisationFC, SpatialTransformer
from ..training.step import activations, nodes

FILTERS = {28: 48, 42: 48, 60: 32}
UNITS = 130


def build(
    name: str, transformation: str | None, size: int, filters: int | None = None
) -> nn.Module:
    """fcn, cnn, st-fcn or st-cnn for size x size images of one channel and ten classes."""
    shape = (1, size, size)
    convolutional = name.endswith("cnn")
    classifier = CNN(shape, filters or FILTERS[size]) if convolutional else FCN(shape, UNITS)
    if not name.startswith("st-"):
        return classifier
    chosen = TRANSFORMATIONS[transformation]()
    localisation = LocalisationCNN if convolutional else LocalisationFC
    return nn.Sequential(SpatialTransformer(localisation(shape, chosen), chosen), *classifier)


def batch(n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels; a step takes the same time on any."""
    rng = np.random.default_rng(0)
    images = rng.random((n, 1, size, size), dtype=np.float32)
    return images, rng.integers(0, 10, n)


def work_of_step(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Floating operations and bytes of a training step, for its floor.

    The products of convolutions (in the way that is taken) and linear layers, those of a forward
    again for each gradient wanted; and every array between two operations, and its gradient,
    written once and read once. Taken from the graph of one image.
    """
    loss = F.cross_entropy(model(Tensor(images[:1])), labels[:1])
    flops = sum(products(n, len(images)) * (1 + sum(n.needs_grad[:2])) for n in nodes(loss))
    return flops * len(images), 4 * 4 * activations(model, images.shape[1:]) * len(images)


def products(node: Function, batch_size: int) -> float:
    """Floating operations an image in the matrix products of a forward."""
    if isinstance(node, Linear):
        return 2.0 * node.weight.size
    if isinstance(node, Conv2d):
        geometry = node.way.geometry._replace(images=batch_size)
        return 2.0 * quickest(geometry).operations(geometry)
    return 0.0
