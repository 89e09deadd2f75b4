"""Is a shift over? The mean of the last minutes, against the shift and against none.

The tests for a shift and for a drift remember, for half an hour and more, what they have seen, and so would call a
series slow long after it has recovered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_aimon.analysis.autoregression import Autoregression
    from otel_aimon.analysis.level_shift import LevelShift
    from otel_aimon.analysis.slow_drift import SlowDrift

TICKS = 12
"""Time constant of the mean: two minutes."""

SETTLED = 2 * TICKS
"""Ticks after an onset until the mean has followed a shift to nine tenths."""

LEAST_EVIDENCE = 2.0
"""Log-likelihood ratio, in nats, from which a shift is over: odds of seven to one, tick by tick."""


class Recovery:
    """Ends the tests of one series when its level is usual again."""

    __slots__ = ("_mean",)

    def __init__(self) -> None:
        self._mean = 0.0

    def add(
        self, residual: float, white: float, noise: Autoregression, shift: LevelShift, drift: SlowDrift
    ) -> None:
        """Take the residual that the tests have just taken.

        Args:
            residual: What was seen minus what is usual; a logarithm.
            white: Variance of its white noise.
            noise: Of the series.
            shift: Forgets its onsets when its shift is over.
            drift: Forgets its means when its drift is over.
        """
        self._mean += (residual - self._mean) / TICKS
        variance = noise.variance_of_mean(white, TICKS)
        if shift.age >= SETTLED and self._is_over(shift.shift, variance):
            shift.forget()
        if drift.drift > 0.0 and self._is_over(drift.drift, variance):
            drift.forget()

    def _is_over(self, size: float, variance: float) -> bool:
        """Whether the mean speaks for no shift rather than for one of this size.

        With Gaussian noise the log-likelihood ratio of the two is ``(size² - 2 * size * mean) / (2 * variance)``.
        """
        return size * (size - 2.0 * self._mean) > 2.0 * LEAST_EVIDENCE * variance
