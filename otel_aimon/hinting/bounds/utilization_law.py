"""Utilisation law: how many requests the bottleneck works on at once, and a square-root headroom above."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_aimon.hinting.observation import Interval

HEADROOM = 1.5
"""Requests that wait, in units of the square root of those that are worked on."""

LEAST_HEADROOM = 6.0
"""Where one or a few are worked on at once, the queue is empty by chance too often with less: at 1.3 times its load a
server of one is busy for 0.80 of the time with a limit of 2.5, and for 0.96 with a limit of 7 (M/M/1/K)."""

SATURATED = 0.9
"""Utilisation from which on requests are taken to wait."""

_LEAST_UTILIZATION = 0.02
_UNSATURATED_GAIN = 0.05
_SATURATED_GAIN = 0.2
_THROUGHPUT_GAIN = 0.3
_DEEP_QUEUE = 2.0
_CHANGED = 1.15


class UtilizationLaw:
    """Capacity K: requests in service when the bottleneck is busy all the time.

    Below saturation nobody waits, so that all in flight are in service, and the utilisation law
    ``U = X S / K`` with Little's law ``N = X S`` gives ``K = N / U``. In saturation ``K = X S0`` with the
    service time ``S0 = N / X`` that was seen below saturation.

    Source: P. Denning, J. Buzen, "The operational analysis of queueing network models", ACM Computing
    Surveys 1978; J. Little, Operations Research 1961. Headroom: the square-root staffing rule,
    S. Halfin, W. Whitt, Operations Research 1981.

    Attributes:
        capacity: K; None as long as nothing is known.
        saturated: The latest interval was saturated.
        service_time: S0 in seconds; None as long as nothing is known.
        saturated_throughput: X in saturation, smoothed over some seconds; None if that was never seen.
    """

    __slots__ = ("capacity", "saturated", "saturated_throughput", "service_time")

    def __init__(self) -> None:
        self.capacity: float | None = None
        self.service_time: float | None = None
        self.saturated_throughput: float | None = None
        self.saturated = False

    def add(self, interval: Interval) -> None:
        """Take an interval; one in which nothing completed says nothing."""
        if not interval.completions or interval.utilization is None:
            return
        self.saturated = interval.utilization >= SATURATED
        if self.saturated:
            self._add_saturated(interval)
            return
        self.saturated_throughput = None
        seen = interval.in_flight / max(interval.utilization, _LEAST_UTILIZATION)
        self.capacity = _ewma(self.capacity, seen, _UNSATURATED_GAIN)
        self.service_time = _ewma(
            self.service_time, interval.in_flight / interval.throughput, _UNSATURATED_GAIN
        )

    def add_relaxed(self, interval: Interval) -> None:
        """Take an interval in which no request waited, of unknown utilisation: it tells the service time."""
        if interval.completions:
            self.service_time = _ewma(
                self.service_time, interval.in_flight / interval.throughput, _UNSATURATED_GAIN
            )

    def _add_saturated(self, interval: Interval) -> None:
        self.saturated_throughput = _ewma(self.saturated_throughput, interval.throughput, _THROUGHPUT_GAIN)
        # A deep queue slows every request down: throughput then tells of the contention, not of the capacity.
        if self.capacity is not None and interval.in_flight > _DEEP_QUEUE * self.capacity:
            return
        if self.service_time is not None:
            seen = interval.throughput * self.service_time
            self.capacity = _ewma(self.capacity, seen, _SATURATED_GAIN)

    def calibrate(self, capacity: float, saturated_throughput: float) -> None:
        """Take a measurement that was made for the purpose, next to a saturated one.

        Args:
            capacity: ``N / U`` without a queue.
            saturated_throughput: Of just before, with one.
        """
        old = self.capacity
        near = old is not None and 1 / _CHANGED < capacity / old < _CHANGED
        self.capacity = (old + capacity) / 2 if near and old is not None else capacity
        self.service_time = self.capacity / saturated_throughput

    def limit(self) -> float | None:
        """The bound: capacity and headroom."""
        if self.capacity is None:
            return None
        # Of whatever is busy all the time, at least one request is worked on.
        capacity = max(1.0, self.capacity)
        return capacity + max(LEAST_HEADROOM, HEADROOM * sqrt(capacity))


def _ewma(old: float | None, new: float, gain: float) -> float:
    return new if old is None else old + gain * (new - old)
