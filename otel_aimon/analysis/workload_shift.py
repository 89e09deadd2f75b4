"""Have requests another size than usual? A two-sided CUSUM of the logarithm of their tokens.

Source: E. S. Page, "Continuous inspection schemes", Biometrika, 1954.
"""

from __future__ import annotations

from math import exp, inf, log, sqrt
from typing import Any

from otel_aimon.analysis.autoregression import Autoregression
from otel_aimon.analysis.daily_profile import DailyProfile

SLACK = 0.5
"""In standard deviations: smaller deviations are forgotten."""

CAP = 60.0
SUSPICIOUS = 8.0
"""From here on nothing is learned."""

_LEAST_SIGMA = 0.05
"""Sizes that differ by five per cent are the same."""

_CLIP = 4.0
_VARIANCE_STEP = 1.0 / 2000.0


class WorkloadShift:
    """Follows the mean tokens of a series' requests.

    Args:
        tick_seconds: Time between two ticks.

    Attributes:
        score: The larger of the two sums, in standard deviations.
        usual: Tokens that a request usually has now; None before anything is known.
    """

    __slots__ = ("_less", "_more", "_noise", "_profile", "_seen", "_variance", "score", "usual")

    def __init__(self, tick_seconds: float) -> None:
        self._profile = DailyProfile(tick_seconds)
        self._noise = Autoregression(tick_seconds)
        self._variance = 0.04
        self._seen = 0
        self._less = self._more = self.score = 0.0
        self.usual: float | None = None

    def add(self, time: float, tokens: float, *, cautious: bool) -> None:
        """Take a tick.

        Args:
            time: Seconds; the time of day counts.
            tokens: Mean tokens of a request.
            cautious: Learn nothing while the size is suspicious.
        """
        seen = log(max(tokens, 1.0))
        level = self._profile.at(time)
        residual = 0.0 if level is None else seen - level
        self.usual = None if level is None else exp(level)
        sigma = self._sigma()
        z = max(-_CLIP, min(_CLIP, residual / sigma))
        self._more = min(CAP, max(0.0, self._more + z - SLACK))
        self._less = min(CAP, max(0.0, self._less - z - SLACK))
        self.score = max(self._more, self._less)
        if cautious and self.score >= SUSPICIOUS:
            return
        clipped = z * sigma
        self._seen += 1
        self._variance += max(_VARIANCE_STEP, 1.0 / self._seen) * (clipped * clipped - self._variance)
        self._noise.add(clipped)
        self._profile.learn(time, seen, _CLIP * sigma)

    def _sigma(self) -> float:
        """Standard deviation of a tick, widened as far as neighbouring ticks repeat one another.

        A sum of n values of an AR(1) process varies ``(1 + rho) / (1 - rho)`` times as much as one of
        independent values.
        """
        rho = self._noise.rho
        lasting = min(self._variance, self._noise.variance)
        return max(_LEAST_SIGMA, sqrt(self._variance - lasting + lasting * (1.0 + rho) / (1.0 - rho)))

    def state(self) -> dict[str, Any]:
        """What was learned, for a file."""
        return {
            "profile": self._profile.state(),
            "noise": self._noise.state(),
            "variance": self._variance,
            "seen": self._seen,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what was learned.

        Raises:
            ValueError: It does not fit.
        """
        variance, seen = float(state["variance"]), float(state["seen"])
        if not (0.0 <= variance < inf and 0.0 <= seen < inf):
            raise ValueError("a variance is finite and not negative")
        self._profile.restore(state["profile"])
        self._noise.restore(state["noise"])
        self._variance, self._seen = variance, int(seen)
