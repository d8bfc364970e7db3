"""Where values enter operations, and what may stand for a gradient: one test for each surprise."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.testing import check_grads
from tinygrad_rnn_backends import Backend


def test_a_numpy_scalar_goes_beside_the_other_inputs(backend: Backend) -> None:
    x = tg.ones(2, backend=backend.name)
    for y in (x * np.float32(2), np.float32(2) * x, tg.where(x > 0, np.float32(2), x)):
        assert y.backend == backend.name
        assert y.tolist() == [2.0, 2.0]
    assert (x == np.float32(1)).tolist() == [True, True]


def test_host_data_goes_to_the_chosen_backend(backend: Backend) -> None:
    a = np.ones(2, dtype=np.float32)
    with tg.use_backend(backend.name):
        assert tg.tensor(a).backend == tg.tensor([1.0]).backend == backend.name
        assert tg.tensor(np.float32(1)).backend == nn.Parameter(a).backend == backend.name
        assert tg.asarray(a).backend == "numpy"  # which shares, so it stays


def test_powers_have_their_mixed_derivatives() -> None:
    x, y = np.array([2.0, 0.7, 1.3, 2.0]), np.array([1.0, 2.0, 0.0, -1.0])
    check_grads(lambda x, y: x**y, [x, y], order=3)


def test_a_zero_to_a_negative_power_falls_without_bound_in_the_exponent() -> None:
    y = tg.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    with np.errstate(divide="ignore"):
        g = tg.grad((0.0**y).sum(), y)
    assert g.tolist() == [-np.inf, 0.0, 0.0]


def test_nan_passes_back_through_relu() -> None:
    x = tg.tensor([np.nan, -1.0, 2.0], requires_grad=True)
    assert tg.grad(tg.relu(x).sum(), x).tolist() == [1.0, 0.0, 1.0]


def test_a_hook_on_what_a_checkpoint_captures_runs_once() -> None:
    w = tg.tensor(1.0, requires_grad=True)
    seen = []
    w.register_hook(lambda g: seen.append(g.item()) or g * 2)
    tg.checkpoint(lambda x: x * w)(tg.tensor(3.0, requires_grad=True)).backward()
    assert seen == [3.0]
    assert w.grad is not None
    assert w.grad.item() == 6.0


def test_a_hook_sees_the_backend_of_its_tensor(backend: Backend) -> None:
    x = tg.tensor(2.0, requires_grad=True)
    h = x * 3.0
    seen = []
    h.register_hook(lambda g: seen.append(g.backend) or g * 2)
    with tg.use_backend("numpy"):
        tg.sin(h).backward()
    assert seen == [backend.name]
    assert x.grad is not None
    assert x.grad.backend == backend.name


def test_what_stands_for_a_gradient_is_like_its_tensor(backend: Backend) -> None:
    p = tg.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match=r"float32, not float64; use astype"):
        p.grad = tg.ones(2, dtype="float64")
    with pytest.raises(ValueError, match=r"\(2,\), not \(3,\)"):
        p.grad = tg.ones(3)
    if backend.name != "numpy":
        with pytest.raises(TypeError, match=r"not 'numpy'; use to\("):
            p.grad = tg.ones(2, backend="numpy")
    p.register_hook(lambda g: g.astype("float64"))
    with pytest.raises(TypeError, match="hook: a Tensor of float32"):
        (p * 2).sum().backward()
    assert p.grad is None


def test_a_tensor_deep_in_a_list_is_not_dropped_from_the_graph() -> None:
    with pytest.raises(TypeError, match="use stack"):
        tg.tensor([[1.0, 2.0], [3.0, tg.tensor(4.0, requires_grad=True)]])


def test_complex_numbers_are_refused_everywhere() -> None:
    for call in (
        lambda: tg.ones(2) * np.ones(2, dtype=complex),
        lambda: tg.ones(2).astype("complex64"),
        lambda: tg.asarray(np.ones(2, dtype=complex)),
    ):
        with pytest.raises(TypeError, match="no real numbers"):
            call()


def test_what_is_no_operand_is_named_with_the_operation() -> None:
    with pytest.raises(TypeError, match=r"exp: expected a Tensor.*list"):
        tg.exp([1.0])
    with pytest.raises(TypeError, match="add: expected a Tensor"):
        tg.ones(2) + "a"


def test_a_memory_map_is_an_array_like_any_other(tmp_path: Path) -> None:
    tokens = np.memmap(tmp_path / "tokens", dtype=np.int64, mode="w+", shape=(3,))
    tokens[:] = [2, 0, 1]
    assert tg.take(tg.arange(3), tokens).tolist() == [2, 0, 1]
    assert tg.arange(3)[tokens].tolist() == [2, 0, 1]
    assert tg.tensor(tokens).tolist() == [2, 0, 1]


def test_detect_anomaly_notices_a_changed_index() -> None:
    x, indices = tg.ones(3, requires_grad=True), np.array([0, 1])
    with tg.detect_anomaly():
        y = x[tg.asarray(indices)].sum()
        indices[0] = 2
        with pytest.raises(RuntimeError, match="written to"):
            y.backward()


def test_a_floating_point_error_stays_one() -> None:
    with np.errstate(all="raise"), pytest.raises(FloatingPointError, match="log"):
        tg.log(tg.zeros(1))


def test_a_copied_parameter_is_a_parameter() -> None:
    assert type(copy.copy(nn.Parameter(np.ones(2, dtype=np.float32)))) is nn.Parameter
