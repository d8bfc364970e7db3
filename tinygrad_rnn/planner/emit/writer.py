"""What the lines of a program are written with: names, memory, and one operation on arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

import tinygrad_rnn_backends as backends
from tinygrad_rnn_backends import Backend

from ...graph import TABLE
from ..facts import called, facts_of
from ..ir import WHOLE, Number, Value, elements, is_view, writes_into
from ..runtime.steps import exact
from ..stages import EACH, MERGED, ONCE, ROWS, ROWS_ONCE, Distribution, Pass
from ..storage import Memory, Storage
from .text import at, dtype_text, identifier, key_text, shape_text

Line: TypeAlias = Callable[[str, Value], None]


@dataclass
class Context:
    """What a program is written for, and what its text names beside its arguments."""

    backend: Backend
    fused: bool  # loops are machine code, and products around them by the same threads
    drawn_in_kernels: frozenset[int] = frozenset()  # of a draw the key and the step are given
    given: dict[str, Any] = field(default_factory=dict)


class Writer:
    """A function of a plan that is being written: ``lines``, and what it calls its arrays."""

    def __init__(
        self,
        distribution: Distribution,
        part: Pass,
        storage: Storage,
        context: Context,
    ) -> None:
        self.distribution = distribution
        self.extents = distribution.extents
        self.ragged = distribution.ragged
        self.part = part
        self.storage = storage
        self.context = context
        self.steps = "back" if part.backwards else "steps"
        self.lines: list[str] = []
        self.arrays: dict[Memory, str] = {}
        self._counts: dict[str, int] = {}
        self._derived: dict[Any, str] = {}

    # Names and lines.

    def name(self, hint: str) -> str:
        """A name of a variable that is new."""
        hint = identifier(hint)
        number = self._counts.get(hint, 0)
        self._counts[hint] = number + 1
        return f"{hint}_{number}" if number or hint in ("x", "steps", "pool", "np") else hint

    def line(self, text: str, value: Value | None = None) -> None:
        """Write a line, with the line of the user's that a value comes from."""
        self.lines.append("    " + text + ("" if value is None else at(value)))

    def once(self, key: Any, hint: str, expression: str) -> str:
        """The name of something that is computed when it is first asked for."""
        found = self._derived.get(key)
        if found is None:
            found = self._derived[key] = self.name(hint)
            self.line(f"{found} = {expression}")
        return found

    def constant(self, hint: str, what: Any) -> str:
        """The name of something that the source is given."""
        given = self.context.given
        for name, known in given.items():
            if known is what:
                return name
        name = identifier(hint)
        while name in given:
            name += "_"
        given[name] = what
        return name

    # Memory.

    def array(self, memory: Memory) -> str:
        """The name of a memory, which is allocated when it is first asked for."""
        found = self.arrays.get(memory)
        if found is None:
            found = self.arrays[memory] = self.name(_hint(memory))
            self.line(f"{found} = {self._allocate(memory)}")
            if memory.kind == "states":
                self.line(f"{self.steps}.start({found})[...] = {self._start(memory)}")
        return found

    def _allocate(self, memory: Memory) -> str:
        like, extent = memory.like, self.extents[memory.like]
        if memory.kind == "latest":
            return f"np.array({self._start(memory)}, order='C')"
        if memory.kind in ("total", "grown"):
            dtype = exact(like.dtype) if memory.kind == "total" else like.dtype
            return f"pool.zeros({like.shape}, np.{dtype.name})"
        by_rows = self.by_rows(like)
        lengths = list(map(str, like.shape[1:] if by_rows else like.shape))
        if memory.kind == "states":
            lengths[:0] = ["steps.total + steps.rows" if by_rows else "steps.steps + 1"]
        elif memory.kind == "scratch":
            lengths[:0] = ["steps.rows"] if by_rows else []
        elif extent is not ONCE:
            lengths[:0] = ["steps.total"] if extent is ROWS else ["steps.steps"]
        return f"pool.empty({shape_text(lengths)}{dtype_text(like)})"

    def _start(self, memory: Memory) -> str:
        """What a state is at the start of a pass."""
        assert memory.like.source is not None
        return f"{memory.like.source.kind}s[{memory.like.source.index}]"

    def by_rows(self, value: Value) -> bool:
        """Whether axis 0 of a value is that of the rows."""
        return self.extents[value] in (ROWS, ROWS_ONCE)

    # Values of all steps.

    def over_steps(self, value: Value) -> str:
        """The array of a value over all steps, or of what there is once."""
        if is_view(value):
            return self.once(("view", value), value.name, self.view(value, self.over_steps))
        place = self.storage.of_all_steps(value)
        name = self.array(place.memory)
        if place.at == "before":
            expression = f"{self.steps_of(place.memory)}.all_before({name})"
            name = self.once(("before", place.memory), "before", expression)
        elif place.at == "after":
            expression = f"{self.steps}.all_after({name})"
            name = self.once(("after", place.memory), value.name, expression)
        if place.key is None:
            return name
        in_front = (WHOLE,) * (self.extents[place.memory.like] is EACH)
        expression = f"{name}[{key_text((*in_front, *place.key))}]"
        return self.once(("part", value), f"{value.name}_part", expression)

    def steps_of(self, states: Memory) -> str:
        """The steps in the order in which all states of a memory are."""
        source = states.like.source
        return "back" if source is not None and source.kind == "dstate" else "steps"

    def operand(self, x: Value | Number) -> str:
        """An operand in a line for all steps."""
        return repr(x) if not isinstance(x, Value) else self.over_steps(x)

    def view(self, value: Value, operand: Callable[[Value], str], step: bool = False) -> str:
        """The expression of a view of an operand over all steps, or at one step."""
        x = value.operands[0]
        inner, extent = operand(x), self.extents[value]
        # Arrays without rows have an axis of time in front, unless they are of one step.
        leading = extent is EACH and not step
        rows = extent is ROWS
        if value.name == "getitem":
            key = value.parameters["key"]
            front, rest = (slice(None),) * leading, (...,) * (not value.shape)
            return f"{inner}[{key_text((*front, *key, *rest))}]"  # never a number, always an array
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

    def with_rows(self, value: Value, x: Value | Number) -> str:
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

    def options(self, value: Value) -> str:
        """The parameters of a primitive as keyword arguments."""
        return "".join(f", {k}={self._parameter(p)}" for k, p in value.parameters.items())

    def _parameter(self, parameter: Any) -> str:
        """A parameter as an expression; one that has none is named."""
        if parameter is ...:
            return "..."
        if parameter is None or type(parameter) in (bool, int, float, str, slice):
            return repr(parameter)
        if type(parameter) is tuple:
            return f"({''.join(f'{self._parameter(p)}, ' for p in parameter)})"
        return self.constant("parameter", parameter)

    def compute(
        self, value: Value, operands: list[str], out: str, line: Line, dot: str | None
    ) -> None:
        """One operation on arrays, into ``out``; ``dot`` starts a product into whole memory."""
        kind, given = value.name, ", ".join(operands)
        facts = facts_of(kind)
        if not writes_into(value):
            line(f"{out}[...] = {self.expression(value, operands)}", value)
        elif kind == "matmul":
            # Contiguous memory is seen as rows of one product; nothing else is written by np.dot.
            x, y = value.operands
            if dot is None or len(y.shape) > 2 or not elements(y.shape):
                line(f"np.matmul({given}, out={out})", value)
            elif len(x.shape) == 2:
                line(f"{dot}{given}, out={out})", value)
            else:
                given = f"{operands[0]}.reshape(-1, {y.shape[0]}), {operands[1]}"
                line(f"{dot}{given}, out={out}.reshape(-1, {y.shape[1]}))", value)
        elif facts.ufunc:
            line(f"{facts.ufunc}({given}, out={out})", value)
        else:
            line(f"{self.constant(f'{kind}_into', facts.into)}(np, {given}, {out})", value)

    def product(self, value: Value) -> str:
        """How the call of a product of two matrices begins: one library's threads for all."""
        fused = self.context.fused and value.dtype == "float32"
        return "gemm(threads(), " if fused else "np.dot("

    def expression(self, value: Value, operands: list[str]) -> str:
        """An operation that makes an array of its own."""
        given = ", ".join(operands)
        if value.name == "matmul":
            return f"{operands[0]} @ {operands[1]}"
        if facts_of(value.name).ufunc:
            return f"{facts_of(value.name).ufunc}({given})"
        if value.name == "full":
            number, shape = value.parameters["number"], value.shape
            rows = self.extents[value] is ROWS_ONCE
            lengths = ["steps.rows", *map(str, shape[1:])] if rows else list(map(str, shape))
            return f"np.full({shape_text(lengths)}, {number!r}{dtype_text(value)})"
        call = self.apply(value, operands)
        call += f"[{value.output}]" if value.output is not None else ""
        return f"np.array({call})" if returns_operand(value) else call

    def apply(self, value: Value, operands: list[str]) -> str:
        """A primitive as it is, whose result may be a view; all outputs, if there are several."""
        given = ", ".join(operands)
        primitive = self.constant(f"{value.name}_primitive", value.primitive)
        backend = self.constant("xp", self.context.backend)
        return f"{primitive}.forward({backend}, {given}{self.options(value)})"


def returns_operand(value: Value) -> bool:
    """Whether a primitive may return memory of an operand: it is tried on zeros without memory."""
    kind, of_table = value.primitive.kind, TABLE.get(value.name) is value.primitive
    if value.primitive is called or (of_table and kind not in ("elementwise", "movement")):
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


def _hint(memory: Memory) -> str:
    """What a memory is called after."""
    source = memory.like.source
    if memory.kind == "states" and source is not None:
        return source.kind
    if memory.kind == "steps":
        return memory.like.name if source is None else "kept"
    names: dict[str, str] = {"latest": "carried", "grown": "total"}
    return names.get(memory.kind, memory.kind)
