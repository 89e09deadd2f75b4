"""What a service sends goes through a real Collector whole, with the configuration that we ship."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from otel_aimon.cli.receiver import Receiver
from tests.e2e.backends import ROOT, program, server
from tests.e2e.processes import (
    counts_by_process,
    environment,
    free_port,
    our_spans,
    run,
    spans_by_process,
)

AGENT = ROOT / "collector-config" / "agent.yaml"

QUIET = """
service: {telemetry: {metrics: {level: none}}}
"""

# An exporter for each signal: one that is shared is closed with the first pipeline, and the rest is lost.
TO_FILES = """
exporters:
  file/traces: {path: "${env:FOLDER}/traces.json"}
  file/metrics: {path: "${env:FOLDER}/metrics.json"}
  file/logs: {path: "${env:FOLDER}/logs.json"}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {exporters: [file/traces]}
    metrics: {exporters: [file/metrics]}
    logs: {exporters: [file/logs]}
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


class Agent(NamedTuple):
    """A Collector that runs."""

    grpc: str
    http: str
    log: Path


@contextlib.contextmanager
def agent(folder: Path, override: str, **env: str) -> Iterator[Agent]:
    """A Collector with our configuration and ``override``; when it has ended, its log has no warning."""
    grpc, http, health = (f"127.0.0.1:{free_port()}" for _ in range(3))
    log = folder / "otelcol.log"
    second = folder / "override.yaml"
    second.write_text(override)
    command = [program("otelcol"), "--config", str(AGENT), "--config", str(second)]
    ports = {"AIMON_OTLP_GRPC": grpc, "AIMON_OTLP_HTTP": http, "AIMON_HEALTH": health}
    with server(command, log, f"http://{health}/", env={**ports, **env}):
        yield Agent(f"http://{grpc}", f"http://{http}", log)
    logged = log.read_text()
    assert "deprecat" not in logged.lower()
    assert not [line for line in logged.splitlines() if re.search(r"\t(warn|error)\t", line)]
    assert "Shutdown complete" in logged


def test_spans_metrics_and_records_go_through_it_whole(tmp_path: Path) -> None:
    with agent(tmp_path, TO_FILES, FOLDER=str(tmp_path)) as running:
        run("python", "-c", SERVICE, env=environment(running.grpc, "grpc"))
        run("python", "-c", SERVICE, env=environment(running.http, "http/protobuf"))

    spans = records(tmp_path / "traces.json", "resourceSpans", "scopeSpans", "spans")
    assert [span["name"] for span in spans] == ["chat m"] * 6
    for span in spans:
        assert {attribute["key"] for attribute in span["attributes"]} == {
            "aimon.framework",
            "aimon.operation",
            "aimon.model.name",
            "gen_ai.operation.name",
            "gen_ai.provider.name",
            "gen_ai.request.model",
            "gen_ai.usage.output_tokens",
            "aimon.time_to_first_token",
        }
    metrics = records(tmp_path / "metrics.json", "resourceMetrics", "scopeMetrics", "metrics")
    durations = [
        point
        for each in metrics
        if each["name"] == "aimon.inference.duration"
        for point in each["histogram"]["dataPoints"]
    ]
    latest = {point["startTimeUnixNano"]: int(point["count"]) for point in durations}
    assert sorted(latest.values()) == [3, 3]
    exemplars = {exemplar["traceId"] for point in durations for exemplar in point.get("exemplars", ())}
    assert exemplars
    assert exemplars <= {span["traceId"] for span in spans}
    events = records(tmp_path / "logs.json", "resourceLogs", "scopeLogs", "logRecords")
    assert [event.get("eventName") for event in events if event.get("eventName")] == ["done", "done"]


def test_they_reach_the_users_backend(tmp_path: Path) -> None:
    with Receiver() as backend:
        address = backend.grpc_endpoint.removeprefix("http://")
        with agent(tmp_path, QUIET, AIMON_BACKEND=address) as running:
            run("python", "-c", SERVICE, env=environment(running.http))

    spans = our_spans(backend)
    assert [span.name for span in spans] == ["chat m"] * 3
    assert all({"host.name", "os.type", "service.name"} <= set(span.resource) for span in spans)
    assert counts_by_process(backend) == spans_by_process(backend)
    assert [event.name for event in backend.received.events if event.name] == ["done"]


def records(file: Path, resources: str, scopes: str, kind: str) -> list[dict[str, Any]]:
    """All records in a file that the Collector wrote."""
    return [
        record
        for line in file.read_text().splitlines()
        for resource in json.loads(line)[resources]
        for scope in resource[scopes]
        for record in scope[kind]
    ]
