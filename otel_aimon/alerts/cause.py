"""The probable cause of an alert: the resource that binds while it fires."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_aimon.analysis.bottleneck import CLASSES, Signals, attribute

if TYPE_CHECKING:
    from otel_aimon.alerts.machine import Transition
    from otel_aimon.analysis.resource_watch import ResourceWatch
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.resources.snapshot import DeviceReading, Snapshot

_EXPLAINED: dict[str, frozenset[str]] = {
    "latency": frozenset({"underused"}),
    "capacity": frozenset({"underused"}),
    "errors": frozenset(CLASSES) - {"gpu_fault", "stalled"},
}
"""Domains of rules that a bottleneck can explain → classes that explain nothing in them: a lack of CPU makes no
request fail. What is about a resource explains itself."""

LEAST_CONFIDENCE = 0.2
"""Below, a signal is so close to its threshold that the cause would be a guess."""


class CauseFinder:
    """Finds what binds.

    Args:
        recorder: Whose requests wait.

    Attributes:
        stalled: Requests are in flight, and none moves.
        kv_cache: Share of the fullest key-value cache that is in use; None where no engine tells.
        preemptions: Preemptions in a second; None where no engine tells.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.stalled = False
        self.kv_cache: float | None = None
        self.preemptions: float | None = None

    def find(
        self, transition: Transition, snapshot: Snapshot | None, watch: ResourceWatch
    ) -> tuple[str, float] | None:
        """The class of the bottleneck, and how sure it is; None when nothing that is known binds.

        Args:
            transition: Of the alert.
            snapshot: Of the resources.
            watch: Remembers how devices were throttled.
        """
        leave_out = _EXPLAINED.get(transition.rule.domain)
        if leave_out is None:
            return None
        bottleneck = attribute(self._signals(snapshot, watch), leave_out=leave_out)
        if bottleneck is None or bottleneck.confidence < LEAST_CONFIDENCE:
            return None
        return bottleneck.name, bottleneck.confidence

    def _signals(self, snapshot: Snapshot | None, watch: ResourceWatch) -> Signals:
        engines: dict[str, Any] = {
            "stalled": self.stalled,
            "queued": waiting_requests(self._recorder),
            "kv_cache": self.kv_cache,
            "preemptions": self.preemptions,
        }
        if snapshot is None:
            return Signals(**engines)
        process, container = snapshot.process, snapshot.container
        busiest = max(
            (each for each in snapshot.devices if each.visible and each.device.kind == "gpu"),
            key=lambda each: each.activity.get("sm", each.utilization.get("general", 0.0)),
            default=None,
        )
        return Signals(
            **engines,
            cpu=snapshot.cpu_share,
            memory=snapshot.memory_share,
            cpu_throttled=container.throttled_share if container is not None else None,
            cores_busy=process.cores_busy if process is not None else None,
            loop_lag=process.loop_lag if process is not None else None,
            **_of_device(busiest, watch),
        )


def waiting_requests(recorder: Recorder) -> int | None:
    """Requests that wait in frameworks' queues and in engines; None where nobody tells."""
    waiting = [size for _, size in recorder.queue_sizes()]
    waiting += [engine.waiting for engine in recorder.engines.present() if engine.waiting is not None]
    return sum(waiting) if waiting else None


def _of_device(reading: DeviceReading | None, watch: ResourceWatch) -> dict[str, Any]:
    if reading is None:
        return {}
    throttled = watch.throttled(reading.device.id)
    limit = reading.clock_limits.get("sm")
    clock = reading.clocks.get("sm")
    return {
        "gpu": reading.utilization.get("general"),
        "sm": reading.activity.get("sm"),
        "tensor": reading.activity.get("tensor"),
        "dram": reading.activity.get("dram"),
        "power_share": reading.power / reading.power_limit if reading.power and reading.power_limit else None,
        "clock_share": clock / limit if clock is not None and limit else None,
        "throttled": ()
        if throttled is None
        else tuple((reason, throttled.of(reason)) for reason in ("thermal", "power_brake", "power_cap")),
    }
