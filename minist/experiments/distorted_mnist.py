"""One cell of Table 1: train a network on distorted digits, test it, and draw what it sees."""

from __future__ import annotations

import os
from pathlib import Path

from .. import plotting
from ..autograd import Tensor, no_grad
from ..training import (
    MicroBatches,
    Run,
    RunError,
    Settings,
    evaluate,
    explained,
    load_test_set,
    load_trained,
    train,
    transformers,
)

PICTURE = "result.png"
EVALUATION_BATCH = 250  # images a thread looks at, at once


def run_cell(
    settings: Settings, out: str | Path, resume: bool = False, progress: bool = True
) -> float:
    """Train, test and draw; the test error in per cent.

    Parameters
    ----------
    settings : Settings
    out : path
        The run's folder.
    resume : bool
        Go on with the run in `out`; one that has ended is left as it is.
    progress : bool
        Show a bar, where standard error is a terminal.

    Raises
    ------
    RunError
        If the folder is in use, holds a run and `resume` is not given, or training fails.
    """
    run = Run(out)
    with run.locked():
        if run.exists() and not resume:
            raise RunError(
                f"{run.folder} holds a run; --resume goes on with it, or choose an --out"
            )
        error = run.test_error() if resume else None
        if error is None:
            train(settings, run, resume, progress)
            error = test(run)["error"]
            run.log(test_error=error)
        if not (run.folder / PICTURE).is_file():
            draw(run.folder)
    return error


def test(run: Run) -> dict[str, float]:
    """Loss, error in per cent, and share of points outside, over the distorted test digits."""
    model, settings, _ = load_trained(run.folder)
    with MicroBatches(EVALUATION_BATCH) as micro_batches:
        return evaluate(model, load_test_set(settings), micro_batches)


@no_grad()
def draw(folder: str | Path, digits: int = 8, first: int = 0) -> Path:
    """The run's picture, `result.png`; returns its path.

    Input, grid and output of the transformer for `digits` test images from number `first` on,
    what the network takes each for, and the learning curve.
    """
    model, settings, run = load_trained(folder)
    test_set = load_test_set(settings)
    if digits < 1 or first < 0 or first + digits > len(test_set.labels):
        raise RunError(
            f"cannot draw {digits} digits from number {first} on: there are {len(test_set.labels)}"
        )
    images, labels = (part[first : first + digits] for part in test_set)
    predicted = model(Tensor(images)).data.argmax(axis=1)
    st = next(iter(transformers(model)), None)
    error = run.test_error()
    figure = plotting.result(
        images,
        labels,
        predicted,
        grid=None if st is None else st.grid,
        outputs=None if st is None else st(Tensor(images)),
        curve=run.lines(),
        title=f"{settings.name}: test error {test(run)['error'] if error is None else error:.2f} %",
    )
    path = run.folder / PICTURE
    scratch = path.with_suffix(".tmp.png")
    with explained(path):
        figure.savefig(scratch)
        os.replace(scratch, path)
    return path
