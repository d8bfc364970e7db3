"""Loops on a GPU, by CuPy: at each step one launch for each kernel and each product.

**This has not run on a GPU yet.** Its kernels are compiled, and its logic runs with NumPy and a
made-up cuBLAS in the tests. So ``available`` tries a small loop before anything relies on it, and
where that fails plans run as programs of CuPy operations, and say why.

The subtle point is CUDA graphs. What a loop launches can be recorded and launched again as one
piece, which takes the host no time for each step; but only for the same addresses, and CuPy refuses
its own cuBLAS while it records. So products are called in the library itself, in memory of our own,
and a loop is recorded when it comes with addresses that it had before. Whether that wins is found
out once for each number of steps and rows, on calls that are made anyway: a loop may overwrite what
it reads, so it cannot be run twice. ``TINYGRAD_RNN_CUDA_GRAPHS=0`` records nothing.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from ..ir import Instruction, Kernel, Loop, Product, Slot, Timetable
from .kernels import ELEMENTWISE, PREAMBLE, REDUCTIONS, Source, write_kernel

Array = Any
"""An array of CuPy."""

SUPPORTED = ELEMENTWISE | frozenset(REDUCTIONS)
"""The names of instructions that kernels can hold, besides loads, constants and stores."""

DTYPES = frozenset({"float32", "float64", "bool"})
"""What slots may hold."""


# Products.


class Matrices(NamedTuple):
    """out = a @ b, or out += a @ b, by addresses: all have their rows one below the other.

    From one row to the next it is so many elements: ``a_stride``, ``b_stride``, ``out_stride``; if
    ``transposed``, ``b_stride`` is that from one column of b to the next.
    """

    dtype: str
    columns: int
    inner: int
    a_stride: int
    b: int
    b_stride: int
    transposed: bool
    out_stride: int
    accumulate: bool
    owner: Any  # keeps b alive


class Cublas:
    """Products by a handle of our own, which works in ``workspace`` and nowhere else.

    Raises RuntimeError for whatever the library refuses.
    """

    def __init__(self, library: Any, workspace: tuple[int, int]) -> None:
        self._library = library
        self._workspace = workspace  # address and size
        self._handle = ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        self._gemm: dict[str, tuple[Any, tuple[int, int]]] = {}
        self._numbers: list[Any] = []  # keeps alive what is known by its address
        for dtype, name, kind in (
            ("float32", "cublasSgemm_v2", ctypes.c_float),
            ("float64", "cublasDgemm_v2", ctypes.c_double),
        ):
            zero, one = kind(0), kind(1)
            self._numbers += [zero, one]
            addresses = ctypes.addressof(zero), ctypes.addressof(one)
            self._gemm[dtype] = getattr(library, name), addresses

    def use(self, stream: int) -> None:
        """Make the products that follow part of a stream."""
        self._call("cublasSetStream_v2", self._handle, ctypes.c_void_p(stream))
        # With the stream cuBLAS goes back to memory that it takes from the driver.
        address, size = self._workspace
        self._call(
            "cublasSetWorkspace_v2", self._handle, ctypes.c_void_p(address), ctypes.c_size_t(size)
        )

    def __call__(self, m: Matrices, rows: int, a: int, out: int) -> None:
        """The product with a of so many rows."""
        function, numbers = self._gemm[m.dtype]
        address, integer = ctypes.c_void_p, ctypes.c_int
        # cuBLAS goes by columns: to it these are transposed, and out.T = b.T @ a.T.
        status = function(
            *(self._handle, integer(m.transposed), integer(0)),
            *(integer(m.columns), integer(rows), integer(m.inner), address(numbers[1])),
            *(address(m.b), integer(m.b_stride), address(a), integer(m.a_stride)),
            *(address(numbers[m.accumulate]), address(out), integer(m.out_stride)),
        )
        if status:
            raise RuntimeError(f"cuBLAS: a product failed with status {status}")

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise RuntimeError(f"cuBLAS: {name} failed with status {status}")


# The device.


def library_of(backend: Any) -> Any:
    """The library that the arrays of a backend are from."""
    return sys.modules[backend.array_types[0].__module__]


_recording = threading.Lock()


class Stream(NamedTuple):
    """A stream of CuPy's, and the products on it; to record it there is another one."""

    cuda: Any  # the module
    products: Cublas
    recorder: Any
    recorded_products: Cublas

    def recorded(self, issue: Callable[[Cublas], None]) -> Any:
        """What ``issue(products)`` launches, as a graph; nothing is run."""
        with _recording, self.recorder:
            self.recorded_products.use(self.recorder.ptr)
            self.recorder.begin_capture()
            try:
                issue(self.recorded_products)
            finally:
                graph = self.recorder.end_capture()
        return graph


class Device:
    """What loops need of CuPy."""

    _WORKSPACE = 32 * 2**20  # bytes, as NVIDIA recommends for its newer processors

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self.cuda = cupy.cuda
        self._library = _cublas(cupy.cuda.runtime.runtimeGetVersion() // 1000)
        self._streams: dict[tuple[int, int], tuple[Any, Stream]] = {}
        self._lock = threading.Lock()
        self.records = False  # until it was seen to work

    def functions(self, sources: Sequence[Source]) -> list[Any]:
        """Kernels as functions of (grid, block, arguments), compiled when first called."""
        module = self._cupy.RawModule(code=PREAMBLE + "".join(source.text for source in sources))
        return [module.get_function(source.name) for source in sources]

    def address(self, array: Array) -> int:
        """Where an array begins."""
        address: int = array.data.ptr
        return address

    def array(self, array: np.ndarray[Any, Any]) -> Array:
        """A copy of an array on the device."""
        return self._cupy.array(array)

    def host(self, array: Array) -> np.ndarray[Any, Any]:
        """A copy of an array on the host, once all is done."""
        host: np.ndarray[Any, Any] = array.get()
        return host

    def contiguous(self, array: Array) -> Array:
        """An array with its rows one below the other."""
        return self._cupy.ascontiguousarray(array)

    def stream(self) -> Stream:
        """The current stream."""
        pointer = self.cuda.get_current_stream().ptr
        key = (self.cuda.runtime.getDevice(), pointer)
        with self._lock:
            if key not in self._streams:
                # One workspace serves both, for what is recorded runs on the stream as well.
                memory = self.cuda.alloc(self._WORKSPACE)
                workspace = (memory.ptr, self._WORKSPACE)
                made = [Cublas(self._library, workspace) for _ in range(2)]
                recorder = self.cuda.Stream(non_blocking=True)
                self._streams[key] = memory, Stream(self.cuda, made[0], recorder, made[1])
            stream = self._streams[key][1]
        stream.products.use(pointer)
        return stream


def _cublas(version: int) -> Any:
    """The library, which CuPy has loaded: its backend tries a product first of all."""
    windows = os.name == "nt"
    return ctypes.CDLL(f"cublas64_{version}.dll" if windows else f"libcublas.so.{version}")


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

    def launched(self, cuda: Any, graph: bool, launch: Callable[[], None]) -> None:
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
        self._lock = threading.Lock()

    def run(self, stream: Stream, prepared: Prepared) -> None:
        """Launch it, either way."""
        with self._lock:
            trial = self._trials.setdefault(prepared.structure, _Trial())
            self._trials.move_to_end(prepared.structure)
            _forget(self._trials, self._TRIALS)
            wanted = trial.wants_graph(stream.cuda)
            graph = self._graph(stream, trial, prepared) if wanted else None
        if graph is None:
            trial.launched(stream.cuda, False, lambda: prepared.issue(stream.products))
        else:
            trial.launched(stream.cuda, True, graph.launch)

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
                self._graphs[key] = stream.recorded(prepared.issue)
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
        prepared = self.prepared(arrays, timetable, steps)
        if prepared is not None:
            stream = self._device.stream()
            if self._device.records and os.environ.get("TINYGRAD_RNN_CUDA_GRAPHS") != "0":
                self._recordings.run(stream, prepared)
            else:
                prepared.issue(stream.products)

    def prepared(
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
                launches.append(_OneProduct(matrix))
                places.append(addresses((statement.a, statement.out)))
            else:
                launches.append(_OneKernel(*statement))
                places.append(addresses(statement[0].slots))
        return Prepared(launches, places, timetable.count[order])

    def _matrix(self, array: Array, product: Product) -> Matrices:
        a, b, out, accumulate = product
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
            *(out.dtype, columns, inner, a.stride, self._device.address(array), stride),
            *(transposed, out.stride, accumulate, array),
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
        self.function((rows, self.source.blocks), (self.source.threads,), (rows, *addresses))


class _OneProduct(NamedTuple):
    """A product, likewise."""

    matrices: Matrices

    def __call__(self, products: Cublas, rows: int, addresses: Sequence[int]) -> None:
        products(self.matrices, rows, *addresses)


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


def _tried() -> Loop:
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
    (compiled,) = compile([_tried()], device)
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
    prepared = compiled.prepared([*arrays[:2], arrays[2].T], table)
    assert prepared is not None
    prepared.issue(stream.products)
    if not np.allclose(device.host(arrays[1]), expected, atol=1e-5):
        return "a small loop gave wrong results on this GPU"
    try:
        graph = stream.recorded(prepared.issue)
        for array, start in zip(arrays, (z, h), strict=False):
            array[...] = device.array(start)
        graph.launch()
        device.records = np.allclose(device.host(arrays[1]), expected, atol=1e-5)
    except Exception:  # of many kinds; loops are launched step by step, then
        device.records = False
    return None
