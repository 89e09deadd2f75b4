"""TPOT line: the time of a decoding step grows with the requests in the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_aimon.hinting.least_squares import KEEP, KEEP_POINTS, RELEARN_POINTS, RecursiveLeastSquares

if TYPE_CHECKING:
    from otel_aimon.hinting.least_squares import Line

Z = 2.33
"""Standard deviations between the mean and the 99th percentile."""

ELASTICITY = 0.2
"""Without a promise: the next 1 % of requests in flight bring this many per cent of throughput."""

FORGETTING = 0.998
LEAST_TOKENS = 8
"""Over fewer tokens the mean step is too noisy."""


class TpotLine:
    """Fits ``TPOT = a + b N`` over requests, N being the mean in flight while the request decoded.

    A step costs its fixed part, and for each request in the batch its reading of the KV cache and its
    share of the prefills: all linear in N.

    Source: the linear step time of continuous batching, as in G. Yu et al., "Orca", OSDI 2022; llm-d's
    autoscaler fits the same (ITL = alpha + beta batch).
    """

    __slots__ = ("_fit",)

    def __init__(self) -> None:
        self._fit = RecursiveLeastSquares(FORGETTING, noise_grows=True, remembers=True)

    def add(self, in_flight: float, tpot: float) -> None:
        """Take a request."""
        self._fit.add(in_flight, tpot)

    def step(self) -> None:
        """Close an interval: what was seen fades, so that minutes count at any rate of requests."""
        self._fit.step(KEEP, KEEP_POINTS)

    def relearn(self) -> None:
        """The server, or what it is asked, has changed."""
        self._fit.relearn(RELEARN_POINTS)

    def line(self) -> Line | None:
        """The line; None as long as too few requests were seen."""
        return self._fit.line()

    def limit(self, slo: float | None) -> float | None:
        """Requests in flight at which the 99th percentile of TPOT reaches ``slo``.

        Without a promise, those from which on more bring little: throughput is ``X ~ N / (a + b N)``, and
        its elasticity ``a / (a + b N)``.
        """
        line = self.line()
        if line is None:
            return None
        if slo is None:
            return (1 / ELASTICITY - 1) * line.intercept / line.slope
        return line.where(slo, Z)
