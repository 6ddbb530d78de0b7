"""Micro-batches in processes: the same results as in threads, and what happens when one fails."""

import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import threadpoolctl

import minist
from minist import models, nn, optim
from minist.datasets import Images
from minist.training import MicroBatches, Run, Settings, evaluation_step, train, training_step
from minist.training import run as run_module
from minist.training.processes import Processes, micro_batches_on_all_cores

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="they are forked on Linux only")
SETTINGS = Settings(
    model="st-fcn", units=8, epochs=2, batch_size=48, limit=160, held_out=300, micro_batch=16
)


def processes(count, size=4):
    return Processes(size, count, slots=20, room=10_000)


def parts(number, part):
    """Arrays of several types, sizes and memory orders, that tell of which micro-batch they are."""
    x = np.arange(24.0).reshape(2, 3, 4) + 100 * number
    order = (2, 0, 1) if number % 2 else (0, 1, 2)  # which may change from one to another
    ordered = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
    return (
        x,
        ordered,
        np.broadcast_to(x[:1], x.shape),
        np.float32(number),
        part.stop,
        np.zeros((0, 2)),
        x[..., :1] < 50,
    )


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


def test_the_first_says_when_to_stop():
    with processes(3) as micro_batches:
        assert not micro_batches.meet()
        assert not micro_batches.meet(micro_batches.rank == 1)
        assert micro_batches.meet(micro_batches.rank == 0)
        assert not micro_batches.meet()


# --- training ---


def test_steps_are_the_same_bit_for_bit(digits):
    """Also where the last micro-batch, of another process, is a smaller one."""
    images, labels = (part[:190] for part in digits)

    def seen(micro_batches):
        minist.manual_seed(0)
        model = nn.Sequential(models.build("st-cnn", filters=4), nn.Dropout(0.2))
        optimizer = optim.Adam(model.parameters())
        with micro_batches:
            for step in range(3):
                report = training_step(model, images, labels, micro_batches, seed=(1, step))
                optimizer.step()
            model.eval()
            looked = evaluation_step(model, images, labels, micro_batches)
        arrays = [array for p in model.parameters() for array in (p.data, p.grad)]
        return [*arrays, *report.numbers(), *looked.numbers()]

    expected = seen(MicroBatches(16, threads=1))
    for count in (1, 2, 3):
        for a, b in zip(seen(Processes(16, count, 20, 10**6)), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_examples_are_made_micro_batch_by_micro_batch(digits):
    sizes = []

    def examples(some, number):
        sizes.append(len(some.labels))
        return Images(some.images, some.labels * 0 + number)

    model = models.build("fcn", units=4)
    with MicroBatches(64, threads=1) as micro_batches:
        made = training_step(model, *digits, micro_batches, examples=examples)
        numbers = np.arange(200) // 64
        given = training_step(model, digits.images, numbers, micro_batches)
    assert sizes == [64, 64, 64, 8]
    assert made.loss == given.loss


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


def test_a_number_of_examples_that_is_another(digits):
    def halves(some, number):
        return Images(some.images[::2], some.labels[::2])

    model = models.build("fcn", units=4)
    with (
        MicroBatches(64, threads=1) as micro_batches,
        pytest.raises(ValueError, match="of 64 digits 32 examples were made"),
    ):
        training_step(model, *digits, micro_batches, examples=halves)


# --- when one fails ---


class Unsendable(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ZeroDivisionError("in 2"), ZeroDivisionError, "in 2"),
        (Unsendable(1, 2), RuntimeError, "(?s)another process.*Unsendable: 1 and 2"),
        (ValueError("\udce9"), ValueError, "\udce9"),  # of a path that is not UTF-8
        (MemoryError(), MemoryError, "^$"),
    ],
)
def test_an_error_of_another_process_is_raised_in_the_first(error, kind, text):
    with pytest.raises(kind, match=text) as raised, processes(3) as micro_batches:
        if micro_batches.rank == 2:
            raise error
        micro_batches.map(parts, 24)
    assert raised.value.__cause__ is not None or kind is RuntimeError


def test_an_error_of_all_is_that_of_the_first():
    with pytest.raises(ZeroDivisionError, match="in 0"), processes(2) as micro_batches:
        raise ZeroDivisionError(f"in {micro_batches.rank}")


def test_a_process_that_is_killed_is_missed():
    with (
        pytest.raises(RuntimeError, match=r"another process of this training .* by signal 9"),
        processes(2) as micro_batches,
    ):
        if micro_batches.rank:
            os.kill(os.getpid(), signal.SIGKILL)
        micro_batches.map(parts, 24)


def test_a_process_that_is_killed_while_it_waits_is_missed_next():
    with processes(2) as micro_batches:
        if micro_batches.rank == 0:
            time.sleep(0.2)  # the other is at the meeting
            os.kill(micro_batches.children[0], signal.SIGKILL)
        micro_batches.meet()
        with pytest.raises(RuntimeError, match="by signal 9"):
            micro_batches.meet()


def test_where_no_process_can_be_had(monkeypatch):
    """What was begun is ended, BLAS has its threads again, and Ctrl-C is heard."""
    fork, children = os.fork, []

    def second_fails():
        if children:
            raise BlockingIOError("no more processes")
        children.append(fork())
        return children[0]

    def blas_threads():
        return [x["num_threads"] for x in threadpoolctl.threadpool_info()]

    before = blas_threads()
    monkeypatch.setattr(os, "fork", second_fails)
    with pytest.raises(BlockingIOError), processes(3):
        pass
    assert ended(children[0])
    assert blas_threads() == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_no_library_warns_of_the_fork(monkeypatch, recwarn):
    """Once JAX has computed it warns at each fork, from a hook."""
    fork = os.fork

    def warned():
        warnings.warn("os.fork() was called, and JAX is multithreaded", RuntimeWarning, 1)
        return fork()

    monkeypatch.setattr(os, "fork", warned)
    with processes(2) as micro_batches:
        micro_batches.meet()
    assert not recwarn.list


def ended(pid):
    for _ in range(300):
        with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
                continue
        return True
    return False


@pytest.mark.parametrize("way", ["raise", "kill", "leave"])
def test_the_others_end_with_the_first(way):
    program = (
        "import os, sys; from minist.training.processes import Processes\n"
        "with Processes(1, 2, 1, 1) as p:\n"
        "    if p.rank:\n"
        "        print(os.getpid(), flush=True)\n"
        "    elif sys.argv[1] == 'raise':\n"
        "        raise SystemExit(3)\n"
        "    while p.rank or sys.argv[1] != 'leave':\n"
        "        p.map(lambda i, part: [], 1)\n"
        "    p.meet()\n"
    )
    command = [sys.executable, "-c", program, way]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        other = int(first.stdout.readline() or 0)
        if way == "kill":
            first.kill()
        assert first.wait() == {"raise": 3, "kill": -signal.SIGKILL, "leave": 0}[way]
        assert ended(other)


def test_the_first_alone_holds_the_lock_of_a_run(tmp_path):
    """So one that was killed can be gone on with at once."""
    with Run(tmp_path).locked(), processes(2) as micro_batches:
        if micro_batches.rank == 0:
            micro_batches.meet()  # the other one is there
            (file,) = run_module.held
            file.close()
            with Run(tmp_path).locked():
                pass
        else:
            micro_batches.meet()
        micro_batches.meet()


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_is_the_first_process_s(times, tmp_path):
    """The terminal sends it to all of them. A second one breaks off at once."""
    program = (
        "import sys; from minist.training import Settings, train\n"
        "train(Settings(model='fcn', units=8, epochs=1000, micro_batch=64), sys.argv[1])\n"
    )
    environment = {**os.environ, "MINIST_NUM_THREADS": "2"}
    command = [sys.executable, "-c", program, str(tmp_path)]
    run = Run(tmp_path)
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as first:
        try:
            while not run.lines() and first.poll() is None:
                time.sleep(0.01)
            for _ in range(times):
                os.killpg(first.pid, signal.SIGINT)
                time.sleep(0.01)
            _, error = first.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(first.pid, signal.SIGKILL)
    # (A second one may come while Python is shutting down.)
    assert error.splitlines()[-1].startswith("KeyboardInterrupt"), error
    if times == 1:
        checkpoint, _ = run.go_back()
        assert checkpoint.notes["step"] > 50


def test_a_failing_step_breaks_the_training_off(tmp_path, monkeypatch):
    """Whichever process makes the examples that cannot be made."""
    monkeypatch.setenv("MINIST_NUM_THREADS", "2")
    first = os.getpid()

    def examples(self, digits, rng):
        if len(digits.labels) > 1 and os.getpid() != first:
            raise ZeroDivisionError("no such example")
        return Images(np.zeros((len(digits.labels), 1, 28, 28), "f"), digits.labels)

    monkeypatch.setattr(Settings, "examples", examples)
    with pytest.raises(ZeroDivisionError, match="no such example"):
        train(replace(SETTINGS, held_out=0), tmp_path)
