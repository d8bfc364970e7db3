"""Drawings of a graph: exactly what a reader with a pencil gets to see."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor


def two_steps() -> tuple[Tensor, dict[str, Tensor]]:
    """An Elman network of two steps without input weights, small enough to draw."""
    x = tg.tensor([[[1.0, 2.0]], [[3.0, 4.0]]], requires_grad=True)
    u = tg.tensor([[0.1, 0.2], [0.3, 0.4]], requires_grad=True)
    h = tg.zeros((1, 2))
    for x_t in tg.unstack(x):
        h = tg.tanh(x_t + h @ u)
    return (0.5 * h).sum(), {"x": x, "u": u}


TEXT = """\
x = leaf                                       float32 (2, 1, 2)
u = leaf                                       float32 (2, 2)
v3 = unstack[0](x, axis=-3)                    float32 (1, 2)
v4 = unstack[1](x, axis=-3)                    float32 (1, 2)
v5 = matmul(const, u)                          float32 (1, 2)      keeps x
v6 = add(v3, v5)                               float32 (1, 2)
v7 = tanh(v6)                                  float32 (1, 2)      keeps out
v8 = matmul(v7, u)                             float32 (1, 2)      keeps y, x
v9 = add(v4, v8)                               float32 (1, 2)
v10 = tanh(v9)                                 float32 (1, 2)      keeps out
v11 = multiply(0.5, v10)                       float32 (1, 2)      keeps x
v12 = sum(v11, axis=(-2, -1), keepdims=False)  float32 ()"""

DOT = r"""digraph {
  rankdir=LR;
  node [fontname=monospace];
  "x" [label="x\nleaf\nfloat32 (2, 1, 2)", shape=box];
  "u" [label="u\nleaf\nfloat32 (2, 2)", shape=box];
  "v3" [label="v3\nunstack[0]\nfloat32 (1, 2)", shape=ellipse];
  "x" -> "v3";
  "v4" [label="v4\nunstack[1]\nfloat32 (1, 2)", shape=ellipse];
  "x" -> "v4";
  "v5" [label="v5\nmatmul\nfloat32 (1, 2)", shape=ellipse];
  "u" -> "v5";
  "v6" [label="v6\nadd\nfloat32 (1, 2)", shape=ellipse];
  "v3" -> "v6";
  "v5" -> "v6";
  "v7" [label="v7\ntanh\nfloat32 (1, 2)", shape=ellipse];
  "v6" -> "v7";
  "v8" [label="v8\nmatmul\nfloat32 (1, 2)", shape=ellipse];
  "v7" -> "v8";
  "u" -> "v8";
  "v9" [label="v9\nadd\nfloat32 (1, 2)", shape=ellipse];
  "v4" -> "v9";
  "v8" -> "v9";
  "v10" [label="v10\ntanh\nfloat32 (1, 2)", shape=ellipse];
  "v9" -> "v10";
  "v11" [label="v11\nmultiply\nfloat32 (1, 2)", shape=ellipse];
  "v10" -> "v11";
  "v12" [label="v12\nsum\nfloat32 ()", shape=ellipse];
  "v11" -> "v12";
}"""


def test_to_text_of_a_small_graph() -> None:
    y, names = two_steps()
    assert tg.to_text(y, names) == TEXT


def test_to_dot_of_a_small_graph() -> None:
    y, names = two_steps()
    assert tg.to_dot(y, names) == DOT


def test_a_reader_with_a_pencil_gets_the_gradient_from_the_text_alone() -> None:
    """Read down to compute values, up to pull the cotangent back: the text holds all it takes."""
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=3) for name in "xwb"}
    leaves = {name: tg.tensor(v, requires_grad=True) for name, v in values.items()}
    x, w, b = leaves.values()
    y = (tg.tanh(x * w + b) * x * 3.0 - tg.exp(b)).sum()
    line = re.compile(r"(\w+) = (\w+)(?:\((.*?)\))? ")
    lines = []
    for name, operation, arguments in line.findall(tg.to_text(y, leaves)):
        inputs = [a for a in (arguments or "").split(", ") if a and "=" not in a]
        lines.append((name, operation, inputs[:1] if operation == "sum" else inputs))
    forward = {
        "multiply": np.multiply,
        "add": np.add,
        "subtract": np.subtract,
        "tanh": np.tanh,
        "exp": np.exp,
        "sum": np.sum,
    }
    backward = {
        "multiply": lambda g, out, a, b: (g * b, g * a),
        "add": lambda g, out, a, b: (g, g),
        "subtract": lambda g, out, a, b: (g, -g),
        "tanh": lambda g, out, a: (g * (1 - out * out),),
        "exp": lambda g, out, a: (g * out,),
        "sum": lambda g, out, a: (g * np.ones_like(a),),
    }
    for name, operation, inputs in lines:
        values.update(
            {i: float(i) for i in inputs if i not in values}
        )  # a number stands for itself
        if operation != "leaf":
            values[name] = forward[operation](*(values[i] for i in inputs))
    assert_allclose(values[lines[-1][0]], y.item(), rtol=1e-12)
    cotangents = {name: 0.0 for name in values} | {lines[-1][0]: 1.0}
    for name, operation, inputs in reversed(lines):
        if operation != "leaf":
            arguments = [values[i] for i in inputs]
            parts = backward[operation](cotangents[name], values[name], *arguments)
            for i, part in zip(inputs, parts, strict=True):
                cotangents[i] = cotangents[i] + part
    for name, g in tg.grad(y, leaves).items():
        assert_allclose(cotangents[name], g.numpy(), rtol=1e-12)


def test_constants_and_keys_are_shown_where_a_node_has_them() -> None:
    x = tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    i = tg.tensor([1, 0])
    text = tg.to_text(tg.concat([x[0, :], x[i, 1] ** 3.0, tg.zeros(1)]), {"x": x})
    assert "getitem(x, key=(0, slice(None, None, None)))" in text
    assert re.search(r"v\d+ = pow\(v\d+, 3\.0\) +float32 \(2,\) +keeps x", text)
    assert re.search(r"v\d+ = concat\(v\d+, v\d+, axis=-1\) +float32 \(5,\)$", text)


def test_the_order_is_that_of_computation_and_a_shared_node_has_one_line() -> None:
    x = tg.ones(2, requires_grad=True)
    a = x * 2.0
    b = a + a
    text = tg.to_text(b * a, {"x": x, "a": a})
    lines = [line.split("  ")[0] for line in text.splitlines()]
    assert lines == ["x = leaf", "a = multiply(x, 2.0)", "v3 = add(a, a)", "v4 = multiply(v3, a)"]


def test_a_leaf_alone_and_a_released_graph() -> None:
    x = tg.ones((2, 1), requires_grad=True)
    assert tg.to_text(x) == "v1 = leaf  float32 (2, 1)"
    y = tg.exp(x).sum()
    y.backward()
    assert tg.to_text(y) == "v1 = released  float32 ()"
    assert "->" not in tg.to_dot(y)


def test_names_of_any_kind_are_quoted() -> None:
    keys, const = tg.ones(2, requires_grad=True), tg.ones(2, requires_grad=True)
    dot = tg.to_dot(keys * const, {'a "b"': keys, "const": const})
    assert '"a \\"b\\"" -> "v3";' in dot
    assert '"const" -> "v3";' in dot


def test_other_backends_and_higher_orders_are_drawn_the_same(backend: object) -> None:
    x = tg.ones(2, requires_grad=True)
    g = tg.grad(tg.square(x).sum(), x, create_graph=True)
    text = tg.to_text(g, {"x": x})
    assert "x = leaf" in text and "multiply(" in text and "float32 (2,)" in text


def test_what_has_no_graph_is_refused() -> None:
    for y in (tg.ones(2), 3.0, None):
        for draw in (tg.to_text, tg.to_dot):
            with pytest.raises(TypeError, match="requires grad"):
                draw(y)
