"""Utilisation where nothing measures it: inferred from throughput, latency and rejections."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_aimon.hints.observation import Interval

WAITS = 1.5
"""Mean latency, in units of the least that was seen, from which on requests are taken to wait."""

_RISE = 1 / 3600
_UP_GAIN = 0.3
_DOWN_GAIN = 0.02


class InferredUtilization:
    """Busy share of the bottleneck as the share of the throughput that was seen in saturation.

    Throughput is proportional to utilisation: ``X = U X_max``, the utilisation law. An interval is saturated
    when requests were turned away in it, or took much longer than at the best of times.
    """

    __slots__ = ("_least_latency", "_most_throughput")

    def __init__(self) -> None:
        self._least_latency: float | None = None
        self._most_throughput: float | None = None

    def complete(self, interval: Interval, saturated_throughput: float | None = None) -> Interval:
        """The interval, with its utilisation if that was unknown and can be told.

        Args:
            interval: One in which nothing completed tells nothing.
            saturated_throughput: Of just before, while the limit is lowered on purpose: then rejections
                and latency say nothing.
        """
        if interval.utilization is not None or not interval.completions:
            return interval
        if saturated_throughput is None and self._saturated(interval):
            self._follow(interval.throughput)
            return replace(interval, utilization=1.0)
        most = saturated_throughput or self._most_throughput
        return replace(interval, utilization=min(1.0, interval.throughput / most)) if most else interval

    def _saturated(self, interval: Interval) -> bool:
        latency = interval.mean_latency or 0.0
        # The least latency is let rise, so that a change of the requests is forgotten within the hour.
        least = latency if self._least_latency is None else self._least_latency * (1 + _RISE)
        self._least_latency = min(least, latency)
        return interval.rejected > 0 or latency > WAITS * self._least_latency

    def _follow(self, throughput: float) -> None:
        old = self._most_throughput
        if old is None:
            self._most_throughput = throughput
            return
        # Up quickly and down slowly: turned away were also some whom there was room for.
        gain = _UP_GAIN if throughput > old else _DOWN_GAIN
        self._most_throughput = old + gain * (throughput - old)
