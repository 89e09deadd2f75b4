"""Spans as they should be: whole, for tests that compare whole telemetry."""

from __future__ import annotations

import os
from typing import Any

from otel_aimon.cli.receiver import Receiver
from tests.e2e import processes
from tests.frameworks.whole_spans import whole_span


def request_span(
    framework: str,
    operation: str,
    model: str,
    *,
    batch: int | None = None,
    device: str | None = "cpu",
    error: str | None = None,
    parent: str | None = None,
) -> dict[str, Any]:
    """The whole span of one request that generates no tokens."""
    known = {
        "aimon.framework": framework,
        "aimon.operation": operation,
        "aimon.model.name": model,
        "aimon.batch.size": batch,
        "aimon.device": device,
        "error.type": error,
    }
    return whole_span(f"{operation} {model}", known, parent=parent)


def served(code: str) -> tuple[list[tuple[str, int]], dict[tuple[str, str, str], int], str]:
    """Run ``code`` in a process of its own under ``opentelemetry-instrument``.

    Returns:
        Name and batch size of each request span, requests counted by (framework, operation, model),
        and what the process wrote to its standard error.
    """
    with Receiver() as receiver:
        env = processes.environment(receiver.http_endpoint)
        env["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
        done = processes.run("python", "-c", code, env=env)
    spans = [(span.name, span.attributes.get("aimon.batch.size")) for span in processes.our_spans(receiver)]
    [counted] = processes.requests_counted_by_process(receiver).values() or [{}]
    return sorted(spans), dict(counted), done.stderr
