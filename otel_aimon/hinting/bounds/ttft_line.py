"""TTFT line: a prompt waits for the prefills before it, and for the steps of the batch."""

from __future__ import annotations

from math import erfc, sqrt
from typing import TYPE_CHECKING

from otel_aimon.hinting.least_squares import KEEP, KEEP_POINTS, RELEARN_POINTS, RecursiveLeastSquares

if TYPE_CHECKING:
    from otel_aimon.hinting.least_squares import Line

FORGETTING = 0.998
STEEPEST = 5.0
"""A queue that starts at some N has a line with a negative intercept."""

KEPT = 0.05
"""Share of late first tokens below which what is served now must be possible."""

SLOW = 3.0
"""The 95th percentile of an exponential distribution, in units of its mean."""

_SERVED_GAIN = 0.05
_RATIO = 1.04
_MOST = 1000.0


class TtftLine:
    """Fits ``TTFT = a + b N`` over requests, N being the mean in flight until the first token.

    How long a prompt takes depends on its length above all, and some break the promise at any N. The
    bound is therefore not a quantile but the N of the greatest goodput, ``X(N) P(TTFT <= SLO)``, with the
    throughput ``X(N) = N / (TTFT(N) + steps TPOT(N))`` by Little's law: from there on more requests come late
    than come more.
    """

    __slots__ = ("_fit", "_late", "_mean", "_served")

    def __init__(self) -> None:
        self._fit = RecursiveLeastSquares(FORGETTING, noise_grows=False, steepest=STEEPEST)
        self._served = self._late = self._mean = 0.0

    def add(self, in_flight: float, ttft: float, slo: float | None) -> None:
        """Take a request."""
        self._fit.add(in_flight, ttft)
        self._served += _SERVED_GAIN * (in_flight - self._served)
        self._mean += _SERVED_GAIN * (ttft - self._mean)
        self._late += _SERVED_GAIN * ((slo is not None and ttft > slo) - self._late)

    def step(self) -> None:
        """Close an interval: what was seen fades, so that minutes count at any rate of requests."""
        self._fit.step(KEEP, KEEP_POINTS)

    def relearn(self) -> None:
        """The server, or what it is asked, has changed."""
        self._fit.relearn(RELEARN_POINTS)

    @property
    def seen(self) -> bool:
        """First tokens are reported at all."""
        return self._fit.points > 0

    def line(self) -> Line | None:
        """The line; None as long as too few requests were seen."""
        return self._fit.line()

    def limit(self, slo: float, tpot: Line, steps: float, throughput: float = 0.0) -> float | None:
        """Requests in flight at which goodput is greatest.

        It is at least what is served in time now, and as many more as may wait until it is late: by Little's
        law, each makes the others wait for ``1/X`` at most.

        Args:
            slo: Seconds that the first token may take.
            tpot: Of the same model.
            steps: Mean number of tokens after the first.
            throughput: Requests per second, X.
        """
        line = self.line()
        if line is None:
            return None
        best, at = 0.0, 1.0
        n = 1.0
        while n < _MOST:
            latency = max(0.0, line.at(n)) + steps * tpot.at(n)
            goodput = n / latency * _share_below(slo, line.at(n), max(line.noise_at(n), 1e-9))
            if goodput > best:
                best, at = goodput, n
            n *= _RATIO
        if self._late >= KEPT:
            return at
        return max(at, self._served + throughput * max(0.0, slo - SLOW * self._mean))


def _share_below(limit: float, mean: float, sd: float) -> float:
    """Share of a normal distribution below ``limit``."""
    return 0.5 * erfc((mean - limit) / (sd * sqrt(2)))
