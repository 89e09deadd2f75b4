"""Has the level shifted upwards? A generalised likelihood ratio test on the innovations of a Kalman filter.

Source: A. S. Willsky and H. L. Jones, "A generalized likelihood ratio approach to the detection and
estimation of jumps in linear systems", IEEE Transactions on Automatic Control, 1976. The filter knows the
noise (AR(1) plus white noise, see ``autoregression.py``), so its innovations are white: noise that lasts does
not add up to an alarm, and the first tick of a jump counts for what it is worth.
"""

from __future__ import annotations

from array import array
from math import log, sqrt

WINDOW = 200
"""Ticks that an onset may lie back."""

_RECENT = 24
_THINNED = 8
"""Onsets older than ``_RECENT`` ticks are kept for every eighth tick only."""

_CLIP = 5.0
LEAST_SHIFT = 0.1
"""Smaller shifts of the logarithm, ten per cent, are nobody's concern."""

_AGE_BONUS = [log(1.0 + age) for age in range(WINDOW + 2)]
"""The older an onset, the fewer independent ones there are: each age has the same rate of false alarms."""


class _Onsets:
    """The hypotheses that the level shifted at one tick or another, side by side, a column for each quantity."""

    __slots__ = ("absorbed", "begun", "evidence", "information", "level", "weight")

    def __init__(self) -> None:
        self.begun = array("q")
        self.absorbed, self.evidence, self.information = array("d"), array("d"), array("d")
        self.level, self.weight = array("d"), array("d")

    def _columns(self) -> tuple[array[float], ...]:
        return self.absorbed, self.evidence, self.information, self.level, self.weight

    def __len__(self) -> int:
        return len(self.begun)

    def open(self, now: int) -> None:
        self.begun.append(now)
        for column in self._columns():
            column.append(0.0)

    def keep(self, places: list[int]) -> None:
        self.begun = array("q", [self.begun[place] for place in places])
        for column in self._columns():
            column[:] = array("d", [column[place] for place in places])


class LevelShift:
    """Follows one series of residuals from the usual level.

    Attributes:
        score: Log-likelihood ratio of the best onset, in nats, plus the logarithm of its age;
            0 without any.
        shift: The shift that this onset explains best.
        level: The mean residual since this onset: what was seen, with the noise that lasts in it.
        age: Ticks since this onset.
    """

    __slots__ = ("_estimate", "_onsets", "_ticks", "_variance", "age", "level", "score", "shift")

    def __init__(self) -> None:
        self._estimate = 0.0
        self._variance = 0.01
        self._ticks = 0
        self._onsets = _Onsets()
        self.score = self.shift = self.level = 0.0
        self.age = 0

    def add(self, residual: float, white: float, rho: float, variance: float) -> float:
        """Take the next residual.

        Args:
            residual: What was seen minus what is usual; a logarithm.
            white: Variance of its white noise.
            rho: Autocorrelation of the noise that lasts.
            variance: Variance of the noise that lasts.

        Returns:
            The score.
        """
        predicted = rho * self._estimate
        uncertain = rho * rho * self._variance + variance * (1.0 - rho * rho)
        spread = uncertain + white
        gain = uncertain / spread
        limit = _CLIP * sqrt(spread)
        innovation = max(-limit, min(limit, residual - predicted))
        self._estimate = predicted + gain * innovation
        self._variance = (1.0 - gain) * uncertain
        self._ticks += 1
        if self._ticks % _THINNED == 0:
            self._thin_out()
        self._onsets.open(self._ticks)
        self._judge(residual, innovation, 1.0 / spread, 1.0 / (white + variance), rho, gain)
        return self.score

    def forget(self) -> None:
        """Forget the onsets: what they began is over."""
        self._onsets = _Onsets()
        self.score = self.shift = self.level = 0.0
        self.age = 0

    def _thin_out(self) -> None:
        now = self._ticks
        self._onsets.keep(
            [
                place
                for place, begun in enumerate(self._onsets.begun)
                if now - begun < _RECENT or (begun % _THINNED == 0 and now - begun < WINDOW)
            ]
        )

    def _judge(
        self, residual: float, innovation: float, precision: float, weight: float, rho: float, gain: float
    ) -> None:
        best, shift, level, age, now = 0.0, 0.0, 0.0, 0, self._ticks
        onsets = self._onsets
        absorbeds, evidences, informations = onsets.absorbed, onsets.evidence, onsets.information
        levels, weights = onsets.level, onsets.weight
        for place, begun in enumerate(onsets.begun):
            # What a unit shift would add to this innovation: less and less, as the filter follows it.
            absorbed = absorbeds[place]
            signature = 1.0 - rho * absorbed
            absorbeds[place] = rho * absorbed + gain * signature
            evidences[place] = evidence = evidences[place] + signature * innovation * precision
            informations[place] = information = informations[place] + signature * signature * precision
            levels[place] = mean = levels[place] + residual * weight
            weights[place] = known = weights[place] + weight
            if evidence <= LEAST_SHIFT * information or mean <= LEAST_SHIFT * known:
                continue
            score = evidence * evidence / (2.0 * information) + _AGE_BONUS[now - begun]
            if score > best:
                best, shift, level, age = score, evidence / information, mean / known, now - begun
        self.score, self.shift, self.level, self.age = best, shift, level, age
