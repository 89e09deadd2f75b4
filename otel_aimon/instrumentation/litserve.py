"""LitServe: one request per HTTP request, in the worker that has the model.

A request begins when an HTTP process puts it into the worker's queue, on the clock that LitServe itself
measures its waiting with, and ends when the worker has put its last response. What the model does for it is
inside. The requests of a batch share that work: it happens inside the first, and the others are linked to it.
"""

from __future__ import annotations

import functools
from http import HTTPStatus
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, detach

from otel_aimon import runtime, semconv
from otel_aimon.core.call import leave
from otel_aimon.core.guard import guarded
from otel_aimon.instrumentation.litserve_http import hook_server, leavers_in
from otel_aimon.instrumentation.litserve_requests import Books, NotingQueue, WatchedQueue
from otel_aimon.instrumentation.server_requests import begin_batch
from otel_aimon.shutdown import flush_when_terminated

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

__all__ = ["hook_continuous", "hook_loops", "hook_server", "hook_simple", "hook_streaming"]

TIMED_OUT = "timeout"
"""``error.type`` of a request that waited in the queue for longer than the server's ``timeout``."""

_books: dict[int, Books] = {}


def _shared(hooks: Hooks) -> Books:
    """The books that all hooks of one arming share."""
    found = _books.get(id(hooks))
    if found is None:
        found = _books[id(hooks)] = Books(hooks.recorder)
        hooks.on_restore(functools.partial(_books.__delitem__, id(hooks)))
    return found


# --- out of the queue --------------------------------------------------------------------------


def _observe_loop(books: Books, watched: Any, original: Any) -> Any:
    """Wrap what a worker runs for as long as it lives."""

    @functools.wraps(original)
    def run(self: Any, lit_api: Any, request_queue: Any, *args: Any, **kwargs: Any) -> Any:
        guarded(_settle, books, (*args, *kwargs.values()))
        queue = request_queue if watched is None else watched(request_queue, books, lit_api)
        return original(self, lit_api, queue, *args, **kwargs)

    return run


def _observe_worker(books: Books, original: Any) -> Any:
    """Wrap what a worker runs with a loop that is asynchronous, or the user's."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        guarded(_settle, books, (*args, *kwargs.values()))
        return original(*args, **kwargs)

    return call


def _settle(books: Books, arguments: tuple[Any, ...]) -> None:
    """Make ready a process that is a worker from now on, and that nothing but a signal ends."""
    books.leavers = leavers_in(arguments)
    flush_when_terminated(runtime.current)


def hook_simple(hooks: Hooks, module: Any) -> None:
    """Hook the loops whose responses are whole.

    Args:
        hooks: Of LitServe.
        module: ``litserve.loops.simple_loops``.
    """
    _hook_loop(hooks, module.SingleLoop, "run_single_loop", WatchedQueue)
    _hook_loop(hooks, module.SingleLoop, "_run_single_loop_with_async", None)
    _hook_loop(hooks, module.BatchedLoop, "run_batched_loop", NotingQueue)
    observe = functools.partial(_observe_task, _shared(hooks))
    hooks.wrap(module.SingleLoop, "_process_single_request", observe, ("request", "lit_api"))


def hook_streaming(hooks: Hooks, module: Any) -> None:
    """Hook the loops whose responses are streams.

    Args:
        hooks: Of LitServe.
        module: ``litserve.loops.streaming_loops``.
    """
    _hook_loop(hooks, module.StreamingLoop, "run_streaming_loop", WatchedQueue)
    _hook_loop(hooks, module.StreamingLoop, "run_streaming_loop_async", None)
    _hook_loop(hooks, module.BatchedStreamingLoop, "run_batched_streaming_loop", NotingQueue)
    observe = functools.partial(_observe_task, _shared(hooks))
    hooks.wrap(module.StreamingLoop, "_process_streaming_request", observe, ("request", "lit_api"))
    hooks.wrap(module, "collate_requests", functools.partial(_observe_collation, _shared(hooks)))


def _hook_loop(hooks: Hooks, owner: Any, name: str, watched: Any) -> None:
    observe = functools.partial(_observe_loop, _shared(hooks), watched)
    hooks.wrap(owner, name, observe, ("lit_api", "request_queue"))


# --- several requests at once ------------------------------------------------------------------


def _observe_collation(books: Books, original: Any) -> Any:
    @functools.wraps(original)
    def collate_requests(*args: Any, **kwargs: Any) -> Any:
        guarded(books.leave)
        collated = original(*args, **kwargs)
        guarded(_enter_batch, books, collated)
        return collated

    return collate_requests


def _enter_batch(books: Books, collated: Any) -> None:
    uids = [uid for _, uid, _ in collated[0]]
    begin_batch([books.running[uid] for uid in uids if uid in books.running], len(uids))
    books.enter(uids)


def _observe_task(books: Books, original: Any) -> Any:
    """Wrap the coroutine that works on one of several requests at the same time."""

    @functools.wraps(original)
    async def process(self: Any, request: Any, lit_api: Any, *args: Any, **kwargs: Any) -> Any:
        uid = guarded(books.take, lit_api, request)
        inference = None if uid is None else books.running.get(uid)
        if uid is None or inference is None:
            return await original(self, request, lit_api, *args, **kwargs)
        token = attach(inference.context)  # type: ignore[arg-type]
        try:
            result = await original(self, request, lit_api, *args, **kwargs)
        except BaseException as error:
            leave(token, error)
            books.running.pop(uid, None)
            inference.fail(error)
            raise
        detach(token)
        return result

    return process


def hook_continuous(hooks: Hooks, module: Any) -> None:
    """Hook continuous batching: each step works on all running requests, and belongs to none of them.

    Args:
        hooks: Of LitServe.
        module: ``litserve.loops.continuous_batching_loop``.
    """
    loop, books = module.ContinuousBatchingLoop, _shared(hooks)
    scheduled = ("lit_api", "lit_spec", "request_queue")
    hooks.wrap(loop, "schedule_task", functools.partial(_observe_schedule, books), scheduled)
    hooks.wrap(loop, "add_request", functools.partial(_observe_admission, books), ("uid",))
    hooks.wrap(loop, "step", functools.partial(_quiet_step, books.recorder))


def _observe_schedule(books: Books, original: Any) -> Any:
    @functools.wraps(original)
    async def schedule_task(
        self: Any, lit_api: Any, lit_spec: Any, request_queue: Any, *args: Any, **kwargs: Any
    ) -> Any:
        queue = NotingQueue(request_queue, books, lit_api)
        return await original(self, lit_api, lit_spec, queue, *args, **kwargs)

    return schedule_task


def _observe_admission(books: Books, original: Any) -> Any:
    @functools.wraps(original)
    def add_request(self: Any, uid: Any, *args: Any, **kwargs: Any) -> Any:
        inference = books.running.get(uid)
        if inference is not None:
            inference.queue_ns = perf_counter_ns() - inference.start_ns
        return original(self, uid, *args, **kwargs)

    return add_request


def _quiet_step(recorder: Recorder, original: Any) -> Any:
    @functools.wraps(original)
    async def step(*args: Any, **kwargs: Any) -> Any:
        token = attach(recorder.quiet_context())
        try:
            result = await original(*args, **kwargs)
        except BaseException as error:
            leave(token, error)
            raise
        detach(token)
        return result

    return step


# --- responses ---------------------------------------------------------------------------------


def hook_loops(hooks: Hooks, module: Any) -> None:
    """Hook what all loops share: how they collect batches, and how they respond.

    Args:
        hooks: Of LitServe.
        module: ``litserve.loops.base``.
    """
    books, loop = _shared(hooks), module.LitLoop
    hooks.wrap(module._BaseLoop, "__call__", functools.partial(_observe_worker, books))
    answer = ("transport", "response_queue_id", "uid", "response_data", "status", "response_type")
    hooks.wrap(loop, "put_response", functools.partial(_observe_response, books), answer)
    hooks.wrap(loop, "put_error_response", functools.partial(_observe_error, books), ("uid", "error"))
    hooks.wrap(module, "collate_requests", functools.partial(_observe_collation, books))


def _observe_response(books: Books, original: Any) -> Any:
    from litserve.utils import LitAPIStatus, LoopResponseType

    # Older versions do not say that they have begun.
    start, regular = getattr(LitAPIStatus, "START", None), LoopResponseType.REGULAR

    @functools.wraps(original)
    def put_response(
        self: Any,
        transport: Any,
        response_queue_id: Any,
        uid: Any,
        response_data: Any,
        status: Any,
        response_type: Any,
        **more: Any,
    ) -> Any:
        try:
            return original(
                self, transport, response_queue_id, uid, response_data, status, response_type, **more
            )
        finally:
            if status != start:
                whole = response_type == regular
                guarded(_respond, books, LitAPIStatus, uid, response_data, status, whole=whole)

    return put_response


def _respond(books: Books, statuses: Any, uid: Any, data: Any, status: Any, *, whole: bool) -> None:
    inference = books.running.get(uid)
    if inference is None:
        return
    if status == statuses.ERROR:
        books.answered(uid)
        _fail(inference, data)
    elif status == statuses.FINISH_STREAMING:
        books.answered(uid)
        if books.leavers is not None and books.leavers.holds(uid):
            inference.cancel()
        else:
            inference.end()
    elif status == statuses.OK and whole:
        books.answered(uid)
        inference.end()
    elif status == statuses.OK:
        inference.chunk()


def _fail(inference: Inference, error: Any) -> None:
    name = type(error).__name__
    if not isinstance(error, BaseException):
        inference.fail_as(semconv.ERROR_TYPE_OTHER)
    elif name == "PickleableHTTPException":
        # What LitServe makes of the user's own, so that it goes through a queue.
        inference.fail_as("fastapi.exceptions.HTTPException")
    elif name == "HTTPException" and getattr(error, "status_code", None) == HTTPStatus.GATEWAY_TIMEOUT:
        inference.fail_as(TIMED_OUT)
    else:
        inference.fail(error)


def _observe_error(books: Books, original: Any) -> Any:
    @functools.wraps(original)
    def put_error_response(
        self: Any, transport: Any, response_queue_id: Any, uid: Any, error: Any, *args: Any, **kwargs: Any
    ) -> Any:
        # What goes through put_response now is pickled.
        inference = books.running.get(uid)
        if inference is not None and isinstance(error, BaseException):
            guarded(books.answered, uid)
            inference.fail(error)
        return original(self, transport, response_queue_id, uid, error, *args, **kwargs)

    return put_error_response
