"""The mean power of a device while it works for each model, and while it does nothing.

In each interval the energy is known, and the share of the time that each had; the powers are not. They
are estimated by expectation maximisation: share each interval's energy by time * power, then take
each one's energy / time as its power, and so on. Powers stay positive, and each interval's energy is
shared without remainder.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_aimon.core.series import Series
    from otel_aimon.resources.energy_interval import Interval, Use

MOST_INTERVALS = 120
"""Intervals that are remembered: ten minutes at the default interval."""

ROUNDS = 2
"""Rounds of estimation after each interval; they go on from the last powers."""

IDLE = ""
OTHERS = "\0"
_LEAST = 0.01
"""Of the mean power of the interval: a power that fell to zero could never rise again."""

_LEAST_TIME = 1e-9
"""Of an interval: less is what rounding leaves of sums."""


class Powers:
    """Powers of one device, learned from its intervals."""

    __slots__ = ("_known", "_seen")

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[str, float]]] = deque(maxlen=MOST_INTERVALS)
        self._known: dict[str, float] = {}

    def attribute(self, interval: Interval) -> dict[Series, float]:
        """Joules by series, of a closed interval of which nothing is missing; learns from it."""
        use = interval.use()
        times = _times(use)
        for name in times:
            # Who is new is taken as an average one.
            self._known.setdefault(name, interval.watts)
        if not use.unknown:
            self._learn(interval.watts, times)
        if not use.series:
            return {}
        power = self._expected(times)
        joules = interval.joules * (1.0 - use.unknown)
        return {
            series: joules * self._known[series.model] * time / power for series, time in use.series.items()
        }

    def _expected(self, times: Mapping[str, float]) -> float:
        return sum(self._known[name] * time for name, time in times.items())

    def _learn(self, watts: float, times: dict[str, float]) -> None:
        self._seen.append((watts, times))
        for _ in range(ROUNDS):
            joules: dict[str, float] = {}
            seconds: dict[str, float] = {}
            for seen_watts, seen_times in self._seen:
                scale = seen_watts / self._expected(seen_times)
                for name, time in seen_times.items():
                    joules[name] = joules.get(name, 0.0) + scale * self._known[name] * time
                    seconds[name] = seconds.get(name, 0.0) + time
            self._known = {name: max(joules[name] / seconds[name], _LEAST * watts) for name in joules}


def _times(use: Use) -> dict[str, float]:
    times = {IDLE: use.idle, OTHERS: use.others}
    for series, time in use.series.items():
        times[series.model] = times.get(series.model, 0.0) + time
    return {name: time for name, time in times.items() if time > _LEAST_TIME}
