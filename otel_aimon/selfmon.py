"""What otel-aimon itself costs and drops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Observation

from otel_aimon import semconv
from otel_aimon.core.guard import swallowed_count
from otel_aimon.core.instruments import observe

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import Meter

    from otel_aimon.core.pipeline import Pipeline
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.resources.sampler import Sampler


def register(meter: Meter, recorder: Recorder, pipeline: Pipeline, sampler: Sampler) -> None:
    """Register ``aimon.selfmon.*``.

    Args:
        meter: Where.
        recorder: Whose queue and names are watched.
        pipeline: Whose work is watched.
        sampler: Whose work and sources are watched.
    """
    readings: tuple[tuple[semconv.Metric, Callable[[], float]], ...] = (
        (semconv.SELFMON_CPU_TIME, lambda: pipeline.cpu_ns / 1e9),
        (semconv.SELFMON_OBSERVATIONS, lambda: pipeline.observations),
        (semconv.SELFMON_QUEUE_DEPTH, lambda: len(recorder.queue)),
        (semconv.SELFMON_CALLER_DRAINS, lambda: pipeline.caller_drains),
        (semconv.SELFMON_ERRORS, swallowed_count),
        (semconv.SELFMON_MODELS_OVERFLOW, lambda: recorder.models.overflowed),
        (semconv.SELFMON_SAMPLER_CPU_TIME, lambda: sampler.cpu_ns / 1e9),
    )
    for metric, read in readings:
        observe(meter, metric, _callback(read))
    observe(meter, semconv.SELFMON_SAMPLING_DURATION, _callback(lambda: sampler.last_seconds))
    observe(meter, semconv.SELFMON_SOURCE_AVAILABLE, lambda _options: _sources(sampler))


def _callback(read: Callable[[], float | None]) -> Callable[[CallbackOptions], list[Observation]]:
    def observations(_options: CallbackOptions) -> list[Observation]:
        value = read()
        return [] if value is None else [Observation(value)]

    return observations


def _sources(sampler: Sampler) -> list[Observation]:
    return [
        Observation(int(feed.available), {semconv.AIMON_SOURCE: feed.name})
        for feed in sampler.feeds
        if feed.available is not None
    ]
