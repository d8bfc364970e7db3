"""Ctrl-C in examples: it cuts no step and no file in half, and never ends in a traceback.

It needs nothing but Python, and is imported before what takes long, so that it holds from the
beginning.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

AT_ONCE = "Stopped at once; nothing more was saved."


@contextmanager
def interruptions() -> Iterator[list[int]]:
    """A list that Ctrl-C adds to, so that it cuts no step and no file in half.

    Pressed a second time it is KeyboardInterrupt, as it was before.
    """
    pressed: list[int] = []

    def press(number: int, frame: object) -> None:
        if pressed:
            raise KeyboardInterrupt(AT_ONCE)
        pressed.append(number)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def last_words() -> str:
    """What is said when Ctrl-C ends a program; ``support`` saves a run first."""
    return "Stopped."


def end_in_one_line(say: Callable[[], str] = last_words) -> None:
    """Have a KeyboardInterrupt that nobody catches print a line, and exit with status 130."""

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, traceback)
            return
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
        print("\n" + (AT_ONCE if AT_ONCE in error.args else say()), flush=True)
        sys.exit(130)

    sys.excepthook = hook


end_in_one_line()
