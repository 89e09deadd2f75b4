"""KServe's processes: each call of a model once, in the process that has it, with what became of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("kserve", reason="the model servers have environments of their own: nox -s servers")

import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as v2
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from otel_aimon.cli.receiver import Receiver
from tests.e2e import model_servers
from tests.e2e.model_servers import CALLER, HEADERS, Server, classified, seen
from tests.e2e.processes import environment, free_port, instance, serving, wait_until

PREDICT = "v1/models/iris:predict"
ROWS = {"instances": [[0], [3]]}


class KServe(Server):
    grpc_port = 0

    async def infer(self, x: float, **options: Any) -> Any:
        """Ask over gRPC."""
        tensor = v2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 1])
        tensor.contents.fp32_contents.append(x)
        request = v2.ModelInferRequest(model_name="iris", inputs=[tensor])
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            stub = GRPCInferenceServiceStub(channel)
            return await stub.ModelInfer(request, metadata=tuple(HEADERS.items()), **options)


@contextlib.contextmanager
def kserve(workers: int = 1) -> Iterator[KServe]:
    """A KServe server."""
    http_port, grpc_port = free_port(), free_port()
    with Receiver() as receiver:
        env = environment(
            receiver.http_endpoint,
            OMP_NUM_THREADS="1",
            OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="system_metrics,fastapi",
        )
        arguments = ("python", "kserve_app.py", str(http_port), str(grpc_port), str(workers))
        with serving(*arguments, env=env, port=http_port, health="/v2/health/ready"):
            server = KServe("kserve", http_port, receiver)
            server.grpc_port = grpc_port
            yield server


def request(operation: str = "predict", **more: Any) -> tuple[Any, ...]:
    return model_servers.request("kserve", operation, "iris", **more)


def test_each_call_is_one_span_with_its_model_inside() -> None:
    with kserve() as server:
        assert server.post(PREDICT, ROWS).json() == {"predictions": [0, 1]}
        v2_body = {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [0, 3]}]}
        assert server.post("v2/models/iris/infer", v2_body).json()["outputs"][0]["data"] == [0, 1]
        answer = asyncio.run(server.infer(3))
        assert answer.outputs[0].contents.int64_contents == [1]

    assert [seen(span) for span in server.requests()] == [request()] * 3
    assert [seen(span) for span in server.models()] == [classified(2), classified(2), classified(1)]
    assert [span.parent_id for span in server.models()] == [span.span_id for span in server.requests()]
    assert [server.callers(span) for span in server.requests()] == [CALLER] * 3
    assert server.points("aimon.inference.duration") == {("kserve", "iris", "predict"): 3}
    assert server.points("aimon.inference.stage.duration") == {
        ("sklearn", "LogisticRegression", "predict"): 3
    }


def test_an_explanation() -> None:
    with kserve() as server:
        assert server.post("v1/models/iris:explain", ROWS).status_code == 200

    assert [seen(span) for span in server.spans] == [request("explain")]


def test_errors() -> None:
    with kserve() as server:
        statuses = [
            server.post(PREDICT, {"instances": ["broken"]}).status_code,
            server.post(PREDICT, {"instances": ["refused"]}).status_code,
            server.post("v1/models/unknown:predict", ROWS).status_code,
            server.post(PREDICT, ROWS).status_code,
        ]

    assert statuses == [500, 400, 404, 200]
    assert [seen(span) for span in server.requests()] == [
        request(status=2, error="KeyError"),
        request(status=2, error="kserve.errors.InvalidInput"),
        request(),
    ]
    assert "secret" not in repr([span for span in server.received.spans if span.scope == "otel_aimon"])


def test_a_client_who_gives_up_cancels_its_call() -> None:
    with kserve() as server:
        with pytest.raises(grpc.aio.AioRpcError):
            asyncio.run(server.infer(200, timeout=1))
        wait_until(lambda: server.requests(), "the server gives up too")

    assert [seen(span) for span in server.requests()] == [request(error="cancelled")]


def test_each_worker_sends_its_own_calls() -> None:
    with kserve(workers=2) as server:
        answers: list[int] = []
        while len({instance(span) for span in server.requests()}) < 2:
            with ThreadPoolExecutor(4) as pool:
                answers += pool.map(lambda _: server.post(PREDICT, ROWS).status_code, range(20))

    assert set(answers) == {200}
    served = server.assert_each_sends_its_own()
    assert (len(served), sum(served.values())) == (2, len(answers))
