"""What this process and its children use of a GPU.

The driver knows processes by their ids on the host. In a container these are others than ours, so
that what is not certain is absent.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_aimon.resources.nvidia_readings import put
from otel_aimon.resources.pid_namespace import is_of_host

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_aimon.resources.nvidia_gpu import Gpu

_COMPUTE = "nvmlDeviceGetComputeRunningProcesses"
_LISTS = (
    _COMPUTE,
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetMPSComputeRunningProcesses",
)
_UTILIZATION = "nvmlDeviceGetProcessUtilization"
_MOST_ANCESTORS = 64


class ProcessIds:
    """Which of the driver's process ids are ours.

    Args:
        proc: Where the kernel shows processes.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._own = self._known_as()
        self.of_host = self._are_of_host()
        self._known: dict[int, bool] = {}

    def begin(self) -> None:
        """Forget what the last reading found: ids are used again."""
        self._known.clear()

    def _known_as(self) -> int:
        """Our id in the numbers of :attr:`_proc`, which may be mounted from the host."""
        try:
            for line in (self._proc / "self/status").read_text().splitlines():
                if line.startswith("NSpid:"):
                    return int(line.split()[1])
        except (OSError, ValueError, IndexError):
            pass
        return os.getpid()

    def _are_of_host(self) -> bool:
        if self._own != os.getpid():
            return True
        of_host = is_of_host(self._proc)
        # Without procfs this is no Linux, and there is one numbering only.
        return not self._proc.exists() if of_host is None else of_host

    def ours(self, pids: Iterable[int]) -> frozenset[int] | None:
        """Those of ``pids`` that are this process or descend from it.

        Args:
            pids: Of the driver.

        Returns:
            None when that cannot be told: our numbers are not the driver's.
        """
        listed = set(pids)
        matching = frozenset(pid for pid in listed if self._is_ours(pid))
        if self.of_host:
            return matching
        # Some drivers translate. Then every process that they name is one that we see.
        translated = bool(matching) and all((self._proc / str(pid)).exists() for pid in listed)
        return matching if translated else None

    def _is_ours(self, pid: int) -> bool:
        if pid == self._own:
            return True
        if pid not in self._known:
            self._known[pid] = self._descends(pid)
        return self._known[pid]

    def _descends(self, pid: int) -> bool:
        for _ in range(_MOST_ANCESTORS):
            parent = self._parent(pid)
            if parent == self._own:
                return True
            if not parent or parent == 1:
                return False
            pid = parent
        return False

    def _parent(self, pid: int) -> int | None:
        try:
            stat = (self._proc / str(pid) / "stat").read_bytes()
            # The name in parentheses may hold anything.
            return int(stat.rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return None


def read_processes(gpu: Gpu, ids: ProcessIds, values: dict[str, Any]) -> None:
    """Processes on a device, memory of ours, and the share of the time in which our kernels ran."""
    memory = _memory_by_process(gpu)
    if memory is None:
        return
    if memory or ids.of_host:
        # To some containers the driver shows no process at all.
        put(values, "processes", len(memory))
    ours = ids.ours(memory)
    if not ours:
        return
    used = [memory[pid] for pid in ours]
    if None not in used:
        put(values, "process_memory", sum(each for each in used if each is not None))
    put(values, "process_utilization", _utilization(gpu, ours))


def _memory_by_process(gpu: Gpu) -> dict[int, int | None] | None:
    """Bytes by process id; None when the driver does not tell who uses the device."""
    memory: dict[int, int | None] = {}
    for function in _LISTS:
        listed = gpu.ask(function)
        if listed is None:
            if function in gpu.failures or function == _COMPUTE:
                return None
            continue
        for process in listed:
            # A process that computes and draws is in two lists, with the same memory.
            known = [each for each in (memory.get(process.pid), process.usedGpuMemory) if each is not None]
            memory[process.pid] = max(known, default=None)
    return memory


def _utilization(gpu: Gpu, ours: frozenset[int]) -> float | None:
    """Since the last reading; None at the first one, whose interval is not known."""
    since = gpu.seen.get(_UTILIZATION, 0)
    # No sample says that nothing ran. pynvml raises success where the list is empty.
    idle: dict[str, Any] = {"NOT_FOUND": (), "error 0": (), "SUCCESS": ()}
    answer = gpu.ask(_UTILIZATION, since, otherwise=idle)
    if answer is None:
        return None
    new = [sample for sample in answer if sample.timeStamp > since and sample.smUtil <= 100]
    gpu.seen[_UTILIZATION] = max((sample.timeStamp for sample in new), default=max(since, 1))
    if not since:
        return None
    percents: dict[int, list[int]] = {}
    for sample in new:
        if sample.pid in ours:
            percents.setdefault(sample.pid, []).append(sample.smUtil)
    return min(sum(sum(each) / len(each) for each in percents.values()) / 100, 1.0)
