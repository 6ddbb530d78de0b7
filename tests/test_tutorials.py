"""The stored tutorials: whole, clean, as their code left them. (`.ci/run` runs them afresh.)"""

import ast
import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

nbformat = pytest.importorskip("nbformat", reason="reading notebooks needs nbformat")
pytest.importorskip("nbclient", reason="running notebooks needs nbclient")

FOLDER = Path(__file__).parents[1] / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
EXECUTE = runpy.run_path(str(FOLDER / "execute.py"))

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """What a cell put out, apart from pictures."""
    for output in cell.outputs:
        yield output.get("text", "")
        for kind, data in output.get("data", {}).items():
            if not kind.startswith("image/"):
                yield data if isinstance(data, str) else json.dumps(data)


def draws(cell):
    return any("image/png" in output.get("data", {}) for output in cell.outputs)


def calls(source, called):
    """Whether a cell, outside the functions and classes that it defines, calls such a name."""
    statements = ast.parse(re.sub(r"^%.*$", "", source, flags=re.MULTILINE)).body
    waiting = [s for s in statements if not isinstance(s, ast.FunctionDef | ast.ClassDef)]
    return any(
        isinstance(node, ast.Call) and re.fullmatch(called, ast.unparse(node.func))
        for statement in waiting
        for node in ast.walk(statement)
    )


def test_a_call_counts_where_it_happens():
    assert calls("if x:\n    print(1)", "print")
    assert not calls("%matplotlib inline\ndef f():\n    print(1)", "print")
    assert calls("plotting.graph(y)", r"plotting\.\w+")


@every_notebook
def test_the_outputs_are_of_the_code_as_it_stands(path):
    notebook = read(path)
    assert notebook.metadata.minist.hash_of_code == EXECUTE["hash_of_code"](notebook), (
        f"its code has changed since it was run: python tutorials/execute.py {path.name}"
    )
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_changed_code_has_another_hash():
    notebook = read(NOTEBOOKS[0])
    before = EXECUTE["hash_of_code"](notebook)
    code_cells(notebook)[-1].source += " "
    assert EXECUTE["hash_of_code"](notebook) != before


@every_notebook
def test_whatever_prints_or_draws_has_its_output_stored(path):
    for cell in code_cells(read(path)):
        if calls(cell.source, "print|verdict"):
            assert any(texts(cell)), cell.source
        last = ast.parse(re.sub(r"^%.*$", "", cell.source, flags=re.MULTILINE)).body[-1:]
        if last and isinstance(last[0], ast.Expr) and calls(ast.unparse(last[0]), r"plotting\.\w+"):
            assert draws(cell), cell.source


@every_notebook
def test_no_cell_failed_or_warned(path):
    outputs = [output for cell in code_cells(read(path)) for output in cell.outputs]
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []


@every_notebook
def test_a_picture_comes_within_the_first_screen(path):
    cells = read(path).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert any(draws(cell) for cell in code_cells(read(path))[:3])


@every_notebook
def test_it_is_small(path):
    assert path.stat().st_size < 1_000_000


@every_notebook
def test_it_tells_nothing_of_the_machine_that_ran_it(path):
    notebook = read(path)
    shown = [cell.source for cell in notebook.cells]
    shown += [text for cell in code_cells(notebook) for text in texts(cell)]
    local = re.compile(r"/(home|root|Users|tmp|work|usr|opt)/|site-packages|[A-Z]:\\|0x[0-9a-f]{6}")
    assert [text for text in shown if local.search(text)] == []
    assert set(notebook.metadata) == {"kernelspec", "language_info", "minist"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(not cell.metadata for cell in notebook.cells)


@every_notebook
def test_it_is_valid(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


@every_notebook
def test_it_is_listed(path):
    assert f"({path.name})" in (FOLDER / "README.md").read_text(encoding="utf-8")


@every_notebook
def test_every_link_leads_somewhere(path):
    markdown = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", "\n".join(markdown))
    assert [link for link in links if not (FOLDER / link).exists()] == []


def test_sliders_come_with_a_picture_that_follows(monkeypatch):
    """ipywidgets.interactive shows nothing of what its function returns."""
    pytest.importorskip("ipywidgets", reason="needs pip install -e '.[notebooks]'")
    cells = code_cells(read(FOLDER / "04_sampling_grids.ipynb"))
    (code,) = (cell.source for cell in cells if "def move" in cell.source)
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    names = {"plotting": SimpleNamespace(gallery=lambda image, cases: cases), "digit": None}
    exec(code, names)
    slider, _ = names["move"](lambda t: t, t=(0, 1, 2)).children
    slider.value = 1.5
    assert shown[-1] == [1.5]


GAP = "# yours"


def with_solutions(notebook):
    """The notebook with each gap filled by the solution folded below it; how many there were."""
    gap, filled = None, 0
    for cell in notebook.cells:
        if cell.cell_type == "code" and GAP in cell.source:
            assert gap is None, f"no solution to {gap.source}"
            gap = cell
        solution = re.search(
            r"<details>.*?```python\n(.*?)```.*?</details>", cell.source, re.DOTALL
        )
        if solution:
            gap.source, gap, filled = solution[1], None, filled + 1
    assert gap is None, "the last exercise has no solution"
    return filled


@every_notebook
def test_it_ends_with_exercises_that_are_still_open_and_have_solutions(path):
    notebook = read(path)
    gaps = [cell for cell in code_cells(notebook) if GAP in cell.source]
    open_ = [cell for cell in code_cells(notebook) if "not yet" in "".join(texts(cell))]
    assert 3 <= len(gaps) <= 5
    assert len(open_) == len(gaps)
    assert with_solutions(notebook) == len(gaps)


@pytest.mark.slow
@every_notebook
def test_the_solutions_are_right(path, monkeypatch):
    monkeypatch.setenv("MINIST_QUICK", "1")
    notebook = read(path)
    filled = with_solutions(notebook)
    EXECUTE["execute"](notebook)
    verdicts = [text.split()[0] for cell in code_cells(notebook) for text in texts(cell) if text]
    assert verdicts.count("right") == filled
    assert "not" not in verdicts
