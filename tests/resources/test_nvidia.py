"""NVIDIA GPUs through the real pynvml, on a library whose answers the test decides."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pynvml
import pytest

from otel_aimon.resources.nvidia import NvidiaSource
from otel_aimon.resources.snapshot import Device, DeviceReading
from otel_aimon.resources.source import UnavailableError, notices
from tests.resources.stubs import VALUES_VARIABLE, NvmlValues, build_nvml, can_build

pytestmark = pytest.mark.skipif(not can_build(), reason="needs a C compiler")

GIB = 1 << 30
MIB = 1 << 20


def uuid(number: int) -> str:
    return f"GPU-00000000-0000-0000-0000-{number:012d}"


def mig_uuid(number: int, place: int) -> str:
    return f"MIG-00000000-0000-0000-{number:04d}-{place:012d}"


def gpu(number: int, **changes: Any) -> DeviceReading:
    """What the library says of a GPU at the first reading when it is not told otherwise."""
    device = Device(
        id=uuid(number),
        vendor="NVIDIA",
        name=f"gpu{number}",
        model="NVIDIA H100",
        ordinals=(f"cuda:{number}",),
    )
    reading = DeviceReading(
        device=device,
        utilization={"general": 0.37, "encoder": 0.03, "decoder": 0.04},
        memory_limit=80 * GIB,
        memory_used=5 * GIB,
        energy=123.456,
        power=250.0,
        power_limit=700.0,
        temperatures={"core": 45.0, "memory": 60.0},
        errors={"corrected": 0, "uncorrected": 0, "xid": 0},
        states=frozenset({"ok"}),
        clocks={"sm": 1755e6, "memory": 2619e6},
        clock_limits={"sm": 1980e6, "memory": 2619e6},
        throttle_reasons=frozenset(),
        link_received=0,
        link_sent=0,
        processes=0,
    )
    return replace(reading, **changes)


def again(number: int, **changes: Any) -> DeviceReading:
    """The same at the second reading: now there are rates and means."""
    known: dict[str, Any] = {
        "activity": {"sm": 0.02, "sm_occupancy": 0.03, "tensor": 0.05, "dram": 0.1},
        "pcie_sent": 20.0 * MIB,
        "pcie_received": 21.0 * MIB,
    }
    return gpu(number, **{**known, **changes})


def lost(number: int, **changes: Any) -> DeviceReading:
    device = gpu(number).device
    return DeviceReading(device=device, states=frozenset({"failed"}), **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nvml")


class Driver:
    """The library in this process, and its answers."""

    def __init__(self, library: Path, values: NvmlValues) -> None:
        self.library: Any = ctypes.CDLL(str(library))
        self.values = values

    def set(self, device: int | str, key: str, value: object) -> None:
        self.values.set(device, key, value)

    def unset(self, device: int | str, key: str) -> None:
        self.values.unset(device, key)

    def calls(self, function: str | None = None) -> int:
        return int(self.library.stub_calls(function.encode() if function else None))

    @property
    def held(self) -> tuple[int, int, int]:
        """How often NVML is started, and how many samples and event sets are not given back."""
        library = self.library
        return library.stub_initialised(), library.stub_gpm_samples(), library.stub_event_sets()


def load(monkeypatch: pytest.MonkeyPatch, library: Path, values: NvmlValues) -> Driver:
    """Let pynvml use a library that no other test's process finds under its name."""
    driver = Driver(library, values)
    monkeypatch.setattr(pynvml, "nvmlLib", driver.library)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setenv(VALUES_VARIABLE, str(values.path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    return driver


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> Iterator[Driver]:
    # One library for all tests, under a name of its own: others must not find it when they look for a driver.
    driver = load(monkeypatch, build_nvml(folder, soname="stub"), NvmlValues(tmp_path / "values"))
    notices.forget("")
    yield driver
    while driver.held[0]:
        driver.library.nvmlShutdown()
    notices.forget("")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """The processes of a host: this one is 100, 101 is its child, 200 is somebody else."""
    for pid, parent in ((1, 0), (100, 1), (101, 100), (102, 101), (200, 1)):
        (tmp_path / "proc" / str(pid)).mkdir(parents=True)
        (tmp_path / "proc" / str(pid) / "stat").write_text(f"{pid} (a) b (c) S {parent} 1 1 0")
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/self/status").write_text("Name:\tpython\nNSpid:\t100\t7\n")
    return tmp_path / "proc"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(driver: Driver, proc: Path, clock: Clock, tmp_path: Path) -> Iterator[Callable[[], NvidiaSource]]:
    made: list[NvidiaSource] = []

    def make() -> NvidiaSource:
        made.append(NvidiaSource(root=tmp_path, proc=proc, clock=clock))
        return made[-1]

    yield make
    for source in made:
        source.close()


@pytest.fixture
def source(make: Callable[[], NvidiaSource]) -> NvidiaSource:
    return make()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_every_gpu_has_a_reading(driver: Driver, source: NvidiaSource, count: int) -> None:
    driver.set("*", "count", count)
    assert source.read() == tuple(gpu(number) for number in range(count))
    assert source.read() == tuple(again(number) for number in range(count))


def test_without_a_gpu_there_is_none(driver: Driver, source: NvidiaSource) -> None:
    driver.set("*", "count", 0)
    with pytest.raises(UnavailableError, match="lists no NVIDIA GPU") as unavailable:
        source.read()
    assert unavailable.value.level == logging.DEBUG


def test_what_is_held_is_given_back(driver: Driver, source: NvidiaSource) -> None:
    driver.set("*", "count", 2)
    source.read()
    source.read()
    assert driver.held == (1, 4, 1)
    source.close()
    assert driver.held == (0, 0, 0)
    source.close()
