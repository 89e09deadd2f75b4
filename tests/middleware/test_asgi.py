"""ASGI: a slot for as long as the application answers, 429 without one, and nothing else is touched."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import otel_aimon
from otel_aimon.hinting.limiters import LIMITERS
from otel_aimon.middleware.asgi import LimiterMiddleware
from tests.middleware.conftest import SLOTS, Slots


def scope(path: str = "/generate", **more: Any) -> dict[str, Any]:
    return {"type": "http", "path": path, "headers": [], **more}


async def answers(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"yes"})


def call(app: Any, asked: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The messages of the answer."""
    sent: list[dict[str, Any]] = []

    async def run() -> None:
        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        await app(asked or scope(), receive, send)

    asyncio.run(run())
    return sent


def test_a_slot_is_held_while_it_answers(slots: Slots) -> None:
    held = []

    async def app(*args: Any) -> None:
        held.append(slots.held)
        await answers(*args)
        held.append(slots.held)

    sent = call(LimiterMiddleware(app, model="m"))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert held == [1, 1]
    assert (slots.held, slots.ended()) == (0, [True])


def test_without_a_slot_it_is_too_many_requests(slots: Slots) -> None:
    slots.take()
    start, body = call(LimiterMiddleware(answers, model="m"))
    assert start["status"] == 429
    assert dict(start["headers"]) == {
        b"content-type": b"text/plain; charset=utf-8",
        b"content-length": b"50",
        b"retry-after": b"1",
    }
    assert body["body"] == b"Too many requests for m at once; try again in 1 s."
    assert slots.held == SLOTS


def test_an_exception_is_the_applications_own(slots: Slots) -> None:
    failure = ValueError("broken")

    async def app(*_: Any) -> None:
        raise failure

    with pytest.raises(ValueError, match="broken") as caught:
        call(LimiterMiddleware(app, model="m"))
    assert caught.value is failure
    assert (slots.held, slots.ended()) == (0, [False])


def test_a_server_error_is_no_success(slots: Slots) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})

    call(LimiterMiddleware(app, model="m"))
    assert slots.ended() == [False]


def test_a_cancelled_request_gives_its_slot_back(slots: Slots) -> None:
    async def run() -> None:
        begun = asyncio.Event()

        async def app(*_: Any) -> None:
            begun.set()
            await asyncio.sleep(60)

        async def nothing(*_: Any) -> Any: ...

        task = asyncio.create_task(LimiterMiddleware(app, model="m")(scope(), nothing, nothing))
        await begun.wait()
        assert slots.held == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert (slots.held, slots.ended()) == (0, [False])


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({}, scope("/healthz")),
        ({"exclude": ("/version",)}, scope("/version")),
        ({"paths": ("/generate",)}, scope("/models")),
        ({"model": lambda _scope: None}, scope()),
        ({}, {"type": "lifespan"}),
        ({}, {"type": "websocket", "path": "/generate"}),
    ],
)
def test_what_is_not_limited(slots: Slots, settings: dict[str, Any], asked: dict[str, Any]) -> None:
    slots.take()
    passed = []

    async def app(*_: Any) -> None:
        passed.append(slots.held)

    call(LimiterMiddleware(app, **{"model": "m", **settings}), asked)
    assert passed == [SLOTS]


def test_the_model_and_the_priority_of_each_request(slots: Slots) -> None:
    slots.take()
    app = LimiterMiddleware(
        answers,
        model=lambda asked: asked["path"].strip("/"),
        priority=lambda asked: dict(asked["headers"]).get(b"x-priority", b"normal").decode(),
    )
    assert call(app, scope("/other"))[0]["status"] == 200
    assert call(app, scope("/m"))[0]["status"] == 429
    # High priority has a reserve.
    assert call(app, scope("/m", headers=[(b"x-priority", b"high")]))[0]["status"] == 200
    assert LIMITERS.get("other").admitted == 1


def test_a_function_of_the_users_that_fails_loses_no_request(
    slots: Slots, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("otel_aimon.core.guard.RERAISE", False)

    def fails(_scope: Any) -> str:
        raise KeyError("x")

    assert call(LimiterMiddleware(answers, model=fails))[0]["status"] == 200
    assert slots.held == 0
    assert "middleware" in caplog.text


def test_a_limiter_inside_is_the_same_request(slots: Slots) -> None:
    async def app(*args: Any) -> None:
        async with otel_aimon.limiter("m"):
            assert slots.held == 1
            await answers(*args)

    assert call(LimiterMiddleware(app, model="m"))[0]["status"] == 200


def test_it_waits_for_a_slot_if_it_may(slots: Slots) -> None:
    slots.take()

    async def run() -> None:
        waiting = asyncio.create_task(
            LimiterMiddleware(answers, model="m", max_wait=30.0)(scope(), _nothing, _nothing)
        )
        while not slots.limiter.waiting:
            await asyncio.sleep(0.001)
        slots.limiter.limit += 1
        slots.limiter._dispatch()
        await waiting

    asyncio.run(run())
    assert slots.held == SLOTS


async def _nothing(*_: Any) -> None: ...
