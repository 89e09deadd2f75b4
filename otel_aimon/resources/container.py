"""What the container of this process uses of what it may use, from its control groups.

"Container" stands for any control group: of Docker, of a pod, of a systemd unit. A limit may be set on
the process's own group or on any above it; the tightest one counts, with the use of the very group that
it is set on.
"""

from __future__ import annotations

import logging
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from otel_aimon.resources.cgroup import container_id, find, own_groups
from otel_aimon.resources.cgroup_files import CpuUse, MemoryUse, cpu_files, memory_files, pressure
from otel_aimon.resources.snapshot import ContainerReading
from otel_aimon.resources.source import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.resources.cgroup import Group, Lineage
    from otel_aimon.resources.cgroup_files import CpuFiles, MemoryFiles

__all__ = ["ContainerSource", "container_id"]

_RESOURCES = ("cpu", "memory", "io")

Limit = TypeVar("Limit", int, float)


class ContainerSource:
    """Reads the control groups of this process.

    Args:
        root: Of the file system.
        clock: Monotonic seconds.
    """

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = monotonic) -> None:
        self._root = root
        self._clock = clock
        self._forget()

    def _forget(self) -> None:
        self._own: str | None = None
        self._cpu_before: tuple[Group, float, CpuUse] | None = None

    def after_fork_in_child(self) -> None:
        """Shares are since the last reading of this very process, which may be put into another group."""
        self._forget()

    def close(self) -> None:
        """Nothing is held."""

    def read(self) -> ContainerReading:
        """The groups now, and their shares since the last reading.

        Raises:
            UnavailableError: When the process is in no group but the root, or its groups are not to be seen.
        """
        self._find()
        reading = ContainerReading(**self._read_cpu(), **self._read_memory(), pressure=self._read_pressure())
        if reading == ContainerReading():
            self._forget()
            raise UnavailableError("the control groups of the process tell nothing.", level=logging.DEBUG)
        return reading

    def _find(self) -> None:
        own = own_groups(self._root)
        if own is None:
            self._forget()
            raise UnavailableError("this system has no control groups.", level=logging.DEBUG)
        if own == self._own:
            return
        # The first reading, or the process was moved.
        self._forget()
        groups = find(self._root, own)
        if not groups:
            raise UnavailableError(
                "this process is in no control group of its own that it can see.", level=logging.DEBUG
            )
        self._own = own
        self._cpu: CpuFiles = cpu_files(groups)
        self._memory: MemoryFiles = memory_files(groups)
        self._unified: Lineage = groups.unified

    def _read_cpu(self) -> dict[str, Any]:
        limit, group = _tightest(self._cpu.lineage, self._cpu.limit)
        group = group or _first(self._cpu.lineage, "cpu.stat")
        if group is None:
            return {}
        now, use = self._clock(), self._cpu.use(group)
        before, self._cpu_before = self._cpu_before, (group, now, use)
        found = {
            "cpu_limit": limit,
            "cpu_time": use.time,
            "throttled_time": use.throttled_time,
            "throttled_periods": use.throttled_periods,
            "periods": use.periods,
        }
        # Another group now has the tightest limit: its use is no continuation.
        if before is not None and before[0] == group:
            _, then, used = before
            found["cpu_share"] = _share(_spent(used.time, use.time), limit and limit * (now - then))
            found["throttled_share"] = _share(
                _spent(used.throttled_periods, use.throttled_periods), _spent(used.periods, use.periods)
            )
        return found

    def _read_memory(self) -> dict[str, Any]:
        lineage, files = self._memory.lineage, self._memory
        limit, group = _tightest(lineage, files.limit)
        own = _first(lineage, "memory.stat")
        group = group or own
        use = files.use(group) if group is not None else MemoryUse()
        return {
            "memory_limit": limit,
            "memory_used": use.used,
            "memory_working_set": use.working_set,
            # Of the own group in both versions: the one with the limit may hold other containers.
            "out_of_memory_kills": files.kills(own) if own is not None else None,
        }

    def _read_pressure(self) -> dict[tuple[str, str], float]:
        group = _first(self._unified, "cpu.pressure")
        if group is None:
            return {}
        return {
            (resource, kind): share
            for resource in _RESOURCES
            for kind, share in pressure(group, resource).items()
        }


def _tightest(
    lineage: Lineage, limit_of: Callable[[Group], Limit | None]
) -> tuple[Limit | None, Group | None]:
    """The smallest limit, and the group that has it: of several the uppermost, which is full first."""
    found: tuple[Limit | None, Group | None] = (None, None)
    for group in lineage:
        limit = limit_of(group)
        if limit is not None and (found[0] is None or limit <= found[0]):
            found = limit, group
    return found


def _first(lineage: Lineage, name: str) -> Group | None:
    """The process's own group, or the next one above for which the kernel keeps this file."""
    return next((group for group in lineage if group.has(name)), None)


def _spent(before: float | None, now: float | None) -> float | None:
    # A counter that steps back belongs to a group that was made anew under the same name.
    return now - before if before is not None and now is not None and now >= before else None


def _share(part: float | None, whole: float | None) -> float | None:
    """Never above 1: a quota lets a group run a little longer than its period's share, and pays it back."""
    return min(part / whole, 1.0) if part is not None and whole else None
