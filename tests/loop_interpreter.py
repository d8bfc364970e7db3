"""Loops of kernels and products, carried out step by step in NumPy: a compiler that compiles not.

``Interpreting`` stands in for a machine's compiler, for float64 too, so that what a schedule, its
storage and its lowering make of a cell is compared with the cell to float64's rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from both_ways import forget_plans
from cuda_stand_in import FUNCTIONS, by_column
from tinygrad_rnn.kernels.ir import BY_COLUMN, STORES, Kernel, Loop, Product, Slot, Timetable
from tinygrad_rnn.kernels.machine import machine_of
from tinygrad_rnn.planner import compile as pipeline

Array = np.ndarray[Any, Any]
OF_NUMPY = {**FUNCTIONS, "where": np.where}


def rows_of(slot: Slot, arrays: list[Array], table: Timetable, t: int, *lengths: int) -> Array:
    """What a slot is at a step, (rows, *lengths of the kernel's axes, columns): a view."""
    array = arrays[slot.buffer]
    assert array.dtype == slot.dtype
    if slot.place == "all":
        array = np.ascontiguousarray(array)
        first, count = 0, 1
    else:
        assert array.flags.c_contiguous
        each = {"rows": 0, "each": int(table.index[t])}
        first = each[slot.place] if slot.place in each else int(getattr(table, slot.place)[t])
        count = 1 if slot.place == "each" else int(table.count[t])
    shape = (count, *lengths, slot.width)
    strides = [n * array.itemsize for n in (slot.stride, *slot.along, slot.step)]
    flat = array.reshape(-1)[first * slot.stride + slot.column :]
    last = sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    assert last < flat.size * array.itemsize, "a slot reaches beyond its array"
    return np.lib.stride_tricks.as_strided(flat, shape, strides)


def run(loop: Loop, arrays: list[Array], table: Timetable) -> None:
    """All steps."""
    steps = range(len(table.count))
    for t in reversed(steps) if loop.backwards else steps:
        for statement in loop.statements:
            if isinstance(statement, Kernel):
                run_kernel(statement, arrays, table, t)
            else:
                run_product(statement, arrays, table, t)


def run_product(product: Product, arrays: list[Array], table: Timetable, t: int) -> None:
    """One step."""
    a, out = (
        rows_of(x._replace(along=(x.stride // product.times,)), arrays, table, t, product.times)
        for x in (product.a, product.out)
    )
    b = arrays[product.b.buffer][:, product.b.column : product.b.column + product.b.width]
    out[...] = out + a @ b if product.accumulate else a @ b


def run_kernel(kernel: Kernel, arrays: list[Array], table: Timetable, t: int) -> None:
    """The rows of one step; nothing is stored before all is loaded."""
    values: list[Any] = []
    stores = []
    for i in kernel.instructions:
        if i.name in BY_COLUMN:
            inputs = [values[x] for x in i.operands]
            values.append(by_column(i, inputs, lambda s: rows_of(s, arrays, table, t)))
        elif i.name == "load":
            values.append(rows_of(i.argument, arrays, table, t, *kernel.lengths).copy())
        elif i.name == "constant":
            values.append(i.argument)
        elif i.name in STORES:
            out = rows_of(i.argument, arrays, table, t, *kernel.lengths)
            value = np.broadcast_to(values[i.operands[0]], out.shape)
            axes = tuple([axis + 1 for axis in kernel.reduced_axes(i)])
            if STORES[i.name] is not None:
                value = getattr(value, STORES[i.name] or "")(axes, keepdims=True)
            out = out[tuple(slice(1) if n in axes else slice(None) for n in range(out.ndim))]
            stores.append((out, value))
            values.append(None)
        else:
            with np.errstate(all="ignore"):
                value = OF_NUMPY[i.name](*[values[x] for x in i.operands])
            values.append(np.broadcast_to(value, (*value.shape[:-1], i.width)))
    for out, value in stores:
        out[...] = value


class Interpreting:
    """What ``Machine.compiler`` is asked for."""

    SUPPORTED = frozenset(OF_NUMPY)
    DTYPES = frozenset({"float32", "float64", "bool"})

    def __init__(self) -> None:
        self.loops: list[Loop] = []

    def available(self) -> None:
        """It is."""

    def compile(self, loops: list[Loop]) -> list[Any]:
        """Functions that run them."""
        self.loops += loops

        def compiled(loop: Loop) -> Any:
            return lambda arrays, table, context, threads: run(loop, arrays, table)

        return [compiled(loop) for loop in loops]


@contextmanager
def interpreted() -> Iterator[Interpreting]:
    """Plans are prepared anew in this block, and their loops interpreted."""
    compiler = Interpreting()

    def machine(backend: Any) -> Any:
        return replace(machine_of(backend), compiler=compiler, gemm=_gemm)  # type: ignore[type-var]

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TINYGRAD_RNN_JIT", raising=False)
        patch.setattr(pipeline, "machine_of", machine)
        forget_plans()
        yield compiler
    forget_plans()


def _gemm(threads: int, a: Array, b: Array, out: Array) -> None:
    np.matmul(a, b, out=out)
