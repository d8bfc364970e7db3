"""Random programs: a cell that nobody would write runs planned as it does literally.

A ``Program`` is the source of a cell, drawn line by line, and the arrays that it captures. So what
fails is printed as Python that one can read, shorten and run. ``Draft`` writes it: it keeps the
values defined so far, and each of its operations picks operands that fit and adds a line.

The subtle point is that magnitudes are bounded: a value knows how large it may be, and what may
have grown too large is scaled down or goes through tanh. Otherwise a few steps of a random
recurrence overflow, or amplify rounding beyond any tolerance.
"""

from __future__ import annotations

import linecache
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from both_ways import KERNELS, Case, assert_close, literal, planned, plans_of
from op_table import examples

Shape = tuple[int, ...]

TOKENS = 5
LARGEST = 4.0  # that a value may become before it is scaled down


class Value(NamedTuple):
    """A name in the program, and what is known of it."""

    name: str
    shape: Shape
    kind: str  # "f", "i" or "b", as in NumPy
    bound: float  # of its magnitude
    rows: bool  # whether axis 0 is that of the rows


class Spec(NamedTuple):
    """An array that the program is given: captured, or a step of an input or a state."""

    shape: Shape
    kind: str
    rows: bool
    requires_grad: bool = False
    bound: float = 1.0


class Program(NamedTuple):
    """A cell as source, with all that is needed to run it."""

    source: str
    xs: tuple[str, tuple[Spec, ...]]  # the kind of structure, and one step of each leaf
    state: tuple[str, tuple[Spec, ...]]
    captured: dict[str, Spec]
    rows: int
    ragged: bool

    def case(self, rng: random.Random, steps: int, dtype: str) -> Case:
        """The program with numbers, and perhaps lengths, a mask, resets, in either direction."""
        arrays = np.random.default_rng(rng.randrange(2**31))

        def made(spec: Spec, *front: int) -> Any:
            shape = (*front, *spec.shape)
            if spec.kind == "i":
                return tg.tensor(arrays.integers(0, TOKENS, shape))
            if spec.kind == "b":
                return tg.tensor(arrays.random(shape) < 0.5)
            values = arrays.uniform(-spec.bound, spec.bound, shape)
            return tg.tensor(values, dtype=dtype, requires_grad=spec.requires_grad)

        captured = {name: made(spec) for name, spec in self.captured.items()}
        options: dict[str, Any] = {"reverse": rng.random() < 0.4}
        if self.ragged:
            options |= self._ragged_options(rng, arrays, steps)
        unused = tuple(place for place in range(8) if rng.random() < 0.2)
        return Case(
            self._cell(captured),
            _structured(self.xs[0], [made(spec, steps) for spec in self.xs[1]]),
            _structured(self.state[0], [made(spec) for spec in self.state[1]]),
            captured,
            options,
            unused,
        )

    def _ragged_options(self, rng: random.Random, arrays: Any, steps: int) -> dict[str, Any]:
        options: dict[str, Any] = {}
        how = rng.choice(["lengths", "mask", "reset", "lengths and reset"])
        if "lengths" in how:
            options["lengths"] = arrays.integers(0, steps + 1, self.rows)
        if how == "mask":
            options["mask"] = arrays.random((steps, self.rows)) < 0.6
        if "reset" in how:
            options["reset"] = arrays.random((steps, self.rows)) < 0.3
        return options

    def _cell(self, captured: dict[str, Any]) -> Callable[..., Any]:
        name = f"<program {abs(hash(self.source))}>"
        lines = self.source.splitlines(keepends=True)
        linecache.cache[name] = (len(self.source), None, lines, name)  # for tracebacks
        namespace = {"tg": tg, **captured}
        exec(compile(self.source, name, "exec"), namespace)
        return namespace["cell"]

    def __str__(self) -> str:
        lines = [f"# {self.rows} rows, ragged={self.ragged}"]
        for title, specs in (("x", self.xs[1]), ("state", self.state[1])):
            lines += [f"# {title} {place}: {_shown(s)}" for place, s in enumerate(specs)]
        lines += [f"# {name}: {_shown(spec)}" for name, spec in self.captured.items()]
        return "\n".join([*lines, self.source])


def _shown(spec: Spec) -> str:
    grad = ", requires grad" if spec.requires_grad else ""
    return f"{dict(f='float', i='int', b='bool')[spec.kind]} {spec.shape}{grad}"


def _structured(how: str, leaves: list[Any]) -> Any:
    if how == "one":
        return leaves[0]
    if how == "dict":
        return {f"k{place}": leaf for place, leaf in enumerate(leaves)}
    return tuple(leaves)


UNARY = [
    ("tg.tanh({0})", lambda b: 1.0),
    ("tg.sigmoid({0})", lambda b: 1.0),
    ("-{0}", lambda b: b),
    ("{0} * 0.5", lambda b: b / 2),
    ("1.5 - {0}", lambda b: b + 1.5),
    ("tg.relu({0})", lambda b: b),
    ("tg.square({0})", lambda b: b * b),
    ("{0} ** 3", lambda b: b**3),
    ("1.0 / (tg.square({0}) + 1.0)", lambda b: 1.0),
    ("tg.exp(-tg.square({0}))", lambda b: 1.0),
    ("tg.exp({0} * 0.5)", lambda b: math.exp(b / 2)),
    ("tg.expm1({0} * 0.5)", lambda b: math.exp(b / 2)),
    ("tg.log(tg.square({0}) + 0.5)", lambda b: math.log(b * b + 2)),
    ("tg.log1p(tg.abs({0}))", lambda b: b),
    ("tg.sqrt(tg.abs({0}) + 0.5)", lambda b: b + 1),
    ("tg.sin({0})", lambda b: 1.0),
    ("tg.cos({0})", lambda b: 1.0),
    ("tg.erf({0})", lambda b: 1.0),
    ("tg.softplus({0})", lambda b: b + 0.7),
    ("tg.silu({0})", lambda b: b),
    ("tg.gelu({0})", lambda b: b),
    ("tg.elu({0})", lambda b: b + 1),
    ("tg.leaky_relu({0}, 0.2)", lambda b: b),
    ("tg.hardsigmoid({0})", lambda b: 1.0),
    ("tg.clip({0}, -0.6, 0.8)", lambda b: 0.8),
    ("tg.maximum({0}, 0.2)", lambda b: b),
    ("tg.minimum(-0.2, {0})", lambda b: b),
    ("tg.where({0} > 0.1, {0}, -0.5)", lambda b: b),
    ("tg.where({0} < -0.1, 0.0, tg.sin({0}))", lambda b: 1.0),
    ("({0} > 0.15).astype({0}.dtype)", lambda b: 1.0),
    ("tg.floor({0} * 3.0 + 0.37) * 0.2", lambda b: b + 1),
    ("tg.sign({0} - 0.17) * {0}", lambda b: b),
    ("tg.dropout({0}, 0.3)", lambda b: b / 0.7),
    ("{0} + tg.random.uniform({0}.shape, dtype={0}.dtype)", lambda b: b + 1),
]

BINARY = [
    ("{0} + {1}", lambda a, b: a + b),
    ("{0} * {1}", lambda a, b: a * b),
    ("{0} - {1}", lambda a, b: a + b),
    ("{0} / (tg.square({1}) + 1.0)", lambda a, b: a),
    ("tg.maximum({0}, {1})", max),
    ("tg.minimum({0}, {1})", max),
    ("tg.sigmoid({0}) * {1}", lambda a, b: b),
    ("tg.where({0} > {1}, {0}, {1} * 0.5)", max),
]

# How the next state comes about.
WAYS = [*["new"] * 5, *["mixed"] * 3, "old", "delayed", "swapped", "twice"]

# Of the last axis: the bound, given that of the operand and the length of the axis.
REDUCTIONS = [
    ("tg.sum({0}, axis=-1, keepdims={1})", lambda b, n: b * n),
    ("tg.mean({0}, axis=-1, keepdims={1})", lambda b, n: b),
    ("tg.max({0}, axis=-1, keepdims={1})", lambda b, n: b),
    ("tg.min({0}, axis=-1, keepdims={1})", lambda b, n: b),
    ("tg.logsumexp({0}, axis=-1, keepdims={1})", lambda b, n: b + math.log(n)),
    ("tg.var({0}, axis=-1, keepdims={1})", lambda b, n: b * b),
    ("tg.prod({0}, axis=-1, keepdims={1})", lambda b, n: max(b, 1) ** n),
]

ALONG_ROWS = [
    ("tg.softmax({0}, axis=-1)", lambda b, n: 1.0),
    ("tg.log_softmax({0}, axis=-1)", lambda b, n: 2 * b + math.log(n)),
    ("tg.cumulative_sum({0}, axis=-1)", lambda b, n: b * n),
    ("tg.flip({0}, axis=-1)", lambda b, n: b),
    ("tg.roll({0}, 1, axis=-1)", lambda b, n: b),
    ("{0}[..., ::-1]", lambda b, n: b),
]


class Draft:
    """A program in the making."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.lines: list[str] = []
        self.values: list[Value] = []
        self.used: set[str] = set()
        self.captured: dict[str, Spec] = {}
        self.rows = rng.choice([3, 3, 1])
        self.ragged = rng.random() < 0.4
        self.count = 0

    # What the program is given.

    def program(self) -> Program:
        xs, state = self._inputs(), self._state()
        names = [f"x{place}" for place in range(len(xs[1]))]
        carried = [f"s{place}" for place in range(len(state[1]))]
        self.lines.append(_unpacked("x", xs[0], names))
        self.lines.append(_unpacked("state", state[0], carried))
        for prefix, specs in (("x", xs[1]), ("s", state[1])):
            for place, spec in enumerate(specs):
                self.values.append(
                    Value(f"{prefix}{place}", spec.shape, spec.kind, spec.bound, spec.rows)
                )
        for _ in range(self.rng.randint(4, 26)):
            self.rng.choice(OPERATIONS)(self)
        following = self._following(state[1])
        outputs = self._outputs(following)
        self.lines.append(f"    return {outputs}, {_packed(state[0], following)}")
        source = "\n".join(["def cell(x, state):", *self.lines, ""])
        return Program(source, xs, state, self.captured, self.rows, self.ragged)

    def _inputs(self) -> tuple[str, tuple[Spec, ...]]:
        specs = [self._spec([(self.rows, self._width())], [], "f")]
        for _ in range(self.rng.choice([0, 0, 1, 2])):
            own = [(self.rows, self._width()), (self.rows,)]
            specs.append(self._spec(own, [(), (self._width(),), (2, 3)], self.rng.choice("fib")))
        if self.ragged and self.rng.random() < 0.3:
            specs.append(Spec((), self.rng.choice("fi"), False))
        return self._structure(specs), tuple(specs)

    def _state(self) -> tuple[str, tuple[Spec, ...]]:
        specs = []
        for place in range(self.rng.choice([1, 1, 2, 3])):
            own = [(self.rows, self._width())] * 5 + [(self.rows,), (self.rows, 2, 2)]
            shared = [(), (self._width(),), (1, self._width())]
            specs.append(self._spec(own, shared, self.rng.choice("fffib" if place else "f")))
        return self._structure(specs), tuple(specs)

    def _spec(self, own: Sequence[Shape], shared: Sequence[Shape], kind: str) -> Spec:
        """Of a shape that has the rows, or now and then one that all rows share."""
        rows = self.ragged or not shared or self.rng.random() < 0.7
        shape = self.rng.choice(own if rows else shared)
        shape = shape if kind == "f" else shape[:1]
        bound = 1.0 if kind == "f" else float(TOKENS)
        return Spec(shape, kind, rows, kind == "f" and self.rng.random() < 0.8, bound)

    def _structure(self, specs: Sequence[Spec]) -> str:
        return "one" if len(specs) == 1 else self.rng.choice(["tuple", "dict"])

    def _width(self) -> int:
        return self.rng.choice([2, 4, 3, 1])

    # Values.

    def pick(self, fits: Callable[[Value], bool]) -> Value | None:
        """One that fits, rather one that nothing uses yet; marked as used."""
        found = [v for v in self.values if fits(v)]
        fresh = [v for v in found if v.name not in self.used]
        if fresh and self.rng.random() < 0.6:
            found = fresh
        if not found:
            return None
        chosen = self.rng.choice(found)
        self.used.add(chosen.name)
        return chosen

    def add(
        self, expression: str, shape: Shape, bound: float, rows: bool, kind: str = "f"
    ) -> Value:
        """A line that defines a value, scaled down if it may be too large."""
        if kind == "f" and bound > LARGEST:
            if self.rng.random() < 0.5:
                expression, bound = f"tg.tanh({expression})", 1.0
            else:
                expression, bound = f"({expression}) * {LARGEST / 2 / bound:.3g}", LARGEST / 2
        self.count += 1
        name = f"v{self.count}"
        self.lines.append(f"    {name} = {expression}")
        self.values.append(Value(name, shape, kind, bound, rows))
        return self.values[-1]

    def capture(self, shape: Shape, kind: str = "f", rows: bool = False, bound: float = 1.0) -> str:
        """An array that the cell captures, perhaps one that is there already."""
        same = [
            name
            for name, spec in self.captured.items()
            if (spec.shape, spec.kind, spec.rows) == (shape, kind, rows) and spec.bound <= bound
        ]
        if same and self.rng.random() < 0.5:
            return self.rng.choice(same)
        name = f"c{len(self.captured)}"
        grad = kind == "f" and self.rng.random() < 0.85
        self.captured[name] = Spec(shape, kind, rows, grad, bound)
        return name

    # How the step ends.

    def _following(self, specs: Sequence[Spec]) -> list[str]:
        """The next state, by all the ways in which a part can come about."""
        following: list[str] = []
        for place, spec in enumerate(specs):
            same = [
                i
                for i, other in enumerate(specs)
                if i != place and (other.shape, other.kind) == (spec.shape, spec.kind)
            ]
            how = self.rng.choice(WAYS)
            earlier = [i for i in same if i < place]
            if how == "old":
                following.append(f"s{place}")
            elif how == "swapped" and same:
                following.append(f"s{self.rng.choice(same)}")
            elif how == "twice" and earlier:
                following.append(following[self.rng.choice(earlier)])
            elif how == "delayed" and (given := self._exactly(spec)) is not None:
                following.append(given.name)
            else:
                following.append(self._renewed(f"s{place}", spec, how == "mixed"))
        return following

    def _exactly(self, spec: Spec) -> Value | None:
        return self.pick(
            lambda v: (
                (v.shape, v.kind, v.rows) == (spec.shape, spec.kind, spec.rows)
                and v.bound <= spec.bound
            )
        )

    def _renewed(self, old: str, spec: Spec, mixed: bool) -> str:
        """A value of the shape of a state leaf, made of others."""
        if spec.kind == "i":
            return self.add(f"({old} + 1) % {TOKENS}", spec.shape, TOKENS, spec.rows, "i").name
        if spec.kind == "b":
            flag = self._exactly(spec)
            return self.add(
                f"tg.logical_xor({old}, {flag.name})" if flag else f"~{old}",
                spec.shape,
                1.0,
                spec.rows,
                "b",
            ).name
        new = self._fitted(old, spec)
        if mixed:
            return self.add(f"{old} * 0.7 + {new} * 0.3", spec.shape, 1.0, spec.rows).name
        return self.add(new, spec.shape, 1.0, spec.rows).name

    def _fitted(self, old: str, spec: Spec) -> str:
        """An expression of magnitude at most 1 and of the shape of a state leaf."""
        v = self.pick(lambda v: v.kind == "f" and (v.shape, v.rows) == (spec.shape, spec.rows))
        if v is not None and self.rng.random() < 0.5:
            return v.name if v.bound <= 1 else f"tg.tanh({v.name})"
        terms = []
        for _ in range(self.rng.choice([1, 2])):
            wide = self.pick(is_matrix)
            assert wide is not None  # the first input is one
            terms.append(self._made_of(wide, spec))
        if spec.rows and len(spec.shape) == 2 and self.rng.random() < 0.6:
            terms.append(f"{old} @ {self.capture((spec.shape[1], spec.shape[1]), bound=0.7)}")
        return f"tg.tanh({' + '.join(terms)})"

    def _made_of(self, wide: Value, spec: Spec) -> str:
        """A matrix (B, W) brought to the shape of a state leaf."""
        size = math.prod(spec.shape[1:]) if spec.rows else math.prod(spec.shape[-1:])
        if len(spec.shape) == spec.rows:
            return f"tg.sum({wide.name}, axis={-1 if spec.rows else None})"
        made = f"{wide.name} @ {self.capture((wide.shape[1], size), bound=0.7)}"
        if not spec.rows:
            return f"tg.mean({made}, axis=0, keepdims={len(spec.shape) == 2})"
        return made if len(spec.shape) == 2 else f"tg.reshape({made}, {spec.shape})"

    def _outputs(self, following: list[str]) -> str:
        """What nothing else uses above all, in some structure."""
        found = [v for v in self.values if v.rows or not self.ragged]
        ends = [v.name for v in found if v.name not in self.used and v.name[0] == "v"]
        chosen = self.rng.sample(ends, min(len(ends), self.rng.randint(1, 4)))
        if not chosen or self.rng.random() < 0.4:
            chosen.append(self.rng.choice([v.name for v in found]))
        if not self.ragged and self.rng.random() < 0.1:
            chosen.append(self.capture((3,)))
        if len(chosen) == 1 and self.rng.random() < 0.8:
            return chosen[0]
        if self.rng.random() < 0.3:
            return "{" + ", ".join(f"'o{i}': {name}" for i, name in enumerate(chosen)) + "}"
        if len(chosen) > 1 and self.rng.random() < 0.3:
            return f"({chosen[0]}, ({', '.join(chosen[1:])},))"
        return f"({', '.join(chosen)},)"


def _unpacked(given: str, how: str, names: list[str]) -> str:
    """The line that names the leaves of an input or a state."""
    if how == "one":
        return f"    {names[0]} = {given}"
    return f"    ({', '.join(names)}) = {given}" + (".values()" if how == "dict" else "")


def _packed(how: str, names: list[str]) -> str:
    if how == "one":
        return names[0]
    if how == "dict":
        return "{" + ", ".join(f"'k{i}': {name}" for i, name in enumerate(names)) + "}"
    return f"({', '.join(names)},)"


# Operations: each adds a line to a draft, if there are operands that fit.


def broadcast(a: Value, b: Value) -> tuple[Shape, bool] | None:
    """The shape that two values broadcast to, if that pairs rows with the same rows only."""
    if a.rows and b.rows and len(a.shape) != len(b.shape):
        return None
    with_rows, other = (a, b) if a.rows else (b, a)
    if with_rows.rows and not other.rows:
        aligned = len(other.shape) < len(with_rows.shape)
        if not aligned and (len(other.shape) > len(with_rows.shape) or other.shape[0] != 1):
            return None
    try:
        return np.broadcast_shapes(a.shape, b.shape), a.rows or b.rows
    except ValueError:
        return None


def is_float(v: Value) -> bool:
    return v.kind == "f"


def is_matrix(v: Value) -> bool:
    """(B, W), floats."""
    return v.kind == "f" and v.rows and len(v.shape) == 2


def is_box(v: Value) -> bool:
    """(B, K, M), floats."""
    return v.kind == "f" and v.rows and len(v.shape) == 3


def unary(d: Draft) -> None:
    if (v := d.pick(is_float)) is not None:
        template, bound = d.rng.choice(UNARY)
        d.add(template.format(v.name), v.shape, bound(v.bound), v.rows)


def binary(d: Draft) -> None:
    a = d.pick(is_float)
    if a is None:
        return
    b = d.pick(lambda v: v.kind == "f" and broadcast(a, v) is not None)
    if b is not None:
        if d.rng.random() < 0.5:
            a, b = b, a
        template, bound = d.rng.choice(BINARY)
        shape, rows = broadcast(a, b) or ((), False)
        d.add(template.format(a.name, b.name), shape, bound(a.bound, b.bound), rows)


def with_captured(d: Draft) -> None:
    """Beside a vector, a row, a column, or a number that is captured."""
    if (v := d.pick(is_float)) is None:
        return
    shapes: list[tuple[Shape, bool]] = [((), False)]
    if v.shape:
        shapes.append(((v.shape[-1],), False))
    if len(v.shape) == 2:
        shapes += [((1, v.shape[-1]), False), ((v.shape[0], 1), v.rows), (v.shape, v.rows)]
    shape, rows = d.rng.choice(shapes)
    template, bound = d.rng.choice(BINARY)
    names = [v.name, d.capture(shape, rows=rows)]
    if d.rng.random() < 0.5:
        names.reverse()
    d.add(template.format(*names), v.shape, max(bound(v.bound, 1.0), bound(1.0, v.bound)), v.rows)


def product(d: Draft) -> None:
    if (v := d.pick(is_matrix)) is not None:
        width, wanted = v.shape[1], d._width()
        how = d.rng.choice(
            ["{0} @ {1}", "{0} @ {1}.T", "tg.matmul({0}, {1})", "{0} @ tg.tanh({1})"]
        )
        shape = (wanted, width) if ".T" in how else (width, wanted)
        expression = how.format(v.name, d.capture(shape))
        d.add(expression, (v.shape[0], wanted), v.bound * width, True)


def bilinear(d: Draft) -> None:
    a, b = d.pick(is_matrix), d.pick(is_matrix)
    if a is not None and b is not None:
        c = d.capture((a.shape[1], b.shape[1]))
        bound = a.bound * b.bound * a.shape[1] * b.shape[1]
        d.add(f"tg.einsum('bi,ij,bj->b', {a.name}, {c}, {b.name})", a.shape[:1], bound, True)


def dot(d: Draft) -> None:
    if (a := d.pick(is_matrix)) is not None:
        b = d.pick(lambda v: is_matrix(v) and v.shape == a.shape) or a
        d.add(f"tg.vecdot({a.name}, {b.name})", a.shape[:1], a.bound * b.bound * a.shape[1], True)


def outer(d: Draft) -> None:
    a, b = d.pick(is_matrix), d.pick(is_matrix)
    if a is not None and b is not None:
        how = d.rng.choice(
            ["{0}[:, :, None] * {1}[:, None, :]", "{0}[:, :, None] @ {1}[:, None, :]"]
        )
        shape = (a.shape[0], a.shape[1], b.shape[1])
        d.add(how.format(a.name, b.name), shape, a.bound * b.bound, True)


def from_memory(d: Draft) -> None:
    """Scores of a captured memory (B, S, E), or a mean of it."""
    if (v := d.pick(is_matrix)) is None:
        return
    slots, width = 3, d._width()
    if d.rng.random() < 0.5:
        memory = d.capture((d.rows, slots, v.shape[1]), rows=True)
        expression = f"({memory} @ {v.name}[:, :, None])[..., 0]"
        d.add(expression, (d.rows, slots), v.bound * v.shape[1], True)
    else:
        memory = d.capture((d.rows, v.shape[1], width), rows=True)
        expression = f"tg.squeeze(tg.softmax({v.name}, axis=-1)[:, None, :] @ {memory}, axis=1)"
        d.add(expression, (d.rows, width), 1.0, True)


def matrix_of_each_row(d: Draft) -> None:
    """A matrix that varies with time, times a vector of each row."""
    m = d.pick(is_box)
    v = d.pick(lambda v: m is not None and is_matrix(v) and v.shape[1] == m.shape[2])
    if m is not None and v is not None:
        bound = m.bound * v.bound * m.shape[2]
        d.add(f"({m.name} @ {v.name}[:, :, None])[:, :, 0]", m.shape[:2], bound, True)


def matrix_of_all_rows(d: Draft) -> None:
    """A matrix that varies with time, the same for all rows."""
    v = d.pick(is_matrix)
    m = d.pick(
        lambda m: v is not None and m.kind == "f" and not m.rows and m.shape[:-1] == (v.shape[1],)
    )
    if v is not None and m is not None:
        bound = v.bound * m.bound * m.shape[0]
        d.add(f"{v.name} @ {m.name}", (v.shape[0], m.shape[1]), bound, True)


def reduction(d: Draft) -> None:
    v = d.pick(lambda v: is_float(v) and len(v.shape) > v.rows)
    if v is not None:
        template, bound = d.rng.choice(REDUCTIONS)
        keep = d.rng.random() < 0.5
        shape = (*v.shape[:-1], 1) if keep else v.shape[:-1]
        d.add(template.format(v.name, keep), shape, bound(v.bound, v.shape[-1]), v.rows)


def along_rows(d: Draft) -> None:
    v = d.pick(lambda v: is_float(v) and len(v.shape) > v.rows)
    if v is not None:
        template, bound = d.rng.choice(ALONG_ROWS)
        d.add(template.format(v.name), v.shape, bound(v.bound, v.shape[-1]), v.rows)


def normalised(d: Draft) -> None:
    """Of more than two numbers, of which a layer norm makes little more than signs."""
    v = d.pick(lambda v: is_matrix(v) and v.shape[1] > 2)
    if v is not None:
        weight, bias = d.capture(v.shape[1:]), d.capture(v.shape[1:])
        expression = f"tg.layer_norm({v.name}, {weight}, {bias}, eps=0.1)"
        d.add(expression, v.shape, 1.0 + v.shape[1] ** 0.5, True)


def across_rows(d: Draft) -> None:
    """What makes rows depend on each other."""
    v = d.pick(is_matrix)
    if v is None or (d.ragged and d.rng.random() < 0.8):
        return
    template = d.rng.choice(
        [
            "tg.mean({0}, axis=0)",
            "tg.sum({0}, axis=0, keepdims=True)",
            "tg.max({0}, axis=0)",
            "{0}[0]",
            "{0}.T @ {0}",
        ]
    )
    shape = (1, v.shape[1]) if "keepdims" in template else v.shape[1:]
    bound = v.bound * v.shape[0]
    if "@" in template:
        shape, bound = (v.shape[1], v.shape[1]), v.bound**2 * v.shape[0]
    d.add(template.format(v.name), shape, bound, False)


def halves(d: Draft) -> None:
    v = d.pick(lambda v: is_matrix(v) and v.shape[1] > 1)
    if v is None:
        return
    width = v.shape[1]
    cut = width // 2 if width % 2 == 0 and d.rng.random() < 0.6 else d.rng.randint(1, width - 1)
    places = "2" if 2 * cut == width else f"[{cut}]"
    names = [f"v{d.count + 1}", f"v{d.count + 2}"]
    d.count += 2
    d.lines.append(f"    {names[0]}, {names[1]} = tg.split({v.name}, {places}, axis=-1)")
    for name, size in zip(names, (cut, width - cut), strict=True):
        d.values.append(Value(name, (v.shape[0], size), "f", v.bound, True))


def sliced(d: Draft) -> None:
    v = d.pick(lambda v: is_matrix(v) and v.shape[1] > 1)
    if v is None:
        return
    rows, width = v.shape
    how, shape = d.rng.choice(
        [
            ("{0}[:, 1:]", (rows, width - 1)),
            ("{0}[..., :-1]", (rows, width - 1)),
            ("{0}[:, 0]", (rows,)),
            ("{0}[:, :1]", (rows, 1)),
            ("{0}[:, [0, 1, 0]]", (rows, 3)),
            ("{0}[:, ::2]", (rows, (width + 1) // 2)),
        ]
    )
    d.add(how.format(v.name), shape, v.bound, True)


def joined(d: Draft) -> None:
    a, b = d.pick(is_matrix), d.pick(is_matrix)
    if a is not None and b is not None:
        width = a.shape[1] + b.shape[1]
        if width <= 8:
            shape = (a.shape[0], width)
            expression = f"tg.concat([{a.name}, {b.name}], axis=-1)"
            d.add(expression, shape, max(a.bound, b.bound), True)


def stacked(d: Draft) -> None:
    if (a := d.pick(is_matrix)) is not None:
        b = d.pick(lambda v: is_matrix(v) and v.shape == a.shape) or a
        rows, width = a.shape
        axis, shape = d.rng.choice([(1, (rows, 2, width)), (-1, (rows, width, 2))])
        expression = f"tg.stack([{a.name}, {b.name}], axis={axis})"
        d.add(expression, shape, max(a.bound, b.bound), True)


def folded(d: Draft) -> None:
    """(B, K, M) to fewer axes, or with these exchanged."""
    if (v := d.pick(is_box)) is None:
        return
    rows, k, m = v.shape
    how, shape, factor = d.rng.choice(
        [
            ("tg.reshape({0}, ({1}, {2}))", (rows, k * m), 1),
            ("tg.permute_dims({0}, (0, 2, 1))", (rows, m, k), 1),
            ("tg.moveaxis({0}, -1, 1)", (rows, m, k), 1),
            ("tg.sum({0}, axis=1)", (rows, m), k),
            ("tg.max({0}, axis=1)", (rows, m), 1),
            ("{0}[:, 0]", (rows, m), 1),
            ("tg.softmax({0}, axis=1)", (rows, k, m), 1),
        ]
    )
    d.add(how.format(v.name, rows, k * m), shape, max(v.bound, 1.0) * factor, True)


def unfolded(d: Draft) -> None:
    v = d.pick(lambda v: is_matrix(v) and v.shape[1] % 2 == 0)
    if v is not None:
        rows, width = v.shape
        how, shape = d.rng.choice(
            [
                ("tg.reshape({0}, ({1}, 2, {2}))", (rows, 2, width // 2)),
                ("{0}.reshape({1}, {2}, 2)", (rows, width // 2, 2)),
                ("tg.reshape({0}, (-1, 2, {2}))", (rows, 2, width // 2)),
            ]
        )
        d.add(how.format(v.name, rows, width // 2), shape, v.bound, True)


def widened(d: Draft) -> None:
    if (v := d.pick(is_matrix)) is not None and v.shape[1] <= 4:
        rows, width = v.shape
        how, size = d.rng.choice(
            [
                ("tg.pad({0}, ((0, 0), (1, 0)))", width + 1),
                ("tg.repeat({0}, 2, axis=-1)", 2 * width),
                ("tg.tile({0}, (1, 2))", 2 * width),
            ]
        )
        d.add(how.format(v.name), (rows, size), v.bound, True)


def as_column(d: Draft) -> None:
    """(B,) to (B, 1); numbers and vectors without rows to (B, W)."""
    v = d.pick(lambda v: v.kind == "f" and len(v.shape) < 2)
    if v is None:
        return
    if v.rows:
        d.add(f"{v.name}[:, None]", (v.shape[0], 1), v.bound, True)
    elif v.shape and v.shape[0] > 1:
        shape = (d.rows, v.shape[0])
        d.add(f"tg.broadcast_to({v.name}, {shape})", shape, v.bound, True)


def embedded(d: Draft) -> None:
    """Rows of a captured table, by integers."""
    tokens = d.pick(lambda v: v.kind == "i")
    if tokens is None:
        return
    width = d._width()
    table = d.capture((TOKENS, width))
    how = d.rng.choice(["tg.take({0}, {1}, axis=0)", "{0}[{1}]", "tg.one_hot({1}, 5) @ {0}"])
    if "one_hot" in how:
        how = "tg.one_hot({1}, 5, dtype={0}.dtype) @ {0}"
    d.add(how.format(table, tokens.name), (*tokens.shape, width), 1.0, tokens.rows)


def looked_up(d: Draft) -> None:
    """An element of each row, by integers."""
    v, places = d.pick(is_matrix), d.pick(lambda v: v.kind == "i" and v.rows)
    if v is not None and places is not None:
        index = f"{places.name}[:, None] % {v.shape[1]}"
        expression = f"tg.take_along_axis({v.name}, {index}, axis=-1)"
        d.add(expression, (v.shape[0], 1), v.bound, True)


def counted(d: Draft) -> None:
    v = d.pick(lambda v: v.kind == "i")
    if v is None:
        return
    how, kind, bound = d.rng.choice(
        [
            ("({0} + 3) % 5", "i", TOKENS),
            ("{0} % 2 == 0", "b", 1),
            ("{0} > 2", "b", 1),
            ("{0}.astype({1}) * 0.2", "f", 1),
        ]
    )
    a_float = d.pick(is_float)
    if kind != "f" or a_float is not None:
        dtype = "" if a_float is None else f"{a_float.name}.dtype"
        d.add(how.format(v.name, dtype), v.shape, bound, v.rows, kind)


def compared(d: Draft) -> None:
    if (v := d.pick(is_float)) is not None:
        how = d.rng.choice(["{0} > 0.12", "tg.less_equal({0}, -0.07)", "~({0} > 0.23)"])
        d.add(how.format(v.name), v.shape, 1.0, v.rows, "b")


def reduced_flags(d: Draft) -> None:
    v = d.pick(lambda v: v.kind == "b" and v.rows and len(v.shape) == 2)
    if v is not None:
        how = d.rng.choice(["tg.any({0}, axis=-1)", "tg.all({0}, axis=-1)"])
        d.add(how.format(v.name), v.shape[:1], 1.0, True, "b")


def written(d: Draft) -> None:
    """An array with a part replaced, or something added to it."""
    if (v := d.pick(is_matrix)) is not None:
        value = d.pick(lambda w: is_float(w) and w.rows and w.shape == v.shape[:1])
        how = d.rng.choice(
            ["{0}.at[:, 0].set({1})", "{0}.at[:, -1].add({1})", "{0}.at[:, 0].set(0.5)"]
        )
        other = f"{v.name}[:, -1]" if value is None else value.name
        bound = v.bound if value is None else value.bound
        d.add(how.format(v.name, other), v.shape, v.bound + bound + 0.5, True)


def largest(d: Draft) -> None:
    if (v := d.pick(is_matrix)) is not None:
        d.add(f"tg.argmax({v.name}, axis=-1) % {TOKENS}", v.shape[:1], TOKENS, True, "i")


def chosen(d: Draft) -> None:
    """By flags: of one shape with what is chosen, or one for each row."""
    flags = d.pick(lambda v: v.kind == "b")
    if flags is None:
        return
    v = d.pick(lambda v: v.kind == "f" and broadcast(flags, v) is not None)
    if v is not None:
        shape, rows = broadcast(flags, v) or ((), False)
        other = d.rng.choice(["0.3", f"tg.sin({v.name})", f"-{v.name}"])
        d.add(f"tg.where({flags.name}, {v.name}, {other})", shape, max(v.bound, 1.0), rows)
    elif flags.rows and len(flags.shape) == 1 and (v := d.pick(is_matrix)) is not None:
        expression = f"tg.where({flags.name}[:, None], {v.name}, {v.name} * 0.5)"
        d.add(expression, v.shape, v.bound, True)


OPERATIONS: list[Callable[[Draft], None]] = [
    *([unary] * 6 + [binary] * 6 + [with_captured] * 3 + [product] * 5),
    *([reduction] * 2 + [along_rows] * 2 + [halves] * 3 + [joined] * 2 + [sliced] * 2),
    *(normalised, across_rows, bilinear, dot, outer, from_memory, from_memory),
    *(matrix_of_each_row, matrix_of_all_rows, stacked, folded, folded, unfolded, widened),
    *(as_column, embedded, embedded, looked_up, counted, compared, compared, largest, chosen),
    *(written, reduced_flags),
]


def check(rng: random.Random, dtype: str) -> None:
    """One program, run with two sets of numbers and two numbers of steps."""
    program = Draft(rng).program()
    for _ in range(2):
        steps = rng.choice([3, 1, 2, 5])
        order = 2 if steps < 4 and rng.random() < 0.25 else 1
        case = program.case(rng, steps, dtype)
        checkpoint = {"checkpoint": rng.choice([1, 2])} if rng.random() < 0.15 else {}
        try:
            expected = case.results(literal, order)
            assert_close(case.results(planned, order, **checkpoint), expected)
        except Exception as error:
            options = {**case.options, **checkpoint}
            error.add_note(f"{program}# {steps} steps of {dtype}, {options}, order {order}")
            raise


# Not shrunk: that takes minutes, and leaves programs that are no easier to read.
@settings(examples(60), phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(rng=st.randoms(use_true_random=False))
def test_a_drawn_program_runs_planned_as_literally(rng: random.Random) -> None:
    check(rng, rng.choice(["float64", "float32"]))


@pytest.mark.parametrize("first", range(0, 300, 30))
def test_programs_run_planned_as_literally(first: int) -> None:
    for seed in range(first, first + 30):
        check(random.Random(seed), "float64")


# Beside the first ones some that showed an error in plans when these were new.
SHOWN = [1063, 1073, 1105, 1181, 1228, 3258, 3348, 3404, 5087, 7143, 7228, 7315, 7325, 7493, 7603]
SHOWN += [9098, 9213, 9345, 9365, 9575, 10524]


@pytest.mark.parametrize("fused", KERNELS)
def test_programs_run_planned_as_literally_in_float32(fused: bool) -> None:
    with plans_of(fused):
        for seed in [*range(1000, 1040), *SHOWN]:
            check(random.Random(seed), "float32")
