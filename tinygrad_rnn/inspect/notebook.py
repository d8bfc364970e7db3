"""What notebooks show of a Tensor, a Module and a Plan: small, without scripts, names escaped."""

from __future__ import annotations

import math
from collections import Counter
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

from ..nn.module import Module
from ..planner.plan import Plan
from ..tensor import Tensor, backend_of
from .capture import has_values, why_no_value
from .markup import details, table

SAMPLED = 1_000_000  # elements above which a Tensor is sampled
_POINTS = 64  # of a sparkline
_ROWS = 100  # of a table
_BYTES = 18_000  # of a text


def html_of(x: Any) -> str:
    """The HTML of a Tensor, a Module or a Plan."""
    if isinstance(x, Tensor):
        return _tensor(x)
    if isinstance(x, Module):
        return _module(x)
    return _plan(x)


def _tensor(x: Tensor) -> str:
    kind = f"{type(x).__name__} {x.dtype} {tuple(x.shape)}"
    if not has_values(x):
        return f"<div><code>{escape(kind)}</code>: no values; {escape(why_no_value(x))}</div>"
    notes = [] if x.backend == "numpy" else [f"on {x.backend}"]
    notes += ["requires grad"] if x.requires_grad else []
    values, sampled = _sample(x)
    if values.dtype.kind in "iuf" and values.size:
        finite = values
        if values.dtype.kind == "f" and not np.isfinite(values.sum(dtype=np.float64)):
            finite = values[np.isfinite(values)]
            lost = int(np.isnan(values).sum())
            notes += [f"{lost} nan"] if lost else []
            lost = values.size - finite.size - lost
            notes += [f"{lost} inf"] if lost else []
        if finite.size:
            mean = finite.mean(dtype=np.float64)
            notes.append(f"from {finite.min():.4g} to {finite.max():.4g}, mean {mean:.4g}")
    if sampled:
        notes.append(f"of a sample of {values.size:,} of {x.size:,} elements")
    head = f"<code>{escape(kind)}</code> {escape('; '.join(notes))}"
    shown = "" if values.size <= 1 else sparkline(values)
    body = escape(_values(x))
    return f"<div>{head} {shown}{details('values', f'<pre>{body}</pre>')}</div>"


def _values(x: Tensor) -> str:
    return np.array2string(
        x.numpy() if x.size <= 1000 else _corner(x), separator=", ", threshold=200
    )


def _corner(x: Tensor) -> Any:
    """The first few entries along each axis, so that little is copied to the host."""
    cut = tuple([slice(0, 6)] * min(x.ndim, 3) + [0] * max(x.ndim - 3, 0))
    return backend_of(x).to_host(x._array[cut])


def _sample(x: Tensor) -> tuple[Any, bool]:
    """The elements, or of many every so-manieth row of them."""
    if x.size <= SAMPLED:
        return x.numpy().reshape(-1), False
    array, left = x._array, SAMPLED // 16
    keys = []
    for n in x.shape:
        keys.append(slice(None, None, max(1, math.ceil(n / left))))
        left = max(1, left // math.ceil(n / (keys[-1].step or 1)))
    return backend_of(x).to_host(array[tuple(keys)]).reshape(-1), True


def sparkline(values: Any, width: int = 128, height: int = 18) -> str:
    """A small curve of values in order, each point the mean of some; nan and inf are marks."""
    data = np.asarray(values).reshape(-1)
    edges = np.linspace(0, data.size, min(_POINTS, data.size) + 1).astype(int)
    means, marks = [], []
    for n, (b, e) in enumerate(pairwise(edges)):
        mean = float(data[b:e].mean(dtype=np.float64))
        if not math.isfinite(mean):
            finite = data[b:e][np.isfinite(data[b:e])]
            mean = float(finite.mean(dtype=np.float64)) if finite.size else math.nan
            marks.append(n)
        means.append(mean)
    known = [m for m in means if m == m]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    span = (high - low) or 1.0
    step = width / max(len(means) - 1, 1)
    points = " ".join(
        f"{n * step:.1f},{height - 2 - (m - low) / span * (height - 4):.1f}"
        for n, m in enumerate(means)
        if m == m
    )
    lost = "".join(
        f'<rect x="{n * step - 1:.1f}" y="0" width="2" height="{height}" fill="#d33"/>'
        for n in marks
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img" '
        f'aria-label="the values in order">{lost}<polyline points="{points}" fill="none" '
        f'stroke="currentColor"/></svg>'
    )


def _module(module: Module) -> str:
    parameters = list(module.named_parameters())
    total = sum(p.size for _, p in parameters)
    rows = [
        (name, f"{p.dtype} {tuple(p.shape)}", f"{p.size:,}", "" if p.requires_grad else "frozen")
        for name, p in parameters[:_ROWS]
    ]
    if len(parameters) > _ROWS:
        rows.append((f"... and {len(parameters) - _ROWS} more", "", "", ""))
    kinds = Counter(type(m).__name__ for m in module.modules())
    head = f"<code>{escape(type(module).__name__)}</code> {total:,} parameters"
    inside = ", ".join(f"{n} {name}" if n > 1 else name for name, n in kinds.items())
    body = f"<pre>{escape(_cut(repr(module), _BYTES // 3))}</pre>"
    body += table(rows, ("parameter", "", "elements", "")) if rows else ""
    return f"<div>{head}; {escape(_cut(inside, 400))}{details('what it holds', body)}</div>"


def _plan(plan: Plan) -> str:
    report = f"<pre>{escape(_cut(plan.report(), _BYTES // 2))}</pre>"
    source = f"<pre>{escape(_cut(plan.source, _BYTES // 2))}</pre>"
    head = f"<code>Plan</code> {escape(str(plan))}"
    return f"<div>{head}{details('report', report)}{details('program', source)}</div>"


def _cut(text: str, most: int) -> str:
    """A text of at most so many characters once it is escaped."""
    if len(escape(text)) <= most:
        return text
    kept = text[: most // 2]
    while len(escape(kept)) > most - 40:
        kept = kept[: len(kept) * 3 // 4]
    return kept + f"\n... ({len(text):,} characters in all)"
