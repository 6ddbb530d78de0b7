"""What finds the thing that many images have in common (the appendix, on co-localisation).

A transformer crops each image. The crops' encodings, by a CNN that knows digits, say how alike
they are; the CNN is given and does not learn.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import functional as F
from .. import nn
from ..autograd import Tensor, no_grad
from ..spatial import Attention, SpatialTransformer, ThetaRegression
from .distorted_mnist import CNN

CROP = (28, 28)


class NoCloser(nn.Module):
    """theta (N, 3) of an attention window that is never smaller than `least`, its scale.

    A window of fewer pixels than its output would be magnified, and there is nothing to see.
    """

    def __init__(self, least: float):
        self.least = least

    def forward(self, theta: Any) -> Tensor:
        return F.concatenate([F.clip(theta[:, :1], low=self.least), theta[:, 1:]], axis=1)


UNITS = 112  # in each hidden layer: 100,000 parameters in all, as the paper says of its own


def locator(size: int) -> SpatialTransformer:
    """Crops 28x28 of images (N, 1, size, size), at first the whole: where from is to be learnt."""
    attention, left = Attention(), ((size - 9) // 4 + 2) // 2
    localisation = nn.Sequential(
        nn.Conv2d(1, 8, 9, stride=4),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * left**2, UNITS),
        nn.ReLU(),
        nn.Linear(UNITS, UNITS),
        nn.ReLU(),
        ThetaRegression(UNITS, attention),
        NoCloser(scale_of(CROP[0], size)),
    )
    return SpatialTransformer(localisation, attention, CROP)


def scale_of(window: int, size: int) -> float:
    """Of an attention window of so many pixels of an image's `size`."""
    return (window - 1) / (size - 1)


class Encoder(nn.Module):
    """Crops (N, 1, 28, 28) to encodings (N, D), made of what the CNN's weight layers give.

    Its activations (both convolutions', pooled, and the logits) less those of an empty crop, in
    units in which the mean square length of a digit's is 1.

    Parameters
    ----------
    cnn : CNN
        Trained on digits as they are (Sect. 4.1). Its parameters will not learn any more.
    digits : (N, 1, 28, 28) of 0..1
        Some, for the unit.
    """

    def __init__(self, cnn: CNN, digits: Any):
        self.cnn = cnn.eval()
        for parameter in cnn.parameters():
            parameter.requires_grad = False
        with no_grad():
            self.empty = self.activations(np.zeros((1, 1, *CROP), np.float32)).numpy()
            seen = self.activations(digits).numpy() - self.empty
        self.unit = float((seen**2).sum(axis=1).mean())

    def activations(self, crops: Any) -> Tensor:
        """(N, D), of the three weight layers."""
        conv1, pool1, relu1, conv2, pool2, relu2, flatten, logits = self.cnn
        first = relu1(pool1(conv1(crops)))
        second = flatten(relu2(pool2(conv2(first))))
        return F.concatenate([flatten(first), second, logits(second)], axis=1)

    def forward(self, crops: Any) -> Tensor:
        return (self.activations(crops) - Tensor(self.empty)) * self.unit**-0.5
