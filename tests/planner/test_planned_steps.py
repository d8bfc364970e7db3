"""``planned(step)``: a whole training step as one plan does what the step itself does.

Two models that start alike are trained side by side, one by the step and one by its plan; what both
return, their parameters, gradients and optimiser states are compared after each step.

The subtle point is what a step leaves behind where it fails or is not planned: nothing, or exactly
what it leaves behind itself.
"""

from __future__ import annotations

import gc
import operator
import os
import random
import threading
from array import array as buffer
from collections import Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
import tinygrad_rnn.functional as F
from both_ways import assert_close
from op_table import examples
from tinygrad_rnn import Tensor, nn, optim
from tinygrad_rnn.planner import planned as module
from tinygrad_rnn.planner.planner import plan_cache
from tinygrad_rnn.structure import flatten

V, T, B = 7, 5, 3

RETRACE = [True]  # whether steps are traced at every call


@pytest.fixture(params=[True, False], ids=["traced", "known"])
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Steps that are traced at every call, and steps that are known by what they reach."""
    RETRACE[0] = request.param
    yield
    RETRACE[0] = True


both = pytest.mark.usefixtures("form")


class Model(nn.Module):
    """A small language model."""

    def __init__(self, dropout: float = 0.0) -> None:
        self.embedding = nn.Embedding(V, 4)
        self.layer = nn.LSTM(4, 6, num_layers=2, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(6, V)

    def forward(self, x: Any, state: Any = None) -> Any:
        y, state = self.layer(self.embedding(x), state)
        return self.out(self.dropout(y)), state


class Side:
    """A model with its optimiser, and a step that trains it."""

    def __init__(self, make: Callable[[Any], Callable[..., Any]], **options: Any) -> None:
        tg.manual_seed(0)
        self.model = Model(options.pop("dropout", 0.0))
        self.parameters = list(self.model.parameters())
        self.kind = options.pop("kind", optim.Adam)
        self.optimizer = self.kind(self.parameters, **{"lr": 0.05} | options)
        self.step = make(self)

    def found(self, returned: Any) -> dict[str, Any]:
        leaves = [np.asarray(y) for y in flatten(returned)[0] if y is not None]
        arrays = {f"returned {i}": y.copy() for i, y in enumerate(leaves)}
        for i, p in enumerate(self.parameters):
            arrays[f"parameter {i}"] = p.numpy().copy()
            if p.grad is not None:
                arrays[f"gradient {i}"] = p.grad.numpy().copy()
        for i, state in self.optimizer.state.items():
            arrays |= {f"{name} {i}": np.array(value) for name, value in state.items()}
        return arrays


def batch(seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return tuple(tg.tensor(rng.integers(0, V, (T, B))) for _ in range(2))


def usual(side: Side) -> Callable[..., Any]:
    def step(x: Tensor, y: Tensor) -> Any:
        side.optimizer.zero_grad()
        loss = F.cross_entropy(side.model(x)[0].reshape(-1, V), y.reshape(-1))
        loss.backward()
        norm = optim.clip_grad_norm_(side.parameters, 0.1)
        side.optimizer.step()
        return {"loss": loss, "norm": norm}

    return step


def train_both(
    make: Callable[[Side], Callable[..., Any]] = usual, steps: int = 4, **options: Any
) -> Any:
    """Both sides trained on the same batches; the planned step."""
    retrace = options.pop("retrace", RETRACE[0])
    one, two = Side(make, **options), Side(make, **options)
    step = tg.planned(two.step, retrace=retrace)
    tg.manual_seed(3)
    at = tg.random.get_state()
    for i in range(steps):
        tg.random.set_state(at)
        expected = one.found(one.step(*batch(i)))
        after = tg.random.get_state()
        tg.random.set_state(at)
        found = two.found(step(*batch(i)))
        assert tg.random.get_state() == after
        assert_close(found, expected)
        at = after
    return step


def is_planned(step: Any) -> bool:
    return not step.source.startswith("# literal")


# What it does.


@both
@both
@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad])
def test_a_step_is_one_plan(kind: Any) -> None:
    plan_cache().clear()
    step = train_both(kind=kind, dropout=0.3)
    assert is_planned(step), step.report()
    assert len(plan_cache()) == 3  # of two layers, and of the step
    assert ".run(" in step.source
    assert "a whole step" in step.report()
    assert "calls: 4" in step.report()  # two layers, clipping, the update
    assert ".pull_back(" in step.source


def test_rates_and_counts_make_no_new_plan() -> None:
    side = Side(usual, dropout=0.5)
    step = tg.planned(side.step)
    step(*batch(0))
    before = plan_cache().misses
    for i in range(3):
        side.optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
        side.model.dropout.p = 0.1 * (i + 1)
        step(*batch(i))
        assert is_planned(step)
    assert plan_cache().misses == before


@both
def test_gradients_accumulate_where_nothing_zeroes_them() -> None:
    def make(side: Side) -> Any:
        def step(x: Tensor, y: Tensor) -> Tensor:
            loss = F.cross_entropy(side.model(x)[0].reshape(-1, V), y.reshape(-1))
            loss.backward()
            side.optimizer.step()
            return loss

        return step

    assert is_planned(train_both(make, kind=optim.SGD))


@both
def test_several_backward_passes_in_a_step() -> None:
    def make(side: Side) -> Any:
        def step(x: Tensor, y: Tensor) -> Any:
            side.optimizer.zero_grad()
            losses = []
            for part in (slice(0, 2), slice(2, 3)):
                logits = side.model(x[:, part])[0]
                loss = F.cross_entropy(logits.reshape(-1, V), y[:, part].reshape(-1)) * 0.5
                loss.backward()
                losses.append(loss)
            optim.clip_grad_value_(side.parameters, 0.01)
            side.optimizer.step()
            return losses

        return step

    assert is_planned(train_both(make))


def test_a_state_that_is_carried_over() -> None:
    def make(side: Side) -> Any:
        def step(x: Tensor, y: Tensor, state: Any = None) -> Any:
            side.optimizer.zero_grad()
            logits, state = side.model(x, state)
            loss = F.cross_entropy(logits.reshape(-1, V), y.reshape(-1))
            loss.backward()
            side.optimizer.step()
            return loss, tuple(h.detach() for h in state)

        return step

    one, two = Side(make), Side(make)
    step, states = tg.planned(two.step), [None, None]
    for i in range(4):
        expected, states[0] = one.step(*batch(i), states[0])
        found, states[1] = step(*batch(i), states[1])
        assert_close(two.found((found, states[1])), one.found((expected, states[0])))
        assert is_planned(step), step.report()


@both
def test_regularised_by_the_weights() -> None:
    def make(side: Side) -> Any:
        def step(x: Tensor, y: Tensor) -> Tensor:
            side.optimizer.zero_grad()
            loss = F.cross_entropy(side.model(x)[0].reshape(-1, V), y.reshape(-1))
            loss = loss + 0.1 * sum(tg.sum(p * p) for p in side.parameters)
            loss.backward()
            side.optimizer.step()
            return loss

        return step

    assert is_planned(train_both(make))


@pytest.mark.parametrize(
    "options",
    [
        {"lengths": [5, 2, 0]},
        {"mask": np.arange(T)[:, None] < np.array([5, 1, 3])},
        {"reset": np.arange(T * B).reshape(T, B) % 4 == 0},
    ],
    ids=["lengths", "mask", "reset"],
)
def test_ragged_masked_and_reset_loops(options: Any) -> None:
    def make(side: Side) -> Any:
        layer = nn.GRU(4, 7, bidirectional=True)
        side.parameters = [*layer.parameters(), *side.model.embedding.parameters()]
        side.optimizer = optim.SGD(side.parameters, lr=0.1)

        def step(x: Tensor, y: Tensor) -> Tensor:
            side.optimizer.zero_grad()
            out, _ = layer(side.model.embedding(x), **options)
            loss = F.mse_loss(out, tg.zeros_like(out))
            loss.backward()
            side.optimizer.step()
            return loss

        return step

    assert is_planned(train_both(make))


@both
def test_attention_in_a_decoder() -> None:
    def make(side: Side) -> Any:
        encoder, decoder = nn.GRU(4, 6), nn.GRUCell(10, 6)
        modules = (encoder, decoder, side.model.embedding, side.model.out)
        side.parameters = [p for m in modules for p in m.parameters()]
        side.optimizer = optim.Adam(side.parameters)

        @tg.pure
        def cell(memory: Any) -> Any:
            def attend(x: Any, h: Any) -> Any:
                weights = F.softmax(tg.sum(memory * h[None], axis=-1), axis=0)
                context = tg.sum(memory * weights[:, :, None], axis=0)
                return decoder(tg.concat([x, context], axis=-1), h)

            return tg.pure(attend)

        def step(x: Tensor, y: Tensor) -> Tensor:
            side.optimizer.zero_grad()
            memory, h = encoder(side.model.embedding(x))
            out, _ = tg.unroll(cell(memory), side.model.embedding(y), h[0])
            loss = F.cross_entropy(side.model.out(out).reshape(-1, V), y.reshape(-1))
            loss.backward()
            side.optimizer.step()
            return loss

        return step

    step = train_both(make)
    assert is_planned(step), step.report()


@both
def test_a_cell_of_ones_own_is_watched_first() -> None:
    def make(side: Side) -> Any:
        w = tg.tensor(np.eye(4, 4), dtype="float32", requires_grad=True)
        side.parameters = [w, *side.model.embedding.parameters()]
        side.optimizer = optim.SGD(side.parameters, lr=0.1)

        def cell(x: Any, h: Any) -> Any:
            h = tg.tanh(x + h @ (w * 0.5))
            return h, h

        def step(x: Tensor, y: Tensor) -> Tensor:
            side.optimizer.zero_grad()
            out, _ = tg.unroll(cell, side.model.embedding(x), tg.zeros((B, 4)))
            loss = tg.mean(out * out)
            loss.backward()
            side.optimizer.step()
            return loss

        return step

    step = train_both(make, steps=6)
    assert is_planned(step), step.report()


@both
def test_checkpoints_and_vmap_inside() -> None:
    def make(side: Side) -> Any:
        def step(x: Tensor, y: Tensor) -> Tensor:
            side.optimizer.zero_grad()
            e = tg.checkpoint(lambda a: F.dropout(tg.tanh(side.model.embedding(a)), 0.4))(x)
            out, _ = tg.unroll(side.model.layer.cells()[0], e, checkpoint=2) if 0 else (e, None)
            loss = tg.mean(tg.vmap(lambda a: tg.sum(a * a))(out))
            loss.backward()
            side.optimizer.step()
            return loss

        return step

    assert is_planned(train_both(make))


def test_a_scheduler_inside() -> None:
    def make(side: Side) -> Any:
        scheduler = optim.lr_scheduler.StepLR(side.optimizer, 1, gamma=0.5)
        step = usual(side)

        def whole(x: Tensor, y: Tensor) -> Any:
            found = step(x, y)
            scheduler.step()
            return found

        return whole

    assert is_planned(train_both(make))


@both
def test_two_optimizers() -> None:
    def make(side: Side) -> Any:
        one = optim.SGD(side.parameters[:1], lr=0.1)
        side.optimizer = two = optim.Adam(side.parameters[1:], lr=0.1)

        def step(x: Tensor, y: Tensor) -> Tensor:
            one.zero_grad()
            two.zero_grad()
            loss = F.cross_entropy(side.model(x)[0].reshape(-1, V), y.reshape(-1))
            loss.backward()
            one.step()
            two.step()
            return loss

        return step

    assert is_planned(train_both(make))


def test_a_step_without_arguments() -> None:
    def make(side: Side) -> Any:
        step, (x, y) = usual(side), batch(0)
        return lambda *_: step(x, y)

    one, two = Side(make), Side(make)
    step = tg.planned(two.step)
    for _ in range(3):
        assert_close(two.found(step()), one.found(one.step()))


@both
def test_gradients_returned_as_values() -> None:
    def make(side: Side) -> Any:
        def step(x: Tensor, y: Tensor) -> Tensor:
            loss = F.cross_entropy(side.model(x)[0].reshape(-1, V), y.reshape(-1))
            loss.backward(tg.ones(()))
            for p in side.parameters:
                p.grad = p.grad * 0.5
            side.optimizer.step()
            side.optimizer.zero_grad()
            return loss

        return step

    assert is_planned(train_both(make))


def test_the_loss_is_released() -> None:
    side = Side(usual)
    loss = tg.planned(side.step)(*batch(0))["loss"]
    assert loss.requires_grad
    assert loss.item() > 0
    with pytest.raises(tg.ReleasedGraphError):
        loss.backward()


@both
def test_metrics_beside_the_loss() -> None:
    def make(side: Side) -> Any:
        def step(x: Tensor, y: Tensor) -> Any:
            side.optimizer.zero_grad()
            logits = side.model(x)[0]
            loss = F.cross_entropy(logits.reshape(-1, V), y.reshape(-1))
            with tg.no_grad():
                right = tg.mean(tg.astype(tg.argmax(logits, axis=-1) == y, "float32"))
                length = tg.sqrt(sum(tg.sum(p * p) for p in side.parameters))
            loss.backward()
            side.optimizer.step()
            return loss.detach(), right, length, logits.shape

        return step

    assert is_planned(train_both(make))


@both
def test_truncated_backpropagation_inside() -> None:
    def make(side: Side) -> Any:
        def step(x: Tensor, y: Tensor) -> Any:
            side.optimizer.zero_grad()
            state, total = None, 0.0
            for part in (slice(0, 2), slice(2, 5)):
                logits, state = side.model(x[part], state)
                loss = F.cross_entropy(logits.reshape(-1, V), y[part].reshape(-1))
                loss.backward()
                state = tg.detach(state)
                total = total + loss.detach()
            side.optimizer.step()
            return total, state

        return step

    assert is_planned(train_both(make))


def test_gradients_of_arguments() -> None:
    w = tg.tensor(np.ones((3, 4)), dtype="float32", requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1)

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = tg.sum(tg.tanh(x @ w) ** 2)
        loss.backward()
        optimizer.step()
        return loss

    for retrace in (True, False):
        planned, before = tg.planned(step, retrace=retrace), w.data
        x, z = (tg.tensor(np.full((2, 3), 0.1), dtype="float32", requires_grad=True) for _ in "ab")
        for _ in range(2):
            planned(x)
            assert is_planned(planned)
        after, w.data = w.numpy().copy(), before
        for _ in range(2):
            step(z)
        np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), rtol=1e-6)
        np.testing.assert_allclose(after, w.numpy(), rtol=1e-6)


# What runs literally.


def literally(make: Callable[[Side], Any], reason: str, **options: Any) -> None:
    step = train_both(make, **options)
    assert reason in step.report()


@both
def test_what_a_plan_does_not_do() -> None:
    def looking(change: Callable[..., Any]) -> Any:
        def make(side: Side) -> Any:
            def step(x: Tensor, y: Tensor) -> Any:
                side.optimizer.zero_grad()
                logits = side.model(x)[0]
                loss = F.cross_entropy(logits.reshape(-1, V), y.reshape(-1))
                kept = change(side, loss, logits)
                side.optimizer.step()
                return loss, kept

            return step

        return make

    def retained(side: Side, loss: Tensor, logits: Tensor) -> None:
        loss.backward(retain_graph=True)
        loss.backward()

    def hooked(side: Side, loss: Tensor, logits: Tensor) -> None:
        logits.register_hook(lambda g: g * 2)
        loss.backward()

    def alive(side: Side, loss: Tensor, logits: Tensor) -> Tensor:
        loss.backward()
        return tg.sum(side.parameters[0] * 2)

    def rebound(side: Side, loss: Tensor, logits: Tensor) -> None:
        loss.backward()
        p = side.parameters[0]
        p.data = p.data * 0.9

    literally(looking(retained), "retain_graph")
    literally(looking(hooked), "a hook")
    literally(looking(alive), "can still be differentiated")
    literally(looking(rebound), "rebound inside")


@both
def test_what_is_read_after_the_update() -> None:
    def looking(look: Callable[[Side], Any]) -> Any:
        def make(side: Side) -> Any:
            step = usual(side)

            def whole(x: Tensor, y: Tensor) -> Any:
                found = step(x, y)
                return found["loss"], look(side)

            whole.names = "backward"  # type: ignore[attr-defined]
            return whole

        return make

    def length(side: Side) -> Any:
        with tg.no_grad():
            return tg.sum(side.parameters[0] ** 2)

    literally(looking(length), "after it was updated")
    literally(looking(lambda side: side.parameters[0].numpy().copy()), "after it was updated")
    literally(looking(lambda side: side.parameters[0].detach()), "after it was updated")
    literally(looking(lambda side: side.optimizer.state[0]["step"]), "after its step")


def test_sparse_gradients() -> None:
    def make(side: Side) -> Any:
        side.model.embedding = nn.Embedding(V, 4, sparse=True)
        side.parameters = list(side.model.parameters())
        side.optimizer = optim.SGD(side.parameters, lr=0.1)
        return usual(side)

    literally(make, "sparse gradients")


def test_a_seed_that_is_set_inside() -> None:
    def make(side: Side) -> Any:
        def step(x: Tensor, y: Tensor) -> Any:
            side.optimizer.zero_grad()
            first = tg.random.uniform((2,))
            tg.manual_seed(4)
            loss = F.cross_entropy(side.model(x)[0].reshape(-1, V), y.reshape(-1))
            loss.backward()
            side.optimizer.step()
            return loss, first

        return step

    literally(make, "manual_seed", dropout=0.5)


def test_hooks_of_parameters_and_anomalies() -> None:
    side, other = Side(usual), Side(usual)
    seen: list[Any] = []
    remove = side.parameters[0].register_hook(lambda g: seen.append(g.numpy()))
    step = tg.planned(side.step)
    step(*batch(0))
    other.step(*batch(0))
    assert len(seen) == 1
    assert "hook" in step.report()
    remove()
    with tg.detect_anomaly():
        assert_close(side.found(step(*batch(1))), other.found(other.step(*batch(1))))
    assert "detect_anomaly" in step.report()
    with tg.literal():
        step(*batch(2))
    assert "literal()" in step.report()
    step(*batch(3))
    assert is_planned(step)


def test_a_kept_loss() -> None:
    losses: list[Any] = []

    def make(side: Side) -> Any:
        step = usual(side)

        def whole(x: Tensor, y: Tensor) -> Any:
            found = step(x, y)
            losses.append(found["loss"])
            return found

        return whole

    literally(make, "keeps a tensor in losses")
    assert len(losses) == 8
    assert all(loss.item() > 0 for loss in losses)


def test_python_runs_once_a_step() -> None:
    side = Side(usual)
    calls = [0]

    def step(x: Tensor, y: Tensor) -> Any:
        calls[0] += 1
        found = side.step(x, y)
        return found["loss"] * float(calls[0]) if calls[0] > 2 else found["loss"]

    planned = tg.planned(step)
    for i in range(5):
        planned(*batch(i))
        assert calls == [i + 1]
        assert is_planned(planned)


class Adding(list[int]):
    """A list with ways of its own."""

    def extend(self, parts: Any) -> None:
        """Add one more."""
        super().extend([*parts, 0])

    clear = copy = None  # type: ignore[assignment]


class Doubling(dict[str, int]):
    """A dict with ways of its own."""

    def __setitem__(self, key: str, value: int) -> None:
        super().__setitem__(key, 2 * value)


def unplanned(x: Tensor) -> Any:
    """The gradient of a sum, in a way that no plan has."""
    w = tg.tensor(np.ones(x.shape, "float32"), requires_grad=True)
    tg.sum(w * x).backward(retain_graph=True)
    return w.grad


def watched_first(x: Tensor) -> Any:
    """The same by a loop over a cell, which is watched before it is planned."""
    w = tg.tensor(np.ones(x.shape, "float32"), requires_grad=True)
    ys, _ = tg.unroll(lambda x, h: (x + 0 * h, h), w * x, tg.zeros(x.shape[1:]))
    tg.sum(ys).backward()
    return w.grad


def count(counts: Any, key: Any) -> None:
    counts[key] = dict(counts).get(key, 0) + 1


CONTAINERS: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
    (lambda: Counter(n=1), lambda c: count(c, "n")),
    (lambda: Counter(n=1), lambda c: count(c, len(c))),
    (lambda: OrderedDict(a=0, b=1), lambda c: c.move_to_end(next(iter(c)))),
    (lambda: OrderedDict(a=0, b=1), lambda c: count(c, len(c))),
    (lambda: defaultdict(int), lambda c: c[len(c)]),
    (lambda: defaultdict(list), lambda c: c["a"].append(1)),
    (lambda: Doubling(a=1), lambda c: count(c, "a")),
    (lambda: UserDict(a=1), lambda c: count(c, "a")),
    (lambda: UserList([1]), lambda c: c.append(len(c))),
    (lambda: Adding([1]), lambda c: c.append(len(c))),
    (lambda: deque([1], maxlen=3), lambda c: c.append(c[-1] + 1)),
    (lambda: {1}, lambda c: c.add(len(c) + 1)),
    (lambda: buffer("i", [0, 0]), lambda c: operator.setitem(c, 0, c[0] + 1)),
]


@pytest.mark.parametrize("gradient", [unplanned, watched_first])
def test_containers_that_a_trace_has_changed_are_put_back(gradient: Any) -> None:
    x = tg.tensor(np.ones((3, 2), "float32"))

    def step_of(held: Any, change: Any) -> Any:
        def step(x: Tensor) -> Any:
            change(held)
            return gradient(x)

        return step

    for make, change in CONTAINERS:
        one, two = make(), make()
        step, planned = step_of(one, change), tg.planned(step_of(two, change))
        for _ in range(5):
            step(x)
            planned(x)
            assert repr(one) == repr(two)


@pytest.mark.parametrize("gradient", [unplanned, watched_first])
def test_arrays_and_generators_that_a_trace_has_moved_are_put_back(gradient: Any) -> None:
    def sides() -> Any:
        plan_cache().cells.clear()
        np.random.seed(1)
        random.seed(2)
        tg.manual_seed(3)
        generators = (
            *(np.random.default_rng(4), np.random.RandomState(5), random.Random(6)),
            np.random.Generator(np.random.MT19937(7)),
        )
        history = np.zeros(4), np.zeros((2, 3), "int64")[:, ::2], np.array([[], None], dtype=object)

        def step(x: Tensor, given: Any) -> Any:
            for array in history[:2]:
                array[0] += 1
            history[2][1] = (history[2][1] or 0) + 1
            given[1:] += 2
            drawn = [
                *(generators[0].standard_normal(), generators[1].normal(), generators[2].random()),
                *(generators[3].integers(1000), np.random.normal(), random.random()),
                nn.Linear(1, 1).weight.numpy().item(),
            ]
            return gradient(x * drawn[0]), drawn

        return step, history

    x, found = tg.tensor(np.ones((3, 2), "float32")), []
    for make in (lambda step: step, tg.planned):
        step, history = sides()
        step, given = make(step), np.zeros(3, "float32")
        drawn = [step(x, given)[1] for _ in range(5)]
        found.append((drawn, [array.tolist() for array in (*history, given)]))
    assert found[0] == found[1]
    assert found[0][1][0][0] == 5


def test_a_large_array_is_not_copied_each_time() -> None:
    data = np.zeros((4, 2**20), "float64")

    def step(x: Tensor) -> Any:
        data[0] += 1
        return unplanned(x)

    x = tg.tensor(np.ones((3, 2), "float32"))
    planned = tg.planned(step)
    for _ in range(5):
        planned(x)
    assert data[0, 0] == 5
    assert "data, too large to copy" in planned.report()

    def reading(x: Tensor) -> Any:
        w = tg.tensor(np.ones((3, 2), "float32"), requires_grad=True)
        tg.sum(w * x * float(data[0, 0])).backward()
        return w.grad

    planned = tg.planned(reading)
    planned(x)
    assert "too large" in planned.report()
    data.flags.writeable = False
    np.testing.assert_allclose(planned(x).numpy(), 5)
    assert is_planned(planned), planned.report()


@both
def test_a_tensor_that_is_given_twice_is_one() -> None:
    def step(q: Tensor, k: Tensor, more: Any = ()) -> Any:
        q.grad = k.grad = None
        loss = tg.sum(q * k * (37 if q is k else 333))
        loss = loss + tg.sum(q * 2 if any(m is q for m in more) else q)
        loss.backward()
        return loss, q.grad, k.grad, q

    def leaf(seed: int) -> Tensor:
        array = np.random.default_rng(seed).normal(size=(3, 2)).astype("float32")
        return tg.tensor(array, requires_grad=True)

    x, y = leaf(0), leaf(1)
    planned = tg.planned(step, retrace=RETRACE[0])
    for _ in range(2):
        for args in ((x, x), (x, y), (y, y), (y, x), (x, y, [y, x]), (x, y, [y, y]), (x, x, [x])):
            expected = [np.array(a.numpy()) for a in step(*args)]
            found = planned(*args)
            assert is_planned(planned)
            assert found[3] is args[0]
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a.numpy(), b, rtol=1e-5)


@both
def test_a_tensor_that_is_given_and_captured() -> None:
    const = tg.tensor(np.ones((3, 2), "float32"))

    def step(q: Tensor) -> Any:
        w = tg.tensor(np.ones((3, 2), "float32"), requires_grad=True)
        tg.sum(w * q * (37 if q is const else 333)).backward()
        return w.grad

    planned = tg.planned(step, retrace=RETRACE[0])
    for _ in range(2):
        np.testing.assert_allclose(planned(const).numpy(), 37)
        assert "it reaches as well" in planned.report()
    np.testing.assert_allclose(planned(const * 1).numpy(), 333)
    assert is_planned(planned)


# Mistakes.


def test_values_are_not_there_yet() -> None:
    def make(side: Side) -> Any:
        def step(x: Tensor, y: Tensor) -> Any:
            side.optimizer.zero_grad()
            loss = F.cross_entropy(side.model(x)[0].reshape(-1, V), y.reshape(-1))
            loss.backward()
            norm = optim.clip_grad_norm_(side.parameters, 0.1)
            side.optimizer.step()
            return loss.item(), norm

        return step

    side = Side(make)
    before = side.found(())
    with pytest.raises(TypeError, match=r"item|numpy.*return it from the step"):
        tg.planned(side.step)(*batch(0))
    assert_close(side.found(()), before)
    assert all(p.grad is None for p in side.parameters)
    side.step(*batch(0))


def failing(side: Side, where: str) -> Callable[..., Any]:
    step = usual(side)

    def whole(x: Tensor, y: Tensor) -> Any:
        found = step(x, y)
        if where == "after":
            raise KeyError("after the update")
        if where == "interrupt":
            raise KeyboardInterrupt
        return found

    return whole


def test_a_step_that_raises_changes_nothing() -> None:
    for where, error in (
        *(("after", KeyError), ("clip", FloatingPointError), ("shape", ValueError)),
        ("interrupt", KeyboardInterrupt),
    ):
        side = Side(lambda side, where=where: failing(side, where))
        good = usual(side)
        good(*batch(0))
        before, state = side.found(()), dict(side.optimizer.state)
        if where == "clip":
            p = side.model.out.weight
            p.data = p.numpy() * np.float32(np.inf)
            before = side.found(())
        x, y = batch(1)
        with pytest.raises(error):
            tg.planned(side.step)(x, y[:2] if where == "shape" else y)
        assert_close(side.found(()), before)
        assert side.optimizer.state == state


@both
def test_indices_out_of_bounds() -> None:
    side = Side(usual)
    step = tg.planned(side.step, retrace=RETRACE[0])
    step(*batch(0))
    before = side.found(())
    for place in range(2):
        given = list(batch(1))
        given[place] = given[place].at[0, 0].set(V)
        with pytest.raises((IndexError, ValueError)):
            step(*given)
    assert_close(side.found(()), before)


@both
def test_the_error_of_an_index_tells_how_to_learn_the_operation() -> None:
    side = Side(usual)
    step = tg.planned(side.step, retrace=RETRACE[0])
    for _ in range(3):
        step(*batch(0))
    tokens, *rest = batch(1)
    tokens = tokens.at[0, 0].set(V)
    with pytest.raises(IndexError, match=rf"planned: index {V} .*tinygrad_rnn\.literal\(\) around"):
        step(tokens, *rest)
    with tg.literal(), pytest.raises(IndexError, match=rf"^embedding: .*numbered 0 to {V - 1}"):
        step(tokens, *rest)


def test_frozen_added_and_moved_parameters() -> None:
    sides = Side(usual), Side(usual)
    steps = sides[0].step, tg.planned(sides[1].step)
    for change in range(4):
        for side in sides:
            if change == 1:
                side.model.embedding.weight.requires_grad = False
            if change == 2:
                extra = tg.tensor(np.ones(3), dtype="float32", requires_grad=True)
                side.optimizer.add_param_group({"params": [extra], "lr": 1.0})
            if change == 3:
                side.model.embedding.weight.requires_grad = True
        expected, found = (
            side.found(step(*batch(change))) for side, step in zip(sides, steps, strict=True)
        )
        assert_close(found, expected)
        assert is_planned(steps[1])


def test_shapes_that_change_every_call() -> None:
    side = Side(usual)
    step = tg.planned(side.step)
    bound = plan_cache().bound
    plan_cache().bound = 8
    try:
        for n in range(1, 15):
            rng = np.random.default_rng(n)
            step(*(tg.tensor(rng.integers(0, V, (n, B))) for _ in range(2)))
            assert len(plan_cache()) <= 8
    finally:
        plan_cache().bound = bound


@both
def test_threads_train_models_of_their_own() -> None:
    expected: dict[int, Any] = {}
    found: dict[int, Any] = {}

    def train(number: int, side: Side, planned: bool) -> None:
        step = tg.planned(side.step, retrace=RETRACE[0]) if planned else side.step
        for i in range(4):
            returned = step(*batch(10 * number + i))
        (found if planned else expected)[number] = side.found(returned)

    for number in range(3):
        train(number, Side(usual), False)
    sides = [Side(usual) for _ in range(3)]
    threads = [
        threading.Thread(target=train, args=(number, side, True))
        for number, side in enumerate(sides)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(3):
        assert_close(found[number], expected[number])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_known_step_goes_on_in_a_fork() -> None:
    one, two, step = known_beside()
    step_both(one, two, step, *batch(0))
    pid = os.fork()
    if not pid:
        failed = 1
        try:
            step_both(one, two, step, *batch(1))
            failed = 0
        finally:
            os._exit(failed)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    step_both(one, two, step, *batch(1))


def test_no_memory_is_kept() -> None:
    side = Side(usual)
    step = tg.planned(side.step)
    step(*batch(0))
    gc.collect()
    gc.disable()
    try:
        counts = []
        for i in range(6):
            step(*batch(i))
            counts.append(sum(isinstance(x, Tensor) for x in gc.get_objects()))
    finally:
        gc.enable()
    assert counts[-1] <= counts[1] + 2


OPERATIONS: list[Callable[..., Tensor]] = [
    lambda h, p: tg.tanh(h @ p[:6, :6]),
    lambda h, p: F.dropout(h, 0.3),
    lambda h, p: h * tg.sigmoid(p[0, :6]),
    lambda h, p: F.layer_norm(h),
    lambda h, p: tg.concat([h[..., 3:], h[..., :3]], axis=-1),
    lambda h, p: h + tg.random.uniform(h.shape, dtype="float32"),
    lambda h, p: tg.unroll(lambda x, s: (x + s, 0.5 * s + x), h, h[0], mode="planned")[0],
    lambda h, p: tg.cumulative_sum(h, axis=0) * 0.2,
    lambda h, p: h.detach() * 0.1 + h,
    lambda h, p: F.softmax(h, axis=-1) * h,
]


@examples(30)
@given(st.lists(st.sampled_from(range(len(OPERATIONS))), min_size=1, max_size=7), st.booleans())
def test_random_steps(lines: list[int], clips: bool) -> None:
    def make(side: Side) -> Any:
        w = tg.tensor(np.random.default_rng(1).normal(size=(6, V)), dtype="float32")
        w.requires_grad = True
        side.parameters = [w, *side.model.embedding.parameters()]
        side.optimizer = optim.Adam(side.parameters, lr=0.01)

        def step(x: Tensor, y: Tensor) -> Tensor:
            side.optimizer.zero_grad()
            e = side.model.embedding(x)
            h = tg.concat([e, e[..., :2]], axis=-1)
            for i in lines:
                h = OPERATIONS[i](h, w)
            loss = F.cross_entropy((h @ w).reshape(-1, V), y.reshape(-1))
            loss.backward()
            if clips:
                optim.clip_grad_norm_(side.parameters, 0.5)
            side.optimizer.step()
            return loss

        return step

    step = train_both(make, steps=2)
    assert is_planned(step), step.report()


# Known by what it reaches: ``retrace=False``.


def known_beside(make: Callable[[Side], Any] = usual, **options: Any) -> tuple[Side, Side, Any]:
    """A side that steps itself and one whose planned step is known."""
    one, two = Side(make, **options), Side(make, **options)
    return one, two, tg.planned(two.step, retrace=False)


def step_both(one: Side, two: Side, step: Any, *args: Any) -> None:
    """A step of either with the same draws; all that comes of it is compared."""
    tg.manual_seed(1)
    expected = one.found(one.step(*args))
    tg.manual_seed(1)
    assert_close(two.found(step(*args)), expected)
    assert is_planned(step), step.report()


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often anything was traced."""
    count = [0]

    def counting(prepare: Any) -> Any:
        def prepared(*args: Any) -> Any:
            count[0] += 1
            return prepare(*args)

        return prepared

    for name in ("prepare_step", "prepare_function"):
        monkeypatch.setattr(module, name, counting(getattr(module, name)))
    return count


def test_python_runs_only_where_something_changed(traces: list[int]) -> None:
    one, two, step = known_beside(dropout=0.3)
    for i in range(3):
        step_both(one, two, step, *batch(i))
    assert traces == [1]
    for side in (one, two):
        side.model.eval()
    step_both(one, two, step, *batch(3))
    assert traces == [2]


def test_settings_of_an_optimizer_are_read_each_time(traces: list[int]) -> None:
    one, two, step = known_beside(kind=optim.SGD, momentum=0.9)
    schedules = [optim.lr_scheduler.ExponentialLR(s.optimizer, 0.5) for s in (one, two)]
    for i in range(3):
        step_both(one, two, step, *batch(i))
        for schedule in schedules:
            schedule.step()
    for side in (one, two):
        side.optimizer.param_groups[0]["weight_decay"] = 0.1
    step_both(one, two, step, *batch(3))
    assert traces == [1]


def change_nothing(side: Side) -> None:
    """So that a step is known."""


def change_data(side: Side) -> None:
    p = side.parameters[2]
    p.data = p.data * 0.5


def freeze(side: Side) -> None:
    side.parameters[1].requires_grad = False
    side.parameters[1].grad = None


def thaw(side: Side) -> None:
    side.parameters[1].requires_grad = True


def load_model(side: Side) -> None:
    side.model.load_state_dict({k: x.numpy() * 0.5 for k, x in side.model.state_dict().items()})


def load_optimizer(side: Side) -> None:
    side.optimizer.load_state_dict(side.optimizer.state_dict())


def add_parameter(side: Side) -> None:
    extra = tg.tensor(np.ones((4, V)), dtype="float32", requires_grad=True)
    side.optimizer.add_param_group({"params": [extra], "lr": 1.0})
    side.parameters.append(extra)


def change_rate(side: Side) -> None:
    side.model.dropout.p = 0.7


def replace_layer(side: Side) -> None:
    tg.manual_seed(9)
    side.model.out = nn.Linear(6, V)


def drop_gradients(side: Side) -> None:
    side.optimizer.zero_grad()


def change_dtype(side: Side) -> None:
    side.optimizer = optim.SGD(side.parameters, lr=0.01)


CHANGES = [
    *(change_nothing, change_data, freeze, thaw, load_model, load_optimizer, add_parameter),
    *(change_rate, replace_layer, drop_gradients, change_dtype),
]


def accumulating(side: Side) -> Any:
    def step(x: Tensor, y: Tensor) -> Any:
        loss = F.cross_entropy(side.model(x)[0].reshape(-1, V), y.reshape(-1))
        loss.backward()
        side.optimizer.step()
        return loss

    return step


@pytest.mark.parametrize("make", [usual, accumulating])
def test_whatever_changes_outside_is_noticed(make: Any) -> None:
    one, two, step = known_beside(make, dropout=0.2)
    for i, change in enumerate(CHANGES):
        for side in (one, two):
            change(side)
        for j in range(2):
            step_both(one, two, step, *batch(2 * i + j))


def test_a_number_that_it_names() -> None:
    scale = 1.0

    def make(side: Side) -> Any:
        def step(x: Tensor, y: Tensor, weight: float = 1.0) -> Any:
            side.optimizer.zero_grad()
            loss = F.cross_entropy(side.model(x)[0].reshape(-1, V), y.reshape(-1))
            loss = loss * scale * weight
            loss.backward()
            side.optimizer.step()
            return loss

        return step

    one, two, step = known_beside(make)
    for scale in (1.0, 1.0, 0.5, 2.0):  # noqa: B007
        step_both(one, two, step, *batch(0))
    for weight in (1.0, 0.5, 0.5):
        step_both(one, two, step, *batch(0), weight)


def test_side_effects_do_not_run_again() -> None:
    """What the docstring says: logs, counters and schedules belong outside."""
    log: list[int] = []
    side = Side(usual)
    scheduler = optim.lr_scheduler.StepLR(side.optimizer, 1, gamma=0.5)

    def whole(x: Tensor, y: Tensor) -> Any:
        log.append(len(log))
        found = side.step(x, y)
        scheduler.step()
        return found, len(log)

    step = tg.planned(whole, retrace=False)
    found = [step(*batch(i))[1] for i in range(4)]
    assert log == [0]
    assert found == [1] * 4
    assert side.optimizer.param_groups[0]["lr"] == 0.05 * 0.5


def test_hooks_and_anomalies_of_a_known_step() -> None:
    one, two, step = known_beside()
    step_both(one, two, step, *batch(0))
    seen: list[Any] = []
    remove = two.parameters[0].register_hook(lambda g: seen.append(1))
    assert_close(two.found(step(*batch(1))), one.found(one.step(*batch(1))))
    assert (len(seen), is_planned(step)) == (1, False)
    remove()
    with tg.detect_anomaly():
        assert_close(two.found(step(*batch(2))), one.found(one.step(*batch(2))))
    assert not is_planned(step)
    step_both(one, two, step, *batch(3))
    with pytest.raises(RuntimeError), tg.no_grad():
        step(*batch(0))
    assert_close(two.found(()), one.found(()))


def test_earlier_results_are_kept() -> None:
    side = Side(usual)
    step = tg.planned(side.step, retrace=False)
    kept = [(step(*batch(i)), side.parameters[0].grad, side.parameters[0].data) for i in range(4)]
    again = Side(usual)
    for i, (returned, grad, array) in enumerate(kept):
        expected = again.step(*batch(i))
        assert returned["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-6)
        np.testing.assert_allclose(grad.numpy(), again.parameters[0].grad.numpy(), atol=1e-6)
        np.testing.assert_allclose(array, again.parameters[0].numpy(), atol=1e-5)


def test_a_known_step_that_raises_changes_nothing() -> None:
    one, two, step = known_beside()
    step_both(one, two, step, *batch(0))
    weights = two.model.out.weight.numpy().copy()
    two.model.out.weight.data = weights * np.float32(np.inf)
    before, state = two.found(()), dict(two.optimizer.state)
    for _ in range(2):
        with pytest.raises(FloatingPointError):
            step(*batch(1))
    assert_close(two.found(()), before)
    assert two.optimizer.state == state
    two.model.out.weight.data = weights
    step_both(one, two, step, *batch(1))


def test_arguments_of_a_known_step(traces: list[int]) -> None:
    def make(side: Side) -> Any:
        layer = nn.GRU(4, 6)
        side.parameters = [*layer.parameters(), *side.model.embedding.parameters()]
        side.optimizer = optim.SGD(side.parameters, lr=0.1)

        def step(x: Tensor, y: Tensor, lengths: Any) -> Any:
            side.optimizer.zero_grad()
            out, _ = layer(side.model.embedding(x), lengths=lengths)
            loss = tg.mean(out * out)
            loss.backward()
            side.optimizer.step()
            return loss, x

        return step

    one, two, step = known_beside(make)
    for lengths in ([5, 3, 1], np.array([5, 3, 1]), np.array([2, 3, 1]), [5, 3, 1]):
        x, y = batch(int(np.sum(lengths)))
        step_both(one, two, step, x, y, lengths)
        assert step(x, y, lengths)[1] is x
        one.step(x, y, lengths)
    assert traces == [3]


def test_functions_that_do_not_differentiate_are_traced_at_every_call(traces: list[int]) -> None:
    """What they make of captured Tensors alone is computed in the trace, so it would be stale."""
    w = tg.tensor(np.ones((200, 200)), dtype="float32", requires_grad=True)
    x = tg.tensor(np.ones((200, 200)), dtype="float32")
    scale = 1.0
    p = tg.planned(lambda x: (F.dropout(tg.tanh(x @ w), 0.5) * scale, x), retrace=False)
    for scale in (1.0, 1.0, 2.0, 2.0):  # noqa: B007
        tg.manual_seed(1)
        y, same = p(x)
        assert same is x
        (g,) = tg.grad(tg.sum(y), [w])
        tg.manual_seed(1)
        with tg.literal():  # or dropout would be planned by itself
            expected, _ = p.function(x)
        (h,) = tg.grad(tg.sum(expected), [w])
        np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-6)
        np.testing.assert_allclose(g.numpy(), h.numpy(), rtol=1e-5)
        w.data = w.data * 0.5
    assert traces == [3]  # the first call is watched


def small_step(make: Any) -> tuple[Any, Any, Any]:
    """A step known with ``retrace=False`` that multiplies by what ``make`` gives, and the same."""
    layer = nn.Linear(4, 4)
    optimizer = optim.SGD(layer.parameters(), lr=0.0)

    def step(x: tg.Tensor) -> tg.Tensor:
        optimizer.zero_grad()
        loss = tg.sum((layer(x) * make()) ** 2)
        loss.backward()
        optimizer.step()
        return loss

    return step, tg.planned(retrace=False)(step), tg.ones((3, 4))


def test_a_guard_looks_behind_pure_and_into_arrays_and_many_things(traces: list[int]) -> None:
    class Scale:
        factor = 1.0

        def __call__(self) -> float:
            return self.factor

    things = [Scale() for _ in range(2500)]
    held, small, large = tg.pure(Scale()), np.ones(20), np.ones(20_000)
    value = tg.tensor(1.0)

    @tg.pure
    def vouched() -> float:
        return held()

    cases: list[tuple[Any, Any]] = [
        (vouched, lambda: setattr(held, "factor", 3.0)),
        (lambda: things[0].factor, lambda: setattr(things[0], "factor", 3.0)),
        (lambda: float(small[3]), lambda: small.__setitem__(3, 3.0)),
        (lambda: float(large[3]), lambda: large.__setitem__(3, 3.0)),
        (lambda: value.item(), lambda: setattr(value, "data", np.float32(3.0))),
    ]
    for n, (make, change) in enumerate(cases):
        step, known, x = small_step(make)
        for _ in range(3):
            known(x)
        change()
        np.testing.assert_allclose(known(x).item(), step(x).item(), rtol=1e-6, err_msg=str(n))
