"""The site: `pip install -e '.[docs]'`, then `sphinx-build -W docs docs/_build`."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

from source_pages import resolve as linkcode_resolve  # noqa: E402, F401

import minist  # noqa: E402

project = "minist"
author = "The minist developers"
copyright = "the minist developers, MIT licence"
version = release = minist.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.linkcode",
    "mathml",  # the rest is in _ext/
    "docstrings",
    "marked_source",
    "source_pages",
    "figure_data",
    "tutorials",
]
exclude_patterns = ["_build"]

# Markdown
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

# Docstrings
default_role = "py:obj"  # `name` is a link where there is one
autodoc_inherit_docstrings = False  # what a base class says is said there
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say it in shapes
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# Pages
html_theme = "furo"
html_title = "minist"
html_static_path = ["_static"]
html_css_files = ["minist.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def the_rest(app, docname, source):
    """Pages at the top of docs/ that no menu names take the place of the line `*`."""
    if docname == "index":
        pages = {page.stem for page in DOCS.glob("*.md")} - {"index"} - set(source[0].split("\n"))
        source[0] = source[0].replace("\n*\n", "\n" + "\n".join(sorted(pages)) + "\n")


def setup(app):
    app.connect("source-read", the_rest)
