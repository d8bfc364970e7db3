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
from tinygrad_rnn.kernels.ir import BY_COLUMN, Kernel, Loop, Slot, Timetable
from tinygrad_rnn.kernels.machine import machine_of
from tinygrad_rnn.planner import compile as pipeline

Array = np.ndarray[Any, Any]
OF_NUMPY = {**FUNCTIONS, "where": np.where}


def rows_of(slot: Slot, arrays: list[Array], table: Timetable, t: int) -> Array:
    """The columns of a slot at a step: a view."""
    array = arrays[slot.buffer]
    assert array.dtype == slot.dtype
    if slot.place == "all":
        array, rows = array.reshape(1, -1), slice(0, 1)
    elif slot.place == "each":
        array, index = array.reshape(-1, slot.stride), int(table.index[t])
        rows = slice(index, index + 1)
    else:
        assert array.flags.c_contiguous
        array = array.reshape(-1, slot.stride)
        first = 0 if slot.place == "rows" else int(getattr(table, slot.place)[t])
        rows = slice(first, first + int(table.count[t]))
    return array[rows, slot.column : slot.column + slot.width]


def run(loop: Loop, arrays: list[Array], table: Timetable) -> None:
    """All steps."""
    steps = range(len(table.count))
    for t in reversed(steps) if loop.backwards else steps:
        for statement in loop.statements:
            if isinstance(statement, Kernel):
                run_kernel(statement, arrays, table, t)
                continue
            a = rows_of(statement.a, arrays, table, t)
            out = rows_of(statement.out, arrays, table, t)
            product = a @ arrays[statement.b.buffer]
            out[...] = out + product if statement.accumulate else product


def run_kernel(kernel: Kernel, arrays: list[Array], table: Timetable, t: int) -> None:
    """The rows of one step; nothing is stored before all is loaded."""
    values: list[Any] = []
    stores = []
    for instruction in kernel.instructions:
        name, operands, width, argument = instruction
        if name in BY_COLUMN:
            inputs = [values[i] for i in operands]
            values.append(by_column(instruction, inputs, lambda s: rows_of(s, arrays, table, t)))
        elif name == "load":
            values.append(rows_of(argument, arrays, table, t).copy())
        elif name == "constant":
            values.append(argument)
        elif name == "store":
            stores.append((rows_of(argument, arrays, table, t), values[operands[0]]))
            values.append(None)
        else:
            with np.errstate(all="ignore"):
                values.append(OF_NUMPY[name](*[values[i] for i in operands]))
            assert values[-1].shape[-1] in (1, width)
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
