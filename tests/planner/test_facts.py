"""The table of facts about primitives: nothing of somebody else's, and ours agree with numbers."""

from __future__ import annotations

import numpy as np

import tinygrad_rnn_backends as backends
from tinygrad_rnn.graph import TABLE
from tinygrad_rnn.planner.facts import facts_of


def test_of_a_primitive_of_somebody_elses_nothing_is_known() -> None:
    assert not any(facts_of("another tanh")) and not any(facts_of("x"))


def test_what_moves_is_linear_and_cheap_and_what_is_costly_is_held() -> None:
    for name in TABLE:
        facts = facts_of(name)
        assert (facts.cheap and facts.linear) or not facts.moves
        assert facts.ufunc is None or facts.ufunc.removeprefix("np.") in dir(np)
    assert facts_of("negative").linear and not facts_of("square").linear
    for name in ("tanh", "exp", "divide", "matmul", "sum"):
        assert not facts_of(name).cheap
    for name in ("add", "multiply", "where", "reshape"):
        assert facts_of(name).cheap


def test_functions_of_numpy_are_those_of_their_primitives() -> None:
    xp, x = backends.get("numpy"), np.array([0.25, 0.5, 0.75])
    for name, primitive in TABLE.items():
        ufunc = facts_of(name).ufunc
        if ufunc is not None:
            function = getattr(np, ufunc.removeprefix("np."))
            operands = [x > 0.3, x > 0.6] if "logical" in name else [x, x + 1]
            operands = [np.array([3, 5]), np.array([1, 2])] if "bitwise" in name else operands
            operands = operands[: function.nin]
            with np.errstate(all="ignore"):  # outside of what some are defined for
                expected, found = primitive.forward(xp, *operands), function(*operands)
            np.testing.assert_allclose(found, expected, rtol=1e-15)
