"""The directive `marked`: all lines of the package that bear a mark, beside the reader's text.

```{marked} Eq. (5)
```
"""

from textwrap import dedent

from docutils import nodes
from docutils.parsers.rst import Directive
from marks import marks
from source_pages import PACKAGE, url


class Marked(Directive):
    required_arguments = 1
    final_argument_whitespace = True

    def run(self):
        text = self.arguments[0]
        env = self.state.document.settings.env
        for path in PACKAGE.rglob("*.py"):
            env.note_dependency(str(path))
        found = marks(PACKAGE).get(text)
        if not found:
            raise self.error(f"no line of the source is marked # {text}")
        up = "../" * env.docname.count("/")
        return [node for mark in found for node in self.shown(mark, up)]

    def shown(self, mark, up):
        file = mark.module.replace(".", "/") + ".py"
        where = nodes.paragraph(classes=["marked"])
        link = nodes.reference("", "", internal=False, refuri=up + url(file, mark.line))
        link += nodes.literal("", file)
        where += [link, nodes.Text(", "), nodes.literal("", mark.name)]
        code = nodes.literal_block("", dedent(mark.code), language="python", linenos=True)
        code["highlight_args"] = {
            "linenostart": mark.first,
            "hl_lines": [mark.line - mark.first + 1],
        }
        return [where, code]


def setup(app):
    app.add_directive("marked", Marked)
    return {"parallel_read_safe": True}
