"""Random numbers that depend on where they are drawn, not on when.

Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) turns a key and
a counter into four 32-bit words. The key is (seed, call); the counter is (draw site, time step,
row, column block). So the mask that dropout draws for a row at a time step is the same whether the
loop runs forwards or is replayed by a checkpoint, whatever rows surround it, on every backend.

``uniform`` is the only source; other distributions are functions of its numbers, so they have all
of its properties. In ``vmap`` examples are rows, each with draws of its own. To share draws among
them, make them outside, and let the function capture them or take them with ``in_axes=None``.

Initial weights come from ``host_generator``: drawn on the host, so that one seed gives the same
model on every backend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

import tinygrad_rnn_backends as backends
from tinygrad_rnn_backends import locks

from . import anomaly, names
from .batching import Batch, BatchedArray, running_batches
from .dtypes import canonical_dtype, default_dtype, native_dtype
from .primitives.axes import negative_axis
from .primitives.elementwise import TensorLike, astype, cos, exp, isfinite, log, sqrt, where
from .primitives.movement import broadcast_shape, moveaxis
from .primitives.reduction import cumulative_sum, max, sum
from .structure import flatten
from .tensor import MODE, Tensor, as_tensor, seen, wrap

_WORD = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ANY_STEP = _WORD  # in place of a time step: beyond any that a loop comes to


class _Stream:
    """The seed, how many calls have drawn from it, and the generator of initial weights."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.calls = 0
        self.host = np.random.Generator(np.random.Philox(seed))
        locks.renew_in_child(self.host.bit_generator.lock)


class Call:
    """A call that draws are made for, by one loop or by parts of it that run one after the other.

    It is numbered at its first draw, so that a loop that draws nothing changes no other's numbers.
    """

    def __init__(self, key: tuple[int, int] | None = None) -> None:
        self.key = key  # the seed and the number of the call

    def number(self) -> tuple[int, int]:
        """Its key, which is given now if there have been no draws."""
        if self.key is None:
            self.key = next_call()
        return self.key


class _Site:
    """Where draws are made: a call, the time step within it, and how many came before."""

    trace: Callable[[Draw], Tensor] | None = None  # told of a draw, instead of making it

    def __init__(self, call: Call | None = None, step: int = 0, draws: int = 0) -> None:
        self.call = Call() if call is None else call
        self.step = step
        self.draws = draws


class Draw(NamedTuple):
    """Numbers that a step of a loop draws from [low, high), the ``number``-th of it from 0 on."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    low: float
    high: float
    number: int
    same: bool  # at every step


class Place(NamedTuple):
    """Where a draw is made: what ``drawn`` is given."""

    draw: Draw
    key: tuple[int, int]
    step: int


class Position(NamedTuple):
    """Where the next draw is made: after how many calls from which seed, and where in a loop."""

    seed: int
    calls: int
    site: tuple[tuple[int, int] | None, int, int] | None
    batches: tuple[Batch, ...]  # that numbers are drawn for


_NOWHERE = Position(0, 0, None, ())


class _Calls:
    """Calls counted from a position on, by one thread for itself."""

    def __init__(self, at: Position) -> None:
        self.seed = at.seed
        self.calls = at.calls


if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise AttributeError(names.of_random(name))


_lock = locks.lock()
_stream = _Stream(int(np.random.SeedSequence().generate_state(1)[0]))
_site: ContextVar[_Site | None] = ContextVar("tinygrad_rnn_random_site", default=None)
_own: ContextVar[_Calls | None] = ContextVar("tinygrad_rnn_random_calls", default=None)
_replayed: ContextVar[tuple[tuple[Batch, ...], int]] = ContextVar(
    "tinygrad_rnn_random_batches", default=((), 0)
)
"""Batches that a replay draws for in place of so many that run around it."""


def manual_seed(seed: int) -> None:
    """Start all random numbers of the library again, from ``seed``: weights, masks and draws.

    It is one word of the key: from 0 to 2**32 - 1.
    """
    global _stream
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed <= _WORD:
        raise ValueError(
            f"manual_seed: an integer from 0 to 2**32 - 1, not {seed!r}; "
            "of a longer one take seed % 2**32"
        )
    _refuse_in_trace("manual_seed")
    with _lock:
        _stream = _Stream(int(seed))


def _refuse_in_trace(operation: str) -> None:
    """Raise RuntimeError where draws are only noted: they are made later, in their order."""
    site = _site.get()
    if site is not None and site.trace is not None:
        raise RuntimeError(
            f"{operation}: random numbers are only noted inside a cell, a function or a step that "
            "is traced, and drawn when it is done; call this outside of it"
        )


def host_generator() -> np.random.Generator:
    """The NumPy generator that initial weights are drawn from."""
    return _stream.host


def get_state() -> dict[str, Any]:
    """All there is to restore with ``set_state``; of numbers and strings only, ready for JSON."""
    _refuse_in_trace("get_state")
    state: Any = _stream.host.bit_generator.state
    words = {name: [int(w) for w in array] for name, array in state["state"].items()}
    host = {**state, "state": words, "buffer": [int(w) for w in state["buffer"]]}
    return {"seed": _stream.seed, "calls": _stream.calls, "host": host}


def check_state(state: Any) -> None:
    """Raise ValueError for what ``get_state`` cannot have returned, as a damaged file may hold."""
    own, structure = flatten(get_state())
    given, found = flatten(state, structure)
    # NumPy would read from wherever a negative place led it.
    if (
        found != structure
        or not all(
            type(x) is int and x >= 0 if isinstance(y, int) else x == y
            for x, y in zip(given, own, strict=True)
        )
        or state["seed"] > _WORD
    ):
        raise ValueError("set_state: the random numbers are in no possible state")


def set_state(state: dict[str, Any]) -> None:
    """Continue where ``get_state`` was called; ValueError for what that did not return."""
    global _stream
    _refuse_in_trace("set_state")
    check_state(state)
    restored = _Stream(int(state["seed"]))
    restored.calls = int(state["calls"])
    host = dict(state["host"])
    host["state"] = {name: np.array(w, dtype=np.uint64) for name, w in host["state"].items()}
    host["buffer"] = np.array(host["buffer"], dtype=np.uint64)
    restored.host.bit_generator.state = host
    with _lock:
        _stream = restored


def next_call() -> tuple[int, int]:
    """A new call that draws: the seed and its number."""
    own = _own.get()
    with _lock:
        counter = _stream if own is None else own
        counter.calls += 1
        return counter.seed, counter.calls


def take(draw: Draw) -> Place:
    """Where a draw that was traced outside of loops is made if it is made now, as ``uniform``'s."""
    site = _site.get()
    if site is None:
        return Place(draw._replace(number=0, same=False), next_call(), 0)
    draw = draw._replace(number=site.draws, same=draw.same or site.step == _ANY_STEP)
    site.draws += 1
    return Place(draw, site.call.number(), site.step)


def is_elsewhere() -> bool:
    """Whether draws are made here for the examples of a ``vmap``, or told to a trace."""
    site = _site.get()
    return bool(_batches()) or (site is not None and site.trace is not None)


def this_call() -> Call | None:
    """The call that draws here belong to; None outside of a loop."""
    site = _site.get()
    return None if site is None else site.call


def position() -> Position:
    """Where the next draw is made; those that follow are made again in ``replay`` of it."""
    return _position()[1]


@contextmanager
def loop(call: Call | None = None) -> Iterator[Callable[[int], None]]:
    """Draws in this block belong to one call; the function it gives says which time step it is."""
    site = _Site(call)

    def at_step(step: int) -> None:
        site.step, site.draws = step, 0
        anomaly.STEPS.set((*around, step))

    around = anomaly.STEPS.get()
    token, steps = _site.set(site), anomaly.STEPS.set(around)
    try:
        yield at_step
    finally:
        _site.reset(token)
        anomaly.STEPS.reset(steps)


@contextmanager
def traced(note: Callable[[Draw], Tensor]) -> Iterator[None]:
    """Draws in this block are not made: each is told to ``note``, which returns what stands for it.

    The block is one step of a loop. RuntimeError if a loop within it draws: that is a call of its
    own at each step. It leaves the calls outside numbered as they were.
    """
    site, calls = _Site(), _Calls(_NOWHERE)
    site.trace = note
    token, own = _site.set(site), _own.set(calls)
    try:
        yield
    finally:
        _site.reset(token)
        _own.reset(own)
    if calls.calls:
        raise RuntimeError("a loop inside the cell draws random numbers")


@contextmanager
def same_at_every_step() -> Iterator[None]:
    """Draws in this block, inside a loop, are the same at each of its steps.

    They are told apart by how many draws a step made before them, which has to be the same number
    at each. Elsewhere, where there are no steps, this changes nothing.
    """
    site = _site.get()
    step = 0 if site is None else site.step
    try:
        if site is not None:
            site.step = _ANY_STEP
        yield
    finally:
        if site is not None:
            site.step = step


def _position() -> tuple[_Stream | _Calls, Position]:
    """What counts calls here, and where it is."""
    own, site = _own.get(), _site.get()
    with _lock:
        counter = _stream if own is None else own
        place = None if site is None else (site.call.key, site.step, site.draws)
        return counter, Position(counter.seed, counter.calls, place, _batches())


@contextmanager
def recorded() -> Iterator[Position]:
    """Draws in this block are made as ever, and again in a block of ``replay(position)``.

    Its calls are numbered apart while it runs: those of another thread must not come in between.
    """
    counter, at = _position()
    calls = _Calls(at)
    token = _own.set(calls)
    try:
        yield at
    finally:
        _own.reset(token)
        with _lock:
            counter.calls += calls.calls - at.calls


@contextmanager
def replay(at: Position) -> Iterator[None]:
    """Draws in this block are those that were made in a block of ``recorded``."""
    site = _site.set(None if at.site is None else _Site(Call(at.site[0]), *at.site[1:]))
    own = _own.set(_Calls(at))
    # The backward pass may run in a vmap of its own, as jacobian's does, or after one has ended.
    batches = _replayed.set((at.batches, len(running_batches())))
    try:
        yield
    finally:
        _site.reset(site)
        _own.reset(own)
        _replayed.reset(batches)


def _batches() -> tuple[Batch, ...]:
    """The batches for whose examples numbers are drawn, the outermost first."""
    recorded, around = _replayed.get()
    return (*recorded, *running_batches()[around:])


def uniform(
    shape: tuple[int, ...] | int,
    low: float = 0.0,
    high: float = 1.0,
    *,
    dtype: Any = None,
    backend: str | None = None,
) -> Tensor:
    """Uniform numbers in [low, high): row i of axis 0 is the same however many rows there are.

    In ``vmap`` ``shape`` is that of one example, and each has numbers of its own. To share them,
    draw outside of the mapped function.

    Raises ValueError unless low <= high and the dtype has a number there, and TypeError for a dtype
    that is not floating.
    """
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    batches = _batches()
    numbers = _draw((*(b.size for b in batches), *shape), low, high, dtype, backend)
    for batch in batches:
        numbers = wrap(BatchedArray(batch, numbers, True), None)
    return numbers


def _draw(
    shape: tuple[int, ...], low: float, high: float, dtype: Any, backend: str | None
) -> Tensor:
    chosen = backends.default() if backend is None else backends.get(backend)
    native = native_dtype(chosen, default_dtype() if dtype is None else dtype)
    if canonical_dtype(native).kind != "f":
        raise TypeError(
            f"uniform: numbers of a floating dtype, not {canonical_dtype(native)}; for integers "
            "below n, astype(floor(uniform(shape, 0, n)), 'int64')"
        )
    _ends(float(low), float(high), canonical_dtype(native))
    site = _site.get()
    draw = Draw(shape, canonical_dtype(native), low, high, 0, False)
    if site is not None and site.trace is not None:
        draw = draw._replace(number=site.draws, same=site.step == _ANY_STEP)
        site.draws += 1
        made = site.trace(draw)
    else:
        draw, key, step = take(draw)
        made = wrap(drawn(chosen, draw, key, step), None)
    watch = MODE.get().watch
    if watch is not None:
        watch.draw(draw, made)
    return made


def drawn(xp: Any, draw: Draw, key: tuple[int, int], step: Any, row: Any = None) -> Any:
    """The numbers of a draw in a call, as an array of a backend.

    Of ``draw.shape`` at one step. Or, with arrays of integers (N,) that say step and row, those of
    N rows: (N, ...), whichever steps they belong to.
    """
    shape = draw.shape if row is None else (row.shape[0], *draw.shape[1:])
    step = _ANY_STEP if draw.same else step
    unit = _uniform(xp, shape, key, draw.number, step, row)
    native = native_dtype(xp, draw.dtype)
    numbers = xp.asarray(unit * (draw.high - draw.low) + draw.low, dtype=native)
    if (draw.low, draw.high) == (0, 1) and draw.dtype.itemsize > 2:
        return numbers  # which were not rounded
    first, last = _ends(float(draw.low), float(draw.high), draw.dtype)
    return xp.asarray(xp.clip(numbers, first, last))  # of shape (), an array, too


def counter(xp: Any, draw: Draw, key: tuple[int, int], step: int) -> Any:
    """What a kernel makes a draw's numbers from: the two words of the key, the site, the step."""
    step = _ANY_STEP if draw.same else step
    words = [key[0] & _WORD, key[1] & _WORD, draw.number, step]
    return xp.from_host(np.array(words, np.int64))


@cache
def _ends(low: float, high: float, dtype: np.dtype[Any]) -> tuple[float, float]:
    """The first and the last number of a dtype in [low, high), or twice ``low`` if that is all."""
    if not low <= high or math.isinf(high - low):
        raise ValueError(f"uniform: finite bounds, low <= high, are needed, not {low} and {high}")
    with np.errstate(over="ignore"):
        first, last = dtype.type(low), dtype.type(high)
    if float(first) < low:  # in float64, where NumPy would round the number first
        first = np.nextafter(first, dtype.type(math.inf))
    if low < high and float(last) >= high:
        last = np.nextafter(last, dtype.type(-math.inf))
    if low < high and first > last:
        raise ValueError(f"uniform: {dtype} has no number in [{low}, {high}); use a wider dtype")
    return float(first), float(last if low < high else first)


def uniform_like(x: Tensor) -> Tensor:
    """Numbers in [0, 1) for the elements of x: in ``vmap``, for those of all examples.

    Unlike in ``uniform``, an x that is the same for all examples gets numbers that are so, too.
    Those for integers have the default dtype.
    """
    array = x._array
    if isinstance(array, BatchedArray):
        return wrap(BatchedArray(array.batch, uniform_like(array.value), array.batched), None)
    return _draw(x.shape, 0.0, 1.0, x.dtype if x.dtype.kind == "f" else None, x.backend)


def normal(
    shape: tuple[int, ...] | int,
    mean: float = 0.0,
    std: float = 1.0,
    *,
    dtype: Any = None,
    backend: str | None = None,
) -> Tensor:
    """Normal numbers with a mean and a standard deviation (Box & Muller 1958), as ``uniform``'s.

    Where these are computed, and are to have a gradient: ``mean + std * normal(mean.shape)``. No
    number is further than 5.8 deviations from the mean.
    """
    if not std >= 0:
        raise ValueError(f"normal: a standard deviation of 0 or more, not {std}")
    wanted = default_dtype() if dtype is None else canonical_dtype(np.dtype(dtype))
    exact = "float32" if wanted == np.float16 else wanted
    first, second = (uniform(shape, dtype=exact, backend=backend) for _ in range(2))
    drawn = sqrt(-2 * log(1 - first)) * cos(2 * math.pi * second)
    return astype(mean + std * drawn, wanted)


def bernoulli(
    p: TensorLike,
    shape: tuple[int, ...] | int | None = None,
    *,
    dtype: Any = None,
    backend: str | None = None,
) -> Tensor:
    """True with probability ``p``, else False, drawn as ``uniform``'s numbers are.

    Args:
        p: a number, or a Tensor of probabilities, one for each result unless ``shape`` says more.
        shape: of the result; p broadcasts to it. A number needs one.
        dtype: of the result, if it is not to be bool: 1 and 0.
        backend: as in ``uniform``; a Tensor's own.
    """
    if isinstance(p, (tuple, list)):
        raise TypeError(f"bernoulli: p is a number or a Tensor, not {p}; it comes before the shape")
    if isinstance(p, (int, float)):
        if shape is None:
            raise ValueError(f"bernoulli: p={p} needs a shape, bernoulli({p}, shape)")
        if not 0 <= p <= 1:
            raise ValueError(f"bernoulli: a probability p between 0 and 1, not {p}")
    else:
        p = as_tensor(p)
        backend = p.backend
        shape = p.shape if shape is None else (shape,) if isinstance(shape, int) else tuple(shape)
        if broadcast_shape("bernoulli", p.shape, shape) != shape:
            raise ValueError(f"bernoulli: p of shape {p.shape} does not broadcast to {shape}")
        host = seen(p)
        if host is not None and not ((host >= 0) & (host <= 1)).all():
            raise ValueError("bernoulli: p is not between 0 and 1; of logits it is sigmoid(logits)")
    chosen = uniform(shape, dtype="float32", backend=backend) < p
    return chosen if dtype is None else astype(chosen, dtype)


def categorical(logits: TensorLike, /, axis: int = -1) -> Tensor:
    """Classes, int64, drawn with the probabilities softmax(logits) along ``axis``, which goes.

    A class of -inf never comes. One number of ``uniform`` decides for each result: it comes as it
    does there, and a class of a probability below 1e-7 may never come. For several draws from the
    same logits, broadcast them first. On NumPy, ValueError for nan or nothing but -inf.
    """
    logits = as_tensor(logits)
    logits = logits.detach()
    along = negative_axis(axis, logits.ndim, "categorical")
    if not logits.shape[along]:
        raise ValueError(f"categorical: there are no classes along axis={axis} of {logits.shape}")
    logits = moveaxis(logits, along, -1)
    if logits.dtype.kind != "f" or logits.dtype.itemsize < 4:
        logits = astype(logits, "float32")
    largest = max(logits, axis=-1, keepdims=True)
    weights = exp(logits - where(isfinite(largest), largest, 0.0))
    reached = cumulative_sum(weights, axis=-1)
    host = seen(reached)
    if host is not None and not (host[..., -1] > 0).all():
        raise ValueError("categorical: the logits of a draw are nan, or all -inf")
    shape = (*logits.shape[:-1], 1)
    point = uniform(shape, dtype=logits.dtype, backend=logits.backend)
    # Less than the total, even when rounded, so that it lies before the end of a class that can be.
    point = point * (1 - 2.0**-24) * reached[..., -1:]
    return sum(astype(reached <= point, "int64"), axis=-1)


def _uniform(
    xp: Any, shape: tuple[int, ...], key: tuple[int, int], site: int, step: Any, row: Any
) -> Any:
    """Numbers in [0, 1) with 24 random bits, exact in float32, from word c % 4 of block c // 4."""
    rows = shape[0] if shape else 1
    columns = math.prod(shape[1:])
    blocks = -(-columns // 4)
    row = xp.arange(rows) if row is None else row
    row = xp.reshape(xp.astype(row, xp.uint64), (rows, 1))
    step = _number(xp, step) if isinstance(step, int) else xp.astype(step, xp.uint64)[:, None]
    block = xp.reshape(xp.astype(xp.arange(blocks), xp.uint64), (1, blocks))
    zero = xp.zeros((rows, blocks), dtype=xp.uint64)
    words = _philox(
        xp,
        (key[0] & _WORD, key[1] & _WORD),
        (zero + _number(xp, site), zero + step, zero + row, zero + block),
    )
    mixed = xp.reshape(xp.stack(words, axis=-1), (rows, blocks * 4))[:, :columns]
    top = xp.astype(mixed >> _number(xp, 8), xp.float64)
    return xp.reshape(top * 2.0**-24, shape)


def _number(xp: Any, n: int) -> Any:
    return xp.asarray(n, dtype=xp.uint64)


def _philox(xp: Any, key: tuple[int, int], counter: tuple[Any, ...]) -> tuple[Any, ...]:
    """Ten rounds on four uint64 arrays, each of which holds 32-bit words."""
    a, b, c, d = counter
    k0, k1 = key
    word, half = _number(xp, _WORD), _number(xp, 32)
    for _ in range(10):
        first, second = a * _number(xp, _MULTIPLIERS[0]), c * _number(xp, _MULTIPLIERS[1])
        a, b, c, d = (
            (second >> half) ^ b ^ _number(xp, k0),
            second & word,
            (first >> half) ^ d ^ _number(xp, k1),
            first & word,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return a, b, c, d
