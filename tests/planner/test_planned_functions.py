"""``planned(f)``: what a planned function gives is what the function itself gives.

The subtle point is that a function runs once in a call either way, so whatever it does in Python is
to be done once, too, whether its call is planned, is watched, or turns out not to be plannable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
import tinygrad_rnn.functional as F
from both_ways import KERNELS, assert_close, cotangents, plans_of
from op_table import ROWS, Row, examples
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.kernels.cpu import run as native
from tinygrad_rnn.planner import planned as module
from tinygrad_rnn.planner.planner import plan_cache
from tinygrad_rnn.structure import flatten

rows = pytest.mark.parametrize("row", ROWS, ids=str)


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small arguments are planned, too, and nothing is known of any function."""
    monkeypatch.setattr(module, "LEAST", 0)
    plan_cache().cells.clear()
    yield


def tensor(*shape: int, seed: int = 0, **options: Any) -> Tensor:
    options = {"dtype": "float32", "requires_grad": True} | options
    return tg.tensor(np.random.default_rng(seed).normal(size=shape), **options)


def twice(f: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """A planned function, and what it gives when it is known."""
    p = tg.planned(f)
    p(*args)
    return p, p(*args)


def is_planned(p: Any) -> bool:
    """Whether its last call was."""
    return not p.source.startswith("# literal")


def results(f: Callable[..., Any], args: list[Any], inputs: list[Tensor]) -> dict[str, Any]:
    """What a function gives, and the gradients of inputs, as copies."""
    tg.manual_seed(7)
    leaves = [y for y in flatten(f(*args))[0] if isinstance(y, Tensor)]
    found = {f"output {i}": y.numpy().copy() for i, y in enumerate(leaves)}
    ends = [y for y in leaves if y.requires_grad]
    if ends and inputs:
        gs = tg.grad(ends, inputs, cotangents(ends), allow_unused=True)
        for i, g in enumerate(gs):
            found[f"gradient {i}"] = np.zeros(inputs[i].shape) if g is None else g.numpy().copy()
    return found


def assert_same(f: Callable[..., Any], args: list[Any], inputs: list[Tensor]) -> Any:
    """A function planned gives what it gives itself, when it is met and when it is known."""
    p = tg.planned(f)
    expected = results(f, args, inputs)
    for _ in range(3):
        assert_close(results(p, args, inputs), expected)
    return p


# Against the function itself.


@rows
@examples(2)
@given(st.data())
def test_every_operation(row: Row, data: Any) -> None:
    sample = data.draw(row.samples)
    dtype = data.draw(st.sampled_from(["float64", "float32"]))
    arrays = [a.astype(dtype) if a.dtype.kind == "f" else a for a in sample.arrays()]
    tensors = [tg.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]

    def f(*xs: Tensor) -> Any:
        return row(*xs, **sample.keywords)

    own = tg.pure(f)
    assert_same(own, tensors, [x for x in tensors if x.requires_grad])


class Operation(NamedTuple):
    """A line of a random function: what it makes of one or two earlier values (4, 6)."""

    make: Callable[..., Tensor]
    count: int


OPERATIONS = [
    Operation(lambda x, y: x + y, 2),
    Operation(lambda x, y: x * tg.sigmoid(y), 2),
    Operation(lambda x, y: tg.where(x > y, x, 0.5 * y), 2),
    Operation(lambda x: tg.tanh(x), 1),
    Operation(lambda x: x - tg.mean(x, axis=-1, keepdims=True), 1),
    Operation(lambda x: F.softmax(x, axis=-1), 1),
    Operation(lambda x: F.layer_norm(x), 1),
    Operation(lambda x: F.dropout(x, 0.3), 1),
    Operation(lambda x: tg.concat([x[:, 3:], x[:, :3]], axis=1), 1),
    Operation(lambda x: (x.T @ x)[:4] / 6, 1),
    Operation(lambda x: x.detach() * 0.5 + x[::-1], 1),
    Operation(lambda x: tg.reshape(tg.reshape(x, (6, 4)), (4, 6)), 1),
    Operation(lambda x: tg.broadcast_to(tg.max(x, axis=0), (4, 6)), 1),
    Operation(lambda x: tg.random.uniform((4, 6), dtype=x.dtype) + x * 0.1, 1),
    Operation(lambda x: x / (1 + tg.sum(tg.square(x))), 1),
]


@examples(60)
@given(st.data())
def test_random_functions(data: Any) -> None:
    dtype = data.draw(st.sampled_from(["float64", "float32"]))
    x, w, v = (tensor(4, 6, seed=i, dtype=dtype) for i in range(3))
    lines = data.draw(
        st.lists(
            st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 100), st.integers(0, 100)),
            min_size=1,
            max_size=12,
        )
    )
    ends = data.draw(st.lists(st.integers(0, 100), min_size=1, max_size=3))

    def f(x: Tensor, parts: dict[str, Tensor]) -> Any:
        values = [x, parts["w"], v]
        for operation, *places in lines:
            given = [values[i % len(values)] for i in places[: operation.count]]
            values.append(operation.make(*given))
        return tuple(values[-1 - i % len(values)] for i in ends), {"sum": tg.sum(values[-1])}

    p = assert_same(tg.pure(f), [x, {"w": w}], [x, w, v])
    assert is_planned(p), p.report()


def test_derivatives_of_derivatives() -> None:
    w = tensor(5, 5, dtype="float64")
    x = tensor(3, 5, seed=1, dtype="float64")
    p, _ = twice(lambda x: tg.sum(tg.tanh(x @ w) ** 3), x)

    def again(f: Any) -> list[Any]:
        (g,) = tg.grad(f(x), [x], create_graph=True)
        (h,) = tg.grad(tg.sum(g * g * g), [w], create_graph=True)
        return [y.numpy() for y in tg.grad(tg.sum(h * h), [x, w])]

    for found, expected in zip(again(p), again(p.function), strict=True):
        assert np.abs(found - expected).max() <= 1e-11 * np.abs(expected).max()
    assert is_planned(p)
    found, expected = (tg.hessian(f)(x).numpy() for f in (p, p.function))
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("fused", KERNELS)
def test_with_and_without_kernels(fused: bool) -> None:
    x, w = tensor(40, 7), tensor(7, 9, seed=1)
    targets = tg.tensor(np.random.default_rng(2).integers(0, 9, 40))
    with plans_of(fused):
        p = assert_same(lambda x: F.cross_entropy(x @ w, targets), [x], [x, w])
        assert is_planned(p)


# Values, numbers and settings are arguments.


def test_numbers_and_captured_tensors_make_no_new_plan() -> None:
    x, w = tensor(4, 4), tensor(4, 4, seed=1)
    scale = 1.0

    def f(x: Tensor) -> Tensor:
        return tg.tanh(x @ w) * scale

    p, _ = twice(f, x)
    before = plan_cache().misses
    for scale in (0.5, 2.0, -1.0):  # noqa: B007
        w.data = w.data * 2
        np.testing.assert_array_equal(p(x).numpy(), f(x).numpy())
        assert is_planned(p)
    assert plan_cache().misses == before


def test_a_setting_leads_to_another_plan() -> None:
    drop = nn.Dropout(0.5)
    x = tensor(50, 50)
    p, _ = twice(lambda x: drop(x) * 2, x)
    drop.eval()
    np.testing.assert_array_equal(p(x).numpy(), x.numpy() * 2)
    drop.train()
    assert (p(x).numpy() == 0).any()


def test_modules_and_methods() -> None:
    model = nn.Linear(4, 3)
    x = tensor(5, 4)
    assert_same(model, [x], [x, *model.parameters()])

    class Model:
        def __init__(self, scale: float) -> None:
            self.scale = scale

        @tg.planned
        def half(self, x: Tensor) -> Tensor:
            return x * self.scale

    one, two = Model(0.5), Model(2.0)
    for _ in range(3):
        assert one.half(x).sum().item() * 4 == pytest.approx(two.half(x).sum().item())
    assert is_planned(Model.half)


def test_what_is_no_tensor_comes_back_as_it_is() -> None:
    x, w = tensor(3), tensor(3, seed=1)
    array = np.arange(3)

    def f(x: Tensor, name: str) -> Any:
        return {"x": x, "w": w, "twice": x + x, "name": name, "none": None, "array": array}

    p, found = twice(f, x, "a")
    assert is_planned(p)
    assert (found["x"], found["w"]) == (x, w)
    assert (found["name"], found["none"]) == ("a", None)
    assert found["array"] is array
    q, found = twice(lambda x: (x, w, 3), x)
    assert is_planned(q)
    assert found == (x, w, 3)
    assert "a function" in str(plan_cache())
    assert "a function" in p.report()
    assert p(x, "b")["name"] == "b"


def test_nothing_is_recorded_where_nothing_is_asked() -> None:
    x = tensor(3, 3)
    p, _ = twice(lambda x: (tg.exp(x), x.detach() * 2), x)
    y, z = p(x)
    assert y.requires_grad
    assert not z.requires_grad
    with tg.no_grad():
        assert not p(x)[0].requires_grad
    assert p(x)[0].requires_grad
    x.requires_grad = False
    assert not p(x)[0].requires_grad


def test_enable_grad_inside_no_grad() -> None:
    x = tensor(3, 3)

    @tg.enable_grad()
    def f(x: Tensor) -> Tensor:
        return tg.exp(x)

    p = tg.planned(f)
    with tg.no_grad():
        for _ in range(3):
            assert p(x).requires_grad


# Random draws.


def draw(x: Tensor) -> Any:
    tg.random.uniform((2,))  # which nothing reads
    return F.dropout(x, 0.5), F.dropout(x, 0.5), tg.random.normal((3,))


def test_draws_are_those_of_the_function() -> None:
    x = tensor(6, 6)
    p = tg.planned(draw)
    for _ in range(3):
        states = []
        for f in (p, draw):
            tg.manual_seed(1)
            tg.random.uniform((1,))
            states.append([y.numpy().copy() for y in (*f(x), *f(x), tg.random.uniform((4,)))])
        for found, expected in zip(*states, strict=True):
            np.testing.assert_array_equal(found, expected)
    assert is_planned(p)
    a, b, _ = p(x)
    assert (a.numpy() != b.numpy()).any()


def test_draws_inside_a_loop_are_those_of_the_loop() -> None:
    xs = tensor(5, 4, 3)
    p, _ = twice(lambda x: F.dropout(x, 0.5), xs[0])

    def run(f: Any) -> Any:
        tg.manual_seed(2)
        y, _ = tg.unroll(lambda x, h: (f(x), h), xs, xs[0], mode="literal")
        return y.numpy()

    np.testing.assert_array_equal(run(p), run(p.function))


def test_the_derivative_sees_the_numbers_that_were_drawn() -> None:
    x = tensor(20, 20)
    p, _ = twice(lambda x: F.dropout(x, 0.5) ** 2, x)
    y = tg.sum(p(x))
    tg.random.uniform((3,))
    (g,) = tg.grad(y, [x], create_graph=True)
    assert g.shape == x.shape
    (g2,) = tg.grad(tg.sum(g), [x])
    zero = g.numpy() == 0
    assert zero.any()
    np.testing.assert_array_equal(g2.numpy() == 0, zero)


# What runs as it is.


def runs_literally(f: Callable[..., Any], *args: Any, times: int = 5) -> Any:
    """The function planned and itself, called in turns, give the same; and it is not planned."""
    p = tg.planned(f)
    for _ in range(times):
        found, expected = p(*args), f(*args)
        for a, b in zip(flatten(found)[0], flatten(expected)[0], strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        assert not is_planned(p)
    return p


def test_a_branch_on_a_value() -> None:
    x = tensor(3)
    p = runs_literally(lambda x: x * 2 if x.sum() > 0 else -x, x)
    assert "read on the host" in p.report()
    p(-x)
    runs_literally(lambda x: x * float(x.sum()), x)


def test_a_branch_that_is_taken_later() -> None:
    x = tensor(3, requires_grad=False)
    looks = False

    def f(x: Tensor) -> Tensor:
        return x * 2 if not looks or x.sum().item() > 0 else -x

    p, _ = twice(f, x)
    assert is_planned(p)
    looks = True
    for sign in (1, -1, 1, -1):
        y = x * sign
        np.testing.assert_array_equal(p(y).numpy(), f(y).numpy())


def test_a_counter_counts_once_a_call() -> None:
    x, calls = tensor(3), [0]

    def f(x: Tensor) -> Tensor:
        calls[0] += 1
        return x * float(calls[0])

    p = tg.planned(f)
    for i in range(12):
        np.testing.assert_array_equal(p(x).numpy(), x.numpy() * np.float32(i + 1))
    assert calls == [12]


def test_a_tensor_that_is_kept() -> None:
    x, kept = tensor(3), []

    def f(x: Tensor) -> Tensor:
        kept.append(tg.exp(x))
        return kept[-1] * 2

    p = tg.planned(f)
    for i in range(6):
        p(x)
        assert len(kept) == i + 1
        np.testing.assert_array_equal(kept[-1].numpy(), np.exp(x.numpy()))


def test_a_tensor_that_is_kept_later() -> None:
    x, kept, keeps = tensor(3), {}, False

    def f(x: Tensor) -> Tensor:
        y = tg.exp(x)
        if keeps:
            kept["y"] = y
        return y * 2

    p, _ = twice(f, x)
    assert is_planned(p)
    keeps = True
    for _ in range(3):
        p(x)
        np.testing.assert_array_equal(kept["y"].numpy(), np.exp(x.numpy()))


def test_arguments_that_are_written_to() -> None:
    def f(x: Tensor, cache: dict[str, Tensor]) -> Tensor:
        cache["x"] = tg.exp(x)
        return cache["x"] + cache["other"]

    p = tg.planned(tg.pure(f))
    x = tensor(3)
    for _ in range(4):
        cache = {"other": x}
        p(x, cache)
        np.testing.assert_array_equal(cache["x"].numpy(), np.exp(x.numpy()))


def test_objects_that_are_written_to() -> None:
    class Cache:
        last: Any = None

    def f(x: Tensor, cache: Cache) -> Tensor:
        cache.last = tg.exp(x)
        return cache.last * 2

    x, cache = tensor(3), Cache()
    p = tg.planned(f)
    for i in range(5):
        cache.last = None
        p(x * float(i), cache)
        np.testing.assert_array_equal(cache.last.numpy(), np.exp((x * float(i)).numpy()))


def test_a_captured_array_that_is_written_to() -> None:
    shared = np.ones(3, dtype="float32")
    w = tg.asarray(shared)

    def f(x: Tensor) -> Tensor:
        y = x * w
        shared[:] += 1
        return y

    x, p = tg.ones(3), tg.planned(f)
    found = [p(x).numpy().copy() for _ in range(6)]
    np.testing.assert_array_equal(found, np.arange(1, 7)[:, None] * np.ones(3))


def test_a_parameter_that_is_rebound_inside() -> None:
    x, w = tensor(3), tensor(3, seed=1)
    before = w.numpy().copy()

    def f(x: Tensor) -> Tensor:
        y = x * w
        w.data = w.data * 2
        return y + w

    p = tg.planned(f)
    for i in range(4):
        np.testing.assert_allclose(p(x).numpy(), (x.numpy() + 2) * before * 2**i, rtol=1e-6)


def test_numbers_from_numpy() -> None:
    rng = np.random.default_rng(0)

    def f(x: Tensor) -> Tensor:
        return x + tg.tensor(rng.normal(size=3).astype("float32"))

    x, p = tg.zeros(3), tg.planned(f)
    found = [p(x).numpy().copy() for _ in range(6)]
    expected = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    np.testing.assert_array_equal(found, expected)


def test_a_structure_that_changes() -> None:
    x, n = tensor(4, 4), 1

    def f(x: Tensor) -> Any:
        y = x
        for _ in range(n):
            y = tg.tanh(y @ x)
        return [y] * n

    p = tg.planned(f)
    for n in (1, 2, 1, 3, 2, 1):
        found = p(x)
        assert len(found) == n
        np.testing.assert_allclose(found[0].numpy(), f(x)[0].numpy(), rtol=1e-5)


def test_a_derivative_inside() -> None:
    x = tensor(3, dtype="float64")
    runs_literally(lambda x: tg.grad(tg.sum(x**3), [x])[0], x)
    runs_literally(lambda x: tg.vmap(lambda a: a * 2)(x), x, times=0)


def test_a_loop_inside_is_planned_by_itself() -> None:
    layer = nn.LSTM(3, 4)
    xs = tensor(6, 2, 3)
    p = tg.planned(lambda xs: tg.sum(layer(xs)[0]))
    for _ in range(3):
        plan_cache().clear()
        value = p(xs)
        assert len(plan_cache()) == 1
        assert value.item() == pytest.approx(tg.sum(layer(xs)[0]).item())
        assert not is_planned(p)
    assert "a loop over time" in p.report()


def test_inside_transforms() -> None:
    w = tensor(4, 4, seed=1, dtype="float64")
    p, _ = twice(lambda x: tg.tanh(x @ w), tensor(3, 4, dtype="float64"))
    xs = tensor(5, 3, 4, dtype="float64")
    np.testing.assert_allclose(tg.vmap(p)(xs).numpy(), p.function(xs).numpy(), rtol=1e-12)
    y, _ = tg.unroll(lambda x, h: (p(x), h), xs, xs[0], mode="planned")
    np.testing.assert_allclose(y.numpy(), p.function(xs).numpy(), rtol=1e-12)
    y = tg.checkpoint(p)(xs[0])
    (g,) = tg.grad(tg.sum(y), [xs])
    (expected,) = tg.grad(tg.sum(p.function(xs[0])), [xs])
    np.testing.assert_allclose(g.numpy(), expected.numpy(), rtol=1e-12)


def test_literal_turns_every_plan_off() -> None:
    x, layer = tensor(4, 3, 5), nn.GRU(5, 5)
    p, _ = twice(lambda x: tg.exp(x), x)
    plan_cache().clear()
    with tg.literal():
        p(x)
        layer(x)
        assert not is_planned(p)
    assert len(plan_cache()) == 0

    @tg.literal()
    def run() -> None:
        p(x)

    run()
    assert len(plan_cache()) == 0
    layer(x)
    p(x)
    assert len(plan_cache()) == 2


def test_detect_anomaly_looks_at_each_operation() -> None:
    x = tg.tensor([0.5, 1.0], requires_grad=True)
    p, _ = twice(lambda x: tg.reciprocal(x) * 2, x)
    assert is_planned(p)
    found = pytest.raises(FloatingPointError, match="reciprocal")
    with tg.detect_anomaly(), np.errstate(all="ignore"), found:
        p(x * 0.0)


def test_small_arguments_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST", 10)
    p, _ = twice(lambda x: tg.exp(x), tensor(9))
    assert "small" in p.report()
    p(tensor(10))
    p(tensor(10))
    assert is_planned(p)


# Mistakes.


def test_errors_are_those_of_the_function() -> None:
    x, w = tensor(3, 4), tensor(5, 6, seed=1)
    p = tg.planned(lambda x: x @ w)
    for _ in range(3):
        with pytest.raises(ValueError, match="matmul"):
            p(x)
    q, _ = twice(lambda x: x @ tensor(4, 2), x)
    with pytest.raises(ValueError, match="matmul"):
        q(w)
    with pytest.raises(TypeError, match="planned: a function"):
        tg.planned(3)  # type: ignore[arg-type]


def test_a_graph_that_is_gone_through_twice() -> None:
    x = tensor(4)
    p, _ = twice(lambda x: tg.sum(tg.exp(x)), x)
    y = p(x)
    y.backward()
    with pytest.raises(tg.ReleasedGraphError):
        y.backward()
    y = p(x)
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), 3 * np.exp(x.numpy()), rtol=1e-6)


def test_results_are_nobody_elses_memory() -> None:
    x = tensor(200, 200)
    p, _ = twice(lambda x: (tg.exp(x), tg.exp(x)[:, :50].T), x)
    kept = [p(x * float(i)) for i in range(4)]
    for i, (y, part) in enumerate(kept):
        expected = np.exp((x * float(i)).numpy())
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6)
        np.testing.assert_allclose(part.numpy(), expected[:, :50].T, rtol=1e-6)


def test_many_shapes_keep_to_a_bound() -> None:
    p = tg.planned(tg.pure(lambda x: tg.tanh(x) * 2))
    cache = plan_cache()
    for n in range(1, cache.bound + 40):
        x = tensor(n)
        np.testing.assert_allclose(p(x).numpy(), np.tanh(x.numpy()) * 2, rtol=1e-6)
    assert len(cache) <= cache.bound


@pytest.mark.parametrize("retrace", [True, False])
def test_a_tensor_that_is_given_twice_is_one(retrace: bool) -> None:
    const, x, y = (tensor(3, 2, seed=i) for i in range(3))

    def f(q: Tensor, k: Tensor) -> Any:
        return tg.tanh(q) * k * (37 if q is k else 333) + (const if q is const else 0)

    p = tg.planned(f, retrace=retrace)
    for _ in range(3):
        for args in ([x, x], [x, y], [y, y], [y, x]):
            inputs = [x] if args[0] is args[1] is x else [y] if args[0] is args[1] else [x, y]
            assert_close(results(p, args, inputs), results(f, args, inputs))
    assert is_planned(p)
    assert_close(results(p, [const, x], [const, x]), results(f, [const, x], [const, x]))


def test_threads_share_plans() -> None:
    w = tensor(30, 30, seed=1)
    p, _ = twice(lambda x: tg.tanh(x @ w), tensor(20, 30))
    wrong = []

    def run(seed: int) -> None:
        for i in range(20):
            x = tensor(20 + i % 3, 30, seed=seed + i)
            (g,) = tg.grad(tg.sum(p(x)), [x])
            (expected,) = tg.grad(tg.sum(p.function(x)), [x])
            if np.abs(g.numpy() - expected.numpy()).max() > 1e-5:
                wrong.append(seed)

    threads = [threading.Thread(target=run, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Compositions of the library.


@pytest.mark.skipif(native.available() is not None, reason="llvmlite is not installed")
def test_a_composition_is_traced_once_for_each_kind_that_is_met_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TINYGRAD_RNN_JIT", raising=False)
    calls = []

    @module.composition(least=1)
    def f(x: Tensor, y: Tensor, scale: float = 1.0, *, square: bool = False) -> Any:
        calls.append(1)
        z = F.dropout(x, 0.5) * y * scale
        return (z * z if square else z), None

    x, y = tensor(80, 80), tensor(80, 80, seed=1)

    def run() -> Any:
        tg.manual_seed(3)
        z, none = f(x, y, 2.0, square=True)
        assert none is None
        (g,) = tg.grad(tg.sum(z), [x])
        return z.numpy().copy(), g.numpy().copy()

    found = [run() for _ in range(4)]
    assert len(calls) == 2  # as it is, then for a plan
    with tg.literal():
        expected = run()
    for pair in found:
        for a, b in zip(pair, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    calls.clear()
    f(x, y, 3.0, square=True)  # another number is no other structure
    f(x, y, 3.0, square=True)
    assert len(calls) == 1
    for _ in range(3):
        f(x, y.detach(), 3.0)
    assert len(calls) == 3
    np.testing.assert_array_equal(
        tg.vmap(lambda a: f(a, a * 0 + 1)[0] * 0)(x).numpy(), np.zeros((80, 80))
    )
    y = tg.unroll(lambda a, h: (f(a, h)[0] * 0, h), tensor(3, 80, 80), x, mode="planned")[0]
    assert y.shape == (3, 80, 80)
