"""The thread ``aimon-sampler``: asks every source, makes one snapshot, hands it on.

A driver's call may hang for as long as it likes, so a source that calls a driver is asked on a
thread of its own and is waited for only briefly. What has not answered has no reading.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from time import monotonic, thread_time_ns
from typing import TYPE_CHECKING, Any

from otel_aimon.core.guard import swallow
from otel_aimon.resources.snapshot import Snapshot
from otel_aimon.resources.source import UnavailableError, notices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_aimon.resources.source import Source

logger = logging.getLogger("otel_aimon")

THREAD_NAME = "aimon-sampler"
PATIENCE = 1.0
"""Seconds that a sampling waits for drivers."""

_FINISH_SECONDS = 0.25
_FORK_SECONDS = 0.1
_STALE_INTERVALS = 3.0


@dataclass(eq=False)
class Feed:
    """A source in the sampler's hands.

    Attributes:
        name: Of the source, for notices and ``aimon.selfmon.source.available``.
        fills: The field of :class:`Snapshot` that it fills; feeds of one tuple field add up.
        source: What is asked.
        driver: It calls a driver, which may hang.
        available: Whether it had a reading last time; None until it was asked.
        why: Why it had none last time.
    """

    name: str
    fills: str
    source: Source[Any]
    driver: bool = False
    available: bool | None = None
    why: UnavailableError | None = field(default=None, init=False)
    _retry_at: float = field(default=0.0, init=False)

    def ask(self, now: float) -> Any:
        """The source's reading; None when it has none."""
        if now < self._retry_at:
            return None
        try:
            reading = self.source.read()
        except UnavailableError as unavailable:
            self.has_none(str(unavailable), unavailable.level)
            self._retry_at = now + unavailable.retry
            notices.say(
                f"source {self.name}: {unavailable}", unavailable.level, "otel-aimon: %s", unavailable
            )
            return None
        except Exception as error:
            self.has_none(f"the sampling of {self.name} failed: {type(error).__name__}.")
            swallow(error, f"the sampling of {self.name}")
            return None
        if not self.available:
            notices.forget(f"source {self.name}: ")
        self.available, self.why = True, None
        return reading

    def has_none(self, why: str, level: int = logging.WARNING) -> None:
        """Remember that there is no reading now, and why.

        Args:
            why: One sentence.
            level: As that of :class:`UnavailableError`.
        """
        # Not the error that was raised: it would keep the frames of the source alive.
        self.available, self.why = False, UnavailableError(why, level=level)

    def after_fork_in_child(self) -> None:
        """Ask anew, as a process that has never asked."""
        self.available = self.why = None
        self._retry_at = 0.0
        self.source.after_fork_in_child()


class _DriverThread:
    """Asks one driver's source, each time when it is told to."""

    def __init__(self, feed: Feed, clock: Callable[[], float]) -> None:
        self.feed = feed
        self.cpu_ns = 0
        self._clock = clock
        self._asked = threading.Event()
        self._answered = threading.Event()
        self._answer: Any = None
        self._stopped = False
        self._busy = False
        self._waited_for = False
        self._hung = False
        threading.Thread(target=self._run, name=f"aimon-{feed.name}", daemon=True).start()

    def ask(self) -> None:
        """Start a reading, unless one hangs."""
        self._waited_for = not self._busy
        if self._busy:
            return
        self._busy = True
        self._answered.clear()
        self._asked.set()

    def answer(self, timeout: float) -> Any:
        """What the source said; None when it has not answered in time."""
        if self._answered.wait(timeout if self._waited_for else 0.0):
            if self._hung:
                self._hung = False
                notices.forget(f"hung {self.feed.name}")
                logger.info("otel-aimon: %s answers again.", self.feed.name)
            return self._answer
        self._hung = True
        self.feed.has_none(f"{self.feed.name} has not answered within {PATIENCE:.1f} s.")
        notices.say(
            f"hung {self.feed.name}",
            logging.WARNING,
            "otel-aimon: %s has not answered within %.1f s; its metrics are absent until it does. "
            "Check the driver (its own tool would hang too).",
            self.feed.name,
            PATIENCE,
        )
        return None

    def _run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            if self._stopped:
                self.feed.source.close()
                return
            started = thread_time_ns()
            asked_at = self._clock()
            answer = self.feed.ask(asked_at)
            self.cpu_ns += thread_time_ns() - started
            # An answer that comes late describes a moment that is past.
            self._answer = answer if self._clock() - asked_at <= PATIENCE else None
            self._busy = False
            self._answered.set()

    def stop(self) -> None:
        self._stopped = True
        self._asked.set()


class Sampler:
    """Samples all sources at an interval, on its own thread.

    Args:
        prepare: Makes the sources, on the sampler's thread: what they import must not delay the application.
        interval: Seconds between two samplings.
        on_sample: Called with each snapshot and its monotonic time, on the sampler's thread.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        prepare: Callable[[], Sequence[Feed]],
        *,
        interval: float,
        on_sample: Callable[[Snapshot, float], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.feeds: tuple[Feed, ...] = ()
        self.prepare = prepare
        self._interval = interval
        self._on_sample = on_sample
        self._clock = clock
        self._stopped = False
        self._no_more_starts = False
        self._reset()

    def _reset(self) -> None:
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._sampling = threading.Lock()
        self._wake = threading.Event()
        self._sampled = threading.Condition()
        self._drivers: list[_DriverThread] = []
        self._snapshot: Snapshot | None = None
        self._taken_at = 0.0
        self._own_cpu_ns = 0
        self.samplings = 0
        self.last_seconds: float | None = None

    @property
    def cpu_ns(self) -> int:
        """CPU time of the sampler and of the threads that ask drivers, in nanoseconds."""
        return self._own_cpu_ns + sum(driver.cpu_ns for driver in self._drivers)

    @property
    def snapshot(self) -> Snapshot | None:
        """The last snapshot; None before the first one, and when it is too old to be true."""
        if self._clock() - self._taken_at > _STALE_INTERVALS * self._interval + PATIENCE:
            return None
        return self._snapshot

    def start(self) -> None:
        """Start the thread unless it runs. Costs nothing then."""
        if self._thread is not None or self._stopped or self._no_more_starts:
            return
        if not self._start_lock.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
                thread.start()
                self._thread = thread
        except RuntimeError:
            # The interpreter is shutting down.
            return
        finally:
            self._start_lock.release()

    def _run(self) -> None:
        while not self._stopped:
            started = thread_time_ns()
            try:
                with self._sampling:
                    if self.samplings == 0:
                        self._begin()
                    self._sample()
            except Exception as error:
                swallow(error, "a sampling")
            self._own_cpu_ns += thread_time_ns() - started
            with self._sampled:
                self.samplings += 1
                self._sampled.notify_all()
            self._wake.wait(self._interval)
            self._wake.clear()
        for driver in self._drivers:
            driver.stop()
        for feed in self.feeds:
            if not feed.driver:
                feed.source.close()

    def _begin(self) -> None:
        if not self.feeds:
            self.feeds = tuple(self.prepare())
        self._drivers = [_DriverThread(feed, self._clock) for feed in self.feeds if feed.driver]

    def _sample(self) -> None:
        began = self._clock()
        for driver in self._drivers:
            driver.ask()
        readings = [(feed.fills, feed.ask(began)) for feed in self.feeds if not feed.driver]
        deadline = began + PATIENCE
        readings += [
            (driver.feed.fills, driver.answer(max(0.0, deadline - self._clock()))) for driver in self._drivers
        ]
        snapshot = _assemble(readings)
        now = self._clock()
        self._on_sample(snapshot, now)
        self._snapshot, self._taken_at, self.last_seconds = snapshot, now, now - began

    def finish(self, *, final: bool = False) -> None:
        """Take one more sample, if that takes no time to speak of, so that a flush has fresh values.

        Args:
            final: The process ends: no thread is started any more, and the last snapshot stays.
        """
        if self._thread is not None and not self._stopped:
            before = self.samplings
            self._wake.set()
            with self._sampled:
                self._sampled.wait_for(lambda: self.samplings > before, _FINISH_SECONDS)
        self._no_more_starts = final

    def stop(self) -> None:
        """End the threads. One that hangs in a driver is left behind."""
        self._stopped = True
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_FINISH_SECONDS)
        self._snapshot = None

    def before_fork(self) -> None:
        """Let a sampling end, so that the child inherits no lock of a library in the midst of it.

        The first one imports: a child that inherits the lock of a module could never import it.
        """
        if self._thread is None:
            return
        if self._sampling.acquire(timeout=_FORK_SECONDS if self.samplings else PATIENCE):
            self._sampling.release()

    def after_fork_in_child(self) -> None:
        """The child samples itself, from its first request or collection on."""
        self._reset()
        for feed in self.feeds:
            feed.after_fork_in_child()


def _assemble(readings: Sequence[tuple[str, Any]]) -> Snapshot:
    fields: dict[str, Any] = {}
    for name, reading in readings:
        if reading is None:
            continue
        fields[name] = fields.get(name, ()) + reading if isinstance(reading, tuple) else reading
    return Snapshot(**fields)
