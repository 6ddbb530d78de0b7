"""Micro-batches in processes: the same results as in threads, and what happens when one fails."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

import minist
from minist import models, nn
from minist.datasets import Images
from minist.training import MicroBatches, Run, Settings, evaluation_step, train, training_step
from minist.training.processes import Processes, micro_batches_on_all_cores

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")
SETTINGS = Settings(
    model="st-fcn", units=8, epochs=2, batch_size=48, limit=160, held_out=300, micro_batch=16
)


def processes(count, size=4):
    return Processes(size, count, most=20, room=10_000)


def parts(number, part):
    """Arrays of several types, sizes and memory orders, that tell of which micro-batch they are."""
    x = np.arange(24.0).reshape(2, 3, 4) + 100 * number
    return x, x.transpose(2, 0, 1), np.float32(number), part.stop, np.zeros((0, 2)), x[..., :1] < 50


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 4, 5, 17, 80])
def test_all_have_the_results_of_all_in_order(count, n):
    with MicroBatches(4, threads=1) as micro_batches:
        expected = micro_batches.map(parts, n)
    with processes(count) as micro_batches:
        for _ in range(3):
            found = micro_batches.map(parts, n)
            assert len(found) == len(expected) == -(-n // 4)
            for some, others in zip(found, expected, strict=True):
                for a, b in zip(some, others, strict=True):
                    np.testing.assert_array_equal(a, b)
                    assert np.asarray(a).strides == np.asarray(b).strides or a.size < 2
    assert micro_batches.rank == 0


def test_each_does_its_share():
    with processes(3) as micro_batches:
        ran = [
            pid.item()
            for (pid,) in micro_batches.map(lambda i, part: [np.full(1, os.getpid())], 24)
        ]
    assert len(set(ran)) == 3
    assert ran[:3] == ran[3:]
    assert ran[0] == os.getpid()


def test_a_flag_of_one_is_the_flag_of_all():
    with processes(3) as micro_batches:
        assert not micro_batches.any(False)
        for rank in range(3):
            assert micro_batches.any(micro_batches.rank == rank)
        assert not micro_batches.any(False)


# --- training ---


def test_a_step_is_the_same_bit_for_bit(digits):
    def seen(micro_batches):
        minist.manual_seed(0)
        model = nn.Sequential(models.build("st-cnn", filters=4), nn.Dropout(0.2))
        with micro_batches:
            for step in range(3):
                report = training_step(model, *digits, micro_batches, seed=(1, step))
            model.eval()
            looked = evaluation_step(model, *digits, micro_batches)
        arrays = [p.grad for p in model.parameters()]
        return [*arrays, *report.numbers(), *looked.numbers()]

    expected = seen(MicroBatches(16, threads=1))
    for count in (1, 2, 3):
        for a, b in zip(seen(Processes(16, count, 20, 10**6)), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_examples_are_made_micro_batch_by_micro_batch(digits):
    sizes = []

    def examples(some, rng):
        sizes.append(len(some.labels))
        return Images(some.images * 0, (some.labels * 0 + rng.integers(10)).astype(int))

    model = models.build("fcn", units=4)
    with MicroBatches(64, threads=1) as micro_batches:
        first = training_step(model, *digits, micro_batches, (1, 2), examples=examples)
        again = training_step(model, *digits, micro_batches, (1, 2), examples=examples)
        other = training_step(model, *digits, micro_batches, (1, 3), examples=examples)
    assert sizes == [64, 64, 64, 8] * 3
    assert first.errors == again.errors != other.errors


@pytest.mark.parametrize("other", [2, 3])
def test_the_number_of_processes_changes_no_bit_of_a_run(other, tmp_path, monkeypatch):
    runs = []
    for threads in (1, other):
        monkeypatch.setenv("MINIST_NUM_THREADS", str(threads))
        runs.append(run := Run(tmp_path / str(threads)))
        train(SETTINGS, run)
    assert runs[0].model.read_bytes() == runs[1].model.read_bytes()
    for a, b in zip(runs[0].lines(), runs[1].lines(), strict=True):
        assert {**a, "images_per_second": 0} == {**b, "images_per_second": 0}


def test_where_micro_batches_run(monkeypatch):
    monkeypatch.setenv("MINIST_NUM_THREADS", "3")
    fcn = models.build("fcn", units=4)

    def kind(model, size=16, batch_size=64):
        found = micro_batches_on_all_cores(model, size, batch_size)
        return type(found), found.count

    assert kind(fcn) == (Processes, 3)
    assert kind(fcn, 32) == (Processes, 2)
    assert kind(fcn, 64) == (MicroBatches, 1)
    assert kind(nn.Sequential(fcn, nn.BatchNorm1d(10))) == (MicroBatches, 1)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert kind(fcn) == (MicroBatches, 1)


# --- when one fails ---


def test_an_error_of_another_process_is_told():
    with (
        pytest.raises(RuntimeError, match=r"(?s)has ended.*ZeroDivisionError: in 2"),
        processes(3) as micro_batches,
    ):
        if micro_batches.rank == 2:
            raise ZeroDivisionError("in 2")
        micro_batches.map(parts, 24)


def test_an_error_behind_the_last_meeting_is_told_too():
    with (
        pytest.raises(RuntimeError, match=r"(?s)has ended.*ZeroDivisionError: late"),
        processes(2) as micro_batches,
    ):
        micro_batches.map(parts, 24)
        if micro_batches.rank:
            raise ZeroDivisionError("late")


def test_an_error_of_all_is_that_of_the_first():
    with pytest.raises(ZeroDivisionError, match="in 0"), processes(2) as micro_batches:
        raise ZeroDivisionError(f"in {micro_batches.rank}")


def test_a_process_that_is_killed_is_missed():
    with (
        pytest.raises(RuntimeError, match="another process of this training has ended"),
        processes(2) as micro_batches,
    ):
        if micro_batches.rank:
            os.kill(os.getpid(), signal.SIGKILL)
        micro_batches.map(parts, 24)


def ended(pid):
    for _ in range(300):
        with suppress(FileNotFoundError), open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
                continue
        return True
    return False


def test_the_others_end_with_the_first(tmp_path):
    """Also when it is killed, and they leave nothing behind."""
    program = (
        "import os, sys, tempfile; from minist.training.processes import Processes\n"
        "with Processes(1, 2, 1, 1) as p, tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:\n"
        "    if p.rank:\n"
        "        print(os.getpid(), flush=True)\n"
        "    elif sys.argv[2] == 'raise':\n"
        "        raise SystemExit(3)\n"
        "    while True:\n"
        "        p.map(lambda i, part: [], 1)\n"
    )
    for way, status in (("raise", 3), ("kill", -signal.SIGKILL)):
        command = [sys.executable, "-c", program, str(tmp_path), way]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
            other = int(first.stdout.readline())
            if way == "kill":
                first.kill()
            assert first.wait() == status
        assert ended(other)
    left = list(tmp_path.iterdir())
    assert len(left) == 1  # of the one that was killed


def test_files_and_locks_are_the_first_process_s_own(tmp_path):
    """A run whose first process was killed can be gone on with at once."""
    fcntl = pytest.importorskip("fcntl")
    file = open(tmp_path / "lock", "w")  # noqa: SIM115
    fcntl.flock(file, fcntl.LOCK_EX)
    with processes(2) as micro_batches:
        micro_batches.any(False)  # the other one is there
        if micro_batches.rank == 0:
            file.close()
            with open(tmp_path / "lock", "w") as again:
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        micro_batches.any(False)


def test_a_failing_step_breaks_the_training_off(tmp_path, monkeypatch):
    """Whichever process makes the examples that cannot be made."""
    monkeypatch.setenv("MINIST_NUM_THREADS", "2")
    first = os.getpid()

    def examples(self, digits, rng):
        if len(digits.labels) > 1 and os.getpid() != first:
            raise ZeroDivisionError("no such example")
        return Images(np.zeros((len(digits.labels), 1, 28, 28), "f"), digits.labels)

    monkeypatch.setattr(Settings, "examples", examples)
    with pytest.raises(RuntimeError, match="ZeroDivisionError: no such example"):
        train(replace(SETTINGS, held_out=0), tmp_path)
