"""The settings of a training run: this block is the manual, and the command line is made of it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..datasets import DISTORTIONS
from ..models import MODELS, TRANSFORMATIONS


def setting(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices})


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
    },
}
# A job of Table 1 has these, unless its recipe says otherwise. Long trainings profit from a little
# weight decay (docs/recipes.md). The micro-batch is fixed, so that the result is the same on a
# machine with any number of cores.
TABLE = {"epochs": 40, "micro_batch": 64, "weight_decay": 2e-4}


@dataclass(frozen=True)
class Settings:
    """What a run depends on (Sect. 4.1)."""

    # The network
    model: str = setting("st-cnn", "the network, as named in Table 1", MODELS)
    transformation: str = setting(
        "affine", "of the spatial transformer (Sect. 3.2)", tuple(TRANSFORMATIONS)
    )
    filters: int = setting(
        32, "filters of each convolution of a CNN; the paper's have 32 to 64, and 32 is quickest"
    )
    units: int | None = setting(
        None, "units of each hidden layer of an FCN; by default as many as Table 1 compares"
    )

    # The data
    distortion: str = setting(
        "R",
        "of the digits: R turned, RTS also scaled and moved, P projected, E bent, T moved, TC also "
        "cluttered",
        DISTORTIONS,
    )
    data: str | None = setting(None, "folder of other IDX files; by default the MNIST inside")
    held_out: int = setting(0, "training images kept back to choose by; their error is logged")
    limit: int | None = setting(None, "train on the first so many images only, for a quick try")

    # The training
    epochs: int = setting(14, "passes over the training images, distorted anew in each")
    batch_size: int = setting(128, "images a step")
    optimizer: str = setting("adam", "adam, or plain sgd, the paper's", ("adam", "sgd"))
    lr: float = setting(3e-3, "the learning rate at its highest")
    localisation_lr: float = setting(
        2.0, "times lr, for localisation nets; if they drift off the image, take less"
    )
    warmup: int = setting(200, "steps over which the rate rises")
    schedule: str = setting(
        "cosine",
        "how the rate falls: along a cosine to zero, or in steps, divided by ten after each third",
        ("cosine", "steps"),
    )
    weight_decay: float = setting(0.0, "times the weights, added to their gradients")
    seed: int = setting(0, "of the first weights, the order of images and their distortions")

    # The machine
    device: str = setting("cpu", "cpu, or cuda for a GPU through CuPy", ("cpu", "cuda"))
    micro_batch: int | None = setting(
        None,
        "images in a micro-batch; by default one for each core of the machine, of 16 to 64, and on "
        "a GPU the whole batch",
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            choices = f.metadata["choices"]
            if choices and value not in choices:
                raise ValueError(f"{f.name} must be one of {', '.join(choices)}, not {value!r}")
        for name in ("epochs", "batch_size", "filters", "units", "limit", "micro_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
        for name in ("lr", "localisation_lr", "warmup", "weight_decay", "held_out", "seed"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")

    @property
    def name(self) -> str:
        """A short name for the run: model, transformation, distortion."""
        middle = f"-{self.transformation}" if self.model.startswith("st-") else ""
        return f"{self.model}{middle}-{self.distortion}"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from a mapping; ValueError names an unknown one and the nearest known."""
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
                raise ValueError(f"unknown setting {name}{hint}")
        return cls(**values)
