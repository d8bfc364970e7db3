"""Names of PyTorch, NumPy and JAX: the error says what they are called here, and that is true."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import names


@pytest.mark.parametrize(
    ("ask", "cure"),
    [
        (lambda: tg.cat, r"'cat'; here it is concat\("),
        (lambda: tg.clamp, r"clip\(x, min, max\)"),
        (lambda: tg.cumsum, r"cumulative_sum\("),
        (lambda: tg.norm, r"linalg\.vector_norm\("),
        (lambda: tg.ones((2, 2)).trace(), r"here it is tinygrad_rnn\.linalg\.trace\(x\)"),
        (lambda: tg.ones(2).sort(), r"here it is tinygrad_rnn\.sort\(x\)"),
        (lambda: tg.swapaxes, "moveaxis"),
        (lambda: tg.scan, "unroll"),
        (lambda: tg.randn, r"random\.normal"),
        (lambda: tg.linalg.norm, r"'norm'; here it is vector_norm\("),
        (lambda: tg.random.randn, r"here it is normal\(shape\)"),
        (lambda: tg.ones(2).tanh(), r"'tanh'; here it is tinygrad_rnn\.tanh\(x\)"),
        (lambda: tg.ones(2).view(2), r"x\.reshape|tinygrad_rnn\.reshape\(x, shape\)"),
        (lambda: tg.ones(2).add_(1), "nothing is written in place"),
        (lambda: tg.ones(2).cpu(), r"x\.to\('numpy'\)"),
        (lambda: tg.ones(2).clamp(0), r"tinygrad_rnn\.clip"),
        (lambda: tg.ones(2).masked_fill(0, 1), r"tinygrad_rnn\.where"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_the_error_names_ours(ask: Any, cure: str) -> None:
    with pytest.raises(AttributeError, match=cure):
        ask()


def test_a_name_of_nobodys_is_not_there() -> None:
    for thing in (tg, tg.random, tg.linalg, tg.ones(2)):
        for name in ("no_such_thing", "__no_such_thing__", "_private"):
            assert not hasattr(thing, name)
            with pytest.raises(AttributeError, match=name):
                getattr(thing, name)
    x = tg.ones(2, requires_grad=True)
    for copied in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        np.testing.assert_array_equal(copied.numpy(), 1)
    with pytest.raises(AttributeError, match="_array"):
        object.__getattribute__(tg.Tensor.__new__(tg.Tensor), "_array")


def test_grad_of_a_function_names_value_and_grad() -> None:
    for ask in (lambda: tg.grad(tg.sin), lambda: tg.grad(tg.sin, tg.ones(1))):
        with pytest.raises(TypeError, match=r"value_and_grad\(f\)\(x\)\[1\]"):
            ask()


SCOPE = {
    **{name: value for name, value in vars(tg).items() if not name.startswith("_")},
    "random": tg.random,
    "x": tg.tensor([[1.0, 2.0], [3.0, 4.0]]),
    "y": tg.tensor([[1.0, 4.0], [2.0, 1.0]]),
    "array": np.ones((2, 2)),
    "axis": 0,
    "axes": (1, 0),
    "destination": 0,
    "f": tg.sin,
    "i": 0,
    "indices": tg.tensor([[0, 1], [1, 0]]),
    "j": 1,
    "k": 1,
    "key": 0,
    "length": 1,
    "mask": tg.tensor([True, False]),
    "math": math,
    "n": 2,
    "numpy": np,
    "p": tg.tensor([0.5, 0.5]),
    "shape": (2, 2),
    "source": 1,
    "start": 0,
    "value": 0.0,
    "values": 1.0,
    "weight": 0.5,
}


@pytest.mark.parametrize("name", names._FUNCTIONS)
def test_what_is_named_runs(name: str) -> None:
    assert not hasattr(tg, name)
    scope = {**SCOPE, **({"min": 0.0, "max": 1.0} if name == "clamp" else {})}
    scope |= {"x": SCOPE["x"] / 4} if name.startswith("arc") else {}
    found = eval(names._FUNCTIONS[name].partition(";")[0], scope)
    assert isinstance(found, (tg.Tensor, list, tuple, bool, np.generic))
