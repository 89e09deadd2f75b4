"""The whole telemetry of a request to a remote model, for tests that compare whole telemetry."""

from __future__ import annotations

from typing import Any

from tests.frameworks.whole_spans import whole_span
from tests.support.providers import SECRET, Provider
from tests.support.telemetry import Telemetry

FIRST = "gen_ai.response.time_to_first_chunk"


def client_span(
    framework: str,
    operation: str,
    provider: str,
    port: int | None,
    *,
    model: str = "m",
    answered_by: str | None = None,
    tokens: tuple[int | None, int | None, int | None] = (None, None, None),
    finish: tuple[str, ...] | None = None,
    error: str | None = None,
    streamed: bool = False,
    parent: str | None = None,
) -> dict[str, Any]:
    """The span of one request; ``tokens`` are input, output and cached ones."""
    known = {
        "aimon.framework": framework,
        "aimon.operation": operation,
        "aimon.model.name": model,
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
        "gen_ai.response.model": answered_by,
        "gen_ai.response.finish_reasons": finish,
        "gen_ai.usage.input_tokens": tokens[0],
        "gen_ai.usage.output_tokens": tokens[1],
        "gen_ai.usage.cache_read.input_tokens": tokens[2],
        "server.address": None if port is None else "127.0.0.1",
        "server.port": port,
        "error.type": error,
        FIRST: True if streamed else None,
    }
    return whole_span(f"{operation} {model}", known, kind="CLIENT", parent=parent)


def spans(telemetry: Telemetry, secret: str = SECRET) -> list[dict[str, Any]]:
    """All spans; a time to the first chunk is there or it is not. Content, as ``secret``, is nowhere."""
    found = telemetry.spans()
    for span in found:
        first = span["attributes"].get(FIRST)
        if first is not None:
            assert 0 < first < 60
            span["attributes"][FIRST] = True
    assert secret not in repr(found)
    return found


def counted(telemetry: Telemetry) -> dict[str, dict[tuple[Any, ...], float]]:
    """Counts of the conventions' client metrics, and sums of tokens, by operation and error."""
    metrics = telemetry.metrics()
    result: dict[str, dict[tuple[Any, ...], float]] = {}
    for name in ("gen_ai.client.operation.duration", "gen_ai.client.operation.time_to_first_chunk"):
        result[name.rpartition(".")[2]] = {
            (point.attributes["gen_ai.operation.name"], point.attributes.get("error.type")): point.count or 0
            for point in metrics.get(name, [])
        }
    result["tokens"] = {
        (point.attributes["gen_ai.operation.name"], point.attributes["gen_ai.token.type"]): point.total or 0
        for point in metrics.get("gen_ai.client.token.usage", [])
    }
    return result


__all__ = ["Provider", "client_span", "counted", "spans"]
