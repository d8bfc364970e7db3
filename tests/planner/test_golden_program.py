"""The program of an Elman cell, whole: what all passes together make of ten operations.

Read it beside ``elman``. Forwards the products with x stand before the loop, and of the step only
the recurrence is left in it. Backwards the cotangent ``dstate`` is carried, and what is summed over
time, the gradients of both weights, are two products over all rows of all steps.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from both_ways import KERNELS, plans_of
from tinygrad_rnn import Tensor

STEPS, ROWS, INPUTS, WIDTH = 6, 2, 3, 4


def parameter(*shape: int) -> Tensor:
    return tg.tensor(np.ones(shape, "float32"), requires_grad=True)


W, U, B = parameter(INPUTS, WIDTH), parameter(WIDTH, WIDTH), parameter(WIDTH)


def elman(x: Tensor, h: Tensor) -> Any:
    h = tg.tanh(x @ W + h @ U + B)  # Elman 1990
    return h, h


NUMPY = """\
def forward(steps, pool, xs, states, captured, scalars, constants, draws):
    x_0 = xs[0]
    w = captured[0]
    w_1 = captured[1]
    w_2 = captured[2]
    matmul = pool.empty((steps.total, 4), np.float32)
    np.dot(x_0, w, out=matmul)
    scratch = pool.empty((steps.rows, 4), np.float32)
    state = pool.empty((steps.total + steps.rows, 4), np.float32)
    steps.start(state)[...] = states[0]
    tanh = steps.all_after(state)
    # A recurrence, first step to last: state
    for state_t, matmul_t, tanh_t in zip(
        steps.before(state),
        steps.each(matmul),
        steps.each(tanh),
    ):
        np.dot(state_t, w_1, out=scratch)
        np.add(matmul_t, scratch, out=scratch)
        np.add(scratch, w_2, out=scratch)
        np.tanh(scratch, out=tanh_t)
    return [tanh], [steps.final(state)], [tanh, state]

def backward(steps, pool, xs, states, captured, scalars, constants, draws, held, dys, dstates):
    back = steps.backwards
    x_0 = xs[0]
    dy = dys[0]
    w = captured[1]
    tanh = held[0]
    h = held[1]
    multiply = pool.empty((steps.total, 4), np.float32)
    np.multiply(tanh, tanh, out=multiply)
    subtract = pool.empty((steps.total, 4), np.float32)
    np.subtract(1, multiply, out=subtract)
    carried = np.array(dstates[0], order='C')
    scratch = pool.empty((steps.rows, 4), np.float32)
    multiply_1 = pool.empty((steps.total, 4), np.float32)
    turned = np.ascontiguousarray(w.T)
    # A recurrence, last step to first: carried
    for dy_t, multiply_1_t, subtract_t in zip(
        back.each(dy),
        back.each(multiply_1),
        back.each(subtract),
    ):
        np.add(dy_t, carried, out=scratch)
        np.multiply(scratch, subtract_t, out=multiply_1_t)
        np.dot(multiply_1_t, turned, out=scratch)
        carried[...] = scratch
    product = pool.empty((3, 4), np.float32)
    dot_of_many(np, x_0.T, multiply_1, out=product)
    dw = product
    before = steps.all_before(h)
    product_1 = pool.empty((4, 4), np.float32)
    dot_of_many(np, before.T, multiply_1, out=product_1)
    dw_1 = product_1
    dw_2 = xp.sum(multiply_1, axis=(-2,))
    return [None], [None], [dw, dw_1, dw_2]
"""

KERNELS_TOO = """\
def forward(steps, pool, xs, states, captured, scalars, constants, draws):
    x_0 = xs[0]
    w = captured[0]
    w_1 = captured[1]
    w_2 = captured[2]
    matmul = pool.empty((steps.total, 4), np.float32)
    gemm(threads(), x_0, w, out=matmul)
    state = pool.empty((steps.total + steps.rows, 4), np.float32)
    steps.start(state)[...] = states[0]
    flat = np.ascontiguousarray(w_2)
    # Machine code, first step to last: a product with 4 x 4, a kernel of 2 operations
    loop_0([matmul, w_1, state, flat], steps.table, None, threads())
    tanh = steps.all_after(state)
    return [tanh], [steps.final(state)], [tanh, state]

def backward(steps, pool, xs, states, captured, scalars, constants, draws, held, dys, dstates):
    back = steps.backwards
    x_0 = xs[0]
    dy = dys[0]
    w = captured[1]
    tanh = held[0]
    h = held[1]
    whole = np.ascontiguousarray(dy)
    carried = np.array(dstates[0], order='C')
    whole_1 = np.ascontiguousarray(tanh)
    multiply = pool.empty((steps.total, 4), np.float32)
    permute_dims = w.T
    # Machine code, last step to first: a kernel of 4 operations, a product with 4 x 4
    loop_1([whole, carried, whole_1, multiply, permute_dims], steps.table, None, threads())
    product = pool.empty((3, 4), np.float32)
    gemm(threads(), x_0.T, multiply, out=product)
    dw = product
    before = steps.all_before(h)
    product_1 = pool.empty((4, 4), np.float32)
    gemm(threads(), before.T, multiply, out=product_1)
    dw_1 = product_1
    total = pool.empty((1, 4), np.float32)
    gemm(threads(), np.ones((1, steps.total), np.float32), multiply, out=total)
    dw_2 = total[0]
    return [None], [None], [dw, dw_1, dw_2]
"""


def source(fused: bool) -> str:
    """Without the lines of the user's, which stand behind the program's."""
    with plans_of(fused):
        plan = tg.plan(elman, tg.ones((STEPS, ROWS, INPUTS)), tg.zeros((ROWS, WIDTH)))
    assert "h = tg.tanh(x @ W + h @ U + B)" in plan.source
    return re.sub(r"  # test_golden_program\.py:.*", "", plan.source)


@pytest.mark.parametrize("fused", KERNELS)
def test_an_elman_cell_as_a_program(fused: bool) -> None:
    assert source(fused) == (KERNELS_TOO if fused else NUMPY).rstrip()
