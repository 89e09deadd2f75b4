"""What a service sends goes through a real Collector whole, with the configuration that we ship."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.e2e.backends import ROOT, program, server
from tests.e2e.processes import environment, free_port, run

AGENT = ROOT / "collector-config" / "agent.yaml"

TO_FILE = """
exporters:
  file: {path: PATH, flush_interval: 100ms}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {exporters: [file]}
    metrics: {exporters: [file]}
    logs: {exporters: [file]}
"""

SERVICE = """
import otel_aimon
from opentelemetry._logs import get_logger
for _ in range(3):
    with otel_aimon.inference("chat", model="m") as call:
        call.token()
        call.token()
get_logger("service").emit(event_name="done", body="served")
"""


def test_the_configuration_is_valid() -> None:
    done = subprocess.run(
        [program("otelcol"), "validate", "--config", str(AGENT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_everything_goes_through_it(tmp_path: Path) -> None:
    grpc, http, health = free_port(), free_port(), free_port()
    written, log, override = tmp_path / "out.json", tmp_path / "otelcol.log", tmp_path / "to-file.yaml"
    override.write_text(TO_FILE.replace("PATH", str(written)))
    ports = {
        "AIMON_OTLP_GRPC": f"127.0.0.1:{grpc}",
        "AIMON_OTLP_HTTP": f"127.0.0.1:{http}",
        "AIMON_HEALTH": f"127.0.0.1:{health}",
    }
    command = [program("otelcol"), "--config", str(AGENT), "--config", str(override)]
    with server(command, log, f"http://127.0.0.1:{health}/", env=ports):
        run("python", "-c", SERVICE, env=environment(f"http://127.0.0.1:{grpc}", "grpc"))
        run("python", "-c", SERVICE, env=environment(f"http://127.0.0.1:{http}", "http/protobuf"))

    assert "deprecat" not in log.read_text().lower()
    documents = [json.loads(line) for line in written.read_text().splitlines()]
    spans = records(documents, "resourceSpans", "scopeSpans", "spans")
    assert [span["name"] for span in spans] == ["chat m"] * 6
    assert {attribute["key"] for attribute in spans[0]["attributes"]} == {
        "aimon.framework",
        "aimon.operation",
        "aimon.model.name",
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "gen_ai.usage.output_tokens",
        "aimon.time_to_first_token",
    }
    metrics = records(documents, "resourceMetrics", "scopeMetrics", "metrics")
    durations = [
        each["histogram"]["dataPoints"][0] for each in metrics if each["name"] == "aimon.inference.duration"
    ]
    latest = {point["startTimeUnixNano"]: int(point["count"]) for point in durations}
    assert sorted(latest.values()) == [3, 3]
    traces = {span["traceId"] for span in spans}
    exemplars = {exemplar["traceId"] for point in durations for exemplar in point["exemplars"]}
    assert exemplars
    assert exemplars <= traces
    events = records(documents, "resourceLogs", "scopeLogs", "logRecords")
    assert [event.get("eventName") for event in events if event.get("eventName")] == ["done", "done"]


def records(documents: list[dict[str, Any]], resources: str, scopes: str, kind: str) -> list[dict[str, Any]]:
    """All records of a signal in the Collector's file."""
    return [
        record
        for document in documents
        for resource in document.get(resources, ())
        for scope in resource[scopes]
        for record in scope[kind]
    ]
