"""CPU energy from a tree of powercap files like Linux's."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.resources import rapl
from otel_aimon.resources.rapl import RaplSource
from otel_aimon.resources.snapshot import Device, DeviceReading
from otel_aimon.resources.source import UnavailableError

LIMIT = 262_143_328_850

PACKAGE_0 = Device(id="cpu-package-0", name="cpu-package-0", vendor="Intel", kind="cpu")
PACKAGE_1 = Device(id="cpu-package-1", name="cpu-package-1", vendor="Intel", kind="cpu")
DRAM_0 = Device(id="cpu-package-0-dram", name="cpu-package-0/dram", vendor="Intel", kind="memory")


class Powercap:
    """Zones under a folder."""

    def __init__(self, folder: Path, vendor: str = "GenuineIntel") -> None:
        self.folder = folder / "powercap"
        self.folder.mkdir()
        self.cpuinfo = folder / "cpuinfo"
        self.cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: some CPU\n")
        self.source = RaplSource(self.folder, self.cpuinfo)

    def zone(self, zone: str, name: str, microjoules: object, limit: object = LIMIT) -> None:
        path = self.folder / zone
        path.mkdir(exist_ok=True)
        (path / "name").write_text(f"{name}\n")
        (path / "energy_uj").write_text(f"{microjoules}\n")
        (path / "max_energy_range_uj").write_text(f"{limit}\n")

    def energies(self) -> dict[str, float | None]:
        return {reading.device.id: reading.energy for reading in self.source.read()}


@pytest.fixture
def powercap(tmp_path: Path) -> Powercap:
    return Powercap(tmp_path)


def test_packages_and_their_memory_are_counted_from_the_first_reading(powercap: Powercap) -> None:
    powercap.zone("intel-rapl:0", "package-0", 5_000_000)
    powercap.zone("intel-rapl:0:0", "dram", 70_000)
    powercap.zone("intel-rapl:1", "package-1", 9_000_000)
    assert powercap.source.read() == (
        DeviceReading(device=PACKAGE_0, energy=0.0),
        DeviceReading(device=DRAM_0, energy=0.0),
        DeviceReading(device=PACKAGE_1, energy=0.0),
    )
    powercap.zone("intel-rapl:0", "package-0", 6_500_000)
    powercap.zone("intel-rapl:0:0", "dram", 80_000)
    assert powercap.source.read() == (
        DeviceReading(device=PACKAGE_0, energy=1.5),
        DeviceReading(device=DRAM_0, energy=0.01),
        DeviceReading(device=PACKAGE_1, energy=0.0),
    )


def test_nothing_is_counted_twice(powercap: Powercap) -> None:
    powercap.zone("intel-rapl:0", "package-0", 1)
    powercap.zone("intel-rapl:0:0", "core", 1)
    powercap.zone("intel-rapl:0:1", "uncore", 1)
    powercap.zone("intel-rapl:1", "psys", 1)
    powercap.zone("intel-rapl:1:0", "dram", 1)
    powercap.zone("intel-rapl-mmio:0", "package-0", 1)
    (powercap.folder / "intel-rapl").mkdir()
    (powercap.folder / "dtpm").mkdir()
    assert powercap.energies() == {"cpu-package-0": 0.0}


def test_dies_of_a_package_are_each_their_own(powercap: Powercap) -> None:
    powercap.zone("intel-rapl:0", "package-0-die-0", 1)
    powercap.zone("intel-rapl:1", "package-0-die-1", 1)
    assert powercap.energies() == {"cpu-package-0-die-0": 0.0, "cpu-package-0-die-1": 0.0}


@pytest.mark.parametrize(
    ("described", "vendor"),
    [("AuthenticAMD", "AMD"), ("HygonGenuine", "Hygon"), ("CentaurHauls", "CentaurHauls")],
)
def test_the_vendor_is_that_of_the_cpu(tmp_path: Path, described: str, vendor: str) -> None:
    powercap = Powercap(tmp_path, described)
    powercap.zone("intel-rapl:0", "package-0", 1)
    assert [reading.device.vendor for reading in powercap.source.read()] == [vendor]
    powercap.cpuinfo.unlink()
    powercap.source.after_fork_in_child()
    assert [reading.device.vendor for reading in powercap.source.read()] == ["unknown"]


def test_a_counter_that_starts_anew_goes_on(powercap: Powercap) -> None:
    powercap.zone("intel-rapl:0", "package-0", LIMIT - 1_000_000)
    powercap.source.read()
    powercap.zone("intel-rapl:0", "package-0", 2_000_000)
    assert powercap.energies() == {"cpu-package-0": 3.0}


@given(steps=st.lists(st.integers(min_value=0, max_value=999), max_size=30))
def test_the_sum_of_all_steps_is_counted(steps: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    powercap = Powercap(tmp_path_factory.mktemp("rapl"))
    raw = 500
    powercap.zone("intel-rapl:0", "package-0", raw, limit=1000)
    powercap.source.read()
    for step in steps:
        raw = (raw + step) % 1000
        powercap.zone("intel-rapl:0", "package-0", raw, limit=1000)
        powercap.source.read()
    assert powercap.energies() == {"cpu-package-0": pytest.approx(sum(steps) / 1e6)}


@pytest.mark.parametrize("limit", ["", "unknown", 100])
def test_a_step_back_without_a_limit_that_explains_it_adds_nothing(powercap: Powercap, limit: object) -> None:
    powercap.zone("intel-rapl:0", "package-0", 5_000_000, limit)
    powercap.source.read()
    powercap.zone("intel-rapl:0", "package-0", 4_000_000, limit)
    assert powercap.energies() == {"cpu-package-0": 0.0}
    powercap.zone("intel-rapl:0", "package-0", 6_000_000, limit)
    assert powercap.energies() == {"cpu-package-0": 2.0}


def test_a_child_counts_from_its_own_first_reading(powercap: Powercap) -> None:
    powercap.zone("intel-rapl:0", "package-0", 1_000_000)
    powercap.source.read()
    powercap.source.after_fork_in_child()
    powercap.zone("intel-rapl:0", "package-0", 2_000_000)
    assert powercap.energies() == {"cpu-package-0": 0.0}
    powercap.source.close()


def test_without_counters_there_is_nothing_to_tell(powercap: Powercap) -> None:
    for source in (powercap.source, RaplSource(powercap.folder / "missing")):
        with pytest.raises(UnavailableError, match="no energy counters of CPUs") as unavailable:
            source.read()
        assert unavailable.value.level == logging.DEBUG


def refuse(monkeypatch: pytest.MonkeyPatch, *zones: str) -> None:
    """As Linux does to all but root, whom no test can be kept from being."""
    read_text = Path.read_text

    def refusing(path: Path, *args: object, **kwargs: object) -> str:
        if path.name == "energy_uj" and path.parent.name in zones:
            raise PermissionError(13, "Permission denied")
        return read_text(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(rapl.Path, "read_text", refusing)


def test_for_root_only_says_how_to_grant_it(powercap: Powercap, monkeypatch: pytest.MonkeyPatch) -> None:
    powercap.zone("intel-rapl:0", "package-0", 1)
    with monkeypatch.context() as patch:
        refuse(patch, "intel-rapl:0")
        with pytest.raises(
            UnavailableError, match=r"chmod a\+r .*/powercap/intel-rapl\*/energy_uj"
        ) as unavailable:
            powercap.source.read()
        assert unavailable.value.level == logging.DEBUG
    assert powercap.energies() == {"cpu-package-0": 0.0}


def test_what_can_be_read_is_read(powercap: Powercap, monkeypatch: pytest.MonkeyPatch) -> None:
    powercap.zone("intel-rapl:0", "package-0", 1)
    powercap.zone("intel-rapl:0:0", "dram", "not a number")
    powercap.zone("intel-rapl:1", "package-1", 1)
    refuse(monkeypatch, "intel-rapl:0")
    assert powercap.energies() == {"cpu-package-1": 0.0}
