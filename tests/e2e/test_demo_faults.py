"""The demo, whole: what goes wrong in it is told, and resolved before its end; and what it can serve."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("otel-aimon"))


def demo() -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "demo", "--json"], capture_output=True, text=True, check=False, timeout=240
    )


def test_a_slowdown_and_an_error_burst_are_told_and_resolved() -> None:
    done = demo()
    if done.returncode:
        # A machine that is busy otherwise is slow before the demo's slowdown, too: then nothing is unusual in it.
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
    limits = [each for each in json.loads(done.stdout)["hints"] if each["kind"] == "concurrency"]
    learned = [each for each in limits if each["model"] == "word-2gram"][-1]
    assert learned["basis"] == "tpot"
    assert 1 <= learned["new"] <= 100
    assert " HINT " in done.stderr
