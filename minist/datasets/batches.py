"""From a data set to batches of examples: held-out digits, shuffling, distortion."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ..backend import Array, array_module, on_this_device
from .distortions import DISTORTIONS, as_floats, distort


class Images(NamedTuple):
    """Images (N, C, H, W) and their labels (N,)."""

    images: Array
    labels: Array


Make = Callable[[Images, np.random.Generator], Images]


def split(data: Images, held_out: int) -> tuple[Images, Images]:
    """data without its last `held_out` images, and those: to train on, and to choose by.

    Raises ValueError unless 0 <= held_out < N.
    """
    n = len(data.images)
    if not 0 <= held_out < n:
        raise ValueError(f"split: cannot hold {held_out} of {n} images out")
    first = n - held_out
    return (
        Images(data.images[:first], data.labels[:first]),
        Images(data.images[first:], data.labels[first:]),
    )


def maker(distortion: str | Make | None) -> Make:
    """What makes examples of digits: a distortion by its name, a function, or mere conversion.

    Raises ValueError for another name.
    """
    if callable(distortion):
        return distortion
    if distortion not in (None, *DISTORTIONS):
        known = ", ".join(DISTORTIONS)
        raise ValueError(f"distortion must be one of {known}, or a function, not {distortion!r}")
    if distortion is None:
        return lambda digits, rng: Images(innermost(as_floats(digits.images)), digits.labels)
    return lambda digits, rng: Images(distort(digits.images, distortion, rng), digits.labels)


def in_turn(
    data: Images,
    distortion: str | Make | None,
    seed: int | Sequence[int],
    at_once: int = 1000,
) -> Iterator[Images]:
    """The examples of data in their order, `at_once` at a time, each distorted once and for all.

    distortion as of `batches`; the same for the same seed.
    """
    rng, make = np.random.default_rng(seed), maker(distortion)
    for i in range(0, max(len(data.labels), 1), at_once):
        yield make(Images(data.images[i : i + at_once], data.labels[i : i + at_once]), rng)


def distorted(data: Images, kind: str | None, seed: int | Sequence[int]) -> Images:
    """data, each image distorted once and for all, the same for the same seed: (N, 1, H', W').

    kind is one of `DISTORTIONS`; with None images are only converted to float32 in 0..1.
    """
    # A thousand at a time: the grids of all at once would take ten times the images' memory.
    parts = list(in_turn(data, kind, seed))
    xp = array_module(data.images)
    images = xp.concatenate([part.images.transpose(1, 2, 3, 0) for part in parts], axis=-1)
    return Images(images.transpose(3, 0, 1, 2), data.labels)


def batches(
    data: Images,
    batch_size: int,
    distortion: str | Make | None = None,
    seed: int = 0,
    epoch: int = 0,
    first: int = 0,
    ahead: int = 2,
) -> Iterator[Images]:
    """One epoch: every image once, in random order, distorted anew.

    Order and distortions depend on seed, epoch and the number of the batch alone, so an epoch can
    be entered at any batch. The next batches are prepared in a thread while the present one is
    used.

    Parameters
    ----------
    data : Images, or anything with `images` (N, 1, H, W) and `labels` (N,), or a pair of those
    batch_size : int
        Images in a batch; the last one of an epoch may have fewer.
    distortion : str or function, optional
        A kind of `distort`; or what makes examples of one's own, whatever their shape, of digits
        (Images) and a generator; None leaves images as they are.
    seed, epoch : int
    first : int
        Number of the batch to begin with.
    ahead : int
        How many batches the thread is ahead; with 0 there is none.

    Yields
    ------
    Images : float32 in 0..1, the batch innermost in memory; labels. Or what the function makes.

    Raises
    ------
    ValueError
        If batch_size is below 1, there are not as many labels as images, or no such distortion.
    """
    if isinstance(data, tuple | list):
        data = Images(*data)
    if batch_size < 1:
        raise ValueError(f"batches: batch_size must be 1 or more, not {batch_size}")
    if (n := len(data.images)) != (found := len(data.labels)):
        raise ValueError(f"batches: {n} images but {found} labels")
    found = _batches(data, batch_size, maker(distortion), seed, epoch, first)
    return prefetch(found, ahead) if ahead else found


def _batches(
    data: Images, batch_size: int, make: Make, seed: int, epoch: int, first: int
) -> Iterator[Images]:
    xp = array_module(data.images)
    order = np.random.default_rng([seed, epoch]).permutation(len(data.labels))
    for number in range(first, -(-len(order) // batch_size)):
        chosen = xp.asarray(order[number * batch_size : (number + 1) * batch_size])
        rng = np.random.default_rng([seed, epoch, number])
        yield make(Images(data.images[chosen], data.labels[chosen]), rng)


def innermost(images: Array) -> Array:
    """The same images, the batch innermost in memory."""
    return images.transpose(1, 2, 3, 0).copy().transpose(3, 0, 1, 2)


def prefetch(items: Iterable, ahead: int = 2) -> Iterator:
    """The items, made by a thread that is `ahead` of whoever takes them."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(
        1, thread_name_prefix="minist-batches", initializer=on_this_device()
    ) as pool:
        waiting = deque(pool.submit(next, iterator, end) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, iterator, end))
            yield item
