"""Gradients through time: equal to those of the literal loop, and a diagnosis that is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, inspect, nn

T, B, D, H = 12, 3, 4, 5


@pytest.fixture(autouse=True)
def the_same_weights() -> None:
    tg.manual_seed(0)


def inputs(seed: int = 0, steps: int = T) -> Tensor:
    return tg.tensor(np.random.default_rng(seed).normal(size=(steps, B, D)), dtype="float32")


def last(outputs: Tensor) -> Tensor:
    return tg.sum(outputs[-1] ** 2)


def norm(g: Tensor) -> float:
    return float(np.linalg.norm(g.numpy().astype(np.float64)))


def literal_norms(cell: Any, xs: Tensor, loss: Any, **options: Any) -> dict[str, list[float]]:
    """By ``tg.grad`` on the literal loop, from the states and inputs that it passes on."""
    seen: list[tuple[Tensor, ...]] = []

    def noting(x: Tensor, state: Any) -> Any:
        output, state = cell(x, state)
        seen.append(state if isinstance(state, tuple) else (state,))
        return output, state

    xs = tg.tensor(xs, requires_grad=True)
    start = cell.initial_state((B,), xs.dtype, xs.backend)
    outputs, _ = tg.unroll(noting, xs, start, mode="literal", **options)
    gs = tg.grad(loss(outputs), [xs, seen], allow_unused=True)
    found = {"inputs": [norm(g) for g in gs[0]]}
    for n, name in enumerate(cell.state_names):
        found[name] = [0.0 if g[n] is None else norm(g[n]) for g in gs[1]]
    return found


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_norms_are_those_of_the_literal_loop(kind: Any) -> None:
    cell, xs = kind(D, H), inputs()
    for loss in (last, lambda outputs: tg.mean(outputs**2)):
        expected = literal_norms(cell, xs, loss)
        data = inspect.flow(cell, xs, loss).data
        assert data["planned"]
        for name, values in expected.items():
            assert_allclose(data["norms"][name], values, rtol=1e-5, atol=1e-12)


def test_norms_of_gates_are_those_of_what_goes_into_them() -> None:
    cell, xs = nn.LSTMCell(D, H), inputs()
    data = inspect.flow(cell, xs, last).data
    assert list(data["gates"]) == ["i", "f", "g", "o"]
    taps = {name: tg.zeros((T, B, H), requires_grad=True) for name in "ifgo"}

    def tapped(x: Any, state: Any) -> Any:
        x, own = x
        h, c = state
        parts = tg.split(x @ cell.weight_ih + cell.bias + h @ cell.weight_hh, 4, axis=-1)
        i, f, g, o = (p + own[n] for p, n in zip(parts, "ifgo", strict=True))
        c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
        h = tg.sigmoid(o) * tg.tanh(c)
        return h, (h, c)

    state = tg.zeros((B, H)), tg.zeros((B, H))
    outputs, _ = tg.unroll(tapped, (xs, taps), state, mode="literal")
    for name, g in tg.grad(last(outputs), taps).items():
        assert_allclose(data["norms"][name], [norm(step) for step in g], rtol=1e-5, atol=1e-12)


def test_names_of_gates_are_those_of_the_cells() -> None:
    assert list(inspect.flow(nn.GRUCell(D, H), inputs(), last).data["gates"]) == ["r", "z", "n"]

    images = tg.tensor(np.random.default_rng(0).normal(size=(4, 2, 1, 3, 3)), "float32")
    convolved = inspect.flow(nn.ConvLSTMCell(1, 2, 3, (3, 3)), images, last)
    assert {"i", "f", "g", "o"} <= set(convolved.data["gates"])

    def minimal(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        f = tg.sigmoid(x @ w + h)
        h = (1 - f) * h + f * tg.tanh(f * h)
        return h, h

    w = tg.ones((D, H)) * 0.1
    data = inspect.flow(minimal, inputs(), last, tg.zeros((B, H))).data
    assert list(data["gates"]) == ["f"] and "h" in data["norms"]


def test_padding_contributes_nothing_and_order_is_respected() -> None:
    cell, xs = nn.GRUCell(D, H), inputs().numpy().copy()
    lengths = [T, 5, 0]
    xs[5:, 1] = np.nan
    xs[:, 2] = np.nan
    data = inspect.flow(cell, tg.tensor(xs), lambda y: tg.sum(y[4] ** 2), lengths=lengths).data
    assert np.isfinite(data["norms"]["h"]).all() and data["norms"]["h"][5] == 0
    expected = literal_norms(cell, inputs(), lambda y: tg.sum(y[0] ** 2), reverse=True)
    reverse = inspect.flow(cell, inputs(), lambda y: tg.sum(y[0] ** 2), reverse=True).data
    assert_allclose(reverse["norms"]["inputs"], expected["inputs"], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.25])
def test_the_exponent_of_a_linear_recurrence_is_the_logarithm_of_its_factor(factor: float) -> None:
    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = factor * h + x
        return h, h

    xs = tg.tensor(np.ones((30, B, H)))
    data = inspect.flow(cell, xs, last, tg.tensor(np.zeros((B, H)))).data
    assert_allclose(data["lyapunov"], math.log(factor), atol=1e-6)
    assert_allclose(data["factor"], factor, rtol=1e-6)


def test_exponents_are_a_mean_over_rows_and_add_up_to_those_of_the_determinants() -> None:
    cell = nn.GRUCell(D, H)
    xs = tg.astype(inputs(), "float64")
    data = inspect.flow(cell, xs, last).data
    assert data["lyapunov of rows"] == [0, 1, 2] and len(data["lyapunov"]) == H
    hs = tg.unroll(cell, xs, mode="literal")[0].numpy()
    logs = []
    for t in range(T):
        for row in range(B):
            h = tg.tensor(hs[t - 1, row : row + 1] if t else np.zeros((1, H)))
            matrix = tg.jacobian(lambda h, x: cell(x, h)[1])(h, xs[t, row : row + 1])
            logs.append(np.linalg.slogdet(matrix.numpy().reshape(H, H))[1])
    assert_allclose(sum(data["lyapunov"]), np.mean(logs), rtol=1e-5)
    ragged = inspect.flow(cell, xs, last, lengths=[T, 3, T]).data
    assert ragged["lyapunov of rows"] == [0, 2]
    assert "a mean over 2 rows" in str(inspect.flow(cell, xs, last, lengths=[T, 3, T]))


def test_three_gains_give_three_verdicts() -> None:
    verdicts = []
    for gain in (0.7, 1.0, 1.5):
        u = nn.init.orthogonal((H, H), gain=gain)
        weight = tg.tensor(u, requires_grad=True)

        def cell(x: Tensor, h: Tensor, weight: Tensor = weight) -> tuple[Tensor, Tensor]:
            h = x + h @ weight
            return h, h

        study = inspect.flow(cell, tg.ones((40, B, H)) * 1e-3, last, tg.zeros((B, H)))
        verdicts.append(study.data["diagnosis"].partition(":")[0])
    assert verdicts == ["vanishing", "carried", "exploding"]


def test_the_exponent_is_the_slope_of_the_gradient() -> None:
    cell = nn.RNNCell(D, H)
    xs = tg.astype(0.5 * inputs(steps=200)[:, :1], "float64")
    data = inspect.flow(cell, xs, last).data
    norms = data["norms"]["h"]
    slope = np.log(norms[-1] / norms[0]) / 199
    assert_allclose(-data["lyapunov"][0], slope, rtol=0.1)
    assert data["diagnosis"].startswith("vanishing") and "half-life" in data["diagnosis"]


def test_an_lstm_is_told_what_helps_and_how_its_gates_are() -> None:
    xs = inputs(steps=60)
    text = str(inspect.flow(nn.LSTMCell(D, H, forget_bias=0.0), xs, last))
    assert "clipping will not help, a larger forget_bias may" in text
    assert "gate f: mean sigmoid 0." in text and "mean f = 0." in text
    better = inspect.flow(nn.LSTMCell(D, H, forget_bias=8.0), xs, last)
    assert better.data["diagnosis"].startswith("carried")
    assert better.data["gates"]["f"]["high"] > 0.9


def test_random_masks_are_those_of_the_loop() -> None:
    cell = nn.Zoneout(nn.GRUCell(D, H), 0.3)
    tg.manual_seed(0)
    first = inspect.flow(cell, inputs(), last).data["norms"]["inputs"]
    tg.manual_seed(0)
    xs = tg.tensor(inputs(), requires_grad=True)
    g = tg.grad(last(tg.unroll(cell, xs, mode="planned")[0]), xs)
    assert_allclose(first, [norm(step) for step in g], rtol=1e-5, atol=1e-12)


def test_a_cell_that_cannot_be_planned_is_looked_at_literally() -> None:
    def branching(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = tg.tanh(h + x) if float(tg.sum(x).item()) > 0 else h * 0.5
        return h, h

    study = inspect.flow(branching, inputs(), last, tg.zeros((B, D)))
    assert not study.data["planned"] and "Run literally" in str(study)
    xs = tg.tensor(inputs(), requires_grad=True)
    outputs = tg.unroll(branching, xs, tg.zeros((B, D)), mode="literal")[0]
    expected = [norm(step) for step in tg.grad(last(outputs), xs)]
    assert_allclose(study.data["norms"]["inputs"], expected, rtol=1e-5, atol=1e-12)


def test_tokens_have_no_gradient_and_bad_input_is_refused() -> None:
    table = tg.ones((7, H), requires_grad=True)

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = tg.tanh(table[x] + h)
        return h, h

    tokens = tg.tensor(np.arange(T * B).reshape(T, B) % 7)
    data = inspect.flow(cell, tokens, last, tg.zeros((B, H))).data
    assert "inputs" not in data["norms"] and data["norms"]["h"][-1] > 0
    for loss in (lambda y: y, lambda y: 3.0):
        with pytest.raises(ValueError, match="scalar"):
            inspect.flow(nn.GRUCell(D, H), inputs(), loss)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="led to the loss"):
        inspect.flow(nn.GRUCell(D, H), inputs(), lambda y: tg.sum(tg.ones(3)))
    with pytest.raises(ValueError, match="no steps"):
        inspect.flow(nn.GRUCell(D, H), inputs()[:0], last)
    with pytest.raises(ValueError, match="no rows"):
        inspect.flow(nn.GRUCell(D, H), inputs()[:, :0], last)
    with pytest.raises(ValueError, match=r"xs\[:, None\]"):
        inspect.flow(nn.GRUCell(D, H), inputs()[:, 0], last)


def test_a_layer_is_no_cell_and_says_which_is() -> None:
    layer, xs = nn.LSTM(D, H), inputs()
    looks: list[Callable[[Any], Any]] = [
        lambda cell: inspect.flow(cell, xs, last),
        lambda cell: inspect.explain_nonfinite(cell, xs),
        lambda cell: inspect.compare(cell, xs),
        lambda cell: inspect.activity(cell, xs, "x" * T),
    ]
    for look in looks:
        with pytest.raises(TypeError, match=r"layer\.cell\(0\)"):
            look(layer)
        with pytest.raises(TypeError, match="not a str"):
            look("lstm")
        look(layer.cell(0))


def test_it_leaves_gradients_and_plans_alone_and_is_drawn_small() -> None:
    cell = nn.LSTMCell(D, H)
    study = inspect.flow(cell, inputs(steps=400), last)
    assert all(p.grad is None for p in cell.parameters())
    html = study._repr_html_()
    ElementTree.fromstring(html)
    assert len(html) < 200_000 and "<script" not in html
    assert inspect.Study.from_json(study.to_json()) == study
    assert "f, steps 1 to 4" in study.to_svg()


def test_on_other_backends_the_loop_is_literal_where_it_cannot_be_planned(backend: Any) -> None:
    tg.manual_seed(0)
    cell, xs = nn.LSTMCell(D, H), inputs()
    expected = literal_norms(cell, xs, last)
    data = inspect.flow(cell, xs, last).data
    names = ["h", "c"] if data["planned"] else ["state0", "state1"]
    for own, name in zip([*names, "inputs"], ["h", "c", "inputs"], strict=True):
        assert_allclose(data["norms"][own], expected[name], rtol=1e-5, atol=1e-12)
    spoilt = xs.numpy().copy()
    spoilt[4, 1, 0] = np.nan
    found = inspect.explain_nonfinite(cell, tg.tensor(spoilt)).data
    assert (found["step"], found["row"], found["operation"]) == (4, 1, "matmul")
