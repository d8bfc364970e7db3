"""Where other small engines fail, by name: each of these was seen to go wrong there.

HIPS autograd, micrograd, DeZero and SmallPebble were run, and their issues read; a test here does
what failed there.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.testing import check_grads


def leaf(*values: float) -> Tensor:
    return tg.tensor(np.array(values, dtype=np.float64), requires_grad=True)


# HIPS autograd.


def test_hips_a_captured_array_changed_after_use_gave_5_5_5_instead_of_1_1_1() -> None:
    captured = np.ones(3)
    y, pull = tg.vjp(lambda x: (x * captured).sum(), np.zeros(3))
    captured[:] = 5.0
    assert pull(tg.ones((), "float64"))[0].tolist() == [1, 1, 1]
    argument = np.ones(3)
    _, pull = tg.vjp(lambda x: tg.square(x).sum(), argument)
    argument[:] = 5.0
    assert pull(tg.ones((), "float64"))[0].tolist() == [2, 2, 2]
    assert y.item() == 0


def test_hips_assignment_was_unsupported_58_177_556_559() -> None:
    x, v = leaf(1, 2, 3), leaf(10)
    y = x.at[0].set(v[0]).at[[1, 1]].add(x[:2])
    assert y.tolist() == [10, 5, 3]
    gx, gv = tg.grad((y * tg.tensor([1.0, 10.0, 100.0])).sum(), [x, v])
    assert (gx.tolist(), gv.tolist()) == ([10, 20, 100], [1])


def test_hips_priority_alone_made_object_arrays_of_np_add() -> None:
    x = leaf(1, 2)
    with pytest.raises(TypeError):
        np.add(np.ones(2), x)
    y = np.ones(2) + x
    assert isinstance(y, Tensor) and y.dtype == "float64"


def test_hips_has_no_method_spelling_of_a_product() -> None:
    a, b = leaf(1, 2), leaf(3, 4)
    assert (a @ b).item() == tg.matmul(a, b).item() == tg.vecdot(a, b).item() == 11


def test_hips_46_the_same_code_on_another_backend(backend: Any) -> None:
    cell = nn.GRUCell(2, 3)
    y, _ = tg.unroll(cell, tg.ones((4, 2, 2)))
    tg.square(y).sum().backward()
    assert {p.grad.backend for p in cell.parameters()} == {backend.name}


# micrograd.


@pytest.mark.parametrize("depth", [2_000, 20_000])
def test_micrograd_90_recursion_error_beyond_a_thousand_nodes(depth: int) -> None:
    x = leaf(1.0)
    y = x
    for _ in range(depth):
        y = y * 1.0001
    y.sum().backward()
    assert_allclose(x.grad.numpy(), 1.0001**depth, rtol=1e-9)


def test_micrograd_64_an_inner_node_used_again_waits_for_all_its_uses() -> None:
    x = leaf(3.0)
    a = x * 2.0
    b = a * a  # a's cotangent is complete only after c's
    c = a * b + a
    c.sum().backward()
    assert x.grad.tolist() == [3 * 6.0**2 * 2 + 2]


def test_micrograd_closures_gave_no_second_derivative() -> None:
    x = leaf(2.0)
    g = tg.grad((x**3).sum(), x, create_graph=True)
    assert tg.grad(g.sum(), x).tolist() == [12]


def test_micrograd_a_result_and_its_closure_were_a_reference_cycle() -> None:
    gc.collect()
    gc.disable()
    try:
        x = leaf(2.0)
        y = tg.tanh(x * x)
        node = weakref.ref(y._node)
        array = weakref.ref(y.data.base)
        del y
        assert node() is None and array() is None
    finally:
        gc.enable()


def test_micrograd_gradients_of_reused_leaves_accumulate_once_per_pass() -> None:
    x = leaf(3.0)
    y = x + x
    y.sum().backward()
    assert x.grad.tolist() == [2]
    (x * 2.0).sum().backward()
    assert x.grad.tolist() == [4]


# DeZero.


def test_dezero_rebinding_a_parameter_before_backward_gave_200_instead_of_6() -> None:
    w = leaf(3.0)
    y = (w * w).sum()
    w.data = np.array([100.0])
    y.backward()
    assert w.grad.tolist() == [6]


def test_dezero_rnn_of_lazy_shapes_failed_at_its_second_step() -> None:
    cell = nn.RNNCell(3, 5)
    assert cell.weight_hh.shape == (5, 5)  # there before the first call
    state = tg.zeros((2, 5))
    for _ in range(2):
        y, state = cell(tg.ones((2, 3)), state)
    assert y.shape == (2, 5)


def test_dezero_parameters_were_a_set_without_an_order() -> None:
    def names() -> list[str]:
        return [name for name, _ in nn.GRUCell(2, 3).named_parameters()]

    assert names() == ["weight_ih", "weight_hh", "bias", "bias_hn"] == names()


def test_dezero_a_hidden_state_inside_the_layer_leaked_from_call_to_call() -> None:
    cell, x = nn.LSTMCell(2, 3), tg.ones((4, 1, 2))
    first, _ = tg.unroll(cell, x)
    second, _ = tg.unroll(cell, x)
    assert first.tolist() == second.tolist()
    (first.sum() + second.sum()).backward()


def test_dezero_saving_moved_the_model_off_its_backend() -> None:
    layer = nn.Linear(2, 2).to("array_api_strict")
    layer.state_dict()
    assert {p.backend for p in layer.parameters()} == {"array_api_strict"}


def test_dezero_a_queue_sorted_at_each_push_made_wide_graphs_slow() -> None:
    x = leaf(1.0)
    y = sum((x * float(i) for i in range(5_000)), tg.zeros(1, "float64"))
    y.sum().backward()
    assert x.grad.tolist() == [5_000 * 4_999 / 2]


# SmallPebble.


def test_smallpebble_paths_instead_of_nodes_took_2_to_the_depth() -> None:
    calls = 0

    def count(xp: Any, g: Any) -> Any:
        nonlocal calls
        calls += 1
        return g

    double = tg.Primitive("double", "elementwise", lambda xp, x, y: x + y, count, count)
    x = leaf(1.0)
    y = x
    for _ in range(60):  # 2^60 paths
        y = tg.apply(double, y, y)
    y.sum().backward()
    assert x.grad.tolist() == [2.0**60]
    assert calls == 2 * 60


def test_smallpebble_check_grad_accepted_a_gradient_of_999_for_a_slope_of_3() -> None:
    def triple(slope: float) -> Any:
        row = tg.Primitive("triple", "elementwise", lambda xp, x: 3 * x, lambda xp, g: slope * g)
        return lambda x: tg.apply(row, x)

    x = np.array([1.0, 2.0])
    check_grads(triple(3.0), [x])
    for slope in (999.0, 3.003):
        with pytest.raises(AssertionError):
            check_grads(triple(slope), [x])


# Others, from the same notes.


def test_chainer_4114_old_rules_gave_wrong_second_derivatives_without_a_word() -> None:
    rng = np.random.default_rng(0)
    for make, state in ((nn.RNNCell, 1), (nn.LSTMCell, 2), (nn.GRUCell, 1)):
        cell = make(2, 3)
        h = [rng.normal(size=(1, 3)) for _ in range(state)]

        def f(x: Tensor, *h: Tensor, cell: Any = cell) -> Any:
            given = h if len(h) > 1 else h[0]
            return tg.unroll(cell, tg.stack([x, tg.sin(x)]), given)

        check_grads(f, [rng.normal(size=(1, 2)), *h], order=2)


def test_pytorch_134606_vmap_over_a_gru_and_5261_its_second_derivative() -> None:
    cell = nn.GRUCell(2, 3)
    xs = tg.random.uniform((5, 4, 2))

    def loss(x: Tensor) -> Tensor:
        return tg.unroll(cell, x[:, None, :])[0].sum()

    hessians = tg.vmap(tg.hessian(loss))(xs)
    one = tg.hessian(loss)(xs[2])
    assert hessians.shape == (5, 4, 2, 4, 2)
    assert_allclose(hessians[2].numpy(), one.numpy(), rtol=1e-4, atol=1e-6)


def test_mygrad_442_had_no_higher_order() -> None:
    x = leaf(0.5)
    y = tg.tanh(x)
    for _ in range(4):
        y = tg.grad(y.sum(), x, create_graph=True)
    t = np.tanh(0.5)
    assert_allclose(y.item(), (1 - t**2) * (16 * t - 24 * t**3), rtol=1e-12)


def test_pytorch_users_carry_a_state_and_learn_nothing_from_the_error() -> None:
    cell = nn.LSTMCell(2, 3)
    y, state = tg.unroll(cell, tg.ones((3, 1, 2)))
    y.sum().backward()
    y, _ = tg.unroll(cell, tg.ones((3, 1, 2)), state)
    with pytest.raises(tg.ReleasedGraphError, match=r"state carried over.*state\.detach\(\)"):
        y.sum().backward()
