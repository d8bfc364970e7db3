"""Products of a matrix that is nowhere whole: tables say where its rows and columns are.

What windows of an image see is such a matrix, and so is its transpose: a convolution, and what its
derivatives are made of, need no copy of it. Rows come in groups, all of the same number; those of a
group are as far apart as everywhere.

The bits of a result do not depend on how many threads there are.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import gemm
from .run import _TERMS, _address, _allocate_aligned, _cut, _machine
from .threads import SHARE, run_at_once, run_before_end

Array = np.ndarray[Any, Any]

TERMS = _TERMS
"""So many terms are summed in float32, sums of more in float64."""


class Rows(NamedTuple):
    """Where rows are, in elements: int64 (groups,), how many are in each, and how far apart."""

    groups: Array
    count: int  # type: ignore[assignment]  # tuples have a method of this name
    step: int


class _Gathering:
    """The function of ``gemm.gathering`` that is called from outside; compiled when needed."""

    def __init__(self) -> None:
        machine = _machine()
        self._engine = machine.compile(gemm.gathering(machine.processor))  # owns the code
        integer, address = ctypes.c_int64, ctypes.c_void_p
        left, right = (address, address, integer, address), (address, address, address, integer)
        self.multiply = ctypes.CFUNCTYPE(None, *(integer,) * 4, *left, *right)(
            self._engine.get_function_address("gather")
        )
        self.pack = machine.functions.pack
        self.packed_size = machine.processor.packed_size


_gathering = functools.cache(_Gathering)


def product(
    a: Array, rows: Rows, columns: Array, b: Array, out: Array, places: Rows, threads: int
) -> None:
    """The rows of ``out`` at ``places`` = those of a at ``rows``, @ b.

    Args:
        a: float32, C-contiguous, of any shape.
        rows: where rows of a begin.
        columns: int64 (K,), of at most ``TERMS``: how much farther each column is.
        b: float32 (K, N), with any strides.
        out: float32, C-contiguous, of any shape.
        places: where each row of the result begins: N elements, of which none overlap.
        threads: how many share the groups at most.
    """
    gathering = _gathering()
    packed = _packed(gathering, b)
    nanoseconds = len(rows.groups) * rows.count * b.size / 100
    many = max(1, min(threads, int(nanoseconds / SHARE)))
    shares = [
        (rows._replace(groups=rows.groups[some]), places._replace(groups=places.groups[some]))
        for some in _cut(len(rows.groups), many)
    ]
    multiply = functools.partial(_multiply, gathering, a, columns, b.shape[1], packed, out)
    _run([functools.partial(multiply, *share) for share in shares])


def sum_of_products(
    a: Array, rows: Rows, columns: Array, b: Array, out: Array, threads: int
) -> None:
    """``out`` (M, N) = a @ b, with many columns: sums of some of them are added in float64.

    As ``product``, but for the rows of the result, which follow each other.
    """
    gathering = _gathering()
    terms, n = b.shape
    count = max(1, -(-terms // TERMS))
    many = max(1, min(threads, count, int(out.size * terms / 100 / SHARE)))
    parts = np.empty((many, *out.shape), np.float32)
    places = Rows(np.arange(len(rows.groups)) * (rows.count * n), rows.count, n)

    def make(number: int, part: Array) -> None:
        some = slice(terms * number // count, terms * (number + 1) // count)
        packed = _packed(gathering, b[some])
        _multiply(gathering, a, columns[some], n, packed, part, rows, places)

    total = np.zeros(out.shape)
    for first in range(0, count, many):
        numbers = range(first, min(first + many, count))
        _run([functools.partial(make, *each) for each in zip(numbers, parts, strict=False)])
        for part in parts[: len(numbers)]:
            total += part
    out[...] = total


def _run(calls: list[Callable[[], None]]) -> None:
    run_before_end(run_at_once, calls)


def _packed(gathering: _Gathering, b: Array) -> Array:
    k, n = b.shape
    b = b if b.flags.aligned else b.copy()
    memory = _allocate_aligned(gathering.packed_size(k, n))
    row, column = b.strides
    gathering.pack(n, k, _address(b), row // 4, column // 4, _address(memory))
    return memory


def _multiply(
    gathering: _Gathering,
    a: Array,
    columns: Array,
    n: int,
    packed: Array,
    out: Array,
    rows: Rows,
    places: Rows,
) -> None:
    """One call of machine code, which knows addresses only: the arguments live meanwhile."""
    gathering.multiply(
        *(len(rows.groups), rows.count, n, len(columns)),
        *(_address(a), _address(rows.groups), rows.step, _address(columns)),
        *(_address(packed), _address(out), _address(places.groups), places.step),
    )
