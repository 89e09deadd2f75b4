"""What stands between gRPC and the streams of Triton's clients: it sees the requests go, and the responses come."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, detach, get_current

from otel_aimon.core.guard import guarded
from otel_aimon.instrumentation.tritonclient_waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.core.inference import Inference

    Start = Callable[[Any, Any], Inference | None]
    """Starts a request: gets the client, and the model's name."""


# --- the blocking client -----------------------------------------------------------------------


class Responses:
    """Stands in for gRPC's iterator of responses, which the client reads on a thread of its own."""

    def __init__(self, responses: Any) -> None:
        self._responses = responses
        self._iterator = responses
        self.stream = Waiting()

    def __iter__(self) -> Responses:
        self._iterator = iter(self._responses)
        return self

    def __next__(self) -> Any:
        try:
            response = next(self._iterator)
        except StopIteration:
            guarded(self.stream.finish)
            raise
        except BaseException as error:
            guarded(self.stream.finish, error)
            raise
        guarded(self.stream.answer, response)
        return response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._responses, name)


# --- the client for asyncio --------------------------------------------------------------------


def observed_stream(original: Any, start: Start) -> Any:
    """Wrap ``stream_infer``, so that each request that it takes from the user is one.

    Args:
        original: The method.
        start: Starts a request.
    """

    @functools.wraps(original)
    def stream_infer(*args: Any, **kwargs: Any) -> Any:
        stream = Waiting()
        args, kwargs = guarded(_with_requests, stream, start, args, kwargs) or (args, kwargs)
        responses = original(*args, **kwargs)
        guarded(_read_through, stream, responses)
        return responses

    return stream_infer


def _with_requests(
    stream: Waiting, start: Start, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of ``stream_infer``, with an iterator of ours around that of the user."""
    requests = args[1] if len(args) > 1 else kwargs.get("inputs_iterator")
    if not args or not hasattr(type(requests), "__aiter__"):
        return args, kwargs
    ours = _Requests(requests, stream, functools.partial(start, args[0]))
    if len(args) > 1:
        return (args[0], ours, *args[2:]), kwargs
    return args, {**kwargs, "inputs_iterator": ours}


def _read_through(stream: Waiting, responses: Any) -> None:
    # It reads this attribute at each step; the object itself stays what it is.
    responses._grpc_call = _Call(responses._grpc_call, stream)


class _Requests:
    """Stands in for the user's iterator of requests, which gRPC reads in a task of its own."""

    def __init__(self, requests: Any, stream: Waiting, start: Callable[[Any], Inference | None]) -> None:
        self._requests = requests
        self._stream = stream
        self._start = start
        # What is current where the task reads may be the span of the transport.
        self._context = get_current()

    def __aiter__(self) -> _Requests:
        self._requests = self._requests.__aiter__()
        return self

    async def __anext__(self) -> Any:
        request = await self._requests.__anext__()
        guarded(self._ask, request)
        return request

    def _ask(self, request: Any) -> None:
        if type(request) is dict and "model_name" in request and "inputs" in request:
            token = attach(self._context)
            try:
                inference = self._start(request["model_name"])
            finally:
                detach(token)
            if inference is not None:
                self._stream.ask(inference, request)


class _Call:
    """Stands in for gRPC's call, from which the client takes the responses."""

    def __init__(self, call: Any, stream: Waiting) -> None:
        self._call = call
        self._iterator: Any = None
        self._stream = stream

    def __aiter__(self) -> _Call:
        self._iterator = self._call.__aiter__()
        return self

    async def __anext__(self) -> Any:
        try:
            response = await self._iterator.__anext__()
        except StopAsyncIteration:
            guarded(self._stream.finish)
            raise
        except GeneratorExit:
            # The step is dropped half way, perhaps by the garbage collector.
            self._stream.abandon()
            raise
        except BaseException as error:
            guarded(self._stream.finish, error)
            raise
        guarded(self._stream.answer, response)
        return response

    def cancel(self, *args: Any, **kwargs: Any) -> Any:
        """Cancel the call, and with it the requests that are not at their end."""
        cancelled = self._call.cancel(*args, **kwargs)
        guarded(self._stream.cancel)
        return cancelled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __del__(self) -> None:
        self._stream.abandon()
