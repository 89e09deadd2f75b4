"""Finds the control groups of this process: its own, and those above it that it can see.

``/proc/self/cgroup`` names the group in each hierarchy, ``/proc/self/mountinfo`` says where a hierarchy
is mounted and which of its groups the mount begins with. Inside of a container the two do not always
speak of the same root: the first may show the path on the host, while the mount begins with the
container's own group.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

UNIFIED = ""
"""The name of the hierarchy of version 2, where version 1 has the name of a controller."""

_OWN_GROUPS = "proc/self/cgroup"
_MOUNTS = "proc/self/mountinfo"


@dataclass(frozen=True)
class Group:
    """A control group.

    Attributes:
        name: Its path in the mounted hierarchy, such as ``/`` or ``/system.slice/model.service``.
        directory: Where its files are.
    """

    name: str
    directory: str

    def read(self, name: str) -> str | None:
        """The text of one of its files; None where there is no such file or it cannot be read.

        Args:
            name: Such as ``memory.max``.
        """
        return read_text(f"{self.directory}/{name}")

    def has(self, name: str) -> bool:
        """Whether it has this file."""
        return os.path.exists(f"{self.directory}/{name}")  # noqa: PTH110 - five times as fast as Path


Lineage = tuple[Group, ...]
"""A group and those above it, the root of the hierarchy left out: it is no group but the machine."""


@dataclass(frozen=True)
class Groups:
    """The control groups of a process.

    Attributes:
        unified: Its groups of version 2.
        controllers: Its groups of version 1, by controller, such as ``cpu``.
    """

    unified: Lineage
    controllers: Mapping[str, Lineage]

    def __bool__(self) -> bool:
        return bool(self.unified) or any(self.controllers.values())


def read_text(path: str | Path) -> str | None:
    """The text of a file; None where there is none that can be read."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - twice as fast as Path.open
            return file.read().decode("utf-8", "surrogateescape")
    except (OSError, ValueError):
        return None


def own_groups(root: Path) -> str | None:
    """What the kernel says of the groups of this process; None where it knows no control groups.

    Args:
        root: Of the file system.
    """
    return read_text(root / _OWN_GROUPS)


def find(root: Path, own: str) -> Groups:
    """Find the directories of the groups.

    Args:
        root: Of the file system.
        own: As :func:`own_groups` gave it.
    """
    mounts = list(_mounts(read_text(root / _MOUNTS) or ""))
    unified: Lineage = ()
    controllers: dict[str, Lineage] = {}
    for names, path in _memberships(own):
        for name in names:
            lineage = _lineage(root, path, [mount for mount in mounts if name in mount.hierarchy])
            if name == UNIFIED:
                unified = lineage
            else:
                controllers[name] = lineage
    return Groups(unified, controllers)


def _memberships(own: str) -> Iterator[tuple[list[str], str]]:
    """Names of the hierarchies and the path in them, from lines like ``4:cpu,cpuacct:/docker/1a2b``."""
    for line in own.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3 and parts[2].startswith("/"):
            yield parts[1].split(","), parts[2]


@dataclass(frozen=True)
class _Mount:
    hierarchy: frozenset[str]
    begins_with: str
    at: str


_ESCAPE = re.compile(r"\\([0-7]{3})")
_FIELDS_BEFORE_DASH = 6


def _mounts(text: str) -> Iterator[_Mount]:
    """Mounts of control groups, from lines like ``30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw``."""
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not dash or len(fields) < _FIELDS_BEFORE_DASH or len(kind) < 3:
            continue
        hierarchy = {"cgroup2": frozenset({UNIFIED}), "cgroup": frozenset(kind[2].split(","))}.get(kind[0])
        if hierarchy is not None:
            yield _Mount(hierarchy, _unescape(fields[3]), _unescape(fields[4]))


def _unescape(path: str) -> str:
    """The kernel writes a space in a path as its octal code."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), path)


def _lineage(root: Path, path: str, mounts: list[_Mount]) -> Lineage:
    # A mount that begins further up shows more of the groups that limit this one.
    for mount in sorted(mounts, key=lambda mount: len(mount.begins_with)):
        below = _below(path, mount.begins_with)
        top = root / mount.at.lstrip("/")
        if below is not None and os.path.isdir(top / below):  # noqa: PTH112 - never raises, unlike Path
            return _upwards(top, below)
    for mount in mounts:
        # The path is that on the host, and the mount that of the container's namespace.
        top = root / mount.at.lstrip("/")
        if str(os.getpid()) in (read_text(top / "cgroup.procs") or "").split():
            return _upwards(top, PurePosixPath())
    return ()


def _below(path: str, begins_with: str) -> PurePosixPath | None:
    """``path`` as seen from the group that a mount begins with; None where it is not below that group."""
    try:
        below = PurePosixPath(path).relative_to(begins_with)
    except ValueError:
        return None
    return None if ".." in below.parts else below


def _upwards(top: Path, below: PurePosixPath) -> Lineage:
    # The parents of a path end with ".", which is the top itself and has no parents.
    groups = [Group(f"/{step}" if step.parts else "/", str(top / step)) for step in (below, *below.parents)]
    return tuple(group for group in groups if not _is_machine(group))


def _is_machine(group: Group) -> bool:
    """Whether this is the root of the whole hierarchy and not that of a container.

    The root of version 1 has the file ``release_agent``, which no other group has; that of version 2
    lacks the file ``cgroup.events``, which all others have.
    """
    if group.has("cgroup.controllers"):
        return not group.has("cgroup.events")
    return group.has("release_agent")


_CONTAINER_ID = re.compile(r"(?<![0-9a-f])([0-9a-f]{64})(?![0-9a-f])")
_DOCKER_FILES = re.compile(r"/docker/containers/([0-9a-f]{64})/")


def container_id(root: Path = Path("/")) -> str | None:
    """The ID that the container runtime gave to the container of this process; None where it cannot be told.

    Args:
        root: Of the file system.
    """
    own = own_groups(root) or ""
    for _, path in _memberships(own):
        found = _CONTAINER_ID.findall(path)
        if found:
            return str(found[-1])
    mounts = read_text(root / _MOUNTS) or ""
    # In a namespace of its own the group is "/". Docker mounts files of the container's folder; under
    # Kubernetes these are the files of the pod's sandbox, another container.
    match = None if "/kubelet/" in mounts else _DOCKER_FILES.search(mounts)
    return match[1] if match else None
