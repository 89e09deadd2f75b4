"""Puts sources, sampler, elections and metrics together."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from otel_aimon import semconv
from otel_aimon.config import CONTAINER, GPU, HOST, PROCESS, RESOURCES
from otel_aimon.core.instruments import observe
from otel_aimon.resources import points
from otel_aimon.resources.leader import DIRECTORY
from otel_aimon.resources.overlap import emitted_elsewhere
from otel_aimon.resources.sampler import Feed, Sampler
from otel_aimon.resources.voices import Voices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, Meter, Observation

    from otel_aimon.config import Settings
    from otel_aimon.resources.eventloop import EventLoopLag
    from otel_aimon.resources.snapshot import Snapshot

_METRICS = {
    PROCESS: points.PROCESS_METRICS,
    CONTAINER: points.CONTAINER_METRICS,
    HOST: (*points.HOST_METRICS, semconv.HW_ENERGY),
    GPU: points.DEVICE_METRICS,
}


class ResourceMonitor:
    """Samples what the settings ask for, and exports it.

    Args:
        settings: Which resources, and how often.
        clock: Monotonic seconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = monotonic) -> None:
        self._sections = tuple(section for section in RESOURCES if section in settings.resources)
        self.loop_lag = _loop_lag(settings)
        self._voices = Voices(Path(settings.lock_directory) if settings.lock_directory else DIRECTORY)
        self._observations: dict[str, list[Observation]] = {}
        self._consumers: list[Callable[[Snapshot, float], None]] = []
        self.sampler = Sampler(
            lambda: self._feeds(settings),
            interval=settings.sample_interval,
            on_sample=self._sampled,
            clock=clock,
        )

    def _feeds(self, settings: Settings) -> list[Feed]:
        # Imported where it is needed: psutil and the drivers' modules take tens of milliseconds.
        from otel_aimon.resources.amd import AmdSource
        from otel_aimon.resources.container import ContainerSource
        from otel_aimon.resources.frameworks import FrameworkMemorySource
        from otel_aimon.resources.host import HostSource
        from otel_aimon.resources.intel import IntelSource
        from otel_aimon.resources.nvidia import NvidiaSource
        from otel_aimon.resources.process import ProcessSource
        from otel_aimon.resources.rapl import RaplSource

        lag = self.loop_lag.take if self.loop_lag is not None else None
        makers: dict[str, Callable[[], list[Feed]]] = {
            PROCESS: lambda: [
                Feed("process", "process", ProcessSource(unique_memory=settings.unique_memory, loop_lag=lag))
            ],
            CONTAINER: lambda: [Feed("container", "container", ContainerSource())],
            HOST: lambda: [
                Feed("host", "host", HostSource()),
                Feed("rapl", "devices", RaplSource()),
            ],
            GPU: lambda: [
                Feed("nvidia", "devices", NvidiaSource(), driver=True),
                Feed("amd", "devices", AmdSource(), driver=True),
                Feed("intel", "devices", IntelSource(), driver=True),
                Feed("frameworks", "frameworks", FrameworkMemorySource()),
            ],
        }
        return [feed for section in self._sections for feed in makers[section]()]

    def add_consumer(self, consume: Callable[[Snapshot, float], None]) -> None:
        """Hand each snapshot to ``consume`` too, on the sampler's thread.

        Args:
            consume: Takes the snapshot and its monotonic time.
        """
        self._consumers.append(consume)

    @property
    def snapshot(self) -> Snapshot | None:
        """The last snapshot; None when there is none that is recent enough to be true."""
        return self.sampler.snapshot

    def start(self) -> None:
        """Start sampling, unless it runs or nothing is to be sampled."""
        if self._sections:
            self.sampler.start()

    def register(self, meter: Meter) -> None:
        """Register the metrics of the resources that are sampled."""
        metrics = dict.fromkeys(metric for section in self._sections for metric in _METRICS[section])
        for metric in metrics:
            observe(meter, metric, self._callback(metric))

    def _callback(self, metric: semconv.Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(_options: CallbackOptions) -> Iterable[Observation]:
            self.start()
            if self.sampler.snapshot is None or emitted_elsewhere(metric.name):
                return ()
            return self._observations.get(metric.name, ())

        return read

    def _sampled(self, snapshot: Snapshot, now: float) -> None:
        self._voices.start_round()
        self._observations = points.observations(snapshot, self._voices.speaks_for)
        for consume in self._consumers:
            consume(snapshot, now)

    def finish(self, *, final: bool = False) -> None:
        """Take a sample before a flush, if that takes no time to speak of.

        Args:
            final: The process ends.
        """
        self.sampler.finish(final=final)

    def stop(self) -> None:
        """End sampling, and let another process speak for the host."""
        self.sampler.stop()
        self._voices.resign()
        self._observations = {}
        if self.loop_lag is not None:
            self.loop_lag.close()

    def before_fork(self) -> None:
        """Let a sampling end before the process forks."""
        self.sampler.before_fork()

    def after_fork_in_child(self) -> None:
        """Start from zero, with the child's own process."""
        self.sampler.after_fork_in_child()
        self._voices.after_fork_in_child()
        self._observations = {}
        if self.loop_lag is not None:
            self.loop_lag.after_fork_in_child()


def _loop_lag(settings: Settings) -> EventLoopLag | None:
    if not settings.event_loop_lag or PROCESS not in settings.resources:
        return None
    # Imports asyncio, which an application that has no event loop need not have.
    from otel_aimon.resources.eventloop import EventLoopLag

    return EventLoopLag()
