"""Locks that survive signals and forks: every lock of the library is made here.

A signal handler runs between two lines of whatever the main thread does, so a lock that its own
thread could not take again would stop it for ever. And a child of ``fork`` has one thread: a lock
that another one held at that moment would never be released there.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

_known: weakref.WeakSet[Any] = weakref.WeakSet()


def lock() -> Any:
    """A lock for ``with``, which its own thread may take again; free in the child of a fork.

    What it guards must be sound between any two lines, since a signal handler may come between.
    """
    return renew_in_child(threading.RLock())


def renew_in_child(lock: Any) -> Any:
    """Let a lock of a library be free in the child of a fork, too; returns the lock."""
    _known.add(lock)
    return lock


def _renew() -> None:
    for each in list(_known):
        if each.acquire(blocking=False):  # nobody's, or taken by the thread that forked
            each.release()
        else:
            each._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
