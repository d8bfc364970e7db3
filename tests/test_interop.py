"""Weights of other libraries come and go by name, by order, all or none; and DLPack.

That layers then compute what the others' do is shown in ``test_recurrent_fixtures.py``.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn import interop, nn
from tinygrad_rnn_backends import Backend

Array = np.ndarray[Any, Any]


def drawn(arrays: dict[str, Array], seed: int = 0) -> dict[str, Array]:
    """Other numbers of the same shapes and names, all different."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=a.shape).astype(a.dtype) for name, a in arrays.items()}


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    values = drawn({name: p.numpy() for name, p in module.state_dict().items()}, seed)
    module.load_state_dict(values)
    return module


def values(module: nn.Module) -> dict[str, list[Any]]:
    return {name: p.tolist() for name, p in module.state_dict().items()}


class Tagger(nn.Module):
    """A model with something of every kind."""

    def __init__(self) -> None:
        self.embedding = nn.Embedding(5, 3, padding_idx=0)
        self.lstm = nn.LSTM(3, 4, bidirectional=True)
        self.norm = nn.LayerNorm(8)
        self.heads = [nn.Linear(8, 2), nn.Linear(8, 1, bias=False)]
        self.scale = nn.Parameter(np.ones((2, 3)))
        self.steps = nn.Buffer(np.zeros(1, dtype="int64"))


# PyTorch: names, shapes, biases.


def test_pytorchs_names_and_shapes_of_a_stacked_projected_lstm() -> None:
    layer = nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2)
    found = {name: a.shape for name, a in interop.torch_state_dict(layer).items()}
    expected = {}
    for suffix, below in (("_l0", 3), ("_l0_reverse", 3), ("_l1", 4), ("_l1_reverse", 4)):
        expected |= {f"weight_ih{suffix}": (16, below), f"weight_hh{suffix}": (16, 2)}
        expected |= {f"bias_ih{suffix}": (16,), f"bias_hh{suffix}": (16,)}
        expected |= {f"weight_hr{suffix}": (2, 4)}
    assert found == expected


@pytest.mark.parametrize("kind, gates", [("RNN", 1), ("LSTM", 4), ("GRU", 3)])
def test_pytorchs_names_and_shapes_of_a_cell(kind: str, gates: int) -> None:
    cell = getattr(nn, f"{kind}Cell")(3, 4)
    found = {name: a.shape for name, a in interop.torch_state_dict(cell).items()}
    rows = 4 * gates
    expected = {"weight_ih": (rows, 3), "weight_hh": (rows, 4)}
    assert found == expected | {"bias_ih": (rows,), "bias_hh": (rows,)}


def test_pytorchs_names_and_shapes_of_a_whole_model() -> None:
    found = {name: a.shape for name, a in interop.torch_state_dict(Tagger()).items()}
    lstm = {f"lstm.bias_{k}_l0{way}": (16,) for k in ("ih", "hh") for way in ("", "_reverse")}
    lstm |= {f"lstm.weight_ih_l0{way}": (16, 3) for way in ("", "_reverse")}
    lstm |= {f"lstm.weight_hh_l0{way}": (16, 4) for way in ("", "_reverse")}
    assert found == lstm | {
        "embedding.weight": (5, 3),
        "norm.weight": (8,),
        "norm.bias": (8,),
        "heads.0.weight": (2, 8),
        "heads.0.bias": (2,),
        "heads.1.weight": (1, 8),
        "scale": (2, 3),
        "steps": (1,),
    }


def test_a_linear_layer_is_transposed_and_what_is_of_another_kind_is_not(backend: Backend) -> None:
    model = Tagger()
    arrays = drawn(interop.torch_state_dict(model) | {"steps": np.zeros(1)})
    interop.load_torch_state_dict(model, arrays | {"steps": np.array([7])})
    assert_array_equal(model.heads[0].weight.numpy(), arrays["heads.0.weight"].T)
    assert_array_equal(model.heads[0].bias.numpy(), arrays["heads.0.bias"])
    assert_array_equal(model.embedding.weight.numpy(), arrays["embedding.weight"])
    assert_array_equal(model.norm.weight.numpy(), arrays["norm.weight"])
    assert_array_equal(model.scale.numpy(), arrays["scale"])
    assert model.steps.tolist() == [7]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "widths", [{}, {"kdim": 4, "vdim": 4}, {"kdim": 3}, {"kdim": 3, "vdim": 3}]
)
def test_pytorchs_names_and_shapes_of_attention(widths: dict[str, int], bias: bool) -> None:
    model = nn.Sequential(nn.MultiheadAttention(4, 2, bias=bias, **widths))
    arrays = drawn(interop.torch_state_dict(model))
    expected = {"0.out_proj.weight": (4, 4)}
    if set(widths.values()) <= {4}:
        expected |= {"0.in_proj_weight": (12, 4)}
    else:
        expected |= {"0.q_proj_weight": (4, 4), "0.k_proj_weight": (4, 3)}
        expected |= {"0.v_proj_weight": (4, widths.get("vdim", 4))}
    if bias:
        expected |= {"0.in_proj_bias": (12,), "0.out_proj.bias": (4,)}
    assert {name: a.shape for name, a in arrays.items()} == expected
    interop.load_torch_state_dict(model, arrays)
    attention = model[0]
    for i, part in enumerate(("q_proj", "k_proj", "v_proj")):
        weight = arrays.get(f"0.{part}_weight")
        if weight is None:
            weight = arrays["0.in_proj_weight"][4 * i : 4 * i + 4]
        assert_array_equal(getattr(attention, part).weight.numpy(), weight.T)
        if bias:
            own = arrays["0.in_proj_bias"][4 * i : 4 * i + 4]
            assert_array_equal(getattr(attention, part).bias.numpy(), own)
    for name, a in interop.torch_state_dict(model).items():
        assert_array_equal(a, arrays[name])


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_two_biases_are_read_as_their_sum_and_the_second_is_written_as_zeros(kind: str) -> None:
    layer = getattr(nn, kind)(3, 4)
    arrays = drawn(interop.torch_state_dict(layer))
    interop.load_torch_state_dict(layer, arrays)
    total = arrays["bias_ih_l0"] + arrays["bias_hh_l0"]
    second = np.zeros_like(total)
    if kind == "GRU":  # but for what the reset gate multiplies
        total[8:] = arrays["bias_ih_l0"][8:]
        second[8:] = arrays["bias_hh_l0"][8:]
        assert_array_equal(layer.bias_hn_l0.numpy(), second[8:])
    assert_array_equal(layer.bias_l0.numpy(), total)
    written = interop.torch_state_dict(layer)
    assert_array_equal(written["bias_ih_l0"], total)
    assert_array_equal(written["bias_hh_l0"], second)
    assert_array_equal(written["weight_ih_l0"], arrays["weight_ih_l0"])
    assert_array_equal(written["weight_hh_l0"], arrays["weight_hh_l0"])


# Keras: order, gates, biases.


def test_kerass_order_of_a_whole_model() -> None:
    found = [a.shape for a in interop.keras_weights(Tagger())]
    assert found == [
        (2, 3),  # the model's own
        (1,),
        (5, 3),
        *[(3, 16), (4, 16), (16,)] * 2,  # forwards, then backwards
        (8,),
        (8,),
        (8, 2),
        (2,),
        (8, 1),
    ]


def test_gamma_comes_before_beta() -> None:
    norm = nn.LayerNorm(2)
    interop.load_keras_weights(norm, [np.array([1.0, 2.0]), np.array([3.0, 4.0])])
    assert (norm.weight.tolist(), norm.bias.tolist()) == ([1, 2], [3, 4])


def test_several_layers_are_the_lists_of_kerass_layers_one_after_the_other() -> None:
    layer = nn.RNN(2, 3, num_layers=2, bidirectional=True)
    arrays = [np.full(a.shape, i) for i, a in enumerate(interop.keras_weights(layer))]
    interop.load_keras_weights(layer, arrays)
    order = ["l0", "l0_reverse", "l1", "l1_reverse"]
    names = [f"{name}_{place}" for place in order for name in ("weight_ih", "weight_hh", "bias")]
    assert [getattr(layer, name).numpy().flat[0] for name in names] == [*range(12)]


def test_the_order_of_the_gates() -> None:
    """Keras's GRU has z r h where ours has r z n; its LSTM has ours."""
    numbered = [np.arange(6.0)[None], np.zeros((2, 6)), np.zeros(6)]
    gru = nn.GRU(1, 2, reset_after=False)
    interop.load_keras_weights(gru, numbered)
    assert gru.weight_ih_l0.tolist() == [[2, 3, 0, 1, 4, 5]]
    lstm = nn.LSTM(1, 2)
    interop.load_keras_weights(lstm, [np.arange(8.0)[None], np.zeros((2, 8)), np.zeros(8)])
    assert lstm.weight_ih_l0.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


def test_both_biases_of_a_gru_with_reset_after() -> None:
    gru = nn.GRU(1, 1)
    bias = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])  # z r h
    interop.load_keras_weights(gru, [np.zeros((1, 3)), np.zeros((1, 3)), bias])
    assert gru.bias_l0.tolist() == [22, 11, 3]
    assert gru.bias_hn_l0.tolist() == [30]
    assert interop.keras_weights(gru)[2].tolist() == [[11, 22, 3], [0, 0, 30]]


# Round trips.


@st.composite
def layers(draw: Any, **of_kind: Any) -> nn.Module:
    """A layer in any configuration; ``of_kind`` has the options that only an LSTM or a GRU has."""
    kind = draw(st.sampled_from(["RNN", "LSTM", "GRU"]))
    options = {"num_layers": st.integers(1, 3), "bias": st.booleans()}
    options |= {"bidirectional": st.booleans(), "input_size": st.integers(1, 3)}
    options |= of_kind.get(kind, {})
    return getattr(nn, kind)(hidden_size=2, **{k: draw(choice) for k, choice in options.items()})


@given(layer=layers(LSTM={"proj_size": st.integers(0, 1)}) | st.builds(Tagger))
def test_what_is_written_for_pytorch_reads_as_the_same_module(layer: nn.Module) -> None:
    before = values(randomised(layer))
    arrays = interop.torch_state_dict(layer)
    interop.load_torch_state_dict(randomised(layer, seed=1), arrays)
    assert values(layer) == before


@given(layer=layers(GRU={"reset_after": st.booleans()}) | st.builds(Tagger))
def test_what_is_written_for_keras_reads_as_the_same_module(layer: nn.Module) -> None:
    before = values(randomised(layer))
    arrays = interop.keras_weights(layer)
    interop.load_keras_weights(randomised(layer, seed=1), arrays)
    assert values(layer) == before


def test_what_is_written_are_new_arrays() -> None:
    """``torch.from_numpy`` shares them, and PyTorch writes to what it has."""
    model = randomised(Tagger())
    before = values(model)
    for array in [*interop.torch_state_dict(model).values(), *interop.keras_weights(model)]:
        assert array.flags.c_contiguous and array.flags.owndata
        array[...] = 0
    assert values(model) == before


# What stays as it is: dtype, backend; and, on an error, everything.


def test_dtype_and_backend_of_the_module_stay(backend: Backend) -> None:
    model = nn.Sequential(nn.Embedding(3, 2), nn.GRU(2, 4))
    arrays = interop.torch_state_dict(model)
    interop.load_torch_state_dict(model, {k: a.astype("float64") for k, a in arrays.items()})
    interop.load_keras_weights(model, [a.astype("float64") for a in interop.keras_weights(model)])
    for p in model.parameters():
        assert p.backend == backend.name and p.dtype == np.float32 and p.requires_grad


def test_anything_that_numpy_makes_an_array_of_is_read() -> None:
    class Foreign:
        """As a tensor of PyTorch's on the CPU."""

        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            return np.array([[1.0, 2.0]], dtype="float32")

    linear = nn.Linear(2, 1, bias=False)
    interop.load_torch_state_dict(linear, {"weight": Foreign()})
    assert linear.weight.tolist() == [[1], [2]]
    interop.load_torch_state_dict(linear, {"weight": [[3.0, 4.0]]})
    assert linear.weight.tolist() == [[3], [4]]
    interop.load_torch_state_dict(linear, {"weight": tg.tensor([[5.0, 6.0]])})
    assert linear.weight.tolist() == [[5], [6]]


def refused(module: nn.Module, load: Any, arrays: Any, *expected: str) -> str:
    """The message of the error, which says all that is expected and changes nothing."""
    before = values(module)
    with pytest.raises(ValueError) as raised:
        load(module, arrays)
    message = str(raised.value)
    assert values(module) == before
    for text in (load.__name__, *expected):
        assert text in message
    return message


def test_one_error_lists_all_keys_that_do_not_fit_in_pytorchs_names() -> None:
    model = Tagger()
    arrays: dict[str, Any] = interop.torch_state_dict(model)
    del arrays["lstm.bias_hh_l0"], arrays["norm.weight"]
    arrays["heads.0.weight"] = arrays["heads.0.weight"].T
    arrays["embedding.weight"] = arrays["embedding.weight"].astype("complex64")
    arrays["lstm.weight_hr_l0"] = np.zeros((2, 4))
    refused(
        model,
        interop.load_torch_state_dict,
        arrays,
        "missing: lstm.bias_hh_l0, norm.weight;",
        "unexpected: lstm.weight_hr_l0;",
        "heads.0.weight has shape (8, 2), expected (2, 8)",
        "embedding.weight holds complex64, expected float32",
    )


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_bias_on_one_side_only_is_an_error(kind: str) -> None:
    biased, unbiased = getattr(nn, kind)(2, 3), getattr(nn, kind)(2, 3, bias=False)
    keys = "bias_ih_l0, bias_hh_l0"
    load = interop.load_torch_state_dict
    refused(unbiased, load, interop.torch_state_dict(biased), f"unexpected: {keys}")
    refused(biased, load, interop.torch_state_dict(unbiased), f"missing: {keys}")
    load = interop.load_keras_weights
    arrays = interop.keras_weights(biased)
    refused(unbiased, load, arrays, "3 arrays, 2 expected; unexpected: array 2")
    refused(biased, load, arrays[:2], "2 arrays, 3 expected; missing: array 2 (bias_l0)")


def test_one_error_lists_all_arrays_that_do_not_fit_in_kerass_names() -> None:
    model = nn.Sequential(nn.Embedding(5, 2), nn.LSTM(2, 3), nn.Linear(3, 1))
    arrays = interop.keras_weights(model)
    refused(
        model,
        interop.load_keras_weights,
        [arrays[0].T, *arrays[1:3], *arrays[4:]],
        "5 arrays, 6 expected; missing: array 5 (2.bias)",
        "array 0 (0.embeddings) has shape (2, 5), expected (5, 2)",
        "array 3 (1.bias_l0) has shape (3, 1), expected (12,)",
        "array 4 (2.kernel) has shape (1,), expected (3, 1)",
    )
    refused(model, interop.load_keras_weights, [*arrays, arrays[0]], "unexpected: array 6")
    refused(
        model,
        interop.load_keras_weights,
        [],
        "missing: array 0 (0.embeddings), array 1 (1.kernel_l0), array 2 (1.recurrent_kernel_l0)",
    )


def test_a_gru_with_the_reset_gate_before_the_product_has_no_counterpart_in_pytorch() -> None:
    for gru in (nn.GRU(2, 3, reset_after=False), nn.GRUCell(2, 3, reset_after=False)):
        model = nn.Sequential(nn.Linear(2, 2), gru)
        for call in (
            lambda model=model: interop.torch_state_dict(model),
            lambda model=model: interop.load_torch_state_dict(model, {}),
        ):
            with pytest.raises(ValueError, match=r"state_dict: 1: PyTorch's GRU .* reset_after"):
                call()


@pytest.mark.parametrize("kind", ["PeepholeLSTMCell", "LayerNormLSTMCell", "RWACell"])
def test_a_cell_that_the_others_do_not_have_has_no_counterpart(kind: str) -> None:
    model = nn.Recurrent(getattr(nn, kind)(2, 3))
    refused(model, interop.load_torch_state_dict, {}, f"cell: a {kind} has no counterpart")
    refused(model, interop.load_keras_weights, [], f"cell: a {kind} has no counterpart")
    for write in (interop.torch_state_dict, interop.keras_weights):
        with pytest.raises(ValueError, match=f"{write.__name__}: cell: a {kind} has no counter"):
            write(model)


def test_projections_and_heads_without_an_axis_have_no_counterpart_in_keras() -> None:
    lstm = nn.LSTM(2, 3, proj_size=2)
    with pytest.raises(ValueError, match="keras_weights: Keras's LSTM has no projection"):
        interop.keras_weights(lstm)
    refused(lstm, interop.load_keras_weights, [], "no projection")
    with pytest.raises(ValueError, match=r"keras_weights: 0: .* an axis of heads"):
        interop.keras_weights(nn.Sequential(nn.MultiheadAttention(4, 2)))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "Recurrent"])
def test_a_learned_initial_state_has_no_counterpart(kind: str) -> None:
    sizes = (nn.LSTMCell(2, 3),) if kind == "Recurrent" else (2, 3)
    layer = getattr(nn, kind)(*sizes, learn_initial_state=True)
    refused(layer, interop.load_torch_state_dict, {}, "learned initial state")
    refused(layer, interop.load_keras_weights, [], "learned initial state")
    for write in (interop.torch_state_dict, interop.keras_weights):
        with pytest.raises(ValueError, match=f"{write.__name__}: a learned initial state"):
            write(layer)


def test_arrays_come_by_name_for_pytorch_and_in_a_list_for_keras() -> None:
    linear = nn.Linear(1, 1)
    with pytest.raises(TypeError, match=r"load_torch_state_dict: arrays by name.* not a list"):
        interop.load_torch_state_dict(linear, interop.keras_weights(linear))
    with pytest.raises(TypeError, match=r"load_keras_weights: a list of arrays.* not a dict"):
        interop.load_keras_weights(linear, interop.torch_state_dict(linear))


def test_the_module_is_one_of_ours() -> None:
    class Linear:
        """As of PyTorch or Keras."""

        __module__ = "torch.nn"

        def state_dict(self) -> dict[str, Array]:
            return {}

    theirs: Any = Linear()
    for call in (
        lambda: interop.torch_state_dict(theirs),
        lambda: interop.load_torch_state_dict(theirs, {}),
        lambda: interop.keras_weights(theirs),
        lambda: interop.load_keras_weights(theirs, []),
    ):
        with pytest.raises(TypeError, match=r"the module is one of tinygrad_rnn.nn, not a torch\."):
            call()


def test_what_cannot_be_read_is_named() -> None:
    class Stubborn:
        """As a parameter of PyTorch's, or a tensor of bfloat16."""

        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            raise RuntimeError("call detach()")

    linear = nn.Linear(2, 1)
    load = interop.load_torch_state_dict
    arrays = {"weight": Stubborn(), "bias": [[1.0], [1.0, 2.0]]}
    refused(linear, load, arrays, "weight cannot be made", "(call detach())", "bias cannot be made")
    load = interop.load_keras_weights
    refused(linear, load, [Stubborn(), [1.0]], "array 0 (kernel) cannot be made a NumPy array")


# Models that hold a thing twice, or themselves.


class Shared(nn.Module):
    def __init__(self) -> None:
        self.first = nn.RNNCell(2, 2)
        self.second = self.first
        self.third = nn.RNNCell(2, 2)
        self.third.weight_hh = self.first.weight_hh
        self.third.parent = self


def test_what_is_shared_is_listed_under_every_name_for_pytorch() -> None:
    model = Shared()
    arrays = drawn(interop.torch_state_dict(model))
    assert len(arrays) == 12
    arrays |= {k.replace("first", "second"): a for k, a in arrays.items() if k.startswith("first")}
    arrays["third.weight_hh"] = arrays["first.weight_hh"]
    interop.load_torch_state_dict(model, arrays)
    assert_array_equal(model.third.weight_hh.numpy(), arrays["first.weight_hh"].T)
    assert model.third.weight_hh is model.first.weight_hh
    arrays["third.weight_hh"] = arrays["third.weight_hh"] + 1
    refused(model, interop.load_torch_state_dict, arrays, "third.weight_hh is shared")


def test_a_module_that_is_shared_is_listed_once_for_keras() -> None:
    assert len(interop.keras_weights(Shared())) == 6


def test_what_a_subclass_adds_is_passed_on_by_its_name() -> None:
    class Scaled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 3)
            self.extra = nn.Parameter(np.zeros((2, 3)))

    arrays = interop.torch_state_dict(Scaled())
    assert {k: a.shape for k, a in arrays.items()} == {
        "weight": (3, 2),
        "bias": (3,),
        "extra": (2, 3),
    }


# DLPack.


def test_numpy_reads_the_memory_of_a_tensor_and_cannot_write_to_it() -> None:
    x = tg.tensor([1.0, 2.0])
    array = np.from_dlpack(x)
    assert np.shares_memory(array, x.numpy())
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 5


def test_a_tensor_comes_back_through_dlpack_from_any_backend(backend: Backend) -> None:
    for dtype in ("float32", "float64", "int64", "bool"):
        x = tg.ones((2, 3), dtype=dtype)
        y = tg.from_dlpack(x)
        assert (y.backend, y.dtype, y.tolist()) == (backend.name, x.dtype, x.tolist())
        if x.__dlpack_device__()[0] == 1:  # the CPU, which NumPy reaches
            assert tg.from_dlpack(x, backend="numpy").backend == "numpy"


def test_from_dlpack_shares_the_memory_and_says_so_or_copies() -> None:
    host = np.array([1.0, 2.0])
    shared, copied = tg.from_dlpack(host), tg.from_dlpack(host, copy=True)
    assert np.shares_memory(host, shared.numpy())
    host[0] = 5
    assert shared.tolist() == [5, 2] and copied.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        shared.data[0] = 7
    assert "**shares**" in (tg.from_dlpack.__doc__ or "")


def test_read_only_arrays_come_in_too() -> None:
    host = np.array([1.0, 2.0])
    host.flags.writeable = False
    assert tg.from_dlpack(host).tolist() == [1, 2]


def test_a_library_that_knows_nothing_of_read_only_memory_gets_a_copy() -> None:
    class Old:
        """Hands on what it is given by ``__dlpack__()``, as consumers before DLPack 1.0 ask."""

        def __init__(self, x: tg.Tensor) -> None:
            self.capsule, self.device = x.__dlpack__(), x.__dlpack_device__()

        def __dlpack__(self, **_: Any) -> Any:
            return self.capsule

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.device

    x = tg.tensor([1.0, 2.0])
    array = np.from_dlpack(Old(x))
    assert array.tolist() == [1, 2] and not np.shares_memory(array, x.numpy())
    with pytest.raises(BufferError, match="readonly"):
        x.__dlpack__(copy=False)


def test_memory_that_runs_backwards_is_handed_out_as_a_copy() -> None:
    """PyTorch ends the process at a negative stride."""
    for x in (tg.flip(tg.tensor([1.0, 2.0])), tg.tensor([[1.0], [2.0]])[::-1]):
        assert min(x.data.strides) < 0
        array = np.from_dlpack(x)
        assert array.tolist() == x.tolist() and min(array.strides) > 0
        assert not np.shares_memory(array, x.numpy())
        with pytest.raises(BufferError, match="runs backwards"):
            x.__dlpack__(max_version=(1, 0), copy=False)


def test_what_requires_grad_is_handed_out_detached() -> None:
    p = nn.Parameter(np.ones(2))
    for consumer in (np.from_dlpack, tg.from_dlpack):
        with pytest.raises(BufferError, match=r"requires grad; hand out x\.detach\(\)($|; for)"):
            consumer(p)
        assert consumer(p.detach()).tolist() == [1, 1]


def test_what_dlpack_cannot_carry_is_refused() -> None:
    with pytest.raises(TypeError, match=re.escape("from_dlpack: a list has no __dlpack__")):
        tg.from_dlpack([1.0])
    with pytest.raises(TypeError, match="from_dlpack: an array of complex128 holds no real"):
        tg.from_dlpack(np.ones(2, dtype=complex))
    with pytest.raises(
        BufferError, match=r"'numpy' cannot take over a numpy.ndarray: .*, backend="
    ):
        tg.from_dlpack(np.array(["2020-01-01"], dtype="datetime64[D]"))
    with pytest.raises(TypeError, match="inside vmap"):
        tg.vmap(lambda row: tg.from_dlpack(row))(tg.ones((2, 3)))
