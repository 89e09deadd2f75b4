"""Is there less traffic than usual at this time of day, or more? CUSUMs of Poisson log-likelihood ratios."""

from __future__ import annotations

from math import exp, log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_aimon.analysis.daily_profile import DailyProfile

DROPPED = 0.25
"""The ratio to the usual that the test for a drop looks for; from 0.54 down it collects evidence."""

SURGED = 4.0
"""The same for a surge; from 2.2 up."""

OVER_DISPERSION = 0.02
"""Squared coefficient of variation of traffic beyond Poisson's: weekends and minutes differ by some 14 %."""

CAP = 60.0
_RECENT_TICKS = 180
_CLIP = 1.0


class TrafficLevel:
    """Follows the number of requests per tick.

    Args:
        profile: What is usual; of the logarithm of the count.

    Attributes:
        drop: Cumulative evidence for a drop, in nats.
        surge: The same for a surge.
        usual: Requests that are usual in a tick now; None before anything is known.
    """

    __slots__ = ("_profile", "_recent", "drop", "surge", "usual")

    def __init__(self, profile: DailyProfile) -> None:
        self._profile = profile
        self._recent = 0.0
        self.drop = self.surge = 0.0
        self.usual: float | None = None

    def add(self, time: float, count: int, *, learn: bool) -> None:
        """Take a tick.

        Args:
            time: Seconds; the time of day counts.
            count: Requests that ended in it.
            learn: Nothing is wrong, so that this is what is usual.
        """
        level = self._profile.at(time)
        seen = log(max(count, 0.5))
        if level is not None:
            typical = exp(level)
            dispersion = 1.0 + OVER_DISPERSION * typical
            # The mean of logarithms is not the logarithm of the mean: half a request less where there are
            # some in each tick, and more where most ticks have none, which counts as a half.
            self.usual = max(0.0, min(typical, 2.0 * typical - 1.0))
            self.drop = _cusum(self.drop, count, self.usual, DROPPED, dispersion)
            self.surge = _cusum(self.surge, count, typical + 0.5, SURGED, dispersion)
            self._recent += (seen - level - self._recent) / _RECENT_TICKS
        if learn:
            self._profile.learn(time, seen, _CLIP)

    def accept(self) -> None:
        """Take the traffic of the last half hour for usual."""
        self._profile.move(self._recent)
        self._recent = self.drop = self.surge = 0.0

    def state(self) -> dict[str, list[float]]:
        """What was learned, for a file."""
        return self._profile.state()

    def restore(self, state: dict[str, list[float]]) -> None:
        """Go on from what was learned.

        Raises:
            ValueError: It does not fit.
        """
        self._profile.restore(state)


def _cusum(before: float, count: int, usual: float, ratio: float, dispersion: float) -> float:
    step = (count * log(ratio) + usual * (1.0 - ratio)) / dispersion
    return min(CAP, max(0.0, before + step))
