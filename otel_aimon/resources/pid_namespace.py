"""Whether the process ids of drivers are ours: they number processes as the host does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_INITIAL = 0xEFFF_FFFC
"""Inode of the host's namespace of process ids, fixed by the kernel (PROC_PID_INIT_INO)."""


def is_of_host(proc: Path) -> bool | None:
    """Whether this process numbers processes as the host does; a container does not.

    Args:
        proc: Where procfs is mounted.

    Returns:
        None where that cannot be told.
    """
    try:
        return (proc / "self/ns/pid").stat().st_ino == _INITIAL
    except OSError:
        return None
