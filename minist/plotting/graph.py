"""The picture of a computation graph, with Graphviz where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from ..autograd import Function, Tensor
from .drawing import BLUE, GREY, ORANGE


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
