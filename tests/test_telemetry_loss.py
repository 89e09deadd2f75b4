"""Spans and log records that the SDK drops are counted, and the SDK's own counts stay right."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from otel_aimon.telemetry_loss import TelemetryLoss


class Stuck(SpanExporter):
    """An exporter whose backend does not answer until it is let go."""

    def __init__(self) -> None:
        self.exporting = threading.Event()
        self.go_on = threading.Event()

    def export(self, spans: Any) -> SpanExportResult:
        self.exporting.set()
        self.go_on.wait(30)
        return SpanExportResult.SUCCESS


@pytest.fixture
def stuck() -> Iterator[tuple[Stuck, TracerProvider]]:
    exporter = Stuck()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(
        BatchSpanProcessor(exporter, max_queue_size=4, max_export_batch_size=2, schedule_delay_millis=10)
    )
    yield exporter, provider
    exporter.go_on.set()
    provider.shutdown()


def end_spans(provider: TracerProvider, number: int) -> None:
    for _ in range(number):
        provider.get_tracer("test").start_span("s").end()


def test_what_finds_the_queue_full_is_counted(stuck: tuple[Stuck, TracerProvider]) -> None:
    exporter, provider = stuck
    loss = TelemetryLoss(lambda: (provider, None, None))
    assert loss.look() == 0
    end_spans(provider, 2)
    assert exporter.exporting.wait(30)
    end_spans(provider, 4)  # fills the queue
    assert loss.look() == 0
    end_spans(provider, 3)
    assert loss.look() == 3


def test_the_processors_own_metrics_hear_of_it_as_before(
    stuck: tuple[Stuck, TracerProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, provider = stuck
    processor = provider._active_span_processor._span_processors[0]._batch_processor  # type: ignore[attr-defined]
    heard: list[tuple[int, str]] = []
    own = processor._metrics
    monkeypatch.setattr(
        own, "drop_items", lambda count, why="queue_full": heard.append((count, why)), raising=False
    )
    loss = TelemetryLoss(lambda: (provider, None, None))
    loss.look()
    loss.look()  # once is enough
    end_spans(provider, 2)
    assert exporter.exporting.wait(30)
    end_spans(provider, 5)
    assert heard == [(1, "queue_full")]
    loss.stop()
    assert processor._metrics is own
    end_spans(provider, 1)
    assert (loss.dropped, len(heard)) == (1, 2)


def test_a_provider_that_is_built_otherwise_is_left_alone() -> None:
    loss = TelemetryLoss(lambda: (object(), None, object()))
    assert loss.look() == 0
    loss.stop()
