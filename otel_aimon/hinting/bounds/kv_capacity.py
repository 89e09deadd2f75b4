"""KV capacity: how many requests' keys and values fit in the cache."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from otel_aimon.hinting.least_squares import Line

if TYPE_CHECKING:
    from otel_aimon.hinting.observation import Interval

Z = 2.0
"""The cache is full in 1 % of the time: then engines preempt."""

WAITING = 0.95
"""Above this share requests wait for room, so that those in flight no longer are those in the cache."""

_GAIN = 0.02
_LEAST_IN_FLIGHT = 1.0
_LEAST_POINTS = 10


class KvCapacity:
    """Fits ``kv = s N`` with a variance that grows with N: requests are independent and differ in length.

    Both come from readings of the used share: ``s`` is the share of the cache that a request takes.
    """

    __slots__ = ("_points", "_share", "_variance")

    def __init__(self) -> None:
        self._points = 0
        self._share = self._variance = 0.0

    def add(self, interval: Interval) -> None:
        """Take an interval; one without a reading says nothing."""
        kv, in_flight = interval.kv_utilization, interval.in_flight
        if kv is None or in_flight <= _LEAST_IN_FLIGHT or kv >= WAITING:
            return
        self._points += 1
        gain = max(_GAIN, 1 / self._points)
        error = kv / in_flight - self._share
        self._share += gain * error
        # The error of a mean over N requests, times N, is the variance of one.
        if self._points > 1:
            self._variance += gain * (error**2 * in_flight - self._variance)

    def fade(self, keep: float) -> None:
        """Trust what was seen less."""
        self._points = int(self._points * keep)

    def line(self) -> Line | None:
        """The used share against the requests in flight; None as long as there were too few readings."""
        if self._points < _LEAST_POINTS:
            return None
        return Line(0.0, self._share, sqrt(self._variance), noise_grows=True)

    def limit(self) -> float | None:
        """Requests in flight that fit in 99 % of the time."""
        line = self.line()
        return None if line is None else line.where(1.0, Z)
