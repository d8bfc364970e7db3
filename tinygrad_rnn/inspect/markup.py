"""HTML without scripts, since notebooks and code hosts strip them: details, tables and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def page(drawing: str, text: str) -> str:
    """A drawing and a text, as a fragment that a notebook shows."""
    drawn = f'<figure style="margin:0;overflow:auto">{drawing}</figure>' if drawing else ""
    words = details("as text", f"<pre>{escape(text)}</pre>", opened=not drawing)
    return f"<div>{drawn}{words}</div>"


def details(summary: str, body: str, *, opened: bool = False) -> str:
    """Something to unfold; ``body`` is markup already."""
    state = ' open="open"' if opened else ""
    return f"<details{state}><summary>{escape(summary)}</summary>{body}</details>"


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """A table of texts."""
    top = "<tr>" + "".join(f"<th>{escape(x)}</th>" for x in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(x)}</td>" for x in row) + "</tr>" for row in rows)
    return f"<table>{top}{body}</table>"
