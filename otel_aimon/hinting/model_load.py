"""What one model serves, second by second, and the hints that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING

from otel_aimon.hinting.busy_share import BelievedUtilization
from otel_aimon.hinting.concurrency import ConcurrencyAdvisor, ConcurrencyHint
from otel_aimon.hinting.observation import Completed, Interval
from otel_aimon.hinting.scaling import Replica, ScalingAdvisor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_aimon.core.inference import Inference
    from otel_aimon.hinting.observation import Slo

SMOOTHING = 10.0
"""Seconds over which the published load is smoothed."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What else is known of an interval.

    Attributes:
        utilization: Busy share of the CPU or the GPU; None when unknown.
        kv_utilization: Used share of the KV cache; None when unknown.
        rejected: Requests that the model's limiter turned away.
        queued: Requests that wait for the limiter.
        frozen: The machine is throttled: what it does now says nothing about later.
    """

    utilization: float | None = None
    kv_utilization: float | None = None
    rejected: int = 0
    queued: int = 0
    frozen: bool = False


class ModelLoad:
    """Follows one model.

    Args:
        slo: What is promised.
        now: Monotonic seconds.

    Attributes:
        advisor: Of the concurrency.
        scaling: Of the replicas.
        interval: The latest; None before the first.
        in_flight: Requests in flight, smoothed.
        utilization: Requests in flight and waiting over the hinted limit; None as long as no bound is known, for
            what was seen is no reason to scale.
        device: Where the latest request ran; None when unknown.
        remote: It is the model of another process: nothing here tells how busy it is.
    """

    def __init__(self, slo: Slo, now: float) -> None:
        self.advisor = ConcurrencyAdvisor(slo, now)
        self.scaling = ScalingAdvisor()
        self.interval: Interval | None = None
        self.in_flight = 0.0
        self.utilization: float | None = None
        self.device: str | None = None
        self.remote = False
        self._believed = BelievedUtilization()
        self._stepped = now
        # Request-seconds: of the requests that ended, whole; of those that run, so far.
        self._ended_area = 0.0
        self._area: float | None = None
        self._completions = 0
        self._latency = 0.0

    @property
    def hint(self) -> ConcurrencyHint | None:
        """The concurrency hint; None before enough is known."""
        return self.advisor.hint

    def ended(self, inference: Inference) -> Completed:
        """Take a request that ended.

        Returns:
            What is known of it.
        """
        latency = inference.duration
        self._ended_area += latency
        completed = _completed(inference)
        if completed.ok:
            self._completions += 1
            self._latency += latency
        self.device = inference.device or self.device
        self.advisor.add(completed)
        return completed

    def step(self, starts: Iterable[float], now: float, conditions: Conditions) -> bool:
        """Close an interval, about a second.

        Args:
            starts: When the requests that run now have started, in monotonic seconds.
            now: Monotonic seconds.
            conditions: What else is known.

        Returns:
            True when the published limit has changed.
        """
        seconds = now - self._stepped
        if seconds <= 0:
            return False
        interval = self._believed.judge(self._close(starts, now, seconds, conditions))
        self.interval = interval
        self.in_flight += (1 - exp(-seconds / SMOOTHING)) * (interval.in_flight - self.in_flight)
        changed = self.advisor.step(interval, frozen=conditions.frozen)
        hint = self.advisor.hint
        if hint is not None and self.advisor.bounded:
            replica = Replica(self.in_flight, conditions.queued, hint.limit)
            self.utilization = replica.utilization
            self.scaling.step(replica, now)
        return changed

    def _close(self, starts: Iterable[float], now: float, seconds: float, conditions: Conditions) -> Interval:
        area = self._ended_area + sum(max(0.0, now - start) for start in starts)
        before = area if self._area is None else self._area
        interval = Interval(
            end=now,
            seconds=seconds,
            in_flight=max(0.0, area - before) / seconds,
            completions=self._completions,
            mean_latency=self._latency / self._completions if self._completions else None,
            utilization=conditions.utilization,
            kv_utilization=conditions.kv_utilization,
            rejected=conditions.rejected,
        )
        self._stepped, self._area = now, area
        self._completions, self._latency = 0, 0.0
        return interval


def _completed(inference: Inference) -> Completed:
    steps, tokens = inference.steps, inference.output_tokens
    if steps is None and (inference.batch_size or 1) == 1:
        steps = tokens
    return Completed(
        end=inference.end_ns / 1e9,
        latency=inference.duration,
        ok=inference.error_type is None,
        # Those of all sequences together, which say what it holds in the KV cache only where there is one.
        tokens_in=inference.input_tokens if steps == tokens else None,
        tokens_out=steps if inference.series.generative else None,
        ttft=inference.time_to_first_token,
    )
