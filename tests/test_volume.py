"""A solid digit in a volume: the networks, and the experiment from command to picture."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

import minist.functional as F
from minist import Tensor, cli, manual_seed, optim, training
from minist.datasets import MNIST, Images, solids
from minist.experiments.volume import Volume
from minist.models.volume import MODELS, XRays, build
from minist.training import (
    Run,
    RunError,
    Settings,
    evaluation,
    load_trained,
    train,
    training_step,
)
from minist.training import loop as loop_module
from minist.training import settings as settings_module

QUICK = Volume(epochs=2, limit=96, batch_size=32, micro_batch=16, filters=2, size=21)


@pytest.fixture(scope="module")
def volumes():
    data = MNIST(train=False)
    return Images(solids(data.images[:6], np.random.default_rng(0), 24), data.labels[:6])


@pytest.fixture
def few_test_digits(monkeypatch):
    def some(train=True, root=None):
        data = MNIST(train, root)
        return data if train else Few(data.images[:40], data.labels[:40])

    class Few(Images):
        def __len__(self):
            return 40

    monkeypatch.setattr(settings_module, "MNIST", some)


# --- the networks ---


def test_x_rays_add_up_along_each_axis(volumes):
    u = volumes.images
    rays = XRays((0, 1, 2), thickness=4.0)(u).numpy()
    assert rays.shape == (6, 3, 24, 24)
    for view, axis in enumerate((2, 3, 4)):
        np.testing.assert_allclose(rays[:, view], u[:, 0].sum(axis=axis - 1) / 4, rtol=1e-5)


def test_looking_at_all_of_the_volume_shows_it_as_it_is(volumes):
    manual_seed(0)
    with_st = build("st-cnn", 24, filters=2, slices=24, thickness=4.0)
    bias = with_st[0].localisation.parameters()[-1].data
    np.testing.assert_array_equal(bias[[0, 5, 10]], np.float32(0.6))  # at first, the middle
    bias[...] = np.sign(bias)
    plain = build("cnn", 24, filters=2, slices=24, thickness=4.0)
    plain[1].load_state_dict(with_st[2].state_dict())
    found, expected = (net(Tensor(volumes.images)).numpy() for net in (with_st, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 1e-3


def test_what_is_looked_at_is_what_is_classified(volumes):
    manual_seed(0)
    net = build("st-cnn", 24, filters=2, slices=24, thickness=4.0)
    bias = net[0].localisation.parameters()[-1].data
    bias[[0, 3, 5, 8, 10]] = [0, 1, 0, 0, 0]  # x_s = 1: along the right face
    np.testing.assert_array_equal(net[1](net[0](volumes.images)).numpy() > 0, False)


def test_every_parameter_learns_within_two_steps(volumes):
    manual_seed(0)
    net = build("st-cnn", 24, filters=4, slices=6, thickness=4.0)
    optimizer, reached = optim.SGD(net.parameters(), lr=1e-4), set()
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(net(Tensor(volumes.images)), volumes.labels).backward()
        reached |= {name for name, p in net.named_parameters() if (p.grad != 0).any()}
        optimizer.step()
    assert reached == {name for name, _ in net.named_parameters()}


def test_unknown_networks_and_small_volumes_are_named():
    with pytest.raises(ValueError, match="unknown model 'fcn'; there are st-cnn, cnn"):
        build("fcn", 24, 2, 3, 4.0)
    with pytest.raises(ValueError, match="size must be 21 or more, not 20"):
        Volume(size=20)


# --- the run ---


@pytest.mark.parametrize("model", MODELS)
def test_a_run_that_broke_off_goes_on_bit_for_bit(model, tmp_path, monkeypatch):
    settings = replace(QUICK, model=model)
    whole, cut = Run(tmp_path / "whole"), Run(tmp_path / "cut")
    for run in (whole, cut):
        run.folder.mkdir()
    train(settings, whole)
    steps = []

    def break_off(*arguments, **options):
        steps.append(arguments)
        if len(steps) > 4:
            raise MemoryError
        return training_step(*arguments, **options)

    monkeypatch.setattr(loop_module, "training_step", break_off)
    with pytest.raises(MemoryError):
        train(settings, cut)
    monkeypatch.undo()
    train(settings, cut, resume=True)
    assert cut.model.read_bytes() == whole.model.read_bytes()
    trained, recorded, _ = load_trained(cut.folder)
    assert recorded == settings and isinstance(recorded, Volume) and not trained.training


def test_the_command_from_start_to_picture(tmp_path, few_test_digits, capsys):
    out = tmp_path / "run"
    tiny = ["--epochs", "1", "--limit", "64", "--filters", "2", "--slices", "3", "--size", "21"]
    assert cli.main(["volume", *tiny, "--out", str(out)]) == 0
    *_, picture, last = capsys.readouterr().out.splitlines()
    assert picture == f"picture {out / 'result.png'}"
    assert last.startswith("test error ") and last.endswith(" %")
    assert json.loads((out / "config.json").read_text())["command"] == "volume"

    assert cli.main(["volume", "--resume", "--out", str(out)]) == 0  # from the log
    assert capsys.readouterr().out.splitlines()[-1] == last
    assert cli.main(["evaluate", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == last
    before = (out / "result.png").read_bytes()
    assert cli.main(["show", str(out), "--first", "20", "--digits", "2"]) == 0
    assert (out / "result.png").read_bytes() != before
    assert cli.main(["show", str(out), "--first", "39", "--digits", "2"]) == 1
    assert "cannot draw 2 digits from number 39 on: there are 40" in capsys.readouterr().err
    assert cli.main(["train", "--resume", "--out", str(out)]) == 1
    assert "was begun with minist volume, not train" in capsys.readouterr().err


def test_test_volumes_do_not_depend_on_the_seed_of_the_run(few_test_digits):
    parts = [
        list(evaluation.load_test_set(replace(QUICK, seed=seed, limit=limit)))
        for seed, limit in ((0, 96), (1, None))
    ]
    for (a, labels), (b, others) in zip(*parts, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(labels, others)


@dataclass(frozen=True)
class Halves(Settings):
    """An experiment made of another one."""

    command = "halves"

    def examples(self, digits, rng):
        return Images(super().examples(digits, rng).images / 2, digits.labels)


def test_an_experiment_may_be_made_of_another(few_test_digits, tmp_path, capsys):
    settings = Halves(epochs=1, limit=96, filters=2)
    train(settings, tmp_path)
    _, recorded, _ = load_trained(tmp_path)
    assert type(recorded) is Halves and recorded.limit == 96
    assert 0 < training.test(tmp_path)["error"] <= 100
    assert cli.main(["show", str(tmp_path), "--digits", "2"]) == 0
    assert (tmp_path / "result.png").is_file()


def test_an_experiment_without_a_name_of_its_own_is_refused():
    """Its runs would be taken for those of the experiment it is made of."""
    with pytest.raises(TypeError, match=r"Nameless needs a name in config\.json"):

        class Nameless(Settings):
            pass


def test_a_run_of_an_experiment_that_is_not_known_says_so(tmp_path):
    Run(tmp_path).write_config({**QUICK.record(), "command": "tesseract"})
    with pytest.raises(RunError, match="of the experiment 'tesseract', which is not imported"):
        load_trained(tmp_path)
