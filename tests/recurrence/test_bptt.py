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
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim

NAMES = ("W", "U", "b", "V", "c")
Arrays = dict[str, np.ndarray[Any, Any]]

MODES = ("literal", "planned")
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
    assert losses[-1] < 0.5 * losses[0]  # it was no fixed point that the two agreed at


# 100,000 steps: every walk is iterative.

STEPS = 100_000


def decay(steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """h_T of h_t = w h_{t-1}, a path of as many nodes; dh_T/dw = T w^(T-1) h_0."""
    w = tg.tensor(1.0 - 1e-5, "float64", requires_grad=True)
    h = tg.tensor(1.0, "float64")
    for _ in range(steps):
        h = h * w
    return w, h


@pytest.fixture(scope="module")
def long_path() -> tuple[Tensor, Tensor]:
    return decay()


def test_backward_through_100000_steps(long_path: tuple[Tensor, Tensor]) -> None:
    w, h = long_path
    h.backward(retain_graph=True)
    assert_allclose(w.grad.item(), STEPS * w.item() ** (STEPS - 1), rtol=1e-9)


def test_pickling_the_end_of_100000_steps(long_path: tuple[Tensor, Tensor]) -> None:
    _, h = long_path
    pickled = pickle.dumps(h)
    assert pickle.loads(pickled).item() == h.item()
    assert len(pickled) < 1000  # the value, not the path to it


def test_drawing_100000_steps(long_path: tuple[Tensor, Tensor]) -> None:
    w, h = long_path
    text = tg.to_text(h, {"w": w})
    assert text.count("\n") == STEPS
    assert f"v{STEPS + 1} = multiply(v{STEPS}, w)" in text
    assert tg.to_dot(h, {"w": w}).count('"w" -> ') == STEPS


def test_deletion_of_100000_steps() -> None:
    x = h = tg.tensor(1.0, requires_grad=True)
    for _ in range(STEPS):
        h = -h
    del h  # a chain of owners: Python must not recurse, either
    parts = [x * 1.0]
    for _ in range(STEPS // 10):
        parts = list(tg.split(tg.concat([parts[0][None], x[None]]), 2))
        parts[0] = tg.checkpoint(tg.sin)(parts[0][0])
    del parts


@pytest.mark.parametrize("mode", MODES)
def test_unroll_over_100000_steps_and_its_gradient(mode: Any) -> None:
    x = tg.full((STEPS, 1), 1e-5, "float64")
    x.requires_grad = True

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = h + x
        return h, h

    y, h = tg.unroll(cell, x, tg.zeros(1, "float64"), mode=mode)
    assert_allclose(h.item(), 1.0, rtol=1e-9)
    g = tg.grad(y[-1].sum() + y[0].sum(), x).numpy()
    assert g[:2, 0].tolist() == [2, 1]
    assert g[2:].min() == g[2:].max() == 1


def test_a_second_derivative_through_20000_steps() -> None:
    steps = STEPS // 5
    w, h = decay(steps)
    g = tg.grad(h, w, create_graph=True)
    (second,) = tg.grad(g, [w])
    assert_allclose(second.item(), steps * (steps - 1) * w.item() ** (steps - 2), rtol=1e-9)


# No growth over training, with the garbage collector off.

WIDTH = 32


def elman_step() -> Callable[[], None]:
    rng = np.random.default_rng(1)
    w, u = (tg.tensor(rng.normal(size=(WIDTH, WIDTH)), requires_grad=True) for _ in range(2))
    p = {**parameters(rng), "W": w, "U": u, "b": w[0].detach(), "V": u * 0.5, "c": u[0].detach()}
    x, h0 = tg.tensor(rng.normal(size=(4, WIDTH, WIDTH))), tg.zeros((WIDTH, WIDTH), "float64")

    def step() -> None:
        p["V"] = u * 0.5
        tg.square(elman(p, x, h0)).sum().backward()
        for q in (w, u):
            q.data = q.data - 1e-6 * q.grad.data
            q.grad = None

    return step


def lstm_step(mode: Any) -> Callable[[], None]:
    """Truncated: the state is carried over, detached. Ragged, checkpointed, with dropout."""
    cell, head = nn.LSTMCell(INPUT, WIDTH), nn.Linear(WIDTH, OUTPUT)
    weights = [*cell.parameters(), *head.parameters()]
    optimiser = optim.Adam(weights, lr=0.01)
    x, target = tg.random.uniform((4, WIDTH, INPUT)), tg.zeros(4 * WIDTH, "int64")
    carried: list[Any] = [cell.initial_state((WIDTH,), "float32", "numpy")]

    def step() -> None:
        lengths = [4, 3, 0, 1] * (WIDTH // 4)
        y, (h, c) = tg.unroll(tg.checkpoint(cell), x, carried[0], lengths=lengths, mode=mode)
        carried[0] = (h.detach(), c.detach())
        loss = tg.cross_entropy(head(tg.dropout(y)).reshape(4 * WIDTH, OUTPUT), target)
        optimiser.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(weights, 1.0)
        optimiser.step()

    return step


def second_order_step() -> Callable[[], None]:
    w, xs = tg.ones(WIDTH**2, requires_grad=True), tg.random.uniform((3, WIDTH**2))

    def step() -> None:
        each = tg.vmap(tg.value_and_grad(lambda x: tg.tanh(x * w).sum()))(xs)[1]
        penalty = tg.square(each).sum() + tg.hvp(lambda w: tg.sin(w).sum(), w, w).sum()
        g = tg.grad(penalty, w, create_graph=True)
        w.data = w.data - 0.01 * tg.grad(g.sum(), w).data

    return step


def interrupted_step(mode: Any) -> Callable[[], None]:
    """A graph that is never gone through, one that is so once too often, and one with an error."""
    w, x = tg.ones((WIDTH, WIDTH), requires_grad=True), tg.random.uniform((4, WIDTH, WIDTH))

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = tg.tanh(x @ w + h)
        return h, h

    def step() -> None:
        tg.unroll(cell, x, x[0], mode=mode)
        y, _ = tg.unroll(cell, x, x[0], mode=mode)
        y.sum().backward()
        with pytest.raises(tg.ReleasedGraphError):
            y.sum().backward()
        with pytest.raises(ValueError, match="cotangent"):
            tg.unroll(cell, x, x[0], mode=mode)[0].backward()
        w.grad = None

    return step


@pytest.mark.parametrize(
    "make",
    [
        elman_step,
        second_order_step,
        *(
            pytest.param(partial(make, mode), id=f"{make.__name__}-{mode}")
            for make in (lstm_step, interrupted_step)
            for mode in MODES
        ),
    ],
)
def test_nothing_grows_over_200_training_steps_with_the_collector_off(
    make: Callable[[], Callable[[], None]],
) -> None:
    """Not an object that could be in a cycle, no array, and of the rest not 100 bytes a step."""
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)

    def held() -> tuple[int, int, int]:
        objects = len(gc.get_objects())
        gc.freeze()  # a full collection then frees what Python keeps for reuse, and no cycle
        gc.collect()
        gc.unfreeze()
        in_arrays = tracemalloc.take_snapshot().filter_traces([arrays]).statistics("filename")
        total, _ = tracemalloc.get_traced_memory()
        return objects, sum(s.size for s in in_arrays), total

    step = make()
    for _ in range(10):
        step()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(200):  # what NumPy keeps for reuse levels off: half as much every 200 steps
            step()
        before = held()
        for _ in range(200):
            step()
        grown = [b - a for a, b in zip(before, held(), strict=True)]
    finally:
        tracemalloc.stop()
        gc.enable()
    assert grown[0] <= 20
    assert grown[1] <= 4096
    assert grown[2] <= 20_000
