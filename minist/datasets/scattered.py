"""Images of one kind of digit, each somewhere, for co-localisation (the appendix)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .batches import Images
from .distortions import as_floats, clutter, place, places

SIZE = 84
PATCHES = 16


class Scattered(NamedTuple):
    """Images (N, 1, 84, 84) and where in them the digit's first pixel lies, (x, y), (N, 2)."""

    images: np.ndarray
    corners: np.ndarray


def scattered(
    digits: Images, digit: int, cluttered: bool, rng: np.random.Generator, n: int = 100
) -> Scattered:
    """So many images of one digit, each at a random whole-pixel place on a black canvas.

    Parameters
    ----------
    digits : Images
        (M, 1, 28, 28) and (M,), to choose from.
    digit : int
        0..9.
    cluttered : bool
        Whether 16 patches of 6x6 from other digits, of whatever class, lie about (TC, else T).
    rng : numpy.random.Generator
        The same state gives the same images.
    n : int

    Returns
    -------
    Scattered : images (N, 1, 84, 84) float32 in 0..1, the batch innermost in memory

    Raises
    ------
    ValueError
        If there are fewer than n of the digit.
    """
    chosen = rng.permutation(np.flatnonzero(digits.labels == digit))[:n]
    if len(chosen) < n:
        raise ValueError(f"scattered: there are {len(chosen)} images of a {digit}, not {n}")
    size = (SIZE, SIZE)
    at = places(n, digits.images.shape[2:], size, rng)
    images = place(as_floats(digits.images[chosen]), size, at)
    if cluttered:
        others = rng.permutation(len(digits.labels))[:n]
        images = clutter(images, as_floats(digits.images[others]), rng, PATCHES)
    return Scattered(images, at[::-1].T)
