"""Energy per model: what a device used between two samplings, shared among the requests that ran on it.

An estimate; its method, its formula, its error and when it is absent are in ``docs/energy.md``.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import SpanKind

from otel_aimon import semconv
from otel_aimon.core.instruments import observe
from otel_aimon.resources.energy_interval import ALONE, Interval, Load
from otel_aimon.resources.energy_power import Powers
from otel_aimon.resources.source import notices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import Meter

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.series import Series
    from otel_aimon.resources.snapshot import DeviceReading, HostReading, ProcessReading, Snapshot

DELAY_SECONDS = 1.0
"""By then an ended request is in the pipeline's queue: its span's processors come first."""

MOST_WAITING_SECONDS = 60.0
"""An interval waits no longer than this for the requests that overlap it."""

MOST_WAITING_INTERVALS = 64
"""Nor while more than this many wait, on one device."""

MOST_INTERVAL_SECONDS = 600.0
"""After a longer time between two readings nothing is attributed."""

_MOST_PARTS = 1024
_NOT_BUSY = frozenset({"idle", "iowait", "steal"})
"""Modes of CPU time in which no CPU of this host works."""


@dataclass(slots=True)
class _Part:
    """A request, or a stage of it, on one device."""

    device: str
    begin: int
    end: int
    tokens_per_ns: float | None


class _Ledger:
    """One energy counter: its open interval, and those that wait for requests to end."""

    __slots__ = ("host", "open", "powers", "process", "reading", "waiting")

    def __init__(self) -> None:
        self.open: Interval | None = None
        self.waiting: deque[Interval] = deque()
        self.powers = Powers()
        self.reading: DeviceReading | None = None
        self.process: ProcessReading | None = None
        self.host: HostReading | None = None

    def begin(self, now: int, reading: DeviceReading, snapshot: Snapshot) -> None:
        self.open = Interval(now)
        self.reading, self.process, self.host = reading, snapshot.process, snapshot.host

    def sampled(self, now: int, reading: DeviceReading, snapshot: Snapshot) -> None:
        """Close the open interval and begin the next, if there is something new."""
        interval, before = self.open, self.reading
        if reading.energy is None:
            self.open = None
            return
        joules = reading.energy - (before.energy or 0.0) if before is not None else 0.0
        if interval is None or before is None or joules < 0.0:
            self.begin(now, reading, snapshot)
        elif joules and now > interval.start and self._has_news(reading, snapshot):
            known, load = self._load(now - interval.start, reading, before, snapshot)
            if known and now - interval.start <= MOST_INTERVAL_SECONDS * 1e9:
                interval.close(now, joules, load)
                self.waiting.append(interval)
            self.begin(now, reading, snapshot)
        elif now - interval.start > MOST_INTERVAL_SECONDS * 1e9:
            self.open = None

    def _has_news(self, reading: DeviceReading, snapshot: Snapshot) -> bool:
        """A source that hangs gives its old reading, and a counter may be slower than the sampler."""
        if reading.device.kind != "cpu" or snapshot.process is None or snapshot.host is None:
            return True
        return snapshot.process is not self.process and snapshot.host is not self.host

    def _load(
        self, length: int, reading: DeviceReading, before: DeviceReading, snapshot: Snapshot
    ) -> tuple[bool, Load | None]:
        """Whether this process's share of the interval is known, and what it is."""
        if reading.device.kind == "cpu":
            load = self._cpu_load(length / 1e9, snapshot)
            return load is not None, load
        if _is_alone(reading, before):
            return True, ALONE
        load = _shared_load(reading)
        if load is None:
            _say_that_others_share(reading)
        return load is not None, load

    def _cpu_load(self, seconds: float, snapshot: Snapshot) -> Load | None:
        host, was_host, process, was_process = snapshot.host, self.host, snapshot.process, self.process
        if host is None or was_host is None or process is None or was_process is None or not host.cpus:
            return None
        used, used_before = _cpu_seconds(process), _cpu_seconds(was_process)
        busy, busy_before = _busy_seconds(host), _busy_seconds(was_host)
        if used is None or used_before is None or busy is None or busy_before is None:
            return None
        ours, total = used - used_before, busy - busy_before
        if ours < 0.0 or total < 0.0:
            return None
        available = seconds * host.cpus
        return Load(ours / available, max(total, ours) / available)

    def intervals_since(self, begin: int) -> Iterable[Interval]:
        """The intervals that end after ``begin``, the newest first."""
        if self.open is not None:
            yield self.open
        for interval in reversed(self.waiting):
            if interval.end <= begin:
                return
            yield interval


def _is_alone(reading: DeviceReading, before: DeviceReading) -> bool:
    # The driver shows no process at all to some containers, so that none is not known to be none.
    return reading.processes == 1 and before.processes in {0, 1}


def _shared_load(reading: DeviceReading) -> Load | None:
    total = reading.utilization.get("general")
    if reading.process_utilization is None or total is None:
        return None
    return Load(reading.process_utilization, max(total, reading.process_utilization))


def _say_that_others_share(reading: DeviceReading) -> None:
    notices.say(
        f"energy of {reading.device.id}",
        logging.INFO,
        "otel-aimon: no energy of %s is attributed to inference: other processes may use it, and this "
        "driver or container does not show the share of this one.",
        reading.device.name or reading.device.id,
    )


def _cpu_seconds(process: ProcessReading) -> float | None:
    if process.cpu_user is None or process.cpu_system is None:
        return None
    return process.cpu_user + process.cpu_system


def _busy_seconds(host: HostReading) -> float | None:
    if "idle" not in host.cpu_times:
        return None
    return sum(seconds for mode, seconds in host.cpu_times.items() if mode not in _NOT_BUSY)


class EnergyAttribution:
    """Shares the energy of devices among the series whose requests ran on them.

    A consumer of the pipeline that the sampler calls too; any thread may call anything.

    Args:
        all_series: Gives every series of this process, to look for requests in flight.
        queue_seconds: Seconds that an ended request may be in the pipeline's queue.
        clock: Nanoseconds on the clock of :attr:`Inference.start_ns`; injected by tests.
    """

    def __init__(
        self,
        all_series: Callable[[], Iterable[Series]],
        *,
        queue_seconds: float = 0.0,
        clock: Callable[[], int] = perf_counter_ns,
    ) -> None:
        self._all_series = all_series
        self._delay = int((DELAY_SECONDS + queue_seconds) * 1e9)
        self._clock = clock
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Forget the parent's requests, readings and joules."""
        # Reentrant: a signal handler that collects metrics may interrupt any of this.
        self._lock = threading.RLock()
        self._ledgers: dict[str, _Ledger] = {}
        self._ledgers_by_name: dict[str, tuple[_Ledger, ...]] = {}
        self._parts: WeakKeyDictionary[Inference, list[_Part]] = WeakKeyDictionary()
        self._places: dict[Series, frozenset[str]] = {}
        self._totals: dict[Series, float] = {}

    def consume(self, inference: Inference) -> None:
        """Remember when and where an ended request ran; where only its stages know, they tell."""
        owner = inference.owner
        with self._lock:
            if owner is not None:
                if inference.device is not None and owner.device is None:
                    parts = self._parts.setdefault(owner, [])
                    if len(parts) < _MOST_PARTS:
                        parts.append(_part(inference, inference.device))
                return
            parts = self._parts.pop(inference, [])
            if inference.device is not None:
                parts = [_part(inference, inference.device)]
            series = inference.series
            self._places[series] = frozenset(part.device for part in parts)
            for part in parts:
                for ledger in self._ledgers_by_name.get(part.device, ()):
                    for interval in ledger.intervals_since(part.begin):
                        interval.add(series, part.begin, part.end, part.tokens_per_ns)

    def sampled(self, snapshot: Snapshot, _now: float | None = None) -> None:
        """Take new readings, and attribute the energy of the intervals that nothing is missing of.

        Args:
            snapshot: What was read, just now.
        """
        now = self._clock()
        in_flight = self._in_flight()
        with self._lock:
            self._read(now, snapshot)
            oldest = min((start for _, start in in_flight), default=now)
            for ledger in self._ledgers.values():
                self._settle(ledger, now, oldest, in_flight)

    def _in_flight(self) -> list[tuple[Series, int]]:
        return [
            (series, start)
            for series in self._all_series()
            # A remote model uses no device of ours.
            if series.kind is not SpanKind.CLIENT
            for start in list(series.active.values())
        ]

    def _read(self, now: int, snapshot: Snapshot) -> None:
        readings = {reading.device.id: reading for reading in snapshot.devices}
        for id_, ledger in self._ledgers.items():
            if id_ not in readings:
                ledger.open = None
        for id_, reading in readings.items():
            if id_ in self._ledgers or reading.energy is not None:
                self._ledgers.setdefault(id_, _Ledger()).sampled(now, reading, snapshot)
        self._ledgers_by_name = self._named(snapshot.devices)

    def _named(self, readings: Iterable[DeviceReading]) -> dict[str, tuple[_Ledger, ...]]:
        """Under the names that frameworks have for devices, the counters that count their energy."""
        by_name: dict[str, tuple[_Ledger, ...]] = {}
        kinds: dict[str, list[str]] = {}
        for reading in readings:
            ledger = self._ledgers.get(reading.device.id)
            if ledger is not None and reading.device.kind == "cpu":
                by_name["cpu"] = (*by_name.get("cpu", ()), ledger)
            for name in reading.device.ordinals:
                # A name that two devices claim names none of them.
                by_name[name] = (ledger,) if ledger is not None and name not in by_name else ()
                kinds.setdefault(name.partition(":")[0], []).append(name)
        for kind, names in kinds.items():
            if len(names) == 1:
                # ``cuda`` alone is the one there is; of several it would be the current one, of whichever thread.
                by_name.setdefault(kind, by_name[names[0]])
        return by_name

    def _settle(self, ledger: _Ledger, now: int, oldest: int, in_flight: list[tuple[Series, int]]) -> None:
        for interval in ledger.waiting:
            if interval.closed is None and interval.end <= oldest:
                interval.closed = now
        while ledger.waiting:
            interval = ledger.waiting[0]
            # Those that have ended may still be on their way through the queue.
            complete = interval.closed is not None and now - interval.closed >= self._delay
            waits_too_long = (
                now - interval.end >= MOST_WAITING_SECONDS * 1e9
                or len(ledger.waiting) > MOST_WAITING_INTERVALS
            )
            if not complete and not waits_too_long:
                return
            ledger.waiting.popleft()
            if not complete:
                self._add_those_in_flight(ledger, interval, in_flight)
            for series, joules in ledger.powers.attribute(interval).items():
                self._totals[series] = self._totals.get(series, 0.0) + joules

    def _add_those_in_flight(
        self, ledger: _Ledger, interval: Interval, in_flight: list[tuple[Series, int]]
    ) -> None:
        """Long requests count where others of their series ran; without any their share is nobody's."""
        for series, start in in_flight:
            places = self._places.get(series)
            if places is None:
                interval.add(None, start, interval.end, None)
            elif any(ledger in self._ledgers_by_name.get(place, ()) for place in places):
                interval.add(series, start, interval.end, None)

    def register(self, meter: Meter) -> None:
        """Register the metric."""
        observe(meter, semconv.INFERENCE_ENERGY, self._observe)

    def _observe(self, _options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(joules, series.attributes) for series, joules in self.totals()]

    def totals(self) -> list[tuple[Series, float]]:
        """Joules attributed so far, by series; a series that was never given any is absent."""
        with self._lock:
            return list(self._totals.items())


def _part(inference: Inference, device: str) -> _Part:
    begin = inference.start_ns + (inference.queue_ns or 0)
    tokens = _tokens(inference)
    length = inference.end_ns - begin
    return _Part(
        device, begin, inference.end_ns, tokens / length if tokens is not None and length > 0 else None
    )


def _tokens(inference: Inference) -> int | None:
    """Tokens that were worked on: those of the prompt that were not in a cache, and the new ones."""
    if inference.input_tokens is None:
        return None
    if inference.output_tokens is None and inference.series.generative:
        return None
    return max(inference.input_tokens - (inference.cached_tokens or 0), 0) + (inference.output_tokens or 0)
