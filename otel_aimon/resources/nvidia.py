"""NVIDIA GPUs and their MIG instances, through NVML.

NVML counts who has started it in this process, so that starting it anew does not take it from others.
What it says of a GPU that vanished stays as it was until then: so it is started anew when a GPU is
lost, and when the number of GPUs has changed.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from otel_aimon.resources.nvidia_devices import Devices
from otel_aimon.resources.nvidia_events import Faults
from otel_aimon.resources.nvidia_gpm import Gpm, free_samples
from otel_aimon.resources.nvidia_gpu import Gpu, LostError
from otel_aimon.resources.nvidia_library import (
    Nvml,
    RestartNeeded,
    start_nvml,
    unlock_after_fork,
)
from otel_aimon.resources.nvidia_processes import ProcessIds, read_processes
from otel_aimon.resources.nvidia_readings import (
    DEGRADED,
    DEGRADING,
    read_fields,
    read_memory,
    read_values,
)
from otel_aimon.resources.nvidia_utilization import read_utilization
from otel_aimon.resources.nvidia_visible import Shown, shown_by_environment, shown_by_torch
from otel_aimon.resources.snapshot import Device, DeviceReading
from otel_aimon.resources.source import RETRY_SECONDS, UnavailableError, notices

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_RETRY = 3600.0
_DEAD = frozenset({"UNKNOWN", "IRQ_ISSUE"})
"""What every call says of a GPU that fell off the bus, where the driver does not say that it is lost."""


class NvidiaSource:
    """Reads all NVIDIA GPUs that the driver shows to this process.

    Args:
        root: Of the file system in which the driver is looked for.
        proc: Where the kernel shows processes.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        proc: Path = Path("/proc"),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._root = root
        self._proc = proc
        self._clock = clock
        self._forget()

    def _forget(self) -> None:
        self._nvml: Nvml | None = None
        self._devices = Devices()
        self._gpm = Gpm()
        self._faults = Faults()
        self._processes: ProcessIds | None = None
        self._environment: dict[str, str] | None = None
        self._seen: dict[str, tuple[Device, bool]] = {}
        self._search_at = 0.0
        self._retry = RETRY_SECONDS
        self._lost = False
        self._restart_at = 0.0

    def read(self) -> tuple[DeviceReading, ...]:
        """All GPUs and MIG instances now.

        Raises:
            UnavailableError: When there are none.
        """
        if self._lost and self._clock() >= self._search_at:
            # Doubled each time: it may have been taken away for good.
            self._search_at = self._clock() + self._retry
            self._retry = min(2 * self._retry, _LONGEST_RETRY)
            self._stop()
        nvml = self._started()
        # At intervals: a function may go on saying so.
        nvml.may_restart = self._clock() >= self._restart_at
        try:
            return self._read(nvml)
        except RestartNeeded:
            self._restart_at = self._clock() + RETRY_SECONDS
            self._stop()
            self._devices.forget_samples()
            return self._read(self._started())

    def after_fork_in_child(self) -> None:
        """Start over. What the parent has started stays the parent's."""
        unlock_after_fork()
        self._forget()

    def close(self) -> None:
        """Give samples, events and NVML back."""
        self._stop()

    def _started(self) -> Nvml:
        if self._nvml is None:
            self._nvml = start_nvml(self._root)
        return self._nvml

    def _stop(self) -> None:
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            for gpu in self._devices:
                free_samples(gpu)
            self._faults.close(nvml)
            nvml.shut_down()
        self._faults.forget_handles()
        self._devices.forget_handles()

    def _read(self, nvml: Nvml) -> tuple[DeviceReading, ...]:
        if self._devices.number_changed(nvml):
            self._stop()
            nvml = self._started()
            self._devices.number_changed(nvml)
        self._devices.find(nvml)
        self._faults.drain(nvml, [gpu for gpu in self._devices if gpu.instance_of is None and not gpu.lost])
        readings = self._readings()
        readings += self._missing(readings)
        self._notice_lost(readings)
        nvml.fresh = False
        if not readings and self._devices.count:
            raise UnavailableError(
                f"the driver has counted {self._devices.count} NVIDIA GPU(s), and none says which it is. "
                "Check it with nvidia-smi."
            )
        if not readings:
            raise UnavailableError("the driver lists no NVIDIA GPU.", level=logging.DEBUG)
        return tuple(readings)

    def _readings(self) -> list[DeviceReading]:
        now = self._clock()
        shown = self._shown()
        if self._processes is None:
            self._processes = ProcessIds(self._proc)
        self._processes.begin()
        found: list[DeviceReading] = []
        for gpu in self._devices:
            if gpu.device is not None:
                device, visible = _shown_as(gpu.device, shown)
                found.append(self._reading(gpu, device, visible, self._processes, now))
        return found

    def _reading(
        self, gpu: Gpu, device: Device, visible: bool, processes: ProcessIds, now: float
    ) -> DeviceReading:
        values: dict[str, Any] = {}
        if gpu.instance_of is not None:
            gpu.begin()
            gpu.lost = gpu.instance_of.lost
        try:
            if not gpu.lost:
                self._ask(gpu, processes, now, values)
        except LostError:
            gpu.lost = True
        if gpu.lost or (not gpu.answered and gpu.failures and _DEAD.issuperset(gpu.failures.values())):
            return self._lost_reading(device, visible)
        gpu.say_failures()
        self._faults.read(gpu, values)
        worn = values.pop(DEGRADED, False) or DEGRADING & values.get("throttle_reasons", frozenset())
        state = {"degraded" if worn else "ok"} if gpu.answered else ()
        return DeviceReading(device=device, visible=visible, states=frozenset(state), **values)

    def _ask(self, gpu: Gpu, processes: ProcessIds, now: float, values: dict[str, Any]) -> None:
        read_memory(gpu, values)
        if gpu.instance_of is None:
            read_values(gpu, values)
            read_fields(gpu, values, now)
        if gpu.mig:
            # What runs on it, its instances tell.
            return
        if gpu.instance_of is None:
            read_utilization(gpu, values)
        self._gpm.read(gpu, values)
        read_processes(gpu, processes, values)

    @staticmethod
    def _lost_reading(device: Device, visible: bool) -> DeviceReading:
        return DeviceReading(device=device, visible=visible, states=frozenset({"failed"}))

    def _missing(self, readings: list[DeviceReading]) -> list[DeviceReading]:
        """GPUs that were there and are not any more. MIG instances may go: somebody has wanted that."""
        for reading in readings:
            if reading.device.parent is None:
                self._seen[reading.device.id] = reading.device, reading.visible
        there = {reading.device.id for reading in readings}
        if not self._devices.all_identified:
            # One has not said which it is: it may be the missing one.
            return []
        return [
            self._lost_reading(replace(device, ordinals=()), visible)
            for id_, (device, visible) in self._seen.items()
            if id_ not in there
        ]

    def _notice_lost(self, readings: list[DeviceReading]) -> None:
        lost = [str(reading.device.name) for reading in readings if "failed" in reading.states]
        if lost and not self._lost:
            notices.say(
                "nvml lost",
                logging.WARNING,
                "otel-aimon: the driver no longer answers for %s; its metrics are absent until it does. "
                "See dmesg for XID errors, and nvidia-smi.",
                ", ".join(lost),
            )
        if not lost:
            notices.forget("nvml lost")
            self._retry, self._search_at = RETRY_SECONDS, 0.0
        self._lost = bool(lost)

    def _shown(self) -> Shown:
        devices = [gpu.device for gpu in self._devices if gpu.device is not None]
        if self._environment is None:
            self._environment = dict(os.environ)
        return shown_by_torch(devices) or shown_by_environment(devices, self._environment)


def _shown_as(device: Device, shown: Shown) -> tuple[Device, bool]:
    """The device with CUDA's number, and whether this process may use it."""
    number = shown.ordinals.get(device.id)
    if number is not None:
        device = replace(device, ordinals=(f"cuda:{number}",))
    return device, shown.visible is None or device.id in shown.visible
