"""A limit on alerts that start: when everything breaks at once, one summary says so."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_aimon.alerts.machine import Transition

BUDGET = 10
"""Firing events of a process within :data:`PERIOD`."""

PERIOD = 60.0
SUMMARY_EVERY = 300.0


@dataclass(frozen=True, slots=True)
class Storm:
    """A summary of alerts that were withheld.

    Attributes:
        at: When it is told.
        since: When the first of them was withheld.
        withheld: How many were, since the last summary.
        rules: Their rules, the most frequent first.
    """

    at: float
    since: float
    withheld: int
    rules: tuple[str, ...]


class StormLimit:
    """Admits so many firing events in a period, and counts the others."""

    def __init__(self, budget: int = BUDGET, period: float = PERIOD) -> None:
        self._budget = budget
        self._period = period
        self._admitted: deque[float] = deque()
        self._withheld: Counter[str] = Counter()
        self._since = 0.0
        self._told_at: float | None = None

    def admit(self, step: Transition, now: float) -> bool:
        """Whether an alert may be told now; if not, it is counted for the summary."""
        while self._admitted and now - self._admitted[0] >= self._period:
            self._admitted.popleft()
        if len(self._admitted) < self._budget:
            self._admitted.append(now)
            return True
        if not self._withheld:
            self._since = now
        self._withheld[step.rule.name] += 1
        return False

    def summary(self, now: float) -> Storm | None:
        """What to tell about alerts that were withheld; at most one summary in five minutes."""
        if not self._withheld or (self._told_at is not None and now - self._told_at < SUMMARY_EVERY):
            return None
        # Sorted by name first, so that equal counts come in a stable order.
        rules = sorted(self._withheld, key=lambda name: (-self._withheld[name], name))
        storm = Storm(now, self._since, self._withheld.total(), tuple(rules))
        self._withheld.clear()
        self._told_at = now
        return storm
