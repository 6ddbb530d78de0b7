"""The IDX format of the MNIST files: a header that gives type and shape, then the elements.

    bytes 0, 1       zero
    byte 2           the element type: 0x08, unsigned bytes, in MNIST and all that copy its format
    byte 3           d, the number of dimensions
    bytes 4 to 4+4d  their lengths, as 32-bit integers, most significant byte first
    the rest         the elements, the last dimension fastest

Described at http://yann.lecun.com/exdb/mnist/, the page of MNIST.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08


def read_idx(path: str | os.PathLike[str], sha256: str | None = None) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzipped or not (its content tells, not its name).

    Parameters
    ----------
    path : str or path-like
        The file.
    sha256 : str, optional
        The SHA-256 that the file must have, in hexadecimal.

    Returns
    -------
    numpy.ndarray
        Of dtype uint8 and the shape that the header gives.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not the one with this SHA-256, a damaged gzip file, not an IDX file, not of
        unsigned bytes, or shorter or longer than its header says. The message names the file.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; expected an IDX file here") from None
    try:
        if sha256 is not None:
            _check_sha256(data, sha256)
        return _decode(_decompress(data))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _check_sha256(data: bytes, expected: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ValueError(f"damaged or changed: expected SHA-256 {expected}, found {found}")


def _decompress(data: bytes) -> bytes:
    if not data.startswith(_GZIP_MAGIC):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"damaged gzip file of {len(data)} bytes: {error}") from None


def _decode(data: bytes) -> np.ndarray:
    if len(data) < 4 or data[:2] != b"\0\0":
        raise ValueError(
            "not an IDX file: expected two zero bytes, a type and a number of dimensions, "
            f"found {data[:4].hex(' ') or 'nothing'}"
        )
    element_type, ndim = data[2:4]
    if element_type != _UNSIGNED_BYTE:
        raise ValueError(
            f"expected unsigned bytes, type {_UNSIGNED_BYTE:#04x}, found type {element_type:#04x}"
        )
    start = 4 + 4 * ndim
    if len(data) < start:
        raise ValueError(f"expected a header of {start} bytes, found {len(data)}")
    shape = struct.unpack(f">{ndim}I", data[4:start])
    expected = start + math.prod(shape)
    if len(data) != expected:
        raise ValueError(f"expected {expected} bytes for shape {shape}, found {len(data)}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()  # a writable array
