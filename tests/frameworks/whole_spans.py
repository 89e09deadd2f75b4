"""Whole spans, as they are expected and as they came out, for tests that compare whole telemetry."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tests.support.telemetry import Telemetry

TTFT = "aimon.time_to_first_token"
QUEUE = "aimon.queue.duration"


def whole_span(
    name: str, known: dict[str, Any], *, kind: str = "INTERNAL", parent: str | None = None
) -> dict[str, Any]:
    """A span with the attributes that are known; what is ``None`` is not there. Its error says its status."""
    return {
        "name": name,
        "kind": kind,
        "parent": parent,
        "attributes": {key: value for key, value in known.items() if value is not None},
        "status": "UNSET" if known.get("error.type") in {None, "cancelled"} else "ERROR",
        "events": [],
    }


def generated_span(
    framework: str,
    operation: str,
    model: str,
    *,
    gen_ai: str | None,
    batch: int | None = 1,
    device: str = "cpu",
    tokens: tuple[int | None, int | None] = (None, None),
    cached: int | None = None,
    reasons: tuple[str, ...] | None = None,
    error: str | None = None,
    parent: str | None = None,
    ttft: bool = False,
    queue: bool = False,
) -> dict[str, Any]:
    """The whole span of a request to a model in this process that generates tokens.

    Args:
        framework: Its framework.
        operation: What it does.
        model: The model's name.
        gen_ai: ``gen_ai.operation.name``; None for one that bears nothing of ``gen_ai``.
        batch: Items in it.
        device: Where it runs.
        tokens: Input and output.
        cached: Prompt tokens from a cache.
        reasons: Why the sequences ended.
        error: ``error.type``.
        parent: Name of the parent span.
        ttft: It has a time to the first token, which is ``True``.
        queue: It has a time in the queue, likewise.
    """
    known = {
        "aimon.framework": framework,
        "aimon.operation": operation,
        "aimon.model.name": model,
        "aimon.batch.size": batch,
        "aimon.device": device,
        "error.type": error,
        "gen_ai.operation.name": gen_ai,
        "gen_ai.provider.name": gen_ai and framework,
        "gen_ai.request.model": gen_ai and model,
        "gen_ai.usage.input_tokens": tokens[0],
        "gen_ai.usage.output_tokens": tokens[1],
        "gen_ai.usage.cache_read.input_tokens": cached,
        "gen_ai.response.finish_reasons": reasons,
        TTFT: ttft or None,
        QUEUE: queue or None,
    }
    return whole_span(f"{gen_ai or operation} {model}", known, parent=parent)


def seen_spans(
    telemetry: Telemetry, positive: Collection[str] = (TTFT,), not_negative: Collection[str] = ()
) -> list[dict[str, Any]]:
    """All spans; a duration that is there and as it has to be is ``True``."""
    found = telemetry.spans()
    for span in found:
        attributes = span["attributes"]
        attributes |= {key: attributes[key] > 0 for key in positive if key in attributes}
        attributes |= {key: attributes[key] >= 0 for key in not_negative if key in attributes}
    return found
