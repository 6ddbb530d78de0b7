"""Pictures: each function returns a Matplotlib figure. Arrays may be NumPy's or CuPy's.

Colours are Okabe and Ito's, which the colour-blind can tell apart; digits are drawn as ink on
paper, so that grids show on top of them, on a screen and in print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from .autograd import Tensor
from .backend import Array, to_numpy

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"


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
    """
    images, labels, predicted = map(as_array, (images, labels, predicted))
    rows = 1 if grid is None else 3
    n = len(images)
    figure = Figure(figsize=(1.25 * n + 0.5, 1.3 * rows + 3.2), dpi=120, layout="constrained")
    figure.suptitle(title)
    digits, below = figure.subfigures(2, 1, height_ratios=[1.3 * rows, 2.6])
    axes = digits.subplots(rows, n, squeeze=False)
    for i in range(n):
        right = predicted[i] == labels[i]
        verdict = f"{predicted[i]}" if right else f"{predicted[i]}, is {labels[i]}"
        axes[0, i].set_title(verdict, color=GREEN if right else RED, fontsize=10)
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
    """Table 1 (right): (a) inputs, (b) the predicted grids over them, (c) the outputs."""
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


class Frame(NamedTuple):
    """What a transformer does to images after some steps: grids (N, H', W', 2), outputs."""

    step: int
    grids: Array
    outputs: Array


def film(images: Array, frames: Sequence[Frame], seconds: float = 8.0) -> FuncAnimation:
    """Grids over images (N, 1, H, W), and outputs below them, frame after frame.

    `film(...).save("settling.gif", writer="pillow")` writes it.
    """
    images = as_array(images)
    figure = Figure(figsize=(1.2 * len(images), 2.9), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(images), squeeze=False)

    def draw(frame: Frame) -> list[Any]:
        figure.suptitle(f"step {frame.step}")
        grids, outputs = as_array(frame.grids), as_array(frame.outputs)
        for i in range(len(images)):
            for ax in axes[:, i]:
                ax.clear()
            draw_image(axes[0, i], images[i, 0])
            draw_grid(axes[0, i], grids[i], images.shape[2:])
            draw_image(axes[1, i], outputs[i, 0])
        return []

    return FuncAnimation(
        figure, draw, frames, init_func=lambda: [], interval=1000 * seconds / len(frames)
    )


def curves(by_distortion: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Training error in per cent, epoch by epoch, of every network; a panel for each distortion.

    A colour for each network, a dash for each transformation.
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
        for ax, image in zip(row, as_array(images), strict=True):
            draw_image(ax, image[0])
        h, w = images.shape[2:]
        row[0].set_ylabel(f"{name}\n{h}x{w}")
    return figure


def draw_image(ax: Axes, image: np.ndarray) -> None:
    """An image (H, W) of 0..1 as ink on paper; pixel centres at whole numbers."""
    ax.imshow(image, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color("#BBBBBB")


def draw_grid(ax: Axes, grid: np.ndarray, size: tuple[int, int], lines: int = 8) -> None:
    """A sampling grid (H', W', 2) over an image of `size`: T_theta(G) of Fig. 3.

    The upper edge of the output is drawn thick in orange, so that one sees which way is up.
    """
    h, w = size
    points = (grid + 1) / 2 * [w - 1, h - 1]
    rows = points[np.linspace(0, len(points) - 1, lines).round().astype(int)]
    columns = points[:, np.linspace(0, points.shape[1] - 1, lines).round().astype(int)]
    curves = [*rows[1:], *columns.transpose(1, 0, 2)]
    ax.add_collection(LineCollection(curves, colors=BLUE, linewidths=0.7, alpha=0.9))
    ax.add_collection(LineCollection([rows[0]], colors=ORANGE, linewidths=2))
    # Room for grids that reach beyond the image, the same for every digit.
    margin = 0.25
    ax.set_xlim(-margin * w, (1 + margin) * w - 1)
    ax.set_ylim((1 + margin) * h - 1, -margin * h)


def draw_curve(ax: Axes, lines: Sequence[dict[str, Any]]) -> None:
    """Error in per cent against epochs, on a logarithmic scale, from lines of metrics.jsonl."""
    steps = [x for x in lines if "error" in x]
    if steps:
        per_epoch = max(x["step"] for x in steps) / max(x["epoch"] for x in steps)
        ax.plot(
            [x["step"] / per_epoch for x in steps],
            [max(x["error"], 1e-2) for x in steps],
            color=BLUE,
            linewidth=1,
            label="training, as it went",
        )
    held_out = [x for x in lines if "held_out_error" in x]
    if held_out:
        ax.plot(
            [x["epoch"] for x in held_out],
            [x["held_out_error"] for x in held_out],
            color=ORANGE,
            marker="o",
            markersize=3,
            label="held-out digits",
        )
    tested = [x for x in lines if "test_error" in x]
    if tested:
        ax.axhline(tested[-1]["test_error"], color=RED, linewidth=1, linestyle="--", label="test")
    error_axis(ax)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)


def error_axis(ax: Axes) -> None:
    """Epochs, and errors in per cent on a logarithmic scale."""
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "235" else "")
    ax.set_xlabel("epoch")
    ax.set_ylabel("error, %")
    ax.grid(True, which="both", color="#DDDDDD", linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)


def as_array(values: Any) -> np.ndarray:
    """A tensor, or an array of either backend, as NumPy's."""
    return values.numpy() if isinstance(values, Tensor) else to_numpy(values)
