"""Which loops kernels and products can do, and in which order: the levels of a step's values.

A product comes after the elementwise work that it reads, and what reads a product after that. The
work of one level is one kernel for each shape of axes that its rows have; then follow its products.
A product in which each row has a matrix of its own is the work of a kernel, too.
"""

from __future__ import annotations

from typing import NamedTuple

from ...kernels.machine import Compiler
from ..facts import facts_of
from ..ir import Value, base, is_view
from ..stages import EACH, ONCE, ROWS, ROWS_ONCE, Carry, Distribution, Extent, Pass, Stage
from .windows import (
    Iteration,
    Read,
    Window,
    contiguous,
    iteration,
    iteration_of,
    reads_of,
    window_of,
)


def why_not(stage: Stage, extents: dict[Value, Extent], compiler: Compiler) -> str | None:
    """Why kernels and products cannot do what a stage does; None if they can."""
    inside = {*stage.values, *(carry.before for carry in stage.carries)}
    for value in stage.values:
        if not is_view(value):
            reason = why_not_value(value, extents, compiler, inside)
            if reason is not None:
                return reason
    if not all(grows_in_kernel(value, extents) for value in stage.sums):
        return "sums over time that grow in the loop"
    return None


def grows_in_kernel(value: Value, extents: dict[Value, Extent]) -> bool:
    """Whether a sum over time can grow in the kernel that makes what is added."""
    if is_view(value) or value.name == "concat" or extents[value] is not ROWS:
        return False
    if multiplies_by_one_matrix(value, extents) or value.dtype.kind != "f":
        return False
    return not iteration_of(value, extents).reduces_axes


def why_not_value(
    value: Value, extents: dict[Value, Extent], compiler: Compiler, inside: set[Value]
) -> str | None:
    """Why neither kernel nor product can make a value, in a loop with what is ``inside``."""
    dtypes = {x.dtype.name for x in [value, *value.operands]}
    if not dtypes <= compiler.DTYPES:
        return f"{value.name} of {', '.join(sorted(dtypes))}"
    if extents[value] is not ROWS:
        return f"{value.name} does not go by rows"
    if value.name == "matmul":
        if EACH in (extents[x] for x in value.operands):
            return "a product with a matrix of each step"
        if len(value.shape) == 2 and not multiplies_by_one_matrix(value, extents):
            return f"a product of a view by {value.operands[0].name}"
    elif value.name == "concat":
        if any(x.dtype != value.dtype for x in value.operands):
            return "a concat of several dtypes"
    elif value.name not in ("copied", "copy", *compiler.SUPPORTED):
        return value.name
    for x in value.operands:
        window = window_of(x, extents)
        if is_view(window.owner) and base(x) in inside and extents[x] not in (ONCE, EACH):
            return f"a view by {window.owner.name} of {list(window.owner.operands[0].shape)}"
    return None


def multiplies_by_one_matrix(value: Value, extents: dict[Value, Extent]) -> bool:
    """Whether it is a product with a matrix that all rows share, which has more than a column."""
    if value.name != "matmul":
        return False
    x, y = value.operands
    if extents[y] is not ONCE or len(y.shape) != 2 or extents[x] not in (ROWS, ROWS_ONCE):
        return False
    window = window_of(x, extents)
    if len(x.shape) == 2:
        return window.strides == contiguous(window.shape)
    return window.whole and y.shape[1] > 1


class Schedule:
    """The levels of the values of a step, and which sums add a product to what is there."""

    def __init__(self, stage: Stage, extents: dict[Value, Extent], outside: set[Value]) -> None:
        self.values = [v for v in stage.values if not is_view(v)]
        self.inside = set(self.values)
        self.outside = outside  # what is read elsewhere, too
        self.sums = stage.sums
        self.carried = {c.after for c in stage.carries}
        self._extents = extents
        self.readers: dict[Value, list[Value]] = {v: [] for v in self.values}
        for value in self.values:
            for x in value.operands:
                if base(x) in self.inside:
                    self.readers[base(x)].append(value)
        self.products = {v for v in self.values if multiplies_by_one_matrix(v, extents)}
        self.read_of = {v: reads_of(v, extents) for v in self.values if self._by_kernel(v)}
        self.added: dict[Value, tuple[Value, Value]] = {}  # a sum: what is there, what is added
        self.iterations: dict[Value, Iteration] = {}
        self.level: dict[Value, int] = {}
        self._find_sums()
        self._find_iterations()
        self._find_levels()
        self.addends = {product for _, product in self.added.values()}

    def _by_kernel(self, value: Value) -> bool:
        return value not in self.products and value.name != "concat"

    def window(self, x: Value) -> Window:
        """The elements that an operand has."""
        return window_of(x, self._extents)

    def whole(self, x: Value) -> bool:
        """Whether an operand is all of a value, in its order."""
        window = self.window(x)
        return window.owner.name != "concat" and window.whole

    def is_product(self, value: Value) -> bool:
        """Whether a product with a matrix of all rows makes a value, or adds to it."""
        return value in self.products or value in self.added

    def in_registers(self, reader: Value, read: Read) -> bool:
        """Whether a kernel that makes an operand has it at hand where a value is made of it."""
        mine = self.iterations.get(reader)
        return mine is not None and self.fits_registers(mine, read)

    def fits_registers(self, mine: Iteration, read: Read) -> bool:
        """The same of a reader that a kernel goes over so."""
        made = self.iterations.get(read.owner)
        if made is None or read.first or made.reduces_axes:
            return False
        window = self.window(read.owner)
        own, step = made.along(made.strides(window.strides))
        along, column = mine.along(read.strides)
        if mine.lengths != made.lengths or along != own:
            return False
        return column == step and mine.width == made.width if made.wide else column == 0

    def reads(self, value: Value, owner: Value) -> list[Read]:
        """How a value reads another."""
        found = self.read_of.get(value) or reads_of(value, self._extents)
        rows = [read for read in found if self._extents[read.x] not in (ONCE, EACH)]
        return [read for read in rows if read.owner is owner]

    def reads_in_registers(self, reader: Value, owner: Value) -> bool:
        """Whether a value reads another only where the kernel that makes both has it."""
        return all(self.in_registers(reader, read) for read in self.reads(reader, owner))

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
        owner = self.window(part).owner
        made = owner in self.inside and not self.is_product(owner)
        alike = [n for n in owner.shape if n != 1] == [n for n in part.shape if n != 1]
        return owner if made and alike and self.whole(part) else None

    def overwrites(self, carry: Carry) -> bool:
        """Whether all reads of a state come before it is written, so that it needs one place."""
        written, writer = self.level[carry.after], carry.after
        product = self.is_product(writer)
        if writer in self.added and self.left_by_kernel(writer):
            writer = self.window(self.added[writer][0]).owner
            written, product = self.level[writer], False  # a kernel leaves it there
        if writer.name == "concat":
            return False
        for value in self.values:
            for read in self.reads(value, carry.before):
                level = self.level[value]
                if self.is_product(value):  # reads after the kernel of its level
                    if value is carry.after or not product or level >= written:
                        return False
                elif level > written:
                    return False
                elif level == written and not product:
                    copied = iteration(read.x.shape[1:])  # into a concat
                    mine = copied if value.name == "concat" else self.iterations[value]
                    if not self.fits_registers(mine, read._replace(owner=writer)):
                        return False  # an element is not read where it is written
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
                if alone and product in self.products and fits and self._extents[rest] is ROWS:
                    self.added[value] = (rest, product)
                    break

    def _find_iterations(self) -> None:
        """Whether a kernel has columns of a value, or a number of it at each index of an axis.

        What is made of the numbers that sums over columns give stays where they are, unless it
        takes long: vectors are quicker.
        """
        for value in self.values:
            if not self._by_kernel(value) or value in self.added:
                continue
            wide = self.iterations[value] = iteration_of(value, self._extents)
            if value.name in ("sum", "max", "matmul") or not facts_of(value.name).cheap:
                continue
            reads, matches = self.read_of[value], []
            for each in (wide, wide.by_number()):
                self.iterations[value] = each
                matches.append(sum(self.in_registers(value, read) for read in reads))
            if matches[0] >= matches[1]:
                self.iterations[value] = wide

    def _find_levels(self) -> None:
        level = self.level
        for value in self.values:
            if value in self.added:
                rest, product = self.added[value]
                level[value] = max(level[product], self._after(rest, value))
            else:
                by_rows = [x for x in value.operands if self._extents[x] not in (ONCE, EACH)]
                level[value] = max([self._after(x, value) for x in by_rows], default=0)
        for value in self.values[::-1]:  # as late as its readers allow, if nothing else needs it
            free = not self.is_product(value) and value not in self.outside
            if free and value not in self.carried and self.readers[value]:
                latest = min(self._latest(value, reader) for reader in self.readers[value])
                level[value] = max(level[value], latest)

    def _after(self, x: Value, reader: Value) -> int:
        """The first level at which a value may read x."""
        owner = self.window(x).owner
        if owner not in self.inside:
            return 0
        if self.is_product(owner):
            return self.level[owner] + int(not self.merges(owner, reader))
        return self.level[owner] + int(not self._at_hand(owner, reader, x))

    def _at_hand(self, owner: Value, reader: Value, x: Value) -> bool:
        """Whether what a kernel makes is there for a reader of the same level."""
        if reader in self.products:
            return True
        if reader.name == "concat" or reader in self.added:
            return self.owner_in_kernel(x) is not None  # the kernel puts it there
        return self.reads_in_registers(reader, owner)

    def _latest(self, value: Value, reader: Value) -> int:
        """The last level at which a value is there for one that reads it."""
        xs = [x for x in reader.operands if base(x) is value]
        return self.level[reader] - int(not all(self._at_hand(value, reader, x) for x in xs))


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
