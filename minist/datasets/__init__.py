"""The digits of MNIST, or images of one's own in its format; what is made of them; batches."""

from .addition import sums
from .batches import Images, batches, distorted, in_turn, split
from .distortions import DISTORTIONS, distort
from .idx import read_idx
from .mnist import MNIST
from .scattered import Scattered, scattered
from .volumes import solids

__all__ = [
    "DISTORTIONS",
    "MNIST",
    "Images",
    "Scattered",
    "batches",
    "distort",
    "distorted",
    "in_turn",
    "read_idx",
    "scattered",
    "solids",
    "split",
    "sums",
]
