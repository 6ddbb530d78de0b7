"""The film of a transformer that settles: grids and outputs over its first few hundred steps.

`python -m minist.experiments.settling docs/settling.gif` makes the one that the README shows.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from .. import plotting
from ..autograd import Tensor, no_grad
from ..datasets import batches
from ..training import (
    MicroBatches,
    Settings,
    explained,
    load_examples,
    training_step,
    transformers,
)
from ..training.loop import State, load_training_set, settled
from ..training.settings import data_folder


def film(
    settings: Settings, path: str | Path, steps: int = 600, every: int = 10, digits: int = 6
) -> Path:
    """Train for a few hundred steps and watch the same test digits meanwhile.

    Parameters
    ----------
    settings : Settings
        Of a network with a transformer; the rate falls as it would over all their epochs.
    path : path
        Of the GIF.
    steps, every : int
        How long to train, and from picture to picture.
    digits : int
        How many to watch.

    Raises
    ------
    ValueError
        If the network has no transformer.
    """
    settings = settled(replace(settings, data=data_folder(settings.data)))
    training_set, _ = load_training_set(settings)
    whole = settings.epochs * -(-len(training_set.labels) // settings.batch_size)
    model = (state := State.start(settings, whole)).model
    if not transformers(model):
        raise ValueError(f"{settings.model} has no transformer to watch")
    (st,) = transformers(model)
    images = load_examples(settings, 0, digits).images
    frames = []

    @no_grad()
    def watch() -> None:
        outputs = st(Tensor(images)).numpy()
        title = f"step {state.step}"
        frames.append(plotting.film(images, [st.grid.numpy()], [outputs], [title]))

    watch()
    with MicroBatches(settings.micro_batch) as micro_batches:
        for epoch in range(-(-steps * settings.batch_size // len(training_set.labels))):
            of_epoch = batches(
                training_set, settings.batch_size, settings.examples, settings.seed, epoch
            )
            for some, labels in of_epoch:
                if state.step == steps:
                    of_epoch.close()
                    break
                training_step(
                    model,
                    some,
                    labels,
                    micro_batches,
                    (settings.seed, state.step),
                    label_smoothing=settings.label_smoothing,
                )
                state.update()
                if state.step % every == 0:
                    watch()
    path = Path(path)
    with explained(path):
        path.write_bytes(plotting.animation(frames, frames_per_second=8))
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m minist.experiments.settling GIF")
    print(film(Settings(distortion="RTS"), sys.argv[1]))
