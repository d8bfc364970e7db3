"""What a cell may do beside computing, and what makes it run literally: two traces do not show all.

The subtle point is a counter. One that the cell looks at makes steps differ, be it only every
fourth; one that nobody reads, as a test has that counts calls, changes no result.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn

XS = np.random.default_rng(0).normal(size=(9, 2, 3))
H = np.zeros((2, 3))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    tg.plan_cache().clear()
    yield


def both(make: Any, **options: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Outputs of a new cell in mode auto, and of another one literally."""
    runs = [tg.unroll(make(), tg.tensor(XS), tg.tensor(H), mode=m) for m in ("auto", "literal")]
    return runs[0][0].numpy(), runs[1][0].numpy()


class Clockwork:
    """A cell whose state moves at every fourth call only."""

    def __init__(self) -> None:
        self.t = 0

    def __call__(self, x: Any, h: Any) -> Any:
        self.t += 1
        if self.t % 4 == 0:
            h = tg.tanh(x + h)
        return h + x, h


def closed_over() -> Any:
    calls = 0

    def cell(x: Any, h: Any) -> Any:
        nonlocal calls
        calls += 1
        h = tg.tanh(x * (2.0 if calls > 3 else 1.0) + h)
        return h, h

    return cell


@pytest.mark.parametrize("make", [Clockwork, closed_over])
def test_a_counter_that_acts_later_than_two_traces_see(make: Any) -> None:
    auto, literal = both(make)
    np.testing.assert_array_equal(auto, literal)
    plan = tg.plan(make(), tg.tensor(XS), tg.tensor(H))
    assert not plan.planned and plan.reason is not None and "changes" in plan.reason


def test_a_counter_behind_a_partial_and_a_cell_of_the_same_code() -> None:
    def step(counts: bool, x: Any, h: Any, counter: list[int]) -> Any:
        if counts:
            counter[0] += 1
        h = tg.tanh(x * (2.0 if counter[0] > 4 else 1.0) + h)
        return h, h

    def make(counts: bool) -> Any:
        return functools.partial(step, counts, counter=[0])

    tg.unroll(make(False), tg.tensor(XS), tg.tensor(H))
    tg.unroll(nn.RNNCell(3, 3), tg.ones((9, 2, 3)))
    assert tg.plan(make(False), tg.tensor(XS), tg.tensor(H)).planned


def test_a_count_that_nobody_reads_is_planned() -> None:
    calls = 0
    seen: list[int] = []

    def cell(x: Any, h: Any) -> Any:
        nonlocal calls
        calls += 1
        seen.append(1)
        h = tg.tanh(x + h)
        return h, h

    for _ in range(3):
        tg.unroll(cell, tg.tensor(XS), tg.tensor(H), mode="planned")
    assert calls == len(seen) == 4  # twice when it is new, once each time after


def test_what_a_cell_makes_at_its_first_call_is_made_by_a_literal_one() -> None:
    class Lazy:
        scale: Any = None

        def __call__(self, x: Any, h: Any) -> Any:
            if self.scale is None:
                self.scale = tg.ones_like(x) * 2.0
            h = tg.tanh(x * self.scale + h)
            return h, h

    cell = Lazy()
    xs, h = tg.tensor(XS), tg.tensor(H)
    expected, _ = tg.unroll(Lazy(), xs, h, mode="literal")
    for mode in ("auto", "auto", "literal"):
        outputs, _ = tg.unroll(cell, xs, h, mode=mode)  # type: ignore[arg-type]
        np.testing.assert_allclose(outputs.numpy(), expected.numpy(), rtol=1e-12)


def mailbox() -> Any:
    mail = collections.deque([tg.zeros((2, 3), dtype="float64")] * 2, maxlen=2)

    def cell(x: Any, h: Any) -> Any:
        h = tg.tanh(x + h) + mail[0]
        mail.append(h)
        return h, h

    return cell


def counting_in_a_list() -> Any:
    count = [0]

    def cell(x: Any, h: Any) -> Any:
        count[0] += 1
        h = tg.tanh(x + h) * (0.0 if count[0] % 5 == 0 else 1.0)
        return h, h

    return cell


@pytest.mark.parametrize("make", [mailbox, counting_in_a_list])
def test_a_container_that_the_cell_changes_and_reads(make: Any) -> None:
    auto, literal = both(make)
    np.testing.assert_array_equal(auto, literal)


def test_a_list_of_the_tensors_of_each_step() -> None:
    log: list[Any] = []

    def cell(x: Any, h: Any) -> Any:
        h = tg.tanh(x + h)
        log.append(tg.mean(h))
        return h, h

    outputs, _ = tg.unroll(cell, tg.tensor(XS), tg.tensor(H))
    expected = outputs.numpy().mean(axis=(1, 2))
    np.testing.assert_allclose([y.item() for y in log], expected, rtol=1e-12)


def test_a_captured_tensor_that_the_cell_rebinds() -> None:
    def make() -> Any:
        count = tg.tensor(0.0, dtype="float64")

        def cell(x: Any, h: Any) -> Any:
            count.data = count.data + 1
            h = tg.tanh(x * count + h)
            return h, h

        return cell

    auto, literal = both(make)
    np.testing.assert_array_equal(auto, literal)


def test_a_loop_inside_a_cell_that_reads_the_tensors_of_its_step() -> None:
    m = tg.tensor(np.random.default_rng(1).normal(size=(5, 2, 4)))

    def cell(x: Any, h: Any) -> Any:  # x (2, 1), h (2, 4)
        def inner(v: Any, s: Any) -> Any:
            s = tg.tanh(v * x + s)
            return s, s

        _, s = tg.unroll(inner, m, tg.zeros((2, 4), dtype="float64"))
        h = tg.tanh(h + s)
        return h, h

    found = []
    for mode in ("auto", "literal"):
        xs = tg.tensor(XS[:, :, :1], requires_grad=True)
        outputs, _ = tg.unroll(cell, xs, tg.zeros((2, 4), dtype="float64"), mode=mode)  # type: ignore[arg-type]
        found.append([outputs.numpy(), tg.grad(tg.sum(outputs), xs).numpy()])
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-11)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-11)


def test_a_batch_that_only_an_input_nobody_reads_has() -> None:
    def cell(x: Any, s: Any) -> Any:
        return tg.tanh(x[1]), s

    for rows in (3, 7):
        outputs, _ = tg.unroll(cell, (tg.zeros((4, rows)), tg.ones((4, 3, 5))), ())
        np.testing.assert_allclose(outputs.numpy(), np.tanh(np.ones((4, 3, 5))), rtol=1e-6)


def test_a_number_that_is_infinite() -> None:
    def cell(x: Any, h: Any) -> Any:
        h = tg.minimum(tg.tanh(x + h), float("inf"))
        return tg.where(h > 0.0, h, -float("inf")), h

    auto, literal = both(lambda: cell)
    np.testing.assert_allclose(auto, literal, rtol=1e-11)


def test_lengths_that_are_all_the_same_cost_nothing() -> None:
    cell = nn.LSTMCell(3, 3)
    xs = tg.ones((9, 2, 3))
    plain = tg.plan(cell, xs)
    assert tg.plan(cell, xs, lengths=[9, 9]).source == plain.source


@pytest.mark.parametrize("checkpoint", [0, -1, 2.5, True, "often"])
@pytest.mark.parametrize("mode", ["auto", "literal", "planned"])
def test_a_checkpoint_that_is_no_number_of_steps(checkpoint: Any, mode: Any) -> None:
    with pytest.raises(ValueError, match="checkpoint is a number of steps"):
        tg.unroll(nn.RNNCell(3, 3), tg.ones((9, 2, 3)), checkpoint=checkpoint, mode=mode)
