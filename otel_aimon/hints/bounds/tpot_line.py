"""TPOT line: the time of a decoding step grows with the requests in the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_aimon.hints.least_squares import RecursiveLeastSquares

if TYPE_CHECKING:
    from otel_aimon.hints.least_squares import Line

Z = 2.33
FORGETTING = 0.998
LEAST_TOKENS = 8
"""Over fewer tokens the mean step is too noisy."""


class TpotLine:
    """Fits ``TPOT = a + b N`` over requests, N being the mean in flight while the request decoded.

    A step costs its fixed part, and for each request in the batch its reading of the KV cache and its
    share of the prefills: all linear in N.

    Source: the batch model of Orca (G. Yu et al., OSDI 2022) and of llm-d's variant autoscaler (ITL = alpha + beta batch).
    """

    __slots__ = ("_fit",)

    def __init__(self) -> None:
        self._fit = RecursiveLeastSquares(FORGETTING, noise_grows=True)

    def add(self, in_flight: float, tpot: float) -> None:
        """Take a request."""
        self._fit.add(in_flight, tpot)

    @property
    def points(self) -> float:
        """Requests that the line rests on."""
        return self._fit.points

    def fade(self, keep: float, least: float = 0.0) -> None:
        """Trust what was seen less."""
        self._fit.fade(keep, least)

    def line(self) -> Line | None:
        """The line; None as long as too few requests were seen."""
        return self._fit.line()

    def limit(self, slo: float) -> float | None:
        """Requests in flight at which the 99th percentile of TPOT reaches ``slo``."""
        line = self.line()
        return None if line is None else line.where(slo, Z)
