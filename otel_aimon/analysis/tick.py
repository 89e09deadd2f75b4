"""What ended in one series within one tick of ten seconds."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt

from otel_aimon.analysis.sketch import LogHistogram
from otel_aimon.analysis.token_overhead import Moments

TICK_SECONDS = 10.0
_QUANTILE = 0.95


@dataclass(frozen=True, slots=True)
class Tick:
    """Counts and latencies.

    Attributes:
        count: Requests that ended; cancelled ones are not among them.
        errors: Those that failed.
        p95: Their latency, in seconds; None without any that succeeded.
        p95_per_token: The same divided by the tokens of each request and what it costs beside them, where they are known.
        log_sd: Standard deviation of the logarithm of the latency.
        tokens: Mean tokens of a request, where they are known.
        moments: Of tokens and latency, where they are known.
    """

    count: int = 0
    errors: int = 0
    p95: float | None = None
    p95_per_token: float | None = None
    log_sd: float | None = None
    tokens: float | None = None
    moments: Moments | None = None

    @property
    def normalised(self) -> float | None:
        """Latency per token where tokens are known, else latency: what does not change with the prompts."""
        return self.p95_per_token if self.p95_per_token is not None else self.p95


class TickBuilder:
    """Takes ended requests one by one, in O(1).

    Args:
        overhead: What a request costs beside its tokens, in tokens.
    """

    __slots__ = (
        "_errors", "_latency", "_log_mean", "_log_square", "_overhead", "_per_token", "_products", "_seconds",
        "_seconds_squared", "_succeeded", "_tokens", "_tokens_squared",
    )  # fmt: skip

    def __init__(self, overhead: float = 0.0) -> None:
        self._overhead = overhead
        self._seconds = self._seconds_squared = self._tokens_squared = self._products = 0.0
        self._errors = self._succeeded = self._tokens = 0
        self._latency = LogHistogram()
        self._per_token = LogHistogram()
        self._log_mean = self._log_square = 0.0

    def add(self, seconds: float, *, tokens: int | None = None, failed: bool = False) -> None:
        """Count a request that ended.

        Args:
            seconds: Its latency.
            tokens: What its latency is proportional to: output tokens, or those of the input.
            failed: It failed, so that its latency says nothing.
        """
        if failed:
            self._errors += 1
            return
        self._succeeded += 1
        self._latency.add(seconds)
        normal = seconds
        if tokens:
            normal = seconds / (tokens + self._overhead)
            self._per_token.add(normal)
            self._tokens += tokens
            self._seconds += seconds
            self._tokens_squared += tokens * tokens
            self._seconds_squared += seconds * seconds
            self._products += tokens * seconds
        # Welford's recurrence.
        value = log(max(normal, 1e-9))
        delta = value - self._log_mean
        self._log_mean += delta / self._succeeded
        self._log_square += delta * (value - self._log_mean)

    def tick(self) -> Tick:
        """What was counted."""
        known = self._per_token.count
        # Of a mixture, the latency of those without tokens would be compared with that of those with them.
        all_known = known > 0 and known == self._succeeded
        return Tick(
            count=self._succeeded + self._errors,
            errors=self._errors,
            p95=self._latency.quantile(_QUANTILE),
            p95_per_token=self._per_token.quantile(_QUANTILE) if all_known else None,
            log_sd=sqrt(self._log_square / (self._succeeded - 1)) if self._succeeded > 1 else None,
            tokens=self._tokens / known if all_known else None,
            moments=Moments(
                known,
                self._tokens,
                self._seconds,
                self._tokens_squared,
                self._seconds_squared,
                self._products,
            )
            if all_known
            else None,
        )
