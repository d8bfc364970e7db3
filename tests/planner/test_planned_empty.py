"""Arrays without elements, axes of length 1, and what the planner does when it fails or is warned.

Cells are drawn at random with widths from 0 on: slices that keep nothing, parts of a concat that
are none, products and sums over nothing. Planned is literal, with and without machine code.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor
from tinygrad_rnn.kernels import machine
from tinygrad_rnn.kernels.cpu import run as native
from tinygrad_rnn.planner import compile as pipeline


class Drawn:
    """A cell of random operations on random widths, and what it is unrolled on."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.seed = seed
        self.dtype: Any = str(rng.choice(["float32", "float64"]))
        width, *states = (int(rng.choice([0, 1, 1, 2, 3])) for _ in range(3))
        steps, rows = int(rng.choice([1, 2, 4])), int(rng.choice([1, 1, 2, 3]))
        self.choices = rng.integers(0, 1 << 30, 200).tolist()
        self.count = int(rng.integers(2, 9))
        self.weights: dict[int, Tensor] = {}
        self.x = rng.normal(size=(steps, rows, width)).astype(self.dtype)
        self.states = [rng.normal(size=(rows, n)).astype(self.dtype) for n in states]
        unequal = rng.random() < 0.3
        self.lengths = rng.integers(0, steps + 1, rows).tolist() if unequal else None

    def weight(self, number: int, rows: int, columns: int) -> Tensor:
        if number not in self.weights:
            rng = np.random.default_rng([self.seed, number])
            array = rng.normal(size=(rows, columns)).astype(self.dtype)
            self.weights[number] = tg.tensor(array, requires_grad=True)
        return self.weights[number]

    def __call__(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        choices, numbers, values = iter(self.choices), iter(range(99)), [x, *state]

        def pick(count: int) -> int:
            return int(next(choices)) % count

        def any_of() -> Tensor:
            return values[pick(len(values))]

        def product(z: Tensor, width: int) -> Tensor:
            return z @ self.weight(next(numbers), z.shape[-1], width)

        for _ in range(self.count):
            z, other, kind = any_of(), any_of(), pick(11)
            width = z.shape[-1]
            alike = other.shape == z.shape or 1 in (width, other.shape[-1])
            start = pick(width + 1)
            zeros = tg.zeros((z.shape[0], min(1, width)), dtype=self.dtype)
            values.append(
                [
                    lambda: z[..., start : start + pick(width - start + 1)],  # noqa: B023
                    lambda: tg.concat([z, other], axis=-1),  # noqa: B023
                    lambda: tg.tanh(z),  # noqa: B023
                    lambda: product(z, pick(4)),  # noqa: B023
                    lambda: tg.sum(z, axis=-1, keepdims=True),  # noqa: B023
                    lambda: z * other if alike else -z,  # noqa: B023
                    lambda: z + other if alike else z * 0.5,  # noqa: B023
                    lambda: tg.concat([z[..., 1:], zeros], axis=-1),  # noqa: B023
                    lambda: tg.reshape(tg.reshape(z, (z.shape[0], 1, width)), z.shape),  # noqa: B023
                    lambda: tg.flip(z, axis=-1),  # noqa: B023
                    lambda: tg.concat([z[..., :0], z, z[..., :0]], axis=-1),  # noqa: B023
                ][kind]()
            )
        after = [tg.tanh(product(tg.concat([any_of(), h], axis=-1), h.shape[-1])) for h in state]
        return values[-1], tuple(after)

    def results(self, mode: Any) -> list[Any]:
        x = tg.tensor(self.x, requires_grad=True)
        states = tuple(tg.tensor(h, requires_grad=True) for h in self.states)
        y, ends = tg.unroll(tg.pure(self), x, states, lengths=self.lengths, mode=mode)
        loss = sum((tg.square(h).sum() for h in ends), tg.square(y).sum())
        wanted = [x, *states, *(self.weights[n] for n in sorted(self.weights))]
        if not loss.requires_grad:
            return [y, *ends]
        return [y, *ends, *tg.grad(loss, wanted, allow_unused=True)]


def agree(literal: list[Any], planned: list[Any], rtol: float) -> None:
    for a, b in zip(literal, planned, strict=True):
        if a is None or b is None:
            assert not any(x.numpy().any() for x in (a, b) if x is not None)
        else:
            assert_allclose(b.numpy(), a.numpy(), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "NumPy"])
def test_cells_of_empty_arrays_are_planned(monkeypatch: pytest.MonkeyPatch, kernels: bool) -> None:
    monkeypatch.setenv("TINYGRAD_RNN_JIT", str(int(kernels)))
    tg.plan_cache().clear()
    for seed in [*range(50), 440] if kernels else range(150):
        cell = Drawn(seed)
        agree(cell.results("literal"), cell.results("planned"), 2e-4 if kernels else 1e-4)


def shift(z: Tensor) -> Tensor:
    return tg.concat([z[..., 1:], tg.zeros((z.shape[0], 1))], axis=-1)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_shifts_by_a_slice_and_a_column_of_zeros(width: int) -> None:
    rng = np.random.default_rng(0)
    x, w, r = (
        tg.tensor(rng.normal(size=shape).astype("float32"), requires_grad=True)
        for shape in ((4, 3, width), (width, width), (width,))
    )

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = shift(shift(tg.tanh(x + h @ w)) + r)
        return h, h

    results = []
    for mode in ("literal", "planned"):
        y, _ = tg.unroll(cell, x, tg.ones((3, width)), mode=mode)  # type: ignore[arg-type]
        results.append([y, *tg.grad(tg.square(y).sum(), [x, w, r], allow_unused=True)])
    agree(*results, rtol=1e-5)


def test_a_state_of_zeros_whose_cotangent_is_zero() -> None:
    """Both are the same constant, which each pass makes for itself."""

    def cell(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return x * 2.0, (tg.zeros((2, 3)), state[1])

    x = tg.tensor(np.ones((3, 2, 3), "float32"), requires_grad=True)
    state = tuple(tg.tensor(np.ones((2, 3), "float32"), requires_grad=True) for _ in range(2))
    y, (zeros, kept) = tg.unroll(cell, x, state, mode="planned")
    gradients = tg.grad(y.sum() + zeros.sum() + kept.sum(), [x, *state], allow_unused=True)
    assert (gradients[0].numpy() == 2).all() and not zeros.numpy().any()
    assert gradients[1] is None or not gradients[1].numpy().any()
    assert (gradients[2].numpy() == 1).all()


# Failures and warnings.


def tanh_cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    h = tg.tanh(x + h)
    return h, h


@pytest.fixture
def fresh() -> Iterator[None]:
    tg.plan_cache().clear()
    yield
    tg.plan_cache().clear()


def planned() -> Tensor:
    return tg.unroll(tanh_cell, tg.ones((3, 1, 1)), tg.zeros((1, 1)), mode="planned")[0]


def test_a_failure_on_the_way_to_machine_code_leaves_a_program_of_numpy(
    monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("lost")

    if native.available() is not None:
        pytest.skip("no kernels without llvmlite")
    monkeypatch.setattr(pipeline, "schedule_loops", fail)
    with pytest.warns(UserWarning, match="as a program of NumPy, since .*report this: KeyError"):
        y = planned()
    assert_allclose(y.numpy().ravel(), [0.761594, 0.942681, 0.959746], rtol=1e-5)
    plan = tg.plan(tanh_cell, tg.ones((3, 1, 1)), tg.zeros((1, 1)))
    assert plan.planned and "KeyError" in str(plan.no_kernels)


def test_a_warning_that_is_an_error_is_no_fault_of_the_planner(
    monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    monkeypatch.setattr(native, "_machine", native._machine.__wrapped__)  # forget the one found
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    monkeypatch.setattr(machine, "_told", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="planned loops run on NumPy, slower"):
            planned()
        assert planned().shape == (3, 1, 1)
