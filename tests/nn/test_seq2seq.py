"""Encoder, bridge and decoder: their equations, rows that do not disturb each other, two tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from op_table import examples
from tinygrad_rnn import Tensor, nn, optim
from tinygrad_rnn.nn.search import beam_search, greedy_search
from tinygrad_rnn.structure import flatten, map_leaves
from tinygrad_rnn.testing import check_grads
from tinygrad_rnn_backends import Backend

Array = np.ndarray[Any, Any]
V, D, H, E, S, T, B = 6, 2, 3, 4, 4, 3, 3  # vocabulary, embedding, output, values, steps, rows
TOKENS = np.array([[1, 2, 3], [4, 5, 0], [2, 2, 1]])
ORDERS = ("luong", "bahdanau")
every_order = pytest.mark.parametrize("order", ORDERS)

ATTENTIONS: dict[str, Callable[[], Any]] = {
    "additive": lambda: nn.AdditiveAttention(H, E, 5),
    "general": lambda: nn.MultiplicativeAttention(H, E),
    "concat": lambda: nn.MultiplicativeAttention(H, E, score="concat"),
    "multihead": lambda: nn.MultiheadAttention(H, 3, kdim=E, vdim=E),
}
CELLS: dict[str, Callable[[int], Any]] = {
    "rnn": lambda n: nn.RNNCell(n, H),
    "lstm": lambda n: nn.LSTMCell(n, H),
    "gru": lambda n: nn.GRUCell(n, H),
    "rwa": lambda n: nn.RWACell(n, H),
    "projected": lambda n: nn.LSTMCell(n, H + 2, proj_size=H),
    "stacked": lambda n: nn.StackedCell(nn.GRUCell(n, 2), nn.LSTMCell(2, H)),
}

WRAPPED: dict[str, Callable[[int], Any]] = {
    "zoned": lambda n: nn.Zoneout(nn.StackedCell(nn.GRUCell(n, H), nn.GRUCell(H, H)), 0.0),
    "dropped": lambda n: nn.StackedCell(
        nn.GRUCell(n, H), nn.VariationalDropout(nn.StackedCell(nn.GRUCell(H, H), nn.RNNCell(H, H)))
    ),
}


@pytest.fixture
def float64() -> Iterator[None]:
    tg.set_default_dtype("float64")
    yield
    tg.set_default_dtype("float32")


def randomised(module: Any, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    module.load_state_dict({k: rng.normal(size=x.shape) for k, x in module.state_dict().items()})
    return module


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def decoder(order: str, attention: str = "general", cell: str = "gru") -> Any:
    attending = ATTENTIONS[attention]()
    beside = H if order == "luong" else attending.context_size
    of = (CELLS | WRAPPED)[cell](D + beside)
    made = nn.AttentionDecoder(nn.Embedding(V, D), of, attending, order)
    return randomised(made)


def arrays(module: Any) -> dict[str, Array]:
    return {k: x.numpy() for k, x in module.state_dict().items()}


def close(found: Any, expected: Any, tolerance: float = 1e-11) -> None:
    assert_allclose(found.numpy(), expected, rtol=tolerance, atol=tolerance)


# The decoder, by its equations.


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def gru(p: dict[str, Array], x: Array, h: Array) -> Array:
    r, z, n = np.split(x @ p["cell.weight_ih"] + p["cell.bias"], 3, axis=-1)
    hr, hz, hn = np.split(h @ p["cell.weight_hh"], 3, axis=-1)
    r, z = sigmoid(r + hr), sigmoid(z + hz)
    return (1 - z) * np.tanh(n + r * (hn + p["cell.bias_hn"])) + z * h


def read(p: dict[str, Array], query: Array, values: Array) -> tuple[Array, Array]:
    """The general score of Luong et al., for values (S, B, E)."""
    scores = np.einsum("bq,eq,sbe->bs", query, p["attention.key.weight"], values)
    powers = np.exp(scores)
    weights = powers / powers.sum(axis=1, keepdims=True)
    return np.einsum("bs,sbe->be", weights, values), weights


@pytest.mark.usefixtures("float64")
@every_order
def test_a_decoder_is_its_equations(order: str, backend: Backend) -> None:
    model = decoder(order)
    p = arrays(model)
    values, h = normal(S, B, E), normal(B, H, seed=1)
    logits, weights = model(tg.tensor(TOKENS), tg.tensor(values), tg.tensor(h), return_weights=True)
    assert logits.shape == (T, B, V) and weights.shape == (T, B, S)
    attentional = np.zeros((B, H))
    for t in range(T):
        embedded = p["embedding.weight"][TOKENS[t]]
        if order == "luong":
            h = gru(p, np.concatenate([embedded, attentional], axis=1), h)
            context, shares = read(p, h, values)
            attentional = np.tanh(np.concatenate([context, h], axis=1) @ p["combine.weight"])
            features = attentional
        else:
            context, shares = read(p, h, values)
            h = gru(p, np.concatenate([embedded, context], axis=1), h)
            features = np.concatenate([h, context, embedded], axis=1)
        close(weights[t], shares)
        close(logits[t], features @ p["readout.weight"] + p["readout.bias"])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@every_order
def test_any_cell_with_any_attention_is_a_cell(order: str, attention: str, cell: str) -> None:
    """``step`` with its memory bound, run by ``unroll``, is the decoder called at once."""
    model = decoder(order, attention, cell)
    values = tg.tensor(normal(S, B, E), dtype="float32")
    memory = model.remember(values, lengths=[2, 0, 4])
    start = model.initial_state(memory)
    logits, final = tg.unroll(partial(model.step, memory=memory), tg.tensor(TOKENS), start)
    assert logits.dtype == np.float32 and flatten(final)[1] == flatten(start)[1]
    expected = model(tg.tensor(TOKENS), memory)
    assert_array_equal(logits.numpy(), expected.numpy())
    first = model(tg.tensor(TOKENS[:1]), memory, start)
    assert_allclose(logits[:1].numpy(), first.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cell", [*CELLS, *WRAPPED])
def test_bahdanau_looks_first_with_the_output_of_the_initial_state(cell: str) -> None:
    model = decoder("bahdanau", cell=cell)
    memory = model.remember(tg.tensor(normal(S, B, E), dtype="float32"))
    x = tg.tensor(normal(1, B, D + E), dtype="float32")
    outputs, state = tg.unroll(model.cell, x)  # such a state as a cell leaves behind
    assert_array_equal(model.initial_state(memory, state).handed_on.numpy(), outputs[0].numpy())
    given = tg.ones((B, H))
    assert_array_equal(model.initial_state(memory, state, given).handed_on.numpy(), given.numpy())


def test_bahdanau_looks_first_with_zeros_where_a_state_shows_no_output() -> None:
    class Counting(nn.Module):
        def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            return x[:, :H], state + 1

        def initial_state(self, batch_shape: Any, dtype: Any, backend: str) -> Tensor:
            return tg.zeros((*batch_shape, 1), dtype="int64", backend=backend)

    model = nn.AttentionDecoder(
        nn.Embedding(V, D), Counting(), ATTENTIONS["general"](), order="bahdanau"
    )
    memory = model.remember(tg.ones((S, B, E)))
    start = model.initial_state(memory)
    assert_array_equal(start.handed_on.numpy(), np.zeros((B, H)))
    assert model(tg.tensor(TOKENS), memory).dtype == np.float32


def test_targets_are_shifted_behind_a_start(backend: Backend) -> None:
    shifted = nn.shift_right(tg.tensor(TOKENS), start=9)
    assert_array_equal(shifted.numpy(), [[9, 9, 9], *TOKENS[:-1]])
    assert shifted.dtype == np.int64
    assert nn.shift_right(tg.zeros((0, 2), dtype="int64"), 1).shape == (0, 2)


# The bridge.


@pytest.mark.usefixtures("float64")
def test_a_bridge_goes_leaf_by_leaf(backend: Backend) -> None:
    bridge = randomised(nn.Bridge((4 * H, 4 * E), nn.LSTMCell(D, 5)))
    h_n, c_n = normal(4, B, H), normal(4, B, E, seed=1)
    found = bridge((tg.tensor(h_n), tg.tensor(c_n)))
    assert type(found) is tuple and [x.shape for x in found] == [(B, 5), (B, 5)]
    for part, state, linear in zip(found, (h_n, c_n), bridge.linears, strict=True):
        beside = np.concatenate(list(state), axis=1)  # its layers and directions
        close(part, np.tanh(beside @ linear.weight.numpy() + linear.bias.numpy()))


@pytest.mark.usefixtures("float64")
def test_a_bridge_of_one_size_makes_each_part_of_all() -> None:
    cell = nn.StackedCell(nn.GRUCell(D, 5), nn.LSTMCell(5, H))
    bridge = randomised(nn.Bridge(2 * H + E, cell))
    h, features = normal(2, B, H), normal(B, E, seed=1)
    found = bridge({"h": tg.tensor(h), "features": tg.tensor(features)})
    assert flatten(found)[1] == flatten(cell.initial_state((B,), "float64", "numpy"))[1]
    everything = np.concatenate([*h, features], axis=1)
    for part, linear in zip(flatten(found)[0], bridge.linears, strict=True):
        close(part, np.tanh(everything @ linear.weight.numpy() + linear.bias.numpy()))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "layers",
    [[nn.Bidirectional(nn.GRUCell(D, E), nn.GRUCell(D, E))], [nn.GRU(D, E), nn.GRU(E, E)]],
    ids=["directions", "layers"],
)
def test_h_and_c_are_both_made_of_both_of_two_states(layers: list[Any]) -> None:
    """As many parts as an LSTM has need not be its h and c."""
    _, final = nn.Encoder(None, *layers)(tg.tensor(normal(S, B, D)))
    bridge = randomised(nn.Bridge(2 * E, nn.LSTMCell(D, H)))
    both = np.concatenate([x.numpy().reshape(B, E) for x in flatten(final)[0]], axis=1)
    for part, linear in zip(bridge(final), bridge.linears, strict=True):
        close(part, np.tanh(both @ linear.weight.numpy() + linear.bias.numpy()), 1e-6)


# Ragged rows.

ENCODERS: dict[str, Callable[[], list[Any]]] = {
    "lstm": lambda: [nn.LSTM(D, E)],
    "two gru": lambda: [nn.GRU(D, E, num_layers=2)],
    "bi lstm": lambda: [nn.LSTM(D, E // 2, bidirectional=True)],
    "rnn on bi": lambda: [nn.Bidirectional(nn.GRUCell(D, 2), nn.RNNCell(D, 1)), nn.RNN(3, E)],
    "anybody's": lambda: [nn.Recurrent(nn.PeepholeLSTMCell(D, E))],
}


class Translator(nn.Module):
    """A whole encoder-decoder; ``floats`` if its source is not of tokens."""

    def __init__(self, encoder: str, order: str, attention: str, cell: str, floats: bool) -> None:
        self.encoder = nn.Encoder(None if floats else nn.Embedding(V, D), *ENCODERS[encoder]())
        self.decoder = decoder(order, attention, cell)
        _, final = self.encoder(tg.zeros((1, 1, D)) if floats else tg.zeros((1, 1), "int64"))
        shapes = [x.shape for x in flatten(final)[0]]
        sizes = [s[0] * s[2] if len(s) == 3 else s[1] for s in shapes]
        wanted = flatten(self.decoder.cell.initial_state((1,), "float32", "numpy"))[0]
        one_by_one = len(sizes) == len(wanted)
        self.bridge = nn.Bridge(sizes if one_by_one else sum(sizes), self.decoder.cell)

    def forward(self, source: Any, source_mask: Any, tokens: Any, mask: Any) -> Any:
        values, final = self.encoder(source, mask=source_mask)
        memory = self.decoder.remember(values, source_mask)
        start = self.bridge(final)
        logits, weights = self.decoder(tokens, memory, start, mask=mask, return_weights=True)
        return values, start, logits, weights


@st.composite
def configurations(draw: Any) -> tuple[Any, ...]:
    bridged = [cell for cell in CELLS if cell != "rwa"]  # whose state is not any tanh's
    names = (ENCODERS, ORDERS, ATTENTIONS, bridged)
    return (*(draw(st.sampled_from(list(choices))) for choices in names), draw(st.booleans()))


def ragged(data: Any, steps: int) -> Array:
    rows = data.draw(st.lists(st.integers(0, steps), min_size=B, max_size=B))
    return np.arange(steps)[:, None] < rows


@pytest.mark.usefixtures("float64")
@examples(12)
@given(configuration=configurations(), data=st.data())
def test_padding_changes_nothing(configuration: tuple[Any, ...], data: st.DataObject) -> None:
    """Each row alone, without its padding, gives what it gives in the batch; so do gradients."""
    model = randomised(Translator(*configuration))
    floats = configuration[-1]
    source_mask, mask = ragged(data, S), ragged(data, T)
    source = normal(S, B, D) if floats else np.random.default_rng(0).integers(0, V, (S, B))
    padding = np.nan if floats else -7
    beside = source_mask[..., None] if floats else source_mask
    padded = np.where(beside, source, padding)
    tokens = np.where(mask, TOKENS, V + 1)
    values, start, logits, weights = model(tg.tensor(padded), source_mask, tg.tensor(tokens), mask)
    parameters = list(model.parameters())
    cotangent = normal(T, B, V, seed=3)
    assert not logits.numpy()[~mask].any() and not values.numpy()[~source_mask].any()
    found = tg.grad(logits, parameters, tg.tensor(cotangent), allow_unused=True)
    total = [np.zeros(p.shape) for p in parameters]
    for b in range(B):
        m, n = source_mask[:, b].sum(), mask[:, b].sum()
        own_values, own_start, own_logits, own_weights = model(
            tg.tensor(source[:m, b : b + 1]),
            np.ones((m, 1), bool),
            tg.tensor(TOKENS[:n, b : b + 1]),
            np.ones((n, 1), bool),
        )
        close(values[:m, b : b + 1], own_values.numpy())
        for part, own in zip(flatten(start)[0], flatten(own_start)[0], strict=True):
            close(part[b], own[0].numpy())
        close(logits[:n, b : b + 1], own_logits.numpy())
        close(weights[:n, b : b + 1, :m], own_weights.numpy())
        if not n:
            continue
        own = tg.grad(
            own_logits, parameters, tg.tensor(cotangent[:n, b : b + 1]), allow_unused=True
        )
        for gradient, one in zip(total, own, strict=True):
            gradient += 0 if one is None else one.numpy()
    for gradient, expected in zip(found, total, strict=True):
        close(tg.zeros(()) if gradient is None else gradient, expected, 1e-9)


@every_order
def test_an_empty_source_gives_no_nan(order: str, backend: Backend) -> None:
    model = randomised(Translator("bi lstm", order, "additive", "lstm", True))
    nothing = np.zeros((S, B), bool)
    source = tg.tensor(np.full((S, B, D), np.nan, np.float32))
    values, _, logits, weights = model(source, nothing, tg.tensor(TOKENS), None)
    assert not values.numpy().any() and not weights.numpy().any()
    logits.sum().backward()
    for x in (logits, *(p.grad for p in model.parameters() if p.grad is not None)):
        assert np.isfinite(x.numpy()).all()


def test_lengths_are_a_mask() -> None:
    encoder = randomised(nn.Encoder(nn.Embedding(V, D), nn.GRU(D, E), nn.LSTM(E, H)))
    model = decoder("luong")
    source, tokens = tg.tensor(np.full((S, B), 2)), tg.tensor(TOKENS)
    by_mask = encoder(source, mask=np.arange(S)[:, None] < [2, 0, 4])
    by_lengths = encoder(source, lengths=[2, 0, 4])
    for one, other in zip(flatten(by_mask)[0], flatten(by_lengths)[0], strict=True):
        assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=1e-5)
    values = tg.ones((S, B, E))
    one = model(tokens, values, lengths=[1, 3, 0])
    other = model(tokens, values, mask=np.arange(T)[:, None] < [1, 3, 0])
    assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=1e-5)


# Derivatives.


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("attention", ["additive", "multihead"])
@every_order
def test_derivatives_equal_finite_differences(order: str, attention: str, cell: str) -> None:
    model = decoder(order, attention, cell)
    model.load_state_dict({k: x / 2 for k, x in model.state_dict().items()})
    names = [name for name, _ in model.named_parameters()]
    state = model.cell.initial_state((B,), "float64", "numpy")
    leaves = [normal(*x.shape, seed=2) for x in flatten(state)[0]]
    start = tuple(map(tg.tensor, leaves)) if cell == "lstm" else tg.tensor(leaves[0])

    def run(values: Tensor, start: Any, *weights: Tensor) -> Any:
        class Whole(nn.Module):
            def __init__(self) -> None:
                self.decoder = model

            def forward(self) -> Tensor:
                memory = self.decoder.remember(values, lengths=[2, 0, 4])
                return self.decoder(tg.tensor(TOKENS[:2]), memory, start, lengths=[2, 1, 2])

        given = {f"decoder.{k}": w for k, w in zip(names, weights, strict=True)}
        return nn.functional_call(Whole(), given)

    check_grads(run, (tg.tensor(normal(S, B, E)), start, *model.state_dict().values()))


@pytest.mark.usefixtures("float64")
@every_order
def test_curvature_is_the_slope_of_the_gradient(order: str) -> None:
    model = randomised(Translator("bi lstm", order, "general", "gru", True))
    model.load_state_dict({k: x / 2 for k, x in model.state_dict().items()})

    def loss(source: Tensor) -> Tensor:
        logits = model(source, np.arange(S)[:, None] < [2, 1, 4], tg.tensor(TOKENS), None)[2]
        return tg.cross_entropy(logits.reshape(-1, V), tg.tensor(TOKENS.ravel()))

    source, direction = tg.tensor(normal(S, B, D)), tg.tensor(normal(S, B, D, seed=2))
    backwards = tg.hvp(loss, (source,), (direction,))
    slope = tg.value_and_grad(loss)
    forwards = tg.jvp(lambda x: slope(x)[1], (source,), (direction,))[1]
    (backwards,) = flatten(backwards)[0]
    close(backwards, forwards.numpy(), 1e-10)
    assert np.abs(forwards.numpy()).max() > 1e-6


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("attention", ATTENTIONS)
@every_order
def test_vmap_is_a_loop(order: str, attention: str) -> None:
    model = decoder(order, attention)
    values, tokens = tg.tensor(normal(2, S, B, E)), tg.tensor(np.stack([TOKENS, TOKENS[::-1]]))
    masks = tg.tensor(normal(2, S, B, seed=1) > 0)

    def one(tokens: Tensor, values: Tensor, mask: Tensor) -> Any:
        return model(tokens, model.remember(values, mask), return_weights=True)

    together = tg.vmap(one)(tokens, values, masks)
    for i in range(2):
        for found, expected in zip(together, one(tokens[i], values[i], masks[i]), strict=True):
            close(found[i], expected.numpy())


# Scheduled sampling.


def greedy(model: Any, first: Array, memory: Any, steps: int) -> tuple[Array, Array]:
    """Logits and predictions when the model is given nothing but its own predictions."""
    state, tokens, logits, predicted = model.initial_state(memory), tg.tensor(first), [], []
    for _ in range(steps):
        out, state = model.step(tokens, state, memory)
        tokens = tg.argmax(out, axis=-1)
        logits.append(out.numpy())
        predicted.append(tokens.numpy())
    return np.stack(logits), np.stack(predicted)


@every_order
def test_sampling_always_is_greedy_decoding(order: str, backend: Backend) -> None:
    model = decoder(order)
    memory = model.remember(tg.tensor(normal(S, B, E), dtype="float32"))
    tokens = tg.tensor(TOKENS)
    always = model(tokens, memory, sampling_probability=1.0)
    expected, predicted = greedy(model, TOKENS[0], memory, T)
    assert_allclose(always.numpy(), expected, rtol=1e-6, atol=1e-6)
    assert (predicted[:-1] != TOKENS[1:]).any()
    never = model(tokens, memory, sampling_probability=0.0)
    assert np.abs(never.numpy() - expected).max() > 0.01


def test_sampling_takes_each_row_and_step_for_itself() -> None:
    """Every token is 0 and every prediction 1, and the logits of the next step say which it was."""
    rows, steps = 64, 21
    embedding = nn.Embedding(2, 1)
    embedding.load_state_dict({"weight": np.array([[-1.0], [1.0]])})
    attention = nn.MultiplicativeAttention(1, 1, score="dot")
    model = nn.AttentionDecoder(
        embedding, lambda x, state: (x[:, :1], state), attention, order="bahdanau"
    )
    model.readout.load_state_dict(
        {"weight": np.array([[1.0, 0], [0, 0], [0, 0]]), "bias": np.array([0.0, 5.0])}
    )
    tokens = tg.zeros((steps, rows), dtype="int32")
    state = tg.zeros((rows, 1))

    def chosen(p: float) -> Array:
        tg.manual_seed(0)
        values = tg.zeros((1, rows, 1))
        return model(tokens, values, state, sampling_probability=p).numpy()[..., 0] > 0

    drawn = chosen(0.3)
    assert not drawn[0].any()  # nothing was predicted before
    assert drawn[1:].mean() == pytest.approx(0.3, abs=0.05)
    assert drawn[1:].any(axis=0).all() and drawn[1:].any(axis=1).all()
    assert len({tuple(row) for row in drawn.T}) > rows // 2
    assert_array_equal(drawn, chosen(0.3))
    assert (drawn <= chosen(0.6)).all()


def test_sampling_begins_after_a_rows_own_first_step() -> None:
    model = decoder("luong")
    memory = model.remember(tg.tensor(normal(S, B, E), dtype="float32"))
    late = np.array([[False] * B, [True] * B, [True] * B])
    logits = model(tg.tensor(TOKENS), memory, mask=late, sampling_probability=1.0)
    expected, _ = greedy(model, TOKENS[1], memory, 2)
    assert_allclose(logits[1:].numpy(), expected, rtol=1e-6, atol=1e-6)


def test_sampling_in_vmap_takes_each_example_for_itself() -> None:
    model = decoder("luong")
    values = tg.tensor(normal(S, B, E), dtype="float32")
    tokens = tg.tensor(np.broadcast_to(TOKENS, (8, T, B)))

    def one(tokens: Tensor) -> Tensor:
        return model(tokens, values, sampling_probability=0.5)

    logits = tg.vmap(one)(tokens).numpy()
    assert_array_equal(logits[:, 0], np.broadcast_to(logits[0, 0], (8, B, V)))
    assert len({row.tobytes() for row in logits[:, 1]}) > 1


# Searching with a memory.


def said_by(model: Any, symbols: tuple[int, ...], memory: Any, state: Any) -> float:
    """The log-probability of saying these symbols, for a memory of one row."""
    targets = tg.tensor(np.array(symbols)[:, None])
    logits = model(nn.shift_right(targets, 0), memory, state)
    return -tg.cross_entropy(logits[:, 0], targets[:, 0], reduction="sum").item()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("attention", ["additive", "multihead"])
@every_order
def test_a_beam_that_holds_everything_finds_the_best_of_all(order: str, attention: str) -> None:
    """Each row against its own part of the memory, one of which is empty."""
    model, stop, steps = decoder(order, attention, "stacked"), 1, 3
    values, lengths = tg.tensor(normal(S, B, E)), [2, 0, 4]
    memory = model.remember(values, lengths=lengths)
    start = model.initial_state(memory, nn.Bridge(E, model.cell)(values.mean(axis=0)))
    found = beam_search(
        model.step, start, memory=memory, start=0, stop=stop, max_length=steps,
        beam_size=V**steps, n_best=4,
    )  # fmt: skip
    strings = [
        (*rest, stop)
        for n in range(steps)
        for rest in product([v for v in range(V) if v != stop], repeat=n)
    ]
    strings += list(product([v for v in range(V) if v != stop], repeat=steps))
    for b, n in enumerate(lengths):
        own = model.remember(values[:n, b : b + 1])
        state = map_leaves(lambda x, b=b: x[b : b + 1], start)
        scores = sorted(((said_by(model, s, own, state), s) for s in strings), reverse=True)
        for hypothesis, (score, string) in zip(found[b], scores, strict=False):
            assert (*hypothesis.tokens, *[stop] * hypothesis.finished) == string
            assert hypothesis.log_probability == pytest.approx(score, abs=1e-10)


@every_order
def test_greedy_search_says_what_the_steps_say(order: str, backend: Backend) -> None:
    model = decoder(order)
    memory = model.remember(tg.tensor(normal(S, B, E), dtype="float32"), lengths=[2, 0, 4])
    _, predicted = greedy(model, np.zeros(B, np.int64), memory, 4)
    found = greedy_search(
        model.step, model.initial_state(memory), memory=memory, start=0, stop=None, max_length=4
    )
    assert_array_equal([one.tokens for one in found], predicted.T)


# Two tasks.


def trained(loss_of: Callable[[], Tensor], model: nn.Module, steps: int, lr: float) -> None:
    optimizer = optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class Reverser(nn.Module):
    """There is no bridge: all that the decoder knows of the source it has from its memory."""

    def __init__(self, order: str) -> None:
        self.encoder = nn.Encoder(nn.Embedding(8, 8), nn.GRU(8, 12, bidirectional=True))
        attention = nn.AdditiveAttention(24, 24, 16)
        cell = nn.LSTMCell(8 + 24, 24)
        self.decoder = nn.AttentionDecoder(nn.Embedding(8, 8), cell, attention, order)

    def remembered(self, source: Array, lengths: Array) -> nn.Memory:
        values, _ = self.encoder(tg.tensor(source), lengths=lengths)
        return self.decoder.remember(values, lengths=lengths)


def reversals(rng: np.random.Generator, rows: int) -> tuple[Array, Array, Array]:
    """Sources of 3 to 5 tokens, 2 to 7, and what they are backwards; 1 ends, 0 is padding."""
    lengths = rng.integers(3, 6, rows)
    source = rng.integers(2, 8, (5, rows))
    target = np.zeros((6, rows), dtype=np.int64)
    for b, n in enumerate(lengths):
        source[n:, b] = 0
        target[:n, b] = source[:n, b][::-1]
        target[n, b] = 1
    return source, lengths, target


@every_order
def test_a_decoder_learns_to_say_a_sequence_backwards(order: str) -> None:
    tg.manual_seed(0)
    model = Reverser(order)
    rng = np.random.default_rng(0)

    def loss_of() -> Tensor:
        source, lengths, target = reversals(rng, 32)
        memory = model.remembered(source, lengths)
        given = nn.shift_right(tg.tensor(target), 0)
        logits = model.decoder(given, memory, lengths=lengths + 1)
        return tg.cross_entropy(logits.reshape(-1, 8), tg.tensor(target.ravel()), ignore_index=0)

    trained(loss_of, model, 250, lr=0.015)
    source, lengths, target = reversals(np.random.default_rng(1), 200)
    with tg.no_grad():
        memory = model.remembered(source, lengths)
        _, said = greedy(model.decoder, np.zeros(200, np.int64), memory, 6)
    right = ((said == target) | (target == 0)).all(axis=0)
    assert right.mean() > 0.9


def test_images_get_captions_without_a_recurrent_encoder() -> None:
    """Regions (R, B, F) are the memory as they are; their mean makes the initial state."""

    class Captioner(nn.Module):
        def __init__(self) -> None:
            cell = nn.StackedCell(nn.LSTMCell(6 + 10, 10), nn.GRUCell(10, 10), dropout=0.1)
            attention = nn.MultiplicativeAttention(query_size=10, key_size=5)
            self.decoder = nn.AttentionDecoder(nn.Embedding(7, 6), cell, attention)
            self.bridge = nn.Bridge(5, cell)

        def forward(self, regions: Tensor, captions: Tensor) -> Tensor:
            start = self.bridge(regions.mean(axis=0))
            return self.decoder(nn.shift_right(captions, 0), regions, start)

    tg.manual_seed(0)
    model = Captioner()
    regions = tg.tensor(normal(9, 4, 5), dtype="float32")
    captions = tg.tensor(np.random.default_rng(0).integers(1, 7, (3, 4)))

    def loss_of() -> Tensor:
        return tg.cross_entropy(model(regions, captions).reshape(-1, 7), captions.reshape(-1))

    before = loss_of().item()
    trained(loss_of, model, 60, lr=0.03)
    model.eval()
    assert loss_of().item() < 0.1 * before
    assert_array_equal(tg.argmax(model(regions, captions), axis=-1).numpy(), captions.numpy())


# What is refused.

MEMORY = decoder("luong").remember(tg.ones((S, B, E)))


def luong(**options: Any) -> Any:
    return nn.AttentionDecoder(
        nn.Embedding(V, D), nn.GRUCell(D + H, H), nn.MultiplicativeAttention(H, E), **options
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nn.Encoder(None), "at least one recurrent layer"),
        (lambda: nn.Encoder(None, nn.GRU(D, E, batch_first=True)), "batch_first=False"),
        (lambda: nn.Encoder(None, nn.GRU(D, E))(tg.ones(3)), r"x \(S, B, \.\.\.\), not \(3,\)"),
        (
            lambda: nn.Encoder(None, nn.GRU(D, E))(tg.ones((S, B, D)), lengths=[1, 9, 1]),
            r"Encoder: lengths \[1, 9, 1\] for 4 steps",
        ),
        (lambda: luong(order="both"), "'luong' or 'bahdanau', not 'both'"),
        (lambda: luong(order="bahdanau"), "inputs of 5, but is given 6: an embedding of 2 and 4"),
        (lambda: luong()(tg.tensor(TOKENS[:, :2]), MEMORY), r"tokens \(T, 3\).*\(3, 2\)"),
        (lambda: luong()(tg.ones((T, B)), MEMORY), r"integers.*float32 \(3, 3\)"),
        (lambda: luong()(tg.tensor(TOKENS), tg.ones((S, 2, E))), r"tokens \(T, 2\)"),
        (
            lambda: luong()(tg.tensor(TOKENS), tg.ones((2, S, E))),
            r"memory of 4 rows; .*axis 1 of both, tokens \(T, B\) and values \(S, B, E\)",
        ),
        (
            lambda: nn.greedy_search(
                luong().step,
                luong().initial_state(MEMORY),
                start=1,
                stop=2,
                max_length=3,
                memory=tg.ones((S, B, E)),
            ),
            r"memory \(4, 3, 4\)\. A memory is what decoder\.remember\(values\) gave",
        ),
        (
            lambda: luong()(tg.tensor(TOKENS), MEMORY, sampling_probability=1.5),
            "between 0 and 1, not 1.5",
        ),
        (lambda: luong()(tg.tensor(TOKENS), MEMORY, tg.ones((2, H))), r"state of shape \(2, 3\)"),
        (lambda: luong()(tg.tensor(TOKENS), tg.ones((S, B, 2))), r"values \(S, B, 4\)"),
        (
            lambda: decoder("bahdanau").initial_state(MEMORY, None, tg.ones((B, 1))),
            r"output of shape \(3, 1\), not \(3, 3\)",
        ),
        (
            lambda: nn.Bridge((2, 3), nn.LSTMCell(2, 3))(tg.ones((B, 2))),
            r"sizes \(2, 3\), each.*\(3, 2\)",
        ),
        (
            lambda: nn.Bridge((2, 3), nn.GRUCell(2, 3)),
            r"2 sizes, \(2, 3\), for a cell whose state has 1 parts; sizes=5 makes each of all",
        ),
        (
            lambda: nn.AttentionDecoder(
                nn.Embedding(V, D), nn.GRUCell(D + 4, 9), nn.AdditiveAttention(4, E, 5)
            ),
            "the cell puts out 9, but the attention takes queries of 4; query_size=9",
        ),
        (
            lambda: luong(vocabulary_size=V + 1)(
                tg.tensor(TOKENS), MEMORY, sampling_probability=0.1
            ),
            "an embedding of all 7 tokens .* there are 6",
        ),
        (lambda: nn.Bridge(2, nn.GRUCell(2, 3))(tg.ones(2)), r"\(B, H\), not \(2,\)"),
        (
            lambda: nn.Bridge(3, nn.GRUCell(2, 3))(tg.ones((2, B, 2))),
            r"sizes \(3,\) in all.*\(2, 3, 2\)",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


EMBEDDING, GENERAL = nn.Embedding(V, D), nn.MultiplicativeAttention(H, E)
GRU = nn.GRUCell(D + H, H)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nn.Encoder(None, [nn.GRU(D, E)]), r"one by one, .* not list"),
        (
            lambda: nn.Encoder(None, nn.GRU(D, E))([tg.ones((2, D)), tg.ones((3, D))]),
            r"Encoder: expected x \(S, B, \.\.\.\), not a list; .* pad_sequences",
        ),
        (lambda: nn.Bridge(8, nn.GRU(2, 3)), "Bridge: a cell is .*; a GRU is none"),
        (lambda: nn.Bridge(8, 9), "a int is none"),
        (lambda: nn.Bridge(9, lambda x, h: (h, h)), "Bridge: the cell has no initial_state"),
        (
            lambda: nn.AttentionDecoder(EMBEDDING, nn.GRU(D + H, H), GENERAL),
            "AttentionDecoder: a cell is .*; a GRU is none",
        ),
        (lambda: nn.AttentionDecoder(7, GRU, GENERAL), "embedding is an nn.Embedding.* not a int"),
        (
            lambda: nn.AttentionDecoder(nn.Sequential(EMBEDDING), GRU, GENERAL, embedding_dim=D),
            "vocabulary_size and embedding_dim, .* not a Sequential",
        ),
        (lambda: nn.AttentionDecoder(EMBEDDING, GRU, None), "such as AdditiveAttention.* NoneType"),
        (
            lambda: luong()(tg.tensor(TOKENS), (tg.ones((S, B, E)), tg.ones((1, B, E)))),
            "remember: values are a Tensor .* not a tuple; .* the outputs",
        ),
        (
            lambda: luong()(tg.tensor(TOKENS), MEMORY, (tg.ones((B, H)), tg.ones((B, H)))),
            r"state of the cell is structured \*, not \(\*, \*\); a Bridge",
        ),
        (
            lambda: luong().step(tg.tensor(TOKENS[0]), tg.ones((B, H)), MEMORY),
            r"step: the state is a DecoderState, as initial_state\(memory, state\)",
        ),
        (lambda: nn.shift_right(TOKENS, 0.5), "shift_right: start is a token, .* not 0.5"),
        (lambda: nn.shift_right(TOKENS, True), "not True"),
    ],
)
def test_what_is_of_another_kind_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_tokens_may_be_lists_and_values_a_memory(backend: Backend) -> None:
    model = decoder("luong")
    values = tg.tensor(normal(S, B, E), dtype="float32")
    expected = model(nn.shift_right(tg.tensor(TOKENS), 1), model.remember(values))
    given = nn.shift_right(TOKENS.tolist(), 1)
    assert_array_equal(model(given.tolist(), values).numpy(), expected.numpy())
    started = model(given, values, model.initial_state(values))
    assert_array_equal(started.numpy(), expected.numpy())


def test_any_module_is_an_embedding_if_its_sizes_are_given() -> None:
    plain = luong()
    embedding = nn.Sequential(plain.embedding, nn.Dropout(0.0))
    model = nn.AttentionDecoder(
        embedding, plain.cell, plain.attention, vocabulary_size=V, embedding_dim=D
    )
    model.combine, model.readout = plain.combine, plain.readout
    tokens = tg.tensor(TOKENS)
    assert_array_equal(model(tokens, MEMORY).numpy(), plain(tokens, MEMORY).numpy())


def test_a_cell_without_an_initial_state_needs_one() -> None:
    model = nn.AttentionDecoder(
        nn.Embedding(V, D), lambda x, h: (h, h), nn.MultiplicativeAttention(H, E)
    )
    with pytest.raises(TypeError, match="give a state"):
        model(tg.tensor(TOKENS), MEMORY)
    with pytest.raises(TypeError, match="initial_state"):
        nn.Bridge(2, model.cell)
