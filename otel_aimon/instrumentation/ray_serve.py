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
import time
from contextlib import asynccontextmanager
from contextvars import ContextVar
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import propagate, trace
from opentelemetry.context import attach, detach, get_current

from otel_aimon import runtime
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.ray_serve_batches import FRAMEWORK, awaited, hook_batches
from otel_aimon.instrumentation.server_requests import carrier_of
from otel_aimon.shutdown import flush_in_time

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable

    from opentelemetry.context import Context

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

__all__ = ["hook_batches", "hook_handles", "hook_replica"]

_SUBMISSION = "_otel_aimon_submission"
_SERVER_ERROR = 500


class _Submission(NamedTuple):
    """Where, when and in which trace a call was submitted."""

    node: str
    monotonic: int
    carrier: dict[str, str]


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
        guarded(_submit, metadata)
        return metadata

    return get_request_metadata


def _submit(metadata: Any) -> None:
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    # Plain types: a replica without otel-aimon can read it, and passes it by.
    vars(metadata)[_SUBMISSION] = (_node(), time.monotonic_ns(), carrier)


@functools.cache
def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


# --- in the replica ----------------------------------------------------------------------------


class _Call:
    """A call that a replica has taken.

    Args:
        recorder: Starts its request.
        replica: Serve's replica.
        metadata: Serve's metadata of the call.
    """

    def __init__(self, recorder: Recorder, replica: Any, metadata: Any) -> None:
        self._recorder = recorder
        self._deployment: str = replica._deployment_id.name
        self._method: str = metadata.call_method
        self._submission: _Submission | None = None
        if (submission := vars(metadata).get(_SUBMISSION)) is not None:
            self._submission = _Submission(*submission)
        now, unix = perf_counter_ns(), time_ns()
        waited = 0
        if self._submission is not None and self._submission.node == _node():
            waited = max(time.monotonic_ns() - self._submission.monotonic, 0)
        self._since = now - waited, unix - waited
        self.inference: Inference | None = None
        self.status = 0
        self.unfinished = False
        self._begun = False

    def begin(self, headers: Iterable[tuple[bytes, bytes]] = (), *, works: bool = True) -> Context | None:
        """Work on it from now on.

        Args:
            headers: Of its HTTP request, if it is one.
            works: It is really worked on, and did not end while it waited.

        Returns:
            The context to work in; None when it is not recorded.
        """
        if not self._begun:
            self._begun = True
            name = "call" if self._method == "__call__" else self._method
            series = self._recorder.series(FRAMEWORK, self._recorder.operations.admit(name), self._deployment)
            inference = self._recorder.start(series, Layer.REQUEST, self._parent(headers), since=self._since)
            self.inference = inference
            if inference is not None and works:
                inference.queue_ns = perf_counter_ns() - inference.start_ns
        return None if self.inference is None else self.inference.context

    def _parent(self, headers: Iterable[tuple[bytes, bytes]]) -> Context:
        current = get_current()
        if trace.get_current_span(current).get_span_context().is_valid:
            return current
        carrier = self._submission.carrier if self._submission is not None else {}
        return propagate.extract(carrier or carrier_of(headers), current)

    def end(self, error: BaseException | None) -> None:
        """It has ended."""
        self.begin(works=False)
        if self.inference is None:
            return
        if error is not None:
            self.inference.fail(error)
        elif self.unfinished:
            # The web framework noticed that the client had left, and stopped in the middle.
            self.inference.cancel()
        elif self.status >= _SERVER_ERROR:
            self.inference.fail_as(str(self.status))
        else:
            self.inference.end()


_CALL: ContextVar[_Call | None] = ContextVar("otel-aimon-ray-serve-call", default=None)


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
    @asynccontextmanager
    async def start_request(
        self: Any, request_metadata: Any, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        call = guarded(_Call, recorder, self, request_metadata)
        _CALL.set(call)
        try:
            async with original(self, request_metadata, *args, **kwargs) as entered:
                yield entered
        except BaseException as error:
            if call is not None:
                guarded(call.end, error)
            raise
        if call is not None:
            guarded(call.end, None)

    return start_request


def _observe_user_code(original: Any) -> Any:
    @functools.wraps(original)
    def call_user_code(*args: Any, **kwargs: Any) -> Any:
        call = _CALL.get()
        context = None if call is None else guarded(call.begin)
        return _run(context, original, args, kwargs)

    return call_user_code


def _observe_http(original: Any) -> Any:
    @functools.wraps(original)
    def call_http_entrypoint(self: Any, user_method_info: Any, scope: Any, *args: Any, **kwargs: Any) -> Any:
        call = _CALL.get()
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
        call, results = _CALL.get(), original(*args, **kwargs)
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
        call = _CALL.get()

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


def _read(call: _Call, messages: Any) -> None:
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
