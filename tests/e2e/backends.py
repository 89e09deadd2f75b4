"""Real backends: a Collector and a Prometheus, where they are found."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import SECONDS, wait_until

ROOT = Path(__file__).resolve().parents[2]


def program(name: str) -> str:
    """Path of a real server: from ``AIMON_TEST_BIN``, ``PATH``, or a folder beside the repository.

    Skips the test, saying so, where there is none; where that folder is, it must be there.
    """
    beside = ROOT.parent / "shared" / "bin"
    folders = os.pathsep.join((os.environ.get("AIMON_TEST_BIN", ""), os.environ.get("PATH", ""), str(beside)))
    found = shutil.which(name, path=folders)
    if found is None:
        if beside.is_dir():
            pytest.fail(f"{beside} has no {name}")
        pytest.skip(f"no {name} in AIMON_TEST_BIN or PATH")
    print(f"using {found}")
    return found


@contextlib.contextmanager
def server(arguments: list[str], log: Path, ready: str, env: dict[str, str] | None = None) -> Iterator[None]:
    """A server, from when ``ready`` answers with 200 to when it has ended by SIGTERM."""
    with log.open("w") as output:
        process = subprocess.Popen(
            arguments, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
        )
        try:
            wait_until(lambda: process.poll() is not None or _is_ready(ready), f"{arguments[0]} is ready")
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            process.wait(SECONDS)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
