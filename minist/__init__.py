"""minist: a small autodiff framework on NumPy and CuPy, and spatial transformer networks in it."""

from . import functional
from . import nn, optim, spatial
from .autograd import Function, Tensor, grad, no_grad, tensor
from .backend import manual_seed
from .gradcheck import gradcheck
from .nn import load, save

__version__ = "0.1.0"
