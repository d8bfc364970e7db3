"""The pool of threads among which loops and products share out their rows.

There is one such pool and no BLAS. The threads of a BLAS would spin while these run, and these
while those run. A thread of this pool looks for more work for a moment (``desks.py``), then sleeps.

An exception, as of Ctrl-C, may reach the thread that shares out between any two lines, and machine
code knows bare addresses: so a task holds all that it works on, and whoever leaves early cancels or
awaits what was begun. A call that no thread has taken up yet is made by the one that asked for it,
so that no more threads than this one are needed. And the end of the process waits for machine code,
because Python frees the memory of threads that it abandons.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tinygrad_rnn_backends import locks

from . import desks

Array = np.ndarray[Any, Any]
Result = TypeVar("Result")


class DeskWork(NamedTuple):
    """The functions of ``desks.library`` for the pool."""

    attend: Callable[..., None]
    send_off: Callable[..., None]
    code: Any  # which it owns: whoever calls a function holds all of this


SHARE = 50_000  # nanoseconds that a thread is worth waking for: it takes about 20,000


_DESKS = 64  # for as many threads at most
_desk_work: DeskWork | None = None


class _Task:
    """A call that one thread makes, whichever claims it first."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call  # holds what it works on
        self.error: BaseException | None = None
        self._claimed: dict[str, bool] = {}
        self._finished = False
        self._running = threading.Lock()
        self._running.acquire()

    def claim(self, worker: bool) -> bool:
        """Whether it is for a worker, or for the thread that asked, to make the call."""
        return self._claimed.setdefault("by worker", worker) is worker

    def make(self) -> None:
        """Make the call."""
        call, self._call = self._call, None
        assert call is not None  # it was claimed once
        call()

    def run(self) -> None:
        """Make the call in a worker, which lets go of it before it says that it is done."""
        try:
            self.make()
        except BaseException as error:
            self.error = error
        finally:
            self._finished = True
            self._running.release()

    def settle(self) -> None:
        """Return when no worker makes the call any more, nor will."""
        if self.claim(worker=False):
            self._call = None
        else:
            while not self._finished:
                self._running.acquire()


class _Workers:
    """Threads that wait for tasks."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._starting = locks.lock()
        self._closed = False
        self._desks = desks.desks(_DESKS)

    def run(self, calls: Sequence[Callable[[], None]]) -> None:
        """Make all calls at once, the first in this thread; return when all have returned."""
        tasks = [_Task(call) for call in calls[1:]]
        try:
            count = self._start(len(tasks))
            work = _desk_work
            if work is not None and tasks:
                work.send_off(self._desks, min(count, _DESKS))
            for task in tasks[:count]:
                self._tasks.put(task)
            calls[0]()
            for task in tasks:
                if task.claim(worker=False):
                    task.make()
        finally:
            _settle(tasks)
        for task in tasks:
            if task.error is not None:
                raise task.error

    def _start(self, count: int) -> int:
        """How many threads there are, after starting some if there were fewer."""
        if len(self._threads) < count:
            with self._starting:
                while len(self._threads) < count and not self._closed:
                    number = len(self._threads)
                    thread = threading.Thread(target=self._work, args=(number,), daemon=True)
                    try:
                        thread.start()
                    except RuntimeError:  # the system has no more
                        break
                    self._threads.append(thread)
        return 0 if self._closed else len(self._threads)

    def _work(self, number: int) -> None:
        while (task := self._tasks.get()) is not None:
            if task.claim(worker=True):
                task.run()
                work = _desk_work
                if work is not None and number < _DESKS:
                    desk = ctypes.byref(self._desks, 8 * desks.WORDS * number)
                    work.attend(desk, desks.PATIENCE)
        self._tasks.put(None)  # for the others

    def attended(self, count: int) -> Any:
        """The first desks, if somebody waits for work at each; else None."""
        ends = range(0, desks.WORDS * count, desks.WORDS)
        waiting = count <= _DESKS and all(self._desks[n] == desks.WAITING for n in ends)
        return self._desks if waiting else None

    def invite(self, count: int) -> None:
        """Have so many threads come to their desks, who knows when."""
        for _ in range(min(self._start(count), count)):
            self._tasks.put(_Task(_nothing))

    def close(self) -> None:
        """Let all threads end; calls are made by those who ask for them from now on."""
        self._closed = True
        self._tasks.put(None)
        for thread in self._threads:
            thread.join()


def _nothing() -> None:
    pass


def _settle(tasks: Sequence[_Task]) -> None:
    """Settle all tasks, however many exceptions arrive meanwhile."""
    left = list(tasks)
    try:
        while left:
            left[-1].settle()
            left.pop()
    finally:
        if left:
            _settle(left)


_workers = _Workers()


def run_at_once(calls: Sequence[Callable[[], None]]) -> None:
    """Make all calls at once, the first in this thread; return when all have returned."""
    _workers.run(calls)


def sit_at(work: DeskWork) -> None:
    """Have the threads of the pool come to their desks from now on, between their tasks."""
    global _desk_work
    _desk_work = work


def attended(count: int) -> Any:
    """The first desks, if somebody waits for work at each; else None."""
    return _workers.attended(count)


def invite(count: int) -> None:
    """Have so many threads come to their desks, who knows when."""
    _workers.invite(count)


def shares(count: Array, threads: int) -> list[int]:
    """Boundaries between the rows of each thread, such that all have as many steps to run."""
    rows = int(count[0])
    if count[-1] == rows:
        return [rows * i // threads for i in range(threads + 1)]
    steps = np.searchsorted(-count, -np.arange(rows))  # how many each row takes
    total = np.cumsum(steps)
    inner = np.searchsorted(total, total[-1] * np.arange(1, threads) / threads)
    return [0, *(inner + 1).tolist(), rows]


# The end of the process, and its children.

_running: dict[int, bool] = {}  # the threads that are in machine code, or wait for some
_ending: int | None = None  # the thread that ends the process
_never = threading.Lock()
_never.acquire()


def run_before_end(call: Callable[..., Result], *arguments: Any) -> Result:
    """What a call returns that runs machine code: the process does not end meanwhile.

    Once it ends, only the thread that ends it may go on; others wait for the end.
    """
    own = threading.get_ident()
    try:
        _running[own] = True
        if _ending is not None and _ending != own:
            del _running[own]
            _never.acquire()
        return call(*arguments)
    finally:
        _running.pop(own, None)


def end() -> None:
    """Let no other thread begin to run machine code, and wait until none does."""
    global _ending
    _ending = own = threading.get_ident()
    while set(_running) - {own}:
        time.sleep(0.001)
    _workers.close()


def end_with_process() -> None:
    """Have ``end`` called before what was imported so far is taken down."""
    atexit.register(end)


def _renew() -> None:
    global _workers
    _workers = _Workers()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)  # a child has none of the threads
