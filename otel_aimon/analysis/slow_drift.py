"""Has the level crept up? Means over minutes, against what the noise lets such means do."""

from __future__ import annotations

from math import log, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_aimon.analysis.autoregression import Autoregression

TIME_CONSTANTS = (90, 180, 360)
"""Ticks: 15 minutes to an hour. Noise that lasts needs the longer ones."""

LEAST_DRIFT = log(1.09)
"""Less is nobody's concern."""

_SIGMAS = 5.0
_CLIP = 4.0


class SlowDrift:
    """Follows one series of residuals from the usual level.

    Attributes:
        score: The mean that is furthest beyond the noise, divided by what counts as drift: from 1 on it is one.
        drift: That mean.
    """

    __slots__ = ("_means", "drift", "score")

    def __init__(self) -> None:
        self._means = [0.0] * len(TIME_CONSTANTS)
        self.score = self.drift = 0.0

    def add(self, residual: float, white: float, noise: Autoregression) -> float:
        """Take the next residual.

        Args:
            residual: What was seen minus what is usual; a logarithm.
            white: Variance of its white noise.
            noise: Of the series.

        Returns:
            The score.
        """
        limit = _CLIP * sqrt(white + noise.variance)
        clipped = max(-limit, min(limit, residual))
        self.score = self.drift = 0.0
        for place, ticks in enumerate(TIME_CONSTANTS):
            mean = self._means[place] = self._means[place] + (clipped - self._means[place]) / ticks
            threshold = max(LEAST_DRIFT, _SIGMAS * sqrt(noise.variance_of_mean(white, ticks)))
            if mean / threshold > self.score:
                self.score, self.drift = mean / threshold, mean
        return self.score

    def forget(self) -> None:
        """Start again: what was seen before is over."""
        self._means = [0.0] * len(TIME_CONSTANTS)
        self.score = self.drift = 0.0
