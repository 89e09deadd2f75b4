"""How much longer a request holds its slot than the model works on it: tokens have to be delivered, too."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_aimon.hinting.observation import Completed

MOST = 10.0
SAME = 1.25
"""Slots and requests of the model are the same ones when there are no more of the one than this times the other."""

_GAIN = 0.2
_LEAST = 5.0
"""Requests of late, before anything is concluded."""


class Stretch:
    """Puts what the model's instrumentation saw into the time of those who hold the slots.

    The instrumentation knows tokens and first tokens, but only the model's part of the time. A server that is short
    of CPU delivers late what the model made in time, and the client waits for the delivery.

    Attributes:
        factor: Seconds in the slot per second in the model.
    """

    __slots__ = ("_seen", "_seen_latency", "_slot_latency", "_slots", "factor")

    def __init__(self) -> None:
        self.factor = 1.0
        self._slots = self._seen = 0.0
        self._slot_latency = self._seen_latency = 0.0

    @property
    def covers(self) -> bool:
        """Each request of the model holds a slot, and each slot is one's."""
        if min(self._slots, self._seen) < _LEAST * _GAIN:
            return False
        return 1 / SAME <= self._slots / self._seen <= SAME

    def apply(self, slots: Sequence[Completed], seen: Sequence[Completed]) -> list[Completed]:
        """What was seen, in the time of the slots.

        Args:
            slots: Those that were given back since the last call.
            seen: Requests of the model that ended since then.
        """
        self._slots, self._slot_latency = _follow(self._slots, self._slot_latency, slots)
        self._seen, self._seen_latency = _follow(self._seen, self._seen_latency, seen)
        if not self.covers or self._seen_latency <= 0:
            self.factor = 1.0
            return list(seen)
        ratio = (self._slot_latency / self._slots) / (self._seen_latency / self._seen)
        self.factor = min(MOST, max(1.0, ratio))
        return [
            replace(
                request,
                latency=request.latency * self.factor,
                ttft=None if request.ttft is None else request.ttft * self.factor,
            )
            for request in seen
        ]


def _follow(count: float, latency: float, ended: Sequence[Completed]) -> tuple[float, float]:
    """Counts and sums of what went well, of which the older fade."""
    well = [request.latency for request in ended if request.ok]
    return count + _GAIN * (len(well) - count), latency + _GAIN * (sum(well) - latency)
