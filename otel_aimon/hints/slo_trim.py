"""SLO trim: steps around the hint, by the share of requests that broke a promise."""

from __future__ import annotations

from math import exp, log

RATIO = 1.1
"""Between neighbours on the grid."""

FENCE_BELOW = 0
FENCE_ABOVE = 0

UP_BELOW = 0.08
DOWN_ABOVE = 0.15
TWO_DOWN_ABOVE = 0.4
_WORSE = 0.97
_MEMORY = 0.97
_REMEMBERED = 0.3
_LONGEST_MEAN = 5.0

LEAST_COMPLETIONS = 100
LEAST_SECONDS = 2.0
LATENCY_SHARE = 0.5
"""A window is at least this share of the mean latency: less is not a sample of the limit in force."""


class _Goodput:
    """What was seen at one step of the grid."""

    __slots__ = ("mean", "weight")

    def __init__(self) -> None:
        self.mean = 0.0
        self.weight = 0.0

    def add(self, goodput: float) -> None:
        self.mean += (goodput - self.mean) / (min(self.weight, _LONGEST_MEAN) + 1)
        self.weight += 1


class SloTrim:
    """A factor on the hint: a step on a logarithmic grid, within a fence around 1.

    Few violations: up a step. Many: down a step, unless goodput was seen to be worse there.

    Args:
        now: Monotonic seconds.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._step = 0
        self._seen = {step: _Goodput() for step in range(-FENCE_BELOW, FENCE_ABOVE + 1)}
        self._restart(now)

    def _restart(self, now: float) -> None:
        self._start = now
        self._completions = self._good = self._rejected = 0
        self._latency = 0.0

    @property
    def factor(self) -> float:
        """To multiply the hint with."""
        return exp(self._step * log(RATIO))

    def restart(self, now: float) -> None:
        """Begin a new window: what was seen was not seen at the limit."""
        self._restart(now)

    def forget(self, now: float) -> None:
        """The hint has moved far, so that the steps around it are other limits now."""
        self.__init__(now)  # type: ignore[misc]

    def rejected(self) -> None:
        """A request was turned away."""
        self._rejected += 1

    def ended(self, now: float, latency: float, *, good: bool) -> None:
        """A request ended after ``latency`` seconds; it kept all promises if ``good``."""
        self._completions += 1
        self._good += good
        self._latency += latency
        seconds = now - self._start
        if self._completions < LEAST_COMPLETIONS:
            return
        if seconds >= max(LEAST_SECONDS, LATENCY_SHARE * self._latency / self._completions):
            self._judge(seconds)
            self._restart(now)

    def _judge(self, seconds: float) -> None:
        if not self._rejected:
            self._step += (self._step < 0) - (self._step > 0)
            return
        violations = 1 - self._good / self._completions
        for goodput in self._seen.values():
            goodput.weight *= _MEMORY
        self._seen[self._step].add(self._good / seconds)
        self._step = min(FENCE_ABOVE, max(-FENCE_BELOW, self._next(violations)))

    def _next(self, violations: float) -> int:
        here = self._step
        if violations > TWO_DOWN_ABOVE:
            return here - 2
        if violations > DOWN_ABOVE:
            return here if self._worse(here - 1) else here - 1
        if violations < UP_BELOW:
            return here if self._worse(here + 1) else here + 1
        return here

    def _worse(self, step: int) -> bool:
        other = self._seen.get(step)
        if other is None or other.weight < _REMEMBERED:
            return False
        return other.mean < _WORSE * self._seen[self._step].mean
