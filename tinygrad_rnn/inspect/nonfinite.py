"""Where the first nan or inf of a recurrent computation was made, in values or in gradients.

``explain_nonfinite`` runs a loop by its plan, at full speed. If all is finite, that is all. If not,
it runs once more with the states of all steps among its outputs, finds the first bad step by one
look at them, and takes that step again, alone and under watch. Gradients are found likewise, from
the cotangents of the states.

A mask of -inf that was put there on purpose is no fault: the search starts from what went wrong and
follows it back through values that are not finite, to the operation that made one of finite ones,
or a nan of declared infinities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import random
from ..graph import Node
from ..planner.lookup import PlanError
from ..primitives.creation import asarray
from ..recurrence.unroll import unroll
from ..structure import flatten, map_leaves, unflatten
from ..tensor import Tensor, as_tensor, no_grad, pull_back
from .document import Study
from .steps import Cell, Steps, Tapped
from .walking import Contribution, walked
from .watching import Done, Watched, host, is_finite, watched


def explain_nonfinite(
    cell: Cell,
    xs: Any,
    state: Any = None,
    *,
    loss: Callable[..., Tensor] | None = None,
    targets: Any = None,
    truncate: int | None = None,
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
    reset_state: Any = None,
    reverse: bool = False,
) -> Study:
    """Find the step, row, unit, gate, operation and line that made the first nan or inf.

    Args:
        cell: any callable ``cell(x, state) -> (output, state)``, as for ``unroll``.
        xs: a Tensor (T, B, ...) or a structure of them, as for ``unroll``.
        state: the initial state, as for ``unroll``.
        loss: ``loss(outputs)``, a scalar: then gradients are looked at, too.
        targets: Tensors (T, ...); with them it is ``loss(outputs, targets)``.
        truncate: how many steps a window of truncated BPTT has; the loss is that of each window,
            and no gradient goes from one to the one before.
        lengths: as for ``unroll``.
        mask: as for ``unroll``.
        reset: as for ``unroll``.
        reset_state: as for ``unroll``.
        reverse: as for ``unroll``.

    Returns:
        A ``Study``. ``study.data["found"]`` says whether there was anything; ``print(study)`` says
        what. Steps count from 1 in the text; ``data["step"]`` is the index along axis 0 of ``xs``.

    A cell that cannot be planned is run literally, and the study says so. Nothing is written to
    ``.grad``.
    """
    if truncate is not None and (truncate < 1 or reverse or reset is not None):
        raise ValueError(
            "explain_nonfinite: truncate is a number of steps from 1 on, and goes with neither "
            "reverse nor reset"
        )
    if targets is not None and loss is None:
        raise ValueError("explain_nonfinite: targets are for a loss; give loss=")
    with np.errstate(all="ignore"):  # what NumPy would warn of is what is looked for
        return _explained(
            cell, xs, state, loss, targets, truncate, lengths, mask, reset, reset_state, reverse
        )


def _explained(
    cell: Cell,
    xs: Any,
    state: Any,
    loss: Any,
    targets: Any,
    truncate: int | None,
    lengths: Any,
    mask: Any,
    reset: Any,
    reset_state: Any,
    reverse: bool,
) -> Study:
    loops = Steps("explain_nonfinite", cell, xs, state, lengths, mask, reset, reverse)
    windows = [(0, loops.count)]
    if truncate is not None:
        windows = [(b, min(b + truncate, loops.count)) for b in range(0, loops.count, truncate)]
    start = loops.initial
    for begin, end in windows:
        part = slice(begin, end)
        own = {
            "lengths": None if lengths is None else np.clip(host(lengths) - begin, 0, end - begin),
            "mask": None if mask is None else host(mask)[part],
            "reset": reset,
            "reverse": reverse,
        }
        window = map_leaves(lambda x, part=part: as_tensor(x)[part], xs)
        if begin == 0 and end == loops.count:
            window = xs
        search = _Search(cell, window, start, own, reset_state)
        data = search.values() or _gradients_of(search, loss, targets, part)
        if data is not None:
            if data.get("step") is not None:
                data["step"] += begin
            data.update(steps=loops.count, planned=search.why_not is None, why=search.why_not)
            return Study("nonfinite", data)
        start = map_leaves(Tensor.detach, search.final)
    return Study(
        "nonfinite",
        {
            "found": False,
            "steps": loops.count,
            "planned": search.why_not is None,
            "why": search.why_not,
            "looked": "values and gradients" if loss is not None else "values",
        },
    )


def _gradients_of(search: _Search, loss: Any, targets: Any, part: slice) -> Any:
    if loss is None:
        return None
    if targets is None:
        return search.gradients(loss)
    own = map_leaves(lambda t: as_tensor(t)[part], targets)
    return search.gradients(lambda outputs: loss(outputs, own))


class _Search:
    """One loop, and what is wrong in it."""

    def __init__(
        self, cell: Cell, xs: Any, state: Any, options: dict[str, Any], reset_state: Any
    ) -> None:
        self.cell, self.xs, self.options = cell, xs, options
        self.steps = Steps("explain_nonfinite", cell, xs, state, **options)
        self.reset_state = self.steps.initial if reset_state is None else reset_state
        self.why_not: str | None = None
        self.outputs, self.final = None, None
        with random.recorded() as self.at:
            self.outputs, self.final = self._run(cell, self.steps.xs)

    def _run(self, cell: Any, xs: Any, state: Any = None) -> tuple[Any, Any]:
        options = {**self.options, "reset_state": self.reset_state}
        if self.options["reset"] is None:
            options.pop("reset_state")
        state = self.steps.initial if state is None else state
        if self.why_not is None:
            try:
                return unroll(cell, xs, state, mode="planned", **options)
            except PlanError as error:
                self.why_not = str(error)
        return unroll(cell, xs, state, mode="literal", **options)

    # In values.

    def values(self) -> dict[str, Any] | None:
        """What is wrong with outputs or states; None if they are finite."""
        if all(map(is_finite, flatten((self.outputs, self.final))[0])):
            return None
        with random.replay(self.at), no_grad():
            (outputs, states), _ = self._run(Tapped(self.cell, taps=False), self.steps.xs)
        ys = [host(y) for y in flatten(outputs)[0]]
        hs = [host(h) for h in states]
        bad = self._bad(hs) | self._bad(ys)
        step = next((t for t in self.steps.order if bad[t].any()), None)
        if step is None:  # only the initial state, carried by rows that take no step
            return {"found": True, "where": "values", "step": None, "verdict": "initial state"}
        row = int(np.flatnonzero(bad[step])[0])
        spread = [float(np.mean(bad[t])) for t in self.steps.order]
        before = self.steps.before(hs, step, row, self.reset_state)
        x, start = self.steps.x_at(step, row), self._state(before)
        with no_grad():
            seen = watched(lambda: self.steps.take(step, x, start, self.at))
        data = {"found": True, "where": "values", "step": step, "row": row, "spread": spread}
        return data | _origin_of(seen, x, start, row)

    def _bad(self, arrays: list[Any]) -> Any:
        """Which rows are not finite after which steps, of those that take them (T, B)."""
        found = np.zeros(self.steps.valid.shape, dtype=bool)
        for array in arrays:
            if array.dtype.kind == "f":
                finite = np.isfinite(array)
                if finite.ndim == 1:
                    found |= ~finite[:, None]
                elif finite.shape[1] == self.steps.rows:
                    found |= ~finite.all(axis=tuple(range(2, finite.ndim)))
                else:
                    found |= ~finite.all(axis=tuple(range(1, finite.ndim)))[:, None]
        return found & self.steps.valid

    def _state(self, leaves: list[Any], requires_grad: bool = False) -> Any:
        made = []
        for leaf, like in zip(leaves, self.steps.states, strict=True):
            h = asarray(leaf, backend=like.backend)
            h.requires_grad = requires_grad and h.dtype.kind == "f"
            made.append(h)
        return unflatten(self.steps.structure, made)

    # In gradients.

    def gradients(self, loss: Callable[[Any], Tensor]) -> dict[str, Any] | None:
        """What is wrong with the gradients of ``loss(outputs)``; None if all are finite."""
        ys, structure = flatten(self.outputs)
        free = [_leaf(y) for y in ys]
        seen = watched(lambda: loss(unflatten(structure, free)))
        scalar = seen.result
        if not isinstance(scalar, Tensor) or scalar.size != 1:
            raise ValueError("explain_nonfinite: loss returns a scalar Tensor")
        if not is_finite(scalar):
            return {"found": True, "where": "values", "step": None, "in": "loss"} | _origin_of(
                seen, None, None, None
            )
        if scalar._node is None:
            return None  # nothing that requires grad led to it
        nodes = [y._node for y in free if y._node is not None]
        found = pull_back([scalar], [None], None, retain_graph=True)
        of_outputs = [found.get(n) for n in nodes]
        if not all(g is None or is_finite(g) for g in found.values()):
            one = np.ones((), dtype=scalar.dtype)
            seed = asarray(one, backend=scalar.backend)._array
            data = _backward_origin(seen, [(scalar._node, seed)], None, (None, None))
            if data is not None:
                return {"found": True, "where": "gradients", "step": None, "in": "loss"} | data
        given = [y for y in ys if y.dtype.kind == "f"]
        outputs, gs = _seeded(given, of_outputs)
        if not outputs:
            return None
        leaves = pull_back(outputs, gs, None, retain_graph=True)
        if all(is_finite(g) for g in leaves.values() if g is not None):
            return None
        return self._backward_step(of_outputs)

    def _backward_step(self, of_outputs: list[Any]) -> dict[str, Any]:
        """The step in whose backward pass the first nan or inf is made, and what makes it."""
        steps = self.steps
        taps = tuple(_leaf(t) for t in steps.zeros())
        xs = map_leaves(_leaf, steps.xs)
        start = self._state([host(h) for h in steps.states], requires_grad=True)
        with random.replay(self.at):
            (outputs, states), _ = self._run(Tapped(self.cell, True), (xs, taps), start)
        first = [h for h in flatten(start)[0] if h._node is not None]
        inputs = [x for x in flatten(xs)[0] if x._node is not None]
        leaves = (*taps, *first, *inputs)
        nodes: list[Node] = [x._node for x in leaves if x._node is not None]
        found = pull_back(*_seeded(flatten(outputs)[0], of_outputs), nodes)
        gs = [_or_zeros(found[n], x) for n, x in zip(nodes, leaves, strict=True)]
        backward = _Backward(
            [host(h) for h in states],
            gs[: len(taps)],
            [None if g is None else host(g) for g in of_outputs],
            [*gs[len(taps) + len(first) :], *(host(x) for x in inputs)],
        )
        bad = self._bad(backward.of_states)
        spread = [float(np.mean(bad[t])) for t in steps.order]
        for step, row in self._suspects(bad, gs[len(taps) : len(taps) + len(first)], backward):
            data = self._vjp(step, row, backward)
            if data is not None:
                head = {"found": True, "where": "gradients", "step": step, "row": row}
                return {**head, "spread": spread if any(spread) else [], **data}
        return {"found": True, "where": "gradients", "step": None, "verdict": "not reproduced"}

    def _suspects(
        self, bad: Any, of_first: list[Any], backward: _Backward
    ) -> Iterator[tuple[int, int]]:
        """Steps to be looked at, the likeliest first, each with the row that it is about."""
        steps, order = self.steps, self.steps.order

        def last(flags: Any) -> int | None:
            return next((n for n in reversed(range(len(order))) if flags[order[n]].any()), None)

        # The last step in whose inputs or their cotangents something is wrong may have made it.
        beside = self._bad(backward.of_inputs)
        place = last(beside)
        own = (
            None if place is None else (order[place], int(np.flatnonzero(beside[order[place]])[0]))
        )
        place_of_states = last(bad)
        if own is not None and place is not None and place > (place_of_states or 0):
            yield own
        if place_of_states is not None:  # the step that follows a state whose cotangent is bad
            row = int(np.flatnonzero(bad[order[place_of_states]])[0])
            after = next((t for t in order[place_of_states + 1 :] if steps.valid[t, row]), None)
            yield from ((t, row) for t in (after, order[place_of_states]) if t is not None)
        elif not all(map(is_finite, of_first)):
            rows = ~np.isfinite(np.concatenate([g.reshape(len(g), -1) for g in of_first], 1)).all(1)
            row = int(np.flatnonzero(rows)[0])
            yield next((t for t in order if steps.valid[t, row]), order[0]), row
        if own is not None:
            yield own
        # A gradient of weights alone, which nothing else shows.
        step = order[self._narrowed(backward)]
        yield step, int(np.flatnonzero(steps.valid[step])[0]) if steps.valid[step].any() else 0

    def _narrowed(self, backward: _Backward) -> int:
        """The last place in the order of the loop whose backward pass is bad, by bisection."""
        low, high = 0, self.steps.count
        while high - low > 1:
            middle = (low + high) // 2
            if self._is_bad(middle, high, backward):
                low = middle
            else:
                high = middle
        return low

    def _is_bad(self, low: int, high: int, backward: _Backward) -> bool:
        """Whether the backward pass of these places of the order makes anything not finite."""
        steps = self.steps
        taken = steps.order[low:high]
        part = slice(min(taken), max(taken) + 1)
        row = int(np.flatnonzero(steps.valid[taken[0]])[0]) if steps.valid[taken[0]].any() else 0
        leaves = steps.before(backward.states, taken[0], row, self.reset_state, carried=True)
        own = dict(self.options)
        for name in ("lengths", "mask", "reset"):
            own[name] = None
        if steps.ragged:
            own["mask"] = steps.valid[part]
        if steps.resets is not None:
            own |= {"reset": steps.resets[part], "reset_state": self.reset_state}
        xs = map_leaves(lambda x: x[part], steps.xs)
        mode: Any = "planned" if self.why_not is None else "literal"
        start = self._state(leaves, requires_grad=True)
        with random.replay(self.at):
            outputs, final = unroll(self.cell, xs, start, mode=mode, **own)
        last = [g[taken[-1]] for g in backward.of_states]
        given = [None if g is None else g[part] for g in backward.of_outputs]
        ys, gs = _seeded([*flatten(outputs)[0], *flatten(final)[0]], [*given, *last])
        if not ys:
            return False
        return not all(is_finite(g) for g in pull_back(ys, gs, None).values() if g is not None)

    def _vjp(self, step: int, row: int, backward: _Backward) -> dict[str, Any] | None:
        """Take a step and go back through it under watch; None if all that it makes is finite."""
        steps = self.steps
        leaves = steps.before(backward.states, step, row, self.reset_state)
        start = self._state(leaves, requires_grad=True)
        x = steps.x_at(step, row)
        seen = watched(lambda: steps.take(step, x, start, self.at))
        output, following = seen.result
        results = [r for r in flatten((output, following))[0] if r.dtype.kind == "f"]
        given = [*backward.of_outputs, *backward.of_states]
        seeds = []
        for r, g in zip(results, given, strict=True):
            if g is not None and r._node is not None:
                own = np.where(self._taken(step, g[step]), g[step], 0).astype(g.dtype)
                seeds.append((r._node, asarray(own, backend=r.backend)._array))
        return _backward_origin(seen, seeds, steps.valid[step], (x, start)) if seeds else None

    def _taken(self, step: int, g: Any) -> Any:
        flags = self.steps.valid[step]
        if g.ndim == 0 or g.shape[0] != len(flags):
            return True
        return flags.reshape(-1, *[1] * (g.ndim - 1))


class _Backward(NamedTuple):
    """What a backward pass of a loop went by: arrays (T, B, ...) on the host."""

    states: list[Any]
    of_states: list[Any]  # the cotangents of states, from the steps that follow
    of_outputs: list[Any]  # those of floating outputs, None for what the loss does not read
    of_inputs: list[Any]  # those of floating inputs, and these


def _seeded(ys: Sequence[Tensor], gs: Sequence[Any]) -> tuple[list[Tensor], list[Any]]:
    """The floating results that have a graph and a cotangent, and these."""
    floating = [y for y in ys if y.dtype.kind == "f"]
    pairs = [
        (y, g if isinstance(g, Tensor) else asarray(g, backend=y.backend))
        for y, g in zip(floating, gs, strict=True)
        if g is not None and y._node is not None
    ]
    return [y for y, _ in pairs], [g for _, g in pairs]


def _leaf(x: Tensor) -> Tensor:
    """The same values as a leaf."""
    made = x.detach()
    made.requires_grad = made.dtype.kind == "f"
    return made


def _or_zeros(g: Any, like: Tensor) -> Any:
    return np.zeros(like.shape, like.dtype) if g is None else host(g)


# Who is to blame.


def _origin_of(seen: Watched, x: Any, start: Any, row: int | None) -> dict[str, Any]:
    """The operation that made what is not finite in a result, and how it went on from there."""
    results = [r for r in flatten(seen.result)[0] if isinstance(r, Tensor) and not is_finite(r)]
    if not results:
        return {"verdict": "not reproduced"}
    makers = {id(out): done for done in seen.operations for out in done.outputs}
    current: Any = results[0]
    chain: list[Done] = []
    outside: str | None = None
    while id(current) in makers:
        done = makers[id(current)]
        chain.append(done)
        bad = [i for i in done.inputs if not isinstance(i, (bool, int)) and not is_finite(i)]
        # A nan explains more than an inf, and what was computed more than what was given.
        bad.sort(key=lambda i: (not _has_nan(i), id(i) not in makers))
        if _has_nan(current) and bad and not _has_nan(bad[0]):
            computed = [i for i in bad if id(i) in makers and _computed(i, makers)]
            if not computed:
                break  # a nan of infinities that were declared
            bad = computed
        if not bad:
            break
        if id(bad[0]) not in makers:
            outside = _called(bad[0], x, start, seen)
            break
        current = bad[0]
    if not chain:
        return {"verdict": "given", "outside": _called(current, x, start, seen)}
    origin = chain[-1]
    made = next(out for out in origin.outputs if not is_finite(out))
    data = _described(seen, origin, host(made), row, _not_finite)
    data["made"] = _kind(host(made))
    if outside is not None:
        data["outside"] = outside
    data["follows"] = [
        {"operation": d.name, "line": d.line, "made": _kind(host(bad))}
        for d in chain[-2::-1]
        for bad in [o for o in d.outputs if not is_finite(o)][:1]
    ][:8]
    data["cure"] = _cure(origin.name, data["read"], data["made"])
    return data


def _computed(x: Any, makers: dict[int, Done]) -> bool:
    """Whether an inf was made of finite numbers, and not handed on from one that was given."""
    while id(x) in makers:
        bad = [i for i in makers[id(x)].inputs if not is_finite(i)]
        if not bad:
            return True
        x = bad[0]
    return False


def _backward_origin(
    seen: Watched, seeds: list[tuple[Node, Any]], rows: Any, given: Any
) -> dict[str, Any] | None:
    """The first contribution that is not finite, made of a cotangent that is; None if none is."""
    for c in walked(seeds):
        gs = c.g if isinstance(c.g, list) else [c.g]
        if not is_finite(c.part) and all(is_finite(g) for g in gs):
            return _blamed(seen, c, rows, given)
    return None


def _blamed(seen: Watched, c: Contribution, rows: Any, given: Any) -> dict[str, Any]:
    by_node: dict[Node, Done] = {}
    for done in seen.operations:
        for out in done.outputs:
            if out._node is not None:
                node = out._node
                by_node[node if node.index is None else node.parents[0]] = done
    part = host(c.part)
    maker = by_node.get(c.node)
    argnum = c.node.argnums[c.slot]
    primitive = c.node.primitive
    name = primitive.inputs[argnum] if argnum < len(primitive.inputs) else str(argnum)
    bad = ~np.isfinite(part)
    by_rows = rows is not None and part.ndim > 1 and len(part) == len(rows)
    if by_rows and bad[rows].any():  # other rows were only computed along
        bad[~rows] = False
    place = tuple(int(n) for n in np.argwhere(bad)[0])
    g = host(c.g[0] if isinstance(c.g, list) else c.g)
    at_g = float(g[place]) if g.shape == part.shape else None
    data: dict[str, Any] = {"operation": primitive.name, "read": [], "line": ""}
    if maker is not None:
        data = _described(seen, maker, part, None, lambda out: True)
    data |= {"input": name, "made": _kind(part), "cotangent": at_g, "index": list(place)}
    data["unit"] = place[-1] if place else None
    if by_rows:
        data["row"] = place[0]
    behind = at_g == 0 and any(d.name == "where" for d in seen.operations)
    data["cure"] = _cure(primitive.name, data["read"], data["made"], backwards=True, behind=behind)
    data["follows"] = []
    for x in maker.inputs if maker is not None else ():
        if not is_finite(x) and seen.maker(x) is None:
            data["outside"] = _called(x, given[0], given[1], seen)
            array = host(x)
            if rows is not None and array.ndim > 1 and len(array) == len(rows):
                data["row"] = int(np.argwhere(~np.isfinite(array))[0][0])
    return data


def _described(
    seen: Watched, done: Done, bad: Any, row: int | None, wanted: Callable[[Tensor], bool]
) -> dict[str, Any]:
    """An operation, where in its result it went wrong, and what it read there."""
    places = np.argwhere(~np.isfinite(bad))
    if row is not None and bad.ndim > 1 and (places[:, 0] == row).any():
        places = places[places[:, 0] == row]
    place = tuple(int(n) for n in places[0]) if len(places) else ()
    named = seen.name_of(done, wanted)
    unit = place[-1] if place else None
    if named is not None:
        own = host(named[1])
        if own.shape != bad.shape and own.ndim and not np.isfinite(own).all():
            unit = int(np.argwhere(~np.isfinite(own))[0][-1])
    return {
        "operation": done.name,
        "line": done.line,
        "gate": named[0] if named is not None else None,
        "unit": unit,
        "index": list(place),
        "read": [_read(x, place, seen, bad.shape) for x in done.inputs],
    }


def _read(x: Any, place: tuple[int, ...], seen: Watched, shape: Any) -> dict[str, Any]:
    """An input of an operation: its number at the place, or its range where there is no one."""
    array = host(x)
    name = seen.names.get(id(x))
    if array.ndim == 0:
        return {"name": name, "value": _plain(array)}
    try:
        value = np.broadcast_to(array, shape)[place]
    except ValueError:
        finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
        largest = float(np.abs(finite).max()) if finite.size else None
        lost = int(array.size - finite.size)
        return {"name": name, "largest": largest, "not finite": lost, "shape": list(array.shape)}
    return {"name": name, "value": _plain(value)}


def _plain(value: Any) -> Any:
    number = value.item()
    return str(number) if isinstance(number, float) and not math.isfinite(number) else number


def _called(x: Any, x_at: Any, start: Any, seen: Watched) -> str:
    """What a value from outside of the step is."""
    if any(x is leaf for leaf in flatten(x_at)[0]):
        return "the input x of this step"
    for n, leaf in enumerate(flatten(start)[0]):
        if x is leaf:
            return f"the state before it (leaf {n})"
    name = seen.names.get(id(x))
    if not isinstance(x, Tensor):
        return f"the number {x!r}"
    what = f"{type(x).__name__} {x.dtype} {tuple(x.shape)}"
    return f"{name}, a {what}" if name else f"a captured {what}"


def _has_nan(x: Any) -> bool:
    array = host(x)
    return array.dtype.kind == "f" and bool(np.isnan(array).any())


def _kind(array: Any) -> str:
    return "nan" if np.isnan(array).any() else "inf"


def _not_finite(x: Tensor) -> bool:
    return not is_finite(x)


def _cure(
    name: str, read: list[dict[str, Any]], made: str, backwards: bool = False, behind: bool = False
) -> str:
    """What usually helps, where the pattern is known."""
    values = [r.get("value") for r in read]
    zero = any(v == 0 for v in values)
    if backwards and behind:
        return (
            "0 * inf behind a where: the branch that was not taken has an infinite derivative; "
            "choose a safe input with where before the operation as well"
        )
    if backwards and name in ("sqrt", "pow", "log", "divide", "std"):
        return f"the derivative of {name} at 0 is infinite: add a small number before it"
    if name == "exp":
        return "exp overflows: subtract the maximum first, or use softmax, softplus, logsumexp"
    if name == "log":
        return "log of 0 or less: add a small number, or use log_softmax, logsigmoid"
    if name in ("divide", "remainder") and zero:
        return "a division by 0: add a small number to the divisor, or choose with where before it"
    if name == "sqrt":
        return "sqrt of a negative number: clip it at 0 before"
    if name in ("matmul", "multiply", "square", "pow", "add", "sum") and made == "inf":
        return "it overflows: what it reads has grown; look at flow for the gain of a step"
    return ""
