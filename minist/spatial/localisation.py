"""Localisation networks (Sect. 3.1): from a feature map U to theta.

They may take any form but end in a regression layer that starts at the identity: a transformer
that at first does nothing lets the rest of the network learn, and gets gradients from all of the
image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .. import nn
from .grid import Transformation


class ThetaRegression(nn.Linear):
    """The layer every localisation net ends in: features (N, in) to theta (N, num_parameters).

    Its weights start at zero and its bias at the identity, so that the first theta of every image
    is the identity.

    Parameters
    ----------
    in_features : int
    transformation : Transformation
    start : (num_parameters,) or (k, num_parameters), optional
        The first theta instead of the identity; k of them for k transformers in parallel
        (`ParallelTransformers`), which must start apart from each other to become different.

    Raises
    ------
    ValueError
        If start has another shape.
    """

    def __init__(self, in_features: int, transformation: Transformation, start: Any = None):
        start = np.asarray(transformation.identity() if start is None else start, np.float32)
        if start.shape[-1:] != (transformation.num_parameters,) or start.ndim > 2:
            raise ValueError(
                f"ThetaRegression: start must be ({transformation.num_parameters},) or "
                f"(k, {transformation.num_parameters}) for {transformation!r}, not {start.shape}"
            )
        self.weight = nn.Parameter(np.zeros((start.size, in_features), dtype=np.float32))
        self.bias = nn.Parameter(start.ravel())


class LocalisationFC(nn.ForImages):
    """Fully connected: three hidden layers of 32 units in the paper's ST-FCN.

    Parameters
    ----------
    in_shape : (C, H, W)
        Of the feature map.
    transformation : Transformation
        What theta is for.
    hidden : sequence of int
        Units of the hidden layers.
    """

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        transformation: Transformation,
        hidden: Sequence[int] = (32, 32, 32),
    ):
        widths = [math.prod(in_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        super().__init__(in_shape, *layers, ThetaRegression(widths[-1], transformation))


class LocalisationCNN(nn.ForImages):
    """The paper's for ST-CNN: the map halved, two 5x5 convolutions with a max-pool between them,
    a fully connected layer, theta.

    Each ReLU stands after the pooling: the two may be exchanged, and there is less left to do.

    Parameters
    ----------
    in_shape : (C, H, W)
        Of the feature map; at least 28x28.
    transformation : Transformation
    filters, hidden : int
        Filters of both convolutions, units of the fully connected layer; 20 in the paper.

    Raises
    ------
    ValueError
        For smaller images.
    """

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        transformation: Transformation,
        filters: int = 20,
        hidden: int = 20,
    ):
        channels, *size = in_shape
        left = [((n // 2 - 4) // 2 - 4) for n in size]
        if min(left) < 1:
            raise ValueError(f"LocalisationCNN: images must be at least 28x28, not {tuple(size)}")
        super().__init__(
            in_shape,
            nn.AvgPool2d(2),
            nn.Conv2d(channels, filters, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(filters * math.prod(left), hidden),
            nn.ReLU(),
            ThetaRegression(hidden, transformation),
        )
