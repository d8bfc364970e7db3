"""A graph as a drawing: SVG without scripts, in the colours of the page that it stands on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from .layout import CHARACTER, LINE, Box, laid_out
from .listing import count, place_of
from .view import view_of

MOST = 250  # things that are drawn
_EDGE = {
    "": "",
    "carried": ' stroke-dasharray="5 3"',
    "series": ' stroke-dasharray="1 3"',
    "all": "",
    "start": "",
}


def svg_of_graph(data: dict[str, Any]) -> str:
    """The graph with its loops as boxes; a loop edge is dashed, a series dotted."""
    drawn = count(data["items"])
    if drawn > MOST:
        raise ValueError(
            f"to_svg: {drawn:,} operations are too many to draw (at most {MOST}); "
            "inspect.fold(y) draws a loop once, where its steps are alike"
        )
    leaves, things = view_of(data)
    boxes, width, height = laid_out(things)
    head = [f"{leaf.name}: {leaf.meta}" for leaf in leaves]
    rows = _wrapped(head, max(width, 420.0))
    top = LINE * len(rows) + 14
    for box in boxes:
        box.move(0, top)
    width = max([width, *(len(row) * CHARACTER for row in rows)])
    body = [text(4, LINE * (n + 1), row) for n, row in enumerate(rows)]
    body += _edges(boxes, width)
    body += [part for box in boxes for part in _drawn(box)]
    return svg(width, height + top, body, f"a graph of {data['operations']} operations")


def svg(width: float, height: float, body: Sequence[str], label: str) -> str:
    """A drawing of this size."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width + 28:.0f}" '
        f'height="{height + 12:.0f}" viewBox="-4 -4 {width + 28:.0f} {height + 12:.0f}" '
        f'role="img" aria-label="{escape(label)}" font-family="monospace" font-size="11" '
        f'fill="currentColor" stroke-width="1">{"".join(body)}</svg>'
    )


def text(x: float, y: float, words: str, bold: bool = False) -> str:
    """Words at a place."""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{weight}>{escape(words)}</text>'


def _wrapped(words: Sequence[str], width: float) -> list[str]:
    """Words in rows of a width."""
    rows: list[str] = []
    for word in words:
        if rows and (len(rows[-1]) + 3 + len(word)) * CHARACTER <= width:
            rows[-1] += "   " + word
        else:
            rows.append(word)
    return rows


def _drawn(box: Box) -> Iterator[str]:
    thing = box.thing
    notes = [f"keeps {thing.keeps}"] if thing.keeps else []
    notes += [thing.stage] if thing.stage else []
    notes += [place_of(thing.line)] if thing.line else []
    title = f"<title>{escape('; '.join(notes))}</title>" if notes else ""
    loop = thing.is_loop
    about = f"{thing.name}: {thing.meta}" if thing.meta else thing.title
    own = f' data-loop-name="{escape(thing.name)}"' if thing.operation == "loop" else ""
    yield (
        f'<g data-about="{escape(about)}"{own}>{title}'
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" rx="{8 if loop else 3}" fill="currentColor" '
        f'fill-opacity="{0.04 if loop else 0.06}" stroke="currentColor" '
        f'stroke-opacity="{0.5 if loop else 0.8}"/>'
    )
    for n, line in enumerate(box.lines):
        yield text(box.x + 6, box.y + LINE * (n + 1) - 1, line, bold=n == 0)
    yield "</g>"
    for inner in box.inside:
        yield from _drawn(inner)


def _edges(boxes: Sequence[Box], width: float) -> Iterator[str]:
    place = {box.thing: box for box in _flat(boxes)}
    for box in place.values():
        for read, edge in box.thing.reads:
            start = place.get(read)
            if start is None:
                continue
            x1, y1 = start.x + start.width / 2, start.y + start.height
            x2, y2 = box.x + box.width / 2, box.y
            if edge == "carried":  # along the right side, back up
                x1, y1 = start.x + start.width, start.y + start.height / 2
                x2, y2 = box.x + box.width, box.y + box.height / 2
                far = max(x1, x2) + 18
                path = f"M{x1:.0f} {y1:.0f}C{far:.0f} {y1:.0f} {far:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
            else:
                mid = (y1 + y2) / 2
                path = f"M{x1:.0f} {y1:.0f}C{x1:.0f} {mid:.0f} {x2:.0f} {mid:.0f} {x2:.0f} {y2:.0f}"
            stroke = f'stroke="currentColor" stroke-opacity="0.6"{_EDGE[edge]}'
            yield f'<path d="{path}" fill="none" {stroke}/>'
            yield _arrow(x2, y2, sideways=edge == "carried")


def _arrow(x: float, y: float, sideways: bool) -> str:
    tip = f"{x:.0f} {y:.0f}"
    if sideways:
        return f'<path d="M{tip}l5 -3v6z" fill-opacity="0.6"/>'
    return f'<path d="M{tip}l-3 -5h6z" fill-opacity="0.6"/>'


def _flat(boxes: Sequence[Box]) -> Iterator[Box]:
    for box in boxes:
        yield box
        yield from _flat(box.inside)
