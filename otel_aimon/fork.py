"""A forked child starts from zero: own locks, own queue, own counts, own flush at its end."""

from __future__ import annotations

# Its exit handler joins children that only finalizers end, such as vLLM's engines. Exit handlers run in reverse:
# this one has to be there before that of the finalizers, which the first export over HTTP registers.
import multiprocessing.util
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from otel_aimon import semconv
from otel_aimon.core import guard
from otel_aimon.core.guard import swallow
from otel_aimon.sdk_parts import exporting_parts, find

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.runtime import Runtime

_registered = False
_parents_connections: list[Any] = []
_paused = threading.local()
"""The locks that a thread holds while it forks."""

_MOST_SECONDS = 3.0
"""A backend that does not answer holds up a fork for no longer than this."""


def register(current: Callable[[], Runtime | None]) -> None:
    """Register the process's fork handlers, once.

    Args:
        current: Gives the runtime that is alive when the process forks.
    """
    global _registered
    if _registered or not hasattr(os, "register_at_fork"):
        return
    _registered = True

    def with_runtime(act: Callable[[Runtime], None]) -> Callable[[], None]:
        def handler() -> None:
            runtime = current()
            if runtime is None:
                return
            try:
                act(runtime)
            except Exception as error:
                swallow(error, "a fork handler")

        return handler

    os.register_at_fork(
        before=with_runtime(_pause),
        after_in_parent=with_runtime(lambda runtime: runtime.pipeline.after_fork_in_parent()),
        after_in_child=with_runtime(_start_over),
    )
    os.register_at_fork(after_in_parent=_let_exports_go_on, after_in_child=_let_exports_go_on)
    _flush_at_exit_of_children(current)


def _pause(runtime: Runtime) -> None:
    _paused.locks = []
    deadline = time.monotonic() + _MOST_SECONDS
    for part, exporter in exporting_parts(runtime.providers):
        if "grpc" in type(exporter).__module__:
            _wait_for_export(part, max(0.0, deadline - time.monotonic()))
    runtime.resources.before_fork()
    runtime.pipeline.before_fork()


def _wait_for_export(part: Any, seconds: float) -> None:
    """Hold the next export back until the process has forked.

    With a thread inside of gRPC at the moment of the fork, the child can never use gRPC: its first
    export hangs, or gRPC aborts the process.
    """
    lock = find(part, "_batch_processor", "_export_lock") or find(part, "_export_lock")
    if lock is not None and lock.acquire(timeout=seconds):
        _paused.locks.append(lock)


def _let_exports_go_on() -> None:
    for lock in getattr(_paused, "locks", ()):
        lock.release()
    _paused.locks = []


def _start_over(runtime: Runtime) -> None:
    guard.after_fork_in_child()
    runtime.after_fork_in_child()
    _forget_parents_points(runtime.meter_provider)
    for _, exporter in exporting_parts(runtime.providers):
        _drop_parents_connections(exporter)


def _forget_parents_points(meter_provider: Any) -> None:
    """Drop what the SDK aggregated for our instruments before the fork.

    The SDK keeps the parent's sums in the child, so that both would export them. It also keeps
    locks that a collection of the parent may have held at that moment. Both live in private
    attributes; an SDK that keeps them elsewhere is left as it is.
    """
    consumer = getattr(meter_provider, "_measurement_consumer", None)
    storages = getattr(consumer, "_reader_storages", None)
    if not isinstance(storages, dict):
        return
    consumer._lock = threading.Lock()  # type: ignore[union-attr]
    for reader, storage in storages.items():
        if hasattr(reader, "_export_lock"):
            # Held for as long as an export takes, which is long when the backend is down.
            reader._export_lock = threading.Lock()
        matches = getattr(storage, "_instrument_view_instrument_matches", None)
        if not isinstance(matches, dict):
            continue
        storage._lock = threading.RLock()
        for instrument in list(matches):
            scope = getattr(instrument, "instrumentation_scope", None)
            if scope is not None and scope.name == semconv.SCOPE:
                del matches[instrument]


def _drop_parents_connections(exporter: Any) -> None:
    """Give an OTLP/HTTP exporter connections of its own.

    It keeps its connection open between exports, and a child inherits it: parent and child would write
    into each other's requests, which are then lost, or arrive twice.
    """
    session = find(exporter, "_client", "_transport", "_session") or find(exporter, "_session")
    for adapter in (find(session, "adapters") or {}).values():
        # Not closed: that takes locks which a thread of the parent may have held.
        _parents_connections.append(adapter.poolmanager)
        # As a copy that went through pickle: set up alike, and connected to nothing.
        adapter.__setstate__(adapter.__getstate__())


def _flush_at_exit_of_children(current: Callable[[], Runtime | None]) -> None:
    """Flush children of :mod:`multiprocessing`, which leave by ``os._exit`` and skip exit handlers."""

    def in_child(_: object) -> None:
        multiprocessing.util.Finalize(None, _flush_everything, args=(current,), exitpriority=-100)

    multiprocessing.util.register_after_fork(sys.modules[__name__], in_child)


def _flush_everything(current: Callable[[], Runtime | None]) -> None:
    runtime = current()
    if runtime is not None:
        try:
            runtime.force_flush(providers=True)
        except Exception as error:
            swallow(error, "the flush at the end of a child process")
