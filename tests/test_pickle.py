"""Pickling and copying: a Tensor is its value, its backend and whether it is a trainable leaf."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import tinygrad_rnn as tg
import tinygrad_rnn_backends as backends
from tinygrad_rnn import Tensor, nn, optim


def reload(x: Any) -> Any:
    return pickle.loads(pickle.dumps(x))


ROUND_TRIPS = [reload, copy.deepcopy]


@pytest.mark.parametrize("way", ROUND_TRIPS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_values_dtype_and_shape_survive(way: Any, dtype: str, shape: tuple[int, ...]) -> None:
    x = tg.ones(shape, dtype)
    y = way(x)
    assert (y.dtype, y.shape, y.backend) == (x.dtype, x.shape, x.backend)
    assert_array_equal(y.numpy(), x.numpy())


@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_the_backend_survives(way: Any, backend: backends.Backend) -> None:
    x = tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True).T
    y = way(x)
    assert y.backend == backend.name
    assert y.tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_a_leaf_stays_one_and_a_computed_tensor_becomes_a_constant(way: Any) -> None:
    x = tg.ones(3, requires_grad=True)
    y = x * 2.0
    y.sum().backward(retain_graph=True)
    leaf, constant = way(x), way(y)
    assert leaf.requires_grad and leaf.is_leaf and leaf.grad is None
    assert not constant.requires_grad and constant.is_leaf
    (leaf * 3.0).sum().backward()
    assert leaf.grad.tolist() == [3, 3, 3]
    assert x.grad.tolist() == [2, 2, 2]


@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_a_copy_shares_no_memory(way: Any) -> None:
    host = np.ones(3)
    y = way(tg.asarray(host))
    host[:] = 5.0
    assert y.tolist() == [1, 1, 1]


def test_a_shallow_copy_is_the_same_place_in_the_graph() -> None:
    x = tg.ones(3, requires_grad=True)
    y = x * 2.0
    assert tg.grad(copy.copy(y).sum(), copy.copy(x)).tolist() == [2, 2, 2]


@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_what_was_shared_in_a_structure_still_is(way: Any) -> None:
    x = tg.ones(2, requires_grad=True)
    found = way({"a": x, "b": [x, x + 1.0]})
    assert found["a"] is found["b"][0]


@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_a_module_and_its_optimiser_go_on_training(way: Any) -> None:
    tg.manual_seed(0)
    cell = nn.LSTMCell(2, 3)
    optimiser = optim.Adam(cell.parameters(), lr=0.1)
    x = tg.ones((4, 1, 2))

    def train(cell: Any, optimiser: Any) -> float:
        y, _ = tg.unroll(cell, x)
        loss = tg.square(y - 0.5).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss)

    train(cell, optimiser)
    cell2, optimiser2 = way((cell, optimiser))
    assert type(cell2.weight_ih) is nn.Parameter
    for _ in range(3):
        assert train(cell, optimiser) == train(cell2, optimiser2)
    assert cell.weight_ih is not cell2.weight_ih


def test_every_protocol() -> None:
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(x, protocol)).tolist() == [1, 2]


def test_nodes_and_what_is_inside_vmap_are_not_pickled() -> None:
    x = tg.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match="pickle Tensors"):
        pickle.dumps((x * 2.0)._node)
    with pytest.raises(TypeError, match="vmap"):
        tg.vmap(lambda e: pickle.dumps(e))(x)


def test_another_process_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps({"x": tg.tensor([1.0, 2.0], requires_grad=True)}))
    code = f"import pickle; x = pickle.load(open({str(path)!r}, 'rb'))['x']; "
    code += "x.sum().backward(); print(x.grad.tolist())"
    paths = [str(Path(module.__file__ or "").parents[1]) for module in (tg, backends)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    run = [sys.executable, "-c", code]
    assert subprocess.check_output(run, text=True, env=environment).strip() == "[1.0, 1.0]"


def _gradient(x: Tensor) -> Tensor:
    return tg.grad(tg.square(x).sum(), x)


def test_tensors_travel_to_worker_processes_and_back() -> None:
    xs = [tg.tensor([float(i)], requires_grad=True) for i in range(3)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert [g.tolist() for g in pool.map(_gradient, xs)] == [[0], [2], [4]]


def test_the_state_of_random_numbers_is_plain_data() -> None:
    call: Callable[[], list[float]] = lambda: tg.random.uniform(4).tolist()  # noqa: E731
    tg.manual_seed(1)
    state = reload(tg.random.get_state())
    first = call()
    tg.random.set_state(state)
    assert call() == first
