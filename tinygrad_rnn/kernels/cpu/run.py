"""Loops as machine code: the whole of a ``Loop`` runs in one call, without Python's lock.

Rows are independent, so each thread runs all of a loop on rows of its own, and waits for nobody
until the end. The bits of a result do not depend on the number of threads.

``product`` is for the products around a loop what ``gemm.py`` is for those inside: where there are
native loops, all products are its, on the one pool of threads (``threads.py``).
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextvars import copy_context
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from tinygrad_rnn_backends import locks

from ..ir import Kernel, Loop, Product, Slot, Timetable
from . import desks, gemm
from .functions import ELEMENTWISE, REDUCTIONS, SLOW
from .llvm import Code
from .loops import ARRAY_DATA, slots, write_loop
from .threads import (
    SHARE,
    DeskWork,
    attended,
    end_with_process,
    invite,
    run_at_once,
    run_before_end,
    shares,
    sit_at,
)

Array = np.ndarray[Any, Any]

SUPPORTED = frozenset(ELEMENTWISE) | frozenset(REDUCTIONS)
"""The names of instructions that kernels can hold, besides loads, constants and stores."""

DTYPES = frozenset({"float32", "bool"})
"""What slots may hold."""


# This processor.


_compiling = locks.lock()

if hasattr(os, "register_at_fork"):  # what is half compiled would be of no use to a child
    release = _compiling.release
    os.register_at_fork(before=_compiling.acquire, after_in_parent=release, after_in_child=release)


class _Machine:
    """What compiles for this processor, and the functions that multiply matrices on it."""

    def __init__(self) -> None:
        import llvmlite.binding as llvm

        if _address(probe := np.zeros(1)) != probe.ctypes.data:
            raise RuntimeError("NumPy's arrays do not have their data where they are known to")
        taken_in_each_call = getattr(getattr(llvm.ffi.lib, "_lock", None), "_lock", None)
        if taken_in_each_call is not None:
            locks.renew_in_child(taken_in_each_call)
        end_with_process()
        self.llvm = llvm
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features()
        self.features = features.flatten()
        x86 = self.flushing = llvm.get_process_triple().startswith(("x86_64", "i686"))
        self.processor = (
            gemm.Processor(lanes=16, registers=32)
            if features.get("avx512f")
            else gemm.Processor(lanes=8 if features.get("avx2") else 4, registers=16 if x86 else 32)
        )
        engine = self.compile(gemm.library(self.processor))
        self.functions = Functions(engine, self.processor)
        sit_at(self.functions.desk_work)

    def compile(self, functions: Sequence[Code]) -> Any:
        """An execution engine that holds the functions."""
        return run_before_end(self._compile, functions)

    def _compile(self, functions: Sequence[Code]) -> Any:
        with _compiling:
            return self._engine(functions)

    def _engine(self, functions: Sequence[Code]) -> Any:
        llvm = self.llvm
        externals = sorted({text for code in functions for text in code.externals})
        module = llvm.parse_assembly("\n".join([*map(str, functions), *externals]))
        target = llvm.Target.from_default_triple()
        # One for each engine: it is gone when the engine is.
        machine = target.create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=self.features, opt=2, jit=True
        )
        module.triple = target.triple
        module.data_layout = str(machine.target_data)
        # The text is nearly what shall run. More passes took five times as long and gained nothing.
        passes = llvm.create_new_module_pass_manager()
        passes.add_sroa_pass()
        passes.add_instruction_combine_pass()
        options = llvm.create_pipeline_tuning_options(speed_level=1)
        passes.run(module, llvm.create_pass_builder(machine, options))
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        return engine


class Functions:
    """The functions of ``gemm.library`` that are called from outside."""

    def __init__(self, engine: Any, processor: gemm.Processor):
        self._engine = engine  # owns the code
        integer, address = ctypes.c_int64, ctypes.c_void_p
        sizes = (integer,) * 3
        left, result = (address, integer, integer), (address, integer, ctypes.c_bool)
        matrices = (*sizes, *left, address, integer, integer, *result, address)
        self.multiply_address: int = engine.get_function_address("multiply")
        self.pack = ctypes.CFUNCTYPE(None, *sizes[:2], address, integer, integer, address)(
            engine.get_function_address("pack")
        )
        self.product = ctypes.CFUNCTYPE(None, *matrices)(engine.get_function_address("product"))
        self.product_in_parts = ctypes.CFUNCTYPE(None, address, address, integer, *matrices)(
            engine.get_function_address("product_in_parts")
        )
        at_desk = ctypes.CFUNCTYPE(None, address, integer)
        self.desk_work = DeskWork(
            attend=at_desk(engine.get_function_address("attend")),
            send_off=at_desk(engine.get_function_address("send_off")),
            code=engine,
        )
        self.packed_size = processor.packed_size
        self.block_size = self.packed_size(gemm.BLOCK_ROWS, gemm.BLOCK_VECTORS * processor.lanes)
        self.lanes = processor.lanes


@functools.cache
def _machine() -> _Machine:
    return _Machine()


def available() -> str | None:
    """None if loops can be compiled here, else the reason why not."""
    try:
        _machine()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def instruction_set() -> str:
    """What kernels here are compiled to, for people."""
    machine = _machine()
    names = {16: "AVX-512", 8: "AVX2"}
    lanes = machine.processor.lanes
    kind = names.get(lanes, machine.llvm.get_process_triple().partition("-")[0])
    return f"{lanes} float32 at once ({kind}), for {machine.llvm.get_host_cpu_name()}"


def wide() -> bool:
    """Whether this processor adds eight products or more at once."""
    return _machine().processor.lanes >= 8


def _address(array: Array) -> int:
    """Where the data of an array is; ``array.ctypes.data``, but four times as quick."""
    return ctypes.c_void_p.from_address(id(array) + ARRAY_DATA).value or 0


def _allocate_aligned(size: int) -> Array:
    """Uninitialised float32 that begin with a cache line."""
    memory = np.empty(size + 16, np.float32)
    skipped = -memory.ctypes.data % 64 // 4
    return memory[skipped : skipped + size]


# Loops.


class _Packed(NamedTuple):
    """The packed matrices of a loop. Kept from call to call: to touch fresh memory takes longer."""

    array: Array
    address: int
    addresses: Any  # where each statement finds its matrix


class Compiled:
    """A loop as machine code."""

    def __init__(self, functions: Functions, engine: Any, name: str, loop: Loop):
        self._functions = functions
        self._engine = engine  # owns the code
        signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 4)
        self._run = signature(engine.get_function_address(name))
        self._buffers = 1 + max((slot.buffer for slot in slots(loop)), default=-1)
        self._objects: Any = ctypes.py_object * self._buffers
        self._tables: Any = ctypes.py_object * len(Timetable._fields)
        self._matrices: list[tuple[int, Slot, int]] = []  # offset when packed, matrix, its rows
        self._size = 0
        self._users: dict[int, int] = {}  # by statement, the offset of its matrix
        known: dict[tuple[Slot, int], int] = {}
        for n, statement in enumerate(loop.statements):
            if isinstance(statement, Product):
                b, k = statement.b, statement.a.width
                if (b, k) not in known:
                    known[b, k] = self._size
                    self._matrices.append((self._size, b, k))
                    self._size += functions.packed_size(k, b.width)
                self._users[n] = known[b, k]
        self._spare: list[_Packed] = []
        self._statements = len(loop.statements)
        self._nanoseconds = sum(map(_nanoseconds, loop.statements))

    def __call__(
        self, arrays: Sequence[Array], timetable: Timetable, steps: slice | None, threads: int
    ) -> None:
        """Run the steps, all of them if ``steps`` is None, on at most ``threads`` threads.

        ``arrays`` are those that the slots number: C-contiguous, of float32 or bool as the slots
        say; nothing is checked. A matrix of a product may be a transposed view instead.
        """
        run_before_end(self._call, arrays, timetable, steps, threads)

    def _call(
        self, arrays: Sequence[Array], timetable: Timetable, steps: slice | None, threads: int
    ) -> None:
        first, last = 0, len(timetable.count)
        if steps is not None:
            first, last, _ = steps.indices(last)
        if first >= last:
            return
        objects = self._objects(*arrays[: self._buffers])
        tables = self._tables(*timetable)
        try:
            memory = self._spare.pop()
        except IndexError:
            memory = self._memory()
        for offset, matrix, k in self._matrices:
            self._pack(arrays[matrix.buffer], matrix, k, memory.address + 4 * offset)
        count = timetable.count[first:last]
        rows = int(count[0])
        worth = self._nanoseconds * (rows + int(count[-1])) / 2 * (last - first) / SHARE
        threads = min(threads, rows, int(worth))
        if threads > 1:
            run = functools.partial(self._run_rows, objects, tables, memory, first, last)
            parts = pairwise(shares(count, threads))
            run_at_once([functools.partial(run, *share) for share in parts])
        else:
            self._run(objects, tables, memory.addresses, first, last, 0, rows)
        self._spare.append(memory)

    def _run_rows(
        self, objects: Any, tables: Any, memory: _Packed, first: int, last: int, row: int, end: int
    ) -> None:
        """Run steps on some rows; the arguments, and the code of this object, live meanwhile."""
        self._run(objects, tables, memory.addresses, first, last, row, end)

    def _memory(self) -> _Packed:
        array = _allocate_aligned(self._size)
        addresses = (ctypes.c_void_p * self._statements)()
        for n, offset in self._users.items():
            addresses[n] = _address(array) + 4 * offset
        return _Packed(array, _address(array), addresses)

    def _pack(self, array: Array, matrix: Slot, k: int, place: int) -> None:
        row, column = array.strides if array.ndim == 2 else (4 * matrix.stride, 4)
        start = _address(array) + matrix.column * column
        self._functions.pack(matrix.width, k, start, row // 4, column // 4, place)


def _nanoseconds(statement: Kernel | Product) -> float:
    """Roughly how long a statement takes for one row."""
    if isinstance(statement, Product):
        return statement.times * statement.a.width * statement.out.width / 100
    once = sum(i.width * (0.2 if i.name in SLOW else 0.05) for i in statement.instructions)
    return math.prod(statement.lengths) * once


_KEPT = 256
_compiled: OrderedDict[str, list[Compiled]] = OrderedDict()


def compile(loops: Sequence[Loop]) -> list[Compiled]:
    """The loops as machine code, all in one module; those that are the same are compiled once.

    Raises:
        ImportError: without llvmlite; ``available()`` says so beforehand.
    """
    key = repr(loops)  # in which 1 and 1.0 differ
    found = _compiled.get(key)
    if found is None:
        found = _compiled[key] = _compile(loops)
        while len(_compiled) > _KEPT:
            _compiled.popitem(last=False)
    return found


def _compile(loops: Sequence[Loop]) -> list[Compiled]:
    machine = _machine()
    multiply, lanes = machine.functions.multiply_address, machine.processor.lanes
    names = [f"loop{i}" for i in range(len(loops))]
    written = [
        write_loop(*x, multiply, lanes, machine.flushing) for x in zip(names, loops, strict=True)
    ]
    engine = machine.compile([code for functions in written for code in functions])
    return [Compiled(machine.functions, engine, *x) for x in zip(names, loops, strict=True)]


# Products outside loops.


def product(a: Array, b: Array, out: Array, *, threads: int = 1, accumulate: bool = False) -> None:
    """out = a @ b, or out += a @ b, the axes before the last two broadcasting.

    Args:
        a: float32 (..., M, K), with any strides; so may b, but it is quicker with contiguous rows
            or columns.
        b: float32 (..., K, N).
        out: float32 (..., M, N), the rows or the columns of its matrices contiguous; it shares no
            memory with a and b.
        threads: how many share the work at most; the bits of ``out`` do not depend on it.
        accumulate: whether to add to ``out``.

    Raises:
        ValueError: if shapes do not fit together, dtypes differ, or ``out`` is not contiguous.
        ImportError: without llvmlite; ``available()`` says so beforehand.
    """
    functions = _machine().functions
    if out.strides[-1] != 4 and out.strides[-2] == 4:
        a, b, out = b.mT, a.mT, out.mT
    if not (a.flags.aligned and b.flags.aligned):
        a, b = a.copy(), b.copy()
    (m, n), k = out.shape[-2:], a.shape[-1]
    if a.shape[-2] != m or b.shape[-2:] != (k, n) or out.ndim < max(a.ndim, b.ndim):
        raise ValueError(f"product: {a.shape} @ {b.shape} is not of the shape {out.shape}")
    if not a.dtype == b.dtype == out.dtype == _FLOAT32:
        raise ValueError(f"product: {a.dtype} @ {b.dtype} -> {out.dtype} is not all float32")
    if not out.size or not k:
        if not accumulate:
            out[...] = 0
        return
    if out.strides[-1] != 4 and n > 1:
        raise ValueError(f"product: the strides of out are {out.strides}, none of the last two 4")
    work = out.size * k / 100  # nanoseconds, roughly
    many = max(1, min(threads, int(work / SHARE)))
    # The part of another processor comes out of its cache, which counts the more, the fewer terms.
    helpers = min(threads, int(work / AWAKE_SHARE * k / (k + 64)))
    if out.ndim > 2 and many == 1 and not accumulate and m * n * k <= SMALL:
        np.matmul(a, b, out=out)
    elif out.ndim > 2:
        run_before_end(run_at_once, _shares_of_many(functions, accumulate, a, b, out, many))
    elif helpers > 1 and k <= _TERMS and (places := attended(helpers - 1)) is not None:
        run_before_end(_multiply_with_help, functions, accumulate, a, b, out, places, helpers)
    elif many > 1:
        multiply = functools.partial(_multiply, functions, accumulate)
        parts = _parts(a, b, out, many, functions.lanes)
        run_before_end(run_at_once, [functools.partial(multiply, *part) for part in parts])
    else:
        if helpers > 1:
            run_before_end(_ask_for_help, helpers - 1)
        run_before_end(_multiply, functions, accumulate, a, b, out)


Calls = list[Callable[[], None]]
Matrices = tuple[Array, Array, Array]


def _parts(a: Array, b: Array, out: Array, count: int, lanes: int) -> list[Matrices]:
    """A product as several, of parts of the result, which is cut across its longer side."""
    m, n = out.shape
    if m > n:
        return [(a[rows], b, out[rows]) for rows in _cut(m, count)]
    return [(a, b[:, columns], out[:, columns]) for columns in _cut(n, count, lanes)]


def _shares_of_many(
    functions: Functions, accumulate: bool, a: Array, b: Array, out: Array, threads: int
) -> Calls:
    """A call for each thread: some of the products, cut along the longest axis of the batch.

    Small ones are NumPy's, call by call: its BLAS does not share those out among threads of its
    own, and has kernels for them.
    """
    batch = out.shape[:-2]
    a, b = (np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
    axis = max(range(len(batch)), key=batch.__getitem__)
    places = [(slice(None),) * axis + (some,) for some in _cut(batch[axis], threads)]
    parts = [(a[i], b[i], out[i]) for i in places]
    if accumulate or math.prod(a.shape[-2:]) * b.shape[-1] > SMALL:
        each = functools.partial(_multiply_each, functions, accumulate)
        return [functools.partial(each, *part) for part in parts]
    # What floating-point errors do is a matter of the caller's context.
    return [functools.partial(copy_context().run, _multiply_by_numpy, *part) for part in parts]


def _cut(length: int, parts: int, size: int = 1) -> list[slice]:
    """Nearly equal parts of a length, cut between whole pieces of a size."""
    pieces = -(-length // size)
    bounds = [min(length, pieces * i // parts * size) for i in range(parts + 1)]
    return [slice(*part) for part in pairwise(bounds)]


_FLOAT32 = np.dtype(np.float32)
SMALL = 1 << 18
"""A product of at most so many multiplications takes OpenBLAS one thread, and NumPy less time than
a call of ours does."""
_TERMS = 4096  # so many are summed in float32, such sums in float64
AWAKE_SHARE = 7_000
"""As many nanoseconds of a product are worth another thread, if that one is awake."""
_SOON = 200_000  # nanoseconds in which one product follows another
_asked = 0  # when help was asked for
_ROWS_UNPACKED = 64  # up to so many b is read as it is: too few to make up for packing it


def _multiply(functions: Functions, accumulate: bool, a: Array, b: Array, out: Array) -> None:
    if a.shape[1] > _TERMS:
        _multiply_many(functions, accumulate, a, b, out)
    else:
        memory = _packing_memory(functions, out, b)
        functions.product(*_words(accumulate, (a, b, out), memory))


def _multiply_with_help(
    functions: Functions,
    accumulate: bool,
    a: Array,
    b: Array,
    out: Array,
    places: Any,
    threads: int,
) -> None:
    """A product in as many parts, for threads that wait at these desks."""
    memory, parts = _packing_memory(functions, out, b, threads), _blocks.parts
    words = _words(accumulate, (a, b, out), memory)
    functions.product_in_parts(places, parts, threads, *words)


def _ask_for_help(count: int) -> None:
    """Have threads come for the products after this one, where one follows another."""
    global _asked
    before, _asked = _asked, time.perf_counter_ns()
    if _asked - before < _SOON:
        invite(count)


def _words(accumulate: bool, matrices: Matrices, memory: Array | None) -> tuple[int, ...]:
    """What machine code is told of a product."""
    a, b, out = matrices
    (m, n), k = out.shape, a.shape[1]
    (a_row, a_column), (b_row, b_column) = a.strides, b.strides
    return (
        *(m, n, k, _address(a), a_row // 4, a_column // 4, _address(b), b_row // 4, b_column // 4),
        *(_address(out), out.strides[0] // 4, accumulate),
        0 if memory is None else _address(memory),
    )


def _multiply_many(functions: Functions, accumulate: bool, a: Array, b: Array, out: Array) -> None:
    total = out.astype(np.float64) if accumulate else np.zeros(out.shape)
    part = np.empty(out.shape, np.float32)
    for start in range(0, a.shape[1], _TERMS):
        some = slice(start, start + _TERMS)
        _multiply(functions, False, a[:, some], b[some], part)
        total += part
    out[...] = total


def _multiply_each(functions: Functions, accumulate: bool, a: Array, b: Array, out: Array) -> None:
    for i in np.ndindex(out.shape[:-2]):
        _multiply(functions, accumulate, a[i], b[i], out[i])


def _multiply_by_numpy(a: Array, b: Array, out: Array) -> None:
    np.matmul(a, b, out=out)


class _Blocks(threading.local):
    """Memory of each thread for the blocks of matrices that are packed at a time.

    Who uses it holds it, too: a thread that Python abandons loses its own.
    """

    def __init__(self) -> None:
        self.memory: Array = np.empty(0, np.float32)
        self.parts = desks.desks(65)


_blocks = _Blocks()


def _packing_memory(functions: Functions, out: Array, b: Array, count: int = 1) -> Array | None:
    """Where to pack so many blocks of b; None, where for so few rows packing takes longer."""
    if out.shape[0] <= _ROWS_UNPACKED and b.strides[1] == 4:
        return None
    if _blocks.memory.size < count * functions.block_size:
        _blocks.memory = _allocate_aligned(count * functions.block_size)
    return _blocks.memory
