"""Types of numbers: what becomes of those that meet, and which are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..autograd import Tensor
from ..backend import Array


def promoted(values: Sequence[Any]) -> Sequence[Any]:
    """Values that meet in an operation. Integers beside floating numbers take their dtype, where
    NumPy would make float64 of int64 and float32."""
    dtypes = [getattr(x, "dtype", None) for x in values]
    kinds = [getattr(dtype, "kind", None) for dtype in dtypes]
    if "f" not in kinds:
        return values
    floating = dtypes[kinds.index("f")]
    pairs = zip(values, kinds, strict=True)
    return [x.astype(floating) if kind in ("i", "u") else x for x, kind in pairs]


def check_floating(x: Array | Tensor, name: str) -> None:
    """TypeError if x holds integers, of which bytes would wrap and others become float64."""
    if x.dtype.kind != "f":
        raise TypeError(f"{name} must be floating, not {x.dtype}: use astype(numpy.float32)")
