"""Loops on a GPU, by CuPy: at each step one launch for each kernel and each product.

**This has not run on a GPU yet.** Its kernels are compiled, and its logic runs with NumPy and a
made-up cuBLAS in the tests. So ``available`` tries a small loop before anything relies on it, and
where that fails plans run as programs of CuPy operations, and say why.

What a loop launches can be recorded and launched again as one piece, a CUDA graph, which takes the
host no time for each step; but only for the same addresses, and CuPy refuses its own cuBLAS while
it records. So products are called in the library itself, in memory of our own, and a loop is
recorded when it comes with addresses that it had before. Whether that wins is found out once for
each number of steps and rows, on calls that are made anyway: a loop may overwrite what it reads, so
it cannot be run twice. ``TINYGRAD_RNN_CUDA_GRAPHS=0`` records nothing.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends
from tinygrad_rnn_backends import locks

from .. import settings
from ..ir import Instruction, Kernel, Loop, Product, Slot, Timetable
from .cublas import Cublas, Matrices
from .device import Array, Device, Stream, library_of
from .kernels import ELEMENTWISE, REDUCTIONS, Source, write_kernel

SUPPORTED = ELEMENTWISE | frozenset(REDUCTIONS)
"""The names of instructions that kernels can hold, besides loads, constants and stores."""

DTYPES = frozenset({"float32", "float64", "bool"})
"""What slots may hold."""


# Graphs.


class _Trial:
    """Two ways of launching a loop, timed by turns until each has been seen often enough."""

    _TIMES = 4

    def __init__(self) -> None:
        self.graph_wins: bool | None = None
        self._pending: list[tuple[bool, Any, Any]] = []
        self._times: dict[bool, list[float]] = {False: [], True: []}

    def wants_graph(self, cuda: Any) -> bool:
        """Whether the next call shall be of a graph, if there is one."""
        if self.graph_wins is None:
            for timed in [x for x in self._pending if x[2].done]:
                self._pending.remove(timed)
                graph, start, end = timed
                self._times[graph].append(cuda.get_elapsed_time(start, end))
            plain, graphs = self._times[False], self._times[True]
            if min(len(plain), len(graphs)) < self._TIMES:
                return len(graphs) < len(plain)
            self.graph_wins = min(graphs) < min(plain)
        return self.graph_wins

    def launch_timed(self, cuda: Any, graph: bool, launch: Callable[[], None]) -> None:
        """Launch, and time it if that is still of interest."""
        waiting = sum(way is graph for way, _, _ in self._pending)
        if self.graph_wins is not None or len(self._times[graph]) + waiting >= self._TIMES:
            launch()
            return
        start, end = cuda.Event(), cuda.Event()
        start.record()
        launch()
        end.record()
        self._pending.append((graph, start, end))


class _Recordings:
    """The graphs of one loop, as far as they win."""

    _KEPT, _TRIALS = 8, 64

    def __init__(self) -> None:
        self._graphs: OrderedDict[Any, Any] = OrderedDict()
        self._trials: OrderedDict[Any, _Trial] = OrderedDict()
        self._lock = locks.lock()

    def run(self, stream: Stream, prepared: Prepared) -> None:
        """Launch it, either way."""
        with self._lock:
            trial = self._trials.setdefault(prepared.structure, _Trial())
            self._trials.move_to_end(prepared.structure)
            _forget(self._trials, self._TRIALS)
            wanted = trial.wants_graph(stream.cuda)
            graph = self._graph(stream, trial, prepared) if wanted else None
        if graph is None:
            trial.launch_timed(stream.cuda, False, lambda: prepared.issue(stream.products))
        else:
            trial.launch_timed(stream.cuda, True, graph.launch)

    def _graph(self, stream: Stream, trial: _Trial, prepared: Prepared) -> Any:
        """The recording of a loop that comes for the second time, if it can be recorded."""
        key = (id(stream), prepared.key)
        if key not in self._graphs:
            self._graphs[key] = None
            _forget(self._graphs, self._KEPT)
            return None
        self._graphs.move_to_end(key)
        if self._graphs[key] is None:
            try:
                self._graphs[key] = stream.record(prepared.issue)
            except Exception:  # of many kinds; what is launched step by step still works
                trial.graph_wins = False
        return self._graphs[key]


def _forget(entries: OrderedDict[Any, Any], bound: int) -> None:
    while len(entries) > bound:
        entries.popitem(last=False)


# Loops.


class Compiled:
    """A loop whose kernels are functions of a device."""

    def __init__(self, device: Any, loop: Loop, kernels: Sequence[tuple[Source, Any]]) -> None:
        self._device = device
        self._backwards = loop.backwards
        of_kernels = iter(kernels)
        self._statements = [
            statement if isinstance(statement, Product) else next(of_kernels)
            for statement in loop.statements
        ]
        self._recordings = _Recordings()

    def __call__(
        self, arrays: Sequence[Array], timetable: Timetable, steps: slice | None, threads: int
    ) -> None:
        """Run the steps, all of them if ``steps`` is None; ``threads`` is for other machines.

        ``arrays`` are those that the slots number: C-contiguous, of the dtypes that the slots say;
        nothing is checked. A matrix of a product may be a view of any strides. Returns before the
        device is done.
        """
        prepared = self.prepare(arrays, timetable, steps)
        if prepared is not None:
            stream = self._device.stream()
            if self._device.records and settings.switch("TINYGRAD_RNN_CUDA_GRAPHS") is not False:
                self._recordings.run(stream, prepared)
            else:
                prepared.issue(stream.products)

    def prepare(
        self, arrays: Sequence[Array], timetable: Timetable, steps: slice | None = None
    ) -> Prepared | None:
        """What a call launches; None if there is nothing to do."""
        order = np.arange(len(timetable.count))[slice(None) if steps is None else steps]
        order = order[:: -1 if self._backwards else 1]
        order = order[timetable.count[order] > 0]
        if not len(order):
            return None
        first_row = {
            "step": timetable.step[order],
            "before": timetable.before[order],
            "after": timetable.after[order],
            "each": timetable.index[order],
            "rows": np.zeros_like(order),
            "all": np.zeros_like(order),
        }
        bases = [self._device.address(array) for array in arrays]

        def addresses(slots: Sequence[Slot]) -> Any:
            columns = [
                bases[slot.buffer]
                + (first_row[slot.place] * slot.stride + slot.column)
                * np.dtype(slot.dtype).itemsize
                for slot in slots
            ]
            return np.stack(columns, axis=1)

        launches: list[Launch] = []
        places = []
        for statement in self._statements:
            if isinstance(statement, Product):
                matrix = self._matrix(arrays[statement.b.buffer], statement)
                launches.append(_OneProduct(matrix, statement.times))
                places.append(addresses((statement.a, statement.out)))
            else:
                launches.append(_OneKernel(*statement))
                places.append(addresses(statement[0].slots))
        return Prepared(launches, places, timetable.count[order])

    def _matrix(self, array: Array, product: Product) -> Matrices:
        a, b, out, accumulate, times = product
        array = array[:, b.column : b.column + b.width]
        item = array.dtype.itemsize
        row, column = (stride // item for stride in array.strides)
        inner, columns = array.shape
        transposed = column != 1 and row == 1 and column >= inner
        if not transposed and not (column == 1 and row >= columns):
            array = self._device.contiguous(array)
            row, column = columns, 1
        stride = max(column, inner) if transposed else max(row, columns)
        return Matrices(
            *(out.dtype, columns, inner, a.stride // times, self._device.address(array), stride),
            *(transposed, out.stride // times, accumulate, array),
        )


class Prepared(NamedTuple):
    """The launches of all steps."""

    launches: list[Launch]
    places: list[Any]  # the addresses that each is given: (steps, slots)
    count: Any  # of rows at each step

    def issue(self, products: Cublas) -> None:
        """Launch them, on the current stream."""
        of_steps = zip(self.count.tolist(), *(x.tolist() for x in self.places), strict=True)
        for rows, *addresses in of_steps:
            for launch, given in zip(self.launches, addresses, strict=True):
                launch(products, rows, given)

    @property
    def structure(self) -> Any:
        """How many rows at how many steps: what the time depends on."""
        return self.count.tobytes()

    @property
    def key(self) -> Any:
        """All that a recording of it depends on."""
        matrices = [x.matrices[:-1] for x in self.launches if isinstance(x, _OneProduct)]
        return self.structure, tuple(x.tobytes() for x in self.places), tuple(matrices)


class _OneKernel(NamedTuple):
    """A kernel, launched for the rows of a step."""

    source: Source
    function: Any

    def __call__(self, products: Cublas, rows: int, addresses: Sequence[int]) -> None:
        grid = (rows * self.source.times, self.source.blocks)
        self.function(grid, (self.source.threads,), (rows, *addresses))


class _OneProduct(NamedTuple):
    """A product, likewise."""

    matrices: Matrices
    times: int

    def __call__(self, products: Cublas, rows: int, addresses: Sequence[int]) -> None:
        products(self.matrices, rows * self.times, *addresses)


Launch = _OneKernel | _OneProduct


def compile(loops: Sequence[Loop], device: Any = None) -> list[Compiled]:
    """Functions that run the loops: called with arrays, a timetable, steps and threads.

    Their kernels are one module, compiled when the first of them is launched. Raises what CuPy
    raises; ``available()`` says so beforehand.
    """
    device = _device() if device is None else device
    sources = [
        [
            write_kernel(f"loop{number}_kernel{n}", statement)
            for n, statement in enumerate(loop.statements)
            if isinstance(statement, Kernel)
        ]
        for number, loop in enumerate(loops)
    ]
    functions = iter(device.functions([source for each in sources for source in each]))
    return [
        Compiled(device, loop, [(source, next(functions)) for source in each])
        for loop, each in zip(loops, sources, strict=True)
    ]


def gemm(threads: int, a: Array, b: Array, out: Array) -> None:
    """out = a @ b, for products around loops; ``out`` is contiguous."""
    a.dot(b, out)


# Whether it works.


@functools.cache
def _device() -> Device:
    return Device(library_of(backends.get("cupy")))


@functools.cache
def available() -> str | None:
    """None if loops run on the GPU and come out right, else the reason why not."""
    try:
        return wrong(_device())
    except Exception as error:  # of many kinds: the driver, the compiler, a library
        return f"{type(error).__name__}: {error}"


def _trial_loop() -> Loop:
    """A state after = tanh(z) + sum(z), where z = step + before @ weights."""
    z = Slot(0, "step", 0, 4, 4)
    before, after = Slot(1, "before", 0, 3, 3), Slot(1, "after", 0, 3, 3)
    kernel = (
        Instruction("load", (), 4, z),
        Instruction("sum", (0,), 1),
        Instruction("load", (), 3, z._replace(width=3)),
        Instruction("tanh", (2,), 3),
        Instruction("add", (3, 1), 3),
        Instruction("store", (4,), 3, after),
    )
    return Loop((Product(before, Slot(2, "all", 0, 4, 4), z, True), Kernel(kernel)), False)


def wrong(device: Any) -> str | None:
    """What is wrong with a small loop on a device, if anything. It learns whether it can record."""
    (compiled,) = compile([_trial_loop()], device)
    three, one = np.array([0, 3]), np.array([3, 1])
    table = Timetable(three, three, three + 3, one, np.arange(2))
    weights = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    z, h = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4), np.zeros((7, 3), np.float32)
    expected = h.copy()
    for step, before, after, count in zip(*table[:4], strict=True):
        total = z[step : step + count] + expected[before : before + count] @ weights.T
        expected[after : after + count] = np.tanh(total[:, :3]) + total.sum(1, keepdims=True)
    stream = device.stream()
    arrays = [device.array(x) for x in (z, h, weights)]
    prepared = compiled.prepare([*arrays[:2], arrays[2].T], table)
    assert prepared is not None
    prepared.issue(stream.products)
    if not np.allclose(device.host(arrays[1]), expected, atol=1e-5):
        return "a small loop gave wrong results on this GPU"
    try:
        graph = stream.record(prepared.issue)
        for array, start in zip(arrays, (z, h), strict=False):
            array[...] = device.array(start)
        graph.launch()
        device.records = np.allclose(device.host(arrays[1]), expected, atol=1e-5)
    except Exception:  # of many kinds; loops are launched step by step, then
        device.records = False
    return None
