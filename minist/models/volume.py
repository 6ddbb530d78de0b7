"""The networks that read a digit in a volume, with a 3-D transformer and without.

A picture is all that any network here ever convolves. The localisation network sees the volume as
three X-rays, along each of its axes; the classifier sees what the transformer shows, flattened
along the depth. The gradient reaches the 12 numbers of the transformation through that picture.
"""

from __future__ import annotations

from typing import Any

from .. import functional as F
from .. import nn
from ..autograd import Tensor
from ..spatial import Affine, SpatialTransformer, ThetaRegression, project
from .distorted_mnist import CNN

MODELS = ("st-cnn", "cnn")
LOOKED_AT = 0.6  # of the volume's width, by the first theta


class XRays(nn.Module):
    """A volume seen along some of its axes, each view a channel: (N, 1, S, S, S) to (N, k, S, S).

    Parameters
    ----------
    axes : sequence of int
        0 along the depth, 1 from above, 2 from the side.
    thickness : float
        In voxels: what so much matter adds up to counts as 1.
    """

    def __init__(self, axes: tuple[int, ...], thickness: float):
        self.axes, self.thickness = axes, thickness

    def forward(self, volumes: Any) -> Tensor:
        views = [project(volumes, axis, "sum") for axis in self.axes]
        return F.concatenate(views, axis=1) * (1 / self.thickness)


def build(name: str, size: int, filters: int, slices: int, thickness: float) -> nn.Sequential:
    """A network for volumes (N, 1, size, size, size), its first weights drawn as ever.

    Parameters
    ----------
    name : "st-cnn" or "cnn"
        With the transformer, or the same classifier on the X-ray of the volume as it is.
    size : int
        Of the volume; at least 21.
    filters : int
        Of each convolution of the classifier.
    slices : int
        D' of the transformer's output; H' and W' are `size`.
    thickness : float
        Of a solid, in voxels.

    Raises
    ------
    ValueError
        For an unknown name, or a smaller volume.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; there are {', '.join(MODELS)}")
    flatten, classifier = XRays((0,), thickness), CNN((1, size, size), filters)
    if name == "cnn":
        return nn.Sequential(flatten, classifier)
    affine = Affine(dimensions=3)
    localisation = nn.Sequential(XRays((0, 1, 2), thickness), *localisation_layers(size, affine))
    transformer = SpatialTransformer(localisation, affine, (slices, size, size))
    return nn.Sequential(transformer, flatten, classifier)


def localisation_layers(size: int, affine: Affine, filters: int = 24, hidden: int = 64) -> list:
    """From three X-rays (N, 3, size, size) to theta, (N, 12).

    At first the box that is looked at is in the middle, and narrower than the volume. From the
    identity, the whole volume, the depth of the solid would never be learnt: flattened along the
    depth, it looks the same at any. The narrow box cuts off what it is not moved to.

    The paper's nets halve the picture first; a turn is seen in the edges of a small solid, so not
    here.
    """
    start = LOOKED_AT * affine.identity()
    left = ((size - 4) // 2 - 4) // 2
    return [
        nn.Conv2d(3, filters, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(filters, filters, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(filters * left**2, hidden),
        nn.ReLU(),
        ThetaRegression(hidden, affine, start),
    ]
