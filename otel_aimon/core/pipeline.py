"""The thread named ``aimon``: takes ended inferences from the queue and hands them to consumers."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from otel_aimon.core.guard import swallow

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder

    Consumer = Callable[[Inference], None]

THREAD_NAME = "aimon"
CALLER_BATCH = 256
"""Observations that a caller drains when it finds the queue full."""

_FLUSH_TIMEOUT = 5.0


class Pipeline:
    """Drains the recorder's queue: on its own thread, on metric collection, and when it is full.

    Args:
        recorder: Whose queue to drain; the pipeline registers itself there.
        consumers: Called with each observation, in order, one observation at a time.
        interval: Seconds between two drains of the thread.
        tick: Called on the thread after each of its drains.
        prepare: Called once, before the first observation is handed over.
        settle: Called after each batch of observations.
    """

    def __init__(
        self,
        recorder: Recorder,
        consumers: tuple[Consumer, ...],
        *,
        interval: float,
        tick: Callable[[], None] | None = None,
        prepare: Callable[[], None] | None = None,
        settle: Callable[[], None] | None = None,
    ) -> None:
        self._recorder = recorder
        self._consumers = consumers
        self._interval = interval
        self._tick = tick
        self._prepare = prepare
        self._settle = settle
        self._wanted = False
        self._half_full = recorder.queue_size // 2
        self._reset()
        self._stopped = False
        self.observations = 0
        self.caller_drains = 0
        self.cpu_ns = 0
        recorder.on_submit = self._on_submit

    def _reset(self) -> None:
        # Reentrant, as are all places here where a finaliser or a signal handler may interrupt the thread.
        self._lock = threading.RLock()
        self._start_lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._draining: int | None = None
        self._forking: int | None = None
        self._fork_waits = False
        self._fork_over = threading.Event()
        self._fork_over.set()

    def _on_submit(self, length: int) -> None:
        if self._stopped:
            # A request that was in flight when the pipeline stopped.
            self.drain()
            return
        if self._thread is None:
            self.start_thread()
        if length >= self._half_full:
            self._wake.set()
            if length >= self._recorder.queue_size:
                self._drain_by_caller()

    def want(self) -> None:
        """Start the thread, and prepare although there is no observation yet."""
        self._wanted = True
        self.start_thread()

    def start_thread(self) -> None:
        """Start the thread unless it runs; the first submission does it too."""
        if not self._start_lock.acquire(blocking=False):
            return  # Somebody is at it, perhaps this very thread.
        try:
            if self._thread is not None or self._stopped:
                return
            thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The interpreter is shutting down: the exit handler or the next caller drains.
                return
            self._thread = thread
        finally:
            self._start_lock.release()

    def _run(self) -> None:
        wake = self._wake
        while not self._stopped:
            wake.wait(self._interval)
            wake.clear()
            self.drain()
            if self._wanted:
                # With the lock that a fork waits for: a child must not inherit modules that are half imported.
                with self._lock:
                    self._be_prepared()
            if self._tick is not None:
                self._guarded_tick(self._tick)

    @staticmethod
    def _guarded_tick(tick: Callable[[], None]) -> None:
        try:
            tick()
        except Exception as error:
            swallow(error, "the pipeline's tick")

    def _drain_by_caller(self) -> None:
        self.caller_drains += 1
        self.drain(CALLER_BATCH)

    def drain(self, most: int | None = None) -> None:
        """Hand waiting observations to the consumers.

        Args:
            most: How many at the most; None for all that wait now.
        """
        me = threading.get_ident()
        if self._draining == me:
            # A finaliser or a signal handler that interrupted this very thread's drain.
            return
        while True:
            with self._lock:
                self._draining = me
                started = time.thread_time_ns()
                try:
                    finished = self._consume(len(self._recorder.queue) if most is None else most)
                    if self._settle is not None:
                        self._guarded_tick(self._settle)
                finally:
                    self.cpu_ns += time.thread_time_ns() - started
                    self._draining = None
            if finished or most is not None:
                return
            self._fork_over.wait(_FLUSH_TIMEOUT)

    def _consume(self, count: int) -> bool:
        queue = self._recorder.queue
        if count:
            self._be_prepared()
        for _ in range(count):
            if self._fork_waits:
                return False
            try:
                observation = queue.popleft()
            except IndexError:
                return True
            self.observations += 1
            try:
                if observation.deferred:
                    observation.finish_span()
            except Exception as error:
                swallow(error, "the end of a span")
            for consume in self._consumers:
                _guarded(consume, observation)
        return True

    def _be_prepared(self) -> None:
        prepare, self._prepare = self._prepare, None
        if prepare is None:
            return
        try:
            prepare()
        except Exception as error:
            swallow(error, "what the pipeline needs")

    def stop(self) -> None:
        """Drain everything and end the thread. Later submissions are drained by their callers."""
        self._stopped = True
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_FLUSH_TIMEOUT)
        self.drain()

    def before_fork(self) -> None:
        """Let a running drain pause: a child must not inherit metric locks that it holds."""
        me = threading.get_ident()
        if self._draining == me:
            return
        self._fork_waits = True
        self._fork_over.clear()
        if self._lock.acquire(timeout=_FLUSH_TIMEOUT):
            self._forking = me

    def after_fork_in_parent(self) -> None:
        """Go on draining."""
        self._fork_waits = False
        self._fork_over.set()
        if self._forking == threading.get_ident():
            self._forking = None
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Start over: the parent's locks and thread do not exist here."""
        self._reset()
        self.observations = self.caller_drains = self.cpu_ns = 0


def _guarded(consume: Consumer, observation: Inference) -> None:
    try:
        consume(observation)
    except Exception as error:
        swallow(error, f"the pipeline's {getattr(consume, '__qualname__', 'consumer')}")
