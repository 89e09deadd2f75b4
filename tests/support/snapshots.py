"""Readings in which everything is known, as no machine of ours has it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from otel_aimon.resources.monitor import ResourceMonitor
from otel_aimon.resources.sampler import Feed
from otel_aimon.resources.snapshot import (
    ContainerReading,
    Device,
    DeviceReading,
    FrameworkMemory,
    HostReading,
    ProcessReading,
)

PROCESS = ProcessReading(
    cpu_user=10.0,
    cpu_system=2.0,
    cpu_user_share=0.25,
    cpu_system_share=0.05,
    cores_busy=0.6,
    memory_resident=1000,
    memory_virtual=5000,
    memory_unique=900,
    threads=4,
    file_descriptors=20,
    switches_voluntary=100,
    switches_involuntary=7,
    faults_minor=50,
    faults_major=3,
    disk_read=4096,
    disk_written=8192,
    loop_lag=0.004,
)

HOST = HostReading(
    cpus=2,
    cpu_times={"user": 70.0, "idle": 130.0},
    cpu_shares={"user": 0.25, "idle": 0.75},
    available_cpu_share=0.25,
    memory_limit=8000,
    memory_used=2000,
    memory_free=6000,
    swap_used=10,
    swap_limit=100,
    disk_read=1,
    disk_written=2,
    network_received=3,
    network_sent=4,
)

CONTAINER = ContainerReading(
    cpu_limit=1.5,
    cpu_time=12.0,
    cpu_share=0.5,
    throttled_time=0.75,
    throttled_periods=3,
    periods=10,
    throttled_share=0.125,
    memory_limit=4000,
    memory_used=3500,
    memory_working_set=3000,
    out_of_memory_kills=1,
    pressure={("cpu", "some"): 0.5, ("memory", "full"): 0.0},
)

GPU = Device(
    id="MIG-1",
    vendor="NVIDIA",
    name="gpu0/mig0",
    model="H100",
    parent="GPU-1",
    ordinals=("cuda:0",),
)

DEVICE = DeviceReading(
    device=GPU,
    utilization={"general": 0.5, "encoder": 0.0},
    memory_limit=1000,
    memory_used=250,
    energy=123.0,
    power=300.0,
    power_limit=700.0,
    temperatures={"core": 45.0},
    errors={"xid": 1},
    states=frozenset({"degraded"}),
    clocks={"sm": 1.98e9},
    clock_limits={"sm": 2.0e9},
    throttle_reasons=frozenset({"hw_thermal", "sync_boost"}),
    pcie_received=10.0,
    pcie_sent=20.0,
    link_received=30,
    link_sent=40,
    activity={"tensor": 0.25},
    process_memory=200,
    process_utilization=0.4,
    processes=2,
)

FRAMEWORK = FrameworkMemory(framework="torch", device="cuda:0", allocated=100, reserved=150)


class Fixed:
    """A source that always reads the same."""

    def __init__(self, reading: Any) -> None:
        self.reading = reading
        self.closed = False
        self.forks = 0

    def read(self) -> Any:
        return self.reading

    def after_fork_in_child(self) -> None:
        self.forks += 1

    def close(self) -> None:
        self.closed = True


class Counting(Fixed):
    """A device whose energy counter moves on with each reading."""

    def read(self) -> Any:
        now = self.reading
        self.reading = replace(now, energy=now.energy + 1.0)
        return (now,)


def read_everything(monitor: ResourceMonitor) -> None:
    """Give a monitor sources that know everything, before it starts."""
    monitor.sampler.prepare = lambda: [
        Feed("process", "process", Fixed(PROCESS)),
        Feed("host", "host", Fixed(HOST)),
        Feed("container", "container", Fixed(CONTAINER)),
        Feed("nvidia", "devices", Counting(DEVICE), driver=True),
        Feed("frameworks", "frameworks", Fixed((FRAMEWORK,))),
    ]
