"""The training loop: rate, batch, forward and backward, update, log, checkpoint."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from .. import backend, nn, optim
from ..datasets import Images, batches, split
from .captured import Captured
from .evaluation import evaluate, fixed, test
from .parallel import Group
from .processes import micro_batches_on_all_cores
from .run import RESUME, Checkpoint, Run, RunError, explained
from .settings import Experiment, data_folder
from .step import (
    MicroBatches,
    Report,
    micro_batch_size,
    training_step,
    transformers,
)

STEPS_A_LINE = 50  # of metrics.jsonl


def train(
    settings: Experiment,
    run: Run | str | os.PathLike,
    resume: bool = False,
    progress: bool = True,
    group: Group = Group(),  # noqa: B008  (frozen)
) -> nn.Module:
    """Train a model as `settings` say and leave it in the run's folder.

    The same settings give the same weights, bit for bit, on one CPU: on however many of its cores,
    and however often the run was interrupted and resumed. (A GPU adds in no fixed order.)

    Parameters
    ----------
    settings : Experiment
    run : Run or path
        Its folder, which need not exist yet; nobody else's (see `Run.locked`).
    resume : bool
        Go on from its last checkpoint, if there is one, with the digits that it was begun with.
    progress : bool
        Show a bar, where standard error is a terminal.
    group : Group
        The processes that train together. All go on from the run's folder, the first writes to it.

    Raises
    ------
    RunError
        If the folder holds a run and `resume` is not given; if the loss is no longer a number, or a
        file cannot be read or written. The last good checkpoint is kept.
    ValueError
        If the digits are not what the networks are made for.
    KeyboardInterrupt
        After a checkpoint of the present step has been written.
    """
    run = Run(run)
    if group.rank == 0 and not resume and run.exists():
        raise RunError(
            f"{run.folder} holds a run; --resume goes on with it (resume=True), or choose an --out"
        )
    data = run.settings().data if run.exists() else data_folder(settings.data)
    settings = settled(replace(settings, data=data))
    training_set, held_out_set = load_training_set(settings)
    steps_an_epoch = math.ceil(len(training_set.labels) / settings.batch_size)
    steps, images = settings.epochs * steps_an_epoch, settings.epochs * len(training_set.labels)
    state = State.start(settings, steps)
    for turn in range(group.size if resume else 0):
        if turn == group.rank:
            state.resume(run)
        group.any(False, state.model.parameters()[0].data)  # one waits for the other
    step = partial(training_step, label_smoothing=settings.label_smoothing)

    def examples(digits: Images, micro_batch: int) -> Images:
        """Those of a micro-batch of the present step; of the first one as `batches` draws them."""
        seed = settings.seed, *divmod(state.step, steps_an_epoch), micro_batch
        return settings.examples(digits, np.random.default_rng(seed))

    if settings.device == "cuda":  # where a thread makes the next batch while the GPU is busy
        opened = MicroBatches(settings.micro_batch, threads=1)
        make, ahead = settings.examples, 2
        step = Captured(step) if settings.cuda_graph == "on" else step
    else:  # where each core makes the examples of its own micro-batches
        opened = micro_batches_on_all_cores(
            state.model, settings.micro_batch, settings.batch_size, settings.at_once
        )
        make, ahead = as_they_are, 0
        step = partial(step, examples=examples)
    with opened as micro_batches, Interrupt() as interrupt, ExitStack() as shown:
        # From here on there may be several processes. All do the same, but the first alone writes.
        first = group.rank == 0 and micro_batches.rank == 0
        if first:
            bar = shown.enter_context(progress_bar(state.step, settings, images, progress))
            run.write_config(settings.record())

        def stopped() -> bool:
            """Whether to stop, at the same step in all processes."""
            return group.any(micro_batches.meet(interrupt.came), state.model.parameters()[0].data)

        def log(epoch: int) -> None:
            line = meter.read(state, epoch)
            if first:
                run.log(**line)
                show(bar, line)

        meter = Meter()
        while state.step < steps:
            epoch, done = divmod(state.step, steps_an_epoch)
            for digits, labels in batches(
                training_set, settings.batch_size, make, settings.seed, epoch, done, ahead
            ):
                seed = (settings.seed, state.step)
                report = step(state.model, digits, labels, micro_batches, seed, group)
                state.update()
                meter.add(report, len(labels))
                if first:
                    bar.update(len(labels))
                line_is_due = state.step % STEPS_A_LINE == 0
                # Several GPUs are asked now and then only: their hosts have to wait for them.
                stop = (line_is_due or group.size == 1) and stopped()
                if line_is_due or stop:
                    log(epoch)
                if stop:
                    break
            if meter.images:
                log(epoch)
            if settings.held_out and state.step % steps_an_epoch == 0:
                found = evaluate(state.model, held_out_set, micro_batches)
                if first:
                    run.log(epoch=epoch + 1, step=state.step, held_out_error=found["error"])
            checkpoint = state.checkpoint()
            if first:
                run.save(checkpoint)
            meter.start()
            if stopped():
                raise KeyboardInterrupt
    if group.rank == 0:
        with explained(run.model, RESUME):
            nn.save(state.model, run.model)
    return state.model


@dataclass
class State:
    """All that changes from step to step."""

    model: nn.Module
    optimizer: optim.Optimizer
    schedule: optim.Schedule
    step: int = 0

    @classmethod
    def start(cls, settings: Experiment, steps: int) -> State:
        model = settings.network()
        nets = [st.localisation for st in transformers(model)]
        # Each parameter once: two transformers may share a net.
        localisation = dict.fromkeys(p for net in nets for p in net.parameters())
        groups = [{"params": [p for p in model.parameters() if p not in localisation]}]
        if localisation:
            rate = settings.lr * settings.localisation_lr
            groups.append({"params": list(localisation), "lr": rate})
        kind = {"adam": optim.Adam, "sgd": optim.SGD}[settings.optimizer]
        optimizer = kind(groups, lr=settings.lr, weight_decay=settings.weight_decay)
        if settings.schedule == "cosine":
            schedule = optim.CosineLR(optimizer, steps)
        else:
            schedule = optim.StepLR(optimizer, math.ceil(steps / 3))
        warmup = min(settings.warmup, steps // 10)  # or a quick try would end before the rate rose
        return cls(model, optimizer, optim.LinearWarmup(schedule, warmup))

    def update(self) -> None:
        self.optimizer.step()
        self.schedule.step()
        self.step += 1

    def checkpoint(self) -> Checkpoint:
        """What `resume` needs. Raises RunError where a weight is not a finite number."""
        # The host waits for a GPU, once an epoch: it copies all that changes to the disk.
        for name, parameter in self.model.named_parameters():
            if not backend.array_module(parameter.data).isfinite(parameter.data).all():
                raise RunError(
                    f"{name} is no longer finite at step {self.step}: start a new run with a "
                    "smaller --lr; checkpoints from before are kept"
                )
        optimizer = self.optimizer.state_dict()
        arrays = {f"model.{name}": array for name, array in self.model.state_dict().items()}
        arrays |= {f"optimizer.{name}": array for name, array in optimizer.pop("arrays").items()}
        notes = {"step": self.step, "optimizer": optimizer, "schedule": self.schedule.state_dict()}
        return Checkpoint(arrays, notes)

    def resume(self, run: Run) -> None:
        """Take over the run's last checkpoint, if there is one."""
        checkpoint, warning = run.go_back()
        if warning:
            print(warning, file=sys.stderr)
        if checkpoint is None:
            return
        arrays, notes = checkpoint
        try:
            theirs = {"model": {}, "optimizer": {}}
            for key, array in arrays.items():
                owner, _, name = key.partition(".")
                theirs[owner][name] = array
            self.model.load_state_dict(theirs["model"])
            self.optimizer.load_state_dict({**notes["optimizer"], "arrays": theirs["optimizer"]})
            self.schedule.load_state_dict(notes["schedule"])
            self.step = notes["step"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{run.checkpoint} is of another run: {error}") from None


class Meter:
    """Means over the steps since the last line of the log."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.total: Report | None = None
        self.images = 0
        self.since = time.perf_counter()

    def add(self, report: Report, images: int) -> None:
        self.total = report if self.total is None else self.total + report
        self.images += images

    def read(self, state: State, epoch: int) -> dict[str, float]:
        """The line, and start anew. Raises RunError where the loss is not a finite number."""
        # Here, once in many steps, the host waits for a GPU: the numbers are wanted now.
        for st in transformers(state.model):
            st.warn_if_drifted()
        line = {
            "epoch": epoch + 1,
            "step": state.step,
            "loss": float(self.total.loss) / self.images,
            "error": 100 * float(self.total.errors) / self.images,
            "outside": float(self.total.outside) / self.images,
            "lr": state.optimizer.groups[0]["lr"],
            "images_per_second": self.images / (time.perf_counter() - self.since),
        }
        if not math.isfinite(line["loss"]):
            raise RunError(
                f"the loss is {line['loss']} at step {state.step}: start a new run with a smaller "
                "--lr; checkpoints from before are kept"
            )
        self.start()
        return line


class Interrupt:
    """Lets the step at hand be finished when Ctrl-C is pressed; a second one breaks off at once."""

    def __init__(self) -> None:
        self.came = False

    def __enter__(self) -> Interrupt:
        self.in_main_thread = threading.current_thread() is threading.main_thread()
        if self.in_main_thread:  # only there can signals be caught
            self.before = signal.signal(signal.SIGINT, self.note)
        return self

    def note(self, *signal_and_frame: Any) -> None:
        self.came = True
        signal.signal(signal.SIGINT, self.before)

    def __exit__(self, *error: Any) -> None:
        if self.in_main_thread:
            signal.signal(signal.SIGINT, self.before)


def progress_bar(step: int, settings: Experiment, images: int, progress: bool) -> tqdm:
    return tqdm(
        total=images,
        initial=min(step * settings.batch_size, images),
        unit=" images",
        unit_scale=True,
        disable=None if progress else True,  # None: where standard error is not a terminal
    )


def as_they_are(digits: Images, rng: np.random.Generator) -> Images:
    return digits


def show(bar: tqdm, line: dict[str, float]) -> None:
    bar.set_postfix_str(
        f"loss {line['loss']:.3f}, error {line['error']:.2f} %, outside {line['outside']:.0%}"
    )


def settled(settings: Experiment) -> Experiment:
    """The settings with a micro-batch, where none was asked for."""
    size = settings.micro_batch
    if size is None and settings.device == "cuda":
        size = settings.batch_size
    elif size is None:
        digit = Images(np.zeros((1, 1, 28, 28), np.uint8), np.zeros(1, np.uint8))
        example = settings.examples(digit, np.random.default_rng(0)).images
        size = micro_batch_size(settings.network(), example.shape[1:], settings.batch_size)
    return replace(settings, micro_batch=size)


def load_training_set(settings: Experiment) -> tuple[Images, list[Images]]:
    """The digits trained on, as bytes on the device, and the examples held out, made once."""
    data = settings.digits(train=True)
    training_set, held_out = split(data, settings.held_out)
    if settings.limit:
        training_set = Images(*(array[: settings.limit] for array in training_set))
    training_set = Images(*(backend.to_device(a, settings.device) for a in training_set))
    return training_set, list(fixed(held_out, settings))


def carry_out(
    settings: Experiment,
    out: str | Path,
    draw: Callable[[Path], Any],
    resume: bool = False,
    progress: bool = True,
    group: Group = Group(),  # noqa: B008  (frozen)
) -> float:
    """Train, test and draw; the test error in per cent.

    Parameters
    ----------
    settings : Experiment
    out : path
        The run's folder.
    draw : function
        Makes result.png in the folder of a trained run.
    resume : bool
        Go on with the run in `out`; one that has ended is left as it is.
    progress : bool
        Show a bar, where standard error is a terminal.
    group : Group
        The processes that train together; the first one tests and draws.

    Raises
    ------
    RunError
        If the folder is in use, holds a run and `resume` is not given, or training fails.
    """
    run = Run(out)
    if group.rank > 0:
        if not resume or run.test_error() is None:
            train(settings, run, resume, progress=False, group=group)
        return math.nan
    with run.locked():
        error = run.test_error() if resume else None
        if error is None:
            train(settings, run, resume, progress, group)
            error = test(run, settings.device)["error"]
            run.log(test_error=error)
        if not run.picture.is_file():
            draw(run.folder)
    return error
