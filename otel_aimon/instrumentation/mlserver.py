"""MLServer: one request per inference, over REST, gRPC and Kafka, in the process that serves.

All protocols come together in the ``DataPlane``. With parallel workers the model is in a process of its own,
which gets the trace along with the request, and tells when it began with it. The requests of an adaptive batch
share the model's work: it is inside the first, and the others are linked to it.
"""

from __future__ import annotations

import functools
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate
from opentelemetry.context import Context, attach, detach, get_current

from otel_aimon.core.call import leave, observed_async
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import running_in
from otel_aimon.core.stream import observed_async_generator_function
from otel_aimon.instrumentation.known import Known
from otel_aimon.instrumentation.server_requests import begin_batch, callers_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "mlserver"

_HEADERS: ContextVar[Mapping[str, str] | None] = ContextVar("otel-aimon-mlserver-headers", default=None)
"""Headers of the request whose stream is answered in this context."""

_TRACE = "_otel_aimon_trace"
_BEGUN = "_otel_aimon_begun"


def hook_data_plane(hooks: Hooks, module: Any) -> None:
    """Hook where requests of all protocols come together.

    Args:
        hooks: Of MLServer.
        module: ``mlserver.handlers.dataplane``.
    """
    plane, recorder = module.DataPlane, hooks.recorder
    begin = functools.partial(_begin, recorder)
    hooks.wrap(plane, "infer", functools.partial(observed_async, begin=begin), ("payload", "name"))
    hooks.wrap(plane, "infer_stream", functools.partial(_observe_stream, recorder), ("payloads", "name"))


def _begin(recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
    payload = args[1] if len(args) > 1 else kwargs["payload"]
    name = args[2] if len(args) > 2 else kwargs["name"]
    headers = getattr(getattr(payload, "parameters", None), "headers", None)
    return _start(recorder, "predict", name, headers)


def _observe_stream(recorder: Recorder, original: Any) -> Any:
    @functools.wraps(original)
    def infer_stream(self: Any, payloads: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        start = functools.partial(_start, recorder, "predict_stream", name, _HEADERS.get())
        return observed_async_generator_function(original, start)(self, payloads, name, *args, **kwargs)

    return infer_stream


def _start(
    recorder: Recorder, operation: str, name: str, headers: Mapping[str, str] | None
) -> Inference | None:
    current = callers_context(get_current(), headers)
    return recorder.start(recorder.series(FRAMEWORK, operation, name), Layer.REQUEST, current)


def hook_endpoints(hooks: Hooks, module: Any) -> None:
    """Hook the REST endpoint of streams, whose headers go no further.

    Args:
        hooks: Of MLServer.
        module: ``mlserver.rest.endpoints``.
    """
    hooks.wrap(module.Endpoints, "infer_stream", _remember_headers, ("raw_request",))


def _remember_headers(original: Any) -> Any:
    @functools.wraps(original)
    async def infer_stream(self: Any, raw_request: Any, *args: Any, **kwargs: Any) -> Any:
        _HEADERS.set(raw_request.headers)
        try:
            # The stream that it returns is made here, and so knows them.
            return await original(self, raw_request, *args, **kwargs)
        finally:
            _HEADERS.set(None)

    return infer_stream


# --- adaptive batching -------------------------------------------------------------------------


def hook_batching(hooks: Hooks, module: Any) -> None:
    """Hook the queue in which requests wait until they are a batch.

    Args:
        hooks: Of MLServer.
        module: ``mlserver.batching.adaptive``.
    """
    waiting: dict[str, Inference] = {}
    batches: Known[Context] = Known()
    batcher = module.AdaptiveBatcher
    hooks.wrap(batcher, "_queue_request", functools.partial(_observe_entry, waiting))
    hooks.wrap(module, "schedule_with_callback", functools.partial(_observe_schedule, batches))
    hooks.wrap(module, "BatchedRequests", functools.partial(_observe_batch, waiting, batches))


def _observe_entry(waiting: dict[str, Inference], original: Any) -> Any:
    @functools.wraps(original)
    async def queue_request(*args: Any, **kwargs: Any) -> Any:
        queued = await original(*args, **kwargs)
        guarded(_enter, waiting, queued)
        return queued

    return queue_request


def _enter(waiting: dict[str, Inference], queued: Any) -> None:
    inference = running_in(get_current())
    if inference is not None and inference.series.framework == FRAMEWORK:
        waiting[queued[0]] = inference


def _observe_batch(waiting: dict[str, Inference], batches: Known[Context], original: Any) -> Any:
    """Wrap the class of batches, as the batcher calls it."""

    def batched_requests(*args: Any, **kwargs: Any) -> Any:
        batch = original(*args, **kwargs)
        guarded(_begin_batch, waiting, batches, batch)
        return batch

    return batched_requests


def _begin_batch(waiting: dict[str, Inference], batches: Known[Context], batch: Any) -> None:
    ids = batch.inference_requests
    known = [inference for each in ids if (inference := waiting.pop(each, None)) is not None]
    context = begin_batch([inference for inference in known if not inference.end_ns], len(ids))
    if context is not None:
        batches.learn(batch, context)


def _observe_schedule(batches: Known[Context], original: Any) -> Any:
    @functools.wraps(original)
    def schedule_with_callback(coroutine: Any, callback: Any, *args: Any, **kwargs: Any) -> Any:
        # A batch's prediction, or the task that collects batches, which is none of the request's that starts it.
        context = guarded(_context_of, batches, callback)
        token = attach(Context() if context is None else context)
        try:
            return original(coroutine, callback, *args, **kwargs)
        finally:
            detach(token)

    return schedule_with_callback


def _context_of(batches: Known[Context], callback: Any) -> Context | None:
    bound = getattr(callback, "args", ())
    return batches.take(bound[0]) if bound else None


# --- parallel workers --------------------------------------------------------------------------


def hook_dispatcher(hooks: Hooks, module: Any) -> None:
    """Hook where a request goes to a worker.

    Args:
        hooks: Of MLServer.
        module: ``mlserver.parallel.dispatcher``.
    """
    hooks.wrap(module.Dispatcher, "dispatch_request", _observe_dispatch, ("request_message",))


def _observe_dispatch(original: Any) -> Any:
    @functools.wraps(original)
    async def dispatch_request(self: Any, request_message: Any, *args: Any, **kwargs: Any) -> Any:
        guarded(_send_along, request_message)
        sent = time.monotonic_ns()
        response = await original(self, request_message, *args, **kwargs)
        guarded(_read_wait, response, sent)
        return response

    return dispatch_request


def _send_along(message: Any) -> None:
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    vars(message)[_TRACE] = carrier


def _read_wait(response: Any, sent: int) -> None:
    begun, inference = vars(response).pop(_BEGUN, None), running_in(get_current())
    if begun is None or inference is None or inference.series.framework != FRAMEWORK:
        return
    if inference.batch_size is None:
        inference.queue_ns = max(begun - sent, 0)


def hook_worker(hooks: Hooks, module: Any) -> None:
    """Hook where a worker works on a request.

    Args:
        hooks: Of MLServer.
        module: ``mlserver.parallel.worker``.
    """
    hooks.wrap(module.Worker, "_process_request", _observe_worker, ("request",))


def _observe_worker(original: Any) -> Any:
    @functools.wraps(original)
    async def process_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        begun = time.monotonic_ns()
        token = attach(propagate.extract(vars(request).get(_TRACE) or {}))
        try:
            response = await original(self, request, *args, **kwargs)
        except BaseException as error:
            leave(token, error)
            raise
        detach(token)
        vars(response)[_BEGUN] = begun
        return response

    return process_request
