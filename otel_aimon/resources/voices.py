"""Who exports what several processes of a host see alike: one of them, elected for each subject."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from otel_aimon.resources.leader import Leader

if TYPE_CHECKING:
    from collections.abc import Callable

_NOT_FOR_A_FILE = re.compile(r"[^\w.-]")


class Voices:
    """An election for each subject: the host, this container, each device.

    Processes that use different GPUs of one host each speak for their own.

    Args:
        directory: Where the lock files are.
        elect: Makes an election from the path of its lock file.
    """

    def __init__(self, directory: Path, elect: Callable[[Path], Leader] = Leader) -> None:
        self._directory = directory
        self._elect = elect
        self._elections: dict[str, Leader] = {}
        self._held: dict[str, bool] = {}

    def start_round(self) -> None:
        """Ask anew: a process that has ended leaves its subjects to others."""
        self._held.clear()

    def speaks_for(self, subject: str) -> bool:
        """Whether this process exports the subject's metrics.

        Args:
            subject: ``host``, ``container``, or the ``hw.id`` of a device.
        """
        held = self._held.get(subject)
        if held is None:
            held = self._held[subject] = self._election(subject).leads()
        return held

    def _election(self, subject: str) -> Leader:
        election = self._elections.get(subject)
        if election is None:
            election = self._elections[subject] = self._elect(self._path(subject))
        return election

    def _path(self, subject: str) -> Path:
        name = f"{subject}-{_container_key()}" if subject == "container" else subject
        return self._directory / f"{_NOT_FOR_A_FILE.sub('_', name)}.lock"

    def resign(self) -> None:
        """Leave all subjects to others."""
        for election in self._elections.values():
            election.resign()
        self._held.clear()

    def after_fork_in_child(self) -> None:
        """The child holds nothing of what its parent holds."""
        for election in self._elections.values():
            election.after_fork_in_child()
        self._held.clear()


def _container_key() -> str:
    """The same in all processes of a control group, another one in each container."""
    try:
        groups = Path("/proc/self/cgroup").read_text() + str(Path("/proc/self/ns/cgroup").readlink())
    except OSError:
        groups = ""
    return hashlib.sha256(groups.encode()).hexdigest()[:16]
