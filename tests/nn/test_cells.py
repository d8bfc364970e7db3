"""Cells: each is its equations, its gradients are right to second order, and any may be wrapped."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.nn import init
from tinygrad_rnn.structure import flatten, map_leaves, unflatten
from tinygrad_rnn.testing import check_grads
from tinygrad_rnn_backends import Backend

Array = np.ndarray[Any, Any]


# The equations, in NumPy. ``p`` holds the weights.


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def hardsigmoid(x: Array) -> Array:
    return np.clip(x / 6 + 0.5, 0, 1)


def layer_norm(x: Array, gain: Any, bias: Any = 0) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gain + bias


def rnn(p: dict[str, Array], x: Array, h: Array, activation: Any = np.tanh) -> Any:
    h = activation(x @ p["weight_ih"] + p.get("bias", 0) + h @ p["weight_hh"])
    return h, h


def lstm(p: dict[str, Array], x: Array, state: Any, gate: Any = sigmoid, act: Any = np.tanh) -> Any:
    h, c = state
    i, f, g, o = np.split(x @ p["weight_ih"] + p.get("bias", 0) + h @ p["weight_hh"], 4, axis=-1)
    c = gate(f) * c + gate(i) * act(g)
    h = gate(o) * act(c)
    h = h @ p["weight_hr"] if "weight_hr" in p else h
    return h, (h, c)


def peephole(p: dict[str, Array], x: Array, state: Any) -> Any:
    h, c = state
    i, f, g, o = np.split(x @ p["weight_ih"] + p.get("bias", 0) + h @ p["weight_hh"], 4, axis=-1)
    i, f = sigmoid(i + p["weight_ci"] * c), sigmoid(f + p["weight_cf"] * c)
    c = f * c + i * np.tanh(g)
    h = sigmoid(o + p["weight_co"] * c) * np.tanh(c)
    return h, (h, c)


def normalised(p: dict[str, Array], x: Array, state: Any) -> Any:
    h, c = state
    gates = layer_norm(x @ p["weight_ih"], p["norm_ih.weight"])
    gates = gates + layer_norm(h @ p["weight_hh"], p["norm_hh.weight"]) + p.get("bias", 0)
    i, f, g, o = np.split(gates, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(layer_norm(c, p["norm_c.weight"], p["norm_c.bias"]))
    return h, (h, c)


def gru(p: dict[str, Array], x: Array, h: Array, gate: Any = sigmoid) -> Any:
    r, z, n = np.split(x @ p["weight_ih"] + p.get("bias", 0), 3, axis=-1)
    hr, hz, hn = np.split(h @ p["weight_hh"], 3, axis=-1)
    r, z = gate(r + hr), gate(z + hz)
    h = (1 - z) * np.tanh(n + r * (hn + p.get("bias_hn", 0))) + z * h
    return h, h


def gru_before(p: dict[str, Array], x: Array, h: Array) -> Any:
    r, z, n = np.split(x @ p["weight_ih"] + p.get("bias", 0), 3, axis=-1)
    wr, wz, wn = np.split(p["weight_hh"], 3, axis=-1)
    r, z = sigmoid(r + h @ wr), sigmoid(z + h @ wz)
    h = (1 - z) * np.tanh(n + (r * h) @ wn) + z * h
    return h, h


def rwa(p: dict[str, Array], xs: Array) -> Array:
    """All outputs by the definition: the sums are taken anew at each step, and not made stable."""
    h = np.tanh(np.broadcast_to(p["initial"], (xs.shape[1], p["initial"].size)))
    bias_u, bias_g = np.split(p["bias"], 2) if "bias" in p else (0, 0)
    values, scores, outputs = [], [], []
    for x in xs:
        u, g, a = np.split(x @ p["weight_ih"], 3, axis=-1)
        from_g, from_a = np.split(h @ p["weight_hh"], 2, axis=-1)
        values.append((u + bias_u) * np.tanh(g + bias_g + from_g))
        scores.append(np.exp(a + from_a))
        h = np.tanh(sum(v * s for v, s in zip(values, scores, strict=True)) / sum(scores))
        outputs.append(h)
    return np.stack(outputs)


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


hard = tg.hardsigmoid
CELLS: dict[str, tuple[Callable[..., nn.Module], Any]] = {
    "rnn": (nn.RNNCell, rnn),
    "rnn relu": (partial(nn.RNNCell, nonlinearity="relu"), partial(rnn, activation=relu)),
    "rnn sin": (partial(nn.RNNCell, nonlinearity=tg.sin), partial(rnn, activation=np.sin)),
    "lstm": (nn.LSTMCell, lstm),
    "lstm projected": (partial(nn.LSTMCell, proj_size=2), lstm),
    "lstm hard": (
        partial(nn.LSTMCell, gate_activation=hard, activation=tg.sin),
        partial(lstm, gate=hardsigmoid, act=np.sin),
    ),
    "peephole": (nn.PeepholeLSTMCell, peephole),
    "layer norm": (nn.LayerNormLSTMCell, normalised),
    "gru": (nn.GRUCell, gru),
    "gru before": (partial(nn.GRUCell, reset_after=False), gru_before),
    "gru hard": (partial(nn.GRUCell, gate_activation=hard), partial(gru, gate=hardsigmoid)),
    "rwa": (nn.RWACell, None),
}
SMOOTH = [name for name in CELLS if name not in ("rnn relu", "lstm hard", "gru hard")]
X = np.random.default_rng(0).normal(size=(5, 2, 3))


@pytest.fixture
def float64() -> Iterator[None]:
    tg.set_default_dtype("float64")
    yield
    tg.set_default_dtype("float32")


def made(name: str, bias: bool = True) -> nn.Module:
    """A cell with all of its weights random, so that a bias of zero hides nothing."""
    cell = CELLS[name][0](3, 4, bias=bias)
    rng = np.random.default_rng(1)
    cell.load_state_dict({k: rng.normal(size=x.shape) for k, x in cell.state_dict().items()})
    return cell


def weights_of(cell: nn.Module) -> dict[str, Array]:
    return {name: x.numpy() for name, x in cell.state_dict().items()}


def assert_states_equal(found: Any, wanted: Any, **tolerance: float) -> None:
    for a, b in zip(flatten(found)[0], flatten(wanted)[0], strict=True):
        assert_allclose(a.numpy(), b.numpy() if isinstance(b, Tensor) else b, **tolerance)


# Each is its equations.


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", [name for name in CELLS if name != "rwa"])
def test_a_cell_is_its_equations(name: str, bias: bool, backend: Backend) -> None:
    cell, step = made(name, bias), CELLS[name][1]
    assert (getattr(cell, "bias", None) is not None) == bias
    weights = weights_of(cell)
    state = cell.initial_state((2,), np.float64, backend.name)
    expected_state = map_leaves(lambda h: h.numpy(), state)
    for x in X:
        y, state = cell(tg.tensor(x, backend=backend.name), state)
        expected, expected_state = step(weights, x, expected_state)
        assert_allclose(y.numpy(), expected, rtol=1e-12, atol=1e-14)
        assert_states_equal(state, expected_state, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("bias", [True, False])
def test_a_recurrent_weighted_average_is_its_definition(bias: bool, backend: Backend) -> None:
    cell = made("rwa", bias)
    found, _ = tg.unroll(cell, tg.tensor(X, backend=backend.name))
    assert_allclose(found.numpy(), rwa(weights_of(cell), X), rtol=1e-12)


@pytest.mark.parametrize("scale", [-1e4, 1e4])
def test_a_recurrent_weighted_average_does_not_overflow(scale: float) -> None:
    cell = nn.RWACell(1, 1)
    cell.load_state_dict(
        {
            "weight_ih": np.array([[1.0, 1.0, scale]]),
            "weight_hh": np.zeros((1, 2)),
            "bias": np.zeros(2),
            "initial": np.zeros(1),
        }
    )
    x = tg.tensor([[[0.5]], [[1.0]], [[2.0]]], requires_grad=True)
    outputs, _ = tg.unroll(cell, x)
    # All the weight lies on the step with the largest a: the last one for 1e4, for -1e4 the first.
    steps = [0.5, 1.0, 2.0] if scale > 0 else [0.5, 0.5, 0.5]
    assert_allclose(outputs.numpy().ravel(), [np.tanh(s * np.tanh(s)) for s in steps], rtol=1e-6)
    tg.sum(outputs).backward()
    for p in (x, *cell.parameters()):
        assert p.grad is not None and np.isfinite(p.grad.numpy()).all()


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("mode, rounding", [("literal", 0.0), ("planned", 1e-5)])
def test_unroll_is_the_cell_in_a_loop(name: str, mode: Any, rounding: float) -> None:
    cell = made(name)
    x = tg.tensor(X.astype(np.float32))
    outputs, last = tg.unroll(cell, x, mode=mode)
    state = cell.initial_state((2,), np.float32, "numpy")
    for t in range(5):
        y, state = cell(x[t], state)
        assert_allclose(outputs[t].numpy(), y.numpy(), rtol=0, atol=rounding)
    assert_states_equal(last, state, rtol=0, atol=rounding)
    assert outputs.dtype == np.float32


def as_function(cell: nn.Module) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """``run(x, *leaves of the state, *weights)`` over time, and arguments for it."""
    names, weights = zip(*cell.state_dict().items(), strict=True)
    start, structure = flatten(cell.initial_state((2,), np.float64, "numpy"))
    rng = np.random.default_rng(2)
    start = [tg.tensor(rng.normal(size=h.shape)) for h in start]

    def run(x: Tensor, *given: Tensor) -> Tensor:
        state, parameters = given[: len(start)], given[len(start) :]
        twin = nn.Recurrent(cell)
        named = {f"cell.{n}": p for n, p in zip(names, parameters, strict=True)}
        outputs, state = nn.functional_call(twin, named, x, unflatten(structure, list(state)))
        # What is far from anything else, as an exponent below all others, would swamp the rest.
        return tg.sum(tg.sin(outputs)) + sum(tg.sum(tg.sin(h)) for h in flatten(state)[0])

    return run, (tg.tensor(X[:3] / 2), *start, *weights)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_through_time_equal_finite_differences(name: str, bias: bool) -> None:
    run, arguments = as_function(made(name, bias))
    check_grads(run, arguments, step=2e-4)  # through three steps the function is much curved


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", SMOOTH)
def test_forward_derivatives_and_examples_agree_with_gradients(name: str) -> None:
    run, arguments = as_function(made(name))
    rng = np.random.default_rng(3)
    directions = tuple(tg.tensor(rng.normal(size=x.shape)) for x in arguments)
    _, along = tg.jvp(run, arguments, directions)
    gradients = tg.value_and_grad(run, argnums=tuple(range(len(arguments))))(*arguments)[1]
    products = [tg.sum(g * v).item() for g, v in zip(gradients, directions, strict=True)]
    assert_allclose(along.item(), sum(products), rtol=1e-10)

    curved = tg.hvp(run, arguments, directions)
    step = 1e-5
    moved = [
        tuple(x + sign * step * v for x, v in zip(arguments, directions, strict=True))
        for sign in (1, -1)
    ]
    ahead, behind = (
        tg.value_and_grad(run, argnums=tuple(range(len(arguments))))(*point)[1] for point in moved
    )
    for found, a, b in zip(curved, ahead, behind, strict=True):
        assert_allclose(found.numpy(), (a.numpy() - b.numpy()) / (2 * step), rtol=1e-5, atol=1e-6)

    stacked = tuple(tg.stack([x, x + 0.1 * v]) for x, v in zip(arguments, directions, strict=True))
    together = tg.vmap(tg.value_and_grad(run))(*stacked)
    for i in range(2):
        value, gradient = tg.value_and_grad(run)(*(x[i] for x in stacked))
        assert_allclose(together[0][i].item(), value.item(), rtol=1e-12)
        assert_allclose(together[1][i].numpy(), gradient.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_gradients_of_the_relu_cell_equal_finite_differences_off_its_kink() -> None:
    cell = made("rnn relu")
    before = X[0] @ cell.weight_ih.numpy() + cell.bias.numpy()
    assert np.abs(before).min() > 0.01
    check_grads(lambda x: tg.unroll(cell, x)[0], (tg.tensor(X[:1]),), order=1)


# How a cell starts.


def test_the_zero_state_has_the_dtype_of_input_and_weights_together() -> None:
    cell = nn.LSTMCell(3, 4)
    outputs, (h, c) = tg.unroll(cell, tg.tensor(X))
    assert outputs.dtype == h.dtype == c.dtype == np.float64
    assert tg.unroll(cell, tg.tensor(X.astype(np.float32)))[0].dtype == np.float32


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.PeepholeLSTMCell, nn.LayerNormLSTMCell])
def test_the_forget_gate_starts_open_and_that_can_be_switched_off(kind: Any) -> None:
    assert_array_equal(kind(3, 2).bias.numpy(), [0, 0, 1, 1, 0, 0, 0, 0])
    assert_array_equal(kind(3, 2, forget_bias=0.0).bias.numpy(), np.zeros(8))
    drawn = kind(3, 2, bias_init=lambda shape: np.full(shape, 5.0), forget_bias=2.0).bias
    assert_array_equal(drawn.numpy(), [5, 5, 7, 7, 5, 5, 5, 5])


@pytest.mark.parametrize("name", CELLS)
def test_recurrent_weights_start_orthogonal_gate_by_gate_and_input_weights_by_xavier(
    name: str,
) -> None:
    cell = CELLS[name][0](30, 6)
    if name != "lstm projected":
        for gate in np.split(cell.weight_hh.numpy(), cell.weight_hh.shape[1] // 6, axis=1):
            assert_allclose(gate.T @ gate, np.eye(6), atol=1e-5)
    for gate in np.split(cell.weight_ih.numpy(), cell.weight_ih.shape[1] // 6, axis=1):
        bound = np.sqrt(6 / 36)
        assert bound * 0.9 < np.abs(gate).max() <= bound


def test_other_initial_weights_can_be_chosen() -> None:
    cell = nn.RNNCell(
        3, 4, nonlinearity="relu", recurrent_init=init.identity, input_init=init.zeros
    )
    assert_array_equal(cell.weight_hh.numpy(), np.eye(4))
    assert_array_equal(cell.weight_ih.numpy(), np.zeros((3, 4)))


# Cells made of cells.


def test_zoneout_keeps_units_at_random_and_their_mean_when_not_training() -> None:
    tg.manual_seed(0)
    inner = nn.LSTMCell(3, 500)
    cell = nn.Zoneout(inner, (0.2, 0.7))
    x = tg.tensor(X[0].astype(np.float32))
    state = (tg.ones((2, 500)) * 5, tg.ones((2, 500)) * 7)
    _, (h, c) = inner(x, state)
    output, (zoned_h, zoned_c) = cell(x, state)
    assert_array_equal(output.numpy(), zoned_h.numpy())
    for zoned, new, old, p in ((zoned_h, h, 5, 0.2), (zoned_c, c, 7, 0.7)):
        kept = zoned.numpy() == old
        assert_array_equal(zoned.numpy()[~kept], new.numpy()[~kept])
        assert abs(kept.mean() - p) < 0.05  # 1000 units: three standard deviations
    output, (mean_h, mean_c) = cell.eval()(x, state)
    assert_allclose(mean_h.numpy(), 0.2 * 5 + 0.8 * h.numpy(), rtol=1e-6)
    assert_allclose(mean_c.numpy(), 0.7 * 7 + 0.3 * c.numpy(), rtol=1e-6)
    assert_array_equal(output.numpy(), mean_h.numpy())


def test_zoneout_draws_anew_at_each_step() -> None:
    def count(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return h + 1, h + 1

    tg.manual_seed(0)
    steps, _ = tg.unroll(nn.Zoneout(count, 0.5), tg.zeros((20, 1)), tg.zeros((100,)))
    assert 7 < steps.numpy()[-1].mean() < 13
    assert len(np.unique(steps.numpy()[-1])) > 5  # with one mask there would be two


def test_an_output_that_is_not_the_state_passes_zoneout() -> None:
    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, h + x

    output, state = nn.Zoneout(cell, 1.0)(tg.ones((4,)), tg.zeros((4,)))
    assert_array_equal(output.numpy(), 2 * np.ones(4))
    assert_array_equal(state.numpy(), np.zeros(4))


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_variational_dropout_has_one_mask_for_all_steps_of_a_row(p: float) -> None:
    def cell(x: Tensor, h: Tensor) -> tuple[Any, Tensor]:
        return (x, h), h

    tg.manual_seed(0)
    wrapped = nn.VariationalDropout(cell, input_p=p, state_p=0.5)
    x = tg.ones((7, 3, 50))
    (seen, states), _ = tg.unroll(wrapped, x, tg.ones((3, 50)))
    for t in range(1, 7):
        assert_array_equal(seen[t].numpy(), seen[0].numpy())
    if p:
        assert set(np.unique(seen.numpy())) == {0, 2}
        assert not np.array_equal(seen[0, 0].numpy(), seen[0, 1].numpy())
        assert not np.array_equal(seen[0].numpy(), (states[0] != 0).numpy() * 2)
        (again, _), _ = tg.unroll(wrapped, x, tg.ones((3, 50)))
        assert not np.array_equal(again.numpy(), seen.numpy())
        (other, _), _ = tg.unroll(wrapped.eval(), x, tg.ones((3, 50)))
        assert_array_equal(other.numpy(), x.numpy())


def test_variational_dropout_reaches_h_alone_unless_told() -> None:
    def cell(x: Tensor, state: Any) -> tuple[Any, Any]:
        return state, state

    tg.manual_seed(0)
    state = (tg.ones((1, 200)), tg.ones((1, 200)))
    h, c = nn.VariationalDropout(cell, state_p=0.5)(tg.ones((1, 2)), state)[0]
    assert (h.numpy() == 0).any() and (c.numpy() == 1).all()
    h, c = nn.VariationalDropout(cell, state_p=(0.0, 0.5))(tg.ones((1, 2)), state)[0]
    assert (h.numpy() == 1).all() and (c.numpy() == 0).any()


def test_output_dropout_leaves_the_state_alone() -> None:
    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return h, h

    tg.manual_seed(0)
    output, h = nn.VariationalDropout(cell, output_p=0.5)(tg.ones((1, 2)), tg.ones((1, 200)))
    assert (h.numpy() == 1).all() and set(np.unique(output.numpy())) == {0, 2}


def test_masks_of_a_row_do_not_depend_on_the_rows_beside_it() -> None:
    cells = [nn.LSTMCell(3, 4), nn.GRUCell(4, 4)]
    inner = nn.StackedCell(*cells, dropout=0.3)
    cell = nn.Zoneout(nn.VariationalDropout(inner, 0.3, ((0.3, 0.0), 0.3), 0.3), 0.2)
    x = tg.tensor(np.random.default_rng(0).normal(size=(6, 3, 3)), dtype="float32")
    runs = []
    for rows in (1, 3):
        tg.manual_seed(4)
        runs.append(tg.unroll(cell, x[:, :rows])[0].numpy()[:, 0])
    assert_allclose(*runs, rtol=1e-5, atol=1e-7)


def test_zoneout_keeps_the_sums_of_an_average_together() -> None:
    inner = nn.RWACell(3, 4)
    x = tg.tensor(X.astype(np.float32))
    for cell in (nn.Zoneout(inner, 0.3), nn.Zoneout(nn.StackedCell(inner), 0.3)):
        _, following = cell(x[0], cell.initial_state((2,), np.float32, "numpy"))
        plain = inner(x[0], inner.initial_state((2,), np.float32, "numpy"))[1]
        _, *sums = following if isinstance(cell.cell, nn.RWACell) else following[0]
        assert_states_equal(tuple(sums), tuple(plain[1:]), rtol=0)


def test_variational_dropout_reaches_the_h_of_each_cell_in_a_stack() -> None:
    tg.manual_seed(0)
    both = nn.StackedCell(lambda x, s: (x, s), lambda x, s: (s, s))
    wrapped = nn.VariationalDropout(both, state_p=0.5)
    _, (low, high) = wrapped(tg.ones((1, 2)), (tg.ones((1, 200)), tg.ones((1, 200))))
    assert (low.numpy() == 0).any() and (high.numpy() == 0).any()


def test_a_stack_is_one_cell_on_the_other() -> None:
    low, high = nn.LSTMCell(3, 4), nn.GRUCell(4, 2)
    x = tg.tensor(X.astype(np.float32))
    stack = nn.StackedCell(low, high)
    outputs, (low_state, high_state) = tg.unroll(stack, x, mode="literal")
    between, low_expected = tg.unroll(low, x, mode="literal")
    expected, high_expected = tg.unroll(high, between, mode="literal")
    assert_array_equal(outputs.numpy(), expected.numpy())
    assert_states_equal((low_state, high_state), (low_expected, high_expected), rtol=0)


@pytest.mark.usefixtures("float64")
def test_gradients_through_wrapped_cells_equal_finite_differences() -> None:
    cell = nn.StackedCell(nn.Zoneout(made("lstm"), 0.3), made_on_four(), dropout=0.3)
    cell = nn.VariationalDropout(cell, 0.2, ((0.2, 0.0), 0.2), 0.2)

    def run(x: Tensor) -> Tensor:
        tg.manual_seed(1)  # the same masks each time
        return tg.unroll(cell, x)[0]

    check_grads(run, (tg.tensor(X),))


def made_on_four() -> nn.Module:
    tg.manual_seed(5)
    return nn.GRUCell(4, 2)


def test_a_wrapper_of_a_function_without_an_initial_state_asks_for_one() -> None:
    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return h, h

    with pytest.raises(TypeError, match="give a state, or a cell with initial_state"):
        tg.unroll(nn.Zoneout(cell), tg.ones((2, 1, 1)))


# Bad input.


def four(rows: int = 1) -> Tensor:
    return tg.ones((rows, 4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.RNNCell(2, 3, nonlinearity="elu"), ValueError, "'tanh', 'relu' or a function"),
        (
            lambda: nn.RNNCell(2, 0),
            ValueError,
            "RNNCell: hidden_size is an integer of at least 1, not 0",
        ),
        (
            lambda: nn.GRUCell(2.5, 3),
            ValueError,
            "GRUCell: input_size is an integer of at least 0, not 2.5",
        ),
        (lambda: nn.GRUCell(2, 3)(tg.ones((1, 3)), tg.ones((1, 3))), ValueError, r"\(\.\.\., 2\)"),
        (lambda: nn.RWACell(2, 3)(tg.ones((1, 3)), None), ValueError, r"RWACell: .*\(\.\.\., 2\)"),
        (lambda: tg.unroll(nn.GRUCell(2, 3), tg.ones((4, 1, 2)), mode="fast"), ValueError, "mode"),
        (lambda: nn.LSTMCell(2, 3, proj_size=3), ValueError, "proj_size is smaller than hidden"),
        (
            lambda: nn.LSTMCell(2, 3)(tg.ones((2, 2)), tg.ones((2, 3))),
            TypeError,
            r"LSTMCell: .*\(h, c\).* output, \(h, c\) = cell\(x, \(h, c\)\), not a Tensor",
        ),
        (
            lambda: nn.PeepholeLSTMCell(2, 3)(tg.ones((2, 2)), (tg.ones((2, 3)),) * 3),
            TypeError,
            r"PeepholeLSTMCell: .*\(h, c\).*not a tuple of 3",
        ),
        (
            lambda: nn.LSTMCell(2, 3)(tg.ones((2, 2)), (tg.ones((2, 3)), tg.ones((2, 1)))),
            ValueError,
            r"LSTMCell: expected c \(\.\.\., 3\), not \(2, 1\)",
        ),
        (
            lambda: nn.GRUCell(2, 3)(tg.ones((2, 2)), tg.ones((2, 4))),
            ValueError,
            r"GRUCell: expected h \(\.\.\., 3\), not \(2, 4\)",
        ),
        (
            lambda: nn.RNNCell(2, 3)(tg.ones((2, 2)), (tg.ones((2, 3)),)),
            TypeError,
            r"RNNCell: the state is a Tensor h \(B, 3\), .* not a tuple of 1",
        ),
        (
            lambda: nn.RWACell(2, 3)(tg.ones((2, 2)), (tg.ones((2, 3)),) * 4),
            TypeError,
            "RWACell: the state is an RWAState, not a tuple of 4",
        ),
        (
            lambda: nn.VariationalDropout(nn.LSTM(4, 4), 0.5),
            TypeError,
            "VariationalDropout: expected a cell, which takes a step, not the layer LSTM",
        ),
        (lambda: nn.Zoneout(nn.GRUCell(4, 4), 1.5), ValueError, "Zoneout: a probability .* 1.5"),
        (lambda: nn.Zoneout(3), TypeError, r"Zoneout: expected a cell\(x, state\), not 3"),
        (
            lambda: nn.Zoneout(nn.GRUCell(4, 4), (0.1, 0.2))(four(), four()),
            ValueError,
            r"Zoneout: probabilities structured \(\*, \*\) for a state structured \*",
        ),
        (
            lambda: nn.VariationalDropout(nn.GRUCell(4, 4), state_p=(0.1,))(four(), four()),
            ValueError,
            "VariationalDropout: probabilities",
        ),
        (lambda: nn.StackedCell(), ValueError, "StackedCell: give at least one cell"),
        (
            lambda: nn.StackedCell(nn.GRUCell(4, 4))(four(), four()),
            TypeError,
            "StackedCell: the state is a tuple of 1",
        ),
    ],
)
def test_bad_input_is_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("kind", [lambda: defaultdict(list), Counter, OrderedDict, dict])
def test_any_dict_is_a_state(kind: Any) -> None:
    def step(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return x + state["h"], {**state, "h": state["h"] + x}

    state = kind()
    state["h"], state["n"] = tg.zeros(2), tg.ones(2)
    doubled = tg.vmap(lambda s: map_leaves(lambda x: 2 * x, s))(state)
    assert list(doubled) == ["h", "n"] and isinstance(doubled, dict)
    assert_array_equal(doubled["n"].numpy(), [2, 2])
    if not isinstance(state, OrderedDict):  # another container than the step's
        _, final = tg.unroll(step, tg.ones((3, 2)), state)
        assert_array_equal(final["h"].numpy(), [3, 3])
