"""The program of a plan: Python that one can read, for NumPy or, by the same name, CuPy.

Two functions, ``forward`` and ``backward``, are written line by line from the stages of a
``Distribution``. What is computed for all steps is one line; a recurrence is a ``for`` loop whose
values live in arrays over all steps, if something else reads them, and otherwise in scratch memory
that the steps share. Every operation that can writes into planned memory (``out=``).

The subtle thing is who owns memory. A view (a slice, a transpose, another shape) owns none, and
whoever asks about its uses asks about those of what it looks at. The parts of a ``concat`` are
computed in their places in it. A result may overwrite an operand in scratch memory that nothing
reads later; memory that others read is never written twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from typing import Any

import numpy as np

import tinygrad_rnn_backends as backends

from ...graph import TABLE
from ...kernels.ir import Kernel, Loop
from ...primitives.indexing import ARRAY
from ..ir import NUMBERS, Number, Value, along, base, is_view
from ..passes.distribute import Distribution, Pass, Stage, Term, contraction, read_by
from ..passes.rows import EACH, MERGED, ONCE, ROWS, ROWS_ONCE
from ..passes.simplify import elements
from .kernels import Lowering, NotNative

_RENAMED = {"abs": "np.absolute", "pow": "np.power", "round": "np.rint"}
UFUNCS = {
    name: _RENAMED.get(name, f"np.{name}")
    for name, primitive in TABLE.items()
    if primitive.kind == "elementwise"
    and (name in _RENAMED or isinstance(getattr(np, name, None), np.ufunc))
}
"""Functions of NumPy that write into ``out``, which may be one of their operands."""


class Program:
    """The source of a plan's two functions, and the constants and primitives that it names."""

    def __init__(
        self, distribution: Distribution, ragged: bool, backend: Any, compiler: Any = None
    ) -> None:
        self.distribution = distribution
        self.backend = backend
        self.compiler = compiler  # the module that compiles loops, if it is to be used
        self.loops: list[Loop] = []
        self.not_native: list[str] = []  # why loops are no machine code
        self.ragged = ragged
        self.given: dict[str, Any] = {}  # what the source names beside its arguments
        forward = _Writer(self, distribution.forward, backwards=False)
        self.source = forward.function("forward", _forward_results(distribution))
        self.residuals = forward.residuals
        if distribution.backward is not None:
            backward = _Writer(self, distribution.backward, backwards=True)
            backward.held(forward)
            self.source += "\n\n" + backward.function("backward", _backward_results(distribution))


def _forward_results(d: Distribution) -> tuple[list[Value | None], list[Value | None]]:
    return list(d.graph.ys), list(d.graph.states)


def _states(values: list[Value]) -> list[Value]:
    return [x for x in values if x.source is not None and x.source.kind == "state"]


def _backward_results(d: Distribution) -> tuple[list[Value | None], list[Value | None]]:
    pairs = zip(d.graph.dstates, d.graph.asked, strict=True)
    return list(d.graph.dxs), [value if asked else None for value, asked in pairs]


class _Writer:
    """One function, being written."""

    def __init__(self, program: Program, part: Pass, backwards: bool) -> None:
        self.program = program
        self.distribution = program.distribution
        self.extents = self.distribution.extents
        self.part = part
        self.backwards = backwards
        self.ragged = program.ragged
        self.lines: list[str] = []
        self.names: dict[Value, str] = {}  # arrays over all steps, or what there is once
        self.states: dict[Value, str] = {}  # by the state before: the array that has all of them
        self.rolling: dict[Value, str] = {}  # likewise: the array (rows, ...) of the latest
        self.counts: dict[str, int] = {}
        self.derived: dict[Any, str] = {}
        self.residuals: list[Value] = []
        self.sums: dict[Value, str] = {}
        self.steps = "back" if backwards else "steps"
        self.read_outside = self._read_outside()

    def _read_outside(self) -> dict[Value, set[int]]:
        """For what owns memory: the stages that read it, -1 for the end of the function."""
        found: dict[Value, set[int]] = {}
        for number, stage in enumerate(self.part.stages):
            for value in stage.values:
                for x in value.operands:
                    found.setdefault(base(x), set()).add(number)
        for value in self._results():
            found.setdefault(base(value), set()).add(-1)
        return found

    def _results(self) -> list[Value]:
        """What is read of all steps at the end; what goes round always leaves the last one."""
        d = self.distribution
        if not self.backwards:
            states = [] if d.backward is None else _states(d.backward.needs)
            return [*d.graph.ys, *d.residuals, *states]
        added = {value for stage in self.part.stages for value in stage.sums}
        terms = [term for each in d.totals for term in each or () if term.value not in added]
        dxs = [value for value in d.graph.dxs if value is not None]
        return [*dxs, *(x for term in terms for x in read_by(term))]

    # Names and lines.

    def name(self, hint: str) -> str:
        """A name of a variable that is new."""
        hint = _identifier(hint)
        number = self.counts.get(hint, 0)
        self.counts[hint] = number + 1
        return f"{hint}_{number}" if number or hint in ("x", "steps", "pool", "np") else hint

    def line(self, text: str, value: Value | None = None) -> None:
        self.lines.append("    " + text + ("" if value is None else _at(value)))

    def once(self, key: Any, hint: str, expression: str) -> str:
        """The name of something that is computed when it is first asked for."""
        found = self.derived.get(key)
        if found is None:
            found = self.derived[key] = self.name(hint)
            self.line(f"{found} = {expression}")
        return found

    def constant(self, hint: str, what: Any) -> str:
        """The name of something that the source takes from outside."""
        for name, known in self.program.given.items():
            if known is what:
                return name
        name = _identifier(hint)
        while name in self.program.given:
            name += "_"
        self.program.given[name] = what
        return name

    # The function.

    def function(self, name: str, results: tuple[list[Value | None], list[Value | None]]) -> str:
        arguments = "steps, pool, xs, states, captured, scalars, constants, draws"
        if self.backwards:
            arguments += ", held, dys, dstates"
        self._arguments()
        for number, stage in enumerate(self.part.stages):
            if stage.loop:
                if not self._as_machine_code(stage, number):
                    _LoopWriter(self, stage, number).write()
            else:
                self._all_steps(stage)
        first, second = results
        ys = ", ".join("None" if v is None else self.over_steps(v) for v in first)
        ends = ", ".join("None" if v is None else self._final(v) for v in second)
        tail = self._totals() if self.backwards else self._held()
        self.line(f"return [{ys}], [{ends}], [{tail}]")
        return "\n".join([f"def {name}({arguments}):", *self.lines])

    def _as_machine_code(self, stage: Stage, number: int) -> bool:
        """Write a stage as one call of a native loop, if it can be one."""
        compiler = self.program.compiler
        if compiler is None:
            return False
        kept = ("lines", "names", "states", "rolling", "counts", "derived")
        before = {name: copy(getattr(self, name)) for name in kept}
        lowering = Lowering(self, stage, number, compiler)
        try:
            loop = lowering.lower()
        except NotNative as reason:
            vars(self).update(before)
            self.program.not_native.append(str(reason))
            return False
        name = f"loop_{len(self.program.loops)}"
        self.program.loops.append(loop)
        order = "last step to first" if self.backwards else "first step to last"
        self.line(f"# A recurrence as machine code, {order}: {described(loop)}")
        self.line(f"{name}([{', '.join(lowering.arrays)}], steps.table, None, threads())")
        for value, expression in lowering.after:
            self.names[value] = self.name(value.name)
            self.line(f"{self.names[value]} = {expression}")
        return True

    def _arguments(self) -> None:
        if self.backwards:
            self.line("back = steps.backwards")
        for value in self.part.needs:
            if value.source is None:
                continue
            kind, index = value.source
            if kind in ("state", "dstate"):
                continue
            plural = {"captured": "captured", "dy": "dys"}.get(kind, f"{kind}s")
            hint = {"captured": "w", "scalar": "number", "draw": "drawn"}.get(kind, kind)
            self.names[value] = self.name(hint)
            self.line(f"{self.names[value]} = {plural}[{index}]")

    def _held(self) -> str:
        """What is held for the backward pass, and in which order."""
        backward = self.distribution.backward
        if backward is None:
            return ""
        states = _states(backward.needs)
        self.residuals = [*self.distribution.residuals, *states]
        return ", ".join(
            self.states[x] if x in states else self.over_steps(x) for x in self.residuals
        )

    def held(self, forward: _Writer) -> None:
        """Take what the forward pass held."""
        for i, value in enumerate(forward.residuals):
            name = self.name(value.name if value.source is None else "h")
            self.line(f"{name} = held[{i}]")
            if value.source is None:
                self.names[value] = name
            else:
                self.states[value] = name

    # Values of all steps.

    def over_steps(self, value: Value) -> str:
        """The array of a value over all steps, or of what there is once."""
        found = self.names.get(value)
        if found is not None:
            return found
        if value in self.states:
            owner = "back" if value.source and value.source.kind == "dstate" else "steps"
            array = f"{owner}.all_before({self.states[value]})"
            self.names[value] = self.once(("before", value), "before", array)
            return self.names[value]
        if is_view(value):
            return self.once(("view", value), value.name, self._view(value, self.over_steps))
        raise KeyError(f"{value} is not there yet")

    def operand(self, x: Value | Number) -> str:
        """An operand in a line for all steps."""
        return repr(x) if not isinstance(x, Value) else self.over_steps(x)

    def _view(self, value: Value, operand: Any, step: bool = False) -> str:
        """The expression of a view of an operand over all steps, or at one step."""
        x = value.operands[0]
        inner, extent = operand(x), self.extents[value]
        # Arrays without rows have an axis of time in front, unless they are of one step.
        leading = extent is EACH and not step
        rows = extent is ROWS
        if value.name == "getitem":
            key = value.parameters["key"]
            front, rest = (slice(None),) * leading, (...,) * (not value.shape)
            return f"{inner}[{_key((*front, *key, *rest))}]"  # never a number, always an array
        if value.name == "permute_dims":
            axes = value.parameters["axes"]
            if axes == (-1, -2) and len(axes) == 2 and not leading:
                return f"{inner}.T"
            axes = (-len(axes) - 1, *axes) if leading else axes
            return f"{inner}.transpose({', '.join(map(str, axes))})"
        shape = value.shape
        count = f"{inner}.shape[0]"
        text = ", ".join(map(str, shape[1:] if rows or extent is ROWS_ONCE else shape))
        if extent is MERGED:
            text = f"-1, {shape[1]}"
        elif rows or leading or (extent is ROWS_ONCE and self.ragged):
            text = f"{count}, {text}" if text else f"{count},"
        elif extent is ROWS_ONCE:
            text = f"{shape[0]}, {text}" if text else f"{shape[0]},"
        elif len(shape) == 1:
            text += ","
        if value.name == "reshape":
            return f"{inner}.reshape({text or '()'})"
        if leading:
            ones = len(shape) - len(x.shape)
            padded = ", ".join([count, *["1"] * ones, *map(str, x.shape)])
            inner = f"{inner}.reshape({padded})" if ones else inner
        return f"np.broadcast_to({inner}, ({text}))"

    def _all_steps(self, stage: Stage) -> None:
        carried = {c.after: c.before for c in self.part.carries}
        rows = {value for value in stage.values if self.extents[value] is ROWS}
        placed = _placed(stage.values, carried, lambda part, whole: {part, whole} <= rows)
        for value in stage.values:
            if not is_view(value):
                self._one(value, placed, carried)

    def _one(
        self, value: Value, placed: dict[Value, tuple[Value, Any]], carried: dict[Value, Value]
    ) -> None:
        """The line, or lines, that compute a value for all steps."""
        extent = self.extents[value]
        mixed = extent is ROWS and any(self.extents[x] in (ROWS_ONCE, EACH) for x in value.operands)
        out = None
        if value in carried or (value.name == "concat" and extent is ROWS):
            out = self._memory(value, carried)
        if value in placed:
            whole, key = placed[value]
            array = self._memory(whole, carried)
            out = self.names[value] = self.name(value.name)
            self.line(f"{out} = {array}[{self.key_over_steps(whole, key)}]")
        if value.name == "concat" and extent is ROWS:
            for x in value.operands:
                if placed.get(x, (None,))[0] is not value:
                    operand = self._with_rows if mixed else lambda _, x: self.operand(x)
                    self._copy_part(value, x, self.names[value], operand)
            return
        if value not in self.names:
            self.names[value] = self.name(value.name)
        name = self.names[value]
        if extent is not EACH:
            of_rows = partial(self._with_rows, value)
            operands = [of_rows(x) if mixed else self.operand(x) for x in value.inputs]
            self._compute(value, name, operands, out, self.line, allocate=extent is ROWS)
        else:
            self._over_time(value, name, out)

    def key_over_steps(self, value: Value, key: tuple[Any, ...]) -> str:
        """A key for one step of a value, for the array over all steps."""
        return _key((slice(None), *key) if self.extents[value] is EACH else key)

    def _memory(self, value: Value, carried: dict[Value, Value]) -> str:
        """The array over all steps that a value will be in."""
        if value not in self.names:
            name = self.names[value] = self.name(value.name)
            if value in carried:
                self.line(f"{name} = {self.steps}.all_after({self._states(carried[value])})")
            else:
                self._allocate(name, value)
        return self.names[value]

    def _copy_part(self, whole: Value, x: Value, name: str, operand: Any) -> None:
        for part, key in _parts(whole):
            if part is x:
                self.line(f"{name}[{_key(key)}] = {operand(whole, x)}")

    def _over_time(self, value: Value, name: str, out: str | None) -> None:
        """A primitive on operands of which some have an axis of time in front."""
        batched = self.constant("over_time", over_time)
        primitive = self.constant(f"{value.name}_primitive", value.primitive)
        flags = [isinstance(x, Value) and self.extents[x] is EACH for x in value.inputs]
        arrays = ", ".join(self.operand(x) for x in value.inputs)
        options = "".join(f", {k}={self._parameter(p)}" for k, p in value.parameters.items())
        call = f"{batched}({primitive}, {flags}, {arrays}{options})"
        call += f"[{value.output}]" if value.output is not None else ""
        self.line(f"{name} = {call}" if out is None else f"{out}[...] = {call}", value)

    def _with_rows(self, value: Value, x: Value | Number) -> str:
        """An operand beside others that have rows, with rows."""
        if not isinstance(x, Value):
            return repr(x)
        extent = self.extents[x]
        if extent is EACH:
            name = self.once(("spread", x), "spread", f"steps.spread({self.over_steps(x)})")
            inner = x.shape[1:] if len(x.shape) == len(value.shape) else x.shape
            ones = len(value.shape) - 1 - len(inner)
            if not ones:
                shape = ", ".join(["-1", *map(str, inner)])
                return f"{name}.reshape({shape})" if inner != x.shape else name
            shape = ", ".join(["-1", *["1"] * ones, *map(str, inner)])
            return f"{name}.reshape({shape})"
        if extent is ROWS_ONCE:
            return self.once(("repeat", x), "repeated", f"steps.repeated({self.over_steps(x)})")
        return self.over_steps(x)

    def _parameter(self, parameter: Any) -> str:
        """A parameter as an expression; one that has none is named."""
        if parameter is ...:
            return "..."
        if parameter is None or type(parameter) in (bool, int, float, str, slice):
            return repr(parameter)
        if type(parameter) is tuple:
            return f"({''.join(f'{self._parameter(p)}, ' for p in parameter)})"
        return self.constant("parameter", parameter)

    def _allocate(self, name: str, value: Value) -> None:
        extent = self.extents[value]
        leading = {ROWS: "steps.total", EACH: "steps.steps"}.get(extent)
        shape = value.shape[1:] if extent is ROWS else value.shape
        lengths = [leading, *map(str, shape)] if leading else list(map(str, shape))
        text = ", ".join(map(str, lengths))
        self.line(f"{name} = pool.empty(({text},){_dtype(value)})")

    def _compute(
        self,
        value: Value,
        name: str,
        operands: list[str],
        out: str | None,
        line: Any,
        *,
        allocate: bool = False,
    ) -> None:
        """One operation on arrays, into ``out`` if there is one."""
        into = out
        kind = value.name
        direct = writes_into(value)
        if direct and out is None and allocate:
            self._allocate(name, value)
            into = name
        given = ", ".join(operands)
        if into is None or not direct:
            expression = self._expression(value, operands)
            if into is None:
                line(f"{name} = {expression}", value)
            else:
                line(f"{into}[...] = {expression}", value)
        elif kind == "matmul":
            # Contiguous memory is seen as rows of one product; nothing else is written by np.dot.
            x, y = value.operands
            dot = len(y.shape) == 2 and elements(y.shape) > 0 and out is None
            function, result = self.product(value) if dot else "np.matmul(", into
            if dot and len(x.shape) > 2:
                given = f"{operands[0]}.reshape(-1, {y.shape[0]}), {operands[1]}"
                result = f"{into}.reshape(-1, {y.shape[1]})"
            line(f"{function}{given}, out={result})", value)
        elif kind in UFUNCS:
            line(f"{UFUNCS[kind]}({given}, out={into})", value)
        else:
            function = self.constant(f"{kind}_into", _INTO[kind])
            if kind == "astype":
                given = operands[0]
            line(f"{function}(np, {given}, {into})", value)

    def product(self, value: Value) -> str:
        """How the call of a product of two matrices begins: one library's threads for all."""
        if self.program.compiler is not None and value.dtype == "float32":
            return "gemm(threads(), "
        return "np.dot("

    def _expression(self, value: Value, operands: list[str]) -> str:
        """An operation that makes an array of its own."""
        given = ", ".join(operands)
        if value.name == "matmul":
            return f"{operands[0]} @ {operands[1]}"
        if value.name in UFUNCS:
            return f"{UFUNCS[value.name]}({given})"
        if value.name == "full":
            number, shape = value.parameters["number"], value.shape
            rows = self.extents[value] is ROWS_ONCE
            lengths = ["steps.rows", *map(str, shape[1:])] if rows else list(map(str, shape))
            return f"np.full(({''.join(f'{n}, ' for n in lengths)}), {number!r}{_dtype(value)})"
        call = self._applied(value, operands)
        return f"np.array({call})" if _returns_operand(value) else call

    def _applied(self, value: Value, operands: list[str]) -> str:
        """A primitive as it is, whose result may be a view."""
        given = ", ".join(operands)
        primitive = self.constant(f"{value.name}_primitive", value.primitive)
        options = "".join(f", {k}={self._parameter(p)}" for k, p in value.parameters.items())
        backend = self.constant("xp", self.program.backend)
        call = f"{primitive}.forward({backend}, {given}{options})"
        return call + (f"[{value.output}]" if value.output is not None else "")

    # States.

    def _states(self, before: Value) -> str:
        """The array of a state at the start and after each step."""
        found = self.states.get(before)
        if found is None:
            assert before.source is not None
            hint, given = ("dstate", "dstates") if self.backwards else ("state", "states")
            found = self.states[before] = self.name(hint)
            shape = ", ".join(map(str, before.shape[1:] if self._rows(before) else before.shape))
            rows = "steps.total + steps.rows" if self._rows(before) else "steps.steps + 1"
            self.line(f"{found} = pool.empty(({rows}, {shape}){_dtype(before)})")
            self.line(f"{self.steps}.start({found})[...] = {given}[{before.source.index}]")
        return found

    def _rows(self, value: Value) -> bool:
        return self.extents[value] in (ROWS, ROWS_ONCE)

    def _final(self, value: Value) -> str:
        """What goes round, after the last step."""
        before = next(c.before for c in self.part.carries if c.after is value)
        if before in self.rolling:
            return self.rolling[before]
        final = f"{self.steps}.final({self.states[before]})"
        return final if self._rows(before) else f"{final}[0]"

    # Sums over time.

    def _totals(self) -> str:
        found = []
        for index, each in enumerate(self.distribution.totals):
            found.append("None" if each is None else self._total(index, each))
        return ", ".join(found)

    def _total(self, index: int, each: list[Term]) -> str:
        total = ""
        for term in each:
            expression = self._sum(term)
            if not total:
                total = f"-{expression}" if term.negative else expression
            else:
                total = f"{total} {'-' if term.negative else '+'} {expression}"
        if not each:
            return "None"
        name = self.name("dw")
        self.line(f"{name} = {total}")
        return name

    def _sum(self, term: Term) -> str:
        value, kind = term.value, contraction(term.value)
        found = self.sums[value] if value in self.sums else self._contracted(value, kind)
        for movement in term.after:
            names = {movement.inputs[0]: found}
            others = [
                names.get(x) or (self.over_steps(x) if isinstance(x, Value) else repr(x))
                for x in movement.inputs
            ]
            if movement.name == "reshape":
                found = f"{found}.reshape({movement.shape})"
            else:
                found = self._applied(movement, others)
        return found

    def _contracted(self, value: Value, kind: str | None) -> str:
        read = read_by(Term(value, False, ()))
        if any(self.extents[x] is ROWS for x in read):
            arrays = [self._with_rows(value, x) for x in read]
        else:
            arrays = [self.over_steps(x) for x in read]
        if kind == "product":
            once = any(self.extents[x] is ONCE for x in read)  # times the sum of the other
            summed, stacked = "np.add.reduce({}, axis=0)", "{}.reshape(-1, {})"
            flat = [
                (summed if once else stacked).format(a, x.shape[-1])
                if self.extents[x] is EACH
                else a
                for a, x in zip(arrays, read, strict=True)
            ]
            name = self.name("product")
            self.line(f"{name} = pool.empty({value.shape}{_dtype(value)})")
            self.line(f"{self.product(value)}{flat[0]}.T, {flat[1]}, out={name})", value)
            return name
        if kind == "sum":
            x = value.operands[0]
            if self.extents[x] is EACH:
                return f"np.add.reduce({arrays[0]}, axis={(0, *self._shifted(value, x))})" + (
                    "" if not value.parameters["keepdims"] else f".reshape({value.shape})"
                )
            axes = value.parameters["axis"]
            if axes == (-len(x.shape),) and len(x.shape) == 2:
                name = self.name("total")
                self.line(f"{name} = pool.empty((1, {x.shape[-1]}){_dtype(value)})")
                ones = f"np.ones((1, steps.total){_dtype(x)})"
                self.line(f"{self.product(value)}{ones}, {arrays[0]}, out={name})", value)
                return name if value.parameters["keepdims"] else f"{name}[0]"
            keep = value.parameters["keepdims"]
            return f"np.add.reduce({arrays[0]}, axis={axes}, keepdims={keep})"
        if kind == "places":
            zeros = f"np.zeros({value.shape}{_dtype(value)})"
            values, places = arrays
            if self.extents[read[1]] is ONCE is not self.extents[read[0]]:
                values = f"np.add.reduce({values}, axis=0)"  # at the same places at each step
            entries = [places if e is ARRAY else repr(e) for e in value.parameters["key"]]
            backend = self.constant("xp", self.program.backend)
            return f"{backend}.index_add({zeros}, ({', '.join(entries)},), {values})"
        extent = self.extents[value]
        if extent is ROWS:
            return f"steps.added({arrays[0]})"
        if extent is EACH:
            return f"np.add.reduce({arrays[0]}, axis=0)"
        return f"({arrays[0]} * np.asarray(steps.steps{_dtype(value)}))"

    def _shifted(self, value: Value, x: Value) -> tuple[int, ...]:
        return tuple(a + len(x.shape) + 1 for a in value.parameters["axis"])


class _LoopWriter:
    """A stage that goes step by step."""

    def __init__(self, writer: _Writer, stage: Stage, number: int) -> None:
        self.writer = writer
        self.stage = stage
        self.number = number
        self.inside = set(stage.values)
        self.before = {c.before: c for c in stage.carries}
        self.after = {c.after: c for c in stage.carries}
        self.sequences: dict[str, str] = {}  # what the loop goes over: expression -> name of a step
        self.local: dict[Value, str] = {}  # what a value is called within a step
        self.scratch: dict[Value, str] = {}
        self.free: list[tuple[tuple[Any, ...], Any, str]] = []
        self.copies: list[str] = []
        self.body: list[str] = []

    def write(self) -> None:
        writer, values = self.writer, self.stage.values
        carried = {c.after: c.before for c in self.stage.carries}

        def together(part: Value, whole: Value) -> bool:  # not in scratch memory, if others read it
            of_all_steps = carried.get(whole) in writer.states or bool(self._outside(whole))
            return not self._outside(part) or of_all_steps

        self.placed: dict[Value, tuple[Value, Any]] = {}
        self._carries()
        self.placed = _placed(values, carried, together)
        for value in values:
            own = value not in self.placed and value not in writer.names
            if own and not is_view(value) and self._outside(value):
                writer.names[value] = writer.name(value.name)
                writer._allocate(writer.names[value], value)
        for value in self.stage.sums:
            name = writer.sums[value] = writer.name("total")
            writer.line(f"{name} = pool.zeros({value.shape}{_dtype(value)})")
        self.last_use = self._last_uses()
        for place, value in enumerate(values):
            if not is_view(value):
                self._step(value, place)
            if value in self.stage.sums:
                total = writer.sums[value]
                x = self._operand(value)
                rows = f"[:{x}.shape[0]]" if writer.ragged and writer._rows(value) else ""
                self.body.append(f"{total}{rows} += {x}")
            self._release(place)
        self._emit()

    def _carries(self) -> None:
        """Memory for states: of all steps, if something else reads it, else of the latest only."""
        writer = self.writer
        for before, after in self.stage.carries:
            outside = [
                n
                for x in (before, after)
                for n in writer.read_outside.get(x, ())
                if n != self.number
            ]
            everywhere = bool(outside) and not (writer.ragged and writer.backwards)
            if everywhere:
                array = f"{writer.steps}.all_after({writer._states(before)})"
                writer.names[after] = writer.once(("after", after), "after", array)
                continue
            assert before.source is not None
            given = "dstates" if writer.backwards else "states"
            name = writer.rolling[before] = writer.name("carried")
            writer.line(f"{name} = np.array({given}[{before.source.index}], order='C')")
            if writer._rows(before) and writer.ragged:
                self.local[before] = self._over(f"{writer.steps}.rows_of({name})", name)
            else:
                self.local[before] = name
            if before in writer.read_outside and outside:
                self._save(before)

    def _save(self, before: Value) -> None:
        """Keep what is carried for others, where it could not be kept in one array."""
        writer = self.writer
        if any(n != self.number for n in writer.read_outside.get(before, ())):
            name = writer.names[before] = writer.name("kept")
            writer._allocate(name, before)
            step = self._over(self._each(before, name), name)
            self.body.append(f"{step}[...] = {self.local[before]}")

    def _outside(self, value: Value) -> set[int]:
        """Where else a value is read."""
        return self.writer.read_outside.get(value, set()) - {self.number}

    def _over(self, expression: str, hint: str) -> str:
        """The name of one step of a sequence that the loop goes over."""
        found = self.sequences.get(expression)
        if found is None:
            found = self.sequences[expression] = self.writer.name(f"{hint}_t")
        return found

    def _each(self, value: Value, name: str) -> str:
        each = "each" if self.writer._rows(value) or self.writer.extents[value] is ROWS else ""
        return f"{self.writer.steps}.{each or 'each_step'}({name})"

    def _operand(self, x: Value | Number) -> str:
        """An operand within a step."""
        if not isinstance(x, Value):
            return repr(x)
        if x in self.local:
            return self.local[x]
        self.local[x] = found = self._local(x)
        return found

    def _local(self, x: Value) -> str:
        writer, extents = self.writer, self.writer.extents
        owner = base(x)
        if is_view(x) and (owner in self.inside or owner in self.before):
            view = writer._view(x, self._operand, step=True)
            if self._at_one_place(x):
                return writer.once(("scratch", self, x), f"{owner.name}_part", view)
            name = writer.name(f"{x.name}_t")
            self.body.append(f"{name} = {view}")
            return name
        if x in self.before:
            return self._over(self._before_expression(x), writer.states[x])
        if extents[x] is ONCE:
            return self._once(x)
        if extents[x] is ROWS_ONCE:
            name = writer.over_steps(x)
            return self._over(f"{writer.steps}.rows_of({name})", name) if writer.ragged else name
        if x.source is not None and x.source.kind == "state" and x in writer.states:
            name = writer.states[x]
            flipped = "[::-1]" if writer.backwards else ""
            return self._over(f"steps.before({name}){flipped}", name)
        name = writer.over_steps(x)
        return self._over(self._each(x, name), name)

    def _before_expression(self, x: Value) -> str:
        return f"{self.writer.steps}.before({self.writer.states[x]})"

    def _at_one_place(self, x: Value) -> bool:
        """Whether a value, or what a view looks at, is in scratch memory: the same at each step."""
        if not is_view(x):
            return x in self.scratch and not self.writer.ragged
        inner = x.operands[0]  # what is not contiguous would be copied to another shape
        return (x.name != "reshape" or inner in self.scratch) and self._at_one_place(inner)

    def _once(self, x: Value) -> str:
        """What does not vary with time; the transpose of a matrix as a contiguous copy."""
        writer = self.writer
        if x.name == "permute_dims" and x.shape != ():
            inner = writer._view(x, writer.over_steps)
            return writer.once(("copy", x), "turned", f"np.ascontiguousarray({inner})")
        return writer.over_steps(x)

    def _target(self, value: Value) -> tuple[str | None, bool]:
        """Where a value goes within a step, and whether that memory is contiguous."""
        writer = self.writer
        if value in self.placed:
            whole, key = self.placed[value]
            if whole in writer.names:
                place = writer.key_over_steps(whole, key)
                part, hint = f"{writer.names[whole]}[{place}]", f"{value.name}_part"
                name = writer.names[value] = writer.once(("part", value), hint, part)
                return self._over(self._each(whole, name), name), False
            inner = self._scratch(whole)
            part, hint = f"{inner}[{_key(key)}]", f"{value.name}_part"
            if not writer.ragged:
                return writer.once(("part", self, value), hint, part), False
            name = writer.name(f"{value.name}_t")
            self.body.append(f"{name} = {part}")
            return name, False
        if value in writer.names:
            name = writer.names[value]
            return self._over(self._each(value, name), name), True
        if writes_into(value) or value.name == "concat":
            return self._scratch(value), True
        return None, True

    def _scratch(self, value: Value) -> str:
        """Memory that the steps share: some that is free again, or new."""
        found = self.scratch.get(value)
        if found is None:
            writer = self.writer
            shape, dtype = value.shape, value.dtype
            same = [entry for entry in self.free if entry[:2] == (shape, dtype)]
            if same:
                self.free.remove(same[-1])
                memory = same[-1][2]
            else:
                memory = writer.name("scratch")
                rows = "steps.rows" if writer.extents[value] is ROWS else None
                lengths = [rows or str(shape[0]), *map(str, shape[1:])] if shape else []
                text = ", ".join(lengths)
                comma = "," if len(lengths) == 1 else ""
                writer.line(f"{memory} = pool.empty(({text}{comma}){_dtype(value)})")
            self.memory_of[value] = memory
            if writer.ragged and writer.extents[value] is ROWS:
                found = self._over(f"{writer.steps}.rows_of({memory})", memory)
            else:
                found = memory
            self.scratch[value] = found
        return found

    def _last_uses(self) -> dict[Value, int]:
        """For what owns scratch memory, the last place in the order that reads it."""
        self.memory_of: dict[Value, str] = {}
        found: dict[Value, int] = {}
        for place, value in enumerate(self.stage.values):
            for x in [value, *value.operands]:
                owner = base(x)
                while owner in self.placed:
                    owner = self.placed[owner][0]
                found[owner] = place
        return found

    def _release(self, place: int) -> None:
        for value in list(self.memory_of):
            if self.last_use.get(value, -1) <= place:
                memory = self.memory_of.pop(value)
                self.free.append((value.shape, value.dtype, memory))

    def _step(self, value: Value, place: int) -> None:
        """The lines that compute a value within a step."""
        writer = self.writer
        if value.name == "concat":
            self._joined(value)
        else:
            operands = [self._operand(x) for x in value.inputs]
            if value.name in UFUNCS:  # may overwrite what nobody reads any more
                self._release_before(place)
            out, contiguous = self._target(value)
            self.local[value] = out or writer.name(f"{value.name}_t")
            if out is None:
                expression = writer._expression(value, operands)
                self.body.append(f"{self.local[value]} = {expression}{_at(value)}")
            else:
                self._compute(value, out, operands, contiguous)
        carry = self.after.get(value)
        if carry is not None and carry.before in writer.rolling:
            self.copies.append(f"{self.local[carry.before]}[...] = {self.local[value]}")
            if value in self.memory_of:
                self.last_use[value] = len(self.stage.values)

    def _compute(self, value: Value, out: str, operands: list[str], contiguous: bool) -> None:
        writer = self.writer

        def line(text: str, value: Value) -> None:
            self.body.append(text + _at(value))

        if value.name == "matmul" and len(value.shape) == 2 and contiguous:
            line(f"np.dot({', '.join(operands)}, out={out})", value)
        else:
            writer._compute(value, out, operands, out, line)

    def _release_before(self, place: int) -> None:
        """Free operands that are read here for the last time, so that ``out`` may be one."""
        value = self.stage.values[place]
        for x in value.operands:
            if x in self.memory_of and self.last_use[x] == place and x.shape == value.shape:
                memory = self.memory_of.pop(x)
                self.free.append((x.shape, x.dtype, memory))

    def _joined(self, value: Value) -> None:
        """Copy the parts of a concat that were not computed in their places."""
        out, _ = self._target(value)
        assert out is not None
        self.local[value] = out
        for part, key in _parts(value):
            if self.placed.get(part, (None,))[0] is not value:
                self.body.append(f"{out}[{_key(key)}] = {self._operand(part)}")

    def _emit(self) -> None:
        writer = self.writer
        order = "last step to first" if writer.backwards else "first step to last"
        carried = ", ".join(
            writer.states.get(c.before) or writer.rolling[c.before] for c in self.stage.carries
        )
        writer.line(f"# A recurrence, {order}: {carried or 'sums over time'}")
        names, expressions = list(self.sequences.values()), list(self.sequences)
        if not names:
            writer.line("for _ in range(steps.steps):")
        elif len(names) == 1:
            writer.line(f"for {names[0]} in {expressions[0]}:")
        else:
            writer.line(f"for {', '.join(names)} in zip(")
            for expression in expressions:
                writer.line(f"    {expression},")
            writer.line("):")
        for text in [*self.body, *self.copies]:
            writer.line("    " + text)


def described(loop: Loop) -> str:
    """What a loop does at each step."""
    parts = []
    for statement in loop.statements:
        if isinstance(statement, Kernel):
            work = [i.name for i in statement.instructions if i.name not in _NO_WORK]
            parts.append(f"a kernel of {len(work)} operations")
        else:
            parts.append(f"a product with {statement.a.width} x {statement.out.width}")
    return ", ".join(parts)


_NO_WORK = ("load", "store", "constant")


def _identifier(hint: str) -> str:
    return re.sub(r"\W", "_", hint if hint[:1].isalpha() else f"_{hint}")


def _returns_operand(value: Value) -> bool:
    """Whether a primitive may return memory of an operand: it is tried on zeros without memory."""
    kind, of_table = value.primitive.kind, TABLE.get(value.name) is value.primitive
    if of_table and kind not in ("elementwise", "movement"):
        return False
    shapes = [() if kind == "elementwise" else x.shape for x in value.operands]
    zeros = [
        np.broadcast_to(np.zeros((), dtype=x.dtype), shape)
        for x, shape in zip(value.operands, shapes, strict=True)
    ]
    remaining = iter(zeros)
    inputs = [next(remaining) if isinstance(x, Value) else x for x in value.inputs]
    with np.errstate(all="ignore"):
        out = value.primitive.forward(backends.get("numpy"), *inputs, **value.parameters)
    part = out if value.output is None else out[value.output]
    return any(np.may_share_memory(part, x) for x in zeros)


def _at(value: Value) -> str:
    return f"  # {value.line}" if value.line else ""


def writes_into(value: Value) -> bool:
    """Whether an operation can write its result into memory that is given to it."""
    if value.name in ("sigmoid", "relu", "softplus"):  # of integers they are computed otherwise
        return value.operands[0].dtype.kind == "f"
    return value.name in UFUNCS or value.name in _INTO or value.name == "matmul"


def _placed(
    values: list[Value],
    carried: dict[Value, Value],
    together: Callable[[Value, Value], bool],
) -> dict[Value, tuple[Value, Any]]:
    """Which values are computed in their places in a concat: the concat, and the key there."""
    inside = set(values)
    found: dict[Value, tuple[Value, Any]] = {}
    for whole in values:
        if whole.name != "concat":
            continue
        for part, key in _parts(whole):
            own = part in inside and part not in carried and part not in found
            direct = writes_into(part)
            once = whole.operands.count(part) == 1 and part.dtype == whole.dtype
            if own and direct and once and together(part, whole):
                found[part] = (whole, key)
    return found


def _parts(whole: Value) -> Iterator[tuple[Value, tuple[Any, ...]]]:
    """The parts of a concat, and the key of each in it."""
    axis, start = whole.parameters["axis"], 0
    for part in whole.operands:
        stop = start + part.shape[axis]
        yield part, along(axis, len(whole.shape), slice(start, stop))
        start = stop


def _key(key: tuple[Any, ...]) -> str:
    """A basic key as one writes it."""

    def entry(e: Any) -> str:
        if not isinstance(e, slice):
            return "..." if e is ... else repr(e)
        first, last = ("" if x is None else str(x) for x in (e.start, e.stop))
        return f"{first}:{last}" + ("" if e.step is None else f":{e.step}")

    return ", ".join(entry(e) for e in key)


def _dtype(value: Value) -> str:
    return f", np.{value.dtype.name}"


# Operations that NumPy has no function with ``out`` for.


def _sigmoid_into(np: Any, x: Any, out: Any) -> None:
    np.negative(x, out=out)
    np.exp(out, out=out)
    np.add(out, 1, out=out)
    np.reciprocal(out, out=out)


def _where_into(np: Any, condition: Any, x: Any, y: Any, out: Any) -> None:
    np.copyto(out, y)
    np.copyto(out, x, where=condition)


def _relu_into(np: Any, x: Any, out: Any) -> None:
    np.maximum(x, 0, out=out)


def _softplus_into(np: Any, x: Any, out: Any) -> None:
    np.logaddexp(x, 0, out=out)


def _copy_into(np: Any, x: Any, out: Any) -> None:
    np.copyto(out, x, casting="unsafe")


_INTO = {
    "sigmoid": _sigmoid_into,
    "where": _where_into,
    "relu": _relu_into,
    "softplus": _softplus_into,
    "astype": _copy_into,
    "copied": _copy_into,
}


def over_time(primitive: Any, varies: list[bool], *arrays: Any, **parameters: Any) -> Any:
    """A primitive on arrays of which some have an axis of time in front: for all steps at once."""
    from ... import batching
    from ...tensor import no_grad, wrap

    steps = next(len(a) for a, flag in zip(arrays, varies, strict=True) if flag)
    arrays = tuple([np.asarray(x) if isinstance(x, np.generic) else x for x in arrays])
    values = [x if type(x) in NUMBERS else wrap(x, None) for x in arrays]
    with no_grad():
        out = batching.in_one_go(primitive, steps, varies, values, parameters)
    return tuple([part._array for part in out]) if primitive.several else out._array
