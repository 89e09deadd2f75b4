"""The limit that is enforced: the hint, trimmed by the SLO, with short probes of the capacity."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from otel_aimon.hinting.capacity_probe import CapacityProbe
from otel_aimon.hinting.estimator import SLO, UTILIZATION, ConcurrencyEstimator
from otel_aimon.hinting.intervals import IntervalBuilder
from otel_aimon.hinting.slo_trim import SloTrim

if TYPE_CHECKING:
    from otel_aimon.hinting.observation import Completed, Interval, Slo

INITIAL = 20
"""In force until something is known."""

SLOW_START = 1.1
"""Growth of the limit in an interval as long as nothing is known."""

OVERLOAD = 0.88
BURST_GAIN = 0.1
"""While utilisation over about ten seconds is less, a burst may wait as long as the SLO allows."""


class AdaptiveLimit:
    """Takes what happens, and says how many requests may be in flight.

    It has no clock and no lock of its own: the caller gives times, and calls from one thread at a time.

    Args:
        slo: What is promised.
        now: Monotonic seconds.

    Attributes:
        limit: Requests in flight to admit.
        estimator: What it knows.
        probe: Of a model that is not generative.
        trim: The step below the hint.
    """

    def __init__(self, slo: Slo, now: float = 0.0) -> None:
        self._slo = slo
        self._intervals = IntervalBuilder(now)
        self._utilization = 1.0
        self.estimator = ConcurrencyEstimator(slo)
        self.probe = CapacityProbe(self.estimator.utilization_law)
        self.trim = SloTrim(now)
        self.limit = INITIAL

    @property
    def in_flight(self) -> int:
        """Requests in flight."""
        return self._intervals.in_flight

    def started(self, now: float) -> None:
        """A request was admitted."""
        self._intervals.started(now)

    def rejected(self) -> None:
        """A request was turned away."""
        self._intervals.rejected()
        self.trim.rejected()

    def ended(self, request: Completed) -> None:
        """An admitted request ended."""
        self._intervals.ended(request.end, request.latency, ok=request.ok)
        self.take(request)

    def step(
        self, now: float, utilization: float | None = None, kv_utilization: float | None = None
    ) -> Interval | None:
        """Close an interval, about once a second, and move the limit.

        Args:
            now: Monotonic seconds.
            utilization: Busy share of the bottleneck since the last step; None when unknown.
            kv_utilization: Used share of the KV cache; None when unknown.

        Returns:
            The interval; None when no time has passed.
        """
        interval = self._intervals.build(now, utilization, kv_utilization)
        return None if interval is None else self.advance(interval, self.in_flight)

    def take(self, request: Completed) -> None:
        """Learn from a request that ended; for callers that count by themselves."""
        if self.probe.limit is not None:
            self.estimator.notice(request)
        else:
            self.estimator.add(request)
            self.trim.ended(request.end, request.latency, good=self._slo.met(request))

    def advance(self, interval: Interval, in_flight: int) -> Interval:
        """Take an interval that ended, and move the limit; for callers that count by themselves.

        Args:
            interval: What ended in it was given to :meth:`take` before.
            in_flight: Requests in flight at its end.

        Returns:
            The interval with its utilisation, if that was unknown and could be inferred.
        """
        if self.probe.limit is None:
            interval = self.estimator.step(interval)
        else:
            interval = self.estimator.probed(interval, self.probe.throughput)
            self.trim.restart(interval.end)
        if interval.utilization is not None:
            self._utilization += BURST_GAIN * (interval.utilization - self._utilization)
        if self.estimator.generative:
            self.probe.stop()
        else:
            self.probe.step(interval, in_flight)
        self.limit = self._target(in_flight)
        return interval

    def _slow_start(self, in_flight: int) -> int:
        """Until the first requests have ended, a generative model that is full is given a little more."""
        if in_flight >= self.limit and self.estimator.generative:
            return ceil(SLOW_START * self.limit)
        return self.limit

    def _target(self, in_flight: int) -> int:
        if self.probe.limit is not None:
            return self.probe.limit
        limits = {bound.basis: bound.limit for bound in self.estimator.bounds()}
        if not limits:
            return self._slow_start(in_flight)
        if SLO in limits and self._utilization < OVERLOAD:
            # The headroom keeps the queue of a lasting overload short. A burst may wait.
            del limits[UTILIZATION]
        return max(1, round(min(limits.values()) * self.trim.factor))
