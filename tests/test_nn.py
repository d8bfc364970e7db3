"""Modules and cells: what a module holds, loading all or nothing, and the cells' equations."""

from __future__ import annotations

import copy
import pickle
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim
from tinygrad_rnn.structure import map_leaves
from tinygrad_rnn.testing import check_grads
from tinygrad_rnn_backends import Backend

Array = np.ndarray[Any, Any]


class Tagger(nn.Module):
    """A bit of everything: lists, dicts, a parameter with two names, a buffer, a constant."""

    def __init__(self) -> None:
        self.scale = nn.Parameter(np.ones(2, np.float32))
        self.embedding = nn.Embedding(5, 3)
        self.cells = [nn.LSTMCell(3, 4), nn.GRUCell(4, 3)]
        self.heads = {"a": nn.Linear(3, 2), "b": nn.Linear(3, 2, bias=False)}
        self.heads["b"].weight = self.heads["a"].weight
        self.mean = nn.Buffer(np.zeros(3, np.float32))
        self.constant = tg.ones(3)
        self.size = 3

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) - self.mean
        for cell in self.cells:
            x, _ = tg.unroll(cell, x)
        return (self.heads["a"](x) + self.heads["b"](x)) * self.scale


NAMES = [
    "scale",
    "embedding.weight",
    "cells.0.weight_ih",
    "cells.0.weight_hh",
    "cells.0.bias",
    "cells.1.weight_ih",
    "cells.1.weight_hh",
    "cells.1.bias",
    "cells.1.bias_hn",
    "heads.a.weight",
    "heads.a.bias",
]
TOKENS = np.array([[0, 4], [1, 1], [3, 2]])


@pytest.fixture
def model() -> Tagger:
    tg.manual_seed(0)
    return Tagger()


def values(module: nn.Module) -> dict[str, Array]:
    return {name: x.numpy().copy() for name, x in module.state_dict().items()}


def assert_same(one: dict[str, Array], other: dict[str, Array]) -> None:
    assert list(one) == list(other)
    for name in one:
        assert_array_equal(one[name], other[name], err_msg=name)


# What a module holds.


def test_parameters_come_in_order_of_definition_and_shared_ones_once(model: Tagger) -> None:
    assert [name for name, _ in model.named_parameters()] == NAMES
    assert len(list(model.parameters())) == len(NAMES)
    assert [name for name, _ in model.named_parameters("net")] == [f"net.{n}" for n in NAMES]


def test_modules_come_with_their_paths(model: Tagger) -> None:
    paths = ["", "embedding", "cells.0", "cells.1", "heads.a", "heads.b"]
    assert [path for path, _ in model.named_modules()] == paths


def test_buffers_are_saved_and_not_trained(model: Tagger) -> None:
    assert [name for name, _ in model.named_buffers()] == ["mean"]
    assert list(model.state_dict()) == [*NAMES, "mean"]
    assert not model.mean.requires_grad


def test_a_module_in_two_places_counts_once() -> None:
    cell = nn.RNNCell(2, 2)
    stack = type("Stack", (nn.Module,), {})()
    stack.cells = (cell, cell)
    assert [name for name, _ in stack.named_parameters()] == [
        "cells.0.weight_ih",
        "cells.0.weight_hh",
        "cells.0.bias",
    ]


def test_a_new_attribute_counts_and_a_deleted_one_does_not(model: Tagger) -> None:
    model.extra = nn.Linear(2, 2, bias=False)
    del model.embedding
    names = [name for name, _ in model.named_parameters()]
    assert "extra.weight" in names and "embedding.weight" not in names


def test_train_and_eval_reach_every_module(model: Tagger) -> None:
    assert model.training
    assert model.eval() is model
    assert not any(module.training for _, module in model.named_modules())
    assert model.train().cells[1].training


def test_freezing_stops_gradients_and_nothing_else(model: Tagger) -> None:
    model.cells[0].requires_grad_(False)
    model(tg.tensor(TOKENS)).sum().backward()
    frozen = [name for name, p in model.named_parameters() if p.grad is None]
    assert frozen == ["cells.0.weight_ih", "cells.0.weight_hh", "cells.0.bias"]
    assert list(model.state_dict()) == [*NAMES, "mean"]
    model.requires_grad_()
    model.zero_grad()
    model(tg.tensor(TOKENS)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_a_shared_parameter_gets_both_gradients(model: Tagger) -> None:
    x = tg.ones((1, 3))
    shared = model.heads["a"].weight
    once = tg.grad(model.heads["a"](x).sum(), shared)
    both = tg.grad((model.heads["a"](x) + model.heads["b"](x)).sum(), shared)
    assert_allclose(both.numpy(), 2 * once.numpy())


def test_repr_shows_the_tree(model: Tagger) -> None:
    assert repr(model) == (
        "Tagger(\n"
        "  (embedding): Embedding(5, 3)\n"
        "  (cells.0): LSTMCell(3, 4, bias=True)\n"
        "  (cells.1): GRUCell(4, 3, bias=True)\n"
        "  (heads.a): Linear(3, 2, bias=True)\n"
        "  (heads.b): Linear(3, 2, bias=False)\n"
        ")"
    )


def test_a_module_without_forward_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Empty defines no forward"):
        type("Empty", (nn.Module,), {})()(1)


def test_one_seed_one_model_on_every_backend(model: Tagger, backend: Backend) -> None:
    tg.manual_seed(0)
    same = Tagger()
    assert {p.backend for p in same.parameters()} == {backend.name}
    assert_same(values(same), values(model))
    tg.manual_seed(1)
    assert not np.array_equal(Tagger().embedding.weight.numpy(), model.embedding.weight.numpy())


@pytest.mark.parametrize("kind", [nn.Parameter, nn.Buffer])
def test_a_parameter_copies_its_data(kind: Any, backend: Backend) -> None:
    host = np.ones(2, np.float32)
    native = backend.from_host(np.ones(2, np.float32))
    made = [kind(host), kind(native), kind(tg.asarray(host))]
    host[0] = native[0] = 7
    for x in made:
        assert type(x) is kind and x.is_leaf
        assert x.requires_grad == (kind is nn.Parameter)
        assert_array_equal(x.numpy(), [1, 1])
    assert [x.backend for x in made] == [backend.name, backend.name, "numpy"]


# Loading, copying, moving.


def test_state_goes_from_module_to_module(model: Tagger, backend: Backend) -> None:
    tg.manual_seed(1)
    other = Tagger()
    parameters = list(other.parameters())
    assert other.load_state_dict(model.state_dict()) == ([], [])
    assert_same(values(other), values(model))
    assert list(map(id, other.parameters())) == list(
        map(id, parameters)
    )  # an optimiser stays valid
    assert {p.backend for p in other.parameters()} == {backend.name}
    assert other.heads["b"].weight is other.heads["a"].weight


def test_what_is_loaded_takes_the_modules_dtype(model: Tagger) -> None:
    doubled = {name: x.astype("float64") * 2 for name, x in values(model).items()}
    model.load_state_dict(doubled)
    assert {x.dtype.name for x in model.state_dict().values()} == {"float32"}
    assert_array_equal(model.scale.numpy(), [2, 2])


def test_what_is_loaded_is_a_copy(model: Tagger) -> None:
    state = values(model)
    model.load_state_dict(state)
    state["scale"][:] = 7
    assert_array_equal(model.scale.numpy(), [1, 1])


def test_loading_is_all_or_nothing_and_the_error_lists_every_key(model: Tagger) -> None:
    before = values(model)
    state: dict[str, Any] = {name: x + 1 for name, x in before.items()}
    del state["scale"], state["cells.1.bias"]
    state |= {"heads.a.bias": np.zeros(3), "mean": np.array(["a", "b", "c"])}
    state |= {"extra": np.zeros(1), "more.weight": np.zeros(1)}
    with pytest.raises(ValueError) as caught:
        model.load_state_dict(state)
    for part in (
        "Tagger",
        "missing: scale, cells.1.bias",
        "unexpected: extra, more.weight",
        "heads.a.bias has shape (3,), expected (2,)",
        "mean holds <U1, expected float32",
    ):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match=r"heads\.a\.bias"):
        model.load_state_dict(state, strict=False)
    assert_same(values(model), before)


def test_without_strict_the_other_keys_are_returned(model: Tagger) -> None:
    keys = model.load_state_dict({"scale": [3, 4], "extra": np.zeros(1)}, strict=False)
    assert keys.missing == [*NAMES[1:], "mean"]
    assert keys.unexpected == ["extra"]
    assert_array_equal(model.scale.numpy(), [3, 4])


@pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_equal_and_independent(way: Any, model: Tagger) -> None:
    model.cells[0].requires_grad_(False)
    twin = way(model.eval())
    assert_same(values(twin), values(model))
    assert twin.heads["b"].weight is twin.heads["a"].weight is not model.heads["a"].weight
    assert [p.requires_grad for p in twin.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    assert all(isinstance(p, nn.Parameter) for p in twin.parameters())
    assert not twin.training
    twin.scale.data = twin.scale.data * 2
    assert_array_equal(model.scale.numpy(), [1, 1])


def test_moving_rebinds_in_place_and_an_optimiser_stays_valid(model: Tagger) -> None:
    tg.manual_seed(0)
    stayed = Tagger()
    ends = []
    for module, second in ((stayed, "numpy"), (model, "array_api_strict")):
        optimizer = optim.Adam(module.parameters(), lr=0.01)
        held = list(module.parameters())
        for backend in ("numpy", second, "numpy"):
            assert module.to(backend) is module
            assert {x.backend for x in module.state_dict().values()} == {backend}
            optimizer.zero_grad()
            (module(tg.tensor(TOKENS, backend=backend)) ** 2).mean().backward()
            optimizer.step()
        assert list(map(id, module.parameters())) == list(map(id, held))
        ends.append(values(module))
    for name in ends[0]:
        assert_allclose(ends[0][name], ends[1][name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_moving_takes_gradients_along(model: Tagger) -> None:
    model(tg.tensor(TOKENS)).sum().backward()
    before = model.scale.grad.numpy().copy()
    model.to("array_api_strict")
    assert model.scale.grad.backend == "array_api_strict"
    assert_array_equal(model.scale.grad.numpy(), before)


def test_an_unknown_backend_moves_nothing(model: Tagger) -> None:
    with pytest.raises(ValueError, match="no backend 'nowhere'"):
        model.to("nowhere")
    assert {p.backend for p in model.parameters()} == {"numpy"}


# Layers and initial weights.


def test_linear_is_a_product_and_a_bias(backend: Backend) -> None:
    layer = nn.Linear(3, 2)
    assert layer.weight.shape == (3, 2)
    layer.bias.data = tg.tensor([1.0, -1.0]).data
    x = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 2, 3)
    found = layer(tg.tensor(x, backend=backend.name)).numpy()
    assert_allclose(found, x @ layer.weight.numpy() + [1, -1], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"Linear: expected \(\.\.\., 3\), not \(2, 2\)"):
        layer(tg.ones((2, 2)))


def test_embedding_is_rows_and_its_gradient_adds_up(backend: Backend) -> None:
    layer = nn.Embedding(5, 2)
    tokens = tg.tensor(TOKENS, backend=backend.name)
    assert_array_equal(layer(tokens).numpy(), layer.weight.numpy()[TOKENS])
    layer(tokens).sum().backward()
    assert_array_equal(layer.weight.grad.numpy()[:, 0], [1, 2, 1, 1, 1])


def test_initial_weights_have_the_variance_they_should() -> None:
    tg.manual_seed(0)
    cell, linear, embedding = nn.GRUCell(200, 100), nn.Linear(200, 100), nn.Embedding(100, 100)
    assert linear.weight.numpy().var() == pytest.approx(2 / 300, rel=0.05)
    assert embedding.weight.numpy().var() == pytest.approx(1, rel=0.05)
    for gate in np.split(cell.weight_ih.numpy(), 3, axis=1):
        assert gate.var() == pytest.approx(2 / 300, rel=0.05)
    for gate in np.split(cell.weight_hh.numpy(), 3, axis=1):
        assert_allclose(gate @ gate.T, np.eye(100), atol=1e-5)
    assert not cell.bias.numpy().any() and not cell.bias_hn.numpy().any()
    bias = nn.LSTMCell(2, 3).bias.numpy()
    assert_array_equal(bias, [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0])


# The cells, by their equations in NumPy.


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def rnn(p: dict[str, Array], x: Array, h: Array, activation: Any = np.tanh) -> Any:
    h = activation(x @ p["weight_ih"] + p.get("bias", 0) + h @ p["weight_hh"])
    return h, h


def rnn_relu(p: dict[str, Array], x: Array, h: Array) -> Any:
    return rnn(p, x, h, lambda a: np.maximum(a, 0))


def lstm(p: dict[str, Array], x: Array, state: Any) -> Any:
    h, c = state
    gates = x @ p["weight_ih"] + p.get("bias", 0) + h @ p["weight_hh"]
    i, f, g, o = np.split(gates, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return h, (h, c)


def gru(p: dict[str, Array], x: Array, h: Array) -> Any:
    r, z, n = np.split(x @ p["weight_ih"] + p.get("bias", 0), 3, axis=-1)
    hr, hz, hn = np.split(h @ p["weight_hh"], 3, axis=-1)
    r, z = sigmoid(r + hr), sigmoid(z + hz)
    n = np.tanh(n + r * (hn + p.get("bias_hn", 0)))
    h = (1 - z) * n + z * h
    return h, h


def gru_before(p: dict[str, Array], x: Array, h: Array) -> Any:
    r, z, n = np.split(x @ p["weight_ih"] + p.get("bias", 0), 3, axis=-1)
    wr, wz, wn = np.split(p["weight_hh"], 3, axis=-1)
    r, z = sigmoid(r + h @ wr), sigmoid(z + h @ wz)
    h = (1 - z) * np.tanh(n + (r * h) @ wn) + z * h
    return h, h


CELLS = {
    "rnn": (lambda bias: nn.RNNCell(3, 4, bias), rnn),
    "rnn relu": (lambda bias: nn.RNNCell(3, 4, bias, "relu"), rnn_relu),
    "lstm": (lambda bias: nn.LSTMCell(3, 4, bias), lstm),
    "gru": (lambda bias: nn.GRUCell(3, 4, bias), gru),
    "gru before": (lambda bias: nn.GRUCell(3, 4, bias, reset_after=False), gru_before),
}
X = np.random.default_rng(0).normal(size=(5, 2, 3))


@pytest.fixture
def float64() -> Iterator[None]:
    tg.set_default_dtype("float64")
    yield
    tg.set_default_dtype("float32")


def made(name: str, bias: bool = True) -> nn.Module:
    """A cell with all of its weights random, so that a bias of zero hides nothing."""
    cell = CELLS[name][0](bias)
    rng = np.random.default_rng(1)
    cell.load_state_dict({k: rng.normal(size=x.shape) for k, x in cell.state_dict().items()})
    return cell


def leaves(state: Any) -> list[Any]:
    return list(state) if isinstance(state, tuple) else [state]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_its_equations(name: str, bias: bool, backend: Backend) -> None:
    cell, step = made(name, bias), CELLS[name][1]
    assert any("bias" in key for key in cell.state_dict()) == bias
    weights = values(cell)
    state = cell.initial_state((2,), np.float64, backend.name)
    expected_state = tuple(np.zeros((2, 4)) for _ in leaves(state))
    expected_state = expected_state if name == "lstm" else expected_state[0]
    for x in X:
        y, state = cell(tg.tensor(x, backend=backend.name), state)
        expected, expected_state = step(weights, x, expected_state)
        assert_allclose(y.numpy(), expected, rtol=1e-12, atol=1e-14)
        for found, wanted in zip(leaves(state), leaves(expected_state), strict=True):
            assert_allclose(found.numpy(), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", CELLS)
def test_unroll_is_the_cell_in_a_loop(name: str) -> None:
    cell = made(name)
    x = tg.tensor(X.astype(np.float32))
    outputs, last = tg.unroll(cell, x)
    state = cell.initial_state((2,), np.float32, "numpy")
    for t in range(5):
        y, state = cell(x[t], state)
        assert_array_equal(y.numpy(), outputs[t].numpy())
    for found, wanted in zip(leaves(last), leaves(state), strict=True):
        assert_array_equal(found.numpy(), wanted.numpy())
    assert outputs.dtype == np.float32


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", [name for name in CELLS if name != "rnn relu"])  # it has a kink
def test_gradients_through_time_equal_finite_differences(name: str, bias: bool) -> None:
    cell = made(name, bias)
    names = list(cell.state_dict())
    state = [tg.tensor(x) for x in np.random.default_rng(2).normal(size=(2, 2, 4))]

    def run(x: Tensor, state: Any, *weights: Tensor) -> Any:
        twin = copy.copy(cell)
        vars(twin).update(zip(names, weights, strict=True))
        return tg.unroll(twin, x, state)

    start = tuple(state) if name == "lstm" else state[0]
    check_grads(run, (tg.tensor(X[:3] / 2), start, *cell.state_dict().values()), order=1)


@pytest.mark.usefixtures("float64")
def test_gradients_of_the_relu_cell_equal_finite_differences_off_its_kink() -> None:
    cell = made("rnn relu")
    before = X[0] @ cell.weight_ih.numpy() + cell.bias.numpy()
    assert np.abs(before).min() > 0.01
    check_grads(lambda x: tg.unroll(cell, x)[0], (tg.tensor(X[:1]),), order=1)


def test_the_zero_state_has_the_dtype_of_input_and_weights_together() -> None:
    cell = nn.LSTMCell(3, 4)
    outputs, (h, c) = tg.unroll(cell, tg.tensor(X))
    assert outputs.dtype == h.dtype == c.dtype == np.float64
    assert tg.unroll(cell, tg.tensor(X.astype(np.float32)))[0].dtype == np.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.RNNCell(2, 3, nonlinearity="elu"), ValueError, "'tanh' or 'relu', not 'elu'"),
        (lambda: nn.GRUCell(2, 3)(tg.ones((1, 3)), tg.ones((1, 3))), ValueError, r"\(\.\.\., 2\)"),
        (lambda: tg.unroll(nn.GRUCell(2, 3), tg.ones((4, 1, 2)), mode="fast"), ValueError, "mode"),
        (
            lambda: nn.LSTMCell(2, 3)(tg.ones((2, 2)), tg.ones((2, 3))),
            TypeError,
            r"LSTMCell: .*\(h, c\).* output, \(h, c\) = cell\(x, \(h, c\)\), not a Tensor",
        ),
        (
            lambda: nn.LSTMCell(2, 3)(tg.ones((2, 2)), (tg.ones((2, 3)),) * 3),
            TypeError,
            r"LSTMCell: .*\(h, c\).*not a tuple of 3",
        ),
        (
            lambda: nn.Embedding(5, 2)(tg.tensor([[4, 2], [-6, 9]])),
            IndexError,
            "Embedding: indices from -6 to 9 for 5 embeddings, which are numbered 0 to 4",
        ),
        (
            lambda: tg.vmap(nn.Embedding(5, 2))(tg.tensor([4, 5])),
            IndexError,
            "Embedding: indices for 5 embeddings",
        ),
    ],
)
def test_bad_input_is_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("kind", [lambda: defaultdict(list), Counter, OrderedDict, dict])
def test_any_dict_is_a_state(kind: Any) -> None:
    def step(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return x + state["h"], {**state, "h": state["h"] + x}

    state = kind()
    state["h"], state["n"] = tg.zeros(2), tg.ones(2)
    doubled = tg.vmap(lambda s: map_leaves(lambda x: 2 * x, s))(state)
    assert list(doubled) == ["h", "n"] and isinstance(doubled, dict)
    assert_array_equal(doubled["n"].numpy(), [2, 2])
    if not isinstance(state, OrderedDict):  # another container than the step's
        _, final = tg.unroll(step, tg.ones((3, 2)), state)
        assert_array_equal(final["h"].numpy(), [3, 3])
