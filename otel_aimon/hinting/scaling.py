"""The scaling hint: how many replicas the load needs, relative to those there are."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TARGET = 0.8
"""Share of its concurrency limit that a replica should be at."""

DOWN_BELOW = 0.6
"""Fewer replicas only if the rest would still be below this share."""

UP_AFTER = 60.0
DOWN_AFTER = 600.0
"""Seconds that the need must have lasted."""


@dataclass(frozen=True, slots=True)
class Replica:
    """The load of one replica.

    Attributes:
        in_flight: Requests in flight.
        queued: Requests that wait for admission.
        limit: Its concurrency hint: replicas on unlike machines have unlike ones.
    """

    in_flight: float
    queued: float
    limit: float

    @property
    def utilization(self) -> float:
        """Load over limit."""
        return (self.in_flight + self.queued) / self.limit


def replicas(loads: Iterable[Replica]) -> int:
    """Replicas that a load needs, capacity-aware: ``ceil(sum of (N + Q) / L / 0.8)``.

    It is never fewer than there are unless the rest would be below 0.6 of their limits: the band in
    between keeps the number from going up and down.

    Args:
        loads: Of the replicas that there are.
    """
    found = list(loads)
    utilization = sum(replica.utilization for replica in found)
    desired = max(1, ceil(round(utilization / TARGET, 9)))
    if desired >= len(found):
        return desired
    while desired < len(found) and utilization / desired >= DOWN_BELOW:
        desired += 1
    return desired


class ScalingAdvisor:
    """The replica ratio of one process: 1 means that the number of replicas is right.

    More replicas are asked for after a minute above the target, fewer after ten minutes below; a spike is
    no reason for either. The ratio of a sum is a sum of ratios, so that a backend may add up those of all
    replicas, however unlike they are.

    Attributes:
        ratio: Desired over present replicas; None before anything is known.
    """

    __slots__ = ("_down", "_up", "ratio")

    def __init__(self) -> None:
        self._up = _SlidingExtreme(UP_AFTER, min)
        self._down = _SlidingExtreme(DOWN_AFTER, max)
        self.ratio: float | None = None

    def step(self, load: Replica, now: float) -> float | None:
        """Take the load at ``now``, in monotonic seconds, about every second.

        Returns:
            The ratio; as long as there is too little to decide on, 1.
        """
        need = load.utilization / TARGET
        lasting_need = self._up.add(need, now)
        greatest_need = self._down.add(need, now)
        if lasting_need is not None and lasting_need > 1:
            self.ratio = lasting_need
        elif greatest_need is not None and greatest_need * TARGET < DOWN_BELOW:
            self.ratio = greatest_need
        else:
            self.ratio = 1.0
        return self.ratio


class _SlidingExtreme:
    """The least or greatest value of the last seconds, in O(1) amortised: a monotonic queue."""

    __slots__ = ("_better", "_first", "_seconds", "_values")

    def __init__(self, seconds: float, better: Callable[[float, float], float]) -> None:
        self._seconds = seconds
        self._better = better
        self._values: deque[tuple[float, float]] = deque()
        self._first: float | None = None

    def add(self, value: float, now: float) -> float | None:
        """Take a value; the extreme, or None as long as less than the whole time was seen."""
        if self._first is None:
            self._first = now
        values = self._values
        while values and self._better(value, values[-1][1]) == value:
            values.pop()
        values.append((now, value))
        while values[0][0] < now - self._seconds:
            values.popleft()
        return values[0][1] if now - self._first >= self._seconds else None
