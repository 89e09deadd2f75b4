"""SLO bound: so many may wait that the slow ones among them still end in time."""

from __future__ import annotations

from math import sqrt

from otel_aimon.analysis.sketch import LogHistogram

QUANTILE = 0.95
GENERATION = 2000
"""Requests after which the older half of what is known is dropped."""

_LEAST = 20


class SloBound:
    """``N = K + X (SLO - S95)``: by Little's law ``X W`` requests wait when each waits for ``W``.

    S95 is the 95th percentile of the latency without waiting.
    """

    __slots__ = ("_new", "_old")

    def __init__(self) -> None:
        self._new, self._old = LogHistogram(), LogHistogram()

    def add(self, latency: float) -> None:
        """Take the latency of a request that did not wait."""
        self._new.add(latency)
        if self._new.count >= GENERATION:
            self._old, self._new = self._new, LogHistogram()

    def limit(self, slo: float, capacity: float, service_time: float) -> float | None:
        """The bound; None as long as too little is known.

        It leaves a queue of ``sqrt(K)`` in any case: without one the server idles between requests.

        Args:
            slo: Seconds that a request may take.
            capacity: K, requests in service at saturation.
            service_time: Mean seconds of a request that does not wait.
        """
        seen = LogHistogram()
        seen.merge(self._old)
        seen.merge(self._new)
        slow = seen.quantile(QUANTILE)
        if slow is None or seen.count < _LEAST or service_time <= 0:
            return None
        return capacity + max(sqrt(capacity), (slo - slow) * capacity / service_time)
