"""The concurrency limiter: slots for the requests of one model. Off unless it is switched on.

    with limiters.get("my-model")():
        ...

The body runs when there is a slot; else :class:`LimitExceededError` is raised, after ``max_wait``. A limiter that
cannot tell lets pass: an error of ours, or nobody who moves the limit, never keeps a request out.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import deque
from contextvars import ContextVar
from dataclasses import replace
from enum import Enum, IntEnum
from time import perf_counter
from typing import TYPE_CHECKING

from otel_aimon.core.guard import swallow
from otel_aimon.hinting.adaptive_limit import AdaptiveLimit
from otel_aimon.hinting.admission import Admission
from otel_aimon.hinting.errors import LimitExceededError
from otel_aimon.hinting.observation import Completed, Interval
from otel_aimon.hinting.permit import NO_EPOCH, NO_SLOT, Permit
from otel_aimon.hinting.stretch import Stretch
from otel_aimon.hinting.waiting import WaitingQueue, task_waiter, thread_waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.hinting.observation import Slo
    from otel_aimon.hinting.waiting import Waiter

LONGEST_WAIT = 60.0
"""No wait is longer, so that none is for ever: not even when two limiters are entered in opposite orders."""

STALE_SECONDS = 15.0
"""When the limit was not moved for so long, nobody watches: all pass."""


MOST_UNSEEN = 100_000
"""Requests that ended and were not looked at yet: more are forgotten when nobody looks."""

LEAST_RETRY_AFTER = 1.0
_PLACE = "concurrency limiter"


class Mode(Enum):
    """What a limiter does."""

    OFF = "off"
    DRY_RUN = "dry_run"
    ENFORCE = "enforce"


class Priority(IntEnum):
    """Who comes first when there is too much; the queue is served from the top."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


SHARES = (0.8, 1.0, 1.2)
"""Share of the limit up to which each priority is admitted: low makes room first, high has some in reserve."""


class Limiter:
    """The slots of one model: models do not take each other's.

    Args:
        model: Its name.
        slo: What is promised.
        mode: Whether it counts, and whether it enforces.
        clock: Monotonic seconds; injected by tests.

    Attributes:
        model: Its name.
        mode: See there.
        limit: Requests in flight to admit.
        in_flight: Requests that hold a slot.
        admitted: Requests so far that got a slot.
        shed: Requests so far that were turned away, or would have been in a dry run.
    """

    def __init__(
        self, model: str, slo: Slo, mode: Mode = Mode.OFF, clock: Callable[[], float] = perf_counter
    ) -> None:
        self.model = model
        self.mode = mode
        self._counts = mode is not Mode.OFF
        self._slo = slo
        self._clock = clock
        self._watched = False
        self._held: ContextVar[Permit] = ContextVar("aimon_permit", default=NO_SLOT)
        self._epoch = 0
        self._begin()
        _limiters.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._waiting = WaitingQueue()
        self._control = AdaptiveLimit(self._slo, self._clock())
        self._ended: deque[tuple[Permit, float, bool]] = deque(maxlen=MOST_UNSEEN)
        self._seen: deque[Completed] = deque(maxlen=MOST_UNSEEN)
        self._sees = False
        self._stretch = Stretch()
        # The time integral of the number in flight is N T + sum of ends - sum of starts.
        self._ends_less_starts = 0.0
        self._area = 0.0
        self._stepped = self._clock()
        self._shed_before = 0
        self._mean_latency = 0.0
        self.limit = self._control.limit
        self.in_flight = self.admitted = self.shed = 0

    def after_fork_in_child(self) -> None:
        """Start anew: the parent's requests are not ours, and its lock may be held."""
        self._epoch += 1
        self._watched = False
        self._begin()

    def configure(self, mode: Mode, slo: Slo) -> None:
        """Begin anew with other settings; a slot that is held is given back as it would have been.

        Args:
            mode: What it does from now on.
            slo: What is promised.
        """
        with self._lock:
            self.mode = mode
            self._counts = mode is not Mode.OFF
            self._watched = False
            self._slo = slo
            self._control = AdaptiveLimit(slo, self._clock())
            self._stepped = self._clock()
            self._area = self.in_flight * self._stepped + self._ends_less_starts
            self.limit = self._control.limit
            self._dispatch()

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        with self._lock:
            return sum(not waiter.gone for _, _, waiter in self._waiting.entries)

    def __call__(self, priority: Priority = Priority.NORMAL, max_wait: float = 0.0) -> Admission:
        """A context manager, synchronous and asynchronous, and a decorator.

        Args:
            priority: Who comes first when there is too much.
            max_wait: Seconds to wait for a slot; at most a minute.
        """
        return Admission(self, priority, max_wait)

    # The way in.

    def acquire(self, priority: int, max_wait: float) -> Permit:
        """Take a slot on this thread.

        Raises:
            LimitExceededError: There is none.
        """
        waiter, event = None, None
        try:
            permit = self._try(priority)
            if permit is not None:
                return permit
            if max_wait > 0:
                waiter, event = thread_waiter()
                self._queue(waiter, priority)
        except Exception as error:
            swallow(error, _PLACE)
            return NO_SLOT
        if waiter is None or event is None:
            raise self._exceeded()
        try:
            event.wait(min(max_wait, LONGEST_WAIT))
        except BaseException:
            self._give_up(waiter, keep=False)
            raise
        return self._waited(waiter)

    async def acquire_async(self, priority: int, max_wait: float) -> Permit:
        """Take a slot in this task.

        Raises:
            LimitExceededError: There is none.
        """
        waiter, event = None, None
        try:
            permit = self._try(priority)
            if permit is not None:
                return permit
            if max_wait > 0:
                waiter, event = task_waiter()
                self._queue(waiter, priority)
        except Exception as error:
            swallow(error, _PLACE)
            return NO_SLOT
        if waiter is None or event is None:
            raise self._exceeded()
        try:
            await asyncio.wait_for(event.wait(), min(max_wait, LONGEST_WAIT))
        except asyncio.TimeoutError:
            pass
        except BaseException:
            self._give_up(waiter, keep=False)
            raise
        return self._waited(waiter)

    def _try(self, priority: int) -> Permit | None:
        """A slot, or none where none is needed; None when it is full."""
        if not self._counts:
            return NO_SLOT
        if not self._watched:
            self._watched = True
            if _watcher is not None:
                _watcher()
        held = self._held.get()
        if held.active and held.epoch == self._epoch:
            # A call inside a call is the same request; it must not wait for its own slot.
            return NO_SLOT
        now = self._clock()
        with self._lock:
            if self.in_flight >= self.limit * SHARES[priority] or self._waiting.entries:
                if not self._has_room(priority) and self.mode is Mode.DRY_RUN:
                    self.shed += 1
                elif not self._has_room(priority) and now - self._stepped < STALE_SECONDS:
                    return None
            self.in_flight += 1
            self.admitted += 1
            self._ends_less_starts -= now
        permit = Permit(now, self._epoch)
        self._held.set(permit)
        return permit

    def _has_room(self, priority: int) -> bool:
        """A slot is free, and nobody of the same or a higher priority waits for it."""
        if self.in_flight >= self.limit * SHARES[priority]:
            return False
        first = self._waiting.first()
        return first is None or first[0] < priority

    def _queue(self, waiter: Waiter, priority: int) -> None:
        with self._lock:
            self._waiting.add(waiter, priority)
            # A slot may have become free since.
            self._dispatch()

    def _waited(self, waiter: Waiter) -> Permit:
        if not self._give_up(waiter, keep=True):
            raise self._exceeded()
        permit = Permit(waiter.granted_at, waiter.epoch)
        self._held.set(permit)
        return permit

    def _give_up(self, waiter: Waiter, *, keep: bool) -> bool:
        """Wait no longer; True when a slot was granted, which is given back unless it is to be kept."""
        with self._lock:
            waiter.gone = True
            if waiter.granted and not keep and waiter.epoch == self._epoch:
                self.in_flight -= 1
                self._ends_less_starts += waiter.granted_at
                self._dispatch()
            return waiter.granted

    def _exceeded(self) -> LimitExceededError:
        with self._lock:
            self.shed += 1
        return LimitExceededError(self.model, max(LEAST_RETRY_AFTER, self._mean_latency))

    def current(self) -> Permit:
        """The permit of the request that runs here; one that counts nothing if there is none."""
        held = self._held.get()
        return held if held.active else Permit(0.0, NO_EPOCH)

    # The way out.

    def release(self, permit: Permit, ok: bool) -> None:
        """Give a slot back; once, even if called twice."""
        if not permit.active:
            return
        permit.active = False
        if permit.epoch != self._epoch:
            # It was taken before a fork, by the parent.
            return
        now = self._clock()
        with self._lock:
            self.in_flight -= 1
            self._ends_less_starts += now
            if self._waiting.entries:
                self._dispatch()
        self._ended.append((permit, now, ok))

    def _dispatch(self) -> None:
        """Grant free slots to those that wait."""
        now = self._clock()
        while (first := self._waiting.first()) is not None:
            priority, waiter = first
            if self.in_flight >= self.limit * SHARES[priority]:
                return
            self._waiting.remove_first()
            waiter.granted = waiter.gone = True
            waiter.epoch = self._epoch
            waiter.granted_at = now
            self.in_flight += 1
            self.admitted += 1
            self._ends_less_starts -= now
            waiter.wake()

    # By the thread that analyses.

    def saw(self, request: Completed) -> None:
        """Take a request as the model's instrumentation saw it: from then on the slots only count.

        It knows tokens and first tokens, which the holder of a slot seldom tells.
        """
        self._sees = True
        self._seen.append(request)

    def step(
        self,
        now: float,
        utilization: float | None = None,
        kv_utilization: float | None = None,
        seen: Interval | None = None,
    ) -> None:
        """Learn from what ended, and move the limit.

        Args:
            now: Monotonic seconds.
            utilization: Busy share of the bottleneck since the last step; None when unknown.
            kv_utilization: Used share of the KV cache; None when unknown.
            seen: The interval as the model's instrumentation saw it, if that tells of requests with :meth:`saw`.
        """
        if now <= self._stepped:
            return
        slots = [
            _completed(permit, end, ok=ok)
            for permit, end, ok in (self._ended.popleft() for _ in range(len(self._ended)))
        ]
        ended = slots
        if self._sees:
            ended = self._stretch.apply(slots, [self._seen.popleft() for _ in range(len(self._seen))])
        for request in ended:
            self._control.take(request)
        latencies = [request.latency for request in ended if request.ok]
        mean_latency = sum(latencies) / len(latencies) if latencies else None
        self._mean_latency = mean_latency or self._mean_latency
        with self._lock:
            area = self.in_flight * now + self._ends_less_starts
            interval = Interval(
                end=now,
                seconds=now - self._stepped,
                in_flight=max(0.0, area - self._area) / (now - self._stepped),
                completions=len(latencies),
                mean_latency=mean_latency,
                utilization=utilization,
                kv_utilization=kv_utilization,
                rejected=self.shed - self._shed_before,
            )
            self._area, self._stepped, self._shed_before = area, now, self.shed
            in_flight = self.in_flight
        if self._sees and seen is not None and not self._stretch.covers:
            # Requests that take no slot are in the model all the same.
            interval = replace(seen, rejected=interval.rejected)
        # Without the lock: nobody waits for our arithmetic.
        if interval.rejected:
            self._control.trim.rejected()
        self._control.advance(interval, in_flight)
        with self._lock:
            self.limit = self._control.limit
            self._dispatch()


def _completed(permit: Permit, end: float, *, ok: bool) -> Completed:
    ttft = None if permit.first is None else permit.first - permit.start
    return Completed(end, end - permit.start, ok, permit.tokens_in, permit.tokens_out, ttft)


_watcher: Callable[[], None] | None = None


def set_watcher(wake: Callable[[], None] | None) -> None:
    """Set who is told of the first request of each limiter."""
    global _watcher
    _watcher = wake


_limiters: weakref.WeakSet[Limiter] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for limiter in list(_limiters):
        limiter.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
