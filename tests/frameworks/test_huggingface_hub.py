"""Hugging Face's inference client against a real HTTP server: each call is one request to a remote model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("huggingface_hub", minversion="1.0")

from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.frameworks.client_spans import client_span, spans
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


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is on this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("huggingface_hub",)) as running:
        yield running


def chat(server: Provider, **further: Any) -> dict[str, Any]:
    answered: Any = {"answered_by": "m-2026", "finish": ("stop",), "tokens": TOKENS}
    return client_span("huggingface_hub", "chat", "huggingface_hub", server.port, **{**answered, **further})


def test_a_chat(telemetry: Telemetry, server: Provider) -> None:
    client = InferenceClient(base_url=f"{server.url}/v1", api_key="key")
    assert client.chat_completion(MESSAGES, model="m").usage.total_tokens == 10
    client.chat.completions.create(MESSAGES, model="m")
    assert spans(telemetry) == [chat(server)] * 2


def test_an_asynchronous_chat(telemetry: Telemetry, server: Provider) -> None:
    async def ask() -> int:
        client = AsyncInferenceClient(base_url=f"{server.url}/v1", api_key="key")
        await client.chat_completion(MESSAGES, model="m")
        return len([1 async for _ in await client.chat_completion(MESSAGES, model="m", stream=True)])

    assert asyncio.run(ask()) == 3
    streamed = chat(server, streamed=True, tokens=(None, None, None))
    assert spans(telemetry) == [chat(server), streamed]


def test_a_stream(telemetry: Telemetry, server: Provider) -> None:
    client = InferenceClient(base_url=f"{server.url}/v1", api_key="key")
    assert len(list(client.chat_completion(MESSAGES, model="m", stream=True))) == 3
    assert spans(telemetry) == [chat(server, streamed=True, tokens=(None, None, None))]


def test_a_refusal(telemetry: Telemetry, server: Provider) -> None:
    client = InferenceClient(base_url=f"{server.url}/v1", api_key="key")
    with pytest.raises(HfHubHTTPError):
        client.chat_completion(MESSAGES, model="overloaded")
    [span] = spans(telemetry)
    assert span["status"] == "ERROR"
    assert span["attributes"]["error.type"] == "huggingface_hub.errors.HfHubHTTPError"
