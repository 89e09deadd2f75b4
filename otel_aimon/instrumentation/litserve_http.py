"""LitServe's HTTP processes: each request that goes to a worker takes the trace of its caller along.

A request reaches the worker as ``(response_queue_id, uid, timestamp, payload)``. The timestamp becomes a
float that carries the trace context too, so that the tuple keeps its form and each element its meaning.

A worker is not told when a client has left its stream, and goes on with it. It learns what became of it from
a few kilobytes of memory that it shares with the HTTP processes.
"""

from __future__ import annotations

import functools
import uuid
from contextvars import ContextVar
from multiprocessing.sharedctypes import RawArray
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate, trace

from otel_aimon.core.guard import guarded
from otel_aimon.instrumentation.server_requests import carrier_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_aimon.instrumentation.hooks import Hooks

_HEADERS: ContextVar[Iterable[tuple[bytes, bytes]]] = ContextVar("otel-aimon-litserve-headers", default=())
"""Headers of the HTTP request that runs in this context."""

_SUBMITTED: ContextVar[Any] = ContextVar("otel-aimon-litserve-submitted", default=None)
"""LitServe's id of the request that was submitted last in this context."""

_LEAVERS = "_otel_aimon_leavers"
_FIELDS = 4
_TIMESTAMP = 2


class Submitted(float):
    """When a request was submitted, on the monotonic clock in seconds, and in which trace.

    Attributes:
        carrier: What the propagators wrote.
    """

    carrier: dict[str, str]

    def __reduce__(self) -> Any:
        return submitted, (float(self), self.carrier)


def submitted(seconds: float, carrier: dict[str, str]) -> Submitted:
    """Make a :class:`Submitted`."""
    made = Submitted(seconds)
    made.carrier = carrier
    return made


def hook_server(hooks: Hooks, module: Any) -> None:
    """Hook where requests go to the workers' queues, and where they come in.

    Args:
        hooks: Of LitServe.
        module: ``litserve.server``.
    """
    hooks.wrap(module.LitServer, "_get_request_queue", _observe_queue)
    hooks.wrap(module.LitServer, "_prepare_app_run", _observe_app, ("app",))
    hooks.wrap(module.LitServer, "launch_inference_worker", _observe_launch)
    hooks.wrap(module.StreamingRequestHandler, "handle_request", _observe_stream)


# --- clients who leave -------------------------------------------------------------------------


class Leavers:
    """Streams whose clients left, in memory that the server's processes share.

    Each id has one place, and overwrites whatever was there: of two that left at nearly the same time and
    have the same place, one may be forgotten.
    """

    _PLACES = 1024
    _BYTES = 16

    def __init__(self) -> None:
        self._ids = RawArray("c", self._PLACES * self._BYTES)

    def add(self, uid: Any) -> None:
        """Note that the client of a request has left."""
        place, name = self._place(uid)
        self._ids[place] = name

    def holds(self, uid: Any) -> bool:
        """Whether the client of a request has left."""
        place, name = self._place(uid)
        return bool(self._ids[place] == name)

    def _place(self, uid: Any) -> tuple[slice, bytes]:
        number = uuid.UUID(str(uid))
        start = number.int % self._PLACES * self._BYTES
        return slice(start, start + self._BYTES), number.bytes


def leavers_in(arguments: tuple[Any, ...]) -> Leavers | None:
    """What a worker was given to learn of clients who left."""
    found = [vars(each).get(_LEAVERS) for each in arguments if type(each).__name__ == "CallbackRunner"]
    return found[0] if found else None


def _observe_launch(original: Any) -> Any:
    @functools.wraps(original)
    def launch_inference_worker(self: Any, *args: Any, **kwargs: Any) -> Any:
        guarded(_share_leavers, self)
        return original(self, *args, **kwargs)

    return launch_inference_worker


def _share_leavers(server: Any) -> None:
    # It goes to every worker when that is started, also to those that are started later.
    shared = vars(server._callback_runner)
    if _LEAVERS not in shared:
        shared[_LEAVERS] = Leavers()


def _observe_stream(original: Any) -> Any:
    @functools.wraps(original)
    async def handle_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        response = await original(self, *args, **kwargs)
        guarded(_watch_stream, self.server, response)
        return response

    return handle_request


def _watch_stream(server: Any, response: Any) -> None:
    uid, leavers = _SUBMITTED.get(), vars(server._callback_runner).get(_LEAVERS)
    if uid is not None and leavers is not None:
        response.body_iterator = _watched(response.body_iterator, uid, leavers)


async def _watched(body: Any, uid: Any, leavers: Leavers) -> Any:
    left = True
    try:
        async for item in body:
            yield item
        left = False
    finally:
        if left:
            guarded(leavers.add, uid)


# --- the trace of the caller -------------------------------------------------------------------


def _observe_queue(original: Any) -> Any:
    @functools.wraps(original)
    def get_request_queue(*args: Any, **kwargs: Any) -> Any:
        queue = original(*args, **kwargs)
        return queue if isinstance(queue, _CarryingQueue) else _CarryingQueue(queue)

    return get_request_queue


class _CarryingQueue:
    """A queue of requests on the side that fills it; a worker that gets it gets the queue itself."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def __getattr__(self, name: str) -> Any:
        if name == "_queue":
            raise AttributeError(name)
        return getattr(self._queue, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._queue.__reduce_ex__(protocol)

    def put(self, item: Any, *args: Any, **kwargs: Any) -> Any:
        return self._queue.put(guarded(_with_trace, item) or item, *args, **kwargs)

    def put_nowait(self, item: Any) -> Any:
        return self._queue.put_nowait(guarded(_with_trace, item) or item)


def _with_trace(item: Any) -> Any:
    if type(item) is not tuple or len(item) != _FIELDS or type(item[_TIMESTAMP]) is not float:
        return None
    _SUBMITTED.set(item[1])
    carrier: dict[str, str] = {}
    if trace.get_current_span().get_span_context().is_valid:
        propagate.inject(carrier)
    else:
        carrier = carrier_of(_HEADERS.get())
    if not carrier:
        return None
    response_queue_id, uid, timestamp, payload = item
    return response_queue_id, uid, submitted(timestamp, carrier), payload


def _observe_app(original: Any) -> Any:
    @functools.wraps(original)
    def prepare_app_run(self: Any, app: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, app, *args, **kwargs)
        guarded(_remember_headers, app)
        return result

    return prepare_app_run


def _remember_headers(app: Any) -> None:
    from starlette.middleware import Middleware

    # The application is a copy of the server's own, with which it shares this list.
    app.user_middleware = [Middleware(_Headers), *app.user_middleware]


class _Headers:
    """Outermost middleware: keeps the headers of a request for as long as it is answered."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        _HEADERS.set(scope.get("headers") or ())
        try:
            await self._app(scope, receive, send)
        finally:
            _HEADERS.set(())
