"""Layers without a state, Sequential, and the table that ``summary`` prints."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from op_table import examples
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.testing import check_grads
from tinygrad_rnn_backends import Backend

TOKENS = np.array([[0, 4], [1, 1], [3, 2]])


@pytest.fixture(autouse=True)
def seed() -> None:
    tg.manual_seed(0)


def with_weights(module: nn.Module, weights: Sequence[Any]) -> Callable[[Any], Any]:
    """A module as a function that computes with these in place of its parameters."""
    names = [name for name, _ in module.named_parameters()]
    return partial(nn.functional_call, module, dict(zip(names, weights, strict=True)))


def randomised(module: nn.Module) -> nn.Module:
    """No parameter left at 0 or 1, where a wrong one might not show."""
    rng = np.random.default_rng(1)
    state = module.state_dict()
    module.load_state_dict({name: rng.normal(size=x.shape) for name, x in state.items()})
    return module


def random(*shape: int) -> Tensor:
    return tg.tensor(np.random.default_rng(2).normal(size=shape))


# Linear.


def test_linear_is_a_product_and_a_bias(backend: Backend) -> None:
    layer = nn.Linear(3, 2)
    assert layer.weight.shape == (3, 2)
    layer.bias.data = tg.tensor([1.0, -1.0]).data
    x = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 2, 3)
    found = layer(tg.tensor(x, backend=backend.name)).numpy()
    assert_allclose(found, x @ layer.weight.numpy() + [1, -1], rtol=1e-5, atol=1e-6)
    assert layer(tg.tensor(x[0, 0], backend=backend.name)).shape == (2,)


def test_linear_without_a_bias_is_a_product() -> None:
    layer = nn.Linear(3, 2, bias=False)
    assert layer.bias is None and list(layer.state_dict()) == ["weight"]
    assert_array_equal(layer(tg.ones((1, 3))).numpy(), [layer.weight.numpy().sum(axis=0)])


def test_linear_computes_in_the_dtype_of_its_weights() -> None:
    assert nn.Linear(3, 2)(tg.ones((1, 3))).dtype == np.float32
    assert nn.Linear(3, 2)(np.ones((1, 3), np.float32)).dtype == np.float32
    assert nn.Linear(3, 2)(np.ones((1, 3))).dtype == np.float64


# Embedding.


def test_embedding_is_rows_and_its_gradient_adds_up(backend: Backend) -> None:
    layer = nn.Embedding(5, 2)
    tokens = tg.tensor(TOKENS, backend=backend.name)
    assert_array_equal(layer(tokens).numpy(), layer.weight.numpy()[TOKENS])
    layer(tokens).sum().backward()
    assert_array_equal(layer.weight.grad.numpy()[:, 0], [1, 2, 1, 1, 1])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64"])
def test_embedding_takes_integers_of_any_width(dtype: str, backend: Backend) -> None:
    layer = nn.Embedding(300, 2, padding_idx=-1)
    tokens = tg.tensor(np.array([0, 100], dtype), backend=backend.name)
    assert_array_equal(layer(tokens).numpy(), layer.weight.numpy()[[0, 100]])


def test_embedding_takes_lists_and_a_single_number(backend: Backend) -> None:
    layer = nn.Embedding(5, 2).to(backend.name)
    with tg.use_backend("numpy"):  # what is listed goes where the weights are
        assert_array_equal(layer([[1], [2]]).numpy(), layer.weight.numpy()[[[1], [2]]])
        assert_array_equal(layer(3).numpy(), layer.weight.numpy()[3])


@pytest.mark.parametrize("padding_idx", [1, -4])
def test_the_padding_row_starts_at_zero_and_gets_no_gradient(
    padding_idx: int, backend: Backend
) -> None:
    layer = nn.Embedding(5, 2, padding_idx)
    assert layer.padding_idx == 1
    plain = layer.weight.numpy()
    assert_array_equal(plain == 0, [[i == 1] * 2 for i in range(5)])
    tokens = tg.tensor(TOKENS, backend=backend.name)
    layer(tokens).sum().backward()
    assert_array_equal(layer.weight.grad.numpy()[:, 0], [1, 0, 1, 1, 1])


def test_a_padding_row_that_was_loaded_is_looked_up_all_the_same() -> None:
    layer = randomised(nn.Embedding(5, 2, padding_idx=1))
    assert_array_equal(layer(TOKENS).numpy(), layer.weight.numpy()[TOKENS])
    g = tg.grad(layer(TOKENS).sum(), layer.weight)
    assert_array_equal(g.numpy()[1], [0, 0])


def test_no_gradient_of_padding_holds_at_second_order_and_for_every_example() -> None:
    layer = nn.Embedding(5, 2, padding_idx=1)

    def loss(weight: Tensor, tokens: Any = TOKENS) -> Tensor:
        return tg.sum(tg.exp(with_weights(layer, [weight])(tokens)))

    weight = random(5, 2)
    product = tg.hvp(loss, weight, tg.ones((5, 2))).numpy()
    expected = np.exp(weight.numpy())
    expected[1] = 0
    assert_allclose(product, expected, rtol=1e-12)
    each = tg.vmap(lambda tokens: tg.value_and_grad(lambda w: loss(w, tokens))(weight)[1])
    found = each(tg.tensor(TOKENS)).numpy()
    assert found.shape == (3, 5, 2) and not found[:, 1].any()
    assert_allclose(found.sum(axis=0), expected, rtol=1e-12)


def test_a_nan_that_reaches_padding_stays_there() -> None:
    layer = nn.Embedding(5, 2, padding_idx=1)
    out = layer(TOKENS)
    out.backward(tg.where(tg.tensor(TOKENS == 1)[..., None], float("nan"), tg.ones((3, 2, 2))))
    assert_array_equal(layer.weight.grad.numpy()[:, 0], [1, 0, 1, 1, 1])


# Dropout and LayerNorm.


def test_dropout_is_active_in_training_only(backend: Backend) -> None:
    layer, x = nn.Dropout(0.25), tg.ones((100, 50))
    found = layer(x).numpy()
    assert set(np.unique(found)) == {np.float32(0), np.float32(1 / 0.75)}
    assert np.mean(found == 0) == pytest.approx(0.25, abs=0.03)
    assert_array_equal(layer.eval()(x).numpy(), x.numpy())
    assert not nn.Dropout(1)(x).numpy().any()


@pytest.mark.parametrize("normalized_shape", [4, (4,), [4]])
def test_layer_norm_is_its_equation(normalized_shape: Any, backend: Backend) -> None:
    layer = randomised(nn.LayerNorm(normalized_shape, eps=0.1))
    x = np.random.default_rng(0).normal(2, 3, size=(2, 3, 4))
    weights = [p.numpy() for p in layer.parameters()]
    centred = x - x.mean(axis=-1, keepdims=True)
    expected = centred / np.sqrt(x.var(axis=-1, keepdims=True) + 0.1) * weights[0] + weights[1]
    assert_allclose(layer(tg.tensor(x, backend=backend.name)).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("keywords", "names"),
    [
        ({}, ["weight", "bias"]),
        ({"bias": False}, ["weight"]),
        ({"elementwise_affine": False}, []),
        ({"elementwise_affine": False, "bias": False}, []),
    ],
)
def test_layer_norm_starts_as_normalisation_alone(keywords: Any, names: list[str]) -> None:
    layer = nn.LayerNorm(64, **keywords)
    assert list(layer.state_dict()) == names
    out = layer(tg.tensor(np.random.default_rng(0).normal(5, 3, (7, 64)))).numpy()
    assert_allclose(out.mean(axis=-1), np.zeros(7), atol=1e-12)
    assert_allclose(out.std(axis=-1), np.ones(7), rtol=1e-5)


# Sequential.


class Doubled(nn.Module):
    """Returns a pair, as recurrent layers do."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x, x


def test_sequential_runs_modules_and_functions_in_order(backend: Backend) -> None:
    first, last = nn.Linear(3, 4), nn.Linear(4, 2)
    model = nn.Sequential(first, tg.tanh, last)
    x = tg.ones((5, 3))
    assert_array_equal(model(x).numpy(), last(tg.tanh(first(x))).numpy())
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert nn.Sequential()(x) is x


def test_only_outputs_are_handed_on_and_the_last_result_is_whole() -> None:
    model = nn.Sequential(Doubled(), Doubled(), lambda x: x + 1)
    assert model(tg.ones(1)).tolist() == [5]
    output, state = nn.Sequential(lambda x: x, Doubled())(tg.ones(1))
    assert (output.tolist(), state.tolist()) == ([2], [1])
    assert nn.Sequential(sum)((1, 2)) == 3  # the input is handed over as it is
    assert nn.Sequential(lambda x: (x, x, x), len)(0) == 3  # three are no output and state


def test_a_recurrent_layer_stands_between_others() -> None:
    embedding, rnn, linear = nn.Embedding(10, 4), nn.LSTM(4, 3), nn.Linear(3, 2)
    model = nn.Sequential(embedding, rnn, linear)
    assert_array_equal(model(TOKENS).numpy(), linear(rnn(embedding(TOKENS))[0]).numpy())
    output, (h, c) = model[:2](TOKENS)
    assert (output.shape, h.shape, c.shape) == ((3, 2, 3), (1, 2, 3), (1, 2, 3))


def test_sequential_is_a_sequence() -> None:
    stages = [nn.Linear(3, 4), tg.tanh, nn.Linear(4, 2)]
    model = nn.Sequential(*stages)
    assert len(model) == 3 and list(model) == stages
    assert model[0] is stages[0] and model[-1] is stages[2]
    tail = model[1:]
    assert isinstance(tail, nn.Sequential) and list(tail) == stages[1:]
    with pytest.raises(IndexError):
        model[3]


@pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_sequential_is_copied(way: Any) -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, tg.tanh, shared)
    twin = way(model)
    assert twin[0] is twin[2] is not shared
    assert_array_equal(twin(tg.ones((1, 3))).numpy(), model(tg.ones((1, 3))).numpy())


def test_repr_says_what_differs() -> None:
    model = nn.Sequential(
        nn.Embedding(5, 3, padding_idx=-1),
        nn.Dropout(0.1),
        nn.LayerNorm(3),
        tg.tanh,
        nn.LayerNorm(3, bias=False),
    )
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Embedding(5, 3, padding_idx=4)\n"
        "  (1): Dropout(0.1)\n"
        "  (2): LayerNorm(3)\n"
        "  (4): LayerNorm(3, no bias)\n"
        ")"
    )


# Derivatives.

LAYERS: dict[str, tuple[nn.Module, Any]] = {
    "linear": (nn.Linear(3, 2), random(4, 3)),
    "linear of one vector": (nn.Linear(3, 2, bias=False), random(3)),
    "embedding": (nn.Embedding(5, 2), TOKENS),
    "layer norm": (nn.LayerNorm(4), random(2, 4)),
    "layer norm without weights": (nn.LayerNorm(4, elementwise_affine=False), random(2, 4)),
    "sequential": (
        nn.Sequential(nn.Embedding(5, 3), nn.LSTM(3, 4), nn.LayerNorm(4, eps=0.1), nn.Linear(4, 1)),
        TOKENS,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_equal_finite_differences_twice(name: str) -> None:
    module, x = LAYERS[name]
    randomised(module)

    def run(x: Any, *weights: Tensor) -> Tensor:
        return tg.square(with_weights(module, weights)(x))

    check_grads(run, (x, *module.state_dict().values()))


@pytest.mark.parametrize("name", LAYERS)
def test_vmap_gives_each_example_its_own(name: str) -> None:
    """Over inputs, and over weights: an ensemble."""
    module, x = LAYERS[name]
    weights = [tg.stack([w, 2 * w]) for w in module.state_dict().values()]
    xs = tg.stack([tg.asarray(x), tg.flip(tg.asarray(x), axis=0)])
    found = tg.vmap(lambda x, *ws: with_weights(module, ws)(x))(xs, *weights)
    for i in range(2):
        expected = with_weights(module, [w[i] for w in weights])(xs[i])
        assert_allclose(found[i].numpy(), expected.numpy(), rtol=1e-5, atol=1e-7)


@examples(15)
@given(
    shape=st.lists(st.integers(0, 3), max_size=3),
    sizes=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    bias=st.booleans(),
)
def test_any_shape_goes_through_linear_and_layer_norm(
    shape: list[int], sizes: tuple[int, int], bias: bool, backend: Backend
) -> None:
    x = np.random.default_rng(0).normal(size=(*shape, sizes[0])).astype(np.float32)
    layer = nn.Linear(*sizes, bias=bias)
    found = layer(tg.tensor(x))
    expected = x @ layer.weight.numpy()
    assert found.shape == expected.shape and found.dtype == np.float32
    assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    if sizes[0]:
        assert nn.LayerNorm(sizes[0], bias=bias)(tg.tensor(x)).shape == x.shape


# Errors.


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: nn.Linear(3, 2)(tg.ones((2, 2))),
            ValueError,
            r"Linear: expected \(\.\.\., 3\), not \(2, 2\); the last axis is in_features",
        ),
        (lambda: nn.Linear(3, 2)(1.0), ValueError, r"Linear: expected \(\.\.\., 3\), not \(\)"),
        (
            lambda: nn.Linear(3, 2)(Doubled()(tg.ones(3))),
            TypeError,
            r"Linear: expected a Tensor \(\.\.\., 3\), not a tuple; .* \(output, state\)",
        ),
        (lambda: nn.Linear(3.0, 2), ValueError, "Linear: in_features is an integer .* not 3.0"),
        (lambda: nn.Linear(3, -2), ValueError, "Linear: out_features is an integer .* not -2"),
        (lambda: nn.Linear(3, True), ValueError, "Linear: out_features is an integer .* not True"),
        (
            lambda: nn.LayerNorm(3)(tg.ones((3, 2))),
            ValueError,
            r"LayerNorm: expected \(\.\.\., 3\), not \(3, 2\); the last axis is normalized_shape",
        ),
        (lambda: nn.LayerNorm((2, 3)), ValueError, r"LayerNorm: .* one size, not \(2, 3\)"),
        (lambda: nn.Dropout(1.5), ValueError, "Dropout: a probability p .* not 1.5"),
        (lambda: nn.Embedding(5, "2"), ValueError, "Embedding: embedding_dim .* not '2'"),
        (
            lambda: nn.Embedding(5, 2, 5),
            ValueError,
            "Embedding: padding_idx 5 is none of 5 embeddings",
        ),
        (lambda: nn.Embedding(5, 2, -6), ValueError, "Embedding: padding_idx -6"),
        (lambda: nn.Embedding(5, 2, 0.5), ValueError, "Embedding: padding_idx 0.5"),
        (
            lambda: nn.Embedding(5, 2)(tg.tensor([2, -1])),
            IndexError,
            "embedding: indices from -1 to 2 for 5 embeddings, which are numbered 0 to 4",
        ),
        (
            lambda: tg.vmap(nn.Embedding(5, 2))(tg.tensor([4, 5])),
            IndexError,
            "embedding: indices for 5 embeddings",
        ),
        (
            lambda: nn.Embedding(300, 2)(np.array([-1], np.int8)),
            IndexError,
            "embedding: indices from -1 to -1 for 300",
        ),
        (
            lambda: nn.Embedding(5, 2)(tg.ones(2)),
            TypeError,
            "embedding: takes integers, not float32; use astype",
        ),
        (
            lambda: nn.Sequential([nn.Linear(2, 2)]),
            TypeError,
            r"Sequential: stage 0 is a list, .* Sequential\(\*stages\)",
        ),
        (lambda: nn.summary(tg.tanh), TypeError, "summary: a Module, not a function"),
        (
            lambda: nn.summary(nn.Linear(2, 3), (4, 2)),
            TypeError,
            r"not its shape: tinygrad_rnn\.zeros\(\(4, 2\)\)",
        ),
    ],
)
def test_bad_input_is_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# The table.


def table(capsys: pytest.CaptureFixture[str], module: nn.Module, *example: Any) -> str:
    nn.summary(module, *example)
    return capsys.readouterr().out


def tagger() -> nn.Sequential:
    return nn.Sequential(nn.Embedding(1000, 64), nn.LSTM(64, 128), nn.Linear(128, 10))


def test_summary_shows_layers_shapes_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    model = tagger()
    assert table(capsys, model, np.zeros((35, 20), int)) == (
        "layer           output shape                                   parameters\n"
        "Sequential      (35, 20, 10)                                            0\n"
        "  0: Embedding  (35, 20, 64)                                        64000\n"
        "  1: LSTM       ((35, 20, 128), ((1, 20, 128), (1, 20, 128)))       98816\n"
        "  2: Linear     (35, 20, 10)                                         1290\n"
        "164,106 parameters\n"
    )


def test_summary_counts_without_an_example_and_tells_frozen_from_trained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tagger()
    model[0].requires_grad_(False)
    assert table(capsys, model) == (
        "layer           output shape  parameters\n"
        "Sequential                             0\n"
        "  0: Embedding                     64000\n"
        "  1: LSTM                          98816\n"
        "  2: Linear                         1290\n"
        "164,106 parameters: 100,106 trainable, 64,000 frozen\n"
    )


class Pair(NamedTuple):
    left: Any
    right: Any


class Tree(nn.Module):
    """What a table might trip over: sharing, a link back, a module never called, any output."""

    def __init__(self) -> None:
        self.cells = {"a.b": nn.RNNCell(2, 3), "c": [nn.Linear(3, 3)]}
        self.tied = nn.Linear(3, 3, bias=False)
        self.tied.weight = self.cells["c"][0].weight
        self.tied.parent = self
        self.scale = nn.Parameter([1.0, 2.0])
        self.unused = nn.Dropout()

    def forward(self, x: Tensor, n: int = 0) -> Any:
        y, h = tg.unroll(self.cells["a.b"], x)
        for module in (self.cells["c"][0], self.tied):
            y = module(y)
        module(y[0])
        return {"y": Pair(y, [h, n]), "text": None}


def test_summary_of_a_tree(capsys: pytest.CaptureFixture[str]) -> None:
    # RNNCell: 2 * 3 + 3 * 3 + 3; its shapes are those of a step.
    lines = table(capsys, Tree(), tg.ones((5, 4, 2)), 7).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "layer output shape parameters",
        "Tree {'y': Pair(left=(5, 4, 3), right=[(4, 3), 7]), 'text': None} 2",
        "cells.a.b: RNNCell ((4, 3), (4, 3)) 18",
        "cells.c.0: Linear (5, 4, 3) 12",
        "tied: Linear (4, 3) 0",
        "unused: Dropout - 0",
        "32 parameters",
    ]
    assert [len(line) - len(line.lstrip()) for line in lines] == [0, 0, 2, 2, 2, 2, 0]


def test_summary_indents_what_is_inside(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Sequential())
    labels = [line.split("  parameters")[0] for line in table(capsys, model).splitlines()[1:-1]]
    assert [label[:16].rstrip() for label in labels] == [
        "Sequential",
        "  0: Sequential",
        "    0: Linear",
        "  1: Sequential",
    ]


def test_a_long_output_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    class Many(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [x] * 100

    lines = table(capsys, Many(), tg.ones((2, 3))).splitlines()
    assert "(2, 3), (2, 3), ..." in lines[1] and len(lines[1]) < 90


def state_of(module: nn.Module) -> list[dict[str, Any]]:
    return [dict(vars(each)) for _, each in module.named_modules()]


@pytest.mark.parametrize("fails", [False, True])
def test_summary_leaves_no_trace(fails: bool, capsys: pytest.CaptureFixture[str]) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            self.calls = 0
            self.inner = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.last = self.inner(x * tg.random.uniform(2))
            assert not self.last.requires_grad and not self.inner.training
            if fails:
                raise RuntimeError("no")
            return self.last

    model = Counting()
    model.inner[0].eval()
    order = [list(attributes) for attributes in state_of(model)]
    before, random_before = state_of(model), tg.random.get_state()
    try:
        nn.summary(model, tg.ones((3, 2)))
    except RuntimeError as error:
        assert fails and str(error) == "no"
    assert (capsys.readouterr().out == "") == fails
    assert state_of(model) == before
    assert [list(attributes) for attributes in state_of(model)] == order
    assert tg.random.get_state() == random_before
    assert model.training and not model.inner[0].training
    assert all(p.grad is None for p in model.parameters())
