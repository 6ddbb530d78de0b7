"""One cell of Table 1: train a network on distorted digits, test it, and draw what it sees."""

from __future__ import annotations

from pathlib import Path

from .. import plotting
from ..autograd import Tensor, no_grad
from ..training import Settings, carry_out, load_examples, load_trained, test, transformers


def run_cell(
    settings: Settings, out: str | Path, resume: bool = False, progress: bool = True
) -> float:
    """Train, test and draw; the test error in per cent. See `training.carry_out`."""
    return carry_out(settings, out, draw, resume, progress)


@no_grad()
def draw(folder: str | Path, digits: int = 8, first: int = 0) -> Path:
    """The run's picture, `result.png`; returns its path.

    Input, grid and output of the transformer for `digits` test images from number `first` on,
    what the network takes each for, and the learning curve.
    """
    model, settings, run = load_trained(folder)
    images, labels = load_examples(settings, first, digits)
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
    run.save_picture(figure)
    return run.picture
