"""One alert through its life: thresholds, k of n, keep firing, flapping, silence, the end."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aimon.alerts import machine as machine_module
from otel_aimon.alerts.machine import FLAP_WINDOW, LONGEST_NODATA, Machine, Transition
from otel_aimon.alerts.rules import RULES
from otel_aimon.analysis.evidence import Evidence
from tests.alerts.support import M, ids, model, rule, seen


def steps(found: list[Transition]) -> list[tuple[str, str, str]]:
    return [(step.previous, step.state, step.reason) for step in found]


def run(
    machine: Machine, scores: list[float | None], every: float = 1.0, start: float = 0.0
) -> list[Transition]:
    """One evaluation per score; None is no evidence."""
    found: list[Transition] = []
    for number, score in enumerate(scores):
        found += machine.evaluate(start + number * every, [] if score is None else [seen(score)])
    return found


def test_a_whole_life() -> None:
    machine = Machine([rule(hold=2.0, needed=3, of=3, keep_firing=3.0)], ids())
    found = run(machine, [0, 12, 15, 11, 7, 4, 4, 12, 4, 4, 4, 4, 4])
    assert steps(found) == [
        ("inactive", "pending", "threshold"),
        ("pending", "firing", "threshold"),
        ("firing", "recovering", "clear"),
        ("recovering", "firing", "threshold"),
        ("firing", "recovering", "clear"),
        ("recovering", "resolved", "clear"),
    ]
    fired, resolved = found[1], found[-1]
    assert (fired.at, fired.since, fired.started_at, fired.flap_count) == (3, 1, 1, 0)
    assert (resolved.at, resolved.since, resolved.started_at, resolved.flap_count) == (11, 8, 1, 1)
    assert resolved.duration == 10
    assert {step.episode for step in found[1:]} == {"episode-1"}
    assert resolved.worst is not None
    assert resolved.worst.score == 15
    assert machine.active() == []


def test_between_the_thresholds_nothing_changes() -> None:
    machine = Machine([rule(keep_firing=2.0)])
    assert run(machine, [9.9, 5]) == []
    assert len(run(machine, [10], start=10)) == 2
    assert run(machine, [9, 5, 5.0, 9] * 20, start=11) == []
    assert steps(run(machine, [4.9], start=100)) == [("firing", "recovering", "clear")]
    # Only what is clear resolves it.
    assert run(machine, [9, 9, 9, 9, 9], start=101) == []
    assert steps(run(machine, [4], start=106)) == [("recovering", "resolved", "clear")]


def test_one_good_evaluation_does_not_restart_the_clock() -> None:
    held = rule(hold=4.0, needed=4, of=5)
    assert (held.ticks, held.ticks_needed) == (5, 4)
    found = run(Machine([held]), [12, 12, 0, 12, 12])
    assert [(step.state, step.at) for step in found] == [("pending", 0), ("firing", 4)]


def test_so_many_good_ones_that_k_of_n_are_out_of_reach_do() -> None:
    found = run(Machine([rule(hold=4.0, needed=4, of=5)]), [12, 0, 12, 0, 12])
    assert [(step.state, step.at) for step in found] == [("pending", 0), ("inactive", 3), ("pending", 4)]


def test_k_of_n_is_scaled_to_the_hold() -> None:
    minute = rule(hold=60.0, every=10.0, needed=4, of=5)
    assert (minute.ticks, minute.ticks_needed) == (7, 6)


def test_evidence_in_between_evaluations_is_ignored() -> None:
    machine = Machine([rule(hold=60.0, every=10.0, needed=4, of=5)])
    found = run(machine, [12.0] * 61)
    assert [(step.state, step.at) for step in found] == [("pending", 0), ("firing", 60)]
    assert machine.evaluate(65, [seen(0)]) == []
    assert steps(machine.evaluate(70, [seen(0)])) == [("firing", "recovering", "clear")]


def test_too_few_samples_are_no_evidence_of_a_problem_but_may_clear_it() -> None:
    machine = Machine([rule(samples=30, keep_firing=0.0)])
    assert machine.evaluate(0, [seen(99, samples=29)]) == []
    assert len(machine.evaluate(1, [seen(99, samples=30)])) == 2
    assert machine.evaluate(2, [seen(99, samples=3)]) == []
    assert steps(machine.evaluate(3, [seen(0, samples=3)])) == [
        ("firing", "recovering", "clear"),
        ("recovering", "resolved", "clear"),
    ]


def test_the_other_direction() -> None:
    drop = rule(on=-0.5, off=-0.35, above=False, keep_firing=0.0)
    found = run(Machine([drop]), [0, -0.49, -0.5, -0.9, -0.4, -0.3])
    assert [(step.state, step.at) for step in found] == [
        ("pending", 2), ("firing", 2), ("recovering", 5), ("resolved", 5),
    ]  # fmt: skip
    assert found[-1].worst is not None
    assert found[-1].worst.score == -0.9


def test_one_piece_of_evidence_serves_both_levels() -> None:
    machine = Machine([rule("error.ratio"), rule("error.ratio.critical", evidence="error.ratio", on=20.0)])
    found = machine.evaluate(0, [seen(12, "error.ratio")]) + machine.evaluate(1, [seen(22, "error.ratio")])
    assert [(step.rule.name, step.state, step.at) for step in found] == [
        ("error.ratio", "pending", 0),
        ("error.ratio", "firing", 0),
        ("error.ratio.critical", "pending", 1),
        ("error.ratio.critical", "firing", 1),
    ]


def test_models_are_apart() -> None:
    machine = Machine([rule()])
    machine.evaluate(0, [seen(12, identity=model("a")), seen(0, identity=model("b"))])
    assert [active.identity for active in machine.active()] == [model("a")]


def test_it_keeps_firing_longer_with_each_episode() -> None:
    machine = Machine([rule(keep_firing=10.0)])
    lengths = []
    now = 0.0
    for _ in range(4):
        machine.evaluate(now, [seen(12)])
        began = now = now + 1
        while machine.active():
            machine.evaluate(now, [seen(0)])
            now += 1
        lengths.append(now - 1 - began)
    assert lengths == [10, 20, 40, 80]
    machine.evaluate(now + FLAP_WINDOW, [])
    machine.evaluate(now + FLAP_WINDOW + 1, [seen(12)])
    machine.evaluate(now + FLAP_WINDOW + 2, [seen(0)])
    assert [step.state for step in machine.evaluate(now + FLAP_WINDOW + 12, [seen(0)])] == ["resolved"]


def test_four_transitions_in_half_an_hour_are_flapping() -> None:
    machine = Machine([rule(keep_firing=0.0)])
    found = run(machine, [12, 0, 12, 0, 12, 0])
    assert [step.flapping for step in found if step.state == "firing"] == [False, False, True]
    late = run(machine, [12], start=FLAP_WINDOW + 10)
    assert [step.flapping for step in late if step.state == "firing"] == [False]


def test_a_heartbeat_says_that_it_still_fires() -> None:
    machine = Machine([rule(repeat=10.0, keep_firing=100.0)])
    found = run(machine, [12.0] * 15 + [0.0] * 16)
    beats = [(step.at, step.state, step.previous) for step in found if step.heartbeat]
    assert beats == [(10, "firing", "firing"), (20, "firing", "recovering"), (30, "firing", "recovering")]


def test_silence_drops_what_is_pending_and_holds_what_fires() -> None:
    machine = Machine([rule(hold=30.0), rule("other", hold=0.0)])
    machine.evaluate(0, [seen(12), seen(12, "other")])
    assert machine.evaluate(60, []) == []
    assert steps(machine.evaluate(61, [])) == [("pending", "inactive", "nodata")]
    assert [active.rule.name for active in machine.active()] == ["other"]
    # What it was about is gone.
    found = [step for step in machine.evaluate(LONGEST_NODATA + 1, []) if not step.heartbeat]
    assert steps(found) == [("firing", "resolved", "nodata")]


def test_silence_is_longer_for_evidence_that_looks_back_longer() -> None:
    machine = Machine([rule(hold=30.0)])
    machine.evaluate(0, [seen(12, window=300)])
    assert machine.evaluate(600, []) == []
    assert len(machine.evaluate(601, [])) == 1


def test_what_recovers_resolves_in_silence() -> None:
    machine = Machine([rule(keep_firing=100.0)])
    run(machine, [12, 0])
    assert steps(machine.evaluate(101, [])) == [("recovering", "resolved", "clear")]


def test_missing_data_can_be_an_alert() -> None:
    machine = Machine([rule(nodata="alert", keep_firing=5.0)])
    assert machine.evaluate(0, []) == []
    assert machine.evaluate(1, [seen(0)]) == []
    found = machine.evaluate(62, [])
    assert steps(found) == [("inactive", "firing", "nodata")]
    assert (found[0].since, found[0].evidence) == (1, None)
    assert machine.evaluate(63, []) == []
    assert steps(machine.evaluate(64, [seen(0)])) == [("firing", "recovering", "clear")]
    assert steps(machine.evaluate(69, [seen(0)])) == [("recovering", "resolved", "clear")]


def test_the_end_resolves_everything_once() -> None:
    machine = Machine([rule(hold=0.0), rule("pending", hold=99.0)])
    machine.evaluate(0, [seen(12), seen(12, "pending")])
    assert steps(machine.shutdown(5)) == [("firing", "resolved", "shutdown")]
    assert machine.shutdown(6) == []


def test_other_rules_keep_the_alerts_of_those_that_stay() -> None:
    same, changed, gone = rule("same"), rule("changed"), rule("gone")
    machine = Machine([same, changed, gone], ids())
    machine.evaluate(0, [seen(12, each.name) for each in (same, changed, gone)])
    found = machine.reload([same, rule("changed", on=20.0)], 1)
    assert [(step.rule.name, step.state, step.reason) for step in found] == [
        ("changed", "resolved", "reload"),
        ("gone", "resolved", "reload"),
    ]
    assert [active.episode for active in machine.active()] == ["episode-1"]
    assert machine.evaluate(2, [seen(12, "same"), seen(12, "changed"), seen(12, "gone")]) == []


def test_a_score_that_is_no_number_is_no_evidence() -> None:
    machine = Machine([rule()])
    assert machine.evaluate(0, [seen(math.nan)]) == []
    machine.evaluate(1, [seen(12)])
    assert machine.evaluate(2, [seen(math.nan)]) == []


def test_its_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "MAX_STATES", 10)
    machine = Machine([rule(), rule("slow", hold=60.0)])
    machine.evaluate(0, [seen(12, "slow", model(str(n))) for n in range(10)])
    machine.evaluate(1, [seen(12, identity=model(str(n))) for n in range(11)])
    assert len(machine.active()) == 10
    assert machine.refused == 1
    assert len(machine._alerts) == 10


def test_it_forgets_what_is_over() -> None:
    machine = Machine([rule(keep_firing=0.0), rule("slow", hold=60.0)])
    machine.evaluate(0, [seen(12), seen(12, "slow")])
    machine.evaluate(1, [seen(0), seen(0, "slow")])
    assert [(active, name.name) for name, _, active in machine.known()] == [(False, "latency.shift")]
    machine.evaluate(FLAP_WINDOW + 1, [])
    assert machine._alerts == {}


def test_the_table_is_sound() -> None:
    assert len({each.name for each in RULES}) == len(RULES)
    for each in RULES:
        assert each.off <= each.on if each.above else each.off >= each.on, each.name
        assert 0 < each.needed <= each.of, each.name
        assert each.summary.endswith("."), each.name
        assert each.rationale.endswith("."), each.name
        assert any(each.source == other.name for other in RULES), each.name


LEGAL = {
    ("inactive", "pending"), ("pending", "inactive"), ("pending", "firing"), ("firing", "recovering"),
    ("recovering", "firing"), ("recovering", "resolved"), ("firing", "resolved"),
}  # fmt: skip

SCORES = st.sampled_from([0.0, 4.0, 7.0, 10.0, 20.0, math.nan])
TIMELINES = st.lists(
    st.tuples(st.sampled_from([0.5, 1.0, 1.0, 1.0, 5.0, 70.0, 700.0, 4000.0]), SCORES | st.none()),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(
    timeline=TIMELINES,
    hold=st.sampled_from([0.0, 2.0, 5.0]),
    needed=st.integers(1, 5),
    spare=st.integers(0, 3),
    keep=st.sampled_from([0.0, 2.0, 60.0]),
)
def test_every_life_is_legal(
    timeline: list[tuple[float, float | None]], hold: float, needed: int, spare: int, keep: float
) -> None:
    judged = rule(hold=hold, needed=needed, of=needed + spare, keep_firing=keep, repeat=50.0)
    machine = Machine([judged], ids())
    now = 0.0
    found: list[Transition] = []
    for passed, score in timeline:
        now += passed
        found += machine.evaluate(now, [] if score is None else [Evidence(judged.name, M, score)])
    found += machine.shutdown(now + 1)

    changes = [step for step in found if not step.heartbeat]
    state = "inactive"
    open_episode = ""
    for step in changes:
        assert step.previous == state
        assert (step.previous, step.state) in LEGAL
        if step.state == "firing" and step.previous == "pending":
            assert step.at - step.since >= hold
            assert not open_episode
            open_episode = step.episode
        if step.previous in {"firing", "recovering"}:
            assert step.episode == open_episode
        if step.state == "resolved":
            if step.reason == "clear":
                assert step.at - step.since >= keep
            open_episode = ""
        state = "inactive" if step.state == "resolved" else step.state
    assert state in {"inactive", "pending"}
    episodes = [step.episode for step in changes if step.state == "firing" and step.previous == "pending"]
    assert len(set(episodes)) == len(episodes)
    assert [step.episode for step in changes if step.state == "resolved"] == episodes
    for step in found:
        if step.heartbeat:
            assert step.episode in episodes
    assert [step.at for step in found] == sorted(step.at for step in found)


@settings(max_examples=50, deadline=None)
@given(timeline=TIMELINES)
def test_it_is_deterministic(timeline: list[tuple[float, float | None]]) -> None:
    def once() -> list[Any]:
        machine = Machine([rule(hold=2.0, keep_firing=2.0)], ids())
        now, found = 0.0, []
        for passed, score in timeline:
            now += passed
            found += machine.evaluate(now, [] if score is None or math.isnan(score) else [seen(score)])
        return found

    assert once() == once()
