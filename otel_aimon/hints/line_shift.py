"""Has a line moved? Page's CUSUM on the distance of new points from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_aimon.hints.least_squares import Line

SLACK = 1.0
"""Standard deviations that are no shift: requests in one batch share their steps, so that they err together."""

THRESHOLD = 6.0
_MOST = 6.0


class LineShift:
    """Two-sided CUSUM over intervals. Source: E. Page, "Continuous inspection schemes", Biometrika 1954."""

    __slots__ = ("_above", "_below", "_count", "_total")

    def __init__(self) -> None:
        self._restart()
        self._total = 0.0
        self._count = 0

    def _restart(self) -> None:
        self._above = self._below = 0.0

    def add(self, line: Line, x: float, y: float) -> None:
        """Take a point, and the line that did not know it yet."""
        self._total += (y - line.at(x)) / max(line.noise_at(x), 1e-9)
        self._count += 1

    def step(self) -> bool:
        """Close an interval; True when the line has moved, and then start again."""
        if not self._count:
            return False
        mean = max(-_MOST, min(_MOST, self._total / self._count))
        self._total = 0.0
        self._count = 0
        self._above = max(0.0, self._above + mean - SLACK)
        self._below = max(0.0, self._below - mean - SLACK)
        if max(self._above, self._below) < THRESHOLD:
            return False
        self._restart()
        return True
