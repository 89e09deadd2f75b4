"""Which NVIDIA GPUs and MIG instances there are now."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from otel_aimon.resources.nvidia_gpm import free_samples
from otel_aimon.resources.nvidia_gpu import Gpu, LostError
from otel_aimon.resources.nvidia_library import Failure, Nvml, RestartNeeded
from otel_aimon.resources.snapshot import Device
from otel_aimon.resources.source import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

_VENDOR = "NVIDIA"
_MIG_ENABLED = 1
_MIG_MODE = "nvmlDeviceGetMigMode"
_MIG_PLACES = "nvmlDeviceGetMaxMigDeviceCount"


class Devices:
    """Finds the devices, and keeps what is remembered of each while it is there.

    Attributes:
        count: How many GPUs the driver has counted.
        all_identified: Whether every GPU has said which it is.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._said: dict[str, dict[str, set[str]]] = {}
        self._samples_seen: dict[str, dict[str, int]] = {}
        self._counters: dict[str, dict[str, tuple[float, int]]] = {}
        self.forget_handles()

    def forget_handles(self) -> None:
        """NVML is started anew: its handles are others."""
        self.count: int | None = None
        self._gpus: dict[int, Gpu] = {}
        self._instances: dict[int, dict[int, Gpu]] = {}
        self.all_identified = True

    def forget_samples(self) -> None:
        """What was taken in a reading that came to nothing cannot be taken again."""
        self._samples_seen.clear()

    def __iter__(self) -> Iterator[Gpu]:
        """GPUs in the order of the bus, each before its instances."""
        for index, gpu in sorted(self._gpus.items()):
            yield gpu
            for _, instance in sorted(self._instances.get(index, {}).items()):
                yield instance

    def number_changed(self, nvml: Nvml) -> bool:
        """Count the GPUs. True when there are more or fewer than before.

        Raises:
            UnavailableError: The driver does not count them.
            RestartNeeded: NVML must be started anew.
        """
        try:
            count = int(nvml.call("nvmlDeviceGetCount"))
        except Failure as failure:
            if nvml.must_restart(failure.reason, certain=True):
                raise RestartNeeded(failure.function) from failure
            raise UnavailableError(
                f"the NVIDIA GPUs are not measured: the driver does not count them ({failure.reason}). "
                "Check it with nvidia-smi."
            ) from failure
        before, self.count = self.count, count
        return before is not None and before != count

    def find(self, nvml: Nvml) -> None:
        """Identify what is not known yet, and find the MIG instances of every GPU.

        Raises:
            RestartNeeded: NVML must be started anew.
        """
        missing = [index for index in range(self.count or 0) if index not in self._gpus]
        identified = [self._identify(nvml, index) for index in missing]
        self.all_identified = all(identified)
        for index, gpu in self._gpus.items():
            gpu.begin()
            try:
                if gpu.device is not None and gpu.device.model is None:
                    gpu.device = replace(gpu.device, model=gpu.ask("nvmlDeviceGetName"))
                self._divide(gpu, index)
            except LostError:
                gpu.lost = True

    def _identify(self, nvml: Nvml, index: int) -> bool:
        """Find out which GPU has this number. False when it may be any."""
        name = f"GPU {index}"
        gpu = Gpu(nvml, None, name, said=self._said.setdefault(name, {}))
        uuid = None
        try:
            gpu.handle = gpu.call("nvmlDeviceGetHandleByIndex", index)
            if gpu.handle is not None:
                uuid = gpu.ask("nvmlDeviceGetUUID")
        except LostError as lost:
            gpu.failures["nvmlDeviceGetHandleByIndex"] = str(lost)
            gpu.lost = True
        gpu.failures.update(dict.fromkeys(gpu.unsupported, "NOT_SUPPORTED"))
        gpu.say_failures()
        if uuid is None:
            # In a container, others' GPUs are counted and not permitted.
            return gpu.lost or "NO_PERMISSION" in gpu.failures.values()
        gpu.unsupported.clear()
        gpu.name = f"gpu{self._number(uuid, index)}"
        gpu.said = self._said.setdefault(gpu.name, {})
        gpu.device = Device(id=uuid, vendor=_VENDOR, name=gpu.name)
        # The driver goes on counting when NVML is started anew.
        gpu.seen = self._samples_seen.setdefault(uuid, {})
        gpu.counters = self._counters.setdefault(uuid, {})
        self._gpus[index] = gpu
        return True

    def _number(self, uuid: str, index: int) -> int:
        """The number in its name, which it keeps when a GPU before it is lost."""
        if uuid not in self._numbers:
            taken = self._numbers.values()
            self._numbers[uuid] = max(taken) + 1 if index in taken else index
        return self._numbers[uuid]

    def _divide(self, gpu: Gpu, index: int) -> None:
        before = self._instances.get(index, {})
        mode = gpu.ask(_MIG_MODE)
        places = 0
        if mode is not None and mode[0] == _MIG_ENABLED:
            places = gpu.ask(_MIG_PLACES) or 0
        if gpu.failures.keys() & {_MIG_MODE, _MIG_PLACES}:
            # It is as it was, as far as can be told.
            return
        gpu.mig = mode is not None and mode[0] == _MIG_ENABLED
        found = {place: self._instance(gpu, place, before.get(place)) for place in range(places)}
        self._instances[index] = {
            place: instance for place, instance in found.items() if instance is not None
        }
        for place, instance in before.items():
            if found.get(place) is not instance:
                free_samples(instance)

    def _instance(self, gpu: Gpu, place: int, before: Gpu | None) -> Gpu | None:
        """The MIG instance at this place, if there is one."""
        function = "nvmlDeviceGetMigDeviceHandleByIndex"
        label = f"{function}({place})"
        # The place has one as soon as the administrator makes it.
        handle = gpu.ask(function, place, label=label, otherwise={"NOT_FOUND": None})
        uuid_label = f"nvmlDeviceGetUUID of MIG instance {place}"
        uuid = gpu.call("nvmlDeviceGetUUID", handle, label=uuid_label) if handle is not None else None
        if gpu.failures.keys() & {label, uuid_label}:
            return before
        if uuid is None or gpu.device is None:
            return None
        if before is not None and before.device is not None and before.device.id == uuid:
            before.handle = handle
            return before
        name = f"{gpu.name}/mig{place}"
        instance = Gpu(gpu.nvml, handle, name, instance_of=gpu, said=self._said.setdefault(name, {}))
        model = gpu.call("nvmlDeviceGetName", handle, label=f"nvmlDeviceGetName of MIG instance {place}")
        instance.device = Device(
            id=uuid, vendor=_VENDOR, name=name, model=model or gpu.device.model, parent=gpu.device.id
        )
        return instance
