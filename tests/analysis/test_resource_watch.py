"""Snapshots become evidence for the rules; what is not known is no evidence."""

from __future__ import annotations

import dataclasses

import pytest

from otel_aimon.analysis.evidence import Evidence
from otel_aimon.analysis.resource_watch import ResourceWatch
from otel_aimon.resources.snapshot import DeviceReading, Snapshot
from tests.support.snapshots import CONTAINER, DEVICE, GPU, HOST

WHO = (("hw.id", "MIG-1"),)


def scores(found: list[Evidence]) -> dict[tuple[str, bool], float]:
    """By rule, and whether it is about a device."""
    return {(each.rule, each.identity == WHO): each.score for each in found}


def device(**changes: object) -> Snapshot:
    return Snapshot(devices=(DeviceReading(device=GPU, **changes),))  # type: ignore[arg-type]


def test_a_snapshot_of_everything() -> None:
    found = ResourceWatch().evidence(
        Snapshot(host=HOST, container=CONTAINER, devices=(DEVICE,)), 0.0, waiting=0
    )
    assert scores(found) == {
        ("memory.high", False): 0.75,
        ("cpu.saturated", False): 0.5,
        ("cpu.throttled", False): 0.125,
        ("gpu.throttled", True): 1.0,
        ("gpu.power_capped", True): 0.0,
        ("gpu.memory.high", True): 0.25,
        ("gpu.error", True): 0.0,
        ("gpu.idle_under_load", True): 1.0,
    }


def test_what_is_not_known_is_no_evidence() -> None:
    watch = ResourceWatch()
    assert watch.evidence(Snapshot(), 0.0) == []
    assert watch.evidence(device(), 0.0) == []
    hidden = dataclasses.replace(DEVICE, visible=False)
    assert watch.evidence(Snapshot(devices=(hidden,)), 0.0) == []


def test_throttling_is_the_share_of_the_last_minute() -> None:
    watch = ResourceWatch()
    for place in range(12):
        reasons = frozenset({"hw_thermal"} if place % 4 == 0 else {"sw_power_cap", "gpu_idle"})
        found = scores(watch.evidence(device(throttle_reasons=reasons), place * 5.0))
    assert found == {("gpu.throttled", True): 0.25, ("gpu.power_capped", True): 0.75}
    throttled = watch.throttled("MIG-1")
    assert throttled is not None
    assert (throttled.of("thermal"), throttled.of("power_brake"), throttled.samples) == (0.25, 0.0, 12)
    later = scores(watch.evidence(device(throttle_reasons=frozenset()), 1000.0))
    assert later == {("gpu.throttled", True): 0.0, ("gpu.power_capped", True): 0.0}


class TestFaults:
    def test_only_new_ones_count(self) -> None:
        watch = ResourceWatch()
        counts = [5, 5, 7, 7]
        seen = [
            scores(watch.evidence(device(errors={"xid": count, "corrected": place}), place))
            for place, count in enumerate(counts)
        ]
        assert [each["gpu.error", True] for each in seen] == [0.0, 0.0, 2.0, 0.0]

    def test_a_lost_device_is_one(self) -> None:
        assert scores(ResourceWatch().evidence(device(states=frozenset({"failed"})), 0.0)) == {
            ("gpu.error", True): 1.0
        }

    def test_corrected_errors_are_none(self) -> None:
        assert ResourceWatch().evidence(device(errors={"corrected": 9}), 0.0) == []


def test_a_device_starves_only_while_requests_wait() -> None:
    watch = ResourceWatch()
    idle = device(activity={"sm": 0.05}, utilization={"general": 0.9})
    assert scores(watch.evidence(idle, 0.0, waiting=3)) == {("gpu.idle_under_load", True): 0.05}
    assert scores(watch.evidence(idle, 1.0, waiting=0)) == {("gpu.idle_under_load", True): 1.0}
    assert watch.evidence(idle, 2.0) == []


def test_memory_that_leaks_is_forecast_for_the_process_and_for_each_device() -> None:
    watch = ResourceWatch()
    for place in range(300):
        snapshot = Snapshot(
            host=dataclasses.replace(HOST, memory_limit=8_000_000, memory_used=2_000_000 + 5_000 * place),
            devices=(DeviceReading(device=GPU, memory_limit=1_000_000, memory_used=100_000 + 500 * place),),
        )
        found = {(each.rule, each.identity): each.score for each in watch.evidence(snapshot, place * 5.0)}
    assert found["memory.exhaustion", ()] == pytest.approx((6_000_000 - 5_000 * 299) / 1_000, rel=1e-3)
    assert found["memory.exhaustion", WHO] == pytest.approx((900_000 - 500 * 299) / 100, rel=1e-3)


def test_a_device_that_is_gone_is_forgotten() -> None:
    watch = ResourceWatch()
    watch.evidence(device(errors={"xid": 1}), 0.0)
    watch.evidence(Snapshot(), 1.0)
    assert watch.throttled("MIG-1") is None
    assert scores(watch.evidence(device(errors={"xid": 5}), 2.0)) == {("gpu.error", True): 0.0}
