"""How many requests were in flight, as a mean over any stretch of the recent past."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import islice

HISTORY_SECONDS = 900
"""A request that decodes for longer is seen by its last quarter of an hour."""


class InFlightIntegral:
    """The time integral of a count that goes up at a start and down at an end."""

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
    """Means over past intervals, from one mean per interval.

    Between the ends of intervals the count is taken to be constant.
    """

    __slots__ = ("_areas", "_ends")

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=HISTORY_SECONDS)
        self._areas: deque[float] = deque(maxlen=HISTORY_SECONDS)

    def add(self, end: float, seconds: float, mean: float) -> None:
        """Take the mean over the ``seconds`` before ``end``."""
        if not self._ends:
            self._ends.append(end - seconds)
            self._areas.append(0.0)
        self._ends.append(end)
        self._areas.append(self._areas[-1] + mean * seconds)

    def mean(self, start: float, end: float) -> float | None:
        """The mean from ``start`` to ``end``; None when nothing of that is known."""
        if len(self._ends) < 2:
            return None
        start, end = max(start, self._ends[0]), min(end, self._ends[-1])
        if end <= start:
            return None
        return (self._area(end) - self._area(start)) / (end - start)

    def _area(self, time: float) -> float:
        place = min(max(1, bisect_right(self._ends, time)), len(self._ends) - 1)
        (before, after), (low, high) = (islice(d, place - 1, place + 1) for d in (self._ends, self._areas))
        return low + (high - low) * (time - before) / (after - before)
