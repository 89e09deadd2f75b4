"""Devices and limits: a real sampling by the sources that the product samples with."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_aimon.cli.doctor.findings import Part, Seen
from otel_aimon.cli.doctor.sampling import SourceState, sample
from otel_aimon.cli.doctor.settings import resolved
from otel_aimon.cli.text import cut, quantity, table, wrapped_table
from otel_aimon.resources import points
from otel_aimon.resources.leader import DIRECTORY

if TYPE_CHECKING:
    from otel_aimon.resources.snapshot import DeviceReading

_CHOICES = (
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
)
"""Variables that decide which GPUs a process may use."""

_DRIVERS = (("NVIDIA", "proc/driver/nvidia/gpus"), ("AMD", "sys/class/kfd/kfd/topology/nodes"))
"""Folders that exist where a driver runs, even in a container that may not use it."""


@dataclass(frozen=True)
class Device:
    """An accelerator, or a CPU package that counts its energy.

    Attributes:
        id: ``hw.id``.
        kind: ``hw.type``.
        vendor: ``hw.vendor``.
        name: ``hw.name``.
        model: ``hw.model``.
        ordinals: What the frameworks of a process with these variables call it.
        visible: Whether such a process may use it.
        values: What was read, without what is not known.
    """

    id: str
    kind: str
    vendor: str
    name: str | None
    model: str | None
    ordinals: tuple[str, ...]
    visible: bool
    values: dict[str, Any]


@dataclass(frozen=True)
class Resources:
    """What was sampled; fields as in :mod:`otel_aimon.resources.snapshot`, without those that are not known.

    Attributes:
        process: This command's own process.
        host: The machine.
        container: Its control groups.
        cpu_utilization: ``aimon.cpu.utilization``.
        memory_utilization: ``aimon.memory.utilization``.
        devices: Accelerators and CPU packages.
        sources: Who was asked.
        choices: Variables that decide which GPUs may be used, as they are set.
        drivers: Vendors whose driver runs on this machine.
        lock_directory: Where processes elect who exports what all of them see.
        lock_directory_usable: Whether this user may do so there.
        observed: Names of the metrics that had a point.
    """

    process: dict[str, Any]
    host: dict[str, Any]
    container: dict[str, Any]
    cpu_utilization: float | None
    memory_utilization: float | None
    devices: tuple[Device, ...]
    sources: tuple[SourceState, ...]
    choices: dict[str, str]
    drivers: tuple[str, ...]
    lock_directory: str
    lock_directory_usable: bool
    observed: tuple[str, ...]


def look(seen: Seen) -> Resources:
    """Sample twice, with all sources, and give everything back."""
    settings = resolved(seen)
    snapshot, sources = sample(settings)
    directory = Path(settings.lock_directory) if settings.lock_directory else DIRECTORY
    return Resources(
        process=_known(snapshot.process),
        host=_known(snapshot.host),
        container=_known(snapshot.container),
        cpu_utilization=snapshot.cpu_share,
        memory_utilization=snapshot.memory_share,
        devices=tuple(_device(reading) for reading in snapshot.devices),
        sources=sources,
        choices={name: seen.environ[name] for name in _CHOICES if name in seen.environ},
        drivers=tuple(vendor for vendor, folder in _DRIVERS if _has_entries(Path("/") / folder)),
        lock_directory=str(directory),
        lock_directory_usable=_may_lock_in(directory),
        # This command takes no part in elections: a service that starts now must not lose one to it.
        observed=tuple(sorted(points.observations(snapshot, lambda _subject: True))),
    )


def _known(reading: Any) -> dict[str, Any]:
    """The fields of a reading that have a value, as plain data."""
    if reading is None:
        return {}
    return {name: _plain(value) for name, value in asdict(reading).items() if value not in (None, {})}


def _plain(value: Any) -> Any:
    if isinstance(value, (frozenset, set)):
        return sorted(value)
    if isinstance(value, dict):
        return {" ".join(key) if isinstance(key, tuple) else key: each for key, each in value.items()}
    return value


def _device(reading: DeviceReading) -> Device:
    device = reading.device
    values = _known(reading)
    for name in ("device", "visible"):
        values.pop(name, None)
    return Device(
        device.id,
        device.kind,
        device.vendor,
        device.name,
        device.model,
        device.ordinals,
        reading.visible,
        values,
    )


def _has_entries(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False


def _may_lock_in(directory: Path) -> bool:
    """Whether this user could make a lock file there, or the directory itself; nothing is made."""
    there = next((each for each in (directory, *directory.parents) if each.exists()), None)
    if directory.is_symlink():
        return False
    return there is not None and there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def tell(found: Resources) -> list[str]:
    """Limits, devices, and who was asked."""
    lines = [
        *_measured("this command", _PROCESS, found.process),
        *_measured("host", _HOST, found.host),
        *_measured("container", _CONTAINER, found.container),
        *_measured(
            "used / available",
            (("CPU", "cpu", "1"), ("memory", "memory", "1")),
            {"cpu": found.cpu_utilization, "memory": found.memory_utilization},
        ),
    ]
    lines += [f"{name}={value}" for name, value in found.choices.items()]
    rows: list[tuple[str, ...]] = [
        ("device", "model", "as", "memory", "busy", "power", "temperature", "visible")
    ]
    rows += [_device_row(device) for device in found.devices]
    lines += ["", *(table(rows, numbers_from=3, numbers_to=7) if found.devices else ["no devices"]), ""]
    states = [("source", "state", "why")]
    states += [(each.name, _STATES[each.available], each.why or "") for each in found.sources]
    return [*lines, *wrapped_table(states)]


_STATES = {True: "available", False: "nothing to read", None: "not asked"}
_Shown = tuple[tuple[str, str, str], ...]
"""What to call a value, the field that holds it, and its unit."""

_PROCESS: _Shown = (
    ("memory", "memory_resident", "By"),
    ("threads", "threads", ""),
    ("files", "file_descriptors", ""),
)
_HOST: _Shown = (
    ("CPUs", "cpus", ""),
    ("available CPUs busy", "available_cpu_share", "1"),
    ("memory", "memory_limit", "By"),
    ("used", "memory_used", "By"),
    ("swap used", "swap_used", "By"),
)
_CONTAINER: _Shown = (
    ("CPU limit", "cpu_limit", ""),
    ("busy", "cpu_share", "1"),
    ("throttled", "throttled_share", "1"),
    ("memory limit", "memory_limit", "By"),
    ("used", "memory_used", "By"),
    ("OOM kills", "out_of_memory_kills", ""),
)


def _measured(what: str, shown: _Shown, values: dict[str, Any]) -> list[str]:
    texts = [
        f"{label} {_value(values[key], unit)}" for label, key, unit in shown if values.get(key) is not None
    ]
    return [f"{what:<16}  {', '.join(texts) or 'nothing is known'}"]


def _value(value: float, unit: str) -> str:
    return f"{value:.0%}" if unit == "1" else quantity(value, unit)


def _device_row(device: Device) -> tuple[str, ...]:
    values = device.values
    used, limit = values.get("memory_used"), values.get("memory_limit")
    busy = values.get("utilization", {}).get("general")
    power = values.get("power")
    temperature = max(values.get("temperatures", {}).values(), default=None)
    return (
        device.name or device.id,
        cut(device.model or device.vendor, 32),
        ", ".join(device.ordinals) or "-",
        "-" if limit is None else f"{quantity(used, 'By')} of {quantity(limit, 'By')}",
        "-" if busy is None else f"{busy:.0%}",
        "-" if power is None else f"{power:.0f} W",
        "-" if temperature is None else f"{temperature:.0f} C",
        "yes" if device.visible else "no",
    )


PART = Part("resources", "Devices and limits", look, tell)
