"""Bad input: each mistake has an error that names the operation, what it was given and the cure."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import tinygrad_rnn as tg
import tinygrad_rnn_backends as backends
from tinygrad_rnn import Tensor, nn, optim


def leaf(*shape: int) -> Tensor:
    return tg.ones(shape, requires_grad=True)


def here(offset: int = 0) -> str:
    """The line that calls this, as errors show it."""
    return f"test_bad_input.py:{sys._getframe(1).f_lineno + offset}"


# Shape mismatch.


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda a, b: a + b, ["add", "(2, 3)", "(4,)", "broadcast"]),
        (lambda a, b: tg.where(a > 0, a, b), ["where", "(2, 3)", "(4,)", "broadcast"]),
        (lambda a, b: a @ b, ["matmul", "(2, 3)", "(4,)"]),
        (lambda a, b: a @ a, ["matmul", "(2, 3)"]),
        (lambda a, b: a.sum() @ b, ["matmul", "()", "(4,)", "multiply"]),
        (lambda a, b: tg.reshape(a, (4, 2)), ["reshape", "(2, 3)", "(4, 2)"]),
        (lambda a, b: tg.reshape(a, (-1, 4)), ["reshape", "(2, 3)"]),
        (lambda a, b: tg.broadcast_to(b, (2, 3)), ["broadcast_to", "(4,)", "(2, 3)"]),
        (lambda a, b: tg.concat([a, b]), ["concat", "(2, 3)", "(4,)"]),
        (lambda a, b: tg.stack([a, b]), ["stack", "(2, 3)", "(4,)"]),
        (lambda a, b: tg.split(a, 2, axis=1), ["split", "(2, 3)", "2"]),
        (lambda a, b: tg.sum(a, axis=2), ["sum", "axis 2"]),
        (lambda a, b: a.max(axis=(0, 0)), ["max", "twice"]),
        (lambda a, b: tg.permute_dims(a, (0,)), ["permute_dims", "(2, 3)"]),
        (lambda a, b: tg.squeeze(a, axis=0), ["squeeze", "(2, 3)"]),
        (lambda a, b: tg.einsum("ij,j->i", a, b), ["einsum", "(2, 3)", "(4,)"]),
        (lambda a, b: tg.tensordot(a, b, axes=1), ["tensordot", "(2, 3)", "(4,)"]),
        (lambda a, b: a.at[0].set(b), ["broadcast", "(4,)", "(3,)"]),
        (lambda a, b: tg.mse_loss(a, b), ["mse_loss", "(2, 3)", "(4,)"]),
        (lambda a, b: tg.cross_entropy(a, tg.tensor([0, 1, 2])), ["cross_entropy", "(3,)"]),
        (lambda a, b: nn.Linear(4, 2)(a), ["4", "(2, 3)"]),
        (lambda a, b: nn.LSTMCell(4, 2)(a, (b, b)), ["LSTMCell", "(2, 3)"]),
        (lambda a, b: tg.unroll(lambda x, h: (x, h), (a, b), b), ["unroll", "steps"]),
    ],
)
def test_shape_mismatch(call: Callable[..., Any], words: list[str]) -> None:
    with pytest.raises((ValueError, IndexError)) as caught:
        call(leaf(2, 3), leaf(4))
    for word in words:
        assert word in str(caught.value)


# A dtype that cannot be.


@pytest.mark.parametrize(
    "call",
    [
        lambda x, i: x[i],
        lambda x, i: x[0, i],
        lambda x, i: tg.take(x, i, axis=0),
        lambda x, i: tg.take_along_axis(x, i[:, None]),
        lambda x, i: x.at[i].add(1.0),
        lambda x, i: x.at[i].set(1.0),
        lambda x, i: nn.Embedding(3, 2)(i),
        lambda x, i: x[[0.0, 1.0]],
        lambda x, i: tg.one_hot(i, 3),
    ],
)
def test_a_float_index(call: Callable[..., Any]) -> None:
    with pytest.raises((IndexError, TypeError), match=r"float32|float64") as caught:
        call(leaf(2, 2), tg.ones(2))
    assert "integer" in str(caught.value)


@pytest.mark.parametrize("key", [1.0, "a", {}, True, (0, True), object()])
def test_an_index_of_no_use(key: Any) -> None:
    with pytest.raises((IndexError, TypeError), match=r"index|indices|not integers"):
        leaf(2, 2)[key]


@pytest.mark.parametrize("key", [2, -3, (0, 2), [0, 2], (0, 0, 0), (..., ...)])
def test_an_index_out_of_range(key: Any, backend: Any) -> None:
    for call in (lambda x: x[key], lambda x: x.at[key].add(1.0), lambda x: x.at[key].set(1.0)):
        with pytest.raises(IndexError):
            call(leaf(2, 2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: tg.tensor([1, 2], requires_grad=True),
        lambda: tg.tensor([True], requires_grad=True),
        lambda: tg.zeros(2, "int32", requires_grad=True),
        lambda: setattr(tg.arange(3), "requires_grad", True),
        lambda: nn.Parameter(np.arange(3)),
    ],
)
def test_an_integer_tensor_that_requires_grad(make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match=r"requires_grad: a (int|bool)\d* tensor.*float32"):
        make()


def test_dtypes_that_cannot_be() -> None:
    for call, words in (
        (lambda: tg.where(leaf(2), 1.0, 2.0), "where: the condition is float32, not bool"),
        (lambda: tg.set_default_dtype("int32"), "set_default_dtype: a floating dtype, not int32"),
        (lambda: tg.tensor("text"), "tensor"),
        (lambda: tg.tensor([[1.0], [2.0, 3.0]]), "rectangular"),
        (lambda: tg.tensor([leaf(2), leaf(2)]), "use stack or concat"),
        (lambda: tg.tensor(np.ones(2, dtype=complex)), "complex128 holds no real numbers"),
        (lambda: tg.asarray(np.array([None])), "object holds no real numbers"),
        (lambda: tg.tensor([None]), "no real numbers"),
        (lambda: tg.exp("text"), "expected a Tensor"),
        (lambda: leaf(2) + "text", "str"),
        (lambda: leaf(2) + None, "NoneType"),
        (lambda: tg.sigmoid(tg.arange(3)), "sigmoid"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            call()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: tg.topk(x, 1), "topk"),
        (lambda x: tg.conv1d(x, x), "conv1d"),
        (lambda x: tg.masked_mean(x, x), "masked_mean"),  # inside a function that is wrapped
        (lambda x: tg.unroll(lambda x, h: (tg.exp([1.0]), h), leaf(2, 1), leaf(1)), "exp"),
        (lambda x: nn.Conv2d(1, 1, 1)(x and None), "Conv2d"),
        (lambda x: nn.Sequential(nn.Linear(1, 1))(None), "Sequential"),
    ],
)
def test_a_list_in_place_of_a_tensor_is_told_by_what_was_called(
    call: Callable[..., Any], name: str
) -> None:
    with pytest.raises(TypeError, match=rf"^{name}: expected a Tensor, an array or a number"):
        call([1.0, 2.0])


def test_a_symbol_out_of_range_is_told_alike_by_a_loop_that_is_planned() -> None:
    decoder = nn.AttentionDecoder(
        nn.Embedding(5, 2), nn.GRUCell(5, 3), nn.AdditiveAttention(3, 4, 3)
    )
    memory = decoder.remember(tg.ones((6, 2, 4)))
    for mode in ("literal", "planned", "auto"):
        for tokens, said in (
            ([[1, 1], [-100, 1]], r"embedding: .* numbered 0 to 4; .*maximum\(x, 0\)"),
            ([[1, 1], [5, 1]], "embedding: indices from 1 to 5 for 5 embeddings, .* 0 to 4$"),
        ):
            with pytest.raises(IndexError, match=said):
                decoder(np.array(tokens), memory, mode=mode)


def test_a_tensor_is_compared_with_anything() -> None:
    x = leaf(2)
    assert (x == None) is False  # noqa: E711
    assert (x != "text") is True
    assert x in [x]
    assert {x: 1}[x] == 1


# Backends: mixed, or missing.


@pytest.mark.parametrize(
    "call",
    [
        lambda a, b: a + b,
        lambda a, b: tg.where(b > 0, a, 1.0),
        lambda a, b: tg.concat([a, a, b]),
        lambda a, b: a @ b,
        lambda a, b: a[tg.zeros(1, "int64", backend="array_api_strict")],
        lambda a, b: tg.vmap(lambda x: x + b)(a),
        lambda a, b: a * np.ones((2, 2)) * b,
    ],
)
def test_mixed_backends(call: Callable[..., Any]) -> None:
    a, b = leaf(2, 2), tg.ones((2, 2), backend="array_api_strict")
    with pytest.raises(TypeError) as caught:
        call(a, b)
    for word in ("different backends", "numpy", "array_api_strict", ".to("):
        assert word in str(caught.value)
    assert_array_equal((a + b.to("numpy")).numpy(), 2.0)


def test_mixed_backends_elsewhere() -> None:
    a, b = leaf(2), tg.ones(2, backend="array_api_strict")
    with pytest.raises(TypeError, match=r"cotangent on 'array_api_strict'.*\.to\('numpy'\)"):
        (a * 2.0).backward(b)
    with pytest.raises(TypeError, match=r"data: a leaf of backend 'numpy'.*\.to\('numpy'\)"):
        a.data = b
    cell = nn.RNNCell(2, 2).to("array_api_strict")
    with pytest.raises(TypeError, match=r"different backends.*\.to\("):
        tg.unroll(cell, tg.ones((3, 1, 2)))
    assert a.grad is None


def test_a_backend_that_nobody_registered() -> None:
    for call in (
        lambda: tg.get_backend("cuda"),
        lambda: tg.set_default_backend("cuda"),
        lambda: tg.use_backend("cuda").__enter__(),
        lambda: tg.zeros(2, backend="cuda"),
        lambda: leaf(2).to("cuda"),
        lambda: nn.Linear(2, 2).to("cuda"),
    ):
        with pytest.raises(ValueError, match=r"no backend 'cuda'.*numpy.*register_backend"):
            call()
    assert tg.zeros(1).backend == "numpy"


@pytest.mark.skipif(backends.status("cupy").usable, reason="CuPy is usable here")
def test_a_backend_that_is_missing_says_why_and_what_would_help() -> None:
    layer = nn.Linear(2, 2)
    for call in (
        lambda: tg.set_default_backend("cupy"),
        lambda: tg.ones(2, backend="cupy"),
        lambda: layer.to("cupy"),
        lambda: tg.use_backend("cupy").__enter__(),
    ):
        with pytest.raises(tg.BackendUnavailable, match=r"(?i)cupy"):
            call()
    assert {p.backend for p in layer.parameters()} == {tg.zeros(1).backend} == {"numpy"}
    status = tg.available_backends()["cupy"]
    assert not status.usable
    assert len(status.detail) > 20


# backward.


def test_backward_on_a_non_scalar_without_a_cotangent() -> None:
    x = leaf(2, 3)
    for call in (
        lambda: (x * 2.0).backward(),
        lambda: tg.grad(x * 2.0, x),
        lambda: tg.grad([x.sum(), x * 2.0], x),
    ):
        with pytest.raises(ValueError, match=r"\(2, 3\).*cotangent.*\.sum\(\)"):
            call()
    assert x.grad is None
    (x * 2.0)[:1, :1].backward()  # one element of any rank will do
    assert x.grad.numpy().sum() == 2


def test_backward_on_what_no_differentiable_input_reaches() -> None:
    x = leaf(3)
    with tg.no_grad():
        unrecorded = (x * 2.0).sum()
    for y in (
        tg.ones(()),
        x.detach().sum(),
        unrecorded,
        (x > 0).sum(),
        x.argmax(),
        x.astype("int32").sum(),
        tg.floor(x).sum(),
    ):
        with pytest.raises(RuntimeError, match=r"requires_grad=True.*detach"):
            y.backward()
        with pytest.raises(RuntimeError, match=r"requires_grad=True|does not depend"):
            tg.grad(y, x)
    with pytest.raises(RuntimeError, match=r"input 1, of shape \(2,\).*allow_unused"):
        tg.grad(x.sum(), [x, leaf(2)])
    with pytest.raises(RuntimeError, match=r"input 0.*does not require grad"):
        tg.grad(x.sum(), x.detach())
    with pytest.raises(TypeError, match=r"input 0 is no Tensor but numpy\.ndarray"):
        tg.grad(x.sum(), x.numpy())
    with pytest.raises(TypeError, match="expected a Tensor"):
        tg.grad(3.0, x)


def test_backward_twice() -> None:
    x = leaf(3)
    y = tg.exp(x).sum()
    y.backward()
    before = x.grad
    for again in (y.backward, lambda: tg.grad(y, x), lambda: (y * 2.0).backward()):
        with pytest.raises(tg.ReleasedGraphError, match=r"retain_graph=True"):
            again()
    assert x.grad is before


@pytest.mark.parametrize("shape", [(3,), (2, 1), (), (1, 2)])
def test_a_cotangent_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    x = leaf(2)
    y = x * 2.0
    for call in (y.backward, lambda g: tg.grad(y, x, g), tg.vjp(tg.exp, x)[1]):
        with pytest.raises(ValueError, match="cotangent") as caught:
            call(tg.ones(shape))
        assert str(shape) in str(caught.value) and "(2,)" in str(caught.value)
    assert x.grad is None
    y.backward(tg.ones(2, "float64"))  # another dtype is cast
    assert x.grad.dtype == "float32"


# NaN and inf.


def test_nan_and_inf_pass_through() -> None:
    x = tg.tensor([np.nan, np.inf, 0.0, -1.0], requires_grad=True)
    with np.errstate(all="ignore"):
        y = tg.tanh(x) * tg.sqrt(x) + tg.relu(x)
        y.sum().backward()
    assert np.isnan(y.numpy()).tolist() == [True, False, False, True]
    assert np.isnan(x.grad.numpy()).tolist() == [True, True, True, True]


def test_detect_anomaly_names_operation_and_line_of_the_forward_pass() -> None:
    x = tg.tensor([1.0, 0.0], requires_grad=True)
    with np.errstate(all="ignore"), tg.detect_anomaly():
        y = x * 2.0
        with pytest.raises(FloatingPointError, match="log made inf in the forward pass") as caught:
            tg.exp(tg.log(y))
        assert here(-1) in str(caught.value)
        with pytest.raises(FloatingPointError, match="divide made nan in the forward pass"):
            y / y
        with pytest.raises(FloatingPointError, match="forward pass") as caught:
            tg.unroll(lambda x, h: (tg.log(h), h), tg.ones((2, 1)), tg.zeros(1))
        assert here(-1) in str(caught.value)


def test_detect_anomaly_names_operation_and_line_of_the_backward_pass() -> None:
    x = tg.tensor([1.0, 0.0], requires_grad=True)
    with tg.detect_anomaly():
        line = here(1)
        root = tg.sqrt(x)
        y = (root * 3.0).sum()
        with pytest.raises(FloatingPointError, match=r"vjp of sqrt.*inf") as caught:
            y.backward()
    assert line in str(caught.value) and "backward pass" in str(caught.value)
    assert x.grad is None
    y = tg.sqrt(x).sum()
    with (
        tg.detect_anomaly(),
        pytest.raises(FloatingPointError, match=r"sqrt.*run the forward pass"),
    ):
        y.backward()


@pytest.mark.parametrize("how", ["create_graph", "vmap", "checkpoint", "unroll"])
def test_detect_anomaly_looks_into_transforms(how: str) -> None:
    x = tg.tensor([1.0, 0.0], requires_grad=True)
    calls: dict[str, Callable[[], Any]] = {
        "create_graph": lambda: tg.grad(tg.sqrt(x).sum(), x, create_graph=True),
        "vmap": lambda: tg.vmap(tg.value_and_grad(tg.sqrt))(x.detach()),
        "checkpoint": lambda: tg.checkpoint(tg.sqrt)(x).sum().backward(),
        "unroll": lambda: tg.unroll(lambda x, h: (x, tg.sqrt(h * x)), x, x[1])[1].backward(),
    }
    with (
        tg.detect_anomaly(),
        pytest.raises(FloatingPointError, match=r"vjp of sqrt.*inf") as caught,
    ):
        calls[how]()
    assert "test_bad_input.py" in str(caught.value)


# A saved array written in place.


def test_a_write_to_a_saved_array_fails_at_the_users_line() -> None:
    x = leaf(3)
    y = tg.exp(x)
    with pytest.raises(ValueError, match="read-only"):
        y.data[0] = 5.0
    with pytest.raises(ValueError, match="read-only"):
        y.numpy()[:] = 5.0
    with pytest.raises(TypeError, match=r"x\.at\[i\]\.set"):
        y[0] = 5.0
    y.sum().backward()
    assert_array_equal(x.grad.numpy(), np.exp(np.ones(3, "float32")))


def test_a_write_to_a_shared_array_is_found_by_detect_anomaly() -> None:
    shared, x = np.ones(3, "float32"), leaf(3)
    with tg.detect_anomaly():
        line = here(1)
        y = (x * tg.asarray(shared)).sum()
        shared[0] = 5.0
        with pytest.raises(RuntimeError, match=r"multiply.*written to.*tensor copies") as caught:
            y.backward()
    assert line in str(caught.value)
    assert x.grad is None


def test_a_write_on_a_backend_without_read_only_arrays_is_found_by_detect_anomaly() -> None:
    x = tg.ones(3, requires_grad=True, backend="array_api_strict")
    with tg.detect_anomaly():
        y = tg.exp(x)
        y.data[0] = 5.0
        with pytest.raises(RuntimeError, match=r"exp.*written to"):
            y.sum().backward()


def test_an_array_that_was_an_operand_is_the_users_again() -> None:
    host, x = np.ones(3, "float32"), leaf(3)
    y = (x * host).sum()
    _, pull = tg.vjp(tg.square, host)
    host[:] = 5.0
    assert tg.grad(y, x).tolist() == [1, 1, 1]
    assert pull(tg.ones(3))[0].tolist() == [2, 2, 2]


# Truth values, lengths, and the rest of what Python asks of a value.


def test_bool_of_several_elements() -> None:
    x = leaf(3)
    for call in (lambda: bool(x > 0), lambda: not x, lambda: 1 if x == x else 0, lambda: x and x):
        with pytest.raises(ValueError, match=r"\(3,\).*(any|all)\(\)"):
            call()
    assert bool(tg.ones((1, 1)))
    with pytest.raises(ValueError, match=r"\(0,\)"):
        bool(tg.zeros(0))


def test_conversions_of_several_elements() -> None:
    for call in (float, int, Tensor.item, lambda x: [1, 2, 3][x]):
        with pytest.raises((ValueError, TypeError), match=r"\(2,\)"):
            call(leaf(2))
    with pytest.raises(TypeError, match="0-d"):
        len(leaf())
    with pytest.raises(TypeError, match="0-d"):
        iter(leaf())
    with pytest.raises(TypeError, match="float32"):
        range(tg.ones(()))  # type: ignore[call-overload]


# unroll.


class State(NamedTuple):
    h: Any
    c: Any


def bad_cell(result: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    h = tg.zeros((2, 3))
    return lambda: tg.unroll(lambda x, s: result(x, s), tg.ones((4, 2, 3)), State(h, h))


@pytest.mark.parametrize(
    "result, words",
    [
        (lambda x, s: (s.h, s.c), ["State(h=*, c=*)", "*", "h, c = cell(x, (h, c))"]),
        (lambda x, s: (s.h, (s.h, s.c)), ["State(h=*, c=*)", "(*, *)"]),
        (lambda x, s: (s.h, {"h": s.h, "c": s.c}), ["State(h=*, c=*)", "{'h': *, 'c': *}"]),
        (lambda x, s: (s.h, State(s.h, (s.c,))), ["State(h=*, c=*)", "State(h=*, c=(*,))"]),
        (lambda x, s: s.h, ["(output, state)"]),
        (lambda x, s: (s.h, s.h, s.c), ["(output, state)", "(*, *, *)"]),
        (lambda x, s: None, ["(output, state)"]),
        (lambda x, s: (s.h, State(s.h, s.c[:1])), ["(2, 3)", "(1, 3)"]),
        (lambda x, s: (s.h, State(s.h, s.c.astype("float64"))), ["float32", "float64"]),
    ],
)
def test_a_cell_that_returns_another_state_than_it_got(result: Any, words: list[str]) -> None:
    with pytest.raises(TypeError, match="unroll") as caught:
        bad_cell(result)()
    for word in words:
        assert word in str(caught.value)


def test_a_state_of_a_dict_may_come_back_in_another_order() -> None:
    def cell(x: Tensor, s: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return x, {"c": s["c"] + 1.0, "h": s["h"] * 2.0}

    _, final = tg.unroll(cell, tg.ones((3, 2)), {"h": tg.ones(2), "c": tg.zeros(2)}, lengths=[3, 1])
    assert (final["h"].tolist(), final["c"].tolist()) == ([8, 2], [3, 1])


def test_a_cell_whose_outputs_change_from_step_to_step() -> None:
    outputs = iter([tg.ones(2), (tg.ones(2), tg.ones(2))])
    with pytest.raises(TypeError, match=r"outputs structured \*, then \(\*, \*\)"):
        tg.unroll(lambda x, h: (next(outputs), h), tg.ones((2, 2)), tg.ones(2), mode="literal")
    shapes = iter([tg.ones(2), tg.ones(3)])
    with pytest.raises(ValueError, match=r"stack.*\(2,\).*\(3,\)"):
        tg.unroll(lambda x, h: (next(shapes), h), tg.ones((2, 2)), tg.ones(2), mode="literal")


def test_bad_arguments_of_unroll() -> None:
    x, h = tg.ones((4, 2, 3)), tg.zeros((2, 3))
    cell = lambda x, h: (x, h)  # noqa: E731
    for options, words in (
        ({"lengths": [4, 5]}, r"lengths \[4, 5\] for 4 steps"),
        ({"lengths": [-1, 4]}, "lengths"),
        ({"lengths": [1.0, 2.0]}, "2 integers.*float64"),
        ({"lengths": [1, 2, 3]}, r"2 integers.*\(3,\)"),
        ({"lengths": 3}, "2 integers"),
        ({"lengths": [1, 2], "mask": np.ones((4, 2), bool)}, "not both"),
        (
            {"mask": np.ones((2, 4), bool)},
            r"mask is bool of shape \(4, 2\) \(time, batch\).*; mask.T has",
        ),
        ({"mask": np.ones((4, 2))}, "mask is bool.*float64.*; mask != 0 is bool"),
        ({"reset": np.ones((4,), bool)}, "reset is bool"),
        ({"mode": "fast"}, "'auto', 'literal' or 'planned'"),
    ):
        with pytest.raises(ValueError, match=words):
            tg.unroll(cell, x, h, **options)
    with pytest.raises(TypeError, match="initial_state"):
        tg.unroll(cell, x)
    for xs in ((), {}, tg.ones(())):
        with pytest.raises(ValueError, match="unroll: xs"):
            tg.unroll(cell, xs, h)


# Losses, modules and optimisers: what is refused is refused before anything changes.


def test_bad_arguments_of_losses_and_random_numbers() -> None:
    x = leaf(2, 3)
    for call, words in (
        (lambda: tg.cross_entropy(x, tg.tensor([0, 1]), reduction="avg"), "reduction"),
        (lambda: tg.cross_entropy(x, tg.tensor([0, 1]), weight=tg.ones(2)), "weight"),
        (lambda: tg.cross_entropy(x, tg.tensor([0, 1]), label_smoothing=2.0), "label_smoothing"),
        (lambda: tg.cross_entropy(x, tg.tensor([0, 3])), "3"),
        (lambda: tg.mse_loss(x, x, reduction="all"), "reduction"),
        (lambda: tg.gelu(x, approximate="yes"), "approximate"),
        (lambda: tg.dropout(x, 1.5), "probability"),
        (lambda: tg.manual_seed(-1), "manual_seed"),
        (lambda: tg.manual_seed(0.5), "manual_seed"),
        (lambda: tg.layer_norm(x.sum()), "layer_norm"),
    ):
        with pytest.raises((ValueError, IndexError), match=words):
            call()


def test_loading_a_wrong_state_changes_nothing() -> None:
    layer = nn.Linear(2, 3)
    before = {k: v.numpy().copy() for k, v in layer.state_dict().items()}
    good = {k: np.zeros(v.shape) for k, v in before.items()}
    for state, words in (
        ({**good, "bias": np.zeros(4)}, r"bias has shape \(4,\), expected \(3,\)"),
        ({"weight": good["weight"]}, "missing: bias"),
        ({**good, "extra": np.zeros(1)}, "unexpected: extra"),
    ):
        with pytest.raises(ValueError, match=words):
            layer.load_state_dict(state)
        for name, value in before.items():
            assert_array_equal(layer.state_dict()[name].numpy(), value)


def test_gradients_that_are_not_finite_are_not_clipped() -> None:
    p, q = leaf(2), leaf(2)
    p.grad, q.grad = tg.tensor([np.inf, 1.0]), tg.ones(2)
    with pytest.raises(FloatingPointError, match="norm of the gradients is inf"):
        optim.clip_grad_norm_([p, q], 1.0)
    assert q.grad.tolist() == [1, 1]
    with pytest.raises(ValueError, match="max_norm"):
        optim.clip_grad_norm_([q], 0.0)


def test_hooks_and_leaves_that_cannot_be() -> None:
    x = leaf(2)
    with pytest.raises(RuntimeError, match="does not require grad"):
        x.detach().register_hook(lambda g: g)
    with pytest.raises(TypeError, match="function"):
        x.register_hook("print")
    x.register_hook(lambda g: tg.ones(3))
    with pytest.raises(ValueError, match=r"hook.*\(2,\)"):
        x.sum().backward()
    assert x.grad is None
    y = x * 2.0
    with pytest.raises(RuntimeError, match=r"detach\(\)"):
        y.requires_grad = False
    with pytest.raises(RuntimeError, match="only a leaf"):
        y.data = y.data


def test_an_error_shows_the_users_own_line(tmp_path: Any) -> None:
    """The traceback ends in the library, but the user's line is in it and the message is last."""
    script = tmp_path / "mine.py"
    script.write_text("import tinygrad_rnn as tg\nx = tg.ones((2, 3))\ny = x + tg.ones(4)\n")
    paths = [str(Path(module.__file__ or "").parents[1]) for module in (tg, backends)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(script)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "y = x + tg.ones(4)" in run.stderr
    assert "ValueError: add(float32 (2, 3), float32 (4,))" in run.stderr.splitlines()[-1]
