"""Reads back everything that left otel-aimon: all spans and all metric points, as plain data."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

import otel_aimon
from tests.support import locks


@dataclass
class Point:
    """One metric point."""

    attributes: dict[str, Any]
    value: float | None = None
    count: int | None = None
    total: float | None = None
    exemplar_trace_ids: list[int] = field(default_factory=list)


class Telemetry:
    """In-memory providers with otel-aimon on them.

    Use it as a context manager: it instruments on entry and uninstruments on exit. Resources are
    sampled, alerts judged, and hints told, only where ``resources``, ``alerts`` and ``hints`` are among the settings.
    """

    def __init__(self, sampler: Sampler | None = None, **settings: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(sampler=sampler) if sampler else TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider(metric_readers=[self.reader])
        self.log_exporter = InMemoryLogRecordExporter()
        self.logger_provider = LoggerProvider()
        self.logger_provider.add_log_record_processor(SimpleLogRecordProcessor(self.log_exporter))
        self.settings = {
            "resources": "none",
            "alerts": False,
            "hints": False,
            "lock_directory": locks.DIRECTORY,
            **settings,
        }

    def __enter__(self) -> Telemetry:
        otel_aimon.instrument(
            tracer_provider=self.tracer_provider,
            meter_provider=self.meter_provider,
            logger_provider=self.logger_provider,
            **self.settings,
        )
        return self

    def __exit__(self, *exc: object) -> None:
        otel_aimon.uninstrument()
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()
        self.logger_provider.shutdown()

    def events(self) -> list[dict[str, Any]]:
        """All events, in the order in which they were emitted: name, body, severity, attributes."""
        return [
            {
                "name": each.log_record.event_name,
                "body": each.log_record.body,
                "severity": each.log_record.severity_text,
                "attributes": dict(each.log_record.attributes or {}),
                "trace_id": each.log_record.trace_id,
            }
            for each in self.log_exporter.get_finished_logs()
        ]

    def forget_spans(self) -> None:
        """Leave out of the following what has ended so far."""
        self.tracer_provider.force_flush()
        self.exporter.clear()

    def raw_spans(self) -> list[Any]:
        """The SDK's finished spans, in the order of their starts."""
        self.tracer_provider.force_flush()
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time)

    def spans(self) -> list[dict[str, Any]]:
        """All finished spans as plain data, in the order of their starts.

        Each has name, kind, parent (the parent's name or None), attributes, status, events.
        """
        raw = self.raw_spans()
        names = {span.context.span_id: span.name for span in raw}
        return [
            {
                "name": span.name,
                "kind": span.kind.name,
                "parent": names.get(span.parent.span_id, "?") if span.parent else None,
                "attributes": dict(span.attributes),
                "status": span.status.status_code.name,
                "events": [event.name for event in span.events],
            }
            for span in raw
        ]

    def metrics(self) -> dict[str, list[Point]]:
        """Collects once: all points by metric name. Histograms have count and total, others value."""
        data = self.reader.get_metrics_data()
        found: dict[str, list[Point]] = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        found.setdefault(metric.name, []).append(
                            Point(
                                dict(point.attributes),
                                getattr(point, "value", None),
                                getattr(point, "count", None),
                                getattr(point, "sum", None),
                                [each.trace_id for each in getattr(point, "exemplars", ())],
                            )
                        )
        return found

    def counts(self, name: str = "aimon.inference.duration") -> dict[tuple[Any, ...], int]:
        """Histogram counts by the values of its points' attributes, in the order of the keys' names."""
        return {
            tuple(value for _, value in sorted(point.attributes.items())): point.count or 0
            for point in self.metrics().get(name, [])
        }


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    """Wait for ``condition()``; fail when it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
