"""The one place where study tools read a plan: nothing else here knows the planner's parts."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..planner.ir import Value, base, is_view, ordered
from ..planner.passes.sums import contraction
from ..planner.plan import Plan
from ..planner.stages import ONCE, ROWS_ONCE


def body_of(plan: Plan) -> dict[str, Any]:
    """A planned step as a graph of one loop of any number of steps, as plain data.

    Raises ValueError for a loop that runs literally: there is no step to be drawn.
    """
    if not plan.planned:
        raise ValueError(f"fold: this loop is not planned, and has no one step: {plan.reason}")
    d = plan.distribution
    values = ordered([*d.graph.ys, *d.graph.states])
    made = [v for v in values if v.source is None]
    # By what makes a value: several outputs are one operation. Those of a step have the places
    # from ``period`` on, and those of the step before it the places from 0 on.
    operations: dict[Any, int] = {}
    for value in made:
        operations.setdefault(_maker(value), len(operations))
    period = len(operations)
    leaves: list[dict[str, Any]] = []
    known: dict[Value, int] = {}

    def leaf(value: Value) -> int:
        if value not in known:
            known[value] = len(leaves)
            name, shape = _source(value)
            leaves.append({"name": name, "shape": shape, "dtype": value.dtype.name})
        return ~known[value]

    def use(x: Any) -> dict[str, Any]:
        if not isinstance(x, Value):
            return {"number": str(x)}
        if x.source is not None and x.source.kind == "state":
            after = d.graph.states[x.source.index]  # what the step before made of it
            if after.source is None:
                place = operations[_maker(after)]
                return {"from": place, "output": after.output, "by": [[period, 0]]}
        if x.source is None:
            return {"from": period + operations[_maker(x)], "output": x.output, "by": [[period, 0]]}
        return {"from": leaf(x), "output": None, "by": [[0, 0]]}

    stages = _stages(plan)
    items: dict[int, dict[str, Any]] = {}
    for value in made:
        at = operations[_maker(value)]
        item = items.setdefault(
            at,
            {
                "at": period + at,
                "operation": value.primitive.name,
                "arguments": [use(x) for x in value.inputs],
                "parameters": ", ".join(f"{k}={v}" for k, v in value.parameters.items()),
                "shapes": [],
                "dtypes": [],
                "keeps": [],
                "stage": stages.get(value, ""),
            },
        )
        item["shapes"].append(list(value.shape))
        item["dtypes"].append(value.dtype.name)
        if value.output is not None:
            item["several"] = len(item["shapes"])
        if value.line:
            item["line"] = value.line
    loop = {"at": period, "period": max(period, 1), "count": None, "items": list(items.values())}
    return {
        "leaves": leaves,
        "items": [loop],
        "result": {"from": -1, "output": None},
        "operations": period,
        "plan": str(plan),
    }


def _maker(value: Value) -> Any:
    """What makes a value: it itself, or the operation that it is one output of."""
    if value.output is None:
        return value
    return value.primitive, value.inputs, repr(value.parameters)


def _source(value: Value) -> tuple[str, list[Any]]:
    """How a source is called, and its shape over all steps."""
    assert value.source is not None
    kind, index = value.source
    words = {"x": "x", "state": "state", "captured": "captured", "scalar": "number"}
    name = f"{words.get(kind, kind)}{index}" + ("[t]" if kind in ("x", "draw") else "")
    return name, list(value.shape)


def _stages(plan: Plan) -> dict[Value, str]:
    """Where each value of the forward pass is computed."""
    found: dict[Value, str] = {}
    extents = plan.extents
    for stage in plan.distribution.forward.stages:
        for value in stage.values:
            if stage.loop:
                found[value] = "in the loop"
            elif extents[value] in (ONCE, ROWS_ONCE):
                found[value] = "once, before the loop"
            else:
                found[value] = "all steps at once"
    return found


# What became of each operation.

NOUNS = {
    "contraction": "product",
    "elementwise": "elementwise operation",
    "reduction": "reduction",
    "movement": "rearrangement",
    "indexing": "look-up",
}


def classes_of(plan: Plan) -> list[dict[str, Any]]:
    """Every operation that a plan carries out, views aside, with where it does so.

    ``class`` is one of "before the loop", "in the loop", "after the loop" (all three for all steps
    at once but the second), "sum over time", and, of the backward pass, "computed again" for what
    the forward pass has computed already. Of a plan without a loop all is "before the loop".
    """
    d = plan.distribution
    found: list[dict[str, Any]] = []
    for name, part in (("forward", d.forward), ("backward", d.backward)):
        if part is None:
            continue
        again = set(d.forward.values) if name == "backward" else set()
        last = max((i for i, stage in enumerate(part.stages) if stage.loop), default=None)
        loop = 0
        for i, stage in enumerate(part.stages):
            for value in _work_of(stage.values):
                where = "in the loop" if stage.loop else "before the loop"
                if not stage.loop and last is not None and i > last:
                    where = "after the loop"
                if value in again:
                    where = "computed again"
                found.append(_told(plan, value, name, where, loop if stage.loop else None))
            loop += stage.loop
    return found


_PRODUCTS: dict[str | None, str] = {"product": "product", "row products": "product"}


def rearranged_of(plan: Plan) -> list[dict[str, Any]]:
    """Operations of the cell's lines that no stage carries out as they were written.

    Sums are added in another order, so that what the recurrence does not need comes first; terms
    are merged with those of other lines. They are no work of their own any more.
    """
    forward = plan.distribution.forward
    left = Counter((v.name, v.line) for stage in forward.stages for v in _work_of(stage.values))
    found = []
    for value in _work_of(plan.graph.values()):
        key = value.name, value.line
        if left[key] or value.line is None or value.primitive.kind == "movement":
            left[key] -= 1
            continue
        found.append(
            {
                "operation": value.name,
                "place": place_of(value.line),
                "text": value.line.partition(": ")[2],
                "class": "rearranged with sums of other lines",
                "pass": "forward",
            }
        )
    return found


def sums_of(plan: Plan) -> list[dict[str, Any]]:
    """The sums over time that are taken after the loops, each with the line that it is of."""
    d = plan.distribution
    in_loops = {v for stage in _loops_of(plan) for v in stage.sums}
    return [
        {
            "operation": _PRODUCTS.get(contraction(term.value, plan.extents), "sum"),
            "place": _reading(plan, "captured", index),
            "class": "sum over time",
            "pass": "backward",
        }
        for index, terms in enumerate(d.totals)
        for term in terms or ()
        if term.value not in in_loops
    ]


def carries_of(plan: Plan) -> list[dict[str, Any]]:
    """What keeps each loop a loop: what is carried, and between which lines."""
    found = []
    d = plan.distribution
    for name, part in (("forward", d.forward), ("backward", d.backward)):
        for stage in part.stages if part is not None else ():
            if not stage.loop:
                continue
            for before, after in stage.carries:
                index = before.source.index if before.source is not None else 0
                reads = _reading(plan, "state", index)
                what = f"state {index}" if name == "forward" else f"the cotangent of state {index}"
                made = _line_of(after) if name == "forward" else reads
                reason = f"{what} of one step is needed to compute that of the next"
                found.append({"pass": name, "what": what, "place": made, "reason": reason})
            for value in stage.sums:
                reason = "it is added up where the loop has it at hand"
                place = _line_of(value)
                found.append({"pass": name, "what": "a sum", "place": place, "reason": reason})
    return found


def places_of_loops(plan: Plan) -> list[list[str]]:
    """For each loop, those of the forward pass first, the lines that it computes."""
    found = []
    for stage in _loops_of(plan):
        lines = [place_of(v.line) for v in stage.values if v.line]
        reads = [
            _reading(plan, before.source.kind, before.source.index)
            for before, _ in stage.carries
            if before.source is not None and before.source.kind == "state"
        ]
        found.append(list(dict.fromkeys([*lines, *(r for r in reads if r)])))
    return found


def _loops_of(plan: Plan) -> list[Any]:
    parts = (plan.distribution.forward, plan.distribution.backward)
    return [stage for part in parts if part is not None for stage in part.stages if stage.loop]


def _work_of(values: Any) -> list[Value]:
    """What costs something: no sources, no views, and no arrays of one number."""
    return [v for v in values if v.source is None and not is_view(v) and v.name != "full"]


def _told(plan: Plan, value: Value, name: str, where: str, loop: int | None) -> dict[str, Any]:
    return {
        "operation": value.name,
        "kind": NOUNS[value.primitive.kind],
        "place": place_of(value.line) if value.line else None,
        "text": (value.line or "").partition(": ")[2],
        "shape": list(value.shape),
        "pass": name,
        "class": where,
        "loop": loop,
    }


def place_of(line: str) -> str:
    """The file and number of a line that a trace has noted: ``cell.py:8``."""
    return ":".join(line.split(":")[:2])


def _line_of(value: Value) -> str | None:
    """The line of a value, or of the last one with a line that it was made from."""
    line = next((v.line for v in reversed(ordered([value])) if v.line), None)
    return place_of(line) if line else None


def _reading(plan: Plan, kind: str, index: int) -> str | None:
    """The first line that reads a source."""
    for value in plan.graph.values():
        if value.line and not is_view(value):
            sources = [base(x).source for x in value.operands]
            if any(s is not None and (s.kind, s.index) == (kind, index) for s in sources):
                return place_of(value.line)
    return None
