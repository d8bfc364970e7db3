"""What a plan says of itself: what was hoisted out of the loop, what stayed in it, and why.

``report`` goes through both passes stage by stage, in the order in which they run, and gives for
each what it computes and the user's lines that it came from. ``held_bytes`` counts memory.

What a rule of differentiation made has no line of its own: it is traced to the line that it is the
derivative of, by the source or value of the forward pass that it reads.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence

from ..kernels.ir import Kernel
from . import storage
from .compiled import Compiled
from .facts import called
from .ir import Graph, Kind, Value, base, is_view, ordered, sources
from .passes.sums import contraction, read_by
from .stages import EACH, ONCE, ROWS, ROWS_ONCE, Distribution, Pass, Stage, Term

WIDTH = 100
_LEFT = 36  # columns before the user's line
_MOST = 6  # lines of one kind that are shown

_BACKWARD = "Backward pass; beside a derivative, the line that it is the derivative of"

ADVICE = (
    (
        "no values",
        "choose with where instead of if; compute with functions of tinygrad_rnn instead of "
        "NumPy's;\nwhat is needed as a Python number, compute before the loop",
    ),
    (
        "a draw",
        "draw from tinygrad_rnn.random: its numbers are known to be other ones at each step",
    ),
    ("a counter", "put what changes from step to step into the state, or count the steps in xs"),
    (
        "did something else",
        "let the cell depend on x, the state and what it captures, on nothing else",
    ),
    (
        "kept from inside",
        "return from the cell, as an output or in the state, whatever is used later",
    ),
    ("detect_anomaly", "leave detect_anomaly once the operation is found"),
    ("ufunc", "compute with functions of tinygrad_rnn instead of NumPy's"),
    ("NumPy", "keep the arrays of the loop in NumPy, or compute with functions of tinygrad_rnn"),
)
"""What to do about a reason that contains such words."""


def summary(plan: Compiled) -> str:
    """A plan in one line."""
    d = plan.distribution
    if plan.whole:
        return f"planned: a function, {_sizes(d)}"
    names = ("forward", "backward")
    passes = [
        f"{_count(len(loops), 'loop')} {name} of {_products_each(loops)} a step"
        for name, part in zip(names, (d.forward, d.backward), strict=True)
        if part is not None
        for loops in [[stage for stage in part.stages if stage.loop]]
    ]
    place = _place(next(iter(d.graph.states), None) or d.graph.ys[0])
    hoisted = f"{_count(len(_products(_outside_loops(d))), 'product')} hoisted"
    return ", ".join(["planned: " + _dtypes(d.graph), place, *passes, hoisted])


def report(plan: Compiled) -> str:
    """What became of the loop, in words."""
    d = plan.distribution
    if plan.whole:
        return _of_function(plan)
    lines = [*_headline(plan), "", "Forward pass", *_pass(plan, d.forward, "forward")]
    if d.backward is not None:
        lines += ["", _BACKWARD, *_pass(plan, d.backward, "backward"), *_totals(plan)]
        lines += ["", *_memory_held(plan)]
    return "\n".join([*lines, "", *_rest(plan)])


def held_bytes(plan: Compiled, steps: int, rows: int) -> int:
    """The bytes that a call holds for its backward pass, beyond the user's own arrays.

    Of sequences of unequal lengths ``steps`` is the sum of them and ``rows`` 1.
    """
    if plan.distribution.backward is None:
        return 0
    most = (plan.rows or 1) if plan.ragged else rows
    memories = storage.held(plan.distribution, plan.storage[0])
    held = sum(m.bytes(plan.extents[m.like], steps, rows, most) for m in memories)
    of_each_row = any(plan.has_rows and draw.shape[:1] == (plan.rows,) for draw in plan.draws)
    layout = 2 * 8 * steps * rows if plan.ragged or of_each_row else 0  # which row, which step
    return held + layout


def of_literal(reason: str, of: str = "loop") -> str:
    """What a loop that is not planned says, or a function."""
    advice = next((advice for words, advice in ADVICE if words in reason), None)
    how = "the loop runs step by step" if of == "loop" else f"the {of} runs as it is"
    lines = [f"Literal: {how}, each operation by itself.", f"  Why: {reason}"]
    if advice is not None:
        lines.append("  What to do: " + advice.replace("\n", "\n    "))
    return "\n".join(lines)


# The parts of a report.


def _of_function(plan: Compiled) -> str:
    """What became of a function."""
    d = plan.distribution
    held = [m.like for m in storage.held(d, plan.storage[0])]
    every = [[v for stage in part.stages for v in stage.values] for part in d.passes]
    calls = {v.inputs[0]: None for values in every for v in values if v.primitive is called}
    what = "a whole step" if calls else "a function"
    lines = [f"Planned: {what}; {_sizes(d)}."]
    for name, values in zip(("Forward", "Backward"), every, strict=False):
        own = (v for v in values if v.primitive is not called)
        lines.append(f"  {'All' if calls else name}: {_work(own)}")
    if calls:
        lines.append(f"Loops, clippings and updates that it calls: {len(calls)}.")
    else:
        lines.append(f"Held for the backward pass: {sum(v.bytes for v in held):,} bytes.")
    lines += [f"Random draws: {len(plan.draws)}.", f"Fused kernels: {len(plan.program.loops)}."]
    return "\n".join([*lines, f"Prepared in {plan.preparation_seconds * 1000:.2f} ms."])


def _sizes(d: Distribution) -> str:
    """The dtypes and shapes of the results of a function."""
    shown = [f"{y.dtype} {y.shape}" for y in d.graph.ys if y.dtype.kind != "O"]
    return ", ".join(dict.fromkeys(shown)) or "no results"


def _headline(plan: Compiled) -> list[str]:
    d = plan.distribution
    loops = [
        _count(sum(stage.loop for stage in part.stages), "loop") + f" {name}"
        for name, part in (("forward", d.forward), ("backward", d.backward))
        if part is not None
    ]
    if not plan.has_rows:
        rows = (
            f"Rows of the batch are not independent: {plan.proof.mixed}. Hence all rows take all "
            "steps together; those that have ended are masked."
        )
    elif plan.ragged:
        rows = (
            "Rows of the batch are independent. Hence one that has ended is not computed any more: "
            "N, the rows of all steps, is the sum of the lengths, and B those active at a step."
        )
    else:
        rows = (
            "Rows of the batch are independent. Hence T steps of B rows are one batch of T*B rows "
            "for all that is outside of loops."
        )
    why = "What is carried from step to step keeps a loop a loop; the line beside it makes it."
    first = f"Planned: {', '.join(loops)}; {_dtypes(d.graph)}."
    return [first, *textwrap.wrap(rows, WIDTH), why]


def _pass(plan: Compiled, part: Pass, name: str) -> list[str]:
    lines: list[str] = []
    loops = _loops(plan)
    for stage in part.stages:
        work = [v for v in stage.values if v.source is None]
        if stage.loop:
            kernels = _kernels(plan, loops.index(stage), work)
            lines.append(f"  Loop over time, each step: {_work(work, kernels)}")
            lines += _carries(plan, stage, backwards=name == "backward")
        elif _worth_counting(work):
            lines.append(f"  For all steps at once: {_work(work)}")
        else:
            continue
        lines += [_row(_product(plan, v, stage.loop), _origin(plan, v)) for v in _products(work)]
        lines += _by_line(work)
    round_trips = {carry for stage in part.stages for carry in stage.carries}
    for carry in part.carries:
        if carry not in round_trips and carry.before.source is not None:
            which = f"state {carry.before.source.index}"
            lines.append(_row(f"  {which} needs no loop", carry.after.line))
    return lines or ["  Nothing to compute."]


def _carries(plan: Compiled, stage: Stage, *, backwards: bool) -> list[str]:
    """The dependences that keep a loop a loop."""
    lines = []
    for before, after in stage.carries:
        assert before.source is not None
        which = f"state {before.source.index}"
        if backwards:
            line = _reader(plan.graph, "state", before.source.index)
            lines.append(_row(f"carried: cotangent of {which}", line))
        else:
            lines.append(_row(f"carried: {which} {_shape(plan, before, True)}", _line(after)))
    for value in stage.sums:
        grows = f"grows: a sum over time {_shape(plan, value, True)}"
        lines.append(_row(grows, _origin(plan, value) or _line(value)))
    return lines


def _totals(plan: Compiled) -> list[str]:
    """The sums over time outside of loops: what they are one operation of, and whose gradient."""
    in_loops = {v for stage in _loops(plan) for v in stage.sums}
    found = [
        (index, term)
        for index, terms in enumerate(plan.distribution.totals)
        for term in terms or ()
        if term.value not in in_loops
    ]
    if not found:
        return []
    kinds = [contraction(term.value, plan.extents) for _, term in found]
    products = sum(kind in ("product", "row products", "kernel") for kind in kinds)
    return [
        f"  Sums over time, after the loop: {_count(products, 'product')} over all steps",
        *[_row(_sum(plan, term), _reader(plan.graph, "captured", i)) for i, term in found],
    ]


def _sum(plan: Compiled, term: Term) -> str:
    """How a sum over time is computed, as a formula."""
    read = read_by(term, plan.extents)
    shapes = [_shape(plan, x, False) for x in read]
    kind = contraction(term.value, plan.extents)
    if kind == "product":  # of arrays (T, rows, ...) as matrices
        shapes = [
            s.replace("(T, ", "(T*") if len(x.shape) == 2 else s
            for s, x in zip(shapes, read, strict=True)
        ]
        return f"{shapes[0]}.T @ {shapes[1]}"
    if kind == "kernel":
        return f"{shapes[0]} convolved with {shapes[1]}"
    if kind == "row products":
        return f"of each row {shapes[0]} @ {shapes[1]}, side by side"
    if kind == "places":
        return f"{shapes[0]} added at its places"
    return f"sum of {shapes[0]}"


_UNITS = {
    ROWS: "per step and row",
    EACH: "per step",
    ROWS_ONCE: "per row",
    ONCE: "once",
}


def _memory_held(plan: Compiled) -> list[str]:
    d = plan.distribution
    steps, rows = 100, plan.rows or 1  # the number of steps is nothing that a plan knows
    values = [m.like for m in storage.held(d, plan.storage[0])]
    sizes = Counter[str]()
    for v in values:
        sizes[_UNITS[plan.extents[v]]] += _bytes_of_one(plan, v)
    each = ", ".join(f"{size:,} bytes {unit}" for unit, size in sizes.items())
    lines = [
        f"Held for the backward pass: {each or 'nothing'}",
        f"  ({steps} steps of {rows} rows: {held_bytes(plan, steps, rows):,} bytes)",
    ]
    entries = Counter((v.name, _bytes_of_one(plan, v), _place_held(plan, v)) for v in values)
    rest = [f"    and {len(entries) - 2 * _MOST} more"] if len(entries) > 2 * _MOST else []
    for (name, size, line), times in list(entries.items())[: 2 * _MOST]:
        what = f"{times} {name}" if times > 1 else name
        lines.append(_row(f"{size:6,} {'each of ' if times > 1 else ''}{what}", line))
    again = [v for v in _again(d) if not is_view(v)]
    if again:
        lines += [*rest, f"  Not held, computed again: {_work(again)}", *_by_line(again)]
        return lines
    return [*lines, *rest, "  Nothing of the forward pass is computed again."]


def _rest(plan: Compiled) -> list[str]:
    d = plan.distribution
    captured = sources(d.graph, "captured")
    by_rows = [v for v in captured if d.extents[v] is ROWS_ONCE]
    once = [v for v in captured if v not in by_rows]
    drawn = sum(not draw.same for draw in plan.draws)
    return [
        f"Captured: {len(once)} shared by all rows, {len(by_rows)} with an entry per row. "
        f"Random draws: {drawn} a step, {len(plan.draws) - drawn} for all.",
        f"Fused kernels: {_native(plan)}.",
        f"Prepared in {plan.preparation_seconds * 1000:.2f} ms.",
    ]


def _native(plan: Compiled) -> str:
    """Whether loops run in fused kernels, and why not."""
    loops, fused = len(_loops(plan)), len(plan.program.loops)
    if fused:
        why_not = "".join(f"; {reason}" for reason in plan.scheduled.reasons)
        return f"{fused} of {_count(loops, 'loop')} as machine code{why_not}"
    if plan.no_kernels is None and plan.proof.mixed is not None:
        return "none, since rows are not independent; this runs as a program of NumPy operations"
    return f"none; {plan.no_kernels or 'no loop is of a kind that they do'}"


# What was computed, counted and shown.


_NOUNS = {
    "contraction": "product",
    "elementwise": "elementwise operation",
    "reduction": "reduction",
    "movement": "rearrangement",
    "indexing": "look-up",
    "matrix": "operation of linear algebra",
}


def _worth_counting(values: Iterable[Value]) -> list[Value]:
    """What costs something: no views, and no arrays of one number."""
    return [v for v in values if v.source is None and not is_view(v) and v.name != "full"]


def _products(values: Iterable[Value]) -> list[Value]:
    return [v for v in _worth_counting(values) if v.primitive.kind == "contraction"]


def _work(values: Iterable[Value], kernels: str = "") -> str:
    found = Counter(_NOUNS[v.primitive.kind] for v in _worth_counting(values))
    order = {noun: found[noun] for noun in _NOUNS.values() if found[noun]}
    parts = [
        _count(n, noun) + (kernels if noun == "elementwise operation" else "")
        for noun, n in order.items()
    ]
    return ", ".join(parts) or "nothing"


def _kernels(plan: Compiled, number: int, values: Sequence[Value]) -> str:
    """How the elementwise operations of a step are grouped, in the loop of this number."""
    fused = plan.program.loops
    if len(fused) == len(_loops(plan)):
        kernels = sum(isinstance(statement, Kernel) for statement in fused[number].statements)
        return f" in {_count(kernels, 'kernel')}"
    return f" in {_count(_groups(values), 'group')}"


def _groups(values: Sequence[Value]) -> int:
    """Groups of elementwise operations that one kernel each could be: products come between."""
    after: dict[Value, int] = {}  # how many that is not elementwise, at most, on the way to a value
    found: set[int] = set()
    for value in values:
        own = is_view(value) or value.primitive.kind in ("elementwise", "movement")
        after[value] = max([after.get(x, 0) for x in value.operands], default=0) + (not own)
        if value.primitive.kind == "elementwise":
            found.add(after[value])
    return len(found)


def _by_line(values: Iterable[Value]) -> list[str]:
    """What is no product, by the user's line."""
    rest = [v for v in _worth_counting(values) if v.primitive.kind != "contraction" and v.line]
    lines = list(dict.fromkeys(v.line for v in rest))
    shown = [_row(_names(v for v in rest if v.line == line), line) for line in lines[:_MOST]]
    left = len(lines) - _MOST
    return shown if left <= 0 else [*shown, f"    and from {_count(left, 'more line')}"]


def _names(values: Iterable[Value]) -> str:
    """The names of operations, each once, as many as there is room for."""
    return textwrap.shorten(
        " ".join(dict.fromkeys(v.name for v in values)), _LEFT, placeholder=" ..."
    )


def _product(plan: Compiled, value: Value, in_loop: bool) -> str:
    between = " @ " if value.name == "matmul" else f" {_CONVOLVED.get(value.name, 'and')} "
    return between.join(_shape(plan, x, in_loop) for x in value.operands)


_CONVOLVED = {
    "convolution": "convolved with",
    "transposed_convolution": "transposed convolved with",
}


def _shape(plan: Compiled, value: Value, in_loop: bool) -> str:
    """The shape of a value with B for rows and T for steps."""
    extent = plan.extents[value]
    shape = [str(n) for n in value.shape]
    if extent in (ROWS, ROWS_ONCE) and shape:
        every = "B" if in_loop or extent is ROWS_ONCE else "N" if plan.ragged else "T*B"
        shape[0] = every
    elif extent is EACH and not in_loop:
        shape = ["T", *shape]
    return f"({', '.join(shape)}{',' if len(shape) == 1 else ''})"


def _row(what: str, line: str | None) -> str:
    return _fit(f"    {what:<{_LEFT}}  {line}" if line else f"    {what}")


def _fit(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 4] + " ..."


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _dtypes(graph: Graph) -> str:
    return ", ".join(dict.fromkeys(v.dtype.name for v in (*graph.ys, *graph.states)))


def _loops(plan: Compiled) -> list[Stage]:
    """All loops, those of the forward pass first."""
    parts = (plan.distribution.forward, plan.distribution.backward)
    return [stage for part in parts if part is not None for stage in part.stages if stage.loop]


def _products_each(loops: Sequence[Stage]) -> str:
    numbers = [len(_products(stage.values)) for stage in loops]
    return " + ".join(map(str, numbers or [0])) + (" product" if numbers == [1] else " products")


def _outside_loops(d: Distribution) -> list[Value]:
    parts = [part for part in (d.forward, d.backward) if part is not None]
    return [v for part in parts for stage in part.stages if not stage.loop for v in stage.values]


# Lines of the user's.


def _line(value: Value) -> str | None:
    """The line of a value, or of the last one with a line that it was made from."""
    return next((v.line for v in reversed(ordered([value])) if v.line), None)


def _place(value: Value) -> str:
    """The file and number of its line."""
    return ":".join((_line(value) or "an unknown line").split(":")[:2])


def _reader(graph: Graph, kind: Kind, index: int) -> str | None:
    """The first line of the user's that reads a source."""
    lines = (
        value.line
        for value in graph.values()
        if not is_view(value) and (kind, index) in [base(x).source for x in value.operands]
    )
    return next(filter(None, lines), None)


def _origin(plan: Compiled, product: Value) -> str | None:
    """The line of a product; of a derivative's, that of the product which has the same factor."""
    if product.line:
        return product.line
    graph = plan.distribution.graph
    factors = {base(x) for x in product.operands}
    for value in ordered([*graph.ys, *graph.states]):
        if value.line and value.name == product.name and factors & set(map(base, value.operands)):
            return value.line
    return None


# Memory.


def _again(d: Distribution) -> list[Value]:
    """What both passes compute."""
    if d.backward is None:
        return []
    forward = ordered([*d.graph.ys, *d.graph.states])
    return [v for v in forward if v in d.backward.values and v.source is None]


def _bytes_of_one(plan: Compiled, value: Value) -> int:
    """The bytes of one step and row of it, or of what there is one of."""
    each_row = plan.extents[value] in (ROWS, ROWS_ONCE)
    shape = value.shape[1:] if each_row else value.shape
    return math.prod(shape) * value.dtype.itemsize


def _place_held(plan: Compiled, value: Value) -> str | None:
    """The line of what is held: of a state, where it is made."""
    if value.source is None:
        return _line(value)
    if value.name != "state":
        return _reader(plan.graph, value.source.kind, value.source.index)
    return _line(plan.distribution.graph.states[value.source.index])


def bytes_of_loop(plan: Compiled, rows: int) -> tuple[int, int, int]:
    """What a segment takes while it is differentiated: for each step, besides, and to start it.

    The first two are all that both passes store, held or not, with what is spare in buffers; the
    last is a state.
    """
    memories = [memory for each in plan.storage for memory in each.memories]
    one, two = (
        sum(m.size(plan.extents[m.like], steps, rows, rows) for m in memories) for steps in (1, 2)
    )
    each, besides = two - one, 2 * one - two
    start = sum(state.bytes for state in plan.distribution.graph.states)
    return each + each // 8, besides + besides // 8 + 64 * len(memories), start
