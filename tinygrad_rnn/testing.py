"""Tools for tests of one's own: derivatives against finite differences, backends against NumPy.

``check_backend(name)`` is what a new backend should pass; it is written beside the protocol.
``check_grads(f, args)`` is what a new primitive or cell should pass. It compares directional
derivatives, in random directions. A handful of evaluations then checks all elements at once, and a
second derivative is just the first one of another function, the gradient.
"""

from __future__ import annotations

import functools
import math
import operator
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from inspect import getclosurevars
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias

import numpy as np

from tinygrad_rnn_backends.conformance import check_backend as check_backend

from . import random
from .graph import topological_order
from .nn.layers import promotion_is_meant
from .primitives.creation import asarray, tensor
from .recurrence import unroll
from .recurrence.unroll import ROUNDING
from .structure import flatten, map_leaves, unflatten
from .tensor import Tensor, as_tensor, no_grad, pull_back
from .transforms import jvp, vjp

Leaves: TypeAlias = list[Tensor]

_ORDINALS = ("first", "second", "third", "fourth")
_STENCIL = (
    (-2, 1 / 12),
    (-1, -2 / 3),
    (1, 2 / 3),
    (2, -1 / 12),
)  # exact for polynomials of degree 4


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int = 2,
    modes: Sequence[str] = ("vjp", "jvp"),
    *,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    step: float = 1e-3,
    seed: int = 0,
) -> None:
    """Compare derivatives of ``f`` at ``args`` with central finite differences, in float64.

    At each order, for random ``u`` and ``v``: the derivative in direction ``v`` by ``jvp``, each
    element; ``<u, J v>`` by ``vjp``; and that the two modes agree to rounding. The next order does
    the same to the function ``x -> u J(x)``.

    Args:
        f: takes ``args``, returns a Tensor or a structure of them. It must be smooth within twice
            ``step`` of ``args``, and draw no random numbers.
        args: Tensors, arrays, numbers or structures of them. Those of floating dtype are converted
            to float64 and differentiated, others are passed on as they are.
        order: how many derivatives to look at.
        modes: "vjp", "jvp" or both.
        rtol: tolerance relative to the derivative.
        atol: tolerance for a derivative that vanishes.
        step: of the finite differences, whose error is of order ``step**4``.
        seed: of the random directions.

    Raises:
        AssertionError: naming the order, the mode, the argument and the two numbers that disagree.
        ValueError: if no argument has a floating dtype, or for an unknown mode.
    """
    if not modes or not set(modes) <= {"vjp", "jvp"}:
        raise ValueError(f"check_grads: modes are 'vjp' and 'jvp', not {modes!r}")
    leaves, structure = flatten(tuple(args))
    tensors = [as_tensor(leaf).detach() for leaf in leaves]
    places = [i for i, x in enumerate(tensors) if x.dtype.kind == "f"]
    if not places:
        raise ValueError("check_grads: no argument has a floating dtype")
    xs = [tensors[i].astype("float64") for i in places]

    def function(*points: Tensor) -> Leaves:
        filled = list(leaves)
        for i, x in zip(places, points, strict=True):
            filled[i] = x
        ys = map(as_tensor, flatten(f(*unflatten(structure, filled)))[0])
        return [y for y in ys if y.dtype.kind == "f"]

    rng = np.random.default_rng(seed)
    with promotion_is_meant():
        for n in range(order):
            name = _ORDINALS[n] if n < len(_ORDINALS) else f"{n + 1}th"
            check = _Check(function, xs, rng, f"check_grads: {name} order", rtol, atol, step)
            check.run(modes)
            function = _pulled_back(function, check.cotangents)


def check_planned(
    cell: Callable[..., Any],
    xs: Any,
    state: Any = None,
    *,
    rtol: float | None = None,
    atol: float = 0.0,
    **options: Any,
) -> None:
    """Compare ``unroll`` of a cell planned with literal: outputs, final state, and all gradients.

    Args:
        cell: what ``unroll`` takes.
        xs: likewise.
        state: likewise.
        rtol: how far an array may differ, relative to the largest magnitude in it; 1e-5 for
            float32, 1e-11 for float64 unless given.
        atol: how far it may differ besides, where the true value is 0 and all is rounding.
        **options: of ``unroll``: lengths, mask, reset, reset_state, reverse, checkpoint.

    Gradients are those by xs, the state and every captured Tensor that requires grad, of the sum of
    all results with fixed random weights.

    An array that differs by more, as a sum of terms that cancel may, is compared with its own
    rounding: how much the literal loop changes if it computes in float64, and if every number it is
    given changes in its last place. Four times that much is allowed, but no more than 100 times
    the tolerance, and nothing if ``rtol`` is given or if the loop does not repeat itself exactly.

    Raises:
        PlanError: if the cell cannot be planned.
        AssertionError: naming what differs, and by how much; also under ``python -O``.
    """
    literal, planned = (_run_in(m, cell, xs, state, options) for m in ("literal", "planned"))
    rounding: dict[str, float] | None = None
    for name in dict.fromkeys([*literal, *planned]):
        limit = ROUNDING.get(_dtype_name(literal.get(name)), 0.0) if rtol is None else rtol
        found = _difference(name, literal.get(name), planned.get(name), limit, atol)
        if found is None:
            continue
        apart, message = found
        if apart is not None and rtol is None:
            if rounding is None:
                rounding = _rounding_of(literal, cell, xs, state, options)
            scale = float(np.max(np.abs(literal[name]), initial=0.0))
            if apart <= min(4 * rounding[name], 100 * limit * scale):
                continue
        raise AssertionError(f"check_planned: {message}")


def _dtype_name(array: Any) -> str:
    return "" if array is None else str(array.dtype.name)


def _difference(
    name: str, literal: Any, planned: Any, limit: float, atol: float
) -> tuple[float | None, str] | None:
    """By how much two arrays differ, None if not in numbers only, and what to say; None if not."""
    if literal is None or planned is None:
        if all(x is None or not np.any(x) for x in (literal, planned)):
            return None
        return None, f"{name} is None in one of the two only"
    if literal.dtype != planned.dtype or literal.shape != planned.shape:
        return None, (
            f"{name} is {planned.dtype} {planned.shape} planned, and literally "
            f"{literal.dtype} {literal.shape}"
        )
    scale = float(np.max(np.abs(literal), initial=0.0))
    apart = float(np.max(np.abs(literal * 1.0 - planned), initial=0.0))
    if apart <= limit * scale + atol:
        return None
    return apart, (
        f"{name} differs by {apart:.2g}; its largest element is {scale:.2g}, "
        f"and {limit} of that is allowed (where the true value is 0, give atol=)"
    )


def _rounding_of(
    literal: dict[str, Any], cell: Any, xs: Any, state: Any, options: dict[str, Any]
) -> dict[str, float]:
    """How far each result of the literal loop is from those that differ by rounding only."""
    largest = dict.fromkeys(literal, 0.0)
    again = _run_in("literal", cell, xs, state, options)
    if any(not np.array_equal(literal[k], again[k], equal_nan=True) for k in literal):
        return largest  # what changes from call to call is not rounding

    def note(other: dict[str, Any]) -> None:
        for name, array in literal.items():
            if array is not None and other.get(name) is not None:
                apart = np.abs(array * 1.0 - other[name].astype(array.dtype))
                largest[name] = max(largest[name], float(np.max(apart, initial=0.0)))

    for seed in range(4):
        note(_run_in("literal", cell, xs, state, options, _last_place(seed)))
    try:
        with promotion_is_meant():
            note(_run_in("literal", cell, xs, state, options, _widened))
    except TypeError:  # a cell that insists on the dtype of its state
        return largest
    return largest


def _last_place(seed: int) -> Callable[[Any], Any]:
    """A function that changes numbers of floating dtype in the last place, at random."""
    rng = np.random.default_rng(seed)

    def changed(host: Any) -> Any:
        if host.dtype.kind != "f":
            return host
        steps = np.asarray(rng.integers(-1, 2, host.shape), host.dtype)
        return np.asarray(host * (1 + steps * np.finfo(host.dtype).eps), host.dtype)

    return changed


def _widened(host: Any) -> Any:
    return host.astype("float64") if host.dtype.kind == "f" else host


def _run_in(
    mode: Any,
    cell: Any,
    xs: Any,
    state: Any,
    options: dict[str, Any],
    change: Callable[[Any], Any] = lambda host: host,
) -> dict[str, Any]:
    """Results and gradients of one mode, by name; random draws are the same in each.

    ``change`` is applied to all arrays that are given: xs, the state and the weights.
    """
    position = random.get_state()
    own = functools.partial(_own_leaf, change=change)
    given = map_leaves(own, (xs,) if state is None else (xs, state))
    outputs, final = unroll(cell, *given, **options, mode=mode)
    random.set_state(position)
    named = {f"output {i}": as_tensor(y) for i, y in enumerate(flatten(outputs)[0])}
    named |= {f"final state {i}": as_tensor(h) for i, h in enumerate(flatten(final)[0])}
    rng = np.random.default_rng(0)
    parts = []
    for y in named.values():
        weights = change(np.asarray(rng.standard_normal(y.shape), y.dtype))
        if y.requires_grad:
            parts.append((y * asarray(weights, backend=y.backend)).sum())
    found: dict[str, Any] = {name: y.numpy() for name, y in named.items()}
    if not parts:
        return found
    total = functools.reduce(operator.add, parts)
    if total._node is None:
        raise RuntimeError("check_planned: asks for gradients; call it outside of no_grad()")
    captured = _names_of_captured(cell)
    names = {x._node: f"argument {i}" for i, x in enumerate(flatten(given)[0])}
    leaves = [node for node in topological_order([total._node]) if node.is_leaf]
    for node, g in pull_back([total], [None], leaves).items():
        name = names.get(node) or captured.get(node) or f"captured leaf {node.serial}"
        found[f"the gradient by {name}"] = None if g is None else g.numpy()
    return found


def _own_leaf(x: Any, change: Callable[[Any], Any]) -> Tensor:
    """A copy of an argument, whose gradient is asked for."""
    given = as_tensor(x).detach()
    own = tensor(change(given.numpy()), backend=given.backend)
    own.requires_grad = own.dtype.kind == "f"
    return own


def _names_of_captured(cell: Any) -> dict[Any, str]:
    """What Tensors that a cell reaches are called: by attributes, closures, globals of its code."""
    names: dict[Any, str] = {}
    seen: set[int] = set()
    pending: list[tuple[str, Any]] = [("", cell)]
    while pending and len(seen) < 10_000:
        name, x = pending.pop()
        if id(x) in seen or isinstance(x, (type, ModuleType, str, np.ndarray)):
            continue
        seen.add(id(x))
        if isinstance(x, Tensor):
            names.setdefault(x._node, name or "the cell")
            continue
        parts: Mapping[Any, Any] = {}
        if isinstance(x, FunctionType):
            used = getclosurevars(x)
            pending += [*used.globals.items(), *used.nonlocals.items()][::-1]
        elif isinstance(x, MethodType):
            pending += [(name, x.__func__), (name, x.__self__)]
        elif isinstance(x, functools.partial):
            pending += [(name, x.func), (name, x.args), (name, x.keywords)]
        elif isinstance(x, Mapping):
            parts = x
        elif isinstance(x, (list, tuple, deque)):
            parts = dict(enumerate(x))
        elif isinstance(getattr(x, "__dict__", None), dict):
            parts = vars(x)
        prefix = f"{name}." if name else ""
        pending += [(f"{prefix}{key}", part) for key, part in parts.items()][::-1]
    return names


def _pulled_back(f: Callable[..., Leaves], cotangents: Leaves) -> Callable[..., Leaves]:
    """``x -> u J(x)``, whose derivative is the next order's."""

    def gradient(*xs: Tensor) -> Leaves:
        return list(vjp(f, *xs)[1](cotangents))

    return gradient


class _Check:
    """The derivative of one function, which takes and returns several Tensors, at one point."""

    def __init__(
        self,
        f: Callable[..., Leaves],
        xs: Leaves,
        rng: np.random.Generator,
        title: str,
        rtol: float,
        atol: float,
        step: float,
    ) -> None:
        self.f, self.xs, self.title = f, xs, title
        self.rtol, self.atol, self.step = rtol, atol, step
        with no_grad():
            self.ys = f(*xs)
        self.directions = _random_like(xs, rng)
        self.cotangents = _random_like(self.ys, rng)

    def run(self, modes: Sequence[str]) -> None:
        numeric = self.difference(self.directions)
        expected = _inner(self.cotangents, numeric)
        if "vjp" in modes:
            pulled = vjp(self.f, *self.xs)[1](self.cotangents)
            for i, (g, x) in enumerate(zip(pulled, self.xs, strict=True)):
                if (g.shape, g.dtype) != (x.shape, x.dtype):
                    self.fail(f"vjp, argument {i}: {g.dtype} {g.shape} for {x.dtype} {x.shape}")
            derived = _inner(pulled, self.directions)
            if not self.close(derived, expected):
                self.fail(f"vjp: <u, J v> is {derived:.12g}, by finite differences {expected:.12g}")
        if "jvp" in modes:
            tangents = jvp(self.f, tuple(self.xs), tuple(self.directions))[1]
            for i, (t, n) in enumerate(zip(tangents, numeric, strict=True)):
                self.compare_elements(i, t.numpy(), n)
        if "vjp" in modes and "jvp" in modes:
            forward = _inner(self.cotangents, tangents)
            size = _inner(self.cotangents, tangents, abs) + _inner(pulled, self.directions, abs)
            if abs(forward - derived) > 1e-11 * size + 1e-13:
                self.fail(f"<u, J v> is {forward:.15g} by jvp, {derived:.15g} by vjp")

    def difference(self, directions: Leaves) -> list[np.ndarray[Any, Any]]:
        """The derivative of each output in a direction, by finite differences."""
        totals = [np.zeros(y.shape) for y in self.ys]
        for n, weight in _STENCIL:
            with no_grad():
                moved = [x + n * self.step * v for x, v in zip(self.xs, directions, strict=True)]
                ys = self.f(*moved)
            for total, y in zip(totals, ys, strict=True):
                total += weight / self.step * y.numpy()
        return totals

    def compare_elements(self, output: int, derived: Any, numeric: Any) -> None:
        wrong = ~np.isclose(derived, numeric, rtol=self.rtol, atol=self.atol)
        if wrong.any():
            at = tuple(map(int, np.argwhere(wrong)[0]))
            self.fail(
                f"jvp, element {at} of output {output}: {derived[at]:.12g}, "
                f"by finite differences {numeric[at]:.12g}"
            )

    def close(self, derived: float, numeric: float) -> bool:
        return math.isclose(derived, numeric, rel_tol=self.rtol, abs_tol=self.atol)

    def fail(self, what: str) -> None:
        raise AssertionError(
            f"{self.title}, {what} (rtol {self.rtol:g}, step {self.step:g}: of a function that is "
            f"much curved try a smaller one){self.culprit()}"
        )

    def culprit(self) -> str:
        """Which arguments disagree if only they are varied."""
        pulled = vjp(self.f, *self.xs)[1](self.cotangents)
        lines = []
        for i, (x, v, g) in enumerate(zip(self.xs, self.directions, pulled, strict=True)):
            alone = [v if i == j else 0 * w for j, w in enumerate(self.directions)]
            numeric = _inner(self.cotangents, self.difference(alone))
            derived = _inner([g], [v])
            if not self.close(derived, numeric):
                lines.append(
                    f"\n  argument {i} {x.shape} alone: vjp {derived:.9g}, not {numeric:.9g}"
                )
        return "".join(lines)


def _random_like(xs: Leaves, rng: np.random.Generator) -> Leaves:
    """Numbers between 0.5 and 1 of either sign, so that no element is left out."""
    return [
        asarray(
            np.asarray(rng.uniform(0.5, 1, x.shape) * rng.choice((-1.0, 1.0), x.shape)),
            backend=x.backend,
        )
        for x in xs
    ]


def _inner(xs: Sequence[Any], ys: Sequence[Any], of: Callable[[Any], Any] = lambda z: z) -> float:
    """The inner product of two lists of Tensors or arrays; ``of`` is applied to each product."""
    host = [x.numpy() if isinstance(x, Tensor) else x for x in xs]
    other = [y.numpy() if isinstance(y, Tensor) else y for y in ys]
    return float(sum(np.sum(of(x * y)) for x, y in zip(host, other, strict=True)))
