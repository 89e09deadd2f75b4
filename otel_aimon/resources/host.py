"""What the host uses: CPUs, memory, swap, disks, network."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import psutil

from otel_aimon.resources.attempt import attempt
from otel_aimon.resources.snapshot import HostReading

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MODES = {
    "user": "user",
    "nice": "nice",
    "system": "system",
    "idle": "idle",
    "iowait": "iowait",
    "irq": "interrupt",
    "softirq": "interrupt",
    "interrupt": "interrupt",
    "steal": "steal",
}
"""psutil's names to those of ``cpu.mode``. Time of guests is part of ``user`` and ``nice`` already."""

_NOT_BUSY = ("idle", "iowait")


class HostSource:
    """Reads the machine."""

    def __init__(self) -> None:
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Shares are since the last reading of this very process."""
        self._before: dict[str, float] | None = None
        self._available_before: dict[str, float] | None = None

    def close(self) -> None:
        """Nothing is held."""

    def read(self) -> HostReading:
        """The host now, and its CPU shares since the last reading."""
        times, available = self._cpu_times()
        shares = _shares(self._before, times)
        available_shares = _shares(self._available_before, available)
        self._before, self._available_before = times, available
        memory = attempt("the memory of the host", psutil.virtual_memory)
        swap = attempt("the swap of the host", psutil.swap_memory)
        disks = attempt("the disk traffic of the host", psutil.disk_io_counters)
        received, sent = _network()
        return HostReading(
            cpus=os.cpu_count(),
            cpu_times=times,
            cpu_shares=shares,
            available_cpu_share=_busy(available_shares),
            memory_limit=memory and memory.total,
            memory_used=memory and memory.total - memory.available,
            memory_free=memory and memory.available,
            swap_used=swap and swap.used,
            swap_limit=swap and swap.total,
            disk_read=disks and disks.read_bytes,
            disk_written=disks and disks.write_bytes,
            network_received=received,
            network_sent=sent,
        )

    @staticmethod
    def _cpu_times() -> tuple[dict[str, float], dict[str, float]]:
        """Of all CPUs, and of those that this process may run on."""
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        if allowed is None or len(allowed) == os.cpu_count():
            together = _by_mode([attempt("the CPU time of the host", psutil.cpu_times)])
            return together, together
        each = attempt("the CPU time of the host", psutil.cpu_times, True) or []
        return _by_mode(each), _by_mode(times for cpu, times in enumerate(each) if cpu in allowed)


def _by_mode(times: Iterable[Any]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for each in times:
        for name, mode in _MODES.items():
            seconds = getattr(each, name, None)
            if seconds is not None:
                sums[mode] = sums.get(mode, 0.0) + seconds
    return sums


def _shares(before: Mapping[str, float] | None, now: Mapping[str, float]) -> dict[str, float]:
    if not before or before.keys() != now.keys():
        return {}
    # The kernel's counters of idle time may step back a little.
    spent = {mode: max(0.0, now[mode] - before[mode]) for mode in now}
    total = sum(spent.values())
    return {mode: seconds / total for mode, seconds in spent.items()} if total > 0 else {}


def _busy(shares: Mapping[str, float]) -> float | None:
    return 1.0 - sum(shares.get(mode, 0.0) for mode in _NOT_BUSY) if shares else None


def _network() -> tuple[int | None, int | None]:
    interfaces = attempt("the network traffic of the host", psutil.net_io_counters, True)
    if interfaces is None:
        return None, None
    real = [counters for name, counters in interfaces.items() if not name.startswith("lo")]
    return sum(each.bytes_recv for each in real), sum(each.bytes_sent for each in real)
