"""An offline program on vLLM, in a process of its own: all that it tells, and that it ends as without us."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM has an environment of its own: nox -s vllm")

from otel_aimon import semconv
from otel_aimon.cli.receiver import Receiver, Span
from tests.e2e.processes import APPS, command, environment, instance, our_spans
from tests.support.tiny_vllm import ENVIRONMENT, save_bert, save_llama

pytestmark = pytest.mark.slow

LIMIT = 400.0
"""Seconds: each engine is a process that imports vLLM."""
TIMES = {
    semconv.AIMON_TIME_TO_FIRST_TOKEN,
    semconv.AIMON_QUEUE_DURATION,
    semconv.AIMON_PREFILL_DURATION,
    semconv.AIMON_DECODE_DURATION,
    semconv.AIMON_TIME_PER_OUTPUT_TOKEN,
}


def run(receiver: Receiver, folder: Path, how: str) -> tuple[int, str]:
    """Run the program under ``opentelemetry-instrument`` to its end; gives its status and what it printed."""
    models = (save_llama(folder / "llama"), save_bert(folder / "bert", classifies=False))
    log = folder / "output.txt"
    # Into a file: an engine's process that outlives the program by a moment would hold a pipe open.
    with log.open("w") as output:
        done = subprocess.run(
            command("python", "vllm_app.py", how, *models),
            env=environment(receiver.http_endpoint, **{**ENVIRONMENT, "OTEL_METRIC_EXPORT_INTERVAL": "1500"}),
            cwd=APPS,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
            check=False,
        )
    return done.returncode, log.read_text()


def told(span: Span) -> tuple[str, dict[str, Any]]:
    """The name of a span and all its attributes, of which times are ``True``."""
    times = {name: span.attributes[name] >= 0 for name in TIMES & set(span.attributes)}  # type: ignore[operator]
    return span.name, {**span.attributes, **times}


def expected(operation: str, model: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """The same of a request of the program."""
    attributes = {
        "aimon.framework": "vllm",
        "aimon.operation": operation,
        "aimon.model.name": model,
        "aimon.device": "cpu",
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": model,
    }
    return f"{operation} {model}", {**attributes, **more}


def completed(input_tokens: int, output_tokens: int = 0) -> dict[str, Any]:
    """Attributes of a request that has run to its end."""
    known = {
        semconv.AIMON_BATCH_SIZE: 1,
        semconv.GEN_AI_USAGE_INPUT_TOKENS: input_tokens,
        semconv.GEN_AI_USAGE_CACHED_TOKENS: 0,
        semconv.AIMON_QUEUE_DURATION: True,
        semconv.AIMON_PREFILL_DURATION: True,
    }
    if output_tokens:
        known |= dict.fromkeys(TIMES, True)
        known |= {
            semconv.GEN_AI_USAGE_OUTPUT_TOKENS: output_tokens,
            semconv.GEN_AI_RESPONSE_FINISH_REASONS: ("length",),
        }
    return known


def counts(receiver: Receiver, metric: str) -> Counter[tuple[str, ...]]:
    """How much each series of a metric has counted."""
    found: Counter[tuple[str, ...]] = Counter()
    names = ("aimon.operation", "gen_ai.operation.name", "error.type", "gen_ai.token.type")
    for point in receiver.received.latest_points(metric):
        key = tuple(str(point.attributes[name]) for name in names if name in point.attributes)
        found[key] += int(point.count if point.count is not None else point.value or 0)
    return +found


def test_every_call_is_told(tmp_path: Path) -> None:
    with Receiver() as receiver:
        status, text = run(receiver, tmp_path, "whole")
    assert status == 0, text
    spans = our_spans(receiver)
    prompts = [int(span.attributes.get(semconv.GEN_AI_USAGE_INPUT_TOKENS, 0)) for span in spans]  # type: ignore[call-overload]
    refused = [span for span in spans if "error.type" in span.attributes]
    [error] = [str(span.attributes["error.type"]) for span in refused]
    assert error in {"ValueError", "vllm.exceptions.VLLMValidationError"}
    assert [told(span) for span in spans] == [
        expected("text_completion", "llama", **completed(prompts[0], 4)),
        expected("text_completion", "llama", **completed(prompts[1], 4)),
        expected("chat", "llama", **completed(prompts[2], 2)),
        expected("text_completion", "llama", **{"error.type": error}),
        expected("embeddings", "bert", **completed(prompts[4])),
        expected("embeddings", "bert", **completed(prompts[5])),
    ]
    assert {(span.kind, span.parent_id) for span in spans} == {(1, "")}
    assert len({instance(span) for span in spans}) == 1
    outcomes = {
        ("text_completion",): 2,
        ("text_completion", error): 1,
        ("chat",): 1,
        ("embeddings",): 2,
    }
    assert counts(receiver, "aimon.inference.duration") == outcomes
    assert counts(receiver, "gen_ai.server.request.duration") == outcomes
    assert counts(receiver, "aimon.inference.tokens") == {
        ("text_completion", "input"): prompts[0] + prompts[1],
        ("text_completion", "output"): 8,
        ("chat", "input"): prompts[2],
        ("chat", "output"): 2,
        ("embeddings", "input"): prompts[4] + prompts[5],
    }
    for metric in ("gen_ai.server.time_to_first_token", "gen_ai.server.time_per_output_token"):
        assert counts(receiver, metric) == {("text_completion",): 2, ("chat",): 1}
    assert counts(receiver, "aimon.inference.queue.duration").total() == 5
    assert counts(receiver, "aimon.inference.active") == {}
    assert sum(point.value or 0 for point in receiver.received.latest_points("aimon.selfmon.errors")) == 0
    queries = receiver.received.latest_points("aimon.engine.prefix_cache.queries")
    assert {point.attributes["aimon.model.name"]: point.value for point in queries}["llama"] == sum(
        prompts[:3]
    )


ENDS = {"raise": 1, "exit": 3, "leave": 0}


@pytest.mark.parametrize("how", list(ENDS))
def test_an_end_with_requests_in_flight(tmp_path: Path, how: str) -> None:
    with Receiver() as receiver:
        status, text = run(receiver, tmp_path, how)
    assert "in flight 3" in text
    assert status == ENDS[how], text
    assert ("OSError: the program fails" in text) == (how == "raise")
    spans = our_spans(receiver)
    assert [(span.name, span.attributes.get("error.type")) for span in spans] == [
        ("text_completion llama", "cancelled")
    ] * 3
    assert counts(receiver, "aimon.inference.duration") == {("text_completion", "cancelled"): 3}
