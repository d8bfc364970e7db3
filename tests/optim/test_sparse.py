"""Sparse gradients: rows and places until the optimiser, and otherwise what dense ones are."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
import tinygrad_rnn_backends as backends
from tinygrad_rnn import Tensor, nn, optim
from tinygrad_rnn import functional as F
from tinygrad_rnn.graph import Rows
from tinygrad_rnn_backends import Backend

V, D = 20, 3
ROWS: dict[str, Callable[..., optim.Optimizer]] = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.1, lr_decay=0.1, initial_accumulator_value=0.1),
    "SparseAdam": lambda p: optim.SparseAdam(p, lr=0.1),
}
DENSE: dict[str, Callable[..., optim.Optimizer]] = {
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "decayed SGD": lambda p: optim.SGD(p, lr=0.1, weight_decay=0.1),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.1),
    "decayed Adagrad": lambda p: optim.Adagrad(p, lr=0.1, weight_decay=0.1),
    "Adadelta": optim.Adadelta,
    "Adam": lambda p: optim.Adam(p, lr=0.1),
    "AdamW": lambda p: optim.AdamW(p, lr=0.1),
}
ALL = {**ROWS, **DENSE}


def is_rows(grad: Tensor | None) -> bool:
    return grad is not None and type(grad._array) is Rows


def host(x: Any) -> Any:
    return x.numpy() if isinstance(x, Tensor) else x


def embedding(sparse: bool, dtype: str = "float32", **settings: Any) -> nn.Embedding:
    rng = np.random.default_rng(0)
    layer = nn.Embedding(V, D, sparse=sparse, **settings)
    layer.weight = nn.Parameter(tg.tensor(rng.standard_normal((V, D)).astype(dtype)))
    return layer


def tokens(step: int, shape: tuple[int, ...] = (3, 2)) -> Any:
    """Few of the rows, some of them twice."""
    rng = np.random.default_rng(step)
    return tg.tensor(rng.choice(rng.integers(0, V, 5), shape))


def backward(layer: nn.Embedding, step: int) -> None:
    """Two passes, the first of which looks rows up twice."""
    for x, y in ((tokens(step), tokens(step + 100)), (tokens(step + 200), None)):
        loss = (layer(x) ** 2 * 3.0).sum()
        loss = loss if y is None else loss + tg.sin(layer(y)).sum()
        loss.backward()


def trained(
    make: Callable[..., optim.Optimizer], sparse: bool, steps: int = 6, dtype: str = "float32"
) -> tuple[nn.Embedding, optim.Optimizer]:
    layer = embedding(sparse, dtype)
    optimizer = make(layer.parameters())
    for step in range(steps):
        optimizer.zero_grad()
        backward(layer, step)
        assert is_rows(layer.weight.grad) is sparse
        optimizer.step()
    return layer, optimizer


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_training_is_that_with_dense_gradients(make: Any, dtype: str, backend: Backend) -> None:
    if backend.name != "numpy" and dtype == "float16":
        pytest.skip("the standard has no float16")
    layer, optimizer = trained(make, True, dtype=dtype)
    same, other = trained(make, False, dtype=dtype)
    close = {"float16": 2e-3, "float32": 1e-6, "float64": 1e-13}[dtype]
    assert_allclose(layer.weight.numpy(), same.weight.numpy(), rtol=close, atol=close)
    found, expected = (o.state_dict()["state"].get(0, {}) for o in (optimizer, other))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert_allclose(host(value), host(expected[name]), rtol=close, atol=close)


def lazy_adam(p: Any, grads: list[Any], lr: float) -> Any:
    """The definition: where a row of a gradient is zero, nothing happens to it."""
    mean, square = np.zeros_like(p), np.zeros_like(p)
    for step, grad in enumerate(grads, start=1):
        rows = (grad != 0).any(axis=1)
        mean[rows] = 0.9 * mean[rows] + 0.1 * grad[rows]
        square[rows] = 0.999 * square[rows] + 0.001 * grad[rows] ** 2
        size = np.sqrt(square[rows] / (1 - 0.999**step)) + 1e-8
        p = p.copy()
        p[rows] -= lr * mean[rows] / (1 - 0.9**step) / size
    return p


def test_sparse_adam_is_lazy(backend: Backend) -> None:
    layer = embedding(True, "float64")
    before = layer.weight.numpy()
    optimizer = optim.SparseAdam(layer.parameters(), lr=0.1)
    grads = []
    for step in range(6):
        optimizer.zero_grad()
        backward(layer, step)
        grads.append(layer.weight.grad.numpy())  # type: ignore[union-attr]
        kept = layer.weight.numpy().copy()
        optimizer.step()
        still = (grads[-1] == 0).all(axis=1)
        assert_array_equal(layer.weight.numpy()[still], kept[still])
    assert_allclose(layer.weight.numpy(), lazy_adam(before, grads, 0.1), rtol=1e-12)


@pytest.mark.parametrize("shape", [(), (0, 3), (4, 0), (5,), (4, 3)])
def test_sparse_adam_is_adam_where_every_row_has_a_gradient(shape: tuple[int, ...]) -> None:
    found = []
    for kind in (optim.SparseAdam, optim.Adam):
        rng = np.random.default_rng(0)
        p = tg.tensor(rng.standard_normal(shape), requires_grad=True)
        optimizer = kind([p], lr=0.1)
        for _ in range(4):
            p.grad = tg.tensor(1 + rng.random(shape))
            optimizer.step()
        found.append(p.numpy())
    assert_array_equal(*found)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_a_step_planned_as_a_whole_is_the_same(make: Any) -> None:
    found = []
    for planned in (False, True):
        layer = embedding(True)
        optimizer = make(layer.parameters())

        def step(x: Tensor, layer: Any = layer, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = (layer(x) ** 2).sum()
            loss.backward()
            optim.clip_grad_norm_(layer.parameters(), 1.0)
            optimizer.step()
            return loss

        run = tg.planned(step) if planned else step
        for i in range(5):
            run(tokens(i))
        found.append(layer.weight.numpy())
    assert_allclose(*found, rtol=1e-5)


@pytest.mark.parametrize("make", ROWS.values(), ids=ROWS)
def test_a_run_goes_on_from_its_state(make: Any) -> None:
    straight, _ = trained(make, True, steps=4)
    layer, optimizer = trained(make, True, steps=2)
    other = copy.deepcopy(layer)
    resumed = make(other.parameters())
    resumed.load_state_dict(optimizer.state_dict())
    for step in (2, 3):
        resumed.zero_grad()
        backward(other, step)
        resumed.step()
    assert_array_equal(other.weight.numpy(), straight.weight.numpy())


@pytest.mark.parametrize("make", ROWS.values(), ids=ROWS)
def test_rows_follow_a_parameter_to_another_backend(make: Any) -> None:
    straight, _ = trained(make, True, steps=4)
    layer, optimizer = trained(make, True, steps=2)
    layer.to("array_api_strict")
    assert layer.weight.grad.backend == "array_api_strict"  # type: ignore[union-attr]
    for step in (2, 3):
        optimizer.zero_grad()
        with backends.use_backend("array_api_strict"):
            backward(layer, step)
        optimizer.step()
        if step == 2:
            layer.to("numpy")
            layer.to("array_api_strict")
    assert_allclose(layer.weight.numpy(), straight.weight.numpy(), rtol=1e-6)


# What is shared is not written to.


@pytest.mark.parametrize("make", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize(
    "hold",
    [
        lambda p: p.numpy(),
        lambda p: p.numpy()[3:7].T,
        lambda p: p.detach(),
        lambda p: p.data,
        lambda p: copy.copy(p),
        lambda p: memoryview(p.numpy()),
        lambda p: np.from_dlpack(p.detach()),
        lambda p: tg.sin(p.detach() * 1.0 + p),
    ],
)
def test_what_others_hold_of_a_parameter_stays(make: Any, hold: Any) -> None:
    layer, optimizer = trained(make, True, steps=2)
    held = hold(layer.weight)
    before = np.array(held.numpy() if isinstance(held, Tensor) else held)
    backward(layer, 5)
    expected = copy.deepcopy(layer.weight)
    optimizer.step()
    assert_array_equal(held.numpy() if isinstance(held, Tensor) else held, before)
    assert (layer.weight.numpy() != expected.numpy()).any()


@pytest.mark.parametrize("make", ROWS.values(), ids=ROWS)
def test_a_state_that_was_given_away_stays(make: Any) -> None:
    layer, optimizer = trained(make, True, steps=2)
    saved = optimizer.state_dict()["state"].get(0, {})
    before = {name: np.array(x) for name, x in saved.items()}
    weights = layer.state_dict()["weight"]
    weight = weights.numpy().copy()
    backward(layer, 5)
    optimizer.step()
    for name, value in saved.items():
        assert_array_equal(np.asarray(value), before[name])
    assert_array_equal(weights.numpy(), weight)


def test_a_graph_built_before_gives_the_gradients_of_its_time() -> None:
    layer, optimizer = trained(ROWS["SGD"], True, steps=1)
    kept = layer.weight.numpy().copy()
    loss = (layer.weight * layer.weight).sum()
    layer.weight.grad = None
    backward(layer, 1)
    optimizer.step()
    assert_array_equal(tg.grad(loss, layer.weight).numpy(), 2 * kept)


def test_arrays_of_somebody_else_are_never_written_to() -> None:
    array = np.ones((V, D), np.float32)
    whole = np.ones((2 * V, D), np.float32)
    for given in (array, whole[::2], np.frombuffer(array.tobytes(), np.float32).reshape(V, D)):
        layer = embedding(True)
        layer.weight.data = tg.asarray(given)
        optimizer = optim.SGD(layer.parameters(), lr=0.1)
        backward(layer, 0)
        optimizer.step()
        assert (given == 1).all() and (whole == 1).all()
        assert not (layer.weight.numpy() == 1).all()


@pytest.mark.parametrize("make", ROWS.values(), ids=ROWS)
def test_a_step_takes_memory_for_the_rows_only(make: Any) -> None:
    layer = nn.Embedding(5000, 64, sparse=True)
    optimizer = make(layer.parameters())
    for step in range(3):
        optimizer.zero_grad()
        tracemalloc.start()
        layer(tokens(step)).sum().backward()
        optim.clip_grad_norm_(layer.parameters(), 0.1)
        if step:  # the first makes the moments
            optimizer.step()
            assert tracemalloc.get_traced_memory()[1] < 5000 * 64 * 4 / 4
            assert layer.weight._node.version == step + 1
        else:
            optimizer.step()
        tracemalloc.stop()


# Clipping.


@pytest.mark.parametrize("kernels", ["0", "1"])
def test_clipping_sums_duplicates_first(
    kernels: str, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYGRAD_RNN_JIT", kernels)
    for clip in (optim.clip_grad_norm_, optim.clip_grad_value_):
        layer, same = embedding(True), embedding(False)
        backward(layer, 0)
        backward(same, 0)
        given = layer.weight.grad
        dense = given.numpy()  # type: ignore[union-attr]
        norms = [clip(x.parameters(), 0.5) for x in (layer, same)]
        if clip is optim.clip_grad_norm_:
            assert norms[0] == pytest.approx(norms[1], rel=1e-6)
        assert is_rows(layer.weight.grad)
        found, expected = layer.weight.grad.numpy(), same.weight.grad.numpy()  # type: ignore[union-attr]
        assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
        assert_array_equal(given.numpy(), dense)  # type: ignore[union-attr]


def test_a_gradient_that_is_not_finite_is_refused_and_changes_nothing() -> None:
    layer, optimizer = trained(ROWS["SparseAdam"], True, steps=2)
    optimizer.zero_grad()
    rows = layer(tg.tensor([1, 2, 2]))
    rows.backward(tg.full(rows.shape, 3e38))  # their sum overflows
    before = layer.weight.numpy().copy()
    with pytest.raises(FloatingPointError, match=r"1 of 1 gradients .* parameter 0, float32 \(20"):
        optimizer.step()
    optimizer.nonfinite = "skip"
    assert optimizer.step() is False
    assert_array_equal(layer.weight.numpy(), before)


# What becomes dense, and what does not.


def test_a_weight_with_another_use_has_a_dense_gradient() -> None:
    found = []
    for sparse in (True, False):
        layer = embedding(sparse)
        hidden = layer(tokens(0))
        for loss in ((hidden @ layer.weight.T).sum(), (layer.weight[3:5] ** 2).sum()):
            (loss + tg.sin(layer(tokens(1))).sum()).backward(retain_graph=True)
        assert not is_rows(layer.weight.grad)
        found.append(layer.weight.grad.numpy())  # type: ignore[union-attr]
    assert_allclose(found[0], found[1], rtol=1e-5)


def test_dense_and_sparse_gradients_accumulate_in_any_order() -> None:
    expected = None
    for first in (True, False):
        layer = embedding(True)
        losses = [lambda x: (x(tokens(0)) ** 2).sum(), lambda x: tg.sin(x.weight).sum()]
        for loss in losses if first else losses[::-1]:
            loss(layer).backward()
        found = layer.weight.grad.numpy()  # type: ignore[union-attr]
        expected = found if expected is None else expected
        assert_allclose(found, expected, rtol=1e-6)


def test_a_computed_weight_has_a_dense_cotangent() -> None:
    found = []
    for sparse in (True, False):
        w = tg.tensor(np.linspace(-1, 1, V * D).reshape(V, D), requires_grad=True)
        (F.embedding(tokens(0), tg.tanh(w), sparse=sparse) ** 2).sum().backward()
        found.append(w.grad.numpy())  # type: ignore[union-attr]
    assert_allclose(found[0], found[1], rtol=1e-12)


def test_sums_and_multiples_of_sparse_gradients_are_sparse(backend: Backend) -> None:
    layer = embedding(True)
    backward(layer, 0)
    g = layer.weight.grad
    assert g is not None and g.shape == (V, D) and g.dtype == np.float32
    assert g.backend == backend.name
    host = g.numpy()
    scale = tg.tensor(np.float32(0.5))
    for made, wanted in (
        (g + g, 2 * host),
        (g * 0.5, 0.5 * host),
        (2 * g, 2 * host),
        (g / 4, host / 4),
        (scale * g, 0.5 * host),
    ):
        assert is_rows(made)
        assert_allclose(made.numpy(), wanted, rtol=1e-6)
    for made, wanted in (
        (g * g, host**2),
        (1 / (1 + abs(g)), 1 / (1 + abs(host))),
        (g - layer.weight, host - layer.weight.numpy()),
        (g + 1.0, host + 1),
        (g[3], host[3]),
        (g * tg.tensor(np.float64(2)), 2.0 * host),
        (tg.sum(g), host.sum()),
        (layer.weight.detach() @ g.T, layer.weight.numpy() @ host.T),
    ):
        assert not is_rows(made)
        assert_allclose(made.numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert (g * layer.weight).requires_grad
    assert "zero but in" in repr(g)
    for copied in (pickle.loads(pickle.dumps(g)), copy.deepcopy(g), g.to("numpy")):
        assert_array_equal(copied.numpy(), host)
    layer.zero_grad()
    assert layer.weight.grad is None


def test_hooks_see_a_gradient_and_may_change_it() -> None:
    for change, rows in ((lambda g: 2 * g, True), (lambda g: tg.sign(g), False)):
        found = []
        for sparse in (True, False):
            layer = embedding(sparse)
            layer.weight.register_hook(change)
            (layer(tokens(0)) ** 2).sum().backward()
            assert is_rows(layer.weight.grad) is (sparse and rows)
            found.append(layer.weight.grad.numpy())  # type: ignore[union-attr]
        assert_allclose(found[0], found[1], rtol=1e-6)


def test_gradients_returned_and_of_higher_order() -> None:
    layer, same = embedding(True, "float64"), embedding(False, "float64")

    def loss(x: nn.Embedding) -> Tensor:
        return (x(tokens(0)) ** 3).sum()

    assert is_rows(tg.grad(loss(layer), layer.weight))
    seconds = []
    for x in (layer, same):
        first = tg.grad(loss(x), x.weight, create_graph=True)
        assert not is_rows(first)
        seconds.append(tg.grad((first**2).sum(), x.weight).numpy())
    assert_allclose(seconds[0], seconds[1], rtol=1e-12)


def test_the_whole_library_takes_a_sparse_embedding_as_a_dense_one() -> None:
    def cell(layer: nn.Embedding, x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(layer(x) + h)
        return h, h

    def of(layer: nn.Embedding) -> list[Any]:
        x, w = tokens(0, (9, 4)), layer.weight
        start = tg.zeros((4, D), dtype="float64")
        losses = [
            (tg.checkpoint(layer)(x) ** 2).sum(),
            (tg.checkpoint(lambda v: F.embedding(x, v, sparse=layer.sparse))(w) ** 2).sum(),
            (tg.vmap(layer)(x) ** 2).sum(),
            (tg.planned(lambda t: layer(t) ** 2)(x)).sum(),
            (layer(x, lengths=[9, 5, 0, 1]) ** 2).sum(),
        ]
        for mode in ("literal", "auto", "auto", "planned"):
            losses.append(tg.unroll(lambda x, h: cell(layer, x, h), x, start, mode=mode)[0].sum())
        found = [tg.grad(loss, w).numpy() for loss in losses]
        with tg.detect_anomaly():
            found.append(tg.grad((layer(x) ** 2).sum(), w).numpy())
        return found

    for found, wanted in zip(
        of(embedding(True, "float64")), of(embedding(False, "float64")), strict=True
    ):
        assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


def test_a_cell_with_a_sparse_embedding_is_planned_like_any_other() -> None:
    layer = embedding(True)
    start = tg.zeros((4, D))

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(layer(x) + h)
        return h, h

    before = tg.plan_cache().misses + tg.plan_cache().hits
    for step in range(3):
        tg.unroll(cell, tokens(step, (9, 4)), start)
    assert tg.plan_cache().misses + tg.plan_cache().hits > before


def test_padding_and_what_is_masked_are_no_rows() -> None:
    layer = embedding(True, padding_idx=4)
    x = tg.tensor([[4, 7, 7], [9, 4, 11]])
    (layer(x, lengths=[2, 1, 1]) ** 2).sum().backward()
    places, _ = layer.weight.grad._array.summed()  # type: ignore[union-attr]
    assert places.tolist() == [7, 9]


def test_a_long_loop_of_look_ups_takes_no_more_memory_than_all_rows() -> None:
    layer = embedding(True)
    loss = tg.zeros(())
    for _ in range(3000):
        loss = loss + layer(tokens(0)).sum()
    loss.backward()
    for _ in range(3):
        layer(tokens(0)).sum().backward()
    assert is_rows(layer.weight.grad)
    rows = layer.weight.grad._array  # type: ignore[union-attr]
    assert rows.count <= 2 * V
    assert float(rows.dense().sum()) == 3003 * 6 * D


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0], (V, D)), TypeError, "embedding: takes integers, not float32"),
        (([V], (V, D)), IndexError, "embedding: indices from 20 to 20 for 20 embeddings"),
        (([-1], (V, D)), IndexError, "embedding: indices from -1 to -1 for 20 embeddings"),
        (([1], (V, D), V), ValueError, "embedding: padding_idx 20 is none of 20"),
        (([1], ()), ValueError, r"embedding: weight is \(V, ...\), not \(\)"),
    ],
)
def test_bad_input_is_refused(arguments: Any, error: type[Exception], message: str) -> None:
    x, shape, *rest = arguments
    for sparse in (True, False):
        with pytest.raises(error, match=message):
            F.embedding(tg.tensor(x), tg.ones(shape, requires_grad=True), *rest, sparse=sparse)
