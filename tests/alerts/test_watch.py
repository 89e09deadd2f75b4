"""Evidence is what it says, and comes as often as it is gathered, and rules that wait for a while wait no longer than they say."""

from __future__ import annotations

import time
from typing import Any

import pytest
from opentelemetry._logs import NoOpLogger
from opentelemetry.trace import NoOpTracer

from otel_aimon.alerts.watch import AlertWatch
from otel_aimon.analysis.evidence import Evidence
from otel_aimon.analysis.windows import Windows
from otel_aimon.config import Settings
from otel_aimon.core.recorder import Recorder


class Watch:
    """A watch whose clock moves when it is told to."""

    def __init__(self, **settings: Any) -> None:
        self.now = 1000.0
        self.recorder = Recorder(NoOpTracer(), queue_size=64, max_models=1, stage_spans=False)
        self.watch = AlertWatch(
            Settings(**settings),
            self.recorder,
            Windows(60.0),
            NoOpLogger("test"),
            clock=lambda: self.now,
            wall=lambda: self.now,
        )

    def look(self, now: float, *began: float) -> list[str]:
        """Look, while requests that began then are in flight.

        Returns:
            The rules that fire.
        """
        self.now = now
        series = self.recorder.series("manual", "chat", "m")
        # Starts are on the process's own clock.
        real = time.perf_counter_ns()
        series.active = {place: real - int((now - start) * 1e9) for place, start in enumerate(began)}
        self.watch.tick()
        points = self.watch.alerting.active_points()
        return [attributes["aimon.alert.rule.name"] for active, attributes in points if active]

    def seconds_until_it_fires(self, evidence: Evidence, every: float) -> float:
        """With evidence that often; at most an hour."""
        for step in range(int(3600 / every)):
            self.now = 1000.0 + step * every
            self.watch.judge([evidence])
            if any(active for active, _ in self.watch.alerting.active_points()):
                break
        return self.now - 1000.0


@pytest.mark.parametrize(
    ("rule", "score", "settings", "every", "seconds"),
    [
        ("queue.wait", 2.0, {}, 10.0, 30.0),
        ("error.ratio", 0.1, {}, 10.0, 300.0),
        ("error.ratio", 0.1, {"alert_tick": 1.0}, 1.0, 300.0),
        ("error.ratio", 0.1, {"alert_tick": 60.0}, 60.0, 300.0),
        ("memory.high", 1.0, {}, 5.0, 60.0),
        ("memory.high", 1.0, {"alert_tick": 1.0}, 5.0, 60.0),
        # Four evaluations at least.
        ("memory.high", 1.0, {"sample_interval": 30.0}, 30.0, 90.0),
        ("stall", 1.0, {}, 1.0, 0.0),
        ("stall", 1.0, {"alert_tick": 60.0}, 1.0, 0.0),
    ],
)
def test_a_rule_fires_when_its_time_is_over(
    rule: str, score: float, settings: dict[str, Any], every: float, seconds: float
) -> None:
    evidence = Evidence(rule, (("aimon.model.name", "m"),), score, samples=100)
    assert Watch(**settings).seconds_until_it_fires(evidence, every) == seconds


def test_a_hung_engine_is_seen_although_requests_keep_coming() -> None:
    watch = Watch()
    began: list[float] = []
    fires: list[float] = []
    for second in range(1001, 1400):
        began.append(float(second))
        if watch.look(float(second) + 0.5, *began):
            fires.append(second - 1001)
    assert fires
    assert 299 <= fires[0] <= 301


def test_requests_that_wait_behind_others_are_no_stall() -> None:
    watch = Watch()
    series = watch.recorder.series("manual", "chat", "m")
    for second in range(1001, 1400):
        # Each has taken half an hour by now, and one of them ends every few seconds.
        watch.watch._progress[series] = second - second % 5
        assert watch.look(float(second), second - 1800.0, second - 1700.0) == []
