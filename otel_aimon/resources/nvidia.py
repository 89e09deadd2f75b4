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

from otel_aimon.resources.nvidia_events import Faults
from otel_aimon.resources.nvidia_gpm import Gpm, free_samples
from otel_aimon.resources.nvidia_gpu import Gpu, LostError
from otel_aimon.resources.nvidia_library import (
    STOPPED,
    Failure,
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

_MIG_ENABLED = 1


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
        self._gpm = Gpm()
        self._faults = Faults()
        self._processes: ProcessIds | None = None
        self._environment: dict[str, str] | None = None
        self._numbers: dict[str, int] = {}
        self._seen: dict[str, tuple[Device, bool]] = {}
        self._said: dict[str, dict[str, set[str]]] = {}
        self._search_at = 0.0
        self._retry = RETRY_SECONDS
        self._lost = False
        self._forget_handles()

    def _forget_handles(self) -> None:
        self._count: int | None = None
        self._gpus: dict[int, Gpu] = {}
        self._instances: dict[int, dict[int, Gpu]] = {}
        self._unidentified: set[int] = set()

    # -- The source ----------------------------------------------------------------------------

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
        try:
            return self._read(self._started())
        except RestartNeeded as needed:
            self._stop()
            nvml = self._started()
            nvml.incurable.add(needed.function)
            return self._read(nvml)

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
            for gpu in self._all():
                free_samples(gpu)
            self._faults.close(nvml)
            nvml.shut_down()
        self._faults.forget_handles()
        self._forget_handles()

    def _all(self) -> list[Gpu]:
        """GPUs in the order of the bus, each before its instances."""
        return [
            each
            for index, gpu in sorted(self._gpus.items())
            for each in (gpu, *(instance for _, instance in sorted(self._instances.get(index, {}).items())))
        ]

    def _read(self, nvml: Nvml) -> tuple[DeviceReading, ...]:
        now = self._clock()
        nvml = self._find(nvml)
        lost = {index for index, gpu in self._gpus.items() if not self._divide(gpu, index)}
        if self._processes is None:
            self._processes = ProcessIds(self._proc)
        self._processes.begin()
        self._faults.drain(nvml, [gpu for index, gpu in self._gpus.items() if index not in lost])
        shown = self._shown()
        readings: list[DeviceReading] = []
        for index in sorted(self._gpus):
            for gpu in (self._gpus[index], *self._instances.get(index, {}).values()):
                device, visible = _identified(gpu, shown)
                readings.append(
                    self._lost_reading(device, visible)
                    if index in lost
                    else self._reading(gpu, device, visible, now)
                )
        readings += self._missing(readings)
        self._notice_lost(readings)
        if not readings:
            raise UnavailableError("the driver lists no NVIDIA GPU.", level=logging.DEBUG)
        return tuple(readings)

    # -- Finding -------------------------------------------------------------------------------

    def _find(self, nvml: Nvml) -> Nvml:
        count = self._counted(nvml)
        if self._count is not None and count != self._count:
            self._stop()
            nvml = self._started()
            count = self._counted(nvml)
        self._count = count
        for index in range(count):
            known = self._gpus.get(index)
            if known is None or known.device is None or known.device.model is None:
                self._identify(nvml, index, known)
        return nvml

    @staticmethod
    def _counted(nvml: Nvml) -> int:
        try:
            return int(nvml.call("nvmlDeviceGetCount"))
        except Failure as failure:
            if failure.reason in STOPPED and failure.function not in nvml.incurable:
                raise RestartNeeded(failure.function) from failure
            raise UnavailableError(
                f"the NVIDIA GPUs are not measured: the driver does not count them ({failure.reason}). "
                "Check it with nvidia-smi."
            ) from failure

    def _identify(self, nvml: Nvml, index: int, known: Gpu | None) -> None:
        """Find out which GPU has this number, as far as it says so; asked again while something is missing."""
        gpu = known or Gpu(nvml, index, f"GPU {index}", said=self._said.setdefault(f"GPU {index}", {}))
        gpu.begin()
        self._unidentified.discard(index)
        try:
            if gpu.device is None:
                handle = gpu.ask("nvmlDeviceGetHandleByIndex")
                uuid = gpu.call("nvmlDeviceGetUUID", handle) if handle is not None else None
                if uuid is not None:
                    gpu.handle = handle
                    gpu.device = Device(id=uuid, vendor="NVIDIA", name=f"gpu{self._number(uuid, index)}")
                    self._gpus[index] = gpu
                elif "NO_PERMISSION" not in gpu.failures.values():
                    # In a container, those of others.
                    self._unidentified.add(index)
            if gpu.device is not None:
                gpu.device = replace(gpu.device, model=gpu.ask("nvmlDeviceGetName"))
        except LostError as lost:
            gpu.failures["nvmlDeviceGetHandleByIndex"] = str(lost)
        gpu.say_failures()
        if gpu.device is not None and known is None:
            gpu.name = str(gpu.device.name)
            gpu.said = self._said.setdefault(gpu.name, {})

    def _number(self, uuid: str, index: int) -> int:
        """The number in its name, which it keeps when a GPU before it is lost."""
        if uuid not in self._numbers:
            taken = self._numbers.values()
            self._numbers[uuid] = max(taken) + 1 if index in taken else index
        return self._numbers[uuid]

    def _divide(self, gpu: Gpu, index: int) -> bool:
        """Find the MIG instances of a GPU. False when it is lost."""
        gpu.begin()
        before = self._instances.pop(index, {})
        found: dict[int, Gpu] = {}
        try:
            mode = gpu.ask("nvmlDeviceGetMigMode")
            gpu.mig = mode is not None and mode[0] == _MIG_ENABLED
            if gpu.mig:
                for place in range(gpu.ask("nvmlDeviceGetMaxMigDeviceCount") or 0):
                    instance = self._instance(gpu, place, before)
                    if instance is not None:
                        found[place] = instance
        except LostError:
            return False
        finally:
            kept = set(map(id, found.values()))
            for instance in before.values():
                if id(instance) not in kept:
                    free_samples(instance)
        if found:
            self._instances[index] = found
        return True

    def _instance(self, gpu: Gpu, place: int, before: dict[int, Gpu]) -> Gpu | None:
        label = f"nvmlDeviceGetMigDeviceHandleByIndex({place})"
        # A place without an instance has one when the administrator makes it.
        handle = gpu.ask(
            "nvmlDeviceGetMigDeviceHandleByIndex", place, label=label, otherwise={"NOT_FOUND": None}
        )
        if handle is None or gpu.device is None:
            return None
        uuid = gpu.call("nvmlDeviceGetUUID", handle, label=f"nvmlDeviceGetUUID of MIG instance {place}")
        if uuid is None:
            return None
        known = before.get(place)
        if known is not None and known.device is not None and known.device.id == uuid:
            known.handle = handle
            return known
        name = f"{gpu.device.name}/mig{place}"
        instance = Gpu(gpu.nvml, handle, name, instance_of=gpu, said=self._said.setdefault(name, {}))
        instance.device = Device(
            id=uuid,
            vendor="NVIDIA",
            name=name,
            model=instance.ask("nvmlDeviceGetName") or gpu.device.model,
            parent=gpu.device.id,
        )
        instance.gpu_instance = instance.ask("nvmlDeviceGetGpuInstanceId")
        return instance

    # -- Reading -------------------------------------------------------------------------------

    def _reading(self, gpu: Gpu, device: Device, visible: bool, now: float) -> DeviceReading:
        values: dict[str, Any] = {}
        if gpu.instance_of is not None:
            gpu.begin()
        try:
            read_memory(gpu, values)
            if gpu.instance_of is None:
                read_values(gpu, values)
                read_fields(gpu, values, now)
            if gpu.instance_of is None and not gpu.mig:
                read_utilization(gpu, values)
            self._gpm.read(gpu, values)
            if not gpu.mig and self._processes is not None:
                read_processes(gpu, self._processes, values)
        except LostError:
            return self._lost_reading(device, visible)
        if not gpu.answered and gpu.failures and _DEAD.issuperset(gpu.failures.values()):
            return self._lost_reading(device, visible)
        gpu.say_failures()
        self._faults.read(gpu, values)
        worn = values.pop(DEGRADED, False) or DEGRADING & values.get("throttle_reasons", frozenset())
        state = {"degraded" if worn else "ok"} if gpu.answered else ()
        return DeviceReading(device=device, visible=visible, states=frozenset(state), **values)

    @staticmethod
    def _lost_reading(device: Device, visible: bool) -> DeviceReading:
        return DeviceReading(device=device, visible=visible, states=frozenset({"failed"}))

    def _missing(self, readings: list[DeviceReading]) -> list[DeviceReading]:
        """GPUs that were there and are not any more. MIG instances may go: somebody has wanted that."""
        for reading in readings:
            if reading.device.parent is None:
                self._seen[reading.device.id] = reading.device, reading.visible
        there = {reading.device.id for reading in readings}
        if self._unidentified:
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
        devices = [gpu.device for gpu in self._all() if gpu.device is not None]
        if self._environment is None:
            self._environment = dict(os.environ)
        return shown_by_torch(devices) or shown_by_environment(devices, self._environment)


def _identified(gpu: Gpu, shown: Shown) -> tuple[Device, bool]:
    device = gpu.device
    assert device is not None, "a GPU without identity is not kept"  # noqa: S101
    number = shown.ordinals.get(device.id)
    if number is not None:
        device = replace(device, ordinals=(f"cuda:{number}",))
    return device, shown.visible is None or device.id in shown.visible
