"""One file that opens offline in any browser: studies to be clicked through.

Everything is drawn here and stands in the file: the drawings as SVG, the data as JSON, a few
kilobytes of JavaScript that only show and hide. A policy in the page forbids any request. Without
JavaScript the same is there to be read as text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from textwrap import dedent
from typing import Any

from . import plain
from .listing import place_of
from .markup import details, table
from .view import Thing, flat, view_of

_HERE = Path(__file__).parent
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"

Section = tuple[str, str, Any, str, str]  # kind, title, data, drawing, text


def page_of_sections(title: str, sections: Sequence[Section]) -> str:
    """A page of studies, each given by kind, title, data, drawing and text."""
    body, data = [], []
    for n, (kind, heading, own, drawing, text) in enumerate(sections):
        make = _WIDGETS.get(kind)
        widget = make(own) if make is not None else ""
        data.append(_needed(kind, own))
        named = f'tabindex="0" aria-label="drawing of {escape(heading)}"'
        figure = f"<figure {named}>{drawing}</figure>" if drawing else ""
        shown = "" if not drawing else '<output class="info" aria-live="polite"></output>'
        opened = kind == "nonfinite" or not (drawing or widget)
        read = details("as text", f"<pre>{escape(text)}</pre>", opened=opened)
        if kind == "note":
            widget, read = _note(text), ""
        body.append(
            f'<section id="study{n}" data-kind="{escape(kind)}" data-number="{n}">'
            f"<h2>{escape(heading)}</h2>{widget}{figure}{shown}{read}</section>"
        )
    links = "".join(
        f'<a href="#study{n}">{escape(heading)}</a>' for n, (_, heading, *_) in enumerate(sections)
    )
    navigation = f'<nav aria-label="studies">{links}</nav>' if len(sections) > 1 else ""
    stored = plain.written(data, str).replace("<", "\\u003c")  # nothing in it ends the script
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{navigation}{''.join(body)}</main>"
        f'<script type="application/json" id="data">{stored}</script>'
        f"<script>{script}</script></body></html>\n"
    )


def _needed(kind: str, data: Any) -> Any:
    """What the script needs of a study."""
    if kind == "graph":
        return {"loops": _loops(view_of(data)[1])}
    if kind == "flow":
        return {"norms": data["norms"]}
    if kind == "replay":
        left_out = ("count", "rule place")
        stops = [
            {k: v for k, v in stop.items() if k not in left_out}
            | {"line": place_of(stop["line"] or "")}
            for stop in data["stops"]
        ]
        return {"stops": stops, "count": data["count"], "later": data["later uses"]}
    if kind == "activity":
        return {"text": data["text"], "units": data["units"]}
    return None


def _loops(things: Sequence[Thing]) -> list[dict[str, Any]]:
    """The loops of a graph with the lines of their bodies."""
    found = []
    for thing in things:
        if thing.operation == "loop":
            letter, _, rest = thing.title.partition(" = ")
            first, _, last = rest.partition(":")[0].partition(", ..., ")
            found.append(
                {
                    "name": thing.name,
                    "title": thing.title,
                    "letter": letter,
                    "first": int(first),
                    "last": int(last) if last.isdigit() else None,
                    "notes": thing.notes,
                    "lines": _lines(thing.inside, letter),
                }
            )
            found += _loops(thing.inside)
    return found


def _lines(things: Sequence[Thing], letter: str) -> list[str]:
    lines = []
    for thing in things:
        call = f"{thing.operation}({', '.join(thing.arguments)})"
        lines.append(f"{thing.name}: {thing.title}" if thing.is_loop else f"{thing.name} = {call}")
    return lines


def _note(text: str) -> str:
    """Paragraphs, and what is moved to the right as it stands."""
    found = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = block.splitlines()
        if all(line.startswith("    ") for line in lines):
            found.append(f"<pre>{escape(dedent(block))}</pre>")
        else:
            found.append(f"<p>{escape(' '.join(lines))}</p>")
    return "".join(found).replace("</pre><pre>", "\n\n")


# Widgets: what the script fills.


def _graph(data: Any) -> str:
    loops = _loops(view_of(data)[1])
    buttons = "".join(
        f'<button type="button" data-loop="{n}">{escape(loop["name"])}: {escape(loop["title"])}'
        "</button>"
        for n, loop in enumerate(loops)
    )
    return f'<div class="bar">{buttons}</div><div class="steps" hidden></div>' if loops else ""


def _flow(data: Any) -> str:
    count = data["steps"]
    return (
        f'<p class="verdict">{escape(data["diagnosis"])}</p>'
        f'<label>step <input type="range" min="1" max="{count}" value="{count}" class="step">'
        f' <output class="at">{count}</output></label><div class="roll"><table class="values" '
        'aria-label="gradient norms at this step"></table></div>'
    )


def _replay(data: Any) -> str:
    buttons = "".join(
        f'<button type="button" data-key="{key}" title="{told}; key {key}">{words}</button>'
        for key, words, told in _KEYS
    )
    names = dict.fromkeys([*data["sizes"], *(stop["target"] for stop in data["stops"])])
    options = "".join(f"<option>{escape(name)}</option>" for name in names)
    left = data["count"] - data["shown"]
    note = f"<p>The first {data['shown']} of {data['count']} are in this page.</p>" if left else ""
    return (
        '<div class="bar" role="toolbar" tabindex="0" aria-label="contributions to the gradient">'
        f"{buttons}"
        '<label>go to (g) <input type="number" min="0" class="goto"></label></div>'
        '<div class="bar"><label>stop (b) at <input class="until" '
        'placeholder="gate=f, op=tanh, step=7, name=h, |part|>10"></label>'
        '<label><input type="checkbox" class="large"> where |g| &gt;</label>'
        '<input type="number" class="limit" value="10" min="0" step="any" '
        'aria-label="limit of |g|">'
        '<button type="button" data-key="c" title="to where it holds; key c">go on</button>'
        "</div>"
        '<div class="bar"><label>adds up (w) in <select class="target"><option value=""></option>'
        f'{options}</select></label></div>{note}<output class="said"></output>'
        '<div class="stop" aria-live="polite"></div><ol class="uses"></ol>'
    )


_KEYS = (
    ("p", "back", "the contribution before"),
    ("n", "next", "the next contribution"),
    ("P", "step back", "the first contribution of the loop step before"),
    ("N", "next step", "the first contribution of the next loop step"),
    ("i", "into", "into the rules of the value that this adds to"),
    ("o", "out", "out to what was added to g last"),
    ("x", "difference", "a finite difference beside the total"),
)


def _compare(data: Any) -> str:
    source = "".join(_source_line(line) for line in data["source"])
    program = "".join(
        f'<li data-places="{escape(" ".join(line["places"]))}"><code>{escape(line["text"])}</code>'
        "</li>"
        for line in data["program"]
    )
    graph = "".join(
        f'<li data-places="{escape(place)}"><code>{escape(name)}</code></li>'
        for name, place in _nodes(data["literal"])
    )
    reasons = "".join(
        f"<li>{escape(c['pass'])}: {escape(c['reason'])}"
        f"{escape(' (' + c['place'] + ')') if c['place'] else ''}</li>"
        for c in data["carries"]
    )
    legend = "".join(
        f'<span class="{kind}">{words}</span> '
        for kind, words in (
            ("before", "before the loop, for all steps at once"),
            ("in", "in the loop"),
            ("sum", "a sum over time"),
            ("after", "after the loop, or computed again"),
        )
    )
    return (
        f'<p class="legend">{legend}</p>'
        '<div class="columns">'
        f'<div><h3>your lines</h3><ol class="source">{source}</ol></div>'
        f'<div><h3>literal graph</h3><ol class="nodes">{graph}</ol></div>'
        f'<div><h3>program</h3><ol class="program">{program}</ol></div></div>'
        f"<h3>why there is a loop</h3><ul>{reasons}</ul>"
    )


def _source_line(line: dict[str, Any]) -> str:
    became = "; ".join(
        f"{b['pass']}, {b['class']}: {' '.join(dict.fromkeys(b['operations']))}"
        for b in line["became"]
    )
    classes = " ".join({b["class"].split()[0] for b in line["became"]})
    number = line["place"].rpartition(":")[2]
    text = f"<code>{number:>4} {escape(line['text'])}</code>"
    told = f"<small>{escape(became)}</small>" if became else ""
    return (
        f'<li class="{classes}"><button type="button" data-place="{escape(line["place"])}">'
        f"{text}{told}</button></li>"
    )


def _nodes(graph: Any) -> list[tuple[str, str]]:
    """The operations of a literal graph with their lines."""
    if graph is None:
        return []
    found = []
    for thing in flat(view_of(graph)[1]):
        place = place_of(thing.line)
        if thing.is_loop:
            found.append((f"{thing.name} {thing.title}", ""))
        else:
            found.append((f"{thing.name} = {thing.operation}({', '.join(thing.arguments)})", place))
    return found


def _activity(data: Any) -> str:
    options = "".join(
        f'<option value="{n}">{escape(u["name"])}, {u["bits"]} bits about {escape(u["knows"])}'
        "</option>"
        for n, u in enumerate(data["units"])
    )
    rows = [
        (name, gate["function"], f"{gate['low']:.0%}", f"{gate['high']:.0%}")
        for name, gate in data["gates"].items()
    ]
    head = ("gate", "activation", "at its lower end", "at its upper end")
    gates = f'<div class="roll">{table(rows, head)}</div>' if rows else ""
    words = "" if all(len(part) == 1 for part in data["text"]) else " words"
    return (
        f'<label>unit <select class="unit">{options}</select></label>'
        "<p>Select a passage (or shift and arrow keys) to see which units stand out in it.</p>"
        f'<p class="passage{words}" tabindex="0"></p>'
        '<output class="character" aria-live="polite"></output>'
        f'<div class="chosen" aria-live="polite"></div>{gates}'
    )


_WIDGETS = {
    "graph": _graph,
    "flow": _flow,
    "replay": _replay,
    "compare": _compare,
    "activity": _activity,
}
