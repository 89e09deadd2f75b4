"""A snapshot becomes points under the conventions' names; what is not known has none."""

from __future__ import annotations

import dataclasses
from typing import Any

from otel_aimon.resources.points import observations
from otel_aimon.resources.snapshot import DeviceReading, HostReading, ProcessReading, Snapshot
from tests.support.snapshots import CONTAINER, DEVICE, FRAMEWORK, GPU, HOST, PROCESS

ID = {"hw.id": "MIG-1", "hw.name": "gpu0/mig0", "hw.parent": "GPU-1"}
MODEL = {**ID, "hw.model": "H100"}
VENDOR = {**MODEL, "hw.vendor": "NVIDIA"}
TYPE = {**ID, "hw.type": "gpu"}


def read(snapshot: Snapshot, *voices: str) -> dict[str, list[tuple[float, dict[str, Any]]]]:
    found = observations(snapshot, lambda subject: subject in voices)
    return {
        name: [(each.value, dict(each.attributes or {})) for each in points] for name, points in found.items()
    }


def test_the_process() -> None:
    assert read(Snapshot(process=PROCESS)) == {
        "process.cpu.time": [(10.0, {"cpu.mode": "user"}), (2.0, {"cpu.mode": "system"})],
        "process.cpu.utilization": [(0.25, {"cpu.mode": "user"}), (0.05, {"cpu.mode": "system"})],
        "process.memory.usage": [(1000, {})],
        "process.memory.virtual": [(5000, {})],
        "aimon.process.memory.unique": [(900, {})],
        "process.thread.count": [(4, {})],
        "process.unix.file_descriptor.count": [(20, {})],
        "process.context_switches": [
            (100, {"process.context_switch.type": "voluntary"}),
            (7, {"process.context_switch.type": "involuntary"}),
        ],
        "process.paging.faults": [
            (50, {"system.paging.fault.type": "minor"}),
            (3, {"system.paging.fault.type": "major"}),
        ],
        "process.disk.io": [(4096, {"disk.io.direction": "read"}), (8192, {"disk.io.direction": "write"})],
        "aimon.process.event_loop.lag": [(0.004, {})],
    }


def test_the_host() -> None:
    assert read(Snapshot(host=HOST), "host") == {
        "system.cpu.logical.count": [(2, {})],
        "system.cpu.time": [(70.0, {"cpu.mode": "user"}), (130.0, {"cpu.mode": "idle"})],
        "system.cpu.utilization": [(0.25, {"cpu.mode": "user"}), (0.75, {"cpu.mode": "idle"})],
        "system.memory.usage": [
            (2000, {"system.memory.state": "used"}),
            (6000, {"system.memory.state": "free"}),
        ],
        "system.memory.limit": [(8000, {})],
        "system.paging.usage": [(10, {"system.paging.state": "used"}), (90, {"system.paging.state": "free"})],
        "system.disk.io": [(1, {"disk.io.direction": "read"}), (2, {"disk.io.direction": "write"})],
        "system.network.io": [
            (3, {"network.io.direction": "receive"}),
            (4, {"network.io.direction": "transmit"}),
        ],
    }


def test_the_container() -> None:
    assert read(Snapshot(container=CONTAINER), "container") == {
        "aimon.cpu.utilization": [(0.5, {})],
        "aimon.memory.utilization": [(0.75, {})],
        "aimon.cpu.limit": [(1.5, {})],
        "aimon.cpu.throttled": [(0.75, {})],
        "aimon.cpu.throttled.ratio": [(0.125, {})],
        "aimon.memory.limit": [(4000, {})],
        "aimon.memory.oom_kills": [(1, {})],
        "aimon.pressure": [
            (0.5, {"aimon.resource": "cpu", "aimon.pressure.kind": "some"}),
            (0.0, {"aimon.resource": "memory", "aimon.pressure.kind": "full"}),
        ],
        "container.cpu.time": [(12.0, {})],
        "container.memory.usage": [(3500, {})],
        "container.memory.working_set": [(3000, {})],
    }


def test_a_device() -> None:
    assert read(Snapshot(devices=(DEVICE,)), GPU.id) == {
        "hw.gpu.utilization": [
            (0.5, {**MODEL, "hw.gpu.task": "general"}),
            (0.0, {**MODEL, "hw.gpu.task": "encoder"}),
        ],
        "hw.gpu.memory.usage": [(250, VENDOR)],
        "hw.gpu.memory.limit": [(1000, VENDOR)],
        "hw.gpu.memory.utilization": [(0.25, VENDOR)],
        "hw.energy": [(123.0, TYPE)],
        "hw.power": [(300.0, TYPE)],
        "hw.temperature": [(45.0, {**ID, "hw.sensor_location": "core"})],
        "hw.errors": [(1, {**TYPE, "error.type": "xid"})],
        "hw.status": [
            (0, {**TYPE, "hw.state": "ok"}),
            (1, {**TYPE, "hw.state": "degraded"}),
            (0, {**TYPE, "hw.state": "failed"}),
        ],
        "aimon.gpu.power.limit": [(700.0, ID)],
        "aimon.gpu.activity": [(0.25, {**ID, "aimon.gpu.unit": "tensor"})],
        "aimon.gpu.clock.frequency": [(1.98e9, {**ID, "aimon.gpu.clock": "sm"})],
        "aimon.gpu.clock.limit": [(2.0e9, {**ID, "aimon.gpu.clock": "sm"})],
        "aimon.gpu.throttled": [
            (0, {**ID, "aimon.gpu.throttle.reason": "sw_power_cap"}),
            (0, {**ID, "aimon.gpu.throttle.reason": "hw_slowdown"}),
            (0, {**ID, "aimon.gpu.throttle.reason": "sw_thermal"}),
            (1, {**ID, "aimon.gpu.throttle.reason": "hw_thermal"}),
            (0, {**ID, "aimon.gpu.throttle.reason": "hw_power_brake"}),
            (1, {**ID, "aimon.gpu.throttle.reason": "sync_boost"}),
        ],
        "aimon.gpu.pcie.throughput": [
            (10.0, {**ID, "network.io.direction": "receive"}),
            (20.0, {**ID, "network.io.direction": "transmit"}),
        ],
        "aimon.gpu.link.io": [
            (30, {**ID, "network.io.direction": "receive"}),
            (40, {**ID, "network.io.direction": "transmit"}),
        ],
        "aimon.gpu.processes": [(2, ID)],
        "aimon.gpu.process.memory.usage": [(200, ID)],
        "aimon.gpu.process.utilization": [(0.4, ID)],
    }


def test_memory_of_a_framework() -> None:
    where = {"aimon.framework": "torch", "aimon.device": "cuda:0"}
    assert read(Snapshot(frameworks=(FRAMEWORK,))) == {
        "aimon.framework.memory.usage": [
            (100, {**where, "aimon.memory.kind": "allocated"}),
            (150, {**where, "aimon.memory.kind": "reserved"}),
        ]
    }


def test_what_is_not_known_has_no_point() -> None:
    empty = Snapshot(process=ProcessReading(), host=HostReading(), devices=(DeviceReading(device=GPU),))
    assert read(empty, "host", "container", GPU.id) == {}
    assert read(Snapshot(), "host", "container") == {}


def test_what_is_zero_has_a_point() -> None:
    idle = DeviceReading(device=GPU, utilization={"general": 0.0}, memory_limit=1000, memory_used=0)
    found = read(Snapshot(devices=(idle,)), GPU.id)
    assert {name: [value for value, _ in points] for name, points in found.items()} == {
        "hw.gpu.utilization": [0.0],
        "hw.gpu.memory.usage": [0],
        "hw.gpu.memory.limit": [1000],
        "hw.gpu.memory.utilization": [0.0],
    }


def test_a_process_that_is_not_the_voice_exports_only_its_own() -> None:
    everything = Snapshot(
        process=PROCESS, host=HOST, container=CONTAINER, devices=(DEVICE,), frameworks=(FRAMEWORK,)
    )
    assert set(read(everything)) == {
        *read(Snapshot(process=PROCESS)),
        "aimon.gpu.process.memory.usage",
        "aimon.gpu.process.utilization",
        "aimon.framework.memory.usage",
    }


def test_a_device_that_the_process_may_not_use_is_not_exported() -> None:
    assert read(Snapshot(devices=(dataclasses.replace(DEVICE, visible=False),)), GPU.id) == {}


def test_utilisation_is_of_what_is_available() -> None:
    assert Snapshot().cpu_share is None
    assert Snapshot(host=HOST).cpu_share == 0.25
    assert Snapshot(host=HOST, container=CONTAINER).cpu_share == 0.5
    crowded = dataclasses.replace(HOST, available_cpu_share=0.9)
    assert Snapshot(host=crowded, container=CONTAINER).cpu_share == 0.9
    assert Snapshot().memory_share is None
    assert Snapshot(host=HOST).memory_share == 0.25
    assert Snapshot(host=HOST, container=CONTAINER).memory_share == 0.75
