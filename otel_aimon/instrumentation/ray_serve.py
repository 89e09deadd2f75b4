"""Ray Serve: one request per call of a deployment, in the replica that has it.

A call begins when it is submitted, by Serve's proxy or through a handle, and ends when the replica is done with
it. The submission travels with the call's metadata: its trace, and its time, which counts on the node where it
was taken. The calls of a batch of ``@serve.batch`` share the model's work: it is inside the first, and the
others are linked to it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, detach

from otel_aimon import runtime
from otel_aimon.core.guard import guarded
from otel_aimon.instrumentation.ray_serve_batches import awaited, hook_batches
from otel_aimon.instrumentation.ray_serve_calls import CALL, Call, Taking, submit
from otel_aimon.shutdown import flush_in_time

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from opentelemetry.context import Context

    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

__all__ = ["hook_batches", "hook_handles", "hook_replica"]


def hook_handles(hooks: Hooks, module: Any) -> None:
    """Hook where calls are submitted.

    Args:
        hooks: Of Ray Serve.
        module: ``ray.serve._private.default_impl``.
    """
    hooks.wrap(module, "get_request_metadata", _observe_submission)


def _observe_submission(original: Any) -> Any:
    @functools.wraps(original)
    def get_request_metadata(*args: Any, **kwargs: Any) -> Any:
        metadata = original(*args, **kwargs)
        guarded(submit, metadata)
        return metadata

    return get_request_metadata


# --- in the replica ----------------------------------------------------------------------------


def hook_replica(hooks: Hooks, module: Any) -> None:
    """Hook where a replica takes a call, and where it runs the user's code for it.

    Args:
        hooks: Of Ray Serve.
        module: ``ray.serve._private.replica``.
    """
    replica, user = module.Replica, module.UserCallableWrapper
    start = functools.partial(_observe_call, hooks.recorder)
    hooks.wrap(_definer(replica, "_start_request"), "_start_request", start, ("request_metadata",))
    shutdown = "perform_graceful_shutdown"
    hooks.wrap(_definer(replica, shutdown), shutdown, _observe_shutdown)
    for name in ("call_user_method", "_call_user_generator"):
        hooks.wrap(user, name, _observe_user_code)
    hooks.wrap(user, "_call_http_entrypoint", _observe_http, ("user_method_info", "scope"))
    hooks.wrap(user, "call_user_generator", _observe_results)
    response = ("request_metadata", "status_code_callback")
    hooks.wrap(user, "call_http_entrypoint", _observe_messages, response)


def _definer(cls: type, name: str) -> type:
    """The class that defines a method: older versions have a parent that does."""
    return next((each for each in cls.__mro__ if name in vars(each)), cls)


def _observe_call(recorder: Recorder, original: Any) -> Any:
    @functools.wraps(original)
    def start_request(self: Any, request_metadata: Any, *args: Any, **kwargs: Any) -> Any:
        entering = original(self, request_metadata, *args, **kwargs)
        return Taking(recorder, self, request_metadata, entering)

    return start_request


def _observe_user_code(original: Any) -> Any:
    @functools.wraps(original)
    def call_user_code(*args: Any, **kwargs: Any) -> Any:
        call = CALL.get()
        context = None if call is None else guarded(call.begin)
        return _run(context, original, args, kwargs)

    return call_user_code


def _observe_http(original: Any) -> Any:
    @functools.wraps(original)
    def call_http_entrypoint(self: Any, user_method_info: Any, scope: Any, *args: Any, **kwargs: Any) -> Any:
        call = CALL.get()
        context = None if call is None else guarded(call.begin, scope.get("headers") or ())
        return _run(context, original, (self, user_method_info, scope, *args), kwargs)

    return call_http_entrypoint


def _run(context: Context | None, original: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Submit user code to its event loop, which takes over the context that is current now."""
    if context is None:
        return original(*args, **kwargs)
    token = attach(context)
    try:
        result = original(*args, **kwargs)
    finally:
        detach(token)
    # Without an event loop of its own, it runs where it is awaited.
    return awaited(context, result) if inspect.iscoroutine(result) else result


def _observe_results(original: Any) -> Any:
    """Wrap what passes on the items of a stream."""

    @functools.wraps(original)
    async def call_user_generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        call, results = CALL.get(), original(*args, **kwargs)
        try:
            async for result in results:
                if call is not None and call.inference is not None:
                    call.inference.chunk()
                yield result
        finally:
            await results.aclose()

    return call_user_generator


def _observe_messages(original: Any) -> Any:
    """Wrap what passes on the ASGI messages of a response, several at a time."""

    @functools.wraps(original)
    async def call_http_entrypoint(
        self: Any, request_metadata: Any, status_code_callback: Any, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        call = CALL.get()

        def with_status(status: str) -> Any:
            if call is not None:
                call.status = int(status) if status.isdigit() else 0
            return status_code_callback(status)

        messages = original(self, request_metadata, with_status, *args, **kwargs)
        try:
            async for several in messages:
                if call is not None:
                    guarded(_read, call, several)
                yield several
        finally:
            await messages.aclose()

    return call_http_entrypoint


def _read(call: Call, messages: Any) -> None:
    chunks = 0
    for message in messages:
        if message["type"] == "http.response.body":
            call.unfinished = bool(message.get("more_body"))
            chunks += call.unfinished and bool(message.get("body"))
    if chunks and call.inference is not None:
        call.inference.chunk()


def _observe_shutdown(original: Any) -> Any:
    @functools.wraps(original)
    async def perform_graceful_shutdown(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        running = runtime.current()
        if running is not None:
            # Serve ends the process without its exit handlers.
            await asyncio.to_thread(guarded, flush_in_time, running)
        return result

    return perform_graceful_shutdown
