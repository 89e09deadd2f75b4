"""vLLM's OpenAI server: every endpoint's requests, and the tokens that it says they used."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM has an environment of its own: nox -s vllm")

import httpx

from otel_aimon import semconv
from otel_aimon.cli.receiver import Receiver, Span
from tests.e2e.processes import environment, free_port, our_spans, serving, wait_until
from tests.support.tiny_vllm import CONTEXT, ENVIRONMENT, save_bert, save_llama

pytestmark = pytest.mark.slow

START = 300.0
"""Seconds: a server is three processes, each of which imports vLLM."""
CATCHES = importlib.util.find_spec("vllm.exceptions") is None
"""An older server catches what it refuses, and answers with an error of its own making."""
REFUSED = "BadRequestError" if CATCHES else "vllm.exceptions.VLLMValidationError"
HTTP = importlib.util.find_spec("opentelemetry.instrumentation.fastapi") is not None
INPUT = ("prompt_tokens", "input_tokens", "total_tokens")
"""What the answers call the tokens of the input, of which some tell only the total, without any of an output."""
TOO_LONG = "hello " * (CONTEXT + 1)
TIMES = {
    semconv.AIMON_TIME_TO_FIRST_TOKEN,
    semconv.AIMON_QUEUE_DURATION,
    semconv.AIMON_PREFILL_DURATION,
    semconv.AIMON_DECODE_DURATION,
    semconv.AIMON_TIME_PER_OUTPUT_TOKEN,
}


@dataclass
class Sent:
    """A request, what its spans are to be, and what came of it."""

    path: str
    body: dict[str, Any]
    operation: str | None
    """None where it is no request."""
    requests: int = 1
    status: int = 200
    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    usage: dict[str, int] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)


def send(client: httpx.Client, sent: Sent) -> None:
    """Send a request, and keep the usage that the server tells."""
    headers = {"traceparent": f"00-{sent.trace_id}-{secrets.token_hex(8)}-01"}
    response = client.post(sent.path, json={"model": "tiny", **sent.body}, headers=headers)
    assert response.status_code == sent.status, response.text
    if response.headers["content-type"].startswith("text/event-stream"):
        events = [
            json.loads(line.removeprefix("data: "))
            for line in response.text.splitlines()
            if line.startswith("data: {")
        ]
        usage = events[-1].get("response", events[-1])["usage"]
    else:
        usage = response.json().get("usage") or {}
    sent.usage = {
        "input": next((usage[name] for name in INPUT if name in usage), 0),
        "output": usage.get("completion_tokens", usage.get("output_tokens")) or 0,
    }


@contextlib.contextmanager
def server(receiver: Receiver, folder: str, *more: str) -> Iterator[httpx.Client]:
    """A server of the model in a folder, under the name ``tiny``."""
    port = free_port()
    arguments = (
        *("-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--served-model-name", "tiny"),
        *("--dtype", "float32", "--enforce-eager", "--max-model-len", str(CONTEXT), "--block-size", "32"),
        *("--max-num-seqs", "4", "--host", "127.0.0.1", "--port", str(port), *more),
    )
    env = environment(receiver.http_endpoint, **ENVIRONMENT)
    with (
        serving("python", *arguments, env=env, port=port, seconds=START),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=START) as client,
    ):
        yield client


def exchange(receiver: Receiver, client: httpx.Client, *all_sent: Sent) -> None:
    """Send requests one after the other, and check all that is recorded of them."""
    for sent in all_sent:
        send(client, sent)
    expected = sum(sent.requests for sent in all_sent if sent.operation is not None)
    wait_until(lambda: len(our_spans(receiver)) >= expected, "the spans arrive")
    for span in our_spans(receiver):
        next(sent for sent in all_sent if sent.trace_id == span.trace_id).spans.append(span)
    for sent in all_sent:
        _check_spans(sent, {span.span_id: span for span in receiver.received.spans if span.kind == 2})
    # Every point that counts requests or tokens says what the spans say.
    wait_until(lambda: _counted(receiver).total() >= expected, "the metrics arrive")
    spans = [span for sent in all_sent for span in sent.spans]
    assert _counted(receiver) == Counter((span.name, _outcome(span)) for span in spans)
    tokens: Counter[tuple[str, str]] = Counter()
    for sent in all_sent:
        for kind, amount in sent.usage.items():
            if amount and sent.operation is not None:
                tokens[sent.operation, kind] += amount
    told = {
        (point.attributes["aimon.operation"], point.attributes["gen_ai.token.type"]): point.value
        for point in receiver.received.latest_points("aimon.inference.tokens")
        if point.attributes["gen_ai.token.type"] != "cached" and point.value
    }
    assert told == tokens
    wait_until(lambda: _now(receiver) == {0}, "nothing is in flight")


def _counted(receiver: Receiver) -> Counter[tuple[str, str | None]]:
    found: Counter[tuple[str, str | None]] = Counter()
    for point in receiver.received.latest_points("aimon.inference.duration"):
        name = f"{point.attributes['aimon.operation']} {point.attributes['aimon.model.name']}"
        found[name, point.attributes.get("error.type")] += point.count or 0
    return found


def _now(receiver: Receiver) -> set[float | None]:
    names = ("aimon.inference.active", "aimon.engine.requests.running", "aimon.engine.requests.waiting")
    return {point.value for name in names for point in receiver.received.latest_points(name)}


def _outcome(span: Span) -> str | None:
    return span.attributes.get(semconv.ERROR_TYPE)  # type: ignore[return-value]


def _check_spans(sent: Sent, servers: dict[str, Span]) -> None:
    assert len(sent.spans) == (sent.requests if sent.operation is not None else 0), sent
    for kind, name in (
        ("input", semconv.GEN_AI_USAGE_INPUT_TOKENS),
        ("output", semconv.GEN_AI_USAGE_OUTPUT_TOKENS),
    ):
        amounts = [int(span.attributes.get(name, 0)) for span in sent.spans]  # type: ignore[call-overload]
        if sent.status == 200:
            assert sum(amounts) == sent.usage[kind], sent
    for span in sent.spans:
        assert (span.name, span.kind) == (f"{sent.operation} tiny", 1)
        assert set(span.attributes) == _attributes(sent, span)
        assert all(span.attributes[name] >= 0 for name in TIMES & set(span.attributes))  # type: ignore[operator]
        assert _outcome(span) == (None if sent.status == 200 else REFUSED)
        if HTTP:
            assert servers[span.parent_id].name == f"POST {sent.path}"


def _attributes(sent: Sent, span: Span) -> set[str]:
    """The names of all attributes that a span is to have."""
    names = {"aimon.framework", "aimon.operation", "aimon.model.name", "aimon.device"}
    if sent.operation in semconv.GEN_AI_OPERATIONS:
        names |= {"gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"}
    if sent.status != 200:
        return names | {semconv.ERROR_TYPE}
    names |= {semconv.AIMON_BATCH_SIZE, semconv.AIMON_QUEUE_DURATION, semconv.AIMON_PREFILL_DURATION}
    names |= {semconv.GEN_AI_USAGE_INPUT_TOKENS, semconv.GEN_AI_USAGE_CACHED_TOKENS}
    if sent.operation in {semconv.CHAT, semconv.TEXT_COMPLETION}:
        names |= TIMES | {semconv.GEN_AI_USAGE_OUTPUT_TOKENS, semconv.GEN_AI_RESPONSE_FINISH_REASONS}
        if span.attributes[semconv.GEN_AI_USAGE_OUTPUT_TOKENS] == 1:
            names -= {semconv.AIMON_TIME_PER_OUTPUT_TOKEN}
    return names


def _chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_generation(tmp_path: Path) -> None:
    with Receiver() as receiver, server(receiver, save_llama(tmp_path / "llama")) as client:
        exchange(
            receiver,
            client,
            Sent(
                "/v1/completions", {"prompt": "hello", "max_tokens": 4, "ignore_eos": True}, "text_completion"
            ),
            Sent(
                "/v1/completions",
                {"prompt": ["hello", "world"], "max_tokens": 3, "n": 2},
                "text_completion",
                2,
            ),
            Sent("/v1/chat/completions", {"messages": _chat("hello"), "max_tokens": 3}, "chat"),
            Sent("/v1/responses", {"input": "hello", "max_output_tokens": 4}, "chat"),
            Sent("/v1/responses", {"input": "hello", "max_output_tokens": 4, "stream": True}, "chat"),
            Sent("/v1/completions", {"prompt": TOO_LONG}, "text_completion", status=400),
            Sent("/v1/chat/completions", {"messages": _chat(TOO_LONG)}, "chat", status=400),
            Sent("/v1/responses", {"input": TOO_LONG}, "chat", status=400),
            Sent("/v1/completions", {"prompt": "hello", "temperature": "hot"}, None, status=400),
            Sent("/v1/completions", {"prompt": "hello", "model": "other"}, None, status=404),
            Sent("/v1/chat/completions", {"messages": _chat("hello"), "model": "other"}, None, status=404),
            Sent("/v1/responses", {"input": "hello", "model": "other"}, None, status=404),
        )


def test_embeddings(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "bert", classifies=False)
    with Receiver() as receiver, server(receiver, folder, "--runner", "pooling") as client:
        exchange(
            receiver,
            client,
            Sent("/v1/embeddings", {"input": "hello"}, "embeddings"),
            Sent("/v1/embeddings", {"input": ["hello", "the quick brown fox"]}, "embeddings", 2),
            Sent("/pooling", {"input": "hello", "task": "embed"}, "embeddings"),
            Sent("/v1/embeddings", {"input": TOO_LONG}, "embeddings", status=400),
            Sent("/v1/embeddings", {"input": "hello", "model": "other"}, None, status=404),
        )


def test_classification(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "bert", classifies=True)
    with Receiver() as receiver, server(receiver, folder, "--runner", "pooling") as client:
        exchange(
            receiver,
            client,
            Sent("/classify", {"input": ["hello", "fox"]}, "classify", 2),
            Sent("/score", {"text_1": "hello", "text_2": ["fox", "the quick fox"]}, "score", 2),
            Sent("/rerank", {"query": "hello", "documents": ["fox", "brown"]}, "rerank", 2),
            Sent("/classify", {"input": TOO_LONG}, "classify", status=400),
            Sent("/classify", {"input": "hello", "model": "other"}, None, status=404),
        )
