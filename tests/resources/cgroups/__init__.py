"""Control groups for tests: recorded ones to be laid out in a directory, and those of this machine."""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).parent


def sections(name: str) -> dict[str, str]:
    """The files of a recording, by path.

    Args:
        name: Of the file beside this one, without its ending.
    """
    files: dict[str, str] = {}
    path = None
    for line in (HERE / f"{name}.txt").read_text().splitlines(keepends=True):
        if line.startswith("=== "):
            path = line[4:].strip()
            files[path] = ""
        elif path is not None:
            files[path] += line
    return files


def lay_out(name: str, root: Path) -> Path:
    """Write the files of a recording below ``root``. This process is in the groups where it says ``{pid}``."""
    for path, text in sections(name).items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("{pid}", str(os.getpid())))
    return root


def machine_root(controller: str) -> Path | None:
    """Where this machine has the root of a hierarchy.

    Args:
        controller: Of version 1; empty for version 2.
    """
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ")[:3]
        directory = Path(before.split(" ")[4])
        if kind == ("cgroup" if controller else "cgroup2") and (
            not controller or controller in options.split(",")
        ):
            return directory
    return None
