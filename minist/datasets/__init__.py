"""The digits of MNIST, or images of one's own in its format."""

from .idx import read_idx
from .mnist import MNIST

__all__ = ["MNIST", "read_idx"]
