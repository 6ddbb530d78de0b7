"""Run tutorials and store their outputs: `python tutorials/execute.py [NOTEBOOK ...]`, or all.

Needs what `pip install -e '.[notebooks]'` brings, without ipywidgets, whose sliders cannot be
stored, and runs on the minist of this checkout. Nothing is stored of a notebook that raises or
warns. With the outputs goes a hash of the code that made them, so that a test can tell when someone
has changed one and not run it again.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def hash_of_code(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 of all code cells, in their order."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\n\0".join(code).encode()).hexdigest()


def execute(notebook: nbformat.NotebookNode) -> None:
    """Run a notebook from top to bottom in a kernel of its own, and keep its outputs in it.

    Raises CellExecutionError for an error or a warning in a cell, RuntimeError for other words on
    standard error, or for a slider.
    """
    # A kernel's own shutdown gives a PendingDeprecationWarning.
    os.environ["PYTHONWARNINGS"] = "error,ignore::PendingDeprecationWarning"
    os.environ["PYTHONPATH"] = str(FOLDER.parent)
    for cell in notebook.cells:
        cell.metadata = nbformat.NotebookNode()
    NotebookClient(
        notebook, kernel_name="python3", timeout=600, record_timing=False, coalesce_streams=True
    ).execute(cwd=FOLDER)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"cell {cell.id} wrote to standard error: {output.text}")
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                raise RuntimeError(f"cell {cell.id} shows sliders: pip uninstall ipywidgets")
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
            "minist": {"hash_of_code": hash_of_code(notebook)},
        }
    )


def main(*paths: str) -> None:
    for path in [Path(path) for path in paths] or sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        start = time.perf_counter()
        execute(notebook)
        nbformat.write(notebook, path)
        size = path.stat().st_size / 1000
        print(f"{path.name}: {time.perf_counter() - start:.0f} s, {size:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
