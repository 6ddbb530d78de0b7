"""The networks that come trained are what their files say."""

import numpy as np
import pytest

from minist import models
from minist.files import save_arrays
from minist.models import trained
from minist.training import MicroBatches, Settings, evaluate, load_test_set

NAMES = sorted(path.stem for path in trained.FOLDER.glob("*.safetensors"))


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_network_has_the_error_that_it_is_said_to_have(name):
    model, notes = trained.read(name)
    settings = Settings.of(notes["settings"])
    assert settings.name == name and not model.training
    with MicroBatches(250) as micro_batches:
        found = evaluate(model, load_test_set(settings), micro_batches)
    # A digit or two may fall on the other side on another machine.
    assert found["error"] == pytest.approx(notes["test_error"], abs=0.025)


def test_one_is_there_for_the_tutorials():
    assert "st-cnn-affine-R" in NAMES


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"no network 'st-cnn' comes trained; there are .*affine-R"
    ):
        models.pretrained("st-cnn")


def test_what_is_kept_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "FOLDER", tmp_path)
    model = models.build("st-fcn", "tps", "RTS", units=5)
    notes = {"settings": {"model": "st-fcn", "transformation": "tps", "distortion": "RTS"}}
    notes["settings"]["units"] = 5
    save_arrays(model.state_dict(), tmp_path / "x.safetensors", notes)
    again, told = trained.read("x")
    assert told == notes
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[key], array)
