"""Pages whose text is kept elsewhere: ``<!-- from: ../examples/README.md -->`` is all they hold.

Pictures are found where that file finds them; links to files of the project, which a site does not
have, become what they say.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

_FROM = re.compile(r"<!-- from: (\S+) -->\s*")


def _fetch(app: Sphinx, page: str, source: list[str]) -> None:
    found = _FROM.fullmatch(source[0])
    if found is None:
        return
    here = Path(app.env.doc2path(page)).parent
    there = (here / found[1]).resolve()
    app.env.note_dependency(str(there))
    folder = os.path.relpath(there.parent, here)
    text = there.read_text(encoding="utf-8")
    text = re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)[^)]+\)", r"\1", text)
    source[0] = re.sub(r"(!\[[^\]]*\]\()(?!https?:)", rf"\g<1>{folder}/", text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", _fetch)
    return {"parallel_read_safe": True}
