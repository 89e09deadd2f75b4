"""KV capacity: how many requests' keys and values fit in the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_aimon.hints.observation import Interval

FULL = 0.9
"""Above this share engines preempt: what requests still generate must fit too."""

_GAIN = 0.03
_LEAST_IN_FLIGHT = 1.0
_LEAST_UTILIZATION = 0.02


class KvCapacity:
    """``N_kv = 0.9 N / kv``: the utilisation law for the cache.

    Above 0.9 requests wait for room, so that those in flight no longer are those in the cache.
    """

    __slots__ = ("_limit",)

    def __init__(self) -> None:
        self._limit: float | None = None

    def add(self, interval: Interval) -> None:
        """Take an interval; one without a reading says nothing."""
        kv = interval.kv_utilization
        if kv is None or interval.in_flight <= _LEAST_IN_FLIGHT or kv >= FULL:
            return
        seen = FULL * interval.in_flight / max(kv, _LEAST_UTILIZATION)
        self._limit = seen if self._limit is None else self._limit + _GAIN * (seen - self._limit)

    def limit(self) -> float | None:
        """The bound; None as long as there was no reading."""
        return self._limit
