"""Pictures of runs: what a network sees, how it learnt, and Table 1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import cycle, product
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image  # comes with Matplotlib

from ..backend import Array
from .drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    VIEWS,
    as_array,
    draw_box,
    draw_curve,
    draw_grid,
    draw_image,
    error_axis,
    scaled,
    verdict,
)


def result(
    images: Array,
    labels: Array,
    predicted: Array,
    grid: Array | None,
    outputs: Array | None,
    curve: Sequence[dict[str, Any]],
    title: str = "",
) -> Figure:
    """What a network sees and how it learnt: the picture that `minist train` ends with.

    For each digit (a) the input, (b) the sampling grid over it and (c) what the transformer hands
    to the classifier, as in Table 1 (right); below, the learning curve. Without a transformer
    only (a) is drawn.

    Parameters
    ----------
    images, outputs : (N, 1, H, W), (N, 1, H', W')
    labels, predicted : (N,)
    grid : (N, H', W', 2)
    curve : lines of metrics.jsonl
    title : str
    """
    images, labels, predicted = map(as_array, (images, labels, predicted))
    rows = 1 if grid is None else 3
    n = len(images)
    figure = Figure(figsize=(1.25 * n + 0.5, 1.3 * rows + 3.2), dpi=120, layout="constrained")
    figure.suptitle(title)
    digits, below = figure.subfigures(2, 1, height_ratios=[1.3 * rows, 2.6])
    axes = digits.subplots(rows, n, squeeze=False)
    for i in range(n):
        axes[0, i].set_title(**verdict(predicted[i], labels[i]))
        draw_image(axes[0, i], images[i, 0])
        if grid is not None:
            draw_image(axes[1, i], images[i, 0])
            draw_grid(axes[1, i], as_array(grid)[i], images.shape[2:])
            draw_image(axes[2, i], as_array(outputs)[i, 0])
    names = ["(a) input", "(b) grid", "(c) output"]
    for ax, name in zip(axes[:, 0], names[:rows], strict=True):
        ax.set_ylabel(name)
    draw_curve(below.subplots(), curve)
    return figure


def volume_result(
    volumes: Array,
    labels: Array,
    predicted: Array,
    grid: Array | None,
    outputs: Array,
    curve: Sequence[dict[str, Any]],
    title: str = "",
) -> Figure:
    """What a network sees in volumes and how it learnt: the picture that `minist volume` ends with.

    For each volume its X-rays (a) from the front, (b) from above and (c) from the side, with the
    edges of the box that the transformer looks at, and (d) the picture that the classifier is
    given; below, the learning curve. In each picture the most ink is black.

    Parameters
    ----------
    volumes : (N, 1, D, H, W)
    labels, predicted : (N,)
    grid : (N, D', H', W', 3), or None without a transformer
    outputs : (N, 1, H', W')
    curve : lines of metrics.jsonl
    title : str
    """
    volumes, labels, predicted, outputs = map(as_array, (volumes, labels, predicted, outputs))
    n = len(volumes)
    figure = Figure(figsize=(1.4 * n + 0.6, 8.6), dpi=120, layout="constrained")
    figure.suptitle(title)
    above, below = figure.subfigures(2, 1, height_ratios=[6.2, 2.4])
    axes = above.subplots(4, n, squeeze=False)
    for i in range(n):
        axes[0, i].set_title(**verdict(predicted[i], labels[i]))
        for ax, (right, down, through) in zip(axes[:3, i], VIEWS.values(), strict=True):
            xyz = volumes[i, 0].transpose(2, 1, 0)
            draw_image(ax, scaled(xyz.transpose(down, right, through).sum(axis=2)))
            if grid is not None:
                draw_box(ax, as_array(grid)[i], volumes.shape[2:], (right, down))
        draw_image(axes[3, i], scaled(outputs[i, 0]))
    for ax, name in zip(axes[:, 0], [*VIEWS, "(d) output"], strict=True):
        ax.set_ylabel(name)
    draw_curve(below.subplots(), curve)
    return figure


def curves(
    panels: Mapping[str, Mapping[str, Any]], x_label: str = "step", x: Sequence[float] | None = None
) -> Figure:
    """Learning curves of several runs: a panel for each quantity, in it a line for each run.

    Parameters
    ----------
    panels : {what the panel shows: {name of the run: numbers (steps,)}}
        A run has the same colour and dashes in every panel.
    x_label : str
    x : numbers (steps,), optional
        0, 1, 2, ... by default.
    """
    figure = Figure(figsize=(3.6 * len(panels), 2.9), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    names = list(dict.fromkeys(name for runs in panels.values() for name in runs))
    looks = dict(zip(names, cycle(product(("-", "--", ":"), (BLUE, ORANGE, GREEN, RED)))))
    for ax, (title, runs) in zip(axes, panels.items(), strict=True):
        for name, values in runs.items():
            dashes, colour = looks[name]
            steps = range(len(values)) if x is None else x[: len(values)]
            ax.plot(steps, as_array(values), dashes, color=colour, linewidth=1.5, label=name)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel(x_label)
        ax.grid(True, color="#DDDDDD", linewidth=0.5)
        ax.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        axes[0].legend(frameon=False, fontsize=8)
    return figure


def times(
    milliseconds: Mapping[str, float],
    floor: tuple[str, float] | None = None,
    rivals: bool = True,
) -> Figure:
    """How long each of several things took: a bar for each.

    Parameters
    ----------
    milliseconds : {name: milliseconds}
        Drawn from the top, in the order given.
    floor : (str, float), optional
        What none of them was expected to go below, and its milliseconds: a dashed line.
    rivals : bool
        They do the same, and the shortest is green. False for the parts of a whole.
    """
    names, values = list(milliseconds), list(milliseconds.values())
    size = (6.4, 0.3 * len(names) + 0.7)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    ax = figure.subplots()
    colours = [GREEN if rivals and value == min(values) else BLUE for value in values]
    bars = ax.barh(names, values, color=colours, height=0.7)
    ax.bar_label(bars, [f"{value:.3g} ms" for value in values], padding=3, fontsize=8)
    if floor is not None:
        name, value = floor
        ax.axvline(value, color=GREY, linewidth=1, linestyle="--")
        ax.text(value, -0.6, f"{name}, {value:.3g} ms", color=GREY, fontsize=8, ha="center")
    ax.set_xlim(0, 1.15 * max(values))
    ax.set_xlabel("milliseconds")
    ax.invert_yaxis()
    ax.tick_params(axis="y", labelsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def confusion(labels: Array, predicted: Mapping[str, Array], classes: int = 10) -> Figure:
    """How often each class (a row) was taken for each other (a column), by each of some networks.

    What is right, the diagonal, is only counted; the shades are those of the mistakes, and mean the
    same in every panel.

    Parameters
    ----------
    labels : (N,)
    predicted : {name: (N,)}
        A panel for each.
    classes : int
    """
    counts = np.zeros((len(predicted), classes, classes), int)
    for of_one, answers in zip(counts, predicted.values(), strict=True):
        np.add.at(of_one, (as_array(labels), as_array(answers)), 1)
    mistakes = np.where(np.eye(classes, dtype=bool), 0, counts)
    side, most = 0.36 * classes + 0.8, max(mistakes.max(), 1)
    size = (side * len(predicted), side + 0.2)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots(1, len(predicted), squeeze=False)[0]
    for ax, name, of_one, wrong in zip(axes, predicted, counts, mistakes, strict=True):
        ax.imshow(wrong, cmap="Blues", vmin=0, vmax=most)
        for (row, column), count in np.ndenumerate(of_one):
            if count:
                dark = wrong[row, column] > most / 2
                colour = GREY if row == column else "white" if dark else "black"
                ax.text(column, row, count, ha="center", va="center", color=colour, fontsize=7)
        ax.set_title(name, fontsize=10)
        ax.set_xticks(range(classes))
        ax.set_yticks(range(classes))
        ax.set_xlabel("taken for")
        ax.set_ylabel("is")
        ax.tick_params(length=0)
    return figure


def worst_mistakes(images: Array, labels: Array, logits: Array, shown: int = 10) -> Figure:
    """Where a classifier was most sure of a wrong answer: the worst mistake first.

    Under each image, how probable the classifier held its answer and the truth.

    Parameters
    ----------
    images : (N, 1, H, W)
    labels : (N,)
    logits : (N, classes)
    shown : int
        Mistakes at most.
    """
    images, labels, logits = map(as_array, (images, labels, logits))
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    n, predicted = np.arange(len(labels)), logits.argmax(axis=1)
    loss = np.where(predicted == labels, -np.inf, logits.max(axis=1) - logits[n, labels])
    worst = np.argsort(-loss, kind="stable")[: min(shown, (predicted != labels).sum())]
    columns = min(max(len(worst), 1), 10)
    rows = max(-(-len(worst) // columns), 1)
    figure = Figure(figsize=(1.05 * columns, 1.5 * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, i in zip(axes, worst, strict=False):
        draw_image(ax, images[i, 0])
        ax.set_title(**verdict(predicted[i], labels[i]))
        held = probabilities[i, [predicted[i], labels[i]]]
        ax.set_xlabel(f"{held[0]:.0%}, {held[1]:.0%}", fontsize=8)
    for ax in axes[len(worst) :]:
        ax.set_axis_off()
    return figure


class Case(NamedTuple):
    """Images (N, 1, H, W) that one network took for something else, and how another saw them:
    grids (N, H', W', 2), outputs (N, 1, H', W')."""

    title: str
    images: Array
    labels: Array
    taken_for: Array
    grids: Array
    outputs: Array


def cases(shown: Sequence[Case]) -> Figure:
    """Table 1 (right): (a) inputs, (b) the predicted grids over them, (c) the outputs.

    Parameters
    ----------
    shown : sequence of Case
        Drawn side by side.
    """
    widest = max(len(case.labels) for case in shown)
    figure = Figure(figsize=(1.1 * widest * len(shown), 4.2), dpi=120, layout="constrained")
    parts = figure.subfigures(1, len(shown), squeeze=False)[0]
    for k, (part, case) in enumerate(zip(parts, shown, strict=True)):
        part.suptitle(case.title)
        axes = part.subplots(3, widest, squeeze=False)
        for ax in axes[:, len(case.labels) :].flat:
            ax.set_axis_off()
        images, grids, outputs = map(as_array, (case.images, case.grids, case.outputs))
        for i, (label, guess) in enumerate(zip(case.labels, case.taken_for, strict=True)):
            axes[0, i].set_title(f"{guess}, is {label}", color=RED, fontsize=10)
            draw_image(axes[0, i], images[i, 0])
            draw_image(axes[1, i], images[i, 0])
            draw_grid(axes[1, i], grids[i], images.shape[2:])
            draw_image(axes[2, i], outputs[i, 0])
        if k == 0:
            for ax, name in zip(axes[:, 0], ("(a) input", "(b) grid", "(c) output"), strict=True):
                ax.set_ylabel(name)
    return figure


def table1_curves(by_distortion: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Training error in per cent, epoch by epoch, of every network; a panel for each distortion.

    A colour for each network, a dash for each transformation.

    Parameters
    ----------
    by_distortion : {distortion: {network, as in "ST-CNN affine": errors, epoch by epoch}}
    """
    colours = {"FCN": GREY, "CNN": GREEN, "ST-FCN": ORANGE, "ST-CNN": BLUE}
    dashes = {"": "-", "affine": "-", "projective": "--", "TPS": ":"}
    n = len(by_distortion)
    figure = Figure(figsize=(3.2 * n + 1.8, 3.4), dpi=120, layout="constrained")
    axes = figure.subplots(1, n, sharey=True, squeeze=False)[0]
    lines = {}
    for ax, (distortion, networks) in zip(axes, by_distortion.items(), strict=True):
        for name, errors in networks.items():
            network, _, transformation = name.partition(" ")
            (lines[name],) = ax.plot(
                range(1, len(errors) + 1),
                np.maximum(errors, 1e-2),
                color=colours[network],
                linestyle=dashes[transformation],
                linewidth=1.2,
            )
        ax.set_title(distortion)
        error_axis(ax)
    for ax in axes[1:]:
        ax.set_ylabel("")
    figure.legend(lines.values(), lines, loc="outside right center", frameon=False)
    return figure


def contact_sheet(sets: Mapping[str, Array]) -> Figure:
    """The first images (N, 1, H, W) of each data set, a row for each."""
    n = max(len(images) for images in sets.values())
    figure = Figure(figsize=(n + 0.5, 1.05 * len(sets)), dpi=120, layout="constrained")
    axes = figure.subplots(len(sets), n, squeeze=False)
    for row, (name, images) in zip(axes, sets.items(), strict=True):
        for ax, image in zip(row, as_array(images), strict=False):
            draw_image(ax, image[0])
        for ax in row[len(images) :]:
            ax.set_axis_off()
        h, w = images.shape[2:]
        row[0].set_ylabel(f"{name}\n{h}x{w}")
    return figure


def film(
    images: Array, grids: Sequence[Array], outputs: Sequence[Array], titles: Sequence[str]
) -> Figure:
    """The same digits at several moments: how a transformer learns where to look.

    A row for each moment: the grids over the digits on the left, what they see on the right.

    Parameters
    ----------
    images : (N, 1, H, W)
    grids, outputs : (N, H', W', 2) and (N, 1, H', W') for each moment
    titles : str for each moment
    """
    images = as_array(images)
    n, rows = len(images), len(titles)
    figure = Figure(figsize=(1.7 * n, 0.9 * rows + 0.2), dpi=100, layout="constrained")
    left, right = figure.subfigures(1, 2)
    over, seen = (part.subplots(rows, n, squeeze=False) for part in (left, right))
    for row, (grid, output) in enumerate(zip(grids, outputs, strict=True)):
        for i in range(n):
            draw_image(over[row, i], images[i, 0])
            draw_grid(over[row, i], as_array(grid)[i], images.shape[2:], lines=6)
            draw_image(seen[row, i], as_array(output)[i, 0])
        over[row, 0].set_ylabel(titles[row], fontsize=8)
    return figure


def theta_curves(steps: Sequence[int], thetas: Array, names: Sequence[str]) -> Figure:
    """theta over training: a panel for each of its numbers, a line for each image.

    Parameters
    ----------
    steps : (S,)
    thetas : (S, N, num_parameters)
    names : num_parameters str
    """
    thetas = as_array(thetas)
    columns = min(len(names), 6)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(1.9 * columns, 1.8 * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for p, (ax, name) in enumerate(zip(axes, names, strict=False)):
        ax.plot(steps, thetas[:, :, p], color=BLUE, linewidth=0.6, alpha=0.5)
        ax.plot(steps, thetas[:, :, p].mean(axis=1), color=ORANGE, linewidth=2)
        ax.set_title(name, fontsize=9)
        ax.set_xlabel("step")
        ax.grid(True, color="#DDDDDD", linewidth=0.5)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    return figure


def recovered(quantities: Mapping[str, tuple[Array, Array]]) -> Figure:
    """What was found of each quantity against what is true, their correlation r above.

    Parameters
    ----------
    quantities : for each name, (true, found), (N,) each
    """
    figure = Figure(figsize=(2.9 * len(quantities), 3.0), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(quantities), squeeze=False)[0]
    for ax, (name, (true, found)) in zip(axes, quantities.items(), strict=True):
        true, found = as_array(true), as_array(found)
        ax.plot([true.min(), true.max()], [true.min(), true.max()], color=ORANGE, linewidth=1)
        ax.scatter(true, found, s=4, color=BLUE, alpha=0.4, linewidths=0)
        ax.set_title(f"{name}, r = {np.corrcoef(true, found)[0, 1]:.2f}", fontsize=9)
        ax.set_xlabel("true")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("read from theta")
    return figure


def animation(figures: Iterable[Figure], frames_per_second: float = 6.0) -> bytes:
    """Figures, all of one size, as an animated GIF that starts again after resting on its last.

    Write the bytes to a file, or show them in a notebook with `IPython.display.Image`.

    Parameters
    ----------
    figures : iterable of Figure
    frames_per_second : float
    """
    frames = []
    for figure in figures:
        png = BytesIO()
        figure.savefig(png, format="png")
        frames.append(Image.open(png).convert("RGB").quantize(32, dither=Image.Dither.NONE))
    pause = round(1000 / frames_per_second)
    gif = BytesIO()
    frames[0].save(
        gif,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[pause] * (len(frames) - 1) + [2000],
        loop=0,
    )
    return gif.getvalue()
