"""Where values live, place by place; and bytes that are foretold from it, exactly.

Distributions are traced from cells of a few lines. What a call holds is measured by going from its
arrays to the buffers that they stand on, each counted once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from both_ways import KERNELS, forget_plans, plans_of
from loop_interpreter import interpreted
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.planner.ir import Value
from tinygrad_rnn.planner.plan import Plan
from tinygrad_rnn.planner.report import bytes_of_loop
from tinygrad_rnn.planner.runtime.pool import Pool, rounded
from tinygrad_rnn.planner.storage import Memory, Storage, held
from tinygrad_rnn.structure import flatten

ROWS = 3


def weight(*shape: int, dtype: str = "float64") -> Tensor:
    rng = np.random.default_rng(sum(shape))
    return tg.tensor(rng.normal(size=shape), dtype=dtype, requires_grad=True)


def plan_of(cell: Any, *widths: int, numpy: bool = True, **options: Any) -> Plan:
    """The plan of a cell of float64, for NumPy or, without, for kernels."""
    states = tuple(weight(ROWS, width) for width in widths)
    x = weight(5, ROWS, 4)
    if numpy:
        forget_plans()
        return tg.plan(cell, x, states if len(states) > 1 else states[0], **options)
    with interpreted():
        return tg.plan(cell, x, states if len(states) > 1 else states[0], **options)


def where(storage: Storage, plan: Plan, name: str) -> list[tuple[str, str, Any]]:
    """The places of the values of a primitive: the kind of memory, when, and which part."""
    order = {v: i for i, v in enumerate(plan.distribution.graph.values())}
    found = [v for v in storage.places if v.name == name]
    found.sort(key=lambda v: order.get(v, -1))
    places = [storage.places[v] for v in found]
    return [(p.memory.kind, p.at, p.key) for p in places]


def columns(start: int, stop: int) -> Any:
    return (slice(None), slice(start, stop))


W, U = weight(4, 4), weight(4, 4)


def elman(x: Tensor, h: Tensor) -> Any:
    h = tg.tanh(x @ W + h @ U)
    return h, h


def test_an_elman_cell_in_numpy() -> None:
    plan = plan_of(elman, 4)
    forward, backward = plan.storage
    assert where(forward, plan, "x") == [("given", "step", None)]
    assert where(forward, plan, "matmul") == [("steps", "step", None), ("scratch", "step", None)]
    assert where(forward, plan, "add") == [("scratch", "step", None)]
    assert where(forward, plan, "tanh") == [("states", "after", None)]
    assert where(forward, plan, "state") == [("states", "before", None)]
    assert where(backward, plan, "state") == [("given", "before", None)]
    assert where(backward, plan, "dstate") == [("latest", "step", None)]
    product, total = [v for v in forward.places if v.name in ("matmul", "add")][1:]
    assert forward.places[product] == forward.places[total]  # nothing else reads the product


def test_an_elman_cell_in_kernels() -> None:
    plan = plan_of(elman, 4, numpy=False)
    forward, backward = plan.storage
    (total,) = forward.in_place
    _, product = next(iter(plan.scheduled.schedules.values())).added[total]
    assert product.name == "matmul" and product not in forward.places  # it is added, not stored
    assert forward.places[total].memory.kind == "steps"
    assert forward.places[total].memory.like.name == "matmul"  # x @ W of all steps
    assert where(forward, plan, "tanh") == [("states", "after", None)]
    (carry,) = plan.distribution.forward.carries
    assert forward.places[carry.after].memory is forward.places[carry.before].memory
    (back,) = plan.distribution.backward.carries  # type: ignore[union-attr]
    assert backward.places[back.after] == backward.places[back.before]
    assert backward.latest[back.before].kind == "latest"
    stored = [v.name for v in backward.places if v.source is None]
    assert "subtract" not in stored  # 1 - h * h never leaves the registers


def test_what_a_product_is_added_to_is_left_in_its_place_by_the_kernel() -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(h * x) * 0.5 + h @ U
        return h, h

    with tg.no_grad():
        plan = plan_of(cell, 4, numpy=False)
    (forward,) = plan.storage
    assert {v.name for v in forward.places} == {"x", "captured", "scalar", "state", "add"}
    assert where(forward, plan, "add") == [("states", "after", None)]


@pytest.mark.parametrize("numpy", [True, False], ids=["numpy", "kernels"])
def test_cotangents_of_gates_are_computed_in_their_columns(numpy: bool) -> None:
    u = weight(4, 8)

    def cell(x: Tensor, h: Tensor) -> Any:
        a, b = tg.split(h @ u, 2, axis=-1)
        h = tg.tanh(a + x) * tg.sigmoid(b)
        return h, h

    plan = plan_of(cell, 4, numpy=numpy)
    assert plan.distribution.backward is not None
    backward = plan.storage[1]
    (whole,) = [v for v in plan.distribution.backward.values if v.name == "concat"]
    memory = backward.places[whole].memory
    assert memory.kind == "steps"  # the gradient of u reads all steps
    keys = [p.key for v, p in backward.places.items() if p.memory is memory and v is not whole]
    assert sorted(keys, key=str) == [columns(0, 4), columns(4, 8)]
    for part, key in zip(whole.operands, (columns(0, 4), columns(4, 8)), strict=True):
        assert backward.is_part(part, whole, key)
        assert not backward.is_part(part, whole, columns(1, 5))


def test_scratch_is_used_again_once_nothing_reads_it() -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        a = tg.tanh(h + x)
        b = tg.sin(a)  # over a, which nothing reads later
        c = tg.cos(b)  # not over b, which d reads
        d = tg.maximum(c, b)
        return d, d

    plan = plan_of(cell, 4)
    with tg.no_grad():
        plan = plan_of(cell, 4)
    (forward,) = plan.storage
    memory = {v.name: p.memory for v, p in forward.places.items() if v.source is None}
    assert memory["add"] is memory["tanh"] is memory["sin"] is not memory["cos"]
    assert memory["maximum"].kind == "states"


def test_what_others_read_is_kept_of_all_steps_and_nothing_else() -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        g = tg.sin(h * x)
        h = tg.tanh(g + h)
        return g, h

    with tg.no_grad():
        plan = plan_of(cell, 4)
    (forward,) = plan.storage
    assert where(forward, plan, "sin") == [("steps", "step", None)]
    assert where(forward, plan, "multiply") == [("scratch", "step", None)]
    assert where(forward, plan, "tanh") == [("latest", "step", None)] or (
        forward.latest and where(forward, plan, "tanh")[0][0] == "scratch"
    )


def test_what_writes_into_no_memory_has_its_own() -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        y = tg.cumulative_sum(x, axis=-1)  # of all steps
        h = tg.tanh(tg.cumulative_sum(h, axis=-1) + y)
        return h, h

    with tg.no_grad():
        plan = plan_of(cell, 4)
    kinds = sorted(kind for kind, _, _ in where(plan.storage[0], plan, "cumulative_sum"))
    assert kinds == ["local", "result"]


def test_a_state_that_goes_late_keeps_the_latest_and_what_others_read() -> None:
    plan = plan_of(elman, 4, lengths=[5, 2, 0])
    assert plan.ragged and plan.distribution.backward is not None
    _, backward = plan.storage
    (carry,) = plan.distribution.backward.carries
    assert backward.latest[carry.before].kind == "latest"
    assert all(m.kind != "states" for m in backward.memories)


def test_a_state_that_recurs_nowhere_is_of_all_steps_and_views_have_no_place() -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        return tg.sin(h) + tg.reshape(x, (-1, 2, 2))[:, :, 1], tg.tanh(x)[:, :2] * 2

    plan = plan_of(cell, 2)
    (carry,) = plan.distribution.forward.carries
    assert not any(stage.loop for stage in plan.distribution.forward.stages)
    places = plan.storage[0].places
    assert (places[carry.before].memory.kind, places[carry.before].at) == ("states", "before")
    assert places[carry.after] == places[carry.before]._replace(at="after")
    for part, storage in zip(plan.distribution.passes, plan.storage, strict=True):
        assert all(owns(v) for v in storage.places)
        assert any(not owns(v) for stage in part.stages for v in stage.values)


def test_parts_of_a_concat_are_computed_in_it_if_each_is_one_of_its_own() -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        twice, own, other = tg.sin(x), tg.cos(x), tg.tanh(x)
        y = tg.concat((twice, own, tg.erf(x), twice), axis=-1)
        z = tg.concat((x, other, own), axis=-1)  # own has its place already
        return (y, z), h * 0.5

    with tg.no_grad():
        plan = plan_of(cell, 4)
    (storage,) = plan.storage
    assert where(storage, plan, "sin") == [("steps", "step", None)]
    assert where(storage, plan, "cos") == [("steps", "step", columns(4, 8))]
    assert where(storage, plan, "tanh") == [("steps", "step", columns(4, 8))]
    assert where(storage, plan, "erf") == [("result", "step", None)]
    y, z = (value for value in storage.places if value.name == "concat")
    assert storage.places[plan_value(plan, "cos")].memory is storage.places[y].memory
    assert storage.places[plan_value(plan, "tanh")].memory is storage.places[z].memory


def test_a_part_that_others_read_is_kept_of_all_steps_and_copied_into_the_concat() -> None:
    v = weight(8, 4)

    def cell(x: Tensor, h: Tensor) -> Any:
        t = tg.tanh(h + x)
        return t, tg.concat((t, tg.sin(x * h)), axis=-1) @ v

    with tg.no_grad():
        plan = plan_of(cell, 4, numpy=False)
    (storage,) = plan.storage
    assert where(storage, plan, "tanh") == [("steps", "step", None)]
    assert where(storage, plan, "sin") == [("scratch", "step", columns(4, 8))]
    (copy,) = storage.copies[plan_value(plan, "tanh")]
    assert copy == storage.places[plan_value(plan, "concat")]._replace(key=columns(0, 4))


def plan_value(plan: Plan, name: str) -> Value:
    (value,) = [v for v in plan.distribution.graph.values() if v.name == name]
    return value


def test_every_value_of_a_pass_has_a_place_or_lives_in_a_register() -> None:
    for numpy in (True, False):
        plan = plan_of(nn_cell(), 4, 4, numpy=numpy)
        for part, storage in zip(plan.distribution.passes, plan.storage, strict=True):
            assert all(v in storage.places for v in part.needs if v.name != "dstate")
            computed = [v for stage in part.stages for v in stage.values]
            assert all(v in storage.places or not owns(v) for v in computed) == numpy


def nn_cell() -> Any:
    tg.set_default_dtype("float64")
    try:
        return nn.LSTMCell(4, 4)
    finally:
        tg.set_default_dtype("float32")


def owns(value: Value) -> bool:
    return value.name not in ("reshape", "permute_dims", "broadcast_to", "getitem")


# Bytes.


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("steps", rounded(5 * 3 * 4 * 8)),
        ("states", rounded((5 * 3 + 3) * 4 * 8)),
        ("scratch", rounded(3 * 4 * 8)),
        ("latest", 3 * 4 * 8),
        ("result", 5 * 3 * 4 * 8),
    ],
)
def test_bytes_of_a_memory(kind: Any, size: int) -> None:
    plan = plan_of(elman, 4)
    like = next(v for v in plan.distribution.forward.values if v.name == "tanh")
    assert Memory(kind, like).bytes(plan.extents[like], 5, 3, 3) == size


class Separate(Pool):
    """Every array on a buffer of its own, rounded as ever."""

    def empty(self, shape: Any, dtype: Any = np.float32) -> Any:
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return np.ndarray(shape, dtype, np.empty(rounded(size), np.uint8))


def buffer(array: Any) -> Any:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def measured(outputs: Any, given: list[Tensor]) -> int:
    """The bytes of the buffers that a call holds, but for those of its arguments."""
    node: Any = flatten(outputs)[0][0]._node
    while node.parameters is None:
        (node,) = node.parents
    drawn, kept = node.parameters["call"].held
    buffers = {id(b): b.nbytes for b in map(buffer, [*drawn, *kept])}
    own = {id(buffer(x._array)) for x in given}
    return sum(size for key, size in buffers.items() if key not in own)


def unequal(dtype: str) -> Any:
    """States of 3 and 5 columns, and one that is added up."""
    w, u, v = weight(4, 5, dtype=dtype), weight(3, 5, dtype=dtype), weight(5, 3, dtype=dtype)

    def cell(x: Tensor, state: Any) -> Any:
        a, b, total = state
        b = tg.tanh(x @ w + a @ u) * b
        a = tg.sigmoid(b @ v) + a
        return a, (a, b, total + tg.sum(b, axis=-1, keepdims=True))

    return cell, [3, 5, 1]


def lstm(dtype: str) -> Any:
    tg.set_default_dtype(dtype)
    try:
        return nn.LSTMCell(4, 6), [6, 6]
    finally:
        tg.set_default_dtype("float32")


def comparing(dtype: str) -> Any:
    """What is held is of booleans, too, and of NumPy's own."""
    w = weight(4, 3, dtype=dtype)

    def cell(x: Tensor, h: Tensor) -> Any:
        y = x @ w
        h = tg.where(tg.isfinite(y) & (y > 0), tg.erf(h), tg.tanh(h) * y)
        return h, h

    return cell, [3]


@pytest.mark.parametrize("fused", KERNELS)
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
@pytest.mark.parametrize("make", [unequal, lstm, comparing])
@pytest.mark.parametrize("options", [{}, {"reverse": True}], ids=["forwards", "reverse"])
def test_bytes_held_are_exactly_those_foretold(
    make: Any, steps: int, fused: bool, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = "float32" if fused else "float64"
    monkeypatch.setattr(Pool, "empty", Separate.empty)
    with plans_of(fused):
        cell, widths = make(dtype)
        states = tuple(weight(ROWS, width, dtype=dtype) for width in widths)
        x = weight(steps, ROWS, 4, dtype=dtype)
        given = states if len(states) > 1 else states[0]
        outputs = tg.unroll(cell, x, given, mode="planned", **options)
        plan = tg.plan(cell, x, given, **options)
        assert plan.held_bytes(steps, ROWS) == measured(outputs, [x, *states]) > 0


@pytest.mark.parametrize("lengths", [[1, 0, 0], [3, 1, 2], [5, 5, 4]])
def test_bytes_held_of_ragged_rows(lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "empty", Separate.empty)
    cell, widths = unequal("float64")
    states = tuple(weight(ROWS, width) for width in widths)
    x = weight(max(lengths), ROWS, 4)
    forget_plans()
    outputs = tg.unroll(cell, x, states, lengths=lengths, mode="planned")
    plan = tg.plan(cell, x, states, lengths=lengths)
    layout = 2 * 8 * sum(lengths)  # which row and which step each is
    foretold = plan.held_bytes(sum(lengths), 1) - layout
    assert foretold == measured(outputs, [x, *states])


def test_what_is_held_is_what_the_backward_pass_reads() -> None:
    plan = plan_of(elman, 4)
    (memory,) = held(plan.distribution, plan.storage[0])
    assert memory.kind == "states"
    with tg.no_grad():
        plan = plan_of(elman, 4)
    assert held(plan.distribution, plan.storage[0]) == []


def test_what_a_segment_takes_is_never_less_than_its_buffers() -> None:
    for numpy in (True, False):
        plan = plan_of(nn_cell(), 4, 4, numpy=numpy)
        each, besides, start = bytes_of_loop(plan, ROWS)
        assert start == 2 * ROWS * 4 * 8
        for steps in (1, 2, 3, 10, 100, 1000):
            memories = [m for storage in plan.storage for m in storage.memories]
            taken = sum(m.bytes(plan.extents[m.like], steps, ROWS, ROWS) for m in memories)
            assert taken <= each * steps + besides <= 1.13 * taken + 64 * len(memories)
