"""Memory that is used again while plans run.

An array of the pool stands on a lease, which NumPy keeps alive as the base of the array and of all
its views. So an output that a user keeps, a view of it, a graph that waits for its backward pass
and another library's array on the same memory all keep the block; once the lease is gone nobody
can reach it, and the pool has it back. A lease is a ``PickleBuffer``: nothing is pickled, but it is
what Python has for memory of somebody else's under an object with weak references.

The subtle point is where that happens: anywhere, also inside the pool, since a lease may go with
any line of anybody's. So what is gone is appended to a queue, by no code of Python's, and the pool
looks there when it is asked for memory.
"""

from __future__ import annotations

import math
import weakref
from collections import defaultdict, deque
from pickle import PickleBuffer
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tinygrad_rnn_backends import locks

Array: TypeAlias = Any  # of NumPy or CuPy

SMALL = 2**17  # bytes that C's allocator has at hand: a lease on them would take longer
_GRAIN = 64
_CALLS = 16  # as many of the last calls of plans say what is needed
_SPARE = 0.5  # of that is kept beyond it: free, or lost in blocks larger than asked for
_LITTLE = 2**20  # bytes, and this much anyway


class _Block(NamedTuple):
    size: int
    memory: Any


class Pool:
    """Blocks of memory by size, taken again once no array stands on them."""

    def __init__(self) -> None:
        # By size, each with the call after which it came back, the last returned last.
        self._free: dict[int, deque[tuple[int, _Block]]] = defaultdict(deque)
        # What is in use: by the lease, how many bytes were asked for, and the block.
        self._loans: dict[weakref.ref[PickleBuffer], tuple[int, _Block]] = {}
        self._returned: deque[weakref.ref[PickleBuffer]] = deque()
        self._calls = 0
        self._held = 0  # bytes of all blocks
        self._asked = 0  # bytes that were asked for, of those in use
        self._lost = 0  # bytes that those have beyond that
        self._most = 0  # of what was asked for at once during this call
        self._needed: deque[int] = deque([0], maxlen=_CALLS)  # and during each of the last ones
        self._layouts: dict[Any, tuple[int, np.dtype[Any]]] = {}
        self._lock = locks.lock()

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        """An array of any content, on memory that nobody else refers to."""
        layout = self._layouts.get((shape, dtype))
        if layout is None:
            if len(self._layouts) > 10_000:
                self._layouts.clear()
            of = np.dtype(dtype)
            layout = self._layouts[shape, dtype] = rounded(math.prod(shape) * of.itemsize), of
        size, dtype = layout
        if size <= SMALL:
            return np.empty(shape, dtype)
        with self._lock:
            if self._returned:
                self._collect()
            blocks = self._free.get(size)
            block = blocks.pop()[1] if blocks else self._other(size)
            lease = PickleBuffer(block.memory)
            self._loans[weakref.ref(lease, self._returned.append)] = size, block
            self._asked += size
            if self._asked > self._most:
                self._most = self._asked
        return np.ndarray(shape, dtype, lease)  # type: ignore[arg-type]

    def zeros(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        """An array of zeros, on memory that nobody else refers to."""
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def begin_call(self) -> None:
        """Give back what the last calls of plans did not need."""
        with self._lock:
            if self._returned:
                self._collect()
            self._calls += 1
            self._needed.append(self._most)
            self._most = self._asked
            self._give_back(0)

    def _other(self, size: int) -> _Block:
        """A free block of up to twice the size, as longer sequences left them; or a new one."""
        most = min(2 * size, size + _SPARE * self._needed_with(size) - self._lost)
        own = rounded(size + 1)
        while own <= most:
            if blocks := self._free.get(own):
                self._lost += own - size
                return blocks.pop()[1]
            own = rounded(own + 1)
        self._give_back(size)
        memory: Any = np.empty(size, dtype=np.uint8)
        block = _Block(size, memoryview(memory))  # of which a lease is quicker to make
        self._held += size
        return block

    def _collect(self) -> None:
        """Take back the blocks of leases that are gone."""
        while self._returned:
            loan = self._loans.pop(self._returned.popleft(), None)
            if loan is not None:  # else it was made before all were forgotten
                asked, block = loan
                self._asked -= asked
                self._lost -= block.size - asked
                self._free[block.size].append((self._calls, block))

    def _give_back(self, size: int) -> None:
        """Drop what has been free for longest, so that with ``size`` more there is not too much."""
        if self._held + size <= _LITTLE:
            return
        most = max((1 + _SPARE) * self._needed_with(size), _LITTLE)
        while self._held + size > most:
            filled = [blocks for blocks in self._free.values() if blocks]
            if not filled:
                break
            _, block = min(filled, key=lambda blocks: blocks[0][0]).popleft()
            self._held -= block.size

    def _needed_with(self, size: int) -> int:
        """The most bytes that this call, with ``size`` more now, and the last ones had at once."""
        return max(self._asked + size, self._most, *self._needed)

    @property
    def bytes(self) -> int:
        """What the blocks take, in use or not."""
        with self._lock:
            self._collect()
            return self._held

    def clear(self) -> None:
        """Forget all blocks; those in use are freed by their users."""
        with self._lock:
            self._loans.clear()
            self._free.clear()
            self._held = self._asked = self._lost = self._most = 0
            self._needed.clear()
            self._needed.append(0)


def rounded(size: int) -> int:
    """A size that others share: with at most an eighth of it to spare."""
    if size <= _GRAIN:
        return _GRAIN
    grain = max(_GRAIN, 1 << ((size - 1).bit_length() - 4))
    return -(-size // grain) * grain
