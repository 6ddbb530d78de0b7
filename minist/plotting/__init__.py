"""Pictures: each function returns a Matplotlib figure. Arrays may be NumPy's or CuPy's."""

from .drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SIGNED,
    as_array,
    draw_curve,
    draw_grid,
    draw_image,
)
from .graph import graph
from .runs import (
    Case,
    animation,
    cases,
    contact_sheet,
    curves,
    film,
    recovered,
    result,
    table1_curves,
    theta_curves,
    volume_result,
)
from .section3 import basins, basis, feature_maps, gallery, kernel_curves, kinks, reductions
from .windows import addition_result

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "RED",
    "SIGNED",
    "Case",
    "addition_result",
    "animation",
    "as_array",
    "basins",
    "basis",
    "cases",
    "contact_sheet",
    "curves",
    "draw_curve",
    "draw_grid",
    "draw_image",
    "feature_maps",
    "film",
    "gallery",
    "graph",
    "kernel_curves",
    "kinks",
    "recovered",
    "reductions",
    "result",
    "table1_curves",
    "theta_curves",
    "volume_result",
]
