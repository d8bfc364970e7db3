"""How gradients flow through time: of states, gates and inputs, step by step, and what it means.

One backward pass by the plan gives all of it, since taps of zeros beside the inputs collect the
cotangents that a plan would otherwise keep to itself. Two questions are told apart: how large the
gradients of *this* loss are at each step, and by what factor *any* gradient grows or shrinks a
step. The second is the largest Lyapunov exponent of the states' Jacobians, found by
orthogonalising a few vectors as they are carried along (Benettin et al. 1980; for recurrent
networks Engelken, Wolf & Abbott 2020, arXiv 2006.02427; Vogt et al. 2020, arXiv 2006.14123).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..planner.lookup import PlanError
from ..planner.trace import Untraceable
from ..primitives.creation import asarray
from ..recurrence.unroll import unroll
from ..structure import flatten, map_leaves, unflatten
from ..tensor import Tensor, pull_back
from .document import Study
from .retelling import Retold
from .steps import Cell, Steps
from .watching import host

_BYTES = 256 * 2**20  # of taps that are looked at together
_VECTORS = 8
_ROWS = 8
_TOGETHER = 5  # steps from one orthogonalisation to the next
_STRONG = math.log(100.0)  # by how much a gradient has to change over all steps


def flow(
    cell: Cell,
    xs: Any,
    loss: Callable[[Any], Tensor],
    state: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    reverse: bool = False,
) -> Study:
    """Gradient norms of states, gates and inputs by step, and a diagnosis in words.

    Args:
        cell: any callable ``cell(x, state) -> (output, state)``, as for ``unroll``.
        xs: a Tensor (T, B, ...) or a structure of them.
        loss: ``loss(outputs)``, a scalar.
        state: the initial state, as for ``unroll``.
        lengths: as for ``unroll``.
        mask: as for ``unroll``.
        reverse: as for ``unroll``.

    Returns:
        A ``Study``: ``data["norms"]`` are, by name and step, the Euclidean norms over rows and
        units of dL/dh_t (of each state, and of what goes into each gate), and of dL/dx_t. Gates are
        the named values of the cell that an activation is applied to. ``data["lyapunov"]`` are
        exponents a step, a mean over up to 8 rows; ``data["factor"]`` is e to the largest: by what
        a gradient is multiplied in a step back.

    Raises ValueError for a loss that is no scalar or that nothing led to. A cell that cannot be
    planned is run literally, without gates, and the study says so. Nothing is written to ``.grad``.
    """
    steps = Steps("flow", cell, xs, state, lengths, mask, None, reverse)
    if steps.count == 0:
        raise ValueError("flow: there are no steps")
    if steps.rows == 0:
        raise ValueError("flow: there are no rows")
    options = {"lengths": lengths, "mask": mask, "reverse": reverse}
    xs = map_leaves(_leaf, steps.xs)
    try:
        retold = Retold(cell, steps.xs, steps.initial)
        found = _run(retold, steps, xs, loss, options)
        why = None
    except (PlanError, Untraceable) as error:
        why = str(error)
        found = _run_literally(cell, steps, xs, loss, options)
    norms, states, gates = found
    exponents, rows = _lyapunov(cell, steps, states, why is None)
    data = {
        "steps": steps.count,
        "norms": {name: [float(v) for v in values] for name, values in norms.items()},
        "gates": gates,
        "lyapunov": exponents,
        "lyapunov of rows": rows,
        "factor": math.exp(exponents[0]) if exponents else None,
        "planned": why is None,
        "why": why,
        "order": "backwards" if reverse else "forwards",
    }
    data["diagnosis"] = _diagnosis(data)
    return Study("flow", data)


def _leaf(x: Tensor) -> Tensor:
    made = x.detach()
    made.requires_grad = made.dtype.kind == "f"
    return made


def _run_literally(
    cell: Any, steps: Steps, xs: Any, loss: Any, options: dict[str, Any]
) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
    """As ``_run``, of a cell that has no trace: by the states that it returns, without gates."""
    seen: list[list[Tensor]] = []

    def noting(x: Any, state: Any) -> tuple[Any, Any]:
        output, following = cell(x, state)
        seen.append(flatten(following)[0])
        return output, following

    outputs, _ = unroll(noting, xs, steps.initial, mode="literal", **options)
    scalar = _scalar(loss(outputs))
    inputs = [x for x in flatten(xs)[0] if x._node is not None]
    targets = [h for hs in seen for h in hs] + inputs
    found = pull_back([scalar], [None], [x._node for x in targets if x._node is not None])
    names = ["h"] if len(steps.states) == 1 else [f"state{n}" for n in range(len(steps.states))]
    norms: dict[str, Any] = {}
    for n, name in enumerate(names):
        if steps.states[n].dtype.kind == "f":
            norms[name] = np.zeros(steps.count)
            for t, hs in zip(steps.order, seen, strict=True):
                node = hs[n]._node
                g = None if node is None else found.get(node)
                norms[name][t] = 0.0 if g is None else np.linalg.norm(host(g).astype(np.float64))
    for n, x in enumerate(inputs):
        name = "inputs" if len(inputs) == 1 else f"inputs{n}"
        norms[name] = _norms(found.get(x._node), x)
    by_step = [hs for _, hs in sorted(zip(steps.order, seen, strict=True), key=lambda p: p[0])]
    states = [np.stack([host(hs[n]) for hs in by_step]) for n in range(len(names))]
    return norms, states, {}


def _scalar(x: Any) -> Tensor:
    """What a loss returned, if there is a gradient of it."""
    if not isinstance(x, Tensor) or x.size != 1:
        raise ValueError("flow: loss(outputs) returns a scalar Tensor")
    if x._node is None:
        raise ValueError("flow: nothing that requires grad led to the loss")
    return x


def _run(
    cell: Retold, steps: Steps, xs: Any, loss: Any, options: dict[str, Any]
) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
    """Norms by name, the states after each step, and what the gates are, in one backward pass.

    In several if the taps of one would be too large.
    """
    norms: dict[str, Any] = {}
    gates: dict[str, Any] = {}
    states: list[Any] = []
    for group in _groups(cell.shapes, steps.count):
        backend = flatten(xs)[0][0].backend
        taps = {
            name: _leaf(asarray(np.zeros((steps.count, *shape), dtype=dtype), backend=backend))
            for name, (shape, dtype) in group.items()
        }
        (outputs, after, kept), _ = unroll(
            cell, (xs, taps), steps.initial, mode="planned", **options
        )
        scalar = _scalar(loss(outputs))
        inputs = [] if norms else [x for x in flatten(xs)[0] if x._node is not None]
        targets = [x for x in (*taps.values(), *inputs)]
        found = pull_back([scalar], [None], [x._node for x in targets if x._node is not None])
        for name, tap in taps.items():
            norms[name] = _norms(found.get(tap._node), tap)  # type: ignore[arg-type]
        for n, x in enumerate(inputs):
            name = "inputs" if len(inputs) == 1 else f"inputs{n}"
            norms[name] = _norms(found.get(x._node), x)
        if not states:
            states = [host(h) for h in after]
            gates = {
                gate.name: _gate(gate.function, host(a), steps.valid)
                for gate, a in zip(cell.gates, kept, strict=True)
            }
    return norms, states, gates


def _groups(shapes: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Names in groups whose taps are within the budget."""
    groups: list[dict[str, Any]] = [{}]
    size = 0
    for name, (shape, dtype) in shapes.items():
        own = count * math.prod(shape) * dtype.itemsize
        if groups[-1] and size + own > _BYTES:
            groups.append({})
            size = 0
        groups[-1][name] = (shape, dtype)
        size += own
    return groups


def _norms(g: Any, like: Tensor) -> Any:
    """The norm of a cotangent (T, ...) at each step."""
    if g is None:
        return np.zeros(like.shape[0])
    flat = host(g).reshape(like.shape[0], -1).astype(np.float64)
    return np.sqrt(np.einsum("ti,ti->t", flat, flat))


def _gate(function: str, values: Any, valid: Any) -> dict[str, Any]:
    """What an activation does at the steps that are taken: its mean, and how much is saturated."""
    taken = values[valid] if values.shape[:2] == valid.shape else values
    found: dict[str, Any] = {"function": function, "mean": float(taken.mean())}
    if function == "sigmoid":
        found |= {"low": float((taken < 0.1).mean()), "high": float((taken > 0.9).mean())}
    elif function == "tanh":
        found["saturated"] = float((np.abs(taken) > 0.9).mean())
    found["by step"] = [float(v) for v in values.reshape(len(values), -1).mean(1)]
    return found


# Lyapunov exponents.


def _lyapunov(
    cell: Cell, steps: Steps, states: list[Any], planned: bool
) -> tuple[list[float], list[int]]:
    """The largest exponents of the states, a mean over rows, and which rows.

    A few covectors go back through the loop, orthogonalised every few steps: the transposed
    Jacobians have the exponents of the Jacobians. Each is a row of its own in a batch, so that it
    takes one backward pass of the loop.
    """
    nothing: tuple[list[float], list[int]] = [], []
    floating = [h for h in steps.states if h.dtype.kind == "f" and h.ndim]
    if not floating or len(floating) != len(steps.states) or steps.rows < 1:
        return nothing
    longest = int(steps.valid.sum(0).argmax())
    order = [t for t in steps.order if steps.valid[t, longest]]
    if not order:
        return nothing
    alike = np.flatnonzero((steps.valid == steps.valid[:, [longest]]).all(0))
    rows = alike[np.linspace(0, len(alike) - 1, min(_ROWS, len(alike))).astype(int)]
    sizes = [math.prod(h.shape[1:]) for h in steps.states]
    count = min(_VECTORS, sum(sizes))
    apart = np.repeat(rows, count)  # the row of each covector
    random = np.random.default_rng(0).normal(size=(len(rows), sum(sizes), count))
    q = np.linalg.qr(random)[0]
    logs = np.zeros((len(rows), count))
    try:
        for end in range(len(order), 0, -_TOGETHER):
            part = order[max(end - _TOGETHER, 0) : end]
            before = order[end - len(part) - 1] if end > len(part) else None
            start = [
                _leaf(asarray(_of_rows(h, all_steps, before, apart), backend=h.backend))
                for h, all_steps in zip(steps.states, states, strict=True)
            ]
            xs = map_leaves(lambda x, part=part: _at(x, part, apart), steps.xs)
            mode: Any = "planned" if planned else "literal"
            _, final = unroll(cell, xs, unflatten(steps.structure, start), mode=mode)
            parts = np.split(q.transpose(0, 2, 1).reshape(len(apart), -1), np.cumsum(sizes)[:-1], 1)
            ends = flatten(final)[0]
            gs = [
                asarray(part.reshape(h.shape).astype(h.dtype), backend=h.backend)
                for part, h in zip(parts, ends, strict=True)
            ]
            pairs = [(h, g) for h, g in zip(ends, gs, strict=True) if h._node is not None]
            nodes = [h._node for h in start if h._node is not None]
            found = pull_back([h for h, _ in pairs], [g for _, g in pairs], nodes)
            back = [
                np.zeros((len(apart), size)) if g is None else host(g).reshape(len(apart), size)
                for g, size in zip((found.get(n) for n in nodes), sizes, strict=True)
            ]
            carried = np.concatenate(back, axis=1, dtype=np.float64)
            carried = carried.reshape(len(rows), count, -1).transpose(0, 2, 1)
            if not np.isfinite(carried).all():
                return nothing
            q, r = np.linalg.qr(carried)
            logs += np.log(np.maximum(np.abs(np.diagonal(r, axis1=1, axis2=2)), 1e-300))
    except (TypeError, ValueError, RuntimeError):
        return nothing  # a cell whose rows are not to be taken apart
    exponents = -np.sort(-logs / len(order), axis=1).mean(0)
    return [float(v) for v in exponents], [int(row) for row in rows]


def _of_rows(first: Tensor, after: Any, step: int | None, rows: Any) -> Any:
    """A leaf of the state after a step, or before the first one, of some rows."""
    return (host(first) if step is None else after[step])[rows]


def _at(x: Tensor, steps: list[int], rows: Any) -> Tensor:
    """The inputs of some rows at some steps; of (T,) those of all rows."""
    array = host(x)[steps]
    return asarray(array[:, rows] if array.ndim > 1 else array, backend=x.backend)


# In words.


def _diagnosis(data: dict[str, Any]) -> str:
    norms = data["norms"]
    bad = [name for name, values in norms.items() if not np.isfinite(values).all()]
    if bad:
        return f"not finite: {', '.join(bad)}; explain_nonfinite finds where it was made"
    exponent = data["lyapunov"][0] if data["lyapunov"] else _slope(norms)
    if exponent is None:
        return "no gradient reaches any state"
    factor = math.exp(exponent)
    over = exponent * data["steps"]
    words = f"x{factor:.3g} a step"
    forget = next((n for n in ("f", "z", "forget") if n in data["gates"]), None)
    mean = f"; mean {forget} = {data['gates'][forget]['mean']:.2f}" if forget else ""
    if over < -_STRONG:
        half = math.log(2) / -exponent
        cure = "clipping will not help"
        if forget == "f":
            cure += ", a larger forget_bias may"
        elif forget is None:
            cure += ", a gated cell or orthogonal recurrent weights may"
        return f"vanishing: {words}, half-life {half:.3g} steps{mean}; {cure}"
    if over > _STRONG:
        double = math.log(2) / exponent
        return (
            f"exploding: {words}, doubled every {double:.3g} steps{mean}; clip the gradient's norm "
            "(optim.clip_grad_norm_), or scale the recurrent weights down"
        )
    return f"carried: {words}, x{math.exp(over):.3g} over all {data['steps']} steps{mean}"


def _slope(norms: dict[str, Any]) -> float | None:
    """The slope of log |dL/dh_t| where there are no Jacobians to go by."""
    values = next((np.asarray(v) for v in norms.values() if np.count_nonzero(v) > 1), None)
    if values is None:
        return None
    t = np.flatnonzero(values)
    return -float(np.polyfit(t, np.log(values[t]), 1)[0])
