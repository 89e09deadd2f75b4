"""What a metric does at this time of day: what is usual, and how far it goes on other days as well.

The last week is kept as a ring of half-hours. What is usual is the median over the days, which one odd day does not
move. How far it goes is the second most extreme of the days: what happened on two of them at about this time, such
as a backup, is known, and what happened once need not be.
"""

from __future__ import annotations

from array import array
from math import inf

SLOT_SECONDS = 1800.0
_SLOTS_A_DAY = 48
_DAYS = 7
_CELLS = _SLOTS_A_DAY * _DAYS
_NEVER = -(2**62)
_LEAST_DAYS = 3
"""A median of two cannot tell which one was odd."""


class DailyPattern:
    """The last week of one series.

    Attributes:
        usual: Median of the means that were seen at this time of day; None with fewer than three days.
        lowest: Second lowest value of the days at about this time of day: half an hour earlier or later counts too.
            Infinite with fewer than two days.
        highest: Second highest; minus infinity with fewer than two days.
    """

    __slots__ = ("_counts", "_high", "_low", "_slot", "_slots", "_sums", "highest", "lowest", "usual")

    def __init__(self) -> None:
        self._slots = array("q", [_NEVER]) * _CELLS
        self._sums = array("d", [0.0]) * _CELLS
        self._counts = array("I", [0]) * _CELLS
        self._low = array("d", [inf]) * _CELLS
        self._high = array("d", [-inf]) * _CELLS
        self._slot = _NEVER
        self.usual: float | None = None
        self.lowest = inf
        self.highest = -inf

    def look(self, time_s: float) -> None:
        """Set the attributes to what is known about a time of day.

        Args:
            time_s: Seconds since an epoch; any, as long as it is the same one.
        """
        slot = int(time_s // SLOT_SECONDS)
        if slot != self._slot:
            self._slot = slot
            self._recall(slot)

    def learn(self, value: float) -> None:
        """Learn from a value at the time that was looked at last.

        Args:
            value: In the unit of the series; finite.
        """
        cell = self._slot % _CELLS
        if self._slots[cell] != self._slot:
            self._slots[cell] = self._slot
            self._sums[cell] = 0.0
            self._counts[cell] = 0
            self._low[cell], self._high[cell] = inf, -inf
        self._sums[cell] += value
        self._counts[cell] += 1
        self._low[cell] = min(self._low[cell], value)
        self._high[cell] = max(self._high[cell], value)

    def _recall(self, slot: int) -> None:
        """Look through the earlier days."""
        means, lows, highs = [], [], []
        for day in range(1, _DAYS):
            middle = slot - day * _SLOTS_A_DAY
            cells = [
                near % _CELLS
                for near in (middle - 1, middle, middle + 1)
                if self._slots[near % _CELLS] == near
            ]
            if not cells:
                continue
            lows.append(min(self._low[cell] for cell in cells))
            highs.append(max(self._high[cell] for cell in cells))
            cell = middle % _CELLS
            if self._slots[cell] == middle:
                means.append(self._sums[cell] / self._counts[cell])
        self.usual = _median(means) if len(means) >= _LEAST_DAYS else None
        self.lowest = sorted(lows)[1] if len(lows) > 1 else inf
        self.highest = sorted(highs)[-2] if len(highs) > 1 else -inf


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2.0
