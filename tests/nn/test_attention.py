"""Attention: its equations, PyTorch's numbers, and masks that let nothing through, not even nan."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from op_table import examples
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.testing import check_grads
from tinygrad_rnn_backends import Backend

Array = np.ndarray[Any, Any]

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "attention.json").read_text("utf-8"))
TOLERANCE = {"float32": 1e-5, "float64": 1e-11}
NAMES = ("query", "key", "value")
S, B, Q, E, H = 4, 3, 2, 3, 5
LENGTHS = [2, 0, 4]

STEPWISE: dict[str, Callable[[], Any]] = {
    "additive": lambda: nn.AdditiveAttention(Q, E, H),
    "dot": lambda: nn.MultiplicativeAttention(E, E, score="dot"),
    "general": lambda: nn.MultiplicativeAttention(Q, E, score="general"),
    "concat": lambda: nn.MultiplicativeAttention(Q, E, score="concat"),
    "multihead": lambda: nn.MultiheadAttention(Q, 2, kdim=E, vdim=E),
}
every_attention = pytest.mark.parametrize("name", STEPWISE)


@pytest.fixture
def float64() -> Iterator[None]:
    tg.set_default_dtype("float64")
    yield
    tg.set_default_dtype("float32")


def made(name: str) -> Any:
    """An attention with all of its weights random."""
    return randomised(STEPWISE[name]())


def randomised(module: Any) -> Any:
    rng = np.random.default_rng(1)
    state = {key: rng.normal(size=x.shape) for key, x in module.state_dict().items()}
    module.load_state_dict(state)
    return module


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def weights_of(module: Any) -> dict[str, Array]:
    return {key: x.numpy() for key, x in module.state_dict().items()}


def gradients(output: Tensor, inputs: Any) -> Any:
    cotangent = tg.asarray(normal(*output.shape, seed=9), output.dtype, backend=output.backend)
    return tg.grad(output, inputs, cotangent)


def all_finite(*arrays: Any) -> bool:
    return all(np.isfinite(x.numpy()).all() for x in arrays)


# As in PyTorch.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", FIXTURE["function"], ids=lambda case: str(case["keywords"]))
def test_the_function_is_pytorchs(case: dict[str, Any], dtype: str, backend: Backend) -> None:
    named = {k: tg.tensor(np.array(x, dtype)) for k, x in case["inputs"].items()}
    for x in named.values():
        x.requires_grad = True
    fixed = {"attn_mask": tg.tensor(case["attn_mask"])} if "attn_mask" in case else {}
    out = tg.scaled_dot_product_attention(**named, **fixed, **case["keywords"])
    tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    assert out.dtype == dtype
    assert_allclose(out.numpy(), case["out"], **tolerance)
    found = tg.grad(out, list(named.values()), tg.tensor(np.array(case["cotangent"], dtype)))
    for name, gradient in zip(named, found, strict=True):
        assert_allclose(gradient.numpy(), case["gradients"][name], **tolerance, err_msg=name)


def translated(arrays: dict[str, Any]) -> dict[str, Array]:
    """PyTorch's parameters (or their gradients) under our names, in our layout."""
    named = {k: np.array(x) for k, x in arrays.items() if k not in NAMES}
    ours = {}
    for kind in ("weight", "bias"):
        if f"in_proj_{kind}" in named:
            parts = np.split(named.pop(f"in_proj_{kind}"), 3)
            for letter, part in zip("qkv", parts, strict=True):
                ours[f"{letter}_proj.{kind}"] = part.T
    for name, x in named.items():
        ours[name.replace("_proj_weight", "_proj.weight")] = x.T
    return ours


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("place", range(len(FIXTURE["module"])))
def test_the_module_is_pytorchs(place: int, dtype: str, backend: Backend) -> None:
    case = FIXTURE["module"][place]
    tg.set_default_dtype(dtype)
    try:
        layer = nn.MultiheadAttention(4, **case["options"])
    finally:
        tg.set_default_dtype("float32")
    layer.load_state_dict(translated(case["inputs"]))
    inputs = [tg.tensor(np.array(case["inputs"][k], dtype)) for k in NAMES]
    for x in inputs:
        x.requires_grad = True
    masks = {}
    if "key_padding_mask" in case:
        there = ~np.array(case["key_padding_mask"])
        masks["mask"] = there if layer.batch_first else there.T
    if "attn_mask" in case:
        mask = np.array(case["attn_mask"])
        masks["attn_mask"] = ~mask if mask.dtype == bool else mask.astype(dtype)
    out, weights = layer(*inputs, **masks, return_weights=True)
    tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    assert_allclose(out.numpy(), case["out"], **tolerance)
    assert_allclose(weights.numpy(), case["weights"], **tolerance)
    expected = translated(case["gradients"])
    expected |= {k: case["gradients"][k] for k in NAMES}
    named = dict(zip(NAMES, inputs, strict=True)) | dict(layer.named_parameters())
    assert set(named) == set(expected)
    found = tg.grad(out, list(named.values()), tg.tensor(np.array(case["cotangent"], dtype)))
    for name, gradient in zip(named, found, strict=True):
        assert_allclose(gradient.numpy(), expected[name], **tolerance, err_msg=name)


# By their equations.


def score(name: str, p: dict[str, Array], query: Array, key: Array) -> Any:
    """One number for one query and one key, as the papers write it."""
    if name == "dot":
        return query @ key
    if name == "general":
        return query @ (key @ p["key.weight"])
    if name == "concat":
        p = {k.removeprefix("additive."): x for k, x in p.items()}
        both = np.concatenate([p["query.weight"], p["key.weight"]])
        return np.tanh(np.concatenate([query, key]) @ both) @ p["score.weight"][:, 0]
    hidden = np.tanh(query @ p["query.weight"] + key @ p["key.weight"])
    return hidden @ p["score.weight"][:, 0]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["additive", "dot", "general", "concat"])
def test_an_attention_is_its_equation(name: str, backend: Backend) -> None:
    attention = made(name)
    p = weights_of(attention)
    values, queries = normal(S, B, E), normal(2, B, attention.query_size, seed=1)
    context, weights = attention(
        tg.tensor(queries), tg.tensor(values), lengths=LENGTHS, return_weights=True
    )
    assert context.shape == (2, B, E) and weights.shape == (2, B, S)
    for t in range(2):
        for b, n in enumerate(LENGTHS):
            powers = np.array(
                [np.exp(score(name, p, queries[t, b], values[s, b])) for s in range(n)]
            )
            expected = np.zeros(S)
            expected[:n] = powers / powers.sum()
            assert_allclose(weights[t, b].numpy(), expected, rtol=1e-12, atol=1e-15)
            assert_allclose(context[t, b].numpy(), expected @ values[:, b], rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("float64")
@every_attention
def test_a_memory_is_read_step_by_step_or_at_once(name: str, backend: Backend) -> None:
    attention = made(name)
    queries = tg.tensor(normal(2, B, attention.query_size))
    mask = np.arange(S)[:, None] < LENGTHS
    memory = attention.remember(tg.tensor(normal(S, B, E, seed=1)), mask=mask)
    assert {x.shape[:2] for x in memory} == {(B, S)}
    contexts, weights = attention.read(queries, memory)
    assert contexts.shape == (2, B, attention.context_size) and weights.shape == (2, B, S)
    for t in range(2):
        context, shares = attention.read(queries[t], memory)
        assert_allclose(context.numpy(), contexts[t].numpy(), rtol=1e-13, atol=1e-15)
        assert_allclose(shares.numpy(), weights[t].numpy(), rtol=1e-13, atol=1e-15)


def test_the_memory_of_several_heads_is_the_module() -> None:
    attention = made("multihead")
    queries, values = tg.tensor(normal(2, B, Q)), tg.tensor(normal(S, B, E, seed=1))
    mask = np.arange(S)[:, None] < LENGTHS
    expected, shares = attention(queries, values, values, mask, return_weights=True)
    context, weights = attention.read(queries, attention.remember(values, lengths=LENGTHS))
    nothing = np.array(LENGTHS) == 0  # where the module gives the bias, and a memory 0
    assert_array_equal(context.numpy()[:, ~nothing], expected.numpy()[:, ~nothing])
    assert_array_equal(expected.numpy()[0, nothing][0], attention.out_proj.bias.numpy())
    assert not context.numpy()[:, nothing].any()
    assert_allclose(weights.numpy(), shares.numpy().mean(axis=1).swapaxes(0, 1), rtol=1e-6)


# What is not there has no influence.


def run(attention: Any, query: Tensor, values: Tensor, mask: Any) -> tuple[Tensor, Tensor]:
    context, weights = attention.read(query, attention.remember(values, mask))
    return context, weights


@pytest.mark.usefixtures("float64")
@every_attention
@examples(10)
@given(data=st.data())
def test_a_row_with_padding_is_the_row_alone(name: str, data: st.DataObject) -> None:
    attention = made(name)
    rows, steps = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    flags = st.lists(st.booleans(), min_size=rows * steps, max_size=rows * steps)
    mask = np.array(data.draw(flags)).reshape(steps, rows)
    values = normal(steps, rows, E)
    padded = np.where(mask[..., None], values, np.nan)
    query = tg.tensor(normal(rows, attention.query_size, seed=1), requires_grad=True)
    held = tg.tensor(padded, requires_grad=True)
    context, weights = run(attention, query, held, mask)
    parameters = list(attention.parameters())
    found = gradients(context, [query, held, *parameters])
    total = [np.zeros(p.shape) for p in parameters]
    for b in range(rows):
        kept = np.flatnonzero(mask[:, b])
        own_query = tg.tensor(query.numpy()[b : b + 1], requires_grad=True)
        own_values = tg.tensor(values[kept, b : b + 1], requires_grad=True)
        own, shares = run(attention, own_query, own_values, None)
        assert_allclose(context[b].numpy(), own[0].numpy(), rtol=1e-11, atol=1e-13)
        assert_allclose(weights[b].numpy()[kept], shares[0].numpy(), rtol=1e-11, atol=1e-13)
        assert not weights[b].numpy()[~mask[:, b]].any()
        cotangent = tg.tensor(normal(*context.shape, seed=9)[b : b + 1])
        alone = tg.grad(own, [own_query, own_values, *parameters], cotangent, allow_unused=True)
        expected = np.zeros((steps, E))
        expected[kept] = alone[1].numpy()[:, 0]
        assert_allclose(found[0][b].numpy(), alone[0][0].numpy(), rtol=1e-10, atol=1e-12)
        assert_allclose(found[1].numpy()[:, b], expected, rtol=1e-10, atol=1e-12)
        total = [a + g.numpy() for a, g in zip(total, alone[2:], strict=True)]
    for gradient, expected in zip(found[2:], total, strict=True):
        assert_allclose(gradient.numpy(), expected, rtol=1e-10, atol=1e-12)


@every_attention
def test_a_row_of_nothing_is_zero_in_value_and_derivatives(name: str, backend: Backend) -> None:
    attention = made(name)
    query = tg.tensor(normal(B, attention.query_size), dtype="float32", requires_grad=True)
    values = np.full((S, B, E), np.nan, np.float32)
    held = tg.tensor(values, requires_grad=True)
    context, weights = run(attention, query, held, np.zeros((S, B), bool))
    assert not context.numpy().any() and not weights.numpy().any()

    def loss(query: Tensor, held: Tensor) -> Tensor:
        return tg.sum(tg.square(run(attention, query, held, np.zeros((S, B), bool))[0]))

    points = (query.detach(), held.detach())
    directions = (tg.ones(query.shape), tg.ones(held.shape))
    for derivative in (*tg.jvp(loss, points, directions), *tg.hvp(loss, points, directions)):
        assert all_finite(derivative)
    assert all_finite(*gradients(context, [query, held, *attention.parameters()]))


@every_attention
def test_the_query_of_a_row_of_nothing_may_be_nan(name: str, backend: Backend) -> None:
    attention = made(name)
    values = tg.tensor(normal(S, B, E), dtype="float32")
    results = []
    for queried in (0.0, np.nan):
        queries = normal(2, B, attention.query_size).astype("float32")
        queries[:, 1] = queried  # the row of length 0
        asked = tg.tensor(queries, requires_grad=True)
        context, _ = attention.read(asked, attention.remember(values, lengths=LENGTHS))
        results.append([context, *gradients(context, [asked, *attention.parameters()])])
    for clean, spoilt in zip(*results, strict=True):
        assert_array_equal(clean.numpy(), spoilt.numpy())
    assert not results[1][0].numpy()[:, 1].any()


@pytest.mark.parametrize("masked_by", ["mask", "mask and bias", "attn_mask", "is_causal"])
def test_what_no_pair_needs_may_be_nan_in_the_module(masked_by: str, backend: Backend) -> None:
    layer = randomised(nn.MultiheadAttention(4, 2, kdim=3, vdim=2))
    steps = 2
    there = np.ones((S, B), bool)
    masks: dict[str, Any] = {"mask": there}
    if masked_by == "is_causal":
        there[steps:] = False  # keys beyond the last query
        masks = {"is_causal": True}
    else:
        there[:] = np.arange(S)[:, None] < LENGTHS
    if masked_by == "attn_mask":
        masks = {"attn_mask": there.T[:, None, None]}
    if masked_by == "mask and bias":
        masks["attn_mask"] = normal(steps, S, seed=4).astype("float32")
    asking = np.broadcast_to(there.any(axis=0), (steps, B))
    wanted = ((asking, normal(steps, B, 4)), (there, normal(S, B, 3)), (there, normal(S, B, 2)))
    results = []
    for padding in (0, np.nan):
        filled = [np.where(kept[..., None], x, padding).astype("float32") for kept, x in wanted]
        inputs = [tg.tensor(x, requires_grad=True) for x in filled]
        out = layer(*inputs, **masks)
        results.append([out, *gradients(out, [*inputs, *layer.parameters()])])
    assert all_finite(*results[1])
    for clean, padded in zip(*results, strict=True):
        assert_array_equal(clean.numpy(), padded.numpy())


@pytest.mark.parametrize("nobody", [-np.inf, float(np.finfo("float32").min), False])
def test_pairs_that_a_mask_leaves_out_may_be_nan(nobody: Any, backend: Backend) -> None:
    """Key 2 is seen by no query, and query 1 sees no key."""
    mask = np.array([[True, True, False], [False, False, False]])
    mask = mask if nobody is False else np.where(mask, 0, nobody).astype("float32")
    query, key, value = (normal(n, 3, seed=n).astype("float32") for n in (2, 3, 3))
    query[1] = key[2] = value[2] = np.nan
    inputs = [tg.tensor(x, requires_grad=True) for x in (query, key, value)]
    mask = tg.tensor(mask)
    with tg.detect_anomaly():
        out, weights = tg.scaled_dot_product_attention(*inputs, mask, return_weights=True)
    expected = tg.scaled_dot_product_attention(inputs[0][:1], inputs[1][:2], inputs[2][:2])
    assert_allclose(out[:1].numpy(), expected.numpy(), rtol=1e-6)
    assert_array_equal(out[1].numpy(), np.zeros(3))
    assert_array_equal(weights.numpy()[~np.isfinite(query)[:, 0]], np.zeros((1, 3)))
    found = gradients(out, inputs)
    assert all_finite(*found)
    for gradient, at in zip(found, (1, 2, 2), strict=True):
        assert not gradient[at].numpy().any()


def test_a_causal_output_knows_nothing_of_the_future() -> None:
    layer = randomised(nn.MultiheadAttention(4, 2))
    x = normal(5, B, 4).astype("float32")
    changed = x.copy()
    changed[3:] += 1
    whole, other = (layer(*[tg.tensor(a)] * 3, is_causal=True).numpy() for a in (x, changed))
    assert_array_equal(whole[:3], other[:3])
    assert np.abs(whole[3:] - other[3:]).min() > 1e-4
    prefix = layer(*[tg.tensor(x[:2])] * 3, is_causal=True)
    assert_allclose(whole[:2], prefix.numpy(), rtol=1e-5, atol=1e-6)


def test_large_scores_overflow_nothing(backend: Backend) -> None:
    mask = np.array([[True, True, True, False]])
    query = tg.tensor([[1e4]], requires_grad=True)
    key = tg.tensor([[1.0], [-1.0], [1.0], [3e4]], requires_grad=True)
    value = tg.tensor([[1.0], [5.0], [3.0], [7.0]], requires_grad=True)
    out = tg.scaled_dot_product_attention(query, key, value, tg.tensor(mask))
    assert out.item() == 2
    assert all_finite(*gradients(out, [query, key, value]))


# Derivatives, of any order, forwards, and for a batch of examples.


def of_all(attention: Any, mask: Any) -> Callable[..., Any]:
    """The attention as a function of its weights, too."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            self.attention = attention

        def forward(self, query: Tensor, values: Tensor) -> Any:
            return run(self.attention, query, values, mask)

    whole = Whole()
    names = [name for name, _ in whole.named_parameters()]

    def function(query: Tensor, values: Tensor, *weights: Tensor) -> Any:
        return nn.functional_call(whole, dict(zip(names, weights, strict=True)), query, values)

    return function


@pytest.mark.usefixtures("float64")
@every_attention
@pytest.mark.parametrize("mask", [None, np.arange(S)[:, None] < LENGTHS], ids=["all", "ragged"])
def test_derivatives_equal_finite_differences(name: str, mask: Any) -> None:
    attention = made(name)
    query, values = normal(B, attention.query_size), normal(S, B, E, seed=1)
    points = (query, values, *weights_of(attention).values())
    check_grads(of_all(attention, mask), [tg.tensor(x) for x in points])


@pytest.mark.usefixtures("float64")
def test_derivatives_of_the_module_equal_finite_differences() -> None:
    layer = randomised(nn.MultiheadAttention(4, 2, kdim=3, vdim=2))
    names = [name for name, _ in layer.named_parameters()]
    mask = np.arange(S)[:, None] < LENGTHS

    def function(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, *weights: Tensor) -> Any:
        given = dict(zip(names, weights, strict=True))
        return nn.functional_call(layer, given, query, key, value, mask, bias, True)

    arrays = (normal(2, B, 4), normal(S, B, 3), normal(S, B, 2), normal(2, S))
    check_grads(function, [tg.tensor(x) for x in (*arrays, *weights_of(layer).values())])


@pytest.mark.usefixtures("float64")
@every_attention
def test_curvature_is_the_slope_of_the_gradient(name: str) -> None:
    attention = made(name)

    def loss(query: Tensor, values: Tensor) -> Tensor:
        return tg.sum(tg.sin(run(attention, query, values, np.arange(S)[:, None] < LENGTHS)[0]))

    points = tg.tensor(normal(B, attention.query_size)), tg.tensor(normal(S, B, E, seed=1))
    directions = tuple(tg.tensor(normal(*x.shape, seed=2)) for x in points)
    slope = tg.value_and_grad(loss, argnums=(0, 1))
    forward = tg.jvp(lambda *xs: tuple(slope(*xs)[1]), points, directions)[1]
    for one, other in zip(tg.hvp(loss, points, directions), forward, strict=True):
        assert_allclose(one.numpy(), other.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("float64")
@every_attention
def test_vmap_is_a_loop(name: str, backend: Backend) -> None:
    attention = made(name)
    queries = tg.tensor(normal(2, B, attention.query_size))
    values = tg.tensor(normal(2, S, B, E, seed=1))
    masks = tg.tensor(normal(2, S, B, seed=2) > 0)
    for mask, in_axes in ((masks, 0), (masks[0], (0, 0, None))):
        together = tg.vmap(lambda q, v, m: run(attention, q, v, m), in_axes)(queries, values, mask)
        for i in range(2):
            one = mask[i] if in_axes == 0 else mask
            alone = run(attention, queries[i], values[i], one)
            for found, expected in zip(together, alone, strict=True):
                assert_allclose(found[i].numpy(), expected.numpy(), rtol=1e-12, atol=1e-14)


# Dropout, dtypes, and what is refused.


def test_weights_are_dropped_in_training_only() -> None:
    layer = randomised(nn.MultiheadAttention(4, 2, dropout=0.5))
    x = tg.tensor(normal(3, B, 4), dtype="float32")
    tg.manual_seed(0)
    dropped, weights = layer(x, x, x, return_weights=True)
    layer.eval()
    kept, same = layer(x, x, x, return_weights=True)
    assert np.abs(dropped.numpy() - kept.numpy()).max() > 0.01
    assert_array_equal(weights.numpy(), same.numpy())  # those before dropout
    assert_array_equal(kept.numpy(), layer(x, x, x).numpy())
    tg.manual_seed(0)
    assert_array_equal(layer.train()(x, x, x).numpy(), dropped.numpy())
    nothing = tg.scaled_dot_product_attention(x, x, x, dropout_p=1.0)
    assert not nothing.numpy().any()


@every_attention
def test_float32_stays_float32(name: str, backend: Backend) -> None:
    attention = made(name)
    query = tg.tensor(normal(B, attention.query_size), dtype="float32")
    memory = attention.remember(tg.tensor(normal(S, B, E), dtype="float32"), lengths=LENGTHS)
    assert [x.dtype for x in memory] == [np.float32, np.float32, np.bool_]
    assert {x.dtype for x in attention.read(query, memory)} == {np.dtype("float32")}


def test_parameters_are_those_of_the_papers() -> None:
    shapes = {
        name: {key: x.shape for key, x in make().state_dict().items()}
        for name, make in STEPWISE.items()
    }
    additive = {"query.weight": (Q, H), "key.weight": (E, H), "score.weight": (H, 1)}
    assert shapes["additive"] == additive
    assert shapes["dot"] == {} and shapes["general"] == {"key.weight": (E, Q)}
    assert list(shapes["concat"].values()) == [(Q, Q), (E, Q), (Q, 1)]
    assert list(shapes["multihead"])[:2] == ["q_proj.weight", "q_proj.bias"]


X = tg.ones((S, B, E))
QUERY = tg.ones((B, Q))


def general() -> Any:
    return nn.MultiplicativeAttention(Q, E)


def heads(**options: Any) -> Any:
    return nn.MultiheadAttention(4, 2, **options)


M = tg.ones((2, B, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nn.MultiplicativeAttention(Q, E, score="cosine"), "'concat', not 'cosine'"),
        (lambda: nn.MultiplicativeAttention(Q, E, score="dot"), "score='general'"),
        (lambda: general().remember(tg.ones((B, E))), r"\(S, B, 3\), not \(3, 3\)"),
        (lambda: general().remember(tg.ones((S, B, 2))), r"\(S, B, 3\), not \(4, 3, 2\)$"),
        (
            lambda: general().remember(tg.ones((B, 3, 7, 7))),
            r"regions of pictures \(B, C, H, W\) are permute_dims\(reshape\(x, \(B, C, H \* W\)\)",
        ),
        (lambda: general().remember(X, mask=np.ones((B, S), bool)), r"bool of shape \(4, 3\)"),
        (lambda: general().remember(X, mask=np.ones((S, B))), "not float64"),
        (lambda: general().remember(X, mask=np.ones((S, B), bool), lengths=[1, 1, 1]), "not both"),
        (lambda: general().remember(X, lengths=[1, 1]), "3 integers"),
        (lambda: general().remember(X, lengths=[1.0, 1.0, 1.0]), "3 integers"),
        (lambda: general().remember(X, lengths=[1, 5, 1]), "for 4 steps"),
        (lambda: general()(tg.ones((B, 3)), X), r"\(\.\.\., 3, 2\) for a memory of 3 rows"),
        (lambda: general()(tg.ones((2, Q)), X), r"\(\.\.\., 3, 2\) for a memory of 3 rows"),
        (lambda: nn.MultiheadAttention(4, 3), "num_heads is a .*embed_dim 4, not 3"),
        (lambda: nn.MultiheadAttention(4, 0), "not 0"),
        (lambda: nn.MultiheadAttention(4, 2.0), r"not 2\.0"),
        (lambda: heads(dropout=2), "between 0 and 1, not 2"),
        (lambda: heads()(M, M, M[:1]), r"query \(L, B, 4\).*not \(2, 3, 4\)"),
        (lambda: heads()(M, M[:, :2], M[:, :2]), r"query \(L, B, 4\)"),
        (lambda: heads(kdim=3)(M, M, M), r"key \(S, B, 3\)"),
        (lambda: heads(batch_first=True)(M, M[:, :2], M), "batch_first"),
        (lambda: heads()(M, M, M, mask=np.ones((B, 2), bool)), r"bool of shape \(2, 3\)"),
        (lambda: heads()(M, M, M, mask=True), r"bool of shape \(2, 3\) \(time, batch\), not bool"),
        (
            lambda: heads(batch_first=True)(M, M, M, mask=np.ones((3, 2), bool)),
            r"bool of shape \(2, 3\) \(batch, time\), not bool of \(3, 2\)",
        ),
        (lambda: heads(batch_first=True)(M, M, M, mask=True), r"\(2, 3\) \(batch, time\)"),
        (
            lambda: heads()(M, M, M, attn_mask=np.ones((3, 2), bool)),
            r"MultiheadAttention: attn_mask and scores .*\(3, 2\), \(3, 2, 2, 2\) do not broadcast",
        ),
        (
            lambda: heads()(M, M, M, attn_mask=np.ones((5, 3, 2, 2, 2), bool)),
            r"MultiheadAttention: attn_mask of shape",
        ),
        (
            lambda: tg.scaled_dot_product_attention(X, X[0], M),
            r"leading axes: the shapes \(4,\), \(\), \(2,\)",
        ),
        (lambda: tg.scaled_dot_product_attention(X, M, M), r"key \(\.\.\., S, E\)"),
        (lambda: tg.scaled_dot_product_attention(X, X[:, :, :1], X), r"key \(\.\.\., S, E\)"),
        (lambda: tg.scaled_dot_product_attention(X[0, 0], X, X), r"key \(\.\.\., S, E\)"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_mask_of_integers_is_refused() -> None:
    with pytest.raises(TypeError, match=r"attn_mask is int64; .* mask != 0"):
        tg.scaled_dot_product_attention(X, X, X, tg.tensor([[1, 0, 1]]))


def test_what_a_layer_returns_is_no_values() -> None:
    with pytest.raises(TypeError, match=r"remember: values are .* not a tuple; .* the outputs"):
        general().remember((X, QUERY))


def test_values_are_no_memory() -> None:
    with pytest.raises(TypeError, match=r"what remember\(values\) gives, not a Tensor"):
        general().read(QUERY, X)
