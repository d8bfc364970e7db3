"""RNN, LSTM and GRU compute what PyTorch's and Keras's do: outputs, final states, all gradients.

The numbers to compare with are stored, made by ``fixtures/make_recurrent.py`` and
``make_keras.py``, for a list of configurations; for those that Hypothesis draws, PyTorch's
equations are written out below, for one row at a time. Weights come through ``interop``, the
gradients of them are translated here, so that neither vouches for the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from fixtures import make_keras, make_recurrent
from fixtures.make_recurrent import HIDDEN, INPUT, LENGTHS, unpacked
from op_table import examples
from tinygrad_rnn import Tensor, interop, nn, serialization
from tinygrad_rnn.structure import flatten
from tinygrad_rnn_backends import Backend

Array = np.ndarray[Any, Any]
PYTORCH, PYTORCH_VERSION = serialization.load(make_recurrent.FILE)
KERAS, KERAS_VERSION = serialization.load(make_keras.FILE)


@pytest.fixture
def float64() -> Iterator[None]:
    tg.set_default_dtype("float64")
    yield
    tg.set_default_dtype("float32")


def agree(found: Tensor | None, expected: Array, what: str) -> None:
    """Equal to 1e-5 of the largest number, in float32."""
    assert found is not None, what
    assert found.dtype == np.float32, what
    scale = np.abs(expected).max(initial=0)
    assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5 * scale, err_msg=what)


def leaf(array: Array) -> Tensor:
    return tg.tensor(array, "float32", requires_grad=True)


def weighed(results: list[Tensor], weights: dict[str, Array]) -> Tensor:
    """The loss of which the gradients are stored."""
    pairs = zip(results, weights.values(), strict=True)
    return sum((tg.sum(r * tg.tensor(w, r.dtype)) for r, w in pairs), start=tg.tensor(0.0))


# PyTorch.


def gradient_in_pytorch(name: str, gradients: dict[str, Array]) -> Array:
    """What PyTorch has for the gradient of a parameter of ours: of a sum, that of each addend."""
    if name.startswith("weight"):
        return gradients[name].T
    if name.startswith("bias_hn"):
        return gradients[name.replace("bias_hn", "bias_hh")][2 * HIDDEN :]
    return gradients[name.replace("bias", "bias_ih")]


@pytest.mark.parametrize("case", [*make_recurrent.cases()], ids=lambda case: case.label)
def test_a_layer_computes_what_pytorchs_does(case: make_recurrent.Case, backend: Backend) -> None:
    inputs, parameters, weights = make_recurrent.arguments(case)
    order = make_recurrent.order(case)
    expected, of_inputs, of_parameters = unpacked(PYTORCH[case.label], *order)
    layer = getattr(nn, case.kind)(INPUT, HIDDEN, **case.options)
    interop.load_torch_state_dict(layer, parameters)
    x, *state = given_ = [leaf(array) for array in inputs.values()]
    state = tuple(state) if len(state) > 1 else state[0]
    lengths = {"lengths": LENGTHS} if case.ragged else {}
    output, final = layer(x, state, **lengths)
    results = flatten(final)[0] if case.kind.endswith("Cell") else [output, *flatten(final)[0]]
    for found, (name, array) in zip(results, expected.items(), strict=True):
        agree(found, array, name)
    weighed(results, weights).backward()
    for found, (name, array) in zip(given_, of_inputs.items(), strict=True):
        agree(found.grad, array, f"gradient of {name}")
    for name, p in layer.named_parameters():
        agree(p.grad, gradient_in_pytorch(name, of_parameters), f"gradient of {name}")


def test_all_128_configurations_of_the_layers_are_stored() -> None:
    labels = [case.label for case in make_recurrent.cases()]
    assert len(set(labels)) == len(labels) and set(labels) == set(PYTORCH)
    of_layers = [label for label in labels if "batch_first" in label]
    assert len(of_layers) == 4 * 2 * 2 * 2 * 2 * 2
    assert PYTORCH_VERSION["torch"] and KERAS_VERSION["keras"]


# Keras.


def layer_for(case: make_keras.Case) -> nn.Module:
    """A layer of ours for one of Keras's."""
    options: dict[str, Any] = {"batch_first": True, "bidirectional": case.direction == "both"}
    options["bias"] = case.options.get("use_bias", True)
    if case.kind == "GRU":
        options["reset_after"] = case.options["reset_after"]
    if "recurrent_activation" in case.options:
        options["gate_activation"] = tg.hardsigmoid
    return getattr(nn, case.kind.removeprefix("Simple"))(INPUT, HIDDEN, **options)


def gradients_in_keras(case: make_keras.Case, gradients: list[Array]) -> dict[str, Array]:
    """What Keras has for the gradients of our parameters, which are those of one direction."""

    def ours(array: Array) -> Array:
        z, r, n = np.split(array, 3, axis=-1)
        return np.concatenate([r, z, n], axis=-1)

    named = dict(zip(("weight_ih", "weight_hh", "bias"), gradients, strict=False))
    if case.kind == "GRU":
        named = {name: ours(array) for name, array in named.items()}
    if case.options.get("reset_after") and "bias" in named:
        named["bias"], second = named["bias"]
        named["bias_hn"] = second[2 * HIDDEN :]
    return named


@pytest.mark.parametrize("case", [*make_keras.cases()], ids=lambda case: case.label)
def test_a_layer_computes_what_kerass_does(case: make_keras.Case, backend: Backend) -> None:
    of = make_keras.shapes(case)
    inputs, parameters, weights = make_keras.arguments(case.label, of)
    expected, of_inputs, of_weights = unpacked(KERAS[case.label], *make_keras.order(of))
    layer = layer_for(case)
    interop.load_keras_weights(layer, list(parameters.values()))
    x, *initial = given_ = [leaf(array) for array in inputs.values()]
    parts = 2 if case.kind == "LSTM" else 1  # Keras lists h and c of one direction, then the other
    state = [tg.stack(initial[part::parts]) for part in range(parts)]
    steps = {"mask": make_keras.MASK} if case.masked else {}
    backwards = {"reverse": True} if case.direction == "backwards" else {}
    output, final = layer(x, tuple(state) if parts > 1 else state[0], **steps, **backwards)
    if backwards:
        output = tg.flip(output, axis=1)
    finals = [part for h in zip(*map(tg.unstack, flatten(final)[0]), strict=True) for part in h]
    results = [output, *finals]
    for found, (name, array) in zip(results, expected.items(), strict=True):
        agree(found, array, name)
    weighed(results, weights).backward()
    for found, (name, array) in zip(given_, of_inputs.items(), strict=True):
        agree(found.grad, array, f"gradient of {name}")
    directions = np.split(np.arange(len(of_weights)), 2 if case.direction == "both" else 1)
    for suffix, places in zip(("_l0", "_l0_reverse"), directions, strict=False):
        gradients = gradients_in_keras(case, [of_weights[f"weight {i}"] for i in places])
        for name, array in gradients.items():
            agree(getattr(layer, name + suffix).grad, array, f"gradient of {name}{suffix}")


class Model(nn.Module):
    """``make_keras.model``."""

    def __init__(self) -> None:
        self.embedding = nn.Embedding(make_keras.WORDS, INPUT)
        self.lstm = nn.LSTM(INPUT, HIDDEN, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(2 * HIDDEN, HIDDEN, batch_first=True)
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, INPUT)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.gru(self.lstm(self.embedding(tokens))[0])[0]))


def test_a_whole_model_computes_what_kerass_does(backend: Backend) -> None:
    of = make_keras.model_shapes()
    _, parameters, weights = make_keras.arguments("model", of)
    expected, _, of_weights = unpacked(KERAS["model"], *make_keras.order(of))
    model = Model()
    interop.load_keras_weights(model, list(parameters.values()))
    output = model(tg.tensor(make_keras.TOKENS))
    assert output.backend == backend.name
    agree(output, expected["output"], "output")
    weighed([output], weights).backward()
    agree(model.embedding.weight.grad, of_weights["weight 0"], "gradient of the embedding")
    lstm, gru = make_keras.Case("LSTM", {}), make_keras.Case("GRU", {"reset_after": True})
    for case, layer, suffix, first in (
        (lstm, model.lstm, "_l0", 1),
        (lstm, model.lstm, "_l0_reverse", 4),
        (gru, model.gru, "_l0", 7),
    ):
        gradients = [of_weights[f"weight {i}"] for i in range(first, first + 3)]
        for name, array in gradients_in_keras(case, gradients).items():
            agree(getattr(layer, name + suffix).grad, array, f"gradient of {name}{suffix}")
    agree(model.norm.weight.grad, of_weights["weight 10"], "gradient of gamma")
    agree(model.norm.bias.grad, of_weights["weight 11"], "gradient of beta")
    agree(model.head.weight.grad, of_weights["weight 12"], "gradient of the kernel")
    agree(model.head.bias.grad, of_weights["weight 13"], "gradient of the bias")


# Any configuration, one row at a time, by the equations of PyTorch's documentation.


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def steps_of_one_row(
    kind: str, activation: Any, named: dict[str, Array], xs: Array, state: list[Array]
) -> tuple[Array, list[Array]]:
    """The outputs (T, ...) of one layer in one direction for xs (T, I), and the final state."""
    h, *c = state
    outputs = []
    for x in xs:
        from_x = named["weight_ih"] @ x + named.get("bias_ih", 0)
        from_h = named["weight_hh"] @ h + named.get("bias_hh", 0)
        if kind == "RNN":
            h = activation(from_x + from_h)
        elif kind == "LSTM":
            i, f, g, o = np.split(from_x + from_h, 4)
            c = [sigmoid(f) * c[0] + sigmoid(i) * np.tanh(g)]
            h = sigmoid(o) * np.tanh(c[0])
            h = named["weight_hr"] @ h if "weight_hr" in named else h
        else:
            (r, z, n), (hr, hz, hn) = np.split(from_x, 3), np.split(from_h, 3)
            r, z = sigmoid(r + hr), sigmoid(z + hz)
            h = (1 - z) * np.tanh(n + r * hn) + z * h
        outputs.append(h)
    return np.array(outputs).reshape(len(xs), len(h)), [h, *c]


def run_of_one_row(
    layer: Any, activation: Any, arrays: dict[str, Array], x: Array, state: list[Array]
) -> tuple[Array, list[Array]]:
    """The same of all layers; ``state`` and what is returned have layers times directions first."""
    finals = []
    for number in range(layer.num_layers):
        outputs = []
        for suffix in (f"_l{number}", f"_l{number}_reverse")[: 1 + layer.bidirectional]:
            named = {k.removesuffix(suffix): a for k, a in arrays.items() if k.endswith(suffix)}
            turn = -1 if suffix.endswith("reverse") else 1
            own = [part[len(finals)] for part in state]
            output, final = steps_of_one_row(
                type(layer).__name__, activation, named, x[::turn], own
            )
            outputs.append(output[::turn])
            finals.append(final)
        x = np.concatenate(outputs, axis=-1)
    return x, [np.stack(part) for part in zip(*finals, strict=True)]


@st.composite
def configurations(draw: Any) -> tuple[str, dict[str, Any]]:
    kind = draw(st.sampled_from(["RNN", "LSTM", "GRU"]))
    options: dict[str, Any] = {
        "input_size": draw(st.integers(1, 3)),
        "hidden_size": draw(st.integers(2, 4)),
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
    }
    if kind == "RNN":
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if kind == "LSTM":
        options["proj_size"] = draw(st.integers(0, options["hidden_size"] - 1))
    return kind, options


@pytest.mark.usefixtures("float64")
@examples(200)
@given(
    configuration=configurations(),
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_a_row_in_a_batch_is_computed_as_by_pytorchs_equations_alone(
    configuration: tuple[str, dict[str, Any]], lengths: list[int], seed: int
) -> None:
    kind, options = configuration
    rng = np.random.default_rng(seed)
    layer = getattr(nn, kind)(**options)
    arrays = {k: rng.normal(size=a.shape) for k, a in interop.torch_state_dict(layer).items()}
    interop.load_torch_state_dict(layer, arrays)
    places = options["num_layers"] * (1 + options["bidirectional"])
    sizes = [options.get("proj_size") or options["hidden_size"], options["hidden_size"]]
    state = [rng.normal(size=(places, len(lengths), s)) for s in sizes[: 1 + (kind == "LSTM")]]
    x = rng.normal(size=(5, len(lengths), options["input_size"]))
    for row, length in enumerate(lengths):
        x[length:, row] = np.nan
    swap = (1, 0, 2) if options["batch_first"] else (0, 1, 2)
    initial = [tg.tensor(part) for part in state]
    output, final = layer(
        tg.tensor(x.transpose(swap)), tuple(initial) if kind == "LSTM" else initial[0], lengths
    )
    outputs, finals = output.numpy().transpose(swap), [h.numpy() for h in flatten(final)[0]]
    activation = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0)}[
        options.get("nonlinearity", "tanh")
    ]
    for row, length in enumerate(lengths):
        own = [part[:, row] for part in state]
        expected, ends = run_of_one_row(layer, activation, arrays, x[:length, row], own)
        assert_allclose(outputs[:length, row], expected, rtol=1e-11, atol=1e-11)
        assert_array_equal(outputs[length:, row], 0)
        for found, end in zip(finals, ends, strict=True):
            assert_allclose(found[:, row], end, rtol=1e-11, atol=1e-11)
