"""Data: sequences made into batches that a recurrent network can be trained on.

What is here is small and stays on the host until a batch is asked for; that goes to the backend
chosen (``use_backend``), whatever the data came in. An order is a function of the seed and the
epoch, drawn from a generator of its own, and never of what came before. So a place in the data is a
few integers, ``manual_seed`` neither changes an order nor is disturbed by one, and it is the same
on every backend.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain, pairwise
from typing import Any, Self

import numpy as np

from .atomic import attributes, commit
from .primitives.creation import tensor
from .tensor import Tensor, on_host

__all__ = [
    "Batches",
    "BytePairs",
    "ContiguousBatches",
    "SlidingWindows",
    "Vocabulary",
    "pad_arrays",
    "random_split",
]

Array = np.ndarray[Any, Any]
Symbol = str | int


class Vocabulary:
    """Symbols, such as characters, words or notes, and their numbers from 0.

    ::

        letters = Vocabulary.from_sequences(words, specials=["<pad>", "<start>", "<stop>"])
        numbers = letters.encode(["<start>", *"cat", "<stop>"])
        "".join(letters.decode(numbers, specials=False))  # cat

    Specials are symbols like any other, only that no sequence need hold them. Put padding first:
    its number is then 0, which ``pad_arrays`` and ``pad_sequences`` pad with.

    Args:
        symbols: strings or integers in the order of their numbers, specials among them.
        specials: those that ``decode`` can leave out.
        unknown: the special that stands for whatever is not among the symbols; None refuses it.

    Raises:
        TypeError: for a symbol that is neither a string nor an integer.
        ValueError: for one that comes twice, a special that is not among the symbols and an
            ``unknown`` that is not among the specials.
    """

    def __init__(
        self,
        symbols: Iterable[Symbol],
        *,
        specials: Iterable[Symbol] = (),
        unknown: Symbol | None = None,
    ) -> None:
        self.symbols = tuple(map(_symbol, symbols))
        self.specials = tuple(map(_symbol, specials))
        self.unknown = unknown
        self._numbers = {symbol: i for i, symbol in enumerate(self.symbols)}
        if len(self._numbers) < len(self.symbols):
            twice = [symbol for symbol, count in Counter(self.symbols).items() if count > 1]
            raise ValueError(f"Vocabulary: {_some(twice)} among the symbols more than once")
        strangers = [symbol for symbol in self.specials if symbol not in self._numbers]
        if strangers:
            raise ValueError(f"Vocabulary: special, but not among the symbols: {_some(strangers)}")
        if unknown is not None and unknown not in self.specials:
            raise ValueError(f"Vocabulary: unknown={unknown!r} is none of the specials")

    @classmethod
    def from_sequences(
        cls,
        sequences: Iterable[Iterable[Symbol]],
        *,
        specials: Iterable[Symbol] = (),
        unknown: Symbol | None = None,
        min_count: int = 1,
    ) -> Self:
        """The specials, in the order given, and then every symbol of the sequences, sorted.

        Sorted, so that a symbol's number does not depend on the order of the data. The sequences
        are read once; a string is a sequence of characters. With ``min_count``, only symbols that
        come that often.
        """
        at_least = _at_least_one(min_count, "min_count", "Vocabulary")
        first = tuple(map(_symbol, specials))
        counts = Counter(map(_symbol, chain.from_iterable(sequences)))
        found = {symbol for symbol, count in counts.items() if count >= at_least}
        rest = sorted(found - set(first), key=lambda symbol: (isinstance(symbol, str), symbol))
        return cls([*first, *rest], specials=first, unknown=unknown)

    def to_dict(self) -> dict[str, Any]:
        """Itself as plain data, ready for JSON; ``Vocabulary(**data)`` makes it again."""
        return {
            "symbols": list(self.symbols),
            "specials": list(self.specials),
            "unknown": self.unknown,
        }

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, symbol: object) -> bool:
        return symbol in self._numbers

    def __getitem__(self, symbol: Symbol) -> int:
        """The number of a symbol, that of ``unknown`` for others; ValueError if there is none."""
        number = self._numbers.get(symbol)
        if number is None and self.unknown is not None:
            number = self._numbers[self.unknown]
        if number is None:
            raise ValueError(
                f"Vocabulary: {symbol!r} is none of the {len(self)} symbols; give the vocabulary "
                "an unknown=, or more to read"
            )
        return number

    def encode(self, sequence: Iterable[Symbol]) -> Array:
        """The numbers of its symbols, int64 (T,); ValueError as for one symbol."""
        return np.array([self[symbol] for symbol in sequence], dtype=np.int64)

    def decode(self, numbers: Any, *, specials: bool = True) -> list[Symbol]:
        """The symbols that numbers (T,) stand for, with ``specials=False`` the others only.

        Raises TypeError for what holds no integers, ValueError for a number of no symbol.
        """
        given = on_host("Vocabulary: decode", numbers)
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise TypeError(
                f"Vocabulary: decode takes integers (T,), not {given.dtype} {given.shape}"
            )
        wrong = given[(given < 0) | (given >= len(self))]
        if wrong.size:
            raise ValueError(f"Vocabulary: there is no symbol {wrong[0]}, only {len(self)}")
        found = [self.symbols[int(i)] for i in given]
        return found if specials else [s for s in found if s not in self.specials]

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} symbols: {_some(self.symbols)})"


class BytePairs:
    """Words in pieces: characters, of which the commonest neighbours are joined, again and again.

    Byte-pair encoding (Gage 1994) of words (Sennrich et al. 2016). A frequent word is one piece, a
    rare one several, and a word that was never seen is spelled, so that no word is unknown::

        pieces = BytePairs.learn(words, merges=1000)
        pieces.split(["lower", "newest"])  # ["▁low", "er", "▁new", "est"]
        pieces.join(["▁low", "er", "▁new", "est"])  # ["lower", "newest"]

    "▁" stands for the beginning of a word. Numbers of the pieces are ``Vocabulary``'s affair: a
    character that no word had is a piece of its own, and its ``unknown``.

    Args:
        merges: pairs of pieces in the order in which they are joined.
    """

    MARK = "▁"

    def __init__(self, merges: Iterable[tuple[str, str]]) -> None:
        self.merges = tuple([(str(first), str(second)) for first, second in merges])
        self._order = {pair: i for i, pair in enumerate(self.merges)}
        if len(self._order) < len(self.merges):
            raise ValueError("BytePairs: a pair is joined twice")
        self._known: dict[str, list[str]] = {}

    @classmethod
    def learn(cls, words: Iterable[str], merges: int = 1000, min_count: int = 2) -> Self:
        """The pairs that are commonest when their turn comes, each word as often as it is given.

        Of equally common ones the first by the alphabet is joined, so that the order of the words
        does not matter. Fewer than ``merges`` are found where no pair comes ``min_count`` times.
        """
        wanted = _at_least_one(merges, "merges", "BytePairs")
        least = _at_least_one(min_count, "min_count", "BytePairs")
        counts = Counter(words)
        spelled = {word: cls._spelled(word) for word in counts}
        pairs: Counter[tuple[str, str]] = Counter()
        places: dict[tuple[str, str], set[str]] = {}
        for word, pieces in spelled.items():
            for pair in pairwise(pieces):
                pairs[pair] += counts[word]
                places.setdefault(pair, set()).add(word)
        found: list[tuple[str, str]] = []
        while len(found) < wanted and pairs:
            best = min(pairs, key=lambda pair: (-pairs[pair], pair))
            if pairs[best] < least:
                break
            found.append(best)
            for word in places.pop(best):
                before, after = spelled[word], _joined(spelled[word], best)
                spelled[word] = after
                for pair in pairwise(before):
                    pairs[pair] -= counts[word]
                for pair in pairwise(after):
                    pairs[pair] += counts[word]
                    places.setdefault(pair, set()).add(word)
            pairs = +pairs  # without those that are gone
        return cls(found)

    def split(self, words: Iterable[str]) -> list[str]:
        """The pieces of words, one word after the other."""
        return [piece for word in words for piece in self._pieces(word)]

    def join(self, pieces: Iterable[str]) -> list[str]:
        """The words that pieces make up; what stands before the first beginning is a word, too."""
        return "".join(pieces).replace(self.MARK, " ").split()

    def to_dict(self) -> dict[str, Any]:
        """Itself as plain data, ready for JSON; ``BytePairs(**data)`` makes it again."""
        return {"merges": [list(pair) for pair in self.merges]}

    def _pieces(self, word: str) -> list[str]:
        pieces = self._known.get(word)
        if pieces is None:
            pieces = self._spelled(word)
            while len(pieces) > 1:
                pair = min(pairwise(pieces), key=lambda pair: self._order.get(pair, math.inf))
                if pair not in self._order:
                    break
                pieces = _joined(pieces, pair)
            self._known[word] = pieces
        return pieces

    @classmethod
    def _spelled(cls, word: str) -> list[str]:
        if not isinstance(word, str) or not word or cls.MARK in word or word.split() != [word]:
            raise ValueError(
                f"BytePairs: takes words, strings without spaces and {cls.MARK!r}, not {word!r}; "
                "of a text, text.split()"
            )
        return [cls.MARK + word[0], *word[1:]]

    def __repr__(self) -> str:
        return f"BytePairs({len(self.merges)} merges)"


def _joined(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """Pieces with every occurrence of a pair joined, from the left."""
    joined: list[str] = []
    last = None  # of the pieces so far, if it may still be joined
    for piece in pieces:
        if (last, piece) == pair:
            joined[-1] += piece
            last = None
        else:
            joined.append(piece)
            last = piece
    return joined


def _symbol(given: Any) -> Symbol:
    symbol = given.item() if isinstance(given, np.generic) else given
    if isinstance(symbol, bool) or not isinstance(symbol, (str, int)):
        raise TypeError(f"Vocabulary: symbols are strings or integers, not {given!r}")
    return symbol


def _some(symbols: Sequence[Symbol]) -> str:
    shown = ", ".join(map(repr, symbols[:5]))
    return f"{shown}, ..." if len(symbols) > 5 else shown


def pad_arrays(
    sequences: Iterable[Any], value: float = 0, *, backend: str | None = None
) -> tuple[Tensor, Array]:
    """Sequences (T_i, ...) as one Tensor (T, B, ...), T the longest, and their lengths (B,).

    One of no steps, such as ``[]``, is a row of padding whatever its dtype. As ``pad_sequences``,
    but for what is on the host and needs no gradient: it is padded there, with ``value``, and sent
    to the backend in one piece.

    Args:
        sequences: arrays or lists of numbers, at least one.
        value: what stands after the end of a sequence.
        backend: where the batch is put; None is the backend chosen.

    Raises:
        TypeError: for what are no numbers.
        ValueError: for none, where they differ in more than their lengths, and for a value that is
            none of their dtype.
    """
    given = list(sequences)
    try:
        rows = [_host(sequence) for sequence in given]
    except TypeError as error:
        raise TypeError(
            f"pad_arrays: {error}; vocabulary.encode(sequence) makes numbers of symbols"
        ) from None
    # What dtype, and what shape a step has, is told by those that have steps, if any has.
    telling = [row for row in rows if row.size] or [
        row for row, own in zip(rows, given, strict=True) if hasattr(own, "dtype")
    ]
    kinds = {(row.shape[1:], row.dtype) for row in telling or rows if row.ndim}
    steps = {row.shape[1:] for row in rows if row.ndim and row.shape != (0,)}
    if (
        len(kinds) != 1
        or not steps <= {shape for shape, _ in kinds}
        or not all(row.ndim for row in rows)
    ):
        raise ValueError(
            "pad_arrays: at least one sequence (T_i, ...), and they differ in nothing but T_i; "
            f"these are {', '.join(f'{row.dtype} {row.shape}' for row in rows) or 'none'}"
        )
    ((shape, dtype),) = kinds
    if not _fits(value, dtype):
        raise ValueError(f"pad_arrays: sequences of {dtype} cannot be padded with {value}")
    lengths = np.array([len(row) for row in rows])
    batch = np.full((max(lengths), len(rows), *shape), value, dtype=dtype)
    for b, row in enumerate(rows):
        if len(row):
            batch[: len(row), b] = row
    return tensor(batch, backend=backend), lengths


def _fits(value: float, dtype: np.dtype[Any]) -> bool:
    """Whether NumPy would neither round it to an integer nor wrap it around."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return isinstance(value, (int, np.integer)) and limits.min <= value <= limits.max
    return dtype.kind == "f" or value in (0, 1)


class Batches:
    """Independent items in batches, in another order each epoch; every item once an epoch.

    ::

        batches = Batches(words, batch_size=64, seed=0, length=len)
        while batches.epoch < 10:
            for words in batches:
                inputs, lengths = pad_arrays(map(vocabulary.encode, words))

    A batch is a list of items. ``for`` gives those that are left of the current epoch, and the next
    one begins when there are none: a loop that was broken off, or a run that was resumed by
    ``load_state_dict``, goes on where it was. The place is after the last batch given, so save it
    when that one has been learned from.

    With ``length``, a batch holds items of about the same length, and there is little to pad: the
    items are shuffled, those of ``pool`` batches at a time are sorted, and the batches shuffled.

    Args:
        items: anything that ``items[i]`` and ``len`` work on, a list, an array, a memory map,
            which is not copied; any other iterable is read once and kept. For arrays that belong
            together take ``range(len(x))``, and ``x[rows], y[rows]`` of each batch of rows.
        batch_size: items, at least 1; the last of those that are shuffled into a batch are fewer.
        seed: from 0 to 2**32 - 1.
        length: ``length(item)`` is the number of steps in it.
        pool: batches that are sorted together, at least 1: more is less padding, and less chance.

    Raises:
        TypeError: for a size or a seed that is no integer.
        ValueError: for no items, a size below 1 and a seed out of range.
    """

    def __init__(
        self,
        items: Any,
        batch_size: int,
        *,
        seed: int,
        length: Callable[[Any], int] | None = None,
        pool: int = 100,
    ) -> None:
        self.items = _indexable(items)
        self.batch_size = _at_least_one(batch_size, "batch_size", "Batches")
        self.seed = _seed(seed, "Batches")
        self.pool = _at_least_one(pool, "pool", "Batches")
        self.epoch = 0
        self.position = 0
        if not len(self.items):
            raise ValueError("Batches: there are no items")
        self._lengths = None if length is None else np.array([length(x) for x in _each(self.items)])

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return -(-len(self.items) // self.batch_size)

    def __iter__(self) -> Iterator[list[Any]]:
        """The batches of this epoch that are left."""
        epoch, order = self.epoch, self._order()
        while self.epoch == epoch and self.position < len(self):
            rows = order[self.position]
            self.position += 1
            yield [self.items[i] for i in rows.tolist()]
        if self.epoch == epoch:
            commit([attributes(self, epoch=epoch + 1, position=0)])

    def _order(self) -> list[Array]:
        """Which items are in each batch of this epoch."""
        generator = np.random.default_rng([self.seed, self.epoch])
        rows = generator.permutation(len(self.items))
        if self._lengths is None:
            return _pieces(rows, self.batch_size)
        pools = _pieces(rows, self.batch_size * self.pool)
        by_length = [pool[np.argsort(self._lengths[pool], kind="stable")] for pool in pools]
        batches = [batch for pool in by_length for batch in _pieces(pool, self.batch_size)]
        return [batches[i] for i in generator.permutation(len(batches))]

    def state_dict(self) -> dict[str, Any]:
        """The place, as plain numbers, and what it is a place in."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self.position,
            "items": len(self.items),
            "batch_size": self.batch_size,
            "pool": None if self._lengths is None else self.pool,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was called, with the same items.

        Raises ValueError if there are others, or other batches of them; nothing is changed then.
        """
        own = self.state_dict()
        if not isinstance(saved, Mapping) or set(saved) != set(own):
            raise ValueError(f"load_state_dict into Batches: expected {sorted(own)}, not {saved!r}")
        for name in ("items", "batch_size", "pool"):
            if type(saved[name]) is not type(own[name]) or saved[name] != own[name]:
                raise ValueError(
                    f"load_state_dict into Batches: {name} was {saved[name]!r} and is {own[name]!r}"
                )
        for name, end in (("seed", 2**32), ("epoch", math.inf), ("position", len(self) + 1)):
            if type(saved[name]) is not int or not 0 <= saved[name] < end:
                raise ValueError(f"load_state_dict into Batches: {name} cannot be {saved[name]!r}")
        commit([attributes(self, **{name: saved[name] for name in ("seed", "epoch", "position")})])


def _indexable(items: Any) -> Any:
    sized = hasattr(items, "__getitem__") and hasattr(items, "__len__")
    return items if sized and not isinstance(items, (Mapping, AbstractSet)) else list(items)


def _each(items: Any) -> Iterator[Any]:
    return (items[i] for i in range(len(items)))


def _pieces(rows: Array, size: int) -> list[Array]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


class SlidingWindows:
    """A long series seen through a window that slides along: what came, and what comes next.

    Window i is a pair ``(inputs, targets)`` of Tensors: ``steps`` values of the series from
    ``i * stride`` on, and the ``horizon`` values that follow. An integer gives one, (steps, ...)
    and (horizon, ...); integers (B,) give a batch, time first, (steps, B, ...) and (horizon, B,
    ...)::

        windows = SlidingWindows(temperatures, steps=30, horizon=7)
        for rows in Batches(range(len(windows)), 32, seed=0):
            inputs, targets = windows[rows]

    Args:
        series: numbers (N, ...): an array, a list or a Tensor. An array on the host is not copied,
            so a memory map of a large file will do.
        steps: time steps of the inputs, at least 1.
        horizon: time steps of the targets, at least 1.
        stride: steps from the beginning of a window to that of the next, at least 1.
        backend: where the windows are put; None is the backend chosen when one is asked for.

    Raises:
        TypeError: for a series of something else, and for sizes that are no integers.
        ValueError: for a series without an axis of time, or too short, and for sizes below 1.
    """

    def __init__(
        self,
        series: Any,
        steps: int,
        horizon: int = 1,
        *,
        stride: int = 1,
        backend: str | None = None,
    ) -> None:
        self.steps = _at_least_one(steps, "steps", "SlidingWindows")
        self.horizon = _at_least_one(horizon, "horizon", "SlidingWindows")
        self.stride = _at_least_one(stride, "stride", "SlidingWindows")
        self.backend = backend
        self.series = _host(series)
        if self.series.dtype.kind not in "biuf":
            raise TypeError(f"SlidingWindows: a series of numbers, not of {self.series.dtype}")
        if not self.series.ndim or len(self.series) < self.steps + self.horizon:
            raise ValueError(
                f"SlidingWindows: a series {self.series.shape} is too short for steps={steps} and "
                f"horizon={horizon} after them"
            )

    def __len__(self) -> int:
        """The number of windows."""
        return (len(self.series) - self.steps - self.horizon) // self.stride + 1

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        """One window, or a batch of them, counted from the end if negative."""
        rows = np.asarray(index)
        if rows.dtype.kind not in "iu" or rows.ndim > 1:
            raise TypeError(f"SlidingWindows: an integer or integers (B,), not {index!r}")
        rows = rows.astype(np.int64)  # what is computed from a small kind would wrap around
        wrong = rows[(rows < -len(self)) | (rows >= len(self))]
        if wrong.size:
            raise IndexError(f"SlidingWindows: window {wrong.flat[0]} of {len(self)}")
        first = rows % len(self) * self.stride
        return self._steps(first, self.steps), self._steps(first + self.steps, self.horizon)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return _each(self)

    def _steps(self, first: Array, steps: int) -> Tensor:
        return tensor(self.series[np.add.outer(np.arange(steps), first)], backend=self.backend)


class ContiguousBatches:
    """One long stream of tokens, read in ``batch_size`` places at once, for language models.

    The stream is cut into ``batch_size`` pieces of equal length L, one for each row; the fewer than
    ``batch_size`` tokens that are left over at its end are not used. Batch i is a pair ``(inputs,
    targets)`` of int64 Tensors (steps, batch_size), time first, the targets being the tokens that
    follow the inputs. Row b of batch i + 1 continues row b of batch i, so a state can be carried::

        for inputs, targets in ContiguousBatches(tokens, batch_size=32, steps=64):
            logits, state = model(inputs, state)
            state = tg.detach(state)

    Every row is read to its end: the last batch has fewer steps if ``steps`` does not divide L.

    Args:
        tokens: integers (N,), N > ``batch_size``: an array, a list or a Tensor. An array on the
            host is not copied, so a memory map of a large file will do.
        batch_size: rows, at least 1.
        steps: time steps of a batch, at least 1.
        backend: where the batches are put; None is the backend chosen when one is asked for.

    Raises:
        TypeError: for tokens that are no integers.
        ValueError: for tokens that are not (N,), or too few, and for sizes below 1.
    """

    def __init__(
        self, tokens: Any, batch_size: int, steps: int, *, backend: str | None = None
    ) -> None:
        self.batch_size = _at_least_one(batch_size, "batch_size", "ContiguousBatches")
        self.steps = _at_least_one(steps, "steps", "ContiguousBatches")
        self.backend = backend
        stream = on_host("ContiguousBatches", tokens)
        if stream.size and stream.dtype.kind not in "iu":
            raise TypeError(f"ContiguousBatches: tokens are integers, not {stream.dtype}")
        if stream.ndim != 1:
            raise ValueError(f"ContiguousBatches: tokens (N,), not of shape {stream.shape}")
        self.length = (len(stream) - 1) // self.batch_size
        if self.length < 1:
            raise ValueError(
                f"ContiguousBatches: {len(stream)} tokens are too few for batch_size={batch_size}: "
                "each row needs one, and the last row another to predict"
            )
        used = self.batch_size * self.length
        self._inputs, self._targets = (
            stream[first : first + used].reshape(self.batch_size, self.length) for first in (0, 1)
        )

    def __len__(self) -> int:
        """The number of batches."""
        return -(-self.length // self.steps)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Batch ``index``, counted from the end if negative."""
        i = _integer(index, "the number of a batch", "ContiguousBatches")
        if not -len(self) <= i < len(self):
            raise IndexError(f"ContiguousBatches: batch {index} of {len(self)}")
        first = i % len(self) * self.steps
        return self._steps(self._inputs, first), self._steps(self._targets, first)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[i] for i in range(len(self)))

    def _steps(self, rows: np.ndarray[Any, Any], first: int) -> Tensor:
        return tensor(rows[:, first : first + self.steps].T, dtype="int64", backend=self.backend)


def random_split(items: Any, fractions: Sequence[float], *, seed: int) -> tuple[list[Any], ...]:
    """Items in parts of the sizes asked for, by chance: to train, to validate, to test.

    ::

        training, validation = random_split(words, [0.9, 0.1], seed=0)

    Every item is in one part, and items keep their order. Of a time series, take slices instead:
    what lies between two days of training is no test.

    Args:
        items: anything that ``items[i]`` and ``len`` work on; any other iterable is read once. For
            arrays take ``range(len(x))``, and ``x[rows]`` of each part.
        fractions: of the items, for each part; positive, together 1.
        seed: from 0 to 2**32 - 1.

    Raises:
        ValueError: for other fractions, or where a part would have no items.
    """
    given = np.atleast_1d(np.asarray(fractions, dtype=np.float64))
    if not (given > 0).all() or not math.isclose(given.sum(), 1):
        raise ValueError(f"random_split: fractions are positive and together 1, not {fractions}")
    kept = _indexable(items)
    rows = np.random.default_rng(_seed(seed, "random_split")).permutation(len(kept))
    ends = [0, *np.rint(np.cumsum(given) * len(kept)).astype(int).tolist()]
    if any(first == end for first, end in pairwise(ends)):
        raise ValueError(f"random_split: {len(kept)} items are too few for parts of {fractions}")
    parts = [np.sort(rows[first:end]).tolist() for first, end in pairwise(ends)]
    return tuple([kept[i] for i in part] for part in parts)


def _host(given: Any) -> Array:
    """An array as it is, anything else as ``tensor`` reads it."""
    if isinstance(given, np.ndarray):
        return on_host("data", given)
    return tensor(given, backend="numpy").numpy()


def _seed(given: Any, name: str) -> int:
    seed = _integer(given, "seed", name)
    if not 0 <= seed < 2**32:
        raise ValueError(f"{name}: seed is an integer from 0 to 2**32 - 1, not {seed}")
    return seed


def _at_least_one(given: Any, what: str, name: str) -> int:
    size = _integer(given, what, name)
    if size < 1:
        raise ValueError(f"{name}: {what} is at least 1, not {size}")
    return size


def _integer(given: Any, what: str, name: str) -> int:
    try:
        return operator.index(given)
    except TypeError:
        raise TypeError(f"{name}: {what} is an integer, not {given!r}") from None
