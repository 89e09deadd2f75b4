"""Properties of the whole: whatever happens, what leaves the process makes sense."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aimon.alerts.storm import BUDGET, PERIOD
from otel_aimon.analysis.evidence import Evidence
from tests.alerts.support import World, model, rule, seen

RULES = (
    rule("gpu.error", domain="gpu", severity="critical", keep_firing=5.0, repeat=20.0),
    rule("stall", domain="capacity", severity="critical", keep_firing=3.0, repeat=20.0),
    rule("latency.shift", keep_firing=0.0, repeat=20.0),
    rule("latency.drift", hold=3.0, needed=3, of=4, keep_firing=4.0, repeat=20.0),
    rule("slo.ttft.burn_fast", severity="critical", keep_firing=2.0, repeat=20.0),
    rule("mine", keep_firing=0.0, inhibited_by=("latency.*",), repeat=20.0),
)
IDENTITIES = (model("a"), model("b"), ())

READING = st.builds(
    Evidence,
    rule=st.sampled_from([each.name for each in RULES]),
    identity=st.sampled_from(IDENTITIES),
    score=st.sampled_from([0.0, 0.0, 7.0, 12.0, 12.0]),
)
TICK = st.tuples(st.sampled_from([1.0, 1.0, 1.0, 5.0, 30.0, 400.0, 4000.0]), st.lists(READING, max_size=8))


def key(event: Any) -> tuple[str, str]:
    return event.rule, event.attributes.get("aimon.model.name", "")


@settings(max_examples=300, deadline=None)
@given(ticks=st.lists(TICK, max_size=50), wait=st.sampled_from([0.0, 2.0, 10.0]))
def test_whatever_happens(ticks: list[tuple[float, list[Evidence]]], wait: float) -> None:
    world = World(*RULES, group_wait=wait)
    inhibition = world.alerting._inhibition
    by_name = {each.name: each for each in RULES}
    now = 0.0
    for passed, readings in ticks:
        now += passed
        latest = {(reading.rule, reading.identity): reading for reading in readings}
        events = world.at(now, *latest.values())
        # No event while inhibited.
        active = world.alerting._machine.active()
        for event in events:
            if event.name == "aimon.alert":
                identity = tuple(pair for pair in event.attributes.items() if pair[0] == "aimon.model.name")
                assert inhibition.among(active)(by_name[event.rule], identity) is None
        # Nothing is lost: whatever may be told is, or something as bad in its group.
        world.at(now)
        for group in world.alerting._groups._groups.values():
            members = group.members.values()
            told = max((each.severity for each in members if each.told), default=-1)
            for member in members:
                assert not member.counts or told >= member.severity or now - group.opened < wait
    world.now = now + 1
    world.alerting.shutdown()

    alerts = [event for event in world.events if event.name == "aimon.alert"]
    starts = Counter(
        event.attributes["aimon.alert.id"]
        for event in alerts
        if event.state == "firing" and not event.attributes["aimon.alert.heartbeat"]
    )
    ends = Counter(event.attributes["aimon.alert.id"] for event in alerts if event.state == "resolved")
    # Never two firing events for one episode, and each one that was told is resolved exactly once.
    assert all(count == 1 for count in starts.values())
    assert ends == starts
    # In order: what is observed later comes later; firing, heartbeats, resolved.
    observed = [event.observed_timestamp for event in world.events]
    assert observed == sorted(observed)
    begun: set[str] = set()
    ended: set[str] = set()
    for event in alerts:
        episode = event.attributes["aimon.alert.id"]
        assert episode not in ended
        if event.state == "resolved":
            assert episode in begun
            ended.add(episode)
        elif event.attributes["aimon.alert.heartbeat"]:
            assert episode in begun
        else:
            begun.add(episode)
        assert event.timestamp <= event.observed_timestamp
        assert event.attributes["aimon.alert.duration"] >= 0
    # Episodes of one alert come one after the other.
    by_alert: dict[Any, list[int]] = {}
    for event in alerts:
        if not event.attributes["aimon.alert.heartbeat"]:
            by_alert.setdefault(key(event), []).append(event.attributes["aimon.alert.started_at"])
    for started in by_alert.values():
        assert started == sorted(started)
    # Never more than the budget in a minute.
    firing = [
        event.observed_timestamp / 1e9
        for event in alerts
        if event.state == "firing" and not event.attributes["aimon.alert.heartbeat"]
    ]
    for number, start in enumerate(firing):
        assert sum(start <= other < start + PERIOD - 1e-6 for other in firing[number:]) <= BUDGET
    # Nothing is left.
    assert len(world.alerting._groups) == len(world.alerting._groups._homes) == 0
    assert all(value == 0 for value, _ in world.alerting.active_points())


def test_the_metrics_say_what_fires_told_or_not() -> None:
    world = World(RULES[1], RULES[2])
    world.at(0, seen(12, "stall", model("a")), seen(12, identity=model("a")))
    points = {tuple(attributes.values()): value for value, attributes in world.alerting.active_points()}
    assert points == {("stall", "critical", "a"): 1, ("latency.shift", "warning", "a"): 1}
    world.at(1, seen(0, identity=model("a")))
    points = {tuple(attributes.values()): value for value, attributes in world.alerting.active_points()}
    assert points == {("stall", "critical", "a"): 1, ("latency.shift", "warning", "a"): 0}
    assert {
        tuple(attributes.values()): count for count, attributes in world.alerting.transition_points()
    } == {
        ("stall", "critical", "pending"): 1,
        ("stall", "critical", "firing"): 1,
        ("latency.shift", "warning", "pending"): 1,
        ("latency.shift", "warning", "firing"): 1,
        ("latency.shift", "warning", "recovering"): 1,
        ("latency.shift", "warning", "resolved"): 1,
    }


def test_the_last_metrics_of_a_process_say_that_nothing_fires() -> None:
    world = World(RULES[2])
    world.at(0, seen(12))
    world.alerting.shutdown()
    about = {
        "aimon.alert.rule.name": "latency.shift",
        "aimon.alert.severity": "warning",
        "aimon.model.name": "m",
    }
    assert world.alerting.active_points() == [(0, about)]


def test_a_forked_child_starts_without_its_parents_alerts() -> None:
    world = World(RULES[2])
    world.at(0, seen(12))
    world.alerting.after_fork_in_child()
    assert world.alerting.active_points() == []
    assert world.alerting.shutdown() == []


def test_a_handler_that_interrupts_a_tick_does_no_harm() -> None:
    world = World(RULES[2])
    world.alerting._emit = (world.events.append, lambda _event: world.alerting.shutdown())
    world.at(0, seen(12))
    assert world.told() == [("latency.shift", "firing", False)]
    world.alerting._emit = (world.events.append,)
    world.alerting.shutdown()
    assert world.told()[1:] == [("latency.shift", "resolved", False)]


def test_an_episode_began_once_however_the_clocks_are_read() -> None:
    world = World(RULES[2])
    readings = iter(range(10**9))
    world.alerting._wall = lambda: int(world.now * 1e9) + next(readings) * 40_000
    world.at(100, seen(12))
    world.at(200, seen(0))
    assert {event.attributes["aimon.alert.started_at"] for event in world.events} == {100 * 10**9}
    assert [event.state for event in world.events] == ["firing", "resolved"]
    # Somebody sets the clock.
    world.alerting._wall = lambda: int(world.now * 1e9) + 3600 * 10**9
    (event,) = world.at(300, seen(12))
    assert event.timestamp == 3900 * 10**9


def test_other_rules_from_now_on() -> None:
    world = World(RULES[2])
    world.at(0, seen(12))
    (event,) = world.alerting.reload([RULES[3]])
    assert (event.state, event.attributes["aimon.alert.reason"]) == ("resolved", "reload")
    assert world.alerting.rules == (RULES[3],)


def test_days_pass_in_no_time() -> None:
    world = World(*RULES)
    for day in range(30):
        for tick in range(0, 86_400, 600):
            sick = tick == 36_000
            world.at(day * 86_400 + tick, seen(12.0 if sick else 0.0))
    assert Counter(event.state for event in world.events) == {"firing": 30, "resolved": 30}
