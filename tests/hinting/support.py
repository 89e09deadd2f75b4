"""Intervals and requests with the few values that a test is about."""

from __future__ import annotations

from otel_aimon.hinting.observation import Completed, Interval


def interval(
    end: float = 1.0,
    *,
    in_flight: float = 1.0,
    throughput: float = 10.0,
    utilization: float | None = None,
    kv_utilization: float | None = None,
    rejected: int = 0,
) -> Interval:
    """A second that ended at ``end``; latency is by Little's law."""
    completions = round(throughput)
    return Interval(
        end=end,
        seconds=1.0,
        in_flight=in_flight,
        completions=completions,
        mean_latency=in_flight / throughput if completions else None,
        utilization=utilization,
        kv_utilization=kv_utilization,
        rejected=rejected,
    )


def generated(
    end: float, tpot: float, *, tokens: int = 101, ttft: float = 0.1, tokens_in: int = 100
) -> Completed:
    """A request that generated ``tokens`` and ended at ``end``."""
    return Completed(end, ttft + tpot * (tokens - 1), True, tokens_in, tokens, ttft)
