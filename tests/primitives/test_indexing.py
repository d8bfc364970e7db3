"""Indexing: every mixture of entries against NumPy, its gradient, and ``at[].set`` and ``.add``.

The subtle point is the oracle. Which of two assignments to one element NumPy lets win follows from
its order of iteration; here an array that numbers its own elements says which element each entry of
a key addresses, and a loop writes to them in order.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from op_table import beside, examples
from tinygrad_rnn.testing import check_grads

Array = np.ndarray[Any, Any]


class Indexed(NamedTuple):
    """A shape, and a key for arrays of this shape."""

    shape: tuple[int, ...]
    key: tuple[Any, ...]

    @property
    def values(self) -> Array:
        return np.random.default_rng(0).normal(size=self.shape)

    @property
    def addresses(self) -> Array:
        """For each element of x[key], the number of the element of x that it is."""
        return np.arange(math.prod(self.shape)).reshape(self.shape)[self.key]


@st.composite
def indexed(draw: Any) -> Indexed:
    """Entries for the first and the last axes, an ellipsis for those between, None anywhere."""
    shape = tuple(draw(st.lists(st.sampled_from((3, 2, 4, 1, 3, 2, 0)), min_size=1, max_size=4)))
    common = (draw(st.sampled_from((2, 1, 0))), draw(st.sampled_from((3, 1, 2, 0))))
    ahead = draw(st.integers(0, len(shape)))
    behind = draw(st.integers(0, len(shape) - ahead))
    key = draw(entries(shape[:ahead], common))
    if behind or draw(st.booleans()):
        key += [Ellipsis, *draw(entries(shape[len(shape) - behind :], common))]
    for _ in range(draw(st.integers(0, 2))):
        key.insert(draw(st.integers(0, len(key))), None)
    return Indexed(shape, tuple(key))


@st.composite
def entries(draw: Any, shape: tuple[int, ...], common: tuple[int, int]) -> list[Any]:
    """An entry for each axis; index arrays broadcast to ``common``, as do the True of a mask."""
    rows, length = common
    key = []
    axis = 0
    while axis < len(shape):
        n = shape[axis]
        kinds = ["slice", "slice"]
        kinds += ["int", "array", "list", "scalar"] if n else []
        kinds += ["mask", "list of bool"] if n >= length and n else []
        kinds += ["mask of two axes"] if math.prod(shape[axis : axis + 2]) >= length else []
        kind = draw(st.sampled_from(kinds))
        rng = np.random.default_rng(draw(st.integers(0, 1000)))
        if kind == "slice":
            bound = st.none() | st.integers(-n - 1, n + 1)
            step = draw(st.sampled_from((None, 1, 2, -1, -2)))
            key.append(slice(draw(bound), draw(bound), step))
        elif kind == "int":
            key.append(int(rng.integers(-n, n)))
        elif kind == "scalar":
            key.append(draw(st.sampled_from((np.int64, np.uint8, np.array)))(rng.integers(n)))
        elif kind in ("array", "list"):
            size = draw(st.sampled_from(((length,), (rows, length), (rows, 1), (1,))))
            places = rng.integers(-n, n, size=size)
            dtype = draw(st.sampled_from(("int64", "int32", "int8")))
            as_list = kind == "list" and (places.ndim == 1 or rows)  # [] has one axis
            key.append(places.tolist() if as_list else places.astype(dtype))
        else:
            size = shape[axis : axis + 2] if kind == "mask of two axes" else (n,)
            mask = np.zeros(size, dtype=bool)
            mask.flat[rng.permutation(mask.size)[:length]] = True
            key.append(mask.tolist() if kind == "list of bool" else mask)
            axis += len(size) - 1
        axis += 1
    return key


def tensor(host: Array, backend: tg.Backend, **options: Any) -> tg.Tensor:
    return tg.tensor(host, backend=backend.name, **options)


@given(case=indexed())
@examples(300)
def test_value_and_gradient(case: Indexed, backend: tg.Backend) -> None:
    x = tensor(case.values, backend, requires_grad=True)
    y = x[beside(x, case.key)]
    reference = case.values[case.key]
    assert (y.shape, y.dtype) == (reference.shape, reference.dtype)
    np.testing.assert_array_equal(y.numpy(), reference)

    weights = np.arange(1.0, reference.size + 1).reshape(reference.shape)
    g = tg.grad(y, x, tensor(weights, backend))
    wanted = np.zeros(case.shape)
    np.add.at(wanted, case.key, weights)
    np.testing.assert_allclose(g.numpy(), wanted, rtol=1e-14)


@given(case=indexed())
@examples(150)
def test_set_and_add(case: Indexed, backend: tg.Backend) -> None:
    addresses = case.addresses
    shape = addresses.shape
    host = np.arange(1.0, addresses.size + 1).reshape(shape)
    x = tensor(case.values, backend, requires_grad=True)
    values = tensor(host, backend, requires_grad=True)
    key = beside(x, case.key)
    written, added = x.at[key].set(values), x.at[key].add(values)

    set_to, add_to = case.values.flatten(), case.values.flatten()
    writer = np.full(set_to.shape, -1)
    for i, (address, value) in enumerate(zip(addresses.flat, host.flat, strict=True)):
        set_to[address] = value
        add_to[address] += value
        writer[address] = i
    np.testing.assert_array_equal(written.numpy().ravel(), set_to)
    np.testing.assert_allclose(added.numpy().ravel(), add_to, rtol=1e-14)

    weights = np.arange(1.0, set_to.size + 1)
    u = tensor(weights.reshape(case.shape), backend)
    of_x, of_values = tg.grad(written, (x, values), u, allow_unused=True)
    np.testing.assert_array_equal(of_x.numpy().ravel(), np.where(writer < 0, weights, 0))
    last = np.zeros(host.size)
    last[writer[writer >= 0]] = weights[writer >= 0]
    if host.size:
        np.testing.assert_array_equal(of_values.numpy().ravel(), last)
    of_x, of_values = tg.grad(added, (x, values), u)
    np.testing.assert_array_equal(of_x.numpy().ravel(), weights)
    np.testing.assert_array_equal(of_values.numpy(), weights[addresses])


@given(case=indexed())
@examples(25)
def test_second_derivative(case: Indexed, backend: tg.Backend) -> None:
    x = tensor(case.values, backend)
    key = beside(x, case.key)
    check_grads(lambda x: x[key] ** 3, [x])
    check_grads(lambda x, v: (x.at[key].add(v) * x).at[key].set(v * v), [x, tg.sum(x[key])])


@given(case=indexed())
@examples(60)
def test_vmap(case: Indexed, backend: tg.Backend) -> None:
    """Over x, over values and, where they are arrays, over indices."""
    hosts = [case.values + n for n in range(2)]
    stacked = tensor(np.stack(hosts), backend)
    key = beside(stacked, case.key)
    y = tg.vmap(lambda x: x[key])(stacked)
    np.testing.assert_array_equal(y.numpy(), np.stack([host[case.key] for host in hosts]))
    numbers = tensor(np.arange(2.0), backend)
    z = tg.vmap(lambda x, v: x.at[key].add(v).at[key].set(3 * v), (None, 0))(stacked[0], numbers)
    for n in range(2):
        wanted = stacked[0].at[key].add(numbers[n]).at[key].set(3 * numbers[n])
        np.testing.assert_array_equal(z[n].numpy(), wanted.numpy())


@pytest.mark.parametrize("batched", ["x", "indices", "both"])
@pytest.mark.parametrize(
    "shapes", [((), ()), ((3,), ()), ((), (3,)), ((2, 1), (3,)), ((3,), (2, 3))], ids=str
)
def test_vmap_over_index_arrays(batched: str, shapes: Any, backend: tg.Backend) -> None:
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(2, 4, 5, 6))
    first, second = (rng.integers(-4, 4, size=(2, *shape)) for shape in shapes)
    axes = {"x": (0, None, None), "indices": (None, 0, None), "both": (0, 0, 0)}[batched]
    args = [a if axis == 0 else a[0] for a, axis in zip((xs, first, second), axes, strict=True)]

    def of(n: int) -> list[Array]:
        return [a[n] if axis == 0 else a for a, axis in zip(args, axes, strict=True)]

    for f in (
        lambda x, i, j: x[:, i, j],
        lambda x, i, j: x[i, :, j],
        lambda x, i, j: x[i, 1:, None][j % 2],
    ):
        y = tg.vmap(f, axes)(*(tensor(a, backend) for a in args))
        np.testing.assert_array_equal(y.numpy(), np.stack([f(*of(n)) for n in range(2)]))

    def added(x: Any, i: Any, j: Any) -> Any:
        return tg.sum(tg.square(x.at[:, i, j].add(1.0) + x[i, 0, 0].sum()))

    tensors = [tensor(a, backend) for a in args]
    gradient = tg.value_and_grad(added)
    g = tg.vmap(lambda *a: gradient(*a)[1], axes)(*tensors)
    for n in range(2):
        wanted = gradient(*(tensor(a, backend) for a in of(n)))[1]
        np.testing.assert_allclose(g[n].numpy(), wanted.numpy(), rtol=1e-12)


def test_a_loop_over_steps_has_the_gradient_of_all() -> None:
    x = tg.tensor(np.arange(6.0).reshape(3, 2), requires_grad=True)
    total = sum(tg.sum(x[t] * (t + 1)) for t in range(3)) + tg.sum(x) + tg.sum(x[::2, [0, 0]])
    np.testing.assert_array_equal(tg.grad(total, x).numpy(), [[4, 2], [3, 3], [6, 4]])


def test_scalars_are_indexed() -> None:
    x = tg.tensor(2.0, dtype="float64", requires_grad=True)
    y = x[()] * 2 + x[...] * 3 + tg.sum(x[None, None]) + x * 4
    assert tg.grad(y, x).numpy() == 10
    assert x[np.array(True)].numpy().tolist() == [2] and x[np.array(False)].shape == (0,)
    assert tg.ones((3, 2))[np.array(True)].shape == (1, 3, 2)
    assert x.at[()].add(1.0).item() == 3
    assert x.at[...].set(5.0).item() == 5


def test_take_along_an_axis_takes_each_from_its_own_place() -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    for axis in (0, 1, 2, -1):
        places = np.argsort(np.sin(x), axis=axis)
        found = tg.take_along_axis(tg.asarray(x), tg.asarray(places), axis=axis)
        np.testing.assert_array_equal(found.numpy(), np.take_along_axis(x, places, axis=axis))


def test_a_cotangent_that_is_shared_is_not_written_to() -> None:
    """Adding an indexed cotangent in place must not change one that another input has, too."""
    x, z = (tg.tensor(np.zeros(3), requires_grad=True) for _ in range(2))
    y = x + z
    u = np.ones(3)
    found = tg.grad((y, x[1]), (x, z), (tg.asarray(u), tg.tensor(np.float64(5.0))))
    np.testing.assert_array_equal(found[0].numpy(), [1, 6, 1])
    np.testing.assert_array_equal(found[1].numpy(), [1, 1, 1])
    np.testing.assert_array_equal(u, [1, 1, 1])


def test_values_are_broadcast_and_cast() -> None:
    x = tg.zeros((2, 3))
    np.testing.assert_array_equal(x.at[:, 1].set(2).numpy(), [[0, 2, 0]] * 2)
    np.testing.assert_array_equal(x.at[0].add(np.arange(3)).numpy(), [[0, 1, 2], [0, 0, 0]])
    y = x.at[0, 0].add(np.float64(0.5))
    assert (y.dtype, y[0, 0].item()) == (np.float32, 0.5)
    mask = np.array([[True, False, True], [False, False, True]])
    np.testing.assert_array_equal(x.at[mask].set(np.arange(3.0)).numpy(), [[0, 0, 1], [0, 0, 2]])


X = np.zeros((2, 3))

ERRORS: tuple[tuple[Any, type[Exception], tuple[str, ...]], ...] = (
    ((2,), IndexError, ("getitem", "(2, 3)", "2")),
    ((0, -4), IndexError, ("getitem", "(2, 3)", "-4")),
    ((0, 0, 0), IndexError, ("getitem", "3 indices", "(2, 3)")),
    ((..., 0, ...), IndexError, ("getitem", "ellipsis")),
    (([0, 2],), IndexError, ("getitem", "(2, 3)", "2")),
    ((slice(None), [3]), IndexError, ("getitem", "(2, 3)", "3")),
    (([0.0, 1.0],), IndexError, ("getitem", "float", "astype")),
    (([0, 1], [0, 1, 2]), IndexError, ("getitem", "(2,)", "(3,)")),
    (("a",), IndexError, ("getitem", "str")),
    ((1.0,), IndexError, ("getitem", "float")),
    ((True,), IndexError, ("getitem", "True")),
    ((np.ones(3, dtype=bool),), IndexError, ("getitem", "(3,)", "(2, 3)")),
    ((np.zeros(1, dtype=bool),), IndexError, ("getitem", "(1,)", "(2, 3)")),
    ((..., [False, False]), IndexError, ("getitem", "(2,)", "(2, 3)")),
    ((np.zeros((3, 2), dtype=bool),), IndexError, ("getitem", "(3, 2)", "(2, 3)")),
    ((np.zeros((2, 3, 1), dtype=bool),), IndexError, ("getitem", "(2, 3)")),
    ((slice(0, 2, 0),), ValueError, ("getitem", "zero")),
    ((slice(0.5, None),), TypeError, ("getitem", "(2, 3)")),
)


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: str(case[0]))
def test_errors(case: Any, backend: tg.Backend) -> None:
    key, kind, parts = case
    x = tensor(X, backend)
    for wrong in (lambda: x[beside(x, key)], lambda: x.at[beside(x, key)].add(1.0)):
        with pytest.raises(kind) as caught:
            wrong()
        for part in parts:
            assert part in str(caught.value)


def test_errors_of_values_and_of_assignment() -> None:
    x = tg.tensor(X)
    with pytest.raises(TypeError, match=r"x\.at\[i\]\.set\(v\)"):
        x[0] = 1.0
    for change in (x.at[0].set, x.at[0].add):
        with pytest.raises(ValueError, match=r"at\[\].*\(2,\).*\(3,\)"):
            change(tg.ones(2))
        with pytest.raises(ValueError, match=r"at\[\].*\(1, 3\).*\(3,\)"):
            change(tg.ones((1, 3)))
    for change in (tg.arange(3).at[0].set, tg.arange(3).at[0].add):
        with pytest.raises(TypeError, match=r"at\[\].*float64 values.*int64"):
            change(0.5)
    with pytest.raises(TypeError, match="different backends"):
        x[tg.tensor([0], backend="array_api_strict")]
