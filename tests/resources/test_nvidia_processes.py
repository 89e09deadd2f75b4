"""What this process and its children use of an NVIDIA GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_aimon.resources.nvidia import NvidiaSource
from otel_aimon.resources.nvidia_processes import ProcessIds
from otel_aimon.resources.snapshot import DeviceReading
from tests.resources.stubs import can_build
from tests.resources.stubs.nvml_machine import MIB, Machine, machine_with

pytestmark = pytest.mark.skipif(not can_build(), reason="needs a C compiler")


@pytest.fixture(scope="module")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nvml")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, library_folder: Path, tmp_path: Path) -> Iterator[Machine]:
    with machine_with(monkeypatch, library_folder, tmp_path) as machine:
        yield machine


def used(reading: DeviceReading) -> tuple[int | None, float | None, int | None]:
    return reading.process_memory, reading.process_utilization, reading.processes


def read(machine: Machine) -> tuple[int | None, float | None, int | None]:
    (reading,) = machine.read()
    return used(reading)


def test_a_child_counts_and_a_stranger_does_not(machine: Machine) -> None:
    machine.set(0, "processes.compute", f"101:{MIB},102:{2 * MIB},200:{4 * MIB}")
    assert read(machine) == (3 * MIB, None, 3)


def test_a_process_that_uses_nothing_has_no_value(machine: Machine) -> None:
    machine.set(0, "processes.compute", f"200:{4 * MIB}")
    machine.set(0, "process.utilization", "1000:200:50")
    read(machine)
    assert read(machine) == (None, None, 1)


def test_a_process_in_two_lists_counts_once(machine: Machine) -> None:
    machine.set(0, "processes.compute", f"100:{MIB},200:{MIB}")
    machine.set(0, "processes.graphics", f"100:{MIB},300:{MIB}")
    machine.set(0, "processes.mps", f"102:{2 * MIB}")
    assert read(machine) == (3 * MIB, None, 4)


def test_memory_that_the_driver_does_not_know_is_absent(machine: Machine) -> None:
    machine.set(0, "processes.compute", f"100:na,102:{MIB}")
    assert read(machine) == (None, None, 2)


def test_the_share_is_since_the_last_reading(machine: Machine) -> None:
    machine.set(0, "processes.compute", f"100:{MIB}")
    machine.set(0, "process.utilization", "1000:100:80")
    assert read(machine)[1] is None
    machine.set(0, "process.utilization", "1000:100:80,2000:100:30,2000:102:90,2000:200:99")
    # The child has ended: it is not listed any more.
    assert read(machine)[1] == 0.3
    # Nothing new: nothing ran.
    assert read(machine)[1] == 0.0
    machine.set(0, "process.utilization", "3000:100:4294967295,3000:200:10")
    assert read(machine)[1] == 0.0


def test_shares_of_several_processes_add_up(machine: Machine) -> None:
    machine.set(0, "processes.compute", f"100:{MIB},101:{MIB},102:{MIB}")
    read(machine)
    machine.set(0, "process.utilization", "2000:100:50,2000:101:40,2000:102:20")
    assert read(machine)[1] == 1.0


def test_an_empty_list_as_pynvml_reports_it_is_no_error(machine: Machine) -> None:
    machine.set(0, "processes.compute", f"100:{MIB}")
    machine.set(0, "process.utilization.empty", 0)
    read(machine)
    assert read(machine) == (MIB, 0.0, 1)


def container(machine: Machine, pid: int) -> None:
    """The driver's numbers are not those of this process, which is ``pid`` in its own."""
    (machine.proc / "self/status").write_text(f"NSpid:\t{pid}\n")
    (machine.proc / "self/ns").mkdir()
    (machine.proc / "self/ns/pid").touch()


class TestContainer:
    def test_numbers_of_the_host_say_nothing(self, machine: Machine) -> None:
        container(machine, os.getpid())
        machine.set(0, "processes.compute", f"53211:{MIB},53212:{MIB}")
        assert read(machine) == (None, None, 2)

    def test_a_number_of_the_host_that_is_ours_by_chance_says_nothing(self, machine: Machine) -> None:
        container(machine, os.getpid())
        (machine.proc / str(os.getpid())).mkdir()
        machine.set(0, "processes.compute", f"{os.getpid()}:{MIB},53212:{MIB}")
        assert read(machine) == (None, None, 2)

    def test_a_driver_that_translates_is_understood(self, machine: Machine) -> None:
        container(machine, os.getpid())
        (machine.proc / str(os.getpid())).mkdir()
        machine.set(0, "processes.compute", f"{os.getpid()}:{MIB},200:{MIB}")
        assert read(machine) == (MIB, None, 2)

    def test_none_is_not_known_to_be_none(self, machine: Machine) -> None:
        container(machine, os.getpid())
        assert read(machine) == (None, None, None)

    def test_the_processes_of_the_host_may_be_mounted(self, machine: Machine) -> None:
        ids = ProcessIds(machine.proc)
        assert ids.of_host
        assert ids.ours([1, 100, 101, 102, 200, 4711]) == {100, 101, 102}


def test_real_processes(machine: Machine) -> None:
    """On the host, or in a container whose driver translates."""
    machine.source = NvidiaSource(root=machine.folder, clock=lambda: machine.now)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        own = os.getpid()
        machine.set(0, "processes.compute", f"{own}:{MIB},{child.pid}:{2 * MIB}")
        assert read(machine) == (3 * MIB, None, 2)
        machine.set(0, "processes.compute", f"{own}:{MIB},1:{2 * MIB}")
        assert read(machine) == (MIB, 0.0, 2)
    finally:
        child.communicate(b"\n")


def test_without_proc_there_is_one_numbering(tmp_path: Path) -> None:
    ids = ProcessIds(tmp_path / "none")
    assert ids.of_host
    assert ids.ours([os.getpid(), 1]) == {os.getpid()}
