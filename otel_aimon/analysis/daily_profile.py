"""What a quantity usually is at this time of day."""

from __future__ import annotations

from array import array
from math import floor, inf

SLOTS = 48
"""Half hours of a day, between whose middles the profile is linear."""

DAY_SECONDS = 86_400.0
MEMORY_DAYS = 4.0
"""The profile forgets older days: habits change."""

FIRST_VALUES = 12
"""So many are taken as they are: those of a service that has just started are no norm for the next."""

_LARGEST = 100.0
"""Of what is a logarithm nothing is larger."""


class DailyProfile:
    """A level for each half hour of the day, learned as a running mean.

    The mean is one over all values until there are ``MEMORY_DAYS`` of them, then an exponentially weighted
    one. Who learns it clips the residual, so that one outlier moves it little.
    """

    __slots__ = ("_least", "_levels", "_weights")

    def __init__(self, tick_seconds: float = 10.0) -> None:
        self._least = tick_seconds * SLOTS / (DAY_SECONDS * MEMORY_DAYS)
        # Of floats in a list, each would take three times the memory.
        self._levels = array("d", bytes(8 * SLOTS))
        self._weights = array("d", bytes(8 * SLOTS))

    @staticmethod
    def _place(time: float) -> tuple[int, int, float]:
        at = (time % DAY_SECONDS) / DAY_SECONDS * SLOTS - 0.5
        below = floor(at)
        return below % SLOTS, (below + 1) % SLOTS, at - below

    def at(self, time: float) -> float | None:
        """The usual level; None where nothing was learned.

        Args:
            time: Seconds; only the time of day counts.
        """
        before, after, share = self._place(time)
        if not self._weights[before]:
            return self._levels[after] if self._weights[after] else None
        if not self._weights[after]:
            return self._levels[before]
        return self._levels[before] * (1.0 - share) + self._levels[after] * share

    def learn(self, time: float, seen: float, most: float = inf) -> None:
        """Move the level at ``time`` towards what was seen.

        Args:
            time: Seconds.
            seen: What was seen.
            most: Further than this from the level it counts as no further, after the first few values.
        """
        level = self.at(time)
        residual = 0.0 if level is None else seen - level
        before, after, share = self._place(time)
        if self._weights[before] + self._weights[after] >= FIRST_VALUES:
            residual = max(-most, min(most, residual))
        for slot, weight in ((before, 1.0 - share), (after, share)):
            if not self._weights[slot]:
                self._levels[slot] = seen if level is None else level
            self._weights[slot] += weight
            rate = max(self._least, 1.0 / (self._weights[slot] + 1.0))
            self._levels[slot] += weight * rate * residual

    def move(self, by: float) -> None:
        """Take the whole day for so much higher, or lower."""
        for slot in range(SLOTS):
            self._levels[slot] += by

    def state(self) -> dict[str, list[float]]:
        """What was learned, for a file."""
        return {"levels": list(self._levels), "weights": list(self._weights)}

    def restore(self, state: dict[str, list[float]]) -> None:
        """Go on from what was learned.

        Raises:
            ValueError: It does not fit.
        """
        levels, weights = ([float(value) for value in state[name]] for name in ("levels", "weights"))
        if len(levels) != SLOTS or len(weights) != SLOTS:
            raise ValueError(f"a profile has {SLOTS} slots")
        if not all(abs(level) <= _LARGEST for level in levels) or not all(
            weight >= 0.0 for weight in weights
        ):
            raise ValueError("a profile has levels of logarithms, and no negative weights")
        self._levels, self._weights = array("d", levels), array("d", weights)
