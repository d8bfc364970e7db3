"""Products outside of plans: who makes them, and that nobody can tell but by the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.kernels import products
from tinygrad_rnn.kernels.cpu import run as native

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.skipif(native.available() is not None, reason="no kernels, no llvmlite")


@pytest.fixture(scope="module")
def eager() -> Iterator[None]:
    """Every product is worth as many threads as there may be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "SHARE", 1e-9)
        yield


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the environment asks for is read in the test, and again after it."""
    for name in ("JIT", "PRODUCTS"):
        monkeypatch.delenv(f"TINYGRAD_RNN_{name}", raising=False)
    products.ours.cache_clear()
    yield
    products.ours.cache_clear()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what our kernels have made."""
    shapes = []
    make = native.product

    def spy(a: Array, b: Array, out: Array, **options: Any) -> None:
        make(a, b, out, **options)
        shapes.append(out.shape)

    monkeypatch.setattr(native, "product", spy)
    monkeypatch.setattr(products, "ours", lambda: True)
    return shapes


def matrices(shape: tuple[int, ...], layout: str, rng: np.random.Generator) -> Array:
    """Random numbers, stored in one of several ways."""
    *batch, rows, columns = shape
    if layout == "transposed":
        return matrices((*batch, columns, rows), "", rng).mT
    if layout == "backwards":
        return matrices(shape, "", rng)[..., ::-1, ::-1]
    if layout == "every other":
        return matrices((*batch, 2 * rows, 2 * columns), "", rng)[..., ::2, ::2]
    if layout == "unaligned":
        pairs = np.zeros(shape, np.dtype([("before", "i1"), ("number", "f4")]))
        pairs["number"] = matrices(shape, "", rng)
        return pairs["number"]
    if layout == "one row":
        return np.broadcast_to(matrices((*batch, 1, columns), "", rng), shape)
    return rng.standard_normal(shape, dtype=np.float32)


layouts = st.sampled_from(
    ["contiguous", "transposed", "backwards", "every other", "unaligned", "one row"]
)
sizes = st.one_of(st.integers(1, 40), st.sampled_from([63, 65, 127, 130, 257, 300, 513]))
batches = st.sampled_from([((), ()), ((3,), (3,)), ((2, 1), (5,)), ((1,), (4,)), ((4,), ())])


@pytest.mark.usefixtures("eager")
@given(batches, sizes, sizes, sizes, layouts, layouts, st.booleans())
def test_products_are_exact_and_the_same_on_any_number_of_threads(
    batch: tuple[tuple[int, ...], tuple[int, ...]],
    m: int,
    k: int,
    n: int,
    left: str,
    right: str,
    accumulate: bool,
) -> None:
    rng = np.random.default_rng(m * n + k)
    a, b = matrices((*batch[0], m, k), left, rng), matrices((*batch[1], k, n), right, rng)
    wide = a.astype(np.float64), b.astype(np.float64)
    expected = wide[0] @ wide[1]
    start = rng.standard_normal(expected.shape, dtype=np.float32)
    expected += start if accumulate else 0
    scale = np.abs(wide[0]) @ np.abs(wide[1]) + np.abs(start)
    first = None
    for threads in (1, 2, 3):
        out = start.copy()
        native.product(a, b, out, threads=threads, accumulate=accumulate)
        assert np.all(np.abs(out - expected) <= 1e-6 * scale)
        first = out if first is None else first
        assert np.array_equal(out, first)


@pytest.mark.usefixtures("eager")
def test_sums_of_many_terms_stay_exact_in_a_batch() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random(s, dtype=np.float32) for s in ((2, 8, 20_000), (2, 20_000, 9)))
    out = np.empty((2, 8, 9), np.float32)
    native.product(a, b, out, threads=2)
    np.testing.assert_allclose(out, a.astype(np.float64) @ b, rtol=3e-7)


LARGE: dict[str, Callable[[Any], Any]] = {
    "a matrix by a matrix": lambda x: x(130, 70) @ x(70, 90),
    "the weights of a layer": lambda x: x(13, 10, 70) @ x(70, 90),
    "a batch of matrices": lambda x: x(30, 9, 70) @ x(30, 70, 20),
    "one for several": lambda x: tg.matmul(x(4, 1, 60, 70), x(5, 70, 20)),
    "tensordot": lambda x: tg.tensordot(x(130, 7, 10), x(7, 10, 90)),
    "einsum": lambda x: tg.einsum("tbi,ij->tbj", x(13, 10, 70), x(70, 90)),
    "einsum of a batch": lambda x: tg.einsum("bqh,bsh->bqs", x(30, 9, 70), x(30, 20, 70)),
}


def random_tensor(*shape: int) -> Any:
    rng = np.random.default_rng(sum(shape))
    return tg.tensor(rng.standard_normal(shape, dtype=np.float32), requires_grad=True)


@pytest.mark.parametrize("name", LARGE)
def test_large_products_are_ours_and_so_are_their_derivatives(
    name: str, made: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves = []

    def leaf(*shape: int) -> Any:
        leaves.append(random_tensor(*shape))
        return leaves[-1]

    def results() -> list[Array]:
        leaves.clear()
        out = LARGE[name](leaf)
        tg.sum(out * out).backward()
        return [out.numpy(), *(x.grad.numpy() for x in leaves)]

    found = results()
    assert len(made) == 3
    monkeypatch.setattr(products, "ours", lambda: False)
    for x, y in zip(found, results(), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * np.abs(y).max())
    assert len(made) == 3


SMALL: dict[str, Callable[[Any], Any]] = {
    "few numbers": lambda x: x(64, 64) @ x(64, 64),
    "a row": lambda x: x(1, 1000) @ x(1000, 1000),
    "a column": lambda x: x(1000, 1000) @ x(1000, 1),
    "wide numbers": lambda x: x(130, 70).astype(tg.float64) @ x(70, 90).astype(tg.float64),
    "narrow numbers": lambda x: x(130, 70).astype(tg.float16) @ x(70, 90).astype(tg.float16),
    "mixed numbers": lambda x: x(130, 70) @ x(70, 90).astype(tg.float64),
    "no rows": lambda x: x(0, 1000) @ x(1000, 1000),
    "no terms": lambda x: x(1000, 0) @ x(0, 1000),
}


@pytest.mark.parametrize("name", SMALL)
def test_all_others_are_left_to_numpy(name: str, made: list[tuple[int, ...]]) -> None:
    operands = []

    def leaf(*shape: int) -> Any:
        operands.append(random_tensor(*shape))
        return operands[-1]

    out = SMALL[name](leaf).numpy()
    assert made == []
    x, y = (operand.numpy() for operand in operands)
    np.testing.assert_allclose(out, x @ y, rtol=1e-2, atol=1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shapes", [((130, 70), (70, 90)), ((30, 9, 70), (30, 70, 20))])
def test_what_is_not_finite_spreads_as_in_numpy(
    bad: float, shapes: Any, made: list[tuple[int, ...]]
) -> None:
    x, y = (np.array(random_tensor(*shape).numpy()) for shape in shapes)
    x[..., 5, 3], y[..., 3, 7], y[..., 4, 8] = bad, 0, bad
    with np.errstate(invalid="ignore"):
        found, expected = tg.matmul(x, y).numpy(), np.matmul(x, y)
    assert len(made) == 1
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("threads", [1, 3])
def test_floating_point_errors_of_small_products_are_the_callers_business(threads: int) -> None:
    a = np.full((8, 3, 4), np.inf, np.float32)
    b = np.zeros((8, 4, 5), np.float32)
    out = np.empty((8, 3, 5), np.float32)
    with np.errstate(invalid="raise"), pytest.raises(FloatingPointError, match="matmul"):
        native.product(a, b, out, threads=threads)
    with np.errstate(invalid="ignore"):
        native.product(a, b, out, threads=threads)
    assert np.isnan(out).all()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((130, 70), (71, 90)), "length 70, and the last but one axis of the second, of length 71"),
        (((3, 130, 70), (2, 70, 90)), r"\(3,\) and \(2,\), do not broadcast"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_as_ever(
    shapes: Any, message: str, made: list[tuple[int, ...]]
) -> None:
    x, y = (random_tensor(*shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        tg.matmul(x, y)
    assert made == []


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("name", ["JIT", "PRODUCTS"])
def test_the_environment_can_ask_for_numpy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TINYGRAD_RNN_{name}", "no")
    x, y = (random_tensor(*shape).numpy() for shape in ((130, 70), (70, 90)))
    assert not products.ours()
    assert np.array_equal(tg.matmul(x, y).numpy(), np.dot(x, y))


@pytest.mark.usefixtures("forgetful")
def test_an_environment_that_means_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGRAD_RNN_PRODUCTS", "fast")
    with pytest.raises(ValueError, match=r"SettingError: .*PRODUCTS='fast' is neither on"):
        tg.matmul(random_tensor(130, 70), random_tensor(70, 90))


@pytest.mark.usefixtures("forgetful")
def test_another_blas_keeps_its_products_and_so_does_a_processor_of_short_vectors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(np, "show_config", lambda **_: {"Build Dependencies": {"blas": {}}})
    assert not products.ours()
    products.ours.cache_clear()
    name = {"name": "scipy-openblas"}
    monkeypatch.setattr(np, "show_config", lambda **_: {"Build Dependencies": {"blas": name}})
    monkeypatch.setattr(native, "wide", lambda: False)
    assert not products.ours()


@pytest.mark.usefixtures("forgetful")
def test_without_llvmlite_numpy_makes_them_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: "ModuleNotFoundError: llvmlite")
    x, y = (random_tensor(*shape).numpy() for shape in ((130, 70), (70, 90)))
    assert np.array_equal(tg.matmul(x, y).numpy(), np.dot(x, y))
