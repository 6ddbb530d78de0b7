"""The figures of Section 3 in docs/: `python -m minist.experiments.figures docs` draws them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .. import plotting, spatial
from ..datasets import MNIST
from ..spatial import kernels


def gallery() -> Figure:
    """Every transformation, with a theta that shows what it can do (Fig. 3)."""
    image = MNIST(train=False).images[61, 0].astype(np.float32) / 255
    rng = np.random.default_rng(1)
    spline, mesh = spatial.ThinPlateSpline(4, 4), spatial.PiecewiseAffine(4, 4)
    bent = spline.identity() + rng.normal(0, 0.12, spline.num_parameters)
    x, y, one = spatial.regular_grid(image.shape).reshape(3, *image.shape)
    waves = spatial.LinearBasis([x, y, one, np.sin(np.pi * y)])
    turn = spatial.Rotation() @ spatial.Scale()
    return plotting.gallery(
        image,
        [
            (spatial.Translation(), [0.35, 0.2]),
            (spatial.Scale(), [0.9, 0.5]),
            (spatial.Rotation(), [0.6]),
            (spatial.Attention(), [0.6, 0.1, -0.1]),
            (spatial.Similarity(), [0.8, -0.5, 0.1, 0.0]),
            (spatial.Affine(), [0.8, 0.4, 0.0, -0.1, 0.9, 0.1]),
            (spatial.Projective(), [0.9, 0.1, 0.0, 0.1, 0.9, 0.0, 0.25, 0.35]),
            (spline, bent),
            (mesh, bent),
            (waves, [1.0, 0.0, 0.0, 0.35, 0.0, 1.0, 0.0, 0.0]),
            (turn, [0.6, 0.6, 1.0]),
            (spline @ spatial.Attention(), [*bent, 0.7, 0.0, 0.0]),
        ],
    )


def kernel_curves() -> Figure:
    """The kernels that ship."""
    return plotting.kernel_curves(
        [
            kernels.Nearest(),
            kernels.Bilinear(),
            kernels.Bicubic(),
            kernels.Lanczos(3),
            kernels.Gaussian(0.7),
            kernels.BSpline(3),
        ]
    )


def kinks() -> Figure:
    """What the slope is at a pixel and at the border."""
    return plotting.kinks([2, 5, 1, 4, 3])


def zone_plate(size: int = 256) -> np.ndarray:
    """Rings that become ever finer, to half a cycle a pixel at the middle of each side."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (1 + np.cos(np.pi * (x**2 + y**2) / size)) / 2


def aliasing(reduction: int = 4) -> Figure:
    """A zone plate reduced by the identity: what is too fine comes back as false rings."""
    plate = zone_plate()
    grid = spatial.Affine().grid(spatial.Affine().identity()[None], (len(plate) // reduction,) * 2)
    outputs = [
        (name, spatial.grid_sample(plate[None, None], grid, padding_mode="border", **options))
        for name, options in (
            ("bilinear", {}),
            ("antialias", {"antialias": True}),
            ("Lanczos, antialias", {"mode": kernels.Lanczos(3), "antialias": True}),
        )
    ]
    return plotting.reductions(plate, [(name, v.numpy()[0, 0]) for name, v in outputs])


FIGURES = {"gallery": gallery, "kernels": kernel_curves, "kinks": kinks, "aliasing": aliasing}


def main(folder: str) -> None:
    for name, draw in FIGURES.items():
        path = Path(folder) / f"{name}.png"
        draw().savefig(path)
        print(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m minist.experiments.figures FOLDER")
    main(sys.argv[1])
