"""What ran on a device between two readings of its energy counter.

Times are nanoseconds on the clock of :attr:`Inference.start_ns`. The method is in ``docs/energy.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_aimon.core.series import Series

NEVER = 2**63 - 1
"""The end of an interval that has none yet."""

MOST_SPANS = 1024
"""Requests whose times are kept exactly; of more, those that ended first are summed up."""


class Timeline:
    """How long each series had a device that shares its time evenly among the requests on it.

    Args:
        start: Where it begins.
    """

    __slots__ = ("_folded", "_folded_ns", "_folded_until", "_spans", "_start")

    def __init__(self, start: int) -> None:
        self._start = start
        self._spans: list[tuple[int, int, Series | None]] = []
        self._folded_until = start
        self._folded: dict[Series | None, float] = {}
        self._folded_ns = 0.0

    def add(self, series: Series | None, begin: int, end: int) -> None:
        """Note a request from ``begin``, not before the start, to ``end``."""
        if begin < self._folded_until:
            self._add_to_folded(series, min(end, self._folded_until) - begin)
            begin = self._folded_until
            if end <= begin:
                return
        self._spans.append((begin, end, series))
        if len(self._spans) > MOST_SPANS:
            self._fold()

    def _fold(self) -> None:
        until = sorted(end for _, end, _ in self._spans)[len(self._spans) // 2]
        for series, nanoseconds in _shares(self._spans, until).items():
            self._folded[series] = self._folded.get(series, 0.0) + nanoseconds
        self._folded_ns += sum(max(min(end, until) - begin, 0) for begin, end, _ in self._spans)
        self._spans = [(max(begin, until), end, series) for begin, end, series in self._spans if end > until]
        self._folded_until = until

    def _add_to_folded(self, series: Series | None, nanoseconds: int) -> None:
        """A request that came late: what ran there already is taken as spread evenly."""
        length = self._folded_until - self._start
        covered = sum(self._folded.values())
        part = nanoseconds / length
        taken = part / (self._folded_ns / covered + 1.0) if covered else 0.0
        for other in self._folded:
            self._folded[other] *= 1.0 - taken
        gained = part * (length - covered) + taken * covered
        self._folded[series] = self._folded.get(series, 0.0) + gained
        self._folded_ns += nanoseconds

    def until(self, end: int) -> dict[Series | None, float]:
        """Nanoseconds by series before ``end``; together the time in which anything ran."""
        shares = dict(self._folded)
        for series, nanoseconds in _shares(self._spans, end).items():
            shares[series] = shares.get(series, 0.0) + nanoseconds
        return shares


def _shares(spans: Iterable[tuple[int, int, Series | None]], until: int) -> dict[Series | None, float]:
    """Sweep over the starts and ends; between two of them the time is shared evenly."""
    changes: list[tuple[int, int, Series | None]] = []
    for begin, end, series in spans:
        if begin < until:
            changes.append((begin, 1, series))
            changes.append((min(end, until), -1, series))
    changes.sort(key=lambda change: change[0])
    shares: dict[Series | None, float] = {}
    running: dict[Series | None, int] = {}
    count = before = 0
    for now, change, series in changes:
        if count and now > before:
            for other, number in running.items():
                if number:
                    shares[other] = shares.get(other, 0.0) + (now - before) * number / count
        before = now
        running[series] = running.get(series, 0) + change
        count += change
    return shares


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Who had a device for which share of an interval; together 1.

    Attributes:
        series: Requests of this process.
        idle: Nobody.
        others: Other processes.
        unknown: Requests that may have run here, or elsewhere.
    """

    series: dict[Series, float]
    idle: float
    others: float
    unknown: float


class Interval:
    """The time between two readings of one energy counter; open until the second.

    Args:
        start: The first reading.
    """

    __slots__ = ("_load", "_timeline", "_tokens", "closed", "end", "joules", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = NEVER
        self.joules = 0.0
        self.closed: int | None = None
        """Since when every request that overlaps it is known to have ended."""
        self._load: Load | None = ALONE
        self._timeline = Timeline(start)
        self._tokens: dict[Series, float | None] = {}

    def close(self, end: int, joules: float, load: Load | None) -> None:
        """Take the second reading.

        Args:
            end: When.
            joules: What the counter counted in between.
            load: Of a shared device; :data:`ALONE` otherwise.
        """
        self.end, self.joules, self._load = end, joules, load

    def add(self, series: Series | None, begin: int, end: int, tokens_per_ns: float | None) -> None:
        """Count what a request did in the interval.

        Args:
            series: Of the request; None where it may not have run here at all.
            begin: Its start, perhaps before the interval.
            end: Its end, perhaps after the interval.
            tokens_per_ns: None where its tokens are not known.
        """
        begin, end = max(begin, self.start), min(end, self.end)
        if begin >= end:
            return
        self._timeline.add(series, begin, end)
        if series is None:
            return
        known = self._tokens.get(series, 0.0)
        self._tokens[series] = (
            None if known is None or tokens_per_ns is None else known + tokens_per_ns * (end - begin)
        )

    @property
    def watts(self) -> float:
        """Mean power of a closed interval."""
        return self.joules / (self.end - self.start) * 1e9

    def use(self) -> Use:
        """Who had the device for how long, in a closed interval."""
        length = self.end - self.start
        times = {series: min(ns / length, 1.0) for series, ns in self._timeline.until(self.end).items()}
        covered = sum(times.values())
        busy = ours = min(covered, 1.0)
        if self._load is not None:
            busy = min(self._load.total, 1.0)
            # Nothing of ours used it outside of our requests.
            ours = min(self._load.ours, covered, busy)
        scale = ours / covered if covered else 0.0
        unknown = scale * times.pop(None, 0.0)
        series = {one: scale * time for one, time in times.items() if one is not None and time}
        return Use(
            series=self._by_tokens(series),
            idle=1.0 - busy,
            others=busy - ours if covered else busy,
            unknown=unknown,
        )

    def _by_tokens(self, times: dict[Series, float]) -> dict[Series, float]:
        """Share the time of a model anew by tokens, where all of its requests have them."""
        models: dict[str, list[Series]] = {}
        for series in times:
            models.setdefault(series.model, []).append(series)
        shared: dict[Series, float] = {}
        for members in models.values():
            tokens = [count for one in members if (count := self._tokens[one])]
            time = sum(times[one] for one in members)
            for one in members:
                count = self._tokens[one]
                by_tokens = len(tokens) == len(members) and count is not None
                shared[one] = time * count / sum(tokens) if by_tokens and count else times[one]
        return shared
