"""Elementwise work beside a loop is fused into it, as far as nothing else needs it elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np

import tinygrad_rnn as tg
from loop_interpreter import interpreted
from tinygrad_rnn import Tensor

U = tg.tensor(np.eye(4))


def stages(cell: Any) -> list[tuple[bool, list[str]]]:
    """Of each stage of the forward pass, whether it is a loop and what it computes."""
    with interpreted(), tg.no_grad():
        plan = tg.plan(cell, tg.tensor(np.ones((5, 3, 4))), tg.tensor(np.ones((3, 4))))
    found = plan.distribution.forward.stages
    return [(stage.loop, sorted(v.name for v in stage.values)) for stage in found]


def test_fused_is_what_only_the_loop_reads_and_what_is_made_of_it() -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(tg.cos(x) + h @ U)
        return tg.sin(h) * 2.0, h

    assert stages(cell) == [(True, ["add", "cos", "matmul", "multiply", "sin", "tanh"])]


def test_fused_is_a_concat_of_columns() -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x + h @ U)
        return tg.concat((tg.sin(h), x), axis=-1), h

    assert stages(cell) == [(True, ["add", "concat", "matmul", "sin", "tanh"])]


def test_not_fused_is_what_others_read_or_what_a_kernel_cannot_do() -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        given, costly = tg.cos(x), tg.cumulative_sum(x, axis=-1)
        h = tg.tanh(given + costly + h @ U)
        return (given, tg.cumulative_sum(h, axis=-1)), h

    before, loop, after = stages(cell)
    assert not before[0] and {"cos", "cumulative_sum"} <= set(before[1])
    assert loop[0] and {"matmul", "tanh"} <= set(loop[1]) and "cos" not in loop[1]
    assert after == (False, ["cumulative_sum"])
