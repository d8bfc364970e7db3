"""Real-time recurrent learning of cells as others would write them, against the unrolled loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.structure import flatten, map_leaves

T, B, INPUT, HIDDEN = 6, 3, 2, 4
Made = tuple[Any, Any, Any]
"""A cell, what makes its state (None: it does itself), and parameters (None: those of the cell)."""


class Cell(nn.Module):
    """A module whose state is zeros like ``widths``, a structure of shapes without the rows."""

    widths: Any = HIDDEN

    def initial_state(self, batch_shape: Any, dtype: Any, backend: str) -> Any:
        return map_leaves(lambda n: tg.zeros((*batch_shape, n), dtype), self.widths)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(tg.random.normal(shape) * 0.5)


def closure() -> Made:
    """A function over tensors of its surroundings, two of which were made from others before."""
    w, u, b, start = weight(INPUT, HIDDEN), weight(HIDDEN, HIDDEN), weight(HIDDEN), weight(HIDDEN)
    doubled, bounded = w * 2, tg.tanh(u)

    def cell(x: Any, h: Any) -> Any:
        h = tg.tanh(x @ doubled + h @ bounded + b)
        return h, h

    return cell, lambda: tg.broadcast_to(tg.sin(start), (B, HIDDEN)), [w, u, b, start]


class Nested(Cell):
    """Two levels, a memory beside, and a count, in dicts, tuples and lists; outputs are another."""

    widths: Any = {"low": (HIDDEN, {"memory": HIDDEN}), "high": [HIDDEN]}  # noqa: RUF012

    def __init__(self) -> None:
        self.low, self.high = nn.Linear(INPUT + HIDDEN, HIDDEN), nn.Linear(2 * HIDDEN, HIDDEN)
        self.decay = weight(HIDDEN)

    def initial_state(self, batch_shape: Any, *args: Any) -> Any:
        state = super().initial_state(batch_shape, *args)
        return {**state, "high": [*state["high"], tg.zeros(batch_shape, "int64")]}

    def forward(self, x: Any, state: Any) -> Any:
        (h, beside), (k, count) = state["low"], state["high"]
        h = tg.tanh(self.low(tg.concat([x, h], axis=-1)))
        memory = beside["memory"] * tg.sigmoid(self.decay) + h
        k = tg.tanh(self.high(tg.concat([memory, k], axis=-1)))
        k = k / (1 + count[:, None]).astype(k.dtype)
        output = {"said": k[:, :1] * 3, "aside": (memory,)}
        return output, {"low": (h, {"memory": memory}), "high": [k, count + 1]}


class Dropped(Cell):
    """Dropout before and after, and noise on the weights."""

    def __init__(self) -> None:
        self.cell, self.dropout = nn.GRUCell(INPUT, HIDDEN), nn.Dropout(0.4)
        self.out = weight(HIDDEN, HIDDEN)

    def forward(self, x: Any, h: Any) -> Any:
        y, h = self.cell(x, self.dropout(h))
        return self.dropout(y) @ (self.out + 0.1 * tg.random.normal((HIDDEN, HIDDEN))), h


class Normed(Cell):
    """A GRU with layer norm, as some have it."""

    def __init__(self) -> None:
        self.w, self.u = nn.Linear(INPUT, 3 * HIDDEN), nn.Linear(HIDDEN, 3 * HIDDEN)
        self.norm, self.last = nn.LayerNorm(3 * HIDDEN), nn.LayerNorm(HIDDEN)

    def forward(self, x: Any, h: Any) -> Any:
        r, z, n = tg.split(self.norm(self.w(x) + self.u(h)), 3, axis=-1)
        z = tg.sigmoid(z)
        h = self.last(z * h + (1 - z) * tg.tanh(n * tg.sigmoid(r)))
        return h, h


class Tied(Cell):
    """One matrix, used four times, by two names and transposed; so is that of the input."""

    def __init__(self) -> None:
        self.embedding, self.u = weight(INPUT, HIDDEN), weight(HIDDEN, HIDDEN)
        self.again = self.u

    def forward(self, x: Any, h: Any) -> Any:
        h = tg.tanh(x @ self.embedding + h @ self.u)
        h = tg.tanh(h @ self.u.T + tg.relu(h @ self.again) @ self.again)
        return h @ self.embedding.T, h


class Peephole(Cell):
    """An LSTM with peepholes, whose state may be clipped."""

    widths: Any = (HIDDEN, HIDDEN)

    def __init__(self) -> None:
        self.w, self.u = weight(INPUT, 4 * HIDDEN), weight(HIDDEN, 4 * HIDDEN)
        self.b, self.p = weight(4 * HIDDEN), weight(3, HIDDEN)

    def forward(self, x: Any, state: Any) -> Any:
        h, c = state
        i, f, g, o = tg.split(x @ self.w + h @ self.u + self.b, 4, axis=-1)
        i, f = tg.sigmoid(i + self.p[0] * c), tg.sigmoid(f + self.p[1] * c)
        c = tg.clip(f * c + i * tg.tanh(g), -0.5, 0.5)
        h = tg.sigmoid(o + self.p[2] * c) * tg.tanh(c)
        return h, (h, c)


class Ring(Cell):
    """A queue of states, the input before, a scalar output a row; ReLU, so zeros are met."""

    def __init__(self) -> None:
        self.w, self.v = weight(INPUT, HIDDEN), weight(HIDDEN, 1)

    def initial_state(self, batch_shape: Any, dtype: Any, backend: str) -> Any:
        shapes = (*batch_shape, HIDDEN), (*batch_shape, INPUT), (2, *batch_shape, HIDDEN)
        return tuple(tg.zeros(shape, dtype) for shape in shapes)

    def forward(self, x: Any, state: Any) -> Any:
        h, before, queue = state
        h = tg.relu(0.9 * h + (x - before) @ self.w + 0.3 * queue[0])
        return h @ self.v, (h, x, tg.stack([queue[1], h]))


class Looking(Cell):
    """Attention over keys that are learned, and a loop within the step."""

    def __init__(self) -> None:
        self.cell, self.query = nn.GRUCell(INPUT + HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.keys, self.inner = weight(5, HIDDEN), nn.LSTMCell(HIDDEN, HIDDEN)

    def forward(self, x: Any, h: Any) -> Any:
        looked = tg.softmax(self.query(h) @ self.keys.T, axis=-1) @ self.keys
        y, h = self.cell(tg.concat([x, looked], axis=-1), h)
        ys, _ = tg.unroll(self.inner, tg.stack([y, -y]))
        return ys.mean(axis=0), h


def of_module(module: Any) -> Callable[[], Made]:
    return lambda: (module(), None, None)


CELLS: dict[str, Callable[[], Made]] = {
    "closure": closure,
    **{c.__name__: of_module(c) for c in (Nested, Dropped, Normed, Tied, Peephole, Ring, Looking)},
}


def squared(output: Any, target: Any) -> Tensor:
    leaves = flatten(output)[0]
    return sum(((y.sum(axis=-1, keepdims=True) - target) ** 2).mean() for y in leaves)


def apart(made: Made, dtype: str, options: dict[str, Any], rows: dict[str, Any]) -> float:
    """The summed gradients against those of the unrolled loss, relative to the largest."""
    cell, start, parameters = made
    rng = np.random.default_rng(3)
    xs, targets = (tg.tensor(rng.normal(size=(T, B, n)), dtype) for n in (INPUT, 1))
    wanted = [*cell.parameters()] if parameters is None else parameters
    state = None if start is None else start()
    tg.manual_seed(7)
    outputs, _ = tg.unroll(cell, xs, state, **rows)
    losses = [squared(map_leaves(lambda y, t=t: y[t], outputs), targets[t]) for t in range(T)]
    expected = tg.grad(sum(losses), wanted, retain_graph=True)
    tg.manual_seed(7)
    steps = tg.learn_online(
        cell, xs, targets, squared, state, parameters=parameters, **options, **rows
    )
    found: Any = 0
    for step, value in zip(steps, losses, strict=True):
        np.testing.assert_allclose(step.loss.item(), value.item(), rtol=1e-5)
        found = found + np.concatenate([g.numpy().ravel() for g in step.gradients])
    assert {g.dtype.name for g in step.gradients} == {dtype}
    true = np.concatenate([g.numpy().ravel() for g in expected])
    return float(abs(found - true).max() / abs(true).max())


@pytest.mark.parametrize("options", [{"method": "rtrl"}, {"method": "bptt", "k2": T}], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CELLS)
def test_gradients_are_those_of_the_unrolled_loss(
    name: str, dtype: str, options: dict[str, Any]
) -> None:
    tg.manual_seed(0)
    tg.set_default_dtype(dtype)
    try:
        made = CELLS[name]()
        assert apart(made, dtype, options, {}) < {"float64": 1e-10, "float32": 5e-6}[dtype]
        if name in ("Ring", "closure"):  # whose states and outputs are no rows throughout
            return
        for rows in (
            {"lengths": [T, 1, 3]},
            {"mask": np.random.default_rng(1).random((T, B)) > 0.4},
            {"reset": np.random.default_rng(2).random((T, B)) > 0.7},
        ):
            assert apart(made, dtype, options, rows) < {"float64": 1e-10, "float32": 5e-6}[dtype]
    finally:
        tg.set_default_dtype("float32")


@pytest.mark.parametrize("method", ["snap1", "uoro"])
@pytest.mark.parametrize("name", CELLS)
def test_approximations_take_them_too(name: str, method: Any) -> None:
    tg.manual_seed(0)
    cell, start, parameters = CELLS[name]()
    rng = np.random.default_rng(3)
    xs, targets = (tg.tensor(rng.normal(size=(T, B, n)), "float32") for n in (INPUT, 1))
    options = {"method": method, "parameters": parameters}
    state = None if start is None else start()
    (*_, last) = tg.learn_online(cell, xs, targets, squared, state, **options)
    for g in last.gradients:
        assert np.isfinite(g.numpy()).all() and g.numpy().any()
