"""Blocks in which a context variable has another value, which are decorators, too.

A scope may be entered again while it is entered, and by other threads and tasks. What a generator
does lies in the scope, what its caller does between two of its values does not.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextvars import ContextVar, Token
from typing import Any, Generic, TypeVar

V = TypeVar("V")


class Scope(Generic[V]):
    """``with scope:`` or ``@scope``: ``variable`` has the value that ``change`` makes of its own.

    The decorator takes functions and generator functions, be they ``async`` or not.
    """

    def __init__(self, variable: ContextVar[Any], change: Callable[[Any], V]) -> None:
        self._variable = variable
        self._change = change
        self._tokens: list[Token[Any]] = []

    def __enter__(self) -> V:
        value = self._change(self._variable.get())
        self._tokens.append(self._variable.set(value))
        return value

    def __exit__(self, *error: object) -> None:
        for token in reversed(self._tokens):
            try:
                self._variable.reset(token)
            except ValueError:  # another thread or task has entered since
                continue
            self._tokens.remove(token)
            return

    def __call__(self, function: Callable[..., Any]) -> Any:
        if inspect.isgeneratorfunction(function):
            return self._around_generator(function)
        if inspect.isasyncgenfunction(function):
            return self._around_async_generator(function)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return awaited

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return called

    def _around_generator(self, function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        def generated(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            generator = function(*args, **kwargs)
            resume, sent = generator.send, None
            try:
                while True:
                    with self:
                        value = resume(sent)
                    try:
                        resume, sent = generator.send, (yield value)
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        resume, sent = generator.throw, error
            except StopIteration as stop:
                return stop.value
            finally:
                with self:
                    generator.close()

        return generated

    def _around_async_generator(self, function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        async def generated(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            generator = function(*args, **kwargs)
            resume, sent = generator.asend, None
            try:
                while True:
                    with self:
                        value = await resume(sent)
                    try:
                        resume, sent = generator.asend, (yield value)
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        resume, sent = generator.athrow, error
            except StopAsyncIteration:
                return
            finally:
                with self:
                    await generator.aclose()

        return generated
