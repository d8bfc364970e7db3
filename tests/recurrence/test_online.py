"""Learning online: each method against BPTT, or against its own definition in NumPy."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
import tinygrad_rnn_backends as backends
from cells_from_papers import CELLS, inputs_for
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.graph import Node
from tinygrad_rnn.structure import flatten, map_leaves

T, B, INPUT, HIDDEN = 6, 3, 2, 4
Loss = Callable[[Any, Any], Tensor]


@pytest.fixture(autouse=True)
def float64() -> Any:
    tg.manual_seed(0)
    tg.set_default_dtype("float64")
    yield
    tg.set_default_dtype("float32")


def data(width: int = INPUT, steps: int = T) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    return tg.tensor(rng.normal(size=(steps, B, width))), tg.tensor(rng.normal(size=(steps, B, 1)))


def squared(output: Any, target: Any) -> Tensor:
    """A loss of whatever a cell gives."""
    return sum(((y.sum(axis=-1, keepdims=True) - target) ** 2).mean() for y in flatten(output)[0])


class Readout(nn.Module):
    """A loss with parameters of its own."""

    def __init__(self) -> None:
        self.linear = nn.Linear(HIDDEN, 1)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return tg.mse_loss(self.linear(output), target)


def by_bptt(
    cell: Any, xs: Any, targets: Any, loss: Loss, parameters: Any, state: Any = None, **options: Any
) -> list[list[Any]]:
    """The gradients of each step's loss, each by a walk of its own through the literal loop."""
    outputs, _ = tg.unroll(cell, xs, state, mode="literal", **options)
    found = []
    for t in range(len(targets)):
        value = loss(map_leaves(lambda y, t=t: y[t], outputs), targets[t])
        found.append(tg.grad(value, parameters, retain_graph=True, allow_unused=True))
    return found


def agree(found: list[list[Any]], expected: list[list[Any]], tolerance: float = 1e-10) -> None:
    """To a tolerance relative to the largest gradient of the sequence."""
    assert len(found) == len(expected)
    largest = max(abs(g.numpy()).max() for step in expected for g in step if g is not None)
    assert largest > 0
    for step, by_walk in zip(found, expected, strict=True):
        for g, e in zip(step, by_walk, strict=True):
            wanted = np.zeros(g.shape) if e is None else e.numpy()
            assert_allclose(g.numpy(), wanted, rtol=0, atol=tolerance * largest)


def gradients(*args: Any, **options: Any) -> list[Any]:
    return [step.gradients for step in tg.learn_online(*args, **options)]


# Exact methods: equal to BPTT at every step.


@pytest.mark.parametrize("options", [{"method": "rtrl"}, {"method": "bptt", "k2": T}], ids=str)
@pytest.mark.parametrize("make", [nn.RNNCell, nn.LSTMCell, nn.GRUCell, nn.RWACell])
def test_cells_of_the_library(make: Any, options: dict[str, Any]) -> None:
    cell, loss = make(INPUT, HIDDEN), Readout()
    xs, targets = data()
    parameters = [*cell.parameters(), *loss.parameters()]
    expected = by_bptt(cell, xs, targets, loss, parameters)
    agree(gradients(cell, xs, targets, loss, parameters=parameters, **options), expected)
    agree(gradients(cell, xs, targets, loss, **options), expected)  # which are found


@pytest.mark.parametrize("name", CELLS)
def test_rtrl_on_cells_from_papers(name: str) -> None:
    cell = CELLS[name](B)
    xs = inputs_for(cell, np.random.default_rng(1), T, B, "float64")
    _, targets = data()
    parameters = [*cell.parameters()]
    expected = by_bptt(cell, xs, targets, squared, parameters)
    agree(gradients(cell, xs, targets, squared, parameters=parameters), expected)


def test_a_function_with_captured_parameters_and_a_state_of_several_kinds() -> None:
    """Integers, parts that pass through, rows that see each other, and a start that is learned."""
    rng = np.random.default_rng(2)
    shapes = {"w": (INPUT, HIDDEN), "u": (HIDDEN, HIDDEN), "start": (HIDDEN,), "unused": (2,)}
    p = {k: tg.tensor(rng.normal(size=s), requires_grad=True) for k, s in shapes.items()}

    def cell(x: Tensor, state: Any) -> Any:
        h, late = state["h"], state["late"]
        h = tg.tanh(x @ p["w"] + (h - h.mean(axis=0)) @ p["u"] + late / (1 + state["n"]))
        return h * 2, {"h": h, "late": state["h"] * 1.0, "n": state["n"] + 1, "x": x}

    def start() -> Any:
        h = tg.broadcast_to(tg.sin(p["start"]), (B, HIDDEN))
        return {"h": h, "late": h * 0.5, "n": tg.tensor(0), "x": tg.zeros((B, INPUT))}

    xs, targets = data()
    wanted = list(p.values())
    expected = by_bptt(cell, xs, targets, squared, wanted, start())
    assert expected[0][3] is None and abs(expected[-1][2].numpy()).max() > 1e-6
    agree(gradients(cell, xs, targets, squared, start(), parameters=wanted), expected)
    found = gradients(cell, xs, targets, squared, start(), parameters=p)
    assert list(found[0]) == list(p)
    agree([list(step.values()) for step in found], expected)


class LearnedStart(nn.GRUCell):
    """A GRU whose initial state is a parameter."""

    def __init__(self) -> None:
        super().__init__(INPUT, HIDDEN)
        self.start = nn.Parameter(np.linspace(-1, 1, HIDDEN))

    def initial_state(self, batch_shape: Any, dtype: Any, backend: str) -> Tensor:
        return tg.broadcast_to(tg.tanh(self.start), (*batch_shape, HIDDEN))


@pytest.mark.parametrize("options", [{"method": "rtrl"}, {"method": "bptt", "k2": T}], ids=str)
def test_rows_that_skip_end_and_start_afresh(options: dict[str, Any]) -> None:
    cell, (xs, targets) = LearnedStart(), data()
    reset = np.zeros((T, B), dtype=bool)
    reset[[2, 3], [0, 1]] = True
    mask = np.random.default_rng(0).random((T, B)) > 0.3
    for rows in ({"reset": reset}, {"mask": mask, "reset": reset}, {"lengths": [T, 2, 0]}):
        expected = by_bptt(cell, xs, targets, squared, [*cell.parameters()], **rows)
        agree(gradients(cell, xs, targets, squared, **rows, **options), expected)


def test_masks_of_dropout_are_those_of_one_unroll() -> None:
    class Speaking(nn.Module):
        """Draws twice a step, and a loop within draws, too."""

        def __init__(self) -> None:
            self.cell, self.drop = nn.GRUCell(INPUT, HIDDEN), nn.Dropout(0.4)
            self.inner = nn.VariationalDropout(nn.RNNCell(HIDDEN, HIDDEN), 0.5)
            self.initial_state = self.cell.initial_state

        def forward(self, x: Tensor, h: Tensor) -> Any:
            y, h = self.cell(x, self.drop(h))
            ys, _ = tg.unroll(self.inner, tg.stack([y, self.drop(y)]), mode="literal")
            return ys[-1], h

    xs, targets = data()
    for cell in (
        Speaking(),
        nn.VariationalDropout(nn.LSTMCell(INPUT, HIDDEN), 0.3, 0.4, 0.2),
        nn.Zoneout(nn.LSTMCell(INPUT, HIDDEN), 0.3),
    ):
        parameters = [*cell.parameters()]
        tg.manual_seed(5)
        expected = by_bptt(cell, xs, targets, squared, parameters)
        for options in ({"method": "rtrl"}, {"method": "bptt", "k2": T}):
            tg.manual_seed(5)
            agree(gradients(cell, xs, targets, squared, **options), expected)
        tg.manual_seed(5)
        outputs, _ = tg.unroll(cell, xs)
        tg.manual_seed(5)
        windows = tg.truncated_bptt(cell, xs, targets, squared, k1=4, k2=5)
        found = tg.concat([window.outputs for window in windows])
        assert_allclose(found.numpy(), outputs.numpy(), rtol=1e-12)


def test_masks_of_dropout_are_drawn_once() -> None:
    weight = tg.tensor(np.eye(INPUT) * 0.5, requires_grad=True)

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x + tg.dropout(h @ weight, 0.5))
        return h, h

    xs, targets = data()
    found = []
    for options in ({"method": "rtrl"}, {"method": "bptt", "k2": T}):
        tg.manual_seed(5)
        start = tg.ones((B, INPUT))
        found.append(gradients(cell, xs, targets, squared, start, parameters=[weight], **options))
    agree(*found)


def test_parameters_that_change_between_steps_leave_rtrl_equal_to_bptt() -> None:
    """Each step counts with the parameters that it was run with."""

    def walk(method: str) -> list[list[Any]]:
        tg.manual_seed(1)
        cell, loss, (xs, targets) = nn.LSTMCell(INPUT, HIDDEN), Readout(), data()
        parameters = [*cell.parameters(), *loss.parameters()]
        if method == "truncated_bptt":
            steps: Any = tg.truncated_bptt(
                cell, xs, targets, lambda y, z: loss(y[0], z[0]), k1=1, k2=T
            )
        else:
            k2 = T if method == "bptt" else None
            steps = tg.learn_online(cell, xs, targets, loss, method=method, k2=k2)
        found = []
        for step in steps:
            given = getattr(step, "gradients", None) or [p.grad for p in parameters]
            found.append(given)
            for p, g in zip(parameters, given, strict=True):
                p.data = p.data - 0.3 * g.data
                p.grad = None
        return found

    expected = walk("truncated_bptt")
    agree(walk("rtrl"), expected)
    agree(walk("bptt"), expected)


def test_a_parameter_that_the_state_meets_late() -> None:
    gates = [tg.tensor(np.eye(INPUT) * k, requires_grad=True) for k in (0.9, 0.7, 0.5)]
    met = []

    def cell(x: Tensor, h: Tensor) -> Any:
        weight = gates[0] if len(met) % T < 3 else gates[1]
        met.append(x)
        h = tg.tanh(x + h @ weight)
        return h @ gates[2] if len(met) % T == 2 else h, h

    xs, targets = data()
    start = tg.ones((B, INPUT))
    expected = by_bptt(cell, xs, targets, squared, gates, start)
    for method in ("rtrl", "snap1", "uoro"):
        found = gradients(cell, xs, targets, squared, start, parameters=gates, method=method)
        if method == "rtrl":
            agree(found, expected)
        felt = [[bool(abs(g.numpy()).any()) for g in step] for step in found]
        assert felt[1:5] == [
            [True, False, True],
            [True, False, False],
            [True, True, False],
            [True, True, False],
        ]


# Approximations: equal to what they are defined as.


@pytest.mark.parametrize("k2", [1, 2, 4])
def test_bptt_of_k2_steps_is_truncated_bptt(k2: int) -> None:
    cell, loss, (xs, targets) = nn.LSTMCell(INPUT, HIDDEN), Readout(), data()
    parameters = [*cell.parameters(), *loss.parameters()]
    found = gradients(cell, xs, targets, loss, method="bptt", k2=k2)
    assert all(p.grad is None for p in parameters)
    expected = []
    for _ in tg.truncated_bptt(cell, xs, targets, lambda y, z: loss(y[0], z[0]), k1=1, k2=k2):
        expected.append([p.grad for p in parameters])
        for p in parameters:
            p.grad = None
    agree(found, expected)
    with pytest.raises(AssertionError):
        agree(found, gradients(cell, xs, targets, loss))


def test_snap1_of_an_elman_network_follows_its_equation() -> None:
    """J[i, (j, k)] is kept for unit i = k only: it decays by tanh'(a_k) U_kk, and gains x_j."""
    cell, (xs, targets) = nn.RNNCell(INPUT, HIDDEN), data()
    w, u, b = (p.numpy() for p in cell.parameters())
    h, influence = np.zeros((B, HIDDEN)), np.zeros((B, INPUT + HIDDEN + 1, HIDDEN))
    expected = []
    for t in range(T):
        inputs = np.concatenate([xs.numpy()[t], h, np.ones((B, 1))], axis=1)
        h = np.tanh(inputs @ np.concatenate([w, u, b[None]]))
        slope = (1 - h**2)[:, None]
        wrong = 2 * (h.sum(axis=1, keepdims=True) - targets.numpy()[t]) / B
        before = influence  # the loss of step t sees the whole of U, and so do the gradients
        pulled = (wrong * slope[:, 0]) @ u.T
        at_once = np.einsum("bj,bk->jk", inputs, wrong * slope[:, 0])
        expected.append(np.einsum("bk,bjk->jk", pulled, before) + at_once)
        influence = slope * (np.diag(u) * influence + inputs[:, :, None])
    for found, wanted in zip(
        gradients(cell, xs, targets, squared, method="snap1"), expected, strict=True
    ):
        joined = np.concatenate([found[0].numpy(), found[1].numpy(), found[2].numpy()[None]])
        assert_allclose(joined, wanted, rtol=1e-10, atol=1e-12)


def test_snap1_is_exact_where_a_unit_sees_only_itself() -> None:
    rng = np.random.default_rng(3)
    w = tg.tensor(rng.normal(size=(INPUT, 2 * HIDDEN)), requires_grad=True)
    u = tg.tensor(rng.normal(size=(2, HIDDEN)), requires_grad=True)

    def cell(x: Tensor, h: Tensor) -> Any:
        f, g = (a + h * v for a, v in zip(tg.split(x @ w, 2, axis=-1), u, strict=True))
        h = tg.sigmoid(f) * h + tg.sigmoid(-f) * tg.tanh(g)
        return h, h

    xs, targets = data()
    start = tg.ones((B, HIDDEN))
    expected = by_bptt(cell, xs, targets, squared, [w, u], start)
    found = gradients(cell, xs, targets, squared, start, parameters=[w, u], method="snap1")
    agree(found, expected)


@pytest.mark.parametrize("make", [nn.RNNCell, nn.GRUCell, LearnedStart], ids=lambda c: c.__name__)
def test_uoro_is_unbiased(make: Any) -> None:
    """Every component of every step within four standard errors, over 10,000 draws."""
    draws, steps = 10_000, 4
    cell = make() if make is LearnedStart else make(INPUT, HIDDEN)
    xs, targets = data(steps=steps)
    parameters = [*cell.parameters()]

    def run(_: Tensor) -> list[list[Tensor]]:
        return gradients(cell, xs, targets, squared, method="uoro")

    found = tg.vmap(run)(tg.zeros(draws))
    expected = by_bptt(cell, xs, targets, squared, parameters)
    for t, (step, by_walk) in enumerate(zip(found, expected, strict=True)):
        for g, e in zip(step, by_walk, strict=True):
            drawn, exact = g.numpy(), 0.0 if e is None else e.numpy()
            error = drawn.std(axis=0, ddof=1) / draws**0.5
            assert np.all(abs(drawn.mean(axis=0) - exact) <= 4 * error + 1e-12)
            assert t == 0 or error.max() > 0  # it is an estimate


# What it promises.


@pytest.mark.parametrize("method", ["rtrl", "bptt", "snap1", "uoro"])
def test_nothing_is_updated_and_nothing_has_a_graph(method: Any) -> None:
    cell, loss, (xs, targets) = nn.LSTMCell(INPUT, HIDDEN), Readout(), data()
    before = {k: p.numpy().copy() for k, p in cell.named_parameters()}
    outputs, final = tg.unroll(cell, xs)
    held = []
    steps = tg.learn_online(
        cell, xs, targets, loss, method=method, k2=2 if method == "bptt" else None
    )
    for t, (value, found, state) in enumerate(steps):
        assert_allclose(value.item(), loss(outputs[t], targets[t]).item(), rtol=1e-12)
        assert not any(y.requires_grad for y in [value, *found, *flatten(state)[0]])
        held.append(state)
    assert not any(h.requires_grad for state in held for h in state)
    assert_allclose(held[-1][1].numpy(), final[1].numpy(), rtol=1e-12)
    assert all(p.grad is None for p in [*cell.parameters(), *loss.parameters()])
    for k, p in cell.named_parameters():
        assert_array_equal(p.numpy(), before[k])


@pytest.mark.parametrize("method", ["rtrl", "snap1", "uoro"])
def test_memory_does_not_grow_with_the_steps(method: Any) -> None:
    cell, (xs, targets) = nn.GRUCell(INPUT, HIDDEN), data(steps=12)
    alive = []
    for t, _ in enumerate(tg.learn_online(cell, xs, targets, squared, method=method)):
        if t in (2, 11):
            gc.collect()
            alive.append(sum(type(x) is Node for x in gc.get_objects()))
    assert alive[0] == alive[1]


def test_on_every_backend(backend: backends.Backend) -> None:
    cell, (xs, targets) = nn.GRUCell(INPUT, HIDDEN), data()
    expected = by_bptt(cell, xs, targets, squared, [*cell.parameters()])
    agree(gradients(cell, xs, targets, squared), expected)
    for method in ("snap1", "uoro"):
        (*_, last) = tg.learn_online(cell, xs, targets, squared, method=method)
        assert {g.backend for g in last.gradients} == {backend.name}


@pytest.mark.parametrize("method", ["rtrl", "snap1", "uoro"])
def test_no_steps_no_rows_no_state_and_no_parameters(method: Any) -> None:
    cell, (xs, targets) = nn.GRUCell(INPUT, HIDDEN), data()

    def learn(*args: Any, loss: Any = squared, **options: Any) -> Any:
        return gradients(*args, loss, method=method, **options)

    assert learn(cell, xs[:0], targets[:0]) == []
    assert learn(cell, xs, targets, parameters=[]) == [[]] * T
    summed = lambda y, z: (y.sum(axis=-1, keepdims=True) - z).sum()  # noqa: E731
    (*_, last) = learn(cell, xs[:, :0], targets[:, :0], loss=summed)
    assert not any(g.numpy().any() for g in last)
    w = tg.tensor(np.ones((INPUT, 1)), requires_grad=True)
    for state in ((), tg.zeros(B, dtype="int64"), tg.zeros(B)):  # none, or none that changes

        def stateless(x: Tensor, s: Any) -> Any:
            return x @ w, s

        expected = by_bptt(stateless, xs, targets, squared, [w], state)
        found = gradients(stateless, xs, targets, squared, state, parameters=[w], method=method)
        agree(found, expected)


# Bad input.


def test_what_cannot_be_asked_for() -> None:
    cell, (xs, targets) = nn.RNNCell(INPUT, HIDDEN), data()

    def learn(cell: Any = cell, loss: Any = squared, xs: Any = xs, **options: Any) -> Any:
        return tg.learn_online(cell, xs, targets, loss, **options)

    for options, error, message in (
        ({"method": "RTRL"}, ValueError, "'rtrl', 'bptt', 'snap1', 'uoro', not 'RTRL'"),
        ({"method": "bptt"}, TypeError, "needs k2"),
        ({"method": "bptt", "k2": 1.5}, TypeError, "needs k2"),
        ({"method": "bptt", "k2": 0}, ValueError, "at least 1, not 0"),
        ({"k2": 3}, ValueError, "k2 belongs to method='bptt', not to 'rtrl'"),
        ({"parameters": [1.0]}, TypeError, "there is a float"),
        ({"parameters": cell}, TypeError, r"list\(module.parameters\(\)\)"),
        ({"parameters": [tg.ones(2)]}, ValueError, "does not require grad"),
        ({"xs": [xs[:, 0], xs[:, 1]]}, TypeError, "learn_online: put a list"),
        ({"xs": xs[:3]}, ValueError, "learn_online"),
        ({"cell": None}, TypeError, "cell is a function of two arguments or a module, not None"),
        ({"loss": 0.5}, TypeError, "loss is a function of two arguments or a module, not 0.5"),
        ({"cell": lambda x, h: (h, h)}, TypeError, "initial_state"),
        ({"cell": lambda x, h: (h, h), "method": "bptt", "k2": 1}, TypeError, "initial_state"),
        ({"cell": nn.LSTM(INPUT, HIDDEN)}, TypeError, "learn_online: LSTM is a layer"),
        ({"max_bytes": 0.5}, ValueError, "max_bytes is a number of bytes, not 0.5"),
    ):
        with pytest.raises(error, match=message):
            learn(**options)  # the call itself
    for options, message in (
        ({"max_bytes": 12 * 28 * 8 - 1}, "28 elements of parameters on 12 of the state takes"),
        ({"loss": lambda y, z: y}, r"a scalar Tensor, not \(3, 4\)"),
        ({"loss": lambda y, z: 1.0}, "a scalar Tensor, not float"),
    ):
        with pytest.raises(ValueError, match=message):
            next(learn(**options))
    next(learn(max_bytes=12 * 28 * 8))


@pytest.mark.parametrize("options", [{"method": "rtrl"}, {"method": "bptt", "k2": 2}], ids=str)
def test_a_parameter_that_nobody_named_is_no_silent_omission(options: dict[str, Any]) -> None:
    cell, readout, (xs, targets) = nn.RNNCell(INPUT, HIDDEN), nn.Linear(HIDDEN, 1), data()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return tg.mse_loss(readout(output), target)

    with pytest.raises(ValueError, match=r"more than the 3 parameters .* parameters=\[...\]"):
        next(tg.learn_online(cell, xs, targets, loss, **options))
    named = [*cell.parameters()]  # which is to ask for no others
    assert len(gradients(cell, xs, targets, loss, parameters=named, **options)[0]) == 3
    readout.requires_grad_(False)
    next(tg.learn_online(cell, xs, targets, loss, **options))
    cell.bias.requires_grad = False  # is left out
    assert [g.shape for g in gradients(cell, xs, targets, loss, **options)[0]] == [
        cell.weight_ih.shape,
        cell.weight_hh.shape,
    ]
    start = tg.ones((B, HIDDEN)) * tg.ones(HIDDEN, requires_grad=True)
    with pytest.raises(ValueError, match="more than the 2 parameters"):
        next(tg.learn_online(cell, xs, targets, loss, start, **options))
