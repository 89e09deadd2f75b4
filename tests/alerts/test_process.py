"""What a process does becomes alerts: requests come in, events, callbacks and metrics go out."""

from __future__ import annotations

import json
import logging
import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import NonRecordingSpan, NoOpTracer, SpanContext, TraceFlags

from otel_aimon.alerts import watch as watch_module
from otel_aimon.alerts.alert_event import AlertEvent
from otel_aimon.alerts.callbacks import Callbacks
from otel_aimon.alerts.points import POINTS
from otel_aimon.alerts.watch import SAVE_SECONDS, AlertWatch
from otel_aimon.analysis.evidence import Evidence
from otel_aimon.analysis.windows import Windows
from otel_aimon.config import Settings
from otel_aimon.core import guard, instruments
from otel_aimon.core.inference import Inference
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import Recorder
from otel_aimon.resources.snapshot import DeviceReading, Snapshot
from tests.support.points import observe_points
from tests.support.snapshots import CONTAINER, GPU, HOST

BEGIN = 1_700_000_000.0
"""The world's time when a process starts."""

LEARNING = 3600.0


class Clock:
    """The monotonic clock of all processes of a test."""

    now = 0.0

    def perf_counter_ns(self) -> int:
        return int(self.now * 1e9)


CLOCK = Clock()


class Process:
    """A process whose clock goes on when a test says so.

    Args:
        settings: Of the alerts.
    """

    def __init__(self, **settings: Any) -> None:
        self.random = random.Random(1)
        self.recorder = Recorder(NoOpTracer(), queue_size=64, max_models=100, stage_spans=True)
        self.windows = Windows(60.0, lambda: self.now)
        self.exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
        self.loggers = LoggerProvider()
        self.loggers.add_log_record_processor(SimpleLogRecordProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.dropped = 0
        self.watch = AlertWatch(
            Settings(**{"alert_learning": LEARNING, **settings}),
            self.recorder,
            self.windows,
            self.loggers.get_logger("test"),
            dropped=lambda: self.dropped,
            clock=lambda: self.now,
            wall=lambda: BEGIN + self.now,
        )
        observe_points(self.meters.get_meter("test"), POINTS, self.watch)

    @property
    def now(self) -> float:
        return CLOCK.now

    @now.setter
    def now(self, now: float) -> None:
        CLOCK.now = now

    def close(self) -> None:
        self.meters.shutdown()
        self.loggers.shutdown()

    def request(
        self,
        seconds: float = 1.0,
        *,
        tokens: int | None = 100,
        error: str | None = None,
        model: str = "m",
        operation: str = "chat",
        trace: int = 0,
        owner: Inference | None = None,
    ) -> Inference:
        """End a request; it is sampled if it has a trace."""
        series = self.recorder.series("fw", operation, model)
        ended = Inference(self.recorder, series, Layer.MODEL, owner, 0, 0)
        ended.end_ns = int(seconds * 1e9)
        ended.output_tokens = tokens
        ended.error_type = error
        if trace:
            ended.span = NonRecordingSpan(SpanContext(trace, 7, is_remote=False, trace_flags=TraceFlags(1)))
        self.windows.consume(ended)
        self.watch.consume(ended)
        return ended

    def serve(
        self, seconds: float, *, slower: float = 1.0, requests: int = 20, tokens: int = 100, **more: Any
    ) -> None:
        """Serve so many requests every ten seconds: some 20 ms for a token."""
        end = self.now + seconds
        while self.now < end:
            self.now += 10.0
            for _ in range(requests):
                each = 0.02 * slower * math.exp(self.random.gauss(0, 0.3))
                self.request(each * tokens, tokens=tokens, **more)
            self.watch.tick()

    def events(self, *, heartbeats: bool = False) -> list[dict[str, Any]]:
        """Attributes of all events, and their body as ``body``."""
        found = [
            {
                **dict(each.log_record.attributes or {}),
                "name": each.log_record.event_name,
                "body": each.log_record.body,
            }
            for each in self.exporter.get_finished_logs()
        ]
        return [each for each in found if heartbeats or not each.get("aimon.alert.heartbeat")]

    def told(self) -> list[tuple[str, str]]:
        return [(each["aimon.alert.rule.name"], each["aimon.alert.state"]) for each in self.events()]

    def points(self, name: str) -> dict[tuple[str, ...], float]:
        """Values by the values of their attributes, in the order of the keys."""
        data = self.reader.get_metrics_data()
        return {
            tuple(str(value) for _, value in sorted((point.attributes or {}).items())): getattr(
                point, "value", 0
            )
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }


@pytest.fixture(autouse=True)
def callbacks(monkeypatch: pytest.MonkeyPatch) -> Callbacks:
    """Callbacks, and a clock, of this test alone."""
    own = Callbacks()
    monkeypatch.setattr(watch_module, "CALLBACKS", own)
    monkeypatch.setattr(watch_module, "time", CLOCK)
    CLOCK.now = 0.0
    return own


@pytest.fixture
def process(callbacks: Callbacks) -> Iterator[Process]:
    running = Process()
    yield running
    running.close()
    callbacks.stop()
    instruments.stop_observing()


@pytest.fixture
def learned(process: Process) -> Process:
    """A process that knows what is usual."""
    process.serve(LEARNING + 600)
    assert process.told() == []
    return process


# --- from a fault to its events ------------------------------------------------------------------


def test_a_model_that_gets_slow_is_told_once_and_so_is_its_end(learned: Process) -> None:
    learned.serve(600, slower=2.0)
    assert learned.told() == [("latency.shift", "firing")]
    assert learned.points("aimon.alert.active")[_labels(learned)] == 1
    while len(learned.events()) < 2:
        learned.serve(60)
    assert learned.told() == [("latency.shift", "firing"), ("latency.shift", "resolved")]
    assert set(learned.points("aimon.alert.active").values()) <= {0}
    learned.serve(3600)
    firing, resolved = learned.events()
    assert firing["name"] == resolved["name"] == "aimon.alert"
    assert firing["aimon.alert.id"] == resolved["aimon.alert.id"]
    assert firing["aimon.alert.reason"] == "threshold"
    assert resolved["aimon.alert.reason"] == "clear"
    # Per token: 20 ms at the median, 33 ms at the 95th percentile.
    assert firing["aimon.alert.baseline"] == pytest.approx(0.033, rel=0.25)
    assert firing["aimon.alert.value"] == pytest.approx(0.066, rel=0.35)


def _labels(process: Process) -> tuple[str, ...]:
    """Of the alert that fires, as its metric has them."""
    (event,) = process.events()
    model = event.get("aimon.model.name")
    return (event["aimon.alert.rule.name"], event["aimon.alert.severity"], *([model] if model else []))


def test_transitions_are_counted(learned: Process) -> None:
    learned.serve(600, slower=2.0)
    learned.watch.shutdown()
    counted = Counter[str]()
    for (rule, _severity, state), value in learned.points("aimon.alert.transitions").items():
        if rule == "latency.shift":
            counted[state] += int(value)
    assert counted["firing"] == counted["resolved"] >= 1
    assert counted["pending"] >= counted["firing"]


def test_longer_answers_are_no_slower_model(learned: Process) -> None:
    learned.serve(1200, tokens=300)
    assert {rule for rule, _ in learned.told()} <= {"workload.shift"}


def test_requests_that_fail_are_told_with_an_example(learned: Process) -> None:
    for number in range(10):
        learned.request(error="ValueError", trace=0xABC + number)
    learned.serve(20, requests=15)
    assert learned.told() == [("error.shift", "firing")]
    (event,) = learned.events()
    assert event["aimon.alert.exemplar.trace_ids"] == (f"{0xABC + 9:032x}",)
    (record,) = learned.exporter.get_finished_logs()
    assert (record.log_record.trace_id, record.log_record.span_id) == (0xABC + 9, 7)


def test_the_example_of_slowness_is_the_slowest_request_that_is_sampled(learned: Process) -> None:
    for _ in range(30):
        learned.request(100.0)
        learned.request(90.0, trace=0x90)
        learned.request(80.0, trace=0x80)
        learned.serve(10, slower=3.0)
        if learned.told():
            break
    (event,) = learned.events()
    assert event["aimon.alert.exemplar.trace_ids"] == (f"{0x90:032x}",)


def test_lost_traffic_is_told(learned: Process) -> None:
    learned.serve(300, requests=0)
    assert learned.told() == [("traffic.drop", "firing")]


def test_cancelled_requests_and_stages_are_nothing_to_alerts(learned: Process) -> None:
    owner = learned.request()
    for _ in range(2000):
        learned.request(500.0, error="cancelled")
        learned.request(500.0, error="ValueError", owner=owner)
    learned.serve(120)
    assert learned.told() == []


def test_a_first_tick_that_is_a_part_of_one_is_no_lost_traffic(tmp_path: Path) -> None:
    file = tmp_path / "learned.json"
    before = Process(alert_state=str(file))
    before.serve(LEARNING + 600, requests=100)
    before.watch.shutdown()
    before.now += 60.0
    after = Process(alert_state=str(file))
    after.now += 9.0
    for _ in range(10):
        after.request()
    after.watch.tick()
    after.serve(300, requests=100)
    assert after.told() == []
    before.close()
    after.close()


# --- requests in flight --------------------------------------------------------------------------


def in_flight(process: Process, framework: str = "fw") -> None:
    """A request that begins now."""
    series = process.recorder.series(framework, "chat", "m")
    series.active = {1: CLOCK.perf_counter_ns()}


def wait(process: Process, seconds: float) -> None:
    """Let time pass in which nothing ends."""
    for _ in range(int(seconds)):
        process.now += 1.0
        process.watch.tick()


def test_a_hang_is_told_and_so_is_its_end(process: Process) -> None:
    in_flight(process)
    wait(process, 299)
    assert process.told() == []
    wait(process, 12)
    (event,) = process.events()
    assert (event["aimon.alert.rule.name"], event["aimon.model.name"]) == ("stall", "m")
    # A group of alerts waits ten seconds for others.
    assert 300 <= event["aimon.alert.value"] <= 311
    process.recorder.series("fw", "chat", "m").active = {}
    wait(process, 80)
    assert process.told() == [("stall", "firing"), ("stall", "resolved")]


def test_a_hang_is_not_hidden_by_another_framework_with_the_same_model(process: Process) -> None:
    in_flight(process, framework="a")
    wait(process, 200)
    in_flight(process, framework="b")
    wait(process, 120)
    assert process.told() == [("stall", "firing")]


def test_a_long_stream_that_goes_on_is_no_hang(process: Process) -> None:
    in_flight(process)
    series = process.recorder.series("fw", "chat", "m")
    for _ in range(40):
        wait(process, 10)
        series.progress_ns = CLOCK.perf_counter_ns()  # as every chunk does
    assert process.told() == []
    wait(process, 320)
    assert process.told() == [("stall", "firing")]


def test_requests_too_quick_to_be_seen_in_flight_teach_what_is_usual(process: Process) -> None:
    for _ in range(20):
        process.request(0.005)
    in_flight(process)
    wait(process, 45)
    assert process.told() == [("stall", "firing")]


# --- everything else that is judged ---------------------------------------------------------------


def test_what_the_sampler_reads_is_judged_once(process: Process) -> None:
    full = Snapshot(devices=(DeviceReading(device=GPU, errors={"xid": 0}),))
    process.watch.sampled(full, 0.0)
    process.watch.tick()
    process.watch.sampled(Snapshot(devices=(DeviceReading(device=GPU, errors={"xid": 2}),)), 1.0)
    for _ in range(15):
        process.now += 1.0
        process.watch.tick()
    (event,) = process.events()
    assert (event["aimon.alert.rule.name"], event["hw.id"]) == ("gpu.error", "MIG-1")
    assert event["aimon.alert.value"] == 2.0


def test_the_bottleneck_is_named_as_the_cause(learned: Process) -> None:
    hot = Snapshot(devices=(DeviceReading(device=GPU, throttle_reasons=frozenset({"hw_thermal"})),))
    learned.watch.sampled(hot, 0.0)
    learned.watch._from_sampler = []
    learned.serve(600, slower=2.0)
    (event,) = learned.events()
    assert (event["aimon.alert.rule.name"], event["aimon.alert.cause"]) == (
        "latency.shift",
        "throttled.thermal",
    )


def test_dropped_telemetry_is_told(process: Process) -> None:
    for _ in range(15):
        process.now += 10.0
        process.dropped += 5
        process.watch.tick()
    assert process.told() == [("telemetry.dropped", "firing")]


def test_an_engine_whose_cache_is_full_is_told_and_is_the_cause_of_what_is_slow(process: Process) -> None:
    owner = type("Owner", (), {})()
    engine = process.recorder.engines.open("vllm", "m", 0, owner)
    engine.kv_cache, engine.waiting = 0.97, 0
    wait(process, 120)
    (event,) = process.events()
    assert (event["aimon.alert.rule.name"], event["aimon.model.name"]) == ("kv.pressure", "m")
    assert (event["aimon.engine.id"], event["aimon.alert.value"]) == ("0", 0.97)
    assert event["aimon.alert.cause"] == "kv_capacity"


def test_requests_that_wait_in_an_engine_are_told_by_its_model(process: Process) -> None:
    owner = type("Owner", (), {})()
    process.recorder.engines.open("vllm", "m", 0, owner).waiting = 500
    process.serve(120)
    (event,) = process.events()
    assert (event["aimon.alert.rule.name"], event["aimon.model.name"]) == ("queue.wait", "m")
    assert event["aimon.alert.value"] == pytest.approx(250.0, rel=0.2)


def test_a_long_queue_is_told() -> None:
    process = Process(slos="ttft=99%<500ms")
    series = process.recorder.series("fw", "chat", "m")
    process.recorder.watch_queue(series, lambda: 500)
    process.serve(120)
    assert process.told() == [("queue.wait", "firing")]
    process.close()


def test_a_rule_of_the_users_is_judged(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(
        "rules:\n"
        "  too.busy: {signal: aimon.inference.throughput, on: 1, for: 20s, severity: critical}\n"
        "  full: {signal: aimon.memory.utilization, on: 50%, for: 20s}\n"
    )
    process = Process(alert_rules=str(file))
    process.watch.sampled(Snapshot(container=CONTAINER, host=HOST), 0.0)
    process.serve(60)
    assert sorted(process.told()) == [("full", "firing"), ("too.busy", "firing")]
    busy = next(each for each in process.events() if each["aimon.alert.rule.name"] == "too.busy")
    assert busy["aimon.alert.value"] == pytest.approx(2.0, rel=0.3)
    process.close()


def test_objectives_are_counted_by_model_over_all_its_operations() -> None:
    process = Process(slos="error=99%")
    for operation in ("chat", "embeddings"):
        process.request(operation=operation)
        process.request(operation=operation, error="ValueError")
    points = process.points("aimon.slo.events")
    assert (points["m", "error", "good"], points["m", "error", "bad"]) == (2, 2)
    process.close()


def test_where_one_source_fails_the_others_are_judged(
    process: Process, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> list[Evidence]:
        raise RuntimeError("damaged")

    monkeypatch.setattr(guard, "RERAISE", False)
    monkeypatch.setattr(process.watch._degradation, "tick", fails)
    monkeypatch.setattr(process.watch.slo, "evidences", fails)
    monkeypatch.setattr(process.watch.situation, "bottleneck", fails)
    process.request()
    in_flight(process)
    wait(process, 400)
    assert process.told() == [("stall", "firing")]
    errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == 3
    assert sum("_degraded" in each for each in errors) == sum("_burning" in each for each in errors) == 1


def test_nothing_is_done_between_two_looks(process: Process) -> None:
    process.watch.tick()
    looks = process.watch._next_look
    process.now += 0.5
    process.watch.tick()
    assert process.watch._next_look == looks


def test_a_process_that_slept_makes_up_for_nothing(process: Process) -> None:
    process.serve(30)
    process.now += 10_000.0
    process.watch.tick()
    assert process.watch._next_tick == process.now + 10.0
    assert process.told() == []


def test_a_rule_file_with_mistakes_is_warned_of_and_the_rest_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("rules:\n  nonsense: {}\n")
    process = Process(alert_rules=str(file))
    assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 1
    in_flight(process)
    wait(process, 400)
    assert process.told() == [("stall", "firing")]
    process.close()


# --- the end of a process, and forks ---------------------------------------------------------------


def test_what_fires_at_the_end_is_resolved_because_of_it(learned: Process) -> None:
    learned.serve(600, slower=2.0)
    learned.watch.shutdown()
    learned.watch.shutdown()
    learned.serve(60, slower=2.0)
    assert learned.told() == [("latency.shift", "firing"), ("latency.shift", "resolved")]
    assert learned.events()[-1]["aimon.alert.reason"] == "shutdown"


def test_callbacks_get_what_is_emitted(learned: Process, callbacks: Callbacks) -> None:
    got: list[AlertEvent] = []

    def fails(_event: AlertEvent) -> None:
        raise RuntimeError("the application's")

    callbacks.add(fails)
    callbacks.add(got.append)
    learned.serve(600, slower=2.0)
    learned.watch.shutdown()
    assert [dict(each.attributes) for each in got] == [
        {key: value for key, value in each.items() if key not in ("name", "body")}
        for each in learned.events(heartbeats=True)
    ]
    assert [each.body for each in got] == [each["body"] for each in learned.events(heartbeats=True)]
    assert (got[0].state, got[-1].state) == ("firing", "resolved")


def test_a_forked_child_has_none_of_the_parents_alerts(learned: Process, callbacks: Callbacks) -> None:
    callbacks.add(lambda _event: None)
    learned.serve(600, slower=2.0)
    in_flight(learned)
    told = learned.told()
    learned.recorder.after_fork_in_child()
    learned.windows.after_fork_in_child()
    learned.watch.after_fork_in_child()
    assert learned.points("aimon.alert.active") == {}
    assert learned.points("aimon.slo.events") == {}
    # It learns anew what is usual, so that nothing is unusual.
    learned.serve(600, slower=2.0)
    learned.watch.shutdown()
    assert learned.told() == told


# --- what was learned survives a restart -----------------------------------------------------------


class TestState:
    def test_a_process_goes_on_from_what_the_last_one_learned(self, tmp_path: Path) -> None:
        file = tmp_path / "learned.json"
        before = Process(alert_state=str(file))
        before.serve(LEARNING + 600)
        before.watch.shutdown()
        before.now += 60.0
        after = Process(alert_state=str(file))
        after.serve(300)
        assert after.told() == []
        after.serve(600, slower=2.0)
        assert after.told() == [("latency.shift", "firing")]
        before.close()
        after.close()

    def test_without_a_file_it_learns_anew(self) -> None:
        process = Process()
        process.serve(300)
        process.serve(600, slower=2.0)
        assert process.told() == []
        process.watch.shutdown()
        process.close()

    def test_it_is_saved_every_ten_minutes(self, tmp_path: Path) -> None:
        file = tmp_path / "learned.json"
        process = Process(alert_state=str(file))
        process.serve(SAVE_SECONDS - 10)
        assert not file.exists()
        process.serve(10)
        first = json.loads(file.read_text())["saved_at"]
        process.serve(SAVE_SECONDS)
        assert json.loads(file.read_text())["saved_at"] - first == SAVE_SECONDS
        process.close()

    @pytest.mark.parametrize("forked", [True, False])
    def test_who_served_nothing_overwrites_nothing(self, tmp_path: Path, forked: bool) -> None:
        file = tmp_path / "learned.json"
        process = Process(alert_state=str(file))
        process.serve(LEARNING)
        process.watch.shutdown()
        before = file.read_bytes()
        other = process if forked else Process(alert_state=str(file))
        if forked:
            process.watch.after_fork_in_child()
        other.now += 60.0
        other.watch.tick()
        other.watch.shutdown()
        assert file.read_bytes() == before
        process.close()

    def test_a_forked_child_goes_on_from_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "learned.json"
        process = Process(alert_state=str(file))
        process.serve(LEARNING + 600)
        process.watch._save()
        process.watch.after_fork_in_child()
        process.serve(600)
        process.serve(600, slower=2.0)
        assert process.told() == [("latency.shift", "firing")]
        process.close()

    def test_a_damaged_file_is_warned_of_once(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        file = tmp_path / "learned.json"
        file.write_text("{")
        process = Process(alert_state=str(file))
        process.serve(100)
        assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 1
        process.watch.shutdown()
        assert json.loads(file.read_text())["version"] == 1
        process.close()

    def test_a_place_that_cannot_be_written_to_harms_nothing(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, callbacks: Callbacks
    ) -> None:
        got: list[AlertEvent] = []
        callbacks.add(got.append)
        (tmp_path / "file").touch()
        process = Process(alert_state=str(tmp_path / "file" / "learned.json"))
        process.request()
        in_flight(process)
        wait(process, 400)
        process.watch.shutdown()
        assert [each.state for each in got] == ["firing", "resolved"]
        process.close()


def test_a_model_at_the_limit_that_is_hinted_is_told(process: Process) -> None:
    at = 1.2
    process.watch.more_evidence = lambda: [
        Evidence("saturation.concurrency", (("aimon.model.name", "m"),), at, value=at)
    ]
    process.serve(120)
    told = [
        each
        for each in process.events()
        if each["aimon.alert.rule.name"] == "saturation.concurrency.critical"
    ]
    assert [each["aimon.alert.state"] for each in told] == ["firing"]
    assert told[0]["aimon.model.name"] == "m"
    assert told[0]["body"] == "Model m is at 120 % of the concurrency that it can serve well."
    at = 0.5
    process.serve(600)
    assert process.told()[-1][1] == "resolved"
