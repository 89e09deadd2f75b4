"""The requests of a LitServe worker, from the queue to the last response."""

from __future__ import annotations

import time
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate
from opentelemetry.context import attach, detach, get_current

from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.litserve_http import Leavers, Submitted

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder

FRAMEWORK = "litserve"

_OPERATIONS = {"OpenAISpec": "chat", "OpenAIEmbeddingSpec": "embeddings"}


class Books:
    """The requests of this worker.

    Args:
        recorder: Starts them.

    Attributes:
        running: Those that have not had their last response, by LitServe's id.
        leavers: Whose clients have left.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.running: dict[Any, Inference] = {}
        self.leavers: Leavers | None = None
        self._entered: tuple[list[Any], Token[Context]] | None = None

    def take(self, lit_api: Any, request: Any) -> Any:
        """Start the request that a worker has just taken out of the queue.

        Args:
            lit_api: The user's ``LitAPI``.
            request: The tuple that LitServe puts into the queue; anything else is no request.

        Returns:
            Its id.
        """
        if type(request) is not tuple or len(request) != 4 or not isinstance(request[2], float):
            return None
        _, uid, submitted, _ = request
        waited = max(int((time.monotonic() - submitted) * 1e9), 0)
        parent = get_current()
        if isinstance(submitted, Submitted):
            parent = propagate.extract(submitted.carrier, parent)
        operation = _OPERATIONS.get(type(getattr(lit_api, "spec", None)).__name__, "predict")
        series = self.recorder.series(FRAMEWORK, operation, type(lit_api).__name__)
        since = perf_counter_ns() - waited, time_ns() - waited
        inference = self.recorder.start(series, Layer.REQUEST, parent, since=since)
        if inference is None:
            return None
        inference.queue_ns = waited
        device = getattr(lit_api, "device", None)
        inference.device = device if isinstance(device, str) else None
        self.running[uid] = inference
        return uid

    def enter(self, uids: list[Any]) -> None:
        """Work on a batch from now on, on this thread, until the last of its requests has ended."""
        self.leave()
        batch = [self.running[uid] for uid in uids if uid in self.running]
        if batch:
            self._entered = (uids, attach(batch[0].context))  # type: ignore[arg-type]

    def leave(self) -> None:
        """Work on nothing; what has no response yet will never have one."""
        if self._entered is None:
            return
        (uids, token), self._entered = self._entered, None
        detach(token)
        for uid in uids:
            if (lost := self.running.pop(uid, None)) is not None:
                lost.cancel()

    def answered(self, uid: Any) -> Inference | None:
        """The request that has its last response now; the caller ends it."""
        inference = self.running.pop(uid, None)
        if self._entered is not None and self.running.keys().isdisjoint(self._entered[0]):
            self.leave()
        return inference


class WatchedQueue:
    """The queue of a worker that works on one request after the other."""

    def __init__(self, queue: Any, books: Books, lit_api: Any) -> None:
        self._queue = queue
        self._books = books
        self._lit_api = lit_api

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """Take a request, and work on it from now on."""
        guarded(self._books.leave)
        request = self._queue.get(*args, **kwargs)
        guarded(self._taken, request)
        return request

    def _taken(self, request: Any) -> None:
        uid = self._books.take(self._lit_api, request)
        if uid is not None:
            self._books.enter([uid])


class NotingQueue:
    """The queue of a worker that collects requests before it works on them."""

    def __init__(self, queue: Any, books: Books, lit_api: Any) -> None:
        self._queue = queue
        self._books = books
        self._lit_api = lit_api

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """Take a request."""
        request = self._queue.get(*args, **kwargs)
        guarded(self._books.take, self._lit_api, request)
        return request

    def get_nowait(self) -> Any:
        """Take a request that is there."""
        request = self._queue.get_nowait()
        guarded(self._books.take, self._lit_api, request)
        return request
