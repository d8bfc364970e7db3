"""Greedy and beam search against plain enumeration; sampling by its frequencies; row by row."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import tinygrad_rnn as tg
from op_table import examples
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.nn import Hypothesis, beam_search, greedy_search, sample
from tinygrad_rnn_backends import Backend

Array = np.ndarray[Any, Any]
INF = math.inf


class Table:
    """A model of random logits after each string, other ones in each row; some may be forbidden.

    Its state is the number of the row and the string itself: the history that it was given, -1
    before it.
    """

    def __init__(self, symbols: int, forbidden: float = 0.0, seed: int = 0) -> None:
        self.symbols, self.forbidden, self.seed = symbols, forbidden, seed
        self.calls: list[int] = []  # of how many rows

    def logits(self, row: int, said: tuple[int, ...]) -> Array:
        rng = np.random.default_rng([self.seed, row, *said])
        drawn = 2 * rng.normal(size=self.symbols)
        return np.where(rng.random(self.symbols) < self.forbidden, -INF, drawn)

    def log_probabilities(self, row: int, said: tuple[int, ...]) -> list[float]:
        logits = self.logits(row, said)
        if logits.max() == -INF:
            return [-INF] * self.symbols
        powers = [math.exp(x) for x in logits]
        return [math.log(p / sum(powers)) if p else -INF for p in powers]

    def __call__(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        row, history = state["row"], state["history"]
        self.calls.append(len(tokens))
        history = tg.concat([history[:, 1:], tokens[:, None]], axis=1)
        said = [tuple(x for x in line if x >= 0)[1:] for line in history.tolist()]
        pairs = zip(row.tolist(), said, strict=True)
        logits = np.array([self.logits(*pair) for pair in pairs])
        return tg.asarray(logits, backend=tokens.backend), {"row": row, "history": history}

    def state(self, rows: Any) -> Any:
        numbers = np.array(rows, dtype=np.int64)
        return {"row": tg.tensor(numbers), "history": tg.full((len(numbers), 24), -1)}


def score(log_probability: float, length: int, penalty: float) -> float:
    return log_probability / ((5 + length) / 6) ** penalty


def every_string(
    model: Table, row: int, stop: int | None, longest: int, penalty: float
) -> list[Hypothesis]:
    """All there are, by falling score."""
    found: list[Hypothesis] = []

    def visit(said: tuple[int, ...], total: float) -> None:
        if len(said) == longest:
            found.append(Hypothesis(said, total, score(total, len(said), penalty), False))
            return
        following = model.log_probabilities(row, said)
        if max(following) == -INF:
            found.append(Hypothesis(said, -INF, -INF, False))
        for symbol, p in enumerate(following):
            if p == -INF:
                continue
            if symbol == stop:
                own = score(total + p, len(said) + 1, penalty)
                found.append(Hypothesis(said, total + p, own, True))
            else:
                visit((*said, symbol), total + p)

    visit((), 0.0)
    return sorted(found, key=lambda one: -one.score)


def patient_beam(
    model: Table, row: int, stop: int | None, longest: int, penalty: float, size: int
) -> list[Hypothesis]:
    """Beam search as its docstring says, of one row, that never ends early."""
    found: list[Hypothesis] = []
    live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    for length in range(1, longest + 1):
        candidates = []
        for said, total in live:
            following = model.log_probabilities(row, said)
            if max(following) == -INF:
                found.append(Hypothesis(said, -INF, -INF, False))
            candidates += [(said, s, total + p) for s, p in enumerate(following) if p > -INF]
        candidates.sort(key=lambda candidate: -candidate[2])
        for said, s, total in candidates[:size]:
            if s == stop:
                found.append(Hypothesis(said, total, score(total, length, penalty), True))
        live = [((*said, s), total) for said, s, total in candidates if s != stop][:size]
    for said, total in live:
        found.append(Hypothesis(said, total, score(total, len(said), penalty), False))
    return sorted(found, key=lambda one: -one.score)


def same(found: list[Hypothesis], expected: list[Hypothesis], tolerance: float = 1e-11) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Hypothesis) and all(type(token) is int for token in one.tokens)
        if other.score > -INF:  # dead ends have no order
            assert (one.tokens, one.finished) == (other.tokens, other.finished)
        assert_allclose(one.log_probability, other.log_probability, rtol=tolerance)
        assert_allclose(one.score, other.score, rtol=tolerance)


penalties = st.sampled_from([0.0, 0.6, 1.0, 3.0, -0.5, -2.0])


@st.composite
def searches(draw: Any) -> dict[str, Any]:
    symbols = draw(st.integers(1, 3))
    model = Table(symbols, draw(st.sampled_from([0.0, 0.3])), draw(st.integers(0, 99)))
    return {
        "model": model,
        "rows": draw(st.lists(st.integers(0, 9), max_size=3)),
        "stop": draw(st.sampled_from([None, *range(symbols)])),
        "longest": draw(st.integers(0, 3)),
        "penalty": draw(penalties),
    }


@examples(60)
@given(drawn=searches(), data=st.data())
def test_a_beam_that_holds_everything_is_exhaustive_search(
    drawn: dict[str, Any], data: st.DataObject
) -> None:
    model, rows, stop, longest, penalty = drawn.values()
    size = model.symbols**longest + data.draw(st.integers(0, 2))
    n_best = data.draw(st.integers(1, size))
    found = beam_search(
        model,
        model.state(rows),
        start=0,
        stop=stop,
        beam_size=size,
        max_length=longest,
        length_penalty=penalty,
        n_best=n_best,
    )
    assert len(found) == len(rows)
    for row, hypotheses in zip(rows, found, strict=True):
        same(hypotheses, every_string(model, row, stop, longest, penalty)[:n_best])


@examples(60)
@given(drawn=searches(), size=st.integers(1, 4), longest=st.integers(1, 7), data=st.data())
def test_ending_early_loses_nothing(
    drawn: dict[str, Any], size: int, longest: int, data: st.DataObject
) -> None:
    model, rows, stop, _, penalty = drawn.values()
    model.symbols += data.draw(st.integers(0, 3))
    n_best = data.draw(st.integers(1, size))
    found = beam_search(
        model,
        model.state(rows),
        start=0,
        stop=stop,
        beam_size=size,
        max_length=longest,
        length_penalty=penalty,
        n_best=n_best,
    )
    for row, hypotheses in zip(rows, found, strict=True):
        same(hypotheses, patient_beam(model, row, stop, longest, penalty, size)[:n_best])


@examples(40)
@given(drawn=searches(), longest=st.integers(0, 7))
def test_a_beam_of_one_is_greedy_and_so_is_sampling_of_the_likeliest(
    drawn: dict[str, Any], longest: int
) -> None:
    model, rows, stop, *_ = drawn.values()
    options: dict[str, Any] = {"start": 0, "stop": stop, "max_length": longest}
    found = greedy_search(model, model.state(rows), **options)
    for row, one in zip(rows, found, strict=True):
        said: tuple[int, ...] = ()
        total, finished = 0.0, False
        while len(said) < longest and total > -INF and not finished:
            following = model.log_probabilities(row, said)
            symbol = int(np.argmax(following))
            total += following[symbol]
            finished = total > -INF and symbol == stop
            said += (symbol,) if total > -INF and not finished else ()
        same([one], [Hypothesis(said, total, total, finished)])
    expected = [[one] for one in found]
    assert beam_search(model, model.state(rows), beam_size=1, **options) == expected
    assert sample(model, model.state(rows), temperature=1e-310, **options) == expected
    assert sample(model, model.state(rows), top_k=1, **options) == expected
    assert sample(model, model.state(rows), top_p=1e-9, **options) == expected


# Rows.


@examples(20)
@given(drawn=searches(), size=st.integers(1, 4))
def test_rows_are_searched_as_if_alone(drawn: dict[str, Any], size: int) -> None:
    model, rows, stop, *_ = drawn.values()
    options: dict[str, Any] = {"stop": stop, "max_length": 5}
    starts = np.arange(len(rows))
    beam: dict[str, Any] = {"beam_size": size, "n_best": size, "length_penalty": 1.0, **options}
    found = beam_search(model, model.state(rows), start=starts, **beam)
    alone = [beam_search(model, model.state([row]), start=0, **beam)[0] for row in rows]
    assert found == alone
    found = [[one] for one in greedy_search(model, model.state(rows), start=starts, **options)]
    assert found == [
        [*greedy_search(model, model.state([row]), start=0, **options)] for row in rows
    ]


def test_a_row_that_is_done_leaves_the_batch() -> None:
    """What is left of a batch is what is alive: nothing after a stop is computed."""

    class Counting(Table):
        def logits(self, row: int, said: tuple[int, ...]) -> Array:
            """Row i stops after i symbols."""
            return np.array([0.0, -INF] if len(said) < row else [-INF, 0.0])

    model = Counting(2)
    found = greedy_search(model, model.state([2, 0, 3]), start=0, stop=1, max_length=9)
    assert found == [Hypothesis((0,) * n, 0.0, 0.0, True) for n in (2, 0, 3)]
    assert model.calls == [3, 2, 2, 1]


def test_a_search_ends_when_nothing_better_can_come() -> None:
    class Stopping(Table):
        def logits(self, row: int, said: tuple[int, ...]) -> Array:
            return np.log([0.1, 0.2, 0.7])

    def steps(**options: Any) -> int:
        model = Stopping(3)
        beam_search(model, model.state([0]), start=0, stop=2, max_length=20, **options)
        return len(model.calls)

    assert steps(beam_size=2) == 1
    assert steps(beam_size=2, length_penalty=-1.0) == 1
    assert steps(beam_size=2, n_best=2) == 2
    # -log .7 = .36 after one symbol. What begins with .2 may be divided by 25 / 6 at the end, and
    # 1.61 / 4.17 = .39; with a higher power it might win.
    assert steps(beam_size=2, length_penalty=1.0) == 1
    assert steps(beam_size=2, length_penalty=1.1) > 1


def test_a_search_that_prefers_shorter_strings_waits_for_better_ones() -> None:
    class Later(Table):
        def logits(self, row: int, said: tuple[int, ...]) -> Array:
            return np.array([math.log(0.65), math.log(0.35)]) if not said else np.array([-INF, 0.0])

    model = Later(2)
    (found,) = beam_search(
        model, model.state([0]), start=0, stop=1, beam_size=2, max_length=20, length_penalty=-1.0
    )
    assert found[0].tokens == (0,)
    assert_allclose(found[0].score, math.log(0.65) * 7 / 6)


def test_start_may_differ_between_rows(backend: Backend) -> None:
    seen: list[Any] = []

    def cell(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        seen.append((tokens.tolist(), tokens.dtype, tokens.backend))
        return tg.zeros((len(tokens), 3)), state

    for start in ([4, 5], np.array([4, 5], dtype=np.uint8), tg.tensor([4, 5])):
        seen.clear()
        found = greedy_search(cell, (), start=start, stop=None, max_length=2)
        assert [one.tokens for one in found] == [(0, 0), (0, 0)]
        assert seen == [([4, 5], np.int64, backend.name), ([0, 0], np.int64, backend.name)]
    assert greedy_search(cell, (), start=[], stop=None, max_length=2) == []
    assert sample(cell, (), start=tg.zeros((0,), dtype="int64"), stop=0, max_length=2, n=3) == []


def test_the_backend_is_that_of_what_is_given() -> None:
    def cell(tokens: Tensor, state: Any, *memory: Tensor) -> tuple[Tensor, Any]:
        assert tokens.backend == "array_api_strict"
        return tg.zeros((2, 3), backend="array_api_strict"), state

    x = tg.zeros((2,), dtype="int64", backend="array_api_strict")
    options: dict[str, Any] = {"stop": None, "max_length": 2}
    greedy_search(cell, x, start=0, **options)
    greedy_search(cell, (), start=0, memory=x, **options)
    greedy_search(cell, (), start=x, **options)


def test_states_go_with_their_hypotheses(backend: Backend) -> None:
    """Leaves of any dtype and shape, in any structure."""
    model = Table(3, seed=5)

    def cell(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        parity, (own, [copy]) = state
        logits, own = model(tokens, own)
        parity = tg.logical_xor(parity, tokens % 2 == 1)
        copy = tg.concat([copy[:, 1:], tokens.astype("float32")[:, None, None]], axis=1)
        history = np.array(own["history"].tolist())
        odd = np.where(history < 0, 0, history).sum(axis=1) % 2 == 1
        np.testing.assert_array_equal(parity.numpy(), odd)
        np.testing.assert_array_equal(copy.numpy()[:, :, 0], history)
        return logits, (parity, (own, [copy]))

    state = (tg.zeros((2,), dtype="bool"), (model.state([0, 1]), [tg.full((2, 24, 1), -1.0)]))
    options: dict[str, Any] = {"start": [1, 2], "stop": 0, "max_length": 6}
    found = beam_search(cell, state, beam_size=3, n_best=3, **options)
    for row, hypotheses in enumerate(found):
        same(hypotheses, patient_beam(model, row, 0, 6, 0.0, 3)[:3])
    sample(cell, state, n=4, **options)


def test_a_stop_does_not_exhaust_the_beam() -> None:
    class Doubtful(Table):
        def logits(self, row: int, said: tuple[int, ...]) -> Array:
            """The likeliest is to stop at once; whoever does not goes on for ever."""
            return np.log([0.3, 0.2, 0.5]) if not said else np.array([0.0, -INF, -INF])

    model = Doubtful(3)
    (found,) = beam_search(
        model, model.state([0]), start=0, stop=2, beam_size=1, max_length=9, length_penalty=3.0
    )
    assert found[0].tokens == (0,) * 9


# Models.


class LanguageModel(nn.Module):
    def __init__(self, symbols: int, size: int) -> None:
        self.embedding = nn.Embedding(symbols, size)
        self.cell = nn.LSTMCell(size, size)
        self.readout = nn.Linear(size, symbols)

    def forward(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        h, state = self.cell(self.embedding(tokens), state)
        return 4 * self.readout(h), state

    def initial_state(self, batch_shape: Any, dtype: Any, backend: str) -> Any:
        return self.cell.initial_state(batch_shape, dtype, backend)


SEARCHES: dict[str, Callable[..., Any]] = {
    "greedy": lambda *args, **options: [[one] for one in greedy_search(*args, **options)],
    "beam": lambda *args, **options: beam_search(*args, beam_size=4, n_best=3, **options),
    "sample": lambda *args, **options: sample(*args, n=3, temperature=2.0, **options),
}
every_search = pytest.mark.parametrize("search", SEARCHES)


@every_search
def test_a_language_model_says_what_it_finds_probable(search: str, backend: Backend) -> None:
    """``log_probability`` is the one that teacher forcing, by ``unroll``, gives the string."""
    tg.manual_seed(3)
    model = LanguageModel(5, 6)
    starts = [1, 4, 2]
    found = SEARCHES[search](model, None, start=starts, stop=0, max_length=8)
    assert any(one.finished for row in found for one in row) and len(found) == 3
    for start, hypotheses in zip(starts, found, strict=True):
        assert hypotheses == sorted(hypotheses, key=lambda one: -one.score)
        for one in hypotheses:
            said = [*one.tokens, 0] if one.finished else [*one.tokens]
            tokens = tg.tensor([[start], *([token] for token in said[:-1])])
            logits, _ = tg.unroll(model, tokens, model.initial_state((1,), "float32", backend.name))
            own = tg.log_softmax(logits[:, 0], axis=-1).numpy()
            expected = own[np.arange(len(said)), said].sum()
            assert_allclose(one.log_probability, expected, rtol=1e-5)


@every_search
def test_no_graph_is_kept(search: str) -> None:
    model = LanguageModel(4, 3)
    carried = tg.zeros((2, 3), requires_grad=True)
    seen = []

    def cell(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = model(tokens, state)
        seen.extend([logits, *state])
        return logits, state

    SEARCHES[search](cell, (carried, carried), start=1, stop=None, max_length=3)
    assert seen and not any(x.requires_grad for x in seen)
    assert tg.is_grad_enabled()


@pytest.mark.parametrize("order", ["luong", "bahdanau"])
@every_search
def test_a_decoder_searches_with_its_memory(search: str, order: Any, backend: Backend) -> None:
    """As with the memory in the state, where it follows its hypotheses anyway; rows as if alone."""
    tg.manual_seed(0)
    attention = nn.AdditiveAttention(4, 3, 4)
    cell = nn.GRUCell(2 + (4 if order == "luong" else 3), 4)
    model = nn.AttentionDecoder(nn.Embedding(5, 2), cell, attention, order)
    model.load_state_dict({k: 3 * x for k, x in model.state_dict().items()})
    values = np.random.default_rng(0).normal(size=(4, 3, 3)).astype("float32")
    memory = model.remember(tg.tensor(values), lengths=[4, 1, 2])
    state = model.initial_state(memory)

    def carrying(tokens: Tensor, both: Any) -> tuple[Tensor, Any]:
        logits, state = model.step(tokens, both[0], both[1])
        return logits, (state, both[1])

    options: dict[str, Any] = {"start": 1, "stop": 0, "max_length": 6}
    tg.manual_seed(2)
    found = SEARCHES[search](model.step, state, memory=memory, **options)
    tg.manual_seed(2)
    assert found == SEARCHES[search](carrying, (state, memory), **options)
    assert len({one.tokens for row in found for one in row}) > 1
    if search != "sample":
        for b in range(3):
            own = model.remember(tg.tensor(values[:, b : b + 1]), lengths=[[4, 1, 2][b]])
            start = model.initial_state(own)
            (alone,) = SEARCHES[search](model.step, start, memory=own, **options)
            same(found[b], alone, 1e-5)


def test_a_memory_is_repeated_for_hypotheses_and_shrinks_with_the_rows() -> None:
    model = Table(3)
    seen = []

    def cell(tokens: Tensor, state: Any, memory: Any) -> tuple[Tensor, Any]:
        seen.append(memory)
        assert memory["rows"].tolist() == state["row"].tolist()
        assert memory["masks"].dtype == np.bool_ and memory["masks"].shape == (len(tokens), 2)
        return model(tokens, state)

    memory = {"rows": tg.tensor([0, 1]), "masks": tg.ones((2, 2), dtype="bool")}
    state = model.state([0, 1])
    options: dict[str, Any] = {"start": 0, "max_length": 6, "memory": memory}
    beam_search(cell, state, stop=None, beam_size=3, **options)
    assert all(one is seen[1] for one in seen[1:]) and len(seen[1]["rows"]) == 6
    sample(cell, state, stop=0, n=4, **options)
    greedy_search(cell, state, stop=0, **options)


def test_a_memory_follows_when_one_row_grows_by_what_another_loses() -> None:
    widths = {(0, 0): 2, (0, 1): 1, (1, 0): 1, (1, 1): 2}  # by row and step: what is possible

    class Changing(Table):
        def logits(self, row: int, said: tuple[int, ...]) -> Array:
            possible = widths.get((row, len(said)), 2)
            if (row, len(said)) == (0, 1) and said[0] == 1:
                return np.array([-INF, -INF])
            return np.where(np.arange(2) < possible, 0.0, -INF)

    model = Changing(2)

    def cell(tokens: Tensor, state: Any, memory: Tensor) -> tuple[Tensor, Any]:
        assert memory.tolist() == state["row"].tolist()
        return model(tokens, state)

    beam_search(
        cell,
        model.state([0, 1]),
        start=0,
        stop=None,
        beam_size=2,
        max_length=4,
        n_best=2,
        memory=tg.tensor([0, 1]),
    )
    assert model.calls == [2, 3, 3, 4]


def test_an_ensemble_is_a_cell() -> None:
    """The mean of two models' logits: their states are one state."""
    one, other = Table(3, seed=1), Table(3, seed=2)

    class Mean(Table):
        def logits(self, row: int, said: tuple[int, ...]) -> Array:
            return (one.logits(row, said) + other.logits(row, said)) / 2

    def cell(tokens: Tensor, states: Any) -> tuple[Tensor, Any]:
        (first, a), (second, b) = one(tokens, states[0]), other(tokens, states[1])
        return (first + second) / 2, (a, b)

    states = (one.state([0, 1]), other.state([0, 1]))
    found = beam_search(cell, states, start=0, stop=2, beam_size=3, max_length=5, n_best=3)
    for row, hypotheses in enumerate(found):
        same(hypotheses, patient_beam(Mean(3), row, 2, 5, 0.0, 3)[:3])


# Sampling.


def constant(logits: Array) -> Callable[..., tuple[Tensor, Any]]:
    def cell(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        return tg.tensor(np.broadcast_to(logits, (len(tokens), len(logits)))), state

    return cell


def nucleus(p: Array, top_k: int, top_p: float) -> Array:
    """The probabilities that are drawn from: of all subsets the smallest, then likeliest, one."""
    kept = sorted(range(len(p)), key=lambda i: -p[i])[:top_k]
    q = np.where(np.isin(np.arange(len(p)), kept), p, 0)
    q = q / q.sum()
    sets = [s for size in range(1, top_k + 1) for s in itertools.combinations(kept, size)]
    enough = [s for s in sets if q[list(s)].sum() >= top_p - 1e-12]
    smallest = min(enough, key=lambda s: (len(s), -q[list(s)].sum()))
    q = np.where(np.isin(np.arange(len(p)), smallest), q, 0)
    return q / q.sum()


P = np.array([0.25, 0.125, 0.5, 0.0625, 0.0625])


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, None, None),
        (0.5, None, None),
        (2.0, None, None),
        (1.0, 3, None),
        (1.0, 9, 1.0),
        (1.0, None, 0.5),
        (1.0, None, 0.51),
        (1.0, None, 0.75),
        (1.0, None, 0.9),
        (1.0, 2, 0.67),  # of the two that are left, .667 and .333
        (3.0, 4, 0.8),
    ],
)
def test_frequencies_are_those_of_the_distribution(
    temperature: float, top_k: int | None, top_p: float | None, backend: Backend
) -> None:
    tg.manual_seed(0)
    n = 4000
    (found,) = sample(
        constant(np.log(P)),
        (),
        start=[0],
        stop=None,
        max_length=1,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        n=n,
    )
    warm = P ** (1 / temperature)
    expected = n * nucleus(warm / warm.sum(), min(top_k or 5, 5), top_p or 1.0)
    counts = Counter(one.tokens[0] for one in found)
    observed = np.array([counts[i] for i in range(5)])
    assert not observed[expected == 0].any()
    kept = expected > 0
    statistic = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
    assert statistic < 18.5  # that of four degrees of freedom is with probability .999
    for one in found:
        assert_allclose(one.log_probability, np.log(P[one.tokens[0]]), rtol=1e-12)


@pytest.mark.parametrize("top_p", [None, 0.75])
def test_a_symbol_is_drawn_where_the_uniform_number_falls(
    monkeypatch: pytest.MonkeyPatch, top_p: float | None
) -> None:
    kept = 4 if top_p is None else 2
    order, shares = np.array([2, 0, 1, 3])[:kept], np.array([0.5, 0.25, 0.125, 0.125])[:kept]
    bounds = np.cumsum(shares / shares.sum())
    draws = np.array([0.0, 0.25, *(bounds[:-1] - 2.0**-24), *bounds[:-1], 1 - 2.0**-24])
    expected = [order[int(np.argmax(bounds > draw))] for draw in draws]
    monkeypatch.setattr(
        "tinygrad_rnn.random.uniform", lambda *args, **options: tg.tensor(draws[:, None])
    )
    found = sample(
        constant(np.log([0.25, 0.125, 0.5, 0.125])),
        (),
        start=[0] * len(draws),
        stop=None,
        max_length=1,
        top_p=top_p,
    )
    assert [one.tokens[0] for (one,) in found] == expected


def test_the_seed_decides() -> None:
    model = Table(4)
    runs = []
    for name in ("numpy", "array_api_strict", "numpy"):
        with tg.use_backend(name):
            tg.manual_seed(7)
            state = model.state([3, 4])
            runs.append(sample(model, state, start=0, stop=0, max_length=9, n=3))
            following = sample(model, state, start=0, stop=0, max_length=9, n=3)
    assert runs[0] == runs[1] == runs[2] != following


def test_a_search_is_one_call_however_long() -> None:
    """What is drawn after it does not depend on when its rows were done."""
    following = []
    for logits in ([50.0, 0.0], [0.0, 50.0]):
        tg.manual_seed(7)
        sample(constant(np.array(logits)), (), start=[0], stop=0, max_length=5)
        following.append(tg.random.uniform((3,)).tolist())
    assert following[0] == following[1]


def test_draws_do_not_depend_on_other_rows_nor_on_how_many() -> None:
    model = Table(4)

    def drawn(rows: list[int], n: int) -> list[list[Hypothesis]]:
        tg.manual_seed(7)
        return sample(model, model.state(rows), start=0, stop=None, max_length=9, n=n)

    few, many = drawn([3, 4], 2), drawn([3, 4, 5, 6], 5)
    for some, more in zip(few, many, strict=False):
        assert not Counter(some) - Counter(more)
    assert drawn([3, 8], 2)[0] == few[0]
    assert drawn([8, 4], 2)[1] == few[1]


def test_rows_and_steps_draw_for_themselves() -> None:
    tg.manual_seed(0)
    found = sample(constant(np.zeros(16)), (), start=[0] * 40, stop=None, max_length=20, n=2)
    strings = [one.tokens for row in found for one in row]
    assert len(set(strings)) == 80
    counts = np.bincount(np.array(strings).reshape(-1), minlength=16)
    assert ((counts - 100) ** 2 / 100).sum() < 37.7  # 15 degrees of freedom, .999
    for one, other in itertools.pairwise(np.array(strings).T):
        assert (one != other).any()


# Edges.


@pytest.mark.parametrize("search", SEARCHES)
def test_nothing_is_said_in_no_steps(search: str) -> None:
    def cell(tokens: Tensor, state: Any) -> Any:
        raise AssertionError("called")

    options: dict[str, Any] = {"stop": 0, "max_length": 0}
    found = SEARCHES[search](cell, tg.zeros((2, 3)), start=1, **options)
    nothing = Hypothesis((), 0.0, 0.0, False)
    assert all(set(row) == {nothing} for row in found) and len(found) == 2
    assert SEARCHES[search](cell, tg.zeros((0, 3)), start=1, stop=0, max_length=3) == []


@pytest.mark.parametrize("search", SEARCHES)
def test_there_may_be_one_symbol_only(search: str) -> None:
    cell = constant(np.array([-7.0]))
    (found,) = SEARCHES[search](cell, (), start=[0], stop=None, max_length=3)
    assert set(found) == {Hypothesis((0, 0, 0), 0.0, 0.0, False)}
    (found,) = SEARCHES[search](cell, (), start=[0], stop=0, max_length=3)
    assert set(found) == {Hypothesis((), 0.0, 0.0, True)}


@pytest.mark.parametrize("search", SEARCHES)
def test_a_dead_end_is_the_last_choice(search: str) -> None:
    nowhere = constant(np.full(3, -INF))
    (found,) = SEARCHES[search](nowhere, (), start=[0], stop=0, max_length=3)
    assert set(found) == {Hypothesis((), -INF, -INF, False)}

    class Trap(Table):
        def logits(self, row: int, said: tuple[int, ...]) -> Array:
            """After the likely symbol 1 comes nothing."""
            return np.array([0.0, 2.0, -INF] if not said else [[0, -INF, 0], [-INF] * 3][said[0]])

    model = Trap(3)
    (found,) = SEARCHES[search](model, model.state([0]), start=0, stop=2, max_length=3)
    trapped = Hypothesis((1,), -INF, -INF, False)
    if search == "beam":
        assert [one.finished for one in found] == [True, True, False]
        assert found[0].tokens == (0,) and trapped not in found
    else:
        assert found[-1] == trapped


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("search", SEARCHES)
def test_the_lowest_number_forbids_as_well(search: str, dtype: str) -> None:
    """Sums of it overflow, without a warning."""
    lowest = np.array([np.finfo(dtype).min, 0, np.finfo(dtype).min], dtype)
    (found,) = SEARCHES[search](constant(lowest), (), start=[0], stop=None, max_length=3)
    assert found[0].tokens == (1, 1, 1) and found[0].log_probability == 0


def test_equals_are_taken_in_order() -> None:
    levels = constant(np.arange(99) % 3 / 1.0)
    found = beam_search(levels, (), start=[0], stop=98, beam_size=3, max_length=2, n_best=3)
    assert [one.tokens for one in found[0]] == [(2, 2), (2, 5), (2, 8)]
    found = beam_search(levels, (), start=[0], stop=None, beam_size=40, max_length=1, n_best=40)
    assert [one.tokens[0] for one in found[0]] == sorted(range(99), key=lambda i: -(i % 3))[:40]
    greedy = greedy_search(constant(np.array([0.0, 1, 1])), (), start=[0], stop=None, max_length=2)
    assert greedy[0].tokens == (1, 1)


def test_a_length_counts_the_stop_symbol() -> None:
    cell = constant(np.log([0.5, 0.5]))
    (found,) = beam_search(
        cell, (), start=[0], stop=1, beam_size=4, max_length=2, n_best=3, length_penalty=2.0
    )
    half = math.log(0.5)
    expected = {
        Hypothesis((), half, half, True),
        Hypothesis((0,), 2 * half, 2 * half / (7 / 6) ** 2, True),
        Hypothesis((0, 0), 2 * half, 2 * half / (7 / 6) ** 2, False),
    }
    assert set(found) == expected


# Errors.

GOOD: dict[str, Any] = {"start": [0, 0], "stop": 1, "max_length": 3}


@pytest.fixture
def cell() -> Iterator[Callable[..., Any]]:
    return constant(np.zeros(3))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"stop": -1}, ValueError, "stop is an integer of at least 0, not -1"),
        ({"stop": 1.0}, ValueError, "stop is an integer"),
        ({"stop": True}, ValueError, "stop is an integer .*not True"),
        ({"stop": 3}, ValueError, r"stop=3 is none of the 3 symbols.*stop=None"),
        ({"max_length": -1}, ValueError, "max_length is an integer of at least 0"),
        ({"max_length": 2.5}, ValueError, "max_length is an integer"),
        ({"start": 0.5}, TypeError, r"start is a symbol or one for each row.*float64"),
        ({"start": [[0]]}, TypeError, r"integers \(B,\); not int64 of shape \(1, 1\)"),
        ({"start": True}, TypeError, "start is a symbol"),
        ({"start": 0}, ValueError, r"how many rows\?.*start as integers \(B,\)"),
        ({"memory": tg.zeros((3, 1))}, ValueError, r"memory \(3, 1\), start \(2,\)"),
        ({"memory": {"a": tg.zeros(())}}, ValueError, r"along axis 0; not memory \(\)"),
    ],
)
@pytest.mark.parametrize("search", SEARCHES)
def test_bad_arguments_are_named(
    search: str, bad: dict[str, Any], error: type[Exception], message: str, cell: Any
) -> None:
    name = "sample" if search == "sample" else f"{search}_search"
    with pytest.raises(error, match=f"{name}: .*{message}"):
        SEARCHES[search](cell, (), **{**GOOD, **bad})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"beam_size": 0}, "beam_size is an integer of at least 1, not 0"),
        ({"beam_size": 2.0}, "beam_size is an integer"),
        ({"n_best": 0}, "n_best is an integer of at least 1"),
        ({"n_best": 3}, "n_best=3 of a beam of 2; it needs beam_size=3"),
        ({"length_penalty": INF}, "length_penalty is a number, .*not inf"),
        ({"length_penalty": math.nan}, "not nan"),
        ({"length_penalty": None}, "not None"),
        ({"length_penalty": True}, "not True"),
        ({"length_penalty": 1e6}, "not 1000000.0 for max_length=3"),
        ({"length_penalty": -1e6, "max_length": 0}, "for max_length=0"),
        ({"length_penalty": 1e6, "max_length": 1}, "for max_length=1"),
    ],
)
def test_bad_beams_are_named(bad: dict[str, Any], message: str, cell: Any) -> None:
    with pytest.raises(ValueError, match=f"beam_search: .*{message}"):
        beam_search(cell, (), **{**GOOD, "beam_size": 2, **bad})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"temperature": 0}, "temperature is a positive number, not 0; .*greedy_search"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": INF}, "temperature"),
        ({"temperature": None}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_k": 0}, "top_k is an integer of at least 1, not 0"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_p": 0}, "top_p is a probability above 0 and at most 1, not 0"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_p": math.nan}, "top_p"),
        ({"n": 0}, "n is an integer of at least 1, not 0"),
    ],
)
def test_bad_sampling_is_named(bad: dict[str, Any], message: str, cell: Any) -> None:
    with pytest.raises(ValueError, match=f"sample: .*{message}"):
        sample(cell, (), **{**GOOD, **bad})


@pytest.mark.parametrize("penalty", [-300.0, 300.0])
@pytest.mark.parametrize("longest", [0, 1, 20])
def test_normalisers_stay_finite_as_far_as_they_are_allowed(penalty: float, longest: int) -> None:
    (found,) = beam_search(
        constant(np.zeros(3)),
        (),
        start=[0],
        stop=1,
        beam_size=3,
        max_length=longest,
        length_penalty=penalty,
    )
    assert math.isfinite(found[0].score)


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (lambda s: (tg.zeros((2,)), s), ValueError, r"logits \(2, V\).*not \(2,\)"),
        (lambda s: (tg.zeros((3, 4)), s), ValueError, r"for 2 tokens .* not \(3, 4\)"),
        (lambda s: (tg.zeros((2, 0)), s), ValueError, r"not \(2, 0\)"),
        (lambda s: (tg.full((2, 3), math.nan), s), ValueError, "nan or inf; detect_anomaly"),
        (lambda s: (tg.full((2, 3), INF), s), ValueError, "nan or inf"),
        (lambda s: ([[0.0] * 3] * 2, s), TypeError, r"logits a Tensor \(2, V\), not a list"),
        (lambda s: (tg.zeros((2, 3)), tg.zeros((1, 1))), TypeError, r"returned float32 \(1, 1\)"),
        (lambda s: (tg.zeros((2, 3)), tg.zeros(())), TypeError, r"returned float32 \(\)"),
        (lambda s: (s, tg.zeros((2, 3))), TypeError, r"of float32 \(2, 1\) .* float32 \(2, 3\)"),
        (lambda s: (tg.zeros((2, 3)), s.astype("float64")), TypeError, r"float64 .* must agree"),
        (
            lambda s: (tg.zeros((2, 3)), (s, s)),
            TypeError,
            r"structured \* and returned \(\*, \*\); .* \(logits, state\), in this order",
        ),
        (lambda s: tg.zeros((2, 3)), TypeError, r"returns \(logits, state\), not \*"),
        (lambda s: (tg.zeros((2, 3)), s, s), TypeError, r"return logits, \(h, c\)"),
    ],
)
def test_cells_that_are_none_are_told(
    result: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"greedy_search: .*{message}"):
        greedy_search(lambda tokens, state: result(state), tg.zeros((2, 1)), **GOOD)


def test_the_number_of_symbols_stays() -> None:
    sizes = iter([3, 4])

    def growing(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        return tg.zeros((2, next(sizes))), state

    with pytest.raises(ValueError, match="logits of 3 symbols, then of 4; -inf"):
        greedy_search(growing, (), **GOOD)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_decoder_is_searched_by_its_step(search: str) -> None:
    attention = nn.MultiplicativeAttention(2, 2)
    decoder = nn.AttentionDecoder(nn.Embedding(3, 1), nn.GRUCell(3, 2), attention)
    memory = decoder.remember(tg.ones((1, 2, 2)))
    state = decoder.initial_state(memory)
    with pytest.raises(TypeError, match=r"a AttentionDecoder is none, decoder\.step is"):
        SEARCHES[search](decoder, state, **GOOD, memory=memory)


def test_a_state_is_asked_for_by_its_absence() -> None:
    with pytest.raises(TypeError, match=r"give a state, such as decoder.initial_state\(memory\)"):
        greedy_search(constant(np.zeros(3)), None, **GOOD)
    with pytest.raises(ValueError, match=r"how many rows\?"):
        greedy_search(LanguageModel(3, 2), None, **{**GOOD, "start": 0})
    with pytest.raises(ValueError, match=r"not state \(2, 1\), state \(3,\), start \(2,\)"):
        greedy_search(constant(np.zeros(3)), (tg.zeros((2, 1)), tg.zeros((3,))), **GOOD)
    memory = tg.zeros((2, 1))
    model = LanguageModel(3, 2)

    class WithMemory(nn.Module):
        def forward(self, tokens: Tensor, state: Any, memory: Tensor) -> tuple[Tensor, Any]:
            return model(tokens, state)

        initial_state = staticmethod(model.initial_state)

    found = greedy_search(WithMemory(), None, **{**GOOD, "start": 0}, memory=memory)
    assert found == greedy_search(model, None, **GOOD)
