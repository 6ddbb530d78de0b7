"""Pictures of Section 3: transformations, kernels, kinks, aliasing, and maps of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ..autograd import Tensor, no_grad
from ..backend import Array
from ..spatial import Composition, Transformation, grid_sample
from ..spatial.kernels import Kernel
from .drawing import BLUE, GREY, ORANGE, RED, SIGNED, as_array, draw_grid, draw_image, in_pixels


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

    Red is positive, blue negative, white 0; all rows have one scale. A line is drawn at 0.

    Parameters
    ----------
    rows : (K, H', W')
    titles : K str
    columns : int
        Pictures side by side.
    """
    rows = np.stack([as_array(row) for row in rows])
    count = -(-len(rows) // columns)
    columns = min(len(rows), columns)
    figure = Figure(figsize=(1.6 * columns, 1.8 * count), dpi=100, layout="constrained")
    axes = figure.subplots(count, columns, squeeze=False).ravel()
    top = abs(rows).max()
    for ax, row, title in zip(axes, rows, titles, strict=False):
        ax.imshow(row, cmap=SIGNED, vmin=-top, vmax=top)
        if row.min() < 0 < row.max():
            ax.contour(row, levels=[0], colors=GREY, linewidths=0.7)
        ax.set_title(title, fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_color("#BBBBBB")
    for ax in axes[len(rows) :]:
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


def reductions(image: Array, outputs: Sequence[tuple[str, Array]]) -> Figure:
    """An image (H, W) beside smaller versions of it.

    Parameters
    ----------
    image : (H, W)
    outputs : pairs of a name and a picture (H', W')
    """
    figure = Figure(figsize=(2.6 * (len(outputs) + 1), 2.9), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(outputs) + 1)
    for ax, (name, picture) in zip(axes, [("image", image), *outputs], strict=True):
        picture = as_array(picture)
        draw_image(ax, picture)
        ax.set_title(f"{name}, {picture.shape[0]}x{picture.shape[1]}", fontsize=9)
    return figure


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
