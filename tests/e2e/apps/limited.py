"""A model behind FastAPI, and the same behind WSGI, with the limiter in front."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

import otel_aimon
from otel_aimon.middleware.asgi import LimiterMiddleware
from otel_aimon.middleware.wsgi import LimiterMiddleware as WsgiLimiterMiddleware

SECONDS = 0.2

app = FastAPI()
app.add_middleware(LimiterMiddleware, model="m")


@app.get("/health")
def health() -> Any:
    return os.getpid()


@app.get("/predict")
async def predict() -> str:
    with otel_aimon.inference("predict", model="m"):
        await asyncio.sleep(SECONDS)
    return "answer"


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def words() -> AsyncIterator[str]:
        for _ in range(50):
            yield "word "
            await asyncio.sleep(SECONDS)

    return StreamingResponse(words())


def _model(environ: dict[str, Any], start_response: Any) -> Iterator[bytes] | list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/health":
        return [str(os.getpid()).encode()]

    def answer() -> Iterator[bytes]:
        with otel_aimon.inference("predict", model="m"):
            time.sleep(SECONDS)
        yield b"answer"

    return answer()


wsgi = WsgiLimiterMiddleware(_model, model="m")
