"""All bounds of one model, fed with every request that ended and with every interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_aimon.hinting.bounds import Bound
from otel_aimon.hinting.bounds.inferred_utilization import InferredUtilization
from otel_aimon.hinting.bounds.kv_capacity import KvCapacity
from otel_aimon.hinting.bounds.slo_bound import SloBound
from otel_aimon.hinting.bounds.tpot_line import LEAST_TOKENS, TpotLine
from otel_aimon.hinting.bounds.ttft_line import TtftLine
from otel_aimon.hinting.bounds.utilization_law import UtilizationLaw
from otel_aimon.hinting.in_flight import InFlightHistory
from otel_aimon.hinting.shift import LineShift, WorkloadShift

if TYPE_CHECKING:
    from otel_aimon.hinting.observation import Completed, Interval, Slo

LEAST = 1.0
MOST = 1000.0
"""Range of all bounds, in requests in flight."""

UTILIZATION, SLO, TPOT, TTFT, KV = "utilization", "slo", "tpot", "ttft", "kv"
"""Names of the bounds."""

RELEARN_KV = 0.2
"""What is left of the readings of the KV cache after the server, or what it is asked, has changed."""

_CENSORED = 2.0
_THROUGHPUT_GAIN = 0.1
_STEPS_GAIN = 0.02


class ConcurrencyEstimator:
    """Knows how many requests a model can serve at once.

    A model whose requests have output tokens is *generative*: requests share every decoding step, and
    the lines of TPOT and TTFT and the KV cache bound it. Any other is a queue before some servers, and the
    utilisation law and the SLO bound it.

    Args:
        slo: What is promised.

    Attributes:
        utilization_law: Of a model that is not generative.
        generative: Output tokens were seen.
    """

    def __init__(self, slo: Slo) -> None:
        self._slo = slo
        self.utilization_law = UtilizationLaw()
        self.tpot_line = TpotLine()
        self.ttft_line = TtftLine()
        self.kv_capacity = KvCapacity()
        self._slo_bound = SloBound()
        self._inferred = InferredUtilization()
        self._history = InFlightHistory()
        self._line_shift = LineShift()
        self._workload_shift = WorkloadShift()
        self._ended: list[Completed] = []
        self._throughput = 0.0
        self._steps = 1.0
        self.generative = False

    def add(self, request: Completed) -> None:
        """Take a request that ended: it is judged at the end of the interval, when all is known of it."""
        if request.ok:
            self.notice(request)
            self._ended.append(request)

    def notice(self, request: Completed) -> None:
        """Learn of what kind the model is, and nothing else."""
        if (request.tokens_out or 0) > 1:
            self.generative = True

    def probed(self, interval: Interval, saturated_throughput: float | None) -> Interval:
        """Take an interval in which the limit was lowered on purpose: the bounds do not learn from it.

        Args:
            interval: What ended just now.
            saturated_throughput: That of just before.

        Returns:
            The interval with its utilisation, if that was unknown and could be inferred.
        """
        return self._inferred.complete(interval, saturated_throughput)

    def step(self, interval: Interval) -> Interval:
        """Take an interval that ended.

        Returns:
            The interval with its utilisation, if that was unknown and could be inferred.
        """
        self._history.add(interval.end, interval.seconds, interval.in_flight)
        ended, self._ended = self._ended, []
        for request in ended:
            self._judge(request)
        if self.generative:
            self._step_generative(interval)
            return interval
        interval = self._inferred.complete(interval)
        if interval.utilization is None and self._inferred.relaxed:
            self.utilization_law.add_relaxed(interval)
        self.utilization_law.add(interval)
        if not self.utilization_law.saturated:
            for request in ended:
                self._slo_bound.add(request.latency)
        return interval

    def _step_generative(self, interval: Interval) -> None:
        self._throughput += _THROUGHPUT_GAIN * (interval.throughput - self._throughput)
        self.kv_capacity.add(interval)
        line_shifted, workload_shifted = self._line_shift.step(), self._workload_shift.step()
        if line_shifted or workload_shifted:
            self.tpot_line.relearn()
            self.ttft_line.relearn()
            self.kv_capacity.fade(RELEARN_KV)
        self.tpot_line.step()
        self.ttft_line.step()

    def _judge(self, request: Completed) -> None:
        first, tpot = request.first_token, request.tpot
        tokens = request.tokens_out or 0
        if first is None and tokens > 1:
            # Without a first token, all of the latency is taken for decoding.
            first, tpot = request.start, request.latency / tokens
        if first is None or tpot is None:
            return
        self._steps += _STEPS_GAIN * (tokens - 1 - self._steps)
        if request.tokens_in is not None:
            self._workload_shift.add(request.tokens_in)
        waiting = self._history.mean(request.start, first)
        if waiting is not None and request.ttft is not None:
            self.ttft_line.add(waiting, _censored(request.ttft, self._slo.ttft), self._slo.ttft)
        decoding = self._history.mean(first, request.end)
        if decoding is not None and tokens > LEAST_TOKENS:
            self._add_tpot(decoding, _censored(tpot, self._slo.tpot))

    def _add_tpot(self, in_flight: float, tpot: float) -> None:
        line = self.tpot_line.line()
        if line is not None:
            self._line_shift.add(line, in_flight, tpot)
        self.tpot_line.add(in_flight, tpot)

    @property
    def crowded(self) -> bool:
        """Requests of a model that is not generative wait, as far as can be told."""
        return self.utilization_law.saturated or not (self.generative or self._inferred.relaxed)

    def bounds(self) -> list[Bound]:
        """What is known; empty as long as that is not enough for a hint."""
        found = self._generative_limits() if self.generative else self._queue_limits()
        return [
            Bound(basis, min(MOST, max(LEAST, limit))) for basis, limit in found.items() if limit is not None
        ]

    def _generative_limits(self) -> dict[str, float | None]:
        line = self.tpot_line.line()
        if line is None or (self.ttft_line.line() is None and self.ttft_line.seen):
            return {}
        return {
            TPOT: self.tpot_line.limit(self._slo.tpot),
            TTFT: self.ttft_line.limit(self._slo.ttft, line, self._steps, self._throughput)
            if self._slo.ttft
            else None,
            KV: self.kv_capacity.limit(),
        }

    def _queue_limits(self) -> dict[str, float | None]:
        law = self.utilization_law
        limits = {UTILIZATION: law.limit()}
        if self._slo.latency is not None and law.capacity is not None and law.service_time is not None:
            limits[SLO] = self._slo_bound.limit(self._slo.latency, law.capacity, law.service_time)
        return limits


def _censored(seconds: float, slo: float | None) -> float:
    """Late is late: how late says more about one stuck request than about the line."""
    return seconds if slo is None else min(seconds, _CENSORED * slo)
