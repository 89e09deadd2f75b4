"""The share of requests that failed in the last minutes."""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 300.0


class ErrorRatio:
    """Sums over a ring of ticks, in O(1).

    Args:
        tick_seconds: Time between two ticks.

    Attributes:
        count: Requests in the window.
        errors: Those of them that failed.
    """

    __slots__ = ("_ticks", "count", "errors")

    def __init__(self, tick_seconds: float) -> None:
        ticks = max(1, round(WINDOW_SECONDS / tick_seconds))
        self._ticks: deque[tuple[int, int]] = deque([(0, 0)] * ticks, maxlen=ticks)
        self.count = self.errors = 0

    def add(self, count: int, errors: int) -> None:
        """Take a tick.

        Args:
            count: Requests that ended in it.
            errors: Those that failed.
        """
        old_count, old_errors = self._ticks[0]
        self._ticks.append((count, errors))
        self.count += count - old_count
        self.errors += errors - old_errors

    @property
    def ratio(self) -> float | None:
        """None without requests."""
        return self.errors / self.count if self.count else None
