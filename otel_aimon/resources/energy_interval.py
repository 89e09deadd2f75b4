"""What ran on a device between two readings of its energy counter, and who is given the energy.

Times are nanoseconds on the clock of :attr:`Inference.start_ns`. The method is in ``docs/energy.md``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_aimon.core.series import Series

NEVER = 2**63 - 1
"""The end of an interval that has none yet."""

MOST_SPANS = 256
"""Separate spans of time that are kept exactly; beyond them the older half is a mean."""


class Coverage:
    """The time in which at least one request ran, however many ran at once.

    Args:
        start: Where it begins to look.
    """

    __slots__ = ("_begins", "_ends", "_folded", "_folded_until", "_start")

    def __init__(self, start: int) -> None:
        self._start = start
        self._begins: list[int] = []
        self._ends: list[int] = []
        self._folded_until = start
        self._folded = 0.0

    def add(self, begin: int, end: int) -> None:
        """Cover the time from ``begin``, not before the start, to ``end``."""
        if begin < self._folded_until:
            self._add_to_folded(begin, min(end, self._folded_until))
            begin = self._folded_until
            if end <= begin:
                return
        begins, ends = self._begins, self._ends
        # Requests come nearly in the order of their ends, so the last span is nearly always the one.
        if not ends or begin > ends[-1]:
            begins.append(begin)
            ends.append(end)
            if len(ends) > MOST_SPANS:
                self._fold()
        elif begin >= begins[-1]:
            ends[-1] = max(end, ends[-1])
        else:
            self._merge(begin, end)

    def _merge(self, begin: int, end: int) -> None:
        begins, ends = self._begins, self._ends
        first, beyond = bisect_left(ends, begin), bisect_right(begins, end)
        if first < beyond:
            begin, end = min(begin, begins[first]), max(end, ends[beyond - 1])
        begins[first:beyond] = [begin]
        ends[first:beyond] = [end]
        if len(ends) > MOST_SPANS:
            self._fold()

    def _fold(self) -> None:
        half = MOST_SPANS // 2
        self._folded += sum(self._ends[:half]) - sum(self._begins[:half])
        self._folded_until = self._ends[half - 1]
        del self._begins[:half], self._ends[:half]

    def _add_to_folded(self, begin: int, end: int) -> None:
        # What is covered there already is taken as spread evenly.
        free = 1.0 - self._folded / (self._folded_until - self._start)
        self._folded += free * (end - begin)

    def until(self, end: int) -> float:
        """Nanoseconds that are covered before ``end``."""
        covered = min(self._folded, end - self._start)
        for begin, end_ in zip(self._begins, self._ends, strict=True):
            covered += max(min(end_, end) - begin, 0)
        return covered


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a device was that others may use too, as shares of all that it can do.

    Attributes:
        ours: By this process.
        total: By all.
    """

    ours: float
    total: float


ALONE = None
"""In place of a :class:`Load`: nobody else uses the device."""


class _Weight:
    """What one series did in an interval."""

    __slots__ = ("nanoseconds", "tokens")

    def __init__(self) -> None:
        self.nanoseconds = 0
        self.tokens: float | None = 0.0


class Interval:
    """The time between two readings of one energy counter; open until the second.

    Args:
        start: The first reading.
    """

    __slots__ = ("_coverage", "_reserved", "_weights", "closed", "end", "joules", "load", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = NEVER
        self.joules = 0.0
        self.load: Load | None = ALONE
        self.closed: int | None = None
        """Since when every request that overlaps it is known to have ended."""
        self._coverage = Coverage(start)
        self._weights: dict[Series, _Weight] = {}
        self._reserved = 0

    def close(self, end: int, joules: float, load: Load | None) -> None:
        """Take the second reading.

        Args:
            end: When.
            joules: What the counter counted in between.
            load: Of a shared device; :data:`ALONE` otherwise.
        """
        self.end, self.joules, self.load = end, joules, load

    def add(self, series: Series, begin: int, end: int, tokens_per_ns: float | None) -> None:
        """Count what a request did in the interval.

        Args:
            series: Of the request.
            begin: Its start, perhaps before the interval.
            end: Its end, perhaps after the interval.
            tokens_per_ns: None where its tokens are not known.
        """
        begin, end = self._within(begin, end)
        if begin >= end:
            return
        self._coverage.add(begin, end)
        weight = self._weights.get(series)
        if weight is None:
            weight = self._weights[series] = _Weight()
        weight.nanoseconds += end - begin
        if tokens_per_ns is None:
            weight.tokens = None
        elif weight.tokens is not None:
            weight.tokens += tokens_per_ns * (end - begin)

    def reserve(self, begin: int, end: int) -> None:
        """Withhold the share of a request of which nobody knows on which device it runs."""
        begin, end = self._within(begin, end)
        self._reserved += max(end - begin, 0)

    def _within(self, begin: int, end: int) -> tuple[int, int]:
        return max(begin, self.start), min(end, self.end)

    @property
    def watts(self) -> float:
        """Mean power of a closed interval."""
        return self.joules / (self.end - self.start) * 1e9

    def attribute(self, lowest_watts: float) -> dict[Series, float]:
        """Joules by series, of a closed interval.

        Args:
            lowest_watts: The lowest mean power that was seen on the device lately.
        """
        joules = self._attributable(min(lowest_watts, self.watts))
        total = sum(weight.nanoseconds for weight in self._weights.values()) + self._reserved
        shares: dict[Series, float] = {}
        for weights in self._by_model():
            nanoseconds = sum(weight.nanoseconds for weight in weights.values())
            for series, share in _within_model(weights):
                shares[series] = joules * nanoseconds / total * share
        return shares

    def _attributable(self, idle_watts: float) -> float:
        length = self.end - self.start
        covered = min(self._coverage.until(self.end) / length, 1.0)
        busy, ours = covered, 1.0
        if self.load is not None:
            # Nothing of ours used it outside of our requests.
            busy = min(self.load.total, 1.0)
            ours = min(self.load.ours, covered, busy) / busy if busy > 0.0 else 0.0
        if not covered:
            return 0.0
        return max(self.joules - idle_watts * length / 1e9 * (1.0 - busy), 0.0) * ours

    def _by_model(self) -> Iterable[dict[Series, _Weight]]:
        models: dict[str, dict[Series, _Weight]] = {}
        for series, weight in self._weights.items():
            models.setdefault(series.model, {})[series] = weight
        return models.values()


def _within_model(weights: dict[Series, _Weight]) -> Iterable[tuple[Series, float]]:
    """Shares of the series of one model: by tokens where all are known, else by time."""
    tokens = [weight.tokens for weight in weights.values()]
    known = [count for count in tokens if count is not None]
    if len(known) == len(tokens) and all(known):
        return zip(weights, [count / sum(known) for count in known], strict=True)
    total = sum(weight.nanoseconds for weight in weights.values())
    return [(series, weight.nanoseconds / total) for series, weight in weights.items()]
