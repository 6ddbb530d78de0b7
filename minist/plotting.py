"""Pictures: each function returns a Matplotlib figure. Arrays may be NumPy's or CuPy's.

Colours are Okabe and Ito's, which the colour-blind can tell apart; digits are drawn as ink on
paper, so that grids show on top of them, on a screen and in print.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from PIL import Image  # comes with Matplotlib

from .autograd import Function, Tensor, no_grad
from .backend import Array, to_numpy
from .spatial import Composition, Transformation, grid_sample
from .spatial.grid import to_pixels
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
            seen = in_pixels(theta.reshape(-1, 2), image.shape)
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
    continues the line to its right; mirrored, the one to its left; under "border" it is 0 at the
    border pixel.
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


def settling(images: Array, frames: Sequence[Frame], seconds: float = 8.0) -> FuncAnimation:
    """Grids over images (N, 1, H, W), and outputs below them, frame after frame.

    `settling(...).save("settling.gif", writer="pillow")` writes it.
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


def table1_curves(by_distortion: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
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


def graph(output: Tensor, names: Mapping[str, Tensor] | None = None) -> Figure:
    """The graph that `output.backward()` will walk: leaves in blue, operations, output in orange.

    Arrows lead from inputs to operations, and from one to the next with the shape of what is
    handed on, unless it is a single number. Inputs that need no gradient are not in the graph.
    Graphviz places the boxes where its `dot` is installed.

    Parameters
    ----------
    output : Tensor
    names : mapping of name to tensor, optional
        Leaves or results that are to be called by name, such as
        `{"x": x, **dict(model.named_parameters())}`. What is known of them is shown, too: value and
        `grad` of a single number, else the shape.

    Raises
    ------
    ValueError
        If the output has no graph, or backward has freed it.
    """
    root = output.grad_fn
    if root is None or root.edges is None:
        raise ValueError(
            "graph: there is none: the tensor was made without requires_grad, or backward() has "
            "freed it; draw before, or call backward(retain_graph=True)"
        )
    known = {x.grad_fn or x: (name, x) for name, x in (names or {}).items()}
    nodes, edges = walk(root)
    texts = [node_text(node, *known.get(node, ("", node))) for node in nodes]
    sizes = [(0.075 * max(map(len, lines)) + 0.2, 0.16 * len(lines) + 0.14) for lines in texts]
    pairs = [(tail, head) for tail, head, _ in edges]
    centres, ways = (dot_layout if shutil.which("dot") else layered_layout)(sizes, pairs)

    low = np.min(centres - np.array(sizes) / 2, axis=0) - 0.1
    high = np.max(centres + np.array(sizes) / 2, axis=0) + 0.1
    for way in ways:
        low, high = np.minimum(low, way.min(axis=0) - 0.1), np.maximum(high, way.max(axis=0) + 0.1)
    width, height = high - low
    figure = Figure(figsize=(width, height), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(low[1], high[1])
    for (tail, _, shape), way in zip(edges, ways, strict=True):
        path = Path(way, [Path.MOVETO, *[Path.CURVE4] * (len(way) - 1)])
        style = {"arrowstyle": "-|>", "mutation_scale": 8, "color": GREY, "linewidth": 0.9}
        ax.add_patch(FancyArrowPatch(path=path, shrinkA=0, shrinkB=0, **style))
        if shape and not isinstance(nodes[tail], Tensor):
            first = 3 * (len(way) // 6)
            middle = np.array([1, 3, 3, 1]) / 8 @ way[first : first + 4]
            size = "x".join(map(str, shape))
            ax.text(middle[0], middle[1] + 0.04, size, ha="center", fontsize=7, color=GREY)
    for i, (node, lines) in enumerate(zip(nodes, texts, strict=True)):
        colour = ORANGE if node is root else BLUE if isinstance(node, Tensor) else GREY
        corner = centres[i] - np.array(sizes[i]) / 2
        style = {"boxstyle": "round,pad=0,rounding_size=0.06", "facecolor": "white"}
        ax.add_patch(FancyBboxPatch(corner, *sizes[i], edgecolor=colour, linewidth=1.4, **style))
        ax.text(*centres[i], "\n".join(lines), ha="center", va="center", fontsize=8)
    return figure


Edges = list[tuple[int, int, tuple[int, ...]]]


def walk(root: Function) -> tuple[list[Function | Tensor], Edges]:
    """Nodes and leaves behind `root`, each after all that use it; edges as (from, to, shape)."""
    uses: Counter = Counter()
    stack = [root]
    while stack:
        node = stack.pop()
        for edge in filter(None, getattr(node, "edges", None) or ()):
            uses[edge.source] += 1
            if uses[edge.source] == 1:
                stack.append(edge.source)
    nodes: list[Function | Tensor] = [root]
    number = {root: 0}
    edges = []
    for node in nodes:  # grows meanwhile
        for edge in filter(None, getattr(node, "edges", None) or ()):
            edges.append((edge.source, number[node], edge.shape))
            uses[edge.source] -= 1
            if uses[edge.source] == 0:
                number[edge.source] = len(nodes)
                nodes.append(edge.source)
    return nodes, [(number[source], head, shape) for source, head, shape in edges]


def node_text(node: Function | Tensor, name: str, x: Function | Tensor) -> list[str]:
    """What stands in a box: operation or leaf, its name, what is known of its numbers."""
    lines = [] if isinstance(node, Tensor) else [type(node).__name__]
    if not isinstance(x, Tensor):
        return lines
    if x.size == 1:
        lines.append(f"{name} = {x.item():.4g}" if name else f"{x.item():.4g}")
        if x.grad is not None:
            lines.append(f"grad {x.grad.item():.4g}")
    else:
        lines += [name] if name else []
        lines += [] if lines and not isinstance(node, Tensor) else ["x".join(map(str, x.shape))]
    return lines


def dot_layout(
    sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Where Graphviz puts boxes and arrows: their centres (n, 2), and Bezier curves."""
    boxes = [f"{i} [width={w:.3f} height={h:.3f}]" for i, (w, h) in enumerate(sizes)]
    arrows = [f"{tail} -> {head}" for tail, head in edges]
    program = "; ".join(["rankdir=LR; ranksep=0.5; nodesep=0.15", *boxes, *arrows])
    drawn = subprocess.run(
        ["dot", "-Tplain"],
        input=f"digraph {{ node [shape=box fixedsize=true]; edge [arrowhead=none]; {program} }}",
        capture_output=True,
        text=True,
        check=True,
    )
    centres = np.zeros((len(sizes), 2))
    ways: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)
    for line in drawn.stdout.splitlines():
        kind, *fields = line.split()
        if kind == "node":
            centres[int(fields[0])] = fields[1:3]
        elif kind == "edge":
            tail, head, count = map(int, fields[:3])
            way = np.array(fields[3 : 3 + 2 * count], dtype=float).reshape(count, 2)
            ways[tail, head].append(way)
    return centres, [ways[edge].pop() for edge in edges]


def layered_layout(
    sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The same where there is no Graphviz: in columns, as far from the output as steps lead there.

    `edges` come in the order in which `walk` found them. An edge over several columns has an
    unseen place in each, and every place stands about level with what it is connected to.
    """
    column = [0] * len(sizes)
    for tail, head in edges:
        column[tail] = max(column[tail], column[head] + 1)
    places = list(column)
    chains = []
    for tail, head in edges:
        between = list(range(column[tail] - 1, column[head], -1))
        chains.append([tail, *range(len(places), len(places) + len(between)), head])
        places += between
    near = defaultdict(list)
    for chain in chains:
        for a, b in pairwise(chain):
            near[a].append(b)
            near[b].append(a)
    height = np.zeros(len(places))
    members = [[i for i, c in enumerate(places) if c == k] for k in range(max(places) + 1)]
    for _ in range(8):
        for group in members:
            group.sort(key=lambda i: np.mean(height[near[i]]) if near[i] else 0.0)
            height[group] = (np.arange(len(group)) - (len(group) - 1) / 2) * 0.62
    widths = [max([sizes[i][0] for i in g if i < len(sizes)], default=0.0) for g in members]
    right = -np.cumsum([0.0] + [w + 0.5 for w in widths[:-1]])
    x = right - np.array(widths) / 2
    places_xy = np.stack([x[places], -height], axis=1)
    ways = []
    for chain in chains:
        stops = places_xy[chain].copy()
        stops[0, 0] += sizes[chain[0]][0] / 2
        stops[-1, 0] -= sizes[chain[-1]][0] / 2
        into = [i for i, other in enumerate(chains) if other[-1] == chain[-1]]
        stops[-1, 1] -= 0.12 * (into.index(len(ways)) - (len(into) - 1) / 2)  # inputs in order
        way = [stops[0]]
        for a, b in pairwise(stops):
            middle = (a[0] + b[0]) / 2
            way += [(middle, a[1]), (middle, b[1]), b]
        ways.append(np.array(way))
    return places_xy[: len(sizes)], ways


SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "white", RED], N=257)  # odd: 0 is white


def feature_maps(maps: Array, names: Sequence[str] = (), columns: int = 8) -> Figure:
    """Filters or feature maps side by side on one scale: blue below zero, white, red above.

    Parameters
    ----------
    maps : (K, H, W)
        Such as one image of a layer's output, or `conv.weight.data[:, 0]`.
    names : K of str, optional
    columns : int
        Maps in a row.

    Raises ValueError for another number of axes or of names.
    """
    maps = as_array(maps)
    if maps.ndim != 3 or len(names) not in (0, len(maps)):
        raise ValueError(
            f"feature_maps: expected maps (K, H, W) and as many names, got {maps.shape} and "
            f"{len(names)}; of a batch or of many channels choose one: y[0], weight[:, 0]"
        )
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    size = (1.1 * columns + 0.7, (1.15 if not names else 1.4) * rows)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    largest = float(np.nanmax(abs(maps), initial=0.0)) or 1.0
    for ax in axes.flat[len(maps) :]:
        ax.set_axis_off()
    for i, (ax, picture) in enumerate(zip(axes.flat, maps, strict=False)):
        shown = ax.imshow(
            picture, cmap=SIGNED, vmin=-largest, vmax=largest, interpolation="nearest"
        )
        ax.set_xticks([])
        ax.set_yticks([])
        if names:
            ax.set_title(names[i], fontsize=9)
        for spine in ax.spines.values():
            spine.set_color("#BBBBBB")
    figure.colorbar(shown, ax=axes, fraction=0.05, pad=0.02)
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
    looks = dict(zip(names, product(("-", "--", ":"), (BLUE, ORANGE, GREEN, RED)), strict=False))
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


def in_pixels(points: np.ndarray, size: tuple[int, int], align_corners: bool = True) -> np.ndarray:
    """Normalised (x, y) in the last axis as pixels of an image of `size`."""
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
