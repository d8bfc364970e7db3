"""A graph as text: a line for each operation, a block for each loop."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from .view import Thing, view_of

_MOST = 500_000  # lines that are written


def text_of_graph(data: dict[str, Any]) -> str:
    """The graph in the order of computation; a value of the step before is ``h[t-1]``."""
    drawn = count(data["items"])
    if drawn > _MOST:
        raise ValueError(
            f"to_text: {drawn:,} operations are too many to list (at most {_MOST:,}); "
            "to_text(inspect.fold(y)) shows a loop once"
        )
    leaves, things = view_of(data)
    rows = [(0, thing, f"{thing.name} = leaf") for thing in leaves]
    rows += list(_rows(things, 0))
    texts = [" " * (2 * depth) + text for depth, _, text in rows]
    width = min(
        max((len(t) for t, row in zip(texts, rows, strict=True) if _plain(row[1])), default=0), 64
    )
    metas = max((len(thing.meta) for _, thing, _ in rows), default=0)
    lines = []
    for text, (_, thing, _) in zip(texts, rows, strict=True):
        if not _plain(thing) or not text.strip():
            lines.append(text)
            continue
        notes = [f"keeps {thing.keeps}"] if thing.keeps else []
        notes += [f"next {name}" for name in thing.after]
        notes += [thing.stage] if thing.stage else []
        notes += [place_of(thing.line)] if thing.line else []
        lines.append(f"{text:<{width}}  {thing.meta:<{metas}}  {'; '.join(notes)}".rstrip())
    return "\n".join(lines)


def place_of(line: str) -> str:
    """The file and number of a line, without the folder and the text: ``cell.py:8``."""
    return ":".join(os.path.basename(line.split(": ")[0]).split(":")[:2])


def _plain(thing: Thing) -> bool:
    return not thing.is_loop


def _rows(things: Sequence[Thing], depth: int) -> Iterator[tuple[int, Thing, str]]:
    for thing in things:
        if not thing.is_loop:
            call = (
                f"{thing.operation}({', '.join(thing.arguments)})"
                if thing.arguments
                else thing.operation
            )
            yield depth, thing, f"{thing.name} = {call}"
            continue
        yield (
            depth,
            thing,
            f"{thing.name} {thing.title}" if thing.operation == "loop" else thing.title,
        )
        for note in thing.notes:
            yield depth + 1, thing, f"# {note}"
        yield from _rows(thing.inside, depth + 1)


def count(items: Sequence[dict[str, Any]]) -> int:
    """How many operations are drawn."""
    total = 0
    for item in items:
        if "kinds" in item:
            total += sum(count(kind["items"]) for kind in item["kinds"])
        else:
            total += count(item["items"]) if "items" in item else 1
    return total
