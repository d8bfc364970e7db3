"""An update as a kernel: the bits of the literal one, or the literal one itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
import tinygrad_rnn_backends as backends
from tinygrad_rnn import Tensor, optim
from tinygrad_rnn.kernels import machine
from tinygrad_rnn.kernels.cpu import run as cpu
from tinygrad_rnn.optim import formulas

needs_kernels = pytest.mark.skipif(cpu.available() is not None, reason="there are no kernels")
OPTIMISERS: dict[str, Callable[..., optim.Optimizer]] = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.1),
    "nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "RMSprop": optim.RMSprop,
    "centered": lambda p: optim.RMSprop(p, momentum=0.5, centered=True, eps=1e-2),
    "Adagrad": lambda p: optim.Adagrad(p, lr_decay=0.1, weight_decay=0.1),
    "Adadelta": optim.Adadelta,
    "Adam": optim.Adam,
    "amsgrad": lambda p: optim.Adam(p, amsgrad=True, weight_decay=0.1),
    "AdamW": optim.AdamW,
}
SHAPES = [(), (3,), (0, 4), (701, 101), (33, 17), (5, 2)]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many parameters each kernel was run for."""
    counts: list[int] = []
    run = formulas.Kernel.run

    def counted(self: formulas.Kernel, given: Any) -> Any:
        counts.append(len(given))
        return run(self, given)

    monkeypatch.setattr(formulas.Kernel, "run", counted)
    return counts


def parameters(seed: int = 0) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    made = [rng.standard_normal(shape).astype("float32") for shape in SHAPES]
    params = [tg.tensor(x, requires_grad=True) for x in made]
    params[4].data = tg.asarray(made[4].T.copy()).T
    assert params[4].numpy().strides[0] == 4
    return params


def give_gradients(params: list[Tensor], step: int) -> None:
    """Some are views that are not contiguous, and in some steps one has none."""
    rng = np.random.default_rng(step)
    for i, p in enumerate(params):
        host = rng.standard_normal(p.shape).astype("float32")
        if i == 3:
            host = np.ascontiguousarray(host.T).T
        if i == 5:
            host = np.broadcast_to(host[:, :1], p.shape)
        p.grad = None if (step + i) % 7 == 0 else tg.asarray(host)


def everything(params: list[Tensor], optimizer: optim.Optimizer) -> bytes:
    moments = [
        np.asarray(value).tobytes()
        for state in optimizer.state_dict()["state"].values()
        for value in (x.numpy() if isinstance(x, Tensor) else x for x in state.values())
    ]
    return b"".join([p.numpy().tobytes() for p in params] + moments)


def trained(make: Callable[..., optim.Optimizer], steps: int = 15) -> bytes:
    params = parameters()
    optimizer = make(params)
    for step in range(steps):
        give_gradients(params, step)
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.9
    return everything(params, optimizer)


@needs_kernels
@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
def test_a_kernel_computes_the_bits_of_the_literal_step(
    make: Any, ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_kernel = trained(make)
    steps = [step for step in range(15) if (step + 3) % 7]  # in others all gradients are small
    assert sum(ran) == sum((step + i) % 7 != 0 for step in steps for i in range(len(SHAPES)))
    ran.clear()
    with tg.literal():
        assert trained(make) == by_kernel
    monkeypatch.setenv("TINYGRAD_RNN_JIT", "0")
    assert trained(make) == by_kernel
    assert not ran


@needs_kernels
def test_parameters_with_the_same_settings_and_counts_share_a_call(ran: list[int]) -> None:
    params = parameters()
    optimizer = optim.Adam([{"params": params[:4], "lr": 0.1}, {"params": params[4:]}])
    give_gradients(params, 8)
    params[5].grad = None
    optimizer.step()
    give_gradients(params, 8)
    optimizer.step()
    assert sorted(ran[:2]) == [1, 4]
    assert sorted(ran[2:]) == [1, 1, 4]  # the sixth takes its first step, the fifth its second


@needs_kernels
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("nonfinite", ["raise", "skip", "allow"])
@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam])
def test_what_is_not_finite_is_met_as_on_the_literal_path(
    kind: Any, nonfinite: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome() -> Any:
        params = parameters()
        optimizer = kind(params, nonfinite=nonfinite)
        give_gradients(params, 8)
        optimizer.step()
        before = everything(params, optimizer)
        give_gradients(params, 9)
        host = params[3].grad.numpy().copy()  # type: ignore[union-attr]
        host[700, 100] = value
        params[3].grad = tg.tensor(host)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                done: Any = optimizer.step()
            except FloatingPointError as error:
                done = str(error)
        after = everything(params, optimizer)
        assert done is True or after == before
        return done, after, [str(each.message) for each in told]

    by_kernel = outcome()
    monkeypatch.setenv("TINYGRAD_RNN_JIT", "0")
    assert outcome() == by_kernel


def test_nothing_that_was_there_is_written_to() -> None:
    params = [tg.ones((70, 100), requires_grad=True) for _ in range(2)]
    optimizer = optim.Adam(params)
    seen: list[tuple[Any, Any]] = []
    for step in range(5):
        loss = (params[0] * params[1]).sum()
        for p in params:
            p.grad = tg.full(p.shape, step + 1.0)
        moments = optimizer.state_dict()["state"].get(0, {})
        arrays = [p.numpy() for p in params]
        arrays += [x.numpy() for x in moments.values() if isinstance(x, Tensor)]
        arrays += [p.grad.numpy() for p in params]  # type: ignore[union-attr]
        seen += [(x, x.copy()) for x in arrays]
        optimizer.step()
        assert_array_equal(tg.grad(loss, params[0]).numpy(), arrays[1])
    for array, copy in seen:
        assert_array_equal(array, copy)


class Trusting(optim.SGD):
    """The length of a step is in proportion to that of the parameter, as in LARS."""

    def _update(self, xp: Any, p: Any, grad: Any, state: Any, settings: Any) -> Any:
        size = xp.sqrt(xp.sum(p * p) / xp.sum(grad * grad))
        return p - settings["lr"] * size * grad, state


class OfMatrices(optim.SGD):
    """Takes vectors, such as biases, as they are."""

    def _update(self, xp: Any, p: Any, grad: Any, state: Any, settings: Any) -> Any:
        return (p - settings["lr"] * grad if len(p.shape) > 1 else p), state


class OfSigns(optim.SGD):
    """The sign of a gradient where that is large."""

    def _update(self, xp: Any, p: Any, grad: Any, state: Any, settings: Any) -> Any:
        step = xp.where(abs(grad) > 0.5, xp.sign(grad), 2 * grad)
        return p - settings["lr"] * step, state


@needs_kernels
@pytest.mark.parametrize(("kind", "kernels"), [(Trusting, 0), (OfMatrices, 0), (OfSigns, 1)])
def test_an_update_of_ones_own_is_a_kernel_if_it_does_the_same_to_each_element(
    kind: Any, kernels: int, ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def after_a_step() -> bytes:
        params = parameters()[3:]
        give_gradients(params, 8)
        optimizer = kind(params, lr=0.1)
        optimizer.step()
        return everything(params, optimizer)

    found = after_a_step()
    assert len(ran) == kernels
    monkeypatch.setenv("TINYGRAD_RNN_JIT", "0")
    assert found == after_a_step()


@needs_kernels
def test_a_kernel_that_does_not_compile_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(formula: Any) -> Any:
        raise RuntimeError("no code")

    expected = trained(optim.Adam, 3)
    monkeypatch.setattr(formulas, "compile", fail)
    monkeypatch.setattr(formulas, "_known", {})
    monkeypatch.setattr(machine, "_told", set())
    with pytest.warns(UserWarning, match="no code"):
        assert trained(optim.Adam, 3) == expected


# Recording.


@pytest.mark.parametrize(
    "function",
    [
        lambda xp, x: [x.shape],
        lambda xp, x: [x * x.dtype.type(2)],
        lambda xp, x: [x if x > 0 else -x],
        lambda xp, x: [x if x == 0 else -x],
        lambda xp, x: [x**3],
        lambda xp, x: [x * (x > 0)],
        lambda xp, x: [-(x > 0)],
        lambda xp, x: [x > 0],
        lambda xp, x: [x * np.float64(2)],
        lambda xp, x: [np.float64(2) * x],
        lambda xp, x: [np.exp(x)],
        lambda xp, x: [x * np.ones(3, np.float32)],
        lambda xp, x: [x * True],
        lambda xp, x: [x * 1e39],
        lambda xp, x: [x * float("nan")],
        lambda xp, x: [xp.sum(x)],
        lambda xp, x: [xp.max(x)],
        lambda xp, x: [xp.float32],
        lambda xp, x: [xp.where(x > 0, x > 0, x)],
        lambda xp, x: [x[0]],
        lambda xp, x: list(x),
        lambda xp, x: [1.0],
        lambda xp, x: 1 // 0,
    ],
)
def test_what_is_no_formula_of_one_element_is_refused(function: Any) -> None:
    with pytest.raises(formulas.NotRecorded):
        formulas.record(function, 1)


UNARY = ["negative", "abs", "sqrt", "square", "exp", "sign", "tanh", "floor", "log1p"]
BINARY = ["add", "subtract", "multiply", "divide", "maximum", "minimum"]


@needs_kernels
@pytest.mark.parametrize("seed", range(12))
def test_random_formulas_are_numpys_and_nothing_infinite_stays_unseen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = [
        (name, rng.integers(0, i + 3, 3)) for i, name in enumerate(rng.choice(UNARY + BINARY, 10))
    ]
    numbers = rng.standard_normal(10) * 10.0 ** rng.integers(-25, 25, 10)
    noted: list[Any] = []

    def function(xp: Any, *arrays: Any) -> list[Any]:
        values = list(arrays)
        for (name, (i, j, k)), number in zip(steps, numbers.tolist(), strict=True):
            x, y = values[i], values[j] if k % 2 else number
            if name in BINARY:
                values.append(getattr(xp, name)(x, y))
            elif name == "sign":
                values.append(xp.where(x > number, x, y if k % 2 else x))
            else:
                values.append(getattr(xp, name)(x))
        noted[:] = values
        return values[-3:]

    kernel = formulas.kernel_of(function, 3)
    assert kernel is not None
    calm = 0
    for _ in range(20):
        arrays = [rng.standard_normal(s).astype("float32") for s in [21] * 3]
        finite, [results] = kernel.run([arrays])
        with np.errstate(all="ignore"):
            expected = function(backends.get("numpy"), *arrays)
        assert finite == all(np.isfinite(x).all() for x in noted)
        calm += finite
        for found, wanted in zip(results, expected, strict=True):
            assert_allclose(found, wanted, rtol=2e-6, atol=1e-37)


# Clipping.


@needs_kernels
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1.0, 1e25, 1e-25])
def test_clipping_by_kernels_is_the_literal_one(
    size: float, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clipped(kernels: bool) -> tuple[float, list[Any], list[Any]]:
        monkeypatch.setenv("TINYGRAD_RNN_JIT", str(int(kernels)))
        rng = np.random.default_rng(0)
        shapes = [(500, 300), (3,), (), (0, 2)]
        params = [tg.zeros(s, dtype=dtype if i == 1 else "float32") for i, s in enumerate(shapes)]
        for p in params:
            p.requires_grad = True
            p.grad = tg.tensor((size * rng.standard_normal(p.shape)).astype(p.dtype))
        before = [p.grad.numpy().copy() for p in params]  # type: ignore[union-attr]
        given = [p.grad for p in params]
        norm = optim.clip_grad_norm_(params, 0.5 * size)
        by_norm = [p.grad.numpy() for p in params]  # type: ignore[union-attr]
        for p, grad in zip(params, given, strict=True):
            p.grad = grad
        optim.clip_grad_value_(params, 0.5 * size)
        by_value = [p.grad.numpy() for p in params]  # type: ignore[union-attr]
        for grad, host in zip(given, before, strict=True):
            assert_array_equal(grad.numpy(), host)  # type: ignore[union-attr]
        return norm, by_norm, by_value

    norm, by_norm, by_value = clipped(kernels=True)
    literal = clipped(kernels=False)
    assert norm == pytest.approx(literal[0], rel=1e-12)
    for found, wanted in zip(by_norm, literal[1], strict=True):
        assert_allclose(found, wanted, rtol=2e-7)
    for found, wanted in zip(by_value, literal[2], strict=True):
        assert_array_equal(found, wanted)
