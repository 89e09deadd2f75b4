"""How busy what serves a model is, where something measures it that deserves belief."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from otel_aimon.hinting.bounds.inferred_utilization import InferredUtilization

if TYPE_CHECKING:
    from otel_aimon.hinting.observation import Interval

FULL = 0.9
"""A counter that was seen there can tell when there is no more to have."""

PROVEN = 3
"""In so many intervals it must have been there."""

CONTRADICTED = 5
OF_INTERVALS = 10
"""It is disbelieved when in so many of the last intervals requests waited and it said that there was room."""


def own_share(own: float, available: float, idle_share: float | None) -> float:
    """The process's CPU time over what it could have had: its own and what was idle.

    What others use is not there for it, and in saturation nothing is idle.

    Args:
        own: CPUs that the process keeps busy.
        available: CPUs that it may use.
        idle_share: Share of those CPUs that nobody uses; None counts all that is not its own as idle.
    """
    own = min(own, available)
    idle = available - own
    if idle_share is not None:
        idle = min(idle, max(0.0, idle_share) * available)
    return own / (own + idle) if own > 0 else 0.0


class BelievedUtilization:
    """Leaves a measured utilisation out where it is not that of the bottleneck.

    One thread of a process on sixteen cores is all busy when the process has a sixteenth of them, and a process that
    waits for another machine is never busy. A counter is believed after it has been near one, and no longer when
    requests wait and take longer while it says that there is room.
    """

    __slots__ = ("_believed", "_contradictions", "_full", "_inferred")

    def __init__(self) -> None:
        self._inferred = InferredUtilization()
        self._contradictions: deque[bool] = deque(maxlen=OF_INTERVALS)
        self._full = 0
        self._believed = False

    def judge(self, interval: Interval) -> Interval:
        """The interval, without its utilisation if that is not to be believed."""
        measured = interval.utilization
        blind = replace(interval, utilization=None)
        inferred = self._inferred.complete(blind).utilization
        if measured is None:
            return interval
        if measured >= FULL:
            self._full += 1
            self._contradictions.clear()
        elif inferred is not None:
            self._contradictions.append(inferred >= 1.0)
        if sum(self._contradictions) >= CONTRADICTED:
            self._believed, self._full = False, 0
        elif self._full >= PROVEN:
            self._believed = True
        return interval if self._believed else blind
