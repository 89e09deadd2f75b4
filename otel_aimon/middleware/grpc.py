"""The limiter in front of a gRPC server, synchronous or asynchronous.

grpc.server(executor, interceptors=[LimiterInterceptor(model="my-model")])
grpc.aio.server(interceptors=[AsyncLimiterInterceptor(model="my-model")])
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from otel_aimon.hinting.errors import LimitExceededError
from otel_aimon.middleware.choice import Choice, refusal, retry_after

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from otel_aimon.hinting.admission import Admission

NOT_LIMITED = ("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch")

_KINDS = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
"""(the requests are a stream, the responses are one) → name of the behaviour, and what makes a handler of it."""


def _rebuilt(handler: Any, wrap: Callable[[Any, bool], Any]) -> Any:
    """A handler like ``handler`` whose behaviour is wrapped."""
    name, make = _KINDS[handler.request_streaming, handler.response_streaming]
    return make(
        wrap(getattr(handler, name), handler.response_streaming),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _metadata(error: LimitExceededError) -> tuple[tuple[str, str], ...]:
    return (("retry-after", retry_after(error)),)


class _Interceptor:
    """What both have in common.

    Args:
        model: Name of the model, or a function that finds it from the call's details; None from that lets pass.
        priority: ``low``, ``normal`` or ``high``, or a function that finds it from the call's details.
        max_wait: Seconds to wait for a slot.
        methods: Beginnings of the methods that are limited, such as ``/my.Service/``; all by default.
        exclude: Methods that are not; those of health checks by default.
    """

    def __init__(
        self,
        *,
        model: str | Callable[[Any], str | None],
        priority: str | Callable[[Any], str] = "normal",
        max_wait: float = 0.0,
        methods: Iterable[str] | None = None,
        exclude: Iterable[str] = NOT_LIMITED,
    ) -> None:
        self._choice = Choice(model, priority=priority, max_wait=max_wait, paths=methods, exclude=exclude)

    def _admission(self, details: Any) -> Callable[[], Admission | None]:
        # With each call anew: a handler is made once, and serves many.
        return lambda: self._choice.admission(details, details.method)


class LimiterInterceptor(_Interceptor, grpc.ServerInterceptor):  # type: ignore[misc]
    """Holds a slot while a call is answered, to the last message of a stream.

    A call without a slot ends with ``RESOURCE_EXHAUSTED`` and ``retry-after`` in the trailing metadata.
    """

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Wrap the handler of a call."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        ask = self._admission(handler_call_details)
        return _rebuilt(handler, lambda behaviour, streams: (_stream if streams else _single)(behaviour, ask))


def _single(behaviour: Any, ask: Callable[[], Admission | None]) -> Any:
    @functools.wraps(behaviour)
    def answer(request: Any, context: Any) -> Any:
        admission = ask()
        if admission is None:
            return behaviour(request, context)
        _enter(admission, context)
        ok = False
        try:
            answered = behaviour(request, context)
            ok = True
            return answered
        finally:
            admission.__exit__(None if ok else RuntimeError, None, None)

    return answer


def _stream(behaviour: Any, ask: Callable[[], Admission | None]) -> Any:
    @functools.wraps(behaviour)
    def answer(request: Any, context: Any) -> Iterator[Any]:
        admission = ask()
        if admission is None:
            yield from behaviour(request, context)
            return
        _enter(admission, context)
        ok = False
        try:
            yield from behaviour(request, context)
            ok = True
        finally:
            # A client that goes away has the generator closed, here or by the garbage collector.
            admission.__exit__(None if ok else RuntimeError, None, None)

    return answer


def _enter(admission: Admission, context: Any) -> None:
    try:
        admission.__enter__()
    except LimitExceededError as error:
        context.set_trailing_metadata(_metadata(error))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, refusal(error))


class AsyncLimiterInterceptor(_Interceptor, grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """The same for :func:`grpc.aio.server`."""

    async def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Wrap the handler of a call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        ask = self._admission(handler_call_details)

        def wrap(behaviour: Any, streams: bool) -> Any:
            if not inspect.iscoroutinefunction(behaviour) and not inspect.isasyncgenfunction(behaviour):
                # A synchronous one, which grpc.aio runs on a thread.
                return (_stream if streams else _single)(behaviour, ask)
            return (_async_stream if inspect.isasyncgenfunction(behaviour) else _async_single)(behaviour, ask)

        return _rebuilt(handler, wrap)


def _async_single(behaviour: Any, ask: Callable[[], Admission | None]) -> Any:
    """Of one message, or of a stream that is written to the context."""

    @functools.wraps(behaviour)
    async def answer(request: Any, context: Any) -> Any:
        admission = ask()
        if admission is None:
            return await behaviour(request, context)
        await _enter_async(admission, context)
        ok = False
        try:
            answered = await behaviour(request, context)
            ok = True
            return answered
        finally:
            await admission.__aexit__(None if ok else RuntimeError, None, None)

    return answer


def _async_stream(behaviour: Any, ask: Callable[[], Admission | None]) -> Any:
    @functools.wraps(behaviour)
    async def answer(request: Any, context: Any) -> AsyncIterator[Any]:
        admission = ask()
        if admission is None:
            async for message in behaviour(request, context):
                yield message
            return
        await _enter_async(admission, context)
        ok = False
        try:
            async for message in behaviour(request, context):
                yield message
            ok = True
        finally:
            await admission.__aexit__(None if ok else RuntimeError, None, None)

    return answer


async def _enter_async(admission: Admission, context: Any) -> None:
    try:
        await admission.__aenter__()
    except LimitExceededError as error:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, refusal(error), _metadata(error))
