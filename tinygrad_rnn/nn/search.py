"""What a model says when nobody knows the next symbol: greedy and beam search, and sampling.

    memory = decoder.remember(values, lengths=source_lengths)
    found = beam_search(
        decoder.step, decoder.initial_state(memory, bridge(final)), memory=memory,
        start=1, stop=2, beam_size=5, max_length=50, length_penalty=0.6,
    )
    found[b][0].tokens  # the best of row b

Any ``cell(tokens, state) -> (logits, state)``, with tokens (B,) and logits (B, V), can be searched:
a language model is one, ``AttentionDecoder.step`` with its memory another.

A hypothesis is a row of the batch. The state is gathered along axis 0 whenever hypotheses fork or
are dropped; the memory, which belongs to the row that was asked about and is the same for all its
hypotheses, only when their number changes. A row that is done leaves the batch. Choosing is done on
the host, by NumPy and in float64: once a step the logits are copied there, and symbols go back. No
graph is kept.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from .. import random
from ..dtypes import default_dtype
from ..primitives.creation import asarray
from ..primitives.indexing import take
from ..recurrence import initial_state
from ..structure import flatten, map_leaves
from ..tensor import Tensor, as_tensor, no_grad
from .seq2seq import AttentionDecoder

AnyCell = Callable[..., tuple[Any, Any]]  # a Cell, or one that is given a memory, too
HostArray = np.ndarray[Any, Any]
Choice = list[tuple[int, int]]  # which hypotheses of a beam go on, and with which symbols
Choose = Callable[[Sequence[int], Sequence[HostArray]], list[Choice]]  # of these beams


class Hypothesis(NamedTuple):
    """A string that a search found.

    It is finished if the stop symbol ended it. If not, it was cut at ``max_length``, or has come to
    a dead end: all logits after it were -inf, so that no string begins like this.
    """

    tokens: tuple[int, ...]
    """Its symbols, without start and stop."""
    log_probability: float
    """Of the model saying them and, if finished, the stop symbol; -inf at a dead end."""
    score: float
    """What hypotheses compete by: ``log_probability``, in ``beam_search`` normalised by length."""
    finished: bool


def greedy_search(
    cell: AnyCell,
    state: Any,
    *,
    start: Any,
    stop: int | None,
    max_length: int,
    memory: Any = None,
) -> list[Hypothesis]:
    """Always the most likely symbol: for each row the hypothesis that ``beam_search`` finds by one.

    Arguments and errors are those of ``beam_search``.
    """
    search = _Search("greedy_search", cell, state, start, stop, max_length, memory)
    return [best for (best,) in search.run(_beam(1, stop))]


def beam_search(
    cell: AnyCell,
    state: Any,
    *,
    start: Any,
    stop: int | None,
    beam_size: int,
    max_length: int,
    length_penalty: float = 0.0,
    n_best: int = 1,
    memory: Any = None,
) -> list[list[Hypothesis]]:
    """The ``n_best`` strings of each row, by falling score, among those that a beam comes upon.

    At each step a row's candidates are all its live hypotheses with one more symbol. Of the best
    ``beam_size`` candidates, those that stop are finished; of all that do not stop, the best
    ``beam_size`` live on. So stops never exhaust the beam, and a stop that would not have been
    among the best does not compete later.

    What competes is all that finished and, after ``max_length`` steps, all that are still alive. A
    row is done before that as soon as no live hypothesis can beat the ``n_best``-th of those that
    finished. This loses nothing: a log-probability can only fall, so the score of what comes of a
    hypothesis is at most its log-probability over the largest normaliser of the lengths to come.
    Of equals the earlier wins; at one step, that of the better hypothesis, then the lower symbol.

    A score is ``log_probability / ((5 + length) / 6) ** length_penalty`` (Wu et al. 2016, equation
    14, without coverage), where the length counts the symbols whose probabilities were multiplied:
    all tokens and, if finished, the stop symbol.

    Args:
        cell: ``cell(tokens, state) -> (logits, state)``, or ``cell(tokens, state, memory)`` if a
            memory is given; tokens (B,) int64, logits (B, V), where -inf forbids a symbol. In
            evaluation mode, if it has one.
        state: a structure of Tensors, rows along axis 0, as cells have it; that of a layer has
            them along axis 1. If None, ``cell.initial_state(batch_shape, dtype, backend)`` is asked
            for it.
        start: the first symbol that the cell is given, one for all rows or integers (B,). It alone
            says how many rows there are if there is neither a state nor a memory.
        stop: the symbol that ends a string; None if only ``max_length`` does.
        beam_size: how many hypotheses of a row live at once. 1 is greedy search, if no length is
            preferred.
        max_length: how many symbols are chosen at most, the stop symbol among them.
        length_penalty: 0 compares probabilities, more prefers longer strings, less shorter ones.
        n_best: how many hypotheses to return for a row, at most ``beam_size``; there may be fewer.
        memory: a structure of Tensors, rows along axis 0, that no step changes.

    Raises:
        ValueError: for numbers out of range, rows that do not agree or cannot be known, logits that
            are not (B, V), nan or inf.
        TypeError: for a start that is no integer, a state or cell that is none, or a cell that
            returns another kind of state than it was given.
    """
    _check_integer("beam_search", "beam_size", beam_size, least=1)
    _check_integer("beam_search", "n_best", n_best, least=1)
    if n_best > beam_size:
        raise ValueError(
            f"beam_search: n_best={n_best} of a beam of {beam_size}; it needs beam_size={n_best}"
        )
    search = _Search("beam_search", cell, state, start, stop, max_length, memory)
    # So that normalisers are float64, which end at exp(709).
    if not abs(_number(length_penalty) * math.log((6 + max_length) / 5)) < 700:
        raise ValueError(
            f"beam_search: length_penalty is a number, usually between 0 and 2, not "
            f"{length_penalty!r} for max_length={max_length}"
        )
    return search.run(_beam(beam_size, stop), n_best, length_penalty)


def sample(
    cell: AnyCell,
    state: Any,
    *,
    start: Any,
    stop: int | None,
    max_length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    n: int = 1,
    memory: Any = None,
) -> list[list[Hypothesis]]:
    """Strings drawn symbol by symbol: ``n`` for each row, by falling log-probability.

    ``manual_seed`` decides which, the same on every backend. A row's are the same whatever rows
    there are beside it, and those of a smaller ``n`` are among those of a greater one.

    * Logits are divided by ``temperature``: below 1 likely symbols become likelier.
    * Then only the ``top_k`` likeliest are drawn from; of equals the lower symbols.
    * Of these, only the smallest set of likeliest symbols that has a share of at least ``top_p``,
      above 0; 1 keeps all (nucleus sampling, Holtzman et al. 2020).

    ``log_probability`` is the model's own, whatever these three do to it. The other arguments, and
    the errors, are those of ``beam_search``.
    """
    if not 0 < _number(temperature) < math.inf:
        raise ValueError(
            f"sample: temperature is a positive number, not {temperature}; for the likeliest "
            "symbols use greedy_search"
        )
    if top_k is not None:
        _check_integer("sample", "top_k", top_k, least=1)
    if top_p is not None and not 0 < _number(top_p) <= 1:
        raise ValueError(f"sample: top_p is a probability above 0 and at most 1, not {top_p}")
    _check_integer("sample", "n", n, least=1)
    search = _Search("sample", cell, state, start, stop, max_length, memory)

    def choose(numbers: Sequence[int], totals: Sequence[HostArray]) -> list[Choice]:
        shape = search.rows, n
        draws = random.uniform(shape, dtype="float64", backend="numpy").numpy().reshape(-1)
        return [
            [(0, symbol) for symbol in _drawn(total[0], draws[number], temperature, top_k, top_p)]
            for number, total in zip(numbers, totals, strict=True)
        ]

    drawn = [one for (one,) in search.run(choose, beams_per_row=n)]
    return [sorted(drawn[i : i + n], key=_falling) for i in range(0, len(drawn), n)]


class _Live(NamedTuple):
    """A hypothesis that may go on."""

    parent: int  # the row of the batch, at the step before, that it continues
    tokens: tuple[int, ...]
    log_probability: float


class _Beam:
    """Hypotheses of a row that was asked about: those alive, and the best that ended."""

    def __init__(
        self, row: int, stop: int | None, max_length: int, n_best: int, length_penalty: float
    ) -> None:
        self.row, self.stop, self.max_length, self.n_best = row, stop, max_length, n_best
        self.length_penalty = length_penalty
        self.live = [_Live(row, (), 0.0)]
        self.best: list[Hypothesis] = []

    def advance(self, totals: HostArray, choice: Choice, first: int) -> None:
        """A step, in which the batch held those alive from row ``first`` on."""
        length = len(self.live[0].tokens) + 1
        for one, goes_on in zip(self.live, np.any(totals > -np.inf, axis=1), strict=True):
            if not goes_on:
                self._end(one, -math.inf, length, False)
        alive = []
        for member, symbol in choice:
            one, total = self.live[member], float(totals[member, symbol])
            if symbol == self.stop:
                self._end(one, total, length, True)
            else:
                alive.append(_Live(first + member, (*one.tokens, symbol), total))
        self.live = alive
        if alive and len(self.best) == self.n_best:
            most = max(one.log_probability for one in alive)
            largest = max(self._normaliser(length + 1), self._normaliser(self.max_length))
            if most / largest <= self.best[-1].score:
                self.live = []

    def cut(self) -> None:
        """At the greatest length."""
        for one in self.live:
            self._end(one, one.log_probability, len(one.tokens), False)

    def _end(self, one: _Live, log_probability: float, length: int, finished: bool) -> None:
        score = log_probability / self._normaliser(length)
        ended = Hypothesis(one.tokens, log_probability, score, finished)
        insort(self.best, ended, key=_falling)
        del self.best[self.n_best :]

    def _normaliser(self, length: int) -> float:
        return math.pow((5 + length) / 6, self.length_penalty)


class _Search:
    """One call, checked: a cell, and where it starts."""

    def __init__(
        self,
        name: str,
        cell: AnyCell,
        state: Any,
        start: Any,
        stop: int | None,
        max_length: int,
        memory: Any,
    ) -> None:
        if stop is not None:
            _check_integer(name, "stop", stop, least=0)
        _check_integer(name, "max_length", max_length, least=0)
        if getattr(cell, "reads_sequences", False):
            raise TypeError(
                f"{name}: {type(cell).__name__} is a layer, which reads whole sequences; a cell "
                f"takes a step, cell(tokens, state) -> (logits, state). {_OF_LAYERS}"
            )
        if isinstance(cell, AttentionDecoder) or not callable(cell):
            raise TypeError(
                f"{name}: the cell is called cell(tokens, state) for one step; a "
                f"{type(cell).__name__} is none, decoder.step is"
            )
        self.name, self.cell, self.stop, self.max_length = name, cell, stop, max_length
        self.classes: int | None = None  # how many symbols there are logits of
        symbols = self._symbols(start)
        given = {
            what: map_leaves(as_tensor, tree)
            for what, tree in (("state", state), ("memory", memory))
            if tree is not None
        }
        parts = [x for tree in given.values() for x in flatten(tree)[0]]
        rows = self._rows(given, symbols)
        homes = [x.backend for x in (*parts, start) if isinstance(x, Tensor)]
        self.backend = homes[0] if homes else backends.default().name
        if state is None:
            given["state"] = self._initial_state(rows)
        self.rows, self.start = rows, np.broadcast_to(symbols, (rows,))
        self.state, self.memory = given["state"], given.get("memory")
        self._whole_memory = self.memory  # of which the rows that are done leave
        self._places = list(range(rows))  # whose hypothesis each row of the batch is

    def run(
        self,
        choose: Choose,
        n_best: int = 1,
        length_penalty: float = 0.0,
        beams_per_row: int = 1,
    ) -> list[list[Hypothesis]]:
        """The best hypotheses of each beam; ``choose`` says which candidates are taken."""
        beams = [
            _Beam(row, self.stop, self.max_length, n_best, length_penalty)
            for row in range(self.rows)
            for _ in range(beams_per_row)
        ]
        with no_grad(), random.loop() as at_step:
            for step in range(self.max_length):
                alive = [number for number, beam in enumerate(beams) if beam.live]
                if not alive:
                    break
                at_step(step)
                current = [beams[number] for number in alive]
                ends = np.cumsum([len(beam.live) for beam in current])
                totals = np.split(self._extended(current), ends[:-1])
                choices = choose(alive, totals)
                for beam, total, choice, end in zip(current, totals, choices, ends, strict=True):
                    beam.advance(total, choice, int(end) - len(total))
        for beam in beams:
            beam.cut()
        return [beam.best for beam in beams]

    def _extended(self, beams: Sequence[_Beam]) -> HostArray:
        """The log-probabilities (N, V) of all hypotheses with each symbol behind them."""
        live = [one for beam in beams for one in beam.live]
        rows = [beam.row for beam in beams for _ in beam.live]
        parents = [one.parent for one in live]
        if parents != list(range(len(self._places))):
            self.state = map_leaves(lambda x: take(x, parents, axis=0), self.state)
        if self.memory is not None and rows != self._places:
            self.memory = map_leaves(lambda x: take(x, rows, axis=0), self._whole_memory)
        self._places = rows
        last = [one.tokens[-1] for one in live] if live[0].tokens else self.start[rows]
        tokens = asarray(np.array(last, dtype=np.int64), backend=self.backend)
        beside = () if self.memory is None else (self.memory,)
        try:
            result = self.cell(tokens, self.state, *beside)
        except (TypeError, ValueError) as error:
            if _looks_like_a_layers(self.state):
                error.add_note(f"{self.name}: the state has three axes. {_OF_LAYERS}")
            raise
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(
                f"{self.name}: a cell returns (logits, state), not {flatten(result)[1]}; a state "
                "of several parts is one tuple: return logits, (h, c)"
            )
        self._check_state(result[1])
        self.state = map_leaves(as_tensor, result[1])
        so_far = np.array([[one.log_probability] for one in live])
        with np.errstate(over="ignore"):  # lowest numbers that stand for -inf
            return so_far + _log_softmax(self._logits(result[0], len(live)))

    def _check_state(self, returned: Any) -> None:
        """Whether it is such a state as the cell was given."""
        before, structure = flatten(self.state)
        after, own = flatten(returned, structure)
        if own != structure:
            raise TypeError(
                f"{self.name}: the cell was given a state structured {structure} and returned "
                f"{own}; a cell returns (logits, state), in this order"
            )
        for a, b in zip(before, map(as_tensor, after), strict=True):
            if a.shape != b.shape or a.dtype != b.dtype:
                raise TypeError(
                    f"{self.name}: the cell was given a state of {a.dtype} {a.shape} and returned "
                    f"{b.dtype} {b.shape}; both must agree from step to step"
                )

    def _logits(self, given: Any, count: int) -> HostArray:
        """Logits on the host, checked."""
        if isinstance(given, (list, tuple, dict)):
            raise TypeError(
                f"{self.name}: a cell returns (logits, state), logits a Tensor ({count}, V), not a "
                f"{type(given).__name__}"
            )
        logits = as_tensor(given).numpy().astype(np.float64)
        if logits.ndim != 2 or logits.shape[0] != count or not logits.shape[1]:
            raise ValueError(
                f"{self.name}: for {count} tokens a cell returns logits ({count}, V), a number for "
                f"each of V symbols; not {logits.shape}"
            )
        if self.classes not in (None, logits.shape[1]):
            raise ValueError(
                f"{self.name}: the cell returned logits of {self.classes} symbols, then of "
                f"{logits.shape[1]}; -inf is what forbids a symbol"
            )
        self.classes = logits.shape[1]
        if self.stop is not None and self.stop >= logits.shape[1]:
            raise ValueError(
                f"{self.name}: stop={self.stop} is none of the {logits.shape[1]} symbols that "
                "there are logits of; with stop=None a string ends at max_length"
            )
        if not (logits < np.inf).all():
            raise ValueError(
                f"{self.name}: the cell returned logits of nan or inf; detect_anomaly() shows "
                "where they came up, and -inf is what forbids a symbol"
            )
        return logits

    def _symbols(self, start: Any) -> HostArray:
        """``start`` on the host, () or (B,)."""
        symbols = start.numpy() if isinstance(start, Tensor) else np.asarray(start)
        symbols = symbols if symbols.size else symbols.astype(np.int64)
        if symbols.dtype.kind not in "iu" or symbols.ndim > 1:
            raise TypeError(
                f"{self.name}: start is a symbol or one for each row, integers (B,); not "
                f"{symbols.dtype} of shape {symbols.shape}"
            )
        return symbols

    def _rows(self, given: dict[str, Any], symbols: HostArray) -> int:
        """How many rows there are by all that has any."""
        shapes = [(what, x.shape) for what, tree in given.items() for x in flatten(tree)[0]] + [
            ("start", shape) for shape in [symbols.shape] if shape
        ]
        rows = {shape[:1] for _, shape in shapes}
        if not rows:
            raise ValueError(
                f"{self.name}: how many rows? Without a state or a memory, give start as integers "
                "(B,), one for each row"
            )
        if len(rows) > 1 or () in rows:
            raise ValueError(
                f"{self.name}: all have the same rows, along axis 0; not "
                + ", ".join(f"{what} {shape}" for what, shape in shapes)
                + (". A memory is what decoder.remember(values) gave" * ("memory" in given))
                + (f". {_OF_LAYERS}" if _looks_like_a_layers(given.get("state")) else "")
            )
        return int(rows.pop()[0])

    def _initial_state(self, rows: int) -> Any:
        if not hasattr(self.cell, "initial_state"):
            raise TypeError(
                f"{self.name}: give a state, such as decoder.initial_state(memory), or a cell with "
                "initial_state(batch_shape, dtype, backend)"
            )
        return initial_state(self.cell, (rows,), default_dtype(), self.backend)


_OF_LAYERS = (
    "Recurrent layers keep rows on axis 1 of their state, behind layers and directions, and a "
    "search needs them on axis 0, as cells have them: step by "
    "nn.StackedCell(*map(rnn.cell, range(rnn.num_layers))), whose state is "
    "tuple(zip(*map(tg.unstack, (h_n, c_n)))) for an LSTM and tuple(tg.unstack(h_n)) for a GRU"
)


def _looks_like_a_layers(state: Any) -> bool:
    """Whether every part of a state is (layers * directions, B, H)."""
    leaves = flatten(state)[0] if state is not None else []
    return bool(leaves) and all(leaf.ndim == 3 for leaf in leaves)


def _check_integer(name: str, what: str, value: Any, least: int) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: {what} is an integer of at least {least}, not {value!r}")


def _number(value: Any) -> float:
    """For comparisons, all of which fail for what is none."""
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return float(value) if number else math.nan


def _log_softmax(logits: HostArray) -> HostArray:
    """Over axis 1; of nothing but -inf it is -inf."""
    most = logits.max(axis=1, keepdims=True)
    shifted = logits - np.where(most > -np.inf, most, 0)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    return shifted - np.log(np.where(total > 0, total, 1))


def _falling(hypothesis: Hypothesis) -> float:
    return -hypothesis.score


def _beam(size: int, stop: int | None) -> Choose:
    """Choosing as ``beam_search`` does."""

    def of_row(totals: HostArray) -> Choice:
        symbols = totals.shape[1]
        # No hypothesis stops twice: half of these, at least, go on.
        pairs = [divmod(i, symbols) for i in _largest(totals.reshape(-1), 2 * size).tolist()]
        stopping = [pair for pair in pairs[:size] if pair[1] == stop]
        return stopping + [pair for pair in pairs if pair[1] != stop][:size]

    return lambda numbers, totals: [of_row(total) for total in totals]


def _drawn(
    total: HostArray, draw: float, temperature: float, top_k: int | None, top_p: float | None
) -> list[int]:
    """The symbol, if any is possible, that ``draw`` in [0, 1) falls on, likelier ones first."""
    order = _largest(total, total.size if top_k is None else top_k)
    if not order.size:
        return []
    with np.errstate(over="ignore"):  # next to no temperature
        mass = np.cumsum(np.exp((total[order] - total[order[0]]) / temperature))
    if top_p is not None:
        mass = mass[: np.searchsorted(mass, top_p * mass[-1]) + 1]
    return [int(order[np.searchsorted(mass, draw * mass[-1], side="right")])]


def _largest(values: HostArray, count: int) -> HostArray:
    """Where the largest of values (N,) are, in falling order, the first first; -inf is left out."""
    least = np.partition(values, -count)[-count] if count < values.size else -np.inf
    places = np.flatnonzero((values >= least) & (values > -np.inf))
    return places[np.argsort(-values[places], kind="stable")][:count]
