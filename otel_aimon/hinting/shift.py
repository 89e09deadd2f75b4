"""Has something changed for good? Page's CUSUM on how far off the requests of an interval are."""

from __future__ import annotations

from math import log, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_aimon.hinting.least_squares import Line

SLACK = 1.0
"""Standard deviations that are no shift."""

THRESHOLD = 6.0
_MOST = 6.0

_GAIN = 0.01
_LEAST_REQUESTS = 100
_LEAST_SD = 0.05


class Cusum:
    """Two-sided cumulative sum of standardised values. Source: E. Page, Biometrika 1954."""

    __slots__ = ("_above", "_below")

    def __init__(self) -> None:
        self._above = self._below = 0.0

    def add(self, z: float) -> bool:
        """Take a value, in standard deviations; True at a shift, and then it starts again."""
        clipped = max(-_MOST, min(_MOST, z))
        self._above = max(0.0, self._above + clipped - SLACK)
        self._below = max(0.0, self._below - clipped - SLACK)
        if max(self._above, self._below) < THRESHOLD:
            return False
        self._above = self._below = 0.0
        return True


class LineShift:
    """Tells when a line has moved.

    Requests of one batch share their steps, so that they err together: the mean of an interval counts
    like one request.
    """

    __slots__ = ("_count", "_cusum", "_total")

    def __init__(self) -> None:
        self._cusum = Cusum()
        self._total = 0.0
        self._count = 0

    def add(self, line: Line, x: float, y: float) -> None:
        """Take a point, and the line that did not know it yet."""
        self._total += (y - line.at(x)) / max(line.noise_at(x), 1e-9)
        self._count += 1

    def step(self) -> bool:
        """Close an interval; True when the line has moved."""
        if not self._count:
            return False
        z = self._total / self._count
        self._total = 0.0
        self._count = 0
        return self._cusum.add(z)


class WorkloadShift:
    """Tells when prompts have become longer or shorter.

    Their lengths are independent, so that the mean logarithm of n requests has a standard deviation of
    ``sd / sqrt(n)``.
    """

    __slots__ = ("_count", "_cusum", "_mean", "_requests", "_total", "_variance")

    def __init__(self) -> None:
        self._cusum = Cusum()
        self._mean = self._variance = self._total = 0.0
        self._count = self._requests = 0

    def add(self, tokens: int) -> None:
        """Take a request."""
        self._total += log(max(1, tokens))
        self._count += 1

    def step(self) -> bool:
        """Close an interval; True when the workload has shifted, and then it is learned anew."""
        if not self._count:
            return False
        count, mean = self._count, self._total / self._count
        self._count = 0
        self._total = 0.0
        error = mean - self._mean
        sd = max(_LEAST_SD, sqrt(self._variance))
        shifted = self._requests >= _LEAST_REQUESTS and self._cusum.add(error * sqrt(count) / sd)
        if shifted:
            self._requests = 0
        self._learn(error, count)
        return shifted

    def _learn(self, error: float, count: int) -> None:
        self._requests += count
        gain = max(1 - (1 - _GAIN) ** count, count / self._requests)
        self._mean += gain * error
        # The square of the error of a mean of n, times n, is the variance of one.
        if self._requests > count:
            self._variance += gain * (error**2 * count - self._variance)
