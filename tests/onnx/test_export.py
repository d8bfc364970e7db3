"""Exported models give in onnxruntime what they give here, at sizes that they were not traced at.

The subtle point is ``agree``: it exports by one example and compares at others, so that a size that
was written as a number shows.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from cells_from_papers import CELLS, inputs_for
from onnx_oracle import agree, run
from tinygrad_rnn import nn
from tinygrad_rnn.onnx import ExportError, export

RNG = np.random.default_rng(0)
I, H = 4, 5  # noqa: E741


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def tokens(*shape: int, size: int = 9) -> np.ndarray:
    return RNG.integers(0, size, shape)


@pytest.fixture(autouse=True)
def seeded() -> None:
    tg.manual_seed(0)


def shaken(module: nn.Module) -> nn.Module:
    """With no weight at zero, so that each matters."""
    for p in module.parameters():
        p.data = p.data + 0.3 * normal(*p.shape)
    return module


NATIVE = {
    "LSTM": lambda: nn.LSTM(I, H, num_layers=2),
    "LSTM without bias": lambda: nn.LSTM(I, H, bias=False),
    "LSTM of both directions": lambda: nn.LSTM(I, H, num_layers=2, bidirectional=True),
    "LSTM projected": lambda: nn.LSTM(I, H, num_layers=2, proj_size=3),
    "LSTM projected, both": lambda: nn.LSTM(I, H, bidirectional=True, proj_size=3),
    "LSTM, learned start": lambda: nn.LSTM(I, H, learn_initial_state=True),
    "LSTM with relu": lambda: nn.LSTM(I, H, activation=tg.relu),
    "GRU": lambda: nn.GRU(I, H, num_layers=2),
    "GRU of the paper": lambda: nn.GRU(I, H, reset_after=False, bidirectional=True),
    "RNN": lambda: nn.RNN(I, H, num_layers=2, bidirectional=True),
    "RNN with relu": lambda: nn.RNN(I, H, nonlinearity="relu"),
    "LSTM with peepholes": lambda: nn.Recurrent(nn.PeepholeLSTMCell(I, H), reverse=True),
    "two cells": lambda: nn.Bidirectional(nn.PeepholeLSTMCell(I, H), nn.PeepholeLSTMCell(I, H)),
    "two kinds": lambda: nn.Bidirectional(nn.GRUCell(I, H), nn.LSTMCell(I, H)),
}


@pytest.mark.parametrize("name", NATIVE)
def test_layers_are_native_nodes(name: str) -> None:
    layer = shaken(NATIVE[name]())
    found = agree(layer, [normal(7, 3, I)], [normal(5, 2, I)], [normal(1, 1, I)])
    kinds = {"LSTM", "GRU", "RNN"}
    layers = 2 if getattr(layer, "num_layers", 1) == 2 or name == "two kinds" else 1
    assert sum(found[kind] for kind in kinds) == layers  # both directions are one node
    assert not found["Scan"]
    lengths = ([7, 0, 3], [2, 5])
    ragged = [
        [normal(t, len(n), I), {"lengths": np.array(n)}]
        for t, n in zip((7, 5), lengths, strict=True)
    ]
    found = agree(layer, *ragged)
    assert sum(found[kind] for kind in kinds) == layers


def test_states_are_inputs() -> None:
    for layer in (nn.LSTM(I, H, num_layers=2, bidirectional=True), nn.LSTM(I, H, proj_size=2)):
        count, width = (4, H) if layer.num_layers == 2 else (1, 2)
        calls = [
            [normal(t, b, I), (normal(count, b, width), normal(count, b, H))]
            for t, b in ((7, 3), (4, 1))
        ]
        agree(shaken(layer), *calls)
    agree(nn.GRU(I, H), [normal(7, I)], [normal(2, I)])  # one sequence, no batch
    batch_first = nn.GRU(I, H, batch_first=True, bidirectional=True)
    agree(batch_first, [normal(3, 7, I)], [normal(2, 4, I)])


SCANNED = {
    "layer norm": lambda: nn.LayerNormLSTMCell(I, H),
    "RWA": lambda: nn.RWACell(I, H),
    "zoneout": lambda: nn.Zoneout(nn.GRUCell(I, H), 0.2),
    "sigmoid of another kind": lambda: nn.GRUCell(I, H, gate_activation=tg.hardsigmoid),
}


@pytest.mark.parametrize("name", SCANNED)
@pytest.mark.parametrize("reverse", [False, True])
def test_any_cell_is_a_scan(name: str, reverse: bool) -> None:
    layer = shaken(nn.Recurrent(SCANNED[name](), reverse=reverse))
    ragged = [
        [normal(t, len(n), I), {"lengths": np.array(n)}] for t, n in ((7, [7, 0, 3]), (5, [2, 5]))
    ]
    assert agree(layer, *ragged)["Scan"] == 1
    assert agree(layer, [normal(7, 3, I)], [normal(2, 1, I)])["Scan"] == 1


def test_masks_and_resets_are_scanned() -> None:
    def call(t: int, b: int) -> list[Any]:
        return [
            normal(t, b, I),
            {"mask": RNG.random((t, b)) > 0.3, "reset": RNG.random((t, b)) > 0.7},
        ]

    assert agree(nn.Recurrent(nn.GRUCell(I, H)), call(7, 3), call(4, 2))["Scan"] == 1


@pytest.mark.parametrize("name", sorted(CELLS))
def test_cells_from_papers(name: str) -> None:
    cell = CELLS[name](3)
    xs, other = (inputs_for(cell, RNG, t, 3, "float32") for t in (6, 4))
    sizes = [("T",)] * (2 if name == "Clockwork" else 1)  # some hold what is of three rows
    agree(lambda xs: tg.unroll(cell, xs), [xs], [other], dynamic=sizes)


def test_a_step_reads_what_is_around_the_loop() -> None:
    w = nn.Linear(H, H)

    def model(x: tg.Tensor, memory: tg.Tensor) -> Any:
        def cell(x: tg.Tensor, h: tg.Tensor) -> Any:
            inner = lambda m, s: (m * s, tg.tanh(s + m))  # noqa: E731
            _, s = tg.unroll(inner, memory, h)
            h = tg.tanh(w(h) + x + memory.mean(axis=0) + s)
            return h, h

        return tg.unroll(cell, x, tg.zeros(x.shape[1:]))

    found = agree(model, [normal(7, 3, H), normal(4, 3, H)], [normal(2, 2, H), normal(9, 2, H)])
    assert found["Scan"] == 1  # the other one is within its step


class Tagger(nn.Module):
    def __init__(self) -> None:
        self.embedding = nn.Embedding(9, I)
        self.lstm = nn.LSTM(I, H, num_layers=2, bidirectional=True, dropout=0.3)
        self.readout = nn.Linear(2 * H, 3)

    def forward(self, tokens: tg.Tensor, lengths: Any = None) -> tg.Tensor:
        return tg.log_softmax(self.readout(self.lstm(self.embedding(tokens), lengths=lengths)[0]))


class Translator(nn.Module):
    def __init__(self) -> None:
        self.encoder = nn.Encoder(nn.Embedding(9, I), nn.GRU(I, H, bidirectional=True))
        cell = nn.GRUCell(I + 6, 6)
        self.decoder = nn.AttentionDecoder(
            nn.Embedding(8, I), cell, nn.MultiplicativeAttention(6, 2 * H)
        )
        self.bridge = nn.Bridge(2 * H, cell)

    def forward(self, source: tg.Tensor, target: tg.Tensor, lengths: Any = None) -> tg.Tensor:
        values, final = self.encoder(source, lengths=lengths)
        memory = self.decoder.remember(values, lengths=lengths)
        return self.decoder(nn.shift_right(target, 0), memory, self.bridge(final))


def test_whole_models() -> None:
    n = {"lengths": np.array([7, 2, 0])}, {"lengths": np.array([1, 4])}
    agree(Tagger(), [tokens(7, 3)], [tokens(4, 2)])
    agree(Tagger(), [tokens(7, 3), n[0]], [tokens(4, 2), n[1]])
    agree(Translator(), [tokens(7, 3), tokens(5, 3, size=8)], [tokens(4, 2), tokens(6, 2, size=8)])
    calls = [[tokens(t, b), tokens(s, b, size=8)] for t, b, s in ((7, 3, 5), (4, 2, 6))]
    agree(Translator(), *[[*call, each] for call, each in zip(calls, n, strict=True)])
    model = export(Tagger(), tokens(7, 3))
    assert "embedding.weight" in [x.name for x in model.graph.initializer]
    (given,) = model.graph.input
    assert [d.dim_param for d in given.type.tensor_type.shape.dim] == ["T", "B"]


def sdpa(q: tg.Tensor, k: tg.Tensor, v: tg.Tensor) -> Any:
    return tg.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


HEADS = nn.MultiheadAttention(8, 2)
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "linear": (nn.Linear(I, H), [[normal(6, I)], [normal(2, I)]]),
    "layer norm": (nn.LayerNorm(I), [[normal(6, I)], [normal(2, I)]]),
    "attention": (sdpa, [[normal(6, 3, I)] * 3, [normal(2, 5, I)] * 3]),
    "heads": (
        lambda q: HEADS(q, q, q, is_causal=True),
        [[normal(6, 3, 8)], [normal(2, 5, 8)]],
    ),
    "cross entropy": (
        lambda x, y: tg.cross_entropy(tg.moveaxis(x, -1, 1), y, ignore_index=2),
        [[normal(6, 3, 5), tokens(6, 3, size=5)], [normal(2, 4, 5), tokens(2, 4, size=5)]],
    ),
    "other losses": (
        lambda a, b: (
            tg.mse_loss(a, b),
            tg.l1_loss(a, b, reduction="sum"),
            tg.huber_loss(a, b),
            tg.binary_cross_entropy_with_logits(a, abs(b) % 1.0),
            tg.kl_div(tg.log_softmax(a), tg.softmax(b), reduction="sum"),
        ),
        [[normal(6, 3, 5), normal(6, 3, 5)], [normal(2, 4, 5), normal(2, 4, 5)]],
    ),
    "slices": (
        lambda x: (x[-1], x[1:-1, ::2], x[::-1], x[None, 0], x[..., -2:] * 2, x.shape[0] * x),
        [[normal(6, 3, 5)], [normal(4, 4, 5)]],
    ),
    "statistics": (
        lambda x: (x.mean(axis=0), tg.var(x, axis=(0, 1)), tg.std(x), tg.prod(x, axis=-1)),
        [[normal(6, 3, 5)], [normal(4, 4, 5)]],
    ),
    "sums": (
        lambda x: (tg.cumulative_sum(x, axis=0), tg.flip(x, axis=1), tg.any(x > 1, axis=0)),
        [[normal(6, 3, 5)], [normal(4, 4, 5)]],
    ),
    "places": (
        lambda x: (tg.argmax(x, axis=0), tg.argmin(x), tg.all(x < 2), tg.max(x, axis=(0, 2))),
        [[normal(6, 3, 5)], [normal(4, 4, 5)]],
    ),
    "activations": (
        lambda x: (tg.gelu(x), tg.elu(x), tg.silu(x), tg.leaky_relu(x), tg.softplus(x), tg.glu(x)),
        [[normal(6, 3, 4)], [normal(4, 4, 4)]],
    ),
    "arithmetic": (
        lambda x: (x % 1.5, x // 0.7, abs(x) ** 0.5, -x, tg.sign(x), tg.round(x), tg.trunc(3 * x)),
        [[normal(6, 3, 4)], [normal(4, 4, 4)]],
    ),
    "integers": (
        lambda n: (n % 3, n // 2, n + 1, n / 2, n > 4, n != 4, tg.minimum(n, 3), n.astype("bool")),
        [[tokens(6, 3)], [tokens(2, 2)]],
    ),
    "joining": (
        lambda x: (tg.stack([x, 2 * x], axis=1), tg.concat([x, x], axis=0), tg.tile(x, (1, 2, 1))),
        [[normal(6, 3, 4)], [normal(4, 4, 4)]],
    ),
    "gathering": (
        lambda x, n: (x[n, 0], x[:, n % 4, n % 4], x[0, :, n], tg.one_hot(n, 5)),
        [[normal(9, 4, 9), tokens(3)], [normal(10, 4, 9), tokens(2)]],
    ),
    "along an axis": (
        lambda x, n: (
            tg.take_along_axis(x, n[:, None] % 3),
            tg.take_along_axis(x, tg.asarray([[1, 0]], dtype="int64")),
            tg.add_along_axis(x, n[:, None] % 3, x[:, :1]),
        ),
        [[normal(6, 3), tokens(6)], [normal(2, 3), tokens(2)]],
    ),
    "logic": (
        lambda x: (
            tg.isfinite(tg.where(x > 0, x, tg.inf)),
            tg.where(x > 0, x, 0),
            (x > 0) & ~(x > 1),
        ),
        [[normal(6, 3)], [normal(2, 3)]],
    ),
    "mapped": (tg.vmap(lambda x: tg.tanh(x).sum()), [[normal(6, 3)], [normal(2, 3)]]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    function, calls = FUNCTIONS[name]
    agree(function, *calls)


def test_near_zero_nothing_is_lost() -> None:
    x = np.array([1e-30, 1e-9, -1e-4, 0, 3, -0.9, np.inf], dtype=np.float32)
    found = run(export(lambda x: (tg.log1p(x), tg.expm1(x)), x), [x])
    np.testing.assert_allclose(found[0], np.log1p(x), rtol=1e-6)
    np.testing.assert_allclose(found[1], np.expm1(x), rtol=1e-6)


def test_fixed_sizes() -> None:
    fixed = {"dynamic": False}
    agree(lambda x: sum(tg.unstack(x)), [normal(4, 3)], **fixed)
    agree(lambda x: tg.tril(x), [normal(2, 7, 7)], **fixed)
    add = lambda x, v, n: (x.at[n].add(v), x.at[:, 1].add(2.0))  # noqa: E731
    agree(add, [normal(7, 3), normal(4, 3), tokens(4, size=7)], **fixed)
    agree(add, [normal(7, 3), normal(4, 3), tokens(4, size=7)], **fixed)
    agree(lambda x: x @ x.T, [normal(3, 4)], [normal(5, 4)], dynamic=[("rows",)])
    agree(nn.Linear(I, H), [RNG.standard_normal((3, I))], rtol=1e-11)  # float64


def test_what_is_no_array_is_part_of_the_model() -> None:
    model = lambda x, scale, y=None, n=(0,): (x * scale if y is None else y, n[-1])  # noqa: E731
    found = agree(lambda *given: model(*given)[0], [normal(3, I), 0.5, None])
    assert found["Mul"] == 1
    lengths = {"lengths": [7, 0, 3]}  # as unroll takes them
    exported = export(nn.GRU(I, H), normal(7, 3, I), **lengths)
    assert [x.name for x in exported.graph.input] == ["x", "lengths"]


def test_training_mode_is_put_back() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(I, H)).train()
    export(model, normal(3, I))
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: x * tg.random.uniform((3,)), r"random numbers are drawn at test_export.py:\d+"),
        (lambda x: x if x.sum() > 0 else -x, r"test_export.py:\d+ asks for a value"),
        (lambda x: sum(tg.unstack(x)), r"from unstack at test_export.py:\d+.*dynamic=False"),
        (lambda x: x.at[1:, 0].add(1.0), r"index_add at test_export.py:\d+.*adds at slices"),
        (lambda x: x * tg.tensor(np.eye(*x.shape, k=-2)), "nor counts, nor a triangle"),
        (lambda x: tg.unroll(nn.RNNCell(3, 2), [x, x]), "a list of sequences"),
    ],
)
def test_what_cannot_be_exported_is_named_with_its_line(function: Any, said: str) -> None:
    with pytest.raises(ExportError, match=said):
        export(function, normal(6, 3))


def test_operations_without_a_row_are_named_one_by_one() -> None:
    one, two = (tg.Primitive(name, "elementwise", lambda xp, x: x) for name in ("odd", "even"))

    def model(x: tg.Tensor) -> tg.Tensor:
        x = tg.apply(one, x)
        return tg.unroll(lambda x, h: (tg.apply(two, x), h), x, x[0])[0]

    with pytest.raises(ExportError, match=r"odd at test_export.py:\d+.*; .*even at test_export.py"):
        export(model, normal(6, 3, 2))


@pytest.mark.parametrize(
    ("examples", "options", "error", "said"),
    [
        (["text"], {}, TypeError, "no array or Tensor among the examples"),
        ([np.array("text")], {}, TypeError, "arrays or Tensors of numbers, not of <U4"),
        ([normal(2, I), normal(3, I)], {"dynamic": [("B",), ("B",)]}, ValueError, "B is 2 in x"),
        ([normal(2, I)], {"dynamic": [("B",), ()]}, ValueError, "a tuple of names for each"),
        ([normal(2, I)], {"dynamic": [(1,)]}, ValueError, "a tuple of names for each"),
    ],
)
def test_bad_examples(examples: Any, options: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=f"export: .*{said}"):
        export(lambda x, y=None: x, *examples, **options)


def test_the_models_own_errors_stay_and_say_when() -> None:
    with pytest.raises(ValueError, match="LSTM: expected x") as caught:
        export(nn.LSTM(I, H), normal(7, 3, I + 1))
    assert any("for export" in note for note in caught.value.__notes__)
    with pytest.raises(TypeError, match="a module or a function"):
        export(nn.LSTM, normal(7, 3, I))


def test_without_onnx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'tinygrad_rnn\[onnx\]'"):
        export(nn.Linear(I, H), normal(3, I))


def test_a_file_is_written(tmp_path: Any) -> None:
    import onnx

    model = export(nn.GRU(I, H), normal(7, 3, I), path=tmp_path / "gru.onnx")
    assert onnx.load(tmp_path / "gru.onnx") == model
    assert [x.version for x in model.opset_import] == [18]
