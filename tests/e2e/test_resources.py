"""Real servers with several workers on a machine with GPUs: one voice for what all see, everyone's own."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from pathlib import Path

import pytest

from otel_aimon.cli.receiver import Point, Receiver
from otel_aimon.resources import points
from tests.e2e.processes import environment, free_port, get, instance, run, serving, wait_until
from tests.resources.stubs import NvmlValues, build_nvml

WORKERS = 4
GUNICORN = ("gunicorn", "wsgi:app", "-w", str(WORKERS), "--no-control-socket", "-b", "127.0.0.1:{port}")
UUIDS = {"GPU-00000000-0000-0000-0000-000000000000", "GPU-00000000-0000-0000-0000-000000000001"}
PROCESS = {metric.name for metric in points.PROCESS_METRICS} - {
    "aimon.process.memory.unique",
    "aimon.process.event_loop.lag",
}


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a machine with two GPUs."""
    directory = tmp_path_factory.mktemp("nvml")
    values = NvmlValues(directory / "values")
    values.set("*", "count", 2)
    return {
        "LD_LIBRARY_PATH": str(build_nvml(directory).parent),
        "NVML_STUB_FILE": str(values.path),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def machine(receiver: Receiver, nvml: dict[str, str], locks: Path, **more: str) -> dict[str, str]:
    return environment(
        receiver.http_endpoint,
        **{
            "SERVED": "by_hand",
            "OTEL_AIMON_SAMPLE_INTERVAL": "0.3",
            "OTEL_AIMON_LOCK_DIRECTORY": str(locks),
            **nvml,
            **more,
        },
    )


def processes_of(receiver: Receiver, metric: str) -> set[str]:
    return {instance(point) for point in receiver.received.latest_points(metric)}


def by_gpu(found: list[Point]) -> dict[str, set[str]]:
    """The processes that export each GPU."""
    processes: dict[str, set[str]] = defaultdict(set)
    for point in found:
        processes[str(point.attributes["hw.id"])].add(instance(point))
    return processes


def holder(lock: Path) -> int:
    """The process that has locked the file, as the kernel says."""
    inode = lock.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            return int(fields[4])
    raise AssertionError(f"nobody holds {lock.name}")


def test_four_workers_give_one_series_per_gpu_and_four_per_process(
    nvml: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    with Receiver() as receiver:
        env = machine(receiver, nvml, tmp_path)
        with serving(
            *(argument.format(port=port) for argument in GUNICORN), env=env, port=port, workers=WORKERS
        ):
            for _ in range(40):
                assert get(port, "/chat") == 200
            # The master is a process too: it samples itself as soon as it exports.
            for metric in PROCESS:
                wait_until(lambda metric=metric: len(processes_of(receiver, metric)) == WORKERS + 1, metric)
            wait_until(lambda: processes_of(receiver, "hw.gpu.utilization"), "the GPUs are reported")
            wait_until(lambda: processes_of(receiver, "aimon.cpu.utilization"), "the host is reported")
            # Now, because those that end last take over from those that end first.
            for metric in ("hw.gpu.utilization", "hw.gpu.memory.usage", "hw.energy", "hw.power", "hw.status"):
                exporting = by_gpu(receiver.received.latest_points(metric))
                assert set(exporting) == UUIDS, metric
                assert [len(each) for each in exporting.values()] == [1, 1], metric
            for metric in (
                "system.cpu.time",
                "system.memory.usage",
                "aimon.memory.utilization",
                "aimon.cpu.utilization",
            ):
                assert len(processes_of(receiver, metric)) == 1, metric


def test_another_worker_takes_over_from_one_that_was_killed(nvml: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    with Receiver() as receiver:
        env = machine(receiver, nvml, tmp_path)
        with serving(
            *(argument.format(port=port) for argument in GUNICORN), env=env, port=port, workers=WORKERS
        ):
            wait_until(lambda: processes_of(receiver, "system.memory.limit"), "the host is reported")
            (first,) = processes_of(receiver, "system.memory.limit")
            os.kill(holder(tmp_path / "host.lock"), signal.SIGKILL)
            wait_until(lambda: processes_of(receiver, "system.memory.limit") > {first}, "another one speaks")


def test_workers_with_a_gpu_each_speak_for_their_own(nvml: dict[str, str], tmp_path: Path) -> None:
    code = """
import otel_aimon, time
from otel_aimon import runtime
with otel_aimon.inference("chat", "m"): pass
resources = runtime.current().resources
resources.start()
while resources.sampler.samplings < 3: time.sleep(0.02)
time.sleep(1)
"""
    with Receiver() as receiver:
        for gpu in ("0", "1"):
            env = machine(receiver, nvml, tmp_path, CUDA_VISIBLE_DEVICES=gpu)
            run("python", "-c", code, env=env)

    exporting = by_gpu(receiver.received.latest_points("hw.gpu.memory.usage"))
    assert set(exporting) == UUIDS
    one, other = exporting.values()
    assert (len(one), len(other)) == (1, 1)
    assert one != other


def test_system_metrics_keeps_its_own(nvml: dict[str, str], tmp_path: Path) -> None:
    code = """
import otel_aimon, time
from otel_aimon import runtime
with otel_aimon.inference("chat", "m"): pass
resources = runtime.current().resources
resources.start()
while resources.sampler.samplings < 3: time.sleep(0.02)
"""
    with Receiver() as receiver:
        env = machine(receiver, nvml, tmp_path, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="")
        run("python", "-c", code, env=env)

    scopes: dict[str, set[str]] = defaultdict(set)
    for point in receiver.received.latest_points():
        scopes[point.metric].add(point.scope)
    theirs = {
        name for name, found in scopes.items() if "opentelemetry.instrumentation.system_metrics" in found
    }
    assert {"process.cpu.time", "process.memory.usage", "system.cpu.time"} <= theirs
    assert {name for name in theirs if len(scopes[name]) > 1} == set()
    assert {"process.paging.faults", "system.memory.limit", "hw.gpu.utilization"} <= {
        name for name, found in scopes.items() if found == {"otel_aimon"}
    }
