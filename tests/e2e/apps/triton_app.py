"""Asks a Triton server through every client; the server's ports for HTTP and gRPC are the arguments."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from opentelemetry import trace
from tritonclient.utils import InferenceServerException

HTTP, GRPC = (f"127.0.0.1:{port}" for port in sys.argv[1:3])


def rows(module: Any, *values: float) -> list[Any]:
    """The inputs of a request."""
    data = np.asarray([[value] for value in values], np.float32)
    given = module.InferInput("x", list(data.shape), "FP32")
    given.set_data_from_numpy(data)
    return [given]


def ask_over_http() -> None:
    """An inference, one that is refused, one in a greenlet."""
    with tritonclient.http.InferenceServerClient(HTTP) as client:
        client.infer("double", rows(tritonclient.http, 1, 2))
        with contextlib.suppress(InferenceServerException):
            client.infer("broken", rows(tritonclient.http, 1))
        client.async_infer("slow", rows(tritonclient.http, 0.1)).get_result()


def ask_over_grpc() -> None:
    """An inference, one that is cancelled, a stream."""
    told: queue.Queue[Any] = queue.Queue()

    def callback(result: Any, error: Any) -> None:
        told.put((result, error))

    with tritonclient.grpc.InferenceServerClient(GRPC) as client:
        client.infer("double", rows(tritonclient.grpc, 1, 2, 3))
        client.async_infer("slow", rows(tritonclient.grpc, 1), callback).cancel()
        told.get(timeout=30)
        client.start_stream(callback)
        client.async_stream_infer("count", rows(tritonclient.grpc, 2), enable_empty_final_response=True)
        for _ in range(3):
            told.get(timeout=30)
        client.stop_stream()


async def ask_asynchronously() -> None:
    """An inference with each client, and a stream that is read to its end."""
    async with tritonclient.http.aio.InferenceServerClient(HTTP) as client:
        await client.infer("double", rows(tritonclient.http, 1))
    async with tritonclient.grpc.aio.InferenceServerClient(GRPC) as client:
        await client.infer("double", rows(tritonclient.grpc, 1))

        async def requests() -> Any:
            yield {"model_name": "count", "inputs": rows(tritonclient.grpc, 2)}

        async for _ in client.stream_infer(requests()):
            pass


with trace.get_tracer("app").start_as_current_span("handler"):
    ask_over_http()
    ask_over_grpc()
    asyncio.run(ask_asynchronously())
