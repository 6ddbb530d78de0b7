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
