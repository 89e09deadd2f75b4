"""Is the latency of this very tick extreme? The tail of its residual, in standard deviations, by SPOT."""

from __future__ import annotations

from math import log10, sqrt
from typing import TYPE_CHECKING

from otel_aimon.analysis.spot import Spot

if TYPE_CHECKING:
    from otel_aimon.analysis.autoregression import Autoregression

CALIBRATION = 360
"""Ticks, an hour, before anything is extreme."""


class LatencySpike:
    """Follows one series.

    Attributes:
        score: -log10 of the probability that a tick is as slow as the last one, or slower; 0 within the bulk.
    """

    __slots__ = ("_tail", "score")

    def __init__(self) -> None:
        self._tail = Spot(calibration=CALIBRATION)
        self.score = 0.0

    def add(self, residual: float, white: float, noise: Autoregression) -> None:
        """Take the next residual.

        Args:
            residual: Logarithm of the latency minus what is usual.
            white: Variance of its white noise.
            noise: What is known of the noise that lasts.
        """
        self.score = -log10(self._tail.update(residual / sqrt(white + noise.variance)))
