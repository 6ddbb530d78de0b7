"""Where the source computes what the paper writes: the comments `# Eq. (5)` and `# Sect. 3.1`."""

import ast
import io
import re
import tokenize
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

MARK = re.compile(r"Eq\. \(\d+\)|Sect\. \d\.\d")
WHOLE = 26  # lines of a function that is shown whole
AROUND = 3  # lines shown before and after the marked statement of a longer one


class Mark(NamedTuple):
    """One marked statement, with as much of its function as is worth showing; lines from 1 on."""

    module: str  # minist.spatial.kernels
    name: str  # Bilinear.weights
    line: int
    first: int
    last: int
    code: str


def marks(package: Path) -> dict[str, list[Mark]]:
    """Every mark in the sources of a package, by its text, in the order of files and lines."""
    found = defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                for text in MARK.findall(token.string):
                    found[text].append(excerpt(source, module, token.start[0]))
    return dict(found)


def excerpt(source: str, module: str, line: int) -> Mark:
    lines = source.splitlines()
    marked = line
    while marked < len(lines) and lines[marked - 1].strip().startswith("#"):
        marked += 1  # a comment of its own speaks of what follows
    function, names = None, []
    node = statement = tree = ast.parse(source)
    while node is not None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
            function = node
        statement = node
        inside = [child for child in ast.walk(node) if child is not node and covers(child, marked)]
        # The outermost statement inside: walk goes by levels.
        node = next((child for child in inside if isinstance(child, ast.stmt)), None)
    first = min(line, getattr(statement, "lineno", line))
    last = line if statement is tree else statement.end_lineno
    if function is not None:
        begin, end = function.lineno, function.end_lineno
        if end - begin < WHOLE:
            first, last = begin, end
        else:
            first, last = max(begin, first - AROUND), min(end, last + AROUND)
    code = lines[first - 1 : last]
    while code and not code[0].strip():
        code, first = code[1:], first + 1
    while code and not code[-1].strip():
        code, last = code[:-1], last - 1
    return Mark(module, ".".join(names), line, first, last, "\n".join(code))


def covers(node: ast.AST, line: int) -> bool:
    return hasattr(node, "lineno") and node.lineno <= line <= node.end_lineno
