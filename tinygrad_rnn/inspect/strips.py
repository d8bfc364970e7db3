"""Heat strips and curves over time as SVG: a row for each quantity, a cell for each step."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from .drawing import svg, text

_CELLS = 125  # across; more steps are taken together, the largest of each group
_HEIGHT, _LABEL, _WIDTH = 18.0, 110.0, 640.0


def strip(
    rows: Sequence[tuple[str, Sequence[float]]],
    low: float,
    high: float,
    label: str,
    shares: Sequence[tuple[str, Sequence[float]]] = (),
    unit: str = "",
    beneath: tuple[str, float] = ("", 0.0),
    each: str = "step",
) -> str:
    """Rows of cells coloured by value from ``low`` to ``high``; nan and inf are red.

    ``shares`` are further rows, whose values go from 0 to 1; ``beneath`` is a drawing that goes
    under all of it, with its height.
    """
    drawn, foot = _cells(rows, low, high, unit, each)
    last = max((len(values) for _, values in rows), default=0)
    body = [drawn]
    if shares:
        more, height = _cells(shares, 0.0, 1.0)
        body.append(f'<g transform="translate(0 {foot:.0f})">{more}</g>')
        foot += height
    body.append(text(_LABEL, foot, f"{each} 1 ... {last}; {label}"))
    drawn, height = beneath
    body.append(f'<g transform="translate(0 {foot + 12:.0f})">{drawn}</g>')
    return svg(_LABEL + _WIDTH, foot + 6 + height, body, label)


def _cells(
    rows: Sequence[tuple[str, Sequence[float]]],
    low: float,
    high: float,
    unit: str = "",
    each: str = "step",
) -> tuple[str, float]:
    """The rows of a strip, and where they end."""
    body: list[str] = []
    for n, (name, values) in enumerate(rows):
        y = n * (_HEIGHT + 4)
        body.append(text(0, y + 13, name))
        groups = grouped(values)
        wide = _WIDTH / max(len(groups), 1)
        for k, (first, last, value) in enumerate(groups):
            steps = f"{each} {first + 1}" if first == last else f"{each}s {first + 1} to {last + 1}"
            title = f"<title>{escape(f'{name}, {steps}: {value:.4g} {unit}')}</title>"
            body.append(
                f'<rect x="{_LABEL + k * wide:.1f}" y="{y:.0f}" width="{wide + 0.3:.1f}" '
                f'height="{_HEIGHT:.0f}" fill="{colour(value, low, high)}" data-step="{first + 1}">'
                f"{title}</rect>"
            )
    return "".join(body), len(rows) * (_HEIGHT + 4) + 12


def grouped(values: Sequence[float], most: int = _CELLS) -> list[tuple[int, int, float]]:
    """At most so many groups of neighbours: (first, last, the largest; nan if one is)."""
    each = math.ceil(len(values) / most) if len(values) else 1
    groups = []
    for b in range(0, len(values), each):
        part = values[b : b + each]
        worst = next((v for v in part if not math.isfinite(v)), None)
        groups.append((b, b + len(part) - 1, max(part) if worst is None else worst))
    return groups


def colour(value: float, low: float, high: float) -> str:
    """From dark blue over green to yellow, as in viridis; red for what is not finite."""
    if not math.isfinite(value):
        return "#d62728"
    place = min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0) * (len(_SCALE) - 1)
    k = min(int(place), len(_SCALE) - 2)
    mixed = [
        round(a + (b - a) * (place - k)) for a, b in zip(_SCALE[k], _SCALE[k + 1], strict=True)
    ]
    return "#" + "".join(f"{c:02x}" for c in mixed)


_SCALE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def svg_of_nonfinite(data: dict[str, Any]) -> str:
    """The share of rows that are not finite, by step."""
    spread = data.get("spread")
    if not spread:
        return ""
    return strip([("not finite", spread)], 0.0, 1.0, "share of rows", unit="of rows")


def logs(values: Sequence[float]) -> list[float]:
    """Powers of ten of norms, with 0 far below any of them; what is not finite stays so."""
    return [math.log10(v) if v > 0 else -99.0 if v == 0 else v for v in values]


def svg_of_flow(data: dict[str, Any]) -> str:
    """Norms by step on one scale for all studies: log10 from -10 to 2."""
    rows = [(name, logs(values)) for name, values in data["norms"].items()]
    return strip(
        rows, -10.0, 2.0, "log10 of the gradient's norm, from -10 (dark) to 2", unit="(log10)"
    )


def svg_of_replay(data: dict[str, Any]) -> str:
    """What the gradient of each leaf consists of: the size of each part that is added."""
    rows = [(name, logs(sizes)) for name, sizes in data["sizes"].items() if sizes]
    most = max((len(sizes) for _, sizes in rows), default=0)
    if most < 2:
        return ""
    label = "log10 of the norm of each part that adds up to a gradient, from -10 (dark) to 2"
    return strip(rows[:_LEAVES], -10.0, 2.0, label, unit="(log10)", each="part")


_LEAVES = 24  # that are drawn


def curves(rows: Sequence[tuple[str, Sequence[float]]], label: str) -> str:
    """Curves on one scale from 0 to the largest, each with its name and last value."""
    height, body = 120.0, []
    top = max((max(values) for _, values in rows if len(values)), default=0.0) or 1.0
    for n, (name, values) in enumerate(rows):
        points = " ".join(
            f"{_WIDTH * k / max(len(values) - 1, 1):.1f},{height - v / top * (height - 8):.1f}"
            for k, v in enumerate(values)
        )
        hue = _HUES[n % len(_HUES)]
        body.append(f'<polyline points="{points}" fill="none" stroke="{hue}" stroke-width="2"/>')
        last = f"{values[-1]:,.4g}" if len(values) else ""
        y = 14 + 15 * n
        body.append(f'<path d="M{_WIDTH + 6:.0f} {y - 4}h14" stroke="{hue}" stroke-width="3"/>')
        body.append(text(_WIDTH + 24, y, f"{name}: {last}"))
    body.append(text(0, height + 16, label))
    return svg(_WIDTH + 208, height + 22, body, label)


_HUES = ("#3b82c4", "#c2571a", "#2e9e5b", "#a855b5")  # seen on white and on black


def svg_of_compare(data: dict[str, Any]) -> str:
    """The bytes held for the backward pass as steps go on."""
    literal = data["memory"]["literal by step"] or [0]
    count = len(literal)
    held = [data["memory"]["plan"] * k / max(count - 1, 1) for k in range(count)]
    label = f"bytes held for the backward pass, step 0 to {data['memory']['steps']}"
    return curves([("literal", literal), ("plan", held)], label)


def svg_of_activity(data: dict[str, Any]) -> str:
    """The units that know most over the text, each from its least value to its largest.

    Beneath them what is attended to, and the way of the state in the plane of its two largest
    principal components.
    """
    rows = [
        (unit["name"], [code / 255 for code in base64.b64decode(unit["bytes"])])
        for unit in data["units"][:8]
    ]
    attention = data.get("attention", {"sources": [], "weights": []})
    columns = zip(*attention["weights"], strict=True)
    looked = [(f"attention: {s}", w) for s, w in zip(attention["sources"], columns, strict=True)]
    label = "each unit from its least value (dark) to its largest"
    return strip(rows, 0.0, 1.0, label, looked, beneath=_way(data["path"], data["text"]))


def _way(path: Sequence[Sequence[float]], parts: Sequence[str]) -> tuple[str, float]:
    """A path in the plane, a point for each part of a text, and how high the drawing is."""
    if len(path) < 2:
        return "", 0.0
    size, foot = 220.0, 18.0
    least = [min(point[axis] for point in path) for axis in (0, 1)]
    span = max(max(point[axis] for point in path) - least[axis] for axis in (0, 1)) or 1.0
    places = [
        (_LABEL + (x - least[0]) / span * size, 8 + (y - least[1]) / span * size) for x, y in path
    ]
    line = " ".join(f"{x:.0f},{y:.0f}" for x, y in places)
    drawn = [f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-opacity="0.3"/>']
    for n in range(0, len(places), math.ceil(len(places) / _POINTS)):
        x, y = places[n]
        hue = colour(n, 0.0, len(places) - 1.0)
        title = f"<title>{n}: {escape(repr(parts[n]))}</title>"
        drawn.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="{hue}">{title}</circle>')
    height = 16 + max(y for _, y in places)
    drawn.append(text(_LABEL, height, "the state in two principal components, dark at the start"))
    return "".join(drawn), height + foot


_POINTS = 200


def svg_of_watch(data: dict[str, Any]) -> str:
    """A chart for each series, and the strips of a flow that was attached."""
    body: list[str] = []
    y = 0.0
    for name, series in list(data["series"].items())[:60]:
        body += _chart(name, series, y)
        y += _CHART + 18
    flows = [a["data"] for a in data["attached"].values() if a["kind"] == "flow"]
    shown = [(name, values) for flow in flows for name, values in flow["norms"].items()]
    shown += [(f"{s['name']}, step {s['step'] + 1}", s["values"]) for s in data["strips"]]
    if shown:
        drawn, height = _cells([(n, logs(v)) for n, v in shown], -10.0, 2.0, "(log10)")
        body.append(f'<g transform="translate(0 {y:.0f})">{drawn}</g>')
        body.append(text(_LABEL, y + height, "log10 of the gradient's norm, from -10 (dark) to 2"))
        y += height + 6
    return svg(_LABEL + _WIDTH, y, body, "series over the steps of a training loop")


_CHART = 44.0


def _chart(name: str, series: dict[str, Any], y: float) -> list[str]:
    """A band from least to largest, the mean, and red marks where something was not finite."""
    buckets = fewer(series["buckets"])
    full = [(k, b) for k, b in enumerate(buckets) if len(b) > 1]
    low = min((b[0] for _, b in full), default=0.0)
    high = max((b[1] for _, b in full), default=1.0)
    logarithmic = 0 < low < high / 100  # gradients and updates differ by powers of ten
    low, high = (math.log(low), math.log(high)) if logarithmic else (low, high)
    wide = _WIDTH / max(len(buckets) - 1, 1)

    def at(k: int, value: float) -> str:
        value = math.log(value) if logarithmic else value
        up = (value - low) / ((high - low) or 1.0)
        return f"{k * wide:.1f},{y + 14 + _CHART * (1 - up):.1f}"

    scale = ", logarithmic" if logarithmic else ""
    body = [text(0, y + 10, f"{name}: {series['last']}{scale}")]
    if full:
        band = [at(k, b[0]) for k, b in full] + [at(k, b[1]) for k, b in reversed(full)]
        body.append(f'<polygon points="{" ".join(band)}" fill="#21918c" fill-opacity="0.3"/>')
        mean = " ".join(at(k, b[2]) for k, b in full)
        body.append(f'<polyline points="{mean}" fill="none" stroke="#21918c"/>')
    return body + [
        f'<rect x="{k * wide - 1:.1f}" y="{y + 14:.0f}" width="2" height="{_CHART:.0f}" '
        f'fill="#d62728"><title>{b[-1]} not finite</title></rect>'
        for k, b in enumerate(buckets)
        if b[-1]
    ]


def fewer(buckets: Sequence[Any], most: int = 64) -> list[Any]:
    """Buckets for a chart, neighbours taken together: least, largest, a mean, and what was bad."""
    each = math.ceil(len(buckets) / most) if buckets else 1
    found: list[Any] = []
    for begin in range(0, len(buckets), each):
        own = buckets[begin : begin + each]
        full = [b for b in own if len(b) > 1]
        bad = sum(b[-1] for b in own)
        if not full:
            found.append([bad])
            continue
        mean = sum(b[2] for b in full) / len(full)
        found.append([min(b[0] for b in full), max(b[1] for b in full), mean, bad])
    return found
