"""The site: it builds without a warning, shows the source that it speaks of, fetches nothing."""

import ast
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import minist

DOCS = Path(__file__).parents[1] / "docs"
PACKAGE = Path(minist.__file__).parent
EQUATIONS = [f"Eq. ({n})" for n in range(1, 8)]

sys.path.insert(0, str(DOCS / "_ext"))
from marks import marks  # noqa: E402

MARKS = marks(PACKAGE)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_every_equation_is_marked_in_the_source(equation):
    assert MARKS[equation]


@pytest.mark.parametrize(
    "mark", [mark for found in MARKS.values() for mark in found], ids=lambda m: f"{m.name}:{m.line}"
)
def test_an_excerpt_shows_the_marked_line_of_the_function_it_names(mark):
    path = PACKAGE.parent / (mark.module.replace(".", "/") + ".py")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert mark.first <= mark.line <= mark.last
    assert mark.code.splitlines() == lines[mark.first - 1 : mark.last]
    assert len(mark.code.splitlines()) < 30
    node = ast.parse("\n".join(lines))
    for name in filter(None, mark.name.split(".")):
        node = next(child for child in node.body if getattr(child, "name", None) == name)
    if mark.name:
        assert node.lineno <= mark.first <= mark.last <= node.end_lineno


def test_a_mark_is_a_comment_not_a_string(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    code = '"""Eq. (5)"""\n\n\ndef f(x):\n    return x + 1  # Eq. (2), Sect. 3.4\n'
    (package / "module.py").write_text(code, encoding="utf-8")
    found = marks(package)
    assert sorted(found) == ["Eq. (2)", "Sect. 3.4"]
    assert found["Eq. (2)"][0][:3] == ("package.module", "f", 5)


def test_a_comment_of_its_own_is_shown_with_what_follows(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    code = "# Eq. (1), and how\n# it goes on\nx = [\n    1,\n]\n# Sect. 3.2\n"
    (package / "module.py").write_text(code, encoding="utf-8")
    found = marks(package)
    assert found["Eq. (1)"][0].code == code.rpartition("\n# S")[0]
    assert found["Sect. 3.2"][0].code == "# Sect. 3.2"


def test_the_page_pairs_every_equation_with_its_lines():
    text = (DOCS / "learn" / "paper.md").read_text(encoding="utf-8")
    shown = re.findall(r"```\{marked\} (Eq\. \(\d\))", text)
    assert shown == EQUATIONS
    for n, equation in enumerate(EQUATIONS, start=1):
        assert text.index(rf"\quad ({n})") < text.index("{marked} " + equation)


# --- the built site -----------------------------------------------------------------------------


class Elements(HTMLParser):
    """Every start tag of a page with its attributes, and the text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return "".join(self.words)


def test_every_page_is_in_a_menu(site):
    pages = {page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md")}
    pages = {page.as_posix() for page in pages if page.parts[0] != "_build"} - {"index.html"}
    links = {attrs.get("href") for tag, attrs in Elements(site / "index.html").tags if tag == "a"}
    assert pages <= links


def test_tutorials_are_pages_with_their_outputs(site):
    for path in (DOCS.parent / "tutorials").glob("*.ipynb"):
        page = Elements(site / "tutorials" / f"{path.stem}.html")
        pictures = [a["src"] for tag, a in page.tags if tag == "img" and path.stem in a["src"]]
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        kinds = [set(output.get("data", {})) & {"image/png", "image/gif"} for output in outputs]
        assert len(pictures) == sum(map(bool, kinds))
        assert "IPython.core" not in page.text  # no table stands there as the name of its class
        for output in outputs:
            if output["output_type"] == "stream":
                assert "".join(output["text"]).strip() in page.text


def test_the_paper_page_shows_each_marked_line(site):
    text = Elements(site / "learn" / "paper.html").text
    for equation in EQUATIONS:
        for mark in MARKS[equation]:
            assert mark.name in text
            for line in mark.code.splitlines():
                assert line.strip() in text


def test_formulae_are_mathml(site):
    page = Elements(site / "learn" / "paper.html")
    assert sum(tag == "math" for tag, _ in page.tags) > 20
    assert "\\frac" not in page.text
    assert (site / "_static" / "STIXTwoMath-Regular.ttf").stat().st_size > 10**5


def test_nothing_is_fetched_from_elsewhere(site):
    loads = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
    for path in site.rglob("*.html"):
        for tag, attrs in Elements(path).tags:
            target = attrs.get(loads.get(tag)) or ""
            assert not re.match(r"(https?:)?//", target), f"{path}: {tag} {target}"
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"""(url\(|@import)\s*["']?(https?:)?//""", text), path


def test_links_within_the_site_lead_somewhere(site):
    ids = {}
    for path in site.rglob("*.html"):
        ids[path.resolve()] = Elements(path)
    known = {
        path: {a[key] for _, a in page.tags for key in ("id", "name") if a.get(key)}
        for path, page in ids.items()
    }
    broken = []
    for path, page in ids.items():
        for href in (attrs.get("href") or "" for tag, attrs in page.tags if tag == "a"):
            target, _, anchor = href.partition("#")
            if re.match(r"\w+:|//", href) or (not target and anchor in ("", "top")):
                continue
            file = (path.parent / target).resolve() if target else path
            if not file.exists() or (anchor and file in known and anchor not in known[file]):
                broken.append(f"{path.relative_to(site.resolve())}: {href}")
    assert broken == []


def test_search_knows_the_pages(site):
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("Search.setIndex(").rstrip().removesuffix(")"))
    assert "learn/paper" in index["docnames"]
    for word in ("spline", "kernel", "adjoint"):
        assert word in index["terms"]


def test_the_api_has_every_public_name(site):
    text = (site / "objects.inv").read_bytes()
    assert text  # compressed: read by Sphinx itself
    listing = subprocess.run(
        [sys.executable, "-m", "sphinx.ext.intersphinx", str(site / "objects.inv")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for module in ("functional", "spatial", "datasets", "models"):
        for name in getattr(minist, module).__all__:
            if not isinstance(getattr(getattr(minist, module), name), dict | tuple | type(re)):
                assert f"minist.{module}.{name} " in listing
