"""Runs a script in a process of its own, for what can be done only once in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run(
    folder: Path,
    source: str,
    *,
    env: Mapping[str, str] | None = None,
    instrument: bool = False,
    timeout: float = 60.0,
) -> Any:
    """Run ``source`` and return what it printed last, which is JSON.

    Args:
        folder: Where the script is written and runs.
        source: The script.
        env: Variables for it; ``OTEL_*`` of this process are not passed on.
        instrument: Run it under ``opentelemetry-instrument``.
        timeout: Seconds after which it counts as hung.
    """
    printed, _ = output(folder, source, env=env, instrument=instrument, timeout=timeout)
    return json.loads(printed.splitlines()[-1])


def output(
    folder: Path,
    source: str,
    *,
    env: Mapping[str, str] | None = None,
    instrument: bool = False,
    timeout: float = 60.0,
) -> tuple[str, str]:
    """Run ``source`` and return what it printed and what it logged."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(source))
    command = [sys.executable, str(script)]
    if instrument:
        command.insert(0, str(Path(sys.executable).with_name("opentelemetry-instrument")))
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    done = subprocess.run(
        command,
        cwd=folder,
        env={
            **inherited,
            "PYTHONPATH": str(ROOT),
            "OTEL_AIMON_TEST_RERAISE": "1",
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            **(env or {}),
        },
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip(), done.stderr
