"""Spatial transformers: Section 3 of the paper, a file for each part.

`localisation` (Sect. 3.1) regresses theta; `grid`, with `homogeneous`, `thin_plate` and
`piecewise` (Sect. 3.2), turns it into sampling points; `sampler`, with `bilinear`, `separable` and
`kernels` (Sect. 3.3), reads the image there; `transformer` (Sect. 3.4) is the whole.
"""

from . import kernels
from .grid import Composition, LinearBasis, Transformation, regular_grid
from .homogeneous import (
    Affine,
    Attention,
    Projective,
    Rotation,
    Scale,
    Similarity,
    Translation,
    affine_grid,
    projective_grid,
)
from .localisation import LocalisationCNN, LocalisationFC, ThetaRegression
from .piecewise import PiecewiseAffine
from .pixels import theta_from_pixels, theta_to_pixels
from .projection import project
from .sampler import grid_sample
from .thin_plate import ThinPlateSpline, tps_grid
from .transformer import (
    ParallelTransformers,
    SpatialTransformer,
    identity_penalty,
    outside_penalty,
    share_outside,
)

__all__ = [
    "Affine",
    "Attention",
    "Composition",
    "LinearBasis",
    "LocalisationCNN",
    "LocalisationFC",
    "ParallelTransformers",
    "PiecewiseAffine",
    "Projective",
    "Rotation",
    "Scale",
    "Similarity",
    "SpatialTransformer",
    "ThetaRegression",
    "ThinPlateSpline",
    "Transformation",
    "Translation",
    "affine_grid",
    "grid_sample",
    "identity_penalty",
    "kernels",
    "outside_penalty",
    "project",
    "projective_grid",
    "regular_grid",
    "share_outside",
    "theta_from_pixels",
    "theta_to_pixels",
    "tps_grid",
]
