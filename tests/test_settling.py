"""The film of a transformer that settles."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from minist import plotting
from minist.experiments import settling
from minist.training import Settings

TINY = Settings(limit=96, filters=2, batch_size=32, micro_batch=16, warmup=1)


def test_a_film_has_a_picture_of_every_so_many_steps(tmp_path, monkeypatch):
    seen = []

    def film(images, grids, outputs, titles):
        seen.append((grids[0], outputs[0], titles[0]))
        return original(images, grids, outputs, titles)

    original = plotting.film
    monkeypatch.setattr(plotting, "film", film)
    path = settling.film(TINY, tmp_path / "settling.gif", steps=8, every=2, digits=2)
    with Image.open(path) as gif:
        assert gif.n_frames == 5
    grids, outputs, titles = zip(*seen, strict=True)
    assert list(titles) == [f"step {n}" for n in (0, 2, 4, 6, 8)]  # over three epochs of 3 steps
    identity = np.stack(np.meshgrid(*[np.linspace(-1, 1, 28)] * 2), axis=-1)
    np.testing.assert_allclose(grids[0], [identity, identity], atol=1e-6)
    assert all(output.shape == (2, 1, 28, 28) for output in outputs)
    assert not np.array_equal(grids[0], grids[-1])


def test_labels_are_smoothed_as_the_settings_say(tmp_path, monkeypatch):
    seen, step = [], settling.training_step

    def noted(*arguments, **options):
        seen.append(options)
        return step(*arguments, **options)

    monkeypatch.setattr(settling, "training_step", noted)
    settings = replace(TINY, label_smoothing=0.3)
    settling.film(settings, tmp_path / "x.gif", steps=1, every=1, digits=1)
    assert seen == [{"label_smoothing": 0.3}]


def test_a_network_without_a_transformer_has_nothing_to_show(tmp_path):
    with pytest.raises(ValueError, match="cnn has no transformer to watch"):
        settling.film(Settings(model="cnn", limit=32), tmp_path / "x.gif")
