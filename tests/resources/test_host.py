"""The host is measured as psutil and the kernel see it."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import psutil
import pytest

from otel_aimon.resources import host as hosts
from otel_aimon.resources.host import HostSource


class Times(NamedTuple):
    """As psutil has them."""

    user: float
    nice: float = 0
    system: float = 0
    idle: float = 0
    iowait: float = 0
    irq: float = 0
    softirq: float = 0
    steal: float = 0
    guest: float = 0
    guest_nice: float = 0


class Network(NamedTuple):
    """As psutil has it."""

    bytes_recv: int
    bytes_sent: int


def cpus(monkeypatch: pytest.MonkeyPatch, *each: Times, allowed: set[int] | None = None) -> None:
    """Let the host have these CPUs, of which the process may use those that are allowed."""

    def times(percpu: bool = False) -> Any:
        return list(each) if percpu else Times(*map(sum, zip(*each, strict=True)))

    monkeypatch.setattr(psutil, "cpu_times", times)
    monkeypatch.setattr(os, "cpu_count", lambda: len(each))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed or set(range(len(each))), raising=False)


def test_values_are_those_of_the_machine() -> None:
    reading = HostSource().read()
    memory = psutil.virtual_memory()
    assert reading.cpus == os.cpu_count()
    assert reading.memory_limit == memory.total
    assert reading.memory_used is not None
    assert reading.memory_free is not None
    assert reading.memory_used + reading.memory_free == memory.total
    assert reading.memory_free == pytest.approx(memory.available, rel=0.2)
    assert reading.swap_limit == psutil.swap_memory().total
    assert reading.cpu_times["user"] == pytest.approx(psutil.cpu_times().user, abs=60)
    assert (reading.cpu_shares, reading.available_cpu_share) == ({}, None)


def test_shares_are_of_the_time_since_the_last_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    source = HostSource()
    cpus(monkeypatch, Times(10, 0, 5, 100, 0, 0, 0, 0, 3, 0))
    source.read()
    cpus(monkeypatch, Times(12, 1, 6, 103, 1, 1, 1, 0, 4, 0))
    reading = source.read()
    # Ten seconds. The time of guests is part of user and nice.
    assert reading.cpu_times == {
        "user": 12, "nice": 1, "system": 6, "idle": 103, "iowait": 1, "interrupt": 2, "steal": 0,
    }  # fmt: skip
    assert reading.cpu_shares == {
        "user": 0.2, "nice": 0.1, "system": 0.1, "idle": 0.3, "iowait": 0.1, "interrupt": 0.2, "steal": 0,
    }  # fmt: skip
    assert reading.available_cpu_share == pytest.approx(0.6)


def test_what_is_available_is_what_the_process_may_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    source = HostSource()
    nothing = Times(0)
    busy, idle = Times(8, idle=2), Times(0, idle=10)
    cpus(monkeypatch, nothing, nothing, nothing, nothing, allowed={1})
    source.read()
    cpus(monkeypatch, idle, busy, idle, idle, allowed={1})
    reading = source.read()
    assert reading.cpu_shares["idle"] == pytest.approx(0.8)
    assert reading.available_cpu_share == pytest.approx(0.8)


def test_a_counter_that_steps_back_makes_no_negative_share(monkeypatch: pytest.MonkeyPatch) -> None:
    source = HostSource()
    cpus(monkeypatch, Times(10, idle=100, iowait=5))
    source.read()
    cpus(monkeypatch, Times(15, idle=105, iowait=4))
    shares = source.read().cpu_shares
    assert shares["iowait"] == 0
    assert sum(shares.values()) == pytest.approx(1)


def test_no_time_between_two_readings_is_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    source = HostSource()
    cpus(monkeypatch, Times(10, idle=100, iowait=5))
    source.read()
    assert source.read().cpu_shares == {}


def test_the_loopback_is_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    interfaces = {"lo": Network(1000, 1000), "eth0": Network(1, 2), "eth1": Network(10, 20)}
    monkeypatch.setattr(psutil, "net_io_counters", lambda _: interfaces)
    reading = HostSource().read()
    assert (reading.network_received, reading.network_sent) == (11, 22)


def test_a_machine_without_disks_or_swap_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)

    def broken(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(hosts.psutil, "swap_memory", broken)
    reading = HostSource().read()
    assert (reading.disk_read, reading.disk_written, reading.swap_used, reading.swap_free) == (None,) * 4
    assert reading.memory_limit is not None


def test_a_forked_child_starts_over(monkeypatch: pytest.MonkeyPatch) -> None:
    source = HostSource()
    source.read()
    source.after_fork_in_child()
    assert source.read().cpu_shares == {}
