"""Which resource to change: the bottleneck, once it has bound for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_aimon.analysis.bottleneck import Bottleneck

HOLD = 60.0
"""Seconds for which a resource must bind before it is advised to change it, and not bind before it is not."""

HOLD_UNDERUSED = 600.0
"""To have too much is no hurry."""

LEAST_CONFIDENCE = 0.3


class ResourceAdvisor:
    """Publishes the bottleneck when it has lasted.

    Attributes:
        bottleneck: What binds; None when nothing that is known does.
    """

    __slots__ = ("_candidate", "_since", "bottleneck")

    def __init__(self) -> None:
        self.bottleneck: Bottleneck | None = None
        self._candidate: str | None = None
        self._since: float | None = None

    def step(self, found: Bottleneck | None, now: float) -> bool:
        """Take what binds at ``now``, in monotonic seconds.

        Returns:
            True when what is published has changed.
        """
        if found is not None and found.confidence < LEAST_CONFIDENCE:
            found = None
        name = None if found is None else found.name
        if name != self._candidate or self._since is None:
            self._candidate, self._since = name, now
        published = None if self.bottleneck is None else self.bottleneck.name
        if name == published:
            self.bottleneck = found
            return False
        if now - self._since < (HOLD_UNDERUSED if name == "underused" else HOLD):
            return False
        self.bottleneck = found
        return True
