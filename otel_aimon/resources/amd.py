"""AMD GPUs, through ``amdsmi``.

``amdsmi`` holds one state for the whole process and does not count its users: a framework may shut
it down between two of our readings, and must not lose it to us. So handles are asked for anew at
each reading, and only a process in which nobody else uses ``amdsmi`` ever shuts it down, to find the
GPUs anew after one was lost.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from otel_aimon.resources.amd_library import hardware_present, load_amdsmi, used_by_others
from otel_aimon.resources.amd_values import QUERIES, Memory
from otel_aimon.resources.amd_visible import hip_order
from otel_aimon.resources.snapshot import Device, DeviceReading
from otel_aimon.resources.source import RETRY_SECONDS, UnavailableError, notices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger("otel_aimon")

_NOT_SUPPORTED = ("NOT_SUPPORTED", "NOT_YET_IMPLEMENTED")
_GONE = frozenset(
    {
        *_NOT_SUPPORTED,
        "ADDRESS_FAULT",
        "API_FAILED",
        "DIRECTORY_NOT_FOUND",
        "DRIVER_NOT_LOADED",
        "DRM_ERROR",
        "FILE_ERROR",
        "FILE_NOT_FOUND",
        "INIT_ERROR",
        "INTERNAL_EXCEPTION",
        "INVAL",
        "IO",
        "NOT_FOUND",
        "NO_DRV",
        "UNKNOWN_ERROR",
    }
)
"""What every call says of a GPU that is gone. When the driver's files vanish, that is "not supported"."""

_REMEDIES = {"NO_PERM": " Add the user to the groups render and video, or run as root."}
_PASSING = ("NOT_INIT",)
"""Somebody shut ``amdsmi`` down between two calls; the next reading starts it again."""

_LONGEST_RETRY = 3600.0


@dataclass(slots=True)
class _Gpu:
    """One handle, as it was found.

    Attributes:
        device: What identifies it, but for its ordinals.
        hip_id: HIP's number of it when nothing is hidden.
        hip_uuid: Its UUID as HIP writes it.
        answered: Calls that had an answer.
        unsupported: Calls that never will.
        memory: Of its last reading.
    """

    device: Device
    hip_id: int | None
    hip_uuid: str | None
    answered: set[str] = field(default_factory=set)
    unsupported: set[str] = field(default_factory=set)
    memory: Memory = field(default_factory=Memory)


class AmdSource:
    """Reads all AMD GPUs that the driver shows to this process.

    Args:
        root: Of the file system in which the driver is looked for.
        clock: Monotonic seconds.
    """

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = monotonic) -> None:
        self._root = root
        self._clock = clock
        self._amdsmi: Any = None
        self._calls: dict[str, Callable[[Any], Any]] = {}
        self._said: set[tuple[str, str]] = set()
        self._forget()

    def _forget(self) -> None:
        self._initialised = False
        self._gpus: dict[tuple[int, Any], _Gpu] = {}
        self._numbers: dict[str, int] = {}
        self._seen: set[str] = set()
        self._lost = False
        self._search_again_at = 0.0
        self._retry = RETRY_SECONDS

    def after_fork_in_child(self) -> None:
        """Find the GPUs anew. The module stays: a library cannot be loaded twice."""
        self._forget()

    def close(self) -> None:
        """Nothing is given back: others in this process may use what ``amdsmi`` holds."""

    def read(self) -> tuple[DeviceReading, ...]:
        """All GPUs now.

        Raises:
            UnavailableError: When there are none.
        """
        if self._amdsmi is None:
            self._amdsmi = load_amdsmi(self._root)
            self._calls = self._bind()
        if self._lost and self._clock() >= self._search_again_at:
            self._search_again()
        handles = self._handles()
        self._drop_stale(handles)
        found = [self._gpu(index, handle) for index, handle in enumerate(handles)]
        pairs = [(handle, gpu) for handle, gpu in zip(handles, found, strict=True) if gpu is not None]
        devices = _named([gpu for _, gpu in pairs])
        readings = tuple(
            self._reading(gpu, handle, device, visible)
            for (handle, gpu), (device, visible) in zip(pairs, devices, strict=True)
        )
        self._notice_lost(readings)
        return readings

    # -- Finding -------------------------------------------------------------------------------

    def _bind(self) -> dict[str, Callable[[Any], Any]]:
        calls = {query.name: query.bind(self._amdsmi) for query in QUERIES}
        self._say(
            [(name, "not in this version of amdsmi") for name, call in calls.items() if call is None],
            logging.INFO,
        )
        return {name: call for name, call in calls.items() if call is not None}

    def _handles(self) -> list[Any]:
        try:
            if not self._initialised:
                self._initialise()
            try:
                handles = self._amdsmi.amdsmi_get_processor_handles()
            except Exception as error:
                if _status(error) != "NOT_INIT":
                    raise
                # Somebody shut it down.
                self._initialise()
                handles = self._amdsmi.amdsmi_get_processor_handles()
        except Exception as error:
            self._initialised = False
            raise UnavailableError(
                f"the AMD GPUs are not measured: amdsmi cannot list them ({_status(error)}). "
                "Check the driver with amd-smi list.",
                level=logging.WARNING if hardware_present(self._root) else logging.DEBUG,
            ) from error
        if not handles:
            self._lost = True
            raise UnavailableError(
                "the driver lists no AMD GPU.", level=logging.WARNING if self._seen else logging.DEBUG
            )
        return list(handles)

    def _initialise(self) -> None:
        self._amdsmi.amdsmi_init()
        self._gpus = {}
        self._initialised = True

    def _search_again(self) -> None:
        # Doubled each time: a GPU may have been taken away for good.
        self._search_again_at = self._clock() + self._retry
        self._retry = min(2 * self._retry, _LONGEST_RETRY)
        if used_by_others():
            return
        try:
            self._amdsmi.amdsmi_shut_down()
        except Exception as error:
            logger.debug("otel-aimon: amdsmi_shut_down failed (%s).", _status(error))
        self._initialised = False

    def _notice_lost(self, readings: tuple[DeviceReading, ...]) -> None:
        identities = {reading.device.id for reading in readings}
        failed = [reading.device.name for reading in readings if "failed" in reading.states]
        missing = self._seen - identities
        self._seen |= identities
        lost = bool(failed or missing)
        if lost and not self._lost:
            notices.say(
                "amd lost",
                logging.WARNING,
                "otel-aimon: the driver no longer answers for %s; its metrics are absent until it does. "
                "See dmesg, and amd-smi list.",
                ", ".join(str(name) for name in failed) or f"{len(missing)} AMD GPU(s)",
            )
        if not lost:
            notices.forget("amd lost")
            self._retry = RETRY_SECONDS
        self._lost = lost

    # -- Who it is -----------------------------------------------------------------------------

    def _drop_stale(self, handles: list[Any]) -> None:
        """Forget all when somebody has started ``amdsmi`` again: its handles are others then."""
        if not self._gpus.keys() <= {_key(index, handle) for index, handle in enumerate(handles)}:
            self._gpus = {}

    def _gpu(self, index: int, handle: Any) -> _Gpu | None:
        """The GPU behind a handle; None while it does not say which it is."""
        key = _key(index, handle)
        if key not in self._gpus:
            try:
                self._gpus[key] = self._identify(index, handle)
            except Exception as error:
                self._say([("amdsmi_get_gpu_device_uuid", _status(error))])
                return None
        return self._gpus[key]

    def _identify(self, index: int, handle: Any) -> _Gpu:
        uuid = self._identity(handle)
        twins = [gpu for gpu in self._gpus.values() if uuid in {gpu.device.id, gpu.device.parent}]
        name = f"gpu{self._number(uuid, index)}"
        identity, parent = uuid, None
        if twins:
            # The partitions of a GPU have its UUID. The first stands for the whole board.
            identity, parent = f"{uuid}/{len(twins)}", uuid
            name = f"{name}/partition{len(twins)}"
        asic = self._optional("amdsmi_get_gpu_asic_info", handle)
        hip = self._optional("amdsmi_get_gpu_enumeration_info", handle)
        hip_id = hip.get("hip_id")
        return _Gpu(
            device=Device(
                id=identity, vendor="AMD", name=name, model=_text(asic.get("market_name")), parent=parent
            ),
            hip_id=hip_id if isinstance(hip_id, int) else None,
            hip_uuid=_text(hip.get("hip_uuid")),
        )

    def _number(self, uuid: str, index: int) -> int:
        """The number in its name, which it keeps when a GPU before it is lost."""
        if uuid not in self._numbers:
            taken = self._numbers.values()
            self._numbers[uuid] = max(taken) + 1 if index in taken else index
        return self._numbers[uuid]

    def _identity(self, handle: Any) -> str:
        try:
            uuid = self._amdsmi.amdsmi_get_gpu_device_uuid(handle)
        except Exception as error:
            if _status(error) not in _NOT_SUPPORTED:
                raise
            uuid = None
        return _text(uuid) or str(self._amdsmi.amdsmi_get_gpu_device_bdf(handle))

    def _optional(self, function: str, handle: Any) -> dict[str, Any]:
        try:
            answer = getattr(self._amdsmi, function)(handle)
        except Exception as error:
            self._say([(function, _status(error))], logging.INFO)
            return {}
        return answer if isinstance(answer, dict) else {}

    # -- What it says --------------------------------------------------------------------------

    def _reading(self, gpu: _Gpu, handle: Any, device: Device, visible: bool) -> DeviceReading:
        fields: dict[str, Any] = {}
        failures: list[tuple[str, str]] = []
        answered = False
        for query in QUERIES:
            call = self._calls.get(query.name)
            if (
                call is None
                or query.name in gpu.unsupported
                or (query.of_board and device.parent is not None)
            ):
                continue
            try:
                answer = query.take(call(handle), gpu.memory)
            except Exception as error:
                failures += self._failure(gpu, query.name, error)
                continue
            answered = True
            gpu.answered.add(query.name)
            _merge(fields, answer)
        if not answered and failures and all(status in _GONE for _, status in failures):
            # What comes back may be able to do other things.
            gpu.unsupported.clear()
            gpu.memory = Memory()
            return DeviceReading(device=device, visible=visible, states=frozenset({"failed"}))
        self._say(failures)
        return DeviceReading(
            device=device, visible=visible, states=frozenset({"ok"} if answered else ()), **fields
        )

    @staticmethod
    def _failure(gpu: _Gpu, call: str, error: Exception) -> list[tuple[str, str]]:
        """The call and its status; nothing where this GPU just has no such thing."""
        status = _status(error)
        if status in _NOT_SUPPORTED and call not in gpu.answered:
            gpu.unsupported.add(call)
            logger.debug("otel-aimon: %s does not support %s.", gpu.device.name, call)
            return []
        return [(call, status)]

    def _say(self, failures: Sequence[tuple[str, str]], level: int = logging.WARNING) -> None:
        """One line for each status that is new for some call."""
        for status in dict.fromkeys(status for _, status in failures):
            new = [call for call, other in failures if other == status and (call, other) not in self._said]
            self._said.update((call, status) for call in new)
            if new:
                logger.log(
                    logging.DEBUG if status in _PASSING else level,
                    "otel-aimon cannot read %s of an AMD GPU (%s); what that measures is absent.%s",
                    ", ".join(new),
                    status,
                    _REMEDIES.get(status, ""),
                )


def _named(gpus: list[_Gpu]) -> list[tuple[Device, bool]]:
    """Each GPU with its ordinals, and whether this process may use it."""
    order = hip_order([gpu.hip_id for gpu in gpus], [gpu.hip_uuid for gpu in gpus], os.environ)
    if order is None:
        return [(gpu.device, True) for gpu in gpus]
    # PyTorch on ROCm keeps the names of CUDA.
    ordinals = {position: f"cuda:{ordinal}" for ordinal, position in enumerate(order)}
    return [
        (replace(gpu.device, ordinals=(ordinals[position],)), True)
        if position in ordinals
        else (gpu.device, False)
        for position, gpu in enumerate(gpus)
    ]


def _key(index: int, handle: Any) -> tuple[int, Any]:
    return index, getattr(handle, "value", None)


def _merge(fields: dict[str, Any], answer: dict[str, Any]) -> None:
    for name, value in answer.items():
        if isinstance(value, dict):
            fields.setdefault(name, {}).update(value)
        else:
            fields[name] = value


def _status(error: Exception) -> str:
    """The name of the status that ``amdsmi`` gave, or of the exception."""
    information = str(getattr(error, "err_info", ""))
    name = information.partition(" - ")[0].removeprefix("AMDSMI_STATUS_").removeprefix("AMD_SMI_")
    return name or type(error).__name__


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value not in {"", "N/A"} else None
