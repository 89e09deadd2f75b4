"""The limiter in front of a WSGI application, such as Flask or Django.

app.wsgi_app = LimiterMiddleware(app.wsgi_app, model="my-model")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_aimon.core.guard import swallow
from otel_aimon.hinting.errors import LimitExceededError
from otel_aimon.middleware.choice import NOT_LIMITED, Choice, refusal, retry_after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from typing_extensions import Self

    from otel_aimon.hinting.admission import Admission

    Environment = dict[str, Any]
    StartResponse = Callable[..., Any]
    Application = Callable[[Environment, StartResponse], Iterable[bytes]]

_FAILED = "5"


class LimiterMiddleware:
    """Holds a slot while the application answers a request, to the last byte of a stream.

    A request without a slot is answered 429 with ``Retry-After``.

    Args:
        app: The application.
        model: Name of the model, or a function that finds it from the WSGI environment; None from that lets pass.
        priority: ``low``, ``normal`` or ``high``, or a function that finds it from the environment.
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

    def __call__(self, environ: Environment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        admission = self._choice.admission(environ, environ.get("PATH_INFO", ""))
        if admission is None:
            return self.app(environ, start_response)
        try:
            admission.__enter__()
        except LimitExceededError as error:
            return _refuse(error, start_response)
        slot = _Slot(admission)

        def started(status: str, *more: Any, **kwargs: Any) -> Any:
            slot.failed = status.startswith(_FAILED)
            return start_response(status, *more, **kwargs)

        try:
            body = self.app(environ, started)
        except BaseException:
            slot.failed = True
            slot.give_back()
            raise
        if hasattr(body, "__next__"):
            return _Body(body, slot)
        # What is there already is no work of the model; servers look at its length and type.
        slot.give_back()
        return body


class _Slot:
    """A slot that is given back once."""

    __slots__ = ("_admission", "failed")

    def __init__(self, admission: Admission) -> None:
        self._admission: Admission | None = admission
        self.failed = False

    def give_back(self) -> None:
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.__exit__(RuntimeError if self.failed else None, None, None)


class _Body:
    """The body while it is made: the slot is given back at its end, when it fails, is closed or dropped."""

    __slots__ = ("_body", "_slot")

    def __init__(self, body: Any, slot: _Slot) -> None:
        self._body = body
        self._slot = slot

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        try:
            chunk: bytes = next(self._body)
        except StopIteration:
            self._slot.give_back()
            raise
        except BaseException:
            self._slot.failed = True
            self._slot.give_back()
            raise
        return chunk

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._slot.give_back()

    def __del__(self) -> None:
        try:
            self._slot.give_back()
        except Exception as error:
            swallow(error, "a response that was dropped")


def _refuse(error: LimitExceededError, start_response: StartResponse) -> Iterator[bytes] | list[bytes]:
    body = refusal(error).encode()
    start_response(
        "429 Too Many Requests",
        [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Retry-After", retry_after(error)),
        ],
    )
    return [body]
