"""In front of a real server: a fixed limit, the limiter, or none; it is switched while the server runs.

``GET /gate?mode=static&limit=8`` (``limiter``, ``off``) switches; ``GET /hint`` says what the process knows.
"""

from __future__ import annotations

import json
import os
from urllib.parse import parse_qs

import otel_aimon
from otel_aimon.middleware.asgi import LimiterMiddleware

MODEL = os.environ.get("GATE_MODEL", "model")
LIMITED = tuple(os.environ.get("GATE_PATHS", "/predict").split(","))


class Gate:
    """ASGI middleware."""

    def __init__(self, app):
        self.app = app
        self.limited = LimiterMiddleware(app, model=MODEL)
        self.mode, self.limit, self.in_flight = "off", 0, 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] == "/gate":
            asked = parse_qs(scope["query_string"].decode())
            self.mode, self.limit = asked["mode"][0], float(asked.get("limit", ["0"])[0])
            await answer(send, 200, {})
        elif scope["path"] == "/hint":
            await answer(send, 200, known())
        elif not scope["path"].startswith(LIMITED) or self.mode == "off":
            await self.app(scope, receive, send)
        elif self.mode == "limiter":
            await self.limited(scope, receive, send)
        elif self.in_flight + 1 > self.limit:
            await answer(send, 429, {})
        else:
            self.in_flight += 1
            try:
                await self.app(scope, receive, send)
            finally:
                self.in_flight -= 1


def known():
    """The hint and the limiter's limit."""
    from otel_aimon.hinting.limiters import LIMITERS

    limiter = LIMITERS.find(MODEL)
    hint = otel_aimon.hints().get(MODEL)
    return {
        "limit": hint and hint.limit,
        "basis": hint and hint.basis,
        "confidence": hint and hint.confidence,
        "limiter": limiter and limiter.limit,
        "models": list(otel_aimon.hints()),
    }


async def answer(send, status, content):
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
