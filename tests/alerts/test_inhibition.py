"""Causes silence their effects, and only where both can be about the same thing."""

from __future__ import annotations

import pytest

from otel_aimon.alerts.inhibition import Inhibition, can_be_one, circle
from otel_aimon.alerts.machine import Active
from otel_aimon.alerts.rules import RULES, Rule
from tests.alerts.support import M, World, model, rule, seen

GPU = (("hw.id", "GPU-0"),)
STALL = rule("stall", domain="capacity", keep_firing=10.0)
SHIFT = rule("latency.shift", keep_firing=10.0)


def by_name(name: str) -> Rule:
    return next(each for each in RULES if each.name == name)


def inhibitor(rule_name: str, by: str, *, mine: object = M, theirs: object = M) -> str | None:
    active = [Active(by_name(by), theirs, "e")]  # type: ignore[arg-type]
    return Inhibition(RULES).among(active)(by_name(rule_name), mine)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("effect", "cause"),
    [
        ("stall", "gpu.error"),
        ("gpu.throttled", "stall"),
        ("kv.pressure", "gpu.throttled"),
        ("saturation.concurrency", "kv.pressure"),
        ("latency.shift", "saturation.concurrency"),
        ("latency.drift", "gpu.error"),
        ("gpu.power_capped", "gpu.throttled"),
    ],
)
def test_a_cause_inhibits_its_effect_and_not_the_other_way_round(effect: str, cause: str) -> None:
    assert inhibitor(effect, cause) == cause
    assert inhibitor(cause, effect) is None


def test_a_critical_burn_rate_is_never_inhibited() -> None:
    assert inhibitor("slo.ttft.burn_fast", "gpu.error") is None
    milder = rule("slo.ttft.burn_fast")
    inhibition = Inhibition([milder, by_name("latency.shift")])
    assert inhibition.among([Active(by_name("latency.shift"), M, "e")])(milder, M) == "latency.shift"


def test_only_what_can_be_about_the_same_thing() -> None:
    assert inhibitor("latency.shift", "stall", theirs=model("n")) is None
    assert inhibitor("latency.shift", "gpu.error", theirs=GPU) == "gpu.error"
    assert inhibitor("latency.shift", "saturation.concurrency", theirs=()) == "saturation.concurrency"
    assert can_be_one((("a", "1"), ("b", "2")), (("b", "2"), ("c", "3")))
    assert not can_be_one((("a", "1"), ("b", "2")), (("b", "3"), ("c", "3")))


def test_a_shifted_workload_explains_raw_latency() -> None:
    raw = rule("p95.high", inhibited_by=("workload.*",))
    shift = by_name("workload.shift")
    assert Inhibition([raw, shift]).among([Active(shift, M, "e")])(raw, M) == "workload.shift"


def test_an_inhibited_alert_is_told_when_it_outlasts_what_inhibits_it() -> None:
    world = World(STALL, SHIFT)
    world.at(0, seen(12, "stall"))
    world.run(100, [seen(12, "stall"), seen(12)])
    assert world.told() == [("stall", "firing", False)]
    world.run(120, [seen(0, "stall"), seen(12)])
    assert world.told()[1:] == [("stall", "resolved", False), ("latency.shift", "firing", False)]
    assert world.events[-1].attributes["aimon.alert.inhibited_by"] == "stall"
    assert "aimon.alert.inhibited_by" not in world.events[0].attributes


def test_an_inhibited_alert_that_ends_is_never_told() -> None:
    world = World(STALL, SHIFT)
    world.at(0, seen(12, "stall"))
    world.run(50, [seen(12, "stall"), seen(12)])
    world.run(100, [seen(12, "stall"), seen(0)])
    world.run(200, [seen(0, "stall"), seen(0)])
    assert world.told() == [("stall", "firing", False), ("stall", "resolved", False)]
    counted = {tuple(attributes.values()): count for count, attributes in world.alerting.transition_points()}
    assert counted["latency.shift", "warning", "firing"] == 1


def test_the_end_of_an_alert_that_was_told_waits_for_what_inhibits_it() -> None:
    world = World(SHIFT, STALL)
    world.at(0, seen(12))
    world.run(50, [seen(12, "stall"), seen(12)])
    world.run(100, [seen(12, "stall"), seen(0)])
    assert world.told() == [("latency.shift", "firing", False), ("stall", "firing", False)]
    world.run(200, [seen(0, "stall")])
    # In the order of their groups: both are told once nothing inhibits them.
    assert sorted(world.told()[2:]) == [("latency.shift", "resolved", False), ("stall", "resolved", False)]
    late = next(event for event in world.events[2:] if event.rule == "latency.shift")
    assert late.timestamp < late.observed_timestamp


def test_the_end_of_the_process_inhibits_nothing() -> None:
    world = World(SHIFT, STALL)
    world.at(0, seen(12))
    world.run(50, [seen(12, "stall"), seen(12)])
    world.alerting.shutdown()
    assert sorted(world.told()) == [
        ("latency.shift", "firing", False),
        ("latency.shift", "resolved", False),
        ("stall", "firing", False),
        ("stall", "resolved", False),
    ]


def test_a_circle_inhibits_nothing() -> None:
    one, two = rule("one", inhibited_by=("two",)), rule("two", inhibited_by=("one",))
    assert sorted(circle([one, two, SHIFT])) == ["one", "two"]
    inhibition = Inhibition([one, two])
    active = [Active(one, M, "1"), Active(two, M, "2")]
    assert inhibition.among(active)(one, M) is None
    assert inhibition.among(active)(two, M) is None


def test_a_circle_through_the_built_in_order_is_one_too() -> None:
    cause = rule("stall", inhibited_by=("latency.*",))
    assert set(circle([cause, SHIFT])) == {"stall", "latency.shift"}
    assert circle(RULES) == []


def test_what_was_inhibited_all_its_life_is_not_told_when_both_end_together() -> None:
    world = World(STALL, SHIFT)
    world.at(0, seen(12, "stall"))
    world.run(50, [seen(12, "stall"), seen(12)])
    world.alerting.shutdown()
    assert world.told() == [("stall", "firing", False), ("stall", "resolved", False)]
