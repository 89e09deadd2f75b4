"""What the readings of a process, its limits and its devices say to the alert rules."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from otel_aimon import semconv
from otel_aimon.analysis.evidence import Evidence, Identity
from otel_aimon.analysis.forecast import ExhaustionForecast

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_aimon.resources.snapshot import DeviceReading, Snapshot

WINDOW = 60.0
"""Seconds over which throttled samples are counted."""

REASONS = {
    "hw_slowdown": "thermal",
    "sw_thermal": "thermal",
    "hw_thermal": "thermal",
    "hw_power_brake": "power_brake",
    "sw_power_cap": "power_cap",
}
"""The drivers' reasons by what is wrong. A power cap alone is normal under full load."""

_HARMFUL = ("thermal", "power_brake")
_FAULTS = ("xid", "uncorrected")
_NOBODY: Identity = ()


class ThrottleShare:
    """In which share of the last samples a device was throttled, by what is wrong."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[tuple[float, frozenset[str]]] = deque()

    def add(self, now: float, reasons: frozenset[str]) -> None:
        """Take a sample.

        Args:
            now: Monotonic seconds.
            reasons: As the driver names them.
        """
        self._samples.append((now, frozenset(REASONS[each] for each in reasons if each in REASONS)))
        while self._samples[0][0] <= now - WINDOW:
            self._samples.popleft()

    def of(self, *wrongs: str) -> float:
        """Share of the samples in which one of ``wrongs`` held the clocks down."""
        # A copy: the sampler's thread adds while another one asks.
        samples = tuple(self._samples)
        return sum(not found.isdisjoint(wrongs) for _, found in samples) / max(1, len(samples))

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self._samples)


class _DeviceWatch:
    """What is remembered of one device."""

    __slots__ = ("faults", "memory", "throttled")

    def __init__(self) -> None:
        self.throttled = ThrottleShare()
        self.memory = ExhaustionForecast()
        self.faults: int | None = None


class ResourceWatch:
    """Turns each snapshot into evidence."""

    def __init__(self) -> None:
        self._memory = ExhaustionForecast()
        self._devices: dict[str, _DeviceWatch] = {}

    def evidence(self, snapshot: Snapshot, now: float, *, waiting: int | None = None) -> list[Evidence]:
        """What a snapshot says.

        Args:
            snapshot: Of this process.
            now: Monotonic seconds.
            waiting: Requests that wait in queues, where that is known.
        """
        found = list(self._process(snapshot, now))
        for reading in snapshot.devices:
            if reading.visible and reading.device.kind == "gpu":
                found += self._device(reading, now, waiting)
        present = {reading.device.id for reading in snapshot.devices}
        self._devices = {id_: watch for id_, watch in self._devices.items() if id_ in present}
        return found

    def throttled(self, device: str) -> ThrottleShare | None:
        """The throttling of a device, by its ``hw.id``."""
        watch = self._devices.get(device)
        return watch.throttled if watch is not None else None

    def _process(self, snapshot: Snapshot, now: float) -> Iterator[Evidence]:
        memory, cpu = snapshot.memory_share, snapshot.cpu_share
        if memory is not None:
            yield Evidence("memory.high", _NOBODY, memory, value=memory)
            seconds = self._memory.add(now, memory, 1.0)
            if seconds is not None:
                yield Evidence("memory.exhaustion", _NOBODY, seconds, value=seconds, baseline=memory)
        if cpu is not None:
            yield Evidence("cpu.saturated", _NOBODY, cpu, value=cpu)
        container = snapshot.container
        if container is not None and container.throttled_share is not None:
            share = container.throttled_share
            yield Evidence("cpu.throttled", _NOBODY, share, value=share)

    def _device(self, reading: DeviceReading, now: float, waiting: int | None) -> Iterator[Evidence]:
        watch = self._devices.setdefault(reading.device.id, _DeviceWatch())
        who: Identity = ((semconv.HW_ID, reading.device.id),)
        if reading.throttle_reasons is not None:
            yield from _throttling(who, watch.throttled, reading.throttle_reasons, now)
        if reading.memory_share is not None:
            yield Evidence("gpu.memory.high", who, reading.memory_share, value=reading.memory_share)
            seconds = watch.memory.add(now, reading.memory_share, 1.0)
            if seconds is not None:
                yield Evidence(
                    "memory.exhaustion", who, seconds, value=seconds, baseline=reading.memory_share
                )
        yield from _faults(who, watch, reading)
        active = reading.activity.get("sm", reading.utilization.get("general"))
        if active is not None and waiting is not None:
            # Nothing waits: then an idle device is idle, and starves for nothing.
            yield Evidence("gpu.idle_under_load", who, active if waiting else 1.0, value=active)


def _throttling(
    who: Identity, throttled: ThrottleShare, reasons: frozenset[str], now: float
) -> Iterator[Evidence]:
    throttled.add(now, reasons)
    for rule, wrongs in (("gpu.throttled", _HARMFUL), ("gpu.power_capped", ("power_cap",))):
        share = throttled.of(*wrongs)
        yield Evidence(rule, who, share, value=share, samples=throttled.samples, window=WINDOW)


def _faults(who: Identity, watch: _DeviceWatch, reading: DeviceReading) -> Iterator[Evidence]:
    """Errors since the last snapshot; those from before the process began are somebody else's."""
    if "failed" in reading.states:
        yield Evidence("gpu.error", who, 1.0, value=1.0)
        return
    counted = [reading.errors[kind] for kind in _FAULTS if kind in reading.errors]
    if not counted:
        return
    total, before = sum(counted), watch.faults
    watch.faults = total
    new = max(0, total - before) if before is not None else 0
    yield Evidence("gpu.error", who, float(new), value=float(new))
