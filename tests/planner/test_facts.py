"""The table of facts: it has a row for each primitive of ours, and each fact is true on numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_rnn_backends as backends
from tinygrad_rnn.graph import TABLE, Primitive
from tinygrad_rnn.planner import facts
from tinygrad_rnn.planner.facts import Facts, facts_of

OURS = [
    name
    for name, primitive in TABLE.items()
    if str(primitive.forward.__module__).startswith("tinygrad_rnn.") and name != "unroll"
]
ELEMENTWISE = [name for name in OURS if TABLE[name].kind == "elementwise"]


def numbers(name: str, function: Any) -> list[np.ndarray[Any, Any]]:
    """Operands that are in the domain of every function."""
    rng = np.random.default_rng(0)
    if "shift" in name or "bitwise" in name:
        return [rng.integers(1, 5, 7) for _ in range(function.nin)]
    drawn = [rng.uniform(0.1, 0.9, 7) for _ in range(function.nin)]
    return [1 + x for x in drawn] if name == "acosh" else drawn


@pytest.mark.parametrize("name", OURS)
def test_every_primitive_has_a_row(name: str) -> None:
    assert name in facts._FACTS


@pytest.mark.parametrize("name", [name for name in ELEMENTWISE if facts_of(name).ufunc])
def test_the_function_of_numpy_is_the_primitive(name: str) -> None:
    function = eval(str(facts_of(name).ufunc), {"np": np})
    given = numbers(name, function)
    expected = np.asarray(TABLE[name].forward(backends.get("numpy"), *given))
    out = np.empty_like(expected)
    function(*given, out=out)
    np.testing.assert_allclose(out, expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("name", "inputs", "keywords"),
    [
        ("negative", (), {}),
        ("multiply", (2.5,), {}),
        ("divide", (2.5,), {}),
        ("astype", (), {"dtype": np.dtype("float64")}),
        ("sum", (), {"axis": (-1,), "keepdims": False}),
        ("reshape", (), {"shape": (4, 3)}),
        ("permute_dims", (), {"axes": (-1, -2)}),
        ("broadcast_to", (), {"shape": (2, 3, 4)}),
        ("getitem", (), {"key": (slice(None), slice(1, 3))}),
    ],
)
def test_what_is_linear_may_change_places_with_a_sum(
    name: str, inputs: tuple[float, ...], keywords: dict[str, Any]
) -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 3, 4))
    xp = backends.get("numpy")

    def apply(array: Any) -> Any:
        return TABLE[name].forward(xp, array, *inputs, **keywords)

    np.testing.assert_allclose(apply(x + y), apply(x) + apply(y), rtol=1e-14)
    moved = np.isin(apply(x), x).all()
    assert facts_of(name).linear and facts_of(name).moves == (moved and name != "astype")


def test_every_fact_that_is_linear_is_tested_here() -> None:
    tested = test_what_is_linear_may_change_places_with_a_sum.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {name for name in OURS if facts_of(name).linear} == {name for name, *_ in tested}


def test_what_somebody_else_adds_has_no_facts() -> None:
    Primitive("cbrt", "elementwise", lambda xp, x: 2 * x)
    try:
        assert facts_of("cbrt") == Facts()
    finally:
        del TABLE["cbrt"]
