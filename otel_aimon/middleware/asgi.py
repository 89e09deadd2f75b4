"""The limiter in front of an ASGI application, such as FastAPI, Starlette, Django or Quart.

app.add_middleware(LimiterMiddleware, model="my-model")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_aimon.hinting.errors import LimitExceededError
from otel_aimon.middleware.choice import NOT_LIMITED, Choice, refusal, retry_after

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    Message = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

_FAILED = 500


class LimiterMiddleware:
    """Holds a slot while the application answers a request, to the last byte of a stream.

    A request without a slot is answered 429 with ``Retry-After``. Only HTTP requests are limited.

    Args:
        app: The application.
        model: Name of the model, or a function that finds it from the ASGI scope; None from that lets pass.
        priority: ``low``, ``normal`` or ``high``, or a function that finds it from the scope.
        max_wait: Seconds to wait for a slot.
        paths: Beginnings of the paths that are limited; all by default.
        exclude: Paths that are not; those of probes by default.
    """

    def __init__(
        self,
        app: Application,
        *,
        model: str | Callable[[Any], str | None],
        priority: str | Callable[[Any], str] = "normal",
        max_wait: float = 0.0,
        paths: Iterable[str] | None = None,
        exclude: Iterable[str] = NOT_LIMITED,
    ) -> None:
        self.app = app
        self._choice = Choice(model, priority=priority, max_wait=max_wait, paths=paths, exclude=exclude)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        admission = (
            self._choice.admission(scope, scope.get("path", "")) if scope.get("type") == "http" else None
        )
        if admission is None:
            await self.app(scope, receive, send)
            return
        try:
            await admission.__aenter__()
        except LimitExceededError as error:
            await _refuse(error, send)
            return
        watched = _Watched(send)
        failure: type[BaseException] | None = BaseException
        try:
            await self.app(scope, receive, watched)
            failure = RuntimeError if watched.status >= _FAILED else None
        finally:
            await admission.__aexit__(failure, None, None)


class _Watched:
    """Passes messages on, and keeps the status."""

    __slots__ = ("_send", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


async def _refuse(error: LimitExceededError, send: Send) -> None:
    body = refusal(error).encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", retry_after(error).encode()),
    ]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": body})
