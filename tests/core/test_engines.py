"""Engines are told apart, and what they counted is never counted down."""

from __future__ import annotations

import gc
import time
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_aimon import semconv
from otel_aimon.core import engines, instruments
from otel_aimon.core.engines import Engines


class Owner:
    """Whatever an engine is there for."""


class Watched:
    def __init__(self) -> None:
        self.engines = Engines()
        self._reader = InMemoryMetricReader()
        self.engines.register(MeterProvider(metric_readers=[self._reader]).get_meter("test"))

    def points(self, metric: semconv.Metric) -> dict[str, Any]:
        """Values by model and number."""
        data = self._reader.get_metrics_data()
        return {
            f"{point.attributes['aimon.model.name']} {point.attributes['aimon.engine.id']}": point.value
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for each in scope.metrics
            if each.name == metric.name
            for point in each.data.data_points
        }

    def close(self) -> None:
        instruments.stop_observing()


def test_what_is_not_known_is_not_exported() -> None:
    watched = Watched()
    owner = Owner()
    engine = watched.engines.open("fw", "m", 0, owner)
    assert watched.points(semconv.ENGINE_RUNNING) == {}
    engine.running = 0
    assert watched.points(semconv.ENGINE_RUNNING) == {"m 0": 0}
    assert watched.points(semconv.ENGINE_DRAFT_TOKENS) == {}
    engine.add("draft_tokens", 3)
    engine.add("draft_tokens", 4)
    assert watched.points(semconv.ENGINE_DRAFT_TOKENS) == {"m 0": 7}
    watched.close()


def test_what_an_engine_told_among_others_fades(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    owners = [Owner(), Owner()]
    alone, shared = (watched.engines.open("fw", "m", number, owner) for number, owner in enumerate(owners))
    alone.running = shared.running = 3
    shared.kv_cache = 0.5
    shared.add("preemptions", 2)
    shared.told_ns = time.monotonic_ns()
    assert watched.points(semconv.ENGINE_RUNNING) == {"m 0": 3, "m 1": 3}
    later = shared.told_ns + engines.FADES_AFTER_NS + 1
    monkeypatch.setattr(engines, "monotonic_ns", lambda: later)
    assert watched.points(semconv.ENGINE_RUNNING) == {"m 0": 3}
    assert watched.points(semconv.ENGINE_KV_CACHE) == {}
    assert watched.points(semconv.ENGINE_PREEMPTIONS) == {"m 1": 2}
    shared.running, shared.told_ns = 1, later
    assert watched.points(semconv.ENGINE_RUNNING) == {"m 0": 3, "m 1": 1}
    watched.close()


def test_engines_with_one_number_are_told_apart() -> None:
    watched = Watched()
    owners = [Owner() for _ in range(4)]
    numbers = [
        watched.engines.open("fw", model, number, owner).attributes[semconv.AIMON_ENGINE_ID]
        for owner, model, number in zip(owners, ("m", "m", "other", "m"), (0, 0, 0, 1), strict=True)
    ]
    assert numbers == ["0", "1", "0", "2"]
    watched.close()


def test_an_engine_that_is_gone_has_no_gauges_and_leaves_its_counts_to_the_next() -> None:
    watched = Watched()
    owner = Owner()
    engine = watched.engines.open("fw", "m", 0, owner)
    engine.running = 2
    engine.add("preemptions", 5)
    del owner, engine
    gc.collect()
    assert watched.points(semconv.ENGINE_RUNNING) == {}
    assert watched.points(semconv.ENGINE_PREEMPTIONS) == {"m 0": 5}
    successor = Owner()
    engine = watched.engines.open("fw", "m", 0, successor)
    engine.add("preemptions", 1)
    assert watched.points(semconv.ENGINE_PREEMPTIONS) == {"m 0": 6}
    assert watched.points(semconv.ENGINE_RUNNING) == {}
    watched.close()


def test_a_child_forgets_the_engines_of_its_parent() -> None:
    watched = Watched()
    owner = Owner()
    watched.engines.open("fw", "m", 0, owner).running = 1
    watched.engines.after_fork_in_child()
    assert watched.points(semconv.ENGINE_RUNNING) == {}
    watched.close()
