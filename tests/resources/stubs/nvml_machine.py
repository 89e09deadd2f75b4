"""A machine with NVIDIA GPUs in this process: the real pynvml on the library of ``nvml.c``."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pynvml
import pytest

from otel_aimon.resources.nvidia import NvidiaSource
from otel_aimon.resources.snapshot import Device, DeviceReading
from otel_aimon.resources.source import notices
from tests.resources.stubs import VALUES_VARIABLE, NvmlValues, build_nvml

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
    """The same at the second reading: now there are profiling counters."""
    known: dict[str, Any] = {
        "activity": {"sm": 0.02, "sm_occupancy": 0.03, "tensor": 0.05, "dram": 0.1},
        "pcie_sent": 20.0 * MIB,
        "pcie_received": 21.0 * MIB,
    }
    return gpu(number, **{**known, **changes})


def busy(number: int, **changes: Any) -> DeviceReading:
    """The same when it is used: see :meth:`Machine.use`."""
    known: dict[str, Any] = {
        "utilization": {"general": 0.5, "encoder": 0.03, "decoder": 0.04},
        "process_memory": 3 * MIB,
        "process_utilization": 0.5,
        "processes": 3,
    }
    return again(number, **{**known, **changes})


def lost(number: int, **changes: Any) -> DeviceReading:
    return DeviceReading(device=gpu(number).device, states=frozenset({"failed"}), **changes)


class Machine:
    """The driver, the processes that it knows, and a source that reads it.

    On it, this process is 100; 101 is its child, 102 that one's, and 200 is somebody else.
    """

    def __init__(self, library: Path, folder: Path) -> None:
        self.library: Any = ctypes.CDLL(str(library))
        self.library.stub_reset()
        self.values = NvmlValues(folder / "values")
        self.set, self.unset = self.values.set, self.values.unset
        self.now = 1000.0
        self.uses = 0
        self.folder = folder
        self.proc = folder / "proc"
        for pid, parent in ((1, 0), (100, 1), (101, 100), (102, 101), (200, 1)):
            (self.proc / str(pid)).mkdir(parents=True)
            (self.proc / str(pid) / "stat").write_text(f"{pid} (a) b (c) S {parent} 1 1 0")
        (self.proc / "self").mkdir()
        (self.proc / "self/status").write_text("Name:\tpython\nNSpid:\t100\t7\n")
        self.source = self.another()

    def another(self) -> NvidiaSource:
        """One more source."""
        return NvidiaSource(root=self.folder, proc=self.proc, clock=lambda: self.now)

    def read(self) -> tuple[DeviceReading, ...]:
        """The next reading, 5 s after the last."""
        self.now += 5.0
        return self.source.read()

    def use(self) -> tuple[DeviceReading, ...]:
        """Let processes use the GPUs: one reading before, one when they are :func:`busy`."""
        self.uses += 1
        past, moment = self.uses * 10_000, self.uses * 10_000 + 1000
        self.set("*", "samples.1", f"{past}:10")
        self.set("*", "processes.compute", f"100:{MIB},102:{2 * MIB},200:{4 * MIB}")
        self.set("*", "process.utilization", f"{past}:100:90")
        self.read()
        self.set("*", "samples.1", f"{past}:10,{moment}:40,{moment + 1000}:60")
        shares = ("100:40", "102:10", "200:30")
        new = ",".join(f"{moment}:{share}" for share in shares)
        self.set("*", "process.utilization", f"{past}:100:90,{new}")
        return self.read()

    def calls(self, function: str | None = None) -> int:
        """How often a function was called, or all."""
        return int(self.library.stub_calls(function.encode() if function else None))

    @property
    def held(self) -> tuple[int, int, int]:
        """How often NVML is started, and how many samples and event sets are not given back."""
        library = self.library
        return library.stub_initialised(), library.stub_gpm_samples(), library.stub_event_sets()


@contextmanager
def machine_with(
    monkeypatch: pytest.MonkeyPatch, library_folder: Path, folder: Path, without: tuple[str, ...] = ()
) -> Iterator[Machine]:
    """A machine whose library no other test's process finds, as it has another name in the loader.

    Args:
        monkeypatch: Of the test.
        library_folder: Where libraries are built, once for all tests.
        folder: Of the test.
        without: Functions that the driver does not have.
    """
    machine = Machine(build_nvml(library_folder, without, soname="stub"), folder)
    monkeypatch.setattr(pynvml, "nvmlLib", machine.library)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setenv(VALUES_VARIABLE, str(machine.values.path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    notices.forget("")
    try:
        yield machine
    finally:
        machine.values.clear()
        machine.source.close()
        notices.forget("")


def said(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """What was logged since the last time."""
    found = [record.getMessage() for record in caplog.records if record.levelno >= level]
    caplog.clear()
    return found
