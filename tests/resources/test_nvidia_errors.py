"""Every error of NVML from every function: what cannot be read is absent, all else is there, one line says why."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pynvml
import pytest

from otel_aimon.resources.snapshot import DeviceReading
from otel_aimon.resources.source import UnavailableError, notices
from tests.resources.stubs import can_build
from tests.resources.stubs.nvml_machine import GIB, MIB, Machine, busy, lost, machine_with, said

pytestmark = pytest.mark.skipif(not can_build(), reason="needs a C compiler")

CODES = {
    code: name.removeprefix("NVML_ERROR_")
    for name, code in vars(pynvml).items()
    if name.startswith("NVML_ERROR_")
} | {77: "error 77"}
"""Every error, and one that is not known yet."""

UNSUPPORTED = {"NOT_SUPPORTED", "NOT_FOUND", "FUNCTION_NOT_FOUND"}
STOPPED = {"UNINITIALIZED", "DRIVER_NOT_LOADED"}
LOST = {"GPU_IS_LOST", "GPU_NOT_FOUND", "RESET_REQUIRED"}

NO_PROCESSES = {"processes": None, "process_memory": None, "process_utilization": None}
NO_GPM: dict[str, Any] = {"activity": {}, "pcie_sent": 0.0, "pcie_received": 0.0}
"""The counters of PCIe are there, and have not counted."""

ABSENT: dict[str, dict[str, Any]] = {
    "nvmlDeviceGetName": {"device": "without model"},
    "nvmlDeviceGetMigMode": {},
    "nvmlDeviceGetMemoryInfo_v2": {"memory_limit": None, "memory_used": None},
    "nvmlDeviceGetTotalEnergyConsumption": {"energy": None},
    "nvmlDeviceGetPowerUsage": {"power": None},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_limit": None},
    "nvmlDeviceGetTemperature": {"temperatures": {"memory": 60.0}},
    "nvmlDeviceGetClockInfo": {"clocks": {}},
    "nvmlDeviceGetMaxClockInfo": {"clock_limits": {}},
    "nvmlDeviceGetCurrentClocksEventReasons": {"throttle_reasons": None},
    "nvmlDeviceGetTotalEccErrors": {"errors": {"xid": 0}},
    "nvmlDeviceGetFieldValues": {"temperatures": {"core": 45.0}, "link_sent": None, "link_received": None},
    "nvmlDeviceGetSamples": {"utilization": {"general": 0.37, "encoder": 0.03, "decoder": 0.04}},
    "nvmlDeviceGetEncoderUtilization": {"utilization": {"general": 0.5, "decoder": 0.04}},
    "nvmlDeviceGetDecoderUtilization": {"utilization": {"general": 0.5, "encoder": 0.03}},
    "nvmlDeviceGetComputeRunningProcesses_v3": NO_PROCESSES,
    "nvmlDeviceGetGraphicsRunningProcesses_v3": NO_PROCESSES,
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": NO_PROCESSES,
    "nvmlDeviceGetProcessUtilization": {"process_utilization": None},
    "nvmlGpmQueryDeviceSupport": NO_GPM,
    "nvmlGpmSampleGet": NO_GPM,
    "nvmlGpmMetricsGet": NO_GPM,
}
"""Functions that are asked for a GPU, and what is not known of it without their answer."""

ASKED_ONCE = {"nvmlDeviceGetName", "nvmlGpmQueryDeviceSupport"}

INSTEAD: dict[tuple[str, str], dict[str, Any]] = {
    **{
        (function, reason): instead
        for reason in UNSUPPORTED
        for function, instead in {
            # An older function has it.
            "nvmlDeviceGetMemoryInfo_v2": {"memory_used": 5 * GIB + GIB // 2},
            **({"nvmlDeviceGetTemperature": {}} if hasattr(pynvml, "nvmlDeviceGetTemperatureV") else {}),
            "nvmlDeviceGetCurrentClocksEventReasons": {},
            # A GPU for computing only has no such processes.
            "nvmlDeviceGetGraphicsRunningProcesses_v3": {},
            "nvmlDeviceGetMPSComputeRunningProcesses_v3": {},
        }.items()
    },
    # There is no sample: nothing ran.
    ("nvmlDeviceGetProcessUtilization", "NOT_FOUND"): {"process_utilization": 0.0},
}
"""What is known nevertheless."""

FIELDS: dict[int, dict[str, Any]] = {
    82: {"temperatures": {"core": 45.0}},  # MEMORY_TEMP
    138: {"link_sent": None},  # NVLINK_THROUGHPUT_DATA_TX
    139: {"link_received": None},  # NVLINK_THROUGHPUT_DATA_RX
    197: {},  # PCIE_COUNT_TX_BYTES
    198: {},  # PCIE_COUNT_RX_BYTES
    31: {},  # RETIRED_PENDING
    144: {},  # REMAPPED_PENDING
    145: {},  # REMAPPED_FAILURE
}
"""Field values, and what is not known without them; of PCIe the profiling counters know."""

GPM_METRICS: dict[int, dict[str, Any]] = {
    pynvml.NVML_GPM_METRIC_SM_UTIL: {"activity": {"sm_occupancy": 0.03, "tensor": 0.05, "dram": 0.1}},
    pynvml.NVML_GPM_METRIC_SM_OCCUPANCY: {"activity": {"sm": 0.02, "tensor": 0.05, "dram": 0.1}},
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL: {"activity": {"sm": 0.02, "sm_occupancy": 0.03, "dram": 0.1}},
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL: {"activity": {"sm": 0.02, "sm_occupancy": 0.03, "tensor": 0.05}},
    pynvml.NVML_GPM_METRIC_PCIE_TX_PER_SEC: {"pcie_sent": 0.0},
    pynvml.NVML_GPM_METRIC_PCIE_RX_PER_SEC: {"pcie_received": 0.0},
}

WITHOUT_XID = {"errors": {"corrected": 0, "uncorrected": 0}}


@pytest.fixture(scope="module")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nvml")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, library_folder: Path, tmp_path: Path) -> Iterator[Machine]:
    with machine_with(monkeypatch, library_folder, tmp_path) as machine:
        machine.set("*", "count", 2)
        yield machine


def first(changes: dict[str, Any]) -> DeviceReading:
    if changes.get("device") == "without model":
        changes = {"device": replace(busy(0).device, model=None)}
    return busy(0, **changes)


def fresh(machine: Machine) -> None:
    """A source that knows nothing."""
    machine.values.clear()
    machine.source.close()
    machine.library.stub_reset()
    machine.set("*", "count", 2)
    machine.source = machine.another()
    notices.forget("")


def use(machine: Machine, reason: str) -> tuple[DeviceReading, ...]:
    found = machine.use()
    # For these, NVML was started anew in one of the two readings; that is not repeated soon.
    return machine.use() if reason in STOPPED else found


def beside(machine: Machine) -> DeviceReading:
    """The other GPU: to find the lost one NVML is started anew, which costs a previous profiling sample."""
    return busy(1, **NO_GPM) if machine.calls("nvmlInitWithFlags") > 1 else busy(1)


def function_name(symbol: str) -> str:
    return symbol.removesuffix("_v3")


def test_the_tables_hold_every_function_that_is_called(machine: Machine) -> None:
    machine.use()
    held_elsewhere = {
        "nvmlInitWithFlags", "nvmlShutdown", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetUUID", "nvmlDeviceGetUtilizationRates", "nvmlEventSetCreate", "nvmlDeviceRegisterEvents",
        "nvmlEventSetWait_v2", "nvmlEventSetFree", "nvmlGpmSampleAlloc", "nvmlGpmSampleFree",
    }  # fmt: skip
    machine.source.close()
    of_tables = sum(machine.calls(symbol) for symbol in {*ABSENT, *held_elsewhere})
    assert machine.calls() == of_tables
    assert all(machine.calls(symbol) for symbol in {*ABSENT, *held_elsewhere})


@pytest.mark.parametrize("symbol", ABSENT)
def test_a_function_fails(machine: Machine, symbol: str, caplog: pytest.LogCaptureFixture) -> None:
    for code, reason in CODES.items():
        fresh(machine)
        machine.set(0, f"err.{symbol}", code)
        found = use(machine, reason)

        lines = said(caplog)
        if reason in LOST:
            assert found == (replace(lost(0), device=first(ABSENT[symbol]).device), beside(machine)), reason
            assert len(lines) == 1 and "no longer answers for gpu0;" in lines[0], (reason, lines)
            continue
        changes = INSTEAD.get((symbol, reason), ABSENT[symbol])
        assert found == (first(changes), busy(1)), reason
        if reason in UNSUPPORTED:
            assert lines == [], reason
        else:
            assert len(lines) == 1 and function_name(symbol) in lines[0], (reason, lines)
            assert f" of gpu0 ({reason}); what that measures is absent until it answers." in lines[0]


@pytest.mark.parametrize("symbol", ABSENT)
def test_a_function_works_again(machine: Machine, symbol: str, caplog: pytest.LogCaptureFixture) -> None:
    machine.set(0, f"err.{symbol}", 10)
    machine.use()
    machine.unset(0, f"err.{symbol}")
    machine.read()
    assert machine.use() == (busy(0), busy(1))
    assert len(said(caplog)) == 1

    machine.set(0, f"err.{symbol}", 10)
    machine.read()
    machine.read()
    assert len(said(caplog)) == (0 if symbol in ASKED_ONCE else 1)


@pytest.mark.parametrize("symbol", ABSENT)
def test_what_is_not_supported_is_asked_once(machine: Machine, symbol: str) -> None:
    machine.set("*", "count", 1)
    machine.set(0, f"err.{symbol}", 3)
    machine.use()
    calls = machine.calls(symbol)
    machine.read()
    machine.read()
    assert machine.calls(symbol) == calls


@pytest.mark.parametrize(
    ("kind", "number"), [*(("field", n) for n in FIELDS), *(("gpm", n) for n in GPM_METRICS)]
)
def test_one_value_of_many_fails(
    machine: Machine, kind: str, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    changes = (FIELDS if kind == "field" else GPM_METRICS)[number]
    unknown = UNSUPPORTED | ({"INVALID_ARGUMENT"} if kind == "field" else set())
    for code, reason in CODES.items():
        fresh(machine)
        machine.set(0, f"{kind}.err.{number}", code)
        found = use(machine, reason)

        lines = said(caplog)
        if reason in LOST:
            assert found == (lost(0), beside(machine)), reason
            continue
        assert found == (busy(0, **changes), busy(1)), reason
        assert len(lines) == (0 if reason in unknown else 1), (reason, lines)


@pytest.mark.parametrize("symbol", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID"])
def test_a_gpu_does_not_say_which_it_is(
    machine: Machine, symbol: str, caplog: pytest.LogCaptureFixture
) -> None:
    for code, reason in CODES.items():
        fresh(machine)
        machine.set(0, f"err.{symbol}", code)
        # As CUDA counts it too, its number is not the other's.
        assert [reading.device.id for reading in machine.use()] == [busy(1).device.id], reason
        lines = said(caplog)
        assert len(lines) == 1 and "of GPU 0 (" in lines[0], (reason, lines)

        machine.unset(0, f"err.{symbol}")
        machine.read()
        assert [reading.device.name for reading in machine.read()] == ["gpu0", "gpu1"], reason


@pytest.mark.parametrize("symbol", ["nvmlEventSetCreate", "nvmlDeviceRegisterEvents", "nvmlEventSetWait_v2"])
def test_xid_events_fail(machine: Machine, symbol: str, caplog: pytest.LogCaptureFixture) -> None:
    for code, reason in CODES.items():
        if (symbol, reason) == ("nvmlEventSetWait_v2", "TIMEOUT"):
            # There is no event.
            continue
        fresh(machine)
        machine.set("*", f"err.{symbol}", code)
        assert use(machine, reason) == (busy(0, **WITHOUT_XID), busy(1, **WITHOUT_XID)), reason
        lines = said(caplog)
        silent = reason in UNSUPPORTED or (reason in LOST and symbol == "nvmlDeviceRegisterEvents")
        assert len(lines) == (0 if silent else 1), (reason, lines)
        assert silent or f"{symbol}: {reason}" in lines[0]


def test_profiling_samples_cannot_be_made(machine: Machine) -> None:
    for code, reason in CODES.items():
        fresh(machine)
        machine.set("*", "err.nvmlGpmSampleAlloc", code)
        if reason in LOST:
            continue
        assert use(machine, reason) == (busy(0, **NO_GPM), busy(1, **NO_GPM)), reason


@pytest.mark.parametrize("symbol", ["nvmlShutdown", "nvmlGpmSampleFree", "nvmlEventSetFree"])
def test_giving_back_fails(machine: Machine, symbol: str, caplog: pytest.LogCaptureFixture) -> None:
    for code, reason in CODES.items():
        fresh(machine)
        machine.set("*", f"err.{symbol}", code)
        assert machine.use() == (busy(0), busy(1)), reason
        machine.source.close()
        assert said(caplog) == [], reason


@pytest.mark.parametrize("symbol", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2"])
def test_the_driver_does_not_work(machine: Machine, symbol: str) -> None:
    (machine.folder / "dev").mkdir()
    (machine.folder / "dev/nvidiactl").touch()
    for code, reason in CODES.items():
        fresh(machine)
        machine.set("*", f"err.{symbol}", code)
        with pytest.raises(UnavailableError, match="the NVIDIA GPUs are not measured:") as unavailable:
            machine.read()
        assert reason in str(unavailable.value)
        assert unavailable.value.level == logging.WARNING, reason
        assert str(unavailable.value).endswith(".")

        machine.unset("*", f"err.{symbol}")
        assert machine.use() == (busy(0), busy(1)), reason


@pytest.mark.parametrize("code", [9, 12, 28])
def test_there_is_no_driver(machine: Machine, code: int) -> None:
    machine.set("*", "err.nvmlInitWithFlags", code)
    with pytest.raises(UnavailableError, match="there is no NVIDIA driver here") as unavailable:
        machine.read()
    assert (unavailable.value.level, unavailable.value.retry) == (logging.DEBUG, 300.0)


def test_everything_says_that_nvml_is_not_started(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.use()
    machine.set("*", "err.all", 1)
    with pytest.raises(UnavailableError, match=r"counted 2 NVIDIA GPU\(s\), and none says which it is"):
        machine.read()
    assert [line.partition(";")[0] for line in said(caplog)] == [
        f"otel-aimon cannot read nvmlDeviceGetHandleByIndex of GPU {number} (UNINITIALIZED)"
        for number in (0, 1)
    ]
    started = machine.calls("nvmlInitWithFlags")
    with pytest.raises(UnavailableError):
        machine.read()
    assert machine.calls("nvmlInitWithFlags") == started

    machine.unset("*", "err.all")
    machine.read()
    assert [reading.states for reading in machine.read()] == [{"ok"}, {"ok"}]


MIG = "nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex"


@pytest.mark.parametrize("symbol", [*MIG, "nvmlDeviceGetUUID"])
def test_mig_instances_stay_while_the_driver_does_not_say(machine: Machine, symbol: str) -> None:
    machine.set("*", "count", 1)
    machine.set(0, "mig", 1)
    machine.set(0, "mig.places", "0,2")
    machine.read()
    before = machine.read()
    assert [reading.device.name for reading in before] == ["gpu0", "gpu0/mig0", "gpu0/mig2"]
    devices = ("0/0", "0/2") if symbol == "nvmlDeviceGetUUID" else ("0",)
    for code, reason in CODES.items():
        if reason in UNSUPPORTED | LOST | STOPPED:
            continue
        for device in devices:
            machine.set(device, f"err.{symbol}", code)
        assert machine.read() == before, reason
        for device in devices:
            machine.unset(device, f"err.{symbol}")
        assert machine.read() == before, reason


@pytest.mark.parametrize("symbol", ["nvmlGpmMigSampleGet", "nvmlDeviceGetGpuInstanceId"])
def test_profiling_of_a_mig_instance_fails(machine: Machine, symbol: str) -> None:
    for code, reason in CODES.items():
        if reason in LOST:
            continue
        fresh(machine)
        machine.set("*", "count", 1)
        machine.set(0, "mig", 1)
        machine.set(0, "mig.places", "1")
        for device in ("0", "0/1"):
            machine.set(device, f"err.{symbol}", code)
        machine.read()
        whole, instance = machine.read()
        assert instance.activity == instance.utilization == {}, reason
        assert (instance.memory_limit, instance.memory_used) == (10 * GIB, 5 * GIB), reason
        assert whole.power == 250.0, reason


def test_a_driver_without_the_newer_functions(
    monkeypatch: pytest.MonkeyPatch, library_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newer = (
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetProcessUtilization",
        "nvmlDeviceGetMPSComputeRunningProcesses_v3",
        "nvmlEventSetWait_v2",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlGpmQueryDeviceSupport",
        "nvmlGpmSampleAlloc",
    )
    with machine_with(monkeypatch, library_folder, tmp_path, newer) as machine:
        machine.set("*", "count", 2)
        changes: dict[str, Any] = {
            "memory_used": 5 * GIB + GIB // 2,
            "energy": None,
            "temperatures": {"core": 45.0},
            **WITHOUT_XID,
            "link_sent": None,
            "link_received": None,
            "process_utilization": None,
            "process_memory": 3 * MIB,
            "activity": {},
            "pcie_sent": None,
            "pcie_received": None,
        }
        assert machine.use() == (busy(0, **changes), busy(1, **changes))
    assert said(caplog) == []
