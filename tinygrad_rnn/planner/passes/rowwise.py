"""Work on rows in one pass over memory: what kernels do outside of loops.

A row is what lies along the last axis. Elementwise operations, sums and maxima over a row, an
element of it that an index picks or is put at, and random draws are instructions of a kernel: it
loads a row, keeps what lies between in registers, stores what others read, and goes on to the next
row. ``fuse_rows`` cuts the work of a function into such kernels and the operations around them, as
few of both as their order allows.

The subtle point is what the backward pass is given. To compute a row again takes less time than to
store it and read it back, so nothing of the size of a row is held for what kernels can compute from
the arguments: only numbers of which a row has one, such as its maximum and its sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ...graph import TABLE
from ...kernels.machine import Compiler
from ..facts import copied, facts_of, full
from ..ir import Graph, Shape, Table, Value, base, elements, is_view, reshape
from ..stages import Distribution, Pass, Rows, Stage
from .slices import constant, find_slice

_LANES, _MOST, _ENOUGH = 16, 1024, 64  # columns of rows that are cut anew, and rows enough not to

SMALL = 2**12
"""Elements of the largest operand below which NumPy is done before a kernel is called."""

WIDEST = 2**17
"""Columns of a row: what waits for a sum of the row does so on the stack of a thread."""


class Read(NamedTuple):
    """Where a kernel finds an operand: columns of each row of ``owner``, or of its only row."""

    owner: Value
    first: int
    width: int
    every: bool = False  # the same for all rows
    spread: Shape | None = None  # a number for each row, once it is broadcast to this shape


def width_in(shape: Shape, rows: int) -> int | None:
    """How many columns an array of so many rows has; None if it has others."""
    count = elements(shape)
    if count == rows:
        return 1
    return shape[-1] if shape and shape[-1] > 1 and count == rows * shape[-1] else None


def locate(x: Value, rows: int) -> Read | None:
    """Where rows of a value are, looking through views; None if it has not so many."""
    if elements(x.shape) == 1 != rows:
        return Read(x, 0, 1, every=True)
    width = width_in(x.shape, rows)
    if width is None:
        return None
    return (_through(x, rows) if is_view(x) else None) or Read(x, 0, width)


def _through(x: Value, rows: int) -> Read | None:
    """The columns that a view looks at; None if it has memory of its own once it is copied."""
    viewed = x.operands[0]
    inner = locate(viewed, rows)
    if x.name == "reshape":
        same = width_in(viewed.shape, rows) == width_in(x.shape, rows)
        return inner if same or elements(x.shape) == 1 else None
    if x.name == "broadcast_to":
        number = inner is not None and elements(viewed.shape) in (1, rows)
        if number and (viewed.shape[-1:] == (1,) or elements(viewed.shape) == 1):
            return inner
        once = viewed.shape[-1:] == (elements(viewed.shape),)
        return Read(viewed, 0, x.shape[-1], every=True) if once else None
    if x.name == "getitem" and inner is not None and not inner.every:
        place = find_slice(x.parameters["key"], viewed.shape)
        if place is not None and place[0] == -1 and inner.width == viewed.shape[-1]:
            return Read(inner.owner, inner.first + place[1], place[2] - place[1])
    return None


class Rowwise:
    """What kernels can compute of some values: ``rows`` says of which, and how many rows they have.

    Those are no views, which kernels look through.
    """

    def __init__(self, values: Iterable[Value], compiler: Compiler) -> None:
        self._compiler = compiler
        made = [v for v in values if v.source is None and not is_view(v)]
        met = [x for v in made for x in (v, *v.operands)]
        self._counts = {elements(x.shape[:-1]) for x in met if x.shape and x.shape[-1] > 1}
        self.rows: dict[Value, int] = {}
        for value in made:
            rows = self._rows_of(value)
            if self._fits(value, rows):
                self.rows[value] = rows

    def cheap(self, value: Value) -> bool:
        """Whether to compute it again costs no more than to store it and read it.

        To store what is true or false takes a byte, and to draw a number again longer than that.
        """
        if value.dtype.kind == "b" and any(x.name == "draw" for x in value.operands):
            return False
        by_element = value in self.rows and value.primitive.kind == "elementwise"
        return facts_of(value.name).cheap or by_element

    def _rows_of(self, value: Value) -> int:
        """How many rows it has: as many as elements if those are numbers of somebody's rows."""
        if value.primitive.kind == "reduction":
            return elements(value.operands[0].shape[:-1])
        count = elements(value.shape)
        return count if count in self._counts else elements(value.shape[:-1])

    def _fits(self, value: Value, rows: int) -> bool:
        """Whether an instruction of a kernel computes it."""
        name, dtypes = value.name, self._compiler.DTYPES
        if value.dtype.name not in dtypes or not elements(value.shape):
            return False
        if max(x.shape[-1] if x.shape else 1 for x in [value, *value.operands]) > WIDEST:
            return False
        if rows == 1:  # of which elements are all that matters
            of = value.operands[0] if name == "sum" else value
            if elements(of.shape) == 1 or name == "max" or value.primitive.kind == "indexing":
                return False
        if name in ("take_along_axis", "add_along_axis"):
            x, index, *values = value.operands
            picks = value.parameters["axis"] == -1 == -index.shape[-1] and x.dtype.name in dtypes
            if not picks or elements(index.shape) != rows or width_in(x.shape, rows) != x.shape[-1]:
                return False
            numbers = [x] * (x.primitive is not full) + values
            return all(operand_of(y, value, rows) for y in numbers)
        if any(x.dtype.name not in dtypes for x in value.operands):
            return False
        if name in ("sum", "max"):
            (x,), axes = value.operands, value.parameters["axis"]
            found = locate(x, rows)
            if found is None or found.every or found.width != x.shape[-1] or found.width == 1:
                return False
            return axes == (-1,) or (name == "sum" and -1 in axes)
        converts = name == "astype" or value.primitive is copied
        if not converts and not (
            value.primitive.kind == "elementwise" and name in self._compiler.SUPPORTED
        ):
            return False
        return all(operand_of(x, value, rows) for x in value.operands)

    def reads(self, value: Value) -> list[Read]:
        """Where a kernel that computes a value finds its operands, in their order."""
        rows = self.rows[value]
        return [r for x in value.operands if (r := operand_of(x, value, rows)) is not None]


def operand_of(x: Value, value: Value, rows: int) -> Read | None:
    """Where a kernel finds an operand of a value; None if it is nowhere in the value's rows."""
    reduces = value.primitive.kind == "reduction" or value.name == "take_along_axis"
    width = x.shape[-1] if reduces and x.dtype.kind != "i" else width_in(value.shape, rows)
    if width is None:
        return None
    count = elements(x.shape)
    if width > 1 and x.shape[-1:] == (width,) and count == width and rows != 1:
        return Read(x, 0, width, every=True)
    found = locate(x, rows)
    if x.dtype.kind == "i" or count == 1:
        return found
    if width == 1:
        return found if count == rows else Read(x, 0, 1, spread=value.shape)
    if found is not None and (count == rows * width or (count == rows and x.shape[-1] == 1)):
        return found
    return Read(x, 0, 1, spread=(*value.shape[:-1], 1)) if x.shape[-1] == 1 else None


# What is known of single elements of rows.


def pick_early(graph: Graph) -> Graph:
    """Elements of what is computed from rows, computed from elements of these instead."""
    return graph.rebuild(_pick_early)


def _pick_early(table: Table, value: Value, inputs: tuple[Any, ...]) -> Value | None:
    if value.name != "take_along_axis" or value.parameters["axis"] != -1:
        return None
    x, index = inputs
    return _pick(table, x, index, value.shape)


def _pick(table: Table, x: Value, index: Value, shape: Shape) -> Value:
    """``take_along_axis(x, index)``, of this shape."""
    by_element = x.source is None and x.primitive.kind == "elementwise"
    if not by_element or index.shape[-1] != 1 or x.shape[:-1] != index.shape[:-1]:
        return table.value(TABLE["take_along_axis"], x, index, axis=-1)
    picked: list[Any] = []
    for y in x.inputs:
        if isinstance(y, Value) and y.shape == x.shape[-1:]:
            y = table.value(TABLE["broadcast_to"], y, shape=x.shape)
        if not isinstance(y, Value) or y.shape in ((), index.shape):
            picked.append(y)
        elif y.shape == x.shape:
            picked.append(_pick(table, y, index, shape))
        else:
            return table.value(TABLE["take_along_axis"], x, index, axis=-1)
    return table.again(x, tuple(picked))


def sum_places(graph: Graph) -> Graph:
    """The sum of a row with one number in it as that number; with its sign changed, likewise."""
    return graph.rebuild(_sum_places)


def _sum_places(table: Table, value: Value, inputs: tuple[Any, ...]) -> Value | None:
    if value.name != "sum" or value.parameters["axis"] != (-1,):
        return None
    x: Value = inputs[0]
    if x.name == "negative":
        negated = table.value(TABLE["sum"], x.inputs[0], **value.parameters)
        return table.value(
            TABLE["negative"], _sum_places(table, negated, negated.inputs) or negated
        )
    if x.name == "add_along_axis" and x.parameters["axis"] == -1 and constant(x.inputs[0]) == 0:
        values = x.operands[2]
        if values.shape == (*x.shape[:-1], 1):
            return reshape(table, values, value.shape)
    return None


# Where rows are cut.


def fuse_rows(distribution: Distribution, compiler: Compiler) -> Distribution:
    """Both passes of a function, with kernels for what they can do."""
    for part in distribution.passes:
        stages = [[s] if s.loop else _Cut(s, part, compiler).stages() for s in part.stages]
        part.stages[:] = [stage for each in stages for stage in each]
    return distribution


def drawn_in_kernels(distribution: Distribution) -> frozenset[int]:
    """The draws that are made where they are read, in kernels only."""
    made: dict[int, bool] = {}
    for part in distribution.passes:
        for stage in part.stages:
            for x in {base(x) for value in stage.values for x in value.operands}:
                if x.source is not None and x.name == "draw":
                    fits = stage.rows is not None and can_draw(x, stage.rows)
                    made[x.source.index] = made.get(x.source.index, True) and fits
        for x in map(base, part.results):
            if x.source is not None and x.name == "draw":
                made[x.source.index] = False
    return frozenset(index for index, fits in made.items() if fits)


class _Cut:
    """A stage, cut into kernels and what lies between them."""

    def __init__(self, stage: Stage, part: Pass, compiler: Compiler) -> None:
        # Views are looked through, and constants are part of a kernel.
        self.values = [v for v in stage.values if not is_view(v)]
        self.place = {value: i for i, value in enumerate(self.values)}
        self.rowwise = Rowwise(stage.values, compiler)
        self.fused = dict(self.rowwise.rows)
        self.results = {base(x) for x in part.results}
        self.readers: dict[Value, list[Value]] = {v: [] for v in self.values}
        for value in self.values:
            for x in dict.fromkeys(map(base, value.operands)):
                self.readers.setdefault(x, []).append(value)

    def stages(self) -> list[Stage]:
        """In order; numbers that no row meets are no work for a kernel."""
        while True:
            self._release()
            clusters: dict[tuple[int, int], list[Value]] = {}
            for value, level in self._levels().items():
                clusters.setdefault((level, self.fused.get(value, 0)), []).append(value)
            again, unfit, stages = self._again(), list[Value](), list[Stage]()
            for level, count in sorted(clusters):
                values = self._complete(clusters[level, count], again)
                rows = self._rows(count, values) if count and values else None
                if count and values and rows is None:
                    unfit += clusters[level, count]
                elif values:
                    stages.append(Stage(values, rows=rows, again=frozenset(again)))
            if not unfit:
                return stages
            for value in unfit:
                del self.fused[value]

    def _release(self) -> None:
        """Numbers that other operations wait for need not wait for a kernel, if none makes them."""
        for value in self.values:
            rows = self.fused.get(value)
            made = any(x in self.fused for x in map(base, value.operands))
            asked = any(reader not in self.fused for reader in self.readers[value])
            if rows and width_in(value.shape, rows) == 1 and asked and not made:
                del self.fused[value]

    def _again(self) -> set[Value]:
        """Whole rows that only kernels read, and can make of what is there in any case."""
        found: set[Value] = set()
        for value in self.values:
            rows, later = self.fused.get(value), self.readers[value]
            if rows is None or value in self.results or not self.rowwise.cheap(value):
                continue
            by_kernels = all(value in self._in_registers(reader) for reader in later)
            at_hand = all(x in found or self._is_stored(x, rows) for x in map(base, value.operands))
            if later and by_kernels and at_hand and (width_in(value.shape, rows) or 1) > 1:
                found.add(value)
        return found

    def _is_stored(self, x: Value, rows: int) -> bool:
        """Whether what a kernel reads is in memory, or will be if one asks for it."""
        made = x in self.fused and x not in self.results and self.rowwise.cheap(x)
        return not made or elements(x.shape) <= rows

    def _complete(self, values: list[Value], again: set[Value]) -> list[Value]:
        """The values of a kernel, with what it computes again, and without what it need not."""
        needed = [v for v in values if v not in again]
        for value in needed:
            needed += [x for x in map(base, value.operands) if x in again and x not in needed]
        return sorted(needed, key=self.place.__getitem__)

    def _rows(self, count: int, values: Sequence[Value]) -> Rows | None:
        """The rows of a kernel, cut anew where only elements matter; None if it has too few."""
        if max(elements(x.shape) for v in values for x in (v, *v.operands)) < SMALL:
            return None
        reads = [read for value in values for read in self.rowwise.reads(value)]
        made = [v.operands[0] if is_total(v, count) else v for v in values]
        size = elements(made[0].shape)
        by_element = (
            all(v.shape == made[0].shape for v in made)
            and all(elements(r.owner.shape) in (1, size) and not r.spread for r in reads)
            and all(v.primitive.kind == "elementwise" or not is_partial(v, count) for v in values)
        )
        if by_element and (count <= _ENOUGH or made[0].shape[-1] % _LANES):
            draws = [r.owner.shape for r in reads if r.owner.name == "draw"]
            return _cut_anew(size, math.gcd(size, *[elements(shape[1:]) for shape in draws]))
        wide = any((width_in(x.shape, count) or 1) > 1 for v in values for x in (v, *v.operands))
        return Rows(count) if wide and count > 1 else None

    def _levels(self) -> dict[Value, int]:
        """When each value is computed: by kernels at odd levels, by other operations at even ones.

        As late as what reads it, if that does so in registers.
        """
        level: dict[Value, int] = {}
        for value in self.values:
            if value.primitive is full and self._only_in_kernels(value):
                continue
            own = value in self.fused
            here, found = self._in_registers(value), int(own)
            for x in map(base, value.operands):
                if x in level:
                    found = max(found, level[x] + (x not in here and (own or x in self.fused)))
            level[value] = found + (found % 2 != own)
        for value in self.values[::-1]:
            later = self.readers[value]
            read = all(value in self._in_registers(reader) for reader in later)
            if value in self.fused and value not in self.results and later and read:
                level[value] = min(level[reader] for reader in later)
        return {value: level[value] for value in self.values if value in level}

    def _only_in_kernels(self, value: Value) -> bool:
        return value not in self.results and all(r in self.fused for r in self.readers[value])

    def _in_registers(self, value: Value) -> set[Value]:
        """The operands that a kernel need not load if it computes them, too."""
        rows = self.fused.get(value)
        if rows is None or value.name == "take_along_axis":
            return set()
        here, loaded = set[Value](), set[Value]()
        for x in value.operands:
            r = operand_of(x, value, rows)
            if (
                r is not None
                and self.fused.get(r.owner) == rows
                and not (r.every or r.spread or r.first or is_total(r.owner, rows))
                and r.width == width_in(r.owner.shape, rows)
            ):
                here.add(r.owner)
            else:
                loaded.add(base(x))
        return here - loaded


def _cut_anew(size: int, whole: int) -> Rows:
    """So many elements as rows that are a part of each ``whole``."""
    for step in (_LANES, 1):
        found = [c for c in range(_LANES, _MOST + 1, step) if whole % c == 0]
        if found:
            return Rows(size // found[-1], found[-1])
    return Rows(size // whole, whole)


def is_total(value: Value, rows: int) -> bool:
    """Whether it is a sum over rows as well, of which a kernel makes a part for each row."""
    return value.name == "sum" and (rows == 1 or value.parameters["axis"] != (-1,))


def is_partial(value: Value, rows: int) -> bool:
    """Whether it is something else than elementwise, or the sum of all elements."""
    return not is_total(value, rows) or len(value.parameters["axis"]) < len(value.operands[0].shape)


def can_draw(draw: Value, rows: Rows) -> bool:
    """Whether a kernel can make the random numbers of a draw: its rows begin with a whole block."""
    (count, columns), shape = rows, draw.shape
    if not shape or (draw.parameters["draw"].low, draw.parameters["draw"].high) != (0, 1):
        return False
    width = columns or width_in(shape, count)
    whole = elements(shape[1:])
    return width is not None and (width == whole or (whole % width == 0 == width % 4))
