"""Pictures of what several transformers, or one over time, look at: windows over images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..backend import Array
from .drawing import BLUE, GREEN, ORANGE, RED, as_array, draw_image, leave_room


def draw_window(ax: Axes, outline: np.ndarray, colour: str) -> None:
    """A closed outline (points, 2) in pixels; a dot at its first point, the upper left corner."""
    ax.plot(*np.concatenate([outline, outline[:1]]).T, color=colour, linewidth=1.4)
    ax.plot(*outline[0], ".", color=colour, markersize=6)


def addition_result(
    images: Array,
    labels: Array,
    predicted: Array,
    windows: Sequence[Array],
    outputs: Sequence[Array],
    title: str = "",
) -> Figure:
    """Pairs of digits, where the transformers look, and what each makes of both.

    Parameters
    ----------
    images : (N, 2, H, W)
    labels, predicted : (N,)
    windows : (N, points, 2) for each transformer
        The outline of its window in pixels.
    outputs : (N, 2, H', W') for each transformer
    title : str
    """
    images, labels, predicted = map(as_array, (images, labels, predicted))
    colours = (BLUE, ORANGE)
    names = ["(a) digit 1", "    digit 2"]
    rows = [(images[:, i], None) for i in range(2)]
    for k, output in enumerate(map(as_array, outputs)):
        letter = "bc"[k]
        names += [f"({letter}) seen {k + 1}:\ndigit 1", "digit 2"]
        rows += [(output[:, i], colours[k]) for i in range(2)]
    n = len(images)
    figure = Figure(figsize=(1.3 * n + 0.6, 1.35 * len(rows) + 0.5), dpi=120, layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(rows), n, squeeze=False)
    for row, (shown, colour), name in zip(axes, rows, names, strict=True):
        row[0].set_ylabel(name)
        for i, ax in enumerate(row):
            draw_image(ax, shown[i])
            if colour is None:
                for outline, one in zip(windows, colours, strict=False):
                    draw_window(ax, as_array(outline)[i], one)
                if windows:
                    leave_room(ax, images.shape[2:])
            else:
                for spine in ax.spines.values():
                    spine.set_color(colour)
    for ax, guess, label in zip(axes[0], predicted, labels, strict=True):
        right = guess == label
        text = f"sum {guess}" if right else f"{guess}, is {label}"
        ax.set_title(text, color=GREEN if right else RED, fontsize=10)
    return figure


def colocalisation(sets: Sequence[tuple]) -> Figure:
    """What a transformer crops of the images of a set, over its training.

    Parameters
    ----------
    sets : sequence of tuples
        Of each set its title, images (N, 1, H, W), the true boxes (N, 4) as (x, y) of two corners,
        and for each moment its step and the boxes found.
    """
    rows = max(len(moments) for *_, moments in sets)
    columns = max(len(images) for _, images, *_ in sets)
    figure = Figure(
        figsize=(1.15 * columns * len(sets) + 0.6, 1.2 * rows + 0.4), dpi=110, layout="constrained"
    )
    parts = figure.subfigures(1, len(sets), squeeze=False)[0]
    for part, (title, images, boxes, moments) in zip(parts, sets, strict=True):
        part.suptitle(title)
        axes = part.subplots(rows, columns, squeeze=False)
        for row, (step, found) in zip(axes, moments, strict=False):
            row[0].set_ylabel(f"step {step}", fontsize=8)
            for ax, image, true, box in zip(row, as_array(images), boxes, found, strict=True):
                draw_image(ax, image[0])
                draw_window(ax, corners(true), GREEN)
                draw_window(ax, corners(box), ORANGE)
                leave_room(ax, images.shape[2:])
    return figure


def corners(box: np.ndarray) -> np.ndarray:
    """The four corners (4, 2) of a box (4,), clockwise from the upper left."""
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
