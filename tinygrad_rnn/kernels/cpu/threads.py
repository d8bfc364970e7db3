"""The pool of threads among which loops and products share out their rows.

The subtle point is that there is one such pool and no BLAS. The threads of a BLAS would spin while
these run, and these while those run.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SHARE = 50_000  # nanoseconds that a thread is worth waking for: it takes about 20,000


class _Workers:
    """Threads that wait for calls."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Callable[[], None], SimpleQueue[BaseException | None]]] = (
            SimpleQueue()
        )
        self._count = 0
        self._starting = threading.Lock()

    def run(self, calls: Sequence[Callable[[], None]]) -> None:
        """Make all calls at once, the first in this thread; return when all have returned."""
        with self._starting:
            while self._count < len(calls) - 1:
                threading.Thread(target=self._work, daemon=True).start()
                self._count += 1
        done: SimpleQueue[BaseException | None] = SimpleQueue()
        for call in calls[1:]:
            self._tasks.put((call, done))
        try:
            calls[0]()
        finally:
            errors = [done.get() for _ in calls[1:]]
        for error in errors:
            if error is not None:
                raise error

    def _work(self) -> None:
        while True:
            call, done = self._tasks.get()
            try:
                call()
            except BaseException as error:
                done.put(error)
            else:
                done.put(None)
            del call  # or its arrays would live until the next one


_workers = _Workers()


def _renew_workers() -> None:
    global _workers
    _workers = _Workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_workers)  # a child has none of the threads


def run_at_once(calls: Sequence[Callable[[], None]]) -> None:
    """Make all calls at once, the first in this thread; return when all have returned."""
    _workers.run(calls)


def shares(count: Array, threads: int) -> list[int]:
    """Boundaries between the rows of each thread, such that all have as many steps to run."""
    rows = int(count[0])
    if count[-1] == rows:
        return [rows * i // threads for i in range(threads + 1)]
    steps = np.searchsorted(-count, -np.arange(rows))  # how many each row takes
    total = np.cumsum(steps)
    inner = np.searchsorted(total, total[-1] * np.arange(1, threads) / threads)
    return [0, *(inner + 1).tolist(), rows]
