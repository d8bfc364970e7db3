"""Convolutions by machine code: what windows and products give, and nobody can tell otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn.graph import TABLE
from tinygrad_rnn.kernels import convolution, products
from tinygrad_rnn.kernels.cpu import gather
from tinygrad_rnn.kernels.cpu import run as native
from tinygrad_rnn_backends import get

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.skipif(native.available() is not None, reason="no kernels, no llvmlite")


@pytest.fixture(scope="module", autouse=True)
def eager() -> Iterator[None]:
    """Nothing is too small for machine code, nor for several threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "LARGE", 1)
        patch.setattr(products, "ours", lambda: True)
        patch.setattr(gather, "SHARE", 1e-9)
        yield


class Case(NamedTuple):
    """Axes, and what is laid over them."""

    ahead: tuple[int, ...]
    lengths: tuple[int, ...]
    inner: int
    outputs: int
    sizes: tuple[int, ...]
    options: dict[str, Any]

    @property
    def places(self) -> tuple[int, ...]:
        """At how many places windows are."""
        strides, dilations, padding = self.options.values()
        along = zip(self.lengths, self.sizes, strides, dilations, padding, strict=True)
        return tuple((n + sum(p) - d * (k - 1) - 1) // s + 1 for n, k, s, d, p in along)

    def arrays(self, rng: np.random.Generator, channels_first: bool) -> tuple[Array, Array, Array]:
        """An input, a kernel, and a cotangent of what they give."""
        x = rng.normal(size=(*self.ahead, self.inner, *self.lengths)).astype(np.float32)
        g = rng.normal(size=(*self.ahead, self.outputs, *self.places)).astype(np.float32)
        w = rng.normal(size=(self.outputs, self.inner, *self.sizes)).astype(np.float32)
        n = len(self.lengths)
        x, g = (np.moveaxis(a, -n - 1, -1) for a in (x, g))
        w = np.moveaxis(w, (0, 1), (-1, -2))
        if not channels_first:
            x, g, w = (np.ascontiguousarray(a) for a in (x, g, w))
        return x, w, g


@st.composite
def cases(draw: Any) -> Case:
    n = draw(st.sampled_from((1, 2)))

    def several(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(n))

    sizes, strides, dilations = several(1, 5), several(1, 3), several(1, 2)
    before, behind = several(0, 3), several(0, 3)
    padding = tuple(zip(before, behind, strict=True))
    least = [
        max(1, d * (k - 1) + 1 - sum(p)) for d, k, p in zip(dilations, sizes, padding, strict=True)
    ]
    lengths = tuple(low + draw(st.integers(0, 7)) for low in least)
    ahead = draw(st.sampled_from(((), (2,), (2, 3))))
    inner, outputs = draw(st.sampled_from((1, 3, 8))), draw(st.sampled_from((1, 5, 16, 35, 67)))
    options = {"strides": strides, "dilations": dilations, "padding": padding}
    return Case(ahead, lengths, inner, outputs, sizes, options)


def by_windows(name: str, *arrays: Array, **options: Any) -> Array:
    """A primitive as it is on any backend: in float64, which is none of the kernels' affair."""
    wide = [a.astype(np.float64) for a in arrays]
    made: Array = TABLE[name].forward(get("numpy"), *wide, **options)
    return made


def assert_close(made: Array | None, expected: Array) -> None:
    assert made is not None and made.dtype == np.float32
    assert_allclose(made, expected, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(expected).max()))


@given(cases(), st.booleans(), st.integers(0, 99))
def test_all_three_are_what_windows_give(case: Case, channels_first: bool, seed: int) -> None:
    x, w, g = case.arrays(np.random.default_rng(seed), channels_first)
    options = case.options
    lengths, sizes = case.lengths, case.sizes
    made = convolution.convolution(x, w, *options.values())
    assert_close(made, by_windows("convolution", x, w, **options))
    made = convolution.transposed_convolution(g, w, lengths, *options.values())
    expected = by_windows("transposed_convolution", g, w, lengths=lengths, **options)
    assert_close(made, expected)
    made = convolution.kernel_cotangent(x, g, sizes, *options.values())
    assert_close(made, by_windows("kernel_cotangent", x, g, sizes=sizes, **options))


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"strides": (2, 1), "dilations": (1, 1), "padding": ((2, 1), (0, 0))}
    case = Case((3,), (33, 200), 3, 20, (5, 3), options)  # of more than TERMS places
    x, w, g = case.arrays(np.random.default_rng(0), channels_first=True)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(convolution, "threads", lambda n=threads: n)
        found.append(
            (
                convolution.convolution(x, w, *options.values()),
                convolution.transposed_convolution(g, w, case.lengths, *options.values()),
                convolution.kernel_cotangent(x, g, case.sizes, *options.values()),
            )
        )
    assert math.prod((3, *case.places)) > 2 * gather.TERMS
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert_array_equal(one, other)


def test_many_places_are_added_up_exactly() -> None:
    """As a sum is: float32 would lose a per cent of a million terms, one after the other."""
    x, g = np.full((1, 1_000_000, 1), 0.1, np.float32), np.ones((1, 1_000_000, 1), np.float32)
    made = convolution.kernel_cotangent(x, g, (1,), (1,), (1,), ((0, 0),))
    assert made is not None
    assert_allclose(made.item(), 1_000_000 * float(np.float32(0.1)), rtol=1e-6)


def test_places_that_no_window_reaches_have_no_cotangent() -> None:
    """A stride beyond the window, and what is left over at the end."""
    x = tg.tensor(np.ones((1, 1, 11), np.float32), requires_grad=True)
    tg.conv1d(x, tg.ones((1, 1, 2)), stride=4).sum().backward()
    assert_array_equal(x.grad.numpy()[0, 0], [1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0])


def test_what_is_not_aligned_is_copied() -> None:
    text = bytes(1) + np.arange(24, dtype=np.float32).tobytes()
    x = np.frombuffer(text, np.float32, 24, 1).reshape(1, 12, 2)
    w = np.frombuffer(text, np.float32, 12, 1).reshape(2, 2, 3)
    assert not x.flags.aligned and not w.flags.aligned
    options = {"strides": (1,), "dilations": (1,), "padding": ((0, 0),)}
    made = convolution.convolution(x, w, *options.values())
    assert_close(made, by_windows("convolution", x, w, **options))


def test_others_are_left_to_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ((1,), (1,), ((0, 0),))
    x, w = np.ones((2, 9, 3), np.float32), np.ones((3, 3, 4), np.float32)
    assert convolution.convolution(x, w, *options) is not None
    assert convolution.convolution(x.astype(np.float64), w, *options) is None
    many = np.ones((3, gather.TERMS, 1), np.float32)
    assert (
        convolution.convolution(np.ones((1, 3, gather.TERMS), np.float32), many, *options) is None
    )
    monkeypatch.setattr(products, "LARGE", 2 * 7 * 4 * 9 + 1)
    assert convolution.convolution(x, w, *options) is None
    monkeypatch.setattr(products, "LARGE", 1)
    monkeypatch.setattr(products, "ours", lambda: False)
    assert convolution.convolution(x, w, *options) is None


def test_derivatives_of_the_second_order_go_by_machine_code() -> None:
    """Against those of float64, which do not."""
    rng = np.random.default_rng(0)
    x, w, v = (rng.normal(size=s) for s in ((2, 3, 9, 8), (4, 3, 3, 2), (2, 3, 9, 8)))

    def second(dtype: str) -> list[Array]:
        def f(x: tg.Tensor, w: tg.Tensor) -> tg.Tensor:
            y = tg.conv2d(x, w, stride=(2, 1), padding=1)
            return tg.sum(tg.tanh(y) * y)

        a, b, direction = (tg.tensor(z, dtype=dtype, requires_grad=True) for z in (x, w, v))
        (first,) = tg.grad(f(a, b), [a], create_graph=True)
        return [z.numpy() for z in tg.grad(tg.sum(first * direction), [a, b])]

    for one, other in zip(second("float32"), second("float64"), strict=True):
        assert_allclose(one, other, rtol=2e-4, atol=2e-4 * np.abs(other).max())
