"""Instructions that know columns by their numbers, natively and as CUDA, against NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cuda import COMPILER, check  # noqa: F401  # a fixture
from test_native import Writer, timetable, whole

import cuda_stand_in
import tinygrad_rnn_backends as backends
from loop_interpreter import run as interpret
from tinygrad_rnn import random
from tinygrad_rnn.kernels.cpu import run as native
from tinygrad_rnn.kernels.gpu import run as cuda
from tinygrad_rnn.kernels.gpu.kernels import PREAMBLE, write_kernel
from tinygrad_rnn.kernels.ir import Kernel, Loop, Slot

Array = np.ndarray[Any, Any]

ROWS, KEY = 5, (2**32 - 3, 7)
WIDTHS = [1, 3, 4, 16, 37, 300]

NATIVE = pytest.mark.skipif(native.available() is not None, reason="llvmlite is not installed")


def kernel(width: int) -> Kernel:
    """max(x), x and a draw, where the column is the place, plus what is at the place of y."""
    w = Writer()
    x, y, place, key, at = (
        whole(0, width),
        whole(1, width),
        whole(2, 1, "int64"),
        Slot(3, "all", 0, 1, 3, "int64"),
        Slot(4, "step", 0, 1, 3, "int64"),
    )
    index = w.load(place)
    numbers = [w.load(key._replace(column=c)) for c in range(3)]
    numbers += [w.load(at._replace(column=c)) for c in range(3)]
    picked = w.add("pick", index, width=1, argument=y)
    placed = w.add("place", index, w.reduce("max", w.load(x)), width=width)
    drawn = w.add("draw", *numbers, width=width)
    total = w.add("add", w.add("multiply", drawn, w.load(x)), w.add("add", placed, picked))
    w.store(whole(5, width), drawn)
    w.store(whole(6, width), total)
    w.store(whole(7, 1), w.reduce("sum", placed))
    return w.kernel()


def arrays(width: int) -> list[Array]:
    rng = np.random.default_rng(width)
    x, y = rng.standard_normal((2, ROWS, width)).astype(np.float32)
    place = rng.integers(0, width, (ROWS, 1))
    at = np.stack([np.arange(ROWS) + 2**32 - 3, 10 - np.arange(ROWS), np.arange(ROWS) % 3], 1)
    results = [np.full((ROWS, n), np.nan, np.float32) for n in (width, width, 1)]
    return [x, y, place, np.array([*KEY, 11]), at & 0xFFFFFFFF, *results]


def expected(given: list[Array]) -> list[Array]:
    x, y, place, _, at = given[:5]
    width = x.shape[1]
    xp = backends.get("numpy")
    wide = random._uniform(xp, (ROWS, width + 8), KEY, 11, at[:, 0], at[:, 1])
    drawn = np.stack([row[4 * n : 4 * n + width] for row, n in zip(wide, at[:, 2], strict=True)])
    largest = x.max(-1, keepdims=True)
    placed = np.where(np.arange(width) == place, largest, 0)
    total = drawn * x + (placed + np.take_along_axis(y, place, -1))
    return [drawn, total, largest]


def check_results(given: list[Array]) -> None:
    drawn, *others = given[5:]
    wanted = expected(given)
    assert np.array_equal(drawn, wanted[0])
    for found, reference in zip(others, wanted[1:], strict=True):
        np.testing.assert_allclose(found, reference, rtol=1e-6, atol=1e-6)


@NATIVE
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("threads", [1, 2])
def test_native(width: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "SHARE", 1e-9)
    given = arrays(width)
    (compiled,) = native.compile([Loop((kernel(width),), False)])
    compiled(given, timetable([ROWS]), None, threads)
    check_results(given)


@pytest.mark.parametrize("width", WIDTHS)
def test_interpreted(width: int) -> None:
    given = arrays(width)
    interpret(Loop((kernel(width),), False), given, timetable([ROWS]))
    check_results(given)


@pytest.mark.parametrize("how", ["interpreted", pytest.param("compiled", marks=COMPILER)])
@pytest.mark.parametrize("width", [1, 37, 300])
def test_as_cuda(how: str, width: int, tmp_path: Path) -> None:
    text = cuda_stand_in.Compiler(tmp_path) if how == "compiled" else None
    given = arrays(width)
    (compiled,) = cuda.compile([Loop((kernel(width),), False)], cuda_stand_in.Device(text))
    compiled(given, timetable([ROWS]), None, 1)
    check_results(given)


def test_it_is_cuda(check: Any) -> None:  # noqa: F811
    texts = [write_kernel(f"width{width}", kernel(width)).text for width in (1, 37, 10_000)]
    check(PREAMBLE + "".join(texts))
