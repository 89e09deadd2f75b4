"""Reads back everything that comes out: all spans and all metric points, as plain data."""

from __future__ import annotations

import os

# Errors of our hooks are raised here, where an application would go on without the telemetry.
os.environ["OTEL_AIMON_TEST_RERAISE"] = "1"

from collections.abc import Iterator
from typing import Any

import pytest
import tinyengine_aimon  # noqa: F401 - from now on otel_aimon.instrument() instruments it
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import otel_aimon

MEASURED = {"aimon.time_to_first_token"}
"""Attributes whose value differs each time."""


class Telemetry:
    """A process that is instrumented, with providers in memory."""

    def __enter__(self) -> Telemetry:
        self._exporter = InMemorySpanExporter()
        self._tracers = TracerProvider()
        self._tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self._meters = MeterProvider(metric_readers=[self._reader])
        self._loggers = LoggerProvider()
        otel_aimon.instrument(
            tracer_provider=self._tracers,
            meter_provider=self._meters,
            logger_provider=self._loggers,
            frameworks=("tinyengine",),
            resources="none",
            alerts=False,
            hints=False,
        )
        return self

    def __exit__(self, *exc: object) -> None:
        otel_aimon.uninstrument()
        for provider in (self._tracers, self._meters, self._loggers):
            provider.shutdown()

    def spans(self) -> list[dict[str, Any]]:
        """All finished spans, in the order of their starts; what is measured is ``True``."""
        self._tracers.force_flush()
        raw = sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time)
        names = {span.context.span_id: span.name for span in raw}
        return [
            {
                "name": span.name,
                "kind": span.kind.name,
                "parent": names.get(span.parent.span_id) if span.parent else None,
                "attributes": {
                    key: value > 0 if key in MEASURED else value for key, value in span.attributes.items()
                },
                "status": span.status.status_code.name,
                "events": [event.name for event in span.events],
            }
            for span in raw
        ]

    def points(self, metric: str) -> dict[tuple[Any, ...], tuple[float, float]]:
        """The points of a metric: values of the attributes in the order of their keys → (count, sum)."""
        otel_aimon.force_flush()
        data = self._reader.get_metrics_data()
        return {
            tuple(value for _, value in sorted(point.attributes.items())): (
                getattr(point, "count", 1),
                point.sum if hasattr(point, "sum") else point.value,
            )
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for each in scope.metrics
            if each.name == metric
            for point in each.data.data_points
        }

    def counts(self, metric: str = "aimon.inference.duration") -> dict[tuple[Any, ...], float]:
        """How often a histogram was fed, by the values of its points' attributes."""
        return {key: count for key, (count, _) in self.points(metric).items()}

    def sums(self, metric: str) -> dict[tuple[Any, ...], float]:
        """What a metric adds up to, by the values of its points' attributes."""
        return {key: total for key, (_, total) in self.points(metric).items()}


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry() as running:
        yield running
