"""Pictures: each function returns a Matplotlib figure. Arrays may be NumPy's or CuPy's.

Colours are Okabe and Ito's, which the colour-blind can tell apart; digits are drawn as ink on
paper, so that grids show on top of them, on a screen and in print.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image  # comes with Matplotlib

from .autograd import Tensor, no_grad
from .backend import Array, to_numpy
from .spatial import Composition, Transformation, grid_sample
from .spatial.grid import pixels_per_unit
from .spatial.kernels import Kernel

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


@no_grad()
def gallery(
    image: Array,
    cases: Sequence[tuple[Transformation, Sequence[float]]],
    output_size: tuple[int, int] | None = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Transformations of one image side by side, as in Fig. 3: the grid over it, and the output.

    Parameters
    ----------
    image : (H, W) of 0..1
    cases : pairs of a transformation and its theta (num_parameters,)
    output_size : (H', W'), optional
    titles : str for each case, optional
        The transformations' names by default.
    """
    image = as_array(image)
    columns = min(len(cases), 6)
    blocks = -(-len(cases) // columns)
    height = 0.4 + 3.5 * image.shape[0] / image.shape[1]
    figure = Figure(figsize=(1.75 * columns, height * blocks), dpi=120, layout="constrained")
    axes = figure.subplots(2 * blocks, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for i, (transformation, theta) in enumerate(cases):
        theta = np.asarray(theta, dtype=image.dtype)[None]
        grid = transformation.grid(theta, output_size or image.shape)
        block, column = divmod(i, columns)
        over, below = axes[2 * block : 2 * block + 2, column]
        over.set_title(titles[i] if titles else class_name(transformation), fontsize=9)
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


def basis(rows: Array, titles: Sequence[str], columns: int = 6) -> Figure:
    """Rows of B, T = M(theta) B: how much each point of the output follows a column of M.

    Blue is positive, orange negative, white 0; all rows have one scale. A line is drawn at 0.

    Parameters
    ----------
    rows : (K, H', W')
    titles : K str
    """
    rows = np.stack([as_array(row) for row in rows])
    count = -(-len(rows) // columns)
    columns = min(len(rows), columns)
    figure = Figure(figsize=(1.6 * columns, 1.8 * count), dpi=100, layout="constrained")
    axes = figure.subplots(count, columns, squeeze=False).ravel()
    top = abs(rows).max()
    colours = LinearSegmentedColormap.from_list("signed", [ORANGE, "white", BLUE])
    for ax, row, title in zip(axes, rows, titles, strict=False):
        ax.imshow(row, cmap=colours, vmin=-top, vmax=top)
        if row.min() < 0 < row.max():
            ax.contour(row, levels=[0], colors=GREY, linewidths=0.7)
        ax.set_title(title, fontsize=9)
    for ax in axes:
        ax.set_axis_off()
    return figure


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


def basins(
    shifts: Sequence[float],
    losses: Mapping[str, Sequence[float]],
    paths: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> Figure:
    """Loss against how far an image is from its place, a panel for each kernel.

    Parameters
    ----------
    shifts : (S,)
        In pixels.
    losses : (S,) for each name
        Drawn divided by their highest.
    paths : for the same names, places and losses that a descent went through
        Dots, the last one orange.
    """
    n = len(losses)
    figure = Figure(figsize=(2.6 * n, 2.5), dpi=100, layout="constrained")
    axes = figure.subplots(1, n, sharey=True, squeeze=False)[0]
    for ax, (name, curve) in zip(axes, losses.items(), strict=True):
        top = np.max(curve)
        ax.plot(shifts, np.asarray(curve) / top, color=BLUE, linewidth=1.5)
        x, y = (np.asarray(values) for values in paths[name])
        ax.scatter(x, y / top, color=GREY, s=8, zorder=3)
        ax.scatter(x[-1:], y[-1:] / top, color=ORANGE, s=45, zorder=4)
        ax.set_title(name, fontsize=9)
        ax.set_xlabel("shift, pixels")
        ax.axvline(0, color="#DDDDDD", linewidth=0.8, zorder=0)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("loss / highest")
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


def reductions(image: Array, outputs: Sequence[tuple[str, Array]]) -> Figure:
    """An image (H, W) beside smaller versions of it, each with its name."""
    figure = Figure(figsize=(2.6 * (len(outputs) + 1), 2.9), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(outputs) + 1)
    for ax, (name, picture) in zip(axes, [("image", image), *outputs], strict=True):
        picture = as_array(picture)
        draw_image(ax, picture)
        ax.set_title(f"{name}, {picture.shape[0]}x{picture.shape[1]}", fontsize=9)
    return figure


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
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "235" else "")
    ax.set_xlabel("epoch")
    ax.set_ylabel("error, %")
    ax.grid(True, which="both", color="#DDDDDD", linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)


def as_array(values: Any) -> np.ndarray:
    """A tensor, or an array of either backend, as NumPy's."""
    return values.numpy() if isinstance(values, Tensor) else to_numpy(values)
