"""What the tests of all model servers share: a running server, and afterwards what it sent."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx

from otel_aimon.cli.receiver import Received, Receiver, Span
from tests.e2e.processes import environment, free_port, instance, our_spans, serving

CALLER = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
"""Trace and span of all requests' caller."""

HEADERS = {"traceparent": f"00-{'-'.join(CALLER)}-01"}
MEASURED = {"aimon.queue.duration", "aimon.time_to_first_token"}
NAMES = {
    "size": "aimon.batch.size",
    "error": "error.type",
    "first": "aimon.time_to_first_token",
    "queue": "aimon.queue.duration",
    "device": "aimon.device",
}


class Server:
    """A server that runs until the end of the ``with`` block that gave it.

    Args:
        framework: Value of ``aimon.framework`` of its requests.
        port: Where it listens for HTTP.
        receiver: What it sends to.

    Attributes:
        grpc_port: Where it listens for gRPC, if it does.
    """

    grpc_port = 0

    def __init__(self, framework: str, port: int, receiver: Receiver) -> None:
        self.framework = framework
        self.port = port
        self._receiver = receiver

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(self.url(path), json=body, headers=HEADERS, timeout=60)

    def leave(self, path: str, body: Any) -> None:
        """Ask for a stream, and leave after its first bytes."""
        with httpx.stream("POST", self.url(path), json=body, headers=HEADERS, timeout=60) as response:
            next(response.iter_bytes())

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    @property
    def endpoint(self) -> str:
        return self._receiver.http_endpoint

    @property
    def received(self) -> Received:
        return self._receiver.received

    @property
    def spans(self) -> list[Span]:
        return sorted(our_spans(self._receiver), key=lambda span: span.start_ns)

    def requests(self) -> list[Span]:
        return [span for span in self.spans if span.attributes["aimon.framework"] == self.framework]

    def models(self) -> list[Span]:
        """The spans of what the models did."""
        return [span for span in self.spans if span.attributes["aimon.framework"] != self.framework]

    def callers(self, span: Span) -> tuple[str, str]:
        """The trace and the parent of the outermost span around it: the web framework may have made some."""
        known = {each.span_id: each for each in self.received.spans}
        while span.parent_id in known:
            span = known[span.parent_id]
        return span.trace_id, span.parent_id

    def points(self, metric: str) -> dict[tuple[Any, ...], int]:
        """Counts by the values of the attributes, in the order of their names."""
        found: Counter[tuple[Any, ...]] = Counter()
        for point in self.received.latest_points(metric):
            found[tuple(value for _, value in sorted(point.attributes.items()))] += point.count or 0
        return dict(found)

    def assert_shared(self, total: int) -> None:
        """``total`` requests were worked on in batches: each batch inside one of its requests."""
        requests, models = self.requests(), self.models()
        assert len(requests) == total
        carriers = {span.parent_id: span.attributes["aimon.batch.size"] for span in models}
        assert carriers.keys() <= {span.span_id for span in requests}
        sizes = {span.span_id: span.attributes["aimon.batch.size"] for span in requests}
        assert sum(sizes[carrier] for carrier in carriers) == total
        assert max(sizes.values()) > 1
        for span in requests:
            if span.span_id in carriers:
                assert span.links == ()
            else:
                (carrier,) = span.links
                assert sizes[carrier] == sizes[span.span_id]

    def assert_each_sends_its_own(self) -> Counter[str]:
        """Each process sent the requests that it has counted; returns how many, by process."""
        served = Counter(instance(span) for span in self.requests())
        counted: Counter[str] = Counter()
        for point in self.received.latest_points("aimon.inference.duration"):
            counted[instance(point)] += point.count or 0
        assert counted == served
        return served


S = TypeVar("S", bound=Server)


@contextlib.contextmanager
def mlserver(folder: Path, make: type[S], *, workers: int = 0, **model: Any) -> Iterator[S]:
    """An MLServer, with the model of ``apps/mlserver_app.py``."""
    http_port, grpc_port, metrics_port = free_port(), free_port(), free_port()
    settings = {
        "http_port": http_port,
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "host": "127.0.0.1",
        "parallel_workers": workers,
        "gzip_enabled": False,
        "metrics_dir": str(folder),
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(
        json.dumps({"name": "iris", "implementation": "mlserver_app.Classifier", **model})
    )
    with Receiver() as receiver:
        env = environment(
            receiver.http_endpoint,
            OMP_NUM_THREADS="1",
            OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="system_metrics,fastapi,grpc_aio_server,grpc_server",
        )
        with serving("mlserver", "start", str(folder), env=env, port=http_port, health="/v2/health/ready"):
            server = make("mlserver", http_port, receiver)
            server.grpc_port = grpc_port
            yield server


def seen(span: Span) -> tuple[Any, ...]:
    """All of a span but its identity, with what is measured as ``True``."""
    attributes = {key: value >= 0 if key in MEASURED else value for key, value in span.attributes.items()}
    return span.name, span.kind, span.status, attributes


def request(framework: str, operation: str, model: str, *, status: int = 0, **more: Any) -> tuple[Any, ...]:
    """The whole span of a request, as :func:`seen`."""
    attributes = {
        "aimon.framework": framework,
        "aimon.operation": operation,
        "aimon.model.name": model,
        **{NAMES[key]: value for key, value in more.items()},
    }
    return f"{operation} {model}", 1, status, attributes


def classified(size: int = 1) -> tuple[Any, ...]:
    """The whole span of what the model does, as :func:`seen`."""
    return request("sklearn", "predict", "LogisticRegression", size=size, device="cpu")
