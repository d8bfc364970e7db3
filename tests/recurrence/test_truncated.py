"""Truncated BPTT against its definition, cut by hand; and ``detach``.

``by_hand`` knows nothing of graphs that are shared, linked or cut. It writes down every step that
was run: its parameters, input and state. For each window it then runs the last k2 of them anew, on
parameters that are different Tensors at every step, and sums their gradients.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim
from tinygrad_rnn.graph import Node
from tinygrad_rnn.structure import flatten, map_leaves

RATE = 0.3
INPUT, HIDDEN, OUTPUT = 2, 3, 2


class Pair(NamedTuple):
    h: Any
    c: Any


def elman(p: dict[str, Tensor], x: Any, h: Any) -> tuple[Any, Any]:
    h = tg.tanh(x @ p["W"] + h @ p["U"] + p["b"])
    return h, h


def two_speeds(p: dict[str, Tensor], x: Any, state: Any) -> tuple[Any, Any]:
    """Something like an LSTM: its state is a named tuple."""
    h = tg.tanh(x @ p["W"] + state.h @ p["U"] + state.c * p["b"])
    c = tg.sigmoid(h @ p["U"]) * state.c + h * x[:, :1]
    return h * c, Pair(h, c)


def counting(p: dict[str, Tensor], x: Any, state: Any) -> tuple[Any, Any]:
    """The state holds an integer, and a part that reaches the loss only in later steps."""
    h = tg.tanh(x @ p["W"] + state["late"] * p["b"] + state["n"][:, None] * 0.1)
    return h, {"n": state["n"] + 1, "late": state["h"] @ p["U"], "h": h}


CELLS: dict[str, tuple[Callable[..., Any], Callable[[Any], Any]]] = {
    "elman": (elman, lambda h: h),
    "two_speeds": (two_speeds, lambda h: Pair(h, h * 0.5)),
    "counting": (
        counting,
        lambda h: {"n": tg.zeros(h.shape[0], dtype="int64"), "late": h, "h": h * 2.0},
    ),
}


def drawn_parameters(rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    shapes = {"W": (INPUT, HIDDEN), "U": (HIDDEN, HIDDEN), "b": (HIDDEN,), "h0": (HIDDEN,)}
    return {name: rng.normal(size=s) for name, s in {**shapes, "V": (HIDDEN, OUTPUT)}.items()}


def leaves(p: dict[str, Any]) -> dict[str, Tensor]:
    return {name: tg.tensor(value, requires_grad=True) for name, value in p.items()}


class LearnedStart:
    """A cell with an initial state that depends on a parameter."""

    def __init__(self, name: str, p: dict[str, Tensor]) -> None:
        self.step, self.start = CELLS[name]
        self.p = p

    def __call__(self, x: Any, state: Any) -> Any:
        return self.step(self.p, x, state)

    def initial_state(self, batch_shape: Any, dtype: Any, backend: str) -> Any:
        return self.start(tg.broadcast_to(self.p["h0"], (*batch_shape, HIDDEN)))


def by_hand(
    name: str,
    p: dict[str, np.ndarray[Any, Any]],
    xs: np.ndarray[Any, Any],
    targets: np.ndarray[Any, Any],
    k1: int,
    k2: int,
    valid: np.ndarray[Any, Any],
    reset: np.ndarray[Any, Any],
    given_start: bool,
) -> Iterator[tuple[float, dict[str, np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]]:
    """For each window the loss, the gradients, and the parameters after a step of SGD.

    The initial state is given, made of the first h0, or is made of the h0 of its step.
    """
    step, start = CELLS[name]
    batch = xs.shape[1]
    first_h0 = p["h0"]

    def choose(flags: Any, a: Any, b: Any) -> Any:
        def each(a: Tensor, b: Tensor) -> Tensor:
            return tg.where(tg.asarray(flags.reshape(-1, *[1] * (a.ndim - 1))), a, b)

        return map_leaves(each, a, b)

    def initial(h0: Tensor) -> Any:
        return start(tg.broadcast_to(h0, (batch, HIDDEN)))

    def at(t: int, q: dict[str, Tensor], given: Tensor, state: Any) -> tuple[Any, Any]:
        state = choose(reset[t] & valid[t], initial(given if given_start else q["h0"]), state)
        output, following = step(q, tg.tensor(xs[t]), state)
        output = tg.where(tg.asarray(valid[t][:, None]), output, 0.0)
        return output, choose(valid[t], following, state)

    run_with: list[dict[str, Any]] = []  # the parameters of each step
    run_from: list[Any] = []  # its state before
    state = initial(tg.tensor(first_h0))
    for first in range(0, len(xs), k1):
        last = min(first + k1, len(xs))
        for t in range(first, last):
            run_with.append(p)
            run_from.append(map_leaves(lambda h: tg.tensor(h.numpy()), state))
            state = at(t, leaves(p), tg.tensor(first_h0), run_from[t])[1]
        oldest = max(last - k2, 0)
        copies = {t: leaves(run_with[t]) for t in range(oldest, last)}
        given = leaves({"h0": first_h0})
        s = run_from[oldest]
        if last - k2 <= 0:
            s = initial(given["h0"] if given_start else copies[0]["h0"])
        outputs = []
        for t in range(oldest, last):
            y, s = at(t, copies[t], given["h0"], s)
            outputs.append(y)
        readout = leaves(p)
        y = tg.stack(outputs[first - oldest :]) @ readout["V"]
        loss = tg.mean(tg.square(y - targets[first:last]))
        each = tg.grad(loss, [*copies.values(), readout, given], allow_unused=True)
        total = {
            key: sum(g[key].numpy() for g in each if g.get(key) is not None) + np.zeros_like(value)
            for key, value in p.items()
        }
        p = {key: value - RATE * total[key] for key, value in p.items()}
        yield loss.item(), total, p


@given(
    name=st.sampled_from(sorted(CELLS)),
    steps=st.integers(1, 9),
    k1=st.integers(1, 10),
    more=st.integers(0, 7),
    ragged=st.sampled_from(["no", "lengths", "mask", "reset", "mask and reset"]),
    given_start=st.booleans(),
    seed=st.integers(0, 99),
)
def test_each_window_has_the_gradients_of_the_definition(
    name: str, steps: int, k1: int, more: int, ragged: str, given_start: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    batch = 3
    values = drawn_parameters(rng)
    xs, targets = rng.normal(size=(steps, batch, INPUT)), rng.normal(size=(steps, batch, OUTPUT))
    valid, reset = np.ones((steps, batch), dtype=bool), np.zeros((steps, batch), dtype=bool)
    options: dict[str, Any] = {}
    if ragged == "lengths":
        options["lengths"] = rng.integers(0, steps + 1, size=batch)
        valid = np.arange(steps)[:, None] < options["lengths"]
    if "mask" in ragged:
        options["mask"] = valid = rng.random((steps, batch)) < 0.6
    if "reset" in ragged:
        options["reset"] = reset = rng.random((steps, batch)) < 0.3
    p = leaves(values)
    cell = LearnedStart(name, p)
    if given_start:
        options["state"] = cell.initial_state((batch,), "float64", "numpy")
    windows = tg.truncated_bptt(
        cell,
        tg.tensor(np.where(valid[..., None], xs, np.nan)),
        tg.tensor(targets),
        lambda y, target: tg.mse_loss(y @ p["V"], target),
        k1=k1,
        k2=k1 + more,
        **options,
    )
    expected = by_hand(name, values, xs, targets, k1, k1 + more, valid, reset, given_start)
    for window, (loss, gradients, after) in zip(windows, expected, strict=True):
        assert_allclose(window.loss.item(), loss, rtol=1e-12)
        for key, leaf in p.items():
            found = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
            assert_allclose(found, gradients[key], rtol=1e-12, atol=1e-12, err_msg=key)
            leaf.data = leaf.data - RATE * found
            leaf.grad = None
            assert_allclose(leaf.numpy(), after[key], rtol=1e-12, atol=1e-12, err_msg=key)


def test_old_steps_count_with_old_parameters() -> None:
    # y_t = w h_t, h_t = w h_{t-1}: with h_0 = 1 and w = 2 for step 0, then w = 3.
    w = tg.tensor([2.0], dtype="float64", requires_grad=True)

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = w * h
        return h, h

    xs = tg.zeros((2, 1))
    start = tg.ones((1,), dtype="float64")
    windows = tg.truncated_bptt(cell, xs, xs, lambda y, _: tg.sum(y), start, k1=1, k2=2)
    next(windows)
    assert w.grad is not None and w.grad.item() == 1
    w.data, w.grad = tg.tensor([3.0], dtype="float64"), None
    assert next(windows).loss.item() == 6
    assert w.grad.item() == 2 + 3  # h_2 = w_1 w_0: by w_1 it is w_0, by w_0 it is w_1


@pytest.mark.parametrize("k1", [2, 3, 6, 9])
def test_with_k2_equal_to_k1_it_is_the_usual_loop(backend: Any, k1: int) -> None:
    def trained(by_window: bool) -> dict[str, Any]:
        tg.manual_seed(3)
        cell, readout = nn.LSTMCell(INPUT, HIDDEN), nn.Linear(HIDDEN, OUTPUT)
        optimizer = optim.Adam([*cell.parameters(), *readout.parameters()], lr=0.1)
        rng = np.random.default_rng(0)
        xs = tg.tensor(rng.normal(size=(6, 4, INPUT)), dtype="float32")
        targets = tg.tensor(rng.normal(size=(6, 4, OUTPUT)), dtype="float32")

        def loss(y: Tensor, target: Tensor) -> Tensor:
            return tg.mse_loss(readout(y), target)

        if by_window:
            for _ in tg.truncated_bptt(cell, xs, targets, loss, k1=k1):
                optimizer.step()
                optimizer.zero_grad()
        else:
            state = None
            for t in range(0, 6, k1):
                outputs, state = tg.unroll(cell, xs[t : t + k1], state)
                loss(outputs, targets[t : t + k1]).backward()
                state = tg.detach(state)
                optimizer.step()
                optimizer.zero_grad()
        return {**cell.state_dict(), "readout": readout.weight}

    usual = trained(by_window=False)
    for name, found in trained(by_window=True).items():
        assert_array_equal(found.numpy(), usual[name].numpy(), err_msg=name)


def test_one_window_of_all_steps_is_plain_bptt_into_inputs_and_initial_state() -> None:
    rng = np.random.default_rng(0)
    p = leaves(drawn_parameters(rng))
    xs = tg.tensor(rng.normal(size=(5, 2, INPUT)), requires_grad=True)
    state = tg.tensor(rng.normal(size=(2, HIDDEN)), requires_grad=True)
    wanted = {"xs": xs, "state": state, "W": p["W"]}

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return elman(p, x, h)

    outputs, last = tg.unroll(cell, xs, state)
    expected = tg.grad(tg.sum(outputs * outputs), wanted)
    (window,) = tg.truncated_bptt(cell, xs, xs, lambda y, _: tg.sum(y * y), state, k1=5)
    assert_array_equal(window.outputs.numpy(), outputs.numpy())
    assert_array_equal(window.state.numpy(), last.numpy())
    for name, leaf in wanted.items():
        assert_allclose(leaf.grad.numpy(), expected[name].numpy(), rtol=1e-12, err_msg=name)


def test_windows_are_without_a_graph_and_cover_all_steps() -> None:
    p = leaves(drawn_parameters(np.random.default_rng(0)))
    xs = {"x": tg.ones((7, 2, INPUT), dtype="float64"), "t": tg.arange(7)}

    def cell(x: Any, h: Tensor) -> tuple[Any, Tensor]:
        _, h = elman(p, x["x"], h)
        return {"h": h, "time": x["t"]}, h

    def loss(outputs: Any, targets: Any) -> Tensor:
        assert_array_equal(outputs["time"].numpy(), targets[0].numpy())
        return tg.mean(outputs["h"])

    start = tg.zeros((2, HIDDEN), dtype="float64")
    windows = list(tg.truncated_bptt(cell, xs, (tg.arange(7),), loss, start, k1=3, k2=4))
    times = [window.outputs["time"].tolist() for window in windows]
    assert times == [[0, 1, 2], [3, 4, 5], [6]]
    assert not any(leaf.requires_grad for leaf in flatten(windows)[0])


def test_gradients_accumulate_until_they_are_zeroed() -> None:
    p = leaves(drawn_parameters(np.random.default_rng(0)))
    xs = tg.ones((4, 1, INPUT), dtype="float64")
    singly, total = [], np.zeros((INPUT, HIDDEN))
    for zeroing in (True, False):
        p["W"].grad = None
        for _ in tg.truncated_bptt(
            LearnedStart("elman", p), xs, xs, lambda y, _: tg.sum(y), k1=1, k2=3
        ):
            if zeroing:
                singly.append(p["W"].grad.numpy())
                p["W"].grad = None
    for g in singly:
        total = total + g
    assert_allclose(p["W"].grad.numpy(), total, rtol=1e-12)


def test_what_was_computed_before_the_call_gets_gradients_from_every_window() -> None:
    table = tg.tensor(np.eye(INPUT), requires_grad=True)
    p = leaves(drawn_parameters(np.random.default_rng(0)))
    embedded = tg.take(table, tg.tensor([[0], [1], [1], [0]]), axis=0)
    windows = tg.truncated_bptt(
        LearnedStart("elman", p), embedded, embedded.detach(), lambda y, _: tg.sum(y), k1=2
    )
    for _ in windows:
        assert table.grad is not None and bool((table.grad.numpy() != 0).all())
        table.grad = None


def test_every_step_is_run_once() -> None:
    p = leaves(drawn_parameters(np.random.default_rng(0)))
    seen = []

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(x[0, 0].item())
        return elman(p, x, h)

    xs = tg.reshape(tg.arange(11.0), (11, 1, 1)) * tg.ones((1, 1, INPUT))
    start = tg.zeros((1, HIDDEN), dtype="float64")
    list(tg.truncated_bptt(cell, xs, xs, lambda y, _: tg.sum(y), start, k1=2, k2=5))
    assert seen == list(range(11))


def nodes() -> int:
    return sum(type(each) is Node for each in gc.get_objects())


@pytest.mark.parametrize(("k1", "k2"), [(1, 4), (2, 2), (2, 5), (3, 6)])
def test_the_graph_does_not_grow_with_the_sequence(k1: int, k2: int) -> None:
    p = leaves(drawn_parameters(np.random.default_rng(0)))
    cell = LearnedStart("two_speeds", p)
    gc.collect()
    gc.disable()  # what is kept is kept by references, not by cycles that wait for the collector
    gc.freeze()  # what was there before is not counted, and takes no time
    before = nodes()
    in_loss: list[int] = []
    between: list[int] = []

    def loss(y: Tensor, _: Tensor) -> Tensor:
        in_loss.append(nodes() - before)
        return tg.sum(y)

    def of_a_step() -> int:
        start = cell.initial_state((2,), "float64", "numpy")
        before = nodes()
        kept = cell(tg.ones((2, INPUT)), start)
        found = nodes() - before
        del kept
        return found

    try:
        xs = tg.ones((30, 2, INPUT), dtype="float64")
        for _ in tg.truncated_bptt(cell, xs, xs, loss, k1=k1, k2=k2):
            between.append(nodes() - before)
        limit = of_a_step() + 8  # beside those of the cell there are joints: stack, concat, links
    finally:
        gc.unfreeze()
        gc.enable()
    assert max(in_loss) <= k2 * limit
    assert max(between) <= (k2 - k1) * limit
    settled = in_loss[k2 // k1 + 1 :]
    assert max(settled) == max(settled[: len(settled) // 2])


def test_dropout_draws_anew_in_every_window() -> None:
    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return tg.dropout(x * w, 0.5), h

    w = tg.ones(64, requires_grad=True)
    tg.manual_seed(0)
    xs = tg.ones((4, 2, 64))
    found = [
        window.outputs.numpy()
        for window in tg.truncated_bptt(cell, xs, xs, lambda y, _: tg.sum(y), tg.zeros(2), k1=2)
    ]
    assert not (found[0] == found[1]).all()


@pytest.mark.parametrize("where", ["cell", "loss", "backward", "left"])
def test_what_ends_it_leaves_the_gradients_of_the_window_before(where: str) -> None:
    p = leaves(drawn_parameters(np.random.default_rng(0)))
    xs = tg.ones((6, 1, INPUT), dtype="float64")
    failing = False

    def fail(g: Tensor) -> None:
        if failing:
            raise ArithmeticError

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        if where == "cell":
            fail(x)
        return elman(p, x, h)

    def loss(y: Tensor, _: Tensor) -> Tensor:
        if where == "loss":
            fail(y)
        return tg.sum(y)

    if where == "backward":
        p["U"].register_hook(fail)
    start = tg.zeros((1, HIDDEN), dtype="float64")
    windows = tg.truncated_bptt(cell, xs, xs, loss, start, k1=2, k2=3)
    next(windows)
    after_one = {name: leaf.grad for name, leaf in p.items()}
    failing = True
    if where == "left":
        windows.close()
    else:
        with pytest.raises(ArithmeticError):
            next(windows)
    assert {name: leaf.grad for name, leaf in p.items()} == after_one
    assert list(windows) == []


def test_no_steps_give_no_windows() -> None:
    p = leaves(drawn_parameters(np.random.default_rng(0)))
    xs = tg.zeros((0, 2, INPUT))
    assert list(tg.truncated_bptt(LearnedStart("elman", p), xs, xs, tg.mse_loss, k1=2)) == []


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "k1 of 0": ({"k1": 0}, ValueError, "k1=0"),
    "k2 below k1": ({"k1": 3, "k2": 2}, ValueError, "k1=3 and k2=2"),
    "k1 a float": ({"k1": 2.0}, TypeError, "k1 is a number of steps, not 2.0"),
    "k2 a float": ({"k2": 4.0}, TypeError, "k2 is a number of steps, not 4.0"),
    "fewer targets": ({"targets": tg.zeros((5, 2))}, ValueError, r"\(6, 2, 2\), \(5, 2\)"),
    "a target for all steps": ({"targets": 1.0}, ValueError, "share an axis 0 of time"),
    "no inputs": ({"xs": ()}, ValueError, "share an axis 0 of time"),
    "a list": ({"xs": [tg.zeros((6, INPUT))]}, TypeError, "pad_sequences"),
    "a long length": ({"lengths": [7, 1]}, ValueError, r"lengths \[7, 1\] for 6 steps"),
    "half a length": ({"lengths": [0.5, 1]}, ValueError, "lengths are 2 integers"),
    "a short mask": (
        {"mask": np.ones((2, 2), dtype=bool)},
        ValueError,
        r"mask is bool of shape \(6, 2\)",
    ),
    "a short reset": (
        {"reset": np.ones((2, 2), dtype=bool)},
        ValueError,
        r"reset is bool of shape \(6, 2\)",
    ),
    "lengths and a mask": (
        {"lengths": [1, 2], "mask": np.ones((6, 2), dtype=bool)},
        ValueError,
        "lengths or a mask, not both",
    ),
    "no initial state": ({"state": None}, TypeError, "initial_state"),
    "a layer": ({"cell": nn.GRU(INPUT, 3)}, TypeError, "truncated_bptt: GRU is a layer"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_by_the_call_itself(case: str) -> None:
    changed, error, message = BAD[case]
    p = leaves(drawn_parameters(np.random.default_rng(0)))
    xs = tg.zeros((6, 2, INPUT))
    arguments: dict[str, Any] = {
        "cell": lambda x, h: elman(p, x, h),
        "xs": xs,
        "targets": xs,
        "loss": lambda y, _: tg.sum(y),
        "state": tg.zeros((2, HIDDEN)),
        "k1": 2,
    }
    with pytest.raises(error, match=message):
        tg.truncated_bptt(**{**arguments, **changed})


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda y, _: y, ValueError, r"scalar Tensor, not \(2, 2, 3\)"),
        (lambda y, _: 1.0, ValueError, "scalar Tensor, not float"),
        (lambda y, _: tg.sum(y.detach()), RuntimeError, "no input that requires grad"),
    ],
)
def test_a_loss_that_cannot_be_walked_back_from_is_refused(
    loss: Any, error: type[Exception], message: str
) -> None:
    p = leaves(drawn_parameters(np.random.default_rng(0)))
    xs = tg.zeros((6, 2, INPUT))
    windows = tg.truncated_bptt(LearnedStart("elman", p), xs, xs, loss, k1=2)
    with pytest.raises(error, match=message):
        next(windows)
    assert all(leaf.grad is None for leaf in p.values())


# detach


def carried(backend: Any) -> tuple[Tensor, Any]:
    w = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    h = tg.reshape(w, (3, 1)) * tg.ones((3, 2))
    return w, {"layers": [Pair(h, w * 2.0)], "steps": tg.tensor([4, 5, 6])}


def test_detach_keeps_structure_and_values_and_drops_the_graph(backend: Any) -> None:
    _, state = carried(backend)
    found = tg.detach(state)
    assert flatten(found)[1] == flatten(state)[1]
    for before, after in zip(flatten(state)[0], flatten(found)[0], strict=True):
        assert not after.requires_grad
        assert_array_equal(after.numpy(), before.numpy())


@pytest.mark.parametrize("kind", [list, np.array, tg.tensor])
def test_detach_cuts_the_rows_that_are_named_and_no_others(backend: Any, kind: Any) -> None:
    w, state = carried(backend)
    found = tg.detach(state, rows=kind([True, False, True]))
    for before, after in zip(flatten(state)[0], flatten(found)[0], strict=True):
        assert_array_equal(after.numpy(), before.numpy())
    h, c = found["layers"][0]
    (tg.sum(h) + tg.sum(c)).backward()
    assert w.grad is not None
    assert_array_equal(w.grad.numpy(), [0.0, 4.0, 0.0])


@pytest.mark.parametrize(
    ("state", "rows", "error", "message"),
    [
        (None, None, TypeError, "a NoneType"),
        ((tg.ones(2), 1.0), None, TypeError, "a float"),
        (tg.ones((3, 2)), [True, False], ValueError, r"bool \(2,\) for one of shape \(3, 2\)"),
        (tg.ones((2, 2)), [1, 0], ValueError, r"int64 \(2,\)"),
        (tg.ones(()), [True], ValueError, r"shape \(\)"),
        (tg.ones((2, 2)), [[True, False]] * 2, ValueError, r"bool \(2, 2\)"),
    ],
)
def test_detach_refuses_what_is_no_state_or_names_no_rows(
    state: Any, rows: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tg.detach(state, rows)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint64"])
def test_lengths_may_be_integers_of_any_kind(dtype: str) -> None:
    cell, x = nn.GRUCell(3, 2), tg.ones((6, 2, 3))

    runs = [
        [
            window.outputs.numpy()
            for window in tg.truncated_bptt(
                cell, x, tg.zeros((6, 2, 2)), tg.mse_loss, k1=2, lengths=np.array([1, 5], kind)
            )
        ]
        for kind in (dtype, "int64")
    ]
    assert_array_equal(*map(np.concatenate, runs))
