"""Differentiable image sampling (Sect. 3.3): equations (3) to (7).

    V[c, i] = sum over n, m of  U[c, n, m] k(x_i - m; Phi_x) k(y_i - n; Phi_y)              Eq. (3)

The kernel is 0 but for a few pixels around (x_i, y_i), its taps, so the sums are short. They are
separable: along x for each row of taps, then along y. Differentiating gives

    dV/dU[c, n, m] = k(x_i - m) k(y_i - n)                                                  Eq. (6)
    dV/dx_i = sum over n, m of  U[c, n, m] k'(x_i - m) k(y_i - n),   likewise in y          Eq. (7)

(the sums printed in the paper's (6) are a slip). For Phi_x it is the same as for x_i, with
dk/dPhi_x in the place of k'. The gradient to U is thus the adjoint of the sampling: g is added,
with the weights that it was read with, to the pixels that it was read from. All this is in pixels;
a grid is in half images, and its gradient has the pixels of one as a factor.

The image is copied once with a border as wide as the taps reach, zeros or pixels repeated or
mirrored, and points beyond the border are moved to its edge (`borders.py`). After that no point is
special: there is nothing left to check, pixel by pixel, and nothing can be read out of bounds.

`bilinear.py` is the paper's case, two bilinear axes; `separable.py` takes any kernel and number of
axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import cuda
from ..autograd import Function, Tensor
from ..backend import Array, device_of
from ..cuda.sampler import Sampler
from .bilinear import BilinearSample
from .borders import PADDINGS, check_padding
from .kernels import Bicubic, Bilinear, Kernel, Nearest, kernel_of
from .separable import GRID, GridSample, check


class CudaSample(Function):
    """What `GridSample` and `BilinearSample` do, on a GPU: in one pass forward and one backward
    (`cuda/sampler.cu`)."""

    def forward(
        self,
        u: Array,
        grid: Array,
        *phi: Array,
        kernels: Sequence[Kernel],
        padding_mode: str,
        align_corners: bool,
    ) -> Array:
        check(u, grid, kernels)
        a = phi[0].astype(grid.dtype, copy=False) if phi else None
        taps, padding = len(kernels[0].taps()), PADDINGS.index(padding_mode)
        self.sampler = Sampler(taps, padding, align_corners, a)
        self.u, self.grid = u, grid
        return self.sampler.forward(u, grid)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        wanted, of_phi = self.needs_grad[: GRID + 1], self.needs_grad[GRID + 1 :]
        gradients = self.sampler.backward(grad, self.u, self.grid, *wanted)
        return *gradients, *[None] * len(of_phi)


def kernels_of(mode: str | Kernel | Sequence[Kernel], d: int, device: str = "cpu") -> list[Kernel]:
    """The kernels that a mode names, as of `grid_sample`, for d axes."""
    if isinstance(mode, list | tuple):
        return [kernel_of(m, device) for m in mode]
    return [kernel_of(mode, device)] * d


def grid_sample(
    U: Any,
    grid: Any,
    mode: str | Kernel | Sequence[Kernel] = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = True,
    antialias: bool = False,
) -> Tensor:
    """Sample images at the points of a grid: Eq. (3), differentiable in both.

    Parameters
    ----------
    U : (N, C, H, W) or (N, C, D, H, W)
        One image, N = 1, may be sampled by many grids.
    grid : (N, H', W', 2) or (N, D', H', W', 3)
        Points (x, y) or (x, y, z) in normalised coordinates.
    mode : "bilinear", "nearest", "bicubic", Kernel, or one Kernel for each of x, y (, z)
        Eq. (5), Eq. (4), PyTorch's cubic, or any other (see `spatial.kernels`). The parameters
        Phi of a kernel get their gradients, too.
    padding_mode : "zeros", "border" or "reflection"
        What lies outside: nothing, the border pixel on and on, or the image mirrored.
    align_corners : bool
        Whether -1 and 1 are the centres of the border pixels (the default, the paper's reading),
        or their outer edges. Give the grid and the sampler the same.
    antialias : bool
        Where neighbours of the output lie more than a pixel of U apart, make the kernel that much
        wider (Sect. 3.4 warns of what happens else). Costs the square, of volumes the cube, of the
        largest reduction in the batch. For the gradient the widths count as given. Along an axis
        of the output of one pixel no reduction is known, and nothing is widened.

    Returns
    -------
    (N, C, H', W') or (N, C, D', H', W')

    Raises
    ------
    ValueError, TypeError
        If shapes, types or names do not fit.

    Notes
    -----
    At a kink: the bilinear slope at a pixel is the right-hand difference U[m + 1] - U[m]; under
    "border" it is 0 at and beyond the border pixel. "nearest" gives the grid a gradient of zeros.
    A coordinate that is not a number counts as outside under "zeros", as pixel 0 otherwise;
    infinite and huge ones are just far away.

    Examples
    --------
    >>> import numpy as np, minist
    >>> from minist import spatial
    >>> row = minist.tensor(np.arange(5.0).reshape(1, 1, 1, 5))
    >>> right = minist.tensor(np.array([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]]))
    >>> spatial.grid_sample(row, spatial.affine_grid(right, row.shape)).data.ravel().tolist()
    [1.0, 2.0, 3.0, 4.0, 0.0]
    """
    check_padding(padding_mode)
    u, points = (x.data if isinstance(x, Tensor) else x for x in (U, grid))
    kernels = kernels_of(mode, np.ndim(points) - 2, device_of(points))
    phi = [p for kernel in dict.fromkeys(kernels) for p in kernel.parameters()]
    options = {"kernels": kernels, "padding_mode": padding_mode, "align_corners": align_corners}
    if antialias:
        return GridSample.apply(U, grid, *phi, **options, antialias=True)
    operation = GridSample
    if cuda.usable(u, points) and has_cuda_kernel(kernels, phi):
        operation = CudaSample
    elif [type(kernel) for kernel in kernels] == [Bilinear, Bilinear]:
        operation = BilinearSample
    return operation.apply(U, grid, *phi, **options)


def has_cuda_kernel(kernels: Sequence[Kernel], phi: Sequence[Tensor]) -> bool:
    """Whether it is one of the three that have one, for all axes, and learns nothing."""
    one = len(set(kernels)) == 1 and type(kernels[0]) in (Nearest, Bilinear, Bicubic)
    return one and not any(p.requires_grad for p in phi)
