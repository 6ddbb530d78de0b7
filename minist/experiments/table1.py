"""Table 1: every network of Sect. 4.1 on every distortion, beside the paper's errors.

A job is one network, distortion and seed; see `jobs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .. import plotting
from ..autograd import Tensor, no_grad
from ..models import MODELS, width
from ..training import (
    RECIPES,
    TABLE,
    Run,
    Settings,
    explained,
    load_test_set,
    load_trained,
    transformers,
)
from .distorted_mnist import draw
from .jobs import Jobs
from .table1_page import DISTORTIONS, PAPER, as_csv, as_page, as_table, curves, first_digits

EXAMPLES = 4  # digits of each distortion in the picture


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


class Table(Jobs):
    """Table 1, written beside its folder of results. See `Jobs`."""

    kind: ClassVar = Settings
    draw = staticmethod(draw)

    @property
    def page(self) -> Path:
        return self.results.parent / "table1.md"

    def write(self) -> str:
        """Write table1.md, table1.csv and the pictures beside the results; the table as text.

        The picture of single digits needs the runs' weights, and is left as it is without them.
        """
        found, digits = self.read(), first_digits()
        cases = [case for d in DISTORTIONS if (case := self.case(d)) is not None]
        place = self.results.parent
        with explained(place):
            place.mkdir(parents=True, exist_ok=True)
            (place / "table1.csv").write_text(as_csv(found))
            plotting.contact_sheet(digits).savefig(place / "table1-digits.png")
            if found:
                plotting.table1_curves(curves(found)).savefig(place / "table1-curves.png")
            if cases:
                plotting.cases(cases).savefig(place / "table1-cases.png")
            pictured = (place / "table1-cases.png").is_file()
            self.page.write_text(as_page(found, pictured))
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
