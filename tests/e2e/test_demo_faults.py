"""The demo, whole: what goes wrong in it is told, and resolved before its end; and what it can serve."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMAND = str(Path(sys.executable).with_name("otel-aimon"))


def demo() -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "demo", "--json"], capture_output=True, text=True, check=False, timeout=240
    )


def limits(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The hints of how many requests the model of the growing load can serve."""
    hints = json.loads(done.stdout)["hints"]
    return [each for each in hints if (each["kind"], each["model"]) == ("concurrency", "word-2gram")]


def test_a_slowdown_and_an_error_burst_are_told_and_resolved() -> None:
    done = demo()
    if done.returncode or not limits(done):
        # A machine that is busy otherwise is slow before the demo's slowdown, too: then nothing is unusual in it. And
        # it serves too little while the load grows.
        done = demo()
    assert done.returncode == 0, done.stderr
    alerts = json.loads(done.stdout)["alerts"]
    told = {each["fault"]: each for each in alerts["faults"]}
    assert list(told) == ["slowdown", "error burst"]
    assert told["slowdown"]["rule"] in {"latency.shift", "latency.drift", "model.imbalance"}
    assert told["error burst"]["rule"] == "error.shift"
    # The last of them may be resolved by the end of the service.
    assert all(each["resolved_ns"] is not None for each in alerts["episodes"])
    assert " FIRING " in done.stderr
    # While more and more clients came, it was learned how many the model can serve.
    learned = limits(done)[-1]
    assert learned["basis"] == "tpot"
    assert 1 <= learned["new"] <= 100
    assert " HINT " in done.stderr
