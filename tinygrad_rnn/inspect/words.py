"""Findings about runs, in words: what a terminal shows."""

from __future__ import annotations

import base64
import math
from typing import Any

from .listing import place_of
from .strips import fewer


def text_of_nonfinite(data: dict[str, Any]) -> str:
    """The finding in a few lines."""
    how = "by its plan" if data.get("planned", True) else f"literally, since {data.get('why')}"
    if not data["found"]:
        return f"All finite: {data['looked']} of {data['steps']} steps, run {how}."
    where = "in the loss" if data.get("in") == "loss" else "at the start"
    if data.get("step") is not None:
        where = f"at step {data['step'] + 1} of {data['steps']} (index {data['step']})"
    if data.get("row") is not None:
        where += f", row {data['row']}"
    verdict = data.get("verdict")
    if verdict == "not reproduced":
        return (
            f"The plan's {data['where']} are not finite {where}, but not reproduced literally: "
            "the same step, taken by itself, is finite. A kernel differs by more than rounding; "
            "please report it."
        )
    if verdict is not None:
        return f"Not finite {where}: {data.get('outside', 'the initial state was given so')}."
    if data.get("unit") is not None:
        where += f", unit {data['unit']}"
    if data.get("gate"):
        where += f", of {data['gate']}"
    what = "gradients" if data["where"] == "gradients" else "values"
    lines = [f"The first {data['made']} in {what}: {where}"]
    verb = f"the vjp of {data['operation']} by {data.get('input')}"
    made_by = verb if what == "gradients" else data["operation"]
    lines.append(f"  made by {made_by}, {place_of(data['line'])}")
    lines += [f"  read {_shown(r)}" for r in data["read"]]
    if what == "gradients" and data["cotangent"] is not None:
        lines.append(f"  cotangent of its output there: {data['cotangent']:.6g}")
    if data.get("outside"):
        lines.append(f"  it came from {data['outside']}")
    for f in data["follows"]:
        lines.append(f"  {f['made']} follows in {f['operation']}, {place_of(f['line'])}")
    spread = data.get("spread")
    if spread:
        n = sum(s > 0 for s in spread)
        lines.append(
            f"  it spread to {n} of {len(spread)} steps, {max(spread):.0%} of rows at most"
        )
    if data.get("cure"):
        lines.append(f"  what helps: {data['cure']}")
    return "\n".join(lines)


def _shown(read: dict[str, Any]) -> str:
    name = f"{read['name']} = " if read.get("name") else ""
    if "value" in read:
        value = read["value"]
        return f"{name}{value:.9g}" if isinstance(value, float) else f"{name}{value}"
    size = "" if read["largest"] is None else f", at most {read['largest']:.6g} in size"
    bad = f", {read['not finite']} not finite" if read["not finite"] else ""
    return f"{name}{tuple(read['shape'])}{size}{bad}"


def text_of_flow(data: dict[str, Any]) -> str:
    """The diagnosis, the norms at some steps, and the gates."""
    count = data["steps"]
    shown = sorted({round(k * (count - 1) / 6) for k in range(7)})
    lines = [data["diagnosis"], ""]
    lines.append(f"{'|dL/d...| at step':20}" + "".join(f"{t + 1:>10}" for t in shown))
    for name, values in data["norms"].items():
        lines.append(f"{name:20}" + "".join(f"{values[t]:10.2g}" for t in shown))
    for name, gate in data["gates"].items():
        parts = [f"mean {gate['function']} {gate['mean']:.2f}"]
        if "low" in gate:
            parts.append(f"under 0.1: {gate['low']:.0%}, over 0.9: {gate['high']:.0%}")
        if "saturated" in gate:
            parts.append(f"beyond 0.9: {gate['saturated']:.0%}")
        lines.append(f"gate {name}: {'; '.join(parts)}")
    if data["lyapunov"]:
        rows = len(data["lyapunov of rows"])
        of = f", a mean over {rows} rows" if rows > 1 else ""
        lines.append(f"Lyapunov exponents{of}: " + ", ".join(f"{v:.3g}" for v in data["lyapunov"]))
    if not data["planned"]:
        lines.append(f"Run literally, without gates: {data['why']}")
    return "\n".join(lines)


def text_of_stop(data: dict[str, Any]) -> str:
    """A contribution of a backward pass: whose rule, what it reads, and what it adds to."""
    when = f" at step {', '.join(map(str, data['steps']))}" if data["steps"] else ""
    gate = f", gate {data['gate']}" if data["gate"] and data["gate"] != data["name"] else ""
    line = f"  ({place_of(data['line'])})" if data["line"] else ""
    own = ", ".join(map(str, data["target steps"]))
    target = data["target"] + (f" of step {own}" if own else "")
    lines = [
        f"[{data['number']} of {data['count']}]  {data['name']} = {data['operation']}(...)"
        f"{when}{gate}{line}",
        f"  rule by {data['argument']}: {data['rule']}",
    ]
    lines.append(f"    g = {data['g']}")
    lines += [f"    {name} = {value}" for name, value in data["reads"]]
    lines += [f"    {text} -> {value}" for text, value in data["parts"]]
    lines.append(f"  adds to {target}, its contribution number {data['use']}")
    lines.append(f"    part   {data['part']}")
    if data["before"] is not None:
        lines.append(f"    before {data['before']}")
    lines.append(f"    total  {data['total']}")
    return "\n".join(lines)


def text_of_replay(data: dict[str, Any]) -> str:
    """The contributions in a line each, and the totals."""
    lines = []
    most = 400
    for stop in data["stops"][:most]:
        when = f" step {', '.join(map(str, stop['steps']))}" if stop["steps"] else ""
        lines.append(
            f"{stop['number']:6}{when}  {stop['name']} = {stop['operation']}: {stop['rule']}"
            f"  -> {stop['target']}: {stop['total']}"
        )
    if data["count"] > most:
        lines.append(f"... and {data['count'] - most} more")
    return "\n".join([*lines, *(f"gradient of {n}: {g}" for n, g in data["totals"].items())])


def text_of_compare(data: dict[str, Any]) -> str:
    """Each line of yours with what became of it, and the lines of the program."""
    lines = [data["summary"], ""]
    numbers: dict[str, list[int]] = {}
    for n, line in enumerate(data["program"]):
        for place in line["places"]:
            numbers.setdefault(place, []).append(n + 1)
    width = min(max((len(line["text"]) for line in data["source"]), default=0), 72)
    for line in data["source"]:
        number = line["place"].rpartition(":")[2]
        lines.append(f"{number:>5} {line['text'][:width]:<{width}}".rstrip())
        for became in line["became"]:
            what = " ".join(dict.fromkeys(became["operations"]))
            lines.append(f"{'':8}{became['pass']}, {became['class']}: {what}")
        if line["place"] in numbers:
            shown = ", ".join(map(str, numbers[line["place"]]))
            lines.append(f"{'':8}program lines {shown}")
    for carry in data["carries"]:
        at = f", made at {carry['place']}" if carry["place"] else ""
        lines.append(f"why there is a loop {carry['pass']}: {carry['reason']}{at}")
    memory = data["memory"]
    lines.append(
        f"held for the backward pass of {memory['steps']} steps: literal {memory['literal']:,} "
        f"bytes, plan {memory['plan']:,}"
    )
    lines += ["", *(f"{n + 1:>5} {line['text']}" for n, line in enumerate(data["program"]))]
    return "\n".join(lines)


def text_of_activity(data: dict[str, Any]) -> str:
    """The units that know most, and the text with the first of them beneath it."""
    lines = ["unit        bits  knows most about"]
    lines += [f"{u['name']:10} {u['bits']:5.2f}  {u['knows']}" for u in data["units"][:12]]
    for name, gate in data["gates"].items():
        lines.append(
            f"gate {name} ({gate['function']}): {gate['low']:.0%} at its lower end, "
            f"{gate['high']:.0%} at its upper end"
        )
    if not data["units"]:
        return "\n".join(lines)
    unit = data["units"][0]
    codes = base64.b64decode(unit["bytes"])
    lines += ["", f"{unit['name']} from {unit['low']:.3g} (thin) to {unit['high']:.3g} (full)"]
    shown = [part if part.isprintable() else " " for part in data["text"]]
    each = 80 if max(map(len, shown), default=1) == 1 else 8
    for begin in range(0, min(len(shown), 5 * each), each):
        parts, own = shown[begin : begin + each], codes[begin : begin + each]
        bars = [
            _BARS[code * len(_BARS) // 256] * len(p) for code, p in zip(own, parts, strict=True)
        ]
        gap = "" if each == 80 else " "
        lines += [gap.join(parts), gap.join(bars)]
    return "\n".join(lines)


_BARS = "▁▂▃▄▅▆▇█"


def text_of_watch(data: dict[str, Any]) -> str:
    """Each series with its last value, its range and what was not finite."""
    lines = [f"{data['steps']} steps; {data['share']:.1%} of the time was spent looking"]
    if data["every"] > 1:
        lines.append(f"gradients were looked at every {data['every']} steps, to stay under 2 %")
    if data["clip rate"] is not None:
        lines.append(f"gradients were clipped in {data['clip rate']:.0%} of steps")
    if data["flows left out"]:
        lines.append(f"{data['flows left out']} flows were left out, to stay under 2 %")
    width = max(map(len, data["series"]), default=0)
    for name, series in data["series"].items():
        full = [b for b in series["buckets"] if len(b) > 1]
        bad = sum(b[-1] for b in series["buckets"])
        span = f"{min(b[0] for b in full):.4g} to {max(b[1] for b in full):.4g}" if full else "-"
        lost = f", {bad} values not finite" if bad else ""
        lines.append(f"{name:<{width}}  {series['last']:>10}  {sparkline(series)}  {span}{lost}")
    for name, attached in data["attached"].items():
        own = attached["data"].get("diagnosis")
        told = f": {own}" if own else f": a study of a {attached['kind']}"
        lines.append(f"{name} at step {attached['step'] + 1}{told}")
    return "\n".join(lines)


def sparkline(series: dict[str, Any], most: int = 40) -> str:
    """The means of a series in characters, on a logarithmic scale if it spans powers of ten."""
    buckets = fewer(series["buckets"], most)
    means = [b[2] for b in buckets if len(b) > 1]
    logarithmic = bool(means) and 0 < min(means) < max(means) / 100
    scale = math.log if logarithmic else float
    low, high = (scale(min(means)), scale(max(means))) if means else (0.0, 1.0)
    marks = []
    for bucket in buckets:
        up = (scale(bucket[2]) - low) / ((high - low) or 1.0) if len(bucket) > 1 else None
        empty = " " if up is None else _BARS[int(up * (len(_BARS) - 0.01))]
        marks.append("✗" if bucket[-1] else empty)
    return "".join(marks)
