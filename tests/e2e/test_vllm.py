"""vLLM's OpenAI server with its own processes: each request once, with its outcome and the server's token counts."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import secrets
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM has an environment of its own: nox -s vllm")

import httpx

from otel_aimon import semconv
from otel_aimon.cli.receiver import Receiver, Span
from tests.e2e.processes import (
    answering,
    command,
    environment,
    free_port,
    instance,
    our_spans,
    wait_until,
)
from tests.support.tiny_vllm import CONTEXT, ENVIRONMENT, save_llama

pytestmark = pytest.mark.slow

REQUESTS = 64
START = 300.0
"""Seconds: a server is three processes, each of which imports vLLM."""
REFUSED = (
    "vllm.exceptions.VLLMValidationError"
    if importlib.util.find_spec("vllm.exceptions")
    else "BadRequestError"  # An older server catches what it refuses.
)
HTTP = importlib.util.find_spec("opentelemetry.instrumentation.fastapi") is not None


@dataclass
class Answer:
    """What a client saw of its request."""

    trace_id: str
    cancelled: bool = False
    status: int = 0
    usage: dict[str, Any] = field(default_factory=dict)


class Client:
    """Sends requests with a trace each."""

    def __init__(self, port: int) -> None:
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}/v1", timeout=START, limits=httpx.Limits(max_connections=None)
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.http.aclose()

    async def stream(self, tokens: int, *, leave: bool = False, chat: bool = False) -> Answer:
        """Send a streamed request; with ``leave``, hang up after its first chunk."""
        answer = Answer(secrets.token_hex(16), cancelled=leave)
        body: dict[str, Any] = {
            "model": "tiny",
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if chat:
            body["messages"] = [{"role": "user", "content": f"hello {tokens}"}]
        else:
            body["prompt"] = f"the quick brown fox {tokens}"
        async with self.http.stream(
            "POST", "chat/completions" if chat else "completions", json=body, headers=self.headers(answer)
        ) as response:
            answer.status = response.status_code
            async for chunk in _chunks(response):
                if leave:
                    break
                answer.usage = chunk.get("usage") or answer.usage
        return answer

    async def whole(self, **body: Any) -> Answer:
        """Send a request that is not streamed."""
        answer = Answer(secrets.token_hex(16))
        response = await self.http.post(
            "completions", json={"model": "tiny", **body}, headers=self.headers(answer)
        )
        answer.status = response.status_code
        answer.usage = response.json().get("usage") or {}
        return answer

    @staticmethod
    def headers(answer: Answer) -> dict[str, str]:
        return {"traceparent": f"00-{answer.trace_id}-{secrets.token_hex(8)}-01"}


async def _chunks(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


async def load(client: Client) -> list[Answer]:
    """64 at once, of which every third leaves."""
    return list(
        await asyncio.gather(
            *(
                client.stream(CONTEXT - 28, leave=True, chat=number % 2 == 0)
                if number % 3 == 0
                else client.stream(4 + number % 7, chat=number % 2 == 0)
                for number in range(REQUESTS)
            )
        )
    )


def outcome(span: Span) -> str | None:
    """``error.type`` of a request."""
    found = span.attributes.get(semconv.ERROR_TYPE)
    return None if found is None else str(found)


def test_every_request_is_accounted_for(tmp_path: Path) -> None:
    port = free_port()
    with Receiver() as receiver:
        env = environment(receiver.http_endpoint, **ENVIRONMENT)
        arguments = (
            *("-m", "vllm.entrypoints.openai.api_server", "--model", save_llama(tmp_path / "llama")),
            *("--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"),
            *("--max-model-len", str(CONTEXT), "--block-size", "32", "--max-num-seqs", "4"),
            *("--enable-prompt-tokens-details", "--host", "127.0.0.1", "--port", str(port)),
        )
        log = tmp_path / "server.log"
        with log.open("w") as output:
            server = subprocess.Popen(
                command("python", *arguments), env=env, stdout=output, stderr=subprocess.STDOUT, cwd=tmp_path
            )
        try:
            wait_until(lambda: server.poll() is not None or _is_up(port), "the server answers", START)
            assert server.poll() is None, log.read_text()
            answers = asyncio.run(_all_of_it(port, receiver))
            left = asyncio.run(_until_shutdown(port, server))
        finally:
            server.kill() if server.poll() is None else None
            server.wait()
        text = log.read_text()
    _check_answers(receiver, answers)
    _check_processes(receiver)
    spans = {span.trace_id: span for span in our_spans(receiver)}
    outcomes = Counter(outcome(spans[trace_id]) for trace_id in left)
    assert set(outcomes) <= {None, "cancelled", "vllm.v1.engine.exceptions.EngineDeadError"}, outcomes
    assert outcomes.total() - outcomes[None] > 0
    assert "otel-aimon failed" not in text


def _is_up(port: int) -> bool:
    return bool(answering(port)) or answering(port) == [""]


async def _all_of_it(port: int, receiver: Receiver) -> list[Answer]:
    async with Client(port) as client:
        answers = await load(client)
        answers.append(
            await client.whole(prompt="hello", max_tokens=3, n=2, ignore_eos=True, temperature=1.0)
        )
        answers.append(await client.whole(prompt="hello " * CONTEXT, max_tokens=3))
    assert answers[-1].status == 400
    wait_until(lambda: len(our_spans(receiver)) >= len(answers), "the spans arrive")
    return answers


async def _until_shutdown(port: int, server: subprocess.Popen[bytes]) -> list[str]:
    """More requests than the server can end at once, and its end; returns their traces."""
    started: list[str] = []

    async def one(client: Client) -> None:
        answer = Answer(secrets.token_hex(16))
        body = {
            "model": "tiny",
            "prompt": "hello",
            "max_tokens": CONTEXT - 8,
            "ignore_eos": True,
            "stream": True,
        }
        with contextlib.suppress(httpx.HTTPError):
            async with client.http.stream(
                "POST", "completions", json=body, headers=client.headers(answer)
            ) as response:
                async for _ in _chunks(response):
                    if answer.trace_id not in started:
                        started.append(answer.trace_id)

    async with Client(port) as client:
        tasks = [asyncio.create_task(one(client)) for _ in range(32)]
        while len(started) < 4:
            await asyncio.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        # The server ends its engine, and then waits for ever for the clients of the requests that it had.
        _, pending = await asyncio.wait(tasks, timeout=3)
        for task in pending:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(server.wait, START)
    return started


def _check_answers(receiver: Receiver, answers: list[Answer]) -> None:
    spans = our_spans(receiver)
    by_trace = Counter(span.trace_id for span in spans)
    assert {answer.trace_id: 1 for answer in answers} == {
        answer.trace_id: by_trace[answer.trace_id] for answer in answers
    }
    found = {span.trace_id: span for span in spans}
    expected: Counter[tuple[str, str | None]] = Counter()
    for answer in answers:
        span = found[answer.trace_id]
        told = span.attributes
        if answer.cancelled:
            assert outcome(span) == "cancelled"
            assert told[semconv.GEN_AI_RESPONSE_FINISH_REASONS] == ("abort",)
            assert 0 < told[semconv.GEN_AI_USAGE_OUTPUT_TOKENS] < CONTEXT - 28
        elif answer.status == 200:
            assert outcome(span) is None
            assert told[semconv.GEN_AI_USAGE_INPUT_TOKENS] == answer.usage["prompt_tokens"]
            assert told[semconv.GEN_AI_USAGE_OUTPUT_TOKENS] == answer.usage["completion_tokens"]
            cached = (answer.usage.get("prompt_tokens_details") or {}).get("cached_tokens")
            assert cached is None or told[semconv.GEN_AI_USAGE_CACHED_TOKENS] == cached
            assert told[semconv.AIMON_QUEUE_DURATION] >= 0
            assert told[semconv.AIMON_PREFILL_DURATION] > 0
            assert told[semconv.AIMON_DECODE_DURATION] > 0
            assert told[semconv.AIMON_TIME_TO_FIRST_TOKEN] <= span.seconds
        else:
            assert outcome(span) == REFUSED
        expected[span.name, outcome(span)] += 1
    assert expected["chat tiny", "cancelled"] + expected["text_completion tiny", "cancelled"] == 22
    if HTTP:
        servers = {span.span_id: span for span in receiver.received.spans if span.kind == 2}
        for answer in answers:
            parent = servers[found[answer.trace_id].parent_id]
            assert parent.name.startswith("POST /v1/")


def _check_processes(receiver: Receiver) -> None:
    """Requests and engines are told by one process, and counted as often as there are spans."""
    spans = our_spans(receiver)
    assert {span.attributes["aimon.framework"] for span in spans} == {"vllm"}
    [front] = {instance(span) for span in spans}
    counted: Counter[str | None] = Counter()
    for point in receiver.received.latest_points("aimon.inference.duration"):
        assert instance(point) == front
        counted[point.attributes.get("error.type")] += point.count or 0
    assert counted == Counter(outcome(span) for span in spans)
    for metric in ("running", "waiting"):
        points = receiver.received.latest_points(f"aimon.engine.requests.{metric}")
        assert [(instance(point), point.attributes["aimon.engine.id"]) for point in points] == [(front, "0")]
    [queries] = receiver.received.latest_points("aimon.engine.prefix_cache.queries")
    assert queries.value and queries.attributes["aimon.model.name"] == "tiny"
