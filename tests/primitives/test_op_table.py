"""Every operation of the table: values, dtypes, derivatives, vmap and errors, on every backend.

The subtle point is completeness. The last tests here fail if the package has a primitive that no
row reaches, or a public function that no row calls, so that a new operation cannot go untested.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
import tinygrad_rnn.primitives
import tinygrad_rnn_backends as backends
from op_table import (
    BINARY,
    COMPARISONS,
    DIFFERENTIABLE,
    ELSEWHERE,
    REDUCTIONS,
    ROWS,
    UNARY,
    Row,
    Sample,
    examples,
)
from tinygrad_rnn import Primitive
from tinygrad_rnn.graph import IndexedCotangent
from tinygrad_rnn.testing import check_grads

Array = np.ndarray[Any, Any]

rows = pytest.mark.parametrize("row", ROWS, ids=str)
differentiable = pytest.mark.parametrize("row", DIFFERENTIABLE, ids=str)


SEEDS = st.integers(0, 999)


def tensor(host: Array, **options: Any) -> tg.Tensor:
    """On the default backend, where ``tg.tensor`` would leave an array on NumPy."""
    return tg.tensor(host, backend=backends.default().name, **options)


def leaves(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (list, tuple)) else [result]


def evaluate(row: Row, arrays: list[Array], sample: Sample) -> list[Any]:
    return leaves(row(*map(tensor, arrays), **sample.keywords))


def expected(row: Row, arrays: list[Array], sample: Sample) -> list[Array]:
    with np.errstate(all="ignore"):
        return [np.asarray(y) for y in leaves(row.expected(*arrays, **sample.keywords))]


def assert_same(results: list[Any], references: list[Array], rtol: float, atol: float) -> None:
    assert len(results) == len(references)
    for y, reference in zip(results, references, strict=True):
        assert isinstance(y, tg.Tensor)
        assert (y.shape, y.dtype) == (reference.shape, reference.dtype)
        np.testing.assert_allclose(y.numpy(), reference, rtol=rtol, atol=atol)


def cast(arrays: list[Array], dtype: str) -> list[Array]:
    return [a.astype(dtype) if a.dtype.kind == "f" else a for a in arrays]


# Values and dtypes.


@rows
@given(data=st.data())
def test_value_is_numpys(row: Row, backend: Any, data: Any) -> None:
    sample = data.draw(row.samples)
    arrays = sample.arrays(data.draw(SEEDS))
    results = evaluate(row, arrays, sample)
    assert all(y.backend == backend.name for y in results)
    assert_same(results, expected(row, arrays, sample), 1e-11, 1e-13)


@rows
@given(data=st.data())
@examples(8)
def test_float32_stays_float32(row: Row, backend: Any, data: Any) -> None:
    sample = data.draw(row.samples)
    arrays = cast(sample.arrays(data.draw(SEEDS)), "float32")
    assert_same(evaluate(row, arrays, sample), expected(row, arrays, sample), 1e-5, 1e-5)
    xs = [tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    wanted = [x for i, x in enumerate(xs) if i in row.argnums]
    for y in leaves(row(*xs, **sample.keywords)):
        if y.requires_grad:
            found = tg.grad(y, wanted, tg.ones_like(y), retain_graph=True, allow_unused=True)
            for x, g in zip(wanted, found, strict=True):
                assert g is None or (g.shape, g.dtype, g.backend) == (x.shape, x.dtype, x.backend)


WIDE = (
    "sum mean prod max min var std logsumexp cumulative_sum vecdot softmax log_softmax layer_norm"
)
WIDE += " cosine_similarity cosine_embedding_loss cross_entropy nll_loss mse_loss l1_loss kl_div"
WIDE += " smooth_l1_loss huber_loss binary_cross_entropy_with_logits gaussian_nll_loss ctc_loss"
WIDE += " avg_pool1d avg_pool2d masked_mean gaussian_mixture_nll_loss bernoulli_mixture_nll_loss"
WIDE += " binary_cross_entropy cumulative_prod vector_norm matrix_norm"


@pytest.mark.parametrize("row", [r for r in ROWS if r.name in WIDE.split()], ids=str)
@given(data=st.data())
@examples(6)
def test_float16_is_computed_in_float32(row: Row, data: Any) -> None:
    sample = data.draw(row.samples)
    halves = cast(sample.arrays(data.draw(SEEDS)), "float16")
    found, wanted = [], []
    for arrays, results in ((halves, found), (cast(halves, "float32"), wanted)):
        xs = [tg.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
        ys = leaves(row(*xs, **sample.keywords))
        inputs = [xs[i] for i in row.argnums if i < len(xs)]
        results += [y.numpy() for y in ys]
        gradients = tg.grad(ys, inputs, [tg.ones_like(y) for y in ys], allow_unused=True)
        results += [g.numpy() for g in gradients if g is not None]
    for y, reference in zip(found, wanted, strict=True):
        assert y.dtype == np.float16
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(y, reference.astype("float16"), rtol=2e-3, atol=1e-6)


CLASSIFYING = ("cross_entropy", "cosine_embedding_loss")  # which take a third input, labels
TWO_INPUTS = [r for r in DIFFERENTIABLE if r.argnums == (0, 1) and r.name not in CLASSIFYING]


@pytest.mark.parametrize("row", TWO_INPUTS, ids=str)
@given(data=st.data())
@examples(6)
def test_each_gradient_has_the_dtype_of_its_input(row: Row, backend: Any, data: Any) -> None:
    sample = data.draw(row.samples)
    arrays = sample.arrays(data.draw(SEEDS))
    for dtypes in (("float32", "float64"), ("float64", "float32")):
        mixed = [a.astype(dtype) for a, dtype in zip(arrays, dtypes, strict=False)]
        xs = [tensor(a, requires_grad=True) for a in mixed]
        ys = leaves(row(*xs, **sample.keywords))
        for y, reference in zip(ys, expected(row, mixed, sample), strict=True):
            assert y.dtype == (mixed[0].dtype if row.variant == "set" else reference.dtype)
        gradients = tg.grad(ys, xs, [tg.ones_like(y) for y in ys], allow_unused=True)
        for x, g in zip(xs, gradients, strict=True):
            assert g is None or (g.shape, g.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize("row", [r for r in ROWS if r.integers], ids=str)
@given(data=st.data())
@examples(8)
def test_integers_give_what_they_give_in_numpy(row: Row, backend: Any, data: Any) -> None:
    sample = data.draw(row.samples)
    seed = data.draw(SEEDS)
    for dtype in ("int64", "int32", "uint8"):
        arrays = [np.round(4 * a).astype(dtype) for a in sample.arrays(seed)]
        results = evaluate(row, arrays, sample)
        assert_same(results, expected(row, arrays, sample), 1e-12, 0)
        assert not any(y.requires_grad for y in results)


@pytest.mark.parametrize("row", BINARY + COMPARISONS, ids=str)
@pytest.mark.parametrize("number", [2, 0.75, 2.0, 0, 1, -1.5], ids=str)
def test_python_numbers_are_weak(row: Row, number: float, backend: Any) -> None:
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        x = rng.uniform(0.4, 2.5, size=(2, 3)).astype(dtype)
        t = tensor(x)
        pairs = [((t, number), (x, number)), ((number, t), (number, x))]
        for mine, numpys in pairs:
            if number == 0 and row.name in ("divide", "floor_divide", "remainder"):
                continue
            if number == -1.5 and row.name == "pow" and mine[0] is number:
                continue  # a negative base
            reference = row.expected(*numpys)
            assert_same([row(*mine)], [reference], 1e-6 if dtype == "float32" else 1e-14, 1e-6)


@pytest.mark.parametrize("row", BINARY + COMPARISONS, ids=str)
@pytest.mark.parametrize("number", [2, 2.0], ids=["int", "float"])
def test_integers_with_python_numbers(row: Row, number: float) -> None:
    x = np.array([1, 5, 2], dtype="int32")
    assert_same([row(tensor(x), number)], [row.expected(x, number)], 1e-14, 0)
    assert_same([row(number, tensor(x))], [row.expected(number, x)], 1e-14, 0)


OPERATORS: tuple[tuple[str, Callable[[Any, Any], Any]], ...] = (
    ("add", lambda x, y: x + y),
    ("subtract", lambda x, y: x - y),
    ("multiply", lambda x, y: x * y),
    ("divide", lambda x, y: x / y),
    ("floor_divide", lambda x, y: x // y),
    ("remainder", lambda x, y: x % y),
    ("pow", lambda x, y: x**y),
    ("equal", lambda x, y: x == y),
    ("not_equal", lambda x, y: x != y),
    ("less", lambda x, y: x < y),
    ("less_equal", lambda x, y: x <= y),
    ("greater", lambda x, y: x > y),
    ("greater_equal", lambda x, y: x >= y),
)


@pytest.mark.parametrize(("name", "operator"), OPERATORS, ids=[name for name, _ in OPERATORS])
def test_operators_of_every_pair_of_operands(name: str, operator: Any) -> None:
    x, y = np.array([1.5, 2.0, 3.0]), np.array([2.5, 2.0, 0.5])
    for left, right in (
        (tg.tensor(x), tg.tensor(y)),
        (tg.tensor(x), y),
        (x, tg.tensor(y)),
        (tg.tensor(x), y[0]),
        (x[0], tg.tensor(y)),
        (tg.tensor(x), 2.0),
        (2.0, tg.tensor(y)),
    ):
        host = [v.numpy() if isinstance(v, tg.Tensor) else v for v in (left, right)]
        assert_same([operator(left, right)], [operator(*host)], 1e-14, 0)
    a, b = np.array([True, False]), np.array([True, True])
    t = tg.tensor(a)
    assert_same([t & b, t | b, t ^ b, ~t], [a & b, a | b, a ^ b, ~a], 0, 0)
    assert_same([-tg.tensor(x), +tg.tensor(x), abs(tg.tensor(-x))], [-x, x, x], 0, 0)
    assert_same([tg.tensor(x) @ y, x @ tg.tensor(y)], [np.array(x @ y)] * 2, 1e-14, 0)


METHODS = [row for row in REDUCTIONS if row.name not in ("logsumexp", "cumulative_sum")]


@pytest.mark.parametrize("row", METHODS, ids=str)
@given(data=st.data())
@examples(10)
def test_reductions_are_methods(row: Row, data: Any) -> None:
    sample = data.draw(row.samples)
    (x,) = map(tensor, sample.arrays(data.draw(SEEDS)))
    reference = row(x, **sample.keywords).numpy()
    np.testing.assert_array_equal(getattr(x, row.name)(**sample.keywords).numpy(), reference)
    keywords = dict(sample.keywords)
    axis, keepdims = keywords.pop("axis"), keywords.pop("keepdims")
    np.testing.assert_array_equal(
        getattr(x, row.name)(axis, keepdims, **keywords).numpy(), reference
    )


def test_methods_of_shape(backend: Any) -> None:
    host = np.arange(6.0).reshape(1, 2, 3)
    x = tensor(host)
    for y, reference in (
        (x.T, host.T),
        (x.mT, host.mT),
        (x.reshape(3, -1), host.reshape(3, -1)),
        (x.reshape((3, 2)), host.reshape(3, 2)),
        (x.reshape(6), host.reshape(6)),
        (x.squeeze(), host.squeeze()),
        (x.squeeze(axis=0), host.squeeze(axis=0)),
        (x.astype("float32"), host.astype("float32")),
    ):
        assert_same([y], [reference], 0, 0)


def test_creation(backend: Any) -> None:
    f32 = np.float32
    for y, reference in (
        (tg.tensor([[1, 2], [3, 4]]), np.array([[1, 2], [3, 4]])),
        (tg.tensor([1.5, 2]), np.array([1.5, 2], f32)),
        (tg.tensor(2.5), np.array(2.5, f32)),
        (tg.tensor(True), np.array(True)),
        (tg.tensor([1, 2], dtype="float64"), np.array([1.0, 2])),
        (tensor(np.array([1.0, 2])), np.array([1.0, 2])),
        (tg.tensor([]), np.array([], f32)),
        (tg.asarray([1.0]), np.array([1.0], f32)),
        (tg.asarray(3), np.array(3)),
        (tg.zeros((2, 0)), np.zeros((2, 0), f32)),
        (tg.zeros(3, "int32"), np.zeros(3, "int32")),
        (tg.ones(()), np.ones((), f32)),
        (tg.full((2,), 2.5), np.full(2, 2.5, f32)),
        (tg.full((2,), 7), np.full(2, 7)),
        (tg.full(2, True), np.full(2, True)),
        (tg.arange(4), np.arange(4)),
        (tg.arange(1, 2, 0.25), np.arange(1, 2, 0.25, dtype=f32)),
        (tg.arange(5, 0, -2), np.arange(5, 0, -2)),
        (tg.linspace(0, 1, 5), np.linspace(0, 1, 5, dtype=f32)),
        (tg.linspace(0, 1, 4, endpoint=False), np.linspace(0, 1, 4, endpoint=False, dtype=f32)),
        (tg.eye(2), np.eye(2, dtype=f32)),
        (tg.eye(2, 3, k=1, dtype="float64"), np.eye(2, 3, k=1)),
    ):
        assert y.backend == backend.name
        assert_same([y], [reference], 1e-6, 0)
    assert tg.empty((2, 3)).shape == tg.empty_like(tg.zeros((2, 3))).shape == (2, 3)


def test_result_type() -> None:
    x = tg.zeros((2,))
    assert tg.result_type(x, 2.0) == tg.result_type(x, 1) == np.float32
    assert tg.result_type(x, tg.float64) == tg.result_type(tg.arange(3), x) == np.float64
    assert tg.result_type(True, tg.tensor([1], dtype="int8")) == np.int8


# Derivatives.


@differentiable
@given(data=st.data())
@examples(12)
def test_first_and_second_derivative(row: Row, backend: Any, data: Any) -> None:
    sample = data.draw(row.samples)
    check_grads(
        lambda *xs: row(*xs, **sample.keywords),
        [tensor(a) for a in sample.arrays(data.draw(SEEDS))],
    )


@pytest.mark.parametrize("row", [r for r in ROWS if not r.argnums], ids=str)
@given(data=st.data())
@examples(3)
def test_not_differentiable(row: Row, data: Any) -> None:
    sample = data.draw(row.samples)
    xs = [tensor(a, requires_grad=a.dtype.kind == "f") for a in sample.arrays(data.draw(SEEDS))]
    assert not any(y.requires_grad for y in leaves(row(*xs, **sample.keywords)))


@pytest.mark.parametrize("row", [r for r in BINARY if r.argnums], ids=str)
@pytest.mark.parametrize("number", [2, 3, 0.75, 1, 2.0, -0.5], ids=str)
def test_derivative_beside_a_number(row: Row, number: float, backend: Any) -> None:
    x = np.array([[0.64, 1.31], [1.7, 2.44]])
    check_grads(lambda x: row(x, number), [tensor(x)], order=3)
    if row.name != "pow" or number > 0:
        check_grads(lambda x: row(number, x), [tensor(x)], order=3)


def test_astype_casts_its_cotangent_back(backend: Any) -> None:
    x = tensor(np.array([0.5, -2.0]), requires_grad=True)
    y = tg.square(x.astype("float32"))
    (first,) = tg.grad(y, [x], tensor(np.array([1.0, 3.0])), create_graph=True)
    assert (y.dtype, first.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(first.numpy(), [1, -12])
    np.testing.assert_array_equal(tg.grad(tg.sum(first), x).numpy(), [2, 6])
    assert not x.astype("int64").astype("float64").requires_grad


# vmap.


class Batch:
    """The inputs of a sample for several examples, and the axis that counts them in each."""

    def __init__(self, row: Row, sample: Sample, data: Any) -> None:
        self.size = data.draw(st.sampled_from((2, 3, 1)))
        first = data.draw(SEEDS)
        self.axes: list[int | None] = [
            data.draw(st.sampled_from((0, None, 1, -1) if x.shape else (0, None)))
            for x in sample.inputs
        ]
        if all(axis is None for axis in self.axes):
            self.axes[0] = 0
        self.examples = [sample.arrays(first + n) for n in range(self.size)]
        self.tensors = [
            tensor(self.examples[0][i] if axis is None else self.stacked(i, axis))
            for i, axis in enumerate(self.axes)
        ]

    def stacked(self, i: int, axis: int) -> Array:
        return np.stack([example[i] for example in self.examples], axis=axis)

    def example(self, n: int) -> list[Any]:
        return [
            tensor(self.examples[0 if axis is None else n][i]) for i, axis in enumerate(self.axes)
        ]


@rows
@given(data=st.data())
@examples(12)
def test_vmap_is_a_loop(row: Row, backend: Any, data: Any) -> None:
    sample = data.draw(row.samples)
    batch = Batch(row, sample, data)

    def f(*xs: Any) -> list[Any]:
        return leaves(row(*xs, **sample.keywords))

    looped = [f(*batch.example(n)) for n in range(batch.size)]
    results = tg.vmap(f, in_axes=tuple(batch.axes))(*batch.tensors)
    wanted = [np.stack([y.numpy() for y in ys]) for ys in zip(*looped, strict=True)]
    assert_same(results, wanted, 1e-11, 1e-13)


@differentiable
@given(data=st.data())
@examples(8)
def test_vmap_of_grad_and_grad_of_vmap(row: Row, backend: Any, data: Any) -> None:
    sample = data.draw(row.samples)
    batch = Batch(row, sample, data)
    argnums = tuple(i for i in row.argnums if i < len(sample.inputs))

    def weighted(y: Any) -> Any:
        weights = np.cos(np.arange(y.size)).reshape(y.shape)
        return tg.sum(y * tensor(weights))

    def f(*xs: Any) -> Any:
        return sum(weighted(y) for y in leaves(row(*xs, **sample.keywords))) + 0 * tg.sum(
            xs[argnums[0]]
        )

    gradient = tg.value_and_grad(f, argnums)
    looped = [gradient(*batch.example(n))[1] for n in range(batch.size)]
    each = [[g.numpy() for g in gs] for gs in zip(*looped, strict=True)]
    results = tg.vmap(lambda *xs: gradient(*xs)[1], tuple(batch.axes))(*batch.tensors)
    assert_same(list(results), [np.stack(gs) for gs in each], 1e-10, 1e-12)

    factors = tensor(np.arange(1.0, batch.size + 1))
    mapped = tg.vmap(f, tuple(batch.axes))
    _, results = tg.value_and_grad(lambda *xs: tg.sum(factors * mapped(*xs)), argnums)(
        *batch.tensors
    )
    for i, g, gs in zip(argnums, results, each, strict=True):
        scaled = [(n + 1) * one for n, one in enumerate(gs)]
        axis = batch.axes[i]
        total = np.sum(scaled, axis=0) if axis is None else np.stack(scaled, axis=axis)
        np.testing.assert_allclose(g.numpy(), total, rtol=1e-10, atol=1e-12)


# Errors.

X = tg.tensor(np.ones((2, 3)))
T = tg.tensor([0, 1])

ERRORS: tuple[tuple[Callable[[], Any], type[Exception], tuple[str, ...]], ...] = (
    *(
        (lambda row=row: row(X, tg.ones((4, 1, 2))), ValueError,
         (row.name, "(2, 3)", "(4, 1, 2)", "broadcast"))
        for row in BINARY + COMPARISONS
    ),
    *(
        (lambda row=row: getattr(tg, row.name)(X, axis=2), IndexError,
         (row.name, "axis 2", "2 axes", "-2 to 1"))
        for row in REDUCTIONS
    ),
    *(
        (lambda name=name: getattr(tg, name)(X, axis=(0, -2)), ValueError, (name, "twice"))
        for name in ("sum", "mean", "max", "prod", "var", "std", "logsumexp", "flip", "squeeze")
    ),
    *(
        (lambda name=name: getattr(tg, name)("text"), TypeError, ("str", "expected a Tensor"))
        for name in [row.name for row in UNARY] + ["sum", "reshape", "softmax", "relu"]
        if name != "reshape"
    ),
    (lambda: tg.sum(X, axis=0.5), TypeError, ("sum", "integer", "0.5")),
    *(
        (lambda name=name: getattr(tg, name)(tg.zeros((0, 2)), axis=0), ValueError,
         (f"{name}:", "float32 (0, 2)", "no elements along axis=0", "no extremum; concat"))
        for name in ("max", "min", "argmax", "argmin")
    ),
    (lambda: tg.max(tg.zeros((0, 2))), ValueError, ("max:", "(0, 2)", "axis=None")),
    (lambda: tg.argmax(tg.zeros((0,))), ValueError, ("argmax", "(0,)", "axis=None")),
    (lambda: tg.var(X, 0, 1), TypeError, ("var", "positional")),
    (lambda: tg.std(X, 0, 1), TypeError, ("std", "positional")),
    (lambda: tg.softmax(tg.zeros((0,)), axis=1), IndexError, ("softmax", "axis 1")),
    (lambda: tg.where(X, 1.0, 2.0), TypeError, ("where", "float64", "bool", "x != 0")),
    (lambda: tg.where(X > 0, tg.ones(2), 0), ValueError, ("where", "(2, 3)", "(2,)")),
    (lambda: tg.cumulative_sum(X), ValueError, ("cumulative_sum", "axis", "(2, 3)")),
    (lambda: tg.reshape(X, (4, 2)), ValueError, ("reshape", "6 elements", "(4, 2)")),
    (lambda: tg.reshape(X, (-1, -1)), ValueError, ("reshape", "(-1, -1)")),
    (lambda: tg.reshape(X, (4, -1)), ValueError, ("reshape", "(4, -1)")),
    (lambda: tg.broadcast_to(X, (3, 2)), ValueError, ("broadcast_to", "(2, 3)", "(3, 2)")),
    (lambda: tg.broadcast_to(X, (3,)), ValueError, ("broadcast_to", "float64 (2, 3)", "or 1")),
    (lambda: tg.broadcast_to(X, (-1, 3)), ValueError, ("broadcast_to", "(-1, 3)")),
    (lambda: tg.broadcast_to(X, (2.0, 3)), TypeError, ("broadcast_to", "shape", "integers")),
    (lambda: tg.reshape(X, 2.5), TypeError, ("reshape", "shape", "2.5")),
    (lambda: tg.broadcast_arrays(X, tg.ones(2)), ValueError, ("broadcast_arrays", "(2,)")),
    (lambda: tg.permute_dims(X, (0,)), ValueError, ("permute_dims", "(2, 3)")),
    (lambda: tg.permute_dims(X, (0, 0)), ValueError, ("permute_dims", "twice")),
    (lambda: tg.moveaxis(X, 2, 0), IndexError, ("moveaxis", "axis 2")),
    (lambda: tg.moveaxis(X, (0, 1), (0,)), ValueError, ("moveaxis", "(0, 1)", "(0,)", "pair")),
    (lambda: tg.moveaxis(X, (0, -2), (0, 1)), ValueError, ("moveaxis", "twice")),
    (lambda: tg.matrix_transpose(tg.ones(3)), ValueError, ("matrix_transpose", "(3,)")),
    (lambda: tg.expand_dims(X, axis=4), IndexError, ("expand_dims", "axis 4")),
    (lambda: tg.squeeze(X, axis=0), ValueError, ("squeeze", "(2, 3)", "length 1")),
    (lambda: tg.concat([X, tg.ones((3, 2))]), ValueError,
     ("concat", "(2, 3), (3, 2)", "axis=0", "agree")),
    (lambda: tg.concat([X, tg.ones(3)], axis=1), ValueError, ("concat", "(3,)", "number of axes")),
    (lambda: tg.concat([]), ValueError, ("concat", "nothing")),
    (lambda: tg.concat(X), TypeError, ("concat", "sequence")),
    (lambda: tg.stack([X, tg.ones(3)]), ValueError,
     ("stack", "(2, 3), (3,)", "equal", "concat")),
    (lambda: tg.stack([tg.ones(3)], axis=2), IndexError, ("stack", "axis 2")),
    (lambda: tg.unstack(X, axis=2), IndexError, ("unstack", "axis 2")),
    (lambda: tg.split(X, 2, axis=1), ValueError, ("split", "(2, 3)", "2 equal")),
    (lambda: tg.split(X, [2, 1], axis=1), ValueError, ("split", "[2, 1]", "order")),
    (lambda: tg.roll(X, (1, 2, 3), axis=(0, 1)), ValueError, ("roll", "3 shifts", "2 axes")),
    (lambda: tg.pad(X, ((1, 1),) * 3), ValueError, ("pad", "2 axes")),
    (lambda: tg.pad(X, (1, 2, 3)), ValueError, ("pad", "(1, 2, 3)", "2 axes")),
    (lambda: tg.pad(X, -1), ValueError, ("pad", "-1")),
    (lambda: tg.repeat(X, [1, 2, 3], axis=0), ValueError, ("repeat", "3", "length 2")),
    (lambda: tg.repeat(X, -1), ValueError, ("repeat", "-1")),
    (lambda: tg.repeat(X, [1, -1], axis=0), ValueError, ("repeat", "[1, -1]")),
    (lambda: tg.repeat(X, 2.5), TypeError, ("repeat", "repeats takes integers", "2.5")),
    (lambda: tg.repeat(X, [1, 0.5], axis=0), TypeError, ("repeat", "[1, 0.5]")),
    (lambda: tg.tile(X, 2.5), TypeError, ("tile", "repetitions takes integers", "2.5")),
    (lambda: tg.tile(X, -1), ValueError, ("tile", "-1")),
    (lambda: tg.matmul(X, X), ValueError,
     ("matmul", "float64 (2, 3)", "last axis of the first, of length 3", "of length 2", "agree")),
    (lambda: tg.matmul(tg.ones(3), X), ValueError, ("(float32 (3,), float64 (2, 3))", "length 2")),
    (lambda: tg.matmul(X, tg.ones(2)), ValueError, ("float32 (2,)", "only axis", "length 2")),
    (lambda: tg.ones((4, 2, 3)) @ tg.ones((5, 3, 2)), ValueError,
     ("matmul", "4, 2", "5, 3", "(4,) and (5,)", "broadcast")),
    (lambda: tg.ones((4, 2, 3)) @ tg.ones((2, 3)), ValueError, ("matmul", "(4, 2, 3)", "(2, 3)")),
    (lambda: tg.matmul(X, 2.0), ValueError, ("matmul", "(2, 3)", "multiply")),
    (lambda: tg.vecdot(X, tg.ones(2)), ValueError, ("vecdot", "(2, 3)", "(2,)")),
    (lambda: tg.tensordot(X, X, axes=1), ValueError, ("tensordot", "(2, 3)")),
    (lambda: tg.tensordot(X, X, axes=3), ValueError, ("tensordot", "axes=3")),
    (lambda: tg.einsum("ij,jk", X, X), ValueError, ("einsum", "'j'", "(2, 3)")),
    (lambda: tg.einsum("ii->i", X), ValueError, ("einsum", "'i'", "(2, 3)")),
    (lambda: tg.einsum("ij->k", X), ValueError, ("einsum", "'ij->k'")),
    (lambda: tg.einsum("ij", X, X), ValueError, ("einsum", "1 terms", "2 op")),
    (lambda: tg.einsum("ijk", X), ValueError, ("einsum", "'ijk'", "2 axes")),
    (lambda: tg.einsum(X, "ij"), TypeError, ("einsum", "string")),
    (lambda: tg.take(X, [0]), ValueError, ("take", "axis", "(2, 3)")),
    (lambda: tg.take(X, [0.5], axis=0), TypeError, ("take", "float", "astype")),
    (lambda: tg.take(X, [3], axis=1), IndexError, ("(2, 3)", "3")),
    (lambda: tg.take_along_axis(X, [0], axis=0), ValueError, ("take_along_axis", "(1,)")),
    (lambda: tg.gelu(X, approximate="erf"), ValueError, ("gelu", "'erf'", "'tanh'")),
    (lambda: tg.mse_loss(X, tg.ones(3)), ValueError, ("mse_loss", "(2, 3)", "(3,)")),
    (lambda: tg.mse_loss(X, X, reduction="avg"), ValueError, ("mse_loss", "'avg'", "'mean'")),
    (lambda: tg.layer_norm(tg.ones(())), ValueError, ("layer_norm", "last axis")),
    (lambda: tg.layer_norm(X, tg.ones(2)), ValueError, ("layer_norm", "(2,)", "(2, 3)")),
    (lambda: tg.cross_entropy(X, tg.tensor([0])), ValueError, ("cross_entropy", "(2, 3)", "(1,)")),
    (lambda: tg.cross_entropy(X, tg.tensor([0, 3])), IndexError, ("cross_entropy", "0 to 2")),
    (lambda: tg.cross_entropy(X, tg.tensor([0, -1])), IndexError, ("cross_entropy", "-100")),
    (lambda: tg.cross_entropy(X, T, tg.ones(2)), ValueError, ("(2,)", "3 classes")),
    (lambda: tg.cross_entropy(X, T, reduction="x"), ValueError, ("cross_entropy", "'x'")),
    (lambda: tg.cross_entropy(X, T, label_smoothing=2), ValueError, ("smoothing", "2")),
    (lambda: tg.cross_entropy(X, tg.ones(3)), ValueError, ("(2, 3)", "(3,)")),
    (lambda: tg.dropout(X, 1.5), ValueError, ("dropout", "1.5")),
    (lambda: tg.one_hot(X, 3), TypeError, ("one_hot", "float64")),
    (lambda: tg.tril(tg.ones(3)), ValueError, ("tril", "(3,)")),
    (lambda: tg.tensor([[1], [1, 2]]), ValueError, ("tensor", "rectangular")),
    (lambda: tg.tensor(["a"]), TypeError, ("tensor", "numbers")),
    (lambda: tg.tensor([1, 2], requires_grad=True), TypeError, ("int64", "astype")),
    (lambda: tg.tensor([1, 2]) & True, TypeError, ("bitwise_and", "int64", "bool", "x != 0")),
    (lambda: ~X, TypeError, ("bitwise_invert", "float64", "x != 0")),
    (lambda: X << 1, TypeError, ("bitwise_left_shift", "float64", "integers;", "astype")),
    (lambda: tg.logical_not(tg.tensor([1, 2])), TypeError, ("logical_not", "int64", "x != 0")),
    (lambda: tg.linalg.inv(T), TypeError, ("linalg.inv", "int64 (2,)", "astype('float64')")),
    (lambda: tg.linalg.det(X), ValueError, ("linalg.det", "(2, 3)", "square", "pinv")),
    (lambda: tg.linalg.svd(tg.ones(3)), ValueError, ("linalg.svd", "(3,)", "last two axes")),
    (lambda: tg.linalg.inv(tg.ones((2, 2))), ValueError, ("linalg.inv", "(2, 2)", "pinv(x)")),
    (lambda: tg.linalg.cholesky(-tg.eye(2)), ValueError, ("linalg.cholesky", "(2, 2)", "eye(n)")),
    (lambda: tg.linalg.solve(tg.eye(2), tg.ones(3)), ValueError,
     ("linalg.solve", "(2, 2)", "2 unknowns", "3 numbers")),
    (lambda: tg.linalg.solve(tg.ones((4, 2, 2)), tg.ones((3, 2, 1))), ValueError,
     ("linalg.solve", "(4,)", "(3,)", "broadcast")),
    (lambda: tg.linalg.qr(X, mode="r"), ValueError, ("linalg.qr", "'r'", "'reduced'")),
    (lambda: tg.linalg.matrix_norm(X, ord=3), ValueError, ("matrix_norm", "3", "'nuc'")),
    (lambda: tg.linalg.vector_norm(X, ord="fro"), ValueError, ("vector_norm", "'fro'")),
    (lambda: tg.linalg.cross(X, tg.ones(2)), ValueError, ("linalg.cross", "axis -1", "(2,)")),
    (lambda: tg.linalg.trace(T), ValueError, ("linalg.diagonal", "(2,)", "matrix")),
    (lambda: tg.searchsorted(X, 1.0), ValueError, ("searchsorted", "2 axes", "reshape")),
    (lambda: tg.searchsorted(T, 1, side="up"), ValueError, ("searchsorted", "'up'", "'right'")),
    (lambda: tg.nonzero(tg.ones(())), ValueError, ("nonzero", "0-d", "reshape")),
    (lambda: tg.meshgrid(X, T), ValueError, ("meshgrid", "(2, 3)", "one axis")),
    (lambda: tg.meshgrid(T, indexing="yx"), ValueError, ("meshgrid", "'yx'", "'ij'")),
    (lambda: tg.diff(X, n=-1), ValueError, ("diff", "n=-1")),
    (lambda: tg.cumulative_prod(X), ValueError, ("cumulative_prod", "axis", "(2, 3)")),
    (lambda: tg.asarray([1.0], copy=False), ValueError, ("asarray", "list", "copy=False")),
    (lambda: tg.reshape(X.T, (6,), copy=False), ValueError, ("reshape", "(3, 2)", "copy=False")),
    (lambda: tg.zeros(2, device="gpu"), ValueError, ("zeros", "'gpu'", "'cpu'", "backend=")),
    (lambda: X.to_device("gpu"), ValueError, ("to_device", "'gpu'", "'cpu'", "x.to(backend)")),
    (lambda: tg.finfo("int8"), TypeError, ("finfo", "int8", "iinfo")),
    (lambda: tg.iinfo(tg.float32), TypeError, ("iinfo", "float32", "finfo")),
)  # fmt: skip


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: f"{case[2][0]}-{case[2][-1]}")
def test_error_names_operation_shapes_and_cure(case: Any) -> None:
    call, kind, parts = case
    with pytest.raises(kind) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("other", [tg.ones((4, 2)), tg.ones(2)])
def test_errors_inside_vmap_show_the_shapes_of_one_example(other: Any) -> None:
    for call, shown in (
        (lambda x: x @ other, "matmul(float64 (3,), "),
        (lambda x: tg.concat([x[None], other]), "concat: the shapes (1, 3), "),
        (lambda x: tg.stack([x, other]), "stack: the shapes (3,), "),
        (lambda x: tg.broadcast_to(x, other.shape), "broadcast_to: float64 (3,)"),
        (lambda x: tg.max(x[:0]), "max: float64 (0,)"),
    ):
        with pytest.raises(ValueError) as caught:
            tg.vmap(call)(X)
        assert str(caught.value).startswith(shown)


# The table and the package.


def primitives() -> dict[str, Primitive]:
    found = {}
    for module in pkgutil.iter_modules(tinygrad_rnn.primitives.__path__):
        for value in vars(
            importlib.import_module(f"tinygrad_rnn.primitives.{module.name}")
        ).values():
            if isinstance(value, Primitive):
                found[value.name] = value
    return found


PRIMITIVES = primitives()


def test_every_public_function_of_tensors_has_a_row() -> None:
    public = {
        name
        for name, value in vars(tg).items()
        if inspect.isfunction(value)
        and value.__module__.startswith(("tinygrad_rnn.primitives.", "tinygrad_rnn.functional"))
    } | set(tg.linalg.__all__)
    covered = {row.name for row in ROWS}
    assert public - covered == set(ELSEWHERE)
    assert not covered & set(ELSEWHERE)


READS: dict[str, tuple[str, ...]] = {
    "tan": ("out",),
    **dict.fromkeys(
        ["asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "log2", "log10"], ("x",)
    ),
    "atan2": ("y x", "y x"),
    "hypot": ("x out", "y out"),
    "logaddexp": ("x y out", "x y out"),
    "copysign": ("x out",),
    "cumulative_prod": ("x out",),
    "inv": ("out",),
    "solve": ("x out", "x"),
    "det": ("x out",),
    "pinv": ("x out",),
    "cholesky": ("out",),
    **dict.fromkeys(["slogdet", "qr", "eigh", "svd"], ("x",)),
    # For each input what its vjp reads, that is, what a node keeps: only where not nothing.
    "multiply": ("y", "x"),
    "divide": ("y", "y out"),
    "pow": ("x y", "x y out"),
    "remainder": ("", "x y"),
    "abs": ("x",),
    "exp": ("out",),
    "expm1": ("out",),
    "log": ("x",),
    "log1p": ("x",),
    "sqrt": ("out",),
    "square": ("x",),
    "sin": ("x",),
    "cos": ("x",),
    "tanh": ("out",),
    "sigmoid": ("out",),
    "softplus": ("x",),
    "erf": ("x",),
    "relu": ("out",),
    "maximum": ("x y", "x y"),
    "minimum": ("x y", "x y"),
    "where": ("", "condition", "condition"),
    "sum": ("x_shape",),
    "windows": ("x_shape",),
    "max": ("x out",),
    "min": ("x out",),
    "reshape": ("x_shape",),
    "broadcast_to": ("x_shape",),
    "concat": ("arrays_shapes",),
    "matmul": ("y", "x y_shape"),
    "max_in_windows": ("x out",),
    "convolution": ("w x_shape", "x w_shape"),
    "transposed_convolution": ("w", "y w_shape"),
    "kernel_cotangent": ("y x_shape", "x"),
    "getitem": ("indices",),
    "take_rows": ("indices",),
    "index_add": ("", "indices"),
    "take_along_axis": ("indices",),
    "add_along_axis": ("", "indices"),
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_a_node_keeps_what_its_vjps_read(name: str) -> None:
    primitive = PRIMITIVES[name]
    reads = [
        " ".join(list(inspect.signature(rule).parameters)[2:][: len(primitive.reads[i])])
        for i, rule in enumerate(primitive.vjps)
        if rule is not None
    ]
    assert tuple(filter(None, reads)) == tuple(filter(None, READS.get(name, ())))


class Touched(Exception):
    """A rule has looked at a value that it declared to read."""


def _touch(*_: Any, **__: Any) -> Any:
    raise Touched


class Untouchable:
    """Stands for an array, a shape or several of them, and raises whatever a rule does with it."""

    __array_ufunc__ = __array_function__ = _touch
    __getattr__ = __iter__ = __len__ = __getitem__ = __bool__ = __index__ = __float__ = _touch
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = _touch
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = _touch
    __eq__ = __ne__ = __gt__ = __ge__ = __lt__ = __le__ = _touch
    __hash__ = None  # type: ignore[assignment]


def test_every_primitive_is_reached_and_needs_all_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, list[tuple[Any, ...]]] = {name: [] for name in PRIMITIVES}

    def recorded(primitive: Primitive) -> Callable[..., Any]:
        forward = primitive.forward

        def record(xp: Any, *arrays: Any, **parameters: Any) -> Any:
            out = forward(xp, *arrays, **parameters)
            constants = {i for i, rule in enumerate(primitive.vjps) if rule is None}
            constants |= set(range(len(primitive.vjps), len(arrays)))
            beside = [a for i, a in enumerate(arrays) if not (type(a) is float and i in constants)]
            if all(isinstance(a, np.ndarray) and a.size for a in beside):
                calls[primitive.name].append((xp, list(arrays), out, parameters))
            return out

        return record

    for primitive in PRIMITIVES.values():
        monkeypatch.setattr(primitive, "forward", recorded(primitive))

    @given(st.data())
    @examples(10)
    def run(row: Row, data: Any) -> None:
        sample = data.draw(row.samples)
        evaluate(row, sample.arrays(data.draw(SEEDS)), sample)

    for row in ROWS:
        run(row)
    x, w = (tg.tensor(np.ones(shape), requires_grad=True) for shape in ((2, 3, 9), (4, 3, 2)))
    tg.grad(tg.sum(tg.conv1d(x, w)), [x, w])  # by two primitives that no function is
    monkeypatch.undo()
    unreached = {name for name, recordings in calls.items() if not recordings}
    assert unreached == {"alias", "to"}  # transforms use the one; test_to_moves... has the other
    for name, primitive in PRIMITIVES.items():
        for i, rule in enumerate(primitive.vjps):
            for j in range(len(primitive.reads[i])):
                assert any(uses(primitive, i, rule, j, call) for call in calls[name]), (name, i, j)


def uses(primitive: Primitive, i: int, rule: Any, j: int, call: tuple[Any, ...]) -> bool:
    """Whether a rule looks at its j-th read, or passes it on, given what the forward once had."""
    xp, arrays, out, parameters = call
    g = tuple(map(np.ones_like, out)) if primitive.several else np.ones_like(out)
    (reads, *_), _ = primitive.collector((i,))(arrays, out)
    read = Untouchable()
    try:
        made = rule(xp, g, *(read if j == k else x for k, x in enumerate(reads)), **parameters)
    except Touched:
        return True
    return isinstance(made, IndexedCotangent) and any(x is read for x in made.key)


@pytest.mark.parametrize(
    ("operation", "keeps_input", "keeps_output"),
    [
        (lambda z: z + 1.0, False, False),
        (lambda z: tg.reshape(z, (-1,)), False, False),
        (lambda z: tg.sum(z, axis=0), False, False),
        (lambda z: tg.concat([z, z]), False, False),
        (lambda z: tg.stack([z, z]), False, False),
        (tg.tanh, False, True),
        (tg.sigmoid, False, True),
        (tg.relu, False, True),
        (tg.square, True, False),
        (tg.softplus, True, False),
        (lambda z: z * 2.0, False, False),
        (lambda z: z @ np.ones((3, 2)), False, False),
    ],
)
def test_arrays_that_no_vjp_reads_are_not_kept(
    operation: Callable[[Any], Any], keeps_input: bool, keeps_output: bool
) -> None:
    z = tg.tensor(np.ones((2, 3)), requires_grad=True) - 0.5
    y = operation(z)
    end = tg.sum(y)
    alive = [weakref.ref(t._array) for t in (z, y)]
    del z, y
    assert [ref() is not None for ref in alive] == [keeps_input, keeps_output]
    end.backward()
    assert [ref() is not None for ref in alive] == [False, False]


def test_to_moves_and_its_cotangent_comes_back() -> None:
    x = tg.tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    y = x.to("array_api_strict")
    assert (x.backend, y.backend, y.dtype) == ("numpy", "array_api_strict", np.float64)
    g = tg.grad(tg.sum(y * y * y), x, create_graph=True)
    assert g.backend == "numpy"
    np.testing.assert_allclose(g.numpy(), [3.0, 12.0])
    np.testing.assert_allclose(tg.grad(tg.sum(g), x).numpy(), [6.0, 12.0])
    assert x.to("numpy") is x
    with pytest.raises(TypeError, match=r"add: .*different backends.*x\.to\('numpy'\)"):
        x + y


def test_dropout(backend: Any) -> None:
    tg.manual_seed(3)
    x = tg.ones((100, 50), dtype="float64", requires_grad=True)
    y = tg.dropout(x, p=0.2)
    values, counts = np.unique(y.numpy(), return_counts=True)
    np.testing.assert_allclose(values, [0, 1.25])
    assert abs(counts[0] / 5000 - 0.2) < 0.03
    np.testing.assert_array_equal(tg.grad(tg.sum(y), x).numpy(), y.numpy())
    assert tg.dropout(x, training=False) is x
    assert tg.dropout(x, p=0.0) is x
    assert not np.any(tg.dropout(x, p=1.0).numpy())
