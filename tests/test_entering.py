"""What enters the library from outside: byte order, masked arrays, and what other libraries hold.

The subtle point is *everywhere*: an array enters as data, operand, index, state, cotangent, weight
or length, and each of these doors is tried with each kind of array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import data, nn, serialization

Door = Callable[[Any], Any]


def rebound(array: Any) -> tg.Tensor:
    x = tg.zeros(array.shape, array.dtype.name)
    x.data = array
    return x


def pulled(array: Any) -> tg.Tensor:
    x = tg.zeros(array.shape, array.dtype.name, requires_grad=True)
    return tg.grad(x * 1, x, array)


def loaded(array: Any) -> tg.Tensor:
    module = nn.Linear(1, array.size, bias=False)
    module.load_state_dict({"weight": array.reshape(1, -1)})
    return tg.reshape(module.weight, array.shape)


FLOATS: dict[str, Door] = {
    "tensor": tg.tensor,
    "list": lambda a: tg.tensor([a])[0],
    "asarray": tg.asarray,
    "Tensor": tg.Tensor,
    "Parameter": nn.Parameter,
    "from_dlpack": lambda a: tg.from_dlpack(tg.tensor(a)),
    "operand": lambda a: tg.ones(3) * a,
    "reflected": lambda a: a * tg.ones(3),
    "function": tg.positive,
    "compared": lambda a: tg.where(tg.zeros(3) != a, a, 0.0),
    "compared, reflected": lambda a: tg.where(a != tg.zeros(3), a, 0.0),
    "where": lambda a: tg.where(tg.ones(3, bool), a, 0.0),
    "at": lambda a: tg.zeros(3).at[:].set(a),
    "data": rebound,
    "cotangent": pulled,
    "load_state_dict": loaded,
    "unroll": lambda a: tg.unroll(lambda x, h: (x, h), a[:, None], tg.zeros((1,)))[0][:, 0],
    "state": lambda a: tg.unroll(lambda x, h: (h, h), tg.zeros((1, 3)), a)[1],
    "pad_sequences": lambda a: tg.pad_sequences([a])[0][:, 0],
    "pad_arrays": lambda a: tg.tensor(data.pad_arrays([a])[0][:, 0]),
    "SlidingWindows": lambda a: tg.concat(
        [data.SlidingWindows(a, 2)[0][0], data.SlidingWindows(a, 2)[0][1]]
    ),
    "vmap": lambda a: tg.vmap(lambda x: x * 1)(a),
    "target": lambda a: tg.mse_loss(tg.zeros(3), a, reduction="none") ** 0.5,
}
INTEGERS: dict[str, Door] = {
    "getitem": lambda a: tg.arange(3)[a],
    "take": lambda a: tg.take(tg.arange(3), a),
    "index_add": lambda a: tg.index_add(tg.zeros(3, int), (a,), tg.arange(3)),
    "one_hot": lambda a: tg.argmax(tg.one_hot(a, 3), axis=-1),
    "lengths": lambda a: tg.unroll(
        lambda x, h: (x, h + 1), tg.zeros((3, 3)), tg.zeros((3,), int), lengths=a
    )[1],
    "astype": lambda a: tg.arange(3).astype(a.dtype)[a],
}


@pytest.mark.parametrize("door", FLOATS.values(), ids=list(FLOATS))
def test_floats_of_another_byte_order_are_the_same_numbers(door: Door) -> None:
    foreign = np.array([1.0, 2.0, 3.0], np.dtype("float32").newbyteorder("S"))
    x = door(foreign)
    assert x.numpy().dtype == np.dtype("float32") and x.numpy().dtype.isnative
    np.testing.assert_array_equal(x.numpy(), [1, 2, 3])


@pytest.mark.parametrize("door", INTEGERS.values(), ids=list(INTEGERS))
def test_integers_of_another_byte_order_are_the_same_numbers(door: Door) -> None:
    x = door(np.array([0, 2, 1], np.dtype("int16").newbyteorder("S")))
    assert x.numpy().dtype.isnative
    np.testing.assert_array_equal(x.numpy(), [0, 2, 1])


def test_masked_options_are_refused() -> None:
    tokens = np.ma.array([0, 1, 2, 3], mask=[False, True, False, False])
    flags, one = tokens > 0, np.ma.array(1.0, mask=True)
    x, cell = tg.ones((4, 1)), lambda x, h: (x, h)
    doors: tuple[Callable[[], Any], ...] = (
        lambda: tg.full((2,), one),
        lambda: tg.pad(x, 1, constant_values=one),
        lambda: tg.repeat(tg.arange(4), tokens),
        lambda: tg.unroll(cell, [x[:, 0]], tg.zeros(1), reset=[flags]),
        lambda: tg.unroll(cell, x, tg.zeros(1), mask=flags[:, None]),
        lambda: tg.unpad_sequences(x, tokens[:1]),
        lambda: tg.random.bernoulli(tokens),
        lambda: tg.ctc_loss(tg.zeros((3, 1, 4)), tokens[None], [3], [4]),
        lambda: data.ContiguousBatches(tokens, 1, 2),
        lambda: data.Vocabulary("abcd").decode(tokens),
    )
    for door in doors:
        with pytest.raises(TypeError, match="masked array"):
            door()


def test_saved_files_are_in_native_order(tmp_path: Any) -> None:
    foreign = np.array([1.0, 2.0], np.dtype("float64").newbyteorder("S"))
    serialization.save(tmp_path / "a", {"x": foreign})
    np.testing.assert_array_equal(serialization.load(tmp_path / "a")[0]["x"], [1, 2])


def test_the_default_dtype_is_native() -> None:
    try:
        tg.set_default_dtype(np.dtype("float64").newbyteorder("S"))
        assert tg.default_dtype().isnative and tg.zeros(1).numpy().dtype.isnative
    finally:
        tg.set_default_dtype("float32")


@pytest.mark.parametrize(
    ("door", "dtype"),
    [*((d, "float32") for d in FLOATS.values()), *((d, "int64") for d in INTEGERS.values())],
    ids=[*FLOATS, *INTEGERS],
)
def test_masked_arrays_are_refused_with_the_cure(door: Door, dtype: str) -> None:
    masked = np.ma.array([0, 2, 1], mask=[False, True, False], dtype=dtype)
    with pytest.raises(TypeError, match=r"masked array .*filled.*mask="):
        door(masked)


class Tensor:
    """As another library calls its own."""

    __module__ = "torch"

    def __dlpack__(self) -> Any:
        """Not called."""


def test_errors_tell_tensors_of_other_libraries_apart() -> None:
    x = tg.ones(2, requires_grad=True)
    for door in (tg.exp, lambda y: x + y, lambda y: tg.mse_loss(x, y)):
        with pytest.raises(TypeError, match=r"not torch\.Tensor.*from_dlpack|torch\.Tensor'"):
            door(Tensor())
    with pytest.raises(TypeError, match=r"not torch\.Tensor"):
        x.grad = Tensor()  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"torch\.Tensor is not an array"):
        tg.Tensor(Tensor())


@pytest.mark.parametrize(
    "value",
    [
        np.array(["a"]),
        np.array([None]),
        np.array([1j]),
        np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
        np.array(["2020"], "datetime64[Y]"),
        np.complex64(1),
        np.datetime64("2020"),
        np.str_("a"),
    ],
    ids=lambda v: str(v.dtype),
)
def test_what_holds_no_real_numbers_is_refused(value: Any) -> None:
    for door in (tg.tensor, tg.asarray, lambda a: tg.ones(1) * a, tg.positive):
        with pytest.raises(TypeError, match="real numbers"):
            door(value)


class Frame:
    """As a table of another library, which gives an array when asked."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self._array


def test_what_gives_an_array_keeps_the_dtype_of_that_array() -> None:
    for dtype in ("float64", "float32", "int32"):
        host = np.ones((2, 2), dtype)
        assert tg.tensor(Frame(host)).dtype == tg.tensor([Frame(host)]).dtype == host.dtype
    assert tg.tensor([1.0]).dtype == np.float32


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "uint64"])
def test_numbers_of_classes_beyond_the_dtype_of_small_indices(dtype: str) -> None:
    x = tg.tensor(np.array([1, 0, 100], dtype))
    hot = tg.one_hot(x, 258).numpy()
    np.testing.assert_array_equal(hot, np.eye(258)[[1, 0, 100]])
    weight = tg.arange(258 * 2).reshape(258, 2)
    np.testing.assert_array_equal(nn.Embedding(258, 2)(x).shape, (3, 2))
    np.testing.assert_array_equal(tg.take(weight, x, axis=0).numpy()[:, 0], [2, 0, 200])
    logits = tg.tensor(np.random.default_rng(0).normal(size=(3, 258)))
    for loss in (tg.cross_entropy, tg.nll_loss):
        wanted = loss(logits, x.astype("int64"), reduction="none").numpy()
        np.testing.assert_array_equal(loss(logits, x, reduction="none").numpy(), wanted)
    places = tg.reshape(x, (3, 1))
    np.testing.assert_array_equal(
        tg.take_along_axis(logits, places, axis=1).numpy()[:, 0],
        logits.numpy()[[0, 1, 2], [1, 0, 100]],
    )
    each = tg.vmap(lambda row, i: row[i])(logits, x)
    np.testing.assert_array_equal(each.numpy(), logits.numpy()[[0, 1, 2], [1, 0, 100]])


def test_lengths_without_values_name_the_mask() -> None:
    def last(x: tg.Tensor, lengths: tg.Tensor) -> tg.Tensor:
        return tg.unroll(lambda x, h: (x, x), x, tg.zeros((2,)), lengths=lengths)[1]

    with pytest.raises(TypeError, match=r"inside vmap .* give a mask \(T, B\)"):
        tg.vmap(last)(tg.ones((5, 4, 2)), tg.ones((5, 2), dtype="int64"))


def test_a_tensor_without_values_says_what_it_stands_for() -> None:
    seen: list[str] = []

    def cell(x: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        seen.append(f"{x}")
        return h, h

    tg.unroll(cell, tg.ones((3, 2, 4)), tg.zeros((2, 4)), mode="planned")
    assert set(seen) == {"tensor(float32 (2, 4), traced: it has no values)"}
    tg.vmap(lambda x: seen.append(repr(x)) or x)(tg.ones((3, 2)))
    assert seen[-1] == "tensor(float32 (2,) for each of 3 examples)"


def test_a_masked_array_through_dlpack() -> None:
    with pytest.raises(TypeError, match=r"from_dlpack: a masked array .*filled"):
        tg.from_dlpack(np.ma.array([1.0, 1e20], mask=[False, True]))


@pytest.mark.parametrize("make", [tg.tensor, tg.asarray])
@pytest.mark.parametrize("numbers", [300, -1, [[1, 256]], [1, -300]])
def test_python_integers_beyond_a_dtype(make: Any, numbers: Any) -> None:
    with pytest.raises(OverflowError, match="uint8, which has those from 0 to 255"):
        make(numbers, dtype="uint8")
    assert make([0, 255], dtype="uint8").tolist() == [0, 255]
