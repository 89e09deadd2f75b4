"""Are there more errors than usual? A CUSUM of binomial log-likelihood ratios.

Source: E. S. Page, "Continuous inspection schemes", Biometrika, 1954, with the ratio of Wald's sequential test:
each request adds ``ln(p1/p0)`` when it failed and ``ln((1-p1)/(1-p0))`` when it did not.
"""

from __future__ import annotations

from math import log

OVER_DISPERSION = 1.5
"""Errors come in bunches; the sum is divided by this."""

CAP = 16.0
"""So that an alert ends soon after the errors do."""

_LEAST_RATIO = 5e-4
_MOST_RATIO = 0.99
_SLOWEST = 1e-4
_RECENT_REQUESTS = 2000


class ErrorShift:
    """Follows the errors of one series.

    Attributes:
        score: The cumulative sum, in nats.
        usual: The usual error ratio.
    """

    __slots__ = ("_recent", "_seen", "score", "usual")

    def __init__(self) -> None:
        self._seen = 1.0
        self.score = 0.0
        self.usual = self._recent = 0.002

    def add(self, count: int, errors: int, *, learn: bool, cautious: bool) -> float:
        """Take the requests of a tick.

        Args:
            count: All of them.
            errors: Those that failed.
            learn: Nothing is wrong, so that this is what is usual.
            cautious: Let no burst teach.

        Returns:
            The score.
        """
        usual = min(_MOST_RATIO, max(self.usual, _LEAST_RATIO))
        # No ratio is larger than 1: of what fails often anyway, half as many successes are a change.
        changed = min(max(3.0 * usual, usual + 0.005), (1.0 + usual) / 2.0)
        ratio = errors * log(changed / usual) + (count - errors) * log((1.0 - changed) / (1.0 - usual))
        self.score = min(CAP, max(0.0, self.score + ratio / OVER_DISPERSION))
        self._recent += (errors - count * self._recent) / (count + _RECENT_REQUESTS)
        if learn and count:
            self._learn(count, errors, 5.0 * usual + 3.0 / count if cautious else 1.0)
        return self.score

    def accept(self) -> None:
        """Take the ratio of the last requests for usual."""
        self.usual = self._recent
        self.score = 0.0

    def _learn(self, count: int, errors: int, most: float) -> None:
        self._seen += count
        rate = max(count / self._seen, _SLOWEST)
        self.usual += rate * (min(errors / count, most) - self.usual)

    def state(self) -> dict[str, float]:
        """What was learned, for a file."""
        return {"usual": self.usual, "seen": self._seen}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what was learned.

        Raises:
            ValueError: It does not fit.
        """
        usual, seen = float(state["usual"]), float(state["seen"])
        if not 0.0 <= usual <= 1.0:
            raise ValueError("the usual error ratio lies between 0 and 1")
        if not seen >= 1.0:
            raise ValueError("the number of requests seen is at least 1")
        self.usual, self._seen = usual, seen
