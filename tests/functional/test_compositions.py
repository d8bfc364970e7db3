"""Random programs, differentiated up to three times in every way that transforms nest.

A program takes two matrices and adds one more at each step, computed from earlier ones by a smooth
operation. The subtle point is scale: where values grow, a step ends in a tanh, so that the finite
differences which judge the derivatives stay accurate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from op_table import examples
from tinygrad_rnn.testing import check_grads

SHAPE = (2, 3)  # every value of a program broadcasts to this


def full(x: Any) -> Any:
    return tg.broadcast_to(x, SHAPE)


def one(x: Any) -> Any:
    return 1 + tg.square(x)


def attend(q: Any, k: Any, v: Any) -> Any:
    return tg.softmax(full(q) @ full(k).T) @ full(v)


def gates(x: Any, y: Any) -> Any:
    i, f = tg.split(tg.concat([full(x), full(y)], axis=1), 2, axis=1)
    return tg.sigmoid(i) * tg.tanh(f)


def steps(x: Any) -> Any:
    """A little recurrence over the rows."""
    state = tg.mean(x) * tg.ones((3,), dtype="float64")
    states = []
    for row in tg.unstack(full(x)):
        state = tg.tanh(row - 0.5 * state)
        states.append(state)
    return tg.stack(states)


MASK = np.array([[True, False, True], [False, True, True]])

OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: 0.5 - x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / one(y),
    "pow": lambda x, y: one(x) ** tg.tanh(y),
    "pow of a number": lambda x: 1.5**x - x**3,
    "exp": lambda x: tg.exp(-tg.square(x)),
    "expm1": lambda x: tg.expm1(0.3 * x),
    "log": lambda x: tg.log(one(x)),
    "log1p": lambda x: tg.log1p(tg.square(x)),
    "sqrt": lambda x: tg.sqrt(one(x)),
    "sin": tg.sin,
    "cos": tg.cos,
    "tanh": tg.tanh,
    "sigmoid": tg.sigmoid,
    "softplus": tg.softplus,
    "erf": tg.erf,
    "gelu": lambda x: tg.gelu(x),
    "gelu by tanh": lambda x: tg.gelu(x, approximate="tanh"),
    "silu": tg.silu,
    "where": lambda x, y: tg.where(tg.tensor(MASK), x, tg.sin(y)),
    "sum": lambda x: tg.sum(x, axis=0, keepdims=True),
    "mean": lambda x: tg.mean(x, axis=-1, keepdims=True),
    "var": lambda x: tg.var(full(x), axis=1, keepdims=True, correction=1),
    "std": lambda x, y: tg.std(tg.concat([full(x), 3 + full(y)], axis=1), axis=1, keepdims=True),
    "prod": lambda x: tg.prod(full(x), axis=1, keepdims=True),
    "logsumexp": lambda x: tg.logsumexp(x, keepdims=True),
    "cumulative_sum": lambda x: tg.cumulative_sum(x, axis=1),
    "softmax": lambda x: tg.softmax(full(x)),
    "log_softmax": lambda x: tg.log_softmax(full(x), axis=0),
    "layer_norm": lambda x, y: tg.layer_norm(full(x), full(y)[1], full(x)[0], eps=0.1),
    "cross_entropy": lambda x: tg.cross_entropy(full(x), tg.tensor([2, 0])) * x,
    "mse_loss": lambda x, y: tg.mse_loss(full(x), full(y)) - y,
    "matmul": lambda x, y, z: full(x) @ full(y).T @ full(z),
    "attend": attend,
    "gates": gates,
    "steps": steps,
    "einsum": lambda x, y: tg.einsum("ij,kj->ki", full(x), full(y)) @ full(x),
    "tensordot": lambda x, y: tg.tensordot(full(x), full(y), axes=((0,), (0,)))[1:],
    "outer": lambda x, y: tg.outer(tg.mean(x, axis=1), tg.mean(y, axis=0)),
    "roll": lambda x, y: x * tg.roll(y, 1, axis=1),
    "flip": lambda x, y: tg.flip(full(x)) * y,
    "pad": lambda x: tg.pad(full(x), ((1, 0), (0, 2)))[:2, 2:],
    "repeat": lambda x: tg.repeat(full(x), 2, axis=1)[:, 1:4],
    "tile": lambda x: tg.tile(full(x), (2, 1))[1:3] * x,
    "reshape": lambda x, y: tg.reshape(full(x), (3, 2)).T * y,
    "permute_dims": lambda x: tg.permute_dims(full(x)[None], (2, 1, 0))[:, :, 0].T,
    "getitem": lambda x, y: full(x)[[1, 0, 1], [2, 2, 0]] + y,
    "slices": lambda x: full(x)[::-1, ::-1] * x[..., :1],
    "mask": lambda x: tg.sum(tg.square(full(x)[MASK])) * x,
    "take": lambda x: tg.take(full(x), tg.tensor([0, 0, -1]), axis=1),
    "take_along_axis": lambda x: tg.take_along_axis(full(x), tg.tensor([[0], [2]])) * x,
    "at add": lambda x, y: full(x).at[[0, 0], [1, 1]].add(tg.sum(y)),
    "at set": lambda x, y: full(x).at[:, 1].set(tg.sin(full(y)[:, 0])),
    "checkpoint": lambda x, y: tg.checkpoint(lambda x, y: tg.tanh(x * y) - y)(x, y),
    "max": lambda x: tg.max(full(x) + np.array([[0.0, 9.0, 0.0]]), axis=1, keepdims=True),
    "clip": lambda x: tg.clip(x, -100, 100),
}
"""Each gives a value that broadcasts to SHAPE, of as many such values as it has arguments."""


class Program(NamedTuple):
    """Steps: the name of an operation, which values it takes, and whether a tanh follows."""

    steps: tuple[tuple[str, tuple[int, ...], bool], ...]

    def __call__(self, x: Any, y: Any) -> Any:
        values = [x, y]
        for name, operands, squashed in self.steps:
            value = OPERATIONS[name](*(values[i] for i in operands))
            values.append(tg.tanh(value) if squashed else value)
        return values[-1] + 0.3 * values[-2]

    def scalar(self, x: Any, y: Any) -> Any:
        z = self(x, y)
        return tg.sum(z * tg.cos(z)) + tg.sum(tg.sin(x))  # so that x is needed at every order


X = np.array([[0.3, -0.7, 0.5], [-0.2, 0.9, 0.4]])
Y = np.array([[0.6, 0.1, -0.4], [0.8, -0.5, 0.2]])


@st.composite
def programs(draw: Any, longest: int = 6) -> Program:
    values = [tg.tensor(X), tg.tensor(Y)]
    chosen = []
    for _ in range(draw(st.integers(1, longest))):
        name = draw(st.sampled_from(sorted(OPERATIONS)))
        operation = OPERATIONS[name]
        arity = getattr(operation, "__code__", None)
        operands = tuple(
            draw(st.integers(0, len(values) - 1)) for _ in range(arity.co_argcount if arity else 1)
        )
        value = operation(*(values[i] for i in operands))
        squashed = bool(np.abs(value.numpy()).max() > 2)
        values.append(tg.tanh(value) if squashed else value)
        chosen.append((name, operands, squashed))
    return Program(tuple(chosen))


@given(program=programs())
@examples(100)
def test_three_derivatives_of_random_programs(program: Program) -> None:
    check_grads(program, (X, Y), order=3, step=2e-4)


@given(program=programs())
@examples(40)
def test_nested_grad_agrees_with_transforms(program: Program) -> None:
    """grad of grad of grad, jvp of grad, hvp, and grad of jvp: one number in five ways."""
    u, v, w = (tg.tensor(np.roll(X, n)) for n in range(3))
    y = tg.tensor(Y)

    def f(x: Any) -> Any:
        return program.scalar(x, y)

    def gradient(x: Any) -> Any:
        return tg.value_and_grad(f)(x)[1]

    x = tg.tensor(X, requires_grad=True)
    first = tg.grad(f(x), x, create_graph=True)
    second = tg.grad(tg.sum(first * v), x, create_graph=True)
    third = tg.grad(tg.sum(second * w), x)

    def same(z: Any, wanted: Any) -> None:
        size = max(1.0, float(np.abs(wanted.numpy()).max()))
        np.testing.assert_allclose(z.numpy(), wanted.numpy(), rtol=1e-9, atol=1e-11 * size)

    point = tg.tensor(X)
    same(gradient(point), first)
    same(tg.jvp(f, point, v)[1], tg.sum(first * v))
    same(tg.hvp(f, point, v), second)
    same(tg.jvp(gradient, point, v)[1], second)
    same(tg.value_and_grad(lambda x: tg.jvp(f, x, v)[1])(point)[1], second)
    same(tg.hvp(lambda x: tg.jvp(f, x, w)[1], point, v), third)
    same(tg.jvp(lambda x: tg.hvp(f, x, v), point, w)[1], third)
    same(tg.vjp(lambda x: tg.hvp(f, x, v), point)[1](w)[0], third)
    same(tg.jvp(lambda x: tg.jvp(f, x, v)[1], point, u)[1], tg.sum(second * u))


@given(program=programs())
@examples(25)
def test_hessian_is_symmetric_and_makes_hvp(program: Program) -> None:
    def f(x: Any, y: Any) -> Any:
        return program.scalar(x, y)

    x, y = tg.tensor(X), tg.tensor(Y)
    h = tg.hessian(f)(x, y).numpy().reshape(6, 6)
    size = max(1.0, np.abs(h).max())
    np.testing.assert_allclose(h, h.T, rtol=1e-9, atol=1e-11 * size)
    v = np.roll(X, 1)
    product = tg.hvp(lambda x: f(x, y), x, tg.tensor(v)).numpy()
    np.testing.assert_allclose(h @ v.ravel(), product.ravel(), rtol=1e-9, atol=1e-11 * size)
    j = tg.jacobian(program, argnums=(0, 1))(x, y)
    out = program(x, y)
    assert [part.shape for part in j] == [out.shape + SHAPE] * 2
    tangent = tg.jvp(program, (x, y), (tg.tensor(v), tg.tensor(X)))[1].numpy()
    pushed = np.tensordot(j[0].numpy(), v, 2) + np.tensordot(j[1].numpy(), X, 2)
    np.testing.assert_allclose(pushed, tangent, rtol=1e-9, atol=1e-11 * size)


@given(program=programs(), axis=st.sampled_from((0, 1, -1)))
@examples(40)
def test_vmap_of_derivatives_is_a_loop(program: Program, axis: int) -> None:
    """vmap of value, grad, hvp and vmap in vmap, over x at any axis and y or not."""
    xs = [X, X[::-1].copy(), 0.5 * X]
    stacked, y, v = tg.tensor(np.stack(xs, axis=axis)), tg.tensor(Y), tg.tensor(np.roll(X, 2))

    def gradient(x: Any, y: Any) -> Any:
        return tg.value_and_grad(program.scalar, argnums=(0, 1))(x, y)[1]

    def product(x: Any, y: Any) -> Any:
        return tg.hvp(lambda x: program.scalar(x, y), x, v)

    def same(found: Any, wanted: list[Any]) -> None:
        reference = np.stack([w.numpy() for w in wanted])
        size = max(1.0, np.abs(reference).max())
        np.testing.assert_allclose(found.numpy(), reference, rtol=1e-9, atol=1e-11 * size)

    each = [tg.tensor(x) for x in xs]
    same(tg.vmap(program, (axis, None))(stacked, y), [program(x, y) for x in each])
    for found, wanted in zip(
        tg.vmap(gradient, (axis, None))(stacked, y),
        zip(*(gradient(x, y) for x in each), strict=True),
        strict=True,
    ):
        same(found, list(wanted))
    same(tg.vmap(product, (axis, None))(stacked, y), [product(x, y) for x in each])
    mapped = tg.vmap(program.scalar, (axis, None))
    _, total = tg.value_and_grad(lambda xs: tg.sum(tg.square(mapped(xs, y))))(stacked)
    wanted = [2 * program.scalar(x, y) * gradient(x, y)[0] for x in each]
    same(tg.moveaxis(total, axis, 0), wanted)
    twice = tg.vmap(tg.vmap(program.scalar, (None, 0)), (axis, None))
    ys = tg.tensor(np.stack([Y, -Y]))
    same(twice(stacked, ys), [tg.stack([program.scalar(x, ys[n]) for n in range(2)]) for x in each])
