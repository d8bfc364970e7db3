"""What stands in for a GPU where there is none: memory, kernels, cuBLAS, streams, and CuPy.

Nothing here is a GPU, and a test that uses it is no test on one. But ``gpu.run`` cannot tell: what
it hands over are addresses, grids and numbers in the order of columns, and here they are believed.
``Interpreter`` carries out what a kernel was made of; ``Compiler`` runs its text, through g++ and
a few lines that say what CUDA's words mean.

The subtle point are the threads of a block. Each is a coroutine, and runs until it waits: for those
of its warp when they exchange values, for all at a barrier. The first thread runs ahead of all that
it does not wait for, as does the first warp, so that a barrier that is missing is seen; one that
not all threads reach stops the program.
"""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_rnn_backends as backends
from tinygrad_rnn import random
from tinygrad_rnn.kernels.gpu import cublas
from tinygrad_rnn.kernels.gpu.kernels import C_TYPES, PREAMBLE, Source
from tinygrad_rnn.kernels.ir import BY_COLUMN, STORES, Instruction, Slot

Array = np.ndarray[Any, Any]


def elements_at(address: int, shape: Sequence[int], strides: Sequence[int], dtype: str) -> Array:
    """The array at an address, with so many elements from one index to the next of each axis."""
    item = np.dtype(dtype).itemsize
    size = (1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))) * item
    memory = np.frombuffer((ctypes.c_char * size).from_address(address), dtype)
    return np.lib.stride_tricks.as_strided(memory, shape, [stride * item for stride in strides])


def at(address: int, rows: int, columns: int, stride: int, dtype: str) -> Array:
    """A matrix."""
    return elements_at(address, (rows, columns), (stride, 1), dtype)


# Kernels.

_OF_NUMPY = (
    "add subtract multiply divide negative abs sign exp expm1 log log1p sqrt square pow sin cos "
    "tanh maximum minimum floor ceil trunc round equal not_equal less less_equal greater "
    "greater_equal isnan isinf isfinite logical_and logical_or logical_xor logical_not"
)
FUNCTIONS: dict[str, Callable[..., Array]] = {
    **{name: getattr(np, name) for name in _OF_NUMPY.split()},
    "erf": lambda x: np.vectorize(math.erf, otypes=[x.dtype])(x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(x, x.dtype.type(0)),
    "relu": lambda x: np.maximum(x, 0),
    "sum": lambda x: x.sum(-1, keepdims=True),
    "max": lambda x: x.max(-1, keepdims=True),
}


def by_column(
    instruction: Instruction, inputs: Sequence[Array], rows: Callable[[Slot], Array]
) -> Array:
    """An instruction that knows columns by their numbers; ``rows`` finds those of a slot."""
    name, _, width, argument = instruction
    if name == "pick":
        return np.take_along_axis(rows(argument), inputs[0], axis=-1)
    columns = np.arange(width)
    if name == "place":
        return np.where(columns == inputs[0], inputs[1], np.zeros_like(inputs[1]))
    seed, call, site, step, row, block = np.broadcast_arrays(*inputs)
    last = 4 * int(block.max()) + width
    drawn = random._uniform(
        backends.get("numpy"),
        (len(row), last),
        (int(seed[0, 0]), int(call[0, 0])),
        int(site[0, 0]),
        step[:, 0],
        row[:, 0],
    )
    return np.take_along_axis(drawn, 4 * block + columns, axis=-1)


OF_BOOLEANS = ("logical_and", "logical_or", "logical_xor", "logical_not")


class Interpreter:
    """A kernel, carried out in NumPy for all its threads at once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.dtype = np.dtype(
            "float64" if any(s.dtype == "float64" for s in source.slots) else "float32"
        )

    def __call__(self, grid: Any, block: Any, arguments: Sequence[int]) -> None:
        source = self.source
        rows, *addresses = arguments
        widest = max(width for _, width in source.kernel.levels())
        assert (*grid, *block) == (rows * source.times, source.blocks, source.threads)
        assert grid[1] == 1 or grid[1] * block[0] >= widest
        places = dict(zip(source.slots, addresses, strict=True))
        lengths = source.kernel.lengths

        def matrix(slot: Slot) -> Array:
            once = slot.place in ("each", "all")
            shape = (1 if once else rows, *lengths, slot.width)
            strides = (slot.stride, *slot.along, slot.step)
            return elements_at(places[slot], shape, strides, slot.dtype)

        values: list[Array] = []
        for i in source.kernel.instructions:
            name, inputs = i.name, [values[x] for x in i.operands]
            if name == "load":
                values.append(matrix(i.argument).copy())
            elif name in BY_COLUMN:
                values.append(by_column(i, inputs, matrix))
            elif name == "constant":
                values.append(np.full((1,) * (len(lengths) + 2), i.argument, self.dtype))
            elif name in STORES:
                out = matrix(i.argument)
                value = np.broadcast_to(inputs[0], out.shape)
                axes = tuple([x + 1 for x in source.kernel.reduced_axes(i)])
                if axes:
                    value = getattr(value, STORES[name] or "")(axes, keepdims=True)
                out[tuple(slice(1) if x in axes else slice(None) for x in range(out.ndim))] = value
                values.append(inputs[0])
            elif name in OF_BOOLEANS:
                values.append(FUNCTIONS[name](*(x != 0 for x in inputs)))
            elif name == "where":
                values.append(np.where(inputs[0] != 0, *inputs[1:]))
            else:
                inputs = [np.broadcast_to(x.astype(self.dtype), x.shape) for x in inputs]
                with np.errstate(all="ignore"):
                    value = FUNCTIONS[name](*inputs)
                values.append(np.broadcast_to(value, (*value.shape[:-1], i.width)))


CUDA_IN_CPP = """
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#define __global__
#define __device__
#define __shared__ static

struct Index { int x, y; };
static Index threadIdx, blockIdx, blockDim;
static double __longlong_as_double(long long bits) {
    double number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

enum { MOST = 256, STACK = 1 << 15 };
static ucontext_t scheduler, threads[MOST];
static char stacks[MOST][STACK];
static enum { RUNS, WAITS_FOR_WARP, WAITS_FOR_BLOCK, DONE } states[MOST];
static void (*run)(void);

static void leave(int state) {
    int me = threadIdx.x;
    states[me] = (decltype(RUNS))state;
    swapcontext(&threads[me], &scheduler);
    threadIdx.x = me;
}
static void __syncthreads() { leave(WAITS_FOR_BLOCK); }
template <class T> T __shfl_xor_sync(unsigned, T value, int lane) {
    static T of_thread[MOST];
    of_thread[threadIdx.x] = value;
    leave(WAITS_FOR_WARP);
    value = of_thread[threadIdx.x ^ lane];
    leave(WAITS_FOR_WARP);
    return value;
}
static void thread() {
    run();
    leave(DONE);
}
static int step(int first, int count) {  // all threads of these, until they wait for each other
    for (int i = first; i < first + count; ++i) {
        threadIdx.x = i;
        swapcontext(&scheduler, &threads[i]);
        if (states[i] != states[first]) {
            fprintf(stderr, "only some threads have reached a barrier\\n");
            abort();
        }
    }
    return states[first];
}
static void block(int count) {
    for (int i = 0; i < count; ++i) {
        getcontext(&threads[i]);
        threads[i].uc_stack.ss_sp = stacks[i];
        threads[i].uc_stack.ss_size = STACK;
        makecontext(&threads[i], thread, 0);
    }
    for (int state = RUNS; state != DONE;)
        for (int warp = 0; warp < count; warp += 32) {
            int own;
            do own = step(warp, 32);
            while (own == WAITS_FOR_WARP);
            if (warp && own != state) {
                fprintf(stderr, "only some warps have reached a barrier\\n");
                abort();
            }
            state = own;
        }
}
static void launch(long long rows, int blocks, int count, void (*kernel)(void)) {
    run = kernel;
    blockDim.x = count;
    for (blockIdx.x = 0; blockIdx.x < rows; ++blockIdx.x)
        for (blockIdx.y = 0; blockIdx.y < blocks; ++blockIdx.y) block(count);
}
static void* address[64];
"""


class Compiler:
    """The text of kernels, compiled by g++ in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def __call__(self, sources: Sequence[Source]) -> list[Callable[..., None]]:
        text = [CUDA_IN_CPP, PREAMBLE]
        for source in sources:
            text.append(source.text)
            given = "".join(
                f", ({C_TYPES[s.dtype]}*)address[{n}]" for n, s in enumerate(source.slots)
            )
            text.append(
                f'extern "C" void launch_{source.name}(long long rows, long long times, '
                "int blocks, int count, void** given) {\n"
                f"    memcpy(address, given, {len(source.slots)} * sizeof(void*));\n"
                "    static long long all; all = rows;\n"
                f"    launch(times, blocks, count, [] {{ {source.name}(all{given}); }});\n}}\n"
            )
        self.count += 1
        path = self.folder / f"kernels{self.count}.cpp"
        path.write_text("\n".join(text))
        library = path.with_suffix(".so")
        command = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", path, "-o", library]
        built = subprocess.run(command, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
        loaded = ctypes.CDLL(str(library))
        return [self._function(getattr(loaded, f"launch_{s.name}")) for s in sources]

    @staticmethod
    def _function(launch: Any) -> Callable[..., None]:
        def function(grid: Any, block: Any, arguments: Sequence[int]) -> None:
            rows, *addresses = arguments
            given = (ctypes.c_void_p * len(addresses))(*addresses)
            numbers = (ctypes.c_longlong(rows), ctypes.c_longlong(grid[0]))
            launch(*numbers, grid[1], block[0], given)

        return function


# The device.


class Cublas:
    """The library, as far as it is called: it stores matrices by columns."""

    def __init__(self) -> None:
        self.stream = 0
        self.workspace: tuple[int, int] | None = None

    def cublasCreate_v2(self, handle: Any) -> int:
        return 0

    def cublasSetStream_v2(self, handle: Any, stream: Any) -> int:
        self.stream, self.workspace = stream.value, None
        return 0

    def cublasSetWorkspace_v2(self, handle: Any, address: Any, size: Any) -> int:
        self.workspace = (address.value, size.value)
        return 0

    def cublasSgemm_v2(self, *arguments: Any) -> int:
        return self._gemm("float32", *arguments)

    def cublasDgemm_v2(self, *arguments: Any) -> int:
        return self._gemm("float64", *arguments)

    def _gemm(self, dtype: str, handle: Any, *arguments: Any) -> int:
        assert self.workspace is not None, "cuBLAS would take memory from the driver"
        values = [x.value for x in arguments]
        a_turned, b_turned, m, n, k, alpha, a, a_stride, b, b_stride, beta, c, c_stride = values
        a_rows, b_rows = (k if a_turned else m), (n if b_turned else k)
        if a_stride < max(1, a_rows) or b_stride < max(1, b_rows) or c_stride < max(1, m):
            return 7  # an invalid value
        left = at(a, m if a_turned else k, a_rows, a_stride, dtype)
        right = at(b, k if b_turned else n, b_rows, b_stride, dtype)
        left, right = (x if turned else x.T for x, turned in ((left, a_turned), (right, b_turned)))
        result = at(c, n, m, c_stride, dtype).T
        (scale,), (kept,) = (at(x, 1, 1, 1, dtype)[0] for x in (alpha, beta))
        result[...] = scale * (left @ right) + (kept * result if kept else 0)
        return 0


class Graph:
    """What was recorded: it does it again when it is launched."""

    def __init__(self, recorded: Callable[[], None]) -> None:
        self.recorded = recorded
        self.launches = 0

    def launch(self) -> None:
        self.launches += 1
        self.recorded()


class Clock:
    """Events of which somebody says how long they are apart."""

    def __init__(self) -> None:
        self.milliseconds: dict[bool, float] = {True: 1.0, False: 2.0}
        self.graph = False
        self.done = True

    def Event(self) -> Any:
        return _Event(self)

    def get_elapsed_time(self, start: Any, end: Any) -> float:
        return self.milliseconds[end.graph]


class _Event:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def record(self) -> None:
        self.graph, self.clock.graph = self.clock.graph, False

    @property
    def done(self) -> bool:
        return self.clock.done


class Stream:
    """As ``device.Stream``: products at once, and recordings that do what was asked for later."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.cuda = device.clock
        self.products = cublas.Cublas(Cublas(), (64, 1))
        self.products.use(1)

    def record(self, issue: Callable[[Any], None]) -> Graph:
        if self.device.refuses:
            raise RuntimeError("the stream is captured")

        def again() -> None:
            self.device.clock.graph = True
            issue(self.products)

        self.device.graphs.append(Graph(again))
        return self.device.graphs[-1]


class Device:
    """As ``device.Device``: its memory is the host's."""

    def __init__(self, functions: Callable[[Sequence[Source]], list[Any]] | None = None) -> None:
        self.functions = functions or (lambda sources: [Interpreter(s) for s in sources])
        self.records = False
        self.refuses = False  # to record
        self.graphs: list[Graph] = []
        self.clock = Clock()
        self._stream = Stream(self)

    def stream(self) -> Any:
        return self._stream

    def address(self, array: Array) -> int:
        return array.ctypes.data

    def array(self, array: Array) -> Array:
        return array.copy()

    def host(self, array: Array) -> Array:
        return array.copy()

    def contiguous(self, array: Array) -> Array:
        return np.ascontiguousarray(array)
