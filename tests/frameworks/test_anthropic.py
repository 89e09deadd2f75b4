"""Anthropic's client against a real HTTP server: each message is one request to a remote model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

anthropic = pytest.importorskip("anthropic")

from tests.frameworks.client_spans import client_span, counted, spans
from tests.support.providers import Provider, provider
from tests.support.telemetry import Telemetry

ASKED: Any = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "the quick brown fox"}]}
TOKENS = (7, 3, 2)
"""All input tokens, those from the cache too."""


@pytest.fixture(scope="module")
def server() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("anthropic",)) as running:
        yield running


@pytest.fixture
def client(telemetry: Telemetry, server: Provider) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.url, api_key="key", max_retries=0) as made:
        yield made


def asynchronous(server: Provider) -> Any:
    return anthropic.AsyncAnthropic(base_url=server.url, api_key="key", max_retries=0)


def message(server: Provider, **further: Any) -> dict[str, Any]:
    answered: Any = {"answered_by": "m-2026", "finish": ("end_turn",), "tokens": TOKENS}
    return client_span("anthropic", "chat", "anthropic", server.port, **{**answered, **further})


def test_a_message(telemetry: Telemetry, client: Any, server: Provider) -> None:
    assert client.messages.create(**ASKED).usage.output_tokens == 3
    assert spans(telemetry) == [message(server)]
    assert counted(telemetry) == {
        "duration": {("chat", None): 1},
        "time_to_first_chunk": {},
        "tokens": {("chat", "input"): 7, ("chat", "output"): 3},
    }


def test_a_message_of_the_beta_interface(telemetry: Telemetry, client: Any, server: Provider) -> None:
    client.beta.messages.create(**ASKED)
    assert spans(telemetry) == [message(server)]


def test_an_asynchronous_message(telemetry: Telemetry, server: Provider) -> None:
    async def ask() -> None:
        async with asynchronous(server) as client:
            await client.messages.create(**ASKED)

    asyncio.run(ask())
    assert spans(telemetry) == [message(server)]


def test_a_refusal(telemetry: Telemetry, client: Any, server: Provider) -> None:
    with pytest.raises(anthropic.RateLimitError):
        client.messages.create(**{**ASKED, "model": "overloaded"})
    assert spans(telemetry) == [
        client_span(
            "anthropic",
            "chat",
            "anthropic",
            server.port,
            model="overloaded",
            error="anthropic.RateLimitError",
        )
    ]


def test_a_stream(telemetry: Telemetry, client: Any, server: Provider) -> None:
    stream = client.messages.create(**ASKED, stream=True)
    assert type(stream) is anthropic.Stream
    assert len(list(stream)) == 6
    assert spans(telemetry) == [message(server, streamed=True)]


def test_the_stream_helper_asks_when_it_is_entered(
    telemetry: Telemetry, client: Any, server: Provider
) -> None:
    manager = client.messages.stream(**ASKED)
    assert spans(telemetry) == []
    with manager as stream:
        assert stream.get_final_message().usage.output_tokens == 3
    assert spans(telemetry) == [message(server, streamed=True)]


def test_the_asynchronous_stream_helper(telemetry: Telemetry, server: Provider) -> None:
    async def ask() -> None:
        async with asynchronous(server) as client, client.messages.stream(**ASKED) as stream:
            async for _ in stream:
                pass

    asyncio.run(ask())
    assert spans(telemetry) == [message(server, streamed=True)]


def test_a_stream_that_is_left_is_cancelled(telemetry: Telemetry, client: Any, server: Provider) -> None:
    with client.messages.stream(**ASKED) as stream:
        next(iter(stream))
    [span] = spans(telemetry)
    assert span["attributes"]["error.type"] == "cancelled"
    assert span["attributes"]["gen_ai.usage.input_tokens"] == 7


def test_a_stream_that_breaks_off(telemetry: Telemetry, client: Any, server: Provider) -> None:
    with pytest.raises(Exception, match="peer closed connection"):
        list(client.messages.create(**{**ASKED, "model": "broken"}, stream=True))
    [span] = spans(telemetry)
    assert span["status"] == "ERROR"
    # Newer versions have an HTTP client of their own name.
    assert span["attributes"]["error.type"] in {"httpx.RemoteProtocolError", "httpx2.RemoteProtocolError"}
