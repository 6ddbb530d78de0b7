"""The digits of MNIST, or images of one's own in its format; their distortions; batches."""

from .batches import Images, batches, distorted, split
from .distortions import DISTORTIONS, distort
from .idx import read_idx
from .mnist import MNIST

__all__ = [
    "DISTORTIONS",
    "MNIST",
    "Images",
    "batches",
    "distort",
    "distorted",
    "read_idx",
    "split",
]
