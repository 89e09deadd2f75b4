"""BentoML: one request per call of an API over HTTP, in the worker that has the service.

A request begins when its API is called, after BentoML's middlewares, and ends with its response, or with the
last item of its stream. BentoML lets a request wait in two places: in the dispatcher that collects batches, and
for a free thread. The requests of a batch share the model's work: it is inside the first, and the others are
linked to it.
"""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context, attach, detach, get_current

from otel_aimon.core.call import leave
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import running_in
from otel_aimon.core.stream import observed_async_generator, observed_generator
from otel_aimon.instrumentation.known import Known
from otel_aimon.instrumentation.server_requests import begin_batch, callers_context

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "bentoml"

_OUTSIDE: ContextVar[Context | None] = ContextVar("otel-aimon-bentoml-outside", default=None)
"""The context around BentoML's own HTTP span, where that span goes nowhere."""

_SERVER_ERROR = 500


class _Request:
    """A request whose API is being called.

    Attributes:
        inference: What is recorded of it.
        streamed: Its stream ends it.
    """

    __slots__ = ("inference", "streamed")

    def __init__(self, inference: Inference) -> None:
        self.inference = inference
        self.streamed = False


_REQUEST: ContextVar[_Request | None] = ContextVar("otel-aimon-bentoml-request", default=None)


def hook_app(hooks: Hooks, module: Any) -> None:
    """Hook where APIs are called.

    Args:
        hooks: Of BentoML.
        module: ``_bentoml_impl.server.app``.
    """
    factory, recorder = module.ServiceAppFactory, hooks.recorder
    hooks.wrap(factory, "api_endpoint", functools.partial(_observe_api, recorder), ("name",))
    hooks.wrap(factory, "_to_thread", _observe_thread, ("func",))
    middlewares = vars(factory).get("middlewares")
    if isinstance(middlewares, property):
        hooks.replace(factory, "middlewares", property(_remembering_outside(middlewares.fget)))
    else:
        hooks.leave_out("ServiceAppFactory.middlewares", "it is not a property")


def _observe_api(recorder: Recorder, original: Any) -> Any:
    @functools.wraps(original)
    async def api_endpoint(self: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        inference = guarded(_start, recorder, self, name)
        if inference is None:
            return await original(self, name, *args, **kwargs)
        request = _Request(inference)
        _REQUEST.set(request)
        token = attach(inference.context)  # type: ignore[arg-type]
        try:
            response = await original(self, name, *args, **kwargs)
        except BaseException as error:
            leave(token, error)
            inference.fail(error)
            raise
        detach(token)
        _REQUEST.set(None)
        guarded(_finish, request, response)
        return response

    return api_endpoint


def _start(recorder: Recorder, factory: Any, name: str) -> Inference | None:
    series = recorder.series(FRAMEWORK, recorder.operations.admit(name), factory.service.name)
    return recorder.start(series, Layer.REQUEST, _OUTSIDE.get())


def _finish(request: _Request, response: Any) -> None:
    if request.streamed:
        return
    status = getattr(response, "status_code", None)
    if isinstance(status, int) and status >= _SERVER_ERROR:
        request.inference.fail_as(str(int(status)))
    else:
        request.inference.end()


# --- streams -----------------------------------------------------------------------------------


def hook_results(hooks: Hooks, module: Any) -> None:
    """Hook where what an API returned becomes a response.

    Args:
        hooks: Of BentoML.
        module: ``_bentoml_sdk.io_models``.
    """
    hooks.wrap(module.IOMixin, "to_http_response", _observe_result, ("obj",))


def _observe_result(original: Any) -> Any:
    @functools.wraps(original)
    async def to_http_response(cls: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        stream = guarded(_observe_stream, obj)
        return await original(cls, obj if stream is None else stream, *args, **kwargs)

    return to_http_response


def _observe_stream(result: Any) -> Any:
    request = _REQUEST.get()
    if request is None or request.streamed:
        return None
    observe: Any = None
    if inspect.isasyncgen(result):
        observe = observed_async_generator
    elif inspect.isgenerator(result):
        observe = observed_generator
    if observe is None:
        return None
    request.streamed = True
    return observe(result, request.inference)


# --- waiting -----------------------------------------------------------------------------------


def _observe_thread(original: Any) -> Any:
    """Wrap what runs a function of the service in one of its threads, of which there is one by default."""

    @functools.wraps(original)
    async def to_thread(self: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
        request = _REQUEST.get()
        inference = None if request is None else request.inference
        if inference is None or inference.queue_ns is not None:
            return await original(self, func, *args, **kwargs)
        begin = functools.partial(_begin_work, inference, perf_counter_ns(), func)
        return await original(self, begin, *args, **kwargs)

    return to_thread


def _begin_work(inference: Inference, came: int, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    inference.queue_ns = perf_counter_ns() - came
    return func(*args, **kwargs)


def hook_dispatcher(hooks: Hooks, module: Any) -> None:
    """Hook the queue in which requests wait until they are a batch.

    Args:
        hooks: Of BentoML.
        module: ``bentoml._internal.marshal.dispatcher``.
    """
    jobs: Known[Inference] = Known()
    dispatcher = module.CorkDispatcher
    hooks.wrap(module.Job, "__init__", functools.partial(_observe_job, jobs))
    hooks.wrap(dispatcher, "split_job", functools.partial(_observe_split, jobs), ("job",))
    hooks.wrap(dispatcher, "outbound_call", functools.partial(_observe_batch, jobs), ("inputs_info",))


def _observe_job(jobs: Known[Inference], original: Any) -> Any:
    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        guarded(_learn_job, jobs, self)

    return init


def _learn_job(jobs: Known[Inference], job: Any) -> None:
    request = _REQUEST.get()
    if request is not None and running_in(get_current()) is request.inference:
        jobs.learn(job, request.inference)


def _observe_split(jobs: Known[Inference], original: Any) -> Any:
    @functools.wraps(original)
    def split_job(self: Any, job: Any, *args: Any, **kwargs: Any) -> Any:
        # The task that splits runs in the context of whichever request came first.
        carried, inference = _REQUEST.set(None), jobs.of(job)
        try:
            parts = original(self, job, *args, **kwargs)
        finally:
            _REQUEST.reset(carried)
        if inference is not None:
            guarded(_learn_parts, jobs, parts, inference)
        return parts

    return split_job


def _learn_parts(jobs: Known[Inference], parts: Any, inference: Inference) -> None:
    for part in parts:
        jobs.learn(part, inference)


def _observe_batch(jobs: Known[Inference], original: Any) -> Any:
    @functools.wraps(original)
    async def outbound_call(self: Any, inputs_info: Any, *args: Any, **kwargs: Any) -> Any:
        context = guarded(_begin_batch, jobs, inputs_info)
        # Without a request of ours, not in that of whoever was the first to wait here either.
        _REQUEST.set(None)
        token = attach(Context() if context is None else context)
        try:
            result = await original(self, inputs_info, *args, **kwargs)
        except BaseException as error:
            leave(token, error)
            raise
        detach(token)
        return result

    return outbound_call


def _begin_batch(jobs: Known[Inference], batch: Any) -> Any:
    taken = [inference for job in batch if (inference := jobs.take(job)) is not None]
    running = [inference for inference in taken if not inference.end_ns]
    # An input that is split is in several batches, and has waited until the first.
    context = begin_batch([each for each in running if each.queue_ns is None], len(batch))
    return running[0].context if context is None and running else context


# --- the trace of the caller -------------------------------------------------------------------


def _remembering_outside(original: Any) -> Any:
    @functools.wraps(original)
    def middlewares(self: Any) -> Any:
        found = original(self)
        guarded(_add_outermost, found)
        return found

    return middlewares


def _add_outermost(middlewares: Any) -> None:
    """Remember the context around BentoML's middlewares, unless BentoML itself exports traces.

    It makes an HTTP span with a provider of its own all the same, which samples nothing of itself and
    exports nothing: what is inside of it would not be sampled either, or have a parent that nobody sees.
    """
    from bentoml._internal.container import BentoMLContainer
    from starlette.middleware import Middleware

    tracing = BentoMLContainer.tracing
    if not tracing.sample_rate.get() or not tracing.exporter_type.get():
        middlewares.insert(0, Middleware(_Outermost))


class _Outermost:
    """ASGI middleware."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        _OUTSIDE.set(guarded(callers_context, get_current(), headers=scope.get("headers") or ()))
        try:
            await self._app(scope, receive, send)
        finally:
            _OUTSIDE.set(None)
