"""The package's source as pages of the site, each line with an anchor, and links that lead there.

In a page's text a link to a file of the package, `../minist/nn.py`, works in the repository and is
turned into one to its page here; one to another folder, which the site has not, into plain text.
The API's [source] leads to the line.
"""

import ast
import html
import inspect
import re
from pathlib import Path

import minist

PACKAGE = Path(minist.__file__).resolve().parent
FILES = {path.relative_to(PACKAGE.parent).as_posix(): path for path in PACKAGE.rglob("*.py")}


def url(file, line=None):
    """Of a file, "minist/nn.py", from the top of the site."""
    return f"source/{file.removesuffix('.py')}.html" + (f"#L-{line}" if line else "")


def link_to_source(app, docname, source):
    page = Path(app.srcdir, docname)
    up = "../" * docname.count("/")

    def link(match):
        text, target = match.groups()
        path = (page.parent / target).resolve()
        if PACKAGE in path.parents and path.suffix == ".py":
            address = url(path.relative_to(PACKAGE.parent).as_posix())
        elif PACKAGE in path.parents and path.is_dir():
            address = "source/index.html"
        else:
            return text if path.is_dir() else match[0]
        return f'<a class="reference internal" href="{up}{address}">{text}</a>'

    source[0] = re.sub(r"(?<!!)\[([^]]+)\]\(([^)#:\s]+)\)", link, source[0])


def resolve(domain, info):
    """For sphinx.ext.linkcode: where a documented object is defined. API pages lie in api/."""
    obj = __import__(info["module"], fromlist=["_"])
    try:
        for part in info["fullname"].split("."):
            obj = getattr(obj, part)
        obj = inspect.unwrap(obj.fget if isinstance(obj, property) else obj)
        path, line = inspect.getsourcefile(obj), inspect.getsourcelines(obj)[1]
    except (AttributeError, OSError, TypeError):
        return None  # not made by a def or a class
    file = Path(path).relative_to(PACKAGE.parent).as_posix()
    return f"../{url(file, line)}" if file in FILES else None


def pages(app):
    items = []
    for file, path in sorted(FILES.items()):
        code = path.read_text(encoding="utf-8")
        body = app.builder.highlighter.highlight_block(
            code, "python", linenos="inline", lineanchors="L", anchorlinenos=True
        )
        page = url(file).removesuffix(".html")
        up = "../" * (page.count("/") - 1)
        body = f'<h1>{file}</h1><div class="source-page">{body}</div>'
        parents = [{"link": f"{up}index.html", "title": "Source"}]
        yield page, {"title": file, "parents": parents, "body": body}, "page.html"
        promise = (ast.get_docstring(ast.parse(code)) or "").partition("\n")[0]
        items.append(
            f'<li><a href="{page[7:]}.html"><code>{file}</code></a> {html.escape(promise)}</li>'
        )
    body = f'<h1>Source</h1><ul class="source">{"".join(items)}</ul>'
    yield "source/index", {"title": "Source", "body": body}, "page.html"


def setup(app):
    app.connect("source-read", link_to_source)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True}
