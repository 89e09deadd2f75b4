"""What opentelemetry-instrumentation-system-metrics emits is left to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.instrumentation.system_metrics import SystemMetricsInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_aimon import runtime
from otel_aimon.config import RESOURCES
from otel_aimon.resources.overlap import emitted_elsewhere, system_metrics
from tests.support.snapshots import read_everything
from tests.support.telemetry import Telemetry, wait_until


@pytest.fixture
def forget() -> Iterator[None]:
    """Leave the only instance of that instrumentor as it was."""
    SystemMetricsInstrumentor._instance = None
    yield
    if SystemMetricsInstrumentor._instance is not None:
        SystemMetricsInstrumentor().uninstrument()
    SystemMetricsInstrumentor._instance = None


def activate(**arguments: Any) -> None:
    SystemMetricsInstrumentor(**arguments).instrument(meter_provider=MeterProvider([InMemoryMetricReader()]))


@pytest.mark.usefixtures("forget")
class TestOverlap:
    def test_installed_is_not_active(self) -> None:
        assert system_metrics() == frozenset()
        SystemMetricsInstrumentor()
        assert system_metrics() == frozenset()

    def test_active_it_emits_what_it_is_configured_to(self) -> None:
        activate(config={"process.cpu.time": ["user"]})
        assert emitted_elsewhere("process.cpu.time")
        assert not emitted_elsewhere("process.memory.usage")

    def test_its_older_names_count(self) -> None:
        activate()
        assert emitted_elsewhere("process.unix.file_descriptor.count")
        assert emitted_elsewhere("system.paging.usage")
        assert not emitted_elsewhere("system.memory.limit")

    def test_ended_it_emits_nothing(self) -> None:
        activate()
        SystemMetricsInstrumentor().uninstrument()
        assert system_metrics() == frozenset()

    def test_no_metric_is_emitted_twice(self) -> None:
        with Telemetry(resources=RESOURCES) as telemetry:
            running = runtime.current()
            assert running is not None
            read_everything(running.resources)
            running.resources.start()
            wait_until(lambda: running.resources.snapshot is not None)
            alone = {name for name in telemetry.metrics() if name.startswith(("process.", "system."))}
            activate()
            beside = {name for name in telemetry.metrics() if name.startswith(("process.", "system."))}
        assert beside == {"process.paging.faults", "system.memory.limit", "system.cpu.logical.count"}
        assert alone > beside
        emitted = system_metrics() | {"process.unix.file_descriptor.count", "system.paging.usage"}
        assert alone - beside <= emitted
