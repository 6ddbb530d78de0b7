"""Docstrings as they are written, for people with the source open, made fit for Sphinx.

Between the lines of prose they hold formulae: an indented block becomes a block as it stands, and
the signs |, * and _ in a line are meant literally.
"""

import re

SECTION = re.compile(r"^-{3,}$")


def literal(text):
    """A line of prose whose |, * and trailing _ are no markup; what stands in backticks stays."""
    parts = re.split(r"(`+[^`]*`+)", text)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"[|*\\]|_(?=\W|$)", r"\\\g<0>", parts[i])
        if i and re.match(r"\w", parts[i]):  # `Parameter`s
            parts[i] = "\\ " + parts[i]
    return "".join(parts)


def sections(lines):
    """The stretches of a docstring, each with the name of its section, "" for the first."""
    name, stretch = "", []
    for i, line in enumerate(lines):
        if i + 1 < len(lines) and SECTION.match(lines[i + 1]):
            yield name, stretch
            name, stretch = line, []
        stretch.append(line)
    yield name, stretch


def with_blocks(lines):
    """Prose with its indented stretches as literal blocks."""
    inside = False
    for i, line in enumerate(lines):
        indented = line.startswith("    ")
        if indented and not inside and (i == 0 or not lines[i - 1].strip()):
            yield from ("::", "")
            inside = True
        elif inside and line.strip() and not indented:
            inside = False
        yield line if inside else literal(line)


def without_brackets(line):
    """ "theta : (N, 6)" as "theta : N, 6", since napoleon puts the type in brackets itself."""
    return re.sub(r"^(\S.*) : \(([^()]*)\)$", r"\1 : \2", line)


def prepare(app, what, name, obj, options, lines):
    result = []
    for section, stretch in sections(lines):
        if section == "Examples":
            result += stretch
        elif section in ("", "Notes"):
            result += with_blocks(stretch)
        else:
            result += [literal(without_brackets(line)) for line in stretch]
    lines[:] = result


def setup(app):
    app.connect("autodoc-process-docstring", prepare, priority=100)  # before napoleon
    return {"parallel_read_safe": True}
