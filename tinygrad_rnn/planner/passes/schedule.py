"""Which loops kernels and products can do, and in which order: the levels of a step's values.

A product comes after the elementwise work that it reads, and what reads a product after that. The
work of one level is one kernel; then follow its products.
"""

from __future__ import annotations

from typing import NamedTuple

from ...kernels.machine import Compiler
from ..ir import Value, base, elements, is_view
from ..stages import EACH, ONCE, ROWS, Carry, Distribution, Extent, Pass, Stage
from .slices import find_slice


class Columns(NamedTuple):
    """Columns of a value: what a view of it looks at."""

    owner: Value
    first: int
    width: int


def width_of(value: Value) -> int:
    """How many columns a value of rows has; 1 broadcasts."""
    return elements(value.shape[1:])


def columns_of(x: Value, extents: dict[Value, Extent]) -> Columns | None:
    """The columns that a value of rows has, looking through views; None for another view."""
    if not is_view(x) or extents[x] in (ONCE, EACH):
        return Columns(x, 0, width_of(x))
    viewed = x.operands[0]
    inner = columns_of(viewed, extents)
    if inner is None or x.name == "reshape":
        return inner
    if x.name == "broadcast_to":
        return inner if inner.width in (1, width_of(x)) else None
    if x.name == "getitem" and inner.width == width_of(viewed):
        place = find_slice(x.parameters["key"], viewed.shape)
        if place is not None and place[0] == -1 and elements(viewed.shape[1:-1]) == 1:
            return Columns(inner.owner, inner.first + place[1], place[2] - place[1])
    return None


def why_not(stage: Stage, extents: dict[Value, Extent], compiler: Compiler) -> str | None:
    """Why kernels and products cannot do what a stage does; None if they can."""
    if stage.sums:
        return "sums over time that grow in the loop"
    for value in stage.values:
        if not is_view(value):
            reason = _why_not(value, extents, compiler)
            if reason is not None:
                return reason
    return None


def _why_not(value: Value, extents: dict[Value, Extent], compiler: Compiler) -> str | None:
    dtypes = {x.dtype.name for x in [value, *value.operands]}
    if not dtypes <= compiler.DTYPES:
        return f"{value.name} of {', '.join(sorted(dtypes))}"
    if extents[value] is not ROWS:
        return f"{value.name} does not go by rows"
    if value.name == "matmul":
        if len(value.shape) != 2 or extents[value.operands[1]] is not ONCE:
            return "a product of more than two axes, or with a varying matrix"
    elif value.name == "concat":
        if value.parameters["axis"] != -1 or len(value.shape) != 2:
            return "a concat along another axis than the last of two"
        if any(x.dtype != value.dtype for x in value.operands):
            return "a concat of several dtypes"
    elif value.name in ("sum", "max"):
        if value.parameters["axis"] != (-1,) or len(value.operands[0].shape) != 2:
            return f"{value.name} over other axes than the last of two"
    elif value.name not in compiler.SUPPORTED and value.name != "copied":
        return value.name
    reasons = (_why_not_beside(value, x, extents) for x in value.operands)
    return next(filter(None, reasons), None)


def _why_not_beside(value: Value, x: Value, extents: dict[Value, Extent]) -> str | None:
    """Why an operand does not fit its value."""
    width = width_of(value)
    if extents[x] in (ONCE, EACH):
        if elements(x.shape) in (1, width) or (value.name == "matmul" and extents[x] is ONCE):
            return None
        return f"{value.name} with {list(x.shape)}" + " of each step" * (extents[x] is EACH)
    columns = columns_of(x, extents)
    if columns is None:
        return f"a view by {x.name} of {list(x.operands[0].shape)}"
    if value.primitive.kind != "elementwise":  # it reads each column for itself
        fits = columns.width == width_of(x)
        return None if fits else f"{value.name} of a number for all of {list(x.shape)}"
    aligned = columns.width == width and len(x.shape) == len(value.shape)
    return None if columns.width == 1 or aligned else f"{value.name} with {list(x.shape)}"


class Schedule:
    """The levels of the values of a step, and which sums add a product to what is there."""

    def __init__(self, stage: Stage, extents: dict[Value, Extent], outside: set[Value]) -> None:
        self.values = [v for v in stage.values if not is_view(v)]
        self.inside = set(self.values)
        self.outside = outside  # what is read elsewhere, too
        self.carried = {c.after for c in stage.carries}
        self._extents = extents
        self.readers: dict[Value, list[Value]] = {v: [] for v in self.values}
        for value in self.values:
            for x in value.operands:
                if base(x) in self.inside:
                    self.readers[base(x)].append(value)
        self.added: dict[Value, tuple[Value, Value]] = {}  # a sum: what is there, what is added
        self.level: dict[Value, int] = {}
        self._find_sums()
        self._find_levels()
        self.addends = {product for _, product in self.added.values()}

    def columns(self, x: Value) -> Columns:
        """The columns that an operand has; there are some in a stage that kernels can do."""
        found = columns_of(x, self._extents)
        assert found is not None
        return found

    def whole(self, x: Value) -> bool:
        """Whether an operand is all columns of a value, which a register can hold."""
        columns = self.columns(x)
        return columns.owner.name != "concat" and columns.width == width_of(columns.owner)

    def is_product(self, value: Value) -> bool:
        """Whether a product makes a value, or adds to it."""
        return value.name == "matmul" or value in self.added

    def reads(self, value: Value, owner: Value) -> list[Value]:
        """The operands by which a value reads columns of another."""
        by_rows = [x for x in value.operands if self._extents[x] is ROWS]
        return [x for x in by_rows if self.columns(x).owner is owner]

    def merges(self, product: Value, reader: Value) -> bool:
        """Whether a sum's first part is a product into the same place."""
        first = reader in self.added and self.added[reader][0] is product
        alone = self.readers[product] == [reader] and product not in self.outside
        return first and alone and self.is_product(product)

    def whole_sum(self, value: Value) -> Value:
        """The sum that a sum of products goes on into, in one place."""
        while further := [s for s in self.readers[value] if self.merges(value, s)]:
            value = further[0]
        return value

    def left_by_kernel(self, value: Value) -> bool:
        """Whether what a product is added to is left in its place by the kernel that makes it."""
        return self.owner_in_kernel(self.added[value][0]) is not None

    def owner_in_kernel(self, part: Value) -> Value | None:
        """What a kernel makes that is an operand of a concat: it can put it there, too."""
        owner = self.columns(part).owner
        made = owner in self.inside and not self.is_product(owner)
        return owner if made and self.whole(part) else None

    def overwrites(self, carry: Carry) -> bool:
        """Whether all reads of a state come before it is written, so that it needs one place."""
        written = self.level[carry.after]
        product = self.is_product(carry.after)
        if carry.after in self.added and self.left_by_kernel(carry.after):
            rest = self.columns(self.added[carry.after][0]).owner
            written, product = self.level[rest], False  # a kernel leaves it there
        if carry.after.name == "concat":
            return False
        for value in self.values:
            for x in self.reads(value, carry.before):
                level = self.level[value]
                if self.is_product(value):  # reads after the kernel of its level
                    if value is carry.after or not product or level >= written:
                        return False
                elif level > written or (level == written and not product and not self.whole(x)):
                    return False
        return True

    def _find_sums(self) -> None:
        """Sums of which a product is an operand: it is added to what is there already."""
        for value in self.values:
            if value.name != "add" or len(value.operands) != 2 or len(value.shape) != 2:
                continue
            for product, rest in (value.operands, value.operands[::-1]):
                alone = product in self.inside and self.readers[product] == [value]
                alone = alone and product not in self.outside and product not in self.carried
                fits = product.shape == value.shape == rest.shape and rest is not product
                if alone and product.name == "matmul" and fits and self._extents[rest] is ROWS:
                    self.added[value] = (rest, product)
                    break

    def _find_levels(self) -> None:
        level = self.level
        for value in self.values:
            if value in self.added:
                rest, product = self.added[value]
                level[value] = max(level[product], self._after(rest, value))
            else:
                by_rows = [x for x in value.operands if self._extents[x] is ROWS]
                level[value] = max([self._after(x, value) for x in by_rows], default=0)
        for value in self.values[::-1]:  # as late as its readers allow, if nothing else needs it
            free = not self.is_product(value) and value not in self.outside
            if free and value not in self.carried and self.readers[value]:
                latest = min(self._latest(value, reader) for reader in self.readers[value])
                level[value] = max(level[value], latest)

    def _after(self, x: Value, reader: Value) -> int:
        """The first level at which a value may read x."""
        owner = self.columns(x).owner
        if owner not in self.inside:
            return 0
        later = self.is_product(owner) and not self.merges(owner, reader)
        by_kernel = reader.name != "matmul"
        return self.level[owner] + int(later or (by_kernel and not self.whole(x)))

    def _latest(self, value: Value, reader: Value) -> int:
        """The last level at which a value is there for one that reads it."""
        apart = not all(map(self.whole, self.reads(reader, value)))
        return self.level[reader] - int(apart and reader.name != "matmul")


class Scheduled(NamedTuple):
    """The loops that are for kernels, and why others are not."""

    schedules: dict[Stage, Schedule]
    reasons: list[str]


def schedule_loops(distribution: Distribution, compiler: Compiler) -> Scheduled:
    """The loops of both passes that kernels can do."""
    found = Scheduled({}, [])
    for part in distribution.passes:
        readers = part.readers()
        for number, stage in enumerate(part.stages):
            if not stage.loop:
                continue
            outside = {v for v, stages in readers.items() if stages - {number}}
            reason = why_not(stage, distribution.extents, compiler)
            if reason is None:
                schedule = Schedule(stage, distribution.extents, outside)
                reason = _why_not_late(part, stage, schedule)
            if reason is None:
                found.schedules[stage] = schedule
            else:
                found.reasons.append(reason)
    return found


def _why_not_late(part: Pass, stage: Stage, schedule: Schedule) -> str | None:
    """Rows that come in late have no array of all states."""
    late = part.late and not all(keeps_latest(carry, schedule) for carry in stage.carries)
    return "rows that come in late, of a state that others read" if late else None


def keeps_latest(carry: Carry, schedule: Schedule) -> bool:
    """Whether only the latest of a state is kept, in one place."""
    return not {*carry} & schedule.outside and schedule.overwrites(carry)
