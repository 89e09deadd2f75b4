"""An ASGI application without a framework: each GET is one request to a model."""

import asyncio

import otel_aimon


@otel_aimon.monitor(operation="classify", model="asgi")
async def classify() -> str:
    await asyncio.sleep(0.001)
    return "a class"


async def app(scope, receive, send) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] != "/health":
        await classify()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": b"ok"})
