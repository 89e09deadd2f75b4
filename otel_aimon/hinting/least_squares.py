"""A straight line through a stream of points: recursive least squares with forgetting."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

PRIOR_SHARE = 0.6
"""Before the data tell, this share of ``y`` is taken to grow with ``x``: what most servers show at work."""

TOLD_SPREAD = 0.25
"""Standard deviation of ``x`` over its mean from which on the data do tell."""

TOLD_POINTS = 200.0
_TOLD_GAIN = 0.1

PRIOR_WEIGHT = 0.02
"""The prior counts as much as a spread of ``x`` by 14 % of its mean."""

LEAST_SHARE = 0.15
"""At least this share of the mean ``y`` grows with ``x``."""

KEEP = 0.99
"""Weight that is kept from one interval to the next."""

KEEP_POINTS = 100.0
"""Points that are not forgotten so."""

RELEARN_POINTS = 20.0
"""Points that are left when the line has moved."""

_LEAST_POINTS = 20.0


@dataclass(frozen=True, slots=True)
class Line:
    """``y = intercept + slope x``, with noise around it.

    Attributes:
        intercept: ``y`` at ``x = 0``.
        slope: What each ``x`` adds.
        noise: Standard deviation of ``y`` around the line; at ``x = 1`` if it grows.
        noise_grows: The noise is ``noise * sqrt(x)`` at ``x``. So it is where ``y`` is a sum over the requests
            that share a machine: the variance of a sum of n independent terms is n times theirs.
        spread: Standard deviation of the points' ``x`` over their mean.
    """

    intercept: float
    slope: float
    noise: float
    noise_grows: bool
    spread: float = 0.0

    def at(self, x: float) -> float:
        """Expected ``y``."""
        return self.intercept + self.slope * x

    def noise_at(self, x: float) -> float:
        """Standard deviation of ``y`` at ``x``."""
        return self.noise * sqrt(x) if self.noise_grows else self.noise

    def where(self, limit: float, z: float) -> float:
        """The ``x`` at which ``z`` standard deviations above the line reach ``limit``.

        Solves ``intercept + slope x + z noise = limit``; with noise that grows it is a quadratic in ``sqrt(x)``.

        Returns:
            0 when even ``x = 0`` lies above the limit.
        """
        margin = z * self.noise
        if not self.noise_grows:
            return max(0.0, (limit - self.intercept - margin) / self.slope)
        room = max(0.0, limit - self.intercept)
        root = (-margin + sqrt(margin**2 + 4 * self.slope * room)) / (2 * self.slope)
        return root**2


class RecursiveLeastSquares:
    """Weighted least squares over a stream in O(1), in which old points fade.

    Source: L. Ljung, "System Identification", 2nd ed., section 11.2. It is kept as discounted sums
    instead of as a covariance matrix: the same line, and no wind-up while ``x`` does not vary. There a
    ridge prior on the slope decides (A. Hoerl, R. Kennard, "Ridge regression", Technometrics 1970): the
    ratio of intercept to slope that was found while ``x`` did vary. A machine that slows down changes both alike.

    Args:
        forgetting: Weight that a point keeps when the next one comes.
        noise_grows: The variance of ``y`` is proportional to ``x``; points then weigh ``1/x``.
        steepest: Share of the mean ``y`` that may grow with ``x``; more than 1 is a negative intercept.
        remembers: The ratio of intercept and slope that the data told is the prior from then on.
    """

    __slots__ = ("_forgetting", "_noise_grows", "_ratio", "_remembers", "_steepest", "_sums", "points")

    def __init__(
        self, forgetting: float, *, noise_grows: bool, steepest: float = 1.0, remembers: bool = False
    ) -> None:
        self._forgetting = forgetting
        self._noise_grows = noise_grows
        self._steepest = steepest
        self._remembers = remembers
        self._sums = [0.0] * 6
        self._ratio: float | None = None
        self.points = 0.0

    def add(self, x: float, y: float) -> None:
        """Take a point."""
        weight = 1.0 / max(x, 1.0) if self._noise_grows else 1.0
        keep = self._forgetting
        self.points = self.points * keep + 1.0
        terms = (weight, weight * x, weight * y, weight * x * x, weight * x * y, weight * y * y)
        self._sums = [old * keep + new for old, new in zip(self._sums, terms, strict=True)]

    def fade(self, keep: float, least: float = 0.0) -> None:
        """Multiply the weight of all that was seen, but leave that of ``least`` points."""
        if self.points * keep < least:
            keep = min(1.0, least / self.points) if self.points else 1.0
        self.points *= keep
        self._sums = [old * keep for old in self._sums]

    def step(self, keep: float, least: float) -> None:
        """Close an interval: fade, and remember the shape of the line if the data told it."""
        self.fade(keep, least)
        line = self.line()
        if self._remembers and line is not None and self.points >= TOLD_POINTS and line.spread >= TOLD_SPREAD:
            ratio = max(0.0, line.intercept) / line.slope
            self._ratio = ratio if self._ratio is None else self._ratio + _TOLD_GAIN * (ratio - self._ratio)

    def relearn(self, points: float) -> None:
        """Keep the weight of only so many points, and forget the shape."""
        self.fade(0.0, points)
        self._ratio = None

    def line(self) -> Line | None:
        """The line; None as long as there are too few points."""
        if self.points < _LEAST_POINTS:
            return None
        weight, *sums = self._sums
        mean_x, mean_y, mean_xx, mean_xy, mean_yy = (total / weight for total in sums)
        if mean_x <= 0 or mean_y <= 0:
            return None
        variance_x = max(0.0, mean_xx - mean_x**2)
        covariance = mean_xy - mean_x * mean_y
        steepest = mean_y / mean_x
        ridge = PRIOR_WEIGHT * mean_x**2
        share = PRIOR_SHARE if self._ratio is None else mean_x / (mean_x + self._ratio)
        slope = (covariance + ridge * share * steepest) / (variance_x + ridge)
        slope = min(max(slope, LEAST_SHARE * steepest), self._steepest * steepest)
        residual = max(0.0, mean_yy - mean_y**2 - 2 * slope * covariance + slope**2 * variance_x)
        # The weighted mean square is sum(w e^2) / sum(w); times sum(w) / n it is that at weight 1.
        noise = sqrt(residual * weight / self.points)
        return Line(mean_y - slope * mean_x, slope, noise, self._noise_grows, sqrt(variance_x) / mean_x)
