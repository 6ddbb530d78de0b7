"""What a network of Sect. 4.1 sees, drawn when its run ends."""

from __future__ import annotations

from pathlib import Path

from .. import plotting
from ..autograd import Tensor, no_grad
from ..training import load_examples, load_trained, test, transformers


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
