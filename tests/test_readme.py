"""The README's code runs as it stands (on fewer digits), and its commands are what they say."""

import re
import shlex
from pathlib import Path

import pytest

from minist import cli, datasets
from minist.datasets import Images

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("code", [text for kind, text in BLOCKS if kind == "python"])
def test_python_examples_run(code, monkeypatch, capsys):
    data = datasets.MNIST(train=False)
    monkeypatch.setattr(datasets, "MNIST", lambda: Images(data.images[:200], data.labels[:200]))
    exec(compile(code, "README.md", "exec"), {})
    if "print" in code:
        loss, theta = capsys.readouterr().out.split("\n", 1)
        assert 1 < float(loss.split()[1]) < 4
        assert len(theta.strip("[]\n").split()) == 6


COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("minist ")])
def test_commands_are_understood(line):
    cli.parser().parse_args(shlex.split(line, comments=True)[1:])


def test_every_linked_file_is_there():
    root = Path(__file__).parents[1]
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", README)
    assert links
    assert [link for link in links if not (root / link).exists()] == []
