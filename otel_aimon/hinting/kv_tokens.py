"""The concurrency hint in KV tokens: a long prompt counts for more than a short one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_aimon.hinting.observation import Completed

_GAIN = 0.01


class KvTokens:
    """KV tokens that a request in flight holds, on average over requests and over time.

    A request holds its prompt and, on average over its life, half of what it generates. Those that live
    long are in flight more often, so that each weighs by its latency.
    """

    __slots__ = ("_seconds", "_token_seconds")

    def __init__(self) -> None:
        self._seconds = self._token_seconds = 0.0

    def add(self, request: Completed) -> None:
        """Take a request; one whose tokens are unknown says nothing."""
        if request.tokens_in is None or request.tokens_out is None:
            return
        held = request.tokens_in + request.tokens_out / 2
        self._seconds += _GAIN * (request.latency - self._seconds)
        self._token_seconds += _GAIN * (request.latency * held - self._token_seconds)

    @property
    def per_request(self) -> float | None:
        """Tokens; None as long as nothing is known."""
        return self._token_seconds / self._seconds if self._seconds > 0 else None
