"""What leaves the process: whole log records through the SDK, and sentences for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider

from otel_aimon.alerts.events import emit_to, fingerprint
from otel_aimon.alerts.rules import RULES, Rule
from otel_aimon.analysis.evidence import Evidence
from otel_aimon.analysis.slo import BurnEvidence
from tests.alerts.support import START, M, World, rule, seen

TRACE = "0af7651916cd43dd8448eb211c80319c"
OTHER = "1" * 32
SPAN = "b7ad6b7169203331"


class Exported:
    """A logger and what it exported."""

    def __init__(self) -> None:
        self.exporter = InMemoryLogRecordExporter()
        self.provider = LoggerProvider()
        self.provider.add_log_record_processor(SimpleLogRecordProcessor(self.exporter))
        self.emit = emit_to(self.provider.get_logger("otel_aimon"))

    def records(self) -> list[Any]:
        return [each.log_record for each in self.exporter.get_finished_logs()]


@pytest.fixture
def exported() -> Iterator[Exported]:
    exported = Exported()
    yield exported
    exported.provider.shutdown()


def plain(record: Any) -> dict[str, Any]:
    return {
        "event_name": record.event_name,
        "timestamp": record.timestamp,
        "observed_timestamp": record.observed_timestamp,
        "severity_number": record.severity_number,
        "severity_text": record.severity_text,
        "body": record.body,
        "trace_id": record.trace_id,
        "span_id": record.span_id,
        "attributes": dict(record.attributes),
    }


def seconds(value: float) -> int:
    return START + int(value * 1e9)


def test_a_whole_alert_as_log_records(exported: Exported) -> None:
    shift = rule(hold=20.0, needed=3, of=3, every=10.0, keep_firing=30.0)
    world = World(shift, explain=lambda _step: ("gpu.throttled.thermal", 0.9))
    world.alerting._emit = (exported.emit,)
    reading = {"baseline": 0.041, "samples": 1822, "window": 300.0}
    world.at(10, seen(31.2, value=0.071, trace_ids=(f"{TRACE}-{SPAN}", OTHER), **reading))
    world.at(20, seen(20.0, value=0.06, trace_ids=("2" * 32,), **reading))
    world.at(30, seen(20.5, value=0.062, trace_ids=(), **reading))
    world.at(40, seen(0.0, value=0.04, **reading))
    world.at(70, seen(0.0, value=0.04, **reading))

    firing, resolved = (plain(record) for record in exported.records())
    common = {
        "aimon.alert.id": "episode-1",
        "aimon.alert.fingerprint": fingerprint(shift.name, M),
        "aimon.alert.rule.name": "latency.shift",
        "aimon.alert.rule.version": "1",
        "aimon.alert.category": "anomaly",
        "aimon.alert.severity": "warning",
        "aimon.alert.signal": "gen_ai.server.time_per_output_token",
        "aimon.alert.unit": "s",
        "aimon.alert.threshold": 10.0,
        "aimon.alert.for": 20.0,
        "aimon.alert.peak": 0.071,
        "aimon.alert.baseline": 0.041,
        "aimon.alert.window": 300.0,
        "aimon.alert.samples": 1822,
        "aimon.alert.started_at": seconds(10),
        "aimon.alert.flap_count": 0,
        "aimon.alert.heartbeat": False,
        "aimon.alert.cause": "gpu.throttled.thermal",
        "aimon.alert.cause.confidence": 0.9,
        "aimon.alert.exemplar.trace_ids": (TRACE, OTHER),
        "aimon.model.name": "m",
    }
    assert firing == {
        "event_name": "aimon.alert",
        "timestamp": seconds(10),
        "observed_timestamp": seconds(30),
        "severity_number": SeverityNumber.WARN,
        "severity_text": "WARN",
        "body": "Model m became slower: 62 ms instead of 41 ms.",
        "trace_id": int(TRACE, 16),
        "span_id": int(SPAN, 16),
        "attributes": {
            **common,
            "aimon.alert.state": "firing",
            "aimon.alert.previous_state": "pending",
            "aimon.alert.reason": "threshold",
            "aimon.alert.value": 0.062,
            "aimon.alert.score": 20.5,
            "aimon.alert.duration": 20.0,
        },
    }
    assert resolved == {
        "event_name": "aimon.alert",
        "timestamp": seconds(40),
        "observed_timestamp": seconds(70),
        "severity_number": SeverityNumber.INFO,
        "severity_text": "INFO",
        "body": "Model m: latency.shift is over after 60 s.",
        "trace_id": int(TRACE, 16),
        "span_id": int(SPAN, 16),
        "attributes": {
            **common,
            "aimon.alert.state": "resolved",
            "aimon.alert.previous_state": "recovering",
            "aimon.alert.reason": "clear",
            "aimon.alert.value": 0.04,
            "aimon.alert.score": 0.0,
            "aimon.alert.duration": 60.0,
        },
    }


def test_an_end_says_why() -> None:
    by_reason = {}
    for act in ("nodata", "shutdown", "reload"):
        world = World(rule(repeat=1e6))
        world.at(0, seen(12))
        world.at(60, seen(12))
        if act == "nodata":
            world.at(7200)
        elif act == "shutdown":
            world.alerting.shutdown()
        else:
            world.alerting.reload([])
        by_reason[world.events[-1].attributes["aimon.alert.reason"]] = world.events[-1].body
    assert by_reason == {
        "nodata": "Model m: latency.shift has had no data for long, and is given up after 2 h.",
        "shutdown": "Model m: latency.shift was not over when the process ended, after 60 s.",
        "reload": "Model m: latency.shift is no longer judged after 60 s, because the rules changed.",
    }


def test_without_an_example_the_record_has_no_trace_not_even_that_of_the_thread(exported: Exported) -> None:
    world = World(rule())
    world.alerting._emit = (exported.emit,)
    with trace.use_span(TracerProvider().get_tracer("t").start_span("the application's own")):
        world.at(0, seen(12, trace_ids=("not a trace",)))
    (record,) = exported.records()
    assert (record.trace_id, record.span_id) == (0, 0)


def test_a_trace_without_a_known_span(exported: Exported) -> None:
    world = World(rule())
    world.alerting._emit = (exported.emit,)
    world.at(0, seen(12, trace_ids=(TRACE,)))
    (record,) = exported.records()
    assert (record.trace_id, record.span_id) == (int(TRACE, 16), 0)


def test_the_least_and_the_most_that_a_group_says() -> None:
    world = World(
        rule("latency.shift"), rule("latency.drift"), rule("stall", domain="capacity"), group_wait=10.0
    )
    world.at(0, seen(12, "stall"), seen(12), seen(12, "latency.drift"))
    world.run(20, [seen(0, "stall"), seen(12), seen(12, "latency.drift")])
    world.run(60, [seen(0, "stall"), seen(12), seen(12, "latency.drift")])
    late = world.events[-1].attributes
    assert late["aimon.alert.inhibited_by"] == "stall"
    assert late["aimon.alert.children"] == ("latency.drift",)
    assert world.events[-1].body.endswith(" With it: latency.drift.")
    absent = {
        "aimon.alert.value",
        "aimon.alert.baseline",
        "aimon.alert.window",
        "aimon.alert.samples",
        "aimon.alert.cause",
    }
    assert not absent & late.keys()


def test_a_burn_rate_says_how_much_is_left(exported: Exported) -> None:
    burning = BurnEvidence(
        "slo.ttft.burn_fast", M, 15.1, burn_long=15.1, burn_short=22.0, budget_remaining=0.71
    )
    world = World(rule("slo.ttft.burn_fast"))
    world.alerting._emit = (exported.emit,)
    world.at(0, burning)
    attributes = exported.records()[0].attributes
    found = {
        key: attributes[f"aimon.alert.{key}"]
        for key in ("burn_rate.long", "burn_rate.short", "budget_remaining")
    }
    assert found == {"burn_rate.long": 15.1, "burn_rate.short": 22.0, "budget_remaining": 0.71}


@pytest.mark.parametrize(
    ("severity", "number", "text"),
    [("info", 9, "INFO"), ("warning", 13, "WARN"), ("critical", 17, "ERROR")],
)
def test_severities(exported: Exported, severity: str, number: int, text: str) -> None:
    world = World(rule(severity=severity))
    world.alerting._emit = (exported.emit,)
    world.at(0, seen(12))
    world.alerting.shutdown()
    firing, resolved = exported.records()
    assert (firing.severity_number.value, firing.severity_text) == (number, text)
    assert (resolved.severity_number.value, resolved.severity_text) == (9, "INFO")


def test_a_fingerprint_is_the_same_for_each_alert_of_its_kind() -> None:
    assert fingerprint("a", (("x", "1"), ("y", "2"))) == fingerprint("a", (("y", "2"), ("x", "1")))
    assert len({fingerprint("a", M), fingerprint("b", M), fingerprint("a", ())}) == 3
    assert len(fingerprint("a", M)) == 16
    int(fingerprint("a", M), 16)


def body(about: Rule, **reading: Any) -> str:
    quick = {"hold": 0.0, "needed": 1, "of": 1, "samples": 0}
    world = World(Rule(**{**{name: getattr(about, name) for name in about.__dataclass_fields__}, **quick}))
    return world.at(0, Evidence(about.source, reading.pop("identity", M), about.on, **reading))[0].body


@pytest.mark.parametrize("about", RULES, ids=lambda about: about.name)
def test_every_rule_has_a_sentence(about: Rule) -> None:
    text = body(about, value=0.25, baseline=0.125, samples=100, window=300.0)
    assert text[0].isupper() or not text[0].isalpha()
    assert text.endswith(".")
    assert "{" not in text
    assert "unknown" in body(about).lower() or "{value}" not in about.summary


@pytest.mark.parametrize(
    ("unit", "value", "words"),
    [
        ("1", 0.053, "5.3 %"),
        ("s", 0.0, "0 s"),
        ("s", 0.00025, "250 µs"),
        ("s", 0.071, "71 ms"),
        ("s", 90.0, "90 s"),
        ("s", 600.0, "10 min"),
        ("s", 7200.0, "2 h"),
        ("By", 512.0, "512 B"),
        ("By", 8 * 2.0**30, "8 GiB"),
        ("By", 2.0**41, "2 TiB"),
        ("{request}/s", 3.14159, "3.14 requests per second"),
        ("{error}", 1.0, "1 error"),
        ("{error}", 2.0, "2 errors"),
        ("Cel", 85.0, "85 Cel"),
    ],
)
def test_quantities_for_people(unit: str, value: float, words: str) -> None:
    assert body(rule(unit=unit, summary="It is {value}."), value=value) == f"It is {words}."


@pytest.mark.parametrize(
    ("identity", "where"),
    [
        ((), "This process"),
        (M, "Model m"),
        ((("hw.id", "GPU-0"),), "Device GPU-0"),
        ((("a", "1"), ("b", "2")), "A 1, b 2"),
    ],
)
def test_what_it_is_about(identity: Any, where: str) -> None:
    assert body(rule(summary="{where} is ill."), identity=identity) == f"{where} is ill."


def test_a_users_summary_reads_nothing_but_its_words() -> None:
    text = body(
        rule(summary="{where.__class__} {0} {} {what} {signal} {threshold} {score} {samples} {window}")
    )
    assert text == "{where.__class__} {0} {} {what} gen_ai.server.time_per_output_token 10 10 0 0 s"


def test_missing_data_in_words() -> None:
    world = World(rule(nodata="alert"))
    world.at(0, seen(0))
    (event,) = world.at(61)
    assert event.body == "Model m: no data for latency.shift."
    assert event.attributes["aimon.alert.reason"] == "nodata"
