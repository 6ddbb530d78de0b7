"""Table 1: every network of Sect. 4.1 on every distortion, beside the paper's errors.

A job is one network, distortion and seed: a run's folder while it trains, and when it has ended a
small file of results, `st-cnn-tps-E-0.json`. Jobs know nothing of one another, so they may run in
processes of this machine or on a Dask cluster that sees the same folders, and whatever is killed
goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from tqdm import tqdm

from .. import plotting
from ..autograd import Tensor, no_grad
from ..backend import num_threads, processor
from ..datasets import MNIST
from ..models import MODELS, width
from ..training import (
    RECIPES,
    TABLE,
    Run,
    RunError,
    Settings,
    carry_out,
    difference,
    explained,
    load_test_set,
    load_trained,
    transformers,
)
from .distorted_mnist import draw
from .table1_page import DISTORTIONS, PAPER, as_csv, as_page, as_table, curves, first_digits

EXAMPLES = 4  # digits of each distortion in the picture


# --- the jobs -----------------------------------------------------------------------------------


def jobs(
    models: Sequence[str] = MODELS,
    transformations: Sequence[str] = ("affine", "projective", "tps"),
    distortions: Sequence[str] = DISTORTIONS,
    seeds: Sequence[int] = (0,),
    recipe: str = "fast",
    **asked: Any,
) -> list[Settings]:
    """The settings of the table's cells, for each seed.

    Parameters
    ----------
    models, transformations, distortions : sequence of str
        Those wanted; a network without a transformer belongs to every transformation.
    seeds : sequence of int
    recipe : "fast" or "paper"
    asked
        Settings that differ from the recipe's.

    Raises
    ------
    ValueError
        If there is no such cell.
    """
    values = {**TABLE, **RECIPES[recipe], **asked}
    chosen = []
    for seed in seeds:
        for row, column in PAPER.items():
            network, _, transformation = row.partition(" ")
            if network not in models or transformation not in ("", *transformations):
                continue
            transformation = transformation or "affine"
            for distortion in (d for d in column if d in distortions):
                chosen_width = width(network, transformation, distortion)
                kind = "filters" if network.endswith("cnn") else "units"
                cell = {"model": network, "transformation": transformation, kind: chosen_width}
                chosen.append(
                    Settings.of({**values, **cell, "distortion": distortion, "seed": seed})
                )
    if not chosen:
        raise ValueError(
            f"Table 1 has no such cell; its rows are {', '.join(PAPER)}, its columns "
            f"{', '.join(DISTORTIONS)}, TC without projective and tps"
        )
    return chosen


def name_of(job: Settings) -> str:
    return f"{job.name}-{job.seed}"


class Table:
    """The folders of a table.

    Parameters
    ----------
    results : path
        Of a small file for each finished job. The table and its pictures are written beside it.
    runs : path
        Of the runs' folders.
    """

    def __init__(self, results: str | os.PathLike, runs: str | os.PathLike):
        self.results, self.runs = Path(results), Path(runs)

    def result_file(self, job: Settings) -> Path:
        return self.results / f"{name_of(job)}.json"

    def folder(self, job: Settings) -> Path:
        return self.runs.resolve() / name_of(job)

    def unfinished(self, chosen: Iterable[Settings], asked: Mapping[str, Any]) -> list[Settings]:
        """Those without a result yet.

        Raises RunError where a result or a run was made with other settings than those asked for.
        """
        left = []
        for job in chosen:
            file, run = self.result_file(job), Run(self.folder(job))
            if file.is_file():
                if other := difference(Settings.of(read_result(file)["settings"]), asked):
                    raise RunError(
                        f"{file} was made with {other}: for other settings choose another "
                        "--results and --runs"
                    )
                continue
            left.append(run.settings_as_begun(asked) if run.exists() else job)
        return left

    def run(
        self, chosen: Sequence[Settings], workers: int = 1, scheduler: str | None = None
    ) -> None:
        """Run jobs and write their results.

        Parameters
        ----------
        chosen : sequence of Settings
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
            waiting = {executor.submit(run_job, job, str(self.folder(job))): job for job in chosen}
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

    def as_completed(self, waiting: Mapping[Future, Settings]) -> Iterator[tuple[Settings, Future]]:
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

    def progress(self, job: Settings) -> int:
        """Images that a run has seen, by its log."""
        steps = [line["step"] for line in Run(self.folder(job)).lines() if "step" in line]
        return min(steps[-1] * job.batch_size, images_seen(job)) if steps else 0

    # --- what comes of it ---

    def read(self) -> list[dict[str, Any]]:
        """All results there are, in the order of their files' names."""
        return [read_result(file) for file in sorted(self.results.glob("*.json"))]

    def write(self) -> str:
        """Write table1.md, table1.csv and the pictures beside the results; the table as text.

        The picture of single digits needs the runs' weights, and is left as it is without them.
        """
        found = self.read()
        place = self.results.parent
        with explained(place):
            place.mkdir(parents=True, exist_ok=True)
            (place / "table1.csv").write_text(as_csv(found))
            plotting.contact_sheet(first_digits()).savefig(place / "table1-digits.png")
            if found:
                plotting.table1_curves(curves(found)).savefig(place / "table1-curves.png")
            cases = [case for d in DISTORTIONS if (case := self.case(d)) is not None]
            if cases:
                plotting.cases(cases).savefig(place / "table1-cases.png")
            pictured = (place / "table1-cases.png").is_file()
            (place / "table1.md").write_text(as_page(found, pictured))
        return as_table(found)

    @no_grad()
    def case(self, distortion: str) -> plotting.Case | None:
        """Test digits that the CNN gets wrong and the best ST-CNN right; None without both."""
        best: dict[str, tuple[float, Path]] = {}
        for job in jobs(["cnn", "st-cnn"], distortions=[distortion]):
            run = Run(self.folder(job))
            if run.model.is_file() and (error := run.test_error()) is not None:
                best[job.model] = min(best.get(job.model, (error, run.folder)), (error, run.folder))
        if len(best) < 2:
            return None
        cnn, settings, _ = load_trained(best["cnn"][1])
        st_cnn, chosen, _ = load_trained(best["st-cnn"][1])
        found = []
        for images, labels in (
            [array[first : first + 250] for array in part]
            for part in load_test_set(settings)
            for first in range(0, len(part.labels), 250)
        ):
            taken_for, st_takes_for = (
                model(Tensor(images)).data.argmax(axis=1) for model in (cnn, st_cnn)
            )
            found += [
                (image, label, guess)
                for image, label, guess, st_guess in zip(
                    images, labels, taken_for, st_takes_for, strict=True
                )
                if guess != label == st_guess
            ]
            if len(found) >= EXAMPLES:
                break
        if not found:
            return None
        images, labels, taken_for = map(np.stack, zip(*found[:EXAMPLES], strict=True))
        (st,) = transformers(st_cnn)
        outputs = st(Tensor(images))
        title = f"{distortion}, {chosen.transformation}"
        return plotting.Case(title, images, labels, taken_for, st.grid, outputs)


# --- where jobs run -----------------------------------------------------------------------------

stopped = threading.Event()  # in a process of the pool: Ctrl-C was pressed


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


def run_job(job: Settings, folder: str) -> dict[str, Any]:
    """Run a job in its folder, from its last checkpoint if it has one; its result."""
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


def images_seen(settings: Settings) -> int:
    n = digits_in(settings.data) - settings.held_out
    return settings.epochs * min(n, settings.limit or n)


@cache
def digits_in(root: str | None) -> int:
    return len(MNIST(root=root))


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


def read_result(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
        Settings.of(found["settings"])
        return found
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{file} is no result of a job: {error}") from None
