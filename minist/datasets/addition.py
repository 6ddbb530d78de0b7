"""Two digits to add, each distorted on its own and on a channel of its own (the appendix)."""

from __future__ import annotations

import numpy as np

from ..backend import array_module
from .batches import Images
from .distortions import distort


def sums(digits: Images, rng: np.random.Generator) -> Images:
    """Each digit beside another of the same batch, and what the two add up to.

    Every digit comes once as the first and once as the second, so there are as many pairs as
    digits; pairs are drawn anew whenever they are made.

    Parameters
    ----------
    digits : Images
        (N, 1, 28, 28) and (N,).
    rng : numpy.random.Generator
        The same state gives the same pairs.

    Returns
    -------
    Images : (N, 2, 42, 42) float32 in 0..1, turned, scaled and moved as in RTS, the batch innermost
    in memory; and labels 0 to 18, (N,)
    """
    xp = array_module(digits.images)
    second = rng.permutation(len(digits.labels))
    n = len(second)
    both = distort(xp.concatenate([digits.images, digits.images[second]]), "RTS", rng)
    channels = both.transpose(1, 2, 3, 0).reshape(*both.shape[2:], 2, n)  # (42, 42, 2, N)
    images = channels.transpose(2, 0, 1, 3).copy().transpose(3, 0, 1, 2)
    return Images(images, digits.labels + digits.labels[second])
