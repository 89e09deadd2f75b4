"""The process is measured as the kernel sees it; a value that cannot be read costs no other."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from otel_aimon.resources import attempt as attempting
from otel_aimon.resources.process import ProcessSource, available_cpus
from otel_aimon.resources.source import Notices

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")


def burn(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@linux
def test_everything_is_read_on_linux() -> None:
    source = ProcessSource(unique_memory=True, loop_lag=lambda: 0.5)
    source.read()
    burn(0.02)
    reading = source.read()
    assert [name for name, value in dataclasses.asdict(reading).items() if value is None] == []


@linux
def test_values_are_those_of_the_kernel() -> None:
    reading = ProcessSource(unique_memory=True).read()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    resident = int(status["VmRSS"].split()[0]) * 1024
    assert reading.memory_resident == pytest.approx(resident, rel=0.2)
    assert reading.memory_virtual == pytest.approx(int(status["VmSize"].split()[0]) * 1024, rel=0.2)
    assert reading.threads == int(status["Threads"])
    assert reading.file_descriptors in {
        len(list(Path("/proc/self/fd").iterdir())) + more for more in (-1, 0, 1)
    }
    assert reading.memory_unique is not None
    assert 0 < reading.memory_unique <= reading.memory_resident


def test_shares_need_two_readings() -> None:
    reading = ProcessSource().read()
    assert (reading.cpu_user_share, reading.cpu_system_share, reading.cores_busy) == (None, None, None)
    assert reading.cpu_user is not None


def test_shares_are_of_the_time_and_the_cpus_since_the_last_reading() -> None:
    now = [100.0]
    source = ProcessSource(clock=lambda: now[0])
    before = source.read()
    burn(0.05)
    now[0] += 10.0
    reading = source.read()
    assert reading.cpu_user is not None
    assert before.cpu_user is not None
    assert reading.cpu_system is not None
    assert before.cpu_system is not None
    user = (reading.cpu_user - before.cpu_user) / 10.0
    system = (reading.cpu_system - before.cpu_system) / 10.0
    assert user + system >= 0.003  # The kernel counts in hundredths of a second.
    assert reading.cpu_user_share == pytest.approx(user / available_cpus())
    assert reading.cpu_system_share == pytest.approx(system / available_cpus())
    assert reading.cores_busy == pytest.approx(user + system)


@linux
def test_switches_are_those_of_all_threads() -> None:
    source = ProcessSource()
    before = source.read()
    thread = threading.Thread(target=lambda: [time.sleep(0.001) for _ in range(50)])
    thread.start()
    thread.join()
    after = source.read()
    assert after.switches_voluntary is not None
    assert before.switches_voluntary is not None
    assert after.switches_voluntary - before.switches_voluntary >= 50


def test_the_available_cpus_are_those_of_the_affinity() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("the platform has no affinity")
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert available_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert available_cpus() == len(allowed)


def test_what_cannot_be_read_is_absent_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def denied(_: Any) -> None:
        raise psutil.AccessDenied(1)

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(attempting, "notices", Notices())
    monkeypatch.setattr(psutil._psplatform.Process, "memory_info", denied)  # type: ignore[attr-defined]
    monkeypatch.delattr(psutil.Process, "num_fds")
    source = ProcessSource()
    readings = [source.read(), source.read()]
    for reading in readings:
        assert (reading.memory_resident, reading.memory_virtual, reading.file_descriptors) == (
            None,
            None,
            None,
        )
        assert reading.threads is not None
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("otel-aimon cannot read the memory of the process (AccessDenied")


def test_a_forked_child_is_another_process() -> None:
    source = ProcessSource()
    source.read()
    source.after_fork_in_child()
    assert source.read().cpu_user_share is None
