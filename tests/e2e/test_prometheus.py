"""The names that metrics have in a real Prometheus are those of the docs."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.e2e.backends import ROOT, program, server
from tests.e2e.processes import environment, free_port, run, wait_until

PAGE = ROOT / "docs" / "metrics-in-prometheus.md"

SERVICE = """
import otel_aimon, time
from otel_aimon import runtime
from otel_aimon.analysis.evidence import Evidence
from tests.support.hints import teach
from tests.support.snapshots import read_everything
read_everything(runtime.current().resources)
from otel_aimon.core.layers import Layer
for _ in range(4):
    with otel_aimon.inference("chat", model="m", batch_size=2) as call:
        for _ in range(3): call.token()
        call.usage(input_tokens=5, cached_tokens=1)
        with otel_aimon.inference("rerank", model="r"): pass
with otel_aimon.inference("chat", model="m") as call:
    call.error("Overloaded")
with otel_aimon.inference("chat", model="m"):
    otel_aimon.inference("rerank", model="r").start().error("Overloaded")
with otel_aimon.inference("chat", model="remote", client=True) as call:
    call.token()
    call.usage(input_tokens=5)
    call.error("Overloaded")
# As a framework that keeps a queue of its own does it.
recorder = runtime.current().recorder
queued = recorder.series("transformers", "generate", "queued")
recorder.watch_queue(queued, lambda: 2)
request = recorder.start(queued, Layer.REQUEST)
request.queue_ns = 1
request.end()
# As a serving engine that tells everything of itself does it.
class Owner: pass
owner = Owner()
engine = recorder.engines.open("vllm", "m", 0, owner)
engine.running, engine.waiting, engine.kv_cache = 3, 1, 0.5
for count in ("prefix_queries", "prefix_hits", "preemptions", "draft_tokens", "accepted_tokens"):
    engine.add(count, 1)
heard = recorder.start(queued, Layer.REQUEST)
heard.audio = 2.0
heard.end()
recorder.compilations.add("jax", "m", 0.5)
runtime.current().force_flush()
runtime.current().watches.alerts.judge([
    Evidence("stall", (("aimon.model.name", "m"),), 2.0), Evidence("gpu.error", (("hw.id", "MIG-1"),), 1.0)
])
teach(runtime.current().watches.hints, recorder, "taught")
with otel_aimon.limiter("taught"): pass
while runtime.current().resources.snapshot is None: time.sleep(0.05)
# Energy is attributed some time after the requests have ended.
while not runtime.current().energy.totals():
    with otel_aimon.inference("chat", model="on a gpu", device="cuda:0"): time.sleep(0.05)
"""


def documented() -> dict[str, set[str]]:
    """Metric in Prometheus → its labels, from the table of the page."""
    rows = re.findall(
        r"^\| `[^`]+` \| `([^`]+)` \| (.*?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    return {name: set(re.findall(r"`([^`]+)`", labels)) for name, labels in rows}


def query(port: int, expression: str) -> list[dict[str, Any]]:
    """Instant query."""
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(url, timeout=10) as response:
        result: list[dict[str, Any]] = json.load(response)["data"]["result"]
    return result


def test_names_labels_and_values(tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "prometheus.yml"
    config.write_text("global: {scrape_interval: 1h}\n")
    command = [
        program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--web.enable-otlp-receiver",
    ]  # fmt: skip
    with server(command, tmp_path / "prometheus.log", f"http://127.0.0.1:{port}/-/ready"):
        env = environment(
            "http://127.0.0.1:1",
            OTEL_TRACES_EXPORTER="none",
            OTEL_LOGS_EXPORTER="none",
            OTEL_AIMON_EVENT_LOOP_LAG="true",
            OTEL_AIMON_LIMITER="dry_run",
            OTEL_AIMON_SAMPLE_INTERVAL="0.1",
            PYTHONPATH=str(ROOT),
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"http://127.0.0.1:{port}/api/v1/otlp/v1/metrics",
        )
        run("python", "-c", SERVICE, env=env)
        wait_until(lambda: query(port, "aimon_inference_duration_seconds_count"), "the metrics are there")
        everything = query(port, '{__name__=~"(aimon|gen_ai|process|container|system|hw)_.*"}')
        count = query(port, 'aimon_inference_duration_seconds_count{aimon_model_name="m"}')
        tokens = query(port, 'aimon_inference_tokens_total{gen_ai_token_type="output",aimon_model_name="m"}')

    assert {each["metric"].get("error_type"): each["value"][1] for each in count} == {
        None: "5",
        "Overloaded": "1",
    }
    assert [each["value"][1] for each in tokens] == ["12"]
    seen: dict[str, set[str]] = {}
    for series in everything:
        name = series["metric"]["__name__"]
        if name not in documented():
            name = re.sub(r"_(bucket|sum|count)$", "", name)
        assert (series["metric"]["job"], bool(series["metric"]["instance"])) == ("e2e", True)
        seen.setdefault(name, set()).update(set(series["metric"]) - {"__name__", "job", "instance", "le"})
    assert seen == documented()
