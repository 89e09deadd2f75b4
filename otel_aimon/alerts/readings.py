"""The latest value of every signal that a rule of the user's may name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_aimon import semconv
from otel_aimon.resources.points import observations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_aimon.analysis.evidence import Identity
    from otel_aimon.analysis.windows import Windows
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.resources.snapshot import Snapshot

Readings = dict[str, dict["Identity", float]]


def readings_of(snapshot: Snapshot | None, windows: Windows, recorder: Recorder) -> Readings:
    """Signal → what it is about → value.

    Args:
        snapshot: Of the resources; every process judges its own, whoever exports them.
        windows: What ended in the last window.
        recorder: What is in flight, and what waits.
    """
    found: Readings = {}
    if snapshot is not None:
        for name, points in observations(snapshot, lambda _: True).items():
            found[name] = {_identity(point.attributes or {}): point.value for point in points}
    for series, summary in windows.summaries():
        who = _identity(series.attributes)
        _put(found, semconv.INFERENCE_THROUGHPUT, who, summary.throughput)
        _put(found, semconv.INFERENCE_ERROR_RATIO, who, summary.error_ratio)
        for q in semconv.QUANTILES:
            quantile = _identity({**series.attributes, semconv.AIMON_QUANTILE: str(q)})
            _put(found, semconv.INFERENCE_LATENCY_QUANTILE, quantile, summary.latency.quantile(q))
    for series in list(recorder.series_by_key.values()):
        if series.in_process:
            _put(found, semconv.INFERENCE_ACTIVE, _identity(series.attributes), float(len(series.active)))
    for series, waiting in recorder.queue_sizes():
        _put(found, semconv.INFERENCE_QUEUE_SIZE, _identity(series.attributes), float(waiting))
    return found


def _put(found: Readings, metric: semconv.Metric, who: Identity, value: float | None) -> None:
    if value is not None:
        found.setdefault(metric.name, {})[who] = value


def _identity(attributes: Mapping[str, object]) -> Identity:
    return tuple(sorted((key, str(value)) for key, value in attributes.items()))
