"""MLServer's processes: each inference once, in the process that serves, with what became of it."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlserver", reason="the model servers have environments of their own: nox -s servers")

import grpc
import httpx
from mlserver.grpc import dataplane_pb2 as v2
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

from tests.e2e import model_servers
from tests.e2e.model_servers import CALLER, HEADERS, Server, classified, seen
from tests.e2e.processes import instance, wait_until

INFER = "v2/models/iris/infer"
STREAM = "v2/models/iris/infer_stream"


def rows(*values: float) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [len(values), 1], "datatype": "FP32", "data": list(values)}]}


class MLServer(Server):
    async def infer(self, x: float, **options: Any) -> Any:
        """Ask over gRPC."""
        tensor = v2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 1])
        tensor.contents.fp32_contents.append(x)
        request = v2.ModelInferRequest(model_name="iris", inputs=[tensor])
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            stub = GRPCInferenceServiceStub(channel)
            return await stub.ModelInfer(request, metadata=tuple(HEADERS.items()), **options)


def mlserver(folder: Path, *, workers: int = 0, **model: Any) -> contextlib.AbstractContextManager[MLServer]:
    """An MLServer."""
    return model_servers.mlserver(folder, MLServer, workers=workers, **model)


def request(operation: str = "predict", **more: Any) -> tuple[Any, ...]:
    return model_servers.request("mlserver", operation, "iris", **more)


def data(response: httpx.Response) -> list[int]:
    return response.json()["outputs"][0]["data"]


def test_each_inference_is_one_span_with_its_model_inside(tmp_path: Path) -> None:
    with mlserver(tmp_path) as server:
        assert data(server.post(INFER, rows(0, 3))) == [0, 1]
        answer = asyncio.run(server.infer(3))
        assert answer.outputs[0].contents.int64_contents == [1]

    assert [seen(span) for span in server.requests()] == [request()] * 2
    assert [seen(span) for span in server.models()] == [classified(2), classified(1)]
    assert [span.parent_id for span in server.models()] == [span.span_id for span in server.requests()]
    assert [server.callers(span) for span in server.requests()] == [CALLER] * 2
    assert server.points("aimon.inference.duration") == {("mlserver", "iris", "predict"): 2}
    assert server.points("aimon.inference.stage.duration") == {
        ("sklearn", "LogisticRegression", "predict"): 2
    }


def test_a_worker_gets_the_trace_and_tells_of_the_wait(tmp_path: Path) -> None:
    with mlserver(tmp_path, workers=2) as server:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: data(server.post(INFER, rows(0, 3))), range(8)))

    assert answers == [[0, 1]] * 8
    requests, models = server.requests(), server.models()
    assert [seen(span) for span in requests] == [request(queue=True)] * 8
    assert [seen(span) for span in models] == [classified(2)] * 8
    assert {span.parent_id for span in models} == {span.span_id for span in requests}
    assert [server.callers(span) for span in requests] == [CALLER] * 8
    workers = {instance(span) for span in models}
    assert len({instance(span) for span in requests} | workers) == 3
    assert server.points("aimon.inference.duration") == {
        ("mlserver", "iris", "predict"): 8,
        ("sklearn", "LogisticRegression", "predict"): 8,
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_requests_of_a_batch_share_the_models_work(tmp_path: Path, workers: int) -> None:
    with mlserver(tmp_path, workers=workers, max_batch_size=4, max_batch_time=0.5) as server:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda x: data(server.post(INFER, rows(x))), [0, 3] * 4))

    assert answers == [[0], [1]] * 4
    server.assert_shared(8)
    for span in server.requests():
        assert seen(span) == request(queue=True, size=span.attributes["aimon.batch.size"])
    assert sum(span.attributes["aimon.batch.size"] for span in server.models()) == 8
    assert server.points("aimon.inference.batch.size")["mlserver", "iris", "predict"] == 8
    assert server.points("aimon.inference.queue.duration") == {("mlserver", "iris", "predict"): 8}


def test_a_stream(tmp_path: Path) -> None:
    with mlserver(tmp_path) as server:
        assert server.post(STREAM, rows(0, 3, 3)).text.count("data:") == 3

    (span,) = server.requests()
    assert seen(span) == request("predict_stream", first=True)
    assert server.callers(span) == CALLER
    assert span.attributes["aimon.time_to_first_token"] < span.seconds - 0.09
    assert [(seen(each), each.parent_id) for each in server.models()] == [(classified(), span.span_id)] * 3


def test_a_client_who_leaves_cancels(tmp_path: Path) -> None:
    with mlserver(tmp_path) as server:
        server.leave(STREAM, rows(*[0] * 200))
        with pytest.raises(grpc.aio.AioRpcError):
            asyncio.run(server.infer(200, timeout=1))
        wait_until(lambda: len(server.requests()) == 2, "the server gives up too")

    assert [seen(span) for span in server.requests()] == [
        request("predict_stream", first=True, error="cancelled"),
        request(error="cancelled"),
    ]


def test_errors(tmp_path: Path) -> None:
    with mlserver(tmp_path) as server:
        statuses = [
            server.post(INFER, rows(-1)).status_code,
            server.post(INFER, rows(-2)).status_code,
            server.post("v2/models/unknown/infer", rows(0)).status_code,
            server.post(INFER, rows(0)).status_code,
        ]
        with contextlib.suppress(httpx.RemoteProtocolError):
            server.post(STREAM, rows(0, -1))

    assert statuses == [500, 400, 404, 200]
    assert [seen(span) for span in server.requests()] == [
        request(status=2, error="KeyError"),
        request(status=2, error="mlserver.errors.InferenceError"),
        model_servers.request(
            "mlserver", "predict", "unknown", status=2, error="mlserver.errors.ModelNotFound"
        ),
        request(),
        request("predict_stream", status=2, error="KeyError", first=True),
    ]
    assert "secret" not in repr([span for span in server.received.spans if span.scope == "otel_aimon"])
