"""OpenAI's client against a real HTTP server: each call is one request to a remote model."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

openai = pytest.importorskip("openai")

import httpx
from opentelemetry import trace

import otel_aimon
from tests.frameworks.client_spans import client_span, counted, spans
from tests.support.providers import Provider, provider
from tests.support.telemetry import Telemetry

MESSAGES: Any = [{"role": "user", "content": "the quick brown fox"}]
TOKENS = (7, 3, 4)


@pytest.fixture(scope="module")
def server() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("openai",)) as running:
        yield running


@pytest.fixture
def client(telemetry: Telemetry, server: Provider) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0) as made:
        yield made


def asynchronous(server: Provider) -> Any:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0)


def chat(server: Provider, **further: Any) -> dict[str, Any]:
    answered: Any = {"answered_by": "m-2026", "finish": ("stop",), "tokens": TOKENS}
    return client_span("openai", "chat", "openai", server.port, **{**answered, **further})


class TestAnswers:
    """Calls that return when all is there."""

    def test_a_chat(self, telemetry: Telemetry, client: Any, server: Provider) -> None:
        answer = client.chat.completions.create(model="m", messages=MESSAGES)
        assert answer.usage.total_tokens == 10
        assert spans(telemetry) == [chat(server)]
        assert counted(telemetry) == {
            "duration": {("chat", None): 1},
            "time_to_first_chunk": {},
            "tokens": {("chat", "input"): 7, ("chat", "output"): 3},
        }

    def test_a_completion_a_response_and_an_embedding(
        self, telemetry: Telemetry, client: Any, server: Provider
    ) -> None:
        client.completions.create(model="m", prompt="the")
        client.responses.create(model="m", input="the")
        client.embeddings.create(model="m", input="the")

        def expected(operation: str, **further: Any) -> dict[str, Any]:
            return client_span("openai", operation, "openai", server.port, answered_by="m", **further)

        assert spans(telemetry) == [
            expected("text_completion", finish=("length",), tokens=TOKENS),
            expected("chat", finish=("max_output_tokens",), tokens=TOKENS),
            expected("embeddings", tokens=(7, None, None)),
        ]

    def test_parsing_is_part_of_the_request(
        self, telemetry: Telemetry, client: Any, server: Provider
    ) -> None:
        client.chat.completions.parse(model="m", messages=MESSAGES)
        assert spans(telemetry) == [chat(server)]

    def test_an_asynchronous_chat(self, telemetry: Telemetry, server: Provider) -> None:
        async def ask() -> Any:
            async with asynchronous(server) as client:
                return await client.chat.completions.create(model="m", messages=MESSAGES)

        assert asyncio.run(ask()).model == "m-2026"
        assert spans(telemetry) == [chat(server)]

    def test_a_raw_answer_is_not_read(self, telemetry: Telemetry, client: Any, server: Provider) -> None:
        raw = client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
        assert raw.parse().model == "m-2026"
        with client.chat.completions.with_streaming_response.create(model="m", messages=MESSAGES) as response:
            assert response.status_code == 200
        bare = chat(server, answered_by=None, finish=None, tokens=(None, None, None))
        assert spans(telemetry) == [bare, bare]

    def test_it_is_a_child_of_the_callers_span_and_the_parent_of_what_is_inside(
        self, telemetry: Telemetry, server: Provider
    ) -> None:
        current: list[Any] = []
        hooks: Any = {"request": [lambda _: current.append(trace.get_current_span())]}
        tracer = telemetry.tracer_provider.get_tracer("app")
        with (
            openai.OpenAI(
                base_url=server.url, api_key="key", http_client=httpx.Client(event_hooks=hooks)
            ) as client,
            tracer.start_as_current_span("handler"),
        ):
            client.chat.completions.create(model="m", messages=MESSAGES)
        assert [span["name"] for span in spans(telemetry)] == ["handler", "chat m"]
        assert spans(telemetry)[1] == chat(server, parent="handler")
        assert [span.name for span in current] == ["chat m"]

    def test_a_request_that_is_recorded_by_hand_has_it_as_a_stage(
        self, telemetry: Telemetry, client: Any, server: Provider
    ) -> None:
        @otel_aimon.monitor(operation="answer", model="app")
        def answer() -> Any:
            return client.chat.completions.create(model="m", messages=MESSAGES)

        answer()
        assert [(span["name"], span["kind"], span["parent"]) for span in spans(telemetry)] == [
            ("answer app", "INTERNAL", None),
            ("chat m", "CLIENT", "answer app"),
        ]
        assert counted(telemetry)["duration"] == {("chat", None): 1}

    def test_a_name_of_a_host_that_is_known_names_the_provider(self, telemetry: Telemetry) -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(500, json={}))
        with (
            openai.OpenAI(
                base_url="https://eu.api.groq.com/v1/secret?key=secret",
                api_key="key",
                max_retries=0,
                http_client=httpx.Client(transport=transport),
            ) as client,
            pytest.raises(openai.InternalServerError),
        ):
            client.chat.completions.create(model="m", messages=MESSAGES)
        [span] = spans(telemetry)
        assert span["attributes"]["gen_ai.provider.name"] == "groq"
        assert (span["attributes"]["server.address"], span["attributes"]["server.port"]) == (
            "eu.api.groq.com",
            443,
        )
        assert "secret" not in repr(span)


class TestErrors:
    """Calls that raise."""

    def test_a_refusal_is_the_class_of_the_exception(
        self, telemetry: Telemetry, client: Any, server: Provider
    ) -> None:
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="overloaded", messages=MESSAGES)
        assert spans(telemetry) == [
            client_span(
                "openai", "chat", "openai", server.port, model="overloaded", error="openai.RateLimitError"
            )
        ]
        assert counted(telemetry)["duration"] == {("chat", "openai.RateLimitError"): 1}

    def test_nobody_listens(self, telemetry: Telemetry) -> None:
        with (
            openai.OpenAI(base_url="http://127.0.0.1:9", api_key="key", max_retries=0) as client,
            pytest.raises(openai.APIConnectionError),
        ):
            client.chat.completions.create(model="m", messages=MESSAGES)
        assert spans(telemetry) == [
            client_span("openai", "chat", "openai", 9, error="openai.APIConnectionError")
        ]

    def test_retries_are_one_request(self, telemetry: Telemetry, server: Provider) -> None:
        server.failures[:] = [500, 503]
        before = len(server.asked)
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=2) as client:
            client.chat.completions.create(model="m", messages=MESSAGES)
        assert len(server.asked) - before == 3
        assert spans(telemetry) == [chat(server)]

    def test_missing_arguments_are_told_as_without_us(self, telemetry: Telemetry, client: Any) -> None:
        with pytest.raises(TypeError, match="Missing required arguments"):
            client.chat.completions.create()
        assert [span["attributes"]["error.type"] for span in spans(telemetry)] == ["TypeError"]

    def test_a_cancelled_task(self, telemetry: Telemetry, server: Provider) -> None:
        async def wait_for_ever(_request: Any) -> Any:
            await asyncio.Event().wait()

        async def ask() -> None:
            transport = httpx.MockTransport(wait_for_ever)
            async with openai.AsyncOpenAI(
                base_url=server.url, api_key="key", http_client=httpx.AsyncClient(transport=transport)
            ) as client:
                task = asyncio.create_task(client.chat.completions.create(model="m", messages=MESSAGES))
                await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(ask())
        assert spans(telemetry) == [client_span("openai", "chat", "openai", server.port, error="cancelled")]


class TestStreams:
    """Answers that come piece by piece."""

    def test_a_stream_is_a_request_to_its_end(
        self, telemetry: Telemetry, client: Any, server: Provider
    ) -> None:
        stream = client.chat.completions.create(
            model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        assert type(stream) is openai.Stream
        assert spans(telemetry) == []
        assert len(list(stream)) == 4
        assert spans(telemetry) == [chat(server, streamed=True)]
        assert counted(telemetry) == {
            "duration": {("chat", None): 1},
            "time_to_first_chunk": {("chat", None): 1},
            "tokens": {("chat", "input"): 7, ("chat", "output"): 3},
        }

    def test_usage_that_the_server_does_not_report_is_absent(
        self, telemetry: Telemetry, client: Any, server: Provider
    ) -> None:
        list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))
        assert spans(telemetry) == [chat(server, streamed=True, tokens=(None, None, None))]

    def test_an_asynchronous_stream(self, telemetry: Telemetry, server: Provider) -> None:
        async def ask() -> int:
            async with asynchronous(server) as client:
                stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
                assert type(stream) is openai.AsyncStream
                return len([chunk async for chunk in stream])

        assert asyncio.run(ask()) == 3
        assert spans(telemetry) == [chat(server, streamed=True, tokens=(None, None, None))]

    def test_the_stream_helpers_are_the_same_request(
        self, telemetry: Telemetry, client: Any, server: Provider
    ) -> None:
        with client.chat.completions.stream(model="m", messages=MESSAGES) as stream:
            for _ in stream:
                pass
        with client.responses.stream(model="m", input="the") as stream:
            for _ in stream:
                pass
        response = client_span(
            "openai", "chat", "openai", server.port,
            answered_by="m", finish=("completed",), tokens=TOKENS, streamed=True,
        )  # fmt: skip
        assert spans(telemetry) == [chat(server, streamed=True, tokens=(None, None, None)), response]

    @pytest.mark.parametrize("chunks", [0, 1])
    @pytest.mark.parametrize("how", ["close", "with", "drop"])
    def test_a_stream_that_is_left_is_cancelled(
        self, telemetry: Telemetry, client: Any, server: Provider, how: str, chunks: int
    ) -> None:
        stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        for _ in range(chunks):
            next(stream)
        if how == "close":
            stream.close()
        elif how == "with":
            with stream:
                pass
        else:
            stream.response.close()
        del stream
        gc.collect()
        otel_aimon.force_flush()
        answered_by = "m-2026" if chunks else None
        left = client_span(
            "openai", "chat", "openai", server.port, answered_by=answered_by, error="cancelled", streamed=bool(chunks)
        )  # fmt: skip
        assert spans(telemetry) == [left]

    def test_a_stream_that_is_closed_after_its_finish_reason_is_a_success(
        self, telemetry: Telemetry, client: Any, server: Provider
    ) -> None:
        with client.chat.completions.create(model="m", messages=MESSAGES, stream=True) as stream:
            for chunk in stream:
                if chunk.choices[0].finish_reason:
                    break
        assert spans(telemetry) == [chat(server, streamed=True, tokens=(None, None, None))]

    def test_a_stream_that_breaks_off(self, telemetry: Telemetry, client: Any, server: Provider) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            list(client.chat.completions.create(model="broken", messages=MESSAGES, stream=True))
        assert spans(telemetry) == [
            client_span(
                "openai",
                "chat",
                "openai",
                server.port,
                model="broken",
                answered_by="broken-2026",
                error="httpx.RemoteProtocolError",
                streamed=True,
            )
        ]


class TestUnchanged:
    """What the application sees."""

    def test_signatures_and_restoration(self) -> None:
        from openai.resources.chat.completions import AsyncCompletions, Completions

        before = [
            (owner, vars(owner)["create"], inspect.signature(owner.create))
            for owner in (Completions, AsyncCompletions)
        ]
        with Telemetry(frameworks=("openai",)):
            for owner, original, signature in before:
                assert vars(owner)["create"] is not original
                assert inspect.signature(owner.create) == signature
        assert all(vars(owner)["create"] is original for owner, original, _ in before)

    def test_the_chunks_are_those_of_the_server(self, telemetry: Telemetry, client: Any) -> None:
        stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        assert stream.response.status_code == 200
        assert [chunk.choices[0].finish_reason for chunk in stream] == [None, None, "stop"]
        with pytest.raises(StopIteration):
            next(stream)


class TestOtherInstrumentations:
    """They make the span; ours would be the second one of the same request."""

    @pytest.mark.parametrize("first", ["ours", "theirs"])
    @pytest.mark.parametrize(
        "name", ["openinference.instrumentation.openai", "opentelemetry.instrumentation.openai_v2"]
    )
    def test_one_span_of_theirs(self, server: Provider, name: str, first: str) -> None:
        theirs = pytest.importorskip(name, exc_type=ImportError).OpenAIInstrumentor()
        ours = Telemetry(frameworks=("openai",))

        def instrument_theirs() -> None:
            theirs.instrument(
                tracer_provider=ours.tracer_provider,
                meter_provider=ours.meter_provider,
                logger_provider=ours.logger_provider,
            )

        try:
            if first == "theirs":
                instrument_theirs()
            with ours as telemetry:
                if first == "ours":
                    instrument_theirs()
                with openai.OpenAI(base_url=f"{server.url}/v1", api_key="key") as client:
                    client.chat.completions.create(model="m", messages=MESSAGES)
                [span] = telemetry.raw_spans()
                assert span.instrumentation_scope.name.startswith(name)
        finally:
            theirs.uninstrument()
