"""Asks MLServer through Triton's clients; its ports for HTTP and gRPC are the arguments."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from opentelemetry import propagate

HTTP, GRPC = (f"127.0.0.1:{port}" for port in sys.argv[1:3])


def rows(module: Any, *values: float, **further: Any) -> list[Any]:
    """The inputs of a request."""
    data = np.asarray([[value] for value in values], np.float32)
    given = module.InferInput("x", list(data.shape), "FP32")
    given.set_data_from_numpy(data, **further)
    return [given]


def send_trace(request: Any) -> None:
    """Nothing instruments the transport of the blocking HTTP client."""
    request.headers = dict(request.headers or {})
    propagate.inject(request.headers)


def plain(module: Any) -> dict[str, Any]:
    """A request in JSON, as MLServer wants it over HTTP."""
    outputs = [module.InferRequestedOutput("y", binary_data=False)]
    return {"model_name": "iris", "inputs": rows(module, 0, 3, binary_data=False), "outputs": outputs}


async def ask_asynchronously() -> None:
    """An inference with each client, and a stream, whose responses are of another format than the client expects."""
    json = {"Content-Type": "application/json"}
    async with tritonclient.http.aio.InferenceServerClient(HTTP) as client:
        await client.infer(**plain(tritonclient.http), headers=json)
    async with tritonclient.grpc.aio.InferenceServerClient(GRPC) as client:
        await client.infer("iris", rows(tritonclient.grpc, 0, 3, 0))

        async def requests() -> Any:
            yield {"model_name": "iris", "inputs": rows(tritonclient.grpc, 0)}

        assert [result async for result, error in client.stream_infer(requests())] == [None]


with tritonclient.http.InferenceServerClient(HTTP) as client:
    client.register_plugin(send_trace)
    client.infer(**plain(tritonclient.http))
with tritonclient.grpc.InferenceServerClient(GRPC) as client:
    client.infer("iris", rows(tritonclient.grpc, 3))
asyncio.run(ask_asynchronously())
