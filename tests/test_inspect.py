"""Drawings of a graph: exactly what a reader with a pencil gets to see."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor


def two_steps() -> tuple[Tensor, dict[str, Tensor]]:
    """An Elman network of two steps and no input weights, small enough to draw."""
    x = tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    u = tg.tensor([[0.1, 0.2], [0.3, 0.4]], requires_grad=True)
    h = tg.zeros(2)
    for x_t in tg.unstack(x):
        h = tg.tanh(x_t + h @ u)
    return h.sum(), {"x": x, "u": u}


TEXT = """\
"""

DOT = """\
"""


def test_to_text_of_a_small_graph() -> None:
    y, names = two_steps()
    assert tg.to_text(y, names) == TEXT.rstrip("\n")


def test_to_dot_of_a_small_graph() -> None:
    y, names = two_steps()
    assert tg.to_dot(y, names) == DOT.rstrip("\n")
