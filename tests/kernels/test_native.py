"""Native loops do what their statements say: every loop here also runs in NumPy, row by row.

The subtle point is the tolerance. ``reference`` carries a bound on the rounding error along with
each value, so a kernel drawn at random may cancel and is still held to what float32 can give.
"""

from __future__ import annotations

import ctypes
import functools
import math
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from op_table import examples
from tinygrad_rnn.kernels.cpu import gemm
from tinygrad_rnn.kernels.cpu import run as native
from tinygrad_rnn.kernels.cpu.threads import run_at_once, shares
from tinygrad_rnn.kernels.ir import Instruction, Kernel, Loop, Product, Slot, Timetable

Array = np.ndarray[Any, Any]

ULP = 2.0**-23
ULPS = {
    "erf": 6.5,
    "tanh": 5,
    "softplus": 3,
    "sigmoid": 3,
    "log1p": 3,
    "expm1": 2,
    "exp": 1.5,
    "log": 1.5,
}
"""Of the functions that are approximated, the error allowed, in units in the last place."""


class Writer:
    """Collects the instructions of a kernel; methods return the number of a value."""

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []

    def add(self, name: str, *operands: int, width: int | None = None, argument: Any = None) -> int:
        if width is None:
            width = max(self.instructions[x].width for x in operands)
        self.instructions.append(Instruction(name, operands, width, argument))
        return len(self.instructions) - 1

    def load(self, slot: Slot) -> int:
        return self.add("load", width=slot.width, argument=slot)

    def constant(self, number: float) -> int:
        return self.add("constant", width=1, argument=number)

    def store(self, slot: Slot, value: int) -> None:
        self.add("store", value, width=slot.width, argument=slot)

    def reduce(self, name: str, value: int) -> int:
        return self.add(name, value, width=1)

    def kernel(self) -> Kernel:
        return Kernel(tuple(self.instructions))


def timetable(counts: Sequence[int]) -> Timetable:
    """Steps with so many active rows, never more than before; states begin with those at rest."""
    count = np.array(counts, np.int64)
    step = np.cumsum(count) - count
    after = step + (count[0] if len(count) else 0)
    before = np.concatenate([[0], after[:-1]])
    return Timetable(step, before, after, count, np.arange(len(count))[::-1].copy())


def run(
    loop: Loop,
    arrays: Sequence[Array],
    table: Timetable,
    steps: slice | None = None,
    threads: int = 1,
) -> None:
    (compiled,) = native.compile([loop])
    compiled(arrays, table, steps, threads)


def whole(buffer: int, width: int, dtype: str = "float32", place: Any = "step") -> Slot:
    return Slot(buffer, place, 0, width, width, dtype)


def elementwise(name: str, *operands: Array) -> Array:
    """One function, compiled and applied to arrays (rows, columns) of the same shape."""
    rows, width = operands[0].shape
    writer = Writer()
    loads = [writer.load(whole(i, width, x.dtype.name)) for i, x in enumerate(operands)]
    result = np.empty((rows, width), "bool" if name in BOOLEAN else np.float32)
    writer.store(whole(len(operands), width, result.dtype.name), writer.add(name, *loads))
    run(Loop((writer.kernel(),), False), [*operands, result], timetable([rows]))
    return result


# Elementwise functions.

SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 9.0, -9.5, 88.0, -88.0, 1e4, -1e4, 3e38, -3e38]
SPECIAL += [1e-42, -1e-42, 1.2e-38, -1.2e-38, 1e-5, -1e-5, math.inf, -math.inf, math.nan]

UNARY: dict[str, Callable[[Array], Array]] = {
    "negative": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "square": np.square,
    "tanh": np.tanh,
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "softplus": lambda x: np.logaddexp(x, 0),
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "round": np.round,
}
TESTS = {name: getattr(np, name) for name in ("isnan", "isinf", "isfinite")}
ARITHMETIC = {
    name: getattr(np, name)
    for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum")
}
RELATIONS = {
    name: getattr(np, name)
    for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
}
LOGIC = {
    name: getattr(np, name) for name in ("logical_and", "logical_or", "logical_xor", "logical_not")
}
BOOLEAN = {*TESTS, *RELATIONS, *LOGIC}


def test_every_supported_function_is_tested_here() -> None:
    tested = {*UNARY, *TESTS, *ARITHMETIC, *RELATIONS, *LOGIC}
    assert tested | {"where", "sum", "max"} == native.SUPPORTED


@pytest.mark.parametrize("width", [1, 131], ids=["numbers", "vectors"])
@pytest.mark.parametrize("name", UNARY)
def test_function_is_accurate_and_keeps_special_values(name: str, width: int) -> None:
    rng = np.random.default_rng(0)
    magnitude = 10.0 ** rng.uniform(-44, 38, 131 * 8)
    x = np.concatenate([SPECIAL, rng.uniform(-100, 100, 131 * 8), magnitude, -magnitude])
    assert_accurate(name, x.astype(np.float32)[: len(x) // width * width].reshape(-1, width))


def assert_accurate(name: str, x: Array) -> None:
    """The function is as near to what float64 makes of it as it may be, nan and infinity too."""
    with np.errstate(all="ignore"):
        exact = UNARY[name](x.astype(np.float64))
        nearest = exact.astype(np.float32)
    result = elementwise(name, x)
    assert np.array_equal(np.isnan(result), np.isnan(nearest))
    assert np.array_equal(np.isinf(result), np.isinf(nearest))
    finite = np.isfinite(nearest)
    spacing = np.spacing(np.maximum(np.abs(nearest[finite]), np.float32(2.0**-126)))
    if name == "sigmoid":
        spacing = np.maximum(spacing, 2.0**-126)  # its results are normal numbers, or 0
    error = np.abs(result[finite].astype(np.float64) - exact[finite]) / spacing
    assert error.max() <= ULPS.get(name, 0.5)


def _around(*centres: float, within: float) -> Array:
    """Numbers about others: so far away at most, and the nearest that there are."""
    offsets = np.concatenate([np.linspace(-1, 1, 4001), 2.0 ** np.arange(-24, 0)]) * within
    near = np.concatenate([c + offsets for c in centres]).astype(np.float32)
    steps = [np.asarray(centres, np.float32)]
    for towards in (-np.inf, np.inf):
        at = steps[0]
        for _ in range(40):
            at = np.nextafter(at, np.float32(towards))
            steps.append(at)
    return np.concatenate([near, *steps])


_HALVES = [k * math.log(2) / 2 for k in (-251, -249, -3, -1, 1, 3, 127, 255)]
SENSITIVE: dict[str, Array] = {
    "log": _around(1.0, 0.5, 2.0, math.sqrt(0.5), math.sqrt(2), within=0.1),
    "log1p": np.concatenate(
        [
            _around(0.0, -0.5, 1.0, math.sqrt(2) - 1, within=0.2),
            _around(0.0, within=1e-6),
            _around(-1.0, within=1e-5),
        ]
    ),
    "exp": _around(-103.5, -87.34, 88.5, 0.0, *_HALVES, within=0.7),
    "expm1": np.concatenate(
        [_around(0.0, -17, 88.5, *_HALVES, within=0.7), _around(0, within=1e-4)]
    ),
    "erf": np.concatenate([_around(0.0, 1.0, 4.0, -4.0, within=1.0), _around(0, within=1e-4)]),
    "tanh": np.concatenate([_around(0.0, 9.01, -9.01, 0.6, within=1.0), _around(0, within=1e-4)]),
    "sigmoid": _around(0.0, -87, -86.9, 17.0, -17.0, 88.0, within=1.0),
    "softplus": _around(0.0, -103.5, -87.3, -17.0, 17.0, within=1.0),
}
"""Where a function is nearly 0 or saturates, and where its formula changes."""


@pytest.mark.parametrize("name", SENSITIVE)
def test_function_is_accurate_where_it_is_most_sensitive(name: str) -> None:
    assert_accurate(name, SENSITIVE[name].reshape(1, -1))


@pytest.mark.parametrize("name", ["tanh", "erf", "expm1", "log1p", "negative", "sqrt"])
def test_zero_keeps_its_sign(name: str) -> None:
    x = np.array([[0.0, -0.0]], np.float32)
    assert np.array_equal(np.signbit(elementwise(name, x)), np.signbit(UNARY[name](x)))


@pytest.mark.parametrize(("name", "limit"), [("tanh", 9.02), ("erf", 4.0)])
def test_it_is_one_exactly_where_it_is_saturated_and_never_more(name: str, limit: float) -> None:
    x = np.linspace(-12, 12, 100_001, dtype=np.float32).reshape(1, -1)
    result = elementwise(name, x)
    assert np.all(np.abs(result) <= 1)
    assert np.all(np.abs(result[np.abs(x) > limit]) == 1)


@pytest.mark.parametrize("name", [*ARITHMETIC, *RELATIONS])
def test_function_of_two_agrees_with_numpy_on_special_pairs(name: str) -> None:
    values = np.array(SPECIAL, np.float32)
    x, y = (np.ascontiguousarray(v) for v in np.meshgrid(values, values))
    with np.errstate(all="ignore"):
        expected = (ARITHMETIC | RELATIONS)[name](x, y)
    np.testing.assert_array_equal(elementwise(name, x, y), expected)


@pytest.mark.parametrize("name", TESTS)
def test_test_of_a_number_agrees_with_numpy(name: str) -> None:
    x = np.array([SPECIAL], np.float32)
    assert np.array_equal(elementwise(name, x), TESTS[name](x))


def test_logic_agrees_with_numpy() -> None:
    x = np.array([[False, False, True, True] * 5])
    y = np.array([[False, True, False, True] * 5])
    for name, function in LOGIC.items():
        operands = [x, y][: function.nin]
        assert np.array_equal(elementwise(name, *operands), function(*operands))


def test_where_selects_beside_nan_and_infinity() -> None:
    mask = np.array([[True, False] * 10])
    x = np.full((1, 20), np.nan, np.float32)
    y = np.full((1, 20), -np.inf, np.float32)
    np.testing.assert_array_equal(elementwise("where", mask, x, y), np.where(mask, x, y))


def test_boolean_beside_a_number_counts_as_one() -> None:
    mask, x = np.array([[True, False, True]]), np.array([[2.0, 3.0, 4.0]], np.float32)
    assert np.array_equal(elementwise("multiply", mask, x), mask * x)


def test_arithmetic_rounds_as_in_numpy() -> None:
    # A product and a sum in one instruction would be more exact than the same two elsewhere.
    rng = np.random.default_rng(0)
    x, y, z, result = rng.standard_normal((4, 9, 37)).astype(np.float32)
    writer = Writer()
    a, b, c = (writer.load(whole(i, 37)) for i in range(3))
    writer.store(whole(3, 37), writer.add("subtract", writer.add("multiply", a, b), c))
    run(Loop((writer.kernel(),), False), [x, y, z, result], timetable([9]))
    assert np.array_equal(result, x * y - z)


# A reference, and kernels drawn at random.


class Bounded(NamedTuple):
    """A value in float64, and how far from it one in float32 may be."""

    value: Array
    error: Array


def _plain(function: Callable[..., Array], slope: float = 1.0) -> Callable[..., Bounded]:
    def apply(*operands: Bounded) -> Bounded:
        value = function(*(x.value for x in operands))
        error = slope * functools.reduce(np.add, (x.error for x in operands))
        return Bounded(value, error + 5 * ULP * np.abs(value))

    return apply


def _multiply(x: Bounded, y: Bounded) -> Bounded:
    value = x.value * y.value
    error = np.abs(x.value) * y.error + np.abs(y.value) * x.error + x.error * y.error
    return Bounded(value, error + ULP * np.abs(value))


def _exact(value: Array) -> Bounded:
    return Bounded(value, np.zeros(value.shape))


def _sum(x: Bounded) -> Bounded:
    rounding = x.value.shape[-1] * ULP * np.abs(x.value).sum(-1, keepdims=True)
    return Bounded(x.value.sum(-1, keepdims=True), x.error.sum(-1, keepdims=True) + rounding)


def _max(x: Bounded) -> Bounded:
    return Bounded(x.value.max(-1, keepdims=True), x.error.max(-1, keepdims=True))


SMOOTH: dict[str, Callable[..., Bounded]] = {
    **{name: _plain(UNARY[name]) for name in ("tanh", "sigmoid", "softplus", "relu", "negative")},
    **{name: _plain(ARITHMETIC[name]) for name in ("add", "subtract", "maximum", "minimum")},
    "multiply": _multiply,
    "sum": _sum,
    "max": _max,
}


def rows_of(slot: Slot, arrays: Sequence[Array], table: Timetable, t: int) -> Array:
    """The part of an array (rows, stride) that a slot is at a step."""
    count = int(table.count[t])
    first, count = {
        "rows": (0, count),
        "all": (0, 1),
        "each": (int(table.index[t]), 1),
    }.get(slot.place) or (int(getattr(table, slot.place)[t]), count)
    return arrays[slot.buffer][first : first + count, slot.column : slot.column + slot.width]


def reference(
    loop: Loop, arrays: Sequence[Array], errors: Sequence[Array], table: Timetable
) -> None:
    """The loop in NumPy: ``arrays`` are in float64 here; ``errors`` receives the bounds."""
    for t in range(len(table.count))[:: -1 if loop.backwards else 1]:
        for statement in loop.statements:
            assert isinstance(statement, Kernel)
            values: list[Bounded] = []
            for name, operands, _, argument in statement.instructions:
                inputs = [values[x] for x in operands]
                if name == "load":
                    parts = (rows_of(argument, x, table, t).copy() for x in (arrays, errors))
                    values.append(Bounded(*parts))
                elif name == "constant":
                    values.append(_exact(np.array([[argument]])))
                elif name == "store":
                    rows_of(argument, arrays, table, t)[...] = inputs[0].value
                    rows_of(argument, errors, table, t)[...] = inputs[0].error
                    values.append(inputs[0])
                elif name in SMOOTH:
                    values.append(SMOOTH[name](*inputs))
                elif name == "where":
                    chosen = [
                        np.where(inputs[0].value != 0, *x) for x in zip(*inputs[1:], strict=True)
                    ]
                    values.append(Bounded(*chosen))
                elif name in RELATIONS:
                    (x, x_error), (y, y_error) = inputs
                    # What is not exact, such as a state, may turn a comparison: nothing follows.
                    assume(
                        not np.any((x_error + y_error > 0) & (np.abs(x - y) <= x_error + y_error))
                    )
                    values.append(_exact(RELATIONS[name](x, y)))
                else:
                    values.append(_exact(LOGIC[name](*(x.value != 0 for x in inputs))))


@st.composite
def loops(draw: st.DrawFn) -> tuple[Loop, list[Array], Timetable]:
    """A loop of one kernel, its arrays and a timetable."""
    counts = sorted(draw(st.lists(st.integers(0, 5), min_size=1, max_size=4)), reverse=True)
    table = timetable(counts)
    width = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays: list[Array] = []

    def slot(place: str, width: int, dtype: str = "float32") -> Slot:
        column, more = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
        shape = (sum(counts) + counts[0] + 5, column + width + more)
        if dtype == "bool":
            arrays.append(rng.random(shape) < 0.5)
        else:
            arrays.append(rng.standard_normal(shape).astype(np.float32))
        return Slot(len(arrays) - 1, place, column, width, shape[1], dtype)  # type: ignore[arg-type]

    writer = Writer()
    places = st.sampled_from(["step", "before", "after", "rows", "each", "all"])
    widths = st.sampled_from([1, width])
    slots = [slot(draw(places), draw(widths)) for _ in range(draw(st.integers(1, 3)))]
    exact = [writer.load(s) for s in slots] + [writer.constant(draw(st.sampled_from([-0.5, 2.0])))]
    numbers = list(exact)
    booleans = [writer.load(slot(draw(places), draw(widths), "bool"))]

    def pick(values: list[int], count: int) -> list[int]:
        return [draw(st.sampled_from(values)) for _ in range(count)]

    for _ in range(draw(st.integers(1, 9))):
        kind = draw(st.sampled_from(["smooth", "smooth", "reduce", "where", "relation", "logic"]))
        if kind == "smooth":
            name = draw(st.sampled_from(sorted(SMOOTH.keys() - {"sum", "max"})))
            numbers.append(writer.add(name, *pick(numbers, 1 if name in UNARY else 2)))
        elif kind == "reduce":
            name = draw(st.sampled_from(["sum", "max"]))
            numbers.append(writer.reduce(name, *pick(numbers, 1)))
        elif kind == "where":
            numbers.append(writer.add("where", *pick(booleans, 1), *pick(numbers, 2)))
        elif kind == "relation":
            name = draw(st.sampled_from(sorted(RELATIONS)))
            booleans.append(writer.add(name, *pick(exact, 2)))
        else:
            name = draw(st.sampled_from(sorted(LOGIC)))
            booleans.append(writer.add(name, *pick(booleans, LOGIC[name].nin)))

    def output(value: int, dtype: str) -> None:
        width = writer.instructions[value].width
        place = draw(st.sampled_from(["step", "after", "rows"]))
        wide = draw(st.sampled_from([width, 7])) if width == 1 else width
        writer.store(slot(place, wide, dtype), value)

    output(numbers[-1], "float32")
    output(booleans[-1], "bool")
    for s in slots:
        fitting = [n for n in numbers if writer.instructions[n].width in (1, s.width)]
        if s.place not in ("each", "all") and draw(st.booleans()):
            writer.store(s, draw(st.sampled_from(fitting)))
    return Loop((writer.kernel(),), draw(st.booleans())), arrays, table


@examples(100)
@given(loops(), st.integers(1, 3))
def test_random_kernel_agrees_with_numpy(
    drawn: tuple[Loop, list[Array], Timetable], threads: int
) -> None:
    loop, arrays, table = drawn
    expected = [x.astype(np.float64) for x in arrays]
    errors = [np.zeros(x.shape) for x in arrays]
    reference(loop, expected, errors, table)
    run(loop, arrays, table, threads=threads)
    for result, exact, error in zip(arrays, expected, errors, strict=True):
        assert np.all(np.abs(result.astype(np.float64) - exact) <= error + 1e-37)


# Reductions.


@pytest.mark.parametrize("width", [1, 2, 7, 15, 16, 17, 31, 32, 50, 300])
def test_reductions_take_each_column_once(width: int) -> None:
    rng = np.random.default_rng(width)
    x = rng.integers(-50, 50, (4, width)).astype(np.float32)  # whose sums are exact
    results = np.empty((4, 2), np.float32)
    writer = Writer()
    value = writer.load(whole(0, width))
    for column, name in enumerate(("sum", "max")):
        writer.store(Slot(1, "step", column, 1, 2), writer.reduce(name, value))
    run(Loop((writer.kernel(),), False), [x, results], timetable([4]))
    assert np.array_equal(results, np.stack([x.sum(1), x.max(1)], 1))


def test_max_of_a_row_with_nan_is_nan() -> None:
    x = np.zeros((3, 37), np.float32)
    x[0, 5] = x[1, 36] = np.nan
    result = np.empty((3, 1), np.float32)
    writer = Writer()
    writer.store(whole(1, 1), writer.reduce("max", writer.load(whole(0, 37))))
    run(Loop((writer.kernel(),), False), [x, result], timetable([3]))
    assert np.isnan(result[:, 0]).tolist() == [True, True, False]


def test_softmax_over_columns_written_over_its_input() -> None:
    x = np.random.default_rng(0).standard_normal((5, 43)).astype(np.float32)
    shifted = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    expected = shifted / shifted.sum(1, keepdims=True)
    writer = Writer()
    value = writer.load(whole(0, 43))
    power = writer.add("exp", writer.add("subtract", value, writer.reduce("max", value)))
    writer.store(whole(0, 43), writer.add("divide", power, writer.reduce("sum", power)))
    run(Loop((writer.kernel(),), False), [x], timetable([5]))
    np.testing.assert_allclose(x, expected, rtol=2e-6)


def test_what_was_loaded_outlives_the_store_over_it() -> None:
    x = np.arange(20, dtype=np.float32).reshape(1, 20)
    result = np.empty_like(x)
    writer = Writer()
    value = writer.load(whole(0, 20))
    doubled = writer.add("add", value, value)
    writer.store(whole(0, 20), doubled)
    writer.store(whole(1, 20), writer.add("subtract", value, writer.reduce("sum", doubled)))
    expected = x - 2 * x.sum()
    run(Loop((writer.kernel(),), False), [x, result], timetable([1]))
    assert np.array_equal(result, expected)


# Time.


def running_sum() -> Kernel:
    """After = before + step."""
    writer = Writer()
    total = writer.add("add", writer.load(whole(1, 3, place="before")), writer.load(whole(0, 3)))
    writer.store(whole(1, 3, place="after"), total)
    return writer.kernel()


def test_state_is_carried_from_step_to_step_though_rows_end() -> None:
    table = timetable([4, 4, 2, 1])
    x = np.arange(33, dtype=np.float32).reshape(11, 3)
    states = np.zeros((15, 3), np.float32)
    run(Loop((running_sum(),), False), [x, states], table)
    expected = np.zeros((4, 3))
    for t, count in enumerate(table.count):
        expected[:count] += x[table.step[t] :][:count]
        assert np.array_equal(states[table.after[t] :][:count], expected[:count])


def test_backwards_the_last_step_comes_first() -> None:
    table = timetable([2, 2, 2])
    x = np.arange(18, dtype=np.float32).reshape(6, 3)
    total = np.zeros((2, 3), np.float32)
    writer = Writer()
    carried = whole(1, 3, place="rows")
    halved = writer.add("multiply", writer.load(carried), writer.constant(0.5))
    writer.store(carried, writer.add("add", halved, writer.load(whole(0, 3))))
    run(Loop((writer.kernel(),), True), [x, total], table)
    assert np.array_equal(total, x[0:2] + (x[2:4] + x[4:6] / 2) / 2)


def test_steps_can_be_run_in_segments() -> None:
    x = np.arange(42, dtype=np.float32).reshape(14, 3)
    totals = np.zeros((2, 3), np.float32)
    writer = Writer()
    carried = whole(1, 3, place="rows")
    writer.store(carried, writer.add("add", writer.load(carried), writer.load(whole(0, 3))))
    (compiled,) = native.compile([Loop((writer.kernel(),), False)])
    for steps in (slice(0, 3), slice(3, 3), slice(3, 6), slice(6, None)):
        compiled([x, totals], timetable([2] * 7), steps, 1)
    assert np.array_equal(totals, x.reshape(7, 2, 3).sum(0))


@pytest.mark.parametrize("counts", [[], [0, 0]], ids=["no steps", "no rows"])
def test_nothing_to_do_touches_nothing(counts: list[int]) -> None:
    states = np.ones((3, 3), np.float32)
    run(Loop((running_sum(),), False), [states, states.copy()], timetable(counts), threads=2)
    assert np.all(states == 1)


# LSTM, as a planner would write it.


def lstm(h: int) -> Loop:
    """Arrays: preactivations, written over by the gates (steps, 4h); h; c; weights (h, 4h)."""
    gates = [Slot(0, "step", i * h, h, 4 * h) for i in range(4)]
    writer = Writer()
    names = ("sigmoid", "sigmoid", "tanh", "sigmoid")
    i, f, g, o = (writer.add(n, writer.load(s)) for n, s in zip(names, gates, strict=True))
    kept = writer.add("multiply", f, writer.load(whole(2, h, place="before")))
    c = writer.add("add", kept, writer.add("multiply", i, g))
    for slot, value in zip(gates, (i, f, g, o), strict=True):
        writer.store(slot, value)
    writer.store(whole(2, h, place="after"), c)
    writer.store(whole(1, h, place="after"), writer.add("multiply", o, writer.add("tanh", c)))
    product = Product(
        whole(1, h, place="before"), whole(3, 4 * h, place="all"), whole(0, 4 * h), accumulate=True
    )
    return Loop((product, writer.kernel()), False)


def lstm_arrays(counts: Sequence[int], h: int) -> list[Array]:
    rng = np.random.default_rng(h)
    rows = sum(counts)
    states = [np.zeros((rows + counts[0], h), np.float32) for _ in range(2)]
    z = rng.standard_normal((rows, 4 * h)).astype(np.float32)
    weights = rng.standard_normal((h, 4 * h)).astype(np.float32) / np.float32(math.sqrt(h))
    return [z, *states, weights]


def lstm_in_numpy(arrays: Sequence[Array], table: Timetable) -> tuple[Array, Array]:
    z, h, c, weights = (x.astype(np.float64) for x in arrays)
    for t, n in enumerate(table.count):
        before, step = (slice(x[t], x[t] + n) for x in (table.before, table.step))
        i, f, g, o = np.split(z[step] + h[before] @ weights, 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-x)) for x in (i, f, o))
        after = slice(table.after[t], table.after[t] + n)
        c[after] = f * c[before] + i * np.tanh(g)
        h[after] = o * np.tanh(c[after])
    return h, c


RAGGED = [11, 11, 9, 4, 4, 1]


@pytest.mark.parametrize("counts", [[11] * 6, RAGGED, [1] * 6], ids=["equal", "ragged", "one row"])
@pytest.mark.parametrize("h", [13, 32])
@pytest.mark.parametrize("transposed", [False, True])
def test_lstm_agrees_with_numpy(counts: list[int], h: int, transposed: bool) -> None:
    table, arrays = timetable(counts), lstm_arrays(counts, h)
    expected = lstm_in_numpy(arrays, table)
    if transposed:
        arrays[3] = np.ascontiguousarray(arrays[3].T).T
    run(lstm(h), arrays, table)
    for result, exact in zip(arrays[1:3], expected, strict=True):
        np.testing.assert_allclose(result, exact, atol=3e-6)


@pytest.mark.parametrize("accumulate", [False, True])
def test_product_adds_to_the_result_or_replaces_it(accumulate: bool) -> None:
    rng = np.random.default_rng(0)
    a, b, out = (matrix(s, "contiguous", rng) for s in ((6, 600), (600, 45), (2, 45)))
    expected = a[4:6] @ b + (out if accumulate else 0)
    if not accumulate:
        out[:] = np.nan
    product = Product(
        whole(0, 600), whole(1, 45, place="all"), whole(2, 45, place="rows"), accumulate
    )
    run(Loop((product,), False), [a, b, out], timetable([2, 2, 2]), steps=slice(2, 3))
    assert np.array_equal(out, expected)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads share even the smallest work."""
    monkeypatch.setattr(native, "SHARE", 1e-6)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("counts", [[11] * 6, RAGGED], ids=["equal", "ragged"])
@pytest.mark.parametrize("threads", [2, 3])
def test_bits_do_not_depend_on_the_number_of_threads(counts: list[int], threads: int) -> None:
    table = timetable(counts)
    (compiled,) = native.compile([lstm(37)])
    alone, together = (lstm_arrays(counts, 37) for _ in range(2))
    compiled(alone, table, None, 1)
    compiled(together, table, None, threads)
    for x, y in zip(alone, together, strict=True):
        assert np.array_equal(x, y)


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=9).map(lambda x: sorted(x, reverse=True)),
    st.integers(1, 4),
)
def test_shares_are_all_rows_and_differ_by_a_row_at_most(counts: list[int], threads: int) -> None:
    count = np.array(counts)
    threads = min(threads, counts[0])
    bounds = shares(count, threads)
    assert bounds[0] == 0 and bounds[-1] == counts[0] and bounds == sorted(bounds)
    steps = [(count > row).sum() for row in range(counts[0])]
    work = [sum(steps[a:b]) for a, b in pairwise(bounds)]
    assert len(work) == threads
    assert max(work) <= sum(steps) / threads + max(steps)


@pytest.mark.usefixtures("eager")
def test_one_loop_can_be_called_by_several_threads_at_once() -> None:
    counts = [16] * 200
    table = timetable(counts)
    (compiled,) = native.compile([lstm(48)])
    # Weights of their own, so that mixing up what is packed would show.
    alone, at_once = ([lstm_arrays(counts, 48) for _ in range(6)] for _ in range(2))
    for i, (x, y) in enumerate(zip(alone, at_once, strict=True)):
        x[3] *= i
        y[3] *= i
        compiled(x, table, None, 1)
    calls = [threading.Thread(target=compiled, args=(x, table, None, 2)) for x in at_once]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    for x, y in zip(alone, at_once, strict=True):
        assert np.array_equal(x[1], y[1])


def test_error_in_another_thread_is_raised_here() -> None:
    def fail() -> None:
        raise ZeroDivisionError("over there")

    with pytest.raises(ZeroDivisionError, match="over there"):
        run_at_once([lambda: None, fail])


# Products.


def matrix(shape: tuple[int, int], layout: str, rng: np.random.Generator) -> Array:
    """Small integers, of which float32 makes exact sums, stored in one of several ways."""
    rows, columns = shape
    if layout == "transposed":
        return matrix((columns, rows), "contiguous", rng).T
    more = {"contiguous": 0, "columns of a wider one": 3}[layout]
    return rng.integers(-4, 5, (rows, columns + more)).astype(np.float32)[:, :columns]


layouts = st.sampled_from(["contiguous", "transposed", "columns of a wider one"])
sizes = st.one_of(st.integers(0, 40), st.sampled_from([63, 64, 65, 127, 128, 129, 257, 300, 513]))


@pytest.mark.usefixtures("eager")
@examples(60)
@given(
    *[sizes] * 3, st.tuples(layouts, layouts, layouts), st.booleans(), st.sampled_from([1, 2, 3])
)
def test_product_agrees_with_numpy(
    m: int, k: int, n: int, layout: tuple[str, str, str], accumulate: bool, threads: int
) -> None:
    rng = np.random.default_rng(0)
    a, b, out = (matrix(s, x, rng) for s, x in zip(((m, k), (k, n), (m, n)), layout, strict=True))
    expected = a @ b + (out if accumulate else 0)
    native.product(a, b, out, threads=threads, accumulate=accumulate)
    assert np.array_equal(out, expected)


def test_product_leaves_the_columns_beside_the_result_alone() -> None:
    a, b = np.ones((5, 3), np.float32), np.ones((3, 9), np.float32)
    wide = np.full((5, 20), 7, np.float32)
    native.product(a, b, wide[:, 4:13])
    assert np.all(wide[:, 4:13] == 3)
    assert np.all(wide[:, :4] == 7) and np.all(wide[:, 13:] == 7)


@pytest.mark.parametrize("processor", [gemm.Processor(4, 16), gemm.Processor(8, 16)])
def test_products_are_right_on_processors_with_shorter_vectors(processor: gemm.Processor) -> None:
    functions = native.Functions(native._machine().compile(gemm.library(processor)), processor)
    rng = np.random.default_rng(0)
    for m, k, n in ((1, 9, 5), (7, 300, 41), (10, 33, 210)):
        for layout in ("contiguous", "transposed"):
            a, b = matrix((m, k), layout, rng), matrix((k, n), layout, rng)
            out = np.empty((m, n), np.float32)
            native._multiply(functions, False, a, b, out)
            assert np.array_equal(out, a @ b)


def test_a_packed_matrix_takes_whole_vectors_and_a_row_more_for_each_block() -> None:
    processor = gemm.Processor(8, 16)
    assert processor.packed_size(1, 1) == 2 * 8
    assert processor.packed_size(gemm.BLOCK_ROWS, 8) == (gemm.BLOCK_ROWS + 1) * 8
    assert processor.packed_size(gemm.BLOCK_ROWS + 1, 9) == (gemm.BLOCK_ROWS + 3) * 16


@pytest.mark.parametrize(("k", "n"), [(1, 1), (3, 401), (300, 17), (513, 200)])
def test_a_packed_matrix_stays_within_its_memory_and_is_multiplied_from_there(
    k: int, n: int
) -> None:
    processor = gemm.Processor(8, 16)
    functions = native.Functions(native._machine().compile(gemm.library(processor)), processor)
    rng = np.random.default_rng(0)
    a, b = matrix((5, k), "contiguous", rng), matrix((k, n), "contiguous", rng)
    size = processor.packed_size(k, n)
    packed, out = np.full(size + 4096, 7, np.float32), np.full((5, n), 7, np.float32)
    functions.pack(n, k, b.ctypes.data, n, 1, packed.ctypes.data)
    assert np.all(packed[size:] == 7)
    i, address = ctypes.c_int64, ctypes.c_void_p
    types = (i, i, i, address, i, i, address, address, i, ctypes.c_bool)
    multiply = ctypes.CFUNCTYPE(None, *types)(functions.multiply_address)
    for accumulate in (False, True):
        where = (a.ctypes.data, k, 1, packed.ctypes.data, out.ctypes.data, n, accumulate)
        multiply(5, n, k, *where)
        np.testing.assert_array_equal(out, (a @ b) * (1 + accumulate))


def test_product_refuses_what_does_not_fit() -> None:
    a, b, out = (np.ones(s, np.float32) for s in ((2, 3), (3, 4), (2, 4)))
    with pytest.raises(ValueError, match=r"\(2, 3\) @ \(3, 4\) is not of the shape \(2, 3\)"):
        native.product(a, b, out[:, :3])
    with pytest.raises(ValueError, match="float64 is not all float32"):
        native.product(a, b, out.astype(np.float64))
    with pytest.raises(ValueError, match="strides"):
        native.product(a, b[:, ::2], np.ones((2, 4), np.float32)[:, ::2])


# Without llvmlite.


def test_missing_llvmlite_is_the_reason_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_machine", native._machine.__wrapped__)  # forget the one found
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    reason = native.available()
    assert reason is not None and "llvmlite" in reason
    with pytest.raises(ImportError, match="llvmlite"):
        native.compile([lstm(8)])


def test_present_llvmlite_needs_no_reason() -> None:
    assert native.available() is None


@pytest.mark.parametrize("width", [1024, 1025, 5003, 70_000])
@pytest.mark.parametrize("name", ["sum", "max"])
def test_reductions_of_wide_rows_are_exact(name: str, width: int) -> None:
    """Of nearly equal terms, of which one after the other would be off in the fifth digit."""
    x = np.full((2, width), 0.1, np.float32)
    x[1] = np.random.default_rng(0).random(width)
    writer, out = Writer(), np.empty((2, 1), np.float32)
    writer.store(whole(1, 1), writer.reduce(name, writer.load(whole(0, width))))
    run(Loop((writer.kernel(),), False), [x, out], timetable([2]))
    expected = getattr(x.astype(np.float64), name)(axis=1, keepdims=True)
    np.testing.assert_allclose(out, expected, rtol=1e-6)
