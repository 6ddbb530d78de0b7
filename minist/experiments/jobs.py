"""Many runs as independent jobs, and a small file of results of each.

A job is an experiment's settings: a run's folder while it trains, and when it has ended a file of
results, `st-cnn-tps-E-0.json`. Jobs know nothing of one another, so they may run in processes of
this machine or on a Dask cluster that sees the same folders, and whatever is killed goes on from
its last checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache
from multiprocessing import get_context, parent_process
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

from tqdm import tqdm

from ..backend import num_threads, processor
from ..training import (
    Experiment,
    Run,
    RunError,
    SettingsBlock,
    carry_out,
    difference,
    explained,
    load_trained,
)
from ..training.settings import data_folder


def name_of(job: Experiment) -> str:
    return f"{job.name}-{job.seed}"


class Results:
    """A small file for each finished job, in one folder. A subclass says of what the jobs are made.

    Parameters
    ----------
    results : path
        Of the files.
    runs : path
        Of what is kept while jobs run.
    """

    kind: ClassVar[type[SettingsBlock]]

    def __init__(self, results: str | os.PathLike, runs: str | os.PathLike):
        self.results, self.runs = Path(results), Path(runs)

    def result_file(self, job: Any) -> Path:
        return self.results / f"{name_of(job)}.json"

    def finished(self, job: Any, asked: Mapping[str, Any]) -> bool:
        """Whether a job has a result; RunError where it was made with other settings than asked."""
        file = self.result_file(job)
        if not file.is_file():
            return False
        if other := difference(self.kind.of(read_result(file, self.kind)["settings"]), asked):
            raise RunError(
                f"{file} was made with {other}: for other settings choose another --results and "
                "--runs"
            )
        return True

    def read(self) -> list[dict[str, Any]]:
        """All results there are, in the order of their files' names."""
        return [read_result(file, self.kind) for file in sorted(self.results.glob("*.json"))]


class Jobs(Results):
    """Jobs that are runs, each with a folder in `runs`; a subclass makes pages of their results."""

    kind: ClassVar[type[Experiment]]
    draw: ClassVar[Callable[[Path], Any]]  # result.png of a run's folder; a static method

    def folder(self, job: Experiment) -> Path:
        return self.runs.resolve() / name_of(job)

    def unfinished(
        self, chosen: Iterable[Experiment], asked: Mapping[str, Any]
    ) -> list[Experiment]:
        """Those without a result yet, with their folder of digits as a whole path.

        Raises RunError where a result or a run was made with other settings than those asked for.
        """
        left = []
        for job in chosen:
            if not self.finished(job, asked):
                run = Run(self.folder(job))
                if run.exists():
                    left.append(run.settings_as_begun(asked, self.kind))
                else:
                    left.append(replace(job, data=data_folder(job.data)))
        return left

    def run(
        self, chosen: Sequence[Experiment], workers: int = 1, scheduler: str | None = None
    ) -> None:
        """Run jobs and write their results.

        Parameters
        ----------
        chosen : sequence of Experiment
            See `unfinished`.
        workers : int
            Processes of this machine, which share its cores.
        scheduler : str, optional
            Address of a Dask scheduler, whose workers run the jobs instead. They must see the
            runs' folder under the same name.

        Raises
        ------
        RunError
            When all others have ended, if a job failed.
        KeyboardInterrupt
            When every job of this machine has written a checkpoint.
        """
        if not chosen:
            return
        failed = {}
        with executor_of(workers, scheduler) as executor:
            waiting = {
                executor.submit(run_job, job, str(self.folder(job)), self.draw): job
                for job in chosen
            }
            try:
                for job, future in self.as_completed(waiting):
                    try:
                        write_result(self.result_file(job), future.result())
                    except Exception as error:  # of whatever kind: the other jobs go on
                        failed[name_of(job)] = f"{type(error).__name__}: {error}"
            except KeyboardInterrupt:
                for future in waiting:
                    future.cancel()
                raise
        if failed:
            raise RunError(
                "; ".join(f"{name} failed, {why}" for name, why in failed.items())
                + "; the same command goes on from the last checkpoints"
            )

    def as_completed(
        self, waiting: Mapping[Future, Experiment]
    ) -> Iterator[tuple[Experiment, Future]]:
        """Jobs as they end, under one progress bar, which follows the runs' logs."""
        sizes = {future: images_seen(job) for future, job in waiting.items()}
        bar = tqdm(total=sum(sizes.values()), unit=" images", unit_scale=True, disable=None)
        with bar:
            left, ended = set(waiting), 0
            while left:
                done, left = wait(left, timeout=1, return_when=FIRST_COMPLETED)
                for future in done:
                    ended += sizes[future]
                    yield waiting[future], future
                going = sum(self.progress(waiting[future]) for future in left)
                bar.set_postfix_str(f"{len(waiting) - len(left)} of {len(waiting)} jobs")
                bar.update(ended + going - bar.n)

    def progress(self, job: Experiment) -> int:
        """Images that a run has seen, by its log."""
        steps = [line["step"] for line in Run(self.folder(job)).lines() if "step" in line]
        return min(steps[-1] * job.batch_size, images_seen(job)) if steps else 0


# --- where jobs run -----------------------------------------------------------------------------

# In a process of the pool: Ctrl-C was pressed; a job is being run.
stopped, at_work = threading.Event(), threading.Lock()


@contextmanager
def executor_of(workers: int, scheduler: str | None) -> Iterator[Executor]:
    """Processes of this machine, or the workers of a Dask scheduler."""
    if scheduler is None:
        share = max(num_threads() // workers, 1)
        with ProcessPoolExecutor(workers, get_context("spawn"), be_a_worker, (share,)) as pool:
            yield pool
        return
    try:
        from distributed import Client
    except ImportError:
        raise RunError('a scheduler needs Dask: pip install "minist[distributed]"') from None
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise RunError(f"no Dask scheduler answers at {scheduler}: {error}") from None
    with client:
        yield client.get_executor(pure=False)


def be_a_worker(threads: int) -> None:
    """Make a process one of several: it has its share of the threads, and begins no other job once
    Ctrl-C was pressed. (The training itself finishes its step and writes a checkpoint.)"""
    os.environ["MINIST_NUM_THREADS"] = str(threads)
    signal.signal(signal.SIGINT, lambda *_: stopped.set())
    threading.Thread(target=stop_with_parent, daemon=True).start()


def stop_with_parent() -> None:
    """End, at a checkpoint as by Ctrl-C, when the process that wants the results is gone."""
    parent_process().join()
    os.kill(os.getpid(), signal.SIGINT)
    with at_work:
        os._exit(1)


def run_job(job: Experiment, folder: str, draw: Callable[[Path], Any]) -> dict[str, Any]:
    """Run a job in its folder, from its last checkpoint if it has one; its result."""
    with at_work:
        if stopped.is_set():
            raise KeyboardInterrupt
        try:
            carry_out(job, folder, draw, resume=True, progress=False)
        except KeyboardInterrupt:
            stopped.set()
            raise
        return result(Run(folder))


# --- results ------------------------------------------------------------------------------------


def result(run: Run) -> dict[str, Any]:
    """What is worth keeping of a finished run."""
    settings = run.settings()
    steps = [line for line in run.lines() if "error" in line]
    seconds, before = 0.0, 0
    for line in steps:
        seconds += (line["step"] - before) * settings.batch_size / line["images_per_second"]
        before = line["step"]
    epochs = range(1, settings.epochs + 1)
    by_epoch = [[line for line in steps if line["epoch"] == epoch] for epoch in epochs]
    means = {
        name: [round(mean(line[name] for line in lines), 4) for lines in by_epoch]
        for name in ("error", "outside")
    }
    model, _, _ = load_trained(run.folder)
    return {
        "settings": asdict(settings),
        "test_error": run.test_error(),
        "parameters": model.count_parameters(),
        "images_seen": images_seen(settings),
        "seconds": round(seconds),
        "machine": machine(settings.device),
        "training_error": means["error"],  # per cent, epoch by epoch, as it went
        "outside": means["outside"],  # share of the grids' points, likewise
    }


def images_seen(settings: Experiment) -> int:
    n = training_digits(type(settings), settings.data) - settings.held_out
    return settings.epochs * min(n, settings.limit or n)


@cache
def training_digits(kind: type[Experiment], data: str | None) -> int:
    return len(kind(data=data).digits(train=True))


def machine(device: str) -> str:
    """The processor, and how many threads of it are used."""
    threads = num_threads()
    used = "" if device == "cuda" else f", {threads} thread{'s' * (threads > 1)}"
    return processor(device) + used


def write_result(file: Path, result: Mapping[str, Any]) -> None:
    """A line for each entry, so that a change can be read."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in result.items())
    scratch = file.with_suffix(".tmp")
    with explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text("{\n" + lines + "\n}\n")
        os.replace(scratch, file)


def read_result(file: Path, kind: type[SettingsBlock]) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
        kind.of(found["settings"])
        return found
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{file} is no result of a job: {error}") from None
