"""Callbacks of the application, on a thread of their own: a slow one never holds up the pipeline."""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.alerts.alert_event import AlertEvent

    Callback = Callable[[AlertEvent], object]

logger = logging.getLogger("otel_aimon")

THREAD_NAME = "aimon-alerts"
QUEUE_SIZE = 256


class Callbacks:
    """Hands events to the callbacks, in order.

    Attributes:
        dropped: Events that found the queue full, because a callback is too slow.

    Args:
        queue_size: Events that may wait.
    """

    def __init__(self, queue_size: int = QUEUE_SIZE) -> None:
        self._queue_size = queue_size
        self._callbacks: tuple[Callback, ...] = ()
        self._reset()

    def _reset(self) -> None:
        self.dropped = 0
        self._lock = threading.Lock()
        self._queue: queue.Queue[AlertEvent | None] = queue.Queue(self._queue_size)
        self._thread: threading.Thread | None = None
        self._failed: set[int] = set()

    def add(self, callback: Callback) -> Callable[[], None]:
        """Call ``callback`` with each event from now on.

        Args:
            callback: Takes one :class:`AlertEvent`. What it raises is logged once and forgotten.

        Returns:
            A function that takes the callback off again.
        """
        with self._lock:
            self._callbacks = (*self._callbacks, callback)

        def remove() -> None:
            with self._lock:
                self._callbacks = tuple(each for each in self._callbacks if each is not callback)

        return remove

    def publish(self, event: AlertEvent) -> None:
        """Queue an event; returns at once."""
        if not self._callbacks:
            return
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self.dropped += 1
            return
        self._start_thread()

    def _start_thread(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, args=(self._queue,), name=THREAD_NAME, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The interpreter is shutting down.
                return
            self._thread = thread

    def _run(self, events: queue.Queue[AlertEvent | None]) -> None:
        while (event := events.get()) is not None:
            for callback in self._callbacks:
                self._call(callback, event)

    def _call(self, callback: Callback, event: AlertEvent) -> None:
        try:
            callback(event)
        except Exception as error:
            if id(callback) not in self._failed:
                self._failed.add(id(callback))
                logger.error(  # noqa: TRY400 - the traceback would show the application's own values
                    "otel-aimon: the alert callback %s raised %s; it is called again with the next alert, "
                    "and further errors of it are not logged.",
                    getattr(callback, "__qualname__", type(callback).__name__),
                    type(error).__name__,
                )

    def stop(self, timeout: float = 5.0) -> None:
        """Let the callbacks have what waits, for so many seconds, and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return
        if thread is not threading.current_thread():
            thread.join(timeout)

    def after_fork_in_child(self) -> None:
        """Start over with the same callbacks; what waited belongs to the parent."""
        self._reset()
