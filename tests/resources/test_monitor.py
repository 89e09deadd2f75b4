"""Resources are sampled and exported as the settings say, by a process under instrumentation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import otel_aimon
from otel_aimon import runtime
from otel_aimon.config import RESOURCES, Settings
from otel_aimon.resources import points
from otel_aimon.resources.monitor import ResourceMonitor
from otel_aimon.resources.snapshot import Snapshot
from tests.support.snapshots import DEVICE, HOST, PROCESS, read_everything
from tests.support.telemetry import Telemetry, wait_until


@contextmanager
def sampled(**settings: Any) -> Iterator[tuple[Telemetry, ResourceMonitor]]:
    """A process that samples, and has done so once."""
    with Telemetry(**{"resources": RESOURCES, **settings}) as telemetry:
        running = runtime.current()
        assert running is not None
        running.resources.start()
        wait_until(lambda: running.resources.sampler.samplings > 0)
        yield telemetry, running.resources


def sample_again(monitor: ResourceMonitor) -> None:
    """However busy the machine is."""
    before = monitor.sampler.samplings
    monitor.sampler.finish()
    wait_until(lambda: monitor.sampler.samplings > before)


def names(telemetry: Telemetry) -> set[str]:
    """Names of resource metrics that have points."""
    return {
        name for name in telemetry.metrics() if not name.startswith(("aimon.selfmon.", "aimon.inference."))
    }


def test_this_very_machine_is_sampled() -> None:
    with sampled() as (telemetry, monitor):
        found = names(telemetry)
        assert {metric.name for metric in points.PROCESS_METRICS} - found == {
            "process.cpu.utilization",  # needs two samples
            "aimon.process.memory.unique",
            "aimon.process.event_loop.lag",
        }
        assert {metric.name for metric in points.HOST_METRICS} - found == {"system.cpu.utilization"}
        needs_two = {"process.cpu.utilization", "system.cpu.utilization", "aimon.cpu.utilization"}

        def are_there() -> bool:
            # The kernel counts in hundredths of a second: two samples may see the same.
            sample_again(monitor)
            return needs_two <= names(telemetry)

        wait_until(are_there)


@pytest.mark.parametrize(
    ("section", "metrics"),
    [
        ("process", points.PROCESS_METRICS),
        ("container", points.CONTAINER_METRICS),
        ("host", points.HOST_METRICS),
        ("gpu", points.DEVICE_METRICS),
    ],
)
def test_only_what_the_setting_names_is_exported(section: str, metrics: tuple[Any, ...]) -> None:
    with Telemetry(resources=[section], event_loop_lag=True) as telemetry:
        running = runtime.current()
        assert running is not None
        read_everything(running.resources)
        running.resources.start()
        wait_until(lambda: running.resources.snapshot is not None)
        expected = {metric.name for metric in metrics} | ({"hw.energy"} if section == "host" else set())
        assert names(telemetry) == expected


def test_none_samples_nothing() -> None:
    with Telemetry(resources="none") as telemetry, otel_aimon.inference("chat", "m"):
        running = runtime.current()
        assert running is not None
        running.pipeline.drain()
        running._tick()
        assert names(telemetry) == set()
        assert running.resources.sampler.feeds == ()


def test_a_collection_starts_the_sampling() -> None:
    with Telemetry(resources=["process"]) as telemetry:
        assert names(telemetry) == set()
        wait_until(lambda: names(telemetry) != set())


def test_a_request_starts_the_sampling() -> None:
    with Telemetry(resources=["process"], interval=0.01):
        running = runtime.current()
        assert running is not None
        with otel_aimon.inference("chat", "m"):
            pass
        wait_until(lambda: running.resources.snapshot is not None)


def test_consumers_get_every_snapshot() -> None:
    seen: list[Snapshot] = []
    with Telemetry(resources=RESOURCES):
        running = runtime.current()
        assert running is not None
        read_everything(running.resources)
        running.resources.add_consumer(lambda snapshot, _: seen.append(snapshot))
        running.resources.start()
        wait_until(lambda: seen)
    assert (seen[0].process, seen[0].host, seen[0].devices) == (PROCESS, HOST, (DEVICE,))


def test_the_second_process_of_a_host_exports_only_its_own(tmp_path: Path) -> None:
    # Two monitors open the lock files each for itself, as two processes do.
    first, second = (ResourceMonitor(Settings(lock_directory=str(tmp_path))) for _ in range(2))
    for monitor in (first, second):
        read_everything(monitor)
        monitor.start()
        wait_until(lambda monitor=monitor: monitor.snapshot is not None)
    own = {"aimon.gpu.process.memory.usage", "aimon.gpu.process.utilization", "aimon.framework.memory.usage"}
    own |= {metric.name for metric in points.PROCESS_METRICS}
    assert set(second._observations) == own
    assert own < set(first._observations)

    first.stop()
    sample_again(second)
    assert own < set(second._observations)
    second.stop()


def test_what_sampling_costs_and_sees_is_monitored() -> None:
    with Telemetry(resources=RESOURCES) as telemetry:
        running = runtime.current()
        assert running is not None
        read_everything(running.resources)
        running.resources.start()
        wait_until(lambda: running.resources.snapshot is not None)
        found = telemetry.metrics()
    (cost,) = found["aimon.selfmon.sampler.cpu.time"]
    (seconds,) = found["aimon.selfmon.sampling.duration"]
    assert cost.value is not None
    assert seconds.value is not None
    assert cost.value > 0
    assert seconds.value > 0
    assert {
        each.attributes["aimon.source"]: each.value for each in found["aimon.selfmon.source.available"]
    } == {
        "process": 1,
        "host": 1,
        "container": 1,
        "nvidia": 1,
        "frameworks": 1,
    }


def test_the_lag_of_the_event_loop() -> None:
    async def serve() -> None:
        async with otel_aimon.inference("chat", "m"):
            await asyncio.sleep(0)
        time.sleep(0.3)
        await asyncio.sleep(0.05)

    with sampled(resources=["process"], event_loop_lag=True) as (telemetry, monitor):
        asyncio.run(serve())
        sample_again(monitor)
        (lag,) = telemetry.metrics()["aimon.process.event_loop.lag"]
    assert lag.value is not None
    assert lag.value >= 0.15
