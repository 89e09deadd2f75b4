"""Rules of users on signals that behave as they never do."""

from __future__ import annotations

import random

from otel_aimon.alerts.rulefile import RuleSet, parse
from otel_aimon.alerts.rules import Rule
from otel_aimon.alerts.unusual import MOST_DETECTORS
from otel_aimon.analysis.evidence import Evidence
from tests.alerts.support import model

SIGNALS = {"aimon.cpu.utilization": "1", "aimon.inference.active": "{request}"}


def read(text: str) -> RuleSet:
    return parse("rules:\n" + text, signals=SIGNALS)


def own(found: RuleSet, name: str) -> Rule:
    return next(rule for rule in found.rules if rule.name == name)


def follow(found: RuleSet, values: list[float], start: int = 0) -> list[Evidence]:
    (unusual,) = found.thresholds
    return [
        each
        for place, value in enumerate(values, start)
        for each in unusual.evidences({"aimon.cpu.utilization": {(): value}}, 1.7e9 + place * 10.0)
    ]


def usual(seed: int, number: int) -> list[float]:
    chance = random.Random(seed)
    return [0.4 + chance.gauss(0.0, 0.03) for _ in range(number)]


def test_a_signal_that_leaves_its_range_is_told_and_noise_is_not() -> None:
    found = read("  cpu.unusual: {signal: aimon.cpu.utilization, anomaly: true}\n")
    assert found.problems == ()
    rule = own(found, "cpu.unusual")
    assert (rule.category, rule.on, rule.off, rule.scale) == ("anomaly", 5.0, 1.0, "")
    quiet = follow(found, usual(1, 3000))
    assert quiet
    assert not any(rule.is_met(each.score) for each in quiet)
    loud = follow(found, [0.95] * 6, start=3000)
    assert rule.is_met(loud[-1].score)
    assert (loud[-1].rule, loud[-1].value) == ("cpu.unusual", 0.95)


def test_how_unusual_can_be_said() -> None:
    found = read("  cpu.unusual: {signal: aimon.cpu.utilization, anomaly: true, on: 8, for: 1m}\n")
    rule = own(found, "cpu.unusual")
    assert (rule.on, rule.off, rule.hold) == (8.0, 1.6, 60.0)


def test_what_makes_no_sense_is_named() -> None:
    for text, complaint in (
        ("{signal: aimon.cpu.utilization, anomaly: perhaps}", "anomaly is neither true nor false"),
        ("{signal: aimon.cpu.utilization, anomaly: true, op: '>'}", "an anomaly takes no op"),
        (
            "{expression: aimon.cpu.utilization > 1, anomaly: true}",
            "is true or false, which is never unusual",
        ),
    ):
        found = read(f"  cpu.unusual: {text}\n")
        assert len(found.problems) == 1
        assert complaint in str(found.problems[0])


def test_memory_is_bounded() -> None:
    found = read("  many: {signal: aimon.inference.active, anomaly: true}\n")
    (unusual,) = found.thresholds
    readings = {"aimon.inference.active": {model(str(number)): 1.0 for number in range(100)}}
    list(unusual.evidences(readings, 0.0))
    assert len(unusual._detectors) == MOST_DETECTORS  # type: ignore[union-attr]
