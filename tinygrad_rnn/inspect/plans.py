"""The one place where study tools read a plan: nothing else here knows the planner's parts."""

from __future__ import annotations

from typing import Any

from ..planner.ir import Value, ordered
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
