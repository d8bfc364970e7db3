"""A loop run both ways, literally and planned, and everything that comes of it compared.

``case.results(run)`` is all there is to a loop, for ``run`` either ``literal`` or ``planned``: its
outputs and final state, and the gradients of inputs, initial state and whatever the cell captures,
pulled back from random cotangents. ``assert_planned_is_literal(case)`` compares the two, the second
time with the plan from the cache.

The subtle point is what "equal to rounding" is relative to: the largest magnitude in an array, or
0.1 where the array is smaller. Cotangents and values here are of the order of 1, so what is smaller
than that is what is left after terms cancelled, and consists of their rounding.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor

Array = np.ndarray[Any, Any]
Run = Callable[..., tuple[Any, Any]]

TOLERANCES = {"float32": 1e-5, "float64": 1e-11}


def literal(cell: Any, xs: Any, state: Any = None, **options: Any) -> tuple[Any, Any]:
    """The oracle: the loop itself."""
    options.pop("checkpoint", None)
    return tg.unroll(cell, xs, state, mode="literal", **options)


def planned(cell: Any, xs: Any, state: Any = None, **options: Any) -> tuple[Any, Any]:
    """What is tested. It raises where it cannot plan, and never runs literally."""
    return tg.unroll(cell, xs, state, mode="planned", **options)


@dataclass
class Case:
    """A loop, and what the cell captures; all of it that requires grad is differentiated by."""

    cell: Callable[..., Any]
    xs: Any
    state: Any = None
    captured: Any = ()
    options: dict[str, Any] = field(default_factory=dict)
    unused: tuple[int, ...] = ()
    """Places among outputs and parts of the final state from which nothing is pulled back."""

    def results(self, run: Run, order: int = 1, **options: Any) -> dict[str, Array]:
        """Everything that comes of ``literal`` or ``planned``, as copies, each by its name."""
        tg.manual_seed(0)
        outputs, state = run(self.cell, self.xs, self.state, **self.options, **options)
        found = {**_named("output", outputs), **_named("final state", state)}
        values = {name: y.numpy().copy() for name, y in found.items()}
        inputs = {
            name: x
            for tree in ("xs", "state", "captured")
            for name, x in _named(tree, getattr(self, tree)).items()
            if isinstance(x, Tensor) and x.requires_grad
        }
        ends = [y for place, y in enumerate(found.values()) if place not in self.unused]
        return values | _gradients("gradient of", ends, inputs, order)


def _gradients(prefix: str, ends: list[Tensor], inputs: Any, order: int) -> dict[str, Array]:
    """Gradients, and those of their sum with random weights, and so on; None counts as zeros."""
    pairs = [(y, g) for y, g in zip(ends, cotangents(ends), strict=True) if y.requires_grad]
    found = dict.fromkeys(inputs)
    if pairs and inputs:
        pulled = [[*column] for column in zip(*pairs, strict=True)]
        found = tg.grad(pulled[0], inputs, pulled[1], create_graph=order > 1, allow_unused=True)
    gradients = {
        f"{prefix} {name}": tg.zeros_like(x) if found[name] is None else found[name]
        for name, x in inputs.items()
    }
    arrays = {name: g.numpy().copy() for name, g in gradients.items()}
    if order > 1:
        again = list(gradients.values())
        arrays |= _gradients(f"gradient of {prefix}", again, inputs, order - 1)
    return arrays


def cotangents(ys: list[Tensor], seed: int = 0) -> list[Tensor]:
    """Numbers between 0.5 and 1 of either sign, the same for the same shapes."""
    rng = np.random.default_rng(seed)
    return [
        tg.tensor(rng.uniform(0.5, 1, y.shape) * rng.choice((-1.0, 1.0), y.shape), dtype=y.dtype)
        for y in ys
    ]


def _named(name: str, tree: Any) -> dict[str, Any]:
    """The leaves of a structure by how one reaches them; those of a dict in any order."""
    if not isinstance(tree, (dict, tuple, list)):
        return {name: tree}
    keys = sorted(tree) if isinstance(tree, dict) else range(len(tree))
    found: dict[str, Any] = {}
    for key in keys:
        found |= _named(f"{name}[{key!r}]", tree[key])
    return found


def assert_close(found: dict[str, Array], expected: dict[str, Array]) -> None:
    """Names the arrays that differ by more than rounding."""
    assert list(found) == list(expected)
    wrong = [_difference(found[name], expected[name], name) for name in found]
    assert not any(wrong), "\n".join(filter(None, wrong))


def _difference(found: Array, expected: Array, name: str) -> str:
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return f"{name}: {found.dtype} {found.shape}, not {expected.dtype} {expected.shape}"
    if found.dtype.kind != "f":
        return "" if np.array_equal(found, expected) else f"{name}: {found}, not {expected}"
    if not np.array_equal(np.isfinite(found), np.isfinite(expected)):
        return f"{name}: not finite at other places: {found}, not {expected}"
    finite = np.isfinite(expected)
    scale = max(np.abs(expected[finite]).max(initial=0.0), 0.1)
    error = np.abs(found[finite] - expected[finite]).max(initial=0.0) / scale
    if error <= TOLERANCES[str(found.dtype)]:
        return ""
    return f"{name}: {error:.1e} of the largest magnitude off\n{found}\nnot\n{expected}"


def assert_planned_is_literal(case: Case, order: int = 1, **options: Any) -> None:
    """Twice, for the first time may prepare a plan that the second finds in the cache."""
    expected = case.results(literal, order)
    for _ in range(2):
        assert_close(case.results(planned, order, **options), expected)


@contextmanager
def layers_run(run: Run) -> Iterator[None]:
    """Layers of nn, which leave the mode to ``unroll``, run as ``literal`` or ``planned`` does."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("recurrent", "seq2seq"):
            patch.setattr(f"tinygrad_rnn.nn.{module}.unroll", run)
        yield


def leaf(rng: np.random.Generator, *shape: int, dtype: Any = "float64") -> Tensor:
    """Normal numbers that require grad."""
    return tg.tensor(rng.normal(size=shape), dtype=dtype, requires_grad=True)


KERNELS = [
    pytest.param(False, id="numpy"),
    pytest.param(
        True,
        id="fused",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("llvmlite") is None, reason="llvmlite is not installed"
        ),
    ),
]
"""Whether float32 runs in fused kernels, where those can be had."""


@contextmanager
def plans_of(fused: bool) -> Iterator[None]:
    """Plans are prepared anew in this block, with fused kernels or without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TINYGRAD_RNN_JIT", raising=False)
        if not fused:
            patch.setenv("TINYGRAD_RNN_JIT", "0")
        forget_plans()
        yield
    forget_plans()


def forget_plans() -> None:
    """As if no cell had been unrolled before."""
    tg.plan_cache().clear()


class Counted:
    """A cell, and how often it was called."""

    def __init__(self, cell: Callable[..., Any]) -> None:
        self.cell = cell
        self.calls = 0

    def __call__(self, x: Any, state: Any) -> Any:
        self.calls += 1
        return self.cell(x, state)
