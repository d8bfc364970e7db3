"""HTML without scripts, since notebooks and code hosts strip them: details, tables and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;color-scheme:light dark}"
    "pre{overflow:auto;font-size:12px}svg{max-width:100%;height:auto}"
    "figure{margin:0;overflow:auto}"
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(title: str, drawing: str, text: str, *, whole: bool) -> str:
    """A drawing and a text, as a fragment or as a page that needs nothing else."""
    drawn = f'<figure style="margin:0;overflow:auto">{drawing}</figure>' if drawing else ""
    body = (
        f"<div>{drawn}{details('as text', f'<pre>{escape(text)}</pre>', opened=not drawing)}</div>"
    )
    if not whole:
        return body
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{body}</main></body></html>\n"
    )


def details(summary: str, body: str, *, opened: bool = False) -> str:
    """Something to unfold; ``body`` is markup already."""
    state = ' open="open"' if opened else ""
    return f"<details{state}><summary>{escape(summary)}</summary>{body}</details>"


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """A table of texts."""
    top = "<tr>" + "".join(f"<th>{escape(x)}</th>" for x in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(x)}</td>" for x in row) + "</tr>" for row in rows)
    return f"<table>{top}{body}</table>"
