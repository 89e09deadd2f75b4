"""A mergeable log-bucket histogram: quantiles of any positive quantity within 2 %, in O(1) a value."""

from __future__ import annotations

from math import ceil, log

RELATIVE_ERROR = 0.02
_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA = log(_GAMMA)
_SMALLEST = 1e-9


class LogHistogram:
    """Counts values in buckets whose bounds grow by the factor (1 + e) / (1 - e).

    Source: C. Masson, J. Rim, H. Lee, "DDSketch", VLDB 2019, without bucket collapsing: the range
    of a latency in seconds, 1 ns to a day, needs fewer than 900 buckets, and only those in use
    take memory.
    """

    __slots__ = ("count", "counts", "total")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.count = 0
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count ``value``; anything below a nanosecond counts as one."""
        index = ceil(log(max(_SMALLEST, value)) / _LOG_GAMMA)
        counts = self.counts
        counts[index] = counts.get(index, 0) + 1
        self.count += 1
        self.total += value

    def merge(self, other: LogHistogram) -> None:
        """Add the counts of ``other``."""
        for index, count in other.counts.items():
            self.counts[index] = self.counts.get(index, 0) + count
        self.count += other.count
        self.total += other.total

    def quantile(self, q: float) -> float | None:
        """The value below which the share ``q`` of all values lies, within 2 %.

        Args:
            q: From 0 to 1.

        Returns:
            None when nothing was counted.
        """
        if not self.count:
            return None
        rank = q * (self.count - 1)
        seen = 0
        for index in sorted(self.counts):
            seen += self.counts[index]
            if seen > rank:
                return float(2 * _GAMMA**index / (_GAMMA + 1))
        return None
