"""Utilisation where nothing measures it: inferred from throughput, latency and rejections."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_aimon.hinting.observation import Interval

WAITS = 1.5
WAITS_REJECTED = 1.15
"""Latency, in units of the least that was seen, from which on requests are taken to wait.

Where requests are turned away less is enough, but some it must be: a limit that is too low turns away, too.
"""

CROWDED = 0.05
"""Share of the arrivals that are turned away in more than a burst."""

LEAST_IN_FLIGHT = 1.0
"""With fewer, nobody waits for another one: what takes longer does so for another reason."""

_WARM_UP = 3
_LATENCY_GAIN = 0.3
_RISE = 1 / 3600
_UP_GAIN = 0.3
_DOWN_GAIN = 0.02


class InferredUtilization:
    """Busy share of the bottleneck as the share of the throughput that was seen in saturation.

    Throughput is proportional to utilisation: ``X = U X_max``, the utilisation law. In saturation requests take
    longer than at the best of times.
    """

    __slots__ = ("_intervals", "_latency", "_least_latency", "_most_throughput", "_probed")

    def __init__(self) -> None:
        self._latency: float | None = None
        self._least_latency: float | None = None
        self._most_throughput: float | None = None
        self._intervals = 0
        self._probed = False

    @property
    def relaxed(self) -> bool:
        """Requests take about as long as at the best of times: none of them waits."""
        latency, least = self._latency, self._least_latency
        return latency is not None and least is not None and latency <= WAITS_REJECTED * least

    def complete(self, interval: Interval, saturated_throughput: float | None = None) -> Interval:
        """The interval, with its utilisation if that was unknown and can be told.

        Args:
            interval: One in which nothing completed tells nothing.
            saturated_throughput: Of just before, while the limit is lowered on purpose: then rejections
                say nothing, and latency is that of those who waited before.
        """
        if interval.utilization is not None or interval.mean_latency is None:
            return interval
        if saturated_throughput is not None:
            self._probed = True
            # By Little's law, of those in flight now.
            self._see(interval.in_flight / interval.throughput)
            most: float | None = saturated_throughput
        elif self._saturated(interval, interval.mean_latency):
            self._follow(interval.throughput)
            return _with(interval, 1.0)
        else:
            most = self._most_throughput
        return _with(interval, min(1.0, interval.throughput / most)) if most else interval

    def _saturated(self, interval: Interval, latency: float) -> bool:
        crowded = interval.rejected > CROWDED * (interval.rejected + interval.completions)
        old = self._latency
        self._latency = latency if old is None else old + _LATENCY_GAIN * (latency - old)
        self._intervals += 1
        if self._intervals < _WARM_UP and not self._probed:
            # Those that end first are the short ones.
            return crowded
        least = self._see(self._latency)
        if not crowded:
            return self._latency > WAITS * least and interval.in_flight >= LEAST_IN_FLIGHT
        return not self._probed or self._latency > WAITS_REJECTED * least

    def _see(self, latency: float) -> float:
        """The least latency; it is let rise, so that a change of the requests is forgotten within the hour."""
        least = latency if self._least_latency is None else self._least_latency * (1 + _RISE)
        self._least_latency = min(least, latency)
        return self._least_latency

    def _follow(self, throughput: float) -> None:
        old = self._most_throughput
        if old is None:
            self._most_throughput = throughput
            return
        # Up quickly and down slowly: turned away were also some whom there was room for.
        gain = _UP_GAIN if throughput > old else _DOWN_GAIN
        self._most_throughput = old + gain * (throughput - old)


def _with(interval: Interval, utilization: float) -> Interval:
    return replace(interval, utilization=utilization, inferred=True)
