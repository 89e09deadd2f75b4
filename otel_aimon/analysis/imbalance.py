"""Is one model slow while the others are as fast as ever? Its residual against the median of theirs."""

from __future__ import annotations

from math import exp, sqrt
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_aimon.analysis.autoregression import Autoregression

SMOOTHING_TICKS = 6.0
"""Time constant of the means that are compared: a minute."""

LEAST_SIGMAS = 4.0
"""A smaller difference is noise, however large it looks."""

_CLIP = 1.5


class RecentMean:
    """The mean residual of a series over the last minute, and its variance.

    Attributes:
        level: Mean of the residual; a logarithm.
        variance: What noise does to it.
    """

    __slots__ = ("level", "variance")

    def __init__(self) -> None:
        self.level = self.variance = 0.0

    def add(self, residual: float, white: float, noise: Autoregression) -> None:
        """Take the next residual.

        Args:
            residual: Logarithm of the latency minus what is usual.
            white: Variance of its white noise.
            noise: What is known of the noise that lasts.
        """
        self.level += (max(-_CLIP, min(_CLIP, residual)) - self.level) / SMOOTHING_TICKS
        self.variance = noise.variance_of_mean(white, SMOOTHING_TICKS)


def imbalances(means: Sequence[RecentMean]) -> Mapping[int, float]:
    """By how much each of several models is slower than the median of the others.

    Args:
        means: One for each model that had requests lately.

    Returns:
        Place in ``means`` → ratio of the latency to what is usual, divided by the same of the others: 1 where
        the difference is within the noise. Empty for a model without others.
    """
    if len(means) < 2:
        return {}
    found = {}
    for place, mean in enumerate(means):
        others = [*means[:place], *means[place + 1 :]]
        difference = mean.level - median(other.level for other in others)
        spread = sqrt(mean.variance + max(other.variance for other in others))
        found[place] = exp(difference) if difference > LEAST_SIGMAS * spread else 1.0
    return found
