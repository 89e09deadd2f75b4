"""Intel GPUs, through ``pyzes``: Intel's binding of Level Zero's system management (Sysman).

``pyzes`` is a thin layer of ctypes: every function returns a status and fills a structure. What is
counted is turned into shares and watts by the difference to the last reading.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import sys
import uuid
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_aimon.resources.snapshot import Device, DeviceReading
from otel_aimon.resources.source import UnavailableError, notices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

logger = logging.getLogger("otel_aimon")

_DRIVERS = ("sys/bus/pci/drivers/xe", "sys/bus/pci/drivers/i915")
_ON_DEVICE = 1
_GPU_DOMAIN = 0
_MEMORY_DOMAIN = 1
_MICRO = 1_000_000

_SENSORS = {0: "hotspot", 1: "core", 2: "memory"}
_DOMAINS = {_GPU_DOMAIN: "sm", _MEMORY_DOMAIN: "memory"}
_THROTTLE_REASONS = (
    (0x003, "sw_power_cap"),
    (0x108, "hw_thermal"),
    (0x010, "hw_power_brake"),
    (0x284, "hw_slowdown"),
)
"""Bits of ``throttleReasons``. That a range of clocks is set (0x060) is no throttling."""

_UNSUPPORTED = "ERROR_UNSUPPORTED_FEATURE"
_LOST = frozenset({"ERROR_DEVICE_LOST", "ERROR_UNKNOWN", "ERROR_NOT_AVAILABLE", "ERROR_INVALID_NULL_HANDLE"})


class _ZesError(Exception):
    """A function returned something else than success; the argument is the name of the status."""


@dataclass(slots=True)
class _Gpu:
    """One device.

    Attributes:
        device: What identifies it.
        answered: Parts that had an answer.
        unsupported: Parts that never will.
        before: Counters of the last reading, with their time, by part.
    """

    device: Device
    answered: set[str] = field(default_factory=set)
    unsupported: set[str] = field(default_factory=set)
    before: dict[str, tuple[int, int]] = field(default_factory=dict)

    def rate(self, part: str, count: int, timestamp: int) -> float | None:
        """Growth of a counter / growth of its time since the last reading."""
        last = self.before.get(part)
        self.before[part] = (count, timestamp)
        if last is None or timestamp <= last[1] or count < last[0]:
            return None
        return (count - last[0]) / (timestamp - last[1])


class IntelSource:
    """Reads all Intel GPUs that the driver shows to this process.

    Args:
        root: Of the file system in which the driver is looked for.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._zes: Any = None
        self._said: set[tuple[str, str]] = set()
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Find the GPUs anew."""
        self._initialised = False
        self._gpus: dict[str, _Gpu] = {}
        self._lost = False

    def close(self) -> None:
        """Nothing is held that could be given back: Sysman has no end."""

    def read(self) -> tuple[DeviceReading, ...]:
        """All GPUs now.

        Raises:
            UnavailableError: When there are none.
        """
        if self._zes is None:
            self._zes = _load(self._root)
        try:
            if not self._initialised:
                self._check(self._zes.zesInit(0))
                self._initialised = True
            drivers = self._list(self._zes.zesDriverGet, self._zes.zes_driver_handle_t)
            handles = [
                device
                for driver in drivers
                for device in self._list(self._zes.zesDeviceGet, self._zes.zes_device_handle_t, driver)
            ]
            found = [self._identify(index, handle) for index, handle in enumerate(handles)]
        except _ZesError as error:
            self._initialised = False
            raise UnavailableError(
                f"the Intel GPUs are not measured: Level Zero cannot list them ({error}). On Arc A and older GPUs that "
                "is so when the framework was started first."
            ) from error
        readings = tuple(
            self._reading(gpu, handle) for gpu, handle in zip(found, handles, strict=True) if gpu is not None
        )
        if not readings:
            raise UnavailableError("the driver lists no Intel GPU.", level=logging.DEBUG)
        self._notice_lost(readings)
        return readings

    # -- Calls ---------------------------------------------------------------------------------

    def _check(self, status: int) -> None:
        if status != 0:
            raise _ZesError(self._name(status))

    def _name(self, status: int) -> str:
        names = (name for name, value in vars(self._zes).items() if value == status)
        return next((name[10:] for name in names if name.startswith("ZE_RESULT_")), hex(status))

    def _list(self, function: Callable[..., int], handle: Any, *parent: Any) -> list[Any]:
        count = ctypes.c_uint32(0)
        self._check(function(*parent, ctypes.byref(count), None))
        handles = (handle * count.value)()
        if count.value:
            self._check(function(*parent, ctypes.byref(count), handles))
        return list(handles)[: count.value]

    def _fill(
        self, function: Callable[..., int], structure: str, handle: Any, kind: str | None = None
    ) -> Any:
        filled = getattr(self._zes, f"zes_{structure}_t")()
        if kind is not None:
            filled.stype = getattr(self._zes, f"ZES_STRUCTURE_TYPE_{kind}")
        self._check(function(handle, ctypes.byref(filled)))
        return filled

    # -- Devices -------------------------------------------------------------------------------

    def _identify(self, index: int, handle: Any) -> _Gpu | None:
        properties = self._fill(
            self._zes.zesDeviceGetProperties, "device_properties", handle, "DEVICE_PROPERTIES"
        )
        if properties.core.type != self._zes.ZES_DEVICE_TYPE_GPU:
            return None
        identity = str(uuid.UUID(bytes=bytes(properties.core.uuid.id)))
        if identity not in self._gpus:
            model = properties.modelName or properties.core.name
            self._gpus[identity] = _Gpu(
                Device(
                    id=identity,
                    vendor="Intel",
                    name=f"gpu{index}",
                    model=model.decode("utf-8", "replace") or None,
                )
            )
        return self._gpus[identity]

    def _reading(self, gpu: _Gpu, handle: Any) -> DeviceReading:
        parts: dict[str, Callable[[_Gpu, Any], dict[str, Any]]] = {
            "engines": self._engines,
            "memory": self._memory,
            "power": self._power,
            "clocks": self._clocks,
            "temperatures": self._temperatures,
        }
        fields: dict[str, Any] = {}
        failures: dict[str, str] = {}
        for part, read in parts.items():
            if part in gpu.unsupported:
                continue
            try:
                fields |= read(gpu, handle)
                gpu.answered.add(part)
            except Exception as error:
                status = str(error) if isinstance(error, _ZesError) else type(error).__name__
                if status == _UNSUPPORTED and part not in gpu.answered:
                    gpu.unsupported.add(part)
                else:
                    failures[part] = status
        if failures and not fields and all(status in _LOST for status in failures.values()):
            gpu.before.clear()
            return DeviceReading(device=gpu.device, states=frozenset({"failed"}))
        self._say(failures)
        return DeviceReading(device=gpu.device, states=frozenset({"ok"} if fields else ()), **fields)

    def _engines(self, gpu: _Gpu, handle: Any) -> dict[str, Any]:
        """How long the busiest group of engines was busy, which is as long as something ran, or less."""
        zes = self._zes
        of_tile: dict[int | None, list[float | None]] = {}
        engines = self._list(zes.zesDeviceEnumEngineGroups, zes.zes_engine_handle_t, handle)
        for index, engine in enumerate(engines):
            properties = self._fill(
                zes.zesEngineGetProperties, "engine_properties", engine, "ENGINE_PROPERTIES"
            )
            stats = self._fill(zes.zesEngineGetActivity, "engine_stats", engine)
            tile = properties.subdeviceId if properties.onSubdevice else None
            share = gpu.rate(f"engine {index}", stats.activeTime, stats.timestamp)
            of_tile.setdefault(tile, []).append(share)
        busiest = {tile: max(map(_or_zero, shares)) for tile, shares in of_tile.items() if None not in shares}
        if not busiest or busiest.keys() != of_tile.keys():
            return {}
        tiles = [share for tile, share in busiest.items() if tile is not None]
        share = max(busiest.get(None, 0.0), sum(tiles) / len(tiles) if tiles else 0.0)
        return {"utilization": {"general": min(1.0, share)}}

    def _memory(self, _gpu: _Gpu, handle: Any) -> dict[str, Any]:
        zes = self._zes
        size = free = 0
        for module in self._list(zes.zesDeviceEnumMemoryModules, zes.zes_mem_handle_t, handle):
            properties = self._fill(zes.zesMemoryGetProperties, "mem_properties", module, "MEM_PROPERTIES")
            if properties.location == _ON_DEVICE:
                state = self._fill(zes.zesMemoryGetState, "mem_state", module, "MEM_STATE")
                size += state.size
                free += state.free
        return {"memory_limit": size, "memory_used": size - free} if 0 < size >= free else {}

    def _power(self, gpu: _Gpu, handle: Any) -> dict[str, Any]:
        zes = self._zes
        domains = [
            (domain, self._fill(zes.zesPowerGetProperties, "power_properties", domain, "POWER_PROPERTIES"))
            for domain in self._list(zes.zesDeviceEnumPowerDomains, zes.zes_pwr_handle_t, handle)
        ]
        whole = [domain for domain, properties in domains if not properties.onSubdevice]
        if not whole:
            return {}
        # The first is the card, or the package where the card is not measured.
        counter = self._fill(zes.zesPowerGetEnergyCounter, "power_energy_counter", whole[0])
        if not counter.energy:
            return {}
        watts = gpu.rate("energy", counter.energy, counter.timestamp)
        return {"energy": counter.energy / _MICRO} | ({} if watts is None else {"power": watts})

    def _clocks(self, _gpu: _Gpu, handle: Any) -> dict[str, Any]:
        zes = self._zes
        clocks: dict[str, float] = {}
        limits: dict[str, float] = {}
        fields: dict[str, Any] = {"clocks": clocks, "clock_limits": limits}
        by_domain: dict[int, list[Any]] = {}
        for domain in self._list(zes.zesDeviceEnumFrequencyDomains, zes.zes_freq_handle_t, handle):
            properties = self._fill(
                zes.zesFrequencyGetProperties, "freq_properties", domain, "FREQ_PROPERTIES"
            )
            by_domain.setdefault(properties.type, []).append((domain, properties))
        reasons = 0
        for kind, members in by_domain.items():
            name = _DOMAINS.get(kind)
            if name is None:
                continue
            states = [
                self._fill(zes.zesFrequencyGetState, "freq_state", each, "FREQ_STATE") for each, _ in members
            ]
            # The tiles of a GPU have clocks of their own: the slowest holds the others up.
            if all(state.actual >= 0 for state in states):
                clocks[name] = min(state.actual for state in states) * _MICRO
            if all(properties.max > 0 for _, properties in members):
                limits[name] = min(properties.max for _, properties in members) * _MICRO
            if kind == _GPU_DOMAIN:
                for state in states:
                    reasons |= state.throttleReasons
                fields["throttle_reasons"] = frozenset(
                    reason for bits, reason in _THROTTLE_REASONS if reasons & bits
                )
        return fields

    def _temperatures(self, _gpu: _Gpu, handle: Any) -> dict[str, Any]:
        zes = self._zes
        hottest: dict[str, float] = {}
        for sensor in self._list(zes.zesDeviceEnumTemperatureSensors, zes.zes_temp_handle_t, handle):
            properties = self._fill(
                zes.zesTemperatureGetProperties, "temp_properties", sensor, "TEMP_PROPERTIES"
            )
            name = _SENSORS.get(properties.type)
            if name is not None:
                celsius = ctypes.c_double()
                self._check(zes.zesTemperatureGetState(sensor, ctypes.byref(celsius)))
                hottest[name] = max(celsius.value, hottest.get(name, celsius.value))
        return {"temperatures": hottest} if hottest else {}

    # -- Notices -------------------------------------------------------------------------------

    def _say(self, failures: dict[str, str]) -> None:
        for status in dict.fromkeys(failures.values()):
            new = [
                part
                for part, other in failures.items()
                if other == status and (part, other) not in self._said
            ]
            self._said.update((part, status) for part in new)
            if new:
                logger.warning(
                    "otel-aimon cannot read the %s of an Intel GPU (%s); what that measures is absent.%s",
                    ", ".join(new),
                    status,
                    " It needs root or CAP_PERFMON." if "PERMISSION" in status else "",
                )

    def _notice_lost(self, readings: Iterable[DeviceReading]) -> None:
        failed = [str(reading.device.name) for reading in readings if "failed" in reading.states]
        if failed and not self._lost:
            notices.say(
                "intel lost",
                logging.WARNING,
                "otel-aimon: the driver no longer answers for %s; its metrics are absent until it does. See dmesg.",
                ", ".join(failed),
            )
        if not failed:
            notices.forget("intel lost")
        self._lost = bool(failed)


def _or_zero(value: float | None) -> float:
    return value or 0.0


def _load(root: Path) -> Any:
    if "pyzes" not in sys.modules:
        if not any((root / driver).exists() for driver in _DRIVERS):
            raise UnavailableError("there is no Intel GPU here.", level=logging.DEBUG)
        # Nearly every desktop has an Intel GPU that runs no model: no reason to tell.
        if find_spec("pyzes") is None:
            raise UnavailableError(
                "the driver of an Intel GPU is loaded, but pyzes is not installed, so its metrics are absent: "
                "pip install otel-aimon[gpu-intel].",
                level=logging.DEBUG,
            )
    try:
        return importlib.import_module("pyzes")
    except Exception as error:
        raise UnavailableError(
            f"the Intel GPUs are not measured: pyzes cannot be imported ({type(error).__name__}: {error}). Install "
            "the Level Zero loader (package libze1).",
        ) from error
