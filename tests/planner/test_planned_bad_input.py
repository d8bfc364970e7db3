"""What a user can get wrong, and what only looks wrong, with ``mode="auto"`` and ``"planned"``.

The subtle point: what is an error literally is the same error planned, raised for the same reason;
only what cannot be planned is a ``PlanError``, which says why and where, and "auto" then runs.
"""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from both_ways import Case, Counted, assert_close, cotangents, forget_plans, leaf, literal, planned
from tinygrad_rnn import Tensor, nn

STEPS = 4

MODES = pytest.mark.parametrize("run", [tg.unroll, planned], ids=["auto", "planned"])
Run = Callable[..., Any]


def rng_of(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def inputs() -> tuple[Tensor, Tensor]:
    rng = rng_of()
    return leaf(rng, STEPS, 3, 4), leaf(rng, 3, 4)


def accumulate(x: Tensor, h: Tensor) -> Any:
    h = tg.tanh(x + h)
    return h, h


# Cells that are wrong.

WRONG_CELLS: dict[str, tuple[Any, type[Exception], str]] = {
    "another structure": (
        lambda x, h: (h, (h, h)),
        TypeError,
        r"given a state structured \* and returned \(\*, \*\)",
    ),
    "PyTorch's habit": (lambda x, h: (h, h, h), TypeError, r"a cell returns \(output, state\)"),
    "nothing": (lambda x, h: None, TypeError, r"a cell returns \(output, state\)"),
    "another shape": (
        lambda x, h: (h, tg.concat([h, h], axis=-1)),
        TypeError,
        r"float64 \(3, 4\) and returned float64 \(3, 8\)",
    ),
    "fewer axes": (lambda x, h: (h, tg.sum(h, axis=0)), TypeError, r"returned float64 \(4,\)"),
    "another dtype": (
        lambda x, h: (h, h.astype("float32")),
        TypeError,
        r"float64 \(3, 4\) and returned float32 \(3, 4\)",
    ),
    "integers": (lambda x, h: (h, h > 0), TypeError, r"returned bool \(3, 4\)"),
    "a number": (lambda x, h: (h, 0.0), TypeError, r"returned .*\(\)"),
}


@MODES
@pytest.mark.parametrize("name", WRONG_CELLS)
def test_a_cell_that_returns_what_it_must_not(name: str, run: Run) -> None:
    cell, error, message = WRONG_CELLS[name]
    with pytest.raises(error, match=message):
        run(cell, *inputs())


@MODES
def test_a_cell_that_changes_a_part_of_its_state(run: Run) -> None:
    def cell(x: Tensor, state: Any) -> Any:
        return x, (state[0], state[1] * tg.ones((), "float64"))

    with pytest.raises(TypeError, match=r"float32 \(3,\) and returned float64 \(3,\)"):
        run(cell, inputs()[0], (tg.zeros((3, 4), "float64"), tg.zeros(3, "float32")))


@MODES
def test_a_state_not_made_from_the_inputs(run: Run) -> None:
    """It is a constant: right, though probably no recurrence at all."""
    fixed = leaf(rng_of(5), 3, 4)
    x, h = inputs()
    case = Case(lambda x, h: (x + h, fixed), x, h, [fixed])
    found = case.results(run)
    assert_close(found, case.results(literal))
    assert_array_equal(found["final state"], fixed.numpy())


@MODES
def test_a_state_that_is_an_array_or_numbers(run: Run) -> None:
    x, _ = inputs()
    state = (np.zeros((3, 4)), (0.5, 1))

    def cell(x: Tensor, state: Any) -> Any:
        h, (scale, count) = state
        h = tg.tanh(x + h * scale)
        return h, (h, (scale, count + 1))

    y, (_, (scale, count)) = run(cell, x, state)
    assert_allclose(y.numpy(), literal(cell, x, state)[0].numpy(), rtol=1e-12)
    assert (scale.item(), count.item()) == (0.5, 1 + STEPS)


@MODES
def test_a_layer_is_no_cell(run: Run) -> None:
    with pytest.raises(TypeError, match="GRU is a layer"):
        run(nn.GRU(4, 4), *inputs())


@MODES
def test_a_cell_without_a_state_to_start_from(run: Run) -> None:
    with pytest.raises(TypeError, match="give a state, or a cell with initial_state"):
        run(accumulate, inputs()[0])


# Arguments.


@MODES
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": [1, 2, -1]}, r"lengths \[1, 2, -1\]"),
        ({"lengths": [1, 2, 5]}, r"lengths \[1, 2, 5\] for 4 steps"),
        ({"lengths": [1.0, 2.0, 3.0]}, "lengths are 3 integers, .* not float64"),
        ({"lengths": [1, 2]}, "lengths are 3 integers"),
        ({"lengths": 2}, "lengths are 3 integers"),
        ({"lengths": [1, 1, 1], "mask": np.ones((4, 3), bool)}, "lengths or a mask, not both"),
        ({"mask": np.ones((3, 4), bool)}, r"mask is bool of shape \(4, 3\)"),
        ({"mask": np.ones((4, 3))}, "mask is bool"),
        ({"reset": np.ones((4, 2), bool)}, r"reset is bool of shape \(4, 3\)"),
        ({"reset": np.ones((4, 3), bool), "reset_state": np.ones(4)}, "reset_state"),
    ],
)
def test_bad_lengths_masks_and_resets(run: Run, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(accumulate, *inputs(), **options)


@MODES
def test_inputs_of_unequal_time_length(run: Run) -> None:
    x, h = inputs()
    with pytest.raises(ValueError, match=r"share an axis 0 of time, unlike \(4, .*\(3, "):
        run(lambda x, h: (x[0] + x[1], h), (x, x[:3]), h)


@MODES
def test_inputs_without_time(run: Run) -> None:
    with pytest.raises(ValueError, match=r"axis 0 of time, unlike \(\)"):
        run(accumulate, tg.tensor(1.0), tg.zeros(()))
    with pytest.raises(ValueError, match="xs is empty"):
        run(accumulate, (), tg.zeros(()))


def test_a_mode_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="'auto', 'literal' or 'planned', not 'fast'"):
        tg.unroll(accumulate, *inputs(), mode="fast")


@pytest.mark.parametrize("checkpoint", [0, -1, 1.5, "2"])
def test_a_checkpoint_that_is_no_number_of_steps(checkpoint: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="checkpoint"):
        tg.unroll(accumulate, *inputs(), checkpoint=checkpoint)


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_of_no_bytes(budget: int) -> None:
    with pytest.raises(ValueError, match=r"[Bb]ytes|budget|checkpoint"):
        tg.unroll(accumulate, *inputs(), checkpoint=tg.Bytes(budget))


@MODES
def test_mixed_backends_are_named(run: Run) -> None:
    other = tg.ones((3, 4), backend="array_api_strict")
    with pytest.raises(TypeError, match=r"different backends.*array_api_strict"):
        run(lambda x, h: (x + other, h), *inputs())


# Nothing to do.


@MODES
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_no_steps(run: Run, dtype: str) -> None:
    """Empty outputs and the initial state, to which gradients flow."""
    u = leaf(rng_of(), 4, 2, dtype=dtype)
    h = leaf(rng_of(), 3, 4, dtype=dtype)

    def cell(x: Tensor, h: Tensor) -> Any:
        return {"a": h @ u, "b": x > 0}, tg.tanh(x + h)

    outputs, last = run(cell, tg.zeros((0, 3, 4), dtype), h)
    assert outputs["a"].shape == (0, 3, 2) and outputs["a"].dtype == np.dtype(dtype)
    assert outputs["b"].shape == (0, 3, 4) and outputs["b"].dtype == np.bool_
    assert_array_equal(last.numpy(), h.numpy())
    assert_array_equal(tg.grad(last.sum(), h).numpy(), np.ones((3, 4)))


@MODES
@pytest.mark.parametrize("options", [{}, {"lengths": []}, {"reverse": True}])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_no_rows(run: Run, options: dict[str, Any], dtype: str) -> None:
    u = leaf(rng_of(), 4, 4, dtype=dtype)
    x = tg.zeros((STEPS, 0, 4), dtype)
    x.requires_grad = True

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x @ u + h @ u)
        return h, h

    y, h = run(cell, x, tg.zeros((0, 4), dtype), **options)
    assert y.shape == (STEPS, 0, 4) and h.shape == (0, 4)
    found = tg.grad([y, h], [x, u], cotangents([y, h]))
    assert found[0].shape == x.shape
    assert_array_equal(found[1].numpy(), np.zeros((4, 4)))


@MODES
def test_no_columns(run: Run) -> None:
    """An input of width 0, of which the product is 0."""
    u, b = leaf(rng_of(), 0, 4), leaf(rng_of(), 4)

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x @ u + b + h)
        return h, h

    y, _ = run(cell, tg.zeros((STEPS, 3, 0), "float64"), inputs()[1])
    assert y.shape == (STEPS, 3, 4)
    assert tg.grad(y.sum(), [u, b])[0].shape == (0, 4)


@MODES
def test_rows_that_all_end_at_once(run: Run) -> None:
    x, h = inputs()
    y, last = run(accumulate, x, h, lengths=[0, 0, 0])
    assert_array_equal(y.numpy(), np.zeros((STEPS, 3, 4)))
    assert_array_equal(last.numpy(), h.numpy())


# Arrays that are awkward.


@MODES
def test_arrays_that_are_not_contiguous_or_not_writable(run: Run) -> None:
    rng = rng_of()
    strided = rng.normal(size=(3, 2 * STEPS, 4)).swapaxes(0, 1)[::2]
    backwards = rng.normal(size=(3, 4))[:, ::-1]
    columns = np.asfortranarray(rng.normal(size=(4, 4)))
    broadcast = np.broadcast_to(rng.normal(size=4), (3, 4))
    columns.flags.writeable = False
    x, h, u, b = (tg.asarray(a) for a in (strided, backwards, columns, broadcast))

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x @ u + h @ u.T + b)
        return (h, b), h

    for t in (x, h, u, b):
        t.requires_grad = True
    case = Case(cell, x, h, [u, b])
    found = case.results(run)
    assert_close(found, case.results(literal))
    assert_array_equal(found["output[1]"][0], broadcast)
    assert not columns.flags.writeable


@MODES
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cotangents_that_are_broadcast_or_backwards(run: Run, dtype: str) -> None:
    """What a sum hands back is a broadcast array, what a flip does runs backwards."""
    u, x = leaf(rng_of(), 4, 4, dtype=dtype), leaf(rng_of(1), STEPS, 3, 4, dtype=dtype)

    def gradient(unroll: Run) -> Any:
        y, h = unroll(lambda x, h: (tg.tanh(x + h @ u),) * 2, x, x[0])
        loss = y.sum() + tg.square(tg.flip(y, axis=0)[1:]).sum() + h.T[0].sum()
        return [g.numpy().copy() for g in tg.grad(loss, [u, x])]

    for a, b in zip(gradient(run), gradient(literal), strict=True):
        assert_allclose(a, b, rtol=1e-11 if dtype == "float64" else 1e-4, atol=1e-5)


@MODES
def test_arrays_instead_of_tensors(run: Run) -> None:
    x, h = (t.numpy() for t in inputs())
    u = rng_of().normal(size=(4, 4))

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x @ u + h + np.float64(0.5) + u[0])
        return h, h

    y, _ = run(cell, x, h)
    assert_allclose(y.numpy(), literal(cell, x, h)[0].numpy(), rtol=1e-11)


def test_an_array_written_to_after_the_call_changes_nothing() -> None:
    """``unroll`` copies arrays that are given as such."""
    x, h = (t.numpy().copy() for t in inputs())
    y, _ = planned(accumulate, x, h)
    before = y.numpy().copy()
    x[:] = 7.0
    assert_array_equal(y.numpy(), before)


# What cannot be planned.


def item(x: Tensor, h: Tensor) -> Any:
    scale = h.sum().item()  # here
    return x * scale, tg.tanh(x + h)


def to_numpy(x: Tensor, h: Tensor) -> Any:
    low = float(h.numpy().min())  # here
    return x - low, tg.tanh(x + h)


def branch(x: Tensor, h: Tensor) -> Any:
    if h[0, 0] > 0:  # here
        return x, tg.tanh(x + h)
    return -x, tg.tanh(x - h)


def number(x: Tensor, h: Tensor) -> Any:
    scale = float(h[0, 0])  # here
    return x * scale, tg.tanh(x + h)


def index(x: Tensor, h: Tensor) -> Any:
    place = int(tg.argmax(h[0]))  # here
    return x[:, place], tg.tanh(x + h)


def foreign(x: Tensor, h: Tensor) -> Any:
    squared = np.square(np.asarray(h.detach()))  # here
    return x + squared, tg.tanh(x + h)


def data(x: Tensor, h: Tensor) -> Any:
    return x + np.square(h.data), tg.tanh(x + h)  # here


def printed(x: Tensor, h: Tensor) -> Any:
    shown = f"{h.tolist()}"  # here
    return x * len(shown), tg.tanh(x + h)


def gradient(x: Tensor, h: Tensor) -> Any:
    """A derivative inside the step: it may be planned one day, and be right today."""
    slope = tg.value_and_grad(lambda h: tg.sum(tg.sin(h)))(h)[1]
    return slope, tg.tanh(x + slope)


UNPLANNABLE = [item, to_numpy, branch, number, index, foreign, data, printed]


@pytest.mark.parametrize("cell", UNPLANNABLE)
def test_what_needs_a_value_runs_literally_and_says_why(cell: Any) -> None:
    x, h = inputs()
    counted = Counted(cell)
    case = Case(counted, x, h)
    expected = case.results(literal)
    for _ in range(2):
        before = counted.calls
        assert_close(case.results(tg.unroll), expected)
        assert STEPS <= counted.calls - before <= STEPS + 2
    first = cell.__code__.co_firstlineno
    lines = range(first, first + 5)
    line = next(n for n in lines if "# here" in linecache.getline(__file__, n))
    where = f"{Path(__file__).name}:{line}"
    plan = tg.plan(cell, x, h)
    assert not plan.planned and where in plan.reason and plan.reason in plan.report()
    with pytest.raises(tg.PlanError, match=re.escape(where)):
        planned(cell, x, h)


def test_a_plan_error_is_a_runtime_error() -> None:
    assert issubclass(tg.PlanError, RuntimeError)
    assert tg.PlanError.__module__.startswith("tinygrad_rnn")


def test_a_branch_on_a_value_that_does_not_vary_is_no_obstacle_or_right() -> None:
    """What is captured has a value while tracing, too; but another one later."""
    switch = tg.tensor(1.0)

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x + h) if switch > 0 else tg.sin(x - h)
        return h, h

    for value in (1.0, -1.0, 1.0):
        switch.data = value
        x, h = inputs()
        y, _ = tg.unroll(cell, x, h)
        assert_allclose(y.numpy(), literal(cell, x, h)[0].numpy(), rtol=1e-12)


def test_a_derivative_inside_a_cell() -> None:
    case = Case(gradient, *inputs())
    assert_close(case.results(tg.unroll), case.results(literal))


def test_a_checkpointed_cell() -> None:
    u = leaf(rng_of(), 4, 4)
    case = Case(tg.checkpoint(lambda x, h: (tg.tanh(x + h @ u),) * 2), *inputs(), [u])
    assert_close(case.results(tg.unroll), case.results(literal))


# Exceptions.


@MODES
def test_the_traceback_of_an_exception_ends_at_the_users_line(run: Run) -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x + h)
        broken = h @ tg.zeros((5, 5), "float64")  # here it breaks
        return broken, h

    for _ in range(2):
        with pytest.raises(ValueError, match=r"matmul.*\(3, 4\).*\(5, 5\)") as caught:
            run(cell, *inputs())
        frames = traceback.extract_tb(caught.value.__traceback__)
        own = [frame for frame in frames if frame.filename == __file__]
        assert "# here it breaks" in (own[-1].line or "")


@MODES
def test_an_exception_of_the_users_own(run: Run) -> None:
    class Mine(Exception):
        pass

    def cell(x: Tensor, h: Tensor) -> Any:
        raise Mine("seven")

    with pytest.raises(Mine, match="seven"):
        run(cell, *inputs())


@MODES
def test_an_exception_leaves_the_next_call_as_it_was(run: Run) -> None:
    forget_plans()
    x, h = inputs()
    with pytest.raises(ValueError, match="reshape"):
        run(lambda x, h: (tg.reshape(h, (5,)), h), x, h)
    case = Case(accumulate, x, h)
    assert_close(case.results(planned), case.results(literal))


@MODES
def test_interrupting_a_cell_leaves_no_trace(run: Run) -> None:
    x, h = inputs()

    def cell(x: Tensor, h: Tensor) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cell, x, h)
    assert tg.is_grad_enabled()
    assert_allclose((x * 2.0).numpy(), x.numpy() * 2)


def test_a_tensor_that_a_cell_keeps_is_one_of_a_literal_loop() -> None:
    kept: list[Any] = []

    def cell(x: Tensor, h: Tensor) -> Any:
        kept.append(h)
        return x, tg.tanh(x + h)

    with pytest.raises(tg.PlanError, match="changes kept"):
        planned(cell, *inputs())
    kept.clear()
    _, final = tg.unroll(cell, *inputs())
    assert all(isinstance(h.numpy(), np.ndarray) for h in kept)
    np.testing.assert_array_equal(
        final.numpy(), np.tanh(inputs()[0].numpy()[-1] + kept[-1].numpy())
    )
