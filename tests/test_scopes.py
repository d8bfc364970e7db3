"""The blocks that are decorators: no_grad, enable_grad, detect_anomaly, use_backend."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.tensor import is_anomaly_detected

KINDS: dict[str, tuple[Callable[[], Any], Callable[[], bool]]] = {
    "no_grad": (tg.no_grad, lambda: not tg.is_grad_enabled()),
    "enable_grad": (tg.enable_grad, tg.is_grad_enabled),
    "detect_anomaly": (tg.detect_anomaly, is_anomaly_detected),
    "use_backend": (
        lambda: tg.use_backend("array_api_strict"),
        lambda: tg.zeros(1).backend == "array_api_strict",
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: Any) -> Iterator[Any]:
    """A maker of scopes, and whether one is entered; first it is not."""
    make, inside = KINDS[request.param]
    with tg.no_grad() if request.param == "enable_grad" else nullcontext():
        assert not inside()
        yield make, inside
        assert not inside()


def test_entered_again_and_within_itself(kind: Any) -> None:
    make, inside = kind
    scope = make()
    for _ in range(2):
        with scope:
            with scope:
                assert inside()
            assert inside()
        assert not inside()


def test_left_by_an_error(kind: Any) -> None:
    make, inside = kind
    scope = make()
    with pytest.raises(KeyError), scope:
        raise KeyError
    assert not inside()
    with scope:
        assert inside()


def test_shared_by_threads(kind: Any) -> None:
    make, inside = kind
    scope = make()
    entered, left = threading.Barrier(2), threading.Barrier(2)
    seen: list[bool] = []

    def other() -> None:
        with scope:
            entered.wait(10)
            seen.append(inside())
            left.wait(10)
        with tg.no_grad() if make is tg.enable_grad else nullcontext():
            seen.append(inside())

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(10)
    with scope:  # the last to enter leaves while the first is inside
        assert inside()
    assert not inside()
    left.wait(10)
    thread.join(10)
    assert seen == [True, False]


def test_decorates_functions(kind: Any) -> None:
    make, inside = kind

    @make()
    def once(depth: int) -> list[bool]:
        """What it says."""
        return [inside(), *(once(depth - 1) if depth else [])]

    assert once(2) == [True] * 3 and once.__doc__ == "What it says."


def test_decorates_generators_but_not_what_they_yield_to(kind: Any) -> None:
    make, inside = kind
    closed = []

    @make()
    def numbers() -> Iterator[Any]:
        try:
            got = yield inside()
            try:
                yield got, inside()
            except KeyError:
                yield "caught", inside()
            yield inside()
            return (inside(), "returned")
        finally:
            closed.append(inside())

    generator = numbers()
    assert next(generator) is True and not inside()
    assert generator.send(3) == (3, True) and not inside()
    assert generator.throw(KeyError) == ("caught", True) and not inside()
    assert next(generator) is True
    with pytest.raises(StopIteration) as stop:
        next(generator)
    assert stop.value.value == (True, "returned")
    early = numbers()
    next(early)
    early.close()
    with pytest.raises(ValueError, match="mine"):
        fails = numbers()
        next(fails)
        fails.throw(ValueError("mine"))
    assert closed == [True] * 3 and not inside()
    assert [x for x, _ in zip(numbers(), range(2), strict=False)] == [True, (None, True)]


def test_decorates_coroutines_and_async_generators(kind: Any) -> None:
    make, inside = kind

    @make()
    async def once() -> bool:
        await asyncio.sleep(0)
        return inside()

    @make()
    async def numbers() -> AsyncIterator[bool]:
        for _ in range(2):
            await asyncio.sleep(0)
            yield inside()

    async def run() -> None:
        one, two = once(), once()
        assert await asyncio.gather(one, two) == [True, True] and not inside()
        seen = []
        async for x in numbers():
            seen += [x, inside()]
        assert seen == [True, False, True, False]

    asyncio.run(run())


def test_a_generator_of_values_records_nothing() -> None:
    w = tg.ones(2, requires_grad=True)

    @tg.no_grad()
    def values() -> Iterator[tg.Tensor]:
        yield w * 2
        yield w * 3

    assert not any(x.requires_grad for x in values())
    assert all((w * x).requires_grad for x in values())


def test_an_unknown_backend_is_named_on_entering() -> None:
    with pytest.raises(ValueError, match="no backend 'nope'"), tg.use_backend("nope"):
        pass
    assert tg.zeros(1).backend == "numpy"
