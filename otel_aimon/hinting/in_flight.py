"""How many requests were in flight, as a mean over any stretch of the recent past."""

from __future__ import annotations

from bisect import bisect_right

HISTORY = 900
"""Intervals: of a request that decodes for longer, the last quarter of an hour is seen."""


class InFlightIntegral:
    """The time integral of a count that goes up at a start and down at an end.

    Args:
        now: Monotonic seconds at which it begins.

    Attributes:
        count: Requests in flight now.
    """

    __slots__ = ("_area", "_last", "count")

    def __init__(self, now: float = 0.0) -> None:
        self.count = 0
        self._area = 0.0
        self._last = now

    def change(self, by: int, now: float) -> None:
        """Add ``by`` to the count at ``now``."""
        self.until(now)
        self.count += by

    def until(self, now: float) -> float:
        """Request-seconds up to ``now``."""
        if now > self._last:
            self._area += self.count * (now - self._last)
            self._last = now
        return self._area


class InFlightHistory:
    """Means over any stretch of the past, from one mean per interval.

    Within an interval the count is taken to be constant.
    """

    __slots__ = ("_areas", "_ends")

    def __init__(self) -> None:
        self._ends: list[float] = []
        self._areas: list[float] = []

    def add(self, end: float, seconds: float, mean: float) -> None:
        """Take the mean over the ``seconds`` before ``end``."""
        if not self._ends:
            self._ends.append(end - seconds)
            self._areas.append(0.0)
        self._ends.append(end)
        self._areas.append(self._areas[-1] + mean * seconds)
        if len(self._ends) > 2 * HISTORY:
            del self._ends[:HISTORY], self._areas[:HISTORY]

    def mean(self, start: float, end: float) -> float | None:
        """The mean from ``start`` to ``end``; None when nothing of that is known."""
        if not self._ends:
            return None
        start, end = max(start, self._ends[0]), min(end, self._ends[-1])
        if end <= start:
            return None
        return (self._area(end) - self._area(start)) / (end - start)

    def _area(self, time: float) -> float:
        after = min(bisect_right(self._ends, time), len(self._ends) - 1)
        before = after - 1
        share = (time - self._ends[before]) / (self._ends[after] - self._ends[before])
        return self._areas[before] + share * (self._areas[after] - self._areas[before])
