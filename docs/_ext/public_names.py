"""``.. public:: tg.tanh``: what a public name is, by its docstring, with an example that tests run.

Names are written as in the examples: ``tg`` is the package, ``nn``, ``optim`` and so on its parts.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def full_name(name: str) -> str:
    """Where a name is imported from."""
    return "tinygrad_rnn." + name.removeprefix("tg.")


def find(name: str) -> Any:
    """The object of a name."""
    parts = full_name(name).split(".")
    place: Any = importlib.import_module(parts[0])
    for n, part in enumerate(parts[1:], 2):
        if not hasattr(place, part):
            importlib.import_module(".".join(parts[:n]))
        place = getattr(place, part)
    return place


class Public(SphinxDirective):
    """The entry of one name: signature, docstring, example."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Leave the docstring to autodoc, and put the example below it."""
        name = self.arguments[0]
        found = find(name)
        lines = [f".. {_directive(found)}:: {full_name(name)}"]
        if isinstance(found, type):
            lines.append("   :members:")
        lines += ["", "   .. code-block:: pycon", ""]
        lines += [f"      {line}" for line in self.content]
        source = self.get_source_info()[0]
        container = nodes.container()
        self.state.nested_parse(
            StringList(lines, items=[(source, self.lineno)] * len(lines)), 0, container
        )
        return container.children


def _directive(found: Any) -> str:
    if isinstance(found, type):
        return "autoexception" if issubclass(found, BaseException) else "autoclass"
    return "autofunction" if callable(found) else "autodata"


def _without_links_back(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """``viewcode`` knows one page for each module; names of one may be told of on several."""
    if page.startswith("_modules/"):
        context["body"] = re.sub(r'<a class="viewcode-back".*?</a>', "", context.get("body", ""))


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("public", Public)
    app.connect("html-page-context", _without_links_back)
    return {"parallel_read_safe": True}
