"""Spatial transformers: Section 3 of the paper, a file for each part.

`localisation` (Sect. 3.1) regresses theta, `grid` and `thin_plate` (Sect. 3.2) turn it into
sampling points, `sampler` and `kernels` (Sect. 3.3) read the image there, `transformer`
(Sect. 3.4) is the whole.
"""

from . import kernels
from .grid import (
    Affine,
    Attention,
    Projective,
    Transformation,
    affine_grid,
    projective_grid,
    regular_grid,
    theta_from_pixels,
    theta_to_pixels,
)
from .localisation import LocalisationCNN, LocalisationFC, ThetaRegression
from .sampler import grid_sample
from .thin_plate import ThinPlateSpline, tps_grid
from .transformer import SpatialTransformer, share_outside

__all__ = [
    "Affine",
    "Attention",
    "LocalisationCNN",
    "LocalisationFC",
    "Projective",
    "SpatialTransformer",
    "ThetaRegression",
    "ThinPlateSpline",
    "Transformation",
    "affine_grid",
    "grid_sample",
    "kernels",
    "projective_grid",
    "regular_grid",
    "share_outside",
    "theta_from_pixels",
    "theta_to_pixels",
    "tps_grid",
]
