"""The `minist` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .experiments.volume import Volume
from .training import RECIPES, Experiment, Run, RunError, Settings, carry_out, test


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        options.command(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (RunError, ValueError, OSError, RuntimeError) as error:
        print(f"minist: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="minist", description="Spatial transformer networks, from scratch on NumPy and CuPy."
    )
    top.add_argument("--version", action="version", version=f"minist {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    add_experiment(
        commands,
        Settings,
        help="train a network on distorted MNIST",
        description="Train a network on distorted MNIST, test it and draw what it sees.",
    )
    add_experiment(
        commands,
        Volume,
        help="find and read a solid digit in a volume",
        description="Train a network to read digits that are solids, somewhere in a volume and "
        "turned in it, with a 3-D spatial transformer; test it and draw what it sees.",
    )

    evaluate = commands.add_parser(
        "evaluate", help="test a trained network", description="Print the test error of a run."
    )
    evaluate.set_defaults(command=evaluate_command)
    evaluate.add_argument("run", type=Path, help="the run's folder")

    show = commands.add_parser(
        "show",
        help="draw what a trained network sees",
        description="Draw test digits, the grids over them and what the transformer makes of "
        "them, as result.png in the run's folder.",
    )
    show.set_defaults(command=show_command)
    show.add_argument("run", type=Path, help="the run's folder")
    show.add_argument("--first", type=int, default=0, help="number of the first digit (default: 0)")
    show.add_argument("--digits", type=int, default=8, help="how many (default: 8)")

    bench = commands.add_parser(
        "benchmark",
        help="time a training step beside PyTorch",
        description="Time a training step of the same network in minist and, where it is "
        "installed, in PyTorch, in turns.",
    )
    bench.set_defaults(command=benchmark_command)
    bench.add_argument("--model", default="st-cnn", choices=["cnn", "st-cnn"])
    bench.add_argument("--batch-size", type=int, default=256, help="images a step (default: 256)")
    bench.add_argument("--steps", type=int, default=15, help="a turn (default: 15)")
    bench.add_argument("--rounds", type=int, default=3, help="turns of each (default: 3)")

    info = commands.add_parser(
        "info",
        help="tell of this machine, or of a run",
        description="Versions, array library, BLAS and its kernel, threads and GPU; of a run its "
        "settings and how far it has come.",
    )
    info.set_defaults(command=info_command)
    info.add_argument("run", type=Path, nargs="?", help="a run's folder")
    return top


def add_experiment(commands: Any, kind: type[Experiment], help: str, description: str) -> None:
    """A command that trains, tests and draws; its options are the experiment's settings."""
    to = commands.add_parser(
        kind.command,
        help=help,
        description=description,
        epilog="Ctrl-C stops after the step at hand; --resume goes on from there.",
    )
    to.set_defaults(command=train_command, experiment=kind)
    to.add_argument("--out", type=Path, help="the run's folder (default: a new one in runs/)")
    to.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out, with the settings it was begun with",
    )
    to.add_argument(
        "--recipe",
        choices=RECIPES,
        default="fast",
        help="the settings that are not given: fast, the defaults below, or paper, plain SGD at "
        "0.01, divided by ten after each third of 150,000 steps of 256 images (default: fast)",
    )
    for setting in kind.settings():
        add_setting(to, setting)


def add_setting(to: argparse.ArgumentParser, setting: Any) -> None:
    """An option made of a field of Settings. Left out, it does not appear in the result."""
    kind = {"int": int, "float": float, "str": str}[setting.type.removesuffix(" | None")]
    default = "" if setting.default is None else f" (default: {setting.default})"
    to.add_argument(
        "--" + setting.name.replace("_", "-"),
        type=kind,
        choices=setting.metadata["choices"],
        default=argparse.SUPPRESS,
        help=setting.metadata["help"].replace("%", "%%") + default,
    )


def train_command(options: argparse.Namespace) -> None:
    names = [setting.name for setting in options.experiment.settings()]
    asked = {name: value for name, value in vars(options).items() if name in names}
    settings = options.experiment.of({**RECIPES[options.recipe], **asked})
    if options.resume:
        if options.out is None:
            raise RunError("--resume needs the folder of the run: --out FOLDER")
        run = Run(options.out)
        if run.exists():
            settings = settings_of(run, options.experiment, asked)
        else:
            print(f"no run in {options.out} yet: a new one begins", file=sys.stderr)
    out = options.out or new_folder(settings)
    error = carry_out(settings, out, lambda folder: drawing_of(settings)(folder), options.resume)
    print(f"picture {Run(out).picture}")
    print(f"test error {error:.2f} %")


def drawing_of(settings: Experiment) -> Callable[..., Path]:
    """What draws the picture of an experiment's run."""
    from .experiments import distorted_mnist, volume  # bring in Matplotlib

    return {"train": distorted_mnist, "volume": volume}[settings.command].draw


def settings_of(run: Run, kind: type[Experiment], asked: dict[str, Any]) -> Experiment:
    """The settings that a run was begun with; RunError if others are asked for now."""
    begun = run.settings()
    if begun.command != kind.command:
        raise RunError(f"{run.folder} was begun with minist {begun.command}, not {kind.command}")
    for name, value in asked.items():
        before = getattr(begun, name)
        value = str(Path(value).resolve()) if name == "data" else value
        if before != value:
            raise RunError(
                f"{run.folder} was begun with {name} = {before}, not {value}; a resumed run keeps "
                "its settings"
            )
    return begun


def new_folder(settings: Experiment) -> Path:
    """runs/NAME, or runs/NAME-2, -3 ... as it is free."""
    base = Path("runs") / settings.name
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def evaluate_command(options: argparse.Namespace) -> None:
    found = test(Run(options.run))
    print(f"test loss {found['loss']:.4f}, outside {found['outside']:.1%}")
    print(f"test error {found['error']:.2f} %")


def show_command(options: argparse.Namespace) -> None:
    draw = drawing_of(Run(options.run).settings())
    print(f"picture {draw(options.run, options.digits, options.first)}")


def benchmark_command(options: argparse.Namespace) -> None:
    from . import benchmark

    print(benchmark.run(options.model, options.batch_size, options.steps, options.rounds))


def info_command(options: argparse.Namespace) -> None:
    if options.run is None:
        facts = machine()
    else:
        run = Run(options.run)
        facts = run.read_config()
        lines = run.lines()
        facts["steps"] = max((x["step"] for x in lines if "step" in x), default=0)
        error = run.test_error()
        facts["test error"] = "none yet" if error is None else f"{error:.2f} %"
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {value}")


def machine() -> dict[str, str]:
    """What minist runs on here."""
    import platform

    import numpy as np

    from .backend import num_threads, require_cupy
    from .benchmark import blas

    facts = {
        "minist": __version__,
        "Python": platform.python_version(),
        "system": platform.platform(),
        "NumPy": np.__version__,
    }
    facts["BLAS"] = blas()
    facts["threads"] = str(num_threads())
    try:
        cupy = require_cupy()
        name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        facts["CuPy"], facts["GPU"] = cupy.__version__, name
    except RuntimeError as error:
        facts["GPU"] = f"none ({error})"
    return facts
