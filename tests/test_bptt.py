"""Backpropagation through time: derived by the library, and by hand.

The network is Elman's (1990), for t = 1 ... T and a batch of rows::

    a_t = x_t W + h_{t-1} U + b        h_t = tanh(a_t)        y_t = h_t V + c

With a loss L = sum_t l_t(y_t), write dz for dL/dz. By the chain rule, from the last step to the
first, where h_t reaches the loss through y_t and through h_{t+1}::

    dy_t = l_t'(y_t)
    dh_t = dy_t V^T + da_{t+1} U^T                         with da_{T+1} = 0
    da_t = dh_t * (1 - h_t^2)                              as tanh' = 1 - tanh^2

and because every step uses the same parameters, their gradients are sums over time::

    dV = sum_t h_t^T dy_t      dc = sum_t sum_rows dy_t
    dW = sum_t x_t^T da_t      dU = sum_t h_{t-1}^T da_t      db = sum_t sum_rows da_t
    dx_t = da_t W^T            dh_0 = da_1 U^T

For the squared loss l = 1/2 sum (y - target)^2, l' = y - target. For the softmax cross-entropy
l = -log p[target] with p = softmax(y), l' = p - onehot(target).

``elman_by_hand`` is these lines; nobody wrote them in the library.
"""

from __future__ import annotations

import gc
import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim

NAMES = ("W", "U", "b", "V", "c")
Arrays = dict[str, np.ndarray[Any, Any]]

T, B, INPUT, HIDDEN, OUTPUT = 8, 3, 2, 5, 3


def elman_by_hand(p: Arrays, x: Any, h0: Any, target: Any, loss: str) -> tuple[float, Arrays]:
    """The loss and the gradients, by the equations above."""
    h, y = [h0], []
    for t in range(T):
        h.append(np.tanh(x[t] @ p["W"] + h[-1] @ p["U"] + p["b"]))
        y.append(h[-1] @ p["V"] + p["c"])
    if loss == "squared":
        dy = np.stack(y) - target
        total = 0.5 * np.sum(dy**2)
    else:
        powers = np.exp(np.stack(y))
        probabilities = powers / powers.sum(axis=-1, keepdims=True)
        total = -np.sum(np.log(np.take_along_axis(probabilities, target[..., None], axis=-1)))
        dy = probabilities - np.eye(OUTPUT)[target]
    d = {name: np.zeros_like(p[name]) for name in NAMES}
    d["x"] = np.zeros_like(x)
    da = np.zeros_like(h0)  # of step t + 1
    for t in range(T)[::-1]:
        before, after = h[t], h[t + 1]
        dh = dy[t] @ p["V"].T + da @ p["U"].T
        da = dh * (1 - after**2)
        d["V"] += after.T @ dy[t]
        d["c"] += dy[t].sum(axis=0)
        d["W"] += x[t].T @ da
        d["U"] += before.T @ da
        d["b"] += da.sum(axis=0)
        d["x"][t] = da @ p["W"].T
    d["h0"] = da @ p["U"].T
    return float(total), d


def elman(p: dict[str, Tensor], x: Tensor, h0: Tensor) -> Tensor:
    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = tg.tanh(x @ p["W"] + h @ p["U"] + p["b"])
        return h @ p["V"] + p["c"], h

    y, _ = tg.unroll(cell, x, h0, mode="literal")
    return y


def parameters(rng: np.random.Generator) -> dict[str, Tensor]:
    shapes = [(INPUT, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN,), (HIDDEN, OUTPUT), (OUTPUT,)]
    return {
        name: tg.tensor(rng.normal(size=shape, scale=0.5), requires_grad=True)
        for name, shape in zip(NAMES, shapes, strict=True)
    }


@pytest.mark.parametrize("loss", ["squared", "softmax"])
def test_derived_bptt_is_the_hand_written_one_at_each_of_1000_training_steps(loss: str) -> None:
    rng = np.random.default_rng(0)
    p = parameters(rng)
    x = tg.tensor(rng.normal(size=(T, B, INPUT)), requires_grad=True)
    h0 = tg.tensor(rng.normal(size=(B, HIDDEN)), requires_grad=True)
    target = rng.normal(size=(T, B, OUTPUT))
    if loss == "softmax":
        target = rng.integers(OUTPUT, size=(T, B))
    wanted = {**p, "x": x, "h0": h0}
    losses = []
    for _ in range(1000):
        y = elman(p, x, h0)
        if loss == "squared":
            total = 0.5 * tg.square(y - target).sum()
        else:
            flat, classes = y.reshape(T * B, OUTPUT), tg.tensor(target.ravel())
            total = tg.cross_entropy(flat, classes, reduction="sum")
        derived = tg.grad(total, wanted)
        by_hand = elman_by_hand(
            {name: q.numpy() for name, q in p.items()}, x.numpy(), h0.numpy(), target, loss
        )
        assert abs(total.item() - by_hand[0]) <= 1e-12 * max(1.0, by_hand[0])
        for name, g in by_hand[1].items():
            difference = np.abs(derived[name].numpy() - g).max()
            assert difference <= 1e-12 * max(1.0, np.abs(g).max()), name
        for name, q in p.items():
            q.data = q.data - 0.02 * derived[name].data
        losses.append(total.item())
    assert losses[-1] < 0.2 * losses[0]  # it was no fixed point that the two agreed at


# 100,000 steps: every walk is iterative.

STEPS = 100_000


def decay(steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """h_T of h_t = w h_{t-1}, a path of as many nodes; dh_T/dw = T w^(T-1) h_0."""
    w = tg.tensor(1.0 - 1e-5, "float64", requires_grad=True)
    h = tg.tensor(1.0, "float64")
    for _ in range(steps):
        h = h * w
    return w, h


def test_backward_through_100000_steps() -> None:
    w, h = decay()
    h.backward()
    assert_allclose(w.grad.item(), STEPS * w.item() ** (STEPS - 1), rtol=1e-9)


def test_unroll_and_its_gradients_over_100000_steps() -> None:
    x = tg.full((STEPS, 1), 1e-5, "float64")
    x.requires_grad = True

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = h + x
        return h, h

    y, h = tg.unroll(cell, x, tg.zeros(1, "float64"))
    assert_allclose(h.item(), 1.0, rtol=1e-9)
    g = tg.grad(y[-1].sum() + y[0].sum(), x)
    assert g.numpy()[:2, 0].tolist() == [2, 1]
    assert g.numpy()[2:].min() == g.numpy()[2:].max() == 1


def test_a_second_derivative_through_a_long_path() -> None:
    steps = STEPS // 5
    w, h = decay(steps)
    g = tg.grad(h, w, create_graph=True)
    (second,) = tg.grad(g, [w])
    assert_allclose(second.item(), steps * (steps - 1) * w.item() ** (steps - 2), rtol=1e-9)


def test_deletion_of_a_graph_of_100000_steps() -> None:
    _, h = decay()
    del h  # a chain of owners: Python must not recurse, either
    w, h = decay()
    outputs = [tg.checkpoint(lambda h: h * w)(h) for _ in range(3)]
    del h, outputs
    h = tg.tensor(1.0, requires_grad=True)
    for _ in range(STEPS // 10):
        h = tg.checkpoint(tg.sin)(h)
    del h


def test_pickling_and_copying_the_end_of_100000_steps() -> None:
    _, h = decay()
    loaded = pickle.loads(pickle.dumps(h))
    assert loaded.item() == h.item()
    assert len(pickle.dumps(h)) < 1000  # the value, not the path to it


def test_drawing_100000_steps() -> None:
    w, h = decay()
    text = tg.to_text(h, {"w": w})
    assert text.count("\n") == STEPS
    assert f"v{STEPS + 1} = multiply(v{STEPS}, w)" in text
    assert tg.to_dot(h, {"w": w}).count('"w" -> ') == STEPS


def test_many_levels_of_structure_and_names() -> None:
    """Structures are as deep as somebody typed them, but the sum of many tensors is a long path."""
    x = tg.ones(2, requires_grad=True)
    total = sum([x * float(i) for i in range(10_000)], tg.zeros(2))
    total.sum().backward()
    assert x.grad.tolist() == [49_995_000.0] * 2


# No growth over training, with the garbage collector off.


def elman_step() -> Callable[[], None]:
    rng = np.random.default_rng(1)
    p = parameters(rng)
    x, h0 = tg.tensor(rng.normal(size=(T, B, INPUT))), tg.zeros((B, HIDDEN), "float64")

    def step() -> None:
        total = tg.square(elman(p, x, h0)).sum()
        total.backward()
        for q in p.values():
            q.data = q.data - 0.01 * q.grad.data
            q.grad = None

    return step


def lstm_step() -> Callable[[], None]:
    cell, head = nn.LSTMCell(INPUT, HIDDEN), nn.Linear(HIDDEN, OUTPUT)
    weights = [*cell.parameters(), *head.parameters()]
    optimiser = optim.Adam(weights, lr=0.01)
    x = tg.random.uniform((T, B, INPUT))
    state: list[Any] = [None]

    def step() -> None:  # truncated: the state is carried over, detached
        y, (h, c) = tg.unroll(tg.checkpoint(cell), x, state[0] or cell.initial_state(
            (B,), "float32", "numpy"), lengths=[T, T - 1, 2])
        state[0] = (h.detach(), c.detach())
        loss = tg.cross_entropy(head(tg.dropout(y)).reshape(T * B, OUTPUT), tg.zeros(T * B, "int64"))
        optimiser.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(weights, 1.0)
        optimiser.step()

    return step


def second_order_step() -> Callable[[], None]:
    w = tg.ones(4, requires_grad=True)
    xs = tg.random.uniform((3, 4))

    def step() -> None:
        each = tg.vmap(tg.value_and_grad(lambda x: tg.tanh(x * w).sum()))(xs)[1]
        penalty = tg.square(each).sum() + tg.hvp(lambda w: tg.sin(w).sum(), w, w).sum()
        g = tg.grad(penalty, w, create_graph=True)
        w.data = w.data - 0.01 * tg.grad(g.sum(), w).data

    return step


def interrupted_step() -> Callable[[], None]:
    """A graph that is never gone through, and one that is but for an error."""
    p = parameters(np.random.default_rng(2))
    x, h0 = tg.ones((T, B, INPUT), "float64"), tg.zeros((B, HIDDEN), "float64")

    def step() -> None:
        elman(p, x, h0)
        y = elman(p, x, h0)
        y.sum().backward()
        with pytest.raises(tg.ReleasedGraphError):
            y.sum().backward()
        for q in p.values():
            q.grad = None

    return step


@pytest.mark.parametrize("make", [elman_step, lstm_step, second_order_step, interrupted_step])
def test_nothing_grows_over_200_training_steps_with_the_collector_off(
    make: Callable[[], Callable[[], None]],
) -> None:
    step = make()
    for _ in range(20):
        step()
    gc.collect()
    gc.disable()
    try:
        tracemalloc.start()
        for _ in range(5):
            step()
        objects, (held, _) = len(gc.get_objects()), tracemalloc.get_traced_memory()
        for _ in range(200):
            step()
        grown, (now, _) = len(gc.get_objects()) - objects, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert grown <= 20  # a tenth of an object a step
    assert now - held <= 20_000  # 100 bytes a step: less than the smallest node
