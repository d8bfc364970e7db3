"""What ``detect_anomaly`` says of a NaN: who made it or brought it in, where, and when."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn

ROOT_OF = np.array([[4.0, 1.0, 9.0], [1.0, -1.0, 1.0], [1.0, 1.0, 1.0], [-4.0, 1.0, -1.0]])


def found(run: Callable[[], Any]) -> str:
    with (
        np.errstate(all="ignore"),
        tg.detect_anomaly(),
        pytest.raises(FloatingPointError) as caught,
    ):
        run()
    return str(caught.value)


def test_it_names_index_and_rows() -> None:
    text = found(lambda: tg.sqrt(tg.tensor(ROOT_OF)))
    assert text.startswith("sqrt made nan in the forward pass, at ") and "test_anomaly.py" in text
    assert text.endswith("; first at index (1, 1) of shape (4, 3), along axis 0 at 1, 3")
    assert found(lambda: tg.sqrt(tg.tensor(-1.0)))[-1] not in "0123456789"
    one = found(lambda: tg.log(tg.tensor([1.0, 0.0])))
    assert one.startswith("log made inf") and one.endswith("index (1,) of shape (2,)")


def test_it_names_the_step_of_every_loop() -> None:
    def cell(x: Any, h: Any) -> Any:
        return tg.sqrt(x), h

    xs = tg.tensor(ROOT_OF[:, None])
    text = found(lambda: tg.unroll(cell, xs, tg.zeros((1, 3))))
    assert ", at step 1; first at index (0, 1) of shape (1, 3)" in text
    assert ", at step 3;" in found(lambda: tg.unroll(cell, xs, tg.zeros((1, 3)), reverse=True))

    def outer(x: Any, h: Any) -> Any:
        return tg.unroll(cell, x, h)[0], h

    nested = tg.stack([tg.ones_like(xs), xs])
    text = found(lambda: tg.unroll(outer, nested, tg.zeros((1, 3))))
    assert ", at step 1, within step 1;" in text
    assert not re.search(r", at step \d", found(lambda: tg.sqrt(tg.tensor(-1.0))))


def test_the_backward_pass_names_the_step_of_the_forward_pass() -> None:
    x = tg.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]], requires_grad=True)

    def run() -> None:
        ys, _ = tg.unroll(lambda x, h: (tg.sqrt(x), h), x, tg.zeros((2,)))
        ys.sum().backward()

    text = found(run)
    assert re.search(r"the vjp of sqrt \(made at .*test_anomaly\.py.*, at step 1\) in the", text)
    assert text.endswith("made inf; first at index (0,) of shape (2,)")


def test_what_came_in_with_the_data_is_said_to() -> None:
    xs = np.ones((5, 2, 3), "float32")
    xs[2, 1, 0] = np.nan
    lstm = nn.LSTM(3, 4)
    text = found(lambda: lstm(tg.tensor(xs)))
    assert "given nan: input 0 held it already, at " in text
    assert "test_anomaly.py" in text and "lstm(tg.tensor(xs))" in text
    assert text.endswith("; first at index (2, 1, 0) of shape (5, 2, 3)")
    assert found(lambda: tg.ones(2) * float("nan")).startswith("multiply was given nan: input 1")


def test_a_parameter_is_called_by_its_name() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))
    weight = np.array(model[1].weight.numpy())
    weight[1, 2] = np.inf
    model[1].weight.data = weight
    (name,) = [name for name, p in model.named_parameters() if p is model[1].weight]
    text = found(lambda: model(tg.ones((1, 2))))
    assert f"matmul was given inf: parameter {name!r} of Sequential held it already" in text
    assert "; first at index (1, 2) of shape (3, 3)" in text
    loose = nn.Parameter(np.array([np.nan]))
    assert "given nan: a parameter held it" in found(lambda: loose * 1.0)


def test_in_a_layer_it_names_the_line_of_the_cell_and_the_call() -> None:
    lstm = nn.LSTM(2, 3)
    huge = tg.full((4, 1, 2), 3e38)
    text = found(lambda: lstm(huge))
    assert "test_anomaly.py" in text and "text = found(lambda: lstm(huge))" in text
    assert re.search(r"\(in \w+\.py:\d+: .*@.*\), at step 0", text)
