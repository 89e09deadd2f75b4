"""The calls of a Ray Serve replica: from the submission, which travels with their metadata, to their end."""

from __future__ import annotations

import functools
import time
from contextvars import ContextVar
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate
from opentelemetry.context import get_current

from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.ray_serve_batches import FRAMEWORK
from otel_aimon.instrumentation.server_requests import callers_context

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from opentelemetry.context import Context

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder

_SUBMISSION = "_otel_aimon_submission"
"""Attribute of a call's metadata: on which node, when on its monotonic clock, and in which trace it was submitted."""

_UNKNOWN: tuple[str | None, int, dict[str, str]] = (None, 0, {})
_SERVER_ERROR = 500


def submit(metadata: Any) -> None:
    """Let the metadata of a call that is being submitted tell the replica of it."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    # Plain types: a replica without otel-aimon can read it, and passes it by.
    vars(metadata)[_SUBMISSION] = (_node(), time.monotonic_ns(), carrier)


@functools.cache
def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


class Call:
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
        node, submitted, self._carrier = vars(metadata).get(_SUBMISSION, _UNKNOWN)
        now, unix = perf_counter_ns(), time_ns()
        waited = max(time.monotonic_ns() - submitted, 0) if node is not None and node == _node() else 0
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
            inference = self._recorder.start(
                series,
                Layer.REQUEST,
                callers_context(get_current(), self._carrier, headers),
                since=self._since,
            )
            self.inference = inference
            if inference is not None and works:
                inference.queue_ns = perf_counter_ns() - inference.start_ns
        return None if self.inference is None else self.inference.context

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


CALL: ContextVar[Call | None] = ContextVar("otel-aimon-ray-serve-call", default=None)
"""The call that the replica works on in this context."""


class Taking:
    """Serve's asynchronous context manager of a call, and the call in it.

    Args:
        recorder: Starts the call's request.
        replica: Serve's replica.
        metadata: Serve's metadata of the call.
        entering: Serve's context manager.
    """

    __slots__ = ("_arguments", "_call", "_entering")

    def __init__(self, recorder: Recorder, replica: Any, metadata: Any, entering: Any) -> None:
        self._arguments = recorder, replica, metadata
        self._call: Call | None = None
        self._entering = entering

    async def __aenter__(self) -> Any:
        self._call = guarded(Call, *self._arguments)
        CALL.set(self._call)
        try:
            return await self._entering.__aenter__()
        except BaseException as error:
            self._end(error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Any:
        try:
            handled = await self._entering.__aexit__(kind, error, traceback)
        except BaseException as raised:
            self._end(raised)
            raise
        self._end(None if handled else error)
        return handled

    def _end(self, error: BaseException | None) -> None:
        if self._call is not None:
            guarded(self._call.end, error)
