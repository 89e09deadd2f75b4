"""LiteLLM against a real HTTP server: one call is one request, whatever it asks through."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

litellm = pytest.importorskip("litellm")

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.frameworks.client_spans import client_span, counted, spans
from tests.support.providers import Provider, provider
from tests.support.telemetry import Telemetry

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydantic"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

MESSAGES: Any = [{"role": "user", "content": "the quick brown fox"}]
TOKENS = (7, 3, 4)


@pytest.fixture(scope="module")
def server() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("litellm", "openai")) as running:
        yield running


@pytest.fixture
def asked(server: Provider) -> dict[str, Any]:
    return {
        "model": "openai/m",
        "messages": MESSAGES,
        "api_base": f"{server.url}/v1",
        "api_key": "key",
        "num_retries": 0,
    }


def chat(server: Provider, **further: Any) -> dict[str, Any]:
    answered: Any = {"answered_by": "m-2026", "finish": ("stop",), "tokens": TOKENS}
    return client_span("litellm", "chat", "openai", server.port, **{**answered, **further})


def test_a_call_through_openais_client_is_one_request(
    telemetry: Telemetry, server: Provider, asked: dict[str, Any]
) -> None:
    assert litellm.completion(**asked).usage.total_tokens == 10
    assert spans(telemetry) == [chat(server)]
    assert counted(telemetry)["duration"] == {("chat", None): 1}


def test_an_asynchronous_call(telemetry: Telemetry, server: Provider, asked: dict[str, Any]) -> None:
    asyncio.run(litellm.acompletion(**asked))
    assert spans(telemetry) == [chat(server)]


def test_an_embedding(telemetry: Telemetry, server: Provider, asked: dict[str, Any]) -> None:
    del asked["messages"]
    litellm.embedding(**asked, input=["the"])
    assert spans(telemetry) == [
        client_span("litellm", "embeddings", "openai", server.port, answered_by="m", tokens=(7, None, None))
    ]


def test_a_stream(telemetry: Telemetry, server: Provider, asked: dict[str, Any]) -> None:
    stream = litellm.completion(**asked, stream=True, stream_options={"include_usage": True})
    assert type(stream) is litellm.CustomStreamWrapper
    assert list(stream)
    assert spans(telemetry) == [chat(server, answered_by="m", streamed=True)]


def test_an_asynchronous_stream(telemetry: Telemetry, server: Provider, asked: dict[str, Any]) -> None:
    async def ask() -> list[Any]:
        return [chunk async for chunk in await litellm.acompletion(**asked, stream=True)]

    assert asyncio.run(ask())
    [span] = spans(telemetry)
    assert span["attributes"]["gen_ai.response.finish_reasons"] == ("stop",)


@pytest.mark.skipif(
    not hasattr(litellm.CustomStreamWrapper, "aclose"), reason="streams of this version cannot be closed"
)
def test_a_stream_that_is_closed_is_cancelled(
    telemetry: Telemetry, server: Provider, asked: dict[str, Any]
) -> None:
    async def ask() -> None:
        stream = await litellm.acompletion(**asked, stream=True)
        await anext(stream)
        await stream.aclose()

    asyncio.run(ask())
    [span] = spans(telemetry)
    assert span["attributes"]["error.type"] == "cancelled"


def test_a_refusal(telemetry: Telemetry, server: Provider, asked: dict[str, Any]) -> None:
    with pytest.raises(litellm.RateLimitError):
        litellm.completion(**{**asked, "model": "openai/overloaded"})
    assert spans(telemetry) == [
        client_span(
            "litellm",
            "chat",
            "openai",
            server.port,
            model="overloaded",
            error="litellm.exceptions.RateLimitError",
        )
    ]


def test_it_stands_aside_when_litellm_traces_itself(
    telemetry: Telemetry, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from litellm.integrations.opentelemetry import OpenTelemetry, OpenTelemetryConfig

    theirs = OpenTelemetry(config=OpenTelemetryConfig(exporter=InMemorySpanExporter()))
    monkeypatch.setattr(litellm, "callbacks", [theirs])
    assert litellm.completion(**asked).usage.total_tokens == 10
    assert spans(telemetry) == []
