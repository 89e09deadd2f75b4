"""The table of names agrees with the conventions, with itself, and with what is emitted."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import otel_aimon
from otel_aimon import runtime, semconv
from otel_aimon.analysis.evidence import Evidence
from otel_aimon.config import RESOURCES
from otel_aimon.core.layers import Layer
from tests.support.hints import teach
from tests.support.snapshots import read_everything
from tests.support.telemetry import Telemetry, wait_until

CONVENTIONS = Path(__file__).parents[2] / "shared" / "data" / "semconv.json"

URGENT = [
    Evidence("stall", ((semconv.AIMON_MODEL_NAME, "m"),), 2.0),
    Evidence("gpu.error", ((semconv.HW_ID, "MIG-1"),), 1.0),
]
"""Fires at once."""

EACH = pytest.mark.parametrize("metric", semconv.METRICS, ids=lambda metric: metric.name)


@pytest.fixture(scope="module")
def conventions() -> Any:
    if not CONVENTIONS.exists():
        pytest.skip("the conventions' tables are not beside this repository")
    return json.loads(CONVENTIONS.read_text())["metrics"]


@EACH
def test_a_row_is_complete(metric: semconv.Metric) -> None:
    assert metric.description.endswith(".")
    assert metric.unit
    assert len(metric.attributes) == len(set(metric.attributes)) <= 5
    assert (metric.buckets is not None) == (metric.kind == "histogram")
    if metric.buckets is not None:
        assert list(metric.buckets) == sorted(set(metric.buckets))


@EACH
def test_it_is_as_the_conventions_have_it(metric: semconv.Metric, conventions: Any) -> None:
    official = conventions.get(metric.name)
    if official is None:
        assert metric.name.startswith("aimon."), "a name of the conventions that they do not have"
        return
    assert metric.kind.removeprefix("observable_") == official["instrument"]
    assert metric.unit == official["unit"]
    assert set(metric.attributes) <= set(official["attributes"])
    required = {name for name, level in official["attributes"].items() if level == "required"}
    assert required <= set(metric.attributes)


def test_names_are_distinct() -> None:
    names = [metric.name for metric in semconv.METRICS]
    assert len(names) == len(set(names))


@pytest.fixture(scope="module")
def emitted() -> Any:
    """Everything that a process emits when all that can be known is known."""
    with Telemetry(
        resources=RESOURCES,
        sample_interval=0.1,
        event_loop_lag=True,
        alerts=True,
        hints=True,
        limiter="dry_run",
    ) as telemetry:
        running = runtime.current()
        assert running is not None
        read_everything(running.resources)
        recorder = running.recorder
        for outcome in (None, "ValueError"):
            client = otel_aimon.inference("chat", "remote", client=True).start()
            client.usage(input_tokens=10, output_tokens=5)
            client.token()
            request = recorder.start(recorder.series("fw", "chat", "m"), Layer.PIPELINE)
            assert request is not None
            stage = recorder.start(recorder.series("fw", "chat", "m"), Layer.GENERATE, request.context)
            assert stage is not None
            stage.input_tokens, stage.output_tokens, stage.cached_tokens = 10, 5, 2
            stage.chunk()
            stage.chunk()
            request.batch_size, request.queue_ns = 1, 1000
            request.audio = 2.0
            for each in (stage, request, client):
                if outcome is None:
                    each.end()
                elif each is client:
                    client.error(outcome)
                else:
                    each.fail_as(outcome)
        # Frameworks with a queue of their own, such as continuous batching in Transformers, watch it.
        recorder.watch_queue(recorder.series("fw", "chat", "m"), lambda: 1)
        recorder.compilations.add("fw", "m", 0.5)
        # Serving engines, such as vLLM, tell of themselves at each step.
        engine = recorder.engines.open("fw", "m", 0, recorder)
        engine.running = engine.waiting = 1
        engine.kv_cache = 0.5
        for count in ("prefix_queries", "prefix_hits", "preemptions", "draft_tokens", "accepted_tokens"):
            engine.add(count, 1)
        wait_until(lambda: running.resources.snapshot is not None)

        def spends_energy() -> bool:
            with otel_aimon.inference("chat", model="m", device="cuda:0"):
                time.sleep(0.02)
            return bool(running.energy.totals())

        wait_until(spends_energy)
        assert running.watches.alerts is not None
        assert running.watches.hints is not None
        teach(running.watches.hints, recorder, "taught")
        with otel_aimon.limiter("taught"):
            pass
        running.watches.alerts.judge(URGENT)
        data = telemetry.reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            if scope.scope.name == semconv.SCOPE and scope.schema_url == semconv.SCHEMA_URL
            for metric in scope.metrics
        }


@EACH
def test_every_metric_is_emitted_as_the_table_says(metric: semconv.Metric, emitted: Any) -> None:
    found = emitted[metric.name]
    assert (found.unit, found.description) == (metric.unit, metric.description)
    kinds = {"Histogram": "histogram", "Sum": "counter", "Gauge": "gauge"}
    kind = kinds[type(found.data).__name__]
    if kind == "counter" and not found.data.is_monotonic:
        kind = "updowncounter"
    assert metric.kind.removeprefix("observable_") == kind
    keys = {key for point in found.data.data_points for key in point.attributes}
    assert keys == set(metric.attributes)


def test_nothing_else_is_emitted(emitted: Any) -> None:
    assert set(emitted) == {metric.name for metric in semconv.METRICS}
