"""Planned against literal: your lines, the graph that they leave, and the program made of them.

``compare`` links the three line by line. Of each line of a cell it says what became of its
operations: computed for all steps at once before the loop, in the loop, after it, as a sum over
time, or computed again by the backward pass; and why what is in the loop has to be there. Beside it
stands what either way holds in memory as time goes on.
"""

from __future__ import annotations

import inspect
import os
import re
from typing import Any

import numpy as np

from ..nn.module import Module
from ..planner.plan import Plan
from ..primitives.reduction import sum
from ..recurrence.unroll import plan as plan_of
from ..recurrence.unroll import unroll
from ..structure import flatten
from ..tensor import Tensor, as_tensor
from .capture import Captured, captured, record
from .document import Study
from .folding import document_of
from .plans import carries_of, classes_of, place_of, places_of_loops, rearranged_of, sums_of
from .steps import Cell, check_cell

_STEPS = 60  # of the literal loop that is measured
_LOOP = re.compile(r"^\s*loop_(\d+)\(")
_PRODUCT = re.compile(r"^\s*(gemm\(|dot_of_many\(|np\.dot\(|np\.matmul\()")
_COMMENT = re.compile(r"#\s+([^:\s]+\.py:\d+): ")


def compare(cell: Cell, xs: Any, state: Any = None, **options: Any) -> Study:
    """A cell's lines, its literal graph and its plan's program, linked line by line.

    Args:
        cell: any callable ``cell(x, state) -> (output, state)``, as for ``unroll``.
        xs: a Tensor (T, B, ...) or a structure of them.
        state: the initial state, as for ``unroll``.
        options: ``lengths``, ``mask``, ``reset``, ``reverse``, as for ``tg.plan``.

    Returns:
        A ``Study``: ``data["source"]`` are the lines with what became of each, ``data["program"]``
        those of the program with the lines that they come from, ``data["memory"]`` the bytes held
        for the backward pass after each step, of both.

    Raises ValueError for a cell that cannot be planned, with the reason.
    """
    check_cell("compare", cell)
    plan = plan_of(cell, xs, state, **options)
    if not plan.planned:
        raise ValueError(f"compare: there is no plan to compare with: {plan.reason}")
    found, memory = _literal(cell, xs, state, options, plan)
    values = [*classes_of(plan), *rearranged_of(plan), *sums_of(plan)]
    data = {
        "source": _source(cell, values, plan),
        "values": values,
        "carries": carries_of(plan),
        "literal": document_of(found) if found is not None else None,
        "program": _program(plan),
        "memory": memory,
        "summary": str(plan),
    }
    return Study("compare", data)


def _literal(
    cell: Cell, xs: Any, state: Any, options: dict[str, Any], plan: Plan
) -> tuple[Captured | None, dict[str, Any]]:
    """The literal graph, and what it and the plan hold after each step, in bytes."""
    leaves, _ = flatten(xs)
    count = as_tensor(leaves[0]).shape[0]
    with record():
        outputs, final = unroll(cell, xs, state, mode="literal", **options)
        floating = [y for y in flatten((outputs, final))[0] if y.dtype.kind == "f"]
        total: Any = None
        for y in floating:
            total = sum(y) if total is None else total + sum(y)
    rows = flatten(final)[0][0].shape[0] if flatten(final)[0][0].shape else 1
    steps = int(np.sum(options["lengths"])) if options.get("lengths") is not None else count
    held = plan.held_bytes(steps, 1 if options.get("lengths") is not None else rows)
    memory: dict[str, Any] = {"steps": count, "plan": held, "literal": 0, "literal by step": []}
    if not isinstance(total, Tensor) or total._node is None:
        return None, memory
    found = captured("compare", total)
    # What is yours, inputs and parameters, is no cost of the graph's.
    seen = {id(_owner(x._array)) for x in _yours(leaves, cell)}
    grown: list[int] = []
    size = 0
    for node in found.nodes:
        for array in _arrays(node.saved):
            owner = _owner(array)
            if id(owner) not in seen:
                seen.add(id(owner))
                size += int(owner.nbytes)
        grown.append(size)
    memory["literal"] = size
    marks = min(count, _STEPS) + 1
    memory["literal by step"] = [grown[k * (len(grown) - 1) // (marks - 1)] for k in range(marks)]
    return found, memory


def _arrays(saved: Any) -> Any:
    for reads in saved or ():
        for value in reads:
            for array in value if isinstance(value, tuple) else (value,):
                if hasattr(array, "nbytes") and array.ndim:
                    yield array


def _owner(array: Any) -> Any:
    """The array whose memory an array looks at."""
    while hasattr(getattr(array, "base", None), "nbytes"):
        array = array.base
    return array


def _yours(leaves: Any, cell: Any) -> list[Tensor]:
    """Inputs and parameters."""
    own = list(cell.parameters()) if isinstance(cell, Module) else []
    return [*(as_tensor(x) for x in leaves), *own]


def _source(cell: Any, values: list[dict[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """The cell's lines, with what became of the operations of each."""
    by_place: dict[str, list[dict[str, Any]]] = {}
    for value in values:
        if value["place"]:
            by_place.setdefault(value["place"], []).append(value)
    lines: list[dict[str, Any]] = []
    for file, first, own_lines in _functions(cell):
        for n, text in enumerate(own_lines):
            place = f"{os.path.basename(file)}:{first + n}"
            own = by_place.pop(place, [])
            lines.append({"place": place, "text": text.rstrip("\n"), "became": _became(own)})
    lines_of_trace = [v.line for v in plan.graph.values() if v.line]
    texts = {place_of(line): line.partition(": ")[2] for line in lines_of_trace}
    for place, own in by_place.items():  # of functions that the cell calls
        lines.append({"place": place, "text": texts.get(place, ""), "became": _became(own)})
    return lines


def _functions(cell: Any) -> Any:
    """The source of a cell: its function, or ``forward``."""
    function = getattr(cell, "forward", cell)
    function = inspect.unwrap(getattr(function, "__func__", function))
    try:
        texts, first = inspect.getsourcelines(function)
        yield inspect.getsourcefile(function) or "", first, texts
    except (OSError, TypeError):
        return


def _became(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Operations by pass and class, in order."""
    found: dict[tuple[str, str], list[str]] = {}
    for value in values:
        found.setdefault((value["pass"], value["class"]), []).append(value["operation"])
    return [{"pass": p, "class": c, "operations": names} for (p, c), names in found.items()]


def _program(plan: Plan) -> list[dict[str, Any]]:
    """The program's lines, each with the lines of yours that it comes from."""
    loops, sums = places_of_loops(plan), iter(sums_of(plan))
    lines: list[dict[str, Any]] = []
    after = False  # whether all loops of the backward pass are over
    last = len(loops) - 1
    for text in plan.source.splitlines():
        places: list[str] = []
        comment, loop = _COMMENT.search(text), _LOOP.match(text)
        if comment is not None:
            places = [place_of(comment.group(1))]
        elif loop is not None:
            number = int(loop.group(1))
            places = loops[number] if number < len(loops) else []
            after = after or number == last
        elif after and _PRODUCT.match(text):
            product = next((s for s in sums if s["operation"] == "product"), None)
            places = [product["place"]] if product is not None and product["place"] else []
        lines.append({"text": text, "places": places})
    return lines
