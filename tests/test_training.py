"""Training: a step is the same however it is cut, and a run the same however it is interrupted."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import minist
import minist.functional as F
from minist import models, nn, optim, training
from minist.datasets import MNIST, distorted, split
from minist.experiments.distorted_mnist import draw
from minist.spatial import share_outside
from minist.training import (
    MicroBatches,
    Run,
    RunError,
    Settings,
    carry_out,
    evaluate,
    load_trained,
    training_step,
)
from minist.training import loop as loop_module
from minist.training import settings as settings_module
from minist.training import step as step_module
from minist.training.loop import State, load_training_set, train

QUICK = Settings(epochs=2, limit=320, batch_size=64, filters=4, warmup=2, seed=3)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing interrupted."""
    run = Run(tmp_path_factory.mktemp("straight"))
    train(QUICK, run)
    return run


def small_model(seed=0):
    minist.manual_seed(seed)
    return models.build("st-cnn", filters=4)


# --- a step ---


@pytest.mark.parametrize(
    ("each", "batch_size", "cores", "size"),
    [
        (30_000, 256, 2, 64),  # no more than 64 images
        (30_000, 100, 2, 50),  # one for each core
        (30_000, 256, 8, 32),
        (30_000, 8, 2, 16),  # not below 16
        (500, 256, 2, 128),  # too small to be cut
        (400_000, 256, 2, 32),  # too large for a cache
        (10_000_000, 256, 2, 16),
    ],
)
def test_the_size_of_a_micro_batch(monkeypatch, each, batch_size, cores, size):
    monkeypatch.setattr(step_module, "activations", lambda model, image: each)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert step_module.micro_batch_size(None, (1, 28, 28), batch_size) == size


def test_activations_leave_nothing_behind():
    """Neither random numbers are drawn from the thread's generator, nor statistics updated."""
    norm = nn.BatchNorm1d(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), norm, nn.Dropout(0.5), nn.Linear(3, 2))
    minist.manual_seed(5)
    expected = np.random.default_rng(5).random()
    assert step_module.activations(model, (1, 2, 2)) == 3 + 3 + 3 + 2
    assert minist.backend.generator().random() == expected
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("size", [1, 7, 32, 1000])
def test_micro_batches_add_up_to_the_batch(digits, size):
    model = small_model()
    images, labels = (part[:50] for part in digits)
    F.cross_entropy(model(minist.tensor(images)), labels).backward()
    whole = [p.grad.copy() for p in model.parameters()]
    with MicroBatches(size, threads=2) as micro_batches:
        report = training_step(model, images, labels, micro_batches)
    for p, expected in zip(model.parameters(), whole, strict=True):
        np.testing.assert_allclose(p.grad, expected, rtol=1e-3, atol=1e-6)
    logits = model(minist.tensor(images))
    np.testing.assert_allclose(report.loss / 50, F.cross_entropy(logits, labels).item(), rtol=1e-5)
    assert report.errors == (logits.data.argmax(1) != labels).sum()


def test_the_number_of_threads_changes_no_bit(digits):
    gradients = []
    for threads in (1, 2, 3):
        model = nn.Sequential(small_model(), nn.Dropout(0.2))
        with MicroBatches(16, threads) as micro_batches:
            training_step(model, *digits, micro_batches, seed=(1, 2))
        gradients.append([p.grad for p in model.parameters()])
    for others in gradients[1:]:
        for a, b in zip(gradients[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_frozen_parameter_gets_no_gradient(digits):
    model = small_model()
    model.classifier[0].weight.requires_grad = False
    with MicroBatches(64) as micro_batches:
        training_step(model, *digits, micro_batches)
    assert model.classifier[0].weight.grad is None
    assert model.classifier[0].bias.grad is not None


def test_running_statistics_follow_the_order_of_micro_batches(digits):
    images, labels = digits

    def model():
        minist.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 2, 5), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 24 * 24, 10)
        )

    cut, one_by_one = model(), model()
    with MicroBatches(40, threads=3) as micro_batches:
        training_step(cut, images, labels, micro_batches)
    for i in range(0, 200, 40):
        one_by_one(minist.tensor(images[i : i + 40]))
    for name, array in one_by_one.state_dict().items():
        np.testing.assert_array_equal(cut.state_dict()[name], array)


def test_blas_gets_its_threads_back():
    import threadpoolctl

    def blas_threads():
        libraries = threadpoolctl.threadpool_info()
        return [x["num_threads"] for x in libraries if x["user_api"] == "blas"]

    before = blas_threads()
    with MicroBatches(8):
        assert set(blas_threads()) == {1} or not before
    assert blas_threads() == before


def test_an_error_in_a_micro_batch_comes_out(digits):
    model = small_model()
    with MicroBatches(16) as micro_batches, pytest.raises(ValueError, match="label 10 is outside"):
        training_step(model, digits[0], np.full(200, 10), micro_batches)


def test_the_transformer_stays_on_its_image():
    # keras 478, stnbhwd 22: theta zooms into an empty part of the image and never comes back.
    data = MNIST(train=True)
    minist.manual_seed(0)
    model = models.build("st-cnn", filters=8)
    optimizer = optim.Adam(model.parameters(), lr=2e-3)
    batches = minist.datasets.batches(data, 64, "R", seed=0)
    with MicroBatches(32) as micro_batches:
        for _, (images, labels) in zip(range(200), batches, strict=False):
            training_step(model, images, labels, micro_batches)
            optimizer.step()
        batches.close()
        _, some = split(MNIST(train=False), 1000)
        found = evaluate(model, [distorted(some, "R", 1)], micro_batches)
    assert found["outside"] < 0.5
    assert found["error"] < 60  # by chance 90
    assert share_outside(minist.tensor(np.full((1, 2, 2, 2), 1.5))) == 1


# --- a run, interrupted ---


def test_the_same_settings_give_the_same_bytes(straight, tmp_path):
    train(QUICK, Run(tmp_path / "same"))
    assert Run(tmp_path / "same").model.read_bytes() == straight.model.read_bytes()
    train(replace(QUICK, seed=4), Run(tmp_path / "other"))
    assert Run(tmp_path / "other").model.read_bytes() != straight.model.read_bytes()


def test_a_folder_that_holds_a_run_is_not_trained_in_again(straight):
    kept = straight.model.read_bytes()
    with pytest.raises(RunError, match=r"holds a run; --resume goes on with it \(resume=True\)"):
        train(replace(QUICK, seed=4), straight)
    assert straight.model.read_bytes() == kept


def without_times(lines):
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


@pytest.mark.parametrize("at", [1, 5, 8], ids="after {} steps".format)
def test_a_run_that_broke_off_goes_on_bit_for_bit(straight, tmp_path, monkeypatch, at):
    # transformers 11323, pytorch-lightning 688: resume is another run
    run, steps = Run(tmp_path), []

    def break_off(*arguments, **options):
        steps.append(arguments)
        if len(steps) > at:
            raise MemoryError
        return training_step(*arguments, **options)

    monkeypatch.setattr(loop_module, "training_step", break_off)
    with pytest.raises(MemoryError):
        train(QUICK, run)
    monkeypatch.undo()
    assert not run.model.exists()
    train(QUICK, run, resume=True)
    assert run.model.read_bytes() == straight.model.read_bytes()
    assert without_times(run.lines()) == without_times(straight.lines())


def command(folder, *more):
    options = ["--limit", "3000", "--epochs", "8", "--filters", "4", "--out", str(folder), *more]
    return [sys.executable, "-m", "minist", "train", *options]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_kill_and_control_c_lose_nothing(tmp_path):
    whole, cut = Run(tmp_path / "whole"), Run(tmp_path / "cut")
    subprocess.run(command(whole.folder), check=True, capture_output=True)

    # Ctrl-C in the first epoch; then kill -9 after the next checkpoint.
    for stop, code, awaited, wait in (
        (signal.SIGINT, 130, cut.config, 0.3),
        (signal.SIGKILL, -signal.SIGKILL, cut.checkpoint, 0.05),
    ):
        before = awaited.stat().st_mtime_ns if awaited.exists() else 0
        deadline = time.monotonic() + 60
        with subprocess.Popen(
            command(cut.folder, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while not awaited.exists() or awaited.stat().st_mtime_ns == before:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(wait)  # into the middle of an epoch, or of the data's preparation
            process.send_signal(stop)
        assert process.returncode == code
        assert not cut.model.exists()

    done = subprocess.run(
        command(cut.folder, "--resume"), check=True, capture_output=True, text=True
    )
    assert cut.model.read_bytes() == whole.model.read_bytes()
    assert cut.test_error() == whole.test_error()
    assert done.stdout.splitlines()[-1].startswith("test error ")


# --- what can be wrong with a folder ---


@pytest.fixture
def half_done(straight, tmp_path):
    """A copy of a run without its last step: checkpoints, but no model."""
    for path in straight.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").unlink()
    return Run(tmp_path)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(straight, half_done, capsys):
    half_done.checkpoint.write_bytes(half_done.checkpoint.read_bytes()[:1000])
    train(QUICK, half_done, resume=True)
    assert half_done.model.read_bytes() == straight.model.read_bytes()
    assert "is no whole safetensors file" in capsys.readouterr().err


def test_after_a_fallback_the_good_checkpoint_is_the_reserve(half_done):
    good = half_done.previous.read_bytes()
    half_done.checkpoint.write_bytes(b"damaged")
    half_done.go_back()
    assert half_done.checkpoint.read_bytes() == good and not half_done.previous.exists()


def test_a_run_killed_before_its_first_checkpoint_logs_nothing_twice(straight, tmp_path):
    run = Run(tmp_path)
    run.log(step=1, loss=2.0)
    with open(run.metrics, "a") as file:
        file.write('{"step": 2, "lo')
    train(QUICK, run, resume=True)
    assert without_times(run.lines()) == without_times(straight.lines())


def test_a_run_that_cannot_start_does_not_claim_its_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="found neither"):
        train(replace(QUICK, data=str(tmp_path / "nowhere")), Run(tmp_path))
    assert not Run(tmp_path).exists()


def test_a_folder_need_not_exist_yet_and_may_be_given_by_its_path(straight, tmp_path):
    folder = tmp_path / "some" / "new"
    train(QUICK, folder)
    assert Run(folder).model.read_bytes() == straight.model.read_bytes()
    assert training.test(str(folder)) == training.test(straight)
    assert load_trained(straight)[1] == load_trained(straight.folder)[1]


def test_what_fails_at_once_leaves_no_folder(tmp_path):
    wrong = replace(QUICK, data=str(tmp_path / "nowhere"))
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "new", tmp_path / "there"):
        there = folder.exists()
        with pytest.raises(FileNotFoundError, match="found neither"):
            carry_out(wrong, folder, draw)
        assert folder.exists() == there


def test_a_short_run_warms_up_for_a_tenth_of_it():
    for steps, rise in ((32, 3), (2000, 200), (6566, 200)):
        state, rates = State.start(Settings(filters=1), steps), []
        for _ in range(rise + 2):
            rates.append(state.optimizer.groups[0]["lr"])
            state.schedule.step()
        assert np.argmax(rates) == rise - 1 and rates[0] < 1.1 * rates[rise - 1] / rise


def test_images_of_another_size_are_refused_in_words(tmp_path, monkeypatch):
    large = minist.datasets.Images(np.zeros((9, 1, 32, 32), np.uint8), np.zeros(9, np.int64))
    monkeypatch.setattr(settings_module, "MNIST", lambda *_, **__: large)
    with pytest.raises(ValueError, match="made for images of 28x28; elsewhere has 32x32"):
        load_training_set(replace(QUICK, data="elsewhere"))


def test_other_labels_are_refused_before_a_folder_is_made(tmp_path, monkeypatch):
    letters = minist.datasets.Images(np.zeros((9, 1, 28, 28), np.uint8), np.full(9, 14))
    monkeypatch.setattr(settings_module, "MNIST", lambda *_, **__: letters)
    with pytest.raises(ValueError, match=r"labels may be 0 to 9 here; .*elsewhere has 14"):
        train(replace(QUICK, data="elsewhere"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [-0.1, 1.5, 2.0])
def test_labels_can_be_smoothed_by_a_share_only(share):
    with pytest.raises(ValueError, match=r"label_smoothing must be (0 or more|1 or less)"):
        replace(QUICK, label_smoothing=share)


def test_a_net_that_two_transformers_share_is_trained_once():
    class Twice(training.Experiment):
        command = "test-twice"

        def build(self):
            affine = minist.spatial.Affine()
            net = minist.spatial.LocalisationFC((1, 28, 28), affine)
            transformers = (minist.spatial.SpatialTransformer(net, affine) for _ in range(2))
            return nn.Sequential(*transformers, nn.Flatten(), nn.Linear(784, 10))

    try:
        state = State.start(Twice(), steps=10)
    finally:
        del training.Experiment.kinds["test-twice"]
    classifier, nets = state.optimizer.groups
    assert len(nets["params"]) == len(set(map(id, nets["params"])))
    assert len(classifier["params"]) == 2


def test_label_smoothing_is_trained_with(tmp_path, monkeypatch):
    seen = []

    def step(*arguments, **options):
        seen.append(options["label_smoothing"])
        return training_step(*arguments, **options)

    monkeypatch.setattr(loop_module, "training_step", step)
    run = Run(tmp_path)
    with run.locked():
        train(replace(QUICK, label_smoothing=0.2), run)
    assert set(seen) == {0.2}


def test_the_loss_of_a_step_is_smoothed():
    model = models.build("fcn")
    images, labels = np.zeros((4, 1, 28, 28), np.float32), np.arange(4)
    with MicroBatches(4) as micro_batches:
        report = training_step(model, images, labels, micro_batches, label_smoothing=0.3)
    loss = F.cross_entropy(model(minist.tensor(images)), labels, "sum", 0.3)
    assert report.loss == pytest.approx(loss.item())


@pytest.mark.filterwarnings("ignore:more than half of the images")
def test_weights_that_are_not_finite_are_not_saved(half_done, monkeypatch):
    kept = half_done.previous.read_bytes()
    os.replace(half_done.previous, half_done.checkpoint)

    def broken_step(model, *rest, **options):
        report = training_step(model, *rest, **options)
        for parameter in model.parameters():
            parameter.grad = parameter.grad * np.nan
        return report

    monkeypatch.setattr(loop_module, "training_step", broken_step)
    with pytest.raises(RunError, match=r"no longer finite at step 10|loss is nan"):
        train(QUICK, half_done, resume=True)
    assert half_done.checkpoint.read_bytes() == kept


def test_the_data_set_in_the_environment_is_recorded(tmp_path, monkeypatch):
    packaged = Path(minist.__file__).parent / "datasets" / "mnist"
    monkeypatch.setenv("MINIST_DATA", str(packaged))
    train(replace(QUICK, epochs=1), Run(tmp_path))
    assert Run(tmp_path).settings().data == str(packaged)


def test_the_environment_changes_no_run_that_was_begun(straight, half_done, tmp_path, monkeypatch):
    empty = tmp_path / "no digits"
    empty.mkdir()
    monkeypatch.setenv("MINIST_DATA", str(empty))
    train(half_done.settings(), half_done, resume=True)
    assert half_done.model.read_bytes() == straight.model.read_bytes()
    assert half_done.settings().data is None
    assert training.test(half_done)["error"] > 0
    with pytest.raises(FileNotFoundError, match="no digits"):
        train(QUICK, tmp_path / "new")


def test_evaluating_leaves_the_mode_as_it_was(digits):
    model = small_model().eval()
    with MicroBatches(64) as micro_batches:
        evaluate(model, [minist.datasets.Images(*digits)], micro_batches)
    assert not model.training


def test_without_a_whole_checkpoint_it_says_so(half_done):
    for path in (half_done.checkpoint, half_done.previous):
        path.write_bytes(b"not a checkpoint")
    with pytest.raises(RunError, match="without a checkpoint the run has to start again"):
        train(QUICK, half_done, resume=True)


def test_a_foreign_checkpoint_is_refused(half_done):
    with pytest.raises(RunError, match=r"is of another run: .*weight has shape"):
        train(replace(QUICK, filters=5), half_done, resume=True)
    nn.save(small_model(), half_done.checkpoint)
    half_done.previous.unlink()
    with pytest.raises(RunError, match="is no checkpoint"):
        train(QUICK, half_done, resume=True)


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_checkpoint(half_done, monkeypatch):
    os.replace(half_done.previous, half_done.checkpoint)
    kept = half_done.checkpoint.read_bytes()

    def nan_step(*arguments, **options):
        report = training_step(*arguments, **options)
        return replace(report, loss=report.loss * np.nan)

    monkeypatch.setattr(loop_module, "training_step", nan_step)
    with pytest.raises(
        RunError, match=r"the loss is nan at step 10: start a new run with a smaller --lr"
    ):
        train(QUICK, half_done, resume=True)
    assert half_done.checkpoint.read_bytes() == kept


def test_a_full_disk_keeps_the_last_checkpoint(half_done, monkeypatch):
    os.replace(half_done.previous, half_done.checkpoint)
    kept = half_done.checkpoint.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        RunError, match="No space left on device; resuming goes on from the last checkpoint"
    ):
        train(QUICK, half_done, resume=True)
    assert half_done.checkpoint.read_bytes() == kept
    assert not list(half_done.folder.glob("*.tmp"))


def test_a_folder_in_use_is_refused(tmp_path):
    with Run(tmp_path).locked(), pytest.raises(RunError, match="is in use by another process"):
        carry_out(QUICK, tmp_path, draw)
    (tmp_path / "lock").write_text("left behind by a killed process")
    with Run(tmp_path).locked():
        pass


def test_a_run_is_not_overwritten_and_a_finished_one_not_repeated(tmp_path, monkeypatch):
    settings = replace(QUICK, epochs=1)
    error = carry_out(settings, tmp_path, draw)
    assert (tmp_path / "result.png").stat().st_size > 10_000
    with pytest.raises(RunError, match="holds a run; --resume goes on with it"):
        carry_out(settings, tmp_path, draw)
    monkeypatch.setattr(loop_module, "train", None)
    assert carry_out(settings, tmp_path, draw, resume=True) == error


def test_a_trained_model_is_what_was_trained(straight):
    model, settings, _ = load_trained(straight.folder)
    assert replace(settings, micro_batch=None) == QUICK and 16 <= settings.micro_batch <= 64
    assert not model.training and not model.classifier.training
    np.testing.assert_array_equal(
        model.state_dict()["classifier.0.weight"],
        minist.files.load_arrays(straight.model)[0]["classifier.0.weight"],
    )


def test_a_run_that_has_not_ended_has_no_model(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        load_trained(tmp_path)
    Run(tmp_path).write_config({"model": "cnn"})
    with pytest.raises(RunError, match=r"has no model\.safetensors yet"):
        load_trained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        load_trained(tmp_path)


def test_metrics_tell_of_the_training(straight):
    lines = straight.lines()
    assert [line["step"] for line in lines] == [5, 10]
    for line in lines:
        assert line["loss"] > 0 and 0 <= line["error"] <= 100 and 0 <= line["outside"] <= 1
        assert line["images_per_second"] > 0
    assert json.loads(straight.config.read_text())["seed"] == 3


def test_the_error_of_held_out_digits_is_logged_every_epoch(tmp_path):
    train(replace(QUICK, held_out=50), Run(tmp_path))
    errors = [line["held_out_error"] for line in Run(tmp_path).lines() if "held_out_error" in line]
    assert len(errors) == 2
    assert all(0 <= error <= 100 for error in errors)


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("steps", [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        ("cosine", [(1 + np.cos(np.pi * t / 10)) / 2 for t in range(10)]),
    ],
)
def test_the_rate_falls_as_the_schedule_says(schedule, shares):
    settings = replace(QUICK, optimizer="sgd", lr=0.5, warmup=0, schedule=schedule)
    state, rates = State.start(settings, steps=10), []
    assert type(state.optimizer) is optim.SGD
    for _ in range(10):
        rates.append([group["lr"] for group in state.optimizer.groups])
        state.update()
    expected = np.outer(shares, [0.5, 0.5 * settings.localisation_lr])
    np.testing.assert_allclose(rates, expected)


def test_plain_sgd_is_the_paper_s_update(digits):
    state = State.start(replace(QUICK, optimizer="sgd", lr=0.1, warmup=0), steps=5)
    before = [p.data.copy() for p in state.model.parameters()]
    with MicroBatches(100) as micro_batches:
        training_step(state.model, *digits, micro_batches)
    grads = [p.grad.copy() for p in state.model.parameters()]
    state.update()
    fast = {id(p) for p in state.model.transformer.localisation.parameters()}
    for p, w, g in zip(state.model.parameters(), before, grads, strict=True):
        lr = 0.2 if id(p) in fast else 0.1
        np.testing.assert_allclose(p.data, w - lr * g, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epochs": 0}, "epochs must be 1 or more"),
        ({"lr": -1.0}, "lr must be 0 or more"),
        ({"lr": float("nan")}, "lr must be 0 or more"),
        ({"units": 0}, "units must be 1 or more"),
        ({"epochs": 1.5}, "epochs must be int, not 1.5"),
        ({"epochs": "3"}, "epochs must be int, not '3'"),
        ({"epochs": None}, "epochs must be int, not None"),
        ({"limit": 2.0}, r"limit must be int \| None, not 2.0"),
        ({"lr": "0.1"}, "lr must be float, not '0.1'"),
        ({"seed": True}, "seed must be int, not True"),
        ({"optimizer": "lamb"}, "optimizer must be one of adam, sgd"),
        ({"schedule": "linear"}, "schedule must be one of cosine, steps"),
        ({"model": "resnet"}, "model must be one of fcn, cnn"),
        ({"batchsize": 3}, "unknown setting batchsize; did you mean batch_size"),
        ({"zzz": 3}, "unknown setting zzz; there are model"),
    ],
)
def test_wrong_settings_are_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        Settings.of(wrong)
