"""What is different where loops run as machine code: fewer and larger pieces of work per step.

Two passes on the graph, then one on the stages. Sums are put in order so that products come first:
one product can add to another's result. Slices are pushed through elementwise operations: the gates
of a cell are then work on equally wide rows, which one kernel does. And elementwise work beside a
loop is fused into it, where its operands are in the cache. What multiplies matrices that each row
has once, as attention to a memory does, is a loop by itself where none is beside it: for all steps
at once, the matrices would have to be repeated.

A loop is one piece, so nothing may be fused into it that depends on what itself depends on the
loop.
"""

from __future__ import annotations

from typing import Any

from ...graph import TABLE
from ...kernels.machine import Compiler
from ..ir import Graph, Number, Table, Value, base, is_view, users
from ..stages import ROWS_ONCE, Distribution, Pass, Stage
from .schedule import grows_in_kernel, multiplies_by_one_matrix, why_not_value
from .slices import find_slice, take_slice
from .windows import is_irregular


def is_product(value: Value | Number) -> bool:
    """Whether a value is a product of matrices, or a sum of nothing but such."""
    if not isinstance(value, Value) or value.source is not None:
        return False
    if value.name == "add":
        return all(is_product(x) for x in value.inputs)
    return value.name == "matmul" and len(value.shape) == 2


def put_products_first(graph: Graph) -> Graph:
    """(x @ W + b) + h @ U as (x @ W + h @ U) + b: products first, the rest in a kernel."""
    values = graph.values()
    used, results = users(values), set(graph.results)

    def inside(value: Value) -> bool:  # of a sum that is used nowhere else
        return value.name == "add" and len(used[value]) == 1 and value not in results

    def rule(table: Table, value: Value, inputs: tuple[Any, ...]) -> Value | None:
        if value.name != "add" or any(
            not isinstance(x, Value) or x.shape != value.shape for x in inputs
        ):
            return None
        parts: list[Value] = []
        for old, new in zip(value.operands, inputs, strict=True):
            apart = inside(old) and new.name == "add" and not is_product(new)
            parts += new.operands if apart and len(new.operands) == 2 else [new]
        products = [x for x in parts if is_product(x) and x.shape == value.shape]
        rest = [x for x in parts if x not in products]
        if len(products) < 2 or not rest:
            return None
        total, *others = [*products, *rest]
        for x in others:
            total = table.value(TABLE["add"], total, x)
        return total

    return graph.rebuild(rule)


def push_slices(graph: Graph) -> Graph:
    """Slices pushed through elementwise operations, down to what has to be stored as a whole."""
    return graph.rebuild(_push_slice)


def _push_slice(table: Table, value: Value, inputs: tuple[Any, ...]) -> Value | None:
    if value.name != "getitem" or len(inputs) != 1 or len(value.shape) != len(inputs[0].shape):
        return None
    place = find_slice(value.parameters["key"], inputs[0].shape)
    return None if place is None else _push_slice_of(table, inputs[0], *place)


def _push_slice_of(table: Table, x: Value, axis: int, start: int, stop: int) -> Value | None:
    if x.source is not None or x.primitive.kind != "elementwise" or is_product(x):
        return take_slice(table, x, axis, start, stop)
    inputs: list[Value | Number] = []
    for operand in x.inputs:
        shape = operand.shape if isinstance(operand, Value) else ()
        if len(shape) < -axis or shape[axis] == 1 != x.shape[axis]:
            inputs.append(operand)
            continue
        part = _push_slice_of(table, operand, axis, start, stop)  # type: ignore[arg-type]
        if part is None:
            return None
        inputs.append(part)
    return table.again(x, tuple(inputs))


def copy_irregular(graph: Graph) -> Graph:
    """What is to have another shape and is not in order, as heads are not, is copied before."""
    return graph.rebuild(_copy_irregular)


def _copy_irregular(table: Table, value: Value, inputs: tuple[Any, ...]) -> Value | None:
    if value.name != "reshape":
        return None
    made = table.again(value, inputs)
    source = base(made).source
    given = source is not None and source.kind in ("captured", "constant", "scalar")
    if given or not is_irregular(made):  # of what is given, a copy is made beside the loop
        return None
    return table.again(value, (table.value(TABLE["copy"], inputs[0]),))


def fuse_into_loops(distribution: Distribution, compiler: Compiler) -> Distribution:
    """Fuse elementwise work into the loops beside it, in both passes, as far as kernels hold it."""
    for part in distribution.passes:
        _Fusion(distribution, part, compiler).run()
    return distribution


class _Fusion:
    def __init__(self, distribution: Distribution, part: Pass, compiler: Compiler) -> None:
        self.distribution = distribution
        self.part = part
        self.compiler = compiler
        self.stage_of = {v: stage for stage in part.stages for v in stage.values}
        self.place = {v: i for i, v in enumerate(distribution.graph.values())}
        self.carried = {carry.after for carry in part.carries}
        self.made_by = dict(part.carries)
        self.used: dict[Value, set[Value]] = {}
        for value in self.stage_of:
            if not is_view(value):
                for x in value.operands:
                    self.used.setdefault(base(x), set()).add(value)

    def run(self) -> None:
        loops = [stage for stage in self.part.stages if stage.carries]
        for loop in loops:
            self._users_of(loop)
            self._made_for(loop)
        self.part.stages[:] = [x for stage in self.part.stages for x in self._cut(stage)]
        self.part.stages[:] = [stage for stage in self.part.stages if stage.values]

    def _fits(self, value: Value) -> bool:
        stage, extents = self.stage_of[value], self.distribution.extents
        return (
            not stage.carries
            and value not in self.carried
            and len(value.shape) > 1
            and (value not in stage.sums or grows_in_kernel(value, extents))
            and not multiplies_by_one_matrix(value, extents)
            and why_not_value(value, extents, self.compiler, {*self.stage_of}) is None
        )

    def _has_matrices(self, value: Value) -> bool:
        """Whether it is made of matrices that each row has once."""
        extents = self.distribution.extents
        return any(extents[x] is ROWS_ONCE and len(x.shape) > 2 for x in value.operands)

    def _cut(self, stage: Stage) -> list[Stage]:
        """A stage in parts, of which some go step by step."""
        if stage.loop or not any(self._has_matrices(v) and self._fits(v) for v in stage.values):
            return [stage]
        before, inside, after = Stage([]), Stage([], by_step=True), Stage([])
        where: dict[Value, Stage] = {}
        for value in stage.values:
            # The state before a step is there once all after one are.
            made_of = [where.get(self.made_by.get(base(x), base(x))) for x in value.operands]
            fits = not is_view(value) and self._fits(value)
            if after in made_of:
                where[value] = after
            elif fits and (inside in made_of or self._has_matrices(value)):
                where[value] = inside
            else:
                where[value] = after if inside in made_of else before
        outside = {base(x) for x in self.part.results}
        for value in stage.values[::-1]:  # what nothing but these reads
            readers = self.used.get(value, set())
            alone = readers and all(where.get(user) is inside for user in readers)
            if where[value] is before and alone and value not in outside and self._fits(value):
                where[value] = inside
        for value in stage.values:
            where[value].values.append(value)
            self.stage_of[value] = where[value]
        return [before, inside, *self._cut(after)]

    def _move(self, value: Value, loop: Stage) -> None:
        stage = self.stage_of[value]
        stage.values.remove(value)
        if value in stage.sums:
            stage.sums.remove(value)
            loop.sums.append(value)
        loop.values.append(value)
        loop.values.sort(key=self.place.__getitem__)
        self.stage_of[value] = loop

    def _made_for(self, loop: Stage) -> None:
        """Values that nothing but the loop reads: computed there instead of before it.

        Those that are made with matrices of each row may be read after it, too.
        """
        outside = {base(x) for x in self.part.results}
        number = self.part.stages.index(loop)
        before = [s for s in self.part.stages[:number] if not s.loop]
        later = {id(stage) for stage in self.part.stages[number + 1 :]}
        made_with: set[Value] = set()
        for value in (value for stage in before for value in stage.values):
            if self._has_matrices(value) or any(base(x) in made_with for x in value.operands):
                made_with.add(value)
        for stage in before[::-1]:
            for value in stage.values[::-1]:
                if is_view(value) or not self._fits(value):
                    continue
                readers = {self.stage_of[user] for user in self.used.get(value, ())}
                if value in made_with:
                    readers = {s for s in readers if id(s) not in later}
                elif value in outside:
                    continue
                if readers == {loop}:
                    self._move(value, loop)

    def _users_of(self, loop: Stage) -> None:
        """Values made of the loop's and of nothing later: computed there instead of after it."""
        later = self.part.stages[self.part.stages.index(loop) + 1 :]
        after: set[Value] = set()
        for stage in later:
            for value in list(stage.values):
                bases = [base(x) for x in value.operands]
                inside = any(self.stage_of.get(b) is loop for b in bases)
                # The state before a step is there once the one after it is.
                late = any(self.made_by.get(b, b) in after for b in bases)
                if is_view(value):
                    continue
                loop_of_its_own = bool(stage.carries or stage.by_step)
                if loop_of_its_own or not inside or late or not self._fits(value):
                    after.add(value)
                else:
                    self._move(value, loop)
