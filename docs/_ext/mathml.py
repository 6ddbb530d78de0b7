"""Formulae as MathML, which browsers draw by themselves: no script runs, and nothing is fetched.

A browser takes its glyphs from a font made for mathematics; STIX Two goes with the site.
"""

from importlib.util import find_spec
from pathlib import Path

import math_core
from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.fileutil import copy_asset_file

FONT = "STIXTwoMath-Regular.ttf"
converter = math_core.LatexToMathML()


def mathml(latex, display):
    try:
        return converter.convert_with_local_state(latex, displaystyle=display)
    except math_core.LatexError as error:
        raise ExtensionError(f"a formula cannot be read: {latex}\n{error}") from error


def visit_math(self, node):
    self.body.append(mathml(node.astext(), display=False))
    raise nodes.SkipNode


def visit_displaymath(self, node):
    number = f'<span class="eqno">({node["number"]})</span>' if node.get("number") else ""
    ids = "".join(f' id="{name}"' for name in node.get("ids", [])[:1])
    self.body.append(f'<div class="math"{ids}>{mathml(node.astext(), display=True)}{number}</div>')
    raise nodes.SkipNode


def copy_font(app, exception):
    package = Path(find_spec("ziamath").origin).parent
    if exception is None and app.builder.format == "html":
        copy_asset_file(package / "fonts" / FONT, app.outdir / "_static" / FONT)


def setup(app):
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    app.connect("build-finished", copy_font)
    return {"parallel_read_safe": True}
