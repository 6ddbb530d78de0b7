"""The `minist` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from . import __version__, models
from .backend import num_threads
from .datasets import DISTORTIONS
from .experiments.addition import Addition
from .experiments.colocalise import Colocalisation
from .experiments.volume import Volume
from .models import MODELS, TRANSFORMATIONS, addition
from .training import RECIPES, TABLE, Experiment, Run, RunError, Settings, carry_out, test
from .training.parallel import group_of, start
from .training.settings import type_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    options.arguments = sys.argv[1:] if arguments is None else list(arguments)
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
    evaluate.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="to test on (default: cpu)"
    )

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

    add_table(
        commands,
        "table1",
        Settings,
        {"models": MODELS, "transformations": TRANSFORMATIONS, "distortions": DISTORTIONS},
        results="docs/results",
        given=("model", "transformation", "distortion", "filters", "units", "seed"),
        defaults=TABLE,
        help="run Table 1, or part of it",
        description="Train the networks of Table 1 on its distortions",
    )
    add_table(
        commands,
        "addition",
        Addition,
        {"models": addition.MODELS, "transformations": TRANSFORMATIONS},
        results="docs/results/addition",
        given=("model", "transformation", "seed"),
        help="add two distorted digits, with one transformer or two",
        description="Train the networks that read the sum of two digits, each distorted on its own",
    )

    colocalise = commands.add_parser(
        "colocalise",
        help="find the digit that a hundred images have in common",
        description="Train a transformer on sets of images that show the same digit somewhere, "
        "and write how many it has found, with the paper's numbers. A set with a result is not "
        "run again.",
    )
    colocalise.set_defaults(command=colocalise_command, experiment=Colocalisation)
    for name, known in (("distortions", ("T", "TC")), ("digits", range(10))):
        colocalise.add_argument(
            f"--{name}",
            nargs="+",
            choices=known,
            type=type(known[0]),
            metavar=name[:-1].upper(),
            default=argparse.SUPPRESS,
            help="(default: all)",
        )
    for name, folder, of in (
        ("results", "docs/results/colocalise", "the finished sets' results"),
        ("runs", "runs/colocalise", "the digit CNN, once it is trained"),
    ):
        colocalise.add_argument(
            f"--{name}", type=Path, default=Path(folder), help=f"folder of {of} (default: {folder})"
        )
    colocalise.add_argument(
        "--report", action="store_true", help="run nothing, only write the table of what there is"
    )
    for setting in Colocalisation.settings():
        if setting.name not in ("distortion", "digit"):
            add_setting(colocalise, setting, setting.default)

    bench = commands.add_parser(
        "benchmark",
        help="time minist beside PyTorch and JAX",
        description="Time operations, training steps, inference and distortions, in turns with "
        "the peers that are installed, and print a table.",
    )
    bench.set_defaults(command=benchmark_command)
    bench.add_argument("--batch-size", type=count, default=256, help="images a step (default: 256)")
    bench.add_argument(
        "--peer",
        action="append",
        choices=["PyTorch", "channels_last", "compiled", "JAX", "none"],
        help="race only this one; may be given again (default: all that are installed)",
    )
    bench.add_argument(
        "--only", default="*", metavar="PATTERN", help='rows like this, as in "step*cnn*28"'
    )
    bench.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cpu",
        help="on a GPU, beside PyTorch eager and with its own CUDA graph (default: cpu)",
    )
    bench.add_argument("--quick", action="store_true", help="28x28 only, and short turns")
    bench.add_argument("--json", action="store_true", help="print JSON instead of a table")
    bench.add_argument(
        "--growth",
        type=Path,
        metavar="PNG",
        help="draw how the time per image grows with batch, image and threads, and nothing else",
    )

    info = commands.add_parser(
        "info",
        help="tell of this machine, a network, or a run",
        description="Versions, array library, BLAS and its kernel, threads and GPU; of a network "
        "its layers, their output shapes and how much each learns; of a run its settings and how "
        "far it has come.",
    )
    info.set_defaults(command=info_command)
    info.add_argument("what", nargs="?", help=f"a network ({', '.join(MODELS)}), or a run's folder")
    for name in ("transformation", "distortion"):
        setting = Settings.__dataclass_fields__[name]
        add_setting(info, setting, setting.default)
    for name in ("filters", "units"):
        info.add_argument(
            f"--{name}", type=count, help="of the network (default: as many as Table 1 compares)"
        )
    return top


def count(text: str) -> int:
    """What an option that counts things is given: a whole number, 1 or more."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, not {text!r}")
    return int(text)


def add_experiment(commands: Any, kind: type[Experiment], help: str, description: str) -> None:
    """A command that trains, tests and draws; its options are the experiment's settings."""
    to = commands.add_parser(
        kind.command,
        help=help,
        description=description,
        epilog="Ctrl-C stops after the step at hand; --resume goes on from there.",
    )
    to.set_defaults(command=train_command, experiment=kind, defaults={})
    to.add_argument("--out", type=Path, help="the run's folder (default: a new one in runs/)")
    to.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out, with the settings it was begun with",
    )
    to.add_argument(
        "--gpus",
        type=count,
        default=1,
        help="train on so many GPUs of this machine, each with its part of every batch; on several "
        "machines, start it with a launcher such as torchrun instead (default: 1)",
    )
    add_recipe(to)
    for setting in kind.settings():
        add_setting(to, setting, setting.default)


def add_table(
    commands: Any,
    name: str,
    kind: type[Experiment],
    lists: Mapping[str, Sequence[str]],
    results: str,
    given: Sequence[str],
    help: str,
    description: str,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """A command that runs many jobs and writes their table.

    `lists` are what a job is chosen by, `given` the settings that follow from that choice, and
    `defaults` those that are others than the experiment's.
    """
    to = commands.add_parser(
        name,
        help=help,
        description=f"{description}, as jobs that know nothing of one another, and write the "
        "table of results, with the paper's numbers. A job with a result is not run again; one "
        "that was stopped goes on from its last checkpoint.",
        epilog="Ctrl-C stops after the steps at hand; the same command goes on from there.",
    )
    to.set_defaults(
        command=table_command,
        table=name,
        experiment=kind,
        lists=[*lists, "seeds"],
        defaults=defaults,
    )
    for one, known in lists.items():
        to.add_argument(
            f"--{one}",
            nargs="+",
            choices=known,
            metavar=one[:-1].upper(),
            default=argparse.SUPPRESS,
            help=f"of {', '.join(known)} (default: all of the table)",
        )
    to.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="default: 0")
    to.add_argument(
        "--results",
        type=Path,
        default=Path(results),
        help=f"folder of the finished jobs' results (default: {results})",
    )
    to.add_argument(
        "--runs",
        type=Path,
        default=Path("runs") / name,
        help=f"folder of the runs' folders (default: runs/{name})",
    )
    to.add_argument(
        "--workers",
        type=count,
        help="processes that share this machine's threads (default: one for two threads)",
    )
    to.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="run the jobs on a Dask cluster, such as tcp://10.0.0.1:8786, whose workers see the "
        "runs' folder under the same name; give each worker one thread (dask worker --nthreads 1)",
    )
    to.add_argument(
        "--report", action="store_true", help="run nothing, only write the table of what there is"
    )
    add_recipe(to)
    for setting in kind.settings():
        if setting.name not in given:
            add_setting(to, setting, defaults.get(setting.name, setting.default))


def add_recipe(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--recipe",
        choices=RECIPES,
        help="the settings that are not given: fast, the defaults below, or paper, plain SGD at "
        "0.01, divided by ten after each third of 150,000 steps of 256 images (default: fast, and "
        "then not compared with what a run was begun with)",
    )


def recipe_of(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that a recipe consists of, if it was asked for."""
    if options.recipe is None:
        return {}
    if options.recipe != "fast":
        return RECIPES[options.recipe]
    defaults = {setting.name: setting.default for setting in options.experiment.settings()}
    defaults |= options.defaults
    return {name: defaults[name] for name in RECIPES["paper"]}


def add_setting(to: argparse.ArgumentParser, setting: Any, default: Any) -> None:
    """An option made of a field of Settings. Left out, it does not appear in the result."""
    kind = {"int": int, "float": float, "str": str}[type_name(setting).removesuffix(" | None")]
    note = "" if default is None else f" (default: {default})"
    to.add_argument(
        "--" + setting.name.replace("_", "-"),
        type=kind,
        choices=setting.metadata["choices"],
        default=argparse.SUPPRESS,
        help=setting.metadata["help"].replace("%", "%%") + note,
    )


def asked_for(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given on the command line."""
    kind = getattr(options, "experiment", Settings)
    names = [setting.name for setting in kind.settings()]
    return {name: value for name, value in vars(options).items() if name in names}


def check_used(model: str, given: Iterable[str]) -> None:
    """RunError for an option that would change nothing of the network it is given for."""
    used = {
        "transformation": model.startswith("st-"),
        "localisation_lr": model.startswith("st-"),
        "slices": model.startswith("st-"),
        "filters": model.endswith("cnn"),
        "units": model.endswith("fcn"),
    }
    for name in given:
        if not used.get(name, True):
            raise RunError(f"--{name.replace('_', '-')} is not for {model}: it has none")


def train_command(options: argparse.Namespace) -> None:
    given = asked_for(options)
    asked = {**recipe_of(options), **given}
    settings = options.experiment.of(asked)
    if options.resume:
        if options.out is None:
            raise RunError("--resume needs the folder of the run: --out FOLDER")
        run = Run(options.out)
        if run.exists():
            settings = run.settings_as_begun(asked, options.experiment)
        else:
            print(f"no run in {options.out} yet: a new one begins", file=sys.stderr)
    check_used(settings.model, given)
    if options.gpus > 1 and given.get("device") == "cpu":
        raise RunError("--gpus is not for --device cpu")
    if options.gpus > 1 and "RANK" not in os.environ:
        command = [sys.executable, "-m", "minist", *options.arguments]
        raise SystemExit(start([*command, "--device", "cuda"], options.gpus))
    out = options.out or new_folder(settings)
    group = group_of(os.environ, settings.device)
    error = carry_out(settings, out, drawing_of(settings), options.resume, group=group)
    if group.rank > 0:
        return
    print(f"picture {Run(out).picture}")
    print(f"test error {error:.2f} %")


def drawing_of(settings: Experiment) -> Callable[..., Path]:
    """What draws the picture of an experiment's run; one of one's own as those of Sect. 4.1."""
    from .experiments import addition, distorted_mnist, volume  # bring in Matplotlib

    own = {"volume": volume, "addition": addition}
    return own.get(settings.command, distorted_mnist).draw


def new_folder(settings: Experiment) -> Path:
    """runs/NAME, or runs/NAME-2, -3 ... as it is free."""
    base = Path("runs") / settings.name
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def evaluate_command(options: argparse.Namespace) -> None:
    found = test(options.run, options.device)
    print(f"test loss {found['loss']:.4f}, outside {found['outside']:.1%}")
    print(f"test error {found['error']:.2f} %")


def show_command(options: argparse.Namespace) -> None:
    draw = drawing_of(Run(options.run).settings())
    print(f"picture {draw(options.run, options.digits, options.first)}")


def table_command(options: argparse.Namespace) -> None:
    module = import_module(f".experiments.{options.table}", __package__)  # brings in Matplotlib
    table = module.Table(options.results, options.runs)
    if not options.report:
        wanted = {name: value for name, value in vars(options).items() if name in options.lists}
        asked = {**recipe_of(options), **asked_for(options)}
        jobs = module.jobs(**wanted, recipe=options.recipe or "fast", **asked)
        # A batch of 128 in micro-batches of 64 gives two cores work.
        workers = options.workers or max(num_threads() // 2, 1)
        table.run(table.unfinished(jobs, asked), workers, options.scheduler)
    print(table.write())
    print(f"written to {table.page}")


def colocalise_command(options: argparse.Namespace) -> None:
    from .experiments import colocalise

    study = colocalise.Study(options.results, options.runs)
    if not options.report:
        wanted = {k: v for k, v in vars(options).items() if k in ("distortions", "digits")}
        asked = asked_for(options)
        study.run(study.unfinished(colocalise.jobs(**wanted, **asked), asked))
    print(study.write())
    print(f"written to {study.page}")


def benchmark_command(options: argparse.Namespace) -> None:
    from . import benchmark

    peers = benchmark.installed()
    if options.peer is not None:
        peers = [peer for peer in options.peer if peer != "none"]
    if options.growth:
        benchmark.growth.draw(options.growth, peers[:1], options.quick)
        print(f"picture {options.growth}")
    else:
        benchmark.run(
            options.batch_size, peers, options.only, options.quick, options.json, options.device
        )


def info_command(options: argparse.Namespace) -> None:
    given = {
        name: value
        for name, value in vars(options).items()
        if name in ("transformation", "distortion", "filters", "units") and value is not None
    }
    if options.what in MODELS:
        print(layers_of(options.what, given))
        return
    if given:
        raise RunError(f"--{next(iter(given))} is for a network: {', '.join(MODELS)}")
    if options.what is None:
        facts = machine()
    else:
        run = Run(options.what)
        if not run.exists():
            raise RunError(
                f"{options.what} holds no run, and is no network; those are {', '.join(MODELS)}"
            )
        facts = run.read_config()
        lines = run.lines()
        facts["steps"] = max((x["step"] for x in lines if "step" in x), default=0)
        error = run.test_error()
        facts["test error"] = "none yet" if error is None else f"{error:.2f} %"
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {value}")


def layers_of(network: str, given: Mapping[str, Any]) -> str:
    """A network's layers, output shapes and parameters, as a table."""
    check_used(network, given)
    model = models.build(network, **given)
    size = models.SIZES[given.get("distortion", Settings.distortion)]
    rows = [("name", "layer", "output", "parameters"), ("input", "", f"1 x {size} x {size}", "")]
    for layer in models.layers(model, (1, size, size)):
        shape = " x ".join(map(str, layer.output))
        rows.append((layer.name, layer.layer, shape, f"{layer.parameters:,}"))
    rows.append(("", "", "", f"{model.count_parameters():,}"))
    a, b, c, d = (max(len(row[i]) for row in rows) for i in range(4))
    return "\n".join(f"{w:{a}}  {x:{b}}  {y:>{c}}  {z:>{d}}" for w, x, y, z in rows)


def machine() -> dict[str, str]:
    """What minist runs on here."""
    import platform

    import numpy as np

    from .backend import processor, require_cupy
    from .benchmark import blas

    facts = {
        "minist": __version__,
        "Python": platform.python_version(),
        "system": platform.platform(),
        "CPU": processor(),
        "NumPy": np.__version__,
    }
    facts["BLAS"] = blas()
    facts["threads"] = str(num_threads())
    try:
        facts["CuPy"], facts["GPU"] = require_cupy().__version__, processor("cuda")
    except RuntimeError as error:
        facts["GPU"] = f"none ({error})"
    return facts
