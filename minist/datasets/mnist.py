"""MNIST, which comes with the package, or a data set of one's own in the same format."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .idx import read_idx

PACKAGED = Path(__file__).parent / "mnist"
_SHA256 = {
    "train-images-idx3-ubyte": "0b367032e93c5d0cea0925647cfdb18614af8ee15f83e6f2fc2ad904a6835971",
    "train-labels-idx1-ubyte": "1787548bbe0bff1ec2ecdc0ef292b02df999e2d1a6002d27500982c652b17203",
    "t10k-images-idx3-ubyte": "1a1a05eab793c14bb050b398624a11b0ffd1a2953baed553b1b9bd079e2a20be",
    "t10k-labels-idx1-ubyte": "b91679a0acfe4ba0e50a2437a903084cba1f5f92592b016a25a7dfd00455798b",
}


class MNIST:
    """Handwritten digits: 60,000 images of 28x28 pixels to train on, or 10,000 to test on.

    Parameters
    ----------
    train : bool
        The training images, or else the test images.
    root : str or path-like, optional
        A folder with other IDX files under the names of the originals (Fashion-MNIST, for
        example): ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``,
        ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``, gzipped (then with ``.gz``
        behind the name) or not. Images may have any height and width. Without it, the folder that
        the environment variable ``MINIST_DATA`` names; without that, the MNIST of the package,
        whose files are checked against their SHA-256.

    Attributes
    ----------
    images : numpy.ndarray
        (N, 1, H, W), uint8: 0 is the background, 255 full ink.
    labels : numpy.ndarray
        (N,), int64: the digit on each image.

    Raises
    ------
    FileNotFoundError
        If a file is missing from the folder.
    ValueError
        If a file is damaged or of another kind, or there are not as many labels as images.
    TypeError
        If train is not a bool: a folder, as PyTorch's MNIST has it first, or "test".

    Examples
    --------
    >>> test = MNIST(train=False)
    >>> len(test), test.images.shape, test.labels[:5].tolist()
    (10000, (10000, 1, 28, 28), [7, 2, 1, 0, 4])
    """

    images: np.ndarray
    labels: np.ndarray

    def __init__(self, train: bool = True, root: str | os.PathLike[str] | None = None) -> None:
        if not isinstance(train, bool | np.bool_):  # a string would count as True
            raise TypeError(
                f"MNIST: train must be True or False, not {train!r}; "
                "a folder is given as in MNIST(root=folder, train=False)"
            )
        root = Path(root or os.environ.get("MINIST_DATA") or PACKAGED)
        part = "train" if train else "t10k"
        images = _read(f"{part}-images-idx3-ubyte", ("N", "H", "W"), root)
        labels = _read(f"{part}-labels-idx1-ubyte", ("N",), root)
        if len(images) != len(labels):
            raise ValueError(
                f"{root}: expected a label for each image, "
                f"found {len(images)} images and {len(labels)} labels in the {part} files"
            )
        self.images = images[:, np.newaxis]
        self.labels = labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self.labels)


def _read(name: str, axes: tuple[str, ...], root: Path) -> np.ndarray:
    path = _find(name, root)
    array = read_idx(path, sha256=_SHA256[name] if root == PACKAGED else None)
    if array.ndim != len(axes):
        raise ValueError(f"{path}: expected shape ({', '.join(axes)}), found {array.shape}")
    return array


def _find(name: str, folder: Path) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{folder}: found neither {name} nor {name}.gz; root (or MINIST_DATA) must name the "
        "folder of the data set's IDX files"
    )
