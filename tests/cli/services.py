"""Small services that go wrong in one way each, in the place of the example service."""

from __future__ import annotations

DIES_AT_ITS_START = """
print("loading the models")
raise RuntimeError("the model file is missing")
"""

_ANSWERS = """
import os, signal, time

samples = b'{"rows": [' + b",".join([b"[0, 1, 2]"] * 10) + b"]}"

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                %(at_the_end)s
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = samples if scope["path"] == "/samples" else b"fine fine fine " * 50
    if scope["path"] not in ("/samples", "/health"):
        %(at_a_request)s
    await send({"type": "http.response.start", "status": %(status)s, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


def answering(at_a_request: str = "pass", at_the_end: str = "pass", status: str = "200") -> str:
    """A service without models: what its clients count is in no span."""
    return _ANSWERS % {"at_a_request": at_a_request, "at_the_end": at_the_end, "status": status}
