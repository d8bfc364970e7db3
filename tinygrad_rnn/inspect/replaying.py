"""The backward pass step by step, forwards and backwards, like a debugger.

``replay(loss)`` walks back through the graph of a loss and stops at each contribution: one rule
applied to one cotangent, and what it is added to. Going back is an index: the walk leaves marks as
it goes, cotangents that wait at that point, and what lies between two marks is computed again.
The graph is neither released nor changed.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from ..graph import Node, topological_order
from ..nn.module import Module
from ..primitives.creation import ones
from ..tensor import Tensor
from .capture import Captured, captured, inputs_of
from .document import Study
from .folding import document_of
from .rules import Part, arguments_of_rule, parts_of, rule_of
from .view import Places
from .walking import Contribution, advanced, parameters_of, seeded
from .watching import host
from .words import text_of_stop

_EVERY = 100  # nodes between two marks
_SHOWN = 2000  # contributions in a study
_BYTES = 10**6  # of them
_WORK = 60_000  # operations, and thousands of numbers, that finite differences may cost

HELP = """\
n, p       the next contribution, the previous one
N, P       the first one of the next loop step, and of the previous
i, o       into the rules of the value that this adds to; out, to what was added to g last
c          on to the next breakpoint; b COND sets one: gate=f, op=tanh, step=7, |g|>10, |part|>10
w NAME     every contribution to a parameter or value
goto N     contribution number N
x          a finite difference of the loss beside the total here (needs record(values=True))
q          leave"""


class Stop(NamedTuple):
    """One contribution, described."""

    number: int
    node: int  # the operation, by its place in the graph
    to: int  # the operation whose value is added to, or ~n of the n-th leaf
    name: str  # what its value is called
    steps: tuple[int, ...]  # of the loops around it
    operation: str
    line: str | None
    gate: str | None
    rule: str
    place: str  # of the rule
    reads: list[tuple[str, Any]]
    parts: list[Part]
    g: Any
    target: str  # what is added to
    target_steps: tuple[int, ...]
    argument: str
    part: Any
    before: Any
    total: Any
    use: int  # the how-many-eth contribution to the target


class Replay:
    """A backward pass to walk through; made by ``replay``."""

    def __init__(self, loss: Tensor, names: Mapping[str, Any] | Module | None = None) -> None:
        found: Captured = captured("replay", loss, names)
        if loss.size != 1:
            raise ValueError(f"replay: a scalar, not {loss.shape}; reduce it, for example by sum")
        self._captured = found
        self._loss = loss
        self._places = Places(document_of(found))
        self._position = {node: i for i, node in enumerate(found.nodes)}
        self._position |= {node: ~i for i, node in enumerate(found.leaf_nodes)}
        assert loss._node is not None
        self._order = topological_order([loss._node])
        seed = ones(loss.shape, loss.dtype, backend=loss.backend)._array
        pending = seeded([(loss._node, seed)])
        self._marks: list[dict[Node, Any]] = []
        self._starts: list[int] = []  # the number of the first contribution after each mark
        self._targets: list[Node] = []
        self._sources: list[Node] = []
        for begin in range(0, len(self._order), _EVERY):
            self._marks.append(dict(pending))
            self._starts.append(len(self._targets))
            for c in advanced(pending, self._order[begin : begin + _EVERY]):
                self._targets.append(c.parent)
                self._sources.append(c.node)
        self._leaves = {n: pending.get(n) for n in found.leaf_nodes}
        self._window: tuple[int, list[Contribution]] = (-1, [])
        self._breakpoints: list[tuple[str, Callable[[Stop], bool]]] = []
        self.number = 0

    def __len__(self) -> int:
        return len(self._targets)

    # Where one is.

    def contribution(self, number: int) -> Contribution:
        """The arrays of a contribution."""
        if not 0 <= number < len(self):
            raise IndexError(f"replay: contributions are numbered 0 to {len(self) - 1}")
        mark = max(i for i, start in enumerate(self._starts) if start <= number)
        if self._window[0] != mark:
            begin = mark * _EVERY
            nodes = self._order[begin : begin + _EVERY]
            self._window = mark, list(advanced(dict(self._marks[mark]), nodes))
        return self._window[1][number - self._starts[mark]]

    def stop(self, number: int | None = None) -> Stop:
        """The contribution where one is, or another one, described."""
        number = self.number if number is None else number
        c = self.contribution(number)
        primitive, node = c.node.primitive, c.node
        argnum = node.argnums[c.slot]
        vjp = primitive.vjps[0 if primitive.joint else argnum]
        reads = node.saved[0 if primitive.joint else c.slot]
        given = arguments_of_rule(vjp, (node.backend, c.g, *reads), parameters_of(node))
        rule = rule_of(vjp)
        at = self._position[node]
        name, steps = self._places.at(at)
        target, target_steps = self._called(c.parent)
        inputs = primitive.inputs
        return Stop(
            number,
            at,
            self._place_of(c.parent),
            name,
            steps,
            primitive.name,
            self._captured.lines.get(at),
            self._gate(at),
            rule.text,
            rule.place,
            [(n, v) for n, v in given.items() if n not in ("xp", "g", "parameters")],
            parts_of(vjp, given),
            c.g,
            target,
            target_steps,
            inputs[argnum] if argnum < len(inputs) else f"{primitive.rest} {argnum}",
            c.part,
            c.before,
            c.total,
            1 + sum(t is c.parent for t in self._targets[:number]),
        )

    def _place_of(self, node: Node) -> int:
        """The place of the operation that makes a value, or of a leaf."""
        return self._position[node if node.index is None or not node.parents else node.parents[0]]

    def _called(self, node: Node) -> tuple[str, tuple[int, ...]]:
        """The name of a value and the steps that it is of."""
        if node.index is not None:
            return self._places.at(self._position[node.parents[0]], node.index)
        return self._places.at(self._position[node])

    def _gate(self, at: int) -> str | None:
        """The name that the code has for an operation's value, or for what it reads."""
        operation = self._captured.operations[at]
        names = {use.at: n for use, n in self._captured.names.items() if use.output is None}
        if at in names:
            return names[at]
        for a in operation.arguments:
            if not isinstance(a, str) and a in self._captured.names:
                return self._captured.names[a]
        return None

    @property
    def totals(self) -> dict[str, Any]:
        """The gradients of the leaves at the end, by name: those that ``backward`` gives."""
        return {self._called(node)[0]: g for node, g in self._leaves.items()}

    def total(self, name: str) -> Any:
        """The cotangent of a value or leaf when all contributions have been added."""
        numbers = self._to(name)
        return self.contribution(numbers[-1]).total

    def _to(self, name: str) -> list[int]:
        found = [n for n, node in enumerate(self._targets) if self._called(node)[0] == name]
        if not found:
            known = dict.fromkeys(self._called(n)[0] for n in self._targets)
            shown = ", ".join(list(known)[:20])
            raise ValueError(f"replay: no contribution to {name!r}; there are some to {shown}")
        return found

    # Moving.

    def go(self, number: int) -> Stop:
        """To a contribution by its number; IndexError for one that there is not."""
        self.contribution(number)
        self.number = number
        return self.stop()

    def next(self) -> Stop:
        """To the next contribution; at the last one it stays."""
        return self.go(min(self.number + 1, len(self) - 1))

    def previous(self) -> Stop:
        """To the previous one; at the first one it stays."""
        return self.go(max(self.number - 1, 0))

    def next_step(self) -> Stop:
        """To the first contribution of the next step of a loop, backwards in time."""
        own = self._steps(self.number)
        later = (n for n in range(self.number, len(self)) if self._steps(n) != own)
        return self.go(next(later, len(self) - 1))

    def previous_step(self) -> Stop:
        """To the first contribution of the step of the one before this step."""
        own = self._steps(self.number)
        n = self.number
        while n > 0 and self._steps(n) == own:
            n -= 1
        own = self._steps(n)
        while n > 0 and self._steps(n - 1) == own:
            n -= 1
        return self.go(n)

    def into(self) -> Stop:
        """To the first rule of the operation whose value is added to; at a leaf it stays."""
        wanted = self._place_of(self._targets[self.number])
        later = range(self.number + 1, len(self))
        found = (n for n in later if self._position[self._sources[n]] == wanted)
        return self.go(next(found, self.number))

    def out(self) -> Stop:
        """To what was added last to the cotangent that this rule is given; at the loss it stays."""
        wanted = self._position[self._sources[self.number]]
        earlier = reversed(range(self.number))
        found = (n for n in earlier if self._place_of(self._targets[n]) == wanted)
        return self.go(next(found, self.number))

    def _steps(self, number: int) -> tuple[int, ...]:
        return self._places.at(self._position[self._sources[number]])[1]

    def add_breakpoint(self, condition: str) -> None:
        """Stop ``resume`` where a condition holds: ``gate=f``, ``op=tanh``, ``|g|>10``, ``step=7``.

        ValueError for a condition of another form.
        """
        self._breakpoints.append((condition, _condition(condition)))

    def resume(self) -> Stop:
        """On to the next contribution at which a breakpoint holds, or to the last."""
        for n in range(self.number + 1, len(self)):
            stop = self.stop(n)
            if any(holds(stop) for _, holds in self._breakpoints):
                return self.go(n)
        return self.go(len(self) - 1)

    def contributions_to(self, name: str) -> Iterator[Stop]:
        """Every contribution to a parameter or value, in the order in which they are added."""
        return (self.stop(n) for n in self._to(name))

    def difference(self, number: int | None = None) -> tuple[float, float, tuple[int, ...]]:
        """A central difference of the loss, the total cotangent, and the element it is about.

        By the target of a contribution, at the element where its total is largest, in float64. The
        graph is carried out again from there on; that needs what ``record(values=True)`` keeps, and
        RuntimeError says so.
        """
        number = self.number if number is None else number
        node = self.contribution(number).parent
        total = host(self.contribution(self._to_node(node)[-1]).total)
        if not total.size:
            raise RuntimeError("replay: an empty value has no element to change")
        place = np.unravel_index(int(np.abs(total).argmax()), total.shape) if total.ndim else ()
        step = 1e-6
        up, down = (self._again(node, place, s) for s in (step, -step))
        return (up - down) / (2 * step), float(total[place]), tuple(int(i) for i in place)

    def _to_node(self, node: Node) -> list[int]:
        return [n for n, target in enumerate(self._targets) if target is node]

    def _again(self, changed: Node, place: Any, step: float) -> float:
        """The loss with one element of one value changed."""
        values: dict[Node, Any] = {}
        for node in reversed(self._order):
            if node.primitive is None and node.index is None:
                continue
            maker = node if node.index is None else node.parents[0]
            read = any(p in values or p is changed for p in node.parents)
            if node.index is None and node is not changed and not read:
                continue
            arrays = inputs_of(maker)
            if arrays is None:
                raise RuntimeError(
                    "replay: a finite difference carries the graph out again, and that needs the "
                    "constants: make the graph in `with inspect.record(values=True):`"
                )
            if node.index is not None:
                if maker in values:
                    values[node] = values[maker][node.index]
                if node is changed:
                    out = values[maker][node.index] if maker in values else self._out(maker)
                    out = out if maker in values else out[node.index]
                    values[node] = _changed(out, place, step)
                continue
            given = [_wide(a) for a in arrays]
            for argnum, parent in zip(node.argnums, node.parents, strict=True):
                if parent is changed and parent.is_leaf:
                    values[parent] = _changed(given[argnum], place, step)
                if parent in values:
                    given[argnum] = values[parent]
            out = _carried_out(node, given)
            values[node] = _changed(out, place, step) if node is changed else out
        assert self._loss._node is not None
        return float(values[self._loss._node])

    def _out(self, node: Node) -> Any:
        return _carried_out(node, [_wide(a) for a in inputs_of(node) or ()])

    # Shown.

    def text(self, number: int | None = None) -> str:
        """A contribution in a few lines."""
        return text_of_stop(described(self.stop(number), len(self)))

    def __str__(self) -> str:
        return self.text()

    def study(self) -> Study:
        """The first contributions as a document of at most a megabyte, and what adds up.

        Finite differences are among it where the graph keeps what they need, of as many values as
        can be carried out again in a second or so; leaves first.
        """
        stops: list[dict[str, Any]] = []
        size = 0
        for n in range(min(len(self), _SHOWN)):
            stops.append(described(self.stop(n), len(self)))
            size += len(json.dumps(stops[-1]))
            if size > _BYTES:
                break
        totals = {name: _summary(g) for name, g in self.totals.items() if g is not None}
        data = {"count": len(self), "shown": len(stops), "stops": stops, "totals": totals}
        data["sizes"], data["later uses"] = self._uses_of_leaves(len(stops))
        self._add_differences(stops)
        return Study("replay", data)

    def _uses_of_leaves(self, shown: int) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
        """The norms of all parts that add up to the gradient of each leaf, the first step's first.

        And in words those that are not among the first contributions, as long as they are few.
        """
        names = {node: self._called(node)[0] for node in self._leaves}
        sizes: dict[str, list[float]] = {name: [] for name in names.values()}
        words: dict[str, list[str]] = {}
        size = 0
        for number, target in enumerate(self._targets):
            name = names.get(target)
            if name is None:
                continue
            c = self.contribution(number)
            sizes[name].append(float(np.linalg.norm(host(c.part).astype(np.float64))))
            if number >= shown and size < _BYTES // 3:
                source, steps = self._places.at(self._position[c.node])
                step = f" at step {', '.join(map(str, steps))}" if steps else ""
                made = f"from {source} = {c.node.primitive.name}(...){step}"
                words.setdefault(name, []).append(
                    f"{made}: {_summary(c.part)}; total {_summary(c.total)}"
                )
                size += len(words[name][-1])
        return {name: own[::-1] for name, own in sizes.items()}, words

    def _add_differences(self, stops: list[dict[str, Any]]) -> None:
        """What the key x shows, by target, as long as it does not take too much."""
        by_target: dict[Node, list[dict[str, Any]]] = {}
        for stop in stops:
            by_target.setdefault(self._targets[stop["number"]], []).append(stop)
        work = 2 * sum(1 + size / 1000 for size in map(_elements, self._order))
        for node in sorted(by_target, key=lambda node: not node.is_leaf)[: int(_WORK / work)]:
            try:
                told = _difference_told(*self.difference(by_target[node][0]["number"]))
            except RuntimeError:  # the graph does not keep what it was made of
                continue
            for stop in by_target[node]:
                stop["difference"] = told

    def _repr_html_(self) -> str:
        return self.study()._repr_html_()

    def interact(
        self,
        read: Callable[[str], str] | None = None,
        write: Callable[[str], None] = print,
    ) -> None:
        """Walk through it in a terminal; ``h`` says which keys there are.

        Without a terminal the first contribution is written, and how to go on from Python.
        """
        if read is None and not (sys.stdin is not None and sys.stdin.isatty()):
            write(self.text())
            write("(no terminal: use next(), previous(), go(n), contributions_to(name) of Replay)")
            return
        read = read or input
        write(self.text())
        while True:
            try:
                command = read("(replay) ").strip()
            except (EOFError, KeyboardInterrupt):
                return
            if command == "q":
                return
            write(self.carry_out(command))

    def carry_out(self, command: str) -> str:
        """One command, as ``interact`` reads it, and what there is to see after it."""
        word, _, rest = command.partition(" ")
        moves = {
            "n": self.next,
            "": self.next,
            "p": self.previous,
            "N": self.next_step,
            "P": self.previous_step,
            "i": self.into,
            "o": self.out,
            "c": self.resume,
        }
        try:
            if word in moves:
                moves[word]()
                return self.text()
            if word == "b" and rest:
                self.add_breakpoint(rest)
                return f"breakpoint: {rest}; c goes on to it"
            if word == "goto" and rest.lstrip("-").isdigit():
                self.go(int(rest))
                return self.text()
            if word == "w" and rest:
                return "\n".join(_line_of(stop) for stop in self.contributions_to(rest))
            if word == "x":
                return _difference_told(*self.difference())
        except (ValueError, IndexError, RuntimeError) as error:
            return str(error)
        return HELP


def replay(loss: Tensor, names: Mapping[str, Any] | Module | None = None) -> Replay:
    """The backward pass of ``loss``, to be walked through one contribution at a time.

    ::

        with inspect.record():
            hs, _ = tg.unroll(cell, xs, mode="literal")
        walk = inspect.replay(hs.sum())
        walk.interact()          # in a terminal: n, p, N, P, b gate=f, w U, goto 731, x, q
        print(walk.next())       # or from Python

    Args:
        loss: a scalar Tensor that requires grad, whose graph has not been released. It is not
            released by this.
        names: what to call tensors, ``{"U": U}``, or a module, whose parameters have names.

    A planned loop is one operation of the graph: ``unroll(mode="literal")`` shows its steps.

    Raises:
        TypeError: for what has no graph.
        ValueError: for a Tensor that is no scalar.
        ReleasedGraphError: for a graph that a backward pass has dropped.
    """
    return Replay(loss, names)


_CONDITION = re.compile(r"\s*(\|g\||\|part\||gate|op|step|name)\s*(=|>)\s*(\S+)\s*")


def _condition(text: str) -> Callable[[Stop], bool]:
    match = _CONDITION.fullmatch(text)
    if match is not None:
        what, how, value = match.groups()
        if what.startswith("|") and how == ">" and _is_number(value):
            bound = float(value)
            if what == "|g|":
                return lambda stop: not _largest(stop.g) <= bound  # nan, too
            return lambda stop: not _largest(stop.part) <= bound
        if how == "=" and what == "step" and value.isdigit():
            return lambda stop: bool(stop.steps) and stop.steps[0] == int(value)
        if how == "=" and what in ("gate", "op", "name"):
            attribute = {"gate": "gate", "op": "operation", "name": "name"}[what]
            return lambda stop: getattr(stop, attribute) == value
    raise ValueError(
        f"replay: a condition is gate=f, op=tanh, name=h, step=7, |g|>10 or |part|>10, not {text!r}"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _difference_told(by_difference: float, total: float, place: tuple[int, ...]) -> str:
    return f"at {place}: {by_difference:.9g} by difference, {total:.9g} by the rules"


def _elements(node: Node) -> int:
    """How many numbers an operation reads, as far as its metas say."""
    return sum(math.prod(shape) for shape, _ in node.metas or ())


def _largest(x: Any) -> float:
    parts = x if isinstance(x, list) else [x]
    return max((float(np.abs(host(p)).max()) for p in parts if np.size(host(p))), default=0.0)


def _wide(a: Any) -> Any:
    """An array in float64, if it is floating."""
    array = host(a)
    if isinstance(a, (bool, int, float)):
        return a
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _carried_out(node: Node, arrays: list[Any]) -> Any:
    with np.errstate(all="ignore"):
        return node.primitive.forward(backends.get("numpy"), *arrays, **(node.parameters or {}))


def _changed(array: Any, place: Any, step: float) -> Any:
    made = np.array(array, dtype=np.float64)
    made[place] += step
    return made


# Plain data, and words.


def described(stop: Stop, count: int) -> dict[str, Any]:
    """A stop as plain data."""
    return {
        "number": stop.number,
        "count": count,
        "node": stop.node,
        "to": stop.to,
        "name": stop.name,
        "steps": list(stop.steps),
        "operation": stop.operation,
        "line": stop.line,
        "gate": stop.gate,
        "rule": stop.rule,
        "rule place": stop.place,
        "reads": [[name, _summary(value)] for name, value in stop.reads],
        "parts": [[part.text, _summary(part.value)] for part in stop.parts],
        "g": _summary(stop.g),
        "|g|": _largest(stop.g),
        "|part|": _largest(stop.part),
        "target": stop.target,
        "target steps": list(stop.target_steps),
        "argument": stop.argument,
        "part": _summary(stop.part),
        "before": None if stop.before is None else _summary(stop.before),
        "total": _summary(stop.total),
        "use": stop.use,
    }


def _summary(x: Any) -> str:
    """A value in a few characters: a number, a small array, or shape and size."""
    if isinstance(x, (str, bool, int, float, type(None))):
        return str(x)
    if isinstance(x, (list, tuple)):
        return "(" + ", ".join(_summary(part) for part in x[:4]) + (", ...)" if x[4:] else ")")
    if hasattr(x, "value") and hasattr(x, "key"):
        return f"{_summary(x.value)} at {x.key}"
    try:
        array = np.asarray(host(x))
    except Exception:  # what a rule reads may be anything
        return repr(x)[:60]
    if array.size <= 6 and array.dtype.kind in "biuf":
        return np.array2string(array, precision=4, separator=", ").replace("\n", "")
    if array.dtype.kind not in "biuf":
        return repr(x)[:60]
    size = float(np.sqrt(np.square(array.astype(np.float64)).sum())) if array.size else 0.0
    return f"{array.dtype} {array.shape}, norm {size:.4g}"


def _line_of(stop: Stop) -> str:
    step = f" at step {', '.join(map(str, stop.steps))}" if stop.steps else ""
    return (
        f"{stop.number:6}  {stop.use}. from {stop.name} = {stop.operation}(...){step}: "
        f"{_summary(stop.part)}, total {_summary(stop.total)}"
    )
