"""The watchdog: requests are in flight, and nothing moves."""

from __future__ import annotations

from otel_aimon.analysis.sketch import LogHistogram

LEAST_SILENCE = 30.0
"""Seconds without progress that are never a stall."""

UNKNOWN_SILENCE = 300.0
"""The same before it is known how long a gap usually is: a first request may compile, or load."""

FACTOR = 10.0
"""A stall is longer than so many times the usual longest gap."""

_QUANTILE = 0.99
_FEWEST_GAPS = 20


class StallWatch:
    """How long one series has made no progress, against how long that usually takes.

    Progress is a completion, a failure or a token. A gap counts only while requests are in flight.
    """

    __slots__ = ("_gaps", "_since")

    def __init__(self) -> None:
        self._gaps = LogHistogram()
        self._since: float | None = None

    def learn(self, gap: float) -> None:
        """Take how long a request that went well made no progress.

        Args:
            gap: Seconds: from its start to its first token, or to its end.
        """
        self._gaps.add(gap)

    def check(self, now: float, *, in_flight: int, last_progress: float) -> tuple[float, float]:
        """Take a look.

        Args:
            now: Monotonic seconds.
            in_flight: Requests that have begun and not ended.
            last_progress: When one of them last moved: a start, a token, an end.

        Returns:
            Seconds of silence, and the silence divided by what is allowed: a stall from 1 on.
        """
        if not in_flight:
            self._since = None
            return 0.0, 0.0
        begun = self._since
        if begun is None or last_progress > begun:
            if begun is not None:
                self._gaps.add(last_progress - begun)
            self._since = begun = last_progress
        silence = max(0.0, now - begun)
        return silence, silence / self.allowed()

    def allowed(self) -> float:
        """Seconds of silence that are not a stall."""
        if self._gaps.count < _FEWEST_GAPS:
            return UNKNOWN_SILENCE
        return max(LEAST_SILENCE, FACTOR * (self._gaps.quantile(_QUANTILE) or 0.0))
