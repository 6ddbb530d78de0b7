"""A run's folder: what was asked for, what has been seen, and how to go on from there.

    config.json                       settings
    metrics.jsonl                     a line for every block of steps; the last has the test error
    checkpoint.safetensors            weights, optimiser and step: all that going on needs
    checkpoint.previous.safetensors   the one before, should that one ever be damaged
    model.safetensors                 the weights, when training has ended
    result.png                        what the network sees, and how it learnt
    lock                              held by the process that trains; empty, and left behind

Weights and settings are written beside their place and renamed, so a kill at any moment leaves
whole files; the log is appended to, and cut back to the checkpoint when a run goes on.
Random numbers need no saving: they follow from the seed and the number of the step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import load_arrays, save_arrays
from .settings import Experiment, Settings, SettingsBlock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


RESUME = "; resuming goes on from the last checkpoint"


class RunError(Exception):
    """What ends a run, in a sentence for its user."""


held: set[Any] = set()  # files whose locks this process has
if hasattr(os, "register_at_fork"):  # or a process forked off would hold them longer than we do
    os.register_at_fork(after_in_child=lambda: [file.close() for file in held])


class Checkpoint(NamedTuple):
    """Arrays by name, and notes that JSON can hold (the step among them)."""

    arrays: dict[str, np.ndarray]
    notes: dict[str, Any]


class Run:
    """The files of one run.

    Parameters
    ----------
    folder : path, or another Run
        Need not exist yet.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.config = self.folder / "config.json"
        self.metrics = self.folder / "metrics.jsonl"
        self.checkpoint = self.folder / "checkpoint.safetensors"
        self.previous = self.folder / "checkpoint.previous.safetensors"
        self.model = self.folder / "model.safetensors"
        self.picture = self.folder / "result.png"

    def __fspath__(self) -> str:
        return str(self.folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out, on systems with `flock` (not on Windows). The system lifts the
        lock with the process, however it ends.

        A folder that was made for the lock goes again with it if no run was begun.

        Raises RunError if another process has it, or the folder cannot be made.
        """
        made, lock = not self.folder.exists(), self.folder / "lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = open(lock, "w")  # noqa: SIM115
        except OSError as error:
            raise RunError(f"cannot write to {self.folder}: {error.strerror}") from None
        try:
            with file:
                if fcntl is not None:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        raise RunError(
                            f"{self.folder} is in use by another process; choose another --out"
                        ) from None
                held.add(file)
                yield
        finally:
            held.discard(file)
            if made and not self.exists():
                lock.unlink()
                with suppress(OSError):  # something else lies in it
                    self.folder.rmdir()

    def exists(self) -> bool:
        """Whether the run has been begun: its settings are written first."""
        return self.config.is_file()

    def read_config(self) -> dict[str, Any]:
        """What config.json holds. Raises RunError if there is none, or it is damaged."""
        try:
            config = json.loads(self.config.read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{self.folder} holds no run: there is no {self.config.name}") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RunError(f"{self.config} is damaged: {error}") from None
        if not isinstance(config, dict):
            raise RunError(f"{self.config} is damaged: it holds a {type(config).__name__}")
        return config

    def settings(self) -> Experiment:
        """The settings of the run. Raises RunError if there are none, or they are damaged."""
        try:
            return Experiment.recorded(self.read_config())
        except (TypeError, ValueError) as error:
            raise RunError(f"{self.config} cannot be used: {error}") from None

    def settings_as_begun(
        self, asked: Mapping[str, Any], kind: type[Experiment] = Settings
    ) -> Experiment:
        """The settings of the run; RunError if others, or another kind, are asked for now."""
        begun = self.settings()
        if not isinstance(begun, kind):
            raise RunError(
                f"{self.folder} was begun with minist {begun.command}, not {kind.command}"
            )
        if other := difference(begun, asked):
            raise RunError(
                f"{self.folder} was begun with {other}; a resumed run keeps its settings"
            )
        return begun

    def write_config(self, settings: dict[str, Any]) -> None:
        """Write config.json, in a new folder if need be: what is asked for, before all else."""
        scratch = self.config.with_suffix(".tmp")
        with explained(self.config):
            self.folder.mkdir(parents=True, exist_ok=True)
            scratch.write_text(json.dumps(settings, indent=2) + "\n")
            os.replace(scratch, self.config)

    # --- metrics ---

    def log(self, **values: Any) -> None:
        """Add a line to metrics.jsonl."""
        with explained(self.metrics, RESUME), open(self.metrics, "a") as file:
            file.write(json.dumps(values) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """What has been logged; a last line that a kill cut short does not count."""
        lines = []
        if self.metrics.is_file():
            for line in self.metrics.read_text().splitlines():
                with suppress(json.JSONDecodeError):
                    lines.append(json.loads(line))
        return [line for line in lines if isinstance(line, dict)]

    def test_error(self) -> float | None:
        """In per cent; None as long as the run has not ended."""
        return next((x["test_error"] for x in self.lines() if "test_error" in x), None)

    def save_picture(self, figure: Any) -> None:
        """Write a Matplotlib figure as result.png."""
        scratch = self.picture.with_suffix(".tmp.png")
        with explained(self.picture):
            figure.savefig(scratch)
            os.replace(scratch, self.picture)

    # --- checkpoints ---

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; the one before stays as a reserve."""
        size = self.metrics.stat().st_size if self.metrics.is_file() else 0
        fresh = self.folder / "checkpoint.next.safetensors"
        with explained(self.checkpoint, RESUME):
            save_arrays(checkpoint.arrays, fresh, {**checkpoint.notes, "metrics_bytes": size})
            with suppress(FileNotFoundError):
                os.replace(self.checkpoint, self.previous)
            os.replace(fresh, self.checkpoint)

    def go_back(self) -> tuple[Checkpoint | None, str | None]:
        """Back to the last whole checkpoint: it, and a sentence if it is not the latest; None if
        there is none yet.

        Metrics from after the checkpoint are cut off: they will be logged again.

        Raises RunError if there are checkpoints but all are damaged.
        """
        faults = []
        for path in (self.checkpoint, self.previous):
            try:
                checkpoint = Checkpoint(*load_arrays(path))
                size = checkpoint.notes["metrics_bytes"]
            except FileNotFoundError:
                continue
            except (ValueError, TypeError, KeyError) as error:
                what = str(error) if isinstance(error, ValueError) else f"{path} is no checkpoint"
                faults.append(what)
                continue
            if self.metrics.is_file() and self.metrics.stat().st_size > size:
                os.truncate(self.metrics, size)
            if faults:  # so that the next save keeps this one in reserve, not the damaged one
                os.replace(self.previous, self.checkpoint)
            warning = f"{faults[0]}; going on from the checkpoint before it" if faults else None
            return checkpoint, warning
        if faults:
            raise RunError(f"{faults[0]}; without a checkpoint the run has to start again")
        self.metrics.unlink(missing_ok=True)  # of a run that was killed before its first
        return None, None


def difference(begun: SettingsBlock, asked: Mapping[str, Any]) -> str | None:
    """The first of the settings asked for that is another, "epochs = 40, not 50"; None if none.

    Parameters
    ----------
    begun : SettingsBlock
        Of the run as it was begun.
    asked : mapping of names to values
    """
    for name, value in asked.items():
        value = str(Path(value).resolve()) if name == "data" and value else value
        if getattr(begun, name) != value:
            return f"{name} = {getattr(begun, name)}, not {value}"
    return None


@contextmanager
def explained(path: Path, advice: str = "") -> Iterator[None]:
    """A context in which a failed write to `path` is a RunError, with advice behind it."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}{advice}") from None
