"""What one sampling saw: the same for the metrics, the alerts and the hints.

A value that could not be read is None, never zero. Counters are totals since the process, the
device or the host started counting, as their source gives them; shares are between 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReading:
    """This process.

    Attributes:
        cpu_user: CPU seconds in user mode.
        cpu_system: CPU seconds in the kernel.
        cpu_user_share: User time since the last sampling / (elapsed time * CPUs available to the process).
        cpu_system_share: The same for the kernel.
        cores_busy: CPU time since the last sampling / elapsed time: 1 is one core, all of it.
        memory_resident: Bytes in RAM (RSS).
        memory_virtual: Bytes of address space.
        memory_unique: Bytes that would be freed if the process ended (USS); only where it is asked for.
        threads: Threads, ours included.
        file_descriptors: Open file descriptors.
        switches_voluntary: Times that a thread gave up its CPU, to wait.
        switches_involuntary: Times that a thread lost its CPU to another.
        faults_minor: Page faults that needed no disk.
        faults_major: Page faults that read from a disk.
        disk_read: Bytes read from storage.
        disk_written: Bytes written to storage.
        loop_lag: Longest delay of the event loop since the last sampling, in seconds.
    """

    cpu_user: float | None = None
    cpu_system: float | None = None
    cpu_user_share: float | None = None
    cpu_system_share: float | None = None
    cores_busy: float | None = None
    memory_resident: int | None = None
    memory_virtual: int | None = None
    memory_unique: int | None = None
    threads: int | None = None
    file_descriptors: int | None = None
    switches_voluntary: int | None = None
    switches_involuntary: int | None = None
    faults_minor: int | None = None
    faults_major: int | None = None
    disk_read: int | None = None
    disk_written: int | None = None
    loop_lag: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReading:
    """The machine that this process sees.

    Attributes:
        cpus: Logical CPUs.
        cpu_times: CPU seconds by mode (``user``, ``system``, ``idle``, ...), all CPUs together.
        cpu_shares: Share of all CPUs' time by mode since the last sampling.
        available_cpu_share: Share of the time since the last sampling in which the CPUs that this process
            may run on were busy, with whatever.
        memory_limit: Bytes of RAM.
        memory_used: Bytes that are not available to new work.
        memory_free: Bytes that are available without swapping.
        swap_used: Bytes of swap in use.
        swap_limit: Bytes of swap.
        disk_read: Bytes, all disks together.
        disk_written: Bytes, all disks together.
        network_received: Bytes, all interfaces but the loopback.
        network_sent: Bytes, all interfaces but the loopback.
    """

    cpus: int | None = None
    cpu_times: Mapping[str, float] = field(default_factory=dict)
    cpu_shares: Mapping[str, float] = field(default_factory=dict)
    available_cpu_share: float | None = None
    memory_limit: int | None = None
    memory_used: int | None = None
    memory_free: int | None = None
    swap_used: int | None = None
    swap_limit: int | None = None
    disk_read: int | None = None
    disk_written: int | None = None
    network_received: int | None = None
    network_sent: int | None = None

    @property
    def swap_free(self) -> int | None:
        """Bytes of swap that are not in use."""
        if self.swap_limit is None or self.swap_used is None:
            return None
        return self.swap_limit - self.swap_used


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerReading:
    """The control groups of this process: its own and all above it, the tightest limit of each kind.

    Attributes:
        cpu_limit: CPUs that the tightest quota allows; None where there is no quota.
        cpu_time: CPU seconds of the group that has the tightest quota (or of the process's own group).
        cpu_share: That CPU time since the last sampling / (elapsed time * cpu_limit).
        throttled_time: Seconds for which threads of the group waited for the next period of its quota.
        throttled_periods: Periods of the quota in which the group was throttled.
        periods: Periods of the quota in which the group wanted to run.
        throttled_share: Throttled periods / periods since the last sampling.
        memory_limit: Bytes that the tightest limit allows; None where there is no limit.
        memory_used: Bytes in use in the group that has the tightest limit, as its limit counts them.
        memory_working_set: The same without the page cache that can be dropped.
        out_of_memory_kills: Processes of the group that the kernel killed for memory.
        pressure: Share of the last 10 s in which work waited, by resource (``cpu``, ``memory``, ``io``) and
            kind (``some``, ``full``): PSI.
    """

    cpu_limit: float | None = None
    cpu_time: float | None = None
    cpu_share: float | None = None
    throttled_time: float | None = None
    throttled_periods: int | None = None
    periods: int | None = None
    throttled_share: float | None = None
    memory_limit: int | None = None
    memory_used: int | None = None
    memory_working_set: int | None = None
    out_of_memory_kills: int | None = None
    pressure: Mapping[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What identifies an accelerator, or a part of one that has its own identity (a MIG instance).

    Attributes:
        id: ``hw.id``: the vendor's UUID.
        vendor: ``hw.vendor``: ``NVIDIA`` or ``AMD``; ``Intel`` for the CPU packages of RAPL too, as they say.
        kind: ``hw.type``: ``gpu``, or ``cpu`` and ``memory`` where RAPL counts their energy.
        name: ``hw.name``: short and unique on the host, such as ``gpu0`` or ``gpu0/mig1``.
        model: ``hw.model``: the product's name.
        parent: ``hw.parent``: the UUID of the GPU whose part this is.
        ordinals: Under which names the frameworks of this process know it, such as ``cuda:0``.
    """

    id: str
    vendor: str
    kind: str = "gpu"
    name: str | None = None
    model: str | None = None
    parent: str | None = None
    ordinals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """One accelerator.

    Attributes:
        device: Which.
        visible: Whether this process may use it (``CUDA_VISIBLE_DEVICES`` and its like).
        utilization: Share of the time in which something ran on it, by task: ``general``, ``encoder``,
            ``decoder``.
        memory_limit: Bytes that it has.
        memory_used: Bytes in use, by whomever.
        energy: Joules since the driver was loaded.
        power: Watts.
        power_limit: Watts that it is allowed.
        temperatures: Degrees Celsius by sensor: ``core``, ``memory``, ``hotspot``.
        errors: Errors by ``error.type``, such as ``corrected``, ``uncorrected``, ``xid``.
        last_fault: Vendor's code of the last fault that was seen (XID), if any.
        states: States of ``hw.status`` that hold: ``ok``, ``degraded``, ``failed``.
        clocks: Hertz by domain: ``sm``, ``memory``.
        clock_limits: Highest hertz by domain.
        throttle_reasons: Why the clocks are below what was asked for, by name:
            ``sw_power_cap``, ``hw_slowdown``, ``sw_thermal``, ``hw_thermal``, ``hw_power_brake``, ...
            An empty set is known to be none; None is not known.
        pcie_received: Bytes per second into the device.
        pcie_sent: Bytes per second out of it.
        link_received: Bytes over the vendor's links (NVLink, xGMI), total.
        link_sent: The same, out.
        activity: Share of the time by unit, from profiling counters: ``sm``, ``sm_occupancy``, ``tensor``,
            ``dram``.
        process_memory: Bytes of this process and its children.
        process_utilization: Share of the time in which kernels of this process and its children ran.
        processes: How many processes use it, when known.
    """

    device: Device
    visible: bool = True
    utilization: Mapping[str, float] = field(default_factory=dict)
    memory_limit: int | None = None
    memory_used: int | None = None
    energy: float | None = None
    power: float | None = None
    power_limit: float | None = None
    temperatures: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    last_fault: int | None = None
    states: frozenset[str] = frozenset()
    clocks: Mapping[str, float] = field(default_factory=dict)
    clock_limits: Mapping[str, float] = field(default_factory=dict)
    throttle_reasons: frozenset[str] | None = None
    pcie_received: float | None = None
    pcie_sent: float | None = None
    link_received: int | None = None
    link_sent: int | None = None
    activity: Mapping[str, float] = field(default_factory=dict)
    process_memory: int | None = None
    process_utilization: float | None = None
    processes: int | None = None

    @property
    def memory_share(self) -> float | None:
        """Memory used / memory that the device has; 0 to 1."""
        if not self.memory_limit or self.memory_used is None:
            return None
        return self.memory_used / self.memory_limit


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameworkMemory:
    """What a framework's own allocator holds on a device.

    Attributes:
        framework: Registry name, such as ``torch``.
        device: As the framework calls it, such as ``cuda:0``.
        allocated: Bytes in tensors.
        reserved: Bytes that the allocator holds, tensors included.
    """

    framework: str
    device: str
    allocated: int | None = None
    reserved: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The last reading of every source that has one; a source that fails or hangs has none.

    Attributes:
        process: This process.
        host: The machine.
        container: Its control groups.
        devices: Accelerators, and CPU packages that count their energy.
        frameworks: Memory of frameworks.
    """

    process: ProcessReading | None = None
    host: HostReading | None = None
    container: ContainerReading | None = None
    devices: tuple[DeviceReading, ...] = ()
    frameworks: tuple[FrameworkMemory, ...] = ()

    @property
    def cpu_share(self) -> float | None:
        """CPU used / available: of the tightest quota, or of the CPUs that the process may run on; 0 to 1.

        Of both, where there is a quota, the larger one: whichever is full first binds.
        """
        shares = (
            self.container.cpu_share if self.container is not None else None,
            self.host.available_cpu_share if self.host is not None else None,
        )
        return max((share for share in shares if share is not None), default=None)

    @property
    def memory_share(self) -> float | None:
        """Memory used / available: of the container's limit or the host, whichever is full first; 0 to 1."""
        shares: list[float] = []
        container, host = self.container, self.host
        if container is not None and container.memory_limit and container.memory_working_set is not None:
            shares.append(container.memory_working_set / container.memory_limit)
        if host is not None and host.memory_limit and host.memory_used is not None:
            shares.append(host.memory_used / host.memory_limit)
        return max(shares, default=None)
