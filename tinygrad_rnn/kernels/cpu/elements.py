"""Formulas as machine code: the same arithmetic on each element of many arrays, in one call.

Arrays of all shapes are cut into chunks, numbered through, and each thread runs over chunks of its
own. A chunk is summed by itself, so the bits of a result do not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..ir import Formula
from .functions import APPROXIMATED, ELEMENTWISE, SLOW, Reduction
from .llvm import FLOATING, Code, Value, vector
from .loops import ARRAY_DATA
from .run import _machine
from .threads import SHARE, run_at_once, run_before_end

Array = np.ndarray[Any, Any]

CHUNK = 4096  # elements
_TOTAL = Reduction(0.0, lambda x, y: x + y)


def _write(name: str, formula: Formula, lanes: int) -> list[Code]:
    """The function of a formula, called ``name``, and that of one chunk before it.

    It takes the addresses of the array objects, those of the first set first; the number of
    elements of each set; the numbers; and where to put the sum of each chunk. To the number at
    ``check`` it adds all checked values after a product with 0.
    """
    code = Code(
        f"define void @{name}(ptr %objects, ptr %sizes, ptr %numbers, ptr %sums, "
        "i64 %check, i64 %count, i64 %first, i64 %last)"
    )
    check = code.address("%numbers", "%check")
    before = code.variable("i64")
    code.do(f"store i64 0, ptr {before}")
    with code.loop(0, "%count") as n:
        size = code.entry("%sizes", n)
        skipped = code.entry(before, 0)
        chunks = code.integer("sdiv", code.integer("add", size, CHUNK - 1), CHUNK)
        first = code.larger(code.integer("sub", "%first", skipped), 0)
        last = code.smaller(code.integer("sub", "%last", skipped), chunks)
        with code.loop(first, last) as chunk:
            start = code.integer("mul", chunk, CHUNK)
            length = code.smaller(code.integer("sub", size, start), CHUNK)
            total = code.address("%sums", code.integer("add", skipped, chunk), "double")
            addresses = ""
            for i in range(formula.arrays):
                place = code.integer("add", code.integer("mul", n, formula.arrays), i)
                array = code.entry("%objects", place, "ptr")
                data = code.entry(code.address(array, ARRAY_DATA, "i8"), 0, "ptr")
                addresses += f", ptr {code.address(data, start)}"
            code.do(
                f"call void @{name}.chunk(i64 {length}, ptr %numbers, ptr {total}, "
                f"ptr {check}{addresses})"
            )
        code.do(f"store i64 {code.integer('add', skipped, chunks)}, ptr {before}")
    return [_ChunkWriter(f"{name}.chunk", formula, lanes).write(), code]


class _ChunkWriter:
    """Writes a formula as a function of a number of elements, and of where each array's are."""

    def __init__(self, name: str, formula: Formula, lanes: int) -> None:
        self.instructions = formula.instructions
        self.lanes = lanes
        self.sums = formula.sums
        addresses = "".join(f", ptr %array{i}" for i in range(formula.arrays))
        self.code = Code(
            f"define internal void @{name}(i64 %length, ptr %numbers, ptr %sum, "
            f"ptr %check{addresses})"
        )
        self.code.fused = False  # everything rounds as in NumPy, but for what is approximated

    def write(self) -> Code:
        """The function: a loop over vectors, and another over what is left."""
        code, lanes = self.code, self.lanes
        self.totals = {n: [code.variable(vector(kind, n)) for kind in FLOATING] for n in (lanes, 1)}
        for n, places in self.totals.items():
            for kind, place in zip(FLOATING, places, strict=True):
                code.store(code.constant(0, n, kind), place)
        numbers = {
            i.argument: code.load(code.address("%numbers", i.argument))
            for i in self.instructions
            if i.name == "number"
        }
        whole = code.integer("mul", code.integer("sdiv", "%length", lanes), lanes)
        with code.loop(0, whole, lanes) as element:
            self._elements(element, lanes, numbers)
        with code.loop(whole, "%length") as element:
            self._elements(element, 1, numbers)
        both = self.totals[lanes], self.totals[1]
        check, total = (
            _TOTAL.lanes(code.load(both[0][i], lanes, kind)) + code.load(both[1][i], 1, kind)
            for i, kind in enumerate(FLOATING)
        )
        code.store(code.load("%check") + check, "%check")
        if self.sums:
            code.store(total, "%sum")
        return code

    def _elements(self, element: str, lanes: int, numbers: dict[int, Value]) -> None:
        """Write all instructions for the elements that begin with ``element``."""
        code = self.code
        check, total = self.totals[lanes]
        nothing = code.constant(0, lanes)  # the sum of what is checked after a product with 0
        values: list[Value] = []
        stores: list[tuple[Value, str]] = []
        for i in self.instructions:
            operands = [values[x] for x in i.operands]
            if i.name == "load":
                value = code.load(code.address(f"%array{i.argument}", element), lanes)
            elif i.name == "number":
                value = numbers[i.argument]
            elif i.name == "store":
                value = operands[0].floating().spread(lanes)
                stores.append((value, code.address(f"%array{i.argument}", element)))
            elif i.name == "check":
                code.fused = True
                value = nothing = operands[0].floating() * 0 + nothing
                code.fused = False
            elif i.name == "squares":
                value = operands[0].floating().double().spread(lanes)
                code.store(code.load(total, lanes, "double") + value * value, total)
            else:
                code.fused = i.name in APPROXIMATED
                value = ELEMENTWISE[i.name](*operands)
                code.fused = False
            values.append(value)
        code.store(code.load(check, lanes) + nothing, check)
        for value, place in stores:  # last: they may overwrite what was loaded
            code.store(value, place)


class Outcome(NamedTuple):
    """What running a formula tells: whether all that it checks is finite, and a sum of squares."""

    finite: bool
    squares: float


class Elements:
    """A formula as machine code."""

    def __init__(self, formula: Formula) -> None:
        machine = _machine()
        written = _write("formula", formula, machine.processor.lanes)
        self._engine = machine.compile(written)  # owns the code
        self._arrays, self._sums = formula.arrays, formula.sums
        self._run = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 4)(
            self._engine.get_function_address("formula")
        )
        slow = sum(i.name in SLOW for i in formula.instructions)
        self._nanoseconds = 0.05 * formula.arrays + 0.1 * slow  # roughly, for each element

    def __call__(self, arrays: Sequence[Array], numbers: Sequence[float], threads: int) -> Outcome:
        """Run it on arrays, those of the first element of the formula's first, then of the next...

        They are float32 and C-contiguous, all of one set of the same size; nothing is checked.
        """
        return run_before_end(self._call, arrays, numbers, threads)

    def _call(self, arrays: Sequence[Array], numbers: Sequence[float], threads: int) -> Outcome:
        sizes = [array.size for array in arrays[:: self._arrays]]
        elements = sum(sizes)
        threads = min(threads, int(self._nanoseconds * elements / SHARE))
        chunks = sum([(size + CHUNK - 1) // CHUNK for size in sizes])
        sums = _table(ctypes.c_double, chunks)() if self._sums else ()
        # The numbers, and behind them a check for each thread.
        floats = _table(ctypes.c_float, len(numbers) + max(1, threads))(*numbers)
        given = (
            _table(ctypes.py_object, len(arrays))(*arrays),
            _table(ctypes.c_int64, len(sizes))(*sizes),
            floats,
            sums or None,
        )
        if threads > 1:
            run = functools.partial(self._run_chunks, given)
            bounds = pairwise([chunks * i // threads for i in range(threads + 1)])
            parts = zip(range(len(numbers), len(floats)), bounds, strict=True)
            run_at_once([functools.partial(run, check, len(sizes), *part) for check, part in parts])
        else:
            self._run_chunks(given, len(numbers), len(sizes), 0, chunks)
        return Outcome(not any(floats[len(numbers) :]), math.fsum(sums))

    def _run_chunks(
        self, given: tuple[Any, ...], check: int, count: int, first: int, last: int
    ) -> None:
        """Run over some chunks; the arguments, and the code of this object, live meanwhile."""
        self._run(*given, check, count, first, last)


@functools.lru_cache(maxsize=256)
def _table(kind: Any, length: int) -> Any:
    """The type of an array of so many; Python takes a while to make one."""
    return kind * length


def compile(formula: Formula) -> Elements:
    """A formula as machine code.

    Raises:
        ImportError: without llvmlite; ``run.available()`` says so beforehand.
    """
    return Elements(formula)
