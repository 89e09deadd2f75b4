"""By how much asyncio's event loops are late: a sign of code that blocks them, or of a contended GIL.

Each loop in which a request starts gets a timer that fires every 100 ms. The delay with which it
fires is what every other callback of the loop waits too.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from contextvars import Context
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from opentelemetry.context import Context as TraceContext

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.layers import Layer
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.core.series import Series

PERIOD_SECONDS = 0.1
UNREAD_SECONDS = 60.0
"""When nobody has read for so long, the timers stop until the next request."""


class EventLoopLag:
    """The longest delay of the event loops in which requests run.

    Args:
        clock: Monotonic seconds; injected by tests.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Forget the parent's loops: they do not run here."""
        # Reentrant: a signal handler may start a request in the midst of this.
        self._lock = threading.RLock()
        self._probes: weakref.WeakKeyDictionary[AbstractEventLoop, _Probe] = weakref.WeakKeyDictionary()
        self._worst: float | None = None
        self._read_at = self._clock()

    def install(self, recorder: Recorder) -> None:
        """Watch the loop of each request that ``recorder`` starts in one; without this nothing is added to it."""
        start = recorder.start

        def start_and_watch(
            series: Series, layer: Layer, current: TraceContext | None = None, **options: Any
        ) -> Inference | None:
            inference = start(series, layer, current, **options)
            if inference is not None and inference.owner is None:
                self.watch_running_loop()
            return inference

        recorder.start = start_and_watch  # type: ignore[method-assign]

    def watch_running_loop(self) -> None:
        """Watch the loop that runs in this thread, if one does. Costs a look-up when it is watched already."""
        loop = asyncio._get_running_loop()
        if loop is None or loop in self._probes:
            return
        probe = _Probe(self, loop)
        probe.wait(loop)
        with self._lock:
            self._probes[loop] = probe

    def take(self) -> float | None:
        """Seconds of the longest delay since the last call; None where no loop was measured in between."""
        now = self._read_at = self._clock()
        with self._lock:
            worst, self._worst = self._worst, None
            probes = list(self._probes.items())
        hanging = [now - probe.due for loop, probe in probes if now > probe.due and loop.is_running()]
        return max(hanging if worst is None else [worst, *hanging], default=None)

    def measured(self, delay: float) -> None:
        """Take note of a delay."""
        with self._lock:
            self._worst = max(self._worst or 0.0, delay)

    def is_unread(self, now: float) -> bool:
        """Whether nobody wants to know any more."""
        return now - self._read_at > UNREAD_SECONDS

    def forget(self, loop: AbstractEventLoop) -> None:
        """Stop watching, until the next request."""
        with self._lock:
            self._probes.pop(loop, None)

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock()

    def close(self) -> None:
        """Let every timer stop at its next turn."""
        self._read_at = float("-inf")


class _Probe:
    """The timer of one loop. The loop holds it, it does not hold the loop."""

    __slots__ = ("_lag", "_loop", "_run", "due")

    def __init__(self, lag: EventLoopLag, loop: AbstractEventLoop) -> None:
        self._lag = lag
        self._loop = weakref.ref(loop)
        self.due = float("inf")
        self._run: weakref.ref[Any] | None = None

    def wait(self, loop: AbstractEventLoop) -> None:
        self._run = _this_run()
        # Not ``loop.time()``: in uvloop it stands still while a callback runs.
        self.due = self._lag.now() + PERIOD_SECONDS
        # A context of its own: the timer would keep that of the request, and all in it, alive.
        loop.call_later(PERIOD_SECONDS, self.fire, context=Context())

    def fire(self) -> None:
        loop = self._loop()
        if loop is None:
            return
        now = self._lag.now()
        if self._run is not None and self._run() is not None:
            self._lag.measured(now - self.due)
        if self._lag.is_unread(now):
            self._lag.forget(loop)
        else:
            self.wait(loop)


def _this_run() -> weakref.ref[Any] | None:
    """Lives as long as the loop of this thread runs without a stop.

    A loop that is stopped and started again, as by ``run_until_complete``, is not late by the time in
    between. Each run installs a new bound method as the thread's hook for asynchronous generators, and
    takes it away at its end.
    """
    hook = sys.get_asyncgen_hooks().firstiter
    try:
        return None if hook is None else weakref.ref(hook)
    except TypeError:
        return None
