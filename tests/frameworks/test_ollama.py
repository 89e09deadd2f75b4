"""Ollama's client against a real HTTP server: each call is one request to a remote model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

ollama = pytest.importorskip("ollama")

import otel_aimon
from tests.frameworks.client_spans import client_span, counted, spans
from tests.support.providers import Provider, provider
from tests.support.telemetry import Telemetry

# Its clients leave their sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

MESSAGES: Any = [{"role": "user", "content": "the quick brown fox"}]
TOKENS = (7, 3, None)


@pytest.fixture(scope="module")
def server() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("ollama",)) as running:
        yield running


def request(server: Provider, operation: str = "chat", **further: Any) -> dict[str, Any]:
    answered: Any = {"answered_by": "m", "finish": ("stop",), "tokens": TOKENS}
    return client_span("ollama", operation, "ollama", server.port, **{**answered, **further})


def test_chats_generations_and_embeddings(telemetry: Telemetry, server: Provider) -> None:
    client = ollama.Client(host=server.url)
    assert client.chat(model="m", messages=MESSAGES).eval_count == 3
    client.generate(model="m", prompt="the")
    client.embed(model="m", input="the")
    assert spans(telemetry) == [
        request(server),
        request(server, "text_completion"),
        request(server, "embeddings", finish=None, tokens=(7, None, None)),
    ]
    assert counted(telemetry)["tokens"] == {
        ("chat", "input"): 7,
        ("chat", "output"): 3,
        ("text_completion", "input"): 7,
        ("text_completion", "output"): 3,
        ("embeddings", "input"): 7,
    }


def test_the_asynchronous_client(telemetry: Telemetry, server: Provider) -> None:
    async def ask() -> int:
        client = ollama.AsyncClient(host=server.url)
        await client.chat(model="m", messages=MESSAGES)
        return len([chunk async for chunk in await client.chat(model="m", messages=MESSAGES, stream=True)])

    assert asyncio.run(ask()) == 3
    assert spans(telemetry) == [request(server), request(server, streamed=True)]


def test_a_stream_is_a_request_to_its_end(telemetry: Telemetry, server: Provider) -> None:
    stream = ollama.Client(host=server.url).chat(model="m", messages=MESSAGES, stream=True)
    assert [chunk.done for chunk in stream] == [False, False, True]
    assert spans(telemetry) == [request(server, streamed=True)]


def test_a_stream_that_is_left_is_cancelled(telemetry: Telemetry, server: Provider) -> None:
    stream = ollama.Client(host=server.url).generate(model="m", prompt="the", stream=True)
    next(stream)
    stream.close()
    otel_aimon.force_flush()
    left = request(
        server, "text_completion", finish=None, tokens=(None, None, None), error="cancelled", streamed=True
    )
    assert spans(telemetry) == [left]


def test_a_refusal(telemetry: Telemetry, server: Provider) -> None:
    with pytest.raises(ollama.ResponseError):
        ollama.Client(host=server.url).chat(model="overloaded", messages=MESSAGES)
    assert spans(telemetry) == [
        client_span(
            "ollama", "chat", "ollama", server.port, model="overloaded", error="ollama._types.ResponseError"
        )
    ]
