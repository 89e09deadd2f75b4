"""Energy of CPU packages and their memory, through Linux's powercap files (RAPL).

AMD's CPUs are found under ``intel-rapl`` too. The same packages may show a second time under
``intel-rapl-mmio``; ``psys`` is the whole platform, packages included, and ``core`` and ``uncore`` are
parts of their package. None of these is counted, so that the readings may be added up.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from otel_aimon.resources.snapshot import Device, DeviceReading
from otel_aimon.resources.source import UnavailableError

_ZONE = re.compile(r"intel-rapl:\d+(:\d+)?")
_PACKAGE = re.compile(r"package-[\w-]+")
_MICROJOULES_PER_JOULE = 1_000_000
_VENDORS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD", "HygonGenuine": "Hygon"}


@dataclass(slots=True)
class _Counter:
    """A counter of microjoules that starts anew at its limit.

    Attributes:
        device: What it measures.
        file: Where it is read.
        limit: Its highest value; None when that is not known.
        before: What it was at the last reading.
        total: Microjoules since the first reading.
        refused: This process may not read it.
    """

    device: Device
    file: Path
    limit: int | None
    before: int | None = None
    total: int = 0
    refused: bool = False

    def joules(self) -> float | None:
        """Energy since the first reading; None when it cannot be read."""
        try:
            now = int(self.file.read_text())
        except (OSError, ValueError) as error:
            self.refused = isinstance(error, PermissionError)
            return None
        if self.before is not None:
            if now >= self.before:
                self.total += now - self.before
            elif self.limit is not None and self.limit >= self.before:
                self.total += self.limit - self.before + now
        self.before = now
        return self.total / _MICROJOULES_PER_JOULE


class RaplSource:
    """Reads the energy of each CPU package, and of its memory where that is counted apart.

    Energy counts from the first reading of this process: the files' own counters start anew every few minutes.

    Args:
        powercap: Linux's folder of power zones.
        cpuinfo: Linux's description of the CPUs.
    """

    def __init__(
        self,
        powercap: Path = Path("/sys/class/powercap"),
        cpuinfo: Path = Path("/proc/cpuinfo"),
    ) -> None:
        self._powercap = powercap
        self._cpuinfo = cpuinfo
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Count from the child's own first reading."""
        self._counters: list[_Counter] = []

    def close(self) -> None:
        """Nothing is held."""

    def read(self) -> tuple[DeviceReading, ...]:
        """Joules since the first reading, of each package and each memory that can be read.

        Raises:
            UnavailableError: When there are none.
        """
        if not self._counters:
            self._counters = self._find()
        energies = [(counter.device, counter.joules()) for counter in self._counters]
        readings = tuple(
            DeviceReading(device=device, energy=energy) for device, energy in energies if energy is not None
        )
        if readings:
            return readings
        refused = any(counter.refused for counter in self._counters)
        self._counters = []
        if refused:
            raise UnavailableError(
                f"the energy of the CPUs is readable only for root here. To grant it to all: "
                f"chmod a+r {self._powercap}/intel-rapl*/energy_uj (kernels keep it from users because it tells "
                "much about what a CPU computes).",
                level=logging.DEBUG,
            )
        raise UnavailableError("there are no energy counters of CPUs (RAPL) here.", level=logging.DEBUG)

    def _find(self) -> list[_Counter]:
        try:
            zones = sorted(path for path in self._powercap.iterdir() if _ZONE.fullmatch(path.name))
        except OSError:
            return []
        vendor = self._vendor()
        names = {zone.name: _text(zone / "name") for zone in zones}
        counters = []
        for zone in zones:
            name = names[zone.name] or ""
            package = names.get(zone.name.rpartition(":")[0]) or ""
            if _PACKAGE.fullmatch(name):
                device = Device(id=f"cpu-{name}", name=f"cpu-{name}", vendor=vendor, kind="cpu")
            elif name == "dram" and _PACKAGE.fullmatch(package):
                device = Device(
                    id=f"cpu-{package}-dram", name=f"cpu-{package}/dram", vendor=vendor, kind="memory"
                )
            else:
                continue
            counters.append(_Counter(device, zone / "energy_uj", _limit(zone)))
        return counters

    def _vendor(self) -> str:
        described = re.search(r"^vendor_id\s*:\s*(\S+)", _text(self._cpuinfo) or "", re.MULTILINE)
        return _VENDORS.get(described[1], described[1]) if described else "unknown"


def _limit(zone: Path) -> int | None:
    text = _text(zone / "max_energy_range_uj")
    return int(text) if text is not None and text.isdecimal() else None


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
