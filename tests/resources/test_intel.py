"""Intel GPUs through the real pyzes, on a library whose answers the test decides."""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from otel_aimon.resources import intel
from otel_aimon.resources.intel import IntelSource
from otel_aimon.resources.snapshot import Device, DeviceReading
from otel_aimon.resources.source import UnavailableError, notices
from tests.resources.stubs import level_zero as stub
from tests.resources.stubs.amdsmi import answer

pytestmark = pytest.mark.skipif(
    not stub.available(), reason="needs pyzes (pip install otel-aimon[gpu-intel]) and cc"
)

UNSUPPORTED = 0x78000003
FORBIDDEN = 0x70010000
LOST = 0x70000001

PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "zesDeviceEnumEngineGroups": ("engines", {"utilization": {}}),
    "zesEngineGetActivity": ("engines", {"utilization": {}}),
    "zesDeviceEnumMemoryModules": ("memory", {"memory_limit": None, "memory_used": None}),
    "zesMemoryGetState": ("memory", {"memory_limit": None, "memory_used": None}),
    "zesDeviceEnumPowerDomains": ("power", {"energy": None}),
    "zesPowerGetEnergyCounter": ("power", {"energy": None}),
    "zesDeviceEnumFrequencyDomains": ("clocks", {"clocks": {}, "clock_limits": {}, "throttle_reasons": None}),
    "zesFrequencyGetState": ("clocks", {"clocks": {}, "clock_limits": {}, "throttle_reasons": None}),
    "zesDeviceEnumTemperatureSensors": ("temperatures", {"temperatures": {}}),
    "zesTemperatureGetState": ("temperatures", {"temperatures": {}}),
}
"""Functions, the part of a reading that needs each, and what that part leaves absent."""


def gpu(number: int, **changes: Any) -> DeviceReading:
    """What the library says of a GPU the first time."""
    reading = DeviceReading(
        device=Device(
            id=f"86000000-0000-0000-0000-00000000000{number}",
            vendor="Intel",
            name=f"gpu{number}",
            model="Intel(R) Data Center GPU Max 1550",
        ),
        memory_limit=1000,
        memory_used=600,
        energy=5.0,
        temperatures={"hotspot": 50.0, "core": 51.0, "memory": 52.0},
        states=frozenset({"ok"}),
        clocks={"sm": 1.55e9, "memory": 3.2e9},
        clock_limits={"sm": 1.6e9},
        throttle_reasons=frozenset(),
    )
    return replace(reading, **changes)


def silent(number: int, *states: str) -> DeviceReading:
    return DeviceReading(device=gpu(number).device, states=frozenset(states))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Which the real pyzes has loaded, wherever it looks for its own."""
    path = stub.build(tmp_path_factory.mktemp("level_zero"))
    real = ctypes.CDLL
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctypes, "CDLL", lambda _name: real(str(path)))
        __import__("pyzes")
    yield path
    del sys.modules["pyzes"]


class Machine:
    """With Intel GPUs."""

    def __init__(self, folder: Path, log: pytest.LogCaptureFixture) -> None:
        self.answers = folder / "answers"
        self._log = log
        self.restart()

    def restart(self) -> None:
        self.source = IntelSource()

    def read(self, answers: Mapping[str, float] | None = None) -> tuple[DeviceReading, ...]:
        if answers is not None:
            answer(self.answers, answers)
        return self.source.read()

    def said(self) -> list[str]:
        lines = [record.getMessage() for record in self._log.records]
        self._log.clear()
        return lines


@pytest.fixture
def machine(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Machine:
    monkeypatch.setenv(stub.ANSWERS_VARIABLE, str(tmp_path / "answers"))
    notices.forget("intel lost")
    return Machine(tmp_path, caplog)


@pytest.mark.parametrize("count", [1, 8])
def test_each_gpu_has_a_whole_reading(machine: Machine, count: int) -> None:
    assert machine.read({"devices": count}) == tuple(gpu(number) for number in range(count))
    assert machine.said() == []


def test_shares_and_power_are_since_the_last_reading(machine: Machine) -> None:
    machine.read({})
    later = {
        "microseconds": 2_000_000,
        "zesEngineGetActivity.*.active0": 1_500_000,
        "zesEngineGetActivity.*.active1": 100_000,
        "zesPowerGetEnergyCounter.*.microjoules": 605_000_000,
    }
    assert machine.read(later) == (gpu(0, utilization={"general": 0.75}, energy=605.0, power=300.0),)
    # No time has passed, and then the counters begin anew.
    assert machine.read(later) == (gpu(0, energy=605.0),)
    assert machine.read({"microseconds": 3_000_000}) == (gpu(0),)
    machine.source.after_fork_in_child()
    assert machine.read({"microseconds": 4_000_000}) == (gpu(0),)
    machine.source.close()


def test_tiles_of_a_gpu_are_one(machine: Machine) -> None:
    tiled: Any = {"clocks": {"sm": 1.55e9}, "clock_limits": {}}
    machine.read({"tiles": 2})
    later = {
        "tiles": 2,
        "microseconds": 1_000_000,
        "zesEngineGetActivity.*.active0": 800_000,
        "zesEngineGetActivity.*.active2": 200_000,
        "zesEngineGetActivity.*.active3": 400_000,
    }
    [reading] = machine.read(later)
    assert reading == gpu(0, utilization={"general": pytest.approx(0.6)}, power=0.0, **tiled)


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (0x001, {"sw_power_cap"}),
        (0x002, {"sw_power_cap"}),
        (0x108, {"hw_thermal"}),
        (0x010, {"hw_power_brake"}),
        (0x284, {"hw_slowdown"}),
        (0x060, set()),
        (0x3FF, {"sw_power_cap", "hw_thermal", "hw_power_brake", "hw_slowdown"}),
    ],
)
def test_throttling(machine: Machine, bits: int, reasons: set[str]) -> None:
    assert machine.read({"zesFrequencyGetState.*.throttled": bits}) == (
        gpu(0, throttle_reasons=frozenset(reasons)),
    )


def test_what_is_not_known_is_absent(machine: Machine) -> None:
    answers = {
        "zesFrequencyGetState.*.gpu": -1,
        "zesMemoryGetState.*.size": 0,
        "zesPowerGetEnergyCounter.*.microjoules": 0,
        "zesDeviceEnumTemperatureSensors.*.count": 0,
        "zesDeviceGetProperties.*.model": 0,
    }
    nothing: Any = {"clocks": {"memory": 3.2e9}, "temperatures": {}, "energy": None}
    nothing |= {"memory_limit": None, "memory_used": None}
    device = replace(gpu(0).device, model="Intel(R) Graphics")
    assert machine.read(answers) == (gpu(0, device=device, **nothing),)
    assert machine.read({"zesPowerGetProperties.*.on_tile": 1}) == (gpu(0, device=device, energy=None),)
    assert machine.said() == []


@pytest.mark.parametrize("function", PARTS)
@pytest.mark.parametrize(
    "status", [1, FORBIDDEN, 0x70010001, 0x78000004, 0x7FFFFFFE, 0x12345678, UNSUPPORTED]
)
def test_a_function_that_fails_costs_its_part_and_nothing_else(
    machine: Machine, function: str, status: int
) -> None:
    part, absent = PARTS[function]
    failing = {f"{function}.*.status": status}
    for _ in range(2):
        assert machine.read(failing) == (gpu(0, **absent),)
    said = machine.said()
    if status == UNSUPPORTED:
        assert said == []
        assert machine.read({}) == (gpu(0, **absent),)
        machine.restart()
    else:
        assert len(said) == 1 and said[0].startswith(f"otel-aimon cannot read the {part} of an Intel GPU (")
        assert ("CAP_PERFMON" in said[0]) == (status == FORBIDDEN)
    assert machine.read({}) == (gpu(0),)


def test_a_gpu_that_is_lost_fails_and_comes_back(machine: Machine) -> None:
    lost = {function + ".0.status": LOST for function in PARTS} | {"devices": 2}
    assert machine.read({"devices": 2}) == (gpu(0), gpu(1))
    assert machine.read(lost) == (silent(0, "failed"), gpu(1))
    assert machine.read(lost) == (silent(0, "failed"), gpu(1))
    assert machine.said() == [
        (
            "otel-aimon: the driver no longer answers for gpu0; its metrics are absent until it does. See dmesg."
        )
    ]
    assert machine.read({"devices": 2}) == (gpu(0), gpu(1))
    assert machine.said() == []
    machine.read(lost)
    assert len(machine.said()) == 1


def test_a_gpu_that_says_nothing_at_all(machine: Machine) -> None:
    assert machine.read({f"{function}.*.status": UNSUPPORTED for function in PARTS}) == (silent(0),)
    assert machine.said() == []


@pytest.mark.parametrize("answers", [{"devices": 0}, {"zesDeviceGetProperties.*.type": 2}])
def test_without_gpus_there_is_nothing_to_tell(machine: Machine, answers: dict[str, float]) -> None:
    with pytest.raises(UnavailableError, match="the driver lists no Intel GPU") as unavailable:
        machine.read(answers)
    assert unavailable.value.level == logging.DEBUG
    assert machine.read({}) == (gpu(0),)


@pytest.mark.parametrize("function", ["zesInit", "zesDriverGet"])
def test_a_driver_that_cannot_be_asked_is_asked_again(machine: Machine, function: str) -> None:
    with pytest.raises(UnavailableError, match=r"Level Zero cannot list them \(ERROR_UNINITIALIZED\)"):
        machine.read({f"{function}.status": 0x78000001})
    assert machine.read({}) == (gpu(0),)


def test_a_machine_without_intel_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pyzes", raising=False)
    with pytest.raises(UnavailableError, match="there is no Intel GPU here") as unavailable:
        IntelSource(tmp_path).read()
    assert unavailable.value.level == logging.DEBUG
    assert "pyzes" not in sys.modules


@pytest.mark.parametrize("driver", ["xe", "i915"])
def test_without_pyzes_the_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    (tmp_path / "sys/bus/pci/drivers" / driver).mkdir(parents=True)
    monkeypatch.delitem(sys.modules, "pyzes", raising=False)
    monkeypatch.setattr(intel, "find_spec", lambda _name: None)
    with pytest.raises(UnavailableError, match=r"pip install otel-aimon\[gpu-intel\]") as unavailable:
        IntelSource(tmp_path).read()
    assert unavailable.value.level == logging.DEBUG


def test_without_level_zero_one_line_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    (tmp_path / "sys/bus/pci/drivers/xe").mkdir(parents=True)
    monkeypatch.delitem(sys.modules, "pyzes", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(
        UnavailableError, match=r"pyzes cannot be imported \(OSError: .*libze1"
    ) as unavailable:
        IntelSource(tmp_path).read()
    assert unavailable.value.level == logging.WARNING
    assert "pyzes" not in sys.modules
