"""MNIST addition (the appendix): two digits, each distorted on its own, answered by their sum.

One transformer has to treat both digits alike; two in parallel can each undo one distortion.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, ClassVar

import numpy as np

from .. import nn
from ..autograd import Tensor, no_grad
from ..datasets import Images, sums
from ..models import TRANSFORMATIONS, addition
from ..training import (
    RECIPES,
    Experiment,
    Run,
    explained,
    load_examples,
    load_trained,
    setting,
    test,
    transformers,
)
from .jobs import Jobs
from .table1_page import label, markdown

# Test errors in per cent, from the appendix; it has no transformers before a CNN.
PAPER: dict[str, float | None] = {
    "fcn": 47.7,
    "cnn": 14.7,
    "st-fcn affine": 22.6,
    "st-fcn projective": 18.5,
    "st-fcn tps": 19.1,
    "2xst-fcn affine": 9.0,
    "2xst-fcn projective": 5.9,
    "2xst-fcn tps": 5.8,
    "st-cnn affine": None,
    "2xst-cnn affine": None,
}


@dataclass(frozen=True)
class Addition(Experiment):
    """The sum of two distorted digits (the appendix)."""

    command: ClassVar[str] = "addition"

    # The network
    model: str = setting("2xst-fcn", "the network", addition.MODELS)
    transformation: str = setting(
        "affine", "of the spatial transformers (Sect. 3.2)", tuple(TRANSFORMATIONS)
    )
    width: int | None = setting(
        None,
        "filters of each convolution, or units of each hidden layer; by default as many as make "
        f"{addition.PARAMETERS:,} parameters",
        least=1,
    )

    # The training
    epochs: int = setting(150, "times 60,000 pairs of digits, other pairs in each", least=1)
    lr: float = setting(3e-3, "the learning rate at its highest", least=0)
    localisation_lr: float = setting(
        0.3,
        "times lr, for localisation nets: the classifier has little to say at first, and at higher "
        "rates they drift off the image meanwhile",
        least=0,
    )
    micro_batch: int | None = setting(128, "pairs in a micro-batch", least=1)

    @classmethod
    def going_on(cls, folder: str | os.PathLike) -> str:
        return "the same minist addition again"

    def build(self) -> nn.Module:
        return addition.build(self.model, self.transformation, self.width)

    def examples(self, digits: Images, rng: np.random.Generator) -> Images:
        return sums(digits, rng)

    @property
    def name(self) -> str:
        """Model and transformation."""
        return self.model + (f"-{self.transformation}" if "st-" in self.model else "")


def jobs(
    models: Sequence[str] = addition.MODELS,
    transformations: Sequence[str] = ("affine", "projective", "tps"),
    seeds: Sequence[int] = (0,),
    recipe: str = "fast",
    **asked: Any,
) -> list[Addition]:
    """The settings of the table's rows, for each seed.

    Parameters
    ----------
    models, transformations : sequence of str
        Those wanted; a network without a transformer belongs to every transformation.
    seeds : sequence of int
    recipe : "fast" or "paper"
    asked
        Settings that differ from the recipe's.

    Raises
    ------
    ValueError
        If there is no such row.
    """
    values = {**RECIPES[recipe], **asked}
    chosen = []
    for seed in seeds:
        for row in PAPER:
            model, _, transformation = row.partition(" ")
            if model in models and transformation in ("", *transformations):
                of_row = {"model": model, "transformation": transformation or "affine"}
                chosen.append(Addition.of({**values, **of_row, "seed": seed}))
    if not chosen:
        raise ValueError(f"the table of sums has no such row; its rows are {', '.join(PAPER)}")
    return chosen


@no_grad()
def draw(folder: str | Path, digits: int = 6, first: int = 0) -> Path:
    """The run's picture, `result.png`; returns its path.

    For `digits` pairs of test digits from number `first` on: both channels with the transformers'
    windows, what each transformer makes of them, and the sum that the network reads.
    """
    from .. import plotting  # brings in Matplotlib

    model, settings, run = load_trained(folder)
    images, labels = load_examples(settings, first, digits)
    predicted = model(Tensor(images)).data.argmax(axis=1)
    st = next(iter(transformers(model)), None)
    windows, outputs = [], []
    if st is not None:
        seen, size = st(Tensor(images)).numpy(), images.shape[2:]
        outputs = np.split(seen, seen.shape[1] // 2, axis=1)
        thetas = st.theta.data.reshape(len(images), len(outputs), -1)
        windows = [st.transformation.outline(t, size) for t in thetas.swapaxes(0, 1)]
    error = run.test_error()
    figure = plotting.addition_result(
        images,
        labels,
        predicted,
        windows,
        outputs,
        title=f"{settings.name}: test error {test(run)['error'] if error is None else error:.2f} %",
    )
    run.save_picture(figure)
    return run.picture


class Table(Jobs):
    """The table of sums. Its page is written in the folder above that of all results."""

    kind: ClassVar = Addition
    draw = staticmethod(draw)

    @property
    def page(self) -> Path:
        return self.results.resolve().parent.parent / "addition.md"

    @property
    def picture(self) -> Path:
        return self.page.with_suffix(".png")

    def write(self) -> str:
        """Write addition.md, and beside it the picture of a run with two transformers; the table
        as text.

        Without such a run the picture is left as it is.
        """
        found = self.read()
        (job,) = jobs(["2xst-fcn"], ["affine"])
        drawn = Run(self.folder(job)).picture
        with explained(self.page):
            self.page.parent.mkdir(parents=True, exist_ok=True)
            if drawn.is_file():
                shutil.copy(drawn, self.picture)
            self.page.write_text(as_page(found, self.picture.is_file()))
        return as_table(found)


def as_table(found: Sequence[Mapping[str, Any]]) -> str:
    """The table in Markdown: ours, the paper's, the difference, and what it took."""
    heads = ["network", "error, %", "the paper's", "difference", "parameters", "seeds"]
    lines = [[*heads, "pairs seen", "hours"]]
    for row, paper in PAPER.items():
        model, _, transformation = row.partition(" ")
        of_row = [
            result
            for result in found
            if result["settings"]["model"] == model
            and transformation in ("", result["settings"]["transformation"])
        ]
        errors = [result["test_error"] for result in of_row]
        line = [label(row), "unmeasured", "" if paper is None else paper, *[""] * 5]
        if of_row:
            spread = f" ± {stdev(errors):.2f}" if len(errors) > 1 else ""
            line[1] = f"**{mean(errors):.2f}**{spread}"
            line[3:] = [
                "" if paper is None else f"{mean(errors) - paper:+.2f}",
                f"{of_row[0]['parameters']:,}",
                ", ".join(str(result["settings"]["seed"]) for result in of_row),
                f"{of_row[0]['images_seen']:,}",
                f"{sum(result['seconds'] for result in of_row) / 3600:.2f}",
            ]
        lines.append(line)
    return markdown(lines)


def as_page(found: Sequence[Mapping[str, Any]], pictured: bool) -> str:
    """addition.md."""
    return PAGE.format(table=as_table(found), picture=PICTURE if pictured else "")


PICTURE = """
Test pairs, seen by 2xST-FCN affine: (a) both digits with the windows of both transformers, (b) \
and (c) what each hands on. The second has learnt to follow the first digit and keeps it in the \
middle, at one size; the first does so with the other. Nobody told them which is whose.

![Pairs of digits, the windows of two transformers, and their outputs](addition.png)
"""


PAGE = """\
# Adding two digits

Two digits, each turned, scaled and moved on its own, each on a channel of its own; the answer is \
their sum, one of 19 classes, and nothing else is told. One spatial transformer warps both \
channels alike, and can do justice to one digit only. Two in parallel (Sect. 3.4) can each follow \
one of them (the paper's appendix).

Test errors in per cent on 10,000 pairs of test digits:

{table}
{picture}
```sh
minist addition                                                       # run what is missing
minist addition --models 2xst-fcn st-fcn --transformations affine     # part of it
minist addition --report                                              # only write this page
```

Everything comes from the files in `results/addition/`, one for each finished job, with \
its settings and learning curve; only the columns that say so are the paper's. Jobs run, stop and \
go on as those of [Table 1](table1.md), on a cluster too. A run's `result.png` shows pairs, both \
windows, and what each transformer makes of both digits.

## How it is made

- **The pairs.** 42x42, each digit distorted as in RTS. The digits of a micro-batch are paired at \
random, other pairs in every epoch, so that hardly any is seen twice. Each distorted digit comes \
in two pairs, once on each channel. The 10,000 test pairs are the same for every run.
- **The networks** have 400,000 learnable parameters each, within 2.5 %, the paper's number: two \
fully connected localisation nets on 42x42 alone need 229,000. What a transformer hands on, both \
channels, holds a digit: 14x14 for a fully connected classifier, 21x21 for a CNN; the paper does \
not say at what size. The fewer pixels, the more units the classifier can have for its weights: \
with 21x21 2xST-FCN affine has 90 instead of 173 in each hidden layer, and of its training pairs \
29.0 % wrong in the 20th epoch instead of 23.9, 12.2 % in the last instead of 8.6.
- **The training** is Table 1's fast recipe with a smaller rate for the localisation nets: Adam, \
0.003, 0.3 times that for them. The networks learn little but the frequency of the sums for the \
first thousand steps, and at higher rates the localisation nets drift off the image meanwhile: at \
the full rate (of 0.002, with 21x21) 58 % of the points lay outside after 1,300 steps, at 0.3 \
times 16 %. The rates were chosen by short runs, on the error of training pairs as they first \
came, never on test digits, as was the size above; rates from 0.002 to 0.004 came out alike.
- **It takes patience.** Of its training pairs 2xST-FCN affine has more than eight in ten wrong \
for five epochs, less than half from the tenth on, a quarter in the 19th, 14 % in the 60th, 8.6 % \
in the last. Test pairs are wrong as often as training pairs, so it does not want for digits.
- **Fewer pairs** than ST-FCN and 2xST-FCN affine, which saw 60,000 of them 150 times, were given \
to the others: 75 times with the projective and the TPS transformer, 40 times to ST-CNN and \
2xST-CNN, 60 times to FCN, 20 times to the CNN. Compare rows with the pairs they saw.
- **2xST-FCN TPS** has a third of the others' rate for its localisation nets \
(`--localisation-lr 0.1`): at 0.3 times, one of its two splines left the image within the first \
twelve passes and never came back. That run ended with 37.2 % of the test pairs wrong, which was \
known when the second was begun.
- ST-CNN and 2xST-CNN are not in the paper.
"""
