"""SLO trim: where most requests break a promise at the hint, the hint is wrong: step below it."""

from __future__ import annotations

RATIO = 1.15
"""Between neighbours on the logarithmic grid of limits."""

FENCE = 4
"""Steps below the hint that the trim may go."""

DOWN_ABOVE = 0.4
UP_BELOW = 0.25
"""Shares of requests that broke a promise."""

CURES = 0.97
"""A step down that leaves less of the goodput than this is taken back: the promise is broken at any limit."""

RETRY_WINDOWS = 20

LEAST_COMPLETIONS = 50
LEAST_SECONDS = 1.0
LATENCY_SHARE = 0.5
"""A window is at least this share of the mean latency: less is not a sample of the limit in force."""


class SloTrim:
    """A factor on the hint, judged over windows in which requests were turned away.

    Args:
        now: Monotonic seconds.

    Attributes:
        step: Steps on the grid, 0 at the hint and negative below.
    """

    __slots__ = (
        "_bad",
        "_completions",
        "_good",
        "_latency",
        "_pause",
        "_rejected",
        "_start",
        "_tried",
        "step",
    )

    def __init__(self, now: float = 0.0) -> None:
        self.step = 0
        self._bad = self._pause = 0
        self._tried: float | None = None
        self.restart(now)

    def restart(self, now: float) -> None:
        """Begin a new window: what was seen was not seen at the limit."""
        self._start = now
        self._completions = self._good = self._rejected = 0
        self._latency = 0.0

    @property
    def factor(self) -> float:
        """To multiply the hint with."""
        return float(RATIO**self.step)

    def rejected(self) -> None:
        """A request was turned away."""
        self._rejected += 1

    def ended(self, now: float, latency: float, *, good: bool) -> None:
        """A request ended after ``latency`` seconds; it kept all promises if ``good``."""
        self._completions += 1
        self._good += good
        self._latency += latency
        if self._completions < LEAST_COMPLETIONS:
            return
        seconds = now - self._start
        if seconds >= max(LEAST_SECONDS, LATENCY_SHARE * self._latency / self._completions):
            self._judge(1 - self._good / self._completions, self._good / seconds)
            self.restart(now)

    def _judge(self, violations: float, goodput: float) -> None:
        tried, self._tried = self._tried, None
        self._pause = max(0, self._pause - 1)
        if not self._rejected or violations < UP_BELOW:
            self.step = min(0, self.step + 1)
            self._bad = 0
        elif tried is not None and goodput < CURES * tried:
            self.step = min(0, self.step + 1)
            self._pause = RETRY_WINDOWS
        elif violations > DOWN_ABOVE:
            self._worsen(goodput)
        else:
            self._bad = 0

    def _worsen(self, goodput: float) -> None:
        # One bad window may still be the past: those that ended in it had started long before.
        self._bad += 1
        if self._bad < 2 or self._pause or self.step <= -FENCE:
            return
        self.step -= 1
        self._tried = goodput
