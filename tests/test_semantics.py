"""What must hold: every bullet under *Semantics* in the design, each with tests of its own.

Work and memory are counted, never timed: weak references tell what a graph still owns, and a
backend that counts tells how much a backward pass allocates.
"""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim
from tinygrad_rnn_backends import Backend

rng = np.random.default_rng(0)

BOTH_MODES = pytest.mark.parametrize("mode", ["literal", "planned"])


def leaf(*shape: int) -> Tensor:
    """A float64 parameter."""
    return tg.tensor(rng.normal(size=shape), requires_grad=True)


def array_in(x: Tensor) -> weakref.ref[Any]:
    """A weak reference to the array that a tensor and its graph share."""
    return weakref.ref(x.data.base)


@contextmanager
def no_collector() -> Iterator[None]:
    """The garbage collector off, with nothing left for it to do: cycles then stay for ever."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def elman(
    x: Tensor, w: Tensor, u: Tensor, h: Tensor | None = None, mode: Any = "auto"
) -> tuple[Tensor, Tensor]:
    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = tg.tanh(x @ w + h @ u)
        return h, h

    h = tg.zeros((x.shape[1], u.shape[0]), x.dtype, backend=x.backend) if h is None else h
    return tg.unroll(cell, x, h, mode=mode)


# Nodes own what their vjps read and a Tensor is a handle.


def test_a_node_keeps_what_its_vjps_read_and_nothing_else() -> None:
    with no_collector():
        x, y = leaf(3), leaf(3)
        total = x + y
        squashed = tg.tanh(total)
        scaled = squashed * 2.0
        kept = {"total": array_in(total), "tanh": array_in(squashed), "scaled": array_in(scaled)}
        result = scaled.sum()
        del total, squashed, scaled
        assert {name for name, ref in kept.items() if ref() is not None} == {"tanh"}
        del result
        assert kept["tanh"]() is None


def test_dropping_the_result_drops_the_graph_without_the_collector() -> None:
    def everything(x: Tensor) -> Tensor:
        parts = tg.unstack(tg.stack([tg.exp(x), x[[0, 1, 1]], tg.checkpoint(tg.sin)(x)]))
        low, high = tg.split(tg.concat(parts), [2])
        picked = low.at[0].set(high.mean()) @ tg.ones((2, 2), x.dtype)
        return tg.where(picked > 0, picked, -picked).max() + tg.einsum("i,j->", x, x)

    with no_collector():
        x = leaf(3)
        y = everything(x)
        kept = weakref.ref(y._node)
        del y
        assert kept() is None
        y = everything(x)
        y.backward(retain_graph=True)
        tg.grad(y, x, create_graph=True)
        kept = weakref.ref(y._node)
        del y
        assert kept() is None


@pytest.mark.parametrize(
    "work",
    [
        lambda x: tg.value_and_grad(lambda x: tg.tanh(x).sum())(x),
        lambda x: tg.vjp(tg.tanh, x)[1](x.detach()),
        lambda x: tg.jvp(tg.tanh, x.detach(), x.detach()),
        lambda x: tg.hvp(lambda x: tg.tanh(x).sum(), x, x),
        lambda x: tg.hessian(lambda x: tg.tanh(x).sum())(x),
        lambda x: tg.vmap(lambda e: tg.value_and_grad(tg.tanh)(e))(x),
        lambda x: tg.checkpoint(tg.tanh)(x).sum().backward(),
        lambda x: elman(tg.ones((3, 2, 3), x.dtype), x * 1.0, x * x[0, ...], mode="literal"),
        lambda x: elman(tg.ones((3, 2, 3), x.dtype), x * 1.0, x * x[0, ...], mode="planned"),
        lambda x: x.register_hook(lambda g: g)(),
    ],
)
def test_no_transform_leaves_a_cycle(work: Callable[[Tensor], Any]) -> None:
    x = leaf(3)
    x = x if work.__code__.co_names[0] != "elman" else leaf(3, 3)
    work(x)  # whatever is cached is cached now
    with no_collector():
        work(x)
        assert gc.collect() == 0


def test_a_parameter_rebound_between_forward_and_backward_corrupts_no_gradient() -> None:
    w, x = leaf(3, 3), leaf(2, 3)
    before = w.numpy().copy()
    y = tg.tanh(x @ w @ w).sum()
    expected = tg.grad(y, [x, w], retain_graph=True)
    w.data = w.data * 100.0
    x.data = np.zeros((2, 3))
    for got, wanted in zip(tg.grad(y, [x, w]), expected, strict=True):
        assert_array_equal(got.numpy(), wanted.numpy())
    assert not np.array_equal(w.numpy(), before)


@BOTH_MODES
def test_an_optimiser_step_between_forward_and_backward_corrupts_no_gradient(mode: Any) -> None:
    cell = nn.LSTMCell(2, 3)
    optimiser = optim.Adam(cell.parameters(), lr=0.5)
    y, _ = tg.unroll(cell, tg.ones((4, 1, 2)), mode=mode)
    loss = tg.square(y).sum()
    loss.backward(retain_graph=True)
    expected = [p.grad.numpy() for p in cell.parameters()]
    optimiser.step()
    optimiser.zero_grad()
    loss.backward()
    for p, wanted in zip(cell.parameters(), expected, strict=True):
        assert_array_equal(p.grad.numpy(), wanted)


# backward() and grad() drop what was saved.


@pytest.mark.parametrize("way", ["backward", "grad"])
def test_a_pass_drops_what_the_vjps_saved_but_no_value(way: str) -> None:
    with no_collector():
        x = leaf(3)
        squashed = tg.tanh(x)
        saved = array_in(squashed)
        loss = squashed.sum()
        value = np.tanh(x.numpy()).sum()
        del squashed
        assert saved() is not None
        loss.backward() if way == "backward" else tg.grad(loss, x)
        assert saved() is None
        assert loss.item() == value
        assert loss.numpy() == value


@BOTH_MODES
@pytest.mark.parametrize("way", ["backward", "grad", "retain_graph=False"])
def test_a_second_pass_is_an_error_that_names_the_carried_state_and_detach(
    way: str, mode: Any
) -> None:
    w = leaf(3, 3)
    x = tg.tensor(rng.normal(size=(4, 2, 3)))
    y, h = elman(x, w, w, mode=mode)
    y.sum().backward(retain_graph=False if way == "retain_graph=False" else None)
    y, _ = elman(x, w, w, h, mode)  # the state still leads to the graph of the first part
    before = w.grad
    with pytest.raises(tg.ReleasedGraphError, match="state") as caught:
        y.sum().backward() if way == "backward" else tg.grad(y.sum(), w)
    assert "state.detach()" in str(caught.value)
    assert w.grad is before
    y, _ = elman(x, w, w, h.detach(), mode)
    y.sum().backward()


def test_retain_graph_allows_a_second_pass_and_a_third() -> None:
    x = leaf(3)
    y = tg.exp(x).sum()
    y.backward(retain_graph=True)
    y.backward(retain_graph=True)
    y.backward()
    assert_allclose(x.grad.numpy(), 3 * np.exp(x.numpy()), rtol=1e-14)
    with pytest.raises(tg.ReleasedGraphError):
        y.backward()


def test_create_graph_retains_the_graph_by_default() -> None:
    x = leaf(3)
    y = tg.exp(x).sum()
    tg.grad(y, x, create_graph=True)
    assert_array_equal(tg.grad(y, x).numpy(), np.exp(x.numpy()))


# tensor copies, asarray shares; views are read-only.


def test_tensor_copies_and_asarray_shares() -> None:
    host = np.ones(3)
    copied, shared = tg.tensor(host), tg.asarray(host)
    host[0] = 5.0
    assert copied.tolist() == [1, 1, 1]
    assert shared.tolist() == [5, 1, 1]
    assert tg.asarray(shared) is shared
    again = tg.tensor(shared)
    host[0] = 7.0
    assert again.tolist() == [5, 1, 1]
    assert "shar" in (tg.asarray.__doc__ or "").lower()


def test_tensor_of_a_tensor_is_a_new_leaf() -> None:
    x = leaf(3)
    y = tg.tensor(x * 2, requires_grad=True)
    assert y.is_leaf
    y.sum().backward()
    assert x.grad is None


def test_what_data_and_numpy_hand_out_is_read_only() -> None:
    x = leaf(3)
    y = tg.exp(x)
    for view in (x.data, x.numpy(), y.data, y.numpy(), np.asarray(y), y.detach().numpy()):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 5.0
        with pytest.raises(ValueError, match="read-only"):
            view += 1.0
    own = np.array(y)
    own[0] = 5.0  # a copy is the user's own
    assert y.numpy()[0] != 5.0
    assert "detect_anomaly" in (tg.asarray.__doc__ or "")


# All graph walks are iterative: see test_bptt.py, which goes 100,000 steps deep.

# Time is split once and joined once; a loop over x[t] pays O(T).


class Meter:
    """Counts the elements that a backend allocates as zeros, copies and adds at an index."""

    def __init__(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.zeros: list[int] = []
        self.added: list[int] = []
        self.copied: list[int] = []
        zeros, index_add, asarray = backend.zeros, backend.index_add, backend.asarray

        def counting_zeros(shape: Any, **options: Any) -> Any:
            out = zeros(shape, **options)
            self.zeros.append(out.size)
            return out

        def counting_add(x: Any, key: Any, values: Any) -> Any:
            self.added.append(values.size)
            return index_add(x, key, values)

        def counting_asarray(x: Any, **options: Any) -> Any:
            out = asarray(x, **options)
            self.copied.append(out.size if options.get("copy") else 0)
            return out

        monkeypatch.setattr(backend, "zeros", counting_zeros, raising=False)
        monkeypatch.setattr(backend, "index_add", counting_add, raising=False)
        monkeypatch.setattr(backend, "asarray", counting_asarray, raising=False)


@pytest.mark.parametrize("index", ["x[t]", "x[t : t + 1]", "x[[t]]"])
@pytest.mark.parametrize("steps", [50, 100])
def test_a_loop_over_indices_allocates_one_dense_array(
    index: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, width = leaf(steps, 4), 4
    h = tg.zeros(4, np.float64)
    for t in range(steps):
        h = tg.tanh(h + eval(index, {"x": x, "t": t}))
    loss = h.sum()
    meter = Meter(tg.get_backend("numpy"), monkeypatch)
    (g,) = tg.grad(loss, [x])
    assert meter.zeros == [steps * width]
    assert meter.added == [width] * steps
    assert sum(meter.copied) == 0
    y, expected = 0.0, []
    for row in x.numpy():
        y = np.tanh(y + row)
        expected.append(1 - y * y)
    assert_allclose(g.numpy(), np.cumprod(expected[::-1], axis=0)[::-1], rtol=1e-12)


def test_an_indexed_cotangent_joins_a_dense_one_by_one_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = leaf(20, 4)
    dense = tg.tensor(rng.normal(size=(20, 4)))
    loss = sum((x[t] * float(t) for t in range(20)), (x * dense).sum(axis=0)).sum()
    meter = Meter(tg.get_backend("numpy"), monkeypatch)
    (g,) = tg.grad(loss, [x], retain_graph=True)
    assert len(meter.zeros) + len([n for n in meter.copied if n]) <= 1
    assert_allclose(g.numpy(), dense.numpy() + np.arange(20.0)[:, None], rtol=1e-14)
    assert_allclose(tg.grad(loss, x).numpy(), g.numpy())  # nothing that is shared was written to


def test_unroll_splits_time_once_and_joins_it_once() -> None:
    x, w = leaf(7, 2, 3), leaf(3, 3)
    y, _ = elman(x, w, w, mode="literal")
    text = tg.to_text(y)
    assert text.count("= stack(") == 1
    assert text.count("unstack[6]") == 1
    assert "getitem" not in text


def test_the_gradient_of_an_index_is_functional_under_create_graph() -> None:
    x = leaf(5)
    y = sum((x[t] ** 3 * float(t + 1) for t in range(5)), tg.square(x[1:4]).sum())
    g = tg.grad(y, x, create_graph=True)
    h = tg.grad((g * g).sum(), x)
    values, factors, inner = x.numpy(), np.arange(1.0, 6.0), np.array([0.0, 1, 1, 1, 0])
    first = 3 * factors * values**2 + 2 * inner * values
    assert_allclose(g.numpy(), first, rtol=1e-14)
    assert_allclose(h.numpy(), 2 * first * (6 * factors * values + 2 * inner), rtol=1e-13)


# Gradients are returned values first.


def test_grad_returns_and_leaves_the_tensors_alone() -> None:
    x, w = leaf(3), leaf(3)
    y = (x * w).sum()
    g = tg.grad(y, {"x": x, "w": w})
    assert_array_equal(g["x"].numpy(), w.numpy())
    assert x.grad is None and w.grad is None


def test_backward_fills_and_accumulates_grad() -> None:
    x, frozen = leaf(3), tg.tensor([1.0, 2.0, 3.0])
    assert x.grad is None
    (x * 2.0).sum().backward()
    first = x.grad
    (x * 3.0 * frozen.astype("float64")).sum().backward()
    assert isinstance(x.grad, Tensor)
    assert x.grad.tolist() == [5, 8, 11]
    assert first.tolist() == [2, 2, 2]  # what was handed out before did not change
    assert frozen.grad is None
    x.grad = None
    assert x.grad is None


def test_grad_has_the_dtype_shape_and_backend_of_its_leaf(backend: Backend) -> None:
    w = tg.ones((3, 1), "float32", requires_grad=True)
    s = tg.tensor(2.0, "float64", requires_grad=True)
    ((w.astype("float64") * s) * tg.ones((4, 3, 5), "float64")).sum().backward()
    assert (w.grad.dtype, w.grad.shape, w.grad.backend) == ("float32", (3, 1), backend.name)
    assert (s.grad.dtype, s.grad.shape, s.grad.backend) == ("float64", (), backend.name)


# Broadcasting and type promotion follow NumPy 2.

DTYPES = ["bool", "int8", "int64", "uint8", "float16", "float32", "float64"]


@pytest.mark.parametrize("one, other", [*itertools.product(DTYPES, DTYPES)])
def test_promotion_of_arrays_is_numpys(one: str, other: str) -> None:
    x, y = np.ones((2, 1), one), np.ones(3, other)
    for operation in (np.add, np.multiply, np.true_divide, np.maximum):
        name = {"true_divide": "divide"}.get(operation.__name__, operation.__name__)
        expected = operation(x, y)
        got = getattr(tg, name)(tg.tensor(x), tg.tensor(y))
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    assert tg.result_type(tg.tensor(x), other) == np.result_type(x, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scalar", [True, 2, 2.5])
def test_python_scalars_are_weak(dtype: str, scalar: float) -> None:
    x = np.ones(3, dtype)
    for got, expected in (
        (tg.tensor(x) + scalar, x + scalar),
        (scalar * tg.tensor(x), scalar * x),
        (tg.tensor(x) / scalar, x / scalar),
        (tg.where(tg.tensor([True, False, True]), tg.tensor(x), scalar), x + scalar),
    ):
        assert got.dtype == expected.dtype
    if x.dtype.kind == "f":
        y = tg.tensor(x, requires_grad=True)
        ((y * scalar + scalar) ** 2 / (scalar + 1.5)).sum().backward()
        assert y.grad.dtype == x.dtype


@pytest.mark.parametrize("scalar", [np.float64(0.1), np.float32(0.1), np.int64(3)])
def test_numpy_scalars_are_not_weak_and_lose_no_digit(scalar: Any) -> None:
    for dtype in ("float32", "float64"):
        x = np.ones(3, dtype)
        for got, expected in (
            (tg.tensor(x) * scalar, x * scalar),
            (scalar - tg.tensor(x), scalar - x),
        ):
            assert got.dtype == expected.dtype
            assert_array_equal(got.numpy(), expected)
    assert tg.tensor(scalar).dtype == scalar.dtype
    assert tg.tensor(scalar).item() == scalar.item()


def test_gradients_of_broadcast_inputs_have_the_inputs_shapes(backend: Backend) -> None:
    shapes = [(), (1,), (3,), (2, 1), (1, 3), (4, 1, 3), (4, 2, 3), (0,), (2, 0)]
    for a, b in itertools.product(shapes, shapes):
        try:
            np.broadcast_shapes(a, b)
        except ValueError:
            continue
        x = tg.ones(a, "float64", requires_grad=True)
        y = tg.ones(b, "float64", requires_grad=True)
        gx, gy = tg.grad((x * 2.0 * y).sum(), [x, y])
        assert gx.shape == a
        assert gy.shape == b
        assert gx.dtype == gy.dtype == "float64"


def test_a_python_float_is_not_rounded_on_its_way_to_the_dtype_asked_for(backend: Backend) -> None:
    assert tg.tensor(0.1, dtype="float64").item() == 0.1
    assert tg.tensor([0.1], dtype="float64").tolist() == [0.1]
    assert tg.asarray([[0.1]], dtype="float64").tolist() == [[0.1]]
    assert tg.tensor(0.1).dtype == np.float32


def test_the_default_dtype_is_float32_and_can_be_set(backend: Backend) -> None:
    def defaults() -> list[np.dtype[Any]]:
        made = [tg.tensor(1.0), tg.tensor([[1.0], [2.0]]), tg.asarray([1.0]), tg.zeros(2)]
        made += [tg.ones((1, 2)), tg.eye(2), tg.full(2, 0.5), tg.arange(0.0, 1.0, 0.5)]
        made += [tg.linspace(0.0, 1.0, 3), tg.random.uniform(3), tg.exp(0.5), tg.empty(1)]
        made += [*nn.LSTMCell(2, 3).parameters(), *nn.Linear(2, 3).parameters()]
        return [x.dtype for x in made]

    assert set(defaults()) == {np.dtype("float32")}
    tg.set_default_dtype("float64")
    try:
        assert set(defaults()) == {np.dtype("float64")}
    finally:
        tg.set_default_dtype("float32")
    assert tg.default_dtype() == "float32"
    assert tg.tensor(np.ones(2)).dtype == "float64"  # arrays keep theirs
    assert tg.tensor(np.ones(2, "float16"), backend="numpy").dtype == "float16"
    assert tg.tensor([1, 2]).dtype == "int64"
    assert tg.tensor([True]).dtype == "bool"
    assert tg.arange(3).dtype == "int64"


def test_a_zero_state_has_the_result_type_of_x_and_the_weights() -> None:
    for x, weights in itertools.product(["float32", "float64"], ["float32", "float64"]):
        tg.set_default_dtype(weights)
        try:
            cell = nn.LSTMCell(2, 3)
        finally:
            tg.set_default_dtype("float32")
        y, (h, c) = tg.unroll(cell, tg.ones((2, 1, 2), x))
        assert y.dtype == h.dtype == c.dtype == np.result_type(x, weights)


def test_weights_loaded_into_a_module_keep_the_modules_dtype() -> None:
    layer = nn.Linear(2, 3)
    layer.load_state_dict({k: v.numpy().astype("float64") for k, v in layer.state_dict().items()})
    assert {p.dtype.name for p in layer.parameters()} == {"float32"}


# NumPy does not take a Tensor for one of its own arrays.


def test_ndarray_operator_tensor_gives_a_tensor() -> None:
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    a = np.array([3.0, 4.0], dtype=np.float32)
    for got, expected in (
        (a * x, [3, 8]),
        (a - x, [2, 2]),
        (a / x, [3, 2]),
        (a @ x, 11),
        (a > x, [True, True]),
        (np.float32(2) * x, [2, 4]),
    ):
        assert isinstance(got, Tensor)
        assert got.tolist() == expected
    (a * x).sum().backward()
    assert x.grad.tolist() == [3, 4]


def test_numpy_functions_refuse_a_tensor_rather_than_make_object_arrays() -> None:
    x = tg.ones(3)
    for call in (
        lambda: np.exp(x),
        lambda: np.add(np.ones(3), x),
        lambda: np.multiply.reduce(x),
        lambda: np.ones(3).__iadd__(x),
    ):
        with pytest.raises(TypeError):
            call()
    a = np.ones(3)
    with pytest.raises(TypeError):
        a += x
    assert Tensor.__array_ufunc__ is None


def test_copies_to_the_host_are_explicit(backend: Backend) -> None:
    x = tg.tensor([[1.5, 2.5]])
    assert x.backend == backend.name
    assert isinstance(x.numpy(), np.ndarray)
    assert x.tolist() == [[1.5, 2.5]]
    one = tg.tensor([[2.0]])
    assert (one.item(), float(one), int(one), bool(one)) == (2.0, 2.0, 2, True)
    assert type(one.item()) is float
    assert [10, 20, 30][tg.tensor(1)] == 20
    if backend.name == "numpy":
        assert np.asarray(x).tolist() == [[1.5, 2.5]]
    else:
        for convert in (np.asarray, np.array, lambda x: np.stack([x])):
            with pytest.raises(TypeError, match=r"\.numpy\(\)"):
                convert(x)


def test_nothing_in_training_copies_to_the_host(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, head = nn.GRUCell(2, 3), nn.Linear(3, 2)
    parameters = [*cell.parameters(), *head.parameters()]
    optimiser = optim.SGD(parameters, lr=0.1, nonfinite="allow")  # to look would be to copy
    x = tg.tensor(rng.normal(size=(4, 2, 2)).astype("float32"), backend=backend.name)

    def refuse(array: Any) -> Any:
        raise AssertionError("a copy to the host that nobody asked for")

    monkeypatch.setattr(backend, "to_host", refuse, raising=False)
    y, _ = tg.unroll(cell, x, lengths=[4, 2])
    tg.mse_loss(head(y), x).backward()
    optimiser.step()
    assert all(p.grad is not None for p in parameters)


# No in-place arithmetic.

IN_PLACE = ["+=", "-=", "*=", "/=", "**=", "//=", "%=", "@="]


@pytest.mark.parametrize("symbol", IN_PLACE)
def test_in_place_arithmetic_on_a_parameter_raises_and_shows_the_cure(symbol: str) -> None:
    names = {"p": leaf(2, 2), "y": tg.ones((2, 2), "float64")}
    before = names["p"]
    with pytest.raises(TypeError, match=r"p\.data = p\.data - "):
        exec(f"p {symbol} y", names)
    assert names["p"] is before


@pytest.mark.parametrize("symbol", IN_PLACE)
def test_in_place_arithmetic_elsewhere_rebinds_the_name(symbol: str) -> None:
    for x in (tg.full((2, 2), 3.0), leaf(2, 2) * 2.0):
        before = x.numpy().copy()
        names = {"x": x, "y": 2.0 * tg.ones((2, 2), x.dtype)}
        exec(f"x {symbol} y", names)
        assert names["x"] is not x
        assert_array_equal(x.numpy(), before)
        expected = {"x": before.copy(), "y": names["y"].numpy()}
        exec(f"x = x {symbol[:-1]} y", expected)
        assert_array_equal(names["x"].numpy(), expected["x"])


def test_item_assignment_raises_and_names_at_set_and_at_add() -> None:
    x = tg.zeros(3)
    with pytest.raises(TypeError, match=r"x\.at\[i\]\.set\(v\)") as caught:
        x[0] = 1.0
    assert ".add(v)" in str(caught.value)
    assert x.at[0].set(1.0).tolist() == [1, 0, 0]
    assert x.at[[1, 1]].add(1.0).tolist() == [0, 2, 0]
    assert x.tolist() == [0, 0, 0]


# Ties and kinks: see test_kinks.py.

# lengths, mask and reset.


def parts(backend: Backend) -> dict[str, Tensor]:
    def make(*shape: int) -> Tensor:
        values = np.random.default_rng(sum(shape)).normal(size=shape)
        return tg.tensor(values, requires_grad=True, backend=backend.name)

    return {"w": make(2, 12), "u": make(3, 12), "b": make(12), "h": make(5, 3), "c": make(5, 3)}


def lstm(p: dict[str, Tensor]) -> Callable[[Any, Any], Any]:
    def cell(x: Tensor, state: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
        gates = x @ p["w"] + state["h"] @ p["u"] + p["b"]
        i, f, g, o = tg.split(gates, 4, axis=-1)
        c = tg.sigmoid(f) * state["c"] + tg.sigmoid(i) * tg.tanh(g)
        h = tg.sigmoid(o) * tg.tanh(c)
        return (h, tg.square(c)), {"c": c, "h": h}

    return cell


LENGTHS = [4, 0, 2, 6, 1]
STEPS, ROWS = 6, len(LENGTHS)


def padded(value: float) -> np.ndarray[Any, Any]:
    x = np.random.default_rng(1).normal(size=(STEPS, ROWS, 2))
    for row, n in enumerate(LENGTHS):
        x[n:, row] = value
    return x


def loss_of(outputs: Any, state: Any, weights: Any) -> Tensor:
    (y, z), h, c = outputs, state["h"], state["c"]
    return (y * weights[0]).sum() + (z * weights[1]).sum() + (h * weights[2]).sum() + c.sum()


def check_rows_alone(
    backend: Backend, x: Any, valid: Any, *, reverse: bool, reset: Any = None, **ragged: Any
) -> None:
    """A ragged batch against every row run by itself over the steps that it takes."""
    p = parts(backend)
    factors = np.random.default_rng(2).normal(size=(2, STEPS, ROWS, 3)), rng.normal(size=(ROWS, 3))
    xs = tg.tensor(x, requires_grad=True, backend=backend.name)
    weights = [tg.asarray(f, backend=backend.name) for f in (*factors[0], factors[1])]
    state = {"h": p["h"], "c": p["c"]}
    outputs, final = tg.unroll(lstm(p), xs, state, reverse=reverse, reset=reset, **ragged)
    wanted = [xs, *p.values()]
    gx, *gradients = tg.grad(loss_of(outputs, final, weights), wanted)
    expected = [np.zeros(q.shape) for q in p.values()]
    for row in range(ROWS):
        taken = np.flatnonzero(valid[:, row])
        alone = tg.asarray(padded(np.nan)[taken, row : row + 1], backend=backend.name)
        alone.requires_grad = True
        start = {k: v[row : row + 1] for k, v in state.items()}
        resets = None if reset is None else reset[taken, row : row + 1]
        outs, last = tg.unroll(lstm(p), alone, start, reverse=reverse, reset=resets)
        for got, one in zip(outputs, outs, strict=True):
            values = np.zeros((STEPS, 3))
            values[taken] = one.numpy()[:, 0]
            assert_allclose(got.numpy()[:, row], values, rtol=1e-11)
        for name in state:
            assert_allclose(final[name].numpy()[row], last[name].numpy()[0], rtol=1e-11)
        if len(taken) == 0:  # the state goes straight through
            expected[3][row] += factors[1][row]
            expected[4][row] += 1
            assert_array_equal(gx.numpy()[:, row], 0)
            continue
        own = [tg.asarray(f[taken, row : row + 1], backend=backend.name) for f in factors[0]]
        own.append(tg.asarray(factors[1][row : row + 1], backend=backend.name))
        ga, *gs = tg.grad(loss_of(outs, last, own), [alone, *p.values()])
        values = np.zeros((STEPS, 2))
        values[taken] = ga.numpy()[:, 0]
        assert_allclose(gx.numpy()[:, row], values, rtol=1e-11)
        expected = [e + g.numpy() for e, g in zip(expected, gs, strict=True)]
    for got, total in zip(gradients, expected, strict=True):
        assert_allclose(got.numpy(), total, rtol=1e-11, atol=1e-13)


def by_length() -> np.ndarray[Any, Any]:
    return np.arange(STEPS)[:, None] < np.array(LENGTHS)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("padding", [0.0, np.nan, np.inf, 1e300])
def test_lengths_a_row_is_as_if_alone(backend: Backend, padding: float, reverse: bool) -> None:
    check_rows_alone(backend, padded(padding), by_length(), reverse=reverse, lengths=LENGTHS)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_mask_of_the_lengths_is_the_lengths(backend: Backend, reverse: bool) -> None:
    mask = tg.asarray(by_length(), backend=backend.name)
    check_rows_alone(backend, padded(np.nan), by_length(), reverse=reverse, mask=mask)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_mask_with_holes_skips_steps_and_carries_the_state(
    backend: Backend, reverse: bool
) -> None:
    valid = by_length() & (np.random.default_rng(3).random((STEPS, ROWS)) < 0.7)
    x = np.where(valid[..., None], padded(0.0), np.nan)
    check_rows_alone(backend, x, valid, reverse=reverse, mask=valid.tolist())


@pytest.mark.parametrize("reverse", [False, True])
def test_reset_puts_the_initial_state_before_a_step(backend: Backend, reverse: bool) -> None:
    reset = np.random.default_rng(4).random((STEPS, ROWS)) < 0.4
    x = tg.asarray(padded(1.0), backend=backend.name)
    p = parts(backend)
    state = {"h": p["h"], "c": p["c"]}
    outputs, final = tg.unroll(lstm(p), x, state, reset=reset.tolist(), reverse=reverse)
    current = state
    for t in range(STEPS)[::-1] if reverse else range(STEPS):
        flags = tg.asarray(reset[t], backend=backend.name)[:, None]
        current = {k: tg.where(flags, state[k], current[k]) for k in state}
        (y, _), current = lstm(p)(x[t], current)
        assert_allclose(outputs[0].numpy()[t], y.numpy(), rtol=1e-12)
    assert_allclose(final["c"].numpy(), current["c"].numpy(), rtol=1e-12)
    g = tg.grad(outputs[0].sum(), p["h"])
    assert np.all(g.numpy() != 0)
    check_rows_alone(
        backend, padded(np.nan), by_length(), reverse=reverse, reset=reset, lengths=LENGTHS
    )


@BOTH_MODES
def test_padding_may_be_nan_even_for_a_cell_that_divides_by_its_input(mode: Any) -> None:
    w = tg.tensor([2.0], "float64", requires_grad=True)

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = h * w / x + tg.log(x) + x / tg.sqrt(tg.square(x).sum(axis=-1, keepdims=True))
        return h, h

    x = np.full((3, 3, 1), np.nan)
    x[:, 0], x[:1, 1] = 0.5, 3.0
    h0 = tg.ones((3, 1), "float64")
    y, h = tg.unroll(cell, tg.tensor(x), h0, lengths=[3, 1, 0], mode=mode)
    g = tg.grad(y.sum() + h.sum(), w)
    total = 0.0
    for row, n in ((0, 3), (1, 1)):
        z, last = tg.unroll(cell, tg.tensor(x[:n, row : row + 1]), h0[:1], mode=mode)
        total += tg.grad(z.sum() + last.sum(), w).item()
    assert_allclose(g.item(), total, rtol=1e-12)


def divides_by_what_is_left(w: Tensor) -> Callable[[Any, Any], Any]:
    """nan or inf for a row that goes on beyond its end, or with the input of another row."""

    def cell(x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        left = state["left"] - tg.where(x == 0, np.nan, 1.0)
        h = w * x / left + state["h"] / tg.sqrt(left)
        return h, {"h": h, "left": left}

    return cell


def left_state(ends: Any, h: Tensor) -> dict[str, Tensor]:
    return {"left": tg.tensor(np.array(ends, "float64"), backend=h.backend), "h": h}


@pytest.mark.parametrize("way", ["lengths", "mask", "holes", "holes first", "reset"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_skipped_step_never_meets_the_carried_state(
    backend: Backend, way: str, reverse: bool
) -> None:
    """Cells count down, and divide by what is left: 0 at the step after the last one."""
    valid = np.arange(4)[:, None] < np.array([4, 2, 0, 1])
    if way.startswith("holes"):
        valid = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [1, 0, 0, 0], [1, 1, 0, 0]], bool)
        valid = np.roll(valid, 2, axis=0) if way == "holes first" else valid
    reset = np.zeros((4, 4), bool)
    if way == "reset":
        reset[1:3] = True
    ragged = {"lengths": [4, 2, 0, 1]} if way in ("lengths", "reset") else {"mask": valid}
    values = np.random.default_rng(5).normal(size=(4, 4))
    x = np.where(valid, values, np.nan)
    ends = valid.sum(axis=0) + 1.0
    ends[2] = 1.0  # a step of the empty row from its own state would divide by 0
    w = tg.tensor(1.5, "float64", requires_grad=True, backend=backend.name)
    h = tg.tensor([1.0, 2.0, np.nan, 3.0], "float64", requires_grad=True, backend=backend.name)
    cell = divides_by_what_is_left(w)
    xs = tg.tensor(x, requires_grad=True, backend=backend.name)
    y, last = tg.unroll(cell, xs, left_state(ends, h), reset=reset, reverse=reverse, **ragged)
    got = tg.grad(y.sum() + last["h"][:2].sum() + last["h"][3], [w, h, xs])
    total = 0.0
    for row in (0, 1, 3):
        taken = np.flatnonzero(valid[:, row])
        one = tg.tensor(x[taken, row : row + 1], requires_grad=True, backend=backend.name)
        own = tg.tensor(h.numpy()[row : row + 1], requires_grad=True, backend=backend.name)
        start = left_state(ends[row : row + 1], own)
        resets = reset[taken, row : row + 1]
        z, end = tg.unroll(cell, one, start, reset=resets, reverse=reverse)
        assert_allclose(y.numpy()[taken, row], z.numpy()[:, 0], rtol=1e-12)
        assert_allclose(last["h"].numpy()[row], end["h"].numpy()[0], rtol=1e-12)
        assert_array_equal(last["left"].numpy()[row], end["left"].numpy()[0])
        gw, gh, gx = tg.grad(z.sum() + end["h"].sum(), [w, own, one])
        total += gw.item()
        assert_allclose(got[1].numpy()[row], gh.numpy()[0], rtol=1e-12)
        assert_allclose(got[2].numpy()[taken, row], gx.numpy()[:, 0], rtol=1e-12)
    assert_allclose(got[0].numpy(), total, rtol=1e-12)
    assert_array_equal(y.numpy()[~valid], 0)
    assert_array_equal(got[2].numpy()[~valid], 0)
    assert np.isnan(last["h"].numpy()[2]) and last["left"].numpy()[2] == 1
    assert got[1].numpy()[2] == 0


@BOTH_MODES
def test_the_carried_state_of_a_countdown(mode: Any) -> None:
    w = tg.tensor(1.0, "float64", requires_grad=True)

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return w * x / (h - 1), h - 1

    h = tg.tensor([5.0, 3.0], "float64", requires_grad=True)
    for reverse in (False, True):
        x = tg.ones((4, 2), "float64")
        y, last = tg.unroll(cell, x, h, lengths=[4, 2], reverse=reverse, mode=mode)
        gw, gh = tg.grad(y.sum() + last.sum(), [w, h])
        assert_allclose(gw.item(), 1 / 4 + 1 / 3 + 1 / 2 + 1 + 1 / 2 + 1, rtol=1e-14)
        assert_allclose(gh.numpy(), [1 - (1 / 16 + 1 / 9 + 1 / 4 + 1), 1 - 5 / 4], rtol=1e-14)
        assert last.tolist() == [1, 1]


@pytest.mark.parametrize("mode", ["literal", "auto"])  # vmap may be over the mask
def test_second_derivatives_vmap_and_jvp_of_a_ragged_countdown(mode: Any) -> None:
    mask = np.array([[True, False], [True, True], [True, False]])
    start = np.array([4.0, 2.0])

    def total(w: Tensor, mask: Any) -> Tensor:
        def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            return w * w * x / (h - 1), h - 1

        x = tg.ones((3, 2), "float64")
        y, _ = tg.unroll(cell, x, tg.tensor(start), mask=mask, mode=mode)
        return y.sum()

    w = leaf()
    rate = 1 / 3 + 1 / 2 + 1 + 1
    assert_allclose(tg.hessian(lambda w: total(w, mask))(w).item(), 2 * rate, rtol=1e-13)
    tangent = tg.jvp(lambda w: total(w, mask), w, tg.ones((), "float64"))[1]
    assert_allclose(tangent.item(), 2 * rate * w.item(), rtol=1e-13)
    several = tg.asarray(np.stack([mask, np.roll(mask, 1, axis=0), np.zeros_like(mask)]))
    y = tg.vmap(lambda m: total(w, m))(several)
    alone = [total(w, m).item() for m in (mask, several.numpy()[1], several.numpy()[2])]
    assert_allclose(y.numpy(), alone, rtol=1e-13)


def test_rows_that_skip_nothing_cost_nothing() -> None:
    x, w = leaf(4, 2, 3), leaf(3, 3)

    def text(**options: Any) -> str:
        cell = lambda x, h: (x @ w + h, h)  # noqa: E731
        return tg.to_text(tg.unroll(cell, x, x[0].detach(), mode="literal", **options)[0])

    assert text(lengths=[4, 4]) == text()
    assert text(lengths=[4, 3]).count("where") > 0


def test_lengths_need_a_batch_axis_and_say_so() -> None:
    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return x, h

    x, h = tg.ones(4), tg.ones(())
    for name, value in (
        ("lengths", 3),
        ("lengths", [3]),
        ("mask", [True] * 4),
        ("reset", [False] * 4),
    ):
        with pytest.raises(ValueError, match=f"unroll: {name} .*no batch axis.*\\(4,\\)"):
            tg.unroll(cell, x, h, **{name: value})
    y, _ = tg.unroll(cell, x[:, None], h[None], lengths=[3])  # the cure
    assert y.tolist() == [[1], [1], [1], [0]]


@pytest.mark.parametrize("ragged", [{"lengths": [4, 3]}, {"lengths": [4, 4]}, {"mask": True}])
def test_an_output_or_a_state_without_rows_is_named(ragged: dict[str, Any]) -> None:
    ragged = {"mask": np.ones((4, 2), bool)} if "mask" in ragged else ragged
    x, h = tg.ones((4, 2, 3)), tg.zeros((2, 3))
    for result, path in (
        (lambda y: y.sum(), r"output has"),
        (lambda y: (y, y.sum()), r"output\[1\] has"),
        (lambda y: {"y": y, "more": [y, y[:1]]}, r"output\['more'\]\[1\] has.*\(1, 3\)"),
    ):
        with pytest.raises(ValueError, match=f"unroll: .*{path}.*Broadcast"):
            tg.unroll(lambda x, h, result=result: (result(x), h), x, h, **ragged)
    with pytest.raises(ValueError, match=r"state\['n'\] has.*2 rows.*\(\)"):
        tg.unroll(lambda x, s: (x, s), x, {"h": h, "n": tg.zeros(())}, **ragged)
    y, _ = tg.unroll(lambda x, h: (x.sum(), h), x, h)  # without them it may be
    assert y.tolist() == [6, 6, 6, 6]


@BOTH_MODES
def test_lengths_of_integers_structures_and_inputs_shared_by_all_rows(mode: Any) -> None:
    table = leaf(4, 3)
    xs = {"token": tg.tensor([[1, 2], [3, 0]]), "time": tg.tensor([10.0, 20.0])}

    def cell(x: dict[str, Tensor], h: Tensor) -> tuple[Any, Tensor]:
        h = h + table[x["token"]] * x["time"]
        return {"h": h, "positive": h > 0, "token": x["token"]}, h

    out, _ = tg.unroll(cell, xs, tg.zeros((2, 3), "float64"), lengths=[2, 1], mode=mode)
    assert (out["positive"].dtype, out["token"].dtype) == ("bool", "int64")
    assert not out["positive"].numpy()[1, 1].any()
    assert out["token"].tolist() == [[1, 2], [3, 0]]
    g = tg.grad(out["h"].sum(), table).numpy()
    assert_allclose(g[:, 0], [0, 20, 10, 20])


@BOTH_MODES
def test_no_steps_no_rows_and_only_empty_rows(mode: Any) -> None:
    cell = nn.LSTMCell(2, 3)
    y, (h, _) = tg.unroll(cell, tg.zeros((0, 4, 2)), mode=mode)
    assert (y.shape, h.shape) == ((0, 4, 3), (4, 3))
    y, (h, _) = tg.unroll(cell, tg.zeros((5, 0, 2)), lengths=[], mode=mode)
    assert (y.shape, h.shape) == ((5, 0, 3), (0, 3))
    y, (h, c) = tg.unroll(cell, tg.full((5, 2, 2), np.nan), lengths=[0, 0], mode=mode)
    assert not np.any([y.numpy().any(), h.numpy().any(), c.numpy().any()])
    (y.sum() + h.sum()).backward()
    assert not any(p.grad.numpy().any() for p in cell.parameters())


# Random draws inside unroll are keyed by (seed, call, draw site, t, row).


def noisy(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    h = tg.dropout(x, 0.5) + 0.0 * h
    return (h, tg.dropout(x, 0.5)), h


def masks(steps: int, rows: int, **options: Any) -> tuple[Any, Any]:
    tg.manual_seed(3)
    x = tg.ones((steps, rows, 24))
    (a, b), _ = tg.unroll(noisy, x, tg.zeros((rows, 24)), **options)
    return a.numpy(), b.numpy()


def test_a_mask_depends_on_step_row_and_site_alone(backend: Backend) -> None:
    with tg.use_backend("numpy"):
        first, second = masks(5, 8)
    assert 0.2 < np.mean(first == 0) < 0.8
    assert not np.array_equal(first, second)  # another site
    assert len({row.tobytes() for step in first for row in step}) == 40  # another step, another row
    for got, wanted in zip(masks(5, 8), (first, second), strict=True):
        assert_array_equal(got, wanted)  # on every backend
    for got, wanted in zip(masks(5, 8, reverse=True), (first, second), strict=True):
        assert_array_equal(got, wanted)
    for got, wanted in zip(masks(3, 4), (first, second), strict=True):
        assert_array_equal(got, wanted[:3, :4])  # fewer steps, fewer rows
    ragged = masks(5, 8, lengths=[5, 4, 3, 2, 1, 0, 5, 5])[0]
    for row, n in enumerate([5, 4, 3, 2, 1, 0, 5, 5]):
        assert_array_equal(ragged[:n, row], first[:n, row])


def test_each_call_and_each_seed_draws_anew() -> None:
    first = masks(4, 4)[0]
    x = tg.ones((4, 4, 24))
    again = tg.unroll(noisy, x, tg.zeros((4, 24)))[0][0].numpy()  # the second call after the seed
    assert not np.array_equal(first, again)
    tg.manual_seed(4)
    other = tg.unroll(noisy, x, tg.zeros((4, 24)))[0][0].numpy()
    assert not np.array_equal(first, other)


def test_a_resumed_run_continues_the_same_masks() -> None:
    masks(4, 4)
    state = tg.random.get_state()
    x = tg.ones((4, 4, 24))
    expected = tg.unroll(noisy, x, tg.zeros((4, 24)))[0][0].numpy()
    tg.manual_seed(99)
    tg.random.set_state(state)
    assert_array_equal(tg.unroll(noisy, x, tg.zeros((4, 24)))[0][0].numpy(), expected)


@pytest.mark.parametrize("place", ["around the loop", "in the cell", "both", "nested loop"])
def test_a_checkpoint_replays_the_same_masks(place: str) -> None:
    def inner(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = tg.tanh(tg.dropout(x) * w + tg.dropout(h))
        return h, h

    def over_loop(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = tg.unroll(inner, tg.stack([x, tg.dropout(x)]), h)
        return y.sum(axis=0), h

    def result(how: Callable[[Any], Any], around: Callable[[Any], Any]) -> list[Any]:
        tg.manual_seed(0)
        tg.random.uniform(3)
        cell = how(over_loop if place == "nested loop" else inner)
        y, h = around(lambda x: tg.unroll(cell, x, tg.zeros((2, 4), "float64")))(x)
        z = tg.dropout(y)  # goes on where the loop has left off
        tg.manual_seed(17)  # what is drawn again must not depend on what came since
        return [z.numpy(), *(g.numpy() for g in tg.grad((y * h).sum() + z.sum(), [x, w]))]

    x, w = leaf(5, 2, 4), leaf(4)
    plain = result(lambda f: f, lambda f: f)
    outside = tg.checkpoint if place in ("around the loop", "both") else lambda f: f
    inside = tg.checkpoint if place != "around the loop" else lambda f: f
    for got, expected in zip(result(inside, outside), plain, strict=True):
        assert_allclose(got, expected, rtol=1e-13)


def test_one_seed_gives_the_same_weights_and_the_same_training_on_every_backend(
    backend: Backend,
) -> None:
    def train() -> list[Any]:
        tg.manual_seed(0)
        tg.set_default_dtype("float64")
        try:
            cell, head = nn.LSTMCell(2, 4), nn.Linear(4, 3)
        finally:
            tg.set_default_dtype("float32")
        parameters = [*cell.parameters(), *head.parameters()]
        optimiser = optim.Adam(parameters, lr=0.05)
        x = tg.tensor(np.sin(np.arange(24.0)).reshape(6, 2, 2), backend=tg.zeros(()).backend)
        target = tg.tensor(np.arange(12).reshape(6, 2) % 3, backend=x.backend)
        losses = []
        for _ in range(5):
            y, _ = tg.unroll(cell, x, lengths=[6, 3])
            logits = head(tg.dropout(y, 0.3))
            loss = tg.cross_entropy(logits.reshape(12, 3), target.reshape(12))
            optimiser.zero_grad()
            loss.backward()
            optim.clip_grad_norm_(parameters, 0.5)
            optimiser.step()
            losses.append(loss.numpy())
        return [*losses, *(p.numpy() for p in parameters)]

    with tg.use_backend("numpy"):
        expected = train()
    for got, wanted in zip(train(), expected, strict=True):
        assert_allclose(got, wanted, rtol=1e-11, atol=1e-13)


# Bad input leaves no half-updated state.


def test_an_error_in_backward_leaves_grad_and_graph_as_they_were() -> None:
    x, w = leaf(3), leaf(3)
    used, kept = tg.exp(x), tg.exp(w)
    used.sum().backward()
    loss = (tg.exp(w) * used).sum()
    before = x.grad
    with pytest.raises(tg.ReleasedGraphError):
        (loss + kept.sum()).backward()
    assert x.grad is before and w.grad is None
    kept.sum().backward()  # what was not released still is not
    assert_array_equal(w.grad.numpy(), np.exp(w.numpy()))


def test_an_error_in_a_hook_leaves_no_gradient_half_written() -> None:
    def fail(g: Tensor) -> None:
        raise KeyError("mine")

    x, w = leaf(3), leaf(3)
    x.register_hook(fail)
    with pytest.raises(KeyError, match="mine"):
        (x * w).sum().backward()
    assert x.grad is None and w.grad is None


def test_a_refused_assignment_leaves_the_parameter_as_it_was() -> None:
    x = leaf(3)
    before = x.numpy().copy()
    for bad in (np.zeros(4), np.zeros(3, "float32"), [0.0, 0.0, 0.0], "text", None):
        with pytest.raises((TypeError, ValueError), match="data"):
            x.data = bad
    for bad in (tg.zeros(4), np.zeros(3), 1.0):
        with pytest.raises((TypeError, ValueError), match="grad"):
            x.grad = bad
    assert_array_equal(x.numpy(), before)
    assert x.grad is None


def test_modes_end_where_their_block_ends_even_by_an_error() -> None:
    for mode in (tg.no_grad, tg.detect_anomaly, lambda: tg.use_backend("array_api_strict")):
        with pytest.raises(KeyError), mode():
            raise KeyError
    assert tg.is_grad_enabled()
    assert tg.zeros(1).backend == "numpy"
    with pytest.raises(ZeroDivisionError):
        tg.unroll(lambda x, h: (1 / 0, h), tg.ones((2, 1)), tg.zeros(1))
    with pytest.raises(ZeroDivisionError):
        tg.vmap(lambda x: 1 / 0)(tg.ones(2))
    assert tg.vmap(lambda x: tg.random.uniform(2))(tg.ones(2)).shape == (2, 2)


def test_dropout_in_vmap_draws_a_mask_for_each_example(backend: Backend) -> None:
    x = tg.ones((6, 3, 40), requires_grad=True, backend=backend.name)

    def drawn(f: Callable[[Any], Any], x: Tensor = x) -> Any:
        tg.manual_seed(5)
        return f(x).numpy()

    masks = drawn(tg.vmap(tg.dropout))
    assert len({row.tobytes() for example in masks for row in example}) == 18
    assert 0.3 < np.mean(masks == 0) < 0.7
    nested = drawn(tg.vmap(tg.vmap(tg.dropout)))
    assert len({row.tobytes() for example in nested for row in example}) == 18
    across = drawn(tg.vmap(tg.dropout, in_axes=1, out_axes=1))
    assert len({row.tobytes() for example in across for row in example}) == 18
    assert_array_equal(masks[:2], drawn(tg.vmap(tg.dropout), x[:2]))  # however many there are
    for f in (
        tg.vmap(lambda x: tg.vjp(tg.dropout, x)[1](tg.ones((3, 40), backend=x.backend))[0]),
        lambda x: tg.vjp(tg.vmap(tg.dropout), x)[1](tg.ones(x.shape, backend=x.backend))[0],
        tg.vmap(tg.checkpoint(tg.dropout)),
    ):
        assert_array_equal(drawn(f), masks)
    shared = drawn(lambda x: tg.vmap(lambda e, s: tg.dropout(s), in_axes=(0, None))(x, x[0]))
    assert len({example.tobytes() for example in shared}) == 1  # not of the examples


def test_dropout_in_a_mapped_loop_is_that_of_the_batch() -> None:
    def run(x: Tensor) -> Tensor:
        cell = lambda x, h: (h, tg.dropout(x) + tg.dropout(h))  # noqa: E731
        return tg.unroll(cell, x, tg.zeros(x.shape[1:]))[1]

    x = tg.ones((4, 5, 24))
    tg.manual_seed(5)
    expected = run(x).numpy()
    tg.manual_seed(5)
    got = tg.vmap(lambda x: run(x[:, None, :])[0], in_axes=1)(x).numpy()
    assert len({row.tobytes() for row in got}) == 5
    assert_array_equal(got, expected)


def test_no_two_seeds_are_the_same_seed() -> None:
    def first(seed: int) -> bytes:
        tg.manual_seed(seed)
        return bytes(tg.random.uniform(8).numpy())

    assert len({first(seed) for seed in (0, 1, 2**16, 2**31, 2**32 - 1)}) == 5
    before = tg.random.get_state()
    for seed in (2**32, 2**32 + 1, np.int64(2**40), 2**64, -1):
        with pytest.raises(ValueError, match=r"manual_seed.*2\*\*32"):
            tg.manual_seed(seed)
    assert tg.random.get_state() == before


def test_a_loop_that_draws_nothing_leaves_other_draws_as_they_are() -> None:
    def mask() -> list[list[float]]:
        drawn: list[list[float]] = tg.dropout(tg.ones((2, 3)), 0.5).tolist()
        return drawn

    tg.manual_seed(1)
    first, second = mask(), mask()
    tg.manual_seed(1)
    assert mask() == first
    tg.unroll(lambda x, h: (h, h), tg.ones((5, 2, 3)), tg.zeros((2, 3)))
    assert mask() == second
