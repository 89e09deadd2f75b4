"""How a request asks for a slot: around a block, a function, a coroutine or a generator."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from otel_aimon.hinting.limiter import Limiter
    from otel_aimon.hinting.permit import Permit

    Function = TypeVar("Function", bound=Callable[..., Any])


class Admission:
    """Asks a limiter for a slot around a block or a function.

    It may be used again, by threads and tasks at the same time: each way out gives back what one way in took.
    """

    __slots__ = ("_entered", "_limiter", "_max_wait", "_priority")

    def __init__(self, limiter: Limiter, priority: int, max_wait: float) -> None:
        self._limiter = limiter
        # A plain number: it is an index on the way in.
        self._priority = int(priority)
        self._max_wait = max_wait
        self._entered: list[Permit] = []

    def __enter__(self) -> Permit:
        permit = self._limiter.acquire(self._priority, self._max_wait)
        self._entered.append(permit)
        return permit if permit.active else self._limiter.current()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limiter.release(self._entered.pop(), kind is None)

    async def __aenter__(self) -> Permit:
        permit = await self._limiter.acquire_async(self._priority, self._max_wait)
        self._entered.append(permit)
        return permit if permit.active else self._limiter.current()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limiter.release(self._entered.pop(), kind is None)

    def __call__(self, function: Function) -> Function:
        """Decorate a function: it holds a slot while it runs, is awaited or is iterated.

        Raises:
            TypeError: It is an asynchronous generator; enter the limiter inside it.
        """
        limiter, priority, max_wait = self._limiter, self._priority, self._max_wait
        if inspect.isasyncgenfunction(function):
            raise TypeError("an asynchronous generator cannot be decorated: use `async with` inside it")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def limited_async(*args: Any, **kwargs: Any) -> Any:
                async with Admission(limiter, priority, max_wait):
                    return await function(*args, **kwargs)

            return limited_async  # type: ignore[return-value]

        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def limited_generator(*args: Any, **kwargs: Any) -> Any:
                with Admission(limiter, priority, max_wait):
                    return (yield from function(*args, **kwargs))

            return limited_generator  # type: ignore[return-value]

        @functools.wraps(function)
        def limited(*args: Any, **kwargs: Any) -> Any:
            with Admission(limiter, priority, max_wait):
                return function(*args, **kwargs)

        return limited  # type: ignore[return-value]
