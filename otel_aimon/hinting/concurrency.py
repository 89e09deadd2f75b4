"""The concurrency hint: how many requests a model should have in flight, why, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_aimon.hinting.bounds import Bound
from otel_aimon.hinting.confidence import Confidence, LoadPeak, confidence
from otel_aimon.hinting.estimator import ConcurrencyEstimator
from otel_aimon.hinting.kv_tokens import KvTokens
from otel_aimon.hinting.publication import Publication

if TYPE_CHECKING:
    from otel_aimon.hinting.observation import Completed, Interval, Slo

LEAST_REQUESTS = 200
"""Before so many have ended there is no hint."""

SEEN = "seen"
"""Name of the bound that is none: so many were in flight, and nothing else is known."""

LOW_CONFIDENCE_PEAKS = 2.0
"""When the load stayed far below the bounds, no more than this times its peak is promised."""


@dataclass(frozen=True, slots=True)
class ConcurrencyHint:
    """What is published.

    Attributes:
        limit: Requests in flight.
        basis: Name of the bound that decides.
        confidence: How near the load came to it.
        lower_bound: The limit is only known to be at least this.
        kv_tokens: The limit in KV tokens in flight; None when the requests' tokens are unknown.
        bounds: All that are known.
    """

    limit: float
    basis: str
    confidence: Confidence
    lower_bound: bool
    kv_tokens: float | None
    bounds: tuple[Bound, ...]


class ConcurrencyAdvisor:
    """Turns what one model served into its hint.

    Args:
        slo: What is promised.
        now: Monotonic seconds.

    Attributes:
        hint: The latest; None before enough is known.
        estimator: What it rests on.
    """

    def __init__(self, slo: Slo, now: float = 0.0) -> None:
        self.estimator = ConcurrencyEstimator(slo)
        self.hint: ConcurrencyHint | None = None
        self._kv_tokens = KvTokens()
        self._publication = Publication()
        self._peak = LoadPeak(now)
        self._served = LoadPeak(now)
        self._saturated_at: float | None = None
        self._requests = 0

    def add(self, request: Completed) -> None:
        """Take a request that ended."""
        self._requests += 1
        self._kv_tokens.add(request)
        self.estimator.add(request)

    def step(self, interval: Interval, *, frozen: bool = False) -> bool:
        """Take an interval, about a second.

        Args:
            interval: What ended in it was given to :meth:`add` before.
            frozen: The machine is throttled or stalled: what it does now says nothing about later.

        Returns:
            True when the published limit has changed.
        """
        self._peak.add(interval.in_flight, interval.end)
        self.estimator.step(interval)
        if interval.completions and not self.estimator.crowded:
            self._served.add(interval.in_flight, interval.end)
        if not self.estimator.generative and self.estimator.utilization_law.saturated:
            self._saturated_at = interval.end
        if frozen or self._requests < LEAST_REQUESTS:
            return False
        bounds = self.estimator.bounds()
        binding = min(bounds, key=lambda bound: bound.limit, default=None)
        if binding is None:
            return self._see(interval.end)
        sure = self._confidence(binding, interval.end)
        lower_bound = sure is Confidence.LOW
        cap = max(1.0, LOW_CONFIDENCE_PEAKS * self._peak.value) if lower_bound else None
        changed = self._publication.add(binding.limit, interval.end, cap)
        self._publish(bounds, binding.basis, sure, lower_bound=lower_bound)
        return changed

    def _see(self, now: float) -> bool:
        """Nothing bounds it yet: what was served at once can be served at once."""
        if self._served.value < 1.0 or self.bounded:
            return False
        seen = Bound(SEEN, self._served.value)
        changed = self._publication.tell(seen.limit, now)
        self._publish([seen], SEEN, Confidence.LOW, lower_bound=True)
        return changed

    @property
    def kv_tokens_per_request(self) -> float | None:
        """KV tokens that a request in flight holds, on average; None when unknown."""
        return self._kv_tokens.per_request

    def _confidence(self, binding: Bound, now: float) -> Confidence:
        since = None if self._saturated_at is None else now - self._saturated_at
        return confidence(binding.limit, self._peak.value, since)

    @property
    def bounded(self) -> bool:
        """The hint rests on a bound, not only on what was seen."""
        return self.hint is not None and self.hint.basis != SEEN

    def _publish(self, bounds: list[Bound], basis: str, sure: Confidence, *, lower_bound: bool) -> None:
        limit = self._publication.value
        if limit is None:
            return
        held = self._kv_tokens.per_request
        self.hint = ConcurrencyHint(
            limit=limit,
            basis=basis,
            confidence=sure,
            lower_bound=lower_bound,
            kv_tokens=None if held is None else held * limit,
            bounds=tuple(bounds),
        )
