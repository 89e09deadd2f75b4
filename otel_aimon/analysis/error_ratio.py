"""The share of requests that failed in the last minutes."""

from __future__ import annotations

from array import array

WINDOW_SECONDS = 300.0


class ErrorRatio:
    """Sums over a ring of ticks, in O(1).

    Args:
        tick_seconds: Time between two ticks.

    Attributes:
        count: Requests in the window.
        errors: Those of them that failed.
    """

    __slots__ = ("_counts", "_errors", "_next", "count", "errors")

    def __init__(self, tick_seconds: float) -> None:
        ticks = max(1, round(WINDOW_SECONDS / tick_seconds))
        self._counts, self._errors = array("q", bytes(8 * ticks)), array("q", bytes(8 * ticks))
        self._next = 0
        self.count = self.errors = 0

    def add(self, count: int, errors: int) -> None:
        """Take a tick.

        Args:
            count: Requests that ended in it.
            errors: Those that failed.
        """
        place = self._next
        self.count += count - self._counts[place]
        self.errors += errors - self._errors[place]
        self._counts[place], self._errors[place] = count, errors
        self._next = (place + 1) % len(self._counts)

    @property
    def ratio(self) -> float | None:
        """None without requests."""
        return self.errors / self.count if self.count else None
