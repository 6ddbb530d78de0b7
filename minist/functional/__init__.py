"""Every operation, each in one class: `forward` and the derived `backward` side by side.

`import minist.functional as F` and call them as functions on tensors: what networks are made of
with PyTorch's names and arguments, arithmetic, reductions and shapes with NumPy's. Importing this
package also gives `Tensor` its operators and methods.
"""

from .activation import bias_relu, leaky_relu, log_softmax, relu, sigmoid, softmax, tanh
from .arithmetic import abs_ as abs
from .arithmetic import clip, cos, exp, log, sin, sqrt
from .convolution import conv2d
from .dropout import dropout
from .linear import linear
from .loss import cross_entropy, mse_loss, triplet_hinge_loss
from .normalisation import batch_norm
from .pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from .reductions import max_ as max
from .reductions import mean
from .reductions import sum_ as sum
from .shapes import concatenate, permute, reshape, stack, transpose

__all__ = [
    "abs",
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "bias_relu",
    "clip",
    "concatenate",
    "conv2d",
    "cos",
    "cross_entropy",
    "dropout",
    "exp",
    "leaky_relu",
    "linear",
    "log",
    "log_softmax",
    "max",
    "max_pool2d",
    "mean",
    "mse_loss",
    "permute",
    "relu",
    "reshape",
    "sigmoid",
    "sin",
    "softmax",
    "sqrt",
    "stack",
    "sum",
    "tanh",
    "transpose",
    "triplet_hinge_loss",
]
