"""How much a hint is worth: how near the load came to what it says."""

from __future__ import annotations

from enum import Enum

HIGH_SHARE = 0.6
MEDIUM_SHARE = 0.3
"""Shares of the hint that the load reached: what lies beyond is extrapolation."""

SATURATED_SECONDS = 600.0
"""Evidence of saturation is fresh for ten minutes."""

PEAK_SECONDS = 1800.0
"""A peak of the load counts for at least this long, and at most twice."""


class Confidence(Enum):
    """Of a hint; the value is the one of the gauge."""

    LOW = 0.3
    MEDIUM = 0.6
    HIGH = 0.9


class LoadPeak:
    """The highest mean in flight of the recent past, in two generations.

    Args:
        now: Monotonic seconds.
    """

    __slots__ = ("_current", "_previous", "_since")

    def __init__(self, now: float) -> None:
        self._since = now
        self._current = self._previous = 0.0

    def add(self, in_flight: float, now: float) -> None:
        """Take the mean of an interval."""
        if now - self._since >= PEAK_SECONDS:
            self._previous, self._current, self._since = self._current, 0.0, now
        self._current = max(self._current, in_flight)

    @property
    def value(self) -> float:
        """The peak."""
        return max(self._current, self._previous)


def confidence(limit: float, peak: float, since_saturation: float | None) -> Confidence:
    """How much a limit is worth.

    Args:
        limit: Requests in flight.
        peak: The most that were seen in flight.
        since_saturation: Seconds since the latest interval in saturation; None if there was none.
    """
    if since_saturation is not None and since_saturation < SATURATED_SECONDS:
        return Confidence.HIGH
    share = peak / limit
    if share >= HIGH_SHARE:
        return Confidence.HIGH
    return Confidence.MEDIUM if share >= MEDIUM_SHARE else Confidence.LOW
