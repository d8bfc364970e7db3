"""Learning while the sequence is read: gradients after every step, by four methods.

BPTT remembers what was computed and walks back through it. The others carry something forward: how
the state depends on the parameters, the influence J_t = ds_t/dtheta. A step computes a state and a
loss, s_t = F(s_{t-1}, theta) and l_t = L(s_{t-1}, theta), so by the chain rule::

    dl_t/dtheta = dL/ds J_{t-1} + dL/dtheta
    J_t         = dF/ds J_{t-1} + dF/dtheta

Both lines are one: the loss is one more element of what a step computes, and its row of the sum is
the gradient. The derivatives of a step are had by ``vmap`` of its vjp, for all its elements at
once. Where only the product with a vector is asked for, it is the vjp of the vjp, as in ``jvp``. No
rule of any cell is written here.

The subtle point: a step is run once. Its derivatives are taken on the graph that it left, where
the parameters are, wherever the cell has them from, and where random draws have been made.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from .. import random
from ..batching import vmap
from ..graph import Node, topological_order
from ..planner.loop import Cell
from ..primitives.creation import eye, ones, zeros, zeros_like
from ..primitives.elementwise import logical_or, not_equal, sqrt, square, where
from ..primitives.movement import concat, reshape, split
from ..structure import flatten, map_leaves, unflatten
from ..tensor import Tensor, as_tensor, no_grad
from ..transforms import grad, with_graph
from . import truncated
from .truncated import Windows, check_loss, detach

Method = Literal["rtrl", "bptt", "snap1", "uoro"]
METHODS = ("rtrl", "bptt", "snap1", "uoro")


class OnlineStep(NamedTuple):
    """What ``learn_online`` gives after each step. None of it has a graph."""

    loss: Tensor
    """What ``loss`` returned, a scalar."""
    gradients: Any
    """Of this loss, structured like ``parameters``."""
    state: Any
    """The one after this step."""


def learn_online(
    cell: Cell,
    xs: Any,
    targets: Any,
    loss: Callable[[Any, Any], Tensor],
    state: Any = None,
    *,
    method: Method = "rtrl",
    parameters: Any = None,
    k2: int | None = None,
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
    max_bytes: int = 1 << 30,
) -> Generator[OnlineStep, None, None]:
    """Run ``cell`` over ``xs`` and give the loss and its gradients after every step.

    ::

        parameters = [*cell.parameters(), *readout.parameters()]
        steps = tg.learn_online(cell, xs, targets, loss, method="rtrl", parameters=parameters)
        for value, gradients, state in steps:
            for p, g in zip(parameters, gradients):
                p.grad = g
            optimizer.step()

    Nothing is updated here, not even ``.grad``. What you change of the parameters between two steps
    is used from the next one on, and the influence is carried on: each step counts with the
    parameters that it was run with, as in ``truncated_bptt``.

    Args:
        cell: as ``unroll`` takes it.
        xs: a Tensor (T, B, ...), or a structure of Tensors that share axis 0.
        targets: the same, with the same T.
        loss: ``loss(output, target)`` of one step, without the axis of time, a scalar. It may have
            parameters of its own: a readout.
        state: the initial state; if None, ``cell.initial_state`` is asked. Gradients go on into it:
            it may depend on parameters.
        method: how the gradient of a step's loss is had.

            * "rtrl", real-time recurrent learning (Williams & Zipser 1989): exactly, whatever T is.
              It holds a matrix, n elements of the state times P of the parameters, and computes
              about n * n * P products a step: 3 ms for an LSTM of 32 units and one row in float32,
              where "uoro" takes 2, and some 0.2 s for 16 rows.
            * "bptt": exactly, but through the last ``k2`` steps only. With k2 = T it equals "rtrl".
            * "snap1", the sparse 1-step approximation (Menick et al. 2021): "rtrl" with an
              influence that is kept only where a parameter has acted at once, within a step, on an
              element of the state. It is held like that of "rtrl", with zeros, and costs as much.
            * "uoro", unbiased online recurrent optimisation (Tallec & Ollivier 2018, algorithm 1):
              an influence of rank one, made of random signs, whose mean is that of "rtrl". It costs
              about two backward passes of a step, however large the model is. Signs are drawn from
              ``tinygrad_rnn.random``.
        parameters: Tensors that require grad, in any structure. If None, those of ``cell``, and
            then of ``loss``, as far as they are modules: a list in the order of ``.parameters()``,
            without frozen ones. A loss that depends on any others is then refused.
        k2: steps that a walk goes back, at least 1; for "bptt" only.
        lengths: how many steps each row takes, B integers on the host, as for ``unroll``.
        mask: booleans (T, B), as for ``unroll``.
        reset: booleans (T, B), as for ``unroll``. As in ``truncated_bptt``, the influence starts
            there again from that of the initial state.
        max_bytes: the most that the influence of "rtrl" and "snap1" may take; some of it is needed
            several times while it moves.

    Each step's loss is of that step alone, so that the gradients sum to that of the losses' sum. A
    parameter on which no loss depends has zeros. What the cell draws are the numbers that one
    ``unroll`` of all steps draws: with one seed, dropout has the same masks in both.

    If the cell or the loss raises, the iteration has ended, and nothing has changed.

    Raises:
        ValueError: for an unknown method, k2 < 1, parts that do not fit T, a loss that is no
            scalar, an influence beyond ``max_bytes``, or a parameter that is none of those given.
        TypeError: for parameters that are no Tensors; without ``state``, for a cell without
            ``initial_state``.
    """
    if method not in METHODS:
        names = ", ".join(map(repr, METHODS))
        raise ValueError(f"learn_online: method is one of {names}, not {method!r}")
    _check_k2(method, k2)
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1:
        raise ValueError(f"learn_online: max_bytes is a number of bytes, not {max_bytes!r}")
    rows = state, lengths, mask, reset
    sequence = truncated.Sequence("learn_online", cell, xs, targets, loss, *rows)
    wanted = _Wanted(parameters, cell, loss)
    if k2 is not None:
        return _by_walking_back(sequence, loss, wanted, int(k2))
    with with_graph():
        initial = map_leaves(as_tensor, sequence.initial())
    matrix = _Matrix(max_bytes, sparse=method == "snap1")
    influence: _Influence = _Signs() if method == "uoro" else matrix
    return _by_walking_on(sequence, loss, wanted, influence, initial)


def _check_k2(method: str, k2: Any) -> None:
    if method != "bptt":
        if k2 is not None:
            raise ValueError(f"learn_online: k2 belongs to method='bptt', not to {method!r}")
    elif k2 is None or isinstance(k2, bool) or not isinstance(k2, (int, np.integer)):
        raise TypeError(
            "learn_online: method='bptt' needs k2, the number of steps that a walk goes back, not "
            f"{k2!r}; k2=len(xs) goes back through all of them"
        )
    elif k2 < 1:
        raise ValueError(f"learn_online: k2 is at least 1, not {k2}")


class _Wanted:
    """The parameters by which derivatives are taken, and how their gradients are put together."""

    def __init__(self, given: Any, *modules: Any) -> None:
        self.complete = given is None  # whether no other may be met
        if given is None:
            lists = [module.parameters() for module in modules if hasattr(module, "parameters")]
            unique = {id(p): p for found in lists for p in found if p.requires_grad}
            given = list(unique.values())
        self.tensors, self.structure = flatten(given)
        for p in self.tensors:
            if not isinstance(p, Tensor):
                raise TypeError(
                    f"learn_online: parameters are Tensors; there is a {type(p).__name__}. Those "
                    "of a module are list(module.parameters())"
                )
            if not p.requires_grad:
                raise ValueError(
                    f"learn_online: a parameter of shape {p.shape} does not require grad; "
                    "set requires_grad = True, or leave it out"
                )

    def reached(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[int]:
        """Those, by number, on which the outputs depend other than through the inputs."""
        nodes = _behind(outputs, inputs)
        return [i for i, p in enumerate(self.tensors) if p._node in nodes]

    def refuse_others(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        """Raise ValueError if the outputs depend on a leaf that a module's parameters lack."""
        if not self.complete:
            return
        others = _behind(outputs, inputs) - {x._node for x in (*self.tensors, *inputs)}
        if any(node.is_leaf for node in others):
            raise ValueError(
                f"learn_online: the loss depends on more than the {len(self.tensors)} parameters "
                "of the cell and the loss: on a tensor that requires grad and is held elsewhere. "
                "Name all that you want gradients of, parameters=[...], or detach() what is none"
            )


def _behind(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> set[Node]:
    """The nodes that outputs were computed from, no further back than to the inputs."""
    roots = [y._node for y in outputs if y._node is not None]
    return set(topological_order(roots, {h._node for h in inputs if h._node is not None}))


def _by_walking_back(
    sequence: truncated.Sequence, loss: Callable[[Any, Any], Tensor], wanted: _Wanted, k2: int
) -> Generator[OnlineStep, None, None]:
    """Truncated BPTT with a walk after every step."""
    found: list[list[Tensor]] = []

    def of_step(outputs: Any, targets: Any) -> Tensor:
        return loss(map_leaves(_only, outputs), map_leaves(_only, targets))

    def walk(value: Tensor) -> None:
        wanted.refuse_others([value], [])
        found.append(_gradients([value], wanted.tensors, None))

    windows = Windows(sequence, of_step, 1, k2, walk)

    def run() -> Generator[OnlineStep, None, None]:
        for window in windows.run():
            yield OnlineStep(window.loss, unflatten(wanted.structure, found.pop()), window.state)

    return run()


def _only(x: Tensor) -> Tensor:
    return x[0]


def _gradients(outputs: list[Tensor], inputs: Sequence[Tensor], cotangents: Any) -> list[Tensor]:
    """``grad``, with zeros where nothing depends on an input, and of a graph that is kept."""
    found = grad(outputs, list(inputs), cotangents, retain_graph=True, allow_unused=True)
    return [zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def _by_walking_on(
    sequence: truncated.Sequence,
    loss: Callable[[Any, Any], Tensor],
    wanted: _Wanted,
    influence: _Influence,
    state: Any,
) -> Generator[OnlineStep, None, None]:
    """The methods that carry an influence on, from an initial state."""
    start = _Derivative(_floating(state), [])
    wanted.refuse_others(start.outputs, [])
    acting = wanted.reached(start.outputs, [])  # on which the state has depended so far
    if start.outputs:
        start.parameters = [wanted.tensors[i] for i in acting]
        with no_grad():
            influence.start(start)
    state = detach(state)
    for t in range(sequence.steps):
        step, state = _step(sequence, loss, t, state)
        wanted.refuse_others(step.outputs, step.inputs)
        fresh = [i for i in wanted.reached(step.outputs[1:], step.inputs) if i not in acting]
        acting = [*acting, *fresh]
        others = [i for i in range(len(wanted.tensors)) if i not in acting]
        step.parameters = [wanted.tensors[i] for i in acting]
        found: dict[int, Tensor] = {}
        with no_grad():
            if acting:
                influence.widen(sum(wanted.tensors[i].size for i in fresh))
                along = _taken_apart(influence.advance(step), step.parameters)
                found.update(zip(acting, along, strict=True))
            at_once = _gradients(step.outputs[:1], [wanted.tensors[i] for i in others], None)
            found.update(zip(others, at_once, strict=True))
        gradients = [found[i] for i in range(len(wanted.tensors))]
        value = step.outputs[0].detach()
        del step
        yield OnlineStep(value, unflatten(wanted.structure, gradients), state)


def _step(
    sequence: truncated.Sequence, loss: Callable[[Any, Any], Tensor], t: int, state: Any
) -> tuple[_Derivative, Any]:
    """Step ``t`` on a graph of its own, whose first result is the loss; and the state after it."""
    before = detach(state)  # handles of our own
    inputs = _floating(before)
    for h in inputs:
        h.requires_grad = True
    with with_graph():
        outputs, after = sequence.unroll(t, t + 1, before)
        value = loss(map_leaves(_only, outputs), map_leaves(lambda y: y[t], sequence.targets))
    check_loss(sequence.operation, value)
    return _Derivative([value, *_floating(after)], inputs), detach(after)


def _floating(state: Any) -> list[Tensor]:
    return [h for h in flatten(state)[0] if h.dtype.kind == "f"]


class _Derivative:
    """Outputs as they depend on inputs and parameters; each of the three is told as one vector."""

    def __init__(self, outputs: list[Tensor], inputs: list[Tensor]) -> None:
        self.outputs, self.inputs = outputs, inputs
        self.parameters: list[Tensor] = []

    def pull(self, cotangent: Tensor, towards: Sequence[Tensor]) -> Tensor:
        """That of the outputs, pulled back to some of what they depend on."""
        return _joined(_gradients(self.outputs, towards, _taken_apart(cotangent, self.outputs)))

    def push(self, direction: Tensor) -> Tensor:
        """How the outputs move when the inputs move in a direction: the vjp of the vjp."""
        with with_graph():
            cotangents = [zeros_like(y.detach()) for y in self.outputs]
            for u in cotangents:
                u.requires_grad = True
            pulled = grad(
                self.outputs, self.inputs, cotangents, create_graph=True, allow_unused=True
            )
        parts = zip(pulled, _taken_apart(direction, self.inputs), strict=True)
        pairs = [(p, v) for p, v in parts if p is not None and p.requires_grad]
        return _joined(_gradients([p for p, _ in pairs], cotangents, [v for _, v in pairs]))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """All their elements, (N,)."""
    return concat([reshape(x, (x.size,)) for x in parts])


def _taken_apart(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The parts that were joined, shaped like these."""
    ends = np.cumsum([x.size for x in like])
    parts = split(vector, [int(end) for end in ends[:-1]])
    return [reshape(part, x.shape) for part, x in zip(parts, like, strict=True)]


def _basis(n: int, like: Tensor) -> Tensor:
    return eye(n, dtype=like.dtype, backend=like.backend)


class _Influence(Protocol):
    """How the state depends on the parameters, or an estimate of it."""

    def start(self, initial: _Derivative) -> None:
        """It is that of the initial state."""

    def widen(self, count: int) -> None:
        """There are so many more elements of parameters, on which the state has not depended."""

    def advance(self, step: _Derivative) -> Tensor:
        """Go over a step, and return the gradient of its loss."""
        ...


class _Matrix:
    """The influence itself, (n, P): elements of the state times those of the parameters."""

    def __init__(self, max_bytes: int, sparse: bool) -> None:
        self.max_bytes, self.sparse = max_bytes, sparse

    def start(self, initial: _Derivative) -> None:
        state = _joined(initial.outputs)
        self.matrix = zeros((state.size, 0), dtype=state.dtype, backend=state.backend)
        self.pattern = not_equal(self.matrix, 0)  # where a parameter has acted at once
        self.widen(sum(p.size for p in initial.parameters))
        if initial.parameters:
            directions = _basis(state.size, state)
            self.matrix = vmap(lambda u: initial.pull(u, initial.parameters))(directions)
            self.pattern = not_equal(self.matrix, 0)

    def widen(self, count: int) -> None:
        if not count:
            return
        n, before = self.matrix.shape
        needed = n * (before + count) * self.matrix.dtype.itemsize
        if needed > self.max_bytes:
            raise ValueError(
                f"learn_online: the influence of {before + count:,} elements of parameters on {n:,}"
                f" of the state takes {needed:,} bytes, more than max_bytes={self.max_bytes:,}. "
                "method='uoro' holds as much as the parameters, 'bptt' the last k2 steps; or have "
                "fewer rows or units, or allow more"
            )
        more = zeros((n, count), dtype=self.matrix.dtype, backend=self.matrix.backend)
        self.matrix = concat([self.matrix, more], axis=1)
        self.pattern = concat([self.pattern, not_equal(more, 0)], axis=1)

    def advance(self, step: _Derivative) -> Tensor:
        n, everything = self.matrix.shape[0], [*step.inputs, *step.parameters]
        jacobian = vmap(lambda u: step.pull(u, everything))(_basis(1 + n, self.matrix))
        at_once = jacobian[:, n:]
        rows: Tensor = jacobian[:, :n] @ self.matrix + at_once  # of the loss, and of the state
        self.matrix = rows[1:]
        if self.sparse:
            self.pattern = logical_or(self.pattern, not_equal(at_once[1:], 0))
            self.matrix = where(self.pattern, self.matrix, 0)
        return rows[0]


class _Signs:
    """A product of two vectors whose mean is the influence (Tallec & Ollivier 2018, algorithm 1).

    For signs nu, independent and of mean 0, the mean of nu nu^T is the identity. So that of
    ``(r A s + q nu) (p / r + nu^T B / q)``, where ``s p`` is an estimate of J, is A J + B; r and q
    keep both vectors equally long, which keeps the variance low.
    """

    epsilon = 1e-7

    def start(self, initial: _Derivative) -> None:
        self.of_state = self._draw(_joined(initial.outputs))
        self.of_parameters = self.of_state[:0]
        if initial.parameters:
            self.of_parameters = initial.pull(self.of_state, initial.parameters)

    def widen(self, count: int) -> None:
        p = self.of_parameters
        more = zeros((count,), dtype=p.dtype, backend=p.backend)
        self.of_parameters = concat([p, more])

    def advance(self, step: _Derivative) -> Tensor:
        moved = step.push(self.of_state)
        loss, moved = moved[0], moved[1:]
        signs = self._draw(moved)
        one = ones((1,), dtype=moved.dtype, backend=moved.backend)
        of_loss = concat([one, zeros_like(signs)])
        gradient = loss * self.of_parameters + step.pull(of_loss, step.parameters)
        drawn = step.pull(concat([one * 0, signs]), step.parameters)
        r = self._ratio(self.of_parameters, moved)
        q = self._ratio(drawn, signs)
        self.of_state = r * moved + q * signs
        self.of_parameters = self.of_parameters / r + drawn / q
        return gradient

    def _draw(self, x: Tensor) -> Tensor:
        return random.bernoulli(0.5, x.shape, dtype=x.dtype, backend=x.backend) * 2 - 1

    def _ratio(self, x: Tensor, y: Tensor) -> Tensor:
        of_x, of_y = (sqrt(square(z).sum()) for z in (x, y))
        return sqrt(of_x / (of_y + self.epsilon)) + self.epsilon
