"""Random numbers that depend on where they are drawn, not on when.

Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) turns a key and
a counter into four 32-bit words. The key is (seed, call); the counter is (draw site, time step,
row, column block). So the mask that dropout draws for a row at a time step is the same whether the
loop runs forwards or is replayed by a checkpoint, whatever rows surround it, on every backend.

Initial weights come from ``host_generator``: drawn on the host, so that one seed gives the same
model on every backend.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from .batching import BatchedArray
from .structure import flatten
from .tensor import Tensor, canonical_dtype, default_dtype, native_dtype, wrap

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


class _Site:
    """Where draws are made: a call, the time step within it, and how many came before.

    The call is numbered at its first draw, so that a loop that draws nothing changes no other's.
    """

    def __init__(self, key: tuple[int, int] | None = None, step: int = 0, draws: int = 0) -> None:
        self.key = key  # the seed and the number of the call
        self.step = step
        self.draws = draws


class Position(NamedTuple):
    """Where the next draw is made: after how many calls from which seed, and where in a loop."""

    seed: int
    calls: int
    site: tuple[tuple[int, int] | None, int, int] | None


class _Calls:
    """Calls counted from a position on, by one thread for itself."""

    def __init__(self, at: Position) -> None:
        self.seed = at.seed
        self.calls = at.calls


_lock = threading.Lock()
_stream = _Stream(int(np.random.SeedSequence().generate_state(1)[0]))
_site: ContextVar[_Site | None] = ContextVar("tinygrad_rnn_random_site", default=None)
_own: ContextVar[_Calls | None] = ContextVar("tinygrad_rnn_random_calls", default=None)


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
    with _lock:
        _stream = _Stream(int(seed))


def host_generator() -> np.random.Generator:
    """The NumPy generator that initial weights are drawn from."""
    return _stream.host


def get_state() -> dict[str, Any]:
    """All there is to restore with ``set_state``; of numbers and strings only, ready for JSON."""
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
    check_state(state)
    restored = _Stream(int(state["seed"]))
    restored.calls = int(state["calls"])
    host = dict(state["host"])
    host["state"] = {name: np.array(w, dtype=np.uint64) for name, w in host["state"].items()}
    host["buffer"] = np.array(host["buffer"], dtype=np.uint64)
    restored.host.bit_generator.state = host
    with _lock:
        _stream = restored


def _next_call() -> tuple[int, int]:
    """The seed and the number of a new call."""
    own = _own.get()
    with _lock:
        counter = _stream if own is None else own
        counter.calls += 1
        return counter.seed, counter.calls


@contextmanager
def loop() -> Iterator[Callable[[int], None]]:
    """Draws in this block belong to one call; the function it gives says which time step it is."""
    site = _Site()

    def at_step(step: int) -> None:
        site.step, site.draws = step, 0

    token = _site.set(site)
    try:
        yield at_step
    finally:
        _site.reset(token)


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


@contextmanager
def recorded() -> Iterator[Position]:
    """Draws in this block are made as ever, and again in a block of ``replay(position)``.

    Its calls are numbered apart while it runs: those of another thread must not come in between.
    """
    own, site = _own.get(), _site.get()
    with _lock:
        counter = _stream if own is None else own
        place = None if site is None else (site.key, site.step, site.draws)
        at = Position(counter.seed, counter.calls, place)
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
    site = _site.set(None if at.site is None else _Site(*at.site))
    own = _own.set(_Calls(at))
    try:
        yield
    finally:
        _site.reset(site)
        _own.reset(own)


def uniform(
    shape: tuple[int, ...] | int,
    low: float = 0.0,
    high: float = 1.0,
    *,
    dtype: Any = None,
    backend: str | None = None,
) -> Tensor:
    """Uniform numbers in [low, high): row i of axis 0 is the same however many rows there are."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    chosen = backends.default() if backend is None else backends.get(backend)
    native = native_dtype(chosen, default_dtype() if dtype is None else canonical_dtype(dtype))
    site = _site.get()
    if site is None:
        key, counter = _next_call(), (0, 0)
    else:
        key = site.key = _next_call() if site.key is None else site.key
        counter = (site.draws, site.step)
        site.draws += 1
    unit = _uniform(chosen, shape, key, counter)
    return wrap(chosen.asarray(unit * (high - low) + low, dtype=native), None)


def uniform_like(x: Tensor) -> Tensor:
    """Numbers in [0, 1) for the elements of x: in ``vmap``, for those of all examples."""
    array = x._array
    if isinstance(array, BatchedArray):
        return wrap(BatchedArray(array.batch, uniform_like(array.value), array.batched), None)
    return uniform(x.shape, dtype=x.dtype, backend=x.backend)


def _uniform(
    xp: Any, shape: tuple[int, ...], key: tuple[int, int], counter: tuple[int, int]
) -> Any:
    """Numbers in [0, 1) with 24 random bits, exact in float32, from word c % 4 of block c // 4."""
    rows = shape[0] if shape else 1
    columns = math.prod(shape[1:])
    blocks = -(-columns // 4)
    site, step = counter
    row = xp.reshape(xp.astype(xp.arange(rows), xp.uint64), (rows, 1))
    block = xp.reshape(xp.astype(xp.arange(blocks), xp.uint64), (1, blocks))
    zero = xp.zeros((rows, blocks), dtype=xp.uint64)
    words = _philox(
        xp,
        (key[0] & _WORD, key[1] & _WORD),
        (zero + _number(xp, site), zero + _number(xp, step), zero + row, zero + block),
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
