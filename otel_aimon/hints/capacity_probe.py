"""ProbeRTT: lower the limit for a second, so that nobody waits and the capacity shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_aimon.hints.bounds.utilization_law import SATURATED

if TYPE_CHECKING:
    from otel_aimon.hints.bounds.utilization_law import UtilizationLaw
    from otel_aimon.hints.observation import Interval

EVERY_SECONDS = 60.0
"""Between probes while nothing changes."""

DEPTH = 0.75
"""The limit of a probe, as a share of the capacity that is believed."""

LEAST = 1

_CHANGED = 1.2
_CHANGED_INTERVALS = 3
_SHORTEST_PAUSE = 5.0


class CapacityProbe:
    """Decides when to probe, and reads the capacity off the probe.

    It probes only while requests are being turned away: a server that has room shows its capacity
    without it. Source: ProbeRTT of BBR, N. Cardwell et al., ACM Queue 2016.

    Args:
        law: What the measurement is for.
    """

    __slots__ = ("_changed", "_last", "_law", "limit", "throughput")

    def __init__(self, law: UtilizationLaw) -> None:
        self._law = law
        self._last = float("-inf")
        self.throughput: float | None = None
        self._changed = 0
        self.limit: int | None = None

    def step(self, interval: Interval, now_in_flight: int) -> None:
        """Take an interval; :attr:`limit` is then the one to enforce, or None for none.

        Args:
            interval: What ended just now.
            now_in_flight: Requests in flight at its end.
        """
        if interval.utilization is None:
            return
        if self.limit is None:
            if self._due(interval):
                self._begin(now_in_flight)
        elif interval.utilization < SATURATED:
            self._finish(interval)
        elif now_in_flight <= self.limit:
            self._deepen()

    def _due(self, interval: Interval) -> bool:
        throughput = self._law.saturated_throughput
        if throughput is None:
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
        self._changed = 0
        capacity = self._law.capacity
        believed = in_flight if capacity is None else min(capacity, in_flight)
        self.limit = max(LEAST, int(DEPTH * believed))

    def _deepen(self) -> None:
        """There still was a queue: the capacity is less than believed."""
        if self.limit == LEAST:
            self._law.calibrate(float(LEAST), self.throughput or 1.0)
            self.limit = None
            return
        self.limit = max(LEAST, (self.limit or LEAST) // 2)

    def _finish(self, interval: Interval) -> None:
        if interval.utilization:
            self._law.calibrate(
                interval.in_flight / interval.utilization, self.throughput or interval.throughput
            )
        self._last = interval.end
        self.limit = None
