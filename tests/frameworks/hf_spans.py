"""Whole spans of Transformers, as they are expected and as they came out."""

from __future__ import annotations

from typing import Any

from otel_aimon import semconv
from tests.support.telemetry import Telemetry

_ATTRIBUTES = {
    "batch": semconv.AIMON_BATCH_SIZE,
    "input": semconv.GEN_AI_USAGE_INPUT_TOKENS,
    "output": semconv.GEN_AI_USAGE_OUTPUT_TOKENS,
    "reasons": semconv.GEN_AI_RESPONSE_FINISH_REASONS,
    "error": semconv.ERROR_TYPE,
    "ttft": semconv.AIMON_TIME_TO_FIRST_TOKEN,
    "queue": semconv.AIMON_QUEUE_DURATION,
}
_DURATIONS = (semconv.AIMON_TIME_TO_FIRST_TOKEN, semconv.AIMON_QUEUE_DURATION)

DEFAULT: Any = object()


def expected(
    operation: str = "text_completion",
    model: str = "tiny/llama",
    *,
    gen_ai: str | None = DEFAULT,
    parent: str | None = None,
    **known: Any,
) -> dict[str, Any]:
    """A span.

    Args:
        operation: ``aimon.operation``.
        model: Model name.
        gen_ai: ``gen_ai.operation.name``, when it is not the operation.
        parent: Name of the parent span.
        **known: By the short names above; durations are ``True`` when they are there.
    """
    if gen_ai is DEFAULT:
        gen_ai = operation if operation in semconv.GEN_AI_OPERATIONS else None
    attributes = {
        semconv.AIMON_FRAMEWORK: "transformers",
        semconv.AIMON_OPERATION: operation,
        semconv.AIMON_MODEL_NAME: model,
        semconv.AIMON_DEVICE: "cpu",
        **{_ATTRIBUTES[name]: value for name, value in known.items()},
    }
    if gen_ai is not None:
        attributes |= {
            semconv.GEN_AI_OPERATION_NAME: gen_ai,
            semconv.GEN_AI_PROVIDER_NAME: "transformers",
            semconv.GEN_AI_REQUEST_MODEL: model,
        }
    failed = known.get("error") not in {None, "cancelled"}
    return {
        "name": f"{gen_ai or operation} {model}",
        "kind": "INTERNAL",
        "parent": parent,
        "attributes": attributes,
        "status": "ERROR" if failed else "UNSET",
        "events": [],
    }


def recorded(telemetry: Telemetry) -> list[dict[str, Any]]:
    """All spans; a duration that is there and positive is ``True``."""
    spans = telemetry.spans()
    for span in spans:
        for name in _DURATIONS:
            if name in span["attributes"]:
                span["attributes"][name] = span["attributes"][name] > 0
    return spans
