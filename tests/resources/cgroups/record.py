"""Records the control groups of the process that runs it, for test_container.py.

python -m tests.resources.cgroups.record "what this is" > tests/resources/cgroups/NAME.txt
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

CONTROLLERS = frozenset({"cpu", "cpuacct", "memory"})
FILES = (
    "cgroup.controllers",
    "cgroup.events",
    "release_agent",
    "cpu.max",
    "cpu.stat",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "cpuacct.usage",
    "memory.max",
    "memory.high",
    "memory.current",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "memory.stat",
    "memory.events",
    "memory.oom_control",
    "cpu.pressure",
    "memory.pressure",
    "io.pressure",
)


def mounts() -> Iterator[tuple[str, str, str]]:
    """The line, the group that the mount begins with, and where it is."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        controllers = CONTROLLERS.intersection(fields[-1].split(","))
        if " - cgroup2 " in line or (" - cgroup " in line and controllers):
            yield line, fields[3], fields[4]


def groups() -> Iterator[Path]:
    """Directories from each mount's top down to the own group."""
    paths = [line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, begins_with, at in mounts():
        for path in paths:
            below = os.path.relpath(path, begins_with)
            directory = Path(at) / below
            if not below.startswith("..") and directory.is_dir():
                yield from (directory, *(Path(at) / parent for parent in Path(below).parents))
        yield Path(at)


def show(path: Path, text: str) -> None:
    print(f"=== {str(path).lstrip('/')}\n{text}", end="")


def record(what: str) -> None:
    release = ".".join(os.uname().release.split(".")[:2])
    print(f"{what}. Linux {release}.")
    show(Path("/proc/self/cgroup"), Path("/proc/self/cgroup").read_text())
    show(Path("/proc/self/mountinfo"), "".join(f"{line}\n" for line, _, _ in mounts()))
    for group in sorted(set(groups())):
        for name in FILES:
            try:
                show(group / name, (group / name).read_text())
            except OSError:
                continue
        if str(os.getpid()) in (group / "cgroup.procs").read_text().split():
            show(group / "cgroup.procs", "{pid}\n")


if __name__ == "__main__":
    record(sys.argv[1])
