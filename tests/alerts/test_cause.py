"""The bottleneck is found from what is known while an alert fires, and only where it can explain it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from opentelemetry.trace import NoOpTracer

from otel_aimon.alerts.cause import cause_of
from otel_aimon.alerts.machine import Transition
from otel_aimon.analysis.situation import Situation
from otel_aimon.core.recorder import Recorder
from otel_aimon.resources.snapshot import Device, DeviceReading, Snapshot
from tests.alerts.support import M, rule
from tests.support.snapshots import CONTAINER, GPU, HOST, PROCESS


def firing(domain: str = "latency") -> Transition:
    return Transition(rule(domain=domain), M, "firing", "pending", "threshold", 10.0, 0.0)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(NoOpTracer(), queue_size=64, max_models=10, stage_spans=False)


@pytest.fixture
def situation(recorder: Recorder) -> Situation:
    return Situation(recorder)


def gpu(**changes: Any) -> DeviceReading:
    return DeviceReading(device=changes.pop("device", GPU), **changes)


def found(situation: Situation, *devices: DeviceReading, **snapshot: Any) -> str | None:
    """The name of what binds, after the sampler has seen the same."""
    seen = Snapshot(devices=devices, **snapshot)
    situation.sampled(seen, 0.0)
    cause = cause_of(firing(), situation)
    if cause is None:
        return None
    name, confidence = cause
    assert 0.1 <= confidence <= 1.0
    return name


def test_without_anything_known_nothing_is_the_cause(situation: Situation) -> None:
    assert cause_of(firing(), situation) is None
    assert found(situation) is None


@pytest.mark.parametrize(
    ("reading", "name"),
    [
        (gpu(throttle_reasons=frozenset({"hw_thermal"})), "throttled.thermal"),
        (gpu(throttle_reasons=frozenset({"hw_power_brake"})), "throttled.power_brake"),
        (
            gpu(
                throttle_reasons=frozenset({"sw_power_cap"}),
                power=699.0,
                power_limit=700.0,
                clocks={"sm": 1.2e9},
                clock_limits={"sm": 2.0e9},
            ),
            "throttled.power_cap",
        ),
        (gpu(activity={"dram": 0.8, "tensor": 0.2, "sm": 0.9}), "memory_bandwidth"),
        (gpu(activity={"dram": 0.3, "tensor": 0.8, "sm": 0.95}), "compute"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_device_says(situation: Situation, reading: DeviceReading, name: str) -> None:
    assert found(situation, reading) == name


@pytest.mark.parametrize(
    "reading",
    [
        gpu(),
        gpu(throttle_reasons=frozenset()),
        gpu(throttle_reasons=frozenset({"sw_power_cap"})),
        gpu(throttle_reasons=frozenset({"sw_power_cap"}), power=0.0, power_limit=0.0, clocks={"sm": 1.0}),
        gpu(utilization={"general": 1.0}),
        gpu(activity={"tensor": 0.9, "sm": 0.95}, visible=False),
        gpu(
            activity={"tensor": 0.9, "sm": 0.95},
            device=Device(id="package-0", vendor="Intel", kind="cpu"),
        ),
    ],
)
def test_what_binds_nothing(situation: Situation, reading: DeviceReading) -> None:
    assert found(situation, reading) is None


def test_the_busiest_device_counts(situation: Situation) -> None:
    busy = gpu(activity={"sm": 0.95, "tensor": 0.8})
    other = dataclasses.replace(GPU, id="MIG-2")
    idle = gpu(device=other, activity={"sm": 0.1}, throttle_reasons=frozenset({"hw_thermal"}))
    assert found(situation, idle, busy) == "compute"
    assert found(situation, busy, idle) == "compute"


def test_the_cpu_of_the_tightest_quota(situation: Situation) -> None:
    full = dataclasses.replace(CONTAINER, cpu_share=0.99, throttled_share=0.0)
    assert found(situation, container=full, host=HOST, process=PROCESS) == "cpu_host"
    calm = dataclasses.replace(CONTAINER, cpu_share=0.5, throttled_share=0.0)
    assert found(situation, container=calm, host=HOST, process=PROCESS) is None


def test_a_throttled_quota(situation: Situation) -> None:
    assert found(situation, container=dataclasses.replace(CONTAINER, throttled_share=0.3)) == "cpu_host"


def test_a_contended_interpreter(situation: Situation) -> None:
    busy = dataclasses.replace(PROCESS, cores_busy=1.0, loop_lag=0.2)
    assert found(situation, process=busy) == "cpu_host"


@pytest.mark.parametrize(("waiting", "name"), [(None, None), (0, None), (5, "cpu_host")])
def test_a_device_that_starves_does_so_only_while_requests_wait(
    situation: Situation, recorder: Recorder, waiting: int | None, name: str | None
) -> None:
    if waiting is not None:
        recorder.watch_queue(recorder.series("fw", "chat", "m"), lambda: waiting)
    full = dataclasses.replace(CONTAINER, cpu_share=0.99, throttled_share=0.0)
    assert found(situation, gpu(activity={"sm": 0.1}), container=full) == name


def test_a_stall_is_known_without_a_snapshot(situation: Situation) -> None:
    situation.stalled = True
    assert cause_of(firing(), situation) == ("stalled", 1.0)


def test_idleness_explains_no_alert(situation: Situation) -> None:
    assert found(situation, gpu(activity={"sm": 0.01}), host=HOST) is None


@pytest.mark.parametrize("domain", ["latency", "capacity", "errors"])
def test_what_is_about_requests_is_explained(situation: Situation, domain: str) -> None:
    situation.stalled = True
    assert cause_of(firing(domain), situation) is not None


@pytest.mark.parametrize("domain", ["gpu", "memory", "cpu", "traffic", "workload", "telemetry"])
def test_what_is_about_a_resource_explains_itself(situation: Situation, domain: str) -> None:
    situation.stalled = True
    assert cause_of(firing(domain), situation) is None


def test_a_device_that_the_sampler_has_not_seen_yet(situation: Situation) -> None:
    seen = Snapshot(devices=(gpu(activity={"tensor": 0.8}),))
    situation.snapshot = seen
    cause = cause_of(firing(), situation)
    assert cause is not None
    assert cause[0] == "compute"
