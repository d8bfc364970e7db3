"""Where things go in a drawing: layers by what reads what, and few crossings within a layer.

Sugiyama's method in its plainest form: the layer of a thing is one below the lowest that it reads
(loop edges aside, which go back), and within a layer things are ordered by the mean place of their
neighbours, swept up and down a few times. A loop is laid out by itself, as a box of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .view import Thing

CHARACTER, LINE = 6.6, 15.0  # the size of a character of the drawing
_GAP, _BETWEEN, _MARGIN = 14.0, 26.0, 12.0
_SWEEPS = 4
_WIDEST = 42  # characters


@dataclass
class Box:
    """A thing at its place; what is in a loop is placed relative to the drawing, too."""

    thing: Thing
    lines: list[str]
    width: float
    height: float
    x: float = 0.0
    y: float = 0.0
    inside: list[Box] = field(default_factory=list)

    def move(self, dx: float, dy: float) -> None:
        """Shift it and all that is in it."""
        self.x += dx
        self.y += dy
        for box in self.inside:
            box.move(dx, dy)


def laid_out(things: Sequence[Thing]) -> tuple[list[Box], float, float]:
    """Boxes for things, and the width and height that they take."""
    boxes = [_box(thing) for thing in things]
    owner: dict[Thing, int] = {}
    for i, box in enumerate(boxes):
        for thing in _all(box.thing):
            owner[thing] = i
    reads: list[set[int]] = [set() for _ in boxes]
    for i, box in enumerate(boxes):
        for thing in _all(box.thing):
            for read, edge in thing.reads:
                j = owner.get(read)
                if j is not None and j != i and edge != "carried":
                    reads[i].add(j)
    layers = _layers(reads)
    _order(layers, reads)
    width = max((_width(layer, boxes) for layer in layers), default=0.0)
    y = 0.0
    for layer in layers:
        x = (width - _width(layer, boxes)) / 2
        for i in layer:
            boxes[i].move(x, y)
            x += boxes[i].width + _GAP
        y += max(boxes[i].height for i in layer) + _BETWEEN
    return boxes, width, max(y - _BETWEEN, 0.0)


def _all(thing: Thing) -> list[Thing]:
    return [thing, *(each for inner in thing.inside for each in _all(inner))]


def _box(thing: Thing) -> Box:
    if thing.is_loop:
        inside, width, height = laid_out(thing.inside)
        lines = [short(thing.title, 90), *(short(note, 90) for note in thing.notes)]
        top = LINE * len(lines) + _MARGIN
        for box in inside:
            box.move(_MARGIN, top)
        wide = max(map(len, lines)) * CHARACTER
        box = Box(thing, lines, max(width, wide) + 2 * _MARGIN, height + top + _MARGIN)
        box.inside = inside
        return box
    call = (
        f"{thing.operation}({', '.join(thing.arguments)})" if thing.arguments else thing.operation
    )
    lines = [short(f"{thing.name} = {call}", _WIDEST), short(thing.meta, _WIDEST)]
    width = max(map(len, lines)) * CHARACTER + 2 * 6
    return Box(thing, lines, width, LINE * len(lines) + 8)


def short(text: str, most: int) -> str:
    """A text that is not longer than so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _layers(reads: Sequence[set[int]]) -> list[list[int]]:
    """Things by layer; they come in the order of computation, so what is read comes before."""
    depth = [0] * len(reads)
    for i, read in enumerate(reads):
        depth[i] = max([depth[j] + 1 for j in read if j < i], default=0)
    found: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
    for i, d in enumerate(depth):
        found[d].append(i)
    return found


def _order(layers: list[list[int]], reads: Sequence[set[int]]) -> None:
    """Order each layer by the mean place of neighbours, down and up a few times."""
    readers: list[set[int]] = [set() for _ in reads]
    for i, read in enumerate(reads):
        for j in read:
            readers[j].add(i)
    place = {i: float(n) for layer in layers for n, i in enumerate(layer)}
    for sweep in range(_SWEEPS):
        neighbours = reads if sweep % 2 == 0 else readers
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            mean = {
                i: sum(place[j] for j in neighbours[i]) / len(neighbours[i])
                if neighbours[i]
                else place[i]
                for i in layer
            }
            layer.sort(key=mean.__getitem__)
            place.update({i: float(n) for n, i in enumerate(layer)})


def _width(layer: Sequence[int], boxes: Sequence[Box]) -> float:
    return sum(boxes[i].width for i in layer) + _GAP * (len(layer) - 1)
