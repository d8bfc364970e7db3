"""Loops for a GPU, where there is none: their text compiles, and their logic runs on the host.

Three things stand in, each for what it can. NVRTC, which is CUDA's own compiler and needs no
driver, says whether the text is CUDA. g++ makes functions of the same text, which run here, block
by block. And where neither is installed an interpreter carries out what the text was made of, so
that addresses, products and graphs are tested anywhere. Tests marked ``gpu`` are those on a GPU.

The subtle point is what this leaves open: how quick it is, cuBLAS itself, streams, and recording.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption
from test_native import Writer, loops, lstm, lstm_arrays, lstm_in_numpy, reference, timetable, whole

import cuda_stand_in
import cupy_stand_in
import tinygrad_rnn as tg
import tinygrad_rnn.functional as F
import tinygrad_rnn_backends as backends
from both_ways import Case, assert_close, literal, planned
from cells_from_papers import AttentiveLSTMCell
from op_table import examples
from tinygrad_rnn import nn
from tinygrad_rnn.kernels import machine as machines
from tinygrad_rnn.kernels.gpu import cublas
from tinygrad_rnn.kernels.gpu import run as cuda
from tinygrad_rnn.kernels.gpu.kernels import (
    OF_BOOLEANS,
    OF_FLOATS,
    PREAMBLE,
    RELATIONS,
    write_kernel,
)
from tinygrad_rnn.kernels.ir import Kernel, Loop, Product, Slot
from tinygrad_rnn.planner import planned as planned_functions
from tinygrad_rnn.planner.passes import rowwise

Array = np.ndarray[Any, Any]

COMPILER = pytest.mark.skipif(
    shutil.which("g++") is None or sys.platform != "linux", reason="g++ is not installed"
)
DEVICES = ["interpreted", pytest.param("compiled", marks=COMPILER)]


@pytest.fixture
def device(request: pytest.FixtureRequest, tmp_path: Path) -> cuda_stand_in.Device:
    """The host as a device, which interprets kernels or compiles their text."""
    compiled = getattr(request, "param", "interpreted") == "compiled"
    return cuda_stand_in.Device(cuda_stand_in.Compiler(tmp_path) if compiled else None)


on_each_device = pytest.mark.parametrize("device", DEVICES, indirect=True)


# The text of kernels.


def nvrtc() -> Any:
    """CUDA's compiler, if one of the packages that bring it is installed."""
    for package in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name.startswith("libnvrtc.so"):
                return ctypes.CDLL(str(file.locate()))
    return None


@pytest.fixture(scope="module")
def check() -> Callable[[str], None]:
    """Compiles CUDA C++ for a GPU, and raises what the compiler says against it."""
    library = nvrtc()
    if library is None:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc")

    def compile(text: str) -> None:
        program, size = ctypes.c_void_p(), ctypes.c_size_t()
        source = text.encode()
        assert not library.nvrtcCreateProgram(ctypes.byref(program), source, b"k.cu", 0, None, None)
        unused = b"--diag-suppress=177"  # a value that nothing reads, as kernels at random have
        options = (ctypes.c_char_p * 3)(b"-arch=sm_80", b"-std=c++17", unused)
        failed = library.nvrtcCompileProgram(program, len(options), options)
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, log)
        library.nvrtcDestroyProgram(ctypes.byref(program))
        assert not failed and not log.value, log.value.decode()

    return compile


def arity(name: str) -> int:
    if name == "where":
        return 3
    text = (OF_FLOATS | RELATIONS | OF_BOOLEANS)[name]
    return max(text.count("{}"), 1)


def every_function(dtype: str, width: int) -> Kernel:
    """Each function that kernels can hold, of a row of numbers and one of the other kind."""
    writer = Writer()
    values = [writer.load(Slot(i, "step", 0, width, width, dtype)) for i in range(3)]
    truth = writer.load(Slot(3, "step", 0, width, width, "bool"))
    results = [Slot(4, "step", 0, width, width, dtype), Slot(5, "step", 0, width, width, "bool")]
    total: dict[bool, int] = {}
    for name in sorted(cuda.SUPPORTED - {"sum", "max"}):
        operands = [truth, *values[:2]] if name == "where" else values[: arity(name)]
        made = writer.add(name, *operands)
        boolean = name in RELATIONS or name in OF_BOOLEANS
        join = "logical_xor" if boolean else "add"
        total[boolean] = writer.add(join, total[boolean], made) if boolean in total else made
    for name in ("sum", "max"):
        total[False] = writer.add("add", total[False], writer.reduce(name, values[0]))
    infinite = writer.constant(float("-inf"))
    total[False] = writer.add("maximum", total[False], infinite)
    writer.store(results[0], total[False])
    writer.store(results[1], total[True])
    return writer.kernel()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_function_is_cuda(check: Any, dtype: str) -> None:
    check(
        PREAMBLE
        + "".join(
            write_kernel(f"width{width}", every_function(dtype, width)).text for width in (1, 300)
        )
    )


def test_what_is_not_cuda_is_found(check: Any) -> None:
    with pytest.raises(AssertionError, match=r"k\.cu\(1\).*tan_h"):
        check('extern "C" __global__ void k(float* x) { x[0] = tan_h(x[0]); }')


@examples(3)
@given(st.lists(loops(), min_size=10, max_size=10))
def test_random_kernels_are_cuda(check: Any, drawn: Any) -> None:
    kernels = [loop.statements[0] for loop, _, _ in drawn]
    check(PREAMBLE + "".join(write_kernel(f"k{n}", k).text for n, k in enumerate(kernels)))


UNARY = sorted(name for name in OF_FLOATS if arity(name) == 1)
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 9.5, -88.0, 200.0, np.inf, -np.inf, np.nan]


@on_each_device
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_are_those_of_numpy(device: Any, dtype: str) -> None:
    names = [n for n in sorted({*OF_FLOATS, *RELATIONS}) if n != "pow"]
    rng = np.random.default_rng(0)
    x, y = (z.ravel() for z in np.meshgrid(SPECIAL, [*SPECIAL, *rng.normal(size=5)]))
    arrays = [np.array([z], dtype) for z in (x, y)]
    width, results = len(x), []
    writer = Writer()
    loads = [writer.load(whole(i, width, dtype)) for i in range(2)]
    for name in names:
        kind = "bool" if name in RELATIONS else dtype
        results.append(np.empty((1, width), kind))
        slot = whole(len(results) + 1, width, kind)
        writer.store(slot, writer.add(name, *loads[: arity(name)]))
    (compiled,) = cuda.compile([Loop((writer.kernel(),), False)], device)
    compiled([*arrays, *results], timetable([1]), None, 1)
    for name, result in zip(names, results, strict=True):
        with np.errstate(all="ignore"):
            exact = [z.astype(np.float64) for z in arrays[: arity(name)]]
            expected = cuda_stand_in.FUNCTIONS[name](*exact).astype(result.dtype)
        accuracy = 4 * np.finfo(dtype).eps
        np.testing.assert_allclose(result, expected, rtol=accuracy, atol=1e-300, err_msg=name)


@on_each_device
@examples(4)
@given(st.lists(loops(), min_size=8, max_size=8))
def test_random_kernels_agree_with_numpy(device: Any, drawn: Any) -> None:
    compiled = cuda.compile([loop for loop, _, _ in drawn], device)
    for run, (loop, arrays, table) in zip(compiled, drawn, strict=True):
        expected = [x.astype(np.float64) for x in arrays]
        errors = [np.zeros(x.shape) for x in arrays]
        try:
            reference(loop, expected, errors, table)
        except UnsatisfiedAssumption:  # rounding decides what this one does
            continue
        run(arrays, table, None, 1)
        for result, exact, error in zip(arrays, expected, errors, strict=True):
            assert np.all(np.abs(result.astype(np.float64) - exact) <= error + 1e-37)


@on_each_device
def test_reductions_take_each_column_once_and_reach_each_thread(device: Any) -> None:
    def reductions(width: int) -> Loop:
        writer = Writer()
        value = writer.load(whole(0, width))
        square = writer.add("square", value)
        for n, (name, x) in enumerate((("sum", value), ("sum", square), ("max", value))):
            reduced = writer.reduce(name, x)
            writer.store(whole(n + 1, width), writer.add("add", value, reduced))
        return Loop((writer.kernel(),), False)

    widths = [1, 2, 31, 32, 33, 256, 300, 1025]
    for width, run in zip(widths, cuda.compile([*map(reductions, widths)], device), strict=True):
        rng = np.random.default_rng(width)
        x = rng.integers(-50, 50, (4, width)).astype(np.float32)  # whose sums are exact
        x[1, width // 2] = np.nan
        results = [np.empty_like(x) for _ in range(3)]
        run([x, *results], timetable([4]), None, 1)
        expected = [x.sum(1), np.square(x).sum(1), x.max(1)]
        for result, reduced in zip(results, expected, strict=True):
            np.testing.assert_array_equal(result, x + reduced[:, None])


@on_each_device
def test_a_number_that_a_row_reads_is_overwritten_after_all_have_read_it(device: Any) -> None:
    x, number = np.ones((3, 70), np.float32), np.full((3, 1), 2, np.float32)
    writer = Writer()
    kept = writer.load(whole(1, 1, place="rows"))
    writer.store(whole(1, 1, place="rows"), writer.add("square", kept))
    writer.store(whole(0, 70), writer.add("add", kept, writer.load(whole(0, 70))))
    (compiled,) = cuda.compile([Loop((writer.kernel(),), False)], device)
    compiled([x, number], timetable([3]), None, 1)
    assert np.all(x == 3) and np.all(number == 4)


def test_a_kernel_without_reductions_has_a_thread_for_each_element() -> None:
    writer = Writer()
    writer.store(whole(1, 300), writer.add("tanh", writer.load(whole(0, 300))))
    source = write_kernel("k", writer.kernel())
    assert (source.blocks, source.threads) == (2, 256)
    assert "__syncthreads" not in source.text and "for (" not in source.text


# Loops.

RAGGED = [11, 11, 9, 4, 4, 1, 0]


@on_each_device
@pytest.mark.parametrize("counts", [[11] * 6, RAGGED, [1] * 6], ids=["equal", "ragged", "one row"])
@pytest.mark.parametrize("layout", ["rows", "transposed", "columns of a wider one", "neither"])
def test_lstm_agrees_with_numpy(device: Any, counts: list[int], layout: str) -> None:
    table, arrays = timetable(counts), lstm_arrays(counts, 13)
    expected = lstm_in_numpy(arrays, table)
    wide = np.zeros((26, 60), np.float32)
    stored = {
        "rows": lambda w: w,
        "transposed": lambda w: np.ascontiguousarray(w.T).T,
        "columns of a wider one": lambda w: wide[:13, :52],
        "neither": lambda w: wide[::2, :52],
    }[layout](arrays[3])
    stored[...] = arrays[3]
    arrays[3] = stored
    (compiled,) = cuda.compile([lstm(13)], device)
    compiled(arrays, table, None, 1)
    for result, exact in zip(arrays[1:3], expected, strict=True):
        np.testing.assert_allclose(result, exact, atol=3e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 5), (4, 1), (3, 6)], ids=str)
def test_products_into_columns(dtype: str, accumulate: bool, sizes: tuple[int, int]) -> None:
    inner, columns = sizes
    rng = np.random.default_rng(0)
    a, b, out = (rng.integers(-4, 5, s).astype(dtype) for s in ((5, 9), sizes, (5, 8)))
    expected = out.copy()
    expected[:, 2 : 2 + columns] *= accumulate
    expected[:, 2 : 2 + columns] += a[:, 1 : 1 + inner] @ b
    product = Product(
        Slot(0, "step", 1, inner, 9, dtype),
        Slot(1, "all", 0, columns, columns),
        Slot(2, "step", 2, columns, 8, dtype),
        accumulate,
    )
    (compiled,) = cuda.compile([Loop((product,), False)], cuda_stand_in.Device())
    compiled([a, b, out], timetable([5]), None, 1)
    assert np.array_equal(out, expected)


def running_sum(backwards: bool = False) -> Loop:
    """The rows of a total grow by those of each step."""
    writer = Writer()
    total = whole(1, 3, place="rows")
    writer.store(total, writer.add("add", writer.load(total), writer.load(whole(0, 3))))
    halved = Writer()
    halved.store(total, halved.add("multiply", halved.load(total), halved.constant(0.5)))
    return Loop((halved.kernel(), writer.kernel()), backwards)


def test_backwards_the_last_step_comes_first_and_steps_can_be_run_in_segments() -> None:
    x = np.arange(18, dtype=np.float32).reshape(6, 3)
    (compiled,) = cuda.compile([running_sum(backwards=True)], cuda_stand_in.Device())
    for segments in ([None], [slice(1, 3), slice(0, 1)]):
        total = np.zeros((2, 3), np.float32)
        for steps in segments:
            compiled([x, total], timetable([2, 2, 2]), steps, 1)
        assert np.array_equal(total, x[0:2] + (x[2:4] + x[4:6] / 2) / 2)


@pytest.mark.parametrize("counts", [[], [0, 0]], ids=["no steps", "no rows"])
def test_nothing_to_do_touches_nothing(counts: list[int]) -> None:
    x, total = np.ones((3, 3), np.float32), np.ones((3, 3), np.float32)
    (compiled,) = cuda.compile([running_sum()], cuda_stand_in.Device())
    compiled([x, total], timetable(counts), None, 1)
    assert np.all(total == 1)


def test_a_status_of_cublas_is_an_error() -> None:
    m = cublas.Matrices("float32", 4, 4, 4, 0, 3, False, 4, False, None)  # 3 < 4 columns
    with pytest.raises(RuntimeError, match="status 7"):
        cuda_stand_in.Device().stream().products(m, 1, 0, 0)


# Graphs.


class Steps:
    """A loop that is called again and again on a device that records."""

    def __init__(self, **milliseconds: float) -> None:
        self.device = cuda_stand_in.Device()
        self.device.records = True
        self.device.clock.milliseconds = {True: milliseconds["graph"], False: milliseconds["plain"]}
        (self.compiled,) = cuda.compile([running_sum()], self.device)
        self.x, self.total = (np.ones((4, 3), np.float32) for _ in range(2))

    def call(self, times: int, *, elsewhere: bool = False) -> int:
        """So many calls, each checked; how many of them were of a graph."""
        before, kept = self.launches, []
        for _ in range(times):
            if elsewhere:
                kept.append(self.total)  # so that the next one is not there
                self.total = self.total.copy()
            expected = (self.total[:2] / 2 + self.x[:2]) / 2 + self.x[2:]
            self.compiled([self.x, self.total], timetable([2, 2]), None, 1)
            assert np.array_equal(self.total[:2], expected)
        return self.launches - before

    @property
    def launches(self) -> int:
        return sum(graph.launches for graph in self.device.graphs)


def test_a_graph_is_kept_if_it_is_quicker() -> None:
    steps = Steps(graph=1, plain=2)
    assert 4 <= steps.call(20) < 20
    assert steps.call(10) == 10
    assert len(steps.device.graphs) == 1


def test_a_graph_is_dropped_if_it_is_not_quicker() -> None:
    steps = Steps(graph=2, plain=1)
    assert 4 <= steps.call(20) < 12
    assert steps.call(10) == 0


def test_nothing_is_decided_before_times_are_known() -> None:
    steps = Steps(graph=1, plain=2)
    steps.device.clock.done = False
    assert steps.call(20) == 0
    steps.device.clock.done = True
    steps.call(20)
    assert steps.call(10) == 10


def test_what_never_comes_to_the_same_addresses_is_not_recorded() -> None:
    steps = Steps(graph=1, plain=2)
    assert steps.call(30, elsewhere=True) == 0
    assert not steps.device.graphs


def test_a_stream_that_cannot_be_recorded_launches_step_by_step() -> None:
    steps = Steps(graph=1, plain=2)
    steps.device.refuses = True
    assert steps.call(20) == 0


def test_graphs_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGRAD_RNN_CUDA_GRAPHS", "0")
    assert Steps(graph=1, plain=2).call(20) == 0


def test_a_device_is_tried_before_it_is_relied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    device = cuda_stand_in.Device()
    assert cuda.wrong(device) is None and device.records
    device.refuses = True
    assert cuda.wrong(device) is None and not device.records
    monkeypatch.setitem(cuda_stand_in.FUNCTIONS, "tanh", np.sin)
    assert "wrong results" in (cuda.wrong(device) or "")


def test_a_missing_cupy_is_the_reason_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(name: str) -> Any:
        raise backends.BackendUnavailable(f"no {name} here")

    monkeypatch.setattr(backends, "get", unavailable)
    monkeypatch.setattr(cuda, "_device", cuda._device.__wrapped__)
    assert cuda.available.__wrapped__() == "BackendUnavailable: no cupy here"


# Plans.

backends.register(cupy_stand_in.NAME, cupy_stand_in.Backend)


@pytest.fixture(params=["stand_in", pytest.param("cupy", marks=pytest.mark.gpu)])
def name(
    request: pytest.FixtureRequest, device: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A backend whose loops are those of a GPU, for plans that are made anew."""
    if request.param == cupy_stand_in.NAME:
        machine = cupy_stand_in.machine(device)
        monkeypatch.setitem(machines._machines, cupy_stand_in.NAME, machine)
    monkeypatch.delenv("TINYGRAD_RNN_JIT", raising=False)
    tg.plan_cache().clear()
    yield request.param
    tg.set_default_dtype("float32")
    tg.plan_cache().clear()


def layer_norm(x: Any, state: Any) -> Any:
    """A cell of reductions over its columns."""
    z = tg.tanh(x + state * 0.5)
    z = z - tg.mean(z, axis=-1, keepdims=True)
    z = z / tg.sqrt(tg.mean(z * z, axis=-1, keepdims=True) + 1e-3)
    return z, z


class Reader(nn.Module):
    """Looks at a memory (S, B, H) with two heads, and adds up what it has looked at."""

    output_size = 4

    def __init__(self) -> None:
        self.memory = nn.Parameter(tg.random.uniform((5, 3, 4), -1.0, 1.0))
        self.query = nn.Linear(4, 4)
        self.w = nn.Linear(7, 4)

    def initial_state(self, batch_shape: Any, dtype: Any, backend: Any) -> Any:
        return tg.zeros((*batch_shape, 4), dtype=dtype, backend=backend)

    def forward(self, x: Any, h: Any) -> Any:
        query = tg.reshape(self.query(h), (3, 2, 2))
        keys = tg.reshape(tg.moveaxis(self.memory, 0, 1), (3, 5, 2, 2))
        scores = (
            tg.einsum("bnd,bsnd->bns", query, keys) + tg.max(keys, axis=(-1,))[:, 0][:, :, None]
        )
        read = tg.einsum("bns,bsnd->bnd", tg.softmax(scores, axis=-1), keys)
        h = tg.tanh(self.w(tg.concat([x, tg.reshape(read, (3, 4))], axis=-1)) + h)
        return h, h


CELLS: dict[str, Callable[[], Any]] = {
    "LSTM": lambda: nn.LSTMCell(3, 4),
    "GRU": lambda: nn.GRUCell(3, 4),
    "RNN": lambda: nn.RNNCell(3, 4),
    "peephole": lambda: nn.PeepholeLSTMCell(3, 4),
    "layer-norm LSTM": lambda: nn.LayerNormLSTMCell(3, 4),
    "layer norm": lambda: layer_norm,
    "dropout": lambda: nn.VariationalDropout(nn.LSTMCell(3, 4), 0.3, 0.3, 0.3),
    "zoneout": lambda: nn.Zoneout(nn.GRUCell(3, 4), 0.3),
    "RWA": lambda: nn.RWACell(3, 4),
    "attention": lambda: AttentiveLSTMCell(3),
    "heads": Reader,
}


def case_of(cell: str, **options: Any) -> Case:
    """A cell on the default backend, with the same numbers on each."""
    tg.manual_seed(0)
    rng, made, dtype = np.random.default_rng(0), CELLS[cell](), tg.default_dtype()
    x = tg.tensor(rng.normal(size=(5, 3, 3)), dtype=dtype, requires_grad=True)
    if isinstance(made, nn.Module):
        return Case(made, x, None, list(made.parameters()), options)
    state = tg.tensor(rng.normal(size=(3, 3)), dtype=dtype, requires_grad=True)
    return Case(made, x, state, (), options)


OPTIONS = [{}, {"reverse": True}, {"lengths": [2, 5, 0]}, {"lengths": [3, 1, 4], "reverse": True}]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_plans_agree_with_the_literal_loop(name: str, cell: str, options: Any, dtype: str) -> None:
    tg.set_default_dtype(dtype)
    expected = case_of(cell, **options).results(literal)
    with backends.use_backend(name):
        case = case_of(cell, **options)
        assert_close(case.results(literal), expected)
        for _ in range(2):
            assert_close(case.results(planned), expected)


@pytest.mark.parametrize("device", DEVICES[1:], indirect=True)
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "layer-norm LSTM"])
def test_plans_agree_with_the_literal_loop_in_compiled_kernels(name: str, cell: str) -> None:
    expected = case_of(cell).results(literal)
    with backends.use_backend(name):
        assert_close(case_of(cell).results(planned), expected)


def test_plans_with_checkpoints_and_of_second_order(name: str) -> None:
    expected = case_of("LSTM").results(literal)
    again = case_of("GRU", lengths=[2, 5, 0]).results(literal, order=2)
    with backends.use_backend(name):
        assert_close(case_of("LSTM").results(planned, checkpoint=2), expected)
        assert_close(case_of("GRU", lengths=[2, 5, 0]).results(planned, order=2), again)


def test_plans_that_are_called_often_come_to_the_same(name: str) -> None:
    """On a GPU, this is where graphs are timed, and launched if they win."""
    expected = case_of("LSTM").results(literal)
    with backends.use_backend(name):
        case = case_of("LSTM")
        for _ in range(25):
            assert_close(case.results(planned), expected)


@pytest.mark.gpu
def test_loops_and_graphs_work_on_this_gpu() -> None:
    assert cuda.available() is None
    assert cuda._device().records


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_loops_of_cells_are_kernels_in_cuda(
    name: str, dtype: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    tg.set_default_dtype(dtype)
    texts: list[str] = []
    write = cuda.write_kernel

    def noted(kernel: str, statement: Kernel) -> Any:
        source = write(f"kernel{len(texts)}", statement)
        texts.append(source.text)
        return source._replace(name=kernel)

    monkeypatch.setattr(cuda, "write_kernel", noted)
    with backends.use_backend(name):
        for cell in CELLS:
            case = case_of(cell)
            plan = tg.plan(case.cell, case.xs, case.state)
            assert plan.program.loops and not plan.scheduled.reasons
    request.getfixturevalue("check")(PREAMBLE + "".join(texts))


def test_a_plan_for_one_library_is_none_for_another(name: str) -> None:
    case_of("LSTM").results(planned)
    with backends.use_backend(name):
        case_of("LSTM").results(planned)
    assert len(tg.plan_cache()) == 2


def test_what_stands_in_for_cupy_meets_no_array_of_numpy() -> None:
    x, host = cupy_stand_in.LIBRARY.zeros((2, 3)), np.zeros((2, 3))
    for refused in (
        lambda: x + host,
        lambda: np.add(x, host, out=host),
        lambda: x[np.zeros(1, int)],
        lambda: np.concatenate([x, x]),
        lambda: cupy_stand_in.LIBRARY.concatenate([x, host]),
    ):
        with pytest.raises(TypeError, match=r"NumPy|numpy"):
            refused()


FUNCTIONS: dict[str, Callable[..., tg.Tensor]] = {
    "cross_entropy": lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1, ignore_index=2),
    "softmax and dropout": lambda x, t: F.dropout(F.softmax(x), 0.4),
    "layer_norm and gelu": lambda x, t: F.gelu(F.layer_norm(x)),
    "mse_loss": lambda x, t: F.mse_loss(x, x * 2),
}


@on_each_device
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("of", FUNCTIONS)
def test_work_on_rows_of_functions(
    name: str, of: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planned_functions, "LEAST", 0)
    monkeypatch.setattr(rowwise, "SMALL", 0)
    host = np.random.default_rng(0).normal(size=(6, 40))
    p = tg.planned(tg.pure(FUNCTIONS[of]))

    def results(f: Callable[..., tg.Tensor]) -> dict[str, Array]:
        tg.manual_seed(3)
        x = tg.tensor(host, dtype=dtype, backend=name, requires_grad=True)
        t = tg.tensor(np.arange(6) * 7 % 40, backend=name)
        y = f(x, t)
        (g,) = tg.grad(tg.sum(y * y), [x])
        return {"y": y.numpy(), "gradient": g.numpy()}

    for _ in range(2):
        assert_close(results(p), results(p.function))
    assert "A kernel of" in p.source
