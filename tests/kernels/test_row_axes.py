"""Kernels whose rows have axes of their own: a row multiplies a matrix that is its own.

All numbers are small integers, whose sums and products are exact, so there is no tolerance.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cuda import check, on_each_device  # noqa: F401
from test_native import Writer, run, timetable

import cuda_stand_in
from loop_interpreter import run as interpret
from op_table import examples
from tinygrad_rnn.kernels.gpu import run as cuda
from tinygrad_rnn.kernels.gpu.kernels import PREAMBLE, write_kernel
from tinygrad_rnn.kernels.ir import Instruction, Kernel, Loop, Product, Slot

Array = np.ndarray[Any, Any]
B, S, H = 3, 5, 37


@pytest.fixture
def device(request: pytest.FixtureRequest, tmp_path: Path) -> cuda_stand_in.Device:
    """As in ``test_cuda``."""
    compiled = getattr(request, "param", "interpreted") == "compiled"
    return cuda_stand_in.Device(cuda_stand_in.Compiler(tmp_path) if compiled else None)


def integers(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).integers(-3, 4, shape).astype(np.float32)


def kernel(writer: Writer, *lengths: int) -> Kernel:
    return Kernel(tuple(writer.instructions), lengths)


def on(machine: Any, loop: Loop, *arrays: Array, rows: int = B) -> None:
    """Run one step of a loop on the CPU, or on a stand-in of a GPU."""
    if machine is None:
        run(loop, arrays, timetable([rows]))
    else:
        (compiled,) = cuda.compile([loop], machine)
        compiled(arrays, timetable([rows]), None, 1)


MACHINES = ["cpu", "interpreted", "compiled"]


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "compiled" and shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    compiler = cuda_stand_in.Compiler(tmp_path) if request.param == "compiled" else None
    return None if request.param == "cpu" else cuda_stand_in.Device(compiler)


def test_scores_are_sums_over_columns_at_each_index(machine: Any) -> None:
    keys, query, scores = integers(B, S, H), integers(B, H), np.empty((B, S), np.float32)
    writer = Writer()
    key = writer.load(Slot(0, "step", 0, H, S * H, along=(H,)))
    product = writer.add("multiply", key, writer.load(Slot(1, "step", 0, H, H, along=(0,))))
    writer.store(Slot(2, "rows", 0, 1, S, along=(1,)), writer.reduce("sum", product))
    on(machine, Loop((kernel(writer, S),), False), keys, query, scores)
    assert np.array_equal(scores, np.einsum("bsh,bh->bs", keys, query))


@pytest.mark.parametrize("reduction", ["sum", "max"])
def test_contexts_are_sums_along_an_axis(machine: Any, reduction: str) -> None:
    values, weights = integers(B, S, H), integers(B, S)
    context = np.empty((B, H + 2), np.float32)
    writer = Writer()
    value = writer.load(Slot(0, "step", 0, H, S * H, along=(H,)))
    product = writer.add("multiply", value, writer.load(Slot(1, "step", 0, 1, S, along=(1,))))
    slot = Slot(2, "rows", 2, H, H + 2, along=(0,))
    writer.add(f"store {reduction}", product, width=H, argument=slot)
    on(machine, Loop((kernel(writer, S),), False), values, weights, context)
    expected = getattr(values * weights[:, :, None], reduction)(1)
    assert np.array_equal(context[:, 2:], expected)


def test_a_softmax_of_each_head_takes_its_own_largest(machine: Any) -> None:
    scores, mask = integers(B, 4, S), integers(B, S) > 0
    out = np.empty((B, 4, S), np.float32)
    writer = Writer()
    score = writer.load(Slot(0, "step", 0, S, 4 * S, along=(S,)))
    there = writer.load(Slot(1, "rows", 0, S, S, "bool", along=(0,)))
    score = writer.add("where", there, score, writer.constant(-100.0))
    out_slot = Slot(2, "step", 0, S, 4 * S, along=(S,))
    writer.store(out_slot, writer.add("subtract", score, writer.reduce("max", score)))
    on(machine, Loop((kernel(writer, 4),), False), scores, mask, out)
    left = np.where(mask[:, None], scores, -100)
    assert np.array_equal(out, left - left.max(-1, keepdims=True))


def test_columns_need_not_be_neighbours(machine: Any) -> None:
    x, turned = integers(B, H, 2), np.empty((B, 2, H), np.float32)
    writer = Writer()
    column = writer.load(Slot(0, "step", 0, H, 2 * H, along=(1,), step=2))
    writer.store(Slot(1, "step", 0, H, 2 * H, along=(H,)), column)
    on(machine, Loop((kernel(writer, 2),), False), x, turned)
    assert np.array_equal(turned, x.transpose(0, 2, 1))


def test_a_row_may_have_several_in_a_product(machine: Any) -> None:
    a, b, out = integers(B, S, H), integers(H, 4), integers(B, S, 4)
    expected = out + a @ b
    wide = (Slot(0, "step", 0, H, S * H), Slot(1, "all", 0, 4, 4), Slot(2, "step", 0, 4, S * 4))
    on(machine, Loop((Product(*wide, True, times=S),), False), a, b, out)
    assert np.array_equal(out, expected)


@st.composite
def kernels(draw: st.DrawFn) -> tuple[Kernel, list[Array]]:
    """A kernel over one or two axes, and its arrays."""
    lengths = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=2)))
    width = draw(st.integers(2, 35))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays: list[Array] = []

    def slot(wide: int, kept: list[bool], dtype: str = "float32") -> Slot:
        shape = [n if keep else 1 for n, keep in zip(lengths, kept, strict=True)]
        strides = [math.prod([*shape[n + 1 :], wide]) for n in range(len(shape))]
        along = tuple([s if keep else 0 for s, keep in zip(strides, kept, strict=True)])
        size = math.prod([*shape, wide])
        array = rng.integers(-2, 3, (3, size))
        arrays.append((array > 0) if dtype == "bool" else array.astype(np.float32))
        return Slot(len(arrays) - 1, "step", 0, wide, size, dtype, along)

    writer = Writer()
    axes = st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))
    wides = st.sampled_from([1, width])
    numbers = [writer.load(slot(draw(wides), draw(axes))) for _ in range(3)]
    there = writer.load(slot(draw(wides), draw(axes), "bool"))
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(["add", "multiply", "maximum", "where", "sum", "max"]))
        x, y = (draw(st.sampled_from(numbers[-4:])) for _ in range(2))
        if name in ("sum", "max"):
            numbers.append(writer.reduce(name, x))
        else:
            numbers.append(writer.add(name, *([there] * (name == "where")), x, y))
    for value in numbers[-2:]:
        wide = writer.instructions[value].width
        kept = draw(axes)
        name = "store" if all(kept) else draw(st.sampled_from(["store sum", "store max"]))
        target = slot(wide, kept)
        if name == "store" or not any(
            n > 1 and not keep for n, keep in zip(lengths, kept, strict=True)
        ):
            target, name = slot(wide, [True] * len(lengths)), "store"
        writer.add(name, value, width=wide, argument=target)
    return kernel(writer, *lengths), arrays


@examples(60)
@given(kernels())
def test_random_kernels_are_as_interpreted(drawn: Any) -> None:
    made, arrays = drawn
    loop, expected = Loop((made,), False), [x.copy() for x in arrays]
    interpret(loop, expected, timetable([3]))
    run(loop, arrays, timetable([3]))
    for result, exact in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(result, exact)


@on_each_device
@examples(3)
@given(st.lists(kernels(), min_size=8, max_size=8))
def test_random_kernels_are_as_interpreted_on_a_gpu(device: Any, drawn: Any) -> None:
    compiled = cuda.compile([Loop((made,), False) for made, _ in drawn], device)
    for function, (made, arrays) in zip(compiled, drawn, strict=True):
        expected = [x.copy() for x in arrays]
        interpret(Loop((made,), False), expected, timetable([3]))
        function(arrays, timetable([3]), None, 1)
        for result, exact in zip(arrays, expected, strict=True):
            np.testing.assert_array_equal(result, exact)


@examples(3)
@given(st.lists(kernels(), min_size=8, max_size=8))
def test_random_kernels_are_cuda(check: Any, drawn: Any) -> None:  # noqa: F811
    check(PREAMBLE + "".join(write_kernel(f"k{n}", k).text for n, (k, _) in enumerate(drawn)))


def test_a_sum_along_an_axis_and_one_over_columns_are_those_of_one_kernel(machine: Any) -> None:
    x, rows, columns = integers(B, S, H), np.empty((B, S)), np.empty((B, H))
    rows, columns = rows.astype(np.float32), columns.astype(np.float32)
    load = Slot(0, "step", 0, H, S * H, along=(H,))
    instructions = (
        Instruction("load", (), H, load),
        Instruction("sum", (0,), 1),
        Instruction("store", (1,), 1, Slot(1, "rows", 0, 1, S, along=(1,))),
        Instruction("store sum", (0,), H, Slot(2, "rows", 0, H, H, along=(0,))),
    )
    on(machine, Loop((Kernel(instructions, (S,)),), False), x, rows, columns)
    assert np.array_equal(rows, x.sum(2)) and np.array_equal(columns, x.sum(1))


@pytest.mark.parametrize("length", [128, 129, 1000])
def test_sums_along_an_axis_are_exact_however_long_it_is(length: int) -> None:
    x = np.full((B, length, 3), 0.1, np.float32)
    total = np.empty((B, 3), np.float32)
    writer = Writer()
    load = writer.load(Slot(0, "step", 0, 3, length * 3, along=(3,)))
    slot = Slot(1, "rows", 0, 3, 3, along=(0,))
    writer.add("store sum", load, width=3, argument=slot)
    on(None, Loop((kernel(writer, length),), False), x, total)
    exact = np.float32(0.1).astype(np.float64) * length
    np.testing.assert_allclose(total, exact, rtol=5e-6 if length < 129 else 2e-6)


def test_sums_along_an_axis_of_many_are_those_of_all(machine: Any) -> None:
    x, total = integers(B, 2, 300, H), np.empty((B, 2, H), np.float32)
    writer = Writer()
    load = writer.load(Slot(0, "step", 0, H, 600 * H, along=(300 * H, H)))
    slot = Slot(1, "rows", 0, H, 2 * H, along=(H, 0))
    writer.add("store sum", load, width=H, argument=slot)
    on(machine, Loop((kernel(writer, 2, 300),), False), x, total)
    assert np.array_equal(total, x.sum(2))
