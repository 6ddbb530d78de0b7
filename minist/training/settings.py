"""What is trained: an experiment is its settings, its network and its examples.

These blocks are the manual, and the command line is made of them.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .. import backend, models, nn
from ..datasets import DISTORTIONS, MNIST, Images, distort
from ..datasets.mnist import PACKAGED
from ..models import MODELS, TRANSFORMATIONS


def setting(
    default: Any,
    help: str,
    choices: tuple[str, ...] | None = None,
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """A field of a `SettingsBlock`, which the command line makes an option of.

    Parameters
    ----------
    default
        Where nothing else is asked for.
    help : str
        What it is, with its unit and reason.
    choices : tuple of str, optional
        All that it may be.
    least, most : number, optional
        It may not be lower, or higher.
    """
    metadata = {"help": help, "choices": choices, "least": least, "most": most}
    return field(default=default, metadata=metadata)


# A recipe is a set of settings by name. The paper's: 150,000 steps of 256 images, 638 epochs of
# 60,000; fast is the defaults.
RECIPES: dict[str, dict[str, Any]] = {
    "fast": {},
    "paper": {
        "epochs": 638,
        "batch_size": 256,
        "optimizer": "sgd",
        "lr": 0.01,
        "localisation_lr": 1.0,
        "warmup": 0,
        "schedule": "steps",
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
    },
}
# A job of Table 1 has these, unless its recipe says otherwise. Long trainings profit from a little
# weight decay and from smoothed labels (docs/recipes.md). The micro-batch is fixed, so that the
# result is the same on a machine with any number of cores.
TABLE = {"epochs": 40, "micro_batch": 64, "weight_decay": 2e-4, "label_smoothing": 0.2}


@dataclass(frozen=True)
class SettingsBlock:
    """Settings, each a `setting`, in a frozen dataclass; ValueError where one is out of range."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            choices, least, most = (f.metadata[key] for key in ("choices", "least", "most"))
            if not is_of_type(value, type_name(f)):
                raise ValueError(f"{f.name} must be {type_name(f)}, not {value!r}")
            if choices and value not in choices:
                raise ValueError(f"{f.name} must be one of {', '.join(choices)}, not {value!r}")
            if None not in (value, least) and not least <= value < float("inf"):
                raise ValueError(f"{f.name} must be {least} or more, not {value}")
            if None not in (value, most) and value > most:
                raise ValueError(f"{f.name} must be {most} or less, not {value}")

    @classmethod
    def settings(cls) -> list[Field]:
        """The fields, in the order in which the command line shows them."""
        return list(fields(cls))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> SettingsBlock:
        """Settings from a mapping; ValueError names an unknown one and the nearest known."""
        known = [f.name for f in cls.settings()]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
                raise ValueError(f"unknown setting {name}{hint}")
        return cls(**values)


@dataclass(frozen=True)
class Experiment(SettingsBlock):
    """What is trained on digits, and how: the settings that every run has.

    A subclass adds its own and writes `build` and `examples`. Then `train` trains it, stops and
    resumes, `test` tests it, and its settings make the options of a command.

    Raises ValueError for a value that is out of range or of another type, and where the class is
    made, TypeError if it has no `command` of its own.
    """

    command: ClassVar[str]  # of the command line; tells in config.json which experiment it is
    kinds: ClassVar[dict[str, type[Experiment]]] = {}  # all that have been imported, by command
    at_once: ClassVar[int] = 1000  # how many digits are made into examples at once for testing
    classes: ClassVar[int] = 10  # labels are 0 to classes - 1

    # The data
    data: str | None = setting(None, "folder of other IDX files; by default the MNIST inside")
    held_out: int = setting(
        0, "training images kept back to choose by; their error is logged", least=0
    )
    limit: int | None = setting(
        None, "train on the first so many images only, for a quick try", least=1
    )

    # The training
    epochs: int = setting(14, "passes over the training images, distorted anew in each", least=1)
    batch_size: int = setting(128, "images a step", least=1)
    optimizer: str = setting("adam", "adam, or plain sgd, the paper's", ("adam", "sgd"))
    lr: float = setting(3e-3, "the learning rate at its highest", least=0)
    localisation_lr: float = setting(
        2.0, "times lr, for localisation nets; if they drift off the image, take less", least=0
    )
    warmup: int = setting(
        200, "steps over which the rate rises, at most a tenth of all steps", least=0
    )
    schedule: str = setting(
        "cosine",
        "how the rate falls: along a cosine to zero, or in steps, divided by ten after each third",
        ("cosine", "steps"),
    )
    weight_decay: float = setting(0.0, "times the weights, added to their gradients", least=0)
    label_smoothing: float = setting(
        0.0, "share of each label that is spread over all classes, 0 to 1", least=0, most=1
    )
    seed: int = setting(
        0, "of the first weights, the order of images and their distortions", least=0
    )

    # The machine
    device: str = setting("cpu", "cpu, or cuda for a GPU through CuPy", ("cpu", "cuda"))
    cuda_graph: str = setting(
        "on", "whether a GPU is given a step's work at once, as a CUDA graph", ("on", "off")
    )
    micro_batch: int | None = setting(
        None,
        "images in a micro-batch; by default one micro-batch for each core of the machine, smaller "
        "where the network's numbers would not fit into a cache, and on a GPU the whole batch",
        least=1,
    )

    def digits(self, train: bool) -> MNIST:
        """The digits to train on, or else to test on: of `data`, or the MNIST inside.

        MINIST_DATA does not count here: it is looked at when a run is begun (`data_folder`).
        Raises ValueError for images other than 28x28, or labels beyond `classes`.
        """
        found = MNIST(train, root=self.data or PACKAGED)
        h, w = found.images.shape[2:]
        if (h, w) != (28, 28):
            raise ValueError(f"the networks are made for images of 28x28; {self.data} has {h}x{w}")
        if (largest := found.labels.max(initial=0)) >= self.classes:
            raise ValueError(
                f"labels may be 0 to {self.classes - 1} here; {self.data} has {largest}"
            )
        return found

    def build(self) -> nn.Module:
        """The network, its first weights drawn from the thread's generator."""
        raise NotImplementedError

    def network(self) -> nn.Module:
        """The network with the first weights of the seed, on the device."""
        with backend.random_state(self.seed):
            return self.build().to(self.device)

    def examples(self, digits: Images, rng: np.random.Generator) -> Images:
        """What the network is given and what it shall answer, made of digits at random: as many.

        Training on the CPU calls it for each micro-batch, in several processes at once. What it
        reads from an open file should be read by position, or from a file opened in it.
        """
        raise NotImplementedError

    @property
    def name(self) -> str:
        """A short name for the run."""
        return self.command

    @classmethod
    def going_on(cls, folder: str | os.PathLike) -> str:
        """How to go on with the run in a folder."""
        return f"train(settings, {str(folder)!r}, resume=True)"

    def __init_subclass__(cls) -> None:
        if "command" not in vars(cls):
            raise TypeError(f'{cls.__name__} needs a name in config.json, as in command = "mine"')
        cls.kinds[cls.command] = cls

    @classmethod
    def settings(cls) -> list[Field]:
        """The fields: first those of its own, then those that every experiment has."""
        shared = {f.name for f in fields(Experiment)}
        return sorted(fields(cls), key=lambda f: f.name in shared)

    def record(self) -> dict[str, Any]:
        """What config.json shall hold."""
        return {"command": self.command, **asdict(self)}

    @staticmethod
    def recorded(values: Mapping[str, Any]) -> Experiment:
        """The experiment, of whatever kind, that `record` gave these values of.

        Its class must have been imported, or it is a ValueError.
        """
        values = dict(values)
        command = values.pop("command", Settings.command)
        if command not in Experiment.kinds:
            raise ValueError(
                f"it is of the experiment {command!r}, which is not imported: import the module of "
                f"its class first; known are {', '.join(Experiment.kinds)}"
            )
        return Experiment.kinds[command].of(values)


def data_folder(named: str | None) -> str | None:
    """Where the digits of a new run are: in the folder named, or that of MINIST_DATA; None for the
    MNIST inside. As a whole path, so that it is the same folder to who goes on from elsewhere."""
    folder = named or os.environ.get("MINIST_DATA")
    return str(Path(folder).resolve()) if folder else None


def type_name(setting: Field) -> str:
    """Of a setting's type as it is written: "int", or "int | None"."""
    kind = setting.type  # the text of it in a module with `from __future__ import annotations`
    return kind.__name__ if isinstance(kind, type) else str(kind)


def is_of_type(value: Any, name: str) -> bool:
    """Whether a value may stand where an int or a float, or None beside one, is wanted."""
    kind, _, optional = name.partition(" | ")
    if kind not in ("int", "float") or (optional and value is None):
        return True
    wanted = int if kind == "int" else int | float
    return isinstance(value, wanted) and not isinstance(value, bool)


@dataclass(frozen=True)
class Settings(Experiment):
    """A network on distorted MNIST (Sect. 4.1)."""

    command: ClassVar[str] = "train"

    # The network
    model: str = setting("st-cnn", "the network, as named in Table 1", MODELS)
    transformation: str = setting(
        "affine", "of the spatial transformer (Sect. 3.2)", tuple(TRANSFORMATIONS)
    )
    filters: int = setting(
        32,
        "filters of each convolution of a CNN; the paper's have 32 to 64, and 32 is quickest",
        least=1,
    )
    units: int | None = setting(
        None,
        "units of each hidden layer of an FCN; by default as many as Table 1 compares",
        least=1,
    )

    # Its digits
    distortion: str = setting(
        "R",
        "of the digits: R turned, RTS also scaled and moved, P projected, E bent, T moved, TC also "
        "cluttered",
        DISTORTIONS,
    )

    @classmethod
    def going_on(cls, folder: str | os.PathLike) -> str:
        return f"minist train --resume --out {folder}"

    def build(self) -> nn.Module:
        return models.build(
            self.model, self.transformation, self.distortion, self.filters, self.units
        )

    def examples(self, digits: Images, rng: np.random.Generator) -> Images:
        return Images(distort(digits.images, self.distortion, rng), digits.labels)

    @property
    def name(self) -> str:
        """Model, transformation, distortion."""
        middle = f"-{self.transformation}" if self.model.startswith("st-") else ""
        return f"{self.model}{middle}-{self.distortion}"
