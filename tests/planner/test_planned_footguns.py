"""What goes wrong, silently, where one run is recorded and replayed: right here, or refused.

Every test is named after the surprise. The subtle point of most is that the plan is already there:
so each warms it up with one call, changes something, and compares the next call with the loop.
"""

from __future__ import annotations

import gc
import threading
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from both_ways import Case, Counted, cotangents, forget_plans, leaf, literal, planned
from tinygrad_rnn import Tensor, nn

Array = np.ndarray[Any, Any]

STEPS = 5


def rng_of(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def inputs(steps: int = STEPS, rows: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """An input and a state, both of width 4."""
    rng = rng_of(seed)
    return leaf(rng, steps, rows, 4), leaf(rng, rows, 4)


def tanh_cell(u: Tensor) -> Callable[..., Any]:
    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x + h @ u)
        return h, h

    return cell


def assert_right(
    cell: Callable[..., Any], *captured: Any, xs: Any = None, state: Any = None
) -> None:
    """Planned, the cell gives what it gives literally, and so do its gradients."""
    given = inputs() if xs is None else (xs, state)
    case = Case(cell, *given, list(captured))
    expected, found = case.results(literal), case.results(planned)
    for name, array in expected.items():
        assert_allclose(found[name], array, rtol=1e-10, atol=1e-12, err_msg=name)


def agree(found: dict[Any, Any]) -> None:
    """What ``planned`` and ``literal`` found is the same to rounding."""
    for a, b in zip(found[planned], found[literal], strict=True):
        assert_allclose(a, b, rtol=1e-10, atol=1e-12)


# Frozen values.


def test_frozen_python_constants() -> None:
    for scale in (1, 0.5, 2.0, -1, True, np.float64(0.3)):
        assert_right(lambda x, h, scale=scale: (tg.tanh(x * scale + h),) * 2)


def test_a_constant_that_becomes_zero_or_one() -> None:
    """What a constant is folded by is its place, not the number that it was when first seen."""
    for scale in (2.0, 0.0, 1.0, 3.0):
        assert_right(lambda x, h, scale=scale: (tg.tanh(x * scale + h * (1 - scale)),) * 2)


def test_equal_constants_that_differ_later() -> None:
    def cell_of(a: float, b: float) -> Any:
        return lambda x, h: (tg.tanh(x * a + h * b) - tg.tanh(x * b + h * a),) * 2

    assert_right(cell_of(0.5, 0.5))
    assert_right(cell_of(0.5, 0.25))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64"])
@pytest.mark.parametrize("number", [258, -129, 2**40, 2**63, 2**70])
def test_an_integer_beyond_those_of_a_dtype(dtype: str, number: int) -> None:
    def cell(x: Any, h: Any) -> tuple[Any, Any]:
        return (x == number, x > number, number <= x, x / number), h

    x, h = tg.tensor(np.array([[1, 2], [3, 127]], dtype)), tg.zeros((2,))
    found, expected = (tg.unroll(cell, x, h, mode=mode)[0] for mode in ("planned", "literal"))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert_array_equal(a.numpy(), b.numpy())


def test_a_closure_over_a_loop_variable() -> None:
    cells = []
    for scale in (0.5, 0.25, 0.125):
        cells.append(lambda x, h: (tg.tanh(x * scale + h),) * 2)  # noqa: B023
    for place, cell in enumerate(cells):
        scale = (1.0, 2.0, 3.0)[place]
        assert_right(cell)


def test_changed_python_attributes() -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            self.u = nn.Parameter(tg.ones((4, 4), "float64") * 0.2)
            self.slope, self.activation, self.residual = 0.3, tg.tanh, False

        def forward(self, x: Tensor, h: Tensor) -> Any:
            new = self.activation(x * self.slope + h @ self.u)
            h = new + h if self.residual else new
            return h, h

    cell = Cell()
    assert_right(cell, cell.u)
    cell.slope = 0.6
    assert_right(cell, cell.u)
    cell.activation = tg.sigmoid
    assert_right(cell, cell.u)
    cell.residual = True
    assert_right(cell, cell.u)
    cell.u = nn.Parameter(tg.ones((4, 4), "float64") * 0.1)
    assert_right(cell, cell.u)


def test_the_train_eval_switch() -> None:
    cell = nn.Zoneout(nn.RNNCell(4, 4), 0.5)
    x = tg.tensor(rng_of().normal(size=(STEPS, 3, 4)), dtype="float32")
    for training in (True, False, True):
        cell.train(training)
        tg.manual_seed(1)
        expected = literal(cell, x)[0].numpy()
        tg.manual_seed(1)
        assert_allclose(planned(cell, x)[0].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_an_annealed_rate_of_dropout() -> None:
    for p in (0.5, 0.2, 0.0, 1.0):
        assert_right(lambda x, h, p=p: (tg.dropout(x, p) + h * 0.5,) * 2)


# Arrays that change.


def test_rebound_data_of_a_captured_parameter() -> None:
    u = leaf(rng_of(), 4, 4)
    cell = tanh_cell(u)
    for _ in range(3):
        assert_right(cell, u)
        u.data = u.data * 0.5


def test_memory_shared_by_asarray_that_is_written_to() -> None:
    memory = rng_of().normal(size=(4, 4))
    u = tg.asarray(memory)
    cell = tanh_cell(u)
    for _ in range(3):
        assert_right(cell)
        memory *= 0.5


def test_an_optimiser_between_calls() -> None:
    cell = nn.LSTMCell(4, 4)
    x = tg.tensor(rng_of().normal(size=(STEPS, 3, 4)), dtype="float32")
    losses: dict[Any, list[float]] = {planned: [], literal: []}
    for run, own in losses.items():
        cell.load_state_dict({k: tg.ones(p.shape) * 0.1 for k, p in cell.state_dict().items()})
        optimiser = tg.optim.Adam(cell.parameters(), lr=0.1)
        for _ in range(10):
            loss = tg.square(run(cell, x)[0] - 0.5).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            own.append(loss.item())
    assert_allclose(losses[planned], losses[literal], rtol=1e-3)
    assert losses[planned][-1] < 0.7 * losses[planned][0]


def test_a_weight_rebound_between_forward_and_backward() -> None:
    """The gradient is that of the value which was used."""
    u, (x, h) = leaf(rng_of(), 4, 4), inputs()
    found = {}
    for run in (literal, planned, planned):
        before = u.data
        y, _ = run(tanh_cell(u), x, h)
        u.data = u.data * 3
        found[run] = [g.numpy().copy() for g in tg.grad(tg.square(y).sum(), [u, x, h])]
        u.data = before
    agree(found)


def test_a_weight_rebound_between_forward_and_a_second_derivative() -> None:
    u, (x, h) = leaf(rng_of(), 4, 4), inputs()
    found = {}
    for run in (literal, planned):
        before = u.data
        y, _ = run(tanh_cell(u), x, h)
        u.data = u.data * 3
        g = tg.grad(tg.square(y).sum(), x, create_graph=True)
        u.data = u.data * 3
        found[run] = [g.numpy().copy() for g in tg.grad(tg.square(g).sum(), [u, x, h])]
        u.data = before
    agree(found)


def test_the_dtype_of_a_parameter_changes() -> None:
    u = leaf(rng_of(), 4, 4)
    for dtype in ("float64", "float32", "float64"):
        x, h = (t.detach().astype(dtype) for t in inputs())
        own = tg.tensor(u.numpy(), dtype=dtype, requires_grad=True)
        y, _ = planned(tanh_cell(own), x, h)
        assert y.dtype == np.dtype(dtype)
        expected = literal(tanh_cell(own), x, h)[0]
        assert_allclose(y.numpy(), expected.numpy(), rtol=1e-5 if dtype == "float32" else 1e-12)


def test_a_parameter_of_another_shape() -> None:
    for width in (4, 2, 1):
        u = leaf(rng_of(), 4, width)
        assert_right(lambda x, h, u=u: (h @ u, tg.tanh(x + h)), u)


def test_variable_numbers_of_steps_and_rows() -> None:
    u = leaf(rng_of(), 4, 4)
    for steps, rows in [(5, 3), (2, 3), (9, 3), (1, 3), (5, 1), (5, 7), (5, 3), (1, 1), (64, 2)]:
        x, h = inputs(steps, rows)
        assert_right(tanh_cell(u), u, xs=x, state=h)


def test_the_same_shapes_by_other_names() -> None:
    """What is captured may come in another order, or twice."""
    a, b = leaf(rng_of(1), 4, 4), leaf(rng_of(2), 4, 4)

    def cell_of(a: Tensor, b: Tensor) -> Any:
        return lambda x, h: (h @ a, tg.tanh(x + h @ b))

    assert_right(cell_of(a, b), a, b)
    assert_right(cell_of(b, a), a, b)
    assert_right(cell_of(a, a), a)
    assert_right(cell_of(a, b), a, b)


def test_a_captured_tensor_that_is_also_the_input() -> None:
    x, h = inputs()
    u = leaf(rng_of(), 4, 4)
    assert_right(lambda x_t, h: (h + x[0], tg.tanh(x_t @ u + h)), u, xs=x * 1.0, state=h)


# Buffers that are used again.


def assert_kept(kept: list[Any], make: Callable[[int], list[Any]]) -> None:
    """What an early call returned is as it was, after others with the same plan."""
    copies = [np.array(a, copy=True) for a in kept]
    for seed in range(1, 5):
        make(seed)
    for a, copy in zip(kept, copies, strict=True):
        assert_array_equal(np.asarray(a), copy)


def returned(seed: int) -> list[Tensor]:
    """Outputs, final state and gradients of one call."""
    u = leaf(rng_of(8), 4, 4)
    x, h = inputs(seed=seed)
    y, last = planned(tanh_cell(u), x, h)
    gradients = tg.grad(tg.square(y).sum() + last.sum(), [x, h, u])
    return [y.detach(), last.detach(), *gradients]


def test_returned_tensors_overwritten_by_a_later_call() -> None:
    returned(0)
    assert_kept(returned(0), returned)


def test_returned_views_overwritten_by_a_later_call() -> None:
    """The Tensors themselves are gone, only what was made of them is left."""
    returned(0)
    kept = [t.numpy() for t in returned(0)]
    kept += [t[0].numpy() for t in returned(0)] + [t.T.numpy() for t in returned(0)]
    gc.collect()
    assert_kept(kept, returned)


def test_memory_handed_out_by_dlpack_overwritten_by_a_later_call() -> None:
    returned(0)
    kept = [np.from_dlpack(t) for t in returned(0)]
    kept += [t.data for t in returned(0)]
    gc.collect()
    assert_kept(kept, returned)


def test_outputs_of_a_call_without_grad_overwritten_by_a_later_call() -> None:
    u = leaf(rng_of(8), 4, 4)

    def make(seed: int) -> list[Tensor]:
        with tg.no_grad():
            return list(planned(tanh_cell(u), *inputs(seed=seed)))

    make(0)
    assert_kept(make(0), make)


def test_a_state_fed_back_is_overwritten_by_its_own_call() -> None:
    """The final state of one call is the initial one of the next, for long."""
    u, found = leaf(rng_of(8), 4, 4), {}
    for run in (literal, planned):
        x, h = inputs()
        outputs = []
        for _ in range(6):
            y, h = run(tanh_cell(u), x.detach(), h.detach())
            outputs.append(y)
        found[run] = [y.numpy() for y in outputs]
    agree(found)


def test_a_graph_through_several_calls() -> None:
    """The state is carried with its graph: each call's residuals are held until the end."""
    u, found = leaf(rng_of(8), 4, 4), {}
    for run in (literal, planned):
        x, h = inputs()
        loss, start = tg.tensor(0.0, dtype="float64"), h
        for _ in range(4):
            y, h = run(tanh_cell(u), x, h)
            loss = loss + tg.square(y).sum()
        found[run] = [g.numpy() for g in tg.grad(loss, [u, x, start])]
    agree(found)


def test_gradients_of_a_loop_used_by_an_outer_graph() -> None:
    """The outputs of one loop are the inputs of the next, of the same plan."""
    u, found = leaf(rng_of(8), 4, 4), {}
    for run in (literal, planned):
        x, h = inputs()
        y, _ = run(tanh_cell(u), x, h)
        z, _ = run(tanh_cell(u), y, h)
        found[run] = [g.numpy() for g in tg.grad(tg.square(z).sum(), [u, x, h])]
    agree(found)


def test_two_forward_calls_in_flight_before_either_backward() -> None:
    u = leaf(rng_of(8), 4, 4)
    calls = []
    for seed in range(3):
        x, h = inputs(seed=seed)
        calls.append((x, h, planned(tanh_cell(u), x, h)))
    for order in ([0, 2, 1], [1, 0, 2]):
        for seed in order:
            x, h, (y, last) = calls[seed]
            ends = [y, last]
            found = tg.grad(ends, [x, h, u], cotangents(ends), retain_graph=True)
            ends = list(literal(tanh_cell(u), x, h))
            expected = tg.grad(ends, [x, h, u], cotangents(ends))
            for a, b in zip(found, expected, strict=True):
                assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-12)


def test_a_forward_call_whose_graph_is_dropped_in_between() -> None:
    u = leaf(rng_of(8), 4, 4)
    x, h = inputs()
    expected = tg.grad(tg.square(literal(tanh_cell(u), x, h)[0]).sum(), u).numpy()
    kept = planned(tanh_cell(u), x, h)
    for seed in range(4):
        planned(tanh_cell(u), *inputs(seed=seed))
    found = tg.grad(tg.square(kept[0]).sum(), u).numpy()
    assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_retain_graph_twice() -> None:
    u, (x, h) = leaf(rng_of(8), 4, 4), inputs()
    y, last = planned(tanh_cell(u), x, h)
    first = tg.grad([y, last], [x, h, u], cotangents([y, last]), retain_graph=True)
    copies = [g.numpy().copy() for g in first]
    planned(tanh_cell(u), *inputs(seed=1))[0].sum().backward()
    u.grad = None
    second = tg.grad([y, last], [x, h, u], cotangents([y, last], seed=1), retain_graph=True)
    third = tg.grad([y, last], [x, h, u], cotangents([y, last]))
    for copy, a, b, c in zip(copies, first, second, third, strict=True):
        assert_array_equal(a.numpy(), copy)
        assert_allclose(c.numpy(), copy, rtol=1e-12)
        assert not np.allclose(b.numpy(), copy)


def test_a_second_backward_without_retain_graph() -> None:
    u, (x, h) = leaf(rng_of(8), 4, 4), inputs()
    y, _ = planned(tanh_cell(u), x, h)
    y.sum().backward()
    assert np.isfinite(y.numpy()).all()  # its own value stays readable
    with pytest.raises(tg.ReleasedGraphError, match="detach"):
        y.sum().backward()


def test_outputs_that_share_memory_with_what_was_given() -> None:
    """A cell that returns its input, a state or what it captures returns no buffer of the plan."""
    c = leaf(rng_of(), 3, 4)

    def cell(x: Tensor, state: Any) -> Any:
        h, fixed = state
        return (x, h, c, fixed), (tg.tanh(h + x), fixed)

    x, h = inputs()
    fixed = leaf(rng_of(3), 3, 4)
    assert_right(cell, c, xs=x, state=(h, fixed))
    (y, _, constant, _), (_, last) = planned(cell, x, (h, fixed))
    copies = [t.numpy().copy() for t in (y, constant, last)]
    planned(cell, x * 2.0, (h * 2.0, fixed * 2.0))
    for a, copy in zip((y, constant, last), copies, strict=True):
        assert_array_equal(a.numpy(), copy)


def test_a_returned_array_written_to() -> None:
    """It is read-only, as ever; so nobody writes into a buffer that a graph needs."""
    y, last = planned(tanh_cell(leaf(rng_of(), 4, 4)), *inputs())
    for t in (y, last):
        with pytest.raises(ValueError, match="read-only"):
            t.data[0] = 0.0


# Recording switched on and off.


def test_requires_grad_switched_between_calls() -> None:
    u, (x, h) = leaf(rng_of(8), 4, 4), inputs()
    cell = tanh_cell(u)
    for wanted in ([u, x, h], [u], [x], [], [h], [u, x, h]):
        for t in (u, x, h):
            t.requires_grad = any(t is one for one in wanted)
        assert_right(cell, u, xs=x, state=h)
        assert planned(cell, x, h)[0].requires_grad == bool(wanted)


def test_no_grad_then_grad() -> None:
    u, (x, h) = leaf(rng_of(8), 4, 4), inputs()
    with tg.no_grad():
        first, _ = planned(tanh_cell(u), x, h)
    assert not first.requires_grad
    assert_right(tanh_cell(u), u, xs=x, state=h)
    with tg.no_grad():
        again, _ = planned(tanh_cell(u), x, h)
    assert_array_equal(first.numpy(), again.numpy())


# Impurity.


def test_a_step_counter_in_python() -> None:
    """The second trace sees another number: the loop runs, and says why."""
    count = 0

    def cell(x: Tensor, h: Tensor) -> Any:
        nonlocal count
        count += 1
        h = tg.tanh(x * count + h)
        return h, h

    forget_plans()
    x, h = inputs()
    expected = []
    state, total = h.numpy(), 0
    with pytest.raises(tg.PlanError, match=r"again|twice|second|differ|changes count"):
        planned(cell, x, h)
    start = count
    y, _ = tg.unroll(cell, x, h)
    offset = count - STEPS
    assert offset >= start
    for t in range(STEPS):
        total = offset + t + 1
        state = np.tanh(x.numpy()[t] * total + state)
        expected.append(state)
    assert_allclose(y.numpy(), expected, rtol=1e-12)


def test_a_step_counter_in_a_structure_that_is_known() -> None:
    """A pure cell of the same structure has a plan already, which is none for this one."""
    count = 0

    def cell(x: Tensor, h: Tensor) -> Any:
        nonlocal count
        count += 1
        h = tg.tanh(x * count + h)
        return h, h

    assert_right(lambda x, h: (tg.tanh(x * 3 + h),) * 2)
    x, h = inputs()
    y, _ = tg.unroll(cell, x * 0.0 + 0.01, h * 0.0)
    growth = np.diff(np.arctanh(y.numpy()[:, 0, 0]) - np.append(0.0, y.numpy()[:-1, 0, 0]))
    assert_allclose(growth, 0.01, rtol=1e-6)


def test_a_step_counter_that_chooses_an_operation() -> None:
    calls: list[int] = []

    def cell(x: Tensor, h: Tensor) -> Any:
        calls.append(1)
        h = tg.tanh(x + h) if len(calls) % 2 else tg.sin(x - h)
        return h, h

    forget_plans()
    with pytest.raises(tg.PlanError):
        planned(cell, *inputs())


def test_randomness_from_numpy_inside_the_cell() -> None:
    rng = rng_of()

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x + h * rng.uniform())
        return h, h

    forget_plans()
    with pytest.raises(tg.PlanError):
        planned(cell, *inputs())
    x, h = inputs()
    state = rng.bit_generator.state
    y, _ = tg.unroll(cell, x * 0.0, h)
    ratios = np.arctanh(y.numpy()[1:, 0, 0]) / y.numpy()[:-1, 0, 0]
    assert len(set(np.round(ratios, 12))) == STEPS - 1  # each step has drawn for itself
    assert rng.bit_generator.state != state


def test_an_array_drawn_by_numpy_inside_the_cell() -> None:
    rng = rng_of()

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x + h * rng.uniform(size=4))
        return h, h

    forget_plans()
    with pytest.raises(tg.PlanError):
        planned(cell, *inputs())


def test_a_list_that_the_cell_appends_to() -> None:
    """What is traced is not a value: a plan that let it escape would hand out rubbish."""
    seen: list[Tensor] = []

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x + h)
        seen.append(h)
        return h, h

    forget_plans()
    y, _ = tg.unroll(cell, *inputs())
    if len(seen) > STEPS:  # literally, after it was traced
        seen = seen[-STEPS:]
    if len(seen) == STEPS:
        assert_array_equal(tg.stack(seen).numpy(), y.numpy())
    else:
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            seen[0].numpy()


def test_a_value_kept_from_the_step_before_in_python() -> None:
    """State that hides in the cell instead of being carried."""

    class Cell:
        def __init__(self) -> None:
            self.before: Tensor | None = None

        def __call__(self, x: Tensor, h: Tensor) -> Any:
            h = tg.tanh(x + h) if self.before is None else tg.tanh(x + h + self.before)
            self.before = h
            return h, h

    forget_plans()
    with pytest.raises(tg.PlanError, match="trace"):
        planned(Cell(), *inputs())
    for found, expected in zip(
        tg.unroll(Cell(), *inputs()), literal(Cell(), *inputs()), strict=True
    ):
        np.testing.assert_array_equal(found.numpy(), expected.numpy())


# The cache.


def test_an_unbounded_cache() -> None:
    forget_plans()
    cache = tg.plan_cache()
    bound, cache.bound = cache.bound, 4
    try:
        for width in range(1, 9):
            x, h = leaf(rng_of(), 3, 2, width), leaf(rng_of(1), 2, width)
            assert_right(lambda x, h: (tg.tanh(x + h),) * 2, xs=x, state=h)
            assert len(cache) <= 4
        misses = cache.misses
        planned(lambda x, h: (tg.tanh(x + h),) * 2, x, h)
        assert cache.misses == misses  # the last ones are still there
        x, h = leaf(rng_of(), 3, 2, 1), leaf(rng_of(1), 2, 1)
        assert_right(lambda x, h: (tg.tanh(x + h),) * 2, xs=x, state=h)
        assert cache.misses > misses  # the first ones are not
        cache.bound = 1
        planned(lambda x, h: (tg.tanh(x + h),) * 2, x, h)
        assert len(cache) <= 1
    finally:
        cache.bound = bound


def test_a_plan_evicted_while_its_graph_is_in_flight() -> None:
    u, (x, h) = leaf(rng_of(8), 4, 4), inputs()
    y, last = planned(tanh_cell(u), x, h)
    forget_plans()
    planned(tanh_cell(u), *inputs(seed=1))[0].sum().backward()
    u.grad = None
    found = tg.grad([y, last], [x, h, u], cotangents([y, last]))
    ends = list(literal(tanh_cell(u), x, h))
    for a, b in zip(found, tg.grad(ends, [x, h, u], cotangents(ends)), strict=True):
        assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-12)


def test_a_cache_that_keeps_arrays_alive() -> None:
    """It is keyed by structure and holds no weights, inputs or cells."""
    forget_plans()
    u, (x, h) = leaf(rng_of(), 4, 4), inputs()
    cell = tanh_cell(u)
    planned(cell, x, h)[0].sum().backward()
    dead = [weakref.ref(t) for t in (u, x, h, cell)]
    del u, x, h, cell
    gc.collect()
    assert [ref() for ref in dead] == [None] * 4


def test_structures_that_look_alike() -> None:
    """Each pair differs in one thing that a careless key would leave out."""
    c = leaf(rng_of(), 4, 4)
    pairs: list[tuple[Any, Any]] = [
        (lambda x, h: (tg.sum(h, axis=0), x), lambda x, h: (tg.sum(h, axis=1), x)),
        (lambda x, h: (h[:, :2], x), lambda x, h: (h[:, 2:], x)),
        (lambda x, h: (h[:, [0, 1]], x), lambda x, h: (h[:, [1, 0]], x)),
        (lambda x, h: (x - h, x), lambda x, h: (h - x, x)),
        (lambda x, h: (x, x + h), lambda x, h: (h, x + h)),
        (lambda x, h: (h @ c, x), lambda x, h: (h @ c.T, x)),
        (lambda x, h: ((x, h), x), lambda x, h: ([x, h], x)),
        (lambda x, h: ({"a": x, "b": h}, x), lambda x, h: ({"b": x, "a": h}, x)),
        (lambda x, h: (tg.roll(h, 1, axis=1), x), lambda x, h: (tg.roll(h, 2, axis=1), x)),
        (lambda x, h: (h.astype("float32"), x), lambda x, h: (h.astype("int32"), x)),
        (lambda x, h: (tg.clip(h, 0.0, None), x), lambda x, h: (tg.clip(h, None, 0.0), x)),
        (lambda x, h: (h**2, x), lambda x, h: (h**3, x)),
        (lambda x, h: (h * 2, x), lambda x, h: (h * 2.5, x)),
    ]
    x, h = leaf(rng_of(), STEPS, 4, 4), leaf(rng_of(1), 4, 4)
    forget_plans()
    for pair in pairs:
        for cell in (*pair, *pair):
            case = Case(cell, x, h, [c])
            expected, found = case.results(literal), case.results(planned)
            assert list(found) == list(expected)
            for name, array in expected.items():
                assert found[name].dtype == array.dtype
                assert_allclose(found[name], array, rtol=1e-10, atol=1e-12, err_msg=name)
            outputs = [run(cell, x, h)[0] for run in (planned, literal)]
            assert type(outputs[0]) is type(outputs[1])
            if isinstance(outputs[0], dict):
                assert list(outputs[0]) == list(outputs[1])


# Threads.


@pytest.mark.parametrize(("dtype", "rows"), [("float64", 3), ("float32", 3), ("float32", 64)])
def test_two_threads_at_once(dtype: str, rows: int) -> None:
    """The same plan, each with numbers of its own; also a plan that both prepare."""
    forget_plans()
    # Small weights: larger ones amplify rounding from step to step.
    u = tg.tensor(rng_of(8).normal(size=(4, 4)) * 0.3, dtype=dtype, requires_grad=True)
    tolerance = {"float64": 1e-11, "float32": 1e-5}[dtype]
    barrier = threading.Barrier(4)

    def gradients(run: Any, seed: int) -> list[Array]:
        rng = rng_of(seed)
        x, h = leaf(rng, 20, rows, 4, dtype=dtype), leaf(rng, rows, 4, dtype=dtype)
        y, last = run(tanh_cell(u), x, h)
        found = tg.grad([y, last], [x, h, u], cotangents([y, last]))
        return [t.numpy().copy() for t in (y, *found)]

    def work(seed: int) -> list[list[Array]]:
        barrier.wait()
        return [gradients(planned, 10 * seed + i) for i in range(10)]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(4)))
    for seed, own in enumerate(results):
        for i, arrays in enumerate(own):
            for a, b in zip(arrays, gradients(literal, 10 * seed + i), strict=True):
                assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def test_forward_in_one_thread_and_backward_in_another() -> None:
    u, (x, h) = leaf(rng_of(8), 4, 4), inputs()
    y, _ = planned(tanh_cell(u), x, h)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: tg.grad(tg.square(y).sum(), u).numpy()).result()
        pool.submit(lambda: planned(tanh_cell(u), x, h)).result()
    expected = tg.grad(tg.square(literal(tanh_cell(u), x, h)[0]).sum(), u).numpy()
    assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


# Errors.


def test_an_exception_inside_the_cell() -> None:
    u, (x, h) = leaf(rng_of(8), 4, 4), inputs()
    broken = True

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x + h @ u)
        if broken:
            h = h + tg.zeros(7)  # the user's line
        return h, h

    for run in (planned, tg.unroll):
        with pytest.raises(ValueError, match=r"add\(.*\(7,\)") as caught:
            run(cell, x, h)
        text = "".join(traceback.format_exception(caught.value))
        assert "# the user's line" in text and __file__ in text
    broken = False
    assert_right(cell, u, xs=x, state=h)
    broken = True
    with pytest.raises(ValueError, match=r"\(7,\)"):
        planned(cell, x, h)
    broken = False
    assert_right(cell, u, xs=x, state=h)


def test_an_exception_in_a_cell_under_auto_calls_it_no_more_than_needed() -> None:
    """What the cell raises is raised, not taken for a reason to run the loop."""

    def cell(x: Tensor, h: Tensor) -> Any:
        raise KeyError("mine")

    counted = Counted(cell)
    with pytest.raises(KeyError, match="mine"):
        tg.unroll(counted, *inputs())
    assert counted.calls <= 2


def test_an_error_that_only_values_show() -> None:
    """An index out of range: the trace has no values, the run has."""
    table = leaf(rng_of(), 3, 4)
    tokens = tg.tensor([[0, 1, 2], [0, 5, 1]])
    with pytest.raises(IndexError, match="out of"):
        planned(lambda x, h: (table[x], h), tokens, tg.zeros((3, 4)))
    with pytest.raises(IndexError, match="out of"):
        tg.unroll(lambda x, h: (tg.take(table, x, axis=0), h), tokens, tg.zeros((3, 4)))


def test_a_failed_call_leaves_random_numbers_and_cache_usable() -> None:
    x, h = inputs()
    with pytest.raises(ValueError, match="split"):
        planned(lambda x, h: (tg.split(tg.dropout(x, 0.5), 3, axis=-1)[0], h), x, h)
    assert_right(lambda x, h: (tg.dropout(x, 0.5) + h,) * 2)


def test_no_warning_that_the_loop_does_not_give() -> None:
    x = tg.tensor(np.tile([-1e4, 0.0, 1e4, 0.5], (3, 2, 1)), requires_grad=True)

    def cell(x: Tensor, h: Tensor) -> Any:
        safe = tg.where(x > 0.0, x, 1.0)
        return (tg.tanh(x), tg.sigmoid(x), tg.softplus(x), tg.log(safe), x / safe), tg.sigmoid(h)

    with np.errstate(over="raise", divide="raise", invalid="raise"):
        case = Case(cell, x, x[0].detach())
        expected, found = case.results(literal), case.results(planned)
    for name, array in expected.items():
        assert_allclose(found[name], array, rtol=1e-10, err_msg=name)


def test_infinities_and_nan_are_those_of_the_loop() -> None:
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e300, -1e300, 30.0])
    for dtype in ("float64", "float32"):
        with np.errstate(all="ignore"):
            x = tg.tensor(np.tile(special.astype(dtype), (3, 2, 1)), requires_grad=True)

            def cell(x: Tensor, h: Tensor) -> Any:
                outputs = (
                    tg.tanh(x),
                    tg.sigmoid(x),
                    tg.relu(x) + h * 0,
                    tg.maximum(x, h),
                    tg.where(x > h, x, h),
                    tg.exp(-tg.abs(x)),
                    tg.softplus(-tg.abs(x)),
                    x / x,
                )
                return outputs, tg.tanh(x)

            case = Case(cell, x, x[0].detach())
            expected, found = case.results(literal), case.results(planned)
        for name, array in expected.items():
            assert_allclose(found[name], array, rtol=1e-5, atol=1e-6, err_msg=f"{dtype} {name}")
