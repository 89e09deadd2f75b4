"""What has been wrong for long enough is the new usual: nobody wants an alert that never ends."""

from __future__ import annotations

ACCEPTED_SECONDS = 12 * 3600.0
"""Longer than a fault lasts that somebody means to repair, and than a leak takes to fill a memory."""


class Lasting:
    """How long something has been wrong without a break."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since: float | None = None

    def is_usual_now(self, time: float, *, wrong: bool) -> bool:
        """Take a tick.

        Args:
            time: Seconds.
            wrong: It is wrong now.

        Returns:
            True once, when it has been wrong for ``ACCEPTED_SECONDS``; then the time begins anew.
        """
        if not wrong:
            self._since = None
            return False
        if self._since is None:
            self._since = time
        if time - self._since < ACCEPTED_SECONDS:
            return False
        self._since = None
        return True
