"""A service that asks remote models, in a process of its own: each call is one request, whatever became of it."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from otel_aimon.cli.receiver import Receiver
from tests.e2e.processes import environment, our_spans, run
from tests.support.providers import SECRET, provider

CLIENTS = ("openai", "anthropic", "ollama", "litellm", "huggingface_hub")

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, CLIENTS)), reason="the clients are not installed"
)

FIRST = "gen_ai.response.time_to_first_chunk"


def expected(framework: str, provider_name: str, port: int, model: str = "m", **further: Any) -> Any:
    """Kind, parent, status and attributes of the span of a chat."""
    attributes = {
        "aimon.framework": framework,
        "aimon.operation": "chat",
        "aimon.model.name": model,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider_name,
        "gen_ai.request.model": model,
        "server.address": "127.0.0.1",
        "server.port": port,
        **{name.replace("__", "."): value for name, value in further.items()},
    }
    error = attributes.get("error.type")
    status = 2 if error is not None and error != "cancelled" else 0
    return (f"chat {model}", 3, "", status, attributes)


def answered(by: str, finish: str, *tokens: int) -> dict[str, Any]:
    names = ("input_tokens", "output_tokens", "cache_read.input_tokens")
    return {
        "gen_ai.response.model": by,
        "gen_ai.response.finish_reasons": [finish],
        **{f"gen_ai.usage.{name}": count for name, count in zip(names, tokens, strict=False)},
    }


def test_every_client() -> None:
    with Receiver() as receiver, provider() as server:
        env = environment(
            receiver.http_endpoint,
            HF_HUB_OFFLINE="0",
            LITELLM_LOCAL_MODEL_COST_MAP="True",
            OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="system_metrics,httpx,openai,openai_v2",
        )
        run("python", "clients.py", str(server.port), env=env)
    received, port = receiver.received, server.port

    spans = []
    for span in sorted(our_spans(receiver), key=lambda span: span.start_ns):
        attributes = {name: list(v) if isinstance(v, tuple) else v for name, v in span.attributes.items()}
        if FIRST in attributes:
            assert 0 < attributes[FIRST] < 60
            attributes[FIRST] = True
        spans.append((span.name, span.kind, span.parent_id, span.status, attributes))
    usual = answered("m-2026", "stop", 7, 3, 4)
    streamed = {FIRST: True}
    refused = {"error.type": "openai.RateLimitError"}
    left = {"error.type": "cancelled", "gen_ai.response.model": "m-2026", **streamed}
    assert spans == [
        expected("openai", "openai", port, **usual),
        expected("openai", "openai", port, **usual, **streamed),
        expected("openai", "openai", port, model="overloaded", **refused),
        expected("openai", "openai", port, **left),
        expected("openai", "openai", port, **{"error.type": "cancelled"}),
        expected("anthropic", "anthropic", port, **answered("m-2026", "end_turn", 7, 3, 2)),
        expected("ollama", "ollama", port, **answered("m", "stop", 7, 3)),
        expected("litellm", "openai", port, **usual),
        expected("huggingface_hub", "huggingface_hub", port, **answered("m-2026", "stop", 7, 3)),
    ]
    assert SECRET not in repr(received)

    requests = {
        (*(value for _, value in sorted(point.attributes.items())),): point.count
        for point in received.latest_points("gen_ai.client.operation.duration")
    }
    assert requests == {
        ("chat", "openai", "m"): 3,  # two of OpenAI's client, one of LiteLLM
        ("cancelled", "chat", "openai", "m"): 2,
        ("openai.RateLimitError", "chat", "openai", "overloaded"): 1,
        ("chat", "anthropic", "m"): 1,
        ("chat", "ollama", "m"): 1,
        ("chat", "huggingface_hub", "m"): 1,
    }
    tokens = {
        (point.attributes["gen_ai.provider.name"], point.attributes["gen_ai.token.type"]): point.total
        for point in received.latest_points("gen_ai.client.token.usage")
    }
    assert tokens == {
        (name, kind): (7 if kind == "input" else 3) * (3 if name == "openai" else 1)
        for name in ("openai", "anthropic", "ollama", "huggingface_hub")
        for kind in ("input", "output")
    }
    chunks = {
        point.attributes["gen_ai.provider.name"]: point.count
        for point in received.latest_points("gen_ai.client.operation.time_to_first_chunk")
    }
    assert chunks == {"openai": 2}
