"""A steady number from a noisy one: what is published moves seldom, and never for nothing."""

from __future__ import annotations

from math import exp, inf, log

TIME_CONSTANT = 30.0
"""Seconds over which the logarithm is smoothed."""

DEAD_BAND = 0.10
"""Smaller moves are noise."""

INTERVALS = 3
"""So many intervals in a row a move must last."""

UP_AT_MOST = 0.25
UP_EVERY = 60.0
"""Too high is worse than too low: the way up is taken by a quarter a minute."""

PROVISIONAL_BAND = 0.25
"""Of what is only told until there is a better one."""

FAR = 2.0
"""Unless it has been this many times as much for that minute: then what is published was wrong."""


class Publication:
    """Follows a positive quantity: smoothed, with a dead band, slow upwards and at once downwards.

    Attributes:
        value: What is published; None before the first value.
    """

    __slots__ = ("_capped", "_far_since", "_last", "_moved", "_provisional", "_published", "_smooth", "value")

    def __init__(self) -> None:
        self.value: float | None = None
        self._smooth = 0.0
        self._last = self._published = 0.0
        self._far_since: float | None = None
        self._moved = 0
        self._capped = self._provisional = False

    def add(self, raw: float, now: float, at_most: float | None = None) -> bool:
        """Take a value; True when what is published has changed.

        Args:
            raw: Positive.
            now: Monotonic seconds.
            at_most: No more is known; to come to know more is no reason to be slow.
        """
        cap = inf if at_most is None else at_most
        if self.value is None or self._provisional:
            self._smooth, self._last = log(raw), now
            self._provisional = False
            return self._publish(min(raw, cap), now, capped=raw > cap)
        seconds = max(0.0, now - self._last)
        self._last = now
        self._smooth += (1 - exp(-seconds / TIME_CONSTANT)) * (log(raw) - self._smooth)
        smooth = exp(self._smooth)
        target = min(smooth, cap)
        self._moved = self._moved + 1 if abs(target / self.value - 1) > DEAD_BAND else 0
        if self._moved < INTERVALS:
            return False
        if target < self.value or self._capped or self._long_far(target / self.value, now):
            return self._publish(target, now, capped=smooth > cap)
        if now - self._published < UP_EVERY:
            return False
        return self._publish(min(target, self.value * (1 + UP_AT_MOST)), now)

    def tell(self, value: float, now: float) -> bool:
        """Publish a value until there is a better one; True when what is published has changed.

        Args:
            value: Positive; a wide dead band is all that it is given.
            now: Monotonic seconds.
        """
        if self.value is not None and (
            not self._provisional or abs(value / self.value - 1) <= PROVISIONAL_BAND
        ):
            return False
        self._provisional = True
        return self._publish(value, now)

    def _long_far(self, ratio: float, now: float) -> bool:
        if ratio < FAR:
            self._far_since = None
        elif self._far_since is None:
            self._far_since = now
        return self._far_since is not None and now - self._far_since >= UP_EVERY

    def _publish(self, value: float, now: float, *, capped: bool = False) -> bool:
        self.value = value
        self._capped = capped
        self._published = now
        self._moved = 0
        return True
