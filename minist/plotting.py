"""Pictures: each function returns a Matplotlib figure. Arrays may be NumPy's or CuPy's.

Colours are Okabe and Ito's, which the colour-blind can tell apart; digits are drawn as ink on
paper, so that grids show on top of them, on a screen and in print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from .autograd import Tensor, no_grad
from .backend import Array, to_numpy
from .spatial import Composition, Transformation, grid_sample
from .spatial.grid import pixels_per_unit
from .spatial.kernels import Kernel

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"

# Ways to look at a volume: which of (x, y, z) go to the right, down, and away.
VIEWS = {
    "(a) from the front": (0, 1, 2),
    "(b) from above": (0, 2, 1),
    "(c) from the side": (2, 1, 0),
}


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


@no_grad()
def gallery(
    image: Array,
    cases: Sequence[tuple[Transformation, Sequence[float]]],
    output_size: tuple[int, int] | None = None,
) -> Figure:
    """Transformations of one image side by side, as in Fig. 3: the grid over it, and the output.

    Parameters
    ----------
    image : (H, W) of 0..1
    cases : pairs of a transformation and its theta (num_parameters,)
    output_size : (H', W'), optional
    """
    image = as_array(image)
    columns = min(len(cases), 6)
    blocks = -(-len(cases) // columns)
    figure = Figure(figsize=(1.75 * columns, 3.9 * blocks), dpi=120, layout="constrained")
    axes = figure.subplots(2 * blocks, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for i, (transformation, theta) in enumerate(cases):
        theta = np.asarray(theta, dtype=image.dtype)[None]
        grid = transformation.grid(theta, output_size or image.shape)
        block, column = divmod(i, columns)
        over, below = axes[2 * block : 2 * block + 2, column]
        over.set_title(class_name(transformation), fontsize=9)
        over.set_axis_on()
        draw_image(over, image)
        draw_grid(over, grid.numpy()[0], image.shape)
        points = getattr(transformation, "control_points", None)
        if points is not None:
            seen = to_pixels(theta.reshape(-1, 2), image.shape)
            over.scatter(*seen.T, s=9, color=ORANGE, zorder=3)
        below.set_axis_on()
        draw_image(below, grid_sample(image[None, None], grid).numpy()[0, 0])
    return figure


def class_name(transformation: Transformation) -> str:
    """Without its arguments; a composition is named after its two."""
    if isinstance(transformation, Composition):
        return f"{class_name(transformation.a)} @ {class_name(transformation.b)}"
    return type(transformation).__name__


@no_grad()
def kernel_curves(kernels: Sequence[Kernel]) -> Figure:
    """k(x) and dk/dx of sampling kernels, Eq. (3), side by side."""
    figure = Figure(figsize=(2.2 * len(kernels), 3.4), dpi=120, layout="constrained")
    axes = figure.subplots(2, len(kernels), sharex=True, sharey="row", squeeze=False)
    x = np.linspace(-3.5, 3.5, 1401)
    for kernel, (above, below) in zip(kernels, axes.T, strict=True):
        phi = [p.data.astype(x.dtype) for p in kernel.parameters()]
        above.set_title(repr(kernel).removesuffix("()"), fontsize=9)
        for ax, function, colour in ((above, kernel.k, BLUE), (below, kernel.dk, ORANGE)):
            y = kernel.within(function, x, *phi)
            jump = np.abs(np.diff(y, append=y[-1])) > 0.3  # drawn as two ends, not as a line
            ax.plot(x, np.where(jump, np.nan, y), color=colour, linewidth=1.5)
            ax.axhline(0, color=GREY, linewidth=0.5, zorder=0)
            ax.set_xticks(range(-3, 4))
            ax.grid(True, axis="x", color="#DDDDDD", linewidth=0.5)
            ax.spines[["top", "right"]].set_visible(False)
        below.set_xlabel("x, pixels")
    axes[0, 0].set_ylabel("k(x)")
    axes[1, 0].set_ylabel("dk/dx")
    return figure


def kinks(row: Sequence[float]) -> Figure:
    """Bilinear sampling along a row of pixels and its slope, also exactly at the pixels.

    For each padding: V(x), and dV/dx between the pixels as a line, at the pixels as a dot. The dot
    continues the line to its right; mirrored, the one to its left.
    """
    row = np.asarray(row, dtype=np.float64)
    w = len(row)
    figure = Figure(figsize=(9.6, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey="row")
    # Between two pixels the slope is one number; a gap at each pixel keeps the steps apart.
    between = (np.arange(-2, w + 1)[:, None] + [0.02, 0.98, np.nan]).ravel()
    pixels = np.arange(-2.0, w + 2)
    for padding, (above, below) in zip(("zeros", "border", "reflection"), axes.T, strict=True):
        above.set_title(f'padding_mode="{padding}"', fontsize=9)
        x = np.linspace(-2, w + 1, 40 * (w + 3) + 1)
        above.plot(x, along_row(row, x, padding)[0], color=BLUE, linewidth=1.5)
        above.scatter(np.arange(w), row, color=BLUE, s=22, zorder=3)
        below.plot(between, along_row(row, between, padding)[1], color=ORANGE, linewidth=1.5)
        below.scatter(pixels, along_row(row, pixels, padding)[1], color=RED, s=16, zorder=3)
        for ax in (above, below):
            ax.axvspan(0, w - 1, color="#EEEEEE", zorder=0)
            ax.axhline(0, color=GREY, linewidth=0.5, zorder=0)
            ax.spines[["top", "right"]].set_visible(False)
            ax.set_xticks(range(-2, w + 2))
        below.set_xlabel("x, pixels (the image in grey)")
    axes[0, 0].set_ylabel("V(x)")
    axes[1, 0].set_ylabel("dV/dx; at a pixel, the dot")
    return figure


def along_row(row: np.ndarray, x: np.ndarray, padding_mode: str) -> tuple[np.ndarray, np.ndarray]:
    """V and dV/dx, per pixel, of a row of pixels (W,) at places x in pixels; NaN stays NaN."""
    known = np.isfinite(x)
    half = (len(row) - 1) / 2
    points = np.zeros((1, 1, int(known.sum()), 2))
    points[0, 0, :, 0] = x[known] / half - 1
    grid = Tensor(points, requires_grad=True)
    v = grid_sample(row.reshape(1, 1, 1, -1), grid, padding_mode=padding_mode)
    v.sum().backward()
    values, slopes = np.full((2, len(x)), np.nan)
    values[known], slopes[known] = v.numpy().ravel(), grid.grad[0, 0, :, 0] / half
    return values, slopes


def reductions(image: Array, outputs: Sequence[tuple[str, Array]]) -> Figure:
    """An image (H, W) beside smaller versions of it, each with its name."""
    figure = Figure(figsize=(2.6 * (len(outputs) + 1), 2.9), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(outputs) + 1)
    for ax, (name, picture) in zip(axes, [("image", image), *outputs], strict=True):
        picture = as_array(picture)
        draw_image(ax, picture)
        ax.set_title(f"{name}, {picture.shape[0]}x{picture.shape[1]}", fontsize=9)
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


def to_pixels(points: np.ndarray, size: tuple[int, int], align_corners: bool = True) -> np.ndarray:
    """Normalised (x, y) in the last axis as pixels of an image of `size`."""
    h, w = size
    scale = [pixels_per_unit(n, align_corners) for n in (w, h)]
    return points * scale + [(w - 1) / 2, (h - 1) / 2]


def draw_grid(
    ax: Axes,
    grid: np.ndarray,
    size: tuple[int, int],
    lines: int = 8,
    align_corners: bool = True,
) -> None:
    """A sampling grid (H', W', 2) over an image of `size`: T_theta(G) of Fig. 3.

    The upper edge of the output is drawn thick in orange, so that one sees which way is up.
    """
    h, w = size
    points = to_pixels(grid, size, align_corners)
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
    points = ((corners + 1) / 2 * (np.array(size[::-1]) - 1))[..., list(view)]
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
