"""Triton's gRPC clients: one blocking, which calls back for what is asynchronous, and one for asyncio."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, detach

from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.arguments import argument
from otel_aimon.instrumentation.tritonclient_errors import failed
from otel_aimon.instrumentation.tritonclient_requests import (
    STREAM,
    bind_begin,
    hook_infer,
    hook_urls,
    read_result,
)
from otel_aimon.instrumentation.tritonclient_streams import Responses, observed_stream
from otel_aimon.instrumentation.tritonclient_tensors import asked_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context

    from otel_aimon.core.call import Begin
    from otel_aimon.core.inference import Inference
    from otel_aimon.instrumentation.hooks import Hooks
    from otel_aimon.instrumentation.tritonclient_waiting import Asked, Waiting


def hook_grpc(hooks: Hooks, module: Any) -> None:
    """Hook the blocking gRPC client.

    Args:
        hooks: Of the client.
        module: ``tritonclient.grpc._client``.
    """
    owner = module.InferenceServerClient
    hook_urls(hooks, owner, http=False)
    hook_infer(hooks, owner, asynchronous=False)
    hooks.wrap(
        owner,
        "async_infer",
        functools.partial(_observe_callback, bind_begin(hooks.recorder, owner, "async_infer")),
        ("model_name", "inputs", "callback"),
    )
    bind = bind_begin(hooks.recorder, owner, "async_stream_infer", STREAM, Layer.GENERATE)
    hooks.wrap(
        owner,
        "async_stream_infer",
        functools.partial(_observe_enqueued, bind),
        ("model_name", "inputs", "request_id"),
    )


_CALLBACK_POSITION = 3


def _observe_callback(bind: Callable[[Any], Begin], original: Any) -> Any:
    """Wrap a method that calls back: the request ends before it does so, on a thread of gRPC."""
    begin = bind(original)

    @functools.wraps(original)
    def async_infer(*args: Any, **kwargs: Any) -> Any:
        inference = guarded(begin, args, kwargs)
        if inference is None:
            return original(*args, **kwargs)
        rows = guarded(asked_rows, argument(args, kwargs, 2, "inputs"))
        if len(args) > _CALLBACK_POSITION:
            answered = _Answered(inference, rows, args[_CALLBACK_POSITION])
            args = (*args[:_CALLBACK_POSITION], answered, *args[_CALLBACK_POSITION + 1 :])
        elif "callback" in kwargs:
            kwargs["callback"] = _Answered(inference, rows, kwargs["callback"])
        token = attach(inference.context)  # type: ignore[arg-type]
        try:
            return original(*args, **kwargs)
        except BaseException as error:
            guarded(failed, inference, error)
            raise
        finally:
            detach(token)

    return async_infer


class _Answered:
    """Stands in for the user's callback, which is called below the span of the request that is over."""

    __slots__ = ("_callback", "_context", "_inference", "_rows")

    def __init__(self, inference: Inference, rows: int | None, callback: Any) -> None:
        self._inference = inference
        self._context: Context | None = inference.context
        self._rows = rows
        self._callback = callback

    def __call__(self, result: Any, error: Any) -> Any:
        inference = self._inference
        if error is not None:
            guarded(failed, inference, error)
        else:
            guarded(read_result, inference, self._rows, result)
            inference.end()
        token = attach(self._context)  # type: ignore[arg-type]
        try:
            return self._callback(result=result, error=error)
        finally:
            detach(token)


def _observe_enqueued(bind: Callable[[Any], Begin], original: Any) -> Any:
    """Wrap a method that puts a request on a stream, whose responses come on a thread of the client."""
    begin = bind(original)
    names = tuple(inspect.signature(original).parameters)

    def ask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Waiting, Asked] | None:
        responses: Any = getattr(args[0]._stream, "_response_iterator", None)
        inference = begin(args, kwargs) if type(responses) is Responses else None
        if inference is None:
            return None
        stream: Waiting = responses.stream
        return stream, stream.ask(inference, {**dict(zip(names, args, strict=False)), **kwargs})

    @functools.wraps(original)
    def async_stream_infer(*args: Any, **kwargs: Any) -> Any:
        waiting = guarded(ask, args, kwargs)
        try:
            return original(*args, **kwargs)
        except BaseException as error:
            if waiting is not None:
                stream, asked = waiting
                guarded(stream.forget, asked)
                guarded(asked.fail, error)
            raise

    return async_stream_infer


def hook_streams(hooks: Hooks, module: Any) -> None:
    """Hook the stream of the blocking client where it gets its responses.

    Args:
        hooks: Of the client.
        module: ``tritonclient.grpc._infer_stream``.
    """

    def make(original: Any) -> Any:
        @functools.wraps(original)
        def init_handler(self: Any, response_iterator: Any, *args: Any, **kwargs: Any) -> Any:
            return original(self, Responses(response_iterator), *args, **kwargs)

        return init_handler

    hooks.wrap(module._InferStream, "_init_handler", make, ("response_iterator",))


def hook_grpc_aio(hooks: Hooks, module: Any) -> None:
    """Hook the gRPC client for asyncio.

    Args:
        hooks: Of the client.
        module: ``tritonclient.grpc.aio``.
    """
    owner = module.InferenceServerClient
    hook_urls(hooks, owner, http=False)
    hook_infer(hooks, owner, asynchronous=True)
    bind = bind_begin(hooks.recorder, owner, "stream_infer", STREAM, Layer.GENERATE)

    def make(original: Any) -> Any:
        begin = bind(original)
        return observed_stream(original, lambda caller, model: begin((caller, model), {}))

    hooks.wrap(owner, "stream_infer", make, ("inputs_iterator",))
