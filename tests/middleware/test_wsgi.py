"""WSGI: a slot for as long as the body is made, 429 without one, and nothing else is touched."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from otel_aimon.middleware.wsgi import LimiterMiddleware
from tests.middleware.conftest import SLOTS, Slots


class Answer:
    """What a server got."""

    def __init__(self) -> None:
        self.status = ""
        self.headers: dict[str, str] = {}

    def start(self, status: str, headers: list[tuple[str, str]], *_: Any) -> None:
        self.status, self.headers = status, dict(headers)


def call(app: Any, path: str = "/generate") -> tuple[Answer, Any]:
    answer = Answer()
    return answer, app({"PATH_INFO": path, "REQUEST_METHOD": "GET"}, answer.start)


def answers(_environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("X-Mine", "1")])
    return [b"yes"]


def streams(_environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"a"
    yield b"b"


def test_a_body_that_is_there_is_handed_over_as_it_is(slots: Slots) -> None:
    body = [b"yes"]

    def app(_environ: Any, start_response: Any) -> list[bytes]:
        assert slots.held == 1
        start_response("200 OK", [("X-Mine", "1")])
        return body

    answer, got = call(LimiterMiddleware(app, model="m"))
    assert got is body
    assert (answer.status, answer.headers) == ("200 OK", {"X-Mine": "1"})
    assert (slots.held, slots.ended()) == (0, [True])


def test_a_stream_holds_its_slot_to_its_end(slots: Slots) -> None:
    _, body = call(LimiterMiddleware(streams, model="m"))
    assert slots.held == 1
    assert list(body) == [b"a", b"b"]
    assert (slots.held, slots.ended()) == (0, [True])
    body.close()
    assert slots.ended() == [True]


def test_a_stream_that_is_closed(slots: Slots) -> None:
    closed = []

    def app(_environ: Any, _start: Any) -> Iterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            closed.append(True)

    _, body = call(LimiterMiddleware(app, model="m"))
    assert next(body) == b"a"
    body.close()
    assert closed == [True]
    assert slots.held == 0


def test_a_stream_that_is_dropped(slots: Slots) -> None:
    _, body = call(LimiterMiddleware(streams, model="m"))
    assert slots.held == 1
    del body
    gc.collect()
    assert slots.held == 0


def test_a_stream_that_fails(slots: Slots) -> None:
    def app(_environ: Any, _start: Any) -> Iterator[bytes]:
        yield b"a"
        raise ValueError("broken")

    _, body = call(LimiterMiddleware(app, model="m"))
    with pytest.raises(ValueError, match="broken"):
        list(body)
    assert (slots.held, slots.ended()) == (0, [False])


def test_without_a_slot_it_is_too_many_requests(slots: Slots) -> None:
    slots.take()
    answer, body = call(LimiterMiddleware(answers, model="m"))
    assert answer.status == "429 Too Many Requests"
    assert answer.headers["Retry-After"] == "1"
    assert int(answer.headers["Content-Length"]) == len(body[0])
    assert body == [b"Too many requests for m at once; try again in 1 s."]
    assert slots.held == SLOTS


def test_an_exception_is_the_applications_own(slots: Slots) -> None:
    def app(_environ: Any, _start: Any) -> list[bytes]:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        call(LimiterMiddleware(app, model="m"))
    assert (slots.held, slots.ended()) == (0, [False])


def test_a_server_error_is_no_success(slots: Slots) -> None:
    def app(_environ: Any, start_response: Any) -> list[bytes]:
        start_response("500 Internal Server Error", [])
        return [b""]

    call(LimiterMiddleware(app, model="m"))
    assert slots.ended() == [False]


def test_probes_pass(slots: Slots) -> None:
    slots.take()
    answer, _ = call(LimiterMiddleware(answers, model="m"), "/healthz")
    assert answer.status == "200 OK"
