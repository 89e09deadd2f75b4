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


def register(meter: Meter, recorder: Recorder, pipeline: Pipeline) -> None:
    """Register ``aimon.selfmon.*``.

    Args:
        meter: Where.
        recorder: Whose queue and names are watched.
        pipeline: Whose work is watched.
    """
    readings: tuple[tuple[semconv.Metric, Callable[[], float]], ...] = (
        (semconv.SELFMON_CPU_TIME, lambda: pipeline.cpu_ns / 1e9),
        (semconv.SELFMON_OBSERVATIONS, lambda: pipeline.observations),
        (semconv.SELFMON_QUEUE_DEPTH, lambda: len(recorder.queue)),
        (semconv.SELFMON_CALLER_DRAINS, lambda: pipeline.caller_drains),
        (semconv.SELFMON_ERRORS, swallowed_count),
        (semconv.SELFMON_MODELS_OVERFLOW, lambda: recorder.models.overflowed),
    )
    for metric, read in readings:
        observe(meter, metric, _callback(read))


def _callback(read: Callable[[], float]) -> Callable[[CallbackOptions], list[Observation]]:
    return lambda _options: [Observation(read())]
