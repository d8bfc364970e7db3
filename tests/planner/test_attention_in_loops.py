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
from both_ways import Case, assert_planned_is_literal
from loop_interpreter import interpreted
from tinygrad_rnn import nn
from tinygrad_rnn.kernels import machine

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
