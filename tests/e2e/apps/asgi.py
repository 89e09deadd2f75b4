"""An ASGI application without a framework: each GET is one request to a model.

``SERVED`` names the module with the models. The answer is the process that gave it.
"""

import importlib
import os

from opentelemetry import context, propagate

PATHS = importlib.import_module(os.environ["SERVED"]).PATHS


async def app(scope, receive, send) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    token = context.attach(propagate.extract(headers))
    try:
        PATHS[scope["path"]]()
    finally:
        context.detach(token)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
