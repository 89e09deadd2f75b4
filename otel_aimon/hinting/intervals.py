"""From starts and ends to one summary of every interval."""

from __future__ import annotations

from otel_aimon.hinting.in_flight import InFlightIntegral
from otel_aimon.hinting.observation import Interval


class IntervalBuilder:
    """Counts what starts, ends and is turned away, in O(1) each.

    Args:
        now: Monotonic seconds at which the first interval begins.
    """

    __slots__ = ("_area", "_completions", "_in_flight", "_latency", "_rejected", "_start")

    def __init__(self, now: float = 0.0) -> None:
        self._in_flight = InFlightIntegral(now)
        self._start = now
        self._area = 0.0
        self._clear()

    def _clear(self) -> None:
        self._completions = self._rejected = 0
        self._latency = 0.0

    @property
    def in_flight(self) -> int:
        """Requests in flight now."""
        return self._in_flight.count

    def started(self, now: float) -> None:
        """A request started."""
        self._in_flight.change(1, now)

    def ended(self, now: float, latency: float, *, ok: bool) -> None:
        """A request ended after ``latency`` seconds; it succeeded if ``ok``."""
        self._in_flight.change(-1, now)
        if ok:
            self._completions += 1
            self._latency += latency

    def rejected(self) -> None:
        """A request was turned away."""
        self._rejected += 1

    def build(
        self, now: float, utilization: float | None = None, kv_utilization: float | None = None
    ) -> Interval | None:
        """Close the interval at ``now`` and begin the next; None when no time has passed."""
        seconds = now - self._start
        if seconds <= 0:
            return None
        area = self._in_flight.until(now)
        mean_latency = self._latency / self._completions if self._completions else None
        built = Interval(
            end=now,
            seconds=seconds,
            in_flight=(area - self._area) / seconds,
            completions=self._completions,
            mean_latency=mean_latency,
            utilization=utilization,
            kv_utilization=kv_utilization,
            rejected=self._rejected,
        )
        self._start, self._area = now, area
        self._clear()
        return built
