"""Every signal that a rule of the user's may name has its latest values, and no other."""

from __future__ import annotations

import pytest
from opentelemetry.trace import NoOpTracer

from otel_aimon import semconv
from otel_aimon.alerts.readings import readings_of
from otel_aimon.analysis.evidence import Identity
from otel_aimon.analysis.windows import Windows
from otel_aimon.core.inference import Inference
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import Recorder
from otel_aimon.resources.snapshot import Snapshot
from tests.support.snapshots import CONTAINER, DEVICE, FRAMEWORK, HOST, PROCESS

CHAT: Identity = (("aimon.framework", "fw"), ("aimon.model.name", "m"), ("aimon.operation", "chat"))


class Process:
    """What readings are taken of, with a clock that stands still."""

    def __init__(self) -> None:
        self.recorder = Recorder(NoOpTracer(), queue_size=64, max_models=10, stage_spans=False)
        self.windows = Windows(60.0, lambda: 1000.0)
        self.snapshot: Snapshot | None = None

    def end(self, seconds: float, error: str | None = None) -> None:
        ended = Inference(self.recorder, self.recorder.series("fw", "chat", "m"), Layer.MODEL, None, 0, 0)
        ended.end_ns = int(seconds * 1e9)
        ended.error_type = error
        self.windows.consume(ended)

    def read(self) -> dict[str, dict[Identity, float]]:
        return readings_of(self.snapshot, self.windows, self.recorder)


@pytest.fixture
def process() -> Process:
    return Process()


def test_nothing_happened(process: Process) -> None:
    assert process.read() == {}


def test_requests_that_ended(process: Process) -> None:
    for error in (None, None, None, "ValueError"):
        process.end(2.0, error)
    found = process.read()
    quantiles = {
        tuple(sorted((*CHAT, (semconv.AIMON_QUANTILE, str(q))))): pytest.approx(2.0, rel=0.021)
        for q in semconv.QUANTILES
    }
    throughput = found.pop("aimon.inference.throughput")
    assert found == {
        "aimon.inference.error.ratio": {CHAT: 0.25},
        "aimon.inference.latency.quantile": quantiles,
    }
    assert list(throughput) == [CHAT]
    assert throughput[CHAT] > 0.0


def test_only_failures_have_no_latency_and_only_cancelled_ones_no_error_ratio(process: Process) -> None:
    process.end(2.0, "ValueError")
    assert set(process.read()) == {"aimon.inference.throughput", "aimon.inference.error.ratio"}
    cancelled = Process()
    cancelled.end(2.0, "cancelled")
    assert set(cancelled.read()) == {"aimon.inference.throughput"}


def test_requests_in_flight_where_they_run_here(process: Process) -> None:
    series = process.recorder.series("fw", "chat", "m")
    series.active = {1: 0, 2: 0}
    assert process.read() == {}
    series.in_process = True
    assert process.read() == {"aimon.inference.active": {CHAT: 2.0}}
    series.active = {}
    assert process.read() == {"aimon.inference.active": {CHAT: 0.0}}


def test_requests_that_wait(process: Process) -> None:
    process.recorder.watch_queue(process.recorder.series("fw", "chat", "m"), lambda: 7)
    assert process.read() == {"aimon.inference.queue.size": {CHAT: 7.0}}


def test_everything_that_the_sampler_read(process: Process) -> None:
    process.snapshot = Snapshot(
        process=PROCESS, host=HOST, container=CONTAINER, devices=(DEVICE,), frameworks=(FRAMEWORK,)
    )
    found = process.read()
    assert found["aimon.memory.utilization"] == {(): 0.75}
    assert found["process.cpu.time"] == {(("cpu.mode", "user"),): 10.0, (("cpu.mode", "system"),): 2.0}
    ((device, power),) = found["hw.power"].items()
    assert power == 300.0
    assert ("hw.id", "MIG-1") in device
    assert all(device == tuple(sorted(device)) for values in found.values() for device in values)
    known = {metric.name for metric in semconv.METRICS}
    assert set(found) <= known


def test_a_source_that_is_silent_has_no_values(process: Process) -> None:
    process.snapshot = Snapshot()
    assert process.read() == {}
