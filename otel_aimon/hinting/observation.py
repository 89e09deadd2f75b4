"""What the hints see: requests that ended, and one summary of every second."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Completed:
    """A request that ended.

    Attributes:
        end: Monotonic time of its end, in seconds.
        latency: Seconds from its start to its end.
        ok: It succeeded.
        tokens_in: Tokens of its prompt; None when unknown.
        tokens_out: Tokens generated; None when unknown.
        ttft: Seconds from its start to its first token; None when unknown.
    """

    end: float
    latency: float
    ok: bool = True
    tokens_in: int | None = None
    tokens_out: int | None = None
    ttft: float | None = None

    @property
    def start(self) -> float:
        """Monotonic time of its start, in seconds."""
        return self.end - self.latency

    @property
    def first_token(self) -> float | None:
        """Monotonic time of its first token; None when unknown."""
        return None if self.ttft is None else self.start + self.ttft

    @property
    def tpot(self) -> float | None:
        """Seconds per output token after the first; None when that cannot be known."""
        if self.ttft is None or self.tokens_out is None or self.tokens_out < 2:
            return None
        return (self.latency - self.ttft) / (self.tokens_out - 1)


@dataclass(frozen=True, slots=True)
class Interval:
    """What one model served within one short interval, usually a second.

    Attributes:
        end: Monotonic time of its end, in seconds.
        seconds: Its length.
        in_flight: Requests in flight: the mean over time, not over samples.
        completions: Requests that succeeded.
        mean_latency: Their mean latency in seconds; None without any.
        utilization: Busy share of the bottleneck, from 0 to 1, such as CPU time over the CPUs there are; None
            when unknown. NVML's GPU utilisation is none: one small kernel after another makes it 1.
        kv_utilization: Used share of the KV cache, from 0 to 1; None when unknown.
        rejected: Requests that a limiter turned away.
        inferred: The utilisation was not measured, so that it is no better than the count of completions.
    """

    end: float
    seconds: float
    in_flight: float
    completions: int
    mean_latency: float | None = None
    utilization: float | None = None
    kv_utilization: float | None = None
    rejected: int = 0
    inferred: bool = False

    @property
    def throughput(self) -> float:
        """Requests per second that succeeded."""
        return self.completions / self.seconds


@dataclass(frozen=True, slots=True)
class Slo:
    """What the user promises about one request; None is no promise.

    Attributes:
        latency: Seconds from start to end.
        ttft: Seconds to the first token.
        tpot: Seconds per output token after the first.
    """

    latency: float | None = None
    ttft: float | None = None
    tpot: float | None = None

    def met(self, request: Completed) -> bool:
        """Whether ``request`` kept every promise that can be judged."""
        if not request.ok:
            return False
        kept = ((request.latency, self.latency), (request.ttft, self.ttft), (request.tpot, self.tpot))
        return all(value is None or limit is None or value <= limit for value, limit in kept)
