"""The embedded OTLP receiver takes all signals over both transports."""

from __future__ import annotations

import http.client
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Status, StatusCode

from otel_aimon.cli.receiver import Receiver


def grpc_exporters(receiver: Receiver, compression: str) -> tuple[Any, Any, Any]:
    from grpc import Compression
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    chosen = Compression.Gzip if compression == "gzip" else Compression.NoCompression
    endpoint = receiver.grpc_endpoint
    return tuple(  # type: ignore[return-value]
        exporter(endpoint=endpoint, insecure=True, compression=chosen)
        for exporter in (OTLPSpanExporter, OTLPMetricExporter, OTLPLogExporter)
    )


def http_exporters(receiver: Receiver, compression: str) -> tuple[Any, Any, Any]:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    chosen = Compression(compression)
    return tuple(  # type: ignore[return-value]
        exporter(endpoint=f"{receiver.http_endpoint}/v1/{signal}", compression=chosen)
        for exporter, signal in (
            (OTLPSpanExporter, "traces"), (OTLPMetricExporter, "metrics"), (OTLPLogExporter, "logs")
        )
    )  # fmt: skip


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("exporters", [grpc_exporters, http_exporters])
def test_three_signals(exporters: Any, compression: str) -> None:
    resource = Resource({"service.name": "sender", "service.instance.id": "1"})
    with Receiver() as receiver:
        spans, metrics, logs = exporters(receiver, compression)
        tracer_provider = TracerProvider(resource=resource)
        tracer_provider.add_span_processor(BatchSpanProcessor(spans))
        meter_provider = MeterProvider([PeriodicExportingMetricReader(metrics, 3_600_000)], resource)
        logger_provider = LoggerProvider(resource=resource)
        logger_provider.add_log_record_processor(BatchLogRecordProcessor(logs))

        tracer = tracer_provider.get_tracer("scope")
        meter = meter_provider.get_meter("scope")
        histogram = meter.create_histogram(
            "latency", unit="s", explicit_bucket_boundaries_advisory=[1.0, 2.0]
        )
        counter = meter.create_counter("tokens", unit="{token}")
        with tracer.start_as_current_span("parent", attributes={"list": ["a", "b"], "flag": True}) as parent:
            with tracer.start_as_current_span("child", attributes={"number": 1, "part": 0.5}) as child:
                child.set_status(Status(StatusCode.ERROR, "no"))
                histogram.record(1.5, {"model": "m"})
                counter.add(3)
            logger_provider.get_logger("scope").emit(
                event_name="happened", body={"text": "b"}, attributes={"key": "value"}, timestamp=7
            )
        meter_provider.force_flush()
        counter.add(4)
        for provider in (tracer_provider, meter_provider, logger_provider):
            provider.shutdown()
    received = receiver.received

    trace_id, parent_id = f"{parent.context.trace_id:032x}", f"{parent.context.span_id:016x}"
    by_name = {span.name: span for span in received.spans}
    assert sorted(by_name) == ["child", "parent"]
    assert by_name["parent"].attributes == {"list": ("a", "b"), "flag": True}
    assert by_name["parent"].parent_id == ""
    assert (by_name["child"].parent_id, by_name["child"].trace_id) == (parent_id, trace_id)
    assert (by_name["child"].status, by_name["child"].attributes) == (2, {"number": 1, "part": 0.5})
    assert by_name["child"].seconds == (child.end_time - child.start_time) / 1e9
    assert {span.resource["service.name"] for span in received.spans} == {"sender"}
    assert {span.scope for span in received.spans} == {"scope"}

    (latency,) = received.latest_points("latency")
    assert (latency.count, latency.total, latency.unit) == (1, 1.5, "s")
    assert (latency.bounds, latency.bucket_counts) == ((1.0, 2.0), (0, 1, 0))
    assert latency.attributes == {"model": "m"}
    exemplars = [each for point in received.points for each in point.exemplars if point.metric == "latency"]
    assert [(each.value, each.trace_id) for each in exemplars] == [(1.5, trace_id)]
    assert [point.value for point in received.points if point.metric == "tokens"] == [3, 7]
    assert [point.value for point in received.latest_points("tokens")] == [7]
    assert {point.metric for point in received.latest_points()} == {"latency", "tokens"}

    (event,) = received.events
    assert (event.name, event.body, event.attributes) == ("happened", {"text": "b"}, {"key": "value"})
    assert (event.trace_id, event.span_id, event.time_ns) == (trace_id, parent_id, 7)


def test_a_path_that_is_no_signal() -> None:
    with Receiver() as receiver:
        connection = http.client.HTTPConnection(urlsplit(receiver.http_endpoint).netloc)
        connection.request("POST", "/v1/profiles", b"")
        assert connection.getresponse().status == 404
        connection.close()


@pytest.mark.parametrize("which", ["http_port", "grpc_port"])
def test_a_port_in_use(which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            Receiver(**{which: taken.getsockname()[1]})
