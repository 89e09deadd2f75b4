"""One event pair for one fault: groups, what is withheld, and when it is told after all."""

from __future__ import annotations

from tests.alerts.support import M, World, model, rule, seen, short

SHIFT = rule("latency.shift")
DRIFT = rule("latency.drift")
CRITICAL = rule("slo.ttft.burn_fast", severity="critical", category="slo")
ERRORS = rule("error.ratio", domain="errors")


def firing(name: str = "latency.shift") -> tuple[str, str, bool]:
    return (name, "firing", False)


def resolved(name: str = "latency.shift") -> tuple[str, str, bool]:
    return (name, "resolved", False)


def beating(name: str = "latency.shift") -> tuple[str, str, bool]:
    return (name, "firing", True)


def test_alerts_that_belong_together_are_told_together() -> None:
    world = World(SHIFT, DRIFT, group_wait=10.0)
    world.at(0, seen(12, "latency.drift"))
    world.run(9, [seen(12), seen(12, "latency.drift")])
    assert world.events == []
    world.run(20, [seen(12), seen(12, "latency.drift")])
    assert world.told() == [firing("latency.drift")]
    assert world.events[0].attributes["aimon.alert.children"] == ("latency.shift",)
    # The one that was told is over first, and stands for the group until the other one is over, too.
    world.run(60, [seen(12), seen(0, "latency.drift")])
    assert len(world.events) == 1
    world.run(100, [seen(0), seen(0, "latency.drift")])
    assert world.told() == [firing("latency.drift"), resolved("latency.drift")]


def test_the_worst_of_a_group_is_told() -> None:
    world = World(SHIFT, CRITICAL, group_wait=10.0)
    world.at(0, seen(12))
    world.run(20, [seen(12), seen(12, "slo.ttft.burn_fast")])
    assert world.told() == [firing("slo.ttft.burn_fast")]
    assert world.events[0].attributes["aimon.alert.children"] == ("latency.shift",)


def test_what_is_worse_than_all_that_was_told_is_told() -> None:
    world = World(SHIFT, DRIFT, CRITICAL)
    world.at(0, seen(12))
    world.at(5, seen(12), seen(12, "latency.drift"))
    world.at(9, seen(12), seen(12, "latency.drift"), seen(12, "slo.ttft.burn_fast"))
    assert world.told() == [firing(), firing("slo.ttft.burn_fast")]
    assert world.events[1].attributes["aimon.alert.children"] == ("latency.drift", "latency.shift")
    world.run(50, [seen(12), seen(0, "latency.drift"), seen(0, "slo.ttft.burn_fast")])
    assert world.told()[2:] == [resolved("slo.ttft.burn_fast")]
    world.run(90, [seen(0)])
    assert world.told()[3:] == [resolved()]


def test_a_mild_alert_does_not_keep_a_critical_one_open() -> None:
    world = World(SHIFT, CRITICAL, group_wait=5.0)
    world.run(10, [seen(12), seen(12, "slo.ttft.burn_fast")])
    world.run(60, [seen(12), seen(0, "slo.ttft.burn_fast")])
    assert world.told() == [firing("slo.ttft.burn_fast"), resolved("slo.ttft.burn_fast"), firing()]
    world.run(100, [seen(0)])
    assert world.told()[3:] == [resolved()]


def test_models_and_domains_are_apart() -> None:
    world = World(SHIFT, ERRORS)
    world.at(0, seen(12), seen(12, identity=model("n")), seen(12, "error.ratio"))
    assert world.told() == [firing(), firing(), firing("error.ratio")]


def test_an_alert_that_ends_while_its_group_waits_is_not_lost() -> None:
    world = World(rule(keep_firing=0.0), group_wait=10.0)
    world.at(0, seen(12))
    world.at(1, seen(0))
    assert world.told() == [firing(), resolved()]
    first, last = world.events
    assert first.attributes["aimon.alert.id"] == last.attributes["aimon.alert.id"]


def test_the_end_of_the_process_loses_none() -> None:
    world = World(SHIFT, DRIFT, ERRORS, group_wait=10.0)
    world.at(0, seen(12), seen(12, "latency.drift"), seen(12, "error.ratio"))
    world.now = 1
    world.alerting.shutdown()
    assert world.told() == [firing(), resolved(), firing("error.ratio"), resolved("error.ratio")]
    assert world.events[1].attributes["aimon.alert.reason"] == "shutdown"
    world.at(20, seen(12))
    world.alerting.shutdown()
    assert len(world.events) == 4


def test_heartbeats_tell_the_children_that_came_later() -> None:
    world = World(SHIFT, DRIFT)
    world.run(5, [seen(12)])
    world.run(302, [seen(12, value=0.07), seen(12, "latency.drift")])
    assert world.told() == [firing(), beating()]
    assert world.events[1].attributes["aimon.alert.children"] == ("latency.drift",)
    assert world.events[1].attributes["aimon.alert.value"] == 0.07


def test_one_that_is_over_still_beats_for_its_group() -> None:
    world = World(SHIFT, DRIFT)
    world.at(0, seen(12))
    world.run(700, [seen(0), seen(12, "latency.drift")])
    assert world.told() == [firing(), beating(), beating()]
    assert {event.attributes["aimon.alert.id"] for event in world.events} == {"episode-1"}


def test_a_flapping_alert_waits_for_its_heartbeat() -> None:
    world = World(rule(keep_firing=0.0))
    for now in (0, 2, 4, 6):
        world.at(now, seen(12))
        world.at(now + 1, seen(0))
    assert world.told() == [firing(), resolved()] * 2
    world.run(320, [seen(12)])
    assert world.told()[4:] == [firing()]
    assert world.events[-1].attributes["aimon.alert.started_at"] == world.events[-1].timestamp
    world.run(322, [seen(0)])
    assert world.told()[5:] == [resolved()]
    counted = {
        attributes["aimon.alert.state"]: count for count, attributes in world.alerting.transition_points()
    }
    assert counted["firing"] == counted["resolved"] == 5


def test_identity_is_on_the_event() -> None:
    world = World(SHIFT)
    (event,) = world.at(0, seen(12))
    assert event.attributes["aimon.model.name"] == dict(M)["aimon.model.name"]
    assert short(event) == firing()


EVERYBODY: tuple[()] = ()


def test_a_fault_of_all_models_is_told_once() -> None:
    world = World(SHIFT, group_wait=10.0)
    ill = [seen(12, identity=EVERYBODY), *(seen(12, identity=model(name)) for name in "abc")]
    world.run(20, ill)
    world.run(30, [*ill, seen(12, identity=model("d"))])
    (event,) = world.events
    assert event.body == (
        "This process became slower: unknown instead of unknown. "
        "With it: latency.shift{a}, latency.shift{b}, latency.shift{c}."
    )
    world.run(80, [seen(0, identity=each) for each in (EVERYBODY, *map(model, "abcd"))])
    assert world.told() == [firing(), resolved()]


def test_a_fault_of_one_model_is_told_of_that_model_once() -> None:
    world = World(SHIFT, group_wait=10.0)
    world.run(20, [seen(12, identity=EVERYBODY), seen(12, identity=model("a"))])
    (event,) = world.events
    assert event.attributes["aimon.model.name"] == "a"
    assert event.attributes["aimon.alert.children"] == ("latency.shift",)


def test_the_whole_process_joins_the_one_model_that_was_ill_before_and_others_follow() -> None:
    world = World(SHIFT)
    world.at(0, seen(12, identity=model("a")))
    world.at(1, seen(12, identity=model("a")), seen(12, identity=EVERYBODY))
    world.at(2, seen(12, identity=model("a")), seen(12, identity=EVERYBODY), seen(12, identity=model("b")))
    assert world.told() == [firing()]


def test_two_models_that_were_ill_before_stay_apart_from_the_whole_process() -> None:
    world = World(SHIFT)
    world.at(0, seen(12, identity=model("a")), seen(12, identity=model("b")))
    world.at(1, seen(12, identity=EVERYBODY))
    assert world.told() == [firing()] * 3


def test_devices_and_the_process_stay_apart() -> None:
    world = World(rule("memory.exhaustion", domain="memory"))
    world.at(0, seen(12, "memory.exhaustion", ()), seen(12, "memory.exhaustion", (("hw.id", "GPU-0"),)))
    assert world.told() == [firing("memory.exhaustion")] * 2


def test_an_episode_that_stands_for_others_ends_before_the_next_one_of_its_alert() -> None:
    world = World(SHIFT)
    a, b = model("a"), model("b")
    world.at(0, seen(12, identity=()), seen(12, identity=a))
    world.at(4000, seen(12, identity=b))  # Nothing was heard of the others for more than an hour.
    world.at(4001, seen(12, identity=a))
    world.alerting.shutdown()
    told = [event.state for event in world.events if event.attributes.get("aimon.model.name") == "a"]
    assert told == ["firing", "resolved", "firing", "resolved"]
