"""NVIDIA GPUs through the real pynvml, on a library whose answers the test decides."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pynvml
import pytest

from otel_aimon.resources import sampler as sampler_module
from otel_aimon.resources.sampler import Feed, Sampler
from otel_aimon.resources.snapshot import Device, DeviceReading, Snapshot
from otel_aimon.resources.source import UnavailableError
from tests.resources.stubs import VALUES_VARIABLE, NvmlValues, build_nvml, can_build
from tests.resources.stubs.nvml_machine import (
    GIB,
    MIB,
    Machine,
    again,
    busy,
    gpu,
    lost,
    machine_with,
    mig_uuid,
    said,
    uuid,
)
from tests.support import scripts

pytestmark = pytest.mark.skipif(not can_build(), reason="needs a C compiler")

MOST_CALLS = 27
"""Of NVML for one GPU in one reading."""


@pytest.fixture(scope="module")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nvml")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, library_folder: Path, tmp_path: Path) -> Iterator[Machine]:
    with machine_with(monkeypatch, library_folder, tmp_path) as machine:
        yield machine


def only(readings: tuple[DeviceReading, ...]) -> DeviceReading:
    (reading,) = readings
    return reading


# -- What is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 8])
def test_every_gpu_has_a_reading(machine: Machine, count: int) -> None:
    machine.set("*", "count", count)
    assert machine.read() == tuple(gpu(number) for number in range(count))
    assert machine.read() == tuple(again(number) for number in range(count))


def test_gpus_that_are_used(machine: Machine) -> None:
    machine.set("*", "count", 2)
    assert machine.use() == (busy(0), busy(1))
    assert machine.use() == (busy(0), busy(1))


def test_without_a_gpu_there_is_none(machine: Machine) -> None:
    machine.set("*", "count", 0)
    with pytest.raises(UnavailableError, match="lists no NVIDIA GPU") as unavailable:
        machine.read()
    assert unavailable.value.level == logging.DEBUG


def test_every_gpu_has_its_own_values(machine: Machine) -> None:
    machine.set("*", "count", 3)
    machine.set(1, "power.mw", 431_500)
    machine.set(1, "energy.mj", 9_000_000_000_123)
    machine.set(2, "name", "NVIDIA H200")
    machine.set(2, "temperature", 88)
    first, second, third = machine.read()
    assert first == gpu(0)
    assert second == gpu(1, power=431.5, energy=9_000_000_000.123)
    assert third == gpu(
        2, device=replace(gpu(2).device, model="NVIDIA H200"), temperatures={"core": 88.0, "memory": 60.0}
    )


def test_eight_gpus_cost_few_calls(machine: Machine) -> None:
    machine.set("*", "count", 8)
    machine.use()
    before = machine.calls()
    machine.read()
    assert machine.calls() - before <= 8 * MOST_CALLS


def test_what_is_held_is_given_back(machine: Machine) -> None:
    machine.set("*", "count", 2)
    machine.read()
    machine.read()
    assert machine.held == (1, 4, 1)
    machine.source.close()
    assert machine.held == (0, 0, 0)
    machine.source.close()
    assert machine.held == (0, 0, 0)


UNKNOWN = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("key", "value", "changes"),
    [
        ("power.mw", UNKNOWN, {"power": None}),
        ("energy.mj", 0xFFFFFFFFFFFFFFFF, {"energy": None}),
        ("clock.sm", UNKNOWN, {"clocks": {"memory": 2619e6}}),
        ("memory.total", 0, {"memory_limit": None, "memory_used": None}),
        ("memory.used", 0xFFFFFFFFFFFFFFFF, {"memory_used": None}),
        ("field.82", 0, {"temperatures": {"core": 45.0}}),
        ("field.82", UNKNOWN, {"temperatures": {"core": 45.0}}),
        ("field.type.82", 9, {"temperatures": {"core": 45.0}}),
        ("field.138", 0xFFFFFFFFFFFFFFFF, {"link_sent": None}),
        ("utilization", 101, {"utilization": {"encoder": 0.03, "decoder": 0.04}}),
        ("ecc.uncorrected", 0xFFFFFFFFFFFFFFFF, {"errors": {"corrected": 0, "xid": 0}}),
    ],
)
def test_what_the_driver_marks_as_unknown_is_absent(
    machine: Machine, key: str, value: int, changes: Mapping[str, Any]
) -> None:
    machine.set(0, key, value)
    assert only(machine.read()) == gpu(0, **changes)


@pytest.mark.parametrize(
    ("key", "value", "changes"),
    [
        ("ecc.corrected", 17, {"errors": {"corrected": 17, "uncorrected": 0, "xid": 0}}),
        ("ecc.uncorrected", 2, {"errors": {"corrected": 0, "uncorrected": 2, "xid": 0}}),
        ("field.138", 5, {"link_sent": 5 * 1024}),
        ("field.139", 7, {"link_received": 7 * 1024}),
        ("throttle", 0x1, {}),
        ("throttle", 0x5, {"throttle_reasons": {"sw_power_cap"}}),
        ("throttle", 0x8, {"throttle_reasons": {"hw_slowdown"}, "states": {"degraded"}}),
        ("throttle", 0x20, {"throttle_reasons": {"sw_thermal"}, "states": {"degraded"}}),
        ("throttle", 0x40, {"throttle_reasons": {"hw_thermal"}, "states": {"degraded"}}),
        ("throttle", 0x88, {"throttle_reasons": {"hw_slowdown", "hw_power_brake"}, "states": {"degraded"}}),
        ("throttle", 0x712, {"throttle_reasons": {"applications_clocks_setting", "sync_boost", "display_clock_setting", "board_limit", "reliability"}}),
        ("throttle", 1 << 40, {}),
        ("field.31", 1, {"states": {"degraded"}}),
        ("field.144", 1, {"states": {"degraded"}}),
        ("field.145", 1, {"states": {"degraded"}}),
    ],
)  # fmt: skip
def test_one_value_differs(machine: Machine, key: str, value: int, changes: Mapping[str, Any]) -> None:
    machine.set(0, key, value)
    assert only(machine.read()) == gpu(0, **changes)


def test_utilization_is_the_mean_of_the_samples_since_the_last_reading(machine: Machine) -> None:
    machine.set(0, "samples.1", "100:80,200:100")
    machine.set(0, "samples.3", "100:0")
    assert only(machine.read()).utilization == {"general": 0.37, "encoder": 0.03, "decoder": 0.04}
    machine.set(0, "samples.1", "100:80,200:100,300:10,400:20,500:60")
    machine.set(0, "samples.3", "100:0,300:50,400:0")
    assert only(machine.read()).utilization == {"general": 0.3, "encoder": 0.25, "decoder": 0.04}
    # Nothing new: the driver's own mean is what there is.
    assert only(machine.read()).utilization == {"general": 0.37, "encoder": 0.03, "decoder": 0.04}


class TestPcie:
    """Bytes per second from counters, where there are no profiling counters."""

    @pytest.fixture(autouse=True)
    def _no_gpm(self, machine: Machine) -> None:
        machine.set(0, "gpm", 0)

    def rates(self, machine: Machine, sent: int, received: int) -> tuple[float | None, float | None]:
        machine.set(0, "field.197", sent)
        machine.set(0, "field.198", received)
        reading = only(machine.read())
        assert reading.activity == {}
        return reading.pcie_sent, reading.pcie_received

    def test_rates_are_of_the_time_between_two_readings(self, machine: Machine) -> None:
        assert self.rates(machine, 1000, 5000) == (None, None)
        assert self.rates(machine, 2000, 55_000) == (200.0, 10_000.0)

    def test_a_counter_that_starts_again_has_no_rate(self, machine: Machine) -> None:
        self.rates(machine, 1000, 5000)
        assert self.rates(machine, 10, 5000) == (None, 0.0)
        assert self.rates(machine, 110, 5000) == (20.0, 0.0)

    def test_a_counter_that_may_have_overflowed_has_no_rate(self, machine: Machine) -> None:
        machine.set(0, "field.type.197", pynvml.NVML_VALUE_TYPE_UNSIGNED_INT)
        self.rates(machine, 1000, 5000)
        assert self.rates(machine, 2000, 5000) == (None, 0.0)


class TestProfiling:
    def test_an_older_gpu_has_no_profiling_counters(self, machine: Machine) -> None:
        machine.set(0, "gpm", 0)
        machine.read()
        assert only(machine.read()) == gpu(0, pcie_sent=0.0, pcie_received=0.0)
        assert machine.calls("nvmlGpmQueryDeviceSupport") == 1
        assert machine.calls("nvmlGpmSampleGet") == 0

    def test_each_reading_is_since_the_one_before(self, machine: Machine) -> None:
        machine.set(0, "gpm.2", "97.5")
        machine.set(0, "gpm.5", "100.0001")
        machine.set(0, "gpm.10", "nan")
        machine.set(0, "gpm.20", "0.5")
        assert only(machine.read()).activity == {}
        for _ in range(3):
            reading = only(machine.read())
            assert reading.activity == {"sm": 0.975, "sm_occupancy": 0.03, "tensor": 1.0}
            assert reading.pcie_sent == 0.5 * MIB
        assert machine.held[1] == 2

    def test_after_a_sample_that_failed_the_next_is_since_the_last_good_one(self, machine: Machine) -> None:
        machine.read()
        machine.set(0, "err.nvmlGpmSampleGet", 999)
        assert only(machine.read()).activity == {}
        machine.unset(0, "err.nvmlGpmSampleGet")
        assert only(machine.read()) == again(0)


class TestFaults:
    def test_xid_events_are_counted_and_the_last_is_known(self, machine: Machine) -> None:
        machine.set("*", "count", 2)
        machine.set(1, "events", "1:79")
        first, second = machine.read()
        assert (first.errors["xid"], first.last_fault) == (0, None)
        assert (second.errors["xid"], second.last_fault) == (1, 79)
        machine.set(1, "events", "1:79,2:48,3:63")
        first, second = machine.read()
        assert (first.errors["xid"], first.last_fault) == (0, None)
        assert (second.errors["xid"], second.last_fault) == (3, 63)
        assert machine.read()[1].errors["xid"] == 3

    def test_counts_outlive_a_restart_of_nvml(self, machine: Machine) -> None:
        machine.set("*", "count", 2)
        machine.set(0, "events", "1:79")
        machine.read()
        machine.set("*", "count", 1)
        reading = machine.read()[0]
        assert (reading.errors["xid"], reading.last_fault) == (1, 79)
        assert machine.calls("nvmlEventSetCreate") == 2
        assert machine.held[2] == 1

    def test_a_flood_of_events_does_not_hold_up_a_reading(self, machine: Machine) -> None:
        machine.set(0, "events", ",".join(f"{number}:1" for number in range(1, 81)))
        assert only(machine.read()).errors["xid"] == 64
        assert only(machine.read()).errors["xid"] == 80


# -- MIG ---------------------------------------------------------------------------------------


def instance(number: int, place: int, **changes: Any) -> DeviceReading:
    device = Device(
        id=mig_uuid(number, place),
        vendor="NVIDIA",
        name=f"gpu{number}/mig{place}",
        model="NVIDIA H100 MIG 1g.10gb",
        parent=uuid(number),
    )
    reading = DeviceReading(
        device=device,
        memory_limit=10 * GIB,
        memory_used=5 * GIB,
        states=frozenset({"ok"}),
        processes=0,
    )
    return replace(reading, **changes)


def divided(number: int, **changes: Any) -> DeviceReading:
    """A GPU with MIG instances: what runs on it is theirs."""
    known: dict[str, Any] = {
        "device": replace(gpu(number).device, ordinals=()),
        "utilization": {},
        "processes": None,
    }
    return gpu(number, **{**known, **changes})


PROFILED = {
    "activity": {"sm": 0.02, "sm_occupancy": 0.03, "tensor": 0.05, "dram": 0.1},
    "utilization": {"general": 0.01},
}


class TestMig:
    @pytest.fixture(autouse=True)
    def _mig(self, machine: Machine) -> None:
        machine.set(0, "mig", 1)
        machine.set(0, "mig.places", "0,2")

    def test_instances_are_devices_of_their_own(self, machine: Machine) -> None:
        assert machine.read() == (divided(0), instance(0, 0), instance(0, 2))
        assert machine.read() == (
            divided(0, pcie_sent=0.0, pcie_received=0.0),
            instance(0, 0, **PROFILED),
            instance(0, 2, **PROFILED),
        )

    def test_other_gpus_are_not_divided(self, machine: Machine) -> None:
        machine.set("*", "count", 2)
        readings = machine.read()
        assert [reading.device.name for reading in readings] == ["gpu0", "gpu0/mig0", "gpu0/mig2", "gpu1"]
        assert readings[3].utilization == {"general": 0.37, "encoder": 0.03, "decoder": 0.04}

    def test_each_instance_has_its_own_values(self, machine: Machine) -> None:
        machine.set("0/0", "memory.used", GIB)
        machine.set("0/2", "memory.total", 20 * GIB)
        machine.set("0/2", "gpm.1", 75)
        machine.set("0/2", "processes.compute", f"100:{MIB},200:{2 * MIB}")
        machine.set("0/2", "err.nvmlDeviceGetProcessUtilization", 3)
        machine.read()
        _, first, second = machine.read()
        assert first == instance(0, 0, memory_used=GIB, **PROFILED)
        assert second == instance(
            0,
            2,
            memory_limit=20 * GIB,
            processes=2,
            process_memory=MIB,
            **{**PROFILED, "utilization": {"general": 0.75}},
        )

    def test_one_instance_alone_is_the_first_of_cuda(self, machine: Machine) -> None:
        machine.set(0, "mig.places", "2")
        assert [reading.device.ordinals for reading in machine.read()] == [(), ("cuda:0",)]

    def test_instances_come_and_go(self, machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
        machine.read()
        machine.set(0, "mig.places", "2,3")
        assert [reading.device.name for reading in machine.read()] == ["gpu0", "gpu0/mig2", "gpu0/mig3"]
        assert machine.held == (1, 3, 1)
        machine.set(0, "mig", 0)
        assert machine.read() == (gpu(0, pcie_sent=0.0, pcie_received=0.0),)
        assert machine.held == (1, 1, 1)
        assert said(caplog) == []

    def test_another_instance_at_the_same_place_is_another_device(self, machine: Machine) -> None:
        machine.read()
        machine.read()
        machine.set("0/2", "uuid", "MIG-another")
        machine.set("0/2", "memory.used", GIB)
        whole, first, second = machine.read()
        assert (whole.device.id, first) == (uuid(0), instance(0, 0, **PROFILED))
        assert second == instance(
            0, 2, device=replace(instance(0, 2).device, id="MIG-another"), memory_used=GIB
        )

    def test_a_lost_gpu_loses_its_instances(self, machine: Machine) -> None:
        machine.read()
        machine.set(0, "err.nvmlDeviceGetPowerUsage", 15)
        assert [reading.states for reading in machine.read()] == [{"failed"}] * 3

    def test_of_several_listed_cuda_shows_the_first(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{mig_uuid(0, 2)},{mig_uuid(0, 0)}")
        readings = machine.read()
        assert [reading.device.ordinals for reading in readings] == [(), (), ("cuda:0",)]
        assert [reading.visible for reading in readings] == [True, True, True]


# -- What comes and goes -----------------------------------------------------------------------


def test_a_lost_gpu_has_failed_and_the_others_go_on(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.set("*", "count", 8)
    machine.read()
    machine.read()
    machine.set(3, "err.all", 15)
    found = machine.read()
    assert found == tuple(lost(3) if number == 3 else again(number) for number in range(8))
    assert len(said(caplog)) == 1

    for _ in range(3):
        found = machine.read()
        assert {reading.device.name: reading.states for reading in found} == {
            f"gpu{number}": {"failed"} if number == 3 else {"ok"} for number in range(8)
        }
    assert found[:3] == tuple(again(number) for number in range(3))
    # It is there for the driver, and does not say which it is.
    assert len(said(caplog)) == 1

    machine.unset(3, "err.all")
    machine.now += 3600.0
    machine.read()
    assert machine.read() == tuple(again(number) for number in range(8))
    assert said(caplog) == []


def test_a_gpu_that_fell_off_the_bus_has_failed(machine: Machine) -> None:
    machine.set("*", "count", 2)
    machine.read()
    machine.set(0, "err.all", 999)
    assert [reading.states for reading in machine.read()] == [{"failed"}, {"ok"}]


def test_a_gpu_of_which_nothing_is_known_has_no_status(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.set("*", "count", 2)
    machine.read()
    machine.set(0, "err.all", 10)
    first, second = machine.read()
    assert first == DeviceReading(device=gpu(0).device, errors={"xid": 0})
    assert second == again(1)
    assert len(said(caplog)) == 1


def test_a_lost_gpu_is_looked_for_ever_more_rarely(machine: Machine) -> None:
    machine.read()
    machine.set(0, "err.all", 15)
    started = []
    for _ in range(int(600 / 5)):
        machine.read()
        started.append(machine.calls("nvmlInitWithFlags"))
    # At once, then after 1, 2, 4 minutes; the next one is after 8.
    assert started[-1] - started[0] == 4
    assert machine.held[0] == 1


def test_a_gpu_that_was_removed_has_failed_until_it_is_back(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.set("*", "count", 3)
    machine.read()
    machine.set("*", "count", 2)
    first, second, third = machine.read()
    assert (first, second) == (
        gpu(0, pcie_sent=0.0, pcie_received=0.0),
        gpu(1, pcie_sent=0.0, pcie_received=0.0),
    )
    assert third == replace(lost(2), device=replace(gpu(2).device, ordinals=()))
    assert len(said(caplog)) == 1

    machine.set("*", "count", 3)
    machine.read()
    assert machine.read() == (again(0), again(1), again(2))


def test_a_gpu_keeps_its_name_when_one_before_it_is_removed(machine: Machine) -> None:
    machine.set("*", "count", 2)
    machine.read()
    machine.set("*", "count", 1)
    machine.set(0, "uuid", uuid(1))
    assert [(reading.device.name, reading.device.id, set(reading.states)) for reading in machine.read()] == [
        ("gpu1", uuid(1), {"ok"}),
        ("gpu0", uuid(0), {"failed"}),
    ]
    machine.set("*", "count", 2)
    machine.set(1, "uuid", "GPU-new")
    names = {reading.device.id: reading.device.name for reading in machine.read()}
    assert names == {uuid(1): "gpu1", "GPU-new": "gpu2", uuid(0): "gpu0"}


def test_a_gpu_that_was_added_is_read(machine: Machine) -> None:
    machine.read()
    machine.set("*", "count", 2)
    assert [reading.device.name for reading in machine.read()] == ["gpu0", "gpu1"]


def test_all_gpus_were_removed(machine: Machine) -> None:
    machine.set("*", "count", 2)
    machine.read()
    machine.set("*", "count", 0)
    assert [reading.states for reading in machine.read()] == [{"failed"}, {"failed"}]


def test_somebody_else_has_shut_nvml_down(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.use()
    for _ in range(3):
        machine.library.nvmlShutdown()
        assert only(machine.read()).power == 250.0
        assert machine.held[0] == 1
    machine.use()
    assert machine.use() == (busy(0),)
    assert said(caplog) == []


def test_the_driver_was_reloaded(machine: Machine) -> None:
    machine.read()
    machine.set("*", "err.nvmlInitWithFlags", 9)
    machine.set("*", "err.nvmlDeviceGetCount_v2", 9)
    with pytest.raises(UnavailableError):
        machine.read()
    with pytest.raises(UnavailableError):
        machine.read()
    machine.values.clear()
    machine.read()
    assert machine.read() == (again(0),)


def test_others_use_nvml_too(machine: Machine) -> None:
    pynvml.nvmlInit()
    machine.read()
    machine.source.close()
    assert machine.held == (1, 0, 0)
    assert pynvml.nvmlDeviceGetCount() == 1
    pynvml.nvmlShutdown()


# -- A call that hangs -------------------------------------------------------------------------


@pytest.mark.parametrize("symbol", ["nvmlInitWithFlags", "nvmlDeviceGetPowerUsage", "nvmlEventSetWait_v2"])
def test_a_call_that_hangs_delays_nobody_and_is_recovered_from(
    machine: Machine, symbol: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "PATIENCE", 0.5)
    machine.set("*", f"hang.{symbol}", 30)
    snapshots: list[Snapshot] = []
    sampled = threading.Condition()

    def keep(snapshot: Snapshot, _now: float) -> None:
        with sampled:
            snapshots.append(snapshot)
            sampled.notify_all()

    sampler = Sampler(
        lambda: [Feed("nvidia", "devices", machine.source, driver=True)], interval=0.05, on_sample=keep
    )
    caplog.set_level(logging.INFO)
    sampler.start()
    try:
        with sampled:
            # That we get here, and that there are snapshots, says that nobody waits for it.
            assert sampled.wait_for(lambda: len(snapshots) >= 2, timeout=30)
            assert snapshots[0] == snapshots[1] == Snapshot()
            assert machine.calls(symbol) == 1
            machine.unset("*", f"hang.{symbol}")
            assert sampled.wait_for(lambda: bool(snapshots[-1].devices), timeout=30)
        reading = only(snapshots[-1].devices)
        assert (reading.device.name, reading.states, reading.power) == ("gpu0", {"ok"}, 250.0)
    finally:
        sampler.stop()
        for thread in threading.enumerate():
            if thread.name in {"aimon-sampler", "aimon-nvidia"}:
                thread.join(30)
    assert machine.held == (0, 0, 0)
    lines = said(caplog, logging.INFO)
    assert len(lines) == 2
    assert lines[0].startswith(
        "otel-aimon: nvidia has not answered within 0.5 s; its metrics are absent until it does."
    )
    assert lines[1] == "otel-aimon: nvidia answers again."


# -- Processes of their own --------------------------------------------------------------------


@pytest.fixture
def elsewhere(library_folder: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a process that finds the library as that of a driver."""
    values = NvmlValues(tmp_path / "values")
    values.set("*", "count", 2)
    library = build_nvml(library_folder / "installed")
    return {
        "LD_LIBRARY_PATH": str(library.parent),
        VALUES_VARIABLE: str(values.path),
        "CUDA_VISIBLE_DEVICES": "1",
    }


def test_nothing_is_imported_before_the_first_reading(elsewhere: dict[str, str], tmp_path: Path) -> None:
    source = """
    import json, sys
    from otel_aimon.resources.nvidia import NvidiaSource

    source = NvidiaSource()
    before = "pynvml" in sys.modules
    found = [[reading.device.name, reading.visible, reading.device.ordinals] for reading in source.read()]
    source.close()
    print(json.dumps([before, found]))
    """
    found = [["gpu0", False, []], ["gpu1", True, ["cuda:0"]]]
    assert scripts.run(tmp_path, source, env=elsewhere) == [False, found]


def test_a_child_process_starts_over(elsewhere: dict[str, str], tmp_path: Path) -> None:
    """Also when a thread of its parent was loading the library just then."""
    source = """
    import ctypes, json, os, sys
    import pynvml
    from otel_aimon.resources.nvidia import NvidiaSource

    source = NvidiaSource()
    source.read()
    os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    pynvml.libLoadLock.acquire()
    pynvml._nvmlGetFunctionPointer_cache.clear()
    child = os.fork()
    if child == 0:
        source.after_fork_in_child()
        source.read()
        library = ctypes.CDLL("libnvidia-ml.so.1")
        second = source.read()
        found = [reading.visible for reading in second] == [True, False] and bool(second[0].activity)
        # The parent's one and the child's own.
        os._exit(0 if found and library.stub_initialised() == 2 else 1)
    pynvml.libLoadLock.release()
    _, status = os.waitpid(child, 0)
    source.read()
    source.close()
    library = ctypes.CDLL("libnvidia-ml.so.1")
    print(json.dumps([os.waitstatus_to_exitcode(status), library.stub_initialised()]))
    """
    assert scripts.run(tmp_path, source, env=elsewhere) == [0, 0]


def test_a_process_ends_while_a_call_hangs(elsewhere: dict[str, str], tmp_path: Path) -> None:
    values = Path(elsewhere[VALUES_VARIABLE])
    values.write_text("* count 1\n* hang.nvmlDeviceGetPowerUsage 3600\n")
    source = """
    import json, threading
    from otel_aimon.resources.nvidia import NvidiaSource
    from otel_aimon.resources.sampler import Feed, Sampler

    sampled = threading.Event()
    sampler = Sampler(
        lambda: [Feed("nvidia", "devices", NvidiaSource(), driver=True)],
        interval=5.0,
        on_sample=lambda snapshot, now: sampled.set(),
    )
    sampler.start()
    print(json.dumps(sampled.wait(30)))
    """
    assert scripts.run(tmp_path, source, env=elsewhere) is True


class TestNoDriver:
    @pytest.fixture(autouse=True)
    def _no_library(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(name: str) -> None:
            raise OSError(name)

        monkeypatch.setattr(pynvml, "nvmlLib", None)
        monkeypatch.setattr(pynvml, "CDLL", missing)

    def test_a_machine_without_a_gpu(self, machine: Machine) -> None:
        with pytest.raises(UnavailableError, match="there is no NVIDIA driver here") as unavailable:
            machine.read()
        assert (unavailable.value.level, unavailable.value.retry) == (logging.DEBUG, 300.0)

    @pytest.mark.parametrize("path", ["proc/driver/nvidia/version", "dev/nvidiactl"])
    def test_a_container_without_the_library(self, machine: Machine, path: str) -> None:
        (machine.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (machine.folder / path).touch()
        with pytest.raises(
            UnavailableError, match="NVIDIA_DRIVER_CAPABILITIES must have utility"
        ) as unavailable:
            machine.read()
        assert unavailable.value.level == logging.WARNING


def test_pynvml_is_not_there(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(UnavailableError, match=r"pynvml cannot be imported\.") as unavailable:
        machine.read()
    assert unavailable.value.level == logging.DEBUG


def test_an_older_pynvml_does_not_have_every_function(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("nvmlDeviceGetProcessUtilization", "nvmlMemory_v2", "nvmlGpmQueryDeviceSupport"):
        monkeypatch.delattr(pynvml, name)
    assert machine.use() == (
        busy(
            0,
            memory_used=5 * GIB + GIB // 2,
            process_utilization=None,
            activity={},
            pcie_sent=0.0,
            pcie_received=0.0,
        ),
    )
    assert said(caplog) == []


def test_a_gpu_without_field_values_is_not_asked_for_them(machine: Machine) -> None:
    for field in (31, 82, 138, 139, 144, 145, 197, 198):
        machine.set(0, f"field.err.{field}", 3)
    machine.read()
    machine.read()
    assert machine.calls("nvmlDeviceGetFieldValues") == 1


def test_a_name_that_is_no_text_is_absent(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    path = machine.values.path
    path.write_bytes(path.read_bytes() + b"* name \xff\n")
    reading = only(machine.read())
    assert (reading.device.model, reading.power) == (None, 250.0)
    assert len(said(caplog)) == 1
