"""Do all models do it, or one? A mean over all of them, against the same without the one that raises it most."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SHIFT_TICKS = 12.0
"""Time constant for what begins at once: two minutes."""

DRIFT_TICKS = 90.0
"""The same for what comes slowly: a quarter of an hour."""

_SHARE = 0.4
"""What the others do is shared by all when it comes to so much of the mean."""


class Shared:
    """Follows the residuals of several models.

    Attributes:
        shift: What happened in the last minutes happened to more than one.
        drift: The same of the last quarter of an hour.
    """

    __slots__ = ("_means", "drift", "shift")

    def __init__(self) -> None:
        self._means = [[0.0, 0.0], [0.0, 0.0]]
        self.shift = self.drift = False

    def add(self, residuals: Sequence[tuple[float, float]]) -> None:
        """Take a tick.

        Args:
            residuals: Weight and residual of each model that had requests.
        """
        if len(residuals) < 2:
            self.shift = self.drift = False
            return
        total = sum(weight for weight, _ in residuals)
        weighted = sum(weight * residual for weight, residual in residuals)
        others = min((weighted - weight * residual) / (total - weight) for weight, residual in residuals)
        for means, ticks in zip(self._means, (SHIFT_TICKS, DRIFT_TICKS), strict=True):
            means[0] += (weighted / total - means[0]) / ticks
            means[1] += (others - means[1]) / ticks
        self.shift, self.drift = (rest > _SHARE * mean for mean, rest in self._means)
