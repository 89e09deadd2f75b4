"""ProbeRTT: lower the limit for a second, so that nobody waits and the capacity shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_aimon.hinting.bounds.utilization_law import SATURATED

if TYPE_CHECKING:
    from otel_aimon.hinting.bounds.utilization_law import UtilizationLaw
    from otel_aimon.hinting.observation import Interval

EVERY_SECONDS = 60.0
"""Between probes while nothing changes."""

DEPTH = 0.75
"""The limit of a probe, as a share of the capacity that is believed."""

LEAST = 1
LONGEST = 30
"""Intervals after which a probe is given up: a server that hangs must not stay throttled."""

INFERRED_COMPLETIONS = 15
"""A utilisation that is inferred from completions needs so many."""

SLOWED = 0.85
"""Share of the throughput in saturation: with less, there is no saturation."""

_CHANGED = 1.2
_CHANGED_INTERVALS = 3
_SHORTEST_PAUSE = 5.0


class _Reading:
    """Means over the intervals of a probe."""

    __slots__ = ("_busy_seconds", "_request_seconds", "_seconds", "completions")

    def __init__(self) -> None:
        self._seconds = self._busy_seconds = self._request_seconds = 0.0
        self.completions = 0

    def add(self, interval: Interval) -> bool:
        """Take an interval; True when that is enough to judge by."""
        if interval.utilization is None:
            return False
        self._seconds += interval.seconds
        self._busy_seconds += interval.utilization * interval.seconds
        self._request_seconds += interval.in_flight * interval.seconds
        self.completions += interval.completions
        return not interval.inferred or self.completions >= INFERRED_COMPLETIONS

    def believe(self, utilization: float) -> None:
        """Replace the utilisation that was measured."""
        self._busy_seconds = utilization * self._seconds

    @property
    def throughput(self) -> float:
        return self.completions / self._seconds

    @property
    def utilization(self) -> float:
        return self._busy_seconds / self._seconds

    @property
    def in_flight(self) -> float:
        return self._request_seconds / self._seconds


class CapacityProbe:
    """Decides when to probe, and reads the capacity off the probe.

    It probes when it knows nothing of a server that is saturated, and later only while requests are being
    turned away: a server that has room shows its capacity without it. Source: ProbeRTT of BBR, N. Cardwell et al., ACM Queue 2016.

    Args:
        law: What the measurement is for.
    """

    __slots__ = ("_changed", "_intervals", "_last", "_law", "_reading", "limit", "throughput")

    def __init__(self, law: UtilizationLaw) -> None:
        self._law = law
        self._last = float("-inf")
        self.throughput: float | None = None
        self._changed = self._intervals = 0
        self.limit: int | None = None
        self._reading = _Reading()

    def step(self, interval: Interval, now_in_flight: int) -> None:
        """Take an interval; :attr:`limit` is then the one to enforce, or None for none.

        Args:
            interval: What ended just now.
            now_in_flight: Requests in flight at its end.
        """
        if self.limit is None:
            if self._due(interval):
                self._begin(now_in_flight)
            return
        self._intervals += 1
        judged = self._reading.add(interval)
        drained = now_in_flight <= self.limit
        if judged and self._reading.utilization < SATURATED:
            self._finish(interval)
        elif self._intervals >= LONGEST:
            self._stop(interval)
        elif judged and drained and self._slowed():
            self._reading.believe(self._reading.throughput / (self.throughput or 1.0))
            self._finish(interval)
        elif judged and drained:
            self._deepen(interval)
        elif not drained:
            self._reading = _Reading()

    def _due(self, interval: Interval) -> bool:
        throughput = self._law.saturated_throughput
        if throughput is None or interval.utilization is None:
            return False
        if self._law.capacity is None:
            return True
        if not interval.rejected:
            return False
        if self.throughput is None:
            return True
        ratio = throughput / self.throughput
        self._changed = 0 if 1 / _CHANGED < ratio < _CHANGED else self._changed + 1
        pause = interval.end - self._last
        return pause >= EVERY_SECONDS or (self._changed >= _CHANGED_INTERVALS and pause >= _SHORTEST_PAUSE)

    def _begin(self, in_flight: int) -> None:
        self.throughput = self._law.saturated_throughput
        self._changed = self._intervals = 0
        self._reading = _Reading()
        capacity = self._law.capacity
        believed = in_flight if capacity is None else min(capacity, in_flight)
        self.limit = max(LEAST, int(DEPTH * believed))

    def _slowed(self) -> bool:
        """Throughput fell with the limit, so that the limit is what bounds it, whatever a counter says."""
        if self.throughput is None or self._reading.completions < INFERRED_COMPLETIONS:
            return False
        return self._reading.throughput < SLOWED * self.throughput

    def stop(self) -> None:
        """Probe no longer: the model is of another kind."""
        self.limit = None

    def _deepen(self, interval: Interval) -> None:
        """There still was a queue: the capacity is less than believed."""
        if self.limit is not None and self.limit > LEAST:
            self.limit = max(LEAST, self.limit // 2)
            self._reading = _Reading()
            return
        self._law.calibrate(float(LEAST), self.throughput or interval.throughput)
        self._stop(interval)

    def _finish(self, interval: Interval) -> None:
        """Nobody waited: N / U is the capacity."""
        if self._reading.utilization > 0:
            capacity = self._reading.in_flight / self._reading.utilization
            self._law.calibrate(capacity, self.throughput or interval.throughput)
        self._stop(interval)

    def _stop(self, interval: Interval) -> None:
        self._last = interval.end
        self.limit = None
