"""The tables that turn a snapshot into metric points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import Observation

from otel_aimon import semconv
from otel_aimon.semconv import Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_aimon.resources.snapshot import Device, DeviceReading, FrameworkMemory, Snapshot

    Point = tuple[Metric, float, dict[str, str]]

Scalar = tuple[Metric, str, dict[str, str]]
"""A metric, the field of the reading that it shows, and the attributes of the point."""

PROCESS: tuple[Scalar, ...] = (
    (semconv.PROCESS_CPU_TIME, "cpu_user", {semconv.CPU_MODE: "user"}),
    (semconv.PROCESS_CPU_TIME, "cpu_system", {semconv.CPU_MODE: "system"}),
    (semconv.PROCESS_CPU_UTILIZATION, "cpu_user_share", {semconv.CPU_MODE: "user"}),
    (semconv.PROCESS_CPU_UTILIZATION, "cpu_system_share", {semconv.CPU_MODE: "system"}),
    (semconv.PROCESS_MEMORY_USAGE, "memory_resident", {}),
    (semconv.PROCESS_MEMORY_VIRTUAL, "memory_virtual", {}),
    (semconv.PROCESS_MEMORY_UNIQUE, "memory_unique", {}),
    (semconv.PROCESS_THREAD_COUNT, "threads", {}),
    (semconv.PROCESS_FILE_DESCRIPTOR_COUNT, "file_descriptors", {}),
    (semconv.PROCESS_CONTEXT_SWITCHES, "switches_voluntary", {semconv.CONTEXT_SWITCH_TYPE: "voluntary"}),
    (semconv.PROCESS_CONTEXT_SWITCHES, "switches_involuntary", {semconv.CONTEXT_SWITCH_TYPE: "involuntary"}),
    (semconv.PROCESS_PAGING_FAULTS, "faults_minor", {semconv.PAGING_FAULT_TYPE: "minor"}),
    (semconv.PROCESS_PAGING_FAULTS, "faults_major", {semconv.PAGING_FAULT_TYPE: "major"}),
    (semconv.PROCESS_DISK_IO, "disk_read", {semconv.DISK_IO_DIRECTION: "read"}),
    (semconv.PROCESS_DISK_IO, "disk_written", {semconv.DISK_IO_DIRECTION: "write"}),
    (semconv.PROCESS_EVENT_LOOP_LAG, "loop_lag", {}),
)

CONTAINER: tuple[Scalar, ...] = (
    (semconv.CPU_LIMIT, "cpu_limit", {}),
    (semconv.CPU_THROTTLED, "throttled_time", {}),
    (semconv.CPU_THROTTLED_RATIO, "throttled_share", {}),
    (semconv.MEMORY_LIMIT, "memory_limit", {}),
    (semconv.MEMORY_OOM_KILLS, "out_of_memory_kills", {}),
    (semconv.CONTAINER_CPU_TIME, "cpu_time", {}),
    (semconv.CONTAINER_MEMORY_USAGE, "memory_used", {}),
    (semconv.CONTAINER_MEMORY_WORKING_SET, "memory_working_set", {}),
)

HOST: tuple[Scalar, ...] = (
    (semconv.SYSTEM_CPU_LOGICAL_COUNT, "cpus", {}),
    (semconv.SYSTEM_MEMORY_USAGE, "memory_used", {semconv.MEMORY_STATE: "used"}),
    (semconv.SYSTEM_MEMORY_USAGE, "memory_free", {semconv.MEMORY_STATE: "free"}),
    (semconv.SYSTEM_MEMORY_LIMIT, "memory_limit", {}),
    (semconv.SYSTEM_PAGING_USAGE, "swap_used", {semconv.PAGING_STATE: "used"}),
    (semconv.SYSTEM_PAGING_USAGE, "swap_free", {semconv.PAGING_STATE: "free"}),
    (semconv.SYSTEM_DISK_IO, "disk_read", {semconv.DISK_IO_DIRECTION: "read"}),
    (semconv.SYSTEM_DISK_IO, "disk_written", {semconv.DISK_IO_DIRECTION: "write"}),
    (semconv.SYSTEM_NETWORK_IO, "network_received", {semconv.NETWORK_IO_DIRECTION: "receive"}),
    (semconv.SYSTEM_NETWORK_IO, "network_sent", {semconv.NETWORK_IO_DIRECTION: "transmit"}),
)

DEVICE: tuple[Scalar, ...] = (
    (semconv.GPU_MEMORY_USAGE, "memory_used", {}),
    (semconv.GPU_MEMORY_LIMIT, "memory_limit", {}),
    (semconv.GPU_MEMORY_UTILIZATION, "memory_share", {}),
    (semconv.HW_ENERGY, "energy", {}),
    (semconv.HW_POWER, "power", {}),
    (semconv.GPU_POWER_LIMIT, "power_limit", {}),
    (semconv.GPU_PCIE_IO, "pcie_received", {semconv.NETWORK_IO_DIRECTION: "receive"}),
    (semconv.GPU_PCIE_IO, "pcie_sent", {semconv.NETWORK_IO_DIRECTION: "transmit"}),
    (semconv.GPU_LINK_IO, "link_received", {semconv.NETWORK_IO_DIRECTION: "receive"}),
    (semconv.GPU_LINK_IO, "link_sent", {semconv.NETWORK_IO_DIRECTION: "transmit"}),
    (semconv.GPU_PROCESSES, "processes", {}),
)

DEVICE_OF_PROCESS: tuple[Scalar, ...] = (
    (semconv.GPU_PROCESS_MEMORY, "process_memory", {}),
    (semconv.GPU_PROCESS_UTILIZATION, "process_utilization", {}),
)

Mapped = tuple[Metric, str, str]
"""A metric, the field of the reading that holds its values by name, and the attribute that the name becomes."""

HOST_MAPPED: tuple[Mapped, ...] = (
    (semconv.SYSTEM_CPU_TIME, "cpu_times", semconv.CPU_MODE),
    (semconv.SYSTEM_CPU_UTILIZATION, "cpu_shares", semconv.CPU_MODE),
)

DEVICE_MAPPED: tuple[Mapped, ...] = (
    (semconv.GPU_UTILIZATION, "utilization", semconv.HW_GPU_TASK),
    (semconv.HW_TEMPERATURE, "temperatures", semconv.HW_SENSOR_LOCATION),
    (semconv.HW_ERRORS, "errors", semconv.ERROR_TYPE),
    (semconv.GPU_ACTIVITY, "activity", semconv.AIMON_GPU_UNIT),
    (semconv.GPU_CLOCK, "clocks", semconv.AIMON_GPU_CLOCK),
    (semconv.GPU_CLOCK_LIMIT, "clock_limits", semconv.AIMON_GPU_CLOCK),
)

STATES = ("ok", "degraded", "failed")
"""Of ``hw.status``: each has a point, 1 or 0."""

THROTTLE_REASONS = ("sw_power_cap", "hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake")
"""Each has a point, 1 or 0; other reasons have one while they hold."""

PROCESS_METRICS = tuple(dict.fromkeys(metric for metric, _, _ in PROCESS))
CONTAINER_METRICS = (
    *dict.fromkeys(metric for metric, _, _ in CONTAINER),
    semconv.PRESSURE,
    semconv.CPU_UTILIZATION,
    semconv.MEMORY_UTILIZATION,
)
HOST_METRICS = tuple(dict.fromkeys(row[0] for row in (*HOST, *HOST_MAPPED)))
DEVICE_METRICS = (
    *dict.fromkeys(row[0] for row in (*DEVICE, *DEVICE_OF_PROCESS, *DEVICE_MAPPED)),
    semconv.HW_STATUS,
    semconv.GPU_THROTTLED,
    semconv.FRAMEWORK_MEMORY,
)


def observations(snapshot: Snapshot, speaks_for: Callable[[str], bool]) -> dict[str, list[Observation]]:
    """Points by metric name.

    Args:
        snapshot: What was read.
        speaks_for: Whether this process is the one that exports what several processes see alike:
            ``host``, ``container``, or the ``hw.id`` of a device.
    """
    found: dict[str, list[Observation]] = {}
    for metric, value, attributes in _points(snapshot, speaks_for):
        found.setdefault(metric.name, []).append(Observation(value, attributes))
    return found


def _points(snapshot: Snapshot, speaks_for: Callable[[str], bool]) -> Iterator[Point]:
    if snapshot.process is not None:
        yield from _scalars(PROCESS, snapshot.process)
    for memory in snapshot.frameworks:
        yield from _framework(memory)
    if speaks_for("container"):
        yield from _container(snapshot)
    if snapshot.host is not None and speaks_for("host"):
        yield from _scalars(HOST, snapshot.host)
        yield from _mapped(HOST_MAPPED, snapshot.host)
    for reading in snapshot.devices:
        if not reading.visible:
            continue
        yield from _identified(reading.device, _scalars(DEVICE_OF_PROCESS, reading))
        if speaks_for(reading.device.id):
            yield from _identified(reading.device, _device(reading))


def _scalars(rows: tuple[Scalar, ...], reading: Any) -> Iterator[Point]:
    for metric, name, attributes in rows:
        value = getattr(reading, name)
        if value is not None:
            yield metric, value, attributes


def _mapped(rows: tuple[Mapped, ...], reading: Any) -> Iterator[Point]:
    for metric, name, key in rows:
        for each, value in getattr(reading, name).items():
            yield metric, value, {key: each}


def _container(snapshot: Snapshot) -> Iterator[Point]:
    for metric, share in (
        (semconv.CPU_UTILIZATION, snapshot.cpu_share),
        (semconv.MEMORY_UTILIZATION, snapshot.memory_share),
    ):
        if share is not None:
            yield metric, share, {}
    if snapshot.container is None:
        return
    yield from _scalars(CONTAINER, snapshot.container)
    for (resource, kind), share in snapshot.container.pressure.items():
        yield semconv.PRESSURE, share, {semconv.AIMON_RESOURCE: resource, semconv.AIMON_PRESSURE_KIND: kind}


def _device(reading: DeviceReading) -> Iterator[Point]:
    yield from _scalars(DEVICE, reading)
    yield from _mapped(DEVICE_MAPPED, reading)
    if reading.states:
        for state in STATES:
            yield semconv.HW_STATUS, int(state in reading.states), {semconv.HW_STATE: state}
    if reading.throttle_reasons is not None:
        for reason in dict.fromkeys((*THROTTLE_REASONS, *sorted(reading.throttle_reasons))):
            yield (
                semconv.GPU_THROTTLED,
                int(reason in reading.throttle_reasons),
                {semconv.AIMON_GPU_THROTTLE_REASON: reason},
            )


def _identified(device: Device, points: Iterator[Point]) -> Iterator[Point]:
    identity = {
        semconv.HW_ID: device.id,
        semconv.HW_NAME: device.name,
        semconv.HW_TYPE: device.kind,
        semconv.HW_MODEL: device.model,
        semconv.HW_VENDOR: device.vendor,
        semconv.HW_PARENT: device.parent,
    }
    for metric, value, attributes in points:
        known = {key: identity[key] for key in metric.attributes if identity.get(key) is not None}
        yield metric, value, {**known, **attributes}  # type: ignore[dict-item]


def _framework(memory: FrameworkMemory) -> Iterator[Point]:
    for kind in ("allocated", "reserved"):
        value = getattr(memory, kind)
        if value is not None:
            yield (
                semconv.FRAMEWORK_MEMORY,
                value,
                {
                    semconv.AIMON_FRAMEWORK: memory.framework,
                    semconv.AIMON_DEVICE: memory.device,
                    semconv.AIMON_MEMORY_KIND: kind,
                },
            )
