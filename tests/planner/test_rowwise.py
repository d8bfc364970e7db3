"""Functions whose work on rows is done by kernels give what the functions themselves give.

Kernels are interpreted here, in float64, so that what they are made of is compared to float64's
rounding; some are compiled. They are made for operands of any size, which are small in tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_planned_functions import OPERATIONS, any_size, assert_same, results, rows, tensor

import tinygrad_rnn as tg
import tinygrad_rnn.functional as F
from both_ways import assert_close
from loop_interpreter import interpreted
from op_table import Row, examples
from tinygrad_rnn import Tensor
from tinygrad_rnn.kernels.cpu import run as native
from tinygrad_rnn.kernels.ir import Loop
from tinygrad_rnn.planner import planned as module
from tinygrad_rnn.planner.passes import rowwise

assert any_size  # a fixture that is used by all tests here, too

NATIVE = pytest.mark.skipif(native.available() is not None, reason="llvmlite is not installed")


@pytest.fixture(autouse=True)
def any_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINYGRAD_RNN_JIT", raising=False)
    monkeypatch.setattr(rowwise, "SMALL", 0)


@pytest.fixture(scope="module")
def compiler() -> Iterator[Any]:
    with interpreted() as found:
        yield found


def targets(n: int, classes: int) -> Tensor:
    return tg.tensor(np.random.default_rng(n).integers(0, classes, n))


def hard(x: Tensor, w: Tensor, **options: Any) -> Tensor:
    return F.cross_entropy(x, targets(*x.shape), **options)


SHAPES: dict[str, tuple[int, ...]] = {"x": (6, 20), "w": (20,), "y": (6, 20)}

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": lambda x, w, y: hard(x, w),
    "cross_entropy of each": lambda x, w, y: hard(x, w, reduction="none"),
    "cross_entropy, ignoring": lambda x, w, y: hard(x, w, ignore_index=3, reduction="sum"),
    "cross_entropy, smooth": lambda x, w, y: hard(x, w, label_smoothing=0.1),
    "cross_entropy, weighted": lambda x, w, y: hard(x, w, weight=tg.abs(w)),
    "cross_entropy, all of it": lambda x, w, y: hard(
        x, w, weight=tg.abs(w), label_smoothing=0.2, ignore_index=1
    ),
    "cross_entropy of steps": lambda x, w, y: F.cross_entropy(
        tg.moveaxis(tg.reshape(x, (2, 3, 20)), -1, 1), tg.reshape(targets(6, 20), (2, 3))
    ),
    "cross_entropy, soft": lambda x, w, y: F.cross_entropy(x, tg.softmax(y), weight=tg.abs(w)),
    "nll_loss": lambda x, w, y: F.nll_loss(F.log_softmax(x), targets(6, 20)),
    "softmax": lambda x, w, y: F.softmax(x) * y,
    "softmax over rows": lambda x, w, y: F.softmax(x, axis=0) * y,
    "log_softmax": lambda x, w, y: F.log_softmax(tg.reshape(x, (2, 3, 20))),
    "layer_norm": lambda x, w, y: F.layer_norm(x, w, w * 2),
    "gelu": lambda x, w, y: F.gelu(x) + F.gelu(y, "tanh"),
    "glu": lambda x, w, y: F.glu(x),
    "elu": lambda x, w, y: F.elu(x) + F.silu(y) + F.leaky_relu(x * y),
    "dropout": lambda x, w, y: F.dropout(x, 0.3) + F.dropout(tg.reshape(y, (2, 3, 20)), 0.6)[0, 0],
    "dropout of odd rows": lambda x, w, y: F.dropout(tg.reshape(x[:, :15], (2, 3, 15)), 0.5),
    "dropout of odd rows, summed": lambda x, w, y: tg.sum(
        F.dropout(tg.reshape(x[:, :15], (2, 3, 15)), 0.5), axis=-1
    ),
    "dropout of numbers": lambda x, w, y: F.dropout(tg.sum(x, axis=-1), 0.5) * F.dropout(w[0], 0.2),
    "gumbel_softmax": lambda x, w, y: F.gumbel_softmax(x, tau=0.7),
    "mse_loss": lambda x, w, y: F.mse_loss(x, y),
    "l1_loss": lambda x, w, y: F.l1_loss(x, y),
    "huber_loss": lambda x, w, y: F.huber_loss(x, y, delta=0.5) + F.smooth_l1_loss(x, y),
    "binary_cross_entropy": lambda x, w, y: F.binary_cross_entropy(tg.sigmoid(x), tg.sigmoid(y)),
    "of logits": lambda x, w, y: F.binary_cross_entropy_with_logits(
        x, tg.sigmoid(y), pos_weight=tg.abs(w)
    ),
    "of one logit": lambda x, w, y: F.binary_cross_entropy_with_logits(
        tg.reshape(x, (120, 1)), tg.reshape(tg.sigmoid(y), (120, 1))
    ),
    "kl_div": lambda x, w, y: F.kl_div(F.log_softmax(x), F.softmax(y), reduction="batchmean"),
    "cosine": lambda x, w, y: F.cosine_similarity(x, y),
    "gaussian_nll_loss": lambda x, w, y: F.gaussian_nll_loss(x, y, tg.exp(y), full=True),
    "sums": lambda x, w, y: tg.sum(x * y, axis=0) + tg.sum(x) + tg.sum(x * y, axis=(0, 1)) * w,
    "sums of steps": lambda x, w, y: tg.sum(tg.reshape(x * y, (2, 3, 20)), axis=(-1, 0)),
    "vectors": lambda x, w, y: tg.sum(tg.tanh(w) * w + tg.dropout(w, 0.5)),
    "maxima": lambda x, w, y: tg.max(x * y, axis=-1) * tg.max(x),
    "picks of picks": lambda x, w, y: tg.take_along_axis(
        tg.tanh(x) * w, tg.argmax(y, axis=-1, keepdims=True) - 20
    ),
    "several picks": lambda x, w, y: tg.take_along_axis(x * 2, tg.argsort(y, axis=-1)[:, :3]),
    "places": lambda x, w, y: tg.add_along_axis(
        x * y, tg.argmax(y, axis=-1, keepdims=True), tg.sum(x, axis=-1, keepdims=True)
    ),
    "columns": lambda x, w, y: tg.concat([x[:, 5:9] * y[:, 1:5], tg.exp(x)[:, :3]], axis=-1),
    "numbers broadcast": lambda x, w, y: tg.reshape(x, (2, 3, 20)) * tg.sum(y, axis=-1)[:3, None],
    "booleans": lambda x, w, y: tg.where((x > 0) & ~(y > 0.3), x, tg.astype(y > 0, x.dtype) * y),
}


def inputs(dtype: str) -> list[Tensor]:
    return [tensor(*s, seed=i, dtype=dtype) for i, s in enumerate(SHAPES.values())]


def kernels_of(loops: list[Loop]) -> int:
    return sum(len(loop.statements) for loop in loops)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_interpreted(name: str, compiler: Any) -> None:
    xs = inputs("float64")
    before = len(compiler.loops)
    p = assert_same(tg.pure(FUNCTIONS[name]), xs, xs)
    assert len(compiler.loops) > before, p.source
    assert all(len(loop.statements) == 1 for loop in compiler.loops[before:])


@NATIVE
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled(name: str) -> None:
    xs = inputs("float32")
    p = assert_same(tg.pure(FUNCTIONS[name]), xs, xs)
    assert "A kernel of" in p.source


@pytest.mark.parametrize("name", ["cross_entropy", "layer_norm", "gelu", "softmax", "of logits"])
def test_derivatives_of_derivatives(name: str, compiler: Any) -> None:
    f = FUNCTIONS[name]
    xs = inputs("float64")

    def again(f: Any) -> dict[str, Any]:
        gs = tg.grad(tg.sum(f(*xs)), xs, create_graph=True, allow_unused=True)
        return results(
            lambda: tg.sum(tg.stack([tg.sum(g * g) for g in gs if g is not None])), [], xs
        )

    assert_close(again(tg.planned(tg.pure(f))), again(f))


@rows
@examples(2)
@given(st.data())
def test_every_operation(row: Row, compiler: Any, data: Any) -> None:
    sample = data.draw(row.samples)
    tensors = [tg.tensor(a, requires_grad=a.dtype.kind == "f") for a in sample.arrays()]
    own = tg.pure(lambda *xs: row(*xs, **sample.keywords))
    assert_same(own, tensors, [x for x in tensors if x.requires_grad])


@examples(100)
@given(st.data())
def test_random_functions(compiler: Any, data: Any) -> None:
    x, w, v = (tensor(4, 6, seed=i, dtype="float64") for i in range(3))
    line = st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 100), st.integers(0, 100))
    lines = data.draw(st.lists(line, min_size=1, max_size=12))

    def f(x: Tensor, w: Tensor) -> Any:
        values = [x, w, v]
        for operation, *places in lines:
            given = [values[i % len(values)] for i in places[: operation.count]]
            values.append(operation.make(*given))
        return values[-1], values[-2], tg.sum(values[-1])

    assert_same(tg.pure(f), [x, w], [x, w, v])


def memory_of(f: Callable[..., Tensor], xs: list[Tensor]) -> list[tuple[int, ...]]:
    """The shapes of the arrays that a planned function takes from the pool and holds."""
    p = tg.planned(tg.pure(f))
    p(*xs)
    return [v.shape for v in p._last.distribution.residuals]


@NATIVE
def test_nothing_of_the_size_of_logits_is_held() -> None:
    xs = inputs("float32")
    for name in ("cross_entropy, all of it", "gelu", "layer_norm", "of logits", "log_softmax"):
        assert (6, 20) not in memory_of(FUNCTIONS[name], xs), name
    p = tg.planned(tg.pure(FUNCTIONS["cross_entropy"]))
    p(*xs)
    forward, backward = p.source.split("def backward")
    assert "(6, 20)" not in forward
    assert backward.count("pool.empty((6, 20)") == 1  # the gradient


@NATIVE
def test_of_dropout_the_mask_is_held_and_no_number() -> None:
    xs = inputs("float32")
    p = tg.planned(tg.pure(lambda x: F.dropout(x, 0.5)))
    p(xs[0])
    (mask,) = p._last.distribution.residuals
    assert mask.dtype == bool
    assert p._last.drawn_in_kernels == {0}


@NATIVE
@pytest.mark.parametrize("target", [20, -21, -1, 10**9])
def test_a_target_that_is_no_class_is_refused_as_ever(target: int) -> None:
    x, wrong = tensor(900, 20), np.arange(900) % 20
    for value in (3, 4, target, -100, target):
        wrong[3] = value
        if value in range(-100, 20) and value != target:
            found = F.cross_entropy(x, wrong)
            with tg.literal():
                np.testing.assert_allclose(
                    found.numpy(), F.cross_entropy(x, wrong).numpy(), rtol=1e-6
                )
            continue
        with pytest.raises(IndexError, match="a target is neither one of the 20 classes, 0 to 19"):
            F.cross_entropy(x, wrong)


@NATIVE
def test_indices_along_rows_may_count_from_the_end_and_no_further() -> None:
    x, index = tensor(6, 20), np.full((6, 1), -20)
    p = tg.planned(tg.pure(lambda x: tg.take_along_axis(tg.exp(x), tg.asarray(index))))
    np.testing.assert_allclose(p(x).numpy()[:, 0], np.exp(x.numpy()[:, 0]), rtol=1e-6)
    index[2] = -21
    with pytest.raises(IndexError, match="-21"):
        p(x)
    index[2] = 20
    with pytest.raises(IndexError, match="20"):
        p(x)


@NATIVE
def test_loops_that_are_the_same_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(native, "_compile", lambda loops: compiled.append(1) or [])
    monkeypatch.setattr(native, "_compiled", type(native._compiled)())
    for _ in range(3):
        native.compile([])
    assert len(compiled) == 1


@NATIVE
def test_losses_of_the_library_are_compositions(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = []
    run = module.run_function
    monkeypatch.setattr(module, "run_function", lambda r, xs: ready.append(r) or run(r, xs))
    x = tensor(300, 70)
    t = targets(300, 70)

    def both() -> dict[str, Any]:
        tg.manual_seed(1)
        return results(lambda: F.cross_entropy(F.dropout(F.gelu(F.layer_norm(x)), 0.1), t), [], [x])

    with tg.literal():
        expected = both()
    found = [both() for _ in range(3)]
    assert len(ready) == 8  # what is met for the first time runs as it is
    for each in found:
        assert_close(each, expected)


@NATIVE
def test_a_whole_step_goes_once_over_its_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowwise, "SMALL", 50)  # or sums of six numbers come in between
    w, x = tensor(30, 20, seed=3), tensor(6, 30).detach()
    optimizer = tg.optim.SGD([w], lr=0.1)
    t = targets(6, 20)

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ w + w[0], t)
        loss.backward()
        optimizer.step()
        return loss

    p = tg.planned(step)
    losses = [p(x).item() for _ in range(3)]
    assert losses == sorted(losses, reverse=True)
    assert p.source.count("on each of 6 rows") == 1
    assert p.source.count("pool.empty((6, 20)") == 2  # the product, and its gradient


def test_without_kernels_compositions_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGRAD_RNN_JIT", "0")
    calls = []

    @module.composition(least=0)
    def f(x: Tensor) -> Tensor:
        calls.append(type(x._array))
        return tg.tanh(x) * 2

    for _ in range(4):
        f(tensor(6, 20))
    assert calls == [np.ndarray] * 4
