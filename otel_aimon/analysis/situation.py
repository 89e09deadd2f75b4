"""The situation of the process: what its resources, engines and queues say now, and what binds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_aimon.analysis.bottleneck import Signals, attribute
from otel_aimon.analysis.engine_watch import EngineWatch
from otel_aimon.analysis.resource_watch import ResourceWatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_aimon.analysis.bottleneck import Bottleneck
    from otel_aimon.analysis.evidence import Evidence
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.resources.snapshot import DeviceReading, Snapshot


class Situation:
    """Puts together what several watchers know.

    Args:
        recorder: Whose requests wait.

    Attributes:
        snapshot: The latest of the resources; None before the first.
        stalled: Requests are in flight, and none moves.
        shed: Requests in a second that limiters turned away.
        at_limit: A limiter is full.
        input_share: Share of the latency that goes by before the model starts.
        downstream_share: Share of the latency that is spent waiting for other services.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Forget what the parent saw."""
        self._resources = ResourceWatch()
        self._engines = EngineWatch()
        self.snapshot: Snapshot | None = None
        self.stalled = False
        self.shed: float | None = None
        self.at_limit = False
        self.input_share: float | None = None
        self.downstream_share: float | None = None

    def sampled(self, snapshot: Snapshot, now: float) -> list[Evidence]:
        """Take a snapshot of the resources.

        Args:
            snapshot: Of this process.
            now: Monotonic seconds.

        Returns:
            What it says to the alert rules.
        """
        self.snapshot = snapshot
        return self._resources.evidence(snapshot, now, waiting=waiting_requests(self._recorder))

    def look_at_engines(self, now: float) -> Iterator[Evidence]:
        """Read what serving engines tell of themselves.

        Args:
            now: Monotonic seconds.

        Yields:
            What they say to the alert rules.
        """
        yield from self._engines.evidence(self._recorder.engines.present(), now)

    def bottleneck(self, *, leave_out: Iterable[str] = ()) -> Bottleneck | None:
        """What binds now; None when nothing that is known does.

        Args:
            leave_out: Classes that are not wanted as an answer.
        """
        return attribute(self._signals(), leave_out=leave_out)

    def _signals(self) -> Signals:
        known: dict[str, Any] = {
            "stalled": self.stalled,
            "shed": self.shed,
            "at_limit": self.at_limit,
            "input_share": self.input_share,
            "downstream_share": self.downstream_share,
            "queued": waiting_requests(self._recorder),
            "kv_cache": self._engines.kv_cache,
            "preemptions": self._engines.preemptions,
        }
        snapshot = self.snapshot
        if snapshot is None:
            return Signals(**known)
        process, container = snapshot.process, snapshot.container
        busiest = max(
            (each for each in snapshot.devices if each.visible and each.device.kind == "gpu"),
            key=lambda each: each.activity.get("sm", each.utilization.get("general", 0.0)),
            default=None,
        )
        return Signals(
            **known,
            cpu=snapshot.cpu_share,
            memory=snapshot.memory_share,
            cpu_throttled=container.throttled_share if container is not None else None,
            cores_busy=process.cores_busy if process is not None else None,
            loop_lag=process.loop_lag if process is not None else None,
            **_of_device(busiest, self._resources),
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
