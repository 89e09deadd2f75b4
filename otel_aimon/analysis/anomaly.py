"""Is what a metric does now unlike what it did before? One series of any metric, judged value by value."""

from __future__ import annotations

from math import log10

from otel_aimon.analysis.spot import TwoSidedSpot


class AnomalyDetector:
    """Follows one series."""

    def __init__(self) -> None:
        self._spot = TwoSidedSpot()
        self._level: float | None = None
        self._quiet = 0

    def update(self, time_s: float, value: float) -> float | None:
        """Score of the next value, from 0 to 1; None while it learns."""
        if self._level is None:
            self._level = value
        probability = self._spot.update(value - self._level)
        self._level += (value - self._level) / 100
        if not self._spot.ready:
            return None
        score = min(1.0, -log10(max(probability, 1e-20)) / 20)
        self._quiet -= 1
        if score > 0.2:
            if self._quiet > 0:
                score = 0.0
            else:
                self._quiet = 200
        return score
