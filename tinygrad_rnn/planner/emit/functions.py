"""One function of a program: its arguments, its stages one after the other, what it returns."""

from __future__ import annotations

import re
from functools import partial

import numpy as np

from ...kernels.ir import STORES, Kernel, Loop
from ..facts import called, facts_of, full
from ..ir import Value, elements, hashable, is_view, writes_into
from ..passes.schedule import Schedule
from ..passes.slices import parts_of
from ..runtime.functions import over_time, product_into
from ..stages import EACH, ROWS, ROWS_ONCE, Stage, states_of
from .kernels import Lowering
from .loops import LoopWriter
from .rowwise import RowLowering
from .sums import write_total
from .text import key_text
from .writer import Line, Writer, returns_operand


class FunctionWriter(Writer):
    """The function of a pass; ``loops`` are those that are for kernels."""

    in_time = True  # it goes over steps

    def write(self, schedules: dict[Stage, Schedule], loops: list[Loop]) -> str:
        """The text of the function; what it calls as ``loop_0``, ... is added to ``loops``."""
        d, backwards = self.distribution, self.part.backwards
        fourth = "states" if self.in_time else "calls"
        arguments = f"steps, pool, xs, {fourth}, captured, scalars, constants, draws"
        arguments += ", held, dys, dstates" * backwards
        self._take_arguments()
        for stage in self.part.stages:
            if stage in schedules:
                self._call_loop(stage, schedules[stage], loops)
            elif stage.loop:
                LoopWriter(self, stage).write()
            elif stage.rows is not None:
                RowLowering(self, stage, set(self.storage.places)).write(loops)
            else:
                self._write_all_steps(stage)
        if backwards:
            pairs = zip(d.graph.dstates, d.graph.asked, strict=True)
            ends = ["None" if not asked or v is None else self._final(v) for v, asked in pairs]
            outputs = ["None" if v is None else self.over_steps(v) for v in d.graph.dxs]
            rest = [write_total(self, terms) for terms in d.totals]
        else:
            outputs = [self.over_steps(v) for v in d.graph.ys]
            ends = [self._final(v) for v in d.graph.states]
            rest = [self.over_steps(v) for v in d.residuals]
            states = [] if d.backward is None else states_of(d.backward)
            rest += [self.array(self.storage.places[v].memory) for v in states]
        parts = [f"[{', '.join(part)}]" for part in (outputs, ends, rest)]
        self.line(f"return {', '.join(parts)}")
        if not self.in_time:
            self.lines = _let_go(self.lines)
        name = "backward" if backwards else "forward"
        return "\n".join([f"def {name}({arguments}):", *self.lines])

    def _take_arguments(self) -> None:
        """Name what the function is given."""
        d = self.distribution
        if self.part.backwards and self.in_time:
            self.line("back = steps.backwards")
        for value in self.part.needs:
            if value.source is not None and value.source.kind not in ("state", "dstate"):
                kind, index = value.source
                plural = {"captured": "captured", "dy": "dys"}.get(kind, f"{kind}s")
                hint = {"captured": "w", "scalar": "number", "draw": "drawn"}.get(kind, kind)
                self._take(value, hint, f"{plural}[{index}]")
        if self.part.backwards:
            for i, value in enumerate([*d.residuals, *states_of(self.part)]):
                self._take(value, value.name if value.source is None else "h", f"held[{i}]")

    def _take(self, value: Value, hint: str, expression: str) -> None:
        name = self.arrays[self.storage.places[value].memory] = self.name(hint)
        self.line(f"{name} = {expression}")

    def _call_loop(self, stage: Stage, schedule: Schedule, loops: list[Loop]) -> None:
        """One call of machine code."""
        lowering = Lowering(self, stage, schedule)
        loop = lowering.lower()
        order = "last step to first" if self.part.backwards else "first step to last"
        self.line(f"# Machine code, {order}: {_describe(loop)}")
        self.line(
            f"loop_{len(loops)}([{', '.join(lowering.arrays)}], steps.table, None, threads())"
        )
        loops.append(loop)

    def _write_all_steps(self, stage: Stage) -> None:
        for value in stage.values:
            if is_view(value):
                continue
            if value.name == "concat" and self.extents[value] is ROWS:
                self._join(value)
            elif self.storage.places[value].memory.kind != "result":
                self._compute(value, self.over_steps(value))
            else:
                self._compute(value, None)

    def _operands(self, value: Value) -> list[str]:
        """The operands of a value, all with rows if it has and some have not."""
        beside = any(self.extents[x] in (ROWS_ONCE, EACH) for x in value.operands)
        mixed = beside and self.extents[value] is ROWS
        return list(map(partial(self.with_rows, value) if mixed else self.operand, value.inputs))

    def _join(self, whole: Value) -> None:
        """Copy the operands of a concat that are not computed in it."""
        name = self.over_steps(whole)
        for (part, key), operand in zip(parts_of(whole), self._operands(whole), strict=True):
            if not self.storage.is_part(part, whole, key):
                self.line(f"{name}[{key_text(key)}] = {operand}")

    def _compute(self, value: Value, out: str | None) -> None:
        """Write the line that computes a value, into ``out`` or as an array of its own."""
        if self.extents[value] is EACH:
            expression = self._over_time(value)
        else:
            operands = self._operands(value)
            if out is not None:
                whole = self.storage.places[value].key is None
                dot = self.product(value) if whole else None
                return self.compute(value, operands, out, self.line, dot)
            expression = self.expression(value, operands)
        if out is None:
            name = self.arrays[self.storage.places[value].memory] = self.name(value.name)
            return self.line(f"{name} = {expression}", value)
        return self.line(f"{out}[...] = {expression}", value)

    def _over_time(self, value: Value) -> str:
        """A primitive on operands of which some have an axis of time in front."""
        batched = self.constant("over_time", over_time)
        primitive = self.constant(f"{value.name}_primitive", value.primitive)
        flags = [isinstance(x, Value) and self.extents[x] is EACH for x in value.inputs]
        arrays = ", ".join(self.operand(x) for x in value.inputs)
        call = f"{batched}({primitive}, {flags}, {arrays}{self.options(value)})"
        return call + (f"[{value.output}]" if value.output is not None else "")

    def _final(self, value: Value) -> str:
        """A state after the last step."""
        before = next(c.before for c in self.part.carries if c.after is value)
        latest = self.storage.latest.get(before)
        if latest is not None:
            return self.array(latest)
        final = f"{self.steps}.final({self.array(self.storage.places[before].memory)})"
        return final if self.by_rows(before) else f"{final}[0]"


def _let_go(lines: list[str]) -> list[str]:
    """The lines, with arrays let go of after the last one that names them."""
    made = {found[1] for line in lines if (found := _MADE.match(line))}
    last = {name: i for i, line in enumerate(lines) for name in _NAME.findall(line) if name in made}
    gone: dict[int, list[str]] = {}
    for name, i in last.items():
        if i < len(lines) - 1:
            gone.setdefault(i, []).append(name)
    return [
        text
        for i, line in enumerate(lines)
        for text in ([line, f"    del {', '.join(gone[i])}"] if i in gone else [line])
    ]


_GIVEN = "xs|calls|captured|scalars|constants|draws|held|dys"
_MADE = re.compile(rf"    (\w+) = (?!(?:{_GIVEN})\[)")
_NAME = re.compile(r"[A-Za-z_]\w*")

_LITTLE = 2**16  # bytes of an array of one number that a program keeps


class WholeWriter(FunctionWriter):
    """The function of a pass of one step, where each value is an array that there is once."""

    in_time = False

    def _operands(self, value: Value) -> list[str]:
        """The operands of a value; what is broadcast to its shape is left to NumPy."""
        if not (facts_of(value.name).ufunc and writes_into(value)):
            return list(map(self.operand, value.inputs))
        wide = [x.name == "broadcast_to" if isinstance(x, Value) else False for x in value.inputs]
        pairs = zip(value.inputs, wide, strict=True)
        return [self.operand(x.inputs[0] if w else x) for x, w in pairs]  # type: ignore[union-attr]

    def compute(
        self, value: Value, operands: list[str], out: str, line: Line, dot: str | None
    ) -> None:
        """One operation on arrays, into ``out``; products as everywhere outside of loops."""
        if value.name != "matmul":
            return super().compute(value, operands, out, line, dot)
        x, y = value.operands
        if dot is not None and len(x.shape) > 2 == len(y.shape) and elements(y.shape):
            operands = [f"{operands[0]}.reshape(-1, {y.shape[0]})", operands[1]]
            out = f"{out}.reshape(-1, {y.shape[1]})"
        made = self.constant("product_into", product_into)
        return line(f"{made}(np, {', '.join(operands)}, {out})", value)

    def expression(self, value: Value, operands: list[str]) -> str:
        """An operation that makes an array of its own; one of several outputs is done once."""
        little = value.primitive is full and value.bytes <= _LITTLE
        if little and self.context.backend.name == "numpy":
            array = np.full(value.shape, value.parameters["number"], value.dtype)
            array.flags.writeable = False
            return self.constant("filled", array)
        if value.output is None:
            return super().expression(value, operands)
        if value.primitive is called:
            call, *given = operands
            made = f"{call}.{value.parameters['method']}([{', '.join(given)}])"
        else:
            made = self.apply(value, operands)
        first = value.primitive, value.inputs, hashable(value.parameters)
        part = f"{self.once(first, value.name, made)}[{value.output}]"
        return f"np.array({part})" if returns_operand(value) else part

    def over_steps(self, value: Value) -> str:
        """The array of a value, which may be in scratch memory."""
        if is_view(value):
            return self.once(("view", value), value.name, self.view(value, self.over_steps))
        place = self.storage.places[value]
        name = self.array(place.memory)
        if place.key is None:
            return name
        return self.once(("part", value), f"{value.name}_part", f"{name}[{key_text(place.key)}]")

    def _write_all_steps(self, stage: Stage) -> None:
        for value in stage.values:
            if value.name == "concat":
                self._join(value)
            elif not is_view(value):
                makes_own = self.storage.places[value].memory.kind in ("result", "local")
                self._compute(value, None if makes_own else self.over_steps(value))


def _describe(loop: Loop) -> str:
    """What a loop does at each step."""
    parts = []
    for statement in loop.statements:
        if isinstance(statement, Kernel):
            moves = ("load", "constant", *STORES)
            work = [i.name for i in statement.instructions if i.name not in moves]
            axes = "".join(f"{length} x " for length in statement.lengths)
            each = f" at each of {axes.removesuffix(' x ')} places" if axes else ""
            parts.append(f"a kernel of {len(work)} operations{each}")
        else:
            rows = f" of {statement.times} rows each" if statement.times > 1 else ""
            sizes = f"{statement.a.width} x {statement.out.width}"
            parts.append(f"a product with {sizes}{rows}")
    return ", ".join(parts)
