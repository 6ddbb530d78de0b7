"""The networks of the paper's experiments, by name."""

from .distorted_mnist import CNN, FCN, MODELS, TRANSFORMATIONS, STNetwork, build, width

__all__ = ["CNN", "FCN", "MODELS", "TRANSFORMATIONS", "STNetwork", "build", "width"]
