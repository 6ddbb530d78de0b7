"""The code in README and docs runs as it stands, commands are real, and links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from minist import cli, datasets

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted(
        page
        for page in DOCS.rglob("*.md")
        if not {DOCS / "_build", DOCS / "tutorials"} & set(page.parents)  # made by the build
    ),
    ROOT / "tutorials/README.md",
]


def name(page):
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=name)


def blocks(page, kind):
    """The fenced blocks of a page in a language."""
    return re.findall(rf"```{kind}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_python_examples_run(monkeypatch, capsys):
    class Few(datasets.MNIST):
        def __init__(self, train=True):
            super().__init__(train)
            self.images, self.labels = self.images[:200], self.labels[:200]

    monkeypatch.setattr(datasets, "MNIST", Few)
    trained, ten_lines, own = blocks(PAGES[0], "python")
    exec(compile(trained, "README.md", "exec"), {})
    assert float(capsys.readouterr().out.split()[2]) < 5
    names = {}
    exec(compile(ten_lines, "README.md", "exec"), names)
    loss, theta = capsys.readouterr().out.split("\n", 1)
    assert 1 < float(loss.split()[1]) < 4
    assert len(theta.strip("[]\n").split()) == 6
    measured = trained.replace('models.pretrained("st-cnn-affine-R")', "model.eval()")
    exec(compile(measured, "README.md", "exec"), names)
    assert 20 < float(capsys.readouterr().out.split()[2]) < 100
    exec(compile(own, "README.md", "exec"), {})


EXAMPLE = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES[1:], ids=name)
def test_the_examples_of_a_page_run_one_after_the_other(page, capsys):
    """And print what the page says they print."""
    names = {}
    for code, printed in EXAMPLE.findall(page.read_text(encoding="utf-8")):
        exec(compile(code, page.name, "exec"), names)
        output = capsys.readouterr().out
        assert not printed or output == printed


COMMANDS = [line for page in PAGES for text in blocks(page, "sh") for line in text.splitlines()]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("minist ")])
def test_commands_are_understood(line):
    cli.parser().parse_args(shlex.split(line, comments=True)[1:])


@every_page
def test_every_linked_file_is_there(page):
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", page.read_text(encoding="utf-8"))
    links = [link for link in links if link != "tutorials/index.md"]  # made by the docs' build
    assert [link for link in links if not (page.parent / link).exists()] == []
