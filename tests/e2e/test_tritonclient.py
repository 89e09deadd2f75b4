"""A service that asks a real Triton server, in a process of its own: each call is one request, whatever became of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from otel_aimon.cli.receiver import Receiver, Span
from tests.e2e import model_servers
from tests.e2e.processes import environment, our_spans, run
from tests.support.triton_server import SECRET, triton_server

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("tritonclient", "pytriton", "mlserver"))),
    reason="Triton and MLServer are not installed",
)

FIRST = "gen_ai.response.time_to_first_chunk"


def expected(port: int, model: str, operation: str = "infer", **further: Any) -> Any:
    """Name, kind, status and attributes of the span of a request."""
    attributes = {
        "aimon.framework": "tritonclient",
        "aimon.operation": operation,
        "aimon.model.name": model,
        "server.address": "127.0.0.1",
        "server.port": port,
        **{name.replace("__", "."): value for name, value in further.items()},
    }
    error = attributes.get("error.type")
    return (f"{operation} {model}", 3, 2 if error is not None and error != "cancelled" else 0, attributes)


def test_every_client() -> None:
    with Receiver() as receiver, triton_server() as server:
        env = environment(receiver.http_endpoint)
        run("python", "triton_app.py", str(server.http), str(server.grpc), env=env)
    received = receiver.received
    spans: list[Span] = sorted(our_spans(receiver), key=lambda span: span.start_ns)
    seen = []
    for span in spans:
        attributes = dict(span.attributes)
        if FIRST in attributes:
            assert 0 < attributes[FIRST] < 60
            attributes[FIRST] = True
        seen.append((span.name, span.kind, span.status, attributes))
    size, stream = "aimon.batch.size", {FIRST: True, "aimon.batch.size": 1}
    assert seen == [
        expected(server.http, "double", **{size: 2}),
        expected(server.http, "broken", **{"error.type": "500"}),
        expected(server.http, "slow"),
        expected(server.grpc, "double", **{size: 3}),
        expected(server.grpc, "slow", **{"error.type": "cancelled"}),
        expected(server.grpc, "count", "stream_infer", **stream),
        expected(server.http, "double", **{size: 1}),
        expected(server.grpc, "double", **{size: 1}),
        expected(server.grpc, "count", "stream_infer", **stream),
    ]
    assert SECRET not in repr(received)

    [handler] = [span for span in received.spans if span.name == "handler"]
    assert {span.parent_id for span in spans} == {handler.span_id}

    # The instrumentations of gRPC and of aiohttp are installed: theirs are the transport's spans, inside of ours.
    ours = {span.span_id: span for span in spans}
    transports = [
        (ours[span.parent_id].attributes["server.port"], ours[span.parent_id].name, span.name)
        for span in sorted(received.spans, key=lambda span: span.start_ns)
        if span.parent_id in ours
    ]
    unary = "/inference.GRPCInferenceService/ModelInfer"
    assert transports == [
        (server.grpc, "infer double", unary),
        (server.grpc, "infer slow", unary),
        (server.http, "infer double", "POST"),
        (server.grpc, "infer double", unary),
    ]

    points = {
        (*(value for _, value in sorted(point.attributes.items())),): point.count
        for point in received.latest_points("aimon.inference.duration")
    }
    assert points == {
        ("tritonclient", "double", "infer"): 4,
        ("tritonclient", "broken", "infer", "500"): 1,
        ("tritonclient", "slow", "infer"): 1,
        ("tritonclient", "slow", "infer", "cancelled"): 1,
        ("tritonclient", "count", "stream_infer"): 2,
    }
    sizes = {
        (*(value for _, value in sorted(point.attributes.items())),): (point.count, point.total)
        for point in received.latest_points("aimon.inference.batch.size")
    }
    assert sizes == {
        ("tritonclient", "double", "infer"): (4, 7.0),
        ("tritonclient", "count", "stream_infer"): (2, 2.0),
    }
    assert not received.latest_points("gen_ai.client.operation.duration")


def test_what_mlserver_does_is_in_the_trace(tmp_path: Path) -> None:
    with model_servers.mlserver(tmp_path, model_servers.Server) as server:
        env = environment(server.endpoint)
        run("python", "mlserver_client_app.py", str(server.port), str(server.grpc_port), env=env)
    asked = [span for span in server.spans if span.attributes["aimon.framework"] == "tritonclient"]
    sizes = [(server.port, 2), (server.grpc_port, 1), (server.port, 2), (server.grpc_port, 3)]
    misread = {"error.type": "tritonclient.utils.InferenceServerException"}
    assert [(span.name, span.kind, span.status, span.attributes) for span in asked] == [
        *(expected(port, "iris", aimon__batch__size=size) for port, size in sizes),
        expected(server.grpc_port, "iris", "stream_infer", **misread),
    ]
    assert {span.parent_id for span in asked} == {""}
    known = {span.span_id: span for span in server.received.spans}
    served = server.requests()
    assert [span.name for span in served] == ["predict iris"] * 4 + ["predict_stream iris"]
    for client, answered in zip(asked[:4], served[:4], strict=True):
        span = answered
        while span.parent_id in known and span is not client:
            span = known[span.parent_id]
        assert span is client
