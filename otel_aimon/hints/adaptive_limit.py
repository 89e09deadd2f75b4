"""The limit that is enforced: the hint, trimmed by the SLO, with short probes of the capacity."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from otel_aimon.hints.bounds.saturation import InferredUtilization
from otel_aimon.hints.capacity_probe import CapacityProbe
from otel_aimon.hints.concurrency import ConcurrencyEstimator
from otel_aimon.hints.intervals import IntervalBuilder
from otel_aimon.hints.slo_trim import SloTrim

if TYPE_CHECKING:
    from otel_aimon.hints.observation import Completed, Interval, Slo

INITIAL = 20
"""In force until something is known."""

OVERLOAD = 0.88
BURST_GAIN = 0.1
"""As long as utilisation over ten seconds is below the overload, as many may wait as the SLO allows."""


class AdaptiveLimit:
    """Takes what happens, and says how many requests may be in flight.

    It has no clock and no lock of its own: the caller gives times, and calls from one thread at a time.

    Args:
        slo: What is promised.
        now: Monotonic seconds.

    Attributes:
        limit: Requests in flight to admit.
    """

    def __init__(self, slo: Slo, now: float = 0.0) -> None:
        self._slo = slo
        self._intervals = IntervalBuilder(now)
        self.estimator = ConcurrencyEstimator(slo)
        self.probe = CapacityProbe(self.estimator.utilization_law)
        self.trim = SloTrim(now)
        self.inferred = InferredUtilization()
        self.limit = INITIAL
        self._utilization = 0.0

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
        self.estimator.add(request)
        if self.probe.limit is None:
            self.trim.ended(request.end, request.latency, good=self._slo.met(request))

    def step(
        self, now: float, utilization: float | None = None, kv_utilization: float | None = None
    ) -> Interval | None:
        """Close an interval, about once a second, and move the limit.

        Args:
            now: Monotonic seconds.
            utilization: Busy share of the bottleneck since the last step; None when unknown.
            kv_utilization: Used share of the KV cache; None when unknown.
        """
        interval = self._intervals.build(now, utilization, kv_utilization)
        if interval is None:
            return None
        probing = self.probe.limit is not None
        if not self.estimator.generative:
            interval = self.inferred.complete(interval, self.probe.throughput if probing else None)
            utilization = interval.utilization
        if probing:
            self.trim.restart(now)
        else:
            self.estimator.step(interval)
        if not self.estimator.generative:
            if utilization is not None:
                self._utilization += BURST_GAIN * (utilization - self._utilization)
            self.probe.step(interval, self.in_flight)
        self.limit = self._target()
        return interval

    def _target(self) -> int:
        if self.probe.limit is not None:
            return self.probe.limit
        bounds = {bound.basis: bound.limit for bound in self.estimator.bounds()}
        if not bounds:
            if self.in_flight >= self.limit and self.estimator.generative:
                return self.limit
            return self.limit
        if self._utilization < OVERLOAD and "slo" in bounds:
            bounds.pop("utilization")
        return max(1, ceil(min(bounds.values()) * self.trim.factor - 0.5))
