"""What pictures are made of: colours, images, grids over them, learning curves.

Colours are Okabe and Ito's, which the colour-blind can tell apart; digits are drawn as ink on
paper, so that grids show on top of them, on a screen and in print.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap

from ..autograd import Tensor
from ..backend import to_numpy
from ..spatial.grid import to_pixels

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "white", RED], N=257)  # odd: 0 is white

# Ways to look at a volume: which of (x, y, z) go to the right, down, and away.
VIEWS = {
    "(a) from the front": (0, 1, 2),
    "(b) from above": (0, 2, 1),
    "(c) from the side": (2, 1, 0),
}


def verdict(predicted: int, label: int) -> dict[str, Any]:
    """A digit's title: what it was taken for, and what it is."""
    right = predicted == label
    text = f"{predicted}" if right else f"{predicted}, is {label}"
    return {"label": text, "color": GREEN if right else RED, "fontsize": 10}


def scaled(image: np.ndarray) -> np.ndarray:
    """An image whose brightest pixel is 1."""
    return image / max(image.max(), 1e-6)


def draw_image(ax: Axes, image: np.ndarray) -> None:
    """An image (H, W) of 0..1 as ink on paper; pixel centres at whole numbers."""
    ax.imshow(image, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color("#BBBBBB")


def in_pixels(points: np.ndarray, size: Sequence[int], align_corners: bool = True) -> np.ndarray:
    """Normalised (x, y) or (x, y, z) in the last axis as pixels of an image or volume of `size`."""
    along = [to_pixels(points[..., i], n, align_corners) for i, n in enumerate(reversed(size))]
    return np.stack(along, axis=-1)


def draw_grid(
    ax: Axes,
    grid: np.ndarray,
    size: tuple[int, int],
    lines: int = 8,
    align_corners: bool = True,
) -> None:
    """A sampling grid (H', W', 2) over an image of `size`: T_theta(G) of Fig. 3.

    The upper edge of the output is drawn thick in orange, so that one sees which way is up.

    Parameters
    ----------
    ax : Axes
        With the image drawn on it.
    grid : (H', W', 2)
    size : (H, W)
    lines : int
        Drawn of the grid in each direction.
    align_corners : bool
        Whether -1 and 1 are the centres of the border pixels, or their outer edges.
    """
    h, w = size
    points = in_pixels(grid, size, align_corners)
    rows = points[np.linspace(0, len(points) - 1, lines).round().astype(int)]
    columns = points[:, np.linspace(0, points.shape[1] - 1, lines).round().astype(int)]
    curves = [*rows[1:], *columns.transpose(1, 0, 2)]
    ax.add_collection(LineCollection(curves, colors=BLUE, linewidths=0.7, alpha=0.9))
    ax.add_collection(LineCollection([rows[0]], colors=ORANGE, linewidths=2))
    leave_room(ax, size)


def draw_box(ax: Axes, grid: np.ndarray, size: tuple[int, int, int], view: tuple[int, int]) -> None:
    """The edges of the box that a grid (D', H', W', 3) spans in a volume of `size`.

    `view` says which of (x, y, z) go to the right and down. The front face, the output's first
    slice, is drawn thick, and its upper edge orange.
    """
    corners = grid[np.ix_((0, -1), (0, -1), (0, -1))]  # z, y, x; (x, y, z)
    points = in_pixels(corners, size)[..., list(view)]
    rest, front, top = [], [], []
    for axis in range(3):
        for a, b in product((0, 1), (0, 1)):
            start, end = ([a, b] for _ in range(2))
            start.insert(axis, 0)
            end.insert(axis, 1)
            edge = [points[tuple(start)], points[tuple(end)]]
            kind = rest if end[0] == 1 else top if end[1] == 0 else front
            kind.append(edge)
    for edges, colour, width in ((rest, BLUE, 0.6), (front, BLUE, 1.4), (top, ORANGE, 2)):
        ax.add_collection(LineCollection(edges, colors=colour, linewidths=width))
    right, down = view
    leave_room(ax, (size[2 - down], size[2 - right]))


def leave_room(ax: Axes, size: Sequence[int]) -> None:
    """Room for grids that reach beyond an image (H, W), the same for every digit."""
    h, w = size
    margin = 0.25
    ax.set_xlim(-margin * w, (1 + margin) * w - 1)
    ax.set_ylim((1 + margin) * h - 1, -margin * h)


def draw_curve(ax: Axes, lines: Sequence[dict[str, Any]]) -> None:
    """Error in per cent against epochs, on a logarithmic scale.

    Parameters
    ----------
    ax : Axes
        To draw on.
    lines : sequence of dict
        The lines of a run's metrics.jsonl.
    """
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
    """`values`, a tensor or an array of either backend, as an array of NumPy's."""
    return values.numpy() if isinstance(values, Tensor) else to_numpy(values)
