"""TTFT line: a prompt waits for the prefills before it, and for the steps of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_aimon.hints.least_squares import RecursiveLeastSquares

if TYPE_CHECKING:
    from otel_aimon.hints.least_squares import Line

Z = 1.65
FORGETTING = 0.998


class TtftLine:
    """Fits ``TTFT = a + b N`` over requests, N being the mean in flight until the first token."""

    __slots__ = ("_fit",)

    def __init__(self) -> None:
        self._fit = RecursiveLeastSquares(FORGETTING)

    def add(self, in_flight: float, ttft: float) -> None:
        """Take a request."""
        self._fit.add(in_flight, ttft)

    def fade(self, keep: float, least: float = 0.0) -> None:
        """Trust what was seen less."""
        self._fit.fade(keep, least)

    def line(self) -> Line | None:
        """The line; None as long as too few requests were seen."""
        return self._fit.line()

    def limit(self, slo: float) -> float | None:
        """Requests in flight at which the 95th percentile of TTFT reaches ``slo``."""
        line = self.line()
        return None if line is None else line.where(slo, Z)
