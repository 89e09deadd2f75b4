"""The concurrency hint: the least of the bounds, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_aimon.hints.bounds.kv_capacity import KvCapacity
from otel_aimon.hints.bounds.slo_bound import SloBound
from otel_aimon.hints.bounds.tpot_line import LEAST_TOKENS, TpotLine
from otel_aimon.hints.bounds.ttft_line import TtftLine
from otel_aimon.hints.bounds.utilization_law import UtilizationLaw
from otel_aimon.hints.in_flight import InFlightHistory
from otel_aimon.hints.line_shift import LineShift

if TYPE_CHECKING:
    from otel_aimon.hints.observation import Completed, Interval, Slo

LEAST = 2.0
MOST = 1000.0
FADE_SECONDS = 100.0
LEAST_POINTS = 100.0
RELEARN_POINTS = 20.0


@dataclass(frozen=True, slots=True)
class Bound:
    """The most that one resource or promise allows.

    Attributes:
        basis: Its name.
        limit: Requests in flight.
    """

    basis: str
    limit: float


class ConcurrencyEstimator:
    """All bounds of one model, fed with every request that ended and with every interval."""

    def __init__(self, slo: Slo) -> None:
        self.slo = slo
        self.utilization_law = UtilizationLaw()
        self.tpot_line = TpotLine()
        self.ttft_line = TtftLine()
        self.kv_capacity = KvCapacity()
        self.slo_bound = SloBound()
        self._shift = LineShift()
        self._history = InFlightHistory()
        self._ended: list[Completed] = []
        self.generative = False

    def add(self, request: Completed) -> None:
        """Take a request that ended; it is judged at the end of the interval."""
        if request.ok:
            self._ended.append(request)

    def step(self, interval: Interval) -> None:
        """Take an interval that ended."""
        self._history.add(interval.end, interval.seconds, interval.in_flight)
        for request in self._ended:
            self._judge(request)
        if self.generative:
            self.kv_capacity.add(interval)
            if self._shift.step():
                self._relearn()
            self.tpot_line.fade(1 - 1 / FADE_SECONDS, LEAST_POINTS)
            self.ttft_line.fade(1 - 1 / FADE_SECONDS, LEAST_POINTS)
        else:
            self.utilization_law.add(interval)
            if not self.utilization_law.saturated:
                for request in self._ended:
                    self.slo_bound.add(request.latency)
        self._ended.clear()

    def _relearn(self) -> None:
        """The server, or what it is asked, has changed."""
        self.tpot_line.fade(0.0, RELEARN_POINTS)
        self.ttft_line.fade(0.0, RELEARN_POINTS)
        self.kv_capacity.fade(0.2)

    def _judge(self, request: Completed) -> None:
        first, tpot = request.first_token, request.tpot
        if first is None or tpot is None:
            if request.ttft is not None or (request.tokens_out or 0) < 2:
                return
            first, tpot = request.start, request.latency / request.tokens_out
        self.generative = True
        waiting = self._history.mean(request.start, first)
        if waiting is not None and request.ttft is not None:
            self.ttft_line.add(waiting, min(request.ttft, 2*(self.slo.ttft or 1e9)))
        decoding = self._history.mean(first, request.end)
        if decoding is not None and (request.tokens_out or 0) > LEAST_TOKENS:
            line = self.tpot_line.line()
            if line is not None:
                self._shift.add(line, decoding, tpot)
            self.tpot_line.add(decoding, min(tpot, 2*(self.slo.tpot or 1e9)))

    def bounds(self) -> list[Bound]:
        """What is known, unordered."""
        found = {
            "utilization": self.utilization_law.limit(),
            "slo": self._slo_limit(),
            "tpot": self.tpot_line.limit(self.slo.tpot) if self.slo.tpot else None,
            "ttft": self.ttft_line.limit(self.slo.ttft, self.tpot_line.line()) if self.slo.ttft and self.tpot_line.line() else None,
            "kv": self.kv_capacity.limit(),
        }
        if self.generative and (
            (self.slo.tpot and found["tpot"] is None) or (self.slo.ttft and self.ttft_line.seen and found["ttft"] is None)
        ):
            return []
        return [
            Bound(basis, min(MOST, max(LEAST, limit))) for basis, limit in found.items() if limit is not None
        ]

    def _slo_limit(self) -> float | None:
        law = self.utilization_law
        if self.slo.latency is None or law.capacity is None or law.service_time is None:
            return None
        return self.slo_bound.limit(self.slo.latency, law.capacity, law.service_time)

    def binding(self) -> Bound | None:
        """The least bound; None as long as nothing is known."""
        return min(self.bounds(), key=lambda bound: bound.limit, default=None)
