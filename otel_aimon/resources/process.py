"""What this process uses: CPU, memory, threads, descriptors, switches, faults, disk."""

from __future__ import annotations

import os
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any

import psutil

from otel_aimon.resources.attempt import attempt
from otel_aimon.resources.snapshot import ProcessReading

if TYPE_CHECKING:
    from collections.abc import Callable

if sys.platform != "win32":
    import resource


def available_cpus() -> int:
    """How many CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ProcessSource:
    """Reads this process.

    Args:
        unique_memory: Read USS too, which costs milliseconds for a process with many mappings.
        loop_lag: Gives the longest delay of the event loop since it was last asked.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        unique_memory: bool = False,
        loop_lag: Callable[[], float | None] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._unique_memory = unique_memory
        self._loop_lag = loop_lag
        self._clock = clock
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """The child is another process."""
        self._process: Any = None
        self._before: tuple[float, float, float] | None = None

    def close(self) -> None:
        """Nothing is held."""

    def read(self) -> ProcessReading:
        """The process now, and its CPU shares since the last reading."""
        if self._process is None:
            self._process = psutil.Process()
        process = self._process
        with process.oneshot():
            times = attempt("the CPU time of the process", process.cpu_times)
            memory = attempt("the memory of the process", process.memory_info)
            threads = attempt("the threads of the process", process.num_threads)
            disk = attempt("the disk traffic of the process", getattr(process, "io_counters", None))
        usage: Any = None
        if sys.platform != "win32":
            usage = attempt("the resource usage of the process", resource.getrusage, resource.RUSAGE_SELF)
        # Over all threads, unlike what /proc says of a process.
        return ProcessReading(
            **self._cpu(times),
            memory_resident=memory and memory.rss,
            memory_virtual=memory and memory.vms,
            memory_unique=self._read_unique_memory(),
            threads=threads,
            file_descriptors=attempt(
                "the file descriptors of the process", getattr(process, "num_fds", None)
            ),
            switches_voluntary=usage and usage.ru_nvcsw,
            switches_involuntary=usage and usage.ru_nivcsw,
            faults_minor=usage and usage.ru_minflt,
            faults_major=usage and usage.ru_majflt,
            disk_read=disk and disk.read_bytes,
            disk_written=disk and disk.write_bytes,
            loop_lag=self._loop_lag() if self._loop_lag is not None else None,
        )

    def _cpu(self, times: Any) -> dict[str, float]:
        if times is None:
            self._before = None
            return {}
        now, user, system = self._clock(), times.user, times.system
        before, self._before = self._before, (now, user, system)
        found = {"cpu_user": user, "cpu_system": system}
        if before is None or now <= before[0]:
            return found
        elapsed = now - before[0]
        user_share, system_share = (user - before[1]) / elapsed, (system - before[2]) / elapsed
        cpus = available_cpus()
        found["cpu_user_share"] = user_share / cpus
        found["cpu_system_share"] = system_share / cpus
        found["cores_busy"] = user_share + system_share
        return found

    def _read_unique_memory(self) -> int | None:
        if not self._unique_memory:
            return None
        full = attempt("the unique memory of the process", self._process.memory_full_info)
        return full and int(full.uss)
