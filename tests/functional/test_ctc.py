"""CTC: the sum over all alignments, and nothing undefined where there are none.

``op_table.py`` has a row for ``ctc_loss``, whose reference enumerates the alignments;
``test_op_table.py`` compares values, two derivatives and ``vmap`` with it, ``test_losses.py`` with
PyTorch. Here is what an alignment may be, and what must never be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from op_table import ROWS, Sample, aligned, examples
from tinygrad_rnn import Tensor
from tinygrad_rnn.functional import ctc
from tinygrad_rnn.planner.planner import plan_cache
from tinygrad_rnn.testing import check_grads

Array = np.ndarray[Any, Any]

(CTC,) = (row for row in ROWS if row.name == "ctc_loss")


def normal(*shape: int, seed: int = 0) -> Array:
    """Around -5: logarithms of something below 1, and good logits, too."""
    return np.random.default_rng(seed).normal(-5, size=shape)


def three_derivatives(f: Callable[[Tensor], Tensor], x: Array) -> list[Array]:
    """f(x), the gradient of its finite elements' sum, and the gradients of that, thrice."""
    point = tg.tensor(x, requires_grad=True)
    y = f(point)
    found, total = [y.numpy()], tg.sum(tg.where(tg.isinf(y), 0.0, y))
    for _ in range(3):
        gradient = tg.zeros_like(point)
        if total.requires_grad:
            gradient = tg.grad(total, point, create_graph=True)
        weights = np.cos(np.arange(x.size)).reshape(x.shape).astype(x.dtype)
        found.append(gradient.numpy())
        total = tg.sum(gradient * tg.tensor(weights))
    return found


def row_alone(x: Array, i: int, frames: int, labels: Any, **options: Any) -> list[Array]:
    return three_derivatives(
        lambda x: tg.ctc_loss(x, [labels], [frames], [len(labels)], reduction="none", **options),
        x[:frames, i : i + 1],
    )


# The definition.


@given(data=st.data())
@examples(40)
def test_the_loss_sums_over_all_alignments(data: Any, backend: Any) -> None:
    """Impossible ones included, and with and without ``zero_infinity``."""
    sample: Sample = data.draw(aligned(zero_infinity=st.booleans()))
    (x,) = sample.arrays()
    found = tg.ctc_loss(tg.tensor(x), **sample.keywords)
    assert_allclose(found.numpy(), CTC.expected(x, **sample.keywords), rtol=1e-11, atol=1e-13)


@given(data=st.data())
@examples(15)
def test_improbable_symbols_are_summed_over_like_others(data: Any, backend: Any) -> None:
    """Some log-probabilities are -inf; no derivative of up to three orders is nan or infinite."""
    sample: Sample = data.draw(aligned())
    (x,) = sample.arrays()
    x[np.random.default_rng(data.draw(st.integers(0, 99))).uniform(size=x.shape) < 0.3] = -math.inf
    keywords = {**sample.keywords, "reduction": "none"}
    value, *others = three_derivatives(lambda x: tg.ctc_loss(x, **keywords), x)
    assert_allclose(value, CTC.expected(x, **keywords), rtol=1e-11, atol=1e-13)
    assert all(np.isfinite(found).all() for found in others)
    assert_array_equal(others[0][np.isneginf(x)], 0)


def test_the_smallest_cases(backend: Any) -> None:
    p = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.4, 0.2, 0.4]])
    for frames, labels, likelihood in (
        (0, [], 1.0),
        (0, [1], 0.0),
        (1, [], 0.2),
        (1, [1], 0.5),
        (2, [1], 0.5 * 0.3 + 0.5 * 0.6 + 0.2 * 0.3),
        (2, [1, 2], 0.5 * 0.1),
        (2, [1, 1], 0.0),  # without a blank in between it is one label
        (3, [1, 1], 0.5 * 0.6 * 0.2),
        (3, [1, 2, 1], 0.5 * 0.1 * 0.2),
        (3, [1, 2, 1, 2], 0.0),
    ):
        x = tg.tensor(np.log(p)[:, None])
        loss = tg.ctc_loss(x, [labels], [frames], [len(labels)], reduction="none")
        assert_allclose(np.exp(-loss.numpy()), [likelihood], rtol=1e-14)


def test_any_symbol_may_be_the_blank(backend: Any) -> None:
    x = normal(5, 2, 3)
    moved = tg.ctc_loss(tg.tensor(x[:, :, [2, 0, 1]]), [[1, 2], [2, 2]], [5, 4], [2, 2], blank=0)
    loss = tg.ctc_loss(tg.tensor(x), [[0, 1], [1, 1]], [5, 4], [2, 2], blank=2)
    assert_allclose(loss.item(), moved.item(), rtol=1e-14)


def test_reductions(backend: Any) -> None:
    x, lengths = tg.tensor(normal(4, 3, 3)), ([4, 3, 4], [2, 0, 1])
    each = tg.ctc_loss(x, [1, 2, 1], *lengths, reduction="none").numpy()
    assert_allclose(tg.ctc_loss(x, [1, 2, 1], *lengths, reduction="sum").item(), each.sum())
    mean = tg.ctc_loss(x, [1, 2, 1], *lengths).item()
    assert_allclose(mean, (each / [2, 1, 1]).mean())


def test_targets_and_lengths_may_be_tensors_or_arrays(backend: Any) -> None:
    x = tg.tensor(normal(4, 2, 3))
    targets, frames, sizes = [[1, 2], [2, 0]], [4, 3], [2, 1]
    loss = tg.ctc_loss(x, targets, frames, sizes).item()
    for kind in (np.array, tg.tensor, lambda host: np.array(host, "int32")):
        assert tg.ctc_loss(x, kind(targets), kind(frames), kind(sizes)).item() == loss
        assert tg.ctc_loss(x, kind([1, 2, 2]), kind(frames), kind(sizes)).item() == loss


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_one_row_needs_no_axis_of_rows(reduction: Any, backend: Any) -> None:
    x = tg.log_softmax(tg.tensor(normal(5, 1, 3)))
    expected = tg.ctc_loss(x, [[1, 2]], [4], [2], reduction=reduction)
    found = tg.ctc_loss(x[:, 0], tg.tensor([1, 2]), 4, 2, reduction=reduction)
    assert found.shape == ()
    assert_allclose(found.item(), expected.item())


def test_no_rows_and_no_frames(backend: Any) -> None:
    assert tg.ctc_loss(tg.zeros((3, 0, 2)), [], [], [], reduction="none").shape == (0,)
    assert tg.ctc_loss(tg.zeros((3, 0, 2)), np.zeros((0, 4)), [], [], reduction="sum").item() == 0
    assert math.isnan(tg.ctc_loss(tg.zeros((3, 0, 2)), [], [], []).item())
    loss = tg.ctc_loss(tg.zeros((0, 2, 2)), [1], [0, 0], [1, 0], reduction="none")
    assert_array_equal(loss.numpy(), [math.inf, 0])


# What is not there is not read.


@given(data=st.data())
@examples(15)
def test_padding_changes_neither_value_nor_derivatives(data: Any, backend: Any) -> None:
    frames = data.draw(st.lists(st.sampled_from((3, 5, 1, 0)), min_size=1, max_size=3))
    labels = [data.draw(st.lists(st.integers(1, 2), max_size=3)) for _ in frames]
    x = normal(max(frames) + data.draw(st.integers(0, 2)), len(frames), 3)
    for i, n in enumerate(frames):
        x[n:, i] = data.draw(st.sampled_from((math.nan, math.inf, -math.inf, 7.0)))
    padding = data.draw(st.sampled_from((0, 2, -1, 99)))
    targets = np.array([row + [padding] * (4 - len(row)) for row in labels])
    sizes = [len(row) for row in labels]
    value, *others = three_derivatives(
        lambda x: tg.ctc_loss(x, targets, frames, sizes, reduction="none"), x
    )
    for i, n in enumerate(frames):
        alone, first, *_ = row_alone(x, i, n, labels[i])
        assert_allclose(value[i], alone[0], rtol=1e-13)
        assert_allclose(others[0][:n, i], first[:, 0], rtol=1e-11, atol=1e-14)
        assert not any(found[n:, i].any() for found in others)
    assert all(np.isfinite(found).all() for found in others)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_impossible_row_has_loss_inf_or_0_and_no_gradient(dtype: str, backend: Any) -> None:
    x = normal(3, 2, 3).astype(dtype)
    lengths = ([3, 3], [2, 3])

    def loss(zero: bool) -> Callable[[Tensor], Tensor]:
        return lambda x: tg.ctc_loss(
            x, [1, 2, 1, 1, 2], *lengths, reduction="none", zero_infinity=zero
        )

    kept, zeroed = (three_derivatives(loss(zero), x) for zero in (False, True))
    assert_array_equal(kept[0], [zeroed[0][0], math.inf])
    assert zeroed[0][1] == 0
    assert np.isfinite(zeroed[0][0])
    for found in (*kept[1:], *zeroed[1:]):
        assert found.dtype == dtype
        assert np.isfinite(found).all()
        assert_array_equal(found[:, 1], 0)
    total = tg.ctc_loss(tg.tensor(x), [1, 2, 1, 1, 2], *lengths, reduction="sum")
    assert total.item() == math.inf


# Derivatives. The table has the first two of every reduction; here they nest.

TARGETS, FRAMES, SIZES = [[1, 2, 0], [2, 2, 0], [1, 2, 1]], [5, 4, 5], [2, 2, 3]


def of_logits(x: Tensor) -> Tensor:
    return tg.ctc_loss(tg.log_softmax(x), TARGETS, FRAMES, SIZES)


def test_three_derivatives_of_logits(backend: Any) -> None:
    check_grads(of_logits, [tg.tensor(normal(5, 3, 3))], order=3)


def test_hvp_and_jvp_are_what_the_hessian_says(backend: Any) -> None:
    x, v = tg.tensor(normal(5, 3, 3)), tg.tensor(normal(5, 3, 3, seed=1))
    hessian = tg.hessian(of_logits)(x).numpy().reshape(45, 45)
    assert_allclose(hessian, hessian.T, atol=1e-13)
    (product,) = tg.hvp(of_logits, (x,), (v,))
    assert_allclose(product.numpy().ravel(), hessian @ v.numpy().ravel(), atol=1e-13)
    _, slope = tg.jvp(of_logits, (x,), (v,))
    gradient = tg.grad(of_logits(leaf := tg.tensor(x, requires_grad=True)), leaf)
    assert_allclose(slope.item(), np.sum(gradient.numpy() * v.numpy()), rtol=1e-12)


def test_vmap_of_the_gradient_is_a_loop(backend: Any) -> None:
    xs = tg.tensor(normal(4, 5, 3, 3))
    gradient = tg.vmap(lambda x: tg.value_and_grad(of_logits)(x)[1])(xs)
    for x, g in zip(xs, gradient, strict=True):
        assert_allclose(g.numpy(), tg.value_and_grad(of_logits)(x)[1].numpy(), atol=1e-14)


def test_the_gradient_of_logits_sums_to_0_in_each_frame(backend: Any) -> None:
    x = tg.tensor(normal(5, 3, 3), requires_grad=True)
    gradient = tg.grad(of_logits(x), x).numpy()
    assert_allclose(gradient.sum(axis=2), 0, atol=1e-15)
    assert_array_equal(gradient[4:, 1], 0)


# Numbers.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_far_logits(dtype: str, backend: Any) -> None:
    x = (1e4 * np.sign(normal(6, 2, 4) + 5)).astype(dtype)
    x += np.arange(4, dtype=dtype)
    found = three_derivatives(
        lambda x: tg.ctc_loss(tg.log_softmax(x), [1, 2, 3, 3], [6, 5], [2, 2], reduction="none"), x
    )
    assert all(np.isfinite(each).all() and each.dtype == dtype for each in found)
    assert np.abs(found[1]).max() <= 1 + 1e-5
    # One alignment outweighs all others, so that a loss is a sum of differences of logits.
    certain = np.full((4, 1, 3), -1e4, dtype)
    certain[range(4), 0, [1, 0, 0, 2]] = 1e4
    for labels, loss in (([1, 2], 0.0), ([2, 1], 4e4), ([1], 2e4), ([], 4e4)):
        y = tg.ctc_loss(
            tg.log_softmax(tg.tensor(certain)), [labels], [4], [len(labels)], reduction="none"
        )
        assert_allclose(y.numpy(), [loss], rtol=1e-6)


def test_no_infinity_is_made_unless_the_loss_is_one() -> None:
    """One that ``detect_anomaly`` would report."""
    x = tg.tensor(normal(3, 2, 3), requires_grad=True)
    too_short = (x, [1, 1, 1, 2], [2, 2], [2, 2])
    with tg.detect_anomaly():
        tg.ctc_loss(*too_short, zero_infinity=True).backward()
        with pytest.raises(FloatingPointError, match="where was given inf"):
            tg.ctc_loss(*too_short)


def test_float32_keeps_its_digits_over_many_frames() -> None:
    x, labels = normal(300, 1, 8), np.random.default_rng(0).integers(1, 8, (1, 30))
    gradients = []
    for dtype in ("float32", "float64"):
        point = tg.tensor(x.astype(dtype), requires_grad=True)
        loss = tg.ctc_loss(tg.log_softmax(point), labels, [300], [30], reduction="sum")
        gradients.append(tg.grad(loss, point).numpy())
    assert_allclose(*gradients, atol=1e-5)


def test_float16_has_a_number_for_every_possible_loss() -> None:
    """This one is larger than the square root of float16's largest number, which is 256."""
    x = tg.full((500, 1, 3), math.log(1 / 3), dtype="float16", requires_grad=True)
    loss = tg.ctc_loss(x, [1], [500], [1], reduction="sum")
    expected = tg.ctc_loss(x.astype("float64"), [1], [500], [1], reduction="sum")
    assert loss.dtype == tg.grad(loss, x).dtype == np.float16
    assert_allclose(loss.item(), expected.item(), rtol=1e-3)


def test_inputs_that_are_no_probabilities_scale_the_likelihood(backend: Any) -> None:
    x, shift = normal(4, 1, 3), np.array([0.5, -2.0, 3.0, 1.0])[:, None, None]
    loss, moved = (tg.ctc_loss(tg.tensor(z), [1, 2], [4], [2]).item() for z in (x, x + shift))
    assert_allclose(moved, loss - 2.5 / 2, rtol=1e-13)


# Errors.

X = tg.zeros((4, 2, 3))


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: tg.ctc_loss(X[0, 0], [1], [4], [1]), ValueError, ["(T, N, C)", "(3,)"]),
        (lambda: tg.ctc_loss(X.astype("int64"), [1, 2], [4, 4], [1, 1]), TypeError, ["int64"]),
        (lambda: tg.ctc_loss(X, [1, 2], [4, 4], [1, 1], blank=3), ValueError,
         ["blank=3", "0 to 2"]),
        (lambda: tg.ctc_loss(X, [1, 2], [4, 4], [1, 1], blank=-1), ValueError, ["blank=-1"]),
        (lambda: tg.ctc_loss(X, [[1, 2]], [4, 4], [1, 1]), ValueError,
         ["targets of shape (1, 2)", "(4, 2, 3)", "(2, S)"]),
        (lambda: tg.ctc_loss(X, [1, 2, 1], [4, 4], [1, 1]), ValueError,
         ["target_lengths [1, 1], 2 in all", "(3,)", "agree"]),
        (lambda: tg.ctc_loss(X, [1, 3], [4, 4], [1, 1]), IndexError, ["target", "0 to 2"]),
        (lambda: tg.ctc_loss(X, [1, -1], [4, 4], [1, 1]), IndexError, ["target", "0 to 2"]),
        (lambda: tg.ctc_loss(X, [1, 0], [4, 4], [1, 1]), ValueError, ["the blank, 0", "leave"]),
        (lambda: tg.ctc_loss(X, [1, 2], [5, 4], [1, 1]), ValueError,
         ["input_lengths [5, 4]", "(4, 2, 3)", "0 to 4"]),
        (lambda: tg.ctc_loss(X, [1, 2], [-1, 4], [1, 1]), ValueError, ["input_lengths [-1, 4]"]),
        (lambda: tg.ctc_loss(X, [[1], [2]], [4, 4], [1, 2]), ValueError,
         ["target_lengths [1, 2]", "targets (2, 1)", "0 to 1"]),
        (lambda: tg.ctc_loss(X, [1, 2], [4], [1, 1]), ValueError,
         ["input_lengths", "(1,)", "(2,)"]),
        (lambda: tg.ctc_loss(X, [1, 2], [4, 4], 1), ValueError, ["target_lengths", "()", "(2,)"]),
        (lambda: tg.ctc_loss(X, [1.0, 2.0], [4, 4], [1, 1]), TypeError, ["targets", "float64"]),
        (lambda: tg.ctc_loss(X, [[1, 2], [1]], [4, 4], [2, 1]), ValueError,
         ["targets", "different lengths", "pad", "one after the other"]),
        (lambda: tg.ctc_loss(X, [1, 2], [4, 4], [1, 1], blank=1.5), TypeError, ["blank=1.5"]),
        (lambda: tg.ctc_loss(X, [1, 2], [4, 4], [1, 1], blank=True), TypeError, ["blank=True"]),
        (lambda: tg.ctc_loss(X, [1, 2], [4.0, 4], [1, 1]), TypeError, ["input_lengths", "float64"]),
        (lambda: tg.ctc_loss(X, [1, 2], [4, 4], [1, 1], reduction="avg"), ValueError,
         ["reduction", "'avg'", "'mean', 'sum' or 'none'"]),
    ],
    ids=lambda part: part[-1] if isinstance(part, list) else "",
)  # fmt: skip
def test_an_error_names_what_does_not_fit(
    call: Callable[[], Any], kind: type[Exception], words: list[str]
) -> None:
    with pytest.raises(kind) as caught:
        call()
    for word in ("ctc_loss", *words):
        assert word in str(caught.value)


def test_logits_are_no_log_probabilities() -> None:
    x, arguments = normal(4, 2, 3), ([[1, 2], [2, 1]], [4, 3], [2, 2])
    for logits in (x + 5, x.astype("float32") + 5, x.astype("float16") + 5):
        with pytest.raises(ValueError, match=r"log_probs reach .* log_softmax"):
            tg.ctc_loss(tg.tensor(logits), *arguments)
    with pytest.raises(ValueError, match="log_softmax"):
        tg.ctc_loss(tg.tensor(x[:, 0] + 5), [1, 2], [4], [2])
    padded = x.copy()
    padded[3, 1] = (math.nan, 7.0, math.inf)  # row 1 has three frames
    assert math.isfinite(tg.ctc_loss(tg.tensor(padded), *arguments).item())
    rounded = tg.log_softmax(tg.tensor(x)) + 1e-6
    assert math.isfinite(tg.ctc_loss(rounded, *arguments).item())
    each = tg.vmap(lambda z: tg.ctc_loss(z, *arguments))(tg.tensor(x + 5)[None])
    assert each.shape == (1,)  # which is not looked at


# The recursion as a loop of machine code.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_planned_is_literal(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    host = rng.normal(size=(12, 4, 6))
    host[3, 1, 2] = -np.inf
    targets, sizes, frames = rng.integers(1, 6, (4, 9)), [3, 0, 4, 9], [12, 7, 0, 5]

    def both() -> list[Any]:
        x = tg.tensor(host, dtype=dtype, requires_grad=True)
        loss = tg.ctc_loss(tg.functional.log_softmax(x), targets, frames, sizes, zero_infinity=True)
        (g,) = tg.grad(loss, [x], create_graph=True)
        (h,) = tg.grad(tg.sum(g * g), [x])
        return [y.numpy().copy() for y in (loss, g, h)]

    with tg.literal():
        expected = both()
    runs = []
    run = ctc.unroll
    monkeypatch.setattr(ctc, "unroll", lambda *a, **k: runs.append(k["mode"]) or run(*a, **k))
    monkeypatch.setattr(ctc, "LEAST", 0)
    tolerance = {"float32": 1e-5, "float64": 1e-11}[dtype]
    for a, b in zip(both(), expected, strict=True):
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()
    assert runs == ["auto"]


def test_one_more_label_is_no_other_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctc, "LEAST", 0)
    x = tg.tensor(np.log(np.full((6, 2, 4), 0.25)), dtype="float32", requires_grad=True)
    found = []
    for labels in (1, 2, 3, 4):
        before = plan_cache().misses
        tg.ctc_loss(x, np.ones((2, labels), int) + np.arange(labels) % 3, [6, 6], [labels, labels])
        found.append(plan_cache().misses - before)
    assert found[1:] == [0, 0, 0]
