"""Table 1: every network of Sect. 4.1 on every distortion, beside the paper's errors.

A job is one network, distortion and seed: a run's folder while it trains, and when it has ended a
small file of results, `st-cnn-tps-E-0.json`. Jobs know nothing of one another, so they may run in
processes of this machine or on a Dask cluster that sees the same folders, and whatever is killed
goes on from its last checkpoint.
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from .. import plotting
from ..autograd import Tensor, no_grad
from ..backend import Array, num_threads, require_cupy
from ..datasets import MNIST, Images, distorted
from ..models import MODELS, width
from ..training import (
    RECIPES,
    TABLE,
    TEST_SEED,
    Run,
    RunError,
    Settings,
    difference,
    explained,
    load_test_set,
    load_trained,
    transformers,
)
from .distorted_mnist import run_cell

# Test errors in per cent, from Table 1 (left) and, for TC, from Sect. 4.1 and the appendix.
PAPER: dict[str, dict[str, float]] = {
    "fcn": {"R": 2.1, "RTS": 5.2, "P": 3.1, "E": 3.2, "TC": 13.2},
    "cnn": {"R": 1.2, "RTS": 0.8, "P": 1.5, "E": 1.4, "TC": 3.5},
    "st-fcn affine": {"R": 1.2, "RTS": 0.8, "P": 1.5, "E": 2.7, "TC": 2.0},
    "st-fcn projective": {"R": 1.3, "RTS": 0.9, "P": 1.4, "E": 2.6},
    "st-fcn tps": {"R": 1.1, "RTS": 0.8, "P": 1.4, "E": 2.4},
    "st-cnn affine": {"R": 0.7, "RTS": 0.5, "P": 0.8, "E": 1.2, "TC": 1.7},
    "st-cnn projective": {"R": 0.8, "RTS": 0.6, "P": 0.8, "E": 1.3},
    "st-cnn tps": {"R": 0.7, "RTS": 0.5, "P": 0.8, "E": 1.1},
}
DISTORTIONS = ("R", "RTS", "P", "E", "TC")
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
        run_cell(job, folder, resume=True, progress=False)
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
    """The processor, and how much of it is used."""
    if device == "cuda":
        return require_cupy().cuda.runtime.getDeviceProperties(0)["name"].decode()
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):  # Linux tells more than platform does
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), cpu)
    threads = num_threads()
    return f"{cpu}, {threads} thread{'s' * (threads > 1)}"


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


# --- the table ----------------------------------------------------------------------------------


class Cell(NamedTuple):
    """The results of a network on a distortion, one for each seed."""

    row: str
    distortion: str
    results: list[dict[str, Any]]

    @property
    def paper(self) -> float | None:
        return PAPER[self.row].get(self.distortion)

    @property
    def errors(self) -> list[float]:
        return [result["test_error"] for result in self.results]

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        return stdev(self.errors) if len(self.errors) > 1 else None

    @property
    def difference(self) -> float:
        return mean(self.errors) - self.paper

    def __str__(self) -> str:
        if self.paper is None:
            return ""
        if not self.results:
            return f"unmeasured ({self.paper})"
        spread = "" if self.spread is None else f" ± {self.spread:.2f}"
        return f"**{mean(self.errors):.2f}**{spread} ({self.paper}, {self.difference:+.2f})"


def cells(found: Iterable[Mapping[str, Any]]) -> list[Cell]:
    """All cells of the table, row by row, with their results."""
    found = list(found)

    def belongs(settings: Mapping[str, Any], row: str, distortion: str) -> bool:
        network, _, transformation = row.partition(" ")
        return (
            settings["model"] == network
            and settings["distortion"] == distortion
            and transformation in ("", settings["transformation"])
        )

    return [
        Cell(row, d, [result for result in found if belongs(result["settings"], row, d)])
        for row in PAPER
        for d in DISTORTIONS
    ]


def label(row: str) -> str:
    """As the paper writes it: ST-CNN affine, ST-FCN TPS."""
    network, _, transformation = row.partition(" ")
    return f"{network.upper()} {transformation.replace('tps', 'TPS')}".strip()


def as_table(found: Iterable[Mapping[str, Any]]) -> str:
    """The table in Markdown: ours, the spread over seeds, the paper's, the difference."""
    of = {(cell.row, cell.distortion): cell for cell in cells(found)}
    lines = [["error, % (the paper's, difference)", *DISTORTIONS]]
    lines += [[label(row), *(str(of[row, d]) for d in DISTORTIONS)] for row in PAPER]
    return markdown(lines)


def markdown(lines: Sequence[Sequence[Any]]) -> str:
    head, *body = ("| " + " | ".join(map(str, line)) + " |" for line in lines)
    return "\n".join([head, "|---" * len(lines[0]) + "|", *body])


def as_csv(found: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["network", "distortion", "paper", "mean", "spread", "difference", "seeds"])
    for cell in cells(found):
        if cell.paper is None:
            continue
        ours = ["", "", "", 0]
        if cell.results:
            spread = "" if cell.spread is None else f"{cell.spread:.3f}"
            errors = cell.errors
            ours = [f"{mean(errors):.3f}", spread, f"{cell.difference:+.3f}", len(errors)]
        table.writerow([cell.row, cell.distortion, cell.paper, *ours])
    return text.getvalue()


def first_digits(n: int = 12) -> dict[str, Array]:
    """The first test digits as each distortion shows them: distortion -> (n, 1, H, W)."""
    digits = MNIST(train=False)
    # A thousand, as the whole set is made: the order of its random numbers depends on it.
    some = Images(digits.images[:1000], digits.labels[:1000])
    return {d: distorted(some, d, TEST_SEED).images[:n] for d in DISTORTIONS}


def curves(found: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Distortion -> network -> training error by epoch, of the first seed."""
    picture: dict[str, dict[str, list[float]]] = {}
    for cell in cells(found):
        if cell.results:
            by_row = picture.setdefault(cell.distortion, {})
            by_row[label(cell.row)] = cell.results[0]["training_error"]
    return picture


def as_page(found: Sequence[Mapping[str, Any]], pictured: bool) -> str:
    """table1.md."""
    shown = [cell for cell in cells(found) if cell.results]
    details = [["network", "", "parameters", "seeds", "epochs", "images seen", "hours", "machine"]]
    for cell in shown:
        for result in cell.results[:1]:
            settings = result["settings"]
            details.append(
                [
                    label(cell.row),
                    cell.distortion,
                    f"{result['parameters']:,}",
                    ", ".join(str(r["settings"]["seed"]) for r in cell.results),
                    settings["epochs"],
                    f"{result['images_seen']:,}",
                    f"{sum(r['seconds'] for r in cell.results) / 3600:.2f}",
                    result["machine"],
                ]
            )
    hours = sum(result["seconds"] for result in found) / 3600
    return PAGE.format(
        table=as_table(found),
        measured=len(shown),
        cells=sum(map(len, PAPER.values())),
        hours=hours,
        recipes="\n".join(f"- {line}" for line in recipes_of(found)),
        details=markdown(details),
        seen=SEEN if pictured else "",
    )


def recipes_of(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """The settings that results were made with, apart from those that make a cell."""
    lines = {}
    for result in found:
        s = Settings.of(result["settings"])
        lines[
            f"{s.optimizer}, rate {s.lr:g}, times {s.localisation_lr:g} for localisation nets, "
            f"{s.warmup} steps of warm-up, then {s.schedule}; batches of {s.batch_size} in "
            f"micro-batches of {s.micro_batch}; weight decay {s.weight_decay:g}"
        ] = None
    return list(lines)


PAGE = """\
# Table 1, measured

Test errors in per cent on the 10,000 distorted test digits, the mean and standard deviation over \
seeds where there is more than one; in brackets the paper's error, then ours minus the paper's.

{table}

{measured} of {cells} cells have been run, {hours:.1f} hours in all. Everything here comes from \
the files in [results/](results), one for each finished job, with its settings and learning curve; \
only the first number in each bracket is the paper's.

```sh
minist table1                                                   # run what is missing
minist table1 --models cnn st-cnn --distortions R --seeds 1 2   # part of it
minist table1 --report                                          # only write this page
dask scheduler                                                  # or on a cluster: here,
MINIST_NUM_THREADS=2 dask worker tcp://HOST:8786 --nthreads 1   # on each machine, once or more,
minist table1 --scheduler tcp://HOST:8786 --runs /shared/runs   # and here again
```

Any of it may be stopped or killed; the same command goes on from the last checkpoints. A job with \
a file of results is not run again.

## The digits

The first test digits as the networks get them: turned (R); turned, scaled and moved (RTS); \
projected (P); bent (E); moved and cluttered (TC). Training digits are distorted anew each time \
they are seen, test digits once and for all.

![Digits of each distortion](table1-digits.png)

{seen}## What differs from the paper's training

The paper trained each network for 150,000 steps of 256 images, 38 million images, by plain SGD \
(`--recipe paper`), and took the mean of three seeds. Here:

{recipes}

All was chosen on 10,000 training digits held \
back, never on the test digits, and [recipes.md](recipes.md) tells what each change brought. The \
networks of a column have equally many parameters, within \
2.5 %: as many as a CNN with 48 filters, about 120,000 on 28x28, where the paper speaks of \
400,000; see `minist info MODEL`. RTS is halved to 21x21 behind the transformer, which leaves 1x1 \
after the second convolution, with pooling that rounds up.

## Each cell

{details}

Training error, epoch by epoch, as it went:

![Learning curves](table1-curves.png)
"""

SEEN = """\
## What the networks see

Digits that the CNN gets wrong (its answer, and what it is) and the ST-CNN right: (a) input, \
(b) the grid it predicts, upper edge orange, (c) what its classifier is given.

![Inputs, grids and outputs](table1-cases.png)

"""
