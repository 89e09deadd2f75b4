"""A steady number from a noisy one: what is published moves seldom, and never for nothing."""

from __future__ import annotations

from math import exp, log

TIME_CONSTANT = 30.0
"""Seconds over which the logarithm is smoothed."""

DEAD_BAND = 0.10
"""Smaller moves are noise."""

INTERVALS = 3
"""So many intervals in a row a move must last."""

UP_AT_MOST = 0.25
UP_EVERY = 60.0
"""Too high is worse than too low: the way up is taken by a quarter a minute."""

FAR = 2.0
"""Unless it has been this many times as much for that minute: then what is published was wrong."""


class Publication:
    """Follows a positive quantity: smoothed, with a dead band, slow upwards and at once downwards.

    Attributes:
        value: What is published; None before the first value.
    """

    __slots__ = ("_far_since", "_last", "_moved", "_published", "_smooth", "value")

    def __init__(self) -> None:
        self.value: float | None = None
        self._smooth = 0.0
        self._last = self._published = 0.0
        self._far_since: float | None = None
        self._moved = 0

    def add(self, raw: float, now: float) -> bool:
        """Take a value; True when what is published has changed.

        Args:
            raw: Positive.
            now: Monotonic seconds.
        """
        if self.value is None:
            self._smooth, self._last = log(raw), now
            return self._publish(raw, now)
        seconds = max(0.0, now - self._last)
        self._last = now
        self._smooth += (1 - exp(-seconds / TIME_CONSTANT)) * (log(raw) - self._smooth)
        smooth = exp(self._smooth)
        self._moved = self._moved + 1 if abs(smooth / self.value - 1) > DEAD_BAND else 0
        if self._moved < INTERVALS:
            return False
        if smooth < self.value or self._long_far(smooth / self.value, now):
            return self._publish(smooth, now)
        if now - self._published < UP_EVERY:
            return False
        return self._publish(min(smooth, self.value * (1 + UP_AT_MOST)), now)

    def _long_far(self, ratio: float, now: float) -> bool:
        if ratio < FAR:
            self._far_since = None
        elif self._far_since is None:
            self._far_since = now
        return self._far_since is not None and now - self._far_since >= UP_EVERY

    def _publish(self, value: float, now: float) -> bool:
        self.value = value
        self._published = now
        self._moved = 0
        return True
