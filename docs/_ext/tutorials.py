"""The tutorials as pages: each stored notebook becomes Markdown, its outputs as they were stored.

They are written to docs/tutorials/, which the repository ignores, before the pages are read.
"""

import base64
import json
import re
import shutil
from pathlib import Path

IMAGES = {"image/png": "png", "image/gif": "gif"}


def as_markdown(notebook, name, folder):
    """The text of a page; pictures go to `folder`."""
    parts = [f"*As a notebook: [{name}.ipynb]({name}.ipynb).*"]
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            code = "\n".join(line for line in source.split("\n") if not line.startswith("%"))
            parts.append(f"```python\n{code}\n```")
            for i, output in enumerate(cell["outputs"]):
                parts.append(shown(output, folder, f"{name}-{number}-{i}"))
    # The notice stands below the title.
    parts[:2] = parts[:2][::-1]
    first, _, rest = parts[0].partition("\n")
    parts[:2] = [first, parts[1], rest.strip()]
    return site_links("\n\n".join(part for part in parts if part))


def shown(output, folder, name):
    """One output of a cell: text, or a picture with a name of its own."""
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text']).rstrip()}\n```"
    data = output.get("data", {})
    for kind, suffix in IMAGES.items():
        if kind in data:
            path = folder / f"{name}.{suffix}"
            write(path, base64.b64decode("".join(data[kind])))
            return f"![what the cell above draws]({path.name})"
    if "application/vnd.jupyter.widget-view+json" in data:
        return "*(Sliders: in the notebook.)*"
    if "text/markdown" in data:
        return "".join(data["text/markdown"])
    return f"```text\n{''.join(data.get('text/plain', []))}\n```"


def site_links(text):
    """Links from the repository's tutorials/ as links from the site's."""
    text = text.replace("](../docs/", "](../").replace("](../minist", "](../../minist")
    return re.sub(r"\]\((\w+)\.ipynb\)(?!\.\*)", r"](\1.md)", text)


def write(path, content):
    """Only what has changed, so that no page is built in vain."""
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


def make(app, config):
    source, folder = Path(app.srcdir).parent / "tutorials", Path(app.srcdir) / "tutorials"
    folder.mkdir(exist_ok=True)
    for path in source.glob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        write(folder / f"{path.stem}.md", as_markdown(notebook, path.stem, folder).encode())
        shutil.copy2(path, folder)
    write(folder / "index.md", site_links((source / "README.md").read_text("utf-8")).encode())
    kept = {path.stem for path in source.glob("*.ipynb")} | {"index"}
    for page in folder.glob("*.md"):
        if page.stem not in kept:
            page.unlink()


def setup(app):
    app.connect("config-inited", make)
    return {"parallel_read_safe": True}
