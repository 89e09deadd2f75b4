"""When everything breaks at once, one summary says so."""

from __future__ import annotations

from tests.alerts.support import START, World, model, rule, seen


def test_ten_alerts_a_minute_and_one_summary() -> None:
    world = World(rule(), rule("error.ratio", domain="errors"))
    broken = [seen(12, identity=model(str(n))) for n in range(12)]
    broken += [seen(12, "error.ratio", model(str(n))) for n in range(3)]
    world.run(1, broken)
    assert [event.name for event in world.events] == ["aimon.alert"] * 10 + ["aimon.alert.storm"]
    storm = world.events[-1]
    assert dict(storm.attributes) == {
        "aimon.alert.storm.withheld": 5,
        "aimon.alert.storm.rules": ("error.ratio", "latency.shift"),
    }
    assert storm.severity == "critical"
    assert storm.body == (
        "Too many alerts at once: 5 more were withheld, of error.ratio, latency.shift. "
        "Those that last are told later."
    )
    assert storm.timestamp == storm.observed_timestamp == START + 1_000_000_000
    world.run(290, broken)
    assert len(world.events) == 11


def test_what_was_withheld_is_told_if_it_lasts_and_only_then_resolved() -> None:
    world = World(rule())
    broken = [seen(12, identity=model(str(n))) for n in range(12)]
    world.run(290, broken[:11])
    world.at(291, *broken)
    # The eleventh is told at its heartbeat, the twelfth in its turn, for the minute is over.
    told = [event.attributes["aimon.model.name"] for event in world.events if event.state == "firing"]
    assert told == [*map(str, range(10)), "11"]
    world.run(302, broken)
    told = [event.attributes["aimon.model.name"] for event in world.events if event.state == "firing"]
    assert told.count("10") == 1
    world.alerting.shutdown()
    ended = [event.attributes["aimon.model.name"] for event in world.events if event.state == "resolved"]
    assert sorted(ended, key=int) == [*map(str, range(12))]


def test_what_was_withheld_and_ended_is_not_resolved() -> None:
    world = World(rule(keep_firing=0.0))
    world.at(0, *(seen(12, identity=model(str(n))) for n in range(12)))
    world.at(1, *(seen(0, identity=model(str(n))) for n in range(12)))
    assert sum(event.state == "resolved" for event in world.events) == 10
