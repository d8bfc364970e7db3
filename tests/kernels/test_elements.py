"""Formulas as machine code: arrays of every length, and the same bits for any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tinygrad_rnn.kernels.cpu import run as cpu
from tinygrad_rnn.kernels.cpu.elements import CHUNK, Elements, compile
from tinygrad_rnn.kernels.ir import Formula, Instruction

pytestmark = pytest.mark.skipif(cpu.available() is not None, reason="there are no kernels")
LENGTHS = [0, 1, 15, 16, 17, 100, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 33, 40 * CHUNK]


@pytest.fixture(scope="module")
def scaled() -> Elements:
    """The second array is the first times a number; squares of the first are summed."""
    lines: list[tuple[str, tuple[int, ...], int | None]] = [
        ("load", (), 0),
        ("number", (), 0),
        ("multiply", (0, 1), None),
        ("check", (2,), None),
        ("squares", (0,), None),
        ("store", (2,), 1),
    ]
    instructions = tuple(Instruction(name, of, 1, argument) for name, of, argument in lines)
    return compile(Formula(instructions, arrays=2))


def sets(lengths: list[int], seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    given = [rng.standard_normal(n).astype("float32") for n in lengths]
    return [array for x in given for array in (x, np.full_like(x, np.nan))]


def test_all_elements_are_reached_once_whatever_the_lengths(scaled: Elements) -> None:
    arrays = sets(LENGTHS)
    outcome = scaled(arrays, [3.0], threads=2)
    for x, y in zip(arrays[::2], arrays[1::2], strict=True):
        assert_array_equal(y, x * np.float32(3))
    squares = sum(float((x.astype("float64") ** 2).sum()) for x in arrays[::2])
    assert outcome.finite
    assert outcome.squares == pytest.approx(squares, rel=1e-13)


def test_bits_do_not_depend_on_the_number_of_threads(scaled: Elements) -> None:
    arrays = sets(LENGTHS * 5)
    first = scaled(arrays, [3.0], threads=1).squares
    for threads in (2, 3, 5):
        again = sets(LENGTHS * 5)
        assert scaled(again, [3.0], threads=threads).squares == first
        assert all(a.tobytes() == b.tobytes() for a, b in zip(arrays, again, strict=True))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2e38])
def test_one_value_in_any_place_is_seen(scaled: Elements, value: float) -> None:
    for n in LENGTHS[1:]:
        for place in {0, n // 2, n - 1}:
            arrays = sets([7, n, 7])
            arrays[2][place] = value
            assert not scaled(arrays, [3.0], threads=2).finite


def test_squares_neither_overflow_nor_vanish(scaled: Elements) -> None:
    for size in (1e30, 1e-30):
        x = np.full(5000, size, np.float32)
        found = scaled([x, np.empty_like(x)], [1.0], threads=1).squares
        assert found == pytest.approx(5000 * float(np.float32(size)) ** 2, rel=1e-13)
