"""Loops with attention in them: kernels do all of the loop, and what comes of it is literal.

Each row of a batch has matrices of its own, keys and values, that a step multiplies; and their
cotangents are sums over time of a matrix of each row. In float64 an interpreter carries kernels
out, so schedule, storage and lowering are compared to its rounding; in float32 machine code does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from both_ways import Case, assert_planned_is_literal, planned
from loop_interpreter import interpreted
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.kernels import machine
from tinygrad_rnn.kernels.cpu import run as native

T, B, S, H, E, V = 4, 3, 5, 8, 6, 7
NATIVE = pytest.mark.skipif(
    machine.machine_of(tg.get_backend("numpy")).compiler.available() is not None,
    reason="llvmlite is not installed",
)

ATTENTIONS: dict[str, Callable[[], Any]] = {
    "additive": lambda: nn.AdditiveAttention(H, E, 10),
    "dot": lambda: nn.MultiplicativeAttention(H, H, "dot"),
    "general": lambda: nn.MultiplicativeAttention(H, E, "general"),
    "concat": lambda: nn.MultiplicativeAttention(H, E, "concat"),
    "multi-head": lambda: nn.MultiheadAttention(H, 2, kdim=E, vdim=E),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "reverse": {"reverse": True},
    "ragged": {"lengths": [4, 0, 2]},
    "reversed ragged": {"lengths": [1, 4, 3], "reverse": True},
    "masked": {"mask": np.array([[1, 0, 1], [1, 1, 1], [0, 0, 1], [1, 1, 0]], bool)},
}


def decoder_of(attention: Any, order: str) -> nn.AttentionDecoder:
    """The decoder of nn: Luong's feeds its input, Bahdanau's looks with the output before."""
    beside = H if order == "luong" else attention.context_size
    return nn.AttentionDecoder(nn.Embedding(V, E), nn.GRUCell(E + beside, H), attention, order)


def decoding(attention: str, order: str, dtype: str, lengths: Any = (S, 2, 4)) -> Case:
    """The loop of a decoder, differentiated by its memory as well."""
    rng = np.random.default_rng(0)
    tg.manual_seed(0)
    tg.set_default_dtype(dtype)
    try:
        decoder = decoder_of(ATTENTIONS[attention](), order)
    finally:
        tg.set_default_dtype("float32")
    size = decoder.attention.key_size
    values = tg.tensor(rng.normal(size=(S, B, size)), dtype=dtype)
    memory = nn.attention.Memory(
        *(
            x if x.dtype == bool else tg.tensor(x.numpy(), requires_grad=True)
            for x in decoder.remember(values, lengths=lengths)
        )
    )
    tokens = tg.tensor(rng.integers(0, V, (T, B)))
    cell = partial(decoder._step, memory=memory)
    captured = [*memory[:2], *decoder.parameters()]
    return Case(cell, tokens, decoder.initial_state(memory), captured)


def only_kernels(case: Case) -> None:
    plan = tg.plan(case.cell, case.xs, case.state, **case.options)
    assert plan.scheduled.reasons == [] and plan.program.loops, plan.report()
    loops = sum(stage.loop for part in plan.distribution.passes for stage in part.stages)
    assert loops == len(plan.program.loops)
    assert f"Fused kernels: {loops} of {loops} loops as machine code." in plan.report()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("order", ["luong", "bahdanau"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attentions_of_ours(attention: str, order: str, options: str) -> None:
    case = decoding(attention, order, "float64")
    case.options = OPTIONS[options]
    with interpreted():
        assert_planned_is_literal(case)
        only_kernels(case)


@NATIVE
@pytest.mark.parametrize("options", ["plain", "ragged"])
@pytest.mark.parametrize("order", ["luong", "bahdanau"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attentions_of_ours_as_machine_code(attention: str, order: str, options: str) -> None:
    case = decoding(attention, order, "float32")
    case.options = OPTIONS[options]
    assert_planned_is_literal(case)
    only_kernels(case)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attentions_without_kernels(attention: str) -> None:
    for options in ("plain", "ragged"):
        case = decoding(attention, "luong", "float64")
        case.options = OPTIONS[options]
        assert_planned_is_literal(case)


# Decoders as papers write them.


def weights(rng: np.random.Generator, dtype: str, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {
        name: tg.tensor(rng.normal(size=shape) * 0.5, dtype=dtype, requires_grad=True)
        for name, shape in shapes.items()
    }


def bahdanau(rng: np.random.Generator, dtype: str) -> Case:
    """Bahdanau et al. 2015, appendix A.1, in einsum; what was predicted is fed back."""
    w = weights(
        *(rng, dtype),
        **{
            "Wa": (H, 10),
            "Ua": (E, 10),
            "va": (10,),
            "W": (H, H),
            "C": (E, H),
            "memory": (B, S, E),
        },
    )

    def cell(x: Tensor, s: Tensor) -> Any:
        hidden = tg.tanh((s @ w["Wa"])[:, None, :] + tg.einsum("bse,ea->bsa", w["memory"], w["Ua"]))
        alpha = tg.softmax(tg.einsum("bsa,a->bs", hidden, w["va"]), axis=-1)
        context = tg.einsum("bs,bse->be", alpha, w["memory"])
        s = tg.tanh(x + s @ w["W"] + context @ w["C"])
        return (s, alpha), s

    x = tg.tensor(rng.normal(size=(T, B, H)), dtype=dtype, requires_grad=True)
    return Case(cell, x, tg.zeros((B, H), dtype=dtype), w)


def luong(rng: np.random.Generator, dtype: str) -> Case:
    """Luong et al. 2015, without input feeding: products by hand, a mask that is added."""
    w = weights(rng, dtype, W=(H, H), Wc=(2 * H, H), memory=(B, S, H))
    mask = np.where(np.arange(S) < np.array([[5], [2], [4]]), 0.0, -1e9)
    mask = tg.tensor(mask, dtype=dtype)

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x + h @ w["W"])
        scores = tg.sum(w["memory"] * h[:, None, :], axis=-1) + mask
        powers = tg.exp(scores - tg.max(scores, axis=-1, keepdims=True))
        alpha = powers / tg.sum(powers, axis=-1, keepdims=True)
        context = tg.sum(alpha[:, :, None] * w["memory"], axis=1)
        return tg.tanh(tg.concat([context, h], axis=-1) @ w["Wc"]), h

    x = tg.tensor(rng.normal(size=(T, B, H)), dtype=dtype, requires_grad=True)
    return Case(cell, x, tg.zeros((B, H), dtype=dtype), w)


def coverage(rng: np.random.Generator, dtype: str) -> Case:
    """See et al. 2017, equation 11: what was looked at is a state, and looked at in turn."""
    w = weights(
        *(rng, dtype),
        **{"Ws": (H, 10), "Wh": (E, 10), "wc": (10,), "v": (10, 1), "W": (H + E, H)},
        memory=(B, S, E),
    )

    def cell(x: Tensor, state: Any) -> Any:
        s, seen = state
        features = w["memory"] @ w["Wh"] + (s @ w["Ws"])[:, None, :]
        features = features + seen[:, :, None] * w["wc"]
        alpha = tg.softmax((tg.tanh(features) @ w["v"])[:, :, 0], axis=-1)
        context = (alpha[:, None, :] @ w["memory"])[:, 0]
        s = tg.tanh(tg.concat([s, context], axis=-1) @ w["W"] + x)
        repeated = tg.sum(tg.minimum(alpha, seen), axis=-1)
        return (s, repeated), (s, seen + alpha)

    x = tg.tensor(rng.normal(size=(T, B, H)), dtype=dtype, requires_grad=True)
    state = tg.zeros((B, H), dtype=dtype), tg.zeros((B, S), dtype=dtype)
    return Case(cell, x, state, w)


def fast_weights(rng: np.random.Generator, dtype: str) -> Case:
    """Ba et al. 2016: a matrix of each row is a state, to which outer products are added."""
    w = weights(rng, dtype, W=(H, H))

    def cell(x: Tensor, state: Any) -> Any:
        h, matrix = state
        matrix = 0.9 * matrix + 0.5 * h[:, :, None] * h[:, None, :]
        first = h @ w["W"] + x
        h = tg.tanh(tg.layer_norm(first + (matrix @ tg.tanh(first)[:, :, None])[:, :, 0]))
        return h, (h, matrix)

    x = tg.tensor(rng.normal(size=(T, B, H)), dtype=dtype, requires_grad=True)
    state = tg.tensor(rng.normal(size=(B, H)), dtype=dtype), tg.zeros((B, H, H), dtype=dtype)
    return Case(cell, x, state, w)


def read_by_two_queries(rng: np.random.Generator, dtype: str) -> Case:
    """Two queries a step, scaled and over heads; every product is one of matrices."""
    w = weights(rng, dtype, Q=(H, 2 * H), O=(2 * H, H), keys=(B, 2, S, 4), values=(B, 2, S, 4))

    def cell(x: Tensor, h: Tensor) -> Any:
        queries = tg.permute_dims(tg.reshape(h @ w["Q"], (B, 2, 2, 4)), (0, 2, 1, 3))
        scores = queries @ tg.matrix_transpose(w["keys"]) * 0.5
        read = tg.softmax(scores, axis=-1) @ w["values"]  # (B, 2, 2, 4)
        joined = tg.reshape(read, (B, 2 * H))
        h = tg.tanh(joined @ w["O"] + x)
        return (h, tg.max(scores, axis=(-1, -2))), h

    x = tg.tensor(rng.normal(size=(T, B, H)), dtype=dtype, requires_grad=True)
    return Case(cell, x, tg.zeros((B, H), dtype=dtype), w)


def in_time_first(rng: np.random.Generator, dtype: str) -> Case:
    """A memory (S, B, H), as encoders give it, with a mask of it, and a softmax over axis 0."""
    w = weights(rng, dtype, W=(2 * H, H), U=(H, H), v=(H, 1), memory=(S, B, H))
    there = tg.tensor(np.arange(S)[:, None] < np.array([5, 2, 4]))

    def cell(x: Tensor, h: Tensor) -> Any:
        hidden = tg.tanh(w["memory"] @ w["U"] + h)
        scores = tg.where(there, tg.squeeze(hidden @ w["v"], axis=-1), -1e9)
        scores = scores + tg.sum(w["memory"] * h, axis=-1)
        alpha = tg.softmax(scores, axis=0)
        context = tg.sum(alpha[:, :, None] * w["memory"], axis=0)
        h = tg.tanh(tg.concat([h, context], axis=-1) @ w["W"] + x)
        return (h, tg.permute_dims(alpha, (1, 0))), h

    x = tg.tensor(rng.normal(size=(T, B, H)), dtype=dtype, requires_grad=True)
    return Case(cell, x, tg.zeros((B, H), dtype=dtype), w)


def in_time_first_by_einsum(rng: np.random.Generator, dtype: str) -> Case:
    """The same memory, in einsum."""
    w = weights(rng, dtype, W=(2 * H, H), memory=(S, B, H))

    def cell(x: Tensor, h: Tensor) -> Any:
        alpha = tg.softmax(tg.einsum("sbh,bh->bs", w["memory"], h), axis=-1)
        context = tg.einsum("bs,sbh->bh", alpha, w["memory"])
        h = tg.tanh(tg.concat([h, context], axis=-1) @ w["W"] + x)
        return h, h

    x = tg.tensor(rng.normal(size=(T, B, H)), dtype=dtype, requires_grad=True)
    return Case(cell, x, tg.zeros((B, H), dtype=dtype), w)


PAPERS = [
    *(bahdanau, luong, coverage, fast_weights, read_by_two_queries),
    *(in_time_first, in_time_first_by_einsum),
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("paper", PAPERS, ids=lambda f: f.__name__)
def test_decoders_as_papers_write_them(paper: Any, options: str) -> None:
    case = paper(np.random.default_rng(0), "float64")
    case.options = OPTIONS[options]
    with interpreted():
        assert_planned_is_literal(case)
        only_kernels(case)


@NATIVE
@pytest.mark.parametrize("paper", PAPERS, ids=lambda f: f.__name__)
def test_decoders_as_papers_write_them_as_machine_code(paper: Any) -> None:
    case = paper(np.random.default_rng(0), "float32")
    assert_planned_is_literal(case)
    only_kernels(case)


@NATIVE
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_threads_change_no_bit(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "SHARE", 1)  # all work is worth a thread
    case = decoding(attention, "luong", "float32")
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(machine, "chosen_threads", lambda n=threads: (n, "a test says so"))
        found.append(case.results(planned))
    assert all(np.array_equal(found[0][k], each[k]) for each in found[1:] for k in found[0])


def test_no_matrix_is_repeated_for_all_steps() -> None:
    """Attention after the recurrence: beside it, or behind a product of all steps at once."""
    rng = np.random.default_rng(0)
    for case in (luong(rng, "float64"), behind_a_product(rng, "float64")):
        with interpreted():
            only_kernels(case)
            source = tg.plan(case.cell, case.xs, case.state).source
        assert "repeated" not in source and "row_products" in source


def test_a_state_that_needs_no_loop_is_looked_at_after_it_is_made() -> None:
    rng = np.random.default_rng(0)
    w = weights(rng, "float64", W=(H, H), memory=(B, S, H))

    def cell(x: Tensor, h: Tensor) -> Any:
        scores = (w["memory"] @ h[:, :, None])[:, :, 0]  # of the state before
        return scores, tg.tanh(x @ w["W"])

    x = tg.tensor(rng.normal(size=(T, B, H)), requires_grad=True)
    with interpreted():
        assert_planned_is_literal(Case(cell, x, tg.ones((B, H), dtype="float64"), w))


def behind_a_product(rng: np.random.Generator, dtype: str) -> Case:
    """A query that is a product with the state after the step, which needs no loop."""
    w = weights(rng, dtype, W=(H, H), Q=(H, H), memory=(B, S, H))

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x + h @ w["W"])
        alpha = tg.softmax((w["memory"] @ (h @ w["Q"])[:, :, None])[:, :, 0], axis=-1)
        return (alpha[:, None, :] @ w["memory"])[:, 0] @ w["Q"], h

    x = tg.tensor(rng.normal(size=(T, B, H)), dtype=dtype, requires_grad=True)
    return Case(cell, x, tg.zeros((B, H), dtype=dtype), w)
