"""minist: a small autodiff framework on NumPy and CuPy, and spatial transformer networks in it.

`Tensor` and `nn`, `optim`, `functional` are the framework; `spatial` is Section 3 of the paper;
`datasets` and `models` are its experiments' digits and networks; `minist.training` and
`minist.plotting` are imported when wanted.
"""

from . import datasets, functional, models, nn, optim, spatial
from .autograd import Function, Tensor, grad, no_grad, tensor
from .backend import manual_seed
from .gradcheck import gradcheck
from .nn import load, save

__version__ = "0.1.0"

__all__ = [
    "Function",
    "Tensor",
    "datasets",
    "functional",
    "grad",
    "gradcheck",
    "load",
    "manual_seed",
    "models",
    "nn",
    "no_grad",
    "optim",
    "save",
    "spatial",
    "tensor",
]
