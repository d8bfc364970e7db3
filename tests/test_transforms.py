"""Transforms: what each gives, in which structure, and that they compose in any order.

The oracle of a composition is the same derivative by another way: a loop over examples for vmap, a
finite difference or a formula for a derivative, the plain function for checkpoint.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.structure import flatten, unflatten


class Pair(NamedTuple):
    first: Any
    second: Any


def draw(*shape: int, seed: int = 0) -> Tensor:
    values = np.random.default_rng(seed + 10 * len(shape) + sum(shape)).normal(size=shape)
    return tg.tensor(values, backend=tg.zeros(()).backend)


def leaf(*shape: int, seed: int = 0) -> Tensor:
    x = draw(*shape, seed=seed)
    x.requires_grad = True
    return x


def close(got: Any, expected: Any, rtol: float = 1e-11) -> None:
    """Equal structures, shapes and dtypes, and equal numbers to rounding."""
    leaves, structure = flatten(got)
    wanted, own = flatten(expected)
    assert structure == own
    for a, b in zip(leaves, wanted, strict=True):
        assert isinstance(a, Tensor)
        host = b.numpy() if isinstance(b, Tensor) else np.asarray(b)
        assert a.shape == host.shape
        assert a.dtype == host.dtype
        assert_allclose(a.numpy(), host, rtol=rtol, atol=1e-13)


def energy(x: Tensor) -> Tensor:
    """A scalar whose derivatives are all known: sum of sin(x_i) * x_i + (sum x)^3."""
    return (tg.sin(x) * x).sum() + x.sum() ** 3


def energy_grad(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.sin(x) + x * np.cos(x) + 3 * x.sum() ** 2


def energy_hessian(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.diag(2 * np.cos(x) - x * np.sin(x)) + 6 * x.sum()


def by_hand(f: Callable[..., Any], *xs: Tensor) -> Any:
    """vmap by a loop over axis 0."""
    results = [f(*row) for row in zip(*map(tg.unstack, xs), strict=True)]
    structure = flatten(results[0])[1]
    columns = zip(*(flatten(result)[0] for result in results), strict=True)
    return unflatten(structure, [tg.stack(column) for column in columns])


# The signatures that the design promises.

SIGNATURES = {
    tg.grad: "output, inputs, cotangent=None, *, create_graph=False, retain_graph=None, "
    "allow_unused=False",
    tg.value_and_grad: "f, argnums=0",
    tg.vjp: "f, *xs",
    tg.jvp: "f, xs, vs",
    tg.hvp: "f, xs, vs",
    tg.jacobian: "f, argnums=0",
    tg.hessian: "f, argnums=0",
    tg.vmap: "f, in_axes=0, out_axes=0",
    tg.checkpoint: "f",
    tg.unroll: "cell, xs, state=None, *, lengths=None, mask=None, reset=None, reset_state=None, "
    "reverse=False, mode='auto', checkpoint=None",
    tg.plan: "cell, xs, state=None, *, lengths=None, mask=None, reset=None, reverse=False",
    tg.plan_cache: "",
    tg.no_grad: "",
    tg.enable_grad: "",
    tg.detect_anomaly: "",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f.__name__)
def test_the_signature_is_the_promised_one(function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters.values()
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    assert str(inspect.Signature(plain)) == f"({SIGNATURES[function]})"


# grad.


@pytest.mark.parametrize(
    "arrange",
    [
        lambda x, w: x,
        lambda x, w: (x, w),
        lambda x, w: [w, x, w],
        lambda x, w: {"x": x, "both": (w, [x])},
        lambda x, w: Pair(x, {"w": w}),
        lambda x, w: [],
    ],
)
def test_grad_has_the_structure_of_its_inputs(arrange: Callable[..., Any]) -> None:
    x, w = leaf(3), leaf(3, seed=1)
    found = tg.grad((x * w).sum(), arrange(x, w))
    close(found, arrange(w, x))


def test_grad_of_several_outputs_is_the_sum_of_what_each_gives() -> None:
    x = leaf(3)
    outputs = {"a": tg.exp(x), "b": (x * 2.0, x.sum())}
    cotangents = {"b": (draw(3, seed=1), tg.tensor(4.0)), "a": draw(3, seed=2)}
    expected = np.exp(x.numpy()) * cotangents["a"].numpy()
    expected += 2 * cotangents["b"][0].numpy() + 4
    close(tg.grad(outputs, x, cotangents), expected)


def test_grad_by_a_computed_tensor_and_by_the_output_itself() -> None:
    x = leaf(3)
    h = tg.exp(x)
    y = (h * h).sum()
    close(tg.grad(y, [h, x, y]), [2 * h.numpy(), 2 * h.numpy() ** 2, np.array(1.0)])


def test_grad_with_allow_unused_gives_none() -> None:
    x, w = leaf(3), leaf(3)
    found = tg.grad(x.sum(), {"x": x, "w": w, "const": draw(2)}, allow_unused=True)
    assert found["w"] is None and found["const"] is None
    close(found["x"], np.ones(3))
    assert tg.grad(draw(1).sum(), [x, w], allow_unused=True) == [None, None]


def test_grad_to_third_order() -> None:
    x = leaf(3)
    g = tg.grad(energy(x), x, create_graph=True)
    h = tg.grad(g.sum(), x, create_graph=True)
    third = tg.grad(h.sum(), x)
    v = x.numpy()
    close(g.detach(), energy_grad(v))
    close(h.detach(), energy_hessian(v).sum(axis=0))
    close(third, -3 * np.sin(v) - v * np.cos(v) + 6 * 3 * 3)
    assert not third.requires_grad


def test_grad_result_is_recorded_only_with_create_graph() -> None:
    x = leaf(3)
    y = energy(x)
    assert not tg.grad(y, x, retain_graph=True).requires_grad
    assert tg.grad(y, x, create_graph=True).requires_grad
    with tg.no_grad():
        assert tg.grad(y, x, create_graph=True).requires_grad


# value_and_grad.


def test_value_and_grad_by_one_argument_and_by_several() -> None:
    def f(x: Tensor, w: Tensor, power: int = 1) -> Tensor:
        return ((x * w) ** power).sum()

    x, w = draw(3), draw(3, seed=1)
    value, g = tg.value_and_grad(f)(x, w)
    close(value, (x * w).sum())
    close(g, w)
    _, g = tg.value_and_grad(f, argnums=-1)(x, w)
    close(g, x)
    _, g = tg.value_and_grad(f, argnums=(1, 0))(x, w, power=2)
    close(g, (2 * x.numpy() ** 2 * w.numpy(), 2 * x.numpy() * w.numpy() ** 2))
    assert not value.requires_grad and not g[0].requires_grad
    assert x.grad is None and not x.requires_grad


def test_value_and_grad_of_structures_and_of_what_is_not_used() -> None:
    params = {"w": draw(3), "unused": draw(2), "more": Pair(draw(1), (draw(3, seed=2),))}

    def f(p: Any) -> Tensor:
        return (p["w"] * p["more"].second[0]).sum()

    _, g = tg.value_and_grad(f)(params)
    close(
        g,
        {
            "w": params["more"].second[0],
            "unused": np.zeros(2),
            "more": Pair(np.zeros(1), (params["w"],)),
        },
    )


def test_value_and_grad_takes_arrays_and_numbers() -> None:
    value, g = tg.value_and_grad(lambda x: x * x)(3.0)
    assert (value.item(), g.item(), g.dtype) == (9.0, 6.0, "float32")
    _, g = tg.value_and_grad(lambda x: (x * x).sum())(np.ones(2))
    close(g, np.full(2, 2.0))


def test_value_and_grad_is_recorded_if_the_function_depends_on_something_outside() -> None:
    x, w = draw(3), leaf(3, seed=1)
    value, g = tg.value_and_grad(lambda x: (tg.square(x) * w).sum())(x)
    assert value.requires_grad and g.requires_grad
    close(tg.grad(g.sum(), w), 2 * x.numpy())
    close(tg.grad(value, w), x.numpy() ** 2)
    with tg.no_grad():
        value, g = tg.value_and_grad(lambda x: (x * w).sum())(x)
        assert not value.requires_grad and not g.requires_grad
    y = leaf(3)
    _, g = tg.value_and_grad(lambda x: (x**3).sum())(y)  # an argument may be what is outside
    close(tg.grad(g.sum(), y), 6 * y.numpy())


# vjp and jvp.


def test_vjp_can_be_pulled_repeatedly() -> None:
    def f(x: Tensor, w: Tensor) -> dict[str, Tensor]:
        return {"product": x @ w, "sum": tg.exp(x).sum()}

    x, w = draw(2, 3), draw(3, 4)
    y, pull = tg.vjp(f, x, w)
    close(y, {"product": x.numpy() @ w.numpy(), "sum": np.exp(x.numpy()).sum()})
    for seed in range(3):
        g = {"sum": draw(seed=seed), "product": draw(2, 4, seed=seed)}  # keys in any order
        gx, gw = pull(g)
        expected = g["product"].numpy() @ w.numpy().T + g["sum"].item() * np.exp(x.numpy())
        close(gx, expected)
        close(gw, x.numpy().T @ g["product"].numpy())


def test_vjp_of_structured_arguments_gives_a_cotangent_for_each() -> None:
    p = {"a": draw(2), "b": [draw(2, seed=1)]}
    y, pull = tg.vjp(lambda p, s: p["a"] * p["b"][0] * s, p, tg.tensor(2.0, "float64"))
    gp, gs = pull(tg.ones(2, "float64"))
    close(gp, {"a": 2 * p["b"][0].numpy(), "b": [2 * p["a"].numpy()]})
    close(gs, y.numpy().sum() / 2)


def test_pull_is_differentiable_in_its_cotangent() -> None:
    x, u = draw(3), leaf(3, seed=1)
    _, pull = tg.vjp(tg.sin, x)
    (g,) = pull(u)
    close(tg.grad(g.sum(), u), np.cos(x.numpy()))


def test_jvp_is_the_directional_derivative() -> None:
    def f(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return tg.tanh(x @ w), tg.exp(x).sum()

    x, w, dx, dw = draw(2, 3), draw(3, 4), draw(2, 3, seed=1), draw(3, 4, seed=2)
    y, dy = tg.jvp(f, (x, w), (dx, dw))
    close(y, (np.tanh(x.numpy() @ w.numpy()), np.exp(x.numpy()).sum()))
    slope = 1 - y[0].numpy() ** 2
    first = slope * (dx.numpy() @ w.numpy() + x.numpy() @ dw.numpy())
    close(dy, (first, (np.exp(x.numpy()) * dx.numpy()).sum()))


def test_jvp_of_one_argument_of_a_constant_and_of_a_linear_function() -> None:
    x, v = draw(3), draw(3, seed=1)
    y, dy = tg.jvp(lambda x: x * 2.0, x, v)
    close((y, dy), (2 * x.numpy(), 2 * v.numpy()))
    _, dy = tg.jvp(lambda x: (tg.ones(2), x), x, v)
    close(dy, (np.zeros(2, "float32"), v))
    point = Pair(x, v)
    _, dy = tg.jvp(lambda p: p.first * p.second, point, Pair(v, x))
    close(dy, v.numpy() ** 2 + x.numpy() ** 2)


# hvp, jacobian, hessian.


def test_hvp_is_the_hessian_times_a_vector() -> None:
    x, v = draw(4), draw(4, seed=1)
    close(tg.hvp(energy, x, v), energy_hessian(x.numpy()) @ v.numpy())
    (hx,) = tg.hvp(energy, (x,), (v,))
    close(hx, energy_hessian(x.numpy()) @ v.numpy())

    def f(x: Tensor, w: Tensor) -> Tensor:
        return (tg.square(x) * w).sum()

    w, u = draw(4, seed=2), draw(4, seed=3)
    hx, hw = tg.hvp(f, (x, w), (v, u))
    close(hx, 2 * (w.numpy() * v.numpy() + x.numpy() * u.numpy()))
    close(hw, 2 * x.numpy() * v.numpy())


def test_hvp_of_structures() -> None:
    def f(p: Any) -> Tensor:
        a, b = flatten(p)[0]
        return (tg.square(a) * b).sum()

    a, b = draw(2), draw(2, seed=1)
    ones, expected = tg.ones(2, "float64"), (2 * (a.numpy() + b.numpy()), 2 * a.numpy())
    close(
        tg.hvp(f, {"a": a, "b": b}, {"b": ones, "a": ones}), dict(zip("ab", expected, strict=True))
    )
    close(tg.hvp(f, Pair(a, b), Pair(ones, ones)), Pair(*expected))
    close(tg.hvp(f, ((a, b),), ((ones, ones),)), (expected,))


def test_hvp_of_a_linear_function_is_zero() -> None:
    close(tg.hvp(lambda x: (x * 3.0).sum(), draw(3), draw(3)), np.zeros(3))


def test_jacobian_has_the_outputs_axes_then_the_arguments() -> None:
    x, w = draw(2, 3), draw(3, 4)
    j = tg.jacobian(tg.matmul, argnums=(0, 1))(x, w)
    eye2, eye4 = np.eye(2), np.eye(4)
    close(j[0], np.einsum("im,kj->ijmk", eye2, w.numpy()))
    close(j[1], np.einsum("ik,jm->ijkm", x.numpy(), eye4))
    close(tg.jacobian(tg.matmul, argnums=1)(x, w), j[1])
    close(tg.jacobian(lambda x: x.sum())(x), np.ones((2, 3)))


def test_jacobian_of_structures_is_a_structure_of_structures() -> None:
    p = {"a": draw(2), "b": draw(3)}
    j = tg.jacobian(lambda p: Pair(p["a"] * p["b"].sum(), tg.ones(2, "float64")))(p)
    close(j.first["a"], np.eye(2) * p["b"].numpy().sum())
    close(j.first["b"], np.repeat(p["a"].numpy()[:, None], 3, axis=1))
    close(j.second, {"a": np.zeros((2, 2)), "b": np.zeros((2, 3))})


def test_hessian_of_one_argument_and_of_several() -> None:
    x = draw(4)
    close(tg.hessian(energy)(x), energy_hessian(x.numpy()))
    (xx, xw), (wx, ww) = tg.hessian(lambda x, w: (x * x * w).sum(), argnums=(0, 1))(x, x)
    v = x.numpy()
    close((xx, xw, wx, ww), tuple(map(np.diag, (2 * v, 2 * v, 2 * v, 0 * v))))
    close(tg.hessian(lambda x: x.sum())(draw(2, 2)), np.zeros((2, 2, 2, 2)))


def test_transforms_on_every_backend(backend: Any) -> None:
    x, v = draw(3), draw(3, seed=1)
    close(tg.value_and_grad(energy)(x)[1], energy_grad(x.numpy()))
    close(tg.jvp(energy, x, v)[1], np.asarray(energy_grad(x.numpy()) @ v.numpy()))
    close(tg.hvp(energy, x, v), energy_hessian(x.numpy()) @ v.numpy())
    close(tg.hessian(energy)(x), energy_hessian(x.numpy()))
    close(tg.checkpoint(tg.sin)(x), np.sin(x.numpy()))
    assert tg.vmap(energy)(draw(5, 3)).backend == backend.name


# vmap: axes.


@pytest.mark.parametrize("in_axes", [0, 1, 2, -1, -3])
@pytest.mark.parametrize("out_axes", [0, 1, -1])
def test_vmap_takes_and_puts_the_axis_of_examples_anywhere(in_axes: int, out_axes: int) -> None:
    x = draw(2, 3, 4)
    got = tg.vmap(lambda e: tg.exp(e) @ tg.ones((e.shape[1], 2), "float64"), in_axes, out_axes)(x)
    examples = tg.unstack(x, axis=in_axes)
    rows = [tg.exp(e) @ tg.ones((e.shape[1], 2), "float64") for e in examples]
    close(got, tg.stack(rows, axis=out_axes))


def test_vmap_with_in_axes_for_each_argument_and_none_for_the_same() -> None:
    x, w, b = draw(5, 3), draw(3, 4), draw(2, 5)
    got = tg.vmap(lambda x, w, b: x @ w + b.sum(), in_axes=(0, None, 1))(x, w, b)
    close(got, x.numpy() @ w.numpy() + b.numpy().sum(axis=0)[:, None])


def test_vmap_of_structures_with_structured_axes() -> None:
    p = {"w": draw(3, 5), "b": draw(3)}
    xs = Pair(draw(5, 2), (draw(2, 5),))

    def f(p: Any, xs: Any) -> Any:
        total = xs.first + xs.second[0]
        return {"y": total[:, None] * (p["w"] + p["b"]), "s": total.sum()}, p["b"]

    axes = ({"b": None, "w": 1}, Pair(0, (1,)))
    got, b = tg.vmap(f, in_axes=axes, out_axes=({"y": 2, "s": 0}, None))(p, xs)
    total = xs.first.numpy() + xs.second[0].numpy().T
    y = total[:, :, None] * (p["w"].numpy() + p["b"].numpy()[:, None]).T[:, None, :]
    close(got, {"y": np.moveaxis(y, 0, 2), "s": total.sum(axis=1)})
    close(b, p["b"])


def test_vmap_repeats_an_output_that_is_the_same_for_all() -> None:
    x = draw(3, 2)
    same = tg.ones(2)
    a, b, c = tg.vmap(lambda e: (same, e * 0.0 + 1.0, 2.0), out_axes=(0, 1, 0))(x)
    close((a, b, c), (np.ones((3, 2), "f4"), np.ones((2, 3)), np.full(3, 2.0, "f4")))


def test_vmap_inside_looks_like_one_example() -> None:
    seen = []

    def f(x: Tensor) -> Tensor:
        seen.append((x.shape, x.ndim, x.size, x.dtype.name, x.backend, len(x)))
        seen.append("5 examples" in repr(x))
        return sum(row.sum() for row in x) + x.T[0, 0] + x[..., None].squeeze()[1, 2]

    x = draw(5, 2, 3)
    expected = x.numpy().sum(axis=(1, 2)) + x.numpy()[:, 0, 0] + x.numpy()[:, 1, 2]
    close(tg.vmap(f)(x), expected)
    assert seen == [((2, 3), 2, 6, "float64", "numpy", 2), True]


def test_vmap_of_no_examples() -> None:
    assert tg.vmap(lambda x: tg.exp(x).sum())(tg.zeros((0, 3))).shape == (0,)


# vmap of everything a recurrent model is made of: the rule of each kind, against the loop.

RULES: dict[str, Callable[..., Any]] = {
    "elementwise": lambda x, y: tg.where(x > y[:3], x * 2.0, tg.tanh(y[:3]) - 1.0),
    "rank": lambda x, y: x[:, None] * tg.ones((2, 3, 4), "float64") + y,
    "reduction": lambda x, y: (x.max(), tg.logsumexp(y), tg.var(y, correction=1), x.argmin()),
    "movement": lambda x, y: tg.concat([tg.flip(x), tg.roll(y, 1), tg.pad(x, (1, 2))]),
    "split": lambda x, y: tg.stack(tg.split(y, 2))[::-1] @ tg.reshape(y, (2, 2)),
    "broadcast": lambda x, y: tg.broadcast_to(x[:, None], (2, 3, 4)) + y,
    "transpose": lambda x, y: tg.permute_dims(tg.outer(x, y), (1, 0)),
    "matmul": lambda x, y: (x @ tg.outer(x, y) @ y, tg.outer(x, y) @ y, tg.einsum("i,j->ji", x, y)),
    "index": lambda x, y: (x[[2, 0, 2]], y[1:3], x[tg.tensor([True, False, True])], y[-1]),
    "at": lambda x, y: (x.at[1].set(y[0]), y.at[[0, 0]].add(x[:2]), y.at[1:].set(x)),
    "take": lambda x, y: tg.take(tg.outer(x, y), [1, 1, 0], axis=1),
    "own index": lambda x, y: (y[x.argmax()], tg.take(y, tg.stack([x.argmin(), x.argmax()]))),
    "add at own index": lambda x, y: y.at[x.argmax()].add(x.sum()),
    "own rows": lambda x, y: tg.outer(x, y)[x.argmin(), tg.tensor([0, 3])],
    "along": lambda x, y: tg.take_along_axis(x, tg.astype(x > 0, "int64")),
    "losses": lambda x, y: (tg.cross_entropy(x, tg.tensor(1)), tg.mse_loss(y, y * 0.5)),
    "norm": lambda x, y: tg.layer_norm(y) * tg.softmax(y) + tg.gelu(y),
    "dtype": lambda x, y: (x.astype("float32") * 2.0, tg.isfinite(x), (x > 0) & (x < 1)),
    "prod": lambda x, y: (tg.prod(x), tg.cumulative_sum(y), tg.sum(tg.outer(x, y), axis=0)),
    "tile": lambda x, y: (tg.tile(x, 2), tg.repeat(y, 2), tg.moveaxis(tg.outer(x, y), 0, 1)),
    "unroll": lambda x, y: tg.unroll(
        lambda x, h: (h * 2.0, tg.tanh(h + x)), tg.outer(x, y), y, reverse=True
    ),
    "checkpoint": lambda x, y: tg.checkpoint(lambda x: tg.tanh(x) * y.sum())(x),
    "detach": lambda x, y: x * y.sum().detach(),
}


@pytest.mark.parametrize("batched", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("name", RULES)
def test_vmap_is_the_loop(name: str, batched: tuple[bool, bool], backend: Any) -> None:
    f = RULES[name]
    x, y = draw(5, 3), draw(5, 4, seed=1)
    in_axes = tuple(0 if b else None for b in batched)
    x, y = (a if b else a[0] for a, b in zip((x, y), batched, strict=True))
    wide = [
        a if b else tg.broadcast_to(a, (5, *a.shape)) for a, b in zip((x, y), batched, strict=True)
    ]
    close(tg.vmap(f, in_axes)(x, y), by_hand(f, *wide))


@pytest.mark.parametrize("name", sorted(set(RULES) - {"dtype"}))
def test_gradients_through_and_inside_vmap_are_the_loops(name: str) -> None:
    def scalar(x: Tensor, y: Tensor) -> Tensor:
        leaves = [z for z in flatten(RULES[name](x, y))[0] if z.dtype.kind == "f"]
        return sum((tg.square(z).sum() for z in leaves), x.sum() + y.sum())

    x, y = leaf(5, 3), leaf(4)
    rows = [scalar(row, y) for row in x]
    expected = tg.grad(sum(rows), [x, y], retain_graph=True)
    each = tg.stack([tg.grad(row, y, retain_graph=True) for row in rows])
    close(tg.grad(tg.vmap(scalar, (0, None))(x, y).sum(), [x, y]), expected)  # grad of vmap
    inside = tg.vmap(lambda x, y: tg.value_and_grad(scalar, (0, 1))(x, y)[1], (0, None))
    close(inside(x.detach(), y.detach()), (expected[0], each))  # vmap of grad
    captured = tg.vmap(lambda x: tg.grad(scalar(x, y), y))(x.detach())
    close(captured, each)


# Compositions.


def test_vmap_of_vmap_in_both_orders() -> None:
    x, w = draw(4, 3), draw(5, 3, seed=1)
    table = tg.vmap(tg.vmap(lambda a, b: tg.exp(a @ b), (None, 0)), (0, None))
    close(table(x, w), np.exp(x.numpy() @ w.numpy().T))
    other = tg.vmap(tg.vmap(lambda a, b: tg.exp(a @ b), (0, None)), (None, 0), out_axes=1)
    close(other(x, w), np.exp(x.numpy() @ w.numpy().T))
    cube = draw(2, 3, 4)
    close(tg.vmap(tg.vmap(tg.vmap(lambda x: x * 2.0, 0), 0), 2, 2)(cube), cube.numpy() * 2)


@pytest.mark.parametrize("order", [*itertools.permutations(["vmap", "grad", "jvp"])])
def test_every_order_of_vmap_grad_and_jvp(order: tuple[str, ...]) -> None:
    """Each wraps the one before; x and v are one example, or a batch once vmap has wrapped it."""
    x, v = draw(6, 3), draw(6, 3, seed=1)
    f: Callable[[Tensor, Tensor], Tensor] = lambda x, v: energy(x)  # noqa: E731
    for name in order:
        f = {
            "vmap": lambda f: lambda x, v: tg.vmap(f)(x, v),
            "grad": lambda f: lambda x, v: tg.value_and_grad(lambda x: f(x, v).sum())(x)[1],
            "jvp": lambda f: lambda x, v: tg.jvp(lambda x: f(x, v), x, v)[1],
        }[name](f)
    expected = [energy_hessian(a) @ b for a, b in zip(x.numpy(), v.numpy(), strict=True)]
    close(f(x, v), np.stack(expected))


def test_jvp_of_grad_and_grad_of_jvp_are_the_hessian_times_a_vector() -> None:
    x, v = draw(4), draw(4, seed=1)
    expected = energy_hessian(x.numpy()) @ v.numpy()
    gradient = lambda x: tg.value_and_grad(energy)(x)[1]  # noqa: E731
    close(tg.jvp(gradient, x, v)[1], expected)
    close(tg.value_and_grad(lambda x: tg.jvp(energy, x, v)[1])(x)[1], expected)
    close(tg.vjp(gradient, x)[1](v)[0], expected)
    close(tg.jvp(lambda x: tg.vjp(energy, x)[1](tg.ones((), "float64"))[0], x, v)[1], expected)
    third = tg.jvp(lambda x: tg.jvp(gradient, x, v)[1], x, v)[1]
    a, b = x.numpy(), v.numpy()
    close(third, (-3 * np.sin(a) - a * np.cos(a)) * b * b + 6 * b.sum() ** 2)
    close(tg.grad(tg.jvp(tg.sin, x, w := leaf(4))[1].sum(), w), np.cos(x.numpy()))


def test_hessian_of_each_example_and_hessian_of_a_mapped_function() -> None:
    x = draw(5, 3)
    each = tg.vmap(tg.hessian(energy))(x)
    close(each, np.stack([energy_hessian(row) for row in x.numpy()]))
    whole = tg.hessian(lambda x: tg.vmap(energy)(x).sum())(x).numpy()
    for i, j in itertools.product(range(5), range(5)):
        block = energy_hessian(x.numpy()[i]) if i == j else np.zeros((3, 3))
        assert_allclose(whole[i, :, j], block, rtol=1e-11, atol=1e-12)
    close(tg.jacobian(tg.jacobian(energy))(x[0]), energy_hessian(x.numpy()[0]))
    close(tg.vmap(tg.jacobian(tg.jacobian(tg.sin)))(x)[1, 2, 2, 2], -np.sin(x.numpy()[1, 2]))


def test_hvp_of_each_example_and_along_many_directions() -> None:
    x, v = draw(5, 3), draw(5, 3, seed=1)
    blocks = [energy_hessian(a) @ b for a, b in zip(x.numpy(), v.numpy(), strict=True)]
    close(tg.vmap(lambda x, v: tg.hvp(energy, x, v))(x, v), np.stack(blocks))
    at_one = tg.vmap(lambda v: tg.hvp(energy, x[0], v))(v)
    close(at_one, v.numpy() @ energy_hessian(x.numpy()[0]))


def test_gradients_of_gradients_through_a_transform_inside() -> None:
    x, w = leaf(5, 3), leaf(3, seed=1)
    per_example = tg.vmap(lambda x: tg.value_and_grad(lambda w: energy(x * w))(w)[1])(x)
    penalty = tg.square(per_example).sum()  # of the gradient of each example
    gx, gw = tg.grad(penalty, [x, w])

    def by_formula(x: Any, w: Any) -> Any:
        return sum((np.square(energy_grad(a * w) * a).sum() for a in x), 0.0)

    for got, at, other in ((gx, 0, x), (gw, 1, w)):
        direction = np.random.default_rng(5).normal(size=other.shape)
        values = []
        for step in (-1e-5, 1e-5):
            point = [x.numpy(), w.numpy()]
            point[at] = point[at] + step * direction
            values.append(by_formula(*point))
        slope = (values[1] - values[0]) / 2e-5
        assert_allclose((got.numpy() * direction).sum(), slope, rtol=1e-6)


# Gradients of each example for captured parameters.


def per_example_gradients(cell: Any, xs: Tensor) -> list[np.ndarray[Any, Any]]:
    parameters = list(cell.parameters())
    rows = []
    for x in tg.unstack(xs, axis=1):
        y, _ = tg.unroll(cell, x[:, None, :])
        rows.append(tg.grad(tg.square(y).sum(), parameters))
    return [np.stack([row[i].numpy() for row in rows]) for i in range(len(parameters))]


@pytest.mark.parametrize("make", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_per_example_gradients_of_a_recurrent_cell(make: Any) -> None:
    tg.manual_seed(0)
    tg.set_default_dtype("float64")
    try:
        cell = make(2, 3)
    finally:
        tg.set_default_dtype("float32")
    xs = draw(4, 5, 2)
    expected = per_example_gradients(cell, xs)
    parameters = list(cell.parameters())

    def loss(x: Tensor) -> Tensor:
        y, _ = tg.unroll(cell, x[:, None, :])
        return tg.square(y).sum()

    captured = tg.vmap(lambda x: tg.grad(loss(x), parameters), in_axes=1)(xs)
    for got, wanted in zip(captured, expected, strict=True):
        assert_allclose(got.numpy(), wanted, rtol=1e-11, atol=1e-14)
        assert not got.requires_grad
    assert all(p.grad is None for p in parameters)


def test_per_example_gradients_by_argument_and_by_capture_agree() -> None:
    x, w, b = draw(6, 3), leaf(3, 2), leaf(2)

    def loss(w: Tensor, b: Tensor, x: Tensor) -> Tensor:
        return tg.square(tg.tanh(x @ w) + b).sum()

    gradients = tg.value_and_grad(loss, argnums=(0, 1))
    values, by_argument = tg.vmap(gradients, in_axes=(None, None, 0))(w, b, x)
    by_capture = tg.vmap(lambda x: tg.grad(loss(w, b, x), (w, b)))(x)
    close(by_capture, by_argument)
    close(values, by_hand(lambda x: loss(w, b, x), x))
    total = tg.grad(sum(loss(w, b, row) for row in x), (w, b))
    close((by_capture[0].sum(axis=0), by_capture[1].sum(axis=0)), total)


def test_second_order_for_captured_parameters_inside_vmap() -> None:
    x, w = draw(6, 3), leaf(3)

    def penalty(x: Tensor) -> Tensor:
        g = tg.grad(energy(x * w), w, create_graph=True)
        return tg.grad(tg.square(g).sum(), w)

    expected = []
    for row in x.numpy():
        h = energy_hessian(row * w.numpy()) * np.outer(row, row)
        expected.append(2 * h @ (energy_grad(row * w.numpy()) * row))
    close(tg.vmap(penalty)(x), np.stack(expected), rtol=1e-10)


# checkpoint.


def layers(x: Tensor, w: Tensor) -> Tensor:
    return tg.tanh(tg.tanh(x @ w) @ w)


@pytest.mark.parametrize("how", ["argument", "captured", "a module", "computed"])
def test_gradients_through_checkpoint_are_the_plain_ones(how: str, backend: Any) -> None:
    x, w = leaf(2, 3), leaf(3, 3)
    linear = nn.Linear(3, 3)
    used = w * 2.0 if how == "computed" else w

    def f(x: Tensor) -> Tensor:
        return linear(x.astype("float32")) if how == "a module" else layers(x, used)

    wanted = [x, *linear.parameters()] if how == "a module" else [x, w]
    checked = tg.checkpoint(layers)(x, w) if how == "argument" else tg.checkpoint(f)(x)
    plain = layers(x, w) if how == "argument" else f(x)
    close(checked.detach(), plain.detach())
    expected = tg.grad(tg.square(plain).sum(), wanted, retain_graph=True)
    close(
        tg.grad(tg.square(checked).sum(), wanted), expected, rtol=1e-6 if how[0] == "a" else 1e-11
    )


def test_second_and_third_order_through_checkpoint() -> None:
    x, w = leaf(2, 3), leaf(3, 3)

    def derivatives(f: Callable[[Tensor], Tensor]) -> list[Tensor]:
        gx, gw = tg.grad(tg.exp(f(x)).sum(), [x, w], create_graph=True)
        hx, hw = tg.grad((gx.sum() * tg.square(gw).sum()), [x, w], create_graph=True)
        return [gx, gw, hx, hw, *tg.grad(tg.sin(hx).sum() + hw.sum(), [x, w])]

    plain = derivatives(lambda x: layers(x, w))
    close(derivatives(tg.checkpoint(lambda x: layers(x, w))), plain, rtol=1e-10)
    close(derivatives(lambda x: tg.checkpoint(layers)(x, w)), plain, rtol=1e-10)
    nested = tg.checkpoint(lambda x: tg.tanh(tg.checkpoint(lambda x: tg.tanh(x @ w))(x) @ w))
    close(derivatives(nested), plain, rtol=1e-10)


def test_checkpoint_takes_and_gives_structures_and_constants() -> None:
    x, w = leaf(3), leaf(3, seed=1)

    def f(p: dict[str, Any], times: int, name: str | None = None) -> Any:
        total = p["x"] * p["pair"].first * times
        return {"a": total, "b": (p["x"].detach(), 7, w, p["x"])}

    out = tg.checkpoint(f)({"x": x, "pair": Pair(w, None)}, 2)
    assert out["b"][1] == 7
    assert not out["b"][0].requires_grad
    y = (out["a"] * out["b"][2] * out["b"][3]).sum()
    v, u = x.numpy(), w.numpy()
    close(tg.grad(y, [x, w]), [4 * v * u * u, 4 * v * v * u])


def test_checkpoint_of_outputs_that_are_not_all_used() -> None:
    x = leaf(3)
    a, _, c = tg.checkpoint(lambda x: (tg.exp(x), tg.sin(x), x.sum()))(x)
    close(tg.grad(a.sum() + c, x), np.exp(x.numpy()) + 1)


def test_checkpoint_keeps_no_node_of_what_it_ran() -> None:
    x = leaf(3)
    y = tg.checkpoint(lambda x: tg.tanh(tg.exp(tg.sin(x))))(x)
    text = tg.to_text(y)
    assert "checkpoint[0](v1)" in text
    assert "tanh" not in text and "keeps inputs" in text


def test_checkpoint_in_unroll_and_around_it() -> None:
    xs, w, u, h = leaf(6, 2, 3), leaf(3, 4), leaf(4, 4), leaf(2, 4)

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = tg.tanh(x @ w + h @ u)
        return h, h

    def run(cell: Any, around: Any = lambda f: f) -> list[Tensor]:
        y, last = around(lambda xs, h: tg.unroll(cell, xs, h, lengths=[6, 4]))(xs, h)
        loss = tg.square(y).sum() + last.sum()
        first = tg.grad(loss, [xs, w, u, h], create_graph=True)
        return [*first, *tg.grad(sum(tg.square(g).sum() for g in first), [xs, w, u, h])]

    plain = run(cell)
    close(run(tg.checkpoint(cell)), plain, rtol=1e-10)
    close(run(cell, tg.checkpoint), plain, rtol=1e-10)
    close(run(tg.checkpoint(cell), tg.checkpoint), plain, rtol=1e-10)


def test_checkpoint_under_no_grad_and_of_constants_records_nothing() -> None:
    x = leaf(3)
    with tg.no_grad():
        assert not tg.checkpoint(tg.sin)(x).requires_grad
    assert not tg.checkpoint(tg.sin)(draw(3)).requires_grad
    assert tg.checkpoint(lambda: tg.sin(x))().requires_grad


def test_checkpoint_and_vmap_in_both_orders_record_no_more_than_asked() -> None:
    xs, w = leaf(5, 3), leaf(3)
    f = tg.checkpoint(lambda x: tg.tanh(x * w).sum())
    expected = tg.grad(tg.tanh(xs * w).sum(), [xs, w])
    close(tg.grad(tg.vmap(f)(xs).sum(), [xs, w]), expected)
    close(tg.grad(tg.checkpoint(tg.vmap(f))(xs).sum(), [xs, w]), expected)
    each = tg.vmap(lambda x: tg.grad(f(x), w))(xs.detach())
    close(each.sum(axis=0), expected[1])
    assert not each.requires_grad


def test_checkpoint_refuses_a_parameter_that_was_rebound() -> None:
    x, w = leaf(3), leaf(3)
    y = tg.checkpoint(lambda x: x * w)(x).sum()
    w.data = w.data * 2.0
    with pytest.raises(RuntimeError, match=r"rebound.*after backward\(\)"):
        y.backward()
    assert x.grad is None and w.grad is None


# no_grad, enable_grad, hooks, detect_anomaly.


def test_no_grad_and_enable_grad_nest() -> None:
    x = leaf(3)
    with tg.no_grad():
        assert not tg.is_grad_enabled()
        assert not (x * 2.0).requires_grad
        with tg.enable_grad():
            y = x * 2.0
            with tg.no_grad():
                assert not (y + 1.0).requires_grad
            assert (y + 1.0).requires_grad
        assert not tg.is_grad_enabled()
    assert tg.is_grad_enabled()
    y.sum().backward()

    @tg.no_grad()
    def frozen(x: Tensor) -> Tensor:
        return x * 2.0

    assert not frozen(x).requires_grad
    assert not frozen(x).requires_grad
    assert tg.value_and_grad(lambda x: frozen(x).sum())(x)[1].tolist() == [0, 0, 0]


def test_a_hook_sees_and_may_change_the_cotangent() -> None:
    x = leaf(3)
    h = tg.exp(x)
    seen: list[Tensor] = []
    h.register_hook(seen.append)
    remove = h.register_hook(lambda g: g * 0.5)
    h.register_hook(lambda g: seen.append(g * 1.0))
    leaf_seen: list[Tensor] = []
    x.register_hook(leaf_seen.append)
    y = (h * h).sum() + h.sum()
    y.backward(retain_graph=True)
    total = 2 * h.numpy() + 1  # hooks run once, on the sum over both uses
    close(seen, [total, total / 2])
    close(x.grad, total / 2 * h.numpy())
    close(leaf_seen, [x.grad])
    remove()
    remove()
    close(tg.grad(y, x), total * h.numpy())


def test_hooks_work_with_higher_orders_inside_vmap_and_on_scalars() -> None:
    x = leaf(3)
    h = x * x
    h.register_hook(lambda g: g * 3.0)
    g = tg.grad((h * h).sum(), x, create_graph=True)
    close(tg.grad(g.sum(), x), 84 * x.numpy() ** 2)  # through h again: 12 x (h + 3 * 2 x^2)

    def inside(e: Tensor) -> Tensor:
        e = e * w
        e.register_hook(lambda g: g * 2.0)
        return tg.grad(e, w)

    w = tg.tensor(3.0, "float64", requires_grad=True)
    close(tg.vmap(inside)(x.detach()), 2 * x.numpy())
    s = tg.tensor(2.0, "float64", requires_grad=True)
    seen: list[Tensor] = []
    s.register_hook(lambda g: seen.append(g) or g * 0.1)
    (s * draw(3)).sum().backward()
    assert (seen[0].dtype, seen[0].shape, s.grad.dtype) == ("float64", (), "float64")
    assert_array_equal(s.grad.numpy(), seen[0].numpy() * 0.1)


@pytest.mark.parametrize("ending", ["grad", "value_and_grad", "vmap", "jvp", "checkpoint"])
def test_detect_anomaly_lets_what_is_finite_through_every_transform(ending: str) -> None:
    x = leaf(3)
    with tg.detect_anomaly():
        got = {
            "grad": lambda: tg.grad(energy(x), x),
            "value_and_grad": lambda: tg.value_and_grad(energy)(x.detach())[1],
            "vmap": lambda: tg.vmap(lambda x: tg.value_and_grad(energy)(x)[1])(x[None].detach())[0],
            "jvp": lambda: tg.jacobian(lambda x: tg.jvp(energy, x, x * 0.0 + 1.0)[0])(x.detach()),
            "checkpoint": lambda: tg.grad(tg.checkpoint(energy)(x), x),
        }[ending]()
    close(got, energy_grad(x.numpy()))


# Errors.


def test_a_tensor_that_escapes_from_vmap_is_refused() -> None:
    kept: list[Tensor] = []
    tg.vmap(lambda x: kept.append(x) or x * 2.0)(draw(3, 2))
    for use in (
        lambda: kept[0] * 2.0,
        lambda: tg.exp(kept[0]),
        lambda: tg.vmap(lambda x: x * kept[0])(draw(3, 2)),
        lambda: tg.vmap(lambda x: x * 2.0)(kept[0]),
    ):
        with pytest.raises(RuntimeError, match="vmap that has returned"):
            use()


@pytest.mark.parametrize(
    "use",
    [
        lambda x: bool(x > 0),
        lambda x: float(x),
        lambda x: x.item(),
        lambda x: x.numpy(),
        lambda x: x.data,
        lambda x: x.tolist(),
        lambda x: np.asarray(x),
        lambda x: [1, 2][x],
        lambda x: x[x > 0],
        lambda x: 1.0 if x > 0 else 0.0,
    ],
)
def test_the_value_of_one_example_is_refused_inside_vmap(use: Callable[[Tensor], Any]) -> None:
    for x in (draw(3), tg.arange(3)):
        with pytest.raises(TypeError, match=r"vmap|index"):
            tg.vmap(use)(x)


def test_backward_inside_vmap_is_refused_and_names_grad() -> None:
    w = leaf()
    with pytest.raises(TypeError, match=r"tinygrad_rnn\.grad\(output, inputs\)"):
        tg.vmap(lambda x: (x * w).backward())(draw(3))
    assert w.grad is None


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: tg.vmap(tg.add)(x, x[:2]), "examples"),
        (lambda x: tg.vmap(tg.exp, in_axes=None)(x), "no examples"),
        (lambda x: tg.vmap(tg.exp, in_axes=(0, 0))(x), "in_axes"),
        (lambda x: tg.vmap(tg.exp, in_axes=2)(x), "axis 2"),
        (lambda x: tg.vmap(tg.exp)(2.0), "axis 0"),
        (lambda x: tg.vmap(tg.exp, in_axes=((0, 0),))(x), "do not fit"),
        (lambda x: tg.vmap(tg.exp, out_axes=None)(x), "out_axes"),
        (lambda x: tg.vmap(lambda x: (x, x), out_axes=(0, 0, 0))(x), "do not fit"),
        (lambda x: tg.value_and_grad(tg.exp)(x), "not a scalar; use vjp"),
        (lambda x: tg.value_and_grad(lambda x: (x.sum(), x))(x), "not a scalar"),
        (lambda x: tg.value_and_grad(tg.sum, argnums=1)(x), "argnums 1"),
        (lambda x: tg.hvp(tg.exp, x, x), "scalar"),
        (lambda x: tg.vjp(tg.exp, x)[1]((x, x)), "structured"),
        (lambda x: tg.vjp(tg.exp, x)[1](x[0]), "shape"),
        (lambda x: tg.jvp(tg.exp, x, x[0]), "direction 0"),
        (lambda x: tg.jvp(tg.exp, (x,), {"x": x}), "structured"),
        (lambda x: tg.jvp(tg.multiply, (x, x), (x,)), "structured"),
        (lambda x: tg.grad({"a": x}, x, {"b": x}), "structured"),
    ],
)
def test_wrong_axes_and_structures_are_named(call: Callable[[Tensor], Any], words: str) -> None:
    with pytest.raises((ValueError, IndexError), match=words):
        call(leaf(3, 2))


def test_a_derivative_by_integers_is_refused() -> None:
    x = tg.arange(3)
    for call in (
        lambda: tg.value_and_grad(tg.sum)(x),
        lambda: tg.vjp(tg.sum, x),
        lambda: tg.jvp(tg.sum, x, x),
        lambda: tg.jacobian(tg.sum)(x),
    ):
        with pytest.raises(TypeError, match="int64"):
            call()
    _, g = tg.value_and_grad(lambda w, i: w[i].sum())(draw(5), x)  # but they may be arguments
    close(g, np.array([1.0, 1, 1, 0, 0]))
