"""Readings against what a process really did under limits that the kernel enforces.

They need root and a control group below which groups with limits can be made, of either version: on a
machine of one's own ``sudo``, in a container the privilege to write to ``/sys/fs/cgroup``. Elsewhere they are
skipped; test_container.py reads recorded groups everywhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from otel_aimon.resources.cgroup import find, own_groups
from tests.resources.cgroups import machine_root

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups are of Linux")

MIB = 1 << 20
PERIOD = 100_000

WORKER = """
import dataclasses, json, mmap, os, resource, subprocess, sys, time
from otel_aimon.resources.container import ContainerSource

def join(*directories):
    for directory in directories:
        with open(directory + "/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))

def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

def fill(bytes):
    block = mmap.mmap(-1, bytes)
    for place in range(0, bytes, mmap.PAGESIZE):
        block[place] = 1
    return block

source = ContainerSource()

def read():
    reading = dataclasses.asdict(source.read())
    del reading["pressure"]
    return reading

def measured(work):
    before, used_before, began = read(), used(), time.monotonic()
    work()
    after, used_after, ended = read(), used(), time.monotonic()
    return dict(
        before=before, after=after, used=used_after - used_before, elapsed=ended - began
    )

def show(what):
    print(json.dumps(what), flush=True)
"""


@dataclass
class Sandbox:
    """A group made for a test: one directory for each controller, in version 2 the same one."""

    version: int
    cpu: Path
    accounting: Path
    memory: Path

    @property
    def directories(self) -> list[str]:
        return sorted({str(self.cpu), str(self.accounting), str(self.memory)})

    def below(self, name: str) -> Sandbox:
        if self.version == 2:
            enabled = (self.cpu / "cgroup.subtree_control").read_text().split()
            if not {"cpu", "memory"} <= set(enabled):
                (self.cpu / "cgroup.subtree_control").write_text("+cpu +memory")
        inner = Sandbox(self.version, self.cpu / name, self.accounting / name, self.memory / name)
        for directory in inner.directories:
            Path(directory).mkdir()
        return inner

    def allow_cpus(self, cpus: float) -> None:
        quota = int(cpus * PERIOD)
        if self.version == 2:
            (self.cpu / "cpu.max").write_text(f"{quota} {PERIOD}")
        else:
            (self.cpu / "cpu.cfs_period_us").write_text(str(PERIOD))
            (self.cpu / "cpu.cfs_quota_us").write_text(str(quota))

    def allow_memory(self, size: int) -> None:
        name = "memory.max" if self.version == 2 else "memory.limit_in_bytes"
        (self.memory / name).write_text(str(size))

    def remove(self) -> None:
        for directory in self.directories:
            for inner, _, _ in os.walk(directory, topdown=False):
                remove_when_empty(Path(inner))


def remove_when_empty(directory: Path) -> None:
    # A process that has ended leaves its group a moment later.
    for _ in range(100):
        try:
            directory.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return


def place_for_groups() -> Sandbox | str:
    """A group below which others can be made, or why there is none."""
    if os.geteuid() != 0:
        return "needs root, to make a control group"
    own = own_groups(Path("/")) or ""
    groups = find(Path("/"), own)
    if "cpu" in groups.controllers and "memory" in groups.controllers:
        roots = [machine_root(name) for name in ("cpu", "cpuacct", "memory")]
        if all(root is not None and os.access(root, os.W_OK) for root in roots):
            return Sandbox(1, *roots)  # type: ignore[arg-type]
        return "needs /sys/fs/cgroup to be writable"
    above = [Path(group.directory) for group in groups.unified]
    root = machine_root("")
    for directory in [*above, *([root] if root is not None else [])]:
        enabled = (directory / "cgroup.subtree_control").read_text().split()
        if {"cpu", "memory"} <= set(enabled) and os.access(directory, os.W_OK):
            return Sandbox(2, directory, directory, directory)
    return "needs a writable control group that passes the controllers cpu and memory on"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    place = place_for_groups()
    if isinstance(place, str):
        pytest.skip(place)
    try:
        made = place.below(f"aimon-test-{os.getpid()}")
    except OSError as error:
        pytest.skip(f"needs to make a control group ({error.strerror})")
    try:
        yield made
    finally:
        made.remove()


def work(script: str, *groups: Sandbox) -> list[dict[str, Any]]:
    """What the script showed, run in a process that starts outside of the groups."""
    directories = [group.directories for group in groups]
    process = subprocess.run(
        [sys.executable, "-c", WORKER + script, json.dumps(directories)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


GROUPS = "\ngroups = json.loads(sys.argv[1])\n"


def spent(shown: dict[str, Any], name: str) -> float:
    return shown["after"][name] - shown["before"][name]


def test_a_process_that_burns_a_known_share_of_its_quota(sandbox: Sandbox) -> None:
    sandbox.allow_cpus(0.4)
    script = """
join(*groups[0])
def part():
    for _ in range(10):
        burn(0.02)
        time.sleep(0.08)
show(measured(part))
"""
    (shown,) = work(GROUPS + script, sandbox)
    after = shown["after"]
    assert after["cpu_limit"] == 0.4
    assert shown["before"]["cpu_share"] is None
    # What the process itself was charged, over the time between the readings.
    assert after["cpu_share"] == pytest.approx(shown["used"] / (shown["elapsed"] * 0.4), rel=0.2)
    assert spent(shown, "cpu_time") == pytest.approx(shown["used"], rel=0.2)
    assert 0.1 < after["cpu_share"] < 0.9


def test_a_process_that_wants_more_than_its_quota(sandbox: Sandbox) -> None:
    sandbox.allow_cpus(0.2)
    script = "join(*groups[0])\nshow(measured(lambda: burn(0.3)))"
    (shown,) = work(GROUPS + script, sandbox)
    after = shown["after"]
    assert after["cpu_limit"] == 0.2
    assert after["cpu_share"] == pytest.approx(1.0, abs=0.25)
    assert after["cpu_share"] <= 1.0
    assert spent(shown, "cpu_time") == pytest.approx(shown["used"], rel=0.2)
    # It was ready to run all the time, and was held back for what is left of it.
    assert after["throttled_share"] > 0.5
    waited = shown["elapsed"] - shown["used"]
    assert 0.3 * waited < spent(shown, "throttled_time") < (os.cpu_count() or 1) * shown["elapsed"]
    assert 0 < spent(shown, "throttled_periods") <= spent(shown, "periods")


def test_the_quota_of_an_outer_group(sandbox: Sandbox) -> None:
    sandbox.allow_cpus(0.2)
    inner = sandbox.below("inner")
    if sandbox.version == 2:
        # Version 1 refuses an inner quota above the outer one.
        inner.allow_cpus(0.5)
    script = """
outside = subprocess.Popen([sys.executable, "-c", '''
import sys, time
print(flush=True)
sys.stdin.readline()
while True: pass
'''], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
outside.stdout.readline()
join(*groups[1])
before = read()
for directory in groups[2]:
    with open(directory + "/cgroup.procs", "w") as file:
        file.write(str(outside.pid))
outside.stdin.write("\\n")
outside.stdin.flush()
time.sleep(1.0)
after = read()
outside.kill()
outside.wait()
show(dict(before=before, after=after, used=used()))
"""
    # In version 2 a group that passes controllers on holds no processes: beside the inner one is another.
    beside = sandbox.below("beside") if sandbox.version == 2 else sandbox
    (shown,) = work(GROUPS + script, sandbox, inner, beside)
    assert shown["after"]["cpu_limit"] == 0.2
    # The other process of the outer group has used it up, and this one slept.
    assert shown["after"]["cpu_share"] > 0.6
    assert shown["after"]["throttled_share"] > 0.3


def test_memory_against_its_limit(sandbox: Sandbox) -> None:
    sandbox.allow_memory(256 * MIB)
    script = f"""
join(*groups[0])
before = read()
block = fill({100 * MIB})
show(dict(before=before, after=read()))
"""
    (shown,) = work(GROUPS + script, sandbox)
    assert shown["after"]["memory_limit"] == 256 * MIB
    assert shown["after"]["out_of_memory_kills"] == 0
    assert spent(shown, "memory_used") == pytest.approx(100 * MIB, rel=0.1)
    assert spent(shown, "memory_working_set") == pytest.approx(100 * MIB, rel=0.1)


def test_page_cache_is_no_part_of_the_working_set(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.allow_memory(256 * MIB)
    script = f"""
join(*groups[0])
before = read()
def in_memory():
    with open({str(sandbox.memory / "memory.stat")!r}) as file:
        return next(int(line.split()[1]) for line in file if line.startswith("shmem "))
with open({str(tmp_path / "file")!r}, "wb") as file:
    file.write(bytes({50 * MIB}))
    file.flush()
    os.fsync(file.fileno())
    show(dict(before=before, after=read(), in_memory=in_memory()))
"""
    (shown,) = work(GROUPS + script, sandbox)
    if shown["in_memory"] > 40 * MIB:
        pytest.skip("the temporary directory is in memory: its files cannot be dropped from there")
    assert spent(shown, "memory_used") > 40 * MIB
    assert spent(shown, "memory_working_set") < 20 * MIB


def test_the_memory_limit_of_an_outer_group(sandbox: Sandbox) -> None:
    sandbox.allow_memory(128 * MIB)
    inner = sandbox.below("inner")
    inner.allow_memory(256 * MIB)
    beside = sandbox.below("beside") if sandbox.version == 2 else sandbox
    script = f"""
join(*groups[1])
before = read()
join(*groups[0])
block = fill({50 * MIB})
join(*groups[1])
after = read()
show(dict(before=before, after=after))
"""
    (shown,) = work(GROUPS + script, beside, inner)
    assert shown["after"]["memory_limit"] == 128 * MIB
    # Memory stays with the group that it was taken in: the outer one.
    assert spent(shown, "memory_used") == pytest.approx(50 * MIB, rel=0.2)


def test_a_process_that_is_killed_for_memory(sandbox: Sandbox) -> None:
    sandbox.allow_memory(64 * MIB)
    script = f"""
join(*groups[0])
before = read()
hog = subprocess.run([sys.executable, "-c", '''
import mmap
with open("/proc/self/oom_score_adj", "w") as file:
    file.write("1000")
block = mmap.mmap(-1, {256 * MIB})
for place in range(0, len(block), mmap.PAGESIZE):
    block[place] = 1
'''])
show(dict(before=before, after=read(), status=hog.returncode))
"""
    (shown,) = work(GROUPS + script, sandbox)
    if shown["status"] == 0:
        pytest.skip("the machine swaps the memory out")
    assert shown["status"] == -9
    assert shown["before"]["out_of_memory_kills"] == 0
    assert shown["after"]["out_of_memory_kills"] == 1


def test_a_process_that_is_moved_to_another_group(sandbox: Sandbox) -> None:
    first, second = sandbox.below("first"), sandbox.below("second")
    first.allow_cpus(0.5)
    second.allow_cpus(0.25)
    second.allow_memory(128 * MIB)
    script = """
join(*groups[0])
read()
burn(0.05)
first = read()
join(*groups[1])
moved = read()
burn(0.05)
show(dict(first=first, moved=moved, second=read()))
"""
    (shown,) = work(GROUPS + script, first, second)
    assert shown["first"]["cpu_limit"] == 0.5
    assert shown["first"]["memory_limit"] is None
    assert shown["first"]["cpu_share"] is not None
    # What was used before the move was used in another group.
    assert shown["moved"]["cpu_limit"] == 0.25
    assert shown["moved"]["memory_limit"] == 128 * MIB
    assert shown["moved"]["cpu_share"] is None
    assert shown["second"]["cpu_share"] is not None


def test_limits_that_change_are_seen_at_the_next_reading(sandbox: Sandbox) -> None:
    sandbox.allow_cpus(0.5)
    script = """
join(*groups[0])
show(read())
sys.stdin.readline()
show(read())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER + GROUPS + script, json.dumps([sandbox.directories])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    before = json.loads(process.stdout.readline())
    sandbox.allow_cpus(0.75)
    sandbox.allow_memory(512 * MIB)
    after = json.loads(process.communicate("\n")[0])
    assert (before["cpu_limit"], before["memory_limit"]) == (0.5, None)
    assert (after["cpu_limit"], after["memory_limit"]) == (0.75, 512 * MIB)


def test_pressure_is_that_of_the_own_group() -> None:
    root = machine_root("")
    if os.geteuid() != 0 or root is None or not os.access(root, os.W_OK):
        pytest.skip("needs root, to make a control group of version 2")
    directory = root / f"aimon-pressure-{os.getpid()}"
    directory.mkdir()
    try:
        if not (directory / "cpu.pressure").exists():
            pytest.skip("this kernel does not measure pressure")
        # Three processes that want one CPU: the kernel takes its averages every 2 s.
        script = """
join(*groups[0])
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
deadline = time.monotonic() + 30
while True:
    before = open(groups[0][0] + "/cpu.pressure").read()
    found = source.read().pressure
    after = open(groups[0][0] + "/cpu.pressure").read()
    share = found.get(("cpu", "some"), 0.0)
    if (share > 0.05 and before.split("total")[0] == after.split("total")[0]) or time.monotonic() > deadline:
        break
    time.sleep(0.1)
for hog in hogs:
    hog.kill()
    hog.wait()
show(dict(shares=[[*key, value] for key, value in found.items()], file=before))
"""
        process = subprocess.run(
            [sys.executable, "-c", WORKER + GROUPS + script, json.dumps([[str(directory)]])],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert process.returncode == 0, process.stderr
        shown = json.loads(process.stdout)
        shares = {(resource, kind): share for resource, kind, share in shown["shares"]}
        assert shares["cpu", "some"] > 0.05
        average = float(shown["file"].split("avg10=")[1].split()[0])
        assert shares["cpu", "some"] == pytest.approx(average / 100)
        assert shares["memory", "some"] == 0.0
        assert set(shares) >= {(resource, kind) for resource in ("memory", "io") for kind in ("some", "full")}
    finally:
        remove_when_empty(directory)
