"""Work for a thread that is awake: handed over in machine code, within a microsecond.

To wake a thread takes as long as a product of a small batch. So a thread of the pool, before it
goes to sleep, sits at a desk of its own for a moment and looks whether work lies there. Whoever has
some puts a part on each desk where somebody waits, does the first part, and then takes back what
nobody has begun: a thread that the system has stopped meanwhile keeps nobody waiting.

The subtle point is who may do what when. A desk is handed on only by its state, in one atomic step:
from AWAY to WAITING, READY to BEGUN to DONE and WAITING to AWAY by the thread that sits there; from
WAITING to GIVEN to READY, back to WAITING if that is not BEGUN, and from DONE to WAITING by who has
work, or from WAITING to AWAY to send a thread off. All that is within one call of machine code on
either side, so no exception comes between, and a child that is forked has other desks.
"""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

from .llvm import Code, Integer

AWAY, WAITING, GIVEN, READY, BEGUN, DONE = range(6)

WORDS = 16
"""Words of 64 bits that a desk has, and that a part of work has: two cache lines."""
_STATE, _PART = 0, 1  # words of a desk
_LEFT = WORDS - 1  # the word of a part that says who does it
PATIENCE = 10_000
"""As often a thread looks at its desk before it goes to sleep: for some tenths of a millisecond."""
_LOOKS = 1000  # for what another thread has begun, before others may have the processor


def desks(count: int) -> Any:
    """Memory for so many desks, with nobody there."""
    return (ctypes.c_int64 * (WORDS * count))()


def library(run: str) -> list[Code]:
    """The functions @attend, for a thread of the pool, and @hand_out and @send_off, for others.

    ``run`` is the function that does a part, given where its words are.
    """
    return [_attend(run), _hand_out(run), _send_off()]


def _word(code: Code, place: str, word: Integer) -> str:
    return code.address(place, word, "i64")


def _is(code: Code, desk: str, state: int) -> str:
    found = code.emit(f"load atomic i64, ptr {_word(code, desk, _STATE)} acquire, align 8")
    return code.emit(f"icmp eq i64 {found}, {state}")


def _hand_on(code: Code, desk: str, old: int, new: int) -> str:
    """Whether the state was the one, and is now the other."""
    place = _word(code, desk, _STATE)
    both = code.emit(f"cmpxchg ptr {place}, i64 {old}, i64 {new} acq_rel acquire, align 8")
    return code.emit(f"extractvalue {{ i64, i1 }} {both}, 1")


def _set(code: Code, desk: str, state: int) -> None:
    place = _word(code, desk, _STATE)
    code.do(f"store atomic i64 {state}, ptr {place} release, align 8")


def _wait(code: Code) -> None:
    if platform.machine().lower() in ("x86_64", "amd64", "i386", "i686"):
        code.externals.add("declare void @llvm.x86.sse2.pause()")
        code.do("call void @llvm.x86.sse2.pause()")


def _attend(run: str) -> Code:
    """A function that sits down at a desk and does what is put there, until nothing is for long."""
    code = Code("define void @attend(ptr %desk, i64 %patience)")
    _hand_on(code, "%desk", AWAY, WAITING)
    looks = code.variable("i64")
    code.do(f"store i64 0, ptr {looks}")
    with code.repeat() as leave:
        leave(_is(code, "%desk", AWAY))
        with code.when(_is(code, "%desk", READY)), code.when(_hand_on(code, "%desk", READY, BEGUN)):
            code.do(f"call void {run}(ptr {code.entry(_word(code, '%desk', _PART), 0, 'ptr')})")
            _set(code, "%desk", DONE)
            code.do(f"store i64 0, ptr {looks}")
        _wait(code)
        more = code.integer("add", code.entry(looks, 0), 1)
        code.do(f"store i64 {more}, ptr {looks}")
        with code.when(code.emit(f"icmp sgt i64 {more}, %patience")):
            _hand_on(code, "%desk", WAITING, AWAY)
    return code


def _hand_out(run: str) -> Code:
    """A function that does some parts of work, the first by itself."""
    code = Code("define void @hand_out(ptr %desks, ptr %parts, i64 %count)")

    def places(i: str) -> tuple[str, str]:
        desk = code.integer("mul", code.integer("sub", i, 1), WORDS)
        return _word(code, "%desks", desk), _word(code, "%parts", code.integer("mul", i, WORDS))

    def left(part: str) -> str:
        return code.emit(f"icmp ne i64 {code.entry(_word(code, part, _LEFT), 0)}, 0")

    with code.loop(1, "%count") as i:
        desk, part = places(i)
        given = _hand_on(code, desk, WAITING, GIVEN)
        with code.when(given):
            code.do(f"store ptr {part}, ptr {_word(code, desk, _PART)}")
            _set(code, desk, READY)
        kept = code.emit(f"select i1 {given}, i64 0, i64 1")
        code.do(f"store i64 {kept}, ptr {_word(code, part, _LEFT)}")
    code.do(f"call void {run}(ptr %parts)")
    with code.loop(1, "%count") as i:
        desk, part = places(i)
        with code.when(code.emit(f"xor i1 {left(part)}, true")):
            taken_back = _hand_on(code, desk, READY, WAITING)
            code.do(
                f"store i64 {code.emit(f'zext i1 {taken_back} to i64')}, "
                f"ptr {_word(code, part, _LEFT)}"
            )
            with code.when(code.emit(f"xor i1 {taken_back}, true")):
                _wait_until_done(code, desk)
                _set(code, desk, WAITING)
        with code.when(left(part)):
            code.do(f"call void {run}(ptr {part})")
    return code


def _wait_until_done(code: Code, desk: str) -> None:
    looks = code.variable("i64")
    code.do(f"store i64 0, ptr {looks}")
    with code.repeat() as leave:
        leave(_is(code, desk, DONE))
        _wait(code)
        more = code.integer("add", code.entry(looks, 0), 1)
        code.do(f"store i64 {more}, ptr {looks}")
        if hasattr(os, "sched_yield"):
            with code.when(code.emit(f"icmp sgt i64 {more}, {_LOOKS}")):
                code.externals.add("declare i32 @sched_yield()")
                code.emit("call i32 @sched_yield()")


def _send_off() -> Code:
    """A function that has nobody sit at some desks any more, but for who has work to do there."""
    code = Code("define void @send_off(ptr %desks, i64 %count)")
    with code.loop(0, "%count") as i:
        _hand_on(code, _word(code, "%desks", code.integer("mul", i, WORDS)), WAITING, AWAY)
    return code
