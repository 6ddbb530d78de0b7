"""Two digits to add, each distorted on its own and on a channel of its own (the appendix)."""

from __future__ import annotations

import numpy as np

from ..backend import array_module
from .batches import Images
from .distortions import distort


def sums(digits: Images, rng: np.random.Generator) -> Images:
    """Each digit beside one of these, at times itself, and what the two add up to.

    Every digit is distorted once and comes twice, in one pair as the first and in another as the
    second, so there are as many pairs as digits. Pairs are drawn anew whenever they are made.

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
    first = distort(digits.images, "RTS", rng)[:, 0].transpose(1, 2, 0)  # (42, 42, N)
    xp = array_module(first)
    order = xp.asarray(rng.permutation(len(digits.labels)))
    both = xp.stack([first, first[..., order]]).transpose(3, 0, 1, 2)
    return Images(both, digits.labels + digits.labels[order])
