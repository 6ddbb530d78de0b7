"""Named arrays in safetensors files, written all or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from .backend import Array, to_numpy


def save_arrays(arrays: Mapping[str, Array], path: str | os.PathLike, notes: Any = None) -> None:
    """Write named arrays and JSON `notes` to a safetensors file, all or nothing.

    The file is written beside its place and renamed once it lies safely on the disk, so that at
    `path` there is always a whole file: the old one or the new.
    """
    path = Path(path)
    arrays = {name: np.asarray(to_numpy(array), order="C") for name, array in arrays.items()}
    metadata = None if notes is None else {"minist": json.dumps(notes)}
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to")
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(scratch, "wb") as file:
            file.write(to_safetensors(arrays, metadata))
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def load_arrays(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays of a safetensors file, and the notes if `save_arrays` wrote any (else None).

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If it is not a whole safetensors file, or holds numbers that NumPy does not know.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return arrays, json.loads(metadata.get("minist", "null"))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from None
    except (AttributeError, TypeError) as error:  # bfloat16 and the like
        raise ValueError(f"{path} holds numbers that NumPy does not know: {error}") from None
