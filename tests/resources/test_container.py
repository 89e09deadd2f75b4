"""Control groups as recorded on real kernels, and what may go wrong with them.

test_container_limits.py holds readings to limits that the kernel enforces.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_aimon.resources.cgroup import Group, find, own_groups
from otel_aimon.resources.cgroup_files import number, pressure, table
from otel_aimon.resources.container import ContainerSource, container_id
from otel_aimon.resources.snapshot import ContainerReading
from otel_aimon.resources.source import UnavailableError
from tests.resources.cgroups import HERE, lay_out

CONTAINER = "4f2d9d8a1c0b7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f"
MIB = 1 << 20

RECORDED = {
    "v1_docker": ContainerReading(
        cpu_limit=0.5,
        cpu_time=0.811140002,
        throttled_time=0.547101039,
        throttled_periods=15,
        periods=17,
        memory_limit=256 * MIB,
        memory_used=41037824,
        memory_working_set=41033728,
        out_of_memory_kills=1,
    ),
    "v1_docker_private": ContainerReading(
        cpu_limit=0.5,
        cpu_time=1.512510806,
        throttled_time=0.853092317,
        throttled_periods=27,
        periods=31,
        memory_limit=256 * MIB,
        memory_used=53796864,
        memory_working_set=41062400,
        out_of_memory_kills=1,
    ),
    # Pod and container have the same quota: the pod's is full first. Its memory limit is tighter, and other
    # processes of the pod count in it.
    "v1_kubernetes": ContainerReading(
        cpu_limit=0.4,
        cpu_time=0.533308149,
        throttled_time=0.223041218,
        throttled_periods=12,
        periods=15,
        memory_limit=256 * MIB,
        memory_used=88862720,
        memory_working_set=76279808,
        out_of_memory_kills=0,
    ),
    # The limits are those of the slice, and the pressure is the unit's.
    "hybrid_systemd": ContainerReading(
        cpu_limit=0.3,
        cpu_time=1.842441355,
        throttled_time=8.584715792,
        throttled_periods=60,
        periods=61,
        memory_limit=256 * MIB,
        memory_used=53751808,
        memory_working_set=41168896,
        out_of_memory_kills=0,
        pressure={
            ("cpu", "some"): 0.3751,
            ("cpu", "full"): 0.3472,
            ("memory", "some"): 0.0,
            ("memory", "full"): 0.0,
            ("io", "some"): 0.0,
            ("io", "full"): 0.0,
        },
    ),
    "v2_docker": ContainerReading(
        cpu_limit=0.5,
        cpu_time=4.25,
        throttled_time=4.13,
        throttled_periods=84,
        periods=85,
        memory_limit=256 * MIB,
        memory_used=61313024,
        memory_working_set=40615936,
        out_of_memory_kills=1,
    ),
    "v2_docker_host": ContainerReading(
        cpu_limit=0.5,
        cpu_time=2.92,
        throttled_time=2.86,
        throttled_periods=58,
        periods=58,
        memory_limit=256 * MIB,
        memory_used=43982848,
        memory_working_set=40562688,
        out_of_memory_kills=1,
    ),
    # The container may use 0.6 CPUs and 256 MiB, the pod 0.4 and 128, and its sidecar has 30 MiB of them.
    "v2_kubernetes": ContainerReading(
        cpu_limit=0.4,
        cpu_time=1.66,
        throttled_time=2.37,
        throttled_periods=40,
        periods=44,
        memory_limit=128 * MIB,
        memory_used=96436224,
        memory_working_set=75857920,
        out_of_memory_kills=0,
    ),
    # The quota is on the user's slice, MemoryHigh on app.slice, and the own group has no controllers.
    "v2_systemd": ContainerReading(
        cpu_limit=0.6,
        cpu_time=1.51,
        throttled_time=0.96,
        throttled_periods=24,
        periods=26,
        memory_limit=128 * MIB,
        memory_used=60981248,
        memory_working_set=40386560,
        out_of_memory_kills=0,
    ),
}
NOT_TO_BE_SEEN = ("v2_root", "hybrid_root", "v2_elsewhere")

POD = (
    "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b9f3c52_6d1e_4c83_9a57_2f8e41d7c605.slice"
)
CLOCK_STEP = 2.0


class Clock:
    """Moves on by 2 s when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def move(self) -> None:
        self.now += CLOCK_STEP


@pytest.fixture
def clock() -> Clock:
    return Clock()


def source_of(name: str, root: Path, clock: Clock | None = None) -> ContainerSource:
    return ContainerSource(lay_out(name, root), clock or Clock())


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_groups(name: str, tmp_path: Path) -> None:
    assert source_of(name, tmp_path).read() == RECORDED[name]


def test_every_recording_is_tested() -> None:
    assert {path.stem for path in HERE.glob("*.txt")} == {*RECORDED, *NOT_TO_BE_SEEN}


@pytest.mark.parametrize("name", NOT_TO_BE_SEEN)
def test_where_there_is_no_group_to_be_seen(name: str, tmp_path: Path) -> None:
    # Not even the CPU time of the root is given: that of the machine is none of a container.
    with pytest.raises(UnavailableError, match="in no control group of its own") as raised:
        source_of(name, tmp_path).read()
    assert raised.value.level == logging.DEBUG


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="this system has no control groups") as raised:
        ContainerSource(tmp_path).read()
    assert raised.value.level == logging.DEBUG


# What happens between two readings


def write(root: Path, name: str, text: str) -> None:
    (root / "sys/fs/cgroup" / name).write_text(text)


def cpu_stat(usage: float, periods: int, throttled: int) -> str:
    return (
        f"usage_usec {int(usage * 1e6)}\nuser_usec 0\nnr_periods {periods}\nnr_throttled {throttled}\n"
        f"throttled_usec {throttled * 50_000}\n"
    )


def test_shares_are_of_the_time_since_the_last_reading(tmp_path: Path, clock: Clock) -> None:
    source = source_of("v2_docker", tmp_path, clock)
    write(tmp_path, "cpu.stat", cpu_stat(10.0, 100, 50))
    first = source.read()
    assert (first.cpu_share, first.throttled_share) == (None, None)
    clock.move()
    write(tmp_path, "cpu.stat", cpu_stat(10.25, 120, 55))
    second = source.read()
    # 0.25 s of the 2 s * 0.5 CPUs.
    assert (second.cpu_share, second.throttled_share) == (0.25, 0.25)
    clock.move()
    third = source.read()
    # Nothing ran: there were no periods to be throttled in.
    assert (third.cpu_share, third.throttled_share) == (0.0, None)


def test_a_share_is_at_most_1(tmp_path: Path, clock: Clock) -> None:
    source = source_of("v2_docker", tmp_path, clock)
    write(tmp_path, "cpu.stat", cpu_stat(10.0, 100, 50))
    source.read()
    clock.move()
    write(tmp_path, "cpu.stat", cpu_stat(11.1, 120, 70))
    assert source.read().cpu_share == 1.0


def test_without_a_quota_there_is_no_share(tmp_path: Path, clock: Clock) -> None:
    source = source_of("v2_docker", tmp_path, clock)
    write(tmp_path, "cpu.max", "max 100000\n")
    source.read()
    clock.move()
    reading = source.read()
    assert (reading.cpu_limit, reading.cpu_share) == (None, None)
    assert reading.cpu_time == 4.25


def test_counters_that_start_again_give_no_share(tmp_path: Path, clock: Clock) -> None:
    source = source_of("v2_docker", tmp_path, clock)
    source.read()
    clock.move()
    write(tmp_path, "cpu.stat", cpu_stat(0.1, 1, 0))
    reading = source.read()
    assert (reading.cpu_time, reading.cpu_share, reading.throttled_share) == (0.1, None, None)


def test_the_use_of_two_groups_is_not_compared(tmp_path: Path, clock: Clock) -> None:
    source = source_of("v2_kubernetes", tmp_path, clock)
    write(tmp_path, f"{POD}/cpu.max", "max 100000\n")
    reading = source.read()
    # The container's own quota.
    assert (reading.cpu_limit, reading.cpu_time) == (0.6, 1.06)
    clock.move()
    write(tmp_path, f"{POD}/cpu.max", "40000 100000\n")
    reading = source.read()
    # The pod's is tighter; the pod has used more all along.
    assert (reading.cpu_limit, reading.cpu_time) == (0.4, 1.66)
    assert (reading.cpu_share, reading.throttled_share) == (None, None)


def test_kills_are_those_of_the_own_group(tmp_path: Path) -> None:
    source = source_of("v2_kubernetes", tmp_path)
    write(tmp_path, f"{POD}/memory.events", "oom_kill 5\n")
    write(tmp_path, f"{POD}/cri-containerd-{CONTAINER}.scope/memory.events", "oom_kill 2\n")
    reading = source.read()
    assert (reading.memory_limit, reading.out_of_memory_kills) == (128 * MIB, 2)


def test_a_fork_starts_from_zero(tmp_path: Path, clock: Clock) -> None:
    source = source_of("v2_docker", tmp_path, clock)
    source.read()
    clock.move()
    source.after_fork_in_child()
    reading = source.read()
    assert (reading.cpu_limit, reading.cpu_share) == (0.5, None)
    source.close()


def test_a_process_that_is_moved_is_found_again(tmp_path: Path, clock: Clock) -> None:
    source = source_of("v2_systemd", tmp_path, clock)
    source.read()
    clock.move()
    (tmp_path / "proc/self/cgroup").write_text("0::/user.slice\n")
    reading = source.read()
    assert (reading.cpu_limit, reading.memory_limit, reading.memory_used) == (None, None, 61243392)
    assert reading.cpu_share is None


def test_files_that_vanish_cost_their_values_only(tmp_path: Path) -> None:
    source = source_of("v2_docker", tmp_path)
    everything = source.read()
    for name, lost in (
        ("memory.events", ["out_of_memory_kills"]),
        ("memory.stat", ["memory_working_set"]),
        ("memory.current", ["memory_used"]),
        ("cpu.stat", ["cpu_time", "throttled_time", "throttled_periods", "periods"]),
        ("memory.max", ["memory_limit"]),
    ):
        (tmp_path / "sys/fs/cgroup" / name).unlink()
        everything = dataclasses.replace(everything, **dict.fromkeys(lost))
        assert source.read() == everything


def test_groups_that_vanish_are_read_again_when_they_are_back(tmp_path: Path, clock: Clock) -> None:
    source = source_of("v2_docker", tmp_path, clock)
    source.read()
    shutil.rmtree(tmp_path / "sys")
    for _ in range(2):
        with pytest.raises(UnavailableError):
            source.read()
    lay_out("v2_docker", tmp_path)
    assert source.read() == RECORDED["v2_docker"]


def test_groups_that_are_mounted_elsewhere_are_found_again(tmp_path: Path) -> None:
    source = source_of("v2_docker", tmp_path)
    source.read()
    (tmp_path / "sys/fs/cgroup").rename(tmp_path / "cgroup2")
    mounts = tmp_path / "proc/self/mountinfo"
    mounts.write_text(mounts.read_text().replace("/sys/fs/cgroup", "/cgroup2"))
    with pytest.raises(UnavailableError, match="the control groups of the process tell nothing"):
        source.read()
    assert source.read() == RECORDED["v2_docker"]


def test_nothing_may_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of("v2_docker", tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # The tests may run as root, who may read everything.
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UnavailableError, match="this system has no control groups"):
        source.read()


# Layouts that differ from a recorded one in a line or two


def test_memory_high_and_max_on_one_group(tmp_path: Path) -> None:
    source = source_of("v2_docker", tmp_path)
    write(tmp_path, "memory.high", f"{200 * MIB}\n")
    assert source.read().memory_limit == 200 * MIB
    write(tmp_path, "memory.max", f"{100 * MIB}\n")
    assert source.read().memory_limit == 100 * MIB
    write(tmp_path, "memory.max", "max\n")
    write(tmp_path, "memory.high", "max\n")
    assert source.read().memory_limit is None


def test_version_1_without_limits(tmp_path: Path) -> None:
    source = source_of("v1_docker", tmp_path)
    write(tmp_path, "cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path, "memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert source.read() == dataclasses.replace(RECORDED["v1_docker"], cpu_limit=None, memory_limit=None)


def test_a_cache_that_shrank_between_two_files(tmp_path: Path) -> None:
    source = source_of("v2_docker", tmp_path)
    write(tmp_path, "memory.current", "4096\n")
    reading = source.read()
    assert (reading.memory_used, reading.memory_working_set) == (4096, 0)


def test_a_path_that_leads_out_of_the_mount(tmp_path: Path) -> None:
    source = source_of("v2_elsewhere", tmp_path)
    outside = tmp_path / "sys/fs/other.service"
    outside.mkdir()
    for name in ("cgroup.controllers", "cgroup.events", "cpu.stat", "memory.stat"):
        shutil.copy(tmp_path / "sys/fs/cgroup" / name, outside)
    with pytest.raises(UnavailableError):
        source.read()


def test_controllers_that_share_a_hierarchy(tmp_path: Path) -> None:
    root = lay_out("v1_docker_private", tmp_path)
    groups = root / "sys/fs/cgroup"
    (groups / "cpuacct/cpuacct.usage").rename(groups / "cpu/cpuacct.usage")
    shutil.rmtree(groups / "cpuacct")
    (groups / "cpu").rename(groups / "cpu,cpuacct")
    own, mounts = root / "proc/self/cgroup", root / "proc/self/mountinfo"
    own.write_text(own.read_text().replace("2:cpuacct:/\n1:cpu:/\n", "1:cpu,cpuacct:/\n"))
    mount = "49 47 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    memory = [line for line in mounts.read_text().splitlines(keepends=True) if line.endswith("memory\n")]
    mounts.write_text(mount + "".join(memory))
    assert ContainerSource(root).read() == RECORDED["v1_docker_private"]


def test_a_process_that_is_accounted_elsewhere_has_no_cpu_time(tmp_path: Path, clock: Clock) -> None:
    root = lay_out("v1_kubernetes", tmp_path)
    own = root / "proc/self/cgroup"
    own.write_text(
        "".join(
            "2:cpuacct:/kubepods\n" if ":cpuacct:" in line else line
            for line in own.read_text().splitlines(keepends=True)
        )
    )
    source = ContainerSource(root, clock)
    source.read()
    clock.move()
    reading = source.read()
    assert (reading.cpu_limit, reading.cpu_time, reading.cpu_share) == (0.4, None, None)
    assert reading.periods == 15


def test_a_path_that_is_not_below_the_mount(tmp_path: Path) -> None:
    root = lay_out("v2_docker", tmp_path)
    # A kernel in user space shows the path on the host, and mounts what is the container's.
    (root / "proc/self/cgroup").write_text(f"0::/kubepods/{CONTAINER}\n")
    assert ContainerSource(root).read() == RECORDED["v2_docker"]
    # As long as the group lists this process.
    write(root, "cgroup.procs", "1\n")
    with pytest.raises(UnavailableError):
        ContainerSource(root).read()


def test_a_mount_point_with_a_space(tmp_path: Path) -> None:
    root = lay_out("v2_docker", tmp_path)
    (root / "sys/fs/cgroup").rename(root / "sys/fs/my groups")
    mounts = root / "proc/self/mountinfo"
    mounts.write_text(mounts.read_text().replace("/sys/fs/cgroup", "/sys/fs/my\\040groups"))
    assert ContainerSource(root).read() == RECORDED["v2_docker"]


def test_the_mount_that_shows_the_most_is_taken(tmp_path: Path) -> None:
    root = lay_out("v2_systemd", tmp_path)
    mounts = root / "proc/self/mountinfo"
    # A part of the hierarchy is mounted a second time: with it alone the quota would not be seen.
    part = "19 18 0:17 /user.slice/user-1000.slice/user@1000.service /part rw - cgroup2 cgroup rw\n"
    mounts.write_text(part + mounts.read_text())
    shutil.copytree(root / "sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service", root / "part")
    assert ContainerSource(root).read() == RECORDED["v2_systemd"]
    mounts.write_text(part)
    assert ContainerSource(root).read().cpu_limit is None


# The container's ID


@pytest.mark.parametrize("name", [*RECORDED, *NOT_TO_BE_SEEN])
def test_the_id_of_a_recorded_container(name: str, tmp_path: Path) -> None:
    known = {"v1_docker", "v1_kubernetes", "v2_docker_host", "v2_kubernetes"}
    assert container_id(lay_out(name, tmp_path)) == (CONTAINER if name in known else None)


DOCKER_HOSTS = (
    f"60 50 8:1 /var/lib/docker/containers/{CONTAINER}/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n"
)
KUBELET_HOSTS = (
    "61 50 8:1 /var/lib/kubelet/pods/0b9f3c52/etc-hosts /etc/hosts rw - ext4 /dev/sda1 rw\n" + DOCKER_HOSTS
)


@pytest.mark.parametrize("mounts, expected", [(DOCKER_HOSTS, CONTAINER), (KUBELET_HOSTS, None), ("", None)])
def test_the_id_in_a_namespace_of_its_own(mounts: str, expected: str | None, tmp_path: Path) -> None:
    root = lay_out("v2_docker", tmp_path)
    file = root / "proc/self/mountinfo"
    file.write_text(file.read_text() + mounts)
    assert container_id(root) == expected


@pytest.mark.parametrize(
    "path, expected",
    [
        (f"/system.slice/docker-{CONTAINER}.scope", CONTAINER),
        (f"/kubepods/besteffort/pod0b9f3c52/{CONTAINER}", CONTAINER),
        (f"/machine.slice/libpod-{CONTAINER}.scope/container", CONTAINER),
        (f"/kubepods-pod0b9f.slice:cri-containerd:{CONTAINER}", CONTAINER),
        (f"/docker/{'a' * 64}/docker/{CONTAINER}", CONTAINER),
        ("/user.slice/user-1000.slice/session-3.scope", None),
        (f"/{CONTAINER}ff", None),
    ],
)
def test_the_id_in_the_path_of_the_group(path: str, expected: str | None, tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"0::{path}\n")
    assert container_id(tmp_path) == expected


# Whatever the files say

WORDS = st.sampled_from(
    ["max", "-1", "0", "100000", "9" * 25, "1_0", "\u0661", "some", "full", "avg10=", "avg10=1.5", "avg10=nan",
     "oom_kill", "usage_usec", "nr_periods", " ", "\n", "\t", ":", "/", "..", " - ", "cgroup2", "cgroup",
     "cpu,memory", "\0", "\\040"]
)  # fmt: skip
TEXTS = st.one_of(st.text(), st.lists(WORDS).map("".join), st.lists(WORDS).map(" ".join))


@given(TEXTS)
def test_numbers_are_counts_or_absent(text: str) -> None:
    found = number(text)
    assert found is None or (found >= 0 and str(found) == (text.strip().lstrip("0") or "0"))


@given(TEXTS)
def test_tables_hold_counts(text: str) -> None:
    assert all(value >= 0 for value in table(text).values())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS)
def test_pressures_are_shares(tmp_path: Path, text: str) -> None:
    (tmp_path / "cpu.pressure").write_bytes(text.encode("utf-8", "surrogatepass"))
    found = pressure(Group("/", str(tmp_path)), "cpu")
    assert found.keys() <= {"some", "full"}
    assert all(0.0 <= share <= 1.0 for share in found.values())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["cpu.max", "cpu.stat", "memory.max", "memory.high", "memory.current",
                                        "memory.stat", "memory.events", "cpu.pressure"]), TEXTS))  # fmt: skip
def test_a_reading_is_made_of_what_can_be_understood(tmp_path: Path, files: dict[str, str]) -> None:
    source = source_of("v2_docker", tmp_path)
    for name, text in files.items():
        (tmp_path / "sys/fs/cgroup" / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        readings: list[Any] = [source.read(), source.read()]
    except UnavailableError:
        return
    for reading in readings:
        values = dataclasses.asdict(reading)
        pressures = values.pop("pressure")
        assert all(value is None or value >= 0 for value in [*values.values(), *pressures.values()])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, TEXTS)
def test_groups_are_found_or_not(tmp_path: Path, own: str, mounts: str) -> None:
    lay_out("v2_docker", tmp_path)
    (tmp_path / "proc/self/cgroup").write_bytes(own.encode("utf-8", "surrogatepass"))
    (tmp_path / "proc/self/mountinfo").write_bytes(mounts.encode("utf-8", "surrogatepass"))
    groups = find(tmp_path, own_groups(tmp_path) or "")
    assert all(
        Path(group.directory).is_relative_to(tmp_path)
        for lineage in (groups.unified, *groups.controllers.values())
        for group in lineage
    )
