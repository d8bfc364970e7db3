"""Losses: PyTorch's numbers, finite ones at far logits, and what is to be ignored is never read.

``op_table.py`` has a row for each, so values, derivatives, ``vmap`` and dtypes in general are in
``test_op_table.py``. Here is what sets one loss apart from the next.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor

Array = np.ndarray[Any, Any]

OF_PAIRS = (
    tg.mse_loss,
    tg.l1_loss,
    tg.huber_loss,
    tg.smooth_l1_loss,
    tg.kl_div,
    tg.binary_cross_entropy_with_logits,
)

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "losses.json").read_text("utf-8"))
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE)


def cosines(y: Tensor) -> Tensor:
    """Weights for the elements of y, as a cotangent."""
    return tg.tensor(np.cos(np.arange(y.size)).reshape(y.shape).astype(y.dtype))


def derivatives(f: Callable[[Tensor], Tensor], x: Tensor) -> list[Array]:
    """f(x), its gradient, and the gradient of the gradient weighted by cosines."""
    x = x.detach()
    x.requires_grad = True
    y = f(x)
    (first,) = tg.grad(y, [x], tg.ones_like(y), create_graph=True)
    (second,) = tg.grad(tg.sum(first * cosines(first)), [x], allow_unused=True)
    second = tg.zeros_like(x) if second is None else second
    return [y.numpy(), first.numpy(), second.numpy()]


# As in PyTorch.


@every_dtype
@pytest.mark.parametrize("name", sorted({case["name"] for case in FIXTURE["cases"]}))
def test_values_and_gradients_are_pytorchs(name: str, dtype: str, backend: Any) -> None:
    for case in FIXTURE["cases"]:
        if case["name"] == name:
            compare(case, dtype)


def compare(case: dict[str, Any], dtype: str) -> None:
    def tensor(data: Any) -> Tensor:
        host = np.asarray(data)
        return tg.tensor(host.astype(dtype) if host.dtype.kind == "f" else host)

    name, keywords = case["name"], dict(case["keywords"])
    ctc = name == "ctc_loss"
    arguments = [tensor(a) for a in case["arguments"]]
    inputs = [x for x in arguments if x.dtype.kind == "f"]
    for x in inputs:
        x.requires_grad = True
    for key in {"weight", "pos_weight"} & keywords.keys():
        keywords[key] = None if keywords[key] is None else tensor(keywords[key])
    first, *others = arguments
    if case["normalised"]:
        first = tg.log_softmax(first, axis=2 if ctc else min(1, first.ndim - 1))
    y = getattr(tg, name)(first, *others, **keywords)
    tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype], "err_msg": str(keywords)}
    assert y.dtype == dtype
    assert_allclose(y.numpy(), case["value"], **tolerance)
    for found, expected in zip(tg.grad(y, inputs, cosines(y)), case["gradients"], strict=True):
        if expected is None:
            assert np.isfinite(found.numpy()).all()
        else:
            assert_allclose(found.numpy(), expected, **tolerance)


# Far logits.

FAR = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [-1e4, -1e4, -1e4]])
LABELS = [1, 0, 2]
FAR_LOSSES: dict[str, tuple[Callable[[Tensor], Tensor], Any]] = {
    "cross_entropy": (
        lambda x: tg.cross_entropy(x, tg.tensor(LABELS), reduction="none"),
        [2e4, 2e4 + math.log(2), math.log(3)],
    ),
    "smoothed": (
        lambda x: tg.cross_entropy(x, tg.tensor(LABELS), reduction="none", label_smoothing=0.5),
        [1.5e4, 0.5 * 2e4 + 0.5 * 2e4 / 3 + math.log(2), math.log(3)],
    ),
    "soft": (
        lambda x: tg.cross_entropy(x, tg.full((3, 3), 0.25, x.dtype), reduction="none"),
        [7.5e3, 5e3 + 0.75 * math.log(2), 0.75 * math.log(3)],
    ),
    "nll_loss": (
        lambda x: tg.nll_loss(tg.log_softmax(x), tg.tensor(LABELS), reduction="none"),
        [2e4, 2e4 + math.log(2), math.log(3)],
    ),
    "binary_cross_entropy_with_logits": (
        lambda x: tg.binary_cross_entropy_with_logits(
            x, tg.tensor([[0, 1, 1], [0, 0, 1], [1, 0, 1]]), reduction="none"
        ),
        [[1e4, 1e4, math.log(2)], [0, 1e4, 0], [1e4, 0, 1e4]],
    ),
    "kl_div": (
        lambda x: tg.kl_div(
            tg.log_softmax(x), tg.tensor(np.eye(3)[LABELS]).astype(x.dtype), reduction="none"
        ),
        [[0, 2e4, 0], [2e4 + math.log(2), 0, 0], [0, 0, math.log(3)]],
    ),
    "kl_div of logarithms": (
        lambda x: tg.kl_div(tg.log_softmax(x), x - 1e4, reduction="none", log_target=True),
        [[0, 0, 0], [0, math.log(2), math.log(2)], [0, 0, 0]],
    ),
    "huber_loss": (
        lambda x: tg.huber_loss(x, tg.zeros_like(x), reduction="none"),
        [[9999.5, 9999.5, 0], [9999.5] * 3, [9999.5] * 3],
    ),
    "logsigmoid": (
        tg.logsigmoid,
        [[0, -1e4, -math.log(2)], [-1e4, 0, 0], [-1e4] * 3],
    ),
}


@every_dtype
@pytest.mark.parametrize("name", FAR_LOSSES)
def test_two_derivatives_are_finite_at_far_logits(name: str, dtype: str, backend: Any) -> None:
    loss, expected = FAR_LOSSES[name]
    value, first, second = derivatives(loss, tg.tensor(FAR.astype(dtype)))
    assert value.dtype == first.dtype == second.dtype == dtype
    assert_allclose(value, expected, rtol=1e-6, atol=1e-6)
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()


@every_dtype
def test_gradients_at_far_logits_are_those_of_the_formula(dtype: str, backend: Any) -> None:
    x = tg.tensor(FAR.astype(dtype))
    _, first, _ = derivatives(FAR_LOSSES["cross_entropy"][0], x)
    third = 1 / 3
    assert_allclose(first, [[1, -1, 0], [-1, 0.5, 0.5], [third, third, third - 1]], atol=1e-6)
    _, first, _ = derivatives(FAR_LOSSES["binary_cross_entropy_with_logits"][0], x)
    assert_allclose(first, [[1, -1, -0.5], [0, 1, 0], [-1, 0, -1]], atol=1e-6)


def test_small_probabilities_keep_their_digits() -> None:
    x = tg.tensor(np.array([-40.0, 40.0], "float32"))
    losses = tg.binary_cross_entropy_with_logits(x, tg.tensor([0.0, 1.0]), reduction="none")
    assert_allclose(losses.numpy(), [math.exp(-40)] * 2, rtol=1e-6)


# What is ignored, or has probability 0, is not read.


@pytest.mark.parametrize("hole", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["nll_loss", "cross_entropy"])
def test_an_ignored_row_may_hold_anything(
    name: str, reduction: Any, hole: float, backend: Any
) -> None:
    host = np.random.default_rng(0).normal(size=(4, 3))
    target, kept = [0, -100, 2, -100], [0, 2]
    spoilt = host.copy()
    spoilt[[1, 3]] = hole
    weight = tg.tensor(np.array([0.5, 1.0, 2.0]))

    def loss(x: Tensor, target: Any) -> Tensor:
        return getattr(tg, name)(x, tg.tensor(target), weight, reduction=reduction)

    found = derivatives(lambda x: loss(x, target), tg.tensor(spoilt))
    alone = derivatives(lambda x: loss(x, [0, 2]), tg.tensor(host[kept]))
    if reduction == "none":
        assert_array_equal(found[0][[1, 3]], 0)
        found[0] = found[0][kept]
    assert_allclose(found[0], alone[0], rtol=1e-14)
    assert_array_equal(found[1][[1, 3]], 0)
    assert_allclose(found[1][kept], alone[1], rtol=1e-14)
    assert np.isfinite(found[2]).all()


@pytest.mark.parametrize("name", ["nll_loss", "cross_entropy"])
@pytest.mark.parametrize("rows", [0, 2])
def test_of_nothing_the_sum_is_0_and_the_mean_nan(name: str, rows: int, backend: Any) -> None:
    loss = getattr(tg, name)
    x, target = tg.zeros((rows, 3), requires_grad=True), tg.full((rows,), -100)
    assert loss(x, target, reduction="sum").item() == 0
    assert math.isnan(loss(x, target).item())
    gradient = tg.grad(loss(x, target, reduction="sum"), x)
    assert_array_equal(gradient.numpy(), np.zeros((rows, 3)))


def test_the_mean_divides_by_the_weights_used(backend: Any) -> None:
    x = tg.tensor([[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]])
    loss = tg.nll_loss(x, tg.tensor([0, 1, -100]), tg.tensor([0.5, 2.0]))
    assert_allclose(loss.item(), (0.5 * 1 + 2 * 4) / 2.5)


def test_cross_entropy_is_nll_loss_of_log_softmax(backend: Any) -> None:
    x = tg.tensor(np.random.default_rng(0).normal(size=(3, 4, 2)))
    target = tg.tensor([[0, 3], [-100, 1], [2, 2]])
    weight = tg.tensor(np.array([0.5, 1.0, 2.0, 3.0]))
    for reduction in ("mean", "sum", "none"):
        assert_array_equal(
            tg.cross_entropy(x, target, weight, reduction=reduction).numpy(),
            tg.nll_loss(tg.log_softmax(x, axis=1), target, weight, reduction=reduction).numpy(),
        )


@pytest.mark.parametrize("log_target", [False, True])
def test_a_target_of_probability_0_contributes_nothing(log_target: bool, backend: Any) -> None:
    p = tg.tensor(np.array([0.0, 0.25, 0.0, 0.75]))
    if log_target:
        p = tg.tensor(np.array([-math.inf, math.log(0.25), -math.inf, math.log(0.75)]))
    log_q = tg.tensor(np.array([-math.inf, -1.0, 3.0, -2.0]))

    def loss(x: Tensor) -> Tensor:
        return tg.kl_div(x, p, reduction="none", log_target=log_target)

    value, first, second = derivatives(loss, log_q)
    assert_allclose(value, [0, 0.25 * (math.log(0.25) + 1), 0, 0.75 * (math.log(0.75) + 2)])
    assert_allclose(first, [0, -0.25, 0, -0.75])
    assert_array_equal(second, 0)
    for found in derivatives(lambda p: tg.kl_div(log_q, p, log_target=log_target), p):
        assert np.isfinite(found).all()
    one = tg.ones_like(p)
    _, slope = tg.jvp(lambda x, p: tg.kl_div(x, p, "sum", log_target), (log_q, p), (one, one))
    assert math.isfinite(slope.item())


@pytest.mark.parametrize("loss", [tg.nll_loss, tg.cross_entropy])
def test_a_list_of_classes_is_a_target(loss: Any, backend: Any) -> None:
    x = tg.log_softmax(tg.tensor(np.arange(6.0).reshape(2, 3)))
    assert loss(x, [2, 0]).item() == loss(x, tg.tensor([2, 0])).item()


# Kinks, ends of ranges, dtypes.


def test_l1_is_flat_where_input_and_target_agree(backend: Any) -> None:
    x = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    for loss in (tg.l1_loss, lambda x, y: tg.smooth_l1_loss(x, y, beta=0.0)):
        assert_allclose(tg.grad(loss(x, tg.tensor([1.0, 1.0, 4.0])), x).numpy(), [0, 1 / 3, -1 / 3])


def test_huber_and_smooth_l1_meet_at_their_threshold(backend: Any) -> None:
    x, zero = tg.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]), tg.zeros((5,))
    value, first, _ = derivatives(lambda x: tg.huber_loss(x, zero, "none", delta=2.0), x)
    assert_allclose(value, [2, 0.5, 0, 0.5, 2])
    assert_allclose(first, [-2, -1, 0, 1, 2])
    value, first, _ = derivatives(lambda x: tg.smooth_l1_loss(x, zero, "none", beta=2.0), x)
    assert_allclose(value, [1, 0.25, 0, 0.25, 1])
    assert_allclose(first, [-1, -0.5, 0, 0.5, 1])


def test_hardsigmoid_is_flat_beyond_3(backend: Any) -> None:
    x = tg.tensor([-1e4, -3.5, -1.5, 0.0, 1.5, 3.5, 1e4])
    value, first, second = derivatives(tg.hardsigmoid, x)
    assert_allclose(value, [0, 0, 0.25, 0.5, 0.75, 1, 1])
    assert_allclose(first, np.array([0, 0, 1, 1, 1, 0, 0]) / 6)
    assert_array_equal(second, 0)


def test_the_cosine_to_nothing_is_0_and_smooth(backend: Any) -> None:
    x = tg.tensor(np.zeros((2, 3)))
    y = tg.tensor(np.ones((2, 3)))
    for found in derivatives(lambda x: tg.cosine_similarity(x, y), x):
        assert np.isfinite(found).all()
    for found in derivatives(lambda x: tg.cosine_similarity(x, x), x):
        assert np.isfinite(found).all()
    assert_array_equal(tg.cosine_similarity(x, y).numpy(), [0, 0])


@pytest.mark.parametrize("loss", OF_PAIRS)
def test_targets_of_integers_do_not_widen_float32(loss: Any) -> None:
    x = tg.tensor([0.5, -0.5], requires_grad=True)
    for target in (tg.tensor([1, 0]), tg.tensor([True, False])):
        y = loss(x, target)
        assert y.dtype == tg.grad(y, x).dtype == np.float32
        assert_allclose(y.item(), loss(x, tg.tensor([1.0, 0.0])).item())


# Errors.

X = tg.tensor(np.zeros((2, 3)))
T = tg.tensor([0, 1])
BAD: tuple[tuple[Callable[[], Any], type[Exception], tuple[str, ...]], ...] = (
    *(
        (lambda loss=loss: loss(X, X[0]), ValueError,
         (f"{loss.__name__}: input of shape (2, 3), target of (3,)", "agree"))
        for loss in OF_PAIRS
    ),
    *(
        (lambda loss=loss: loss(X, X, reduction="avg"), ValueError,
         (f"{loss.__name__}: reduction", "'avg'", "'mean', 'sum' or 'none'"))
        for loss in (*OF_PAIRS, tg.cross_entropy)
    ),
    (lambda: tg.kl_div(X, X, reduction="avg"), ValueError, ("kl_div", "'batchmean', 'mean',")),
    *(
        (lambda loss=loss: loss(tg.ones((4, 2, 7)), tg.zeros((4, 2), dtype="int64")), ValueError,
         (loss.__name__, "(4, 2, 7)", "(4, 7)", "last axis", "moveaxis(input, -1, 1)"))
        for loss in (tg.nll_loss, tg.cross_entropy)
    ),
    (lambda: tg.cross_entropy(X, X, ignore_index=0), ValueError,
     ("cross_entropy", "ignore_index=0", "class indices only")),
    (lambda: tg.layer_norm(X, (3,)), TypeError, ("layer_norm", "weight is a Tensor (3,)", "tuple")),
    (lambda: tg.softmax(X, axis=5), IndexError, ("softmax: axis 5",)),
    (lambda: tg.log_softmax(X, axis=5), IndexError, ("log_softmax: axis 5",)),
    *(
        (lambda loss=loss: loss(X, T, reduction="batchmean"), ValueError,
         (loss.__name__, "'batchmean'"))
        for loss in (tg.nll_loss, tg.cross_entropy)
    ),
    *(
        (lambda loss=loss, bad=bad: loss(X, *bad), kind, (loss.__name__, *words))
        for loss in (tg.nll_loss, tg.cross_entropy)
        for bad, kind, words in (
            ((tg.tensor([0]),), ValueError, ("(2, 3)", "(2,)", "(1,)")),
            ((tg.tensor([0, 3]),), IndexError, ("3 classes, 0 to 2", "ignore_index=-100")),
            ((tg.tensor([0, -1]),), IndexError, ("3 classes, 0 to 2", "ignore_index=-100")),
            ((T, tg.ones(2)), ValueError, ("weight of shape (2,)", "3 classes")),
        )
    ),
    (lambda: tg.nll_loss(tg.ones(()), T), ValueError, ("nll_loss", "axis of classes", "(C,)")),
    (lambda: tg.nll_loss(X, tg.ones((2,))), TypeError, ("nll_loss", "float32", "class indices")),
    (lambda: tg.cross_entropy(X, tg.ones((2,))), ValueError, ("cross_entropy", "(2,)", "int64")),
    (lambda: tg.huber_loss(X, X, delta=0), ValueError, ("huber_loss", "positive delta", "0")),
    (lambda: tg.huber_loss(X, X, delta=math.nan), ValueError, ("huber_loss", "delta", "nan")),
    (lambda: tg.smooth_l1_loss(X, X, beta=-1), ValueError, ("smooth_l1_loss", "beta", "-1")),
    *(
        (lambda name=name, shape=shape: tg.binary_cross_entropy_with_logits(
            X, X, **{name: tg.ones(shape)}), ValueError,
         ("binary_cross_entropy_with_logits", str(shape), "(2, 3)"))
        for name in ("weight", "pos_weight")
        for shape in ((2,), (4, 2, 3))
    ),
    (lambda: tg.kl_div(tg.ones(()), tg.ones(()), "batchmean"), ValueError,
     ("kl_div", "axis 0", "'sum'")),
    (lambda: tg.cosine_similarity(X, tg.ones(2)), ValueError,
     ("cosine_similarity", "(2, 3)", "(2,)", "broadcast")),
    (lambda: tg.cosine_similarity(X, X, axis=2), IndexError, ("cosine_similarity", "axis 2")),
    (lambda: tg.cosine_embedding_loss(X, X[0], T), ValueError,
     ("cosine_embedding_loss", "(2, 3), (3,) and (2,)", "(N, D)")),
    (lambda: tg.cosine_embedding_loss(X, X, X), ValueError, ("cosine_embedding_loss", "(N,)")),
    (lambda: tg.glu(X), ValueError, ("glu", "axis=-1", "(2, 3)", "halves")),
    (lambda: tg.glu(X, axis=2), IndexError, ("glu", "axis 2")),
)  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: f"{case[2][0]}-{case[2][-1]}")
def test_an_error_names_the_loss_the_shapes_and_the_cure(case: Any) -> None:
    call, kind, words = case
    with pytest.raises(kind) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


# What cannot happen, and costs nothing where it does not count.


def tensor(values: Any) -> Tensor:
    return tg.tensor(values, dtype="float64")


bce = tg.binary_cross_entropy_with_logits

INFINITE: dict[str, tuple[Any, list[float], float]] = {
    "soft": (
        lambda x: tg.cross_entropy(x, tensor([0.25, 0.75, 0.0])),
        [0, 1, -math.inf],
        0.5632617,
    ),
    "weight": (
        lambda x: tg.cross_entropy(x, 2, weight=tensor([1.0, 1.0, 0.0]), reduction="none"),
        [0, 1, -math.inf],
        0.0,
    ),
    "smoothed weight": (
        lambda x: tg.cross_entropy(x, 1, weight=tensor([1.0, 1.0, 0.0]), label_smoothing=0.3),
        [0, 1, -math.inf],
        0.8 * 0.3132617 + 0.1 * 1.3132617,
    ),
    "nll": (
        lambda x: tg.nll_loss(x, 0, weight=tensor([0.0, 1.0]), reduction="sum"),
        [-math.inf, 0.0],
        0.0,
    ),
    "kl_div": (lambda x: tg.kl_div(x, tensor([0.0, 1.0]), "sum"), [-math.inf, -0.5], 0.5),
    "logits -inf": (lambda x: bce(x, tensor([0.0])), [-math.inf], 0.0),
    "logits inf": (lambda x: bce(x, tensor([1.0])), [math.inf], 0.0),
    "logits weight": (
        lambda x: bce(x, tensor([1.0, 0.0]), weight=tensor([0.0, 2.0])),
        [-math.inf, -math.inf],
        0.0,
    ),
    "logits pos_weight": (
        lambda x: bce(x, tensor([1.0]), pos_weight=tensor([0.0])),
        [-math.inf],
        0.0,
    ),
    "logsumexp": (
        lambda x: tg.where(True, tg.logsumexp(x), 0.0),
        [-math.inf, -math.inf],
        -math.inf,
    ),
    "logsumexp unused": (
        lambda x: tg.where(tg.tensor([False, True]), tg.logsumexp(x, axis=1), 3.0).sum(),
        [[-math.inf, -math.inf], [0.0, -math.inf]],
        3.0,
    ),
    "log_softmax": (
        lambda x: tg.log_softmax(x)[0, 1],
        [[-math.inf, 0.0], [-math.inf, -math.inf]],
        0.0,
    ),
    "probabilities": (lambda x: tg.binary_cross_entropy(x, tensor([0.0, 1.0])), [0.0, 1.0], 0.0),
}


@pytest.mark.parametrize(("loss", "at", "wanted"), INFINITE.values(), ids=list(INFINITE))
def test_what_never_happens_costs_nothing(loss: Any, at: Any, wanted: float) -> None:
    x = tensor(at)
    value, gradient = tg.value_and_grad(loss)(x)
    np.testing.assert_allclose(value.numpy(), wanted, rtol=1e-6)
    second = tg.hessian(loss)(x)
    third = tg.jacobian(tg.hessian(loss))(x)
    for derivative in (gradient, second, third):
        assert np.isfinite(derivative.numpy()).all()


def test_derivatives_beside_what_never_happens_are_those_without_it() -> None:
    target = tensor([0.25, 0.75])
    alone = tg.hessian(lambda x: tg.cross_entropy(x, target))(tensor([0.0, 1.0]))
    padded = tg.concat([target, tensor([0.0])])
    beside = tg.hessian(lambda x: tg.cross_entropy(x, padded))(tensor([0.0, 1.0, -math.inf]))
    np.testing.assert_allclose(beside.numpy()[:2, :2], alone.numpy(), rtol=1e-12)
    np.testing.assert_array_equal(beside.numpy()[2], 0)


def test_what_happens_though_it_cannot_costs_infinitely_much() -> None:
    at = tensor([0.0, 1.0, -math.inf])
    assert tg.cross_entropy(at, tensor([0.5, 0.25, 0.25])).item() == math.inf
    assert tg.cross_entropy(at, 2).item() == math.inf
    assert tg.cross_entropy(at, 0, label_smoothing=0.1).item() == math.inf
    assert bce(tensor([-math.inf]), tensor([0.5])).item() == math.inf


# Numbers that float16 has no room for between its own.


def test_float16_has_room_for_what_lies_between() -> None:
    def half(values: Any) -> Any:
        return tg.tensor(np.array(values, dtype="float16"), requires_grad=True)

    x = half([[300, -300, 200, -200]])
    y = tg.layer_norm(x)
    np.testing.assert_allclose(y.numpy(), [[1.1767, -1.1767, 0.7845, -0.7845]], rtol=1e-3)
    g = tg.grad(y[0, 0], x, create_graph=True)
    assert g.dtype == np.float16 and np.isfinite(tg.grad(g.sum(), x).numpy()).all()
    assert tg.cosine_similarity(half([[300, 300]]), half([[300, 300]])).item() == 1
    np.testing.assert_allclose(tg.softmax(half(np.zeros(70_000))).numpy(), 1 / 70_000, rtol=0.01)
    np.testing.assert_allclose(
        tg.log_softmax(half(np.zeros(70_000))).numpy(), -math.log(70_000), rtol=1e-3
    )
    assert tg.mse_loss(half(np.full(20_000, 9)), half(np.zeros(20_000))).item() == 81
    logits, targets = half(np.zeros((20_000, 30))), np.zeros(20_000, int)
    np.testing.assert_allclose(tg.cross_entropy(logits, targets).item(), math.log(30), rtol=1e-3)
    with np.errstate(over="ignore"):
        assert tg.var(half([300, -300])).item() == math.inf  # 90,000 is none of its numbers
    assert tg.std(half([300, -300])).item() == 300
    assert tg.vecdot(half([300, 300]), half([300, -300])).item() == 0
    assert tg.mean(half(np.full(70_000, 2))).item() == 2
    far = half([[300.0, 0.0], [0.0, 300.0]])  # 300 * 300 is none of its numbers
    seen, weights = tg.scaled_dot_product_attention(far, far, far, return_weights=True)
    assert_array_equal(weights.numpy(), np.eye(2))
    assert seen.dtype == weights.dtype == np.float16 and seen.tolist() == far.tolist()
    ones = tg.zeros(70_000, "float16", requires_grad=True)
    np.testing.assert_allclose(tg.grad(tg.max(ones), ones).numpy(), 1 / 70_000, rtol=0.01)


def test_softplus_at_its_ends() -> None:
    x = tensor([-math.inf, -1000.0, -40.0, 0.0, 40.0, 1000.0, math.inf])
    value = tg.softplus(x).numpy()
    wanted = [0, 0, math.exp(-40), math.log(2), 40 + math.exp(-40), 1000, math.inf]
    np.testing.assert_allclose(value, wanted, rtol=1e-15)
    x.requires_grad = True
    derivative = tg.softplus(x)
    for middle in (0.5, 0.25, 0.0):
        derivative = tg.grad(tg.sum(derivative), x, create_graph=True)
        assert np.isfinite(derivative.numpy()).all()
        np.testing.assert_allclose(derivative.numpy()[3], middle, atol=1e-15)
    assert math.isnan(tg.softplus(tensor(math.nan)).item())


# Of probabilities and of variances.


def test_binary_cross_entropy_is_that_of_logits_and_bounded(backend: Any) -> None:
    x = tensor([-3.0, 0.5, 2.0])
    target = tensor([0.2, 1.0, 0.0])
    for reduction in ("mean", "sum", "none"):
        found = tg.binary_cross_entropy(tg.sigmoid(x), target, reduction=reduction)
        wanted = bce(x, target, reduction=reduction)
        assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-12)
    sure = tg.tensor([0.0, 1.0], requires_grad=True)
    losses = tg.binary_cross_entropy(sure, tg.tensor([1.0, 0.0]), reduction="none")
    assert losses.tolist() == [100, 100]  # as PyTorch has it
    assert tg.grad(losses.sum(), sure).tolist() == [0, 0]


def test_gaussian_nll_takes_variances_as_pytorch_does() -> None:
    mean, target = tensor([[1.0, 2.0], [3.0, 5.0]]), tensor([[1.5, 2.0], [2.0, 4.0]])
    each = tg.gaussian_nll_loss(mean, target, tensor([[2.0, 2.0], [3.0, 3.0]]), reduction="none")
    for var in ([[2.0], [3.0]], [2.0, 3.0]):
        shared = tg.gaussian_nll_loss(mean, target, tensor(var), reduction="none")
        assert_array_equal(shared.numpy(), each.numpy())
    full = tg.gaussian_nll_loss(mean, target, 2.0, full=True, reduction="sum").item()
    density = [math.exp(-d * d / 4) / math.sqrt(4 * math.pi) for d in (0.5, 0, 1, 1)]
    assert_allclose(full, -sum(map(math.log, density)), rtol=1e-12)
    small = tg.tensor([1e-9], requires_grad=True)
    loss = tg.gaussian_nll_loss(tg.tensor([1.0]), tg.tensor([0.0]), small, eps=0.5)
    assert_allclose(loss.item(), 0.5 * (math.log(0.5) + 2), rtol=1e-6)
    assert_allclose(tg.grad(loss, small).item(), 0.5 * (1 / 0.5 - 1 / 0.25), rtol=1e-6)


def test_errors_of_probabilities_and_variances() -> None:
    for bad in ([1.5], [-0.1], [math.inf]):
        with pytest.raises(ValueError, match=r"between 0 and 1.*_with_logits"):
            tg.binary_cross_entropy(tg.tensor(bad), tg.tensor([1.0]))
    x = tg.zeros((2, 3))
    with pytest.raises(ValueError, match=r"negative in places; .*softplus"):
        tg.gaussian_nll_loss(x, x, tg.full((2, 3), -1.0))
    with pytest.raises(ValueError, match=r"var of shape \(3,\) .* \(2, 1\)"):
        tg.gaussian_nll_loss(x, x, tg.ones(3))
    with pytest.raises(ValueError, match="a positive eps"):
        tg.gaussian_nll_loss(x, x, 1.0, eps=0.0)


LOSSES_OF_A_TARGET = {
    "mse_loss": np.ones((2, 3), "float32"),
    "l1_loss": np.ones((2, 3), "float32"),
    "binary_cross_entropy_with_logits": np.ones((2, 3), "float32"),
    "kl_div": np.full((2, 3), 1 / 3, "float32"),
    "nll_loss": np.array([0, 2]),
    "cross_entropy": np.array([0, 2]),
}


@pytest.mark.parametrize("name", LOSSES_OF_A_TARGET)
@pytest.mark.parametrize("as_list", [True, False])
def test_a_target_from_the_host_goes_to_the_backend_of_the_input(name: str, as_list: bool) -> None:
    target = LOSSES_OF_A_TARGET[name]
    given = tg.log_softmax(tg.ones((2, 3), backend="array_api_strict"), axis=-1)
    loss = getattr(tg, name)(given, target.tolist() if as_list else target)
    assert loss.backend == "array_api_strict"
    there = tg.tensor(target, backend="array_api_strict")
    assert loss.item() == getattr(tg, name)(given, there).item()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "bool"])
@pytest.mark.parametrize(
    "loss", [tg.mse_loss, tg.l1_loss, tg.smooth_l1_loss, tg.huber_loss], ids=lambda f: f.__name__
)
def test_differences_of_small_integers_do_not_wrap_around(loss: Any, dtype: str) -> None:
    a, b = (np.array(x).astype(dtype) for x in ([0, 1, 100], [1, 0, 0]))
    expected = loss(tg.tensor(a.astype("float64")), tg.tensor(b.astype("float64")))
    assert loss(tg.tensor(a), b).item() == pytest.approx(expected.item())
