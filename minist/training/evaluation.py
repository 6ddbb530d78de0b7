"""What a trained network makes of digits that it has not seen."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from .. import backend, nn
from ..datasets import Images, in_turn
from .run import Run, RunError
from .settings import Experiment
from .step import MicroBatches, evaluation_step

TEST_SEED = 2015  # distorts the test digits: the same for every run, so that runs compare
EVALUATION_BATCH = 250  # images a thread looks at, at once


def evaluate(
    model: nn.Module, parts: Iterable[Images], micro_batches: MicroBatches
) -> dict[str, float]:
    """Mean loss, error in per cent and share of points outside, over all parts of a set.

    Parameters
    ----------
    model : Module
        Is put into evaluation mode meanwhile.
    parts : iterable of Images
    micro_batches : MicroBatches
        An open pool.
    """
    was_training = model.training
    model.eval()
    report, n = None, 0
    try:
        for images, labels in parts:
            seen = evaluation_step(model, images, labels, micro_batches)
            report = seen if report is None else report + seen
            n += len(labels)
    finally:
        model.train(was_training)
    # Here, once for the whole set, the host waits for a GPU.
    return {
        "loss": float(report.loss) / n,
        "error": 100 * float(report.errors) / n,
        "outside": float(report.outside) / n,
    }


def test(run: Run | str | os.PathLike, device: str = "cpu") -> dict[str, float]:
    """Loss, error in per cent, and share of points outside, of a trained run over the test set.

    run is its folder, or a `Run`; device where it is tested, "cpu" or "cuda".
    """
    model, settings, _ = load_trained(run, device)
    on_gpu = device == "cuda"
    size = settings.at_once if on_gpu else min(EVALUATION_BATCH, settings.at_once)
    with MicroBatches(size, threads=1 if on_gpu else None) as micro_batches:
        return evaluate(model, load_test_set(settings), micro_batches)


def load_trained(
    folder: str | os.PathLike, device: str = "cpu"
) -> tuple[nn.Module, Experiment, Run]:
    """The model that a run has left in its folder, in evaluation mode on `device`; its settings.

    Raises RunError if the run has not ended or its files are damaged.
    """
    run = Run(folder)
    settings = replace(run.settings(), device=device)
    model = settings.network()
    try:
        nn.load(model, run.model)
    except FileNotFoundError:
        raise RunError(
            f"{run.folder} has no {run.model.name} yet; to go on: {settings.going_on(run.folder)}"
        ) from None
    except ValueError as error:
        raise RunError(str(error)) from None
    return model.eval(), settings, run


def load_test_set(settings: Experiment) -> Iterator[Images]:
    """Examples of the test digits, part by part, as the settings make them.

    They are the same whatever the seed of the run.
    """
    return fixed(settings.digits(train=False), settings)


def fixed(data: Images, settings: Experiment) -> Iterator[Images]:
    """Examples of these digits, part by part, the same each time."""
    data = Images(*(backend.to_device(a, settings.device) for a in (data.images, data.labels)))
    return in_turn(data, settings.examples, TEST_SEED, settings.at_once)


def load_examples(settings: Experiment, first: int, count: int) -> Images:
    """`count` of the test set of these settings, from number `first` on.

    Raises RunError where there are fewer.
    """
    n = len(settings.digits(train=False))
    if count < 1 or first < 0 or first + count > n:
        raise RunError(f"cannot draw {count} digits from number {first} on: there are {n}")
    each = (pair for part in load_test_set(settings) for pair in zip(*part, strict=True))
    return Images(*map(np.stack, zip(*islice(each, first, first + count), strict=True)))
