"""An OTLP receiver inside this process: takes spans, metrics and logs over gRPC and HTTP, and keeps them.

For the demo and the tests. It opens a socket on the loopback address only, and only because a user
started a command that says so.
"""

from __future__ import annotations

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Self

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Span:
    """One received span."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    status: int
    scope: str
    resource: dict[str, Any]
    links: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Its duration."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True)
class Exemplar:
    """One measurement of a metric point, with the trace that it leads to."""

    value: float
    trace_id: str
    span_id: str


@dataclass(frozen=True)
class Point:
    """One received metric point.

    ``value`` is set for sums and gauges; ``count``, ``total`` and the buckets for histograms.
    """

    metric: str
    kind: str
    unit: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    scope: str
    start_ns: int
    time_ns: int
    value: float | None = None
    count: int | None = None
    total: float | None = None
    bounds: tuple[float, ...] = ()
    bucket_counts: tuple[int, ...] = ()
    exemplars: tuple[Exemplar, ...] = ()

    @property
    def series(self) -> tuple[Any, ...]:
        """What makes it the same time series: process, metric and attributes."""
        return (
            self.resource.get("service.instance.id"),
            self.scope,
            self.metric,
            tuple(sorted((key, str(value)) for key, value in self.attributes.items())),
        )


@dataclass(frozen=True)
class Event:
    """One received log record."""

    name: str
    body: Any
    severity: int
    attributes: dict[str, Any]
    trace_id: str
    span_id: str
    time_ns: int
    observed_ns: int
    scope: str
    resource: dict[str, Any]


@dataclass
class Received:
    """Everything that arrived so far, in the order of arrival."""

    spans: list[Span] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def latest_points(self, metric: str | None = None) -> list[Point]:
        """The latest point of each time series: for cumulative metrics, the whole truth.

        Args:
            metric: Only this metric.
        """
        latest: dict[tuple[Any, ...], Point] = {}
        for point in list(self.points):
            if metric is None or point.metric == metric:
                held = latest.get(point.series)
                if held is None or held.time_ns <= point.time_ns:
                    latest[point.series] = point
        return list(latest.values())


class Receiver:
    """Listens for OTLP on two free ports. Use it as a context manager.

    Args:
        http_port: Port for OTLP/HTTP; 0 takes a free one.
        grpc_port: Port for OTLP/gRPC; 0 takes a free one.

    Raises:
        OSError: A given port is in use.
    """

    def __init__(self, http_port: int = 0, grpc_port: int = 0) -> None:
        self.received = Received()
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer((LOOPBACK, http_port), self._handler())
        self._http.daemon_threads = True
        try:
            self._grpc, self._grpc_port = self._make_grpc_server(grpc_port)
        except BaseException:
            self._http.server_close()
            raise
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, name="otlp-receiver", daemon=True
        )

    @property
    def http_endpoint(self) -> str:
        """Value of ``OTEL_EXPORTER_OTLP_ENDPOINT`` for OTLP/HTTP."""
        return f"http://{LOOPBACK}:{self._http.server_address[1]}"

    @property
    def grpc_endpoint(self) -> str:
        """Value of ``OTEL_EXPORTER_OTLP_ENDPOINT`` for OTLP/gRPC."""
        return f"http://{LOOPBACK}:{self._grpc_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._grpc.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(grace=0.2).wait()
        self._thread.join()

    def _make_grpc_server(self, port: int) -> tuple[Any, int]:
        import grpc

        server = grpc.server(ThreadPoolExecutor(4, "otlp-receiver"), options=[("grpc.so_reuseport", 0)])
        for service in _SERVICES:
            handler = grpc.unary_unary_rpc_method_handler(
                self._taker(service),
                request_deserializer=service.request.FromString,
                response_serializer=service.response.SerializeToString,
            )
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service.grpc_name, {"Export": handler}),)
            )
        try:
            bound = server.add_insecure_port(f"{LOOPBACK}:{port}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise OSError(f"port {port} is in use")
        return server, bound

    def _taker(self, service: _Service) -> Callable[[Any, Any], Any]:
        def take(request: Any, _context: Any) -> Any:
            self._take(service, request)
            return service.response()

        return take

    def _take(self, service: _Service, request: Any) -> None:
        with self._lock:
            service.read(request, self.received)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self
        by_path = {service.http_path: service for service in _SERVICES}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                service = by_path.get(self.path)
                if service is None:
                    self.send_error(404)
                    return
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver._take(service, service.request.FromString(body))
                answer = service.response().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_args: Any) -> None:
                """Say nothing: the terminal belongs to the command."""

        return Handler


def _value(any_value: Any) -> Any:
    kind = any_value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return tuple(_value(each) for each in any_value.array_value.values)
    if kind == "kvlist_value":
        return _attributes(any_value.kvlist_value.values)
    return getattr(any_value, kind)


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _read_spans(request: Any, received: Received) -> None:
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            received.spans.extend(
                Span(
                    span.name,
                    span.kind,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    _attributes(span.attributes),
                    span.status.code,
                    scope_spans.scope.name,
                    resource,
                    tuple(link.span_id.hex() for link in span.links),
                )
                for span in scope_spans.spans
            )


def _read_metrics(request: Any, received: Received) -> None:
    for resource_metrics in request.resource_metrics:
        resource = _attributes(resource_metrics.resource.attributes)
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points if kind else ():
                    received.points.append(_point(metric, kind, point, scope_metrics.scope.name, resource))


def _point(metric: Any, kind: str, point: Any, scope: str, resource: dict[str, Any]) -> Point:
    exemplars = tuple(
        Exemplar(each.as_double or float(each.as_int), each.trace_id.hex(), each.span_id.hex())
        for each in getattr(point, "exemplars", ())
    )
    common = {
        "metric": metric.name,
        "kind": kind,
        "unit": metric.unit,
        "attributes": _attributes(point.attributes),
        "resource": resource,
        "scope": scope,
        "start_ns": point.start_time_unix_nano,
        "time_ns": point.time_unix_nano,
        "exemplars": exemplars,
    }
    if kind in {"sum", "gauge"}:
        which = point.WhichOneof("value")
        return Point(**common, value=getattr(point, which) if which else None)
    return Point(
        **common,
        count=point.count,
        total=point.sum,
        bounds=tuple(getattr(point, "explicit_bounds", ())),
        bucket_counts=tuple(getattr(point, "bucket_counts", ())),
    )


def _read_logs(request: Any, received: Received) -> None:
    for resource_logs in request.resource_logs:
        resource = _attributes(resource_logs.resource.attributes)
        for scope_logs in resource_logs.scope_logs:
            received.events.extend(
                Event(
                    record.event_name,
                    _value(record.body),
                    record.severity_number,
                    _attributes(record.attributes),
                    record.trace_id.hex(),
                    record.span_id.hex(),
                    record.time_unix_nano,
                    record.observed_time_unix_nano,
                    scope_logs.scope.name,
                    resource,
                )
                for record in scope_logs.log_records
            )


@dataclass(frozen=True)
class _Service:
    """One OTLP signal, on both transports."""

    http_path: str
    grpc_name: str
    request: Any
    response: Any
    read: Callable[[Any, Received], None]


_SERVICES = (
    _Service(
        "/v1/traces",
        "opentelemetry.proto.collector.trace.v1.TraceService",
        trace_service.ExportTraceServiceRequest,
        trace_service.ExportTraceServiceResponse,
        _read_spans,
    ),
    _Service(
        "/v1/metrics",
        "opentelemetry.proto.collector.metrics.v1.MetricsService",
        metrics_service.ExportMetricsServiceRequest,
        metrics_service.ExportMetricsServiceResponse,
        _read_metrics,
    ),
    _Service(
        "/v1/logs",
        "opentelemetry.proto.collector.logs.v1.LogsService",
        logs_service.ExportLogsServiceRequest,
        logs_service.ExportLogsServiceResponse,
        _read_logs,
    ),
)
