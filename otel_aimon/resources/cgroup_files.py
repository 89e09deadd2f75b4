"""What the files of a control group say, in one form for both versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from otel_aimon.resources.cgroup import Group, Groups, Lineage


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuUse:
    """What a group used of the CPUs since it was made.

    Attributes:
        time: CPU seconds.
        periods: Periods of its quota in which it wanted to run.
        throttled_periods: Periods in which it used its quota up.
        throttled_time: Seconds for which its threads waited for the next period.
    """

    time: float | None = None
    periods: int | None = None
    throttled_periods: int | None = None
    throttled_time: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """What a group uses of the memory.

    Attributes:
        used: Bytes, as its limit counts them.
        working_set: The same without page cache that was not used lately, as the kubelet counts it.
    """

    used: int | None = None
    working_set: int | None = None


class CpuFiles(Protocol):
    """Reads the CPU files of a version."""

    lineage: Lineage

    def limit(self, group: Group) -> float | None:
        """CPUs that the quota of this very group allows; None without a quota."""

    def use(self, group: Group) -> CpuUse:
        """What the group used."""


class MemoryFiles(Protocol):
    """Reads the memory files of a version."""

    lineage: Lineage

    def limit(self, group: Group) -> int | None:
        """Bytes that the limit of this very group allows; None without a limit."""

    def use(self, group: Group) -> MemoryUse:
        """What the group uses."""

    def kills(self, group: Group) -> int | None:
        """Processes of the group that the kernel killed for memory."""


class CpuFilesV2:
    """``cpu.max`` and ``cpu.stat``.

    Args:
        groups: Of the process.
    """

    def __init__(self, groups: Groups) -> None:
        self.lineage = groups.unified

    def limit(self, group: Group) -> float | None:
        """Quota / period; ``max`` is no quota."""
        fields = (group.read("cpu.max") or "").split()
        return _ratio(*map(number, fields)) if len(fields) == 2 else None

    def use(self, group: Group) -> CpuUse:
        """As ``cpu.stat`` says, in microseconds."""
        stat = table(group.read("cpu.stat"))
        return CpuUse(
            time=_seconds(stat.get("usage_usec"), 1e6),
            periods=stat.get("nr_periods"),
            throttled_periods=stat.get("nr_throttled"),
            throttled_time=_seconds(stat.get("throttled_usec"), 1e6),
        )


class CpuFilesV1:
    """``cpu.cfs_quota_us``, ``cpu.cfs_period_us``, ``cpu.stat`` and ``cpuacct.usage``.

    The controller ``cpuacct`` is mostly in the same hierarchy as ``cpu``. Where it is in another one,
    the CPU time is known only of groups that the process is in under the same name in both.

    Args:
        groups: Of the process.
    """

    def __init__(self, groups: Groups) -> None:
        self.lineage = groups.controllers.get("cpu", ())
        self._accounts = {group.name: group for group in groups.controllers.get("cpuacct", ())}

    def limit(self, group: Group) -> float | None:
        """Quota / period; a quota of -1 is none."""
        quota = number(group.read("cpu.cfs_quota_us"))
        if quota is None:
            return None
        return _ratio(quota, number(group.read("cpu.cfs_period_us")))

    def use(self, group: Group) -> CpuUse:
        """Times in nanoseconds."""
        stat = table(group.read("cpu.stat"))
        account = self._accounts.get(group.name)
        return CpuUse(
            time=_seconds(number(account.read("cpuacct.usage")), 1e9) if account is not None else None,
            periods=stat.get("nr_periods"),
            throttled_periods=stat.get("nr_throttled"),
            throttled_time=_seconds(stat.get("throttled_time"), 1e9),
        )


class MemoryFilesV2:
    """``memory.max``, ``memory.high``, ``memory.current``, ``memory.stat`` and ``memory.events``.

    Args:
        groups: Of the process.
    """

    def __init__(self, groups: Groups) -> None:
        self.lineage = groups.unified

    def limit(self, group: Group) -> int | None:
        """The smaller of both: beyond ``memory.high`` the kernel slows the group down to a near stop."""
        limits = (number(group.read(name)) for name in ("memory.max", "memory.high"))
        return min((limit for limit in limits if limit is not None), default=None)

    def use(self, group: Group) -> MemoryUse:
        """The group and all below it."""
        return _memory(group, "memory.current", "inactive_file")

    def kills(self, group: Group) -> int | None:
        """In the group and all below it."""
        return table(group.read("memory.events")).get("oom_kill")


class MemoryFilesV1:
    """``memory.limit_in_bytes``, ``memory.usage_in_bytes``, ``memory.stat`` and ``memory.oom_control``.

    Args:
        groups: Of the process.
    """

    _NO_LIMIT = 1 << 60
    """Without a limit the kernel shows the largest that it can count: close to 2**63."""

    def __init__(self, groups: Groups) -> None:
        self.lineage = groups.controllers.get("memory", ())

    def limit(self, group: Group) -> int | None:
        """Bytes."""
        limit = number(group.read("memory.limit_in_bytes"))
        return limit if limit is not None and limit < self._NO_LIMIT else None

    def use(self, group: Group) -> MemoryUse:
        """The group and all below it."""
        return _memory(group, "memory.usage_in_bytes", "total_inactive_file")

    def kills(self, group: Group) -> int | None:
        """In the group itself; those below count for themselves."""
        return table(group.read("memory.oom_control")).get("oom_kill")


def cpu_files(groups: Groups) -> CpuFiles:
    """The files of the version that has the controller ``cpu``."""
    return CpuFilesV1(groups) if "cpu" in groups.controllers else CpuFilesV2(groups)


def memory_files(groups: Groups) -> MemoryFiles:
    """The files of the version that has the controller ``memory``."""
    return MemoryFilesV1(groups) if "memory" in groups.controllers else MemoryFilesV2(groups)


def pressure(group: Group, resource: str) -> dict[str, float]:
    """Share of the last 10 s in which work waited, by kind (``some``, ``full``).

    Args:
        group: Of version 2.
        resource: ``cpu``, ``memory`` or ``io``.
    """
    shares: dict[str, float] = {}
    for line in (group.read(f"{resource}.pressure") or "").splitlines():
        kind, _, rest = line.partition(" ")
        average = rest.partition("avg10=")[2].split(" ")[0]
        whole, _, hundredths = average.partition(".")
        if kind in {"some", "full"} and number(whole) is not None and number(hundredths) is not None:
            shares[kind] = min(float(average) / 100, 1.0)
    return shares


def number(text: str | None) -> int | None:
    """The count that a file or a field holds; None for a word such as ``max``, and for less than 0."""
    text = (text or "").strip()
    # More digits than this are no count of the kernel's.
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def table(text: str | None) -> dict[str, int]:
    """Counts by name, from lines like ``nr_throttled 12``."""
    found: dict[str, int] = {}
    for line in (text or "").splitlines():
        name, _, value = line.partition(" ")
        count = number(value)
        if count is not None:
            found[name] = count
    return found


def _ratio(quota: int | None, period: int | None) -> float | None:
    return quota / period if quota and period else None


def _seconds(count: int | None, per_second: float) -> float | None:
    return None if count is None else count / per_second


def _memory(group: Group, usage: str, droppable: str) -> MemoryUse:
    used = number(group.read(usage))
    idle = table(group.read("memory.stat")).get(droppable)
    if used is None or idle is None:
        return MemoryUse(used=used)
    # The two are not read at one moment.
    return MemoryUse(used=used, working_set=max(0, used - idle))
