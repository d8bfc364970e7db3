"""Data: nothing is lost or comes twice, and any place in it can be come back to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.data import (
    Batches,
    BytePairs,
    ContiguousBatches,
    SlidingWindows,
    Vocabulary,
    pad_arrays,
    random_split,
)

WORDS = ["banana", "cab", "ad", "", "abc"]

# ContiguousBatches: one long stream.


@given(tokens=st.integers(2, 60), batch_size=st.integers(1, 7), steps=st.integers(1, 12))
def test_rows_read_the_stream_one_after_the_other_and_targets_are_a_token_ahead(
    tokens: int, batch_size: int, steps: int
) -> None:
    stream = np.arange(tokens) * 3
    length = (tokens - 1) // batch_size
    if not length:
        with pytest.raises(ValueError, match="too few"):
            ContiguousBatches(stream, batch_size, steps)
        return
    batches = list(ContiguousBatches(stream, batch_size, steps))
    sizes = [len(inputs) for inputs, _ in batches]
    assert sizes[:-1] == [steps] * (len(batches) - 1) and 1 <= sizes[-1] <= steps
    inputs, targets = (tg.concat(part).numpy() for part in zip(*batches, strict=True))
    used = batch_size * length
    assert tokens - 1 - used < batch_size
    assert_array_equal(inputs.T.ravel(), stream[:used])
    assert_array_equal(targets.T.ravel(), stream[1 : used + 1])


def test_a_carried_state_reads_batches_as_one_sequence(backend: Any) -> None:
    tg.manual_seed(0)
    embedding, cell, readout = nn.Embedding(11, 4), nn.LSTMCell(4, 5), nn.Linear(5, 11)
    tokens = np.random.default_rng(0).integers(0, 11, size=75)
    state = None
    losses, counts = [], []
    for inputs, targets in ContiguousBatches(tokens, batch_size=3, steps=7):
        outputs, state = tg.unroll(cell, embedding(inputs), state)
        state = tg.detach(state)
        logits = readout(outputs)
        losses.append(
            tg.cross_entropy(logits.reshape(-1, 11), targets.reshape(-1), reduction="sum").item()
        )
        counts.append(targets.size)
    assert counts == [21, 21, 21, 9]
    ((inputs, targets),) = ContiguousBatches(tokens, batch_size=3, steps=24)
    outputs, whole = tg.unroll(cell, embedding(inputs))
    logits = readout(outputs).reshape(-1, 11)
    in_one = tg.cross_entropy(logits, targets.reshape(-1), reduction="sum").item()
    assert_allclose(sum(losses), in_one, rtol=1e-5)
    for carried, last in zip(state, whole, strict=True):
        assert_allclose(carried.numpy(), last.numpy(), rtol=1e-5, atol=1e-6)


def test_reading_resumes_at_any_batch() -> None:
    batches = ContiguousBatches(range(50), batch_size=2, steps=5)
    assert len(batches) == 5
    for i, (inputs, targets) in enumerate(batches):
        for index in (i, i - 5, np.int64(i)):
            assert_array_equal(batches[index][0].numpy(), inputs.numpy())
            assert_array_equal(batches[index][1].numpy(), targets.numpy())
    for outside in (5, -6):
        with pytest.raises(IndexError, match=f"batch {outside} of 5"):
            batches[outside]


@pytest.mark.parametrize(
    "make",
    [list, lambda t: np.asarray(t, dtype="uint8"), lambda t: tg.tensor(list(t))],
    ids=["list", "uint8", "Tensor"],
)
def test_any_stream_of_integers_will_do(backend: Any, make: Any) -> None:
    inputs, targets = ContiguousBatches(make(range(7)), batch_size=2, steps=9)[0]
    assert inputs.backend == targets.backend == backend.name
    assert inputs.dtype == targets.dtype == "int64"
    assert inputs.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert targets.tolist() == [[1, 4], [2, 5], [3, 6]]


def test_batches_go_where_they_are_sent() -> None:
    inputs, targets = ContiguousBatches([1, 2, 3], 1, 2, backend="array_api_strict")[0]
    assert inputs.backend == targets.backend == "array_api_strict"


def test_a_memory_map_is_not_read_before_it_is_asked_for(tmp_path: Path) -> None:
    np.arange(9, dtype="uint16").tofile(tmp_path / "tokens")
    tokens = np.memmap(tmp_path / "tokens", dtype="uint16", mode="r+")
    batches = ContiguousBatches(tokens, batch_size=2, steps=2)
    inputs, _ = batches[1]
    tokens[:] = 0
    assert inputs.tolist() == [[2, 6], [3, 7]]
    assert batches[1][0].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("tokens", "batch_size", "steps", "error", "message"),
    [
        (np.zeros((3, 2), dtype=int), 1, 1, ValueError, r"\(N,\), not of shape \(3, 2\)"),
        ([1, 2, 3], 3, 1, ValueError, "3 tokens are too few for batch_size=3"),
        ([], 1, 1, ValueError, "0 tokens are too few"),
        ([0.5, 1.0, 2.0], 1, 1, TypeError, "integers, not float64"),
        ([True, False, True], 1, 1, TypeError, "integers, not bool"),
        ("letters", 1, 1, TypeError, "integers, not <U7"),
        (["a", "b", "c"], 1, 1, TypeError, "integers, not"),
        ([1, 2, 3], 0, 1, ValueError, "batch_size is at least 1, not 0"),
        ([1, 2, 3], 1, 0, ValueError, "steps is at least 1, not 0"),
        ([1, 2, 3], 1, 1.5, TypeError, "steps is an integer, not 1.5"),
    ],
)
def test_bad_arguments_are_refused(
    tokens: Any, batch_size: Any, steps: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ContiguousBatches(tokens, batch_size, steps)


def test_a_batch_is_named_by_an_integer() -> None:
    with pytest.raises(TypeError, match="the number of a batch is an integer, not slice"):
        ContiguousBatches([1, 2, 3], 1, 1)[:1]  # type: ignore[index]


# Vocabulary.


def test_symbols_are_numbered_in_order_behind_the_specials() -> None:
    letters = Vocabulary.from_sequences(WORDS, specials=["<pad>", "<stop>"])
    assert letters.symbols == ("<pad>", "<stop>", "a", "b", "c", "d", "n")
    assert len(letters) == 7 and letters["<pad>"] == 0 and letters["a"] == 2
    assert "n" in letters and "z" not in letters
    assert repr(letters) == "Vocabulary(7 symbols: '<pad>', '<stop>', 'a', 'b', 'c', ...)"


@given(st.lists(st.lists(st.text(max_size=2) | st.integers(-3, 3)), max_size=5), st.randoms())
def test_numbers_do_not_depend_on_the_order_of_the_data(words: Any, random: Any) -> None:
    one = Vocabulary.from_sequences(iter(words), specials=["<pad>"])
    random.shuffle(words)
    other = Vocabulary.from_sequences((iter(word) for word in words), specials=["<pad>"])
    assert one.symbols == other.symbols
    for word in words:
        numbers = one.encode(iter(word))
        assert numbers.dtype == np.int64 and numbers.shape == (len(word),)
        assert one.decode(numbers) == word


def test_specials_are_read_as_symbols_and_left_out_of_what_is_written() -> None:
    letters = Vocabulary.from_sequences(WORDS, specials=["<start>", "<stop>"])
    numbers = letters.encode(["<start>", *"cab", "<stop>"])
    assert numbers.tolist() == [0, 4, 2, 3, 1]
    assert letters.decode(tg.tensor(numbers)) == ["<start>", "c", "a", "b", "<stop>"]
    assert letters.decode(numbers.astype("uint8"), specials=False) == ["c", "a", "b"]
    assert letters.decode([]) == []


def test_what_is_rare_or_new_is_unknown() -> None:
    letters = Vocabulary.from_sequences(WORDS, specials=["?"], unknown="?", min_count=2)
    assert letters.symbols == ("?", "a", "b", "c", "n")
    assert Vocabulary.from_sequences(WORDS, min_count=3).symbols == ("a", "b")
    assert letters.encode("nad").tolist() == [4, 1, 0]
    assert letters.decode([4, 1, 0], specials=False) == ["n", "a"]


def test_a_special_may_stand_in_the_data() -> None:
    words = Vocabulary.from_sequences([["the", "<unk>"]], specials=["<unk>"], unknown="<unk>")
    assert words.symbols == ("<unk>", "the")


def test_numbers_of_numpy_are_symbols_like_pythons() -> None:
    pitches = Vocabulary.from_sequences(np.array([[60, 100], [60, 48]]), specials=["<pad>"])
    assert pitches.symbols == ("<pad>", 48, 60, 100)
    assert pitches.encode(np.array([100, 48])).tolist() == [3, 1]


def test_a_vocabulary_goes_through_json() -> None:
    given = Vocabulary.from_sequences(
        [["ü", "\n", "”"], [3, -1]], specials=["<pad>", "?"], unknown="?"
    )
    restored = Vocabulary(**json.loads(json.dumps(given.to_dict())))
    assert restored.to_dict() == given.to_dict()
    assert restored.encode(["ü", 3, "new"]).tolist() == given.encode(["ü", 3, "new"]).tolist()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"symbols": ["a", "b", "a"]}, ValueError, "'a' among the symbols more than once"),
        ({"symbols": ["a"], "specials": ["b"]}, ValueError, "not among the symbols: 'b'"),
        ({"symbols": ["a"], "unknown": "a"}, ValueError, "unknown='a' is none of the specials"),
        ({"symbols": [("a",)]}, TypeError, r"strings or integers, not \('a',\)"),
        ({"symbols": [True]}, TypeError, "strings or integers, not True"),
        ({"symbols": [0.5]}, TypeError, "strings or integers, not 0.5"),
        ({"symbols": [["a"]]}, TypeError, r"strings or integers, not \['a'\]"),
    ],
)
def test_a_bad_vocabulary_is_refused(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Vocabulary(**arguments)


def test_what_a_vocabulary_has_not_is_refused() -> None:
    letters = Vocabulary(["a", "b"])
    with pytest.raises(ValueError, match=r"'c' is none of the 2 symbols; give .* unknown="):
        letters.encode("abc")
    with pytest.raises(ValueError, match="there is no symbol -1, only 2"):
        letters.decode([0, -1])
    with pytest.raises(ValueError, match="there is no symbol 2, only 2"):
        letters.decode(np.array([2]))
    for bad in ([0.5], [[0]], "ab", 1):
        with pytest.raises(TypeError, match="decode takes integers"):
            letters.decode(bad)
    with pytest.raises(ValueError, match="Vocabulary: min_count is at least 1, not 0"):
        Vocabulary.from_sequences([], min_count=0)


# Padding.


@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    shape=st.lists(st.integers(0, 3), max_size=2),
)
def test_arrays_are_padded_as_tensors_are(lengths: list[int], shape: list[int]) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(n, *shape)).astype("float32") for n in lengths]
    (batch, found), (expected, also) = pad_arrays(iter(arrays)), tg.pad_sequences(arrays)
    assert batch.dtype == expected.dtype
    assert_array_equal(batch.numpy(), expected.numpy())
    assert_array_equal(found, also)


@pytest.mark.parametrize("pad", [pad_arrays, tg.pad_sequences])
def test_a_sequence_of_no_steps_is_a_row_of_padding(pad: Any) -> None:
    integers, vectors = [[1, 2, 3], []], [[[1.0, 2.0]], [], np.zeros((0, 2))]
    batch, lengths = pad(integers)
    assert batch.dtype == "int64" and batch.tolist() == [[1, 0], [2, 0], [3, 0]]
    assert lengths.tolist() == [3, 0]
    batch, lengths = pad(integers[::-1])
    assert batch.dtype == "int64" and batch.tolist() == [[0, 1], [0, 2], [0, 3]]
    batch, lengths = pad(vectors)
    assert batch.dtype == "float32" and batch.tolist() == [[[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]]
    batch, lengths = pad([[], []])
    assert batch.shape == (0, 2) and lengths.tolist() == [0, 0]
    assert pad([np.zeros(0, "int32"), np.zeros(0, "int32")])[0].dtype == "int32"
    for wrong in ([[1.0], np.zeros((0, 2))], [np.zeros((0, 2)), np.zeros((0, 3))]):
        with pytest.raises(ValueError, match="differ in nothing but T_i"):
            pad(wrong)
    with pytest.raises(ValueError, match=r"rectangular.*data\.pad_arrays makes a batch"):
        pad([[[1, 2], [3]]])


class Frame:
    """As a DataFrame shows itself."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(self.values, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_a_frame_is_what_its_array_is(dtype: str) -> None:
    values = np.arange(12).reshape(6, 2).astype(dtype)
    for data in (Frame(values), values):
        inputs, targets = SlidingWindows(data, 2)[0]
        assert inputs.dtype == targets.dtype == dtype
        assert pad_arrays([data])[0].dtype == tg.tensor(data).dtype == dtype


def test_padding_can_be_any_number_and_go_anywhere(backend: Any) -> None:
    batch, lengths = pad_arrays([[1, 2], [3]], value=-100)
    assert batch.backend == backend.name and batch.dtype == "int64"
    assert batch.tolist() == [[1, 3], [2, -100]] and lengths.tolist() == [2, 1]
    batch, _ = pad_arrays([[1.5, 2.0], np.ones(1, "float32")], np.nan, backend="array_api_strict")
    assert batch.backend == "array_api_strict" and batch.dtype == "float32"
    assert str(batch.tolist()) == "[[1.5, 1.0], [2.0, nan]]"
    assert pad_arrays([[True, True], [True]])[0].tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize(
    ("sequences", "value", "error", "message"),
    [
        ([], 0, ValueError, "at least one sequence .* these are none"),
        ([1, 2], 0, ValueError, r"int64 \(\), int64 \(\)"),
        ([[1], [1.5]], 0, ValueError, r"int64 \(1,\), float32 \(1,\)"),
        ([np.ones((2, 3)), np.ones((2, 4))], 0, ValueError, r"\(2, 3\), float64 \(2, 4\)"),
        (["ab"], 0, TypeError, r"pad_arrays: .*no real numbers; vocabulary\.encode\(sequence\)"),
        ([[1]], 0.5, ValueError, "int64 cannot be padded with 0.5"),
        ([np.ones(1, "uint8")], -1, ValueError, "uint8 cannot be padded with -1"),
    ],
)
def test_what_cannot_be_padded_is_refused(
    sequences: Any, value: float, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pad_arrays(sequences, value)


# Batches: independent items, shuffled.


@given(
    items=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    pool=st.integers(1, 3),
    bucketed=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_item_comes_once_an_epoch(
    items: int, batch_size: int, pool: int, bucketed: bool, seed: int
) -> None:
    length = (lambda i: i % 5) if bucketed else None
    batches = Batches(range(items), batch_size, seed=seed, length=length, pool=pool)
    for epoch in range(2):
        assert batches.epoch == epoch
        read = list(batches)
        assert len(read) == len(batches)
        assert sorted(map(len, read))[1:] == [batch_size] * (len(batches) - 1)
        assert sorted(i for batch in read for i in batch) == list(range(items))


def drawn(batches: Batches, steps: int) -> Iterator[list[Any]]:
    while steps:
        for batch in batches:
            yield batch
            steps -= 1
            if not steps:
                return


@given(
    steps=st.integers(0, 12),
    bucketed=st.booleans(),
    items=st.integers(4, 9),
    pool=st.integers(1, 2),
)
def test_an_order_is_taken_up_again_at_any_step(
    steps: int, bucketed: bool, items: int, pool: int
) -> None:
    def new(seed: int) -> Batches:
        length = len if bucketed else None
        return Batches(["x" * n for n in range(items)], 2, seed=seed, length=length, pool=pool)

    one, other = new(seed=5), new(seed=0)
    for _ in drawn(one, steps):
        place = json.loads(json.dumps(one.state_dict()))
        list(drawn(other, 3))
        other.load_state_dict(place)
        assert other.state_dict() == one.state_dict()
    assert list(drawn(one, 9)) == list(drawn(other if steps else new(seed=5), 9))


def test_orders_differ_from_epoch_to_epoch_and_from_seed_to_seed() -> None:
    one = Batches(range(50), 7, seed=0)
    orders = [list(one), list(one), list(Batches(range(50), 7, seed=1))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[0] == list(Batches(range(50), 7, seed=0))


def test_an_order_and_the_random_numbers_of_the_library_leave_each_other_alone() -> None:
    def order() -> list[Any]:
        return [
            *Batches(range(20), 3, seed=0, length=lambda i: i % 3),
            *random_split("abcdefgh", (0.5, 0.5), seed=0),
        ]

    tg.manual_seed(0)
    np.random.seed(0)
    before = tg.random.get_state(), np.random.get_state()[1].tolist()
    first = order()
    assert (tg.random.get_state(), np.random.get_state()[1].tolist()) == before
    tg.manual_seed(1)
    np.random.seed(1)
    assert order() == first


def test_batches_of_one_length_leave_little_to_pad() -> None:
    """Beside a tenth of what chance leaves; and a batch is not of the same items every epoch."""
    lengths = np.random.default_rng(0).integers(1, 60, size=2000).tolist()

    def padding(batches: Batches) -> int:
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

    by_chance = padding(Batches(lengths, 16, seed=0))
    bucketed = Batches(lengths, 16, seed=0, length=int)
    assert padding(bucketed) < by_chance / 10
    items = Batches(range(2000), 16, seed=0, length=lengths.__getitem__)
    first, second = ({frozenset(batch) for batch in items} for _ in range(2))
    assert len(first & second) < 10
    sizes = [sum(map(lengths.__getitem__, batch)) for batch in items]
    assert abs(np.corrcoef(sizes, range(len(sizes)))[0, 1]) < 0.3


def test_a_loop_that_was_broken_off_goes_on() -> None:
    batches = Batches(range(10), 2, seed=3)
    whole = list(batches)
    batches.load_state_dict(batches.state_dict() | {"epoch": 0})
    first = next(iter(batches))
    assert [first, *batches] == whole
    assert (batches.epoch, batches.position) == (1, 0)
    one, other = iter(batches), iter(batches)
    read = [next(one), next(other), *one, *other]
    assert sorted(i for batch in read for i in batch) == list(range(10))
    assert batches.epoch == 2


@pytest.mark.parametrize(
    "make",
    [list, tuple, iter, np.array, dict.fromkeys, set, lambda items: items],
    ids=["list", "tuple", "read once", "array", "dict", "set", "range"],
)
def test_items_may_be_anything_that_can_be_gone_through(make: Any) -> None:
    batches = Batches(make(range(9)), 4, seed=0, length=lambda i: i)
    for _ in range(2):
        assert sorted(i for batch in batches for i in batch) == list(range(9))
    training, rest = random_split(make(range(9)), [2 / 3, 1 / 3], seed=0)
    assert sorted([*training, *rest]) == list(range(9))


def test_rows_of_arrays_that_belong_together() -> None:
    x, y = np.arange(12).reshape(6, 2), np.arange(6)
    for rows in Batches(range(len(x)), 4, seed=0):
        assert_array_equal(x[rows][:, 0], 2 * y[rows])


def test_a_memory_map_of_items_is_not_read_before_it_is_asked_for(tmp_path: Path) -> None:
    items = np.memmap(tmp_path / "items", dtype="float32", mode="w+", shape=(6, 2))
    batches = Batches(items, 4, seed=0)
    items[:] = np.arange(6)[:, None]
    assert sorted(float(row[1]) for batch in batches for row in batch) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("items", "options", "error", "message"),
    [
        ([], {}, ValueError, "Batches: there are no items"),
        ([1], {"batch_size": 0}, ValueError, "Batches: batch_size is at least 1, not 0"),
        ([1], {"batch_size": 1.5}, TypeError, "Batches: batch_size is an integer, not 1.5"),
        ([1], {"pool": 0}, ValueError, "Batches: pool is at least 1, not 0"),
        ([1], {"seed": -1}, ValueError, "seed is an integer from 0 to .*, not -1"),
        ([1], {"seed": 2**32}, ValueError, "seed is an integer from 0 to"),
        ([1], {"seed": None}, TypeError, "Batches: seed is an integer, not None"),
        (3, {}, TypeError, "not iterable"),
    ],
)
def test_bad_batches_are_refused(
    items: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Batches(items, **{"batch_size": 2, "seed": 0} | options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": 9}, "items was 9 and is 10"),
        ({"batch_size": 4}, "batch_size was 4 and is 3"),
        ({"pool": 100}, "pool was 100 and is None"),
        ({"position": 5}, "position cannot be 5"),
        ({"position": -1}, "position cannot be -1"),
        ({"position": True}, "position cannot be True"),
        ({"epoch": -1}, "epoch cannot be -1"),
        ({"epoch": 1.0}, "epoch cannot be 1.0"),
        ({"seed": 2**32}, "seed cannot be 4294967296"),
        ({"seed": "0"}, "seed cannot be '0'"),
        ({"more": 1}, "expected .*'seed'.*, not .*'more'"),
    ],
)
def test_a_place_in_other_batches_is_refused(change: Any, message: str) -> None:
    batches = Batches(range(10), 3, seed=0)
    next(iter(batches))
    before = batches.state_dict()
    with pytest.raises(ValueError, match=f"load_state_dict into Batches: {message}"):
        batches.load_state_dict(before | {"epoch": 7} | change)
    with pytest.raises(ValueError, match="not 3"):
        batches.load_state_dict(3)  # type: ignore[arg-type]
    assert batches.state_dict() == before


# SlidingWindows.


@given(
    values=st.integers(2, 30),
    steps=st.integers(1, 6),
    horizon=st.integers(1, 4),
    stride=st.integers(1, 5),
    features=st.lists(st.integers(1, 2), max_size=1),
)
def test_windows_are_what_slices_are(
    values: int, steps: int, horizon: int, stride: int, features: list[int]
) -> None:
    series = np.random.default_rng(0).normal(size=(values, *features))
    starts = range(0, values - steps - horizon + 1, stride)
    if not len(starts):
        with pytest.raises(ValueError, match="too short"):
            SlidingWindows(series, steps, horizon, stride=stride)
        return
    windows = SlidingWindows(series, steps, horizon, stride=stride)
    assert len(windows) == len(starts)
    for first, (inputs, targets) in zip(starts, windows, strict=True):
        assert_array_equal(inputs.numpy(), series[first : first + steps])
        end = first + steps
        assert_array_equal(targets.numpy(), series[end : end + horizon])
    rows = [0, len(windows) - 1, -1]
    for part, batch in enumerate(windows[rows]):
        assert_array_equal(batch.numpy(), np.stack([windows[i][part].numpy() for i in rows], 1))


@pytest.mark.parametrize("make", [list, np.array, tg.tensor], ids=["list", "array", "Tensor"])
def test_windows_of_anything_go_to_the_backend_chosen(backend: Any, make: Any) -> None:
    windows = SlidingWindows(make([0.0, 1.0, 2.0, 3.0]), steps=2)
    dtype = "float64" if make is np.array else "float32"
    for x in windows[[1, 0]]:
        assert x.backend == backend.name and x.dtype == dtype
    assert windows[1][1].tolist() == [3.0]
    assert SlidingWindows([1, 2], 1, backend="array_api_strict")[0][0].backend == "array_api_strict"


def test_windows_of_a_memory_map_are_not_read_before_they_are_asked_for(tmp_path: Path) -> None:
    series = np.memmap(tmp_path / "series", dtype="float32", mode="w+", shape=(9,))
    windows = SlidingWindows(series, steps=2, stride=3)
    series[:] = np.arange(9)
    assert windows[1][0].tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    ("series", "options", "error", "message"),
    [
        ([1, 2, 3], {"steps": 3}, ValueError, r"\(3,\) is too short for steps=3 and horizon=1"),
        (1.0, {"steps": 1}, ValueError, r"series \(\) is too short"),
        ([1, 2, 3], {"steps": 0}, ValueError, "steps is at least 1, not 0"),
        ([1, 2, 3], {"steps": 1, "horizon": 0}, ValueError, "horizon is at least 1"),
        ([1, 2, 3], {"steps": 1, "stride": 0.5}, TypeError, "stride is an integer, not 0.5"),
        ("text", {"steps": 1}, TypeError, "no real numbers"),
        (np.array(["a", "b"]), {"steps": 1}, TypeError, "a series of numbers, not of <U1"),
    ],
)
def test_bad_windows_are_refused(
    series: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        SlidingWindows(series, **options)


def test_a_window_that_is_not_there() -> None:
    windows = SlidingWindows(range(5), steps=2)
    for index in (3, -4, [0, 3]):
        with pytest.raises(IndexError, match=r"SlidingWindows: window (3|-4) of 3"):
            windows[index]
    for index in (0.5, slice(2), [[0]], True):
        with pytest.raises(TypeError, match="an integer or integers"):
            windows[index]


# Splits.


@given(
    items=st.integers(1, 60),
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_parts_are_disjoint_and_complete(items: int, weights: list[int], seed: int) -> None:
    fractions = [w / sum(weights) for w in weights]
    try:
        parts = random_split(range(items), fractions, seed=seed)
    except ValueError as error:
        assert "too few" in str(error)
        assert min(fractions) * items < 1
        return
    assert sorted(i for part in parts for i in part) == list(range(items))
    for part, fraction in zip(parts, fractions, strict=True):
        assert part == sorted(part)
        assert abs(len(part) - fraction * items) <= 1


def test_parts_are_drawn_by_the_seed() -> None:
    parts = [random_split(range(100), (0.8, 0.2), seed=seed)[1] for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    held_out = [
        i for seed in range(50) for i in random_split(range(9), (2 / 3, 1 / 3), seed=seed)[1]
    ]
    assert set(held_out) == set(range(9))


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ([0.5, 0.4], r"together 1, not \[0.5, 0.4\]"),
        ([1.5, -0.5], "positive and together 1"),
        ([1.0, 0.0], "positive and together 1"),
        ([], "together 1"),
        (0.9, "together 1, not 0.9"),
        ([0.5, float("nan")], "together 1"),
        ([0.99, 0.01], r"10 items are too few for parts of \[0.99, 0.01\]"),
    ],
)
def test_bad_fractions_are_refused(fractions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"random_split: .*{message}"):
        random_split(range(10), fractions, seed=0)


def test_a_split_has_a_seed() -> None:
    with pytest.raises(ValueError, match="random_split: seed is an integer from 0"):
        random_split(range(10), (0.5, 0.5), seed=-1)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int64"])
def test_windows_are_found_by_integers_of_any_kind(dtype: str) -> None:
    windows = SlidingWindows(np.arange(1000.0), 3, 2, stride=10)
    inputs, targets = windows[np.array([50, 60], dtype)]
    assert inputs[:, 0].tolist() == [500, 501, 502] and targets[:, 1].tolist() == [603, 604]


# BytePairs: words in pieces.


def joined_by_definition(words: list[str], merges: int) -> list[tuple[str, str]]:
    """Every pair counted anew for every merge."""
    spelled = [["▁" + word[0], *word[1:]] for word in words]
    found = []
    for _ in range(merges):
        counts: dict[tuple[str, str], int] = {}
        for pieces in spelled:
            for i in range(len(pieces) - 1):
                pair = (pieces[i], pieces[i + 1])
                counts[pair] = counts.get(pair, 0) + 1
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        found.append(best)
        for k, pieces in enumerate(spelled):
            i, after = 0, []
            while i < len(pieces):
                two = tuple(pieces[i : i + 2]) == best
                after.append("".join(pieces[i : i + 1 + two]))
                i += 1 + two
            spelled[k] = after
    return found


@given(words=st.lists(st.text("ab", min_size=1, max_size=7), max_size=12), merges=st.integers(1, 9))
def test_pairs_are_joined_as_the_definition_reads(words: list[str], merges: int) -> None:
    pieces = BytePairs.learn(iter(words), merges)
    assert list(pieces.merges) == joined_by_definition(words, merges)
    assert pieces.merges == BytePairs.learn(reversed(words), merges).merges
    assert pieces.join(pieces.split(words)) == words
    again = BytePairs(**json.loads(json.dumps(pieces.to_dict())))
    assert again.split([*words, "ba", "c"]) == pieces.split([*words, "ba", "c"])


def test_a_frequent_word_is_one_piece_and_an_unseen_one_is_spelled() -> None:
    pieces = BytePairs.learn(["low"] * 5 + ["lowest", "newest"] * 2, 20)
    assert pieces.split(["low", "lowest", "west"]) == ["▁low", "▁lowest", "▁w", "est"]
    assert repr(pieces) == f"BytePairs({len(pieces.merges)} merges)"
    with pytest.raises(ValueError, match=r"of a text, text\.split"):
        pieces.split(["two words"])
    with pytest.raises(ValueError, match="joined twice"):
        BytePairs([("a", "b"), ("a", "b")])
    with pytest.raises(ValueError, match="merges"):
        BytePairs.learn(["a"], merges=0)
