"""From volumes to pictures, for the 3-D transformer of the long version (Jaderberg, 2015)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import functional as F
from ..autograd import Tensor


def project(volumes: Any, axis: int = 0, how: str = "sum") -> Tensor:
    """Volumes seen along an axis: (N, C, D, H, W) to pictures (N, C, H, W), or without H or W.

    Parameters
    ----------
    volumes : (N, C, D, H, W)
    axis : 0, 1 or 2
        D, H or W.
    how : "sum", "mean" or "max"
        An X-ray, its mean, or the brightest point on each way.

    Raises
    ------
    ValueError
        For another shape, axis or way.
    """
    ways = {"sum": F.sum, "mean": F.mean, "max": F.max}
    shape = np.shape(volumes)
    if len(shape) != 5 or axis not in (0, 1, 2) or how not in ways:
        raise ValueError(
            "project: expected volumes (N, C, D, H, W), an axis 0, 1 or 2, and sum, mean or max; "
            f"got shape {shape}, axis {axis!r}, {how!r}"
        )
    return ways[how](volumes, axis=2 + axis)
