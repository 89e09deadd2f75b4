"""When a resource that only grows will be full."""

from __future__ import annotations

from math import exp

TIME_CONSTANT = 300.0
"""Seconds over which the slope is averaged: longer than a garbage collector's cycle, shorter than a leak."""

WARM_UP = 2 * TIME_CONSTANT
"""Seconds before there is a forecast: a model that is being loaded is no leak."""


class ExhaustionForecast:
    """Time until a limit is reached, from an exponentially weighted linear regression of use on time.

    With weights ``w_i = exp(-(t - t_i) / TIME_CONSTANT)`` the slope is the weighted covariance of use
    and time divided by the weighted variance of time; the sums are kept relative to the present, so that an
    update is O(1). The forecast is ``(limit - used) / slope``.
    """

    __slots__ = ("_began", "_n", "_now", "_t", "_tt", "_tu", "_u", "_uu")

    def __init__(self) -> None:
        self._began: float | None = None
        self._now = 0.0
        self._n = self._t = self._u = self._tt = self._tu = self._uu = 0.0

    def add(self, now: float, used: float, limit: float) -> float | None:
        """Take a reading.

        Args:
            now: Monotonic seconds.
            used: In use, in any unit.
            limit: What there is, in the same unit.

        Returns:
            Seconds until ``used`` is ``limit`` at the present rate; infinity when it does not grow, or not
            steadily; None before there is enough to tell.
        """
        if self._began is None:
            self._began = self._now = now
        self._shift(now - self._now)
        self._now = now
        share = used / limit
        self._n += 1.0
        self._u += share
        self._uu += share * share
        if now - self._began < WARM_UP:
            return None
        slope = self._steady_slope()
        return max(0.0, 1.0 - share) / slope if slope > 0.0 else float("inf")

    def _shift(self, elapsed: float) -> None:
        """Let time pass: readings get older, and count for less."""
        fade = exp(-elapsed / TIME_CONSTANT)
        self._tt = fade * (self._tt - 2 * elapsed * self._t + elapsed * elapsed * self._n)
        self._tu = fade * (self._tu - elapsed * self._u)
        self._t = fade * (self._t - elapsed * self._n)
        self._n *= fade
        self._u *= fade
        self._uu *= fade

    def _steady_slope(self) -> float:
        """Share of the limit per second; zero when time explains less than half of what use did."""
        time_variance = self._tt - self._t * self._t / self._n
        use_variance = self._uu - self._u * self._u / self._n
        covariance = self._tu - self._t * self._u / self._n
        if time_variance <= 0.0 or use_variance <= 1e-12:
            return 0.0
        explained = covariance * covariance / (time_variance * use_variance)
        return covariance / time_variance if explained >= 0.5 else 0.0
