"""Objectives: what is good, how fast the budget burns, and when there is too little to tell."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aimon.alerts.rules import burn_rules
from otel_aimon.analysis import slo
from otel_aimon.analysis.slo import (
    DEFAULT_OBJECTIVES,
    WINDOWS,
    BurnEvidence,
    Objective,
    SloTracker,
    cautious_ratio,
)
from tests.alerts.support import M, World, model

ERROR = Objective("error", "error", 0.995)
TTFT = Objective("ttft", "ttft", 0.99, 0.5)
HOUR = 3600.0


class Request:
    """A request that ended."""

    def __init__(
        self,
        error_type: str | None = None,
        first: float | None = None,
        per_token: float | None = None,
        duration: float = 1.0,
    ) -> None:
        self.error_type = error_type
        self.time_to_first_token = first
        self.time_per_output_token = per_token
        self.duration = duration


def burns(tracker: SloTracker, now: float) -> dict[str, BurnEvidence]:
    return {each.rule: each for each in tracker.evidences(now) if isinstance(each, BurnEvidence)}


def outcome(is_good: bool) -> tuple[int, int]:
    """One good or one bad request."""
    return int(is_good), int(not is_good)


def serve(tracker: SloTracker, start: float, end: float, rate: float, bad: float, *, seed: int = 1) -> None:
    """Requests at a steady rate, a share of them bad."""
    chance = random.Random(seed)
    for number in range(int((end - start) * rate)):
        tracker.add(ERROR, M, *outcome(chance.random() >= bad), start + number / rate)


@pytest.mark.parametrize(
    ("objective", "request_", "good"),
    [
        (ERROR, Request(), True),
        (ERROR, Request("ValueError"), False),
        (ERROR, Request("cancelled"), None),
        (TTFT, Request(first=0.5), True),
        (TTFT, Request(first=0.51), False),
        (TTFT, Request(), None),
        (TTFT, Request("ValueError", first=0.1), None),
        (Objective("tpot", "tpot", 0.99, 0.1), Request(per_token=0.2), False),
        (Objective("e2e", "e2e", 0.99, 1.0), Request(duration=0.9), True),
        (Objective("e2e", "e2e", 0.99, 1.0), Request("cancelled", duration=0.9), None),
    ],
)
def test_what_is_good(objective: Objective, request_: Any, good: bool | None) -> None:
    tracker = SloTracker([objective])
    tracker.consume(request_, "m", M, 0.0)
    assert [row[2:] for row in tracker.totals()] == ([] if good is None else [(int(good), int(not good))])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (("x", "error", 1.0), "between 0 and 1"),
        (("x", "error", 0.0), "between 0 and 1"),
        (("x", "ttft", 0.9), "needs a latency limit"),
        (("x", "ttft", 0.9, 0.0), "above 0 s"),
        (("x", "error", 0.9, 1.0), "no latency limit"),
        (("x", "speed", 0.9, 1.0), "is not one of error, ttft, tpot, e2e"),
    ],
)
def test_what_is_no_objective(values: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Objective(*values)


def test_objectives_in_words() -> None:
    assert [each.describe() for each in DEFAULT_OBJECTIVES] == [
        "99.5%",
        "99% < 2s",
        "99% < 0.2s",
        "99% < 120s",
    ]


def test_burn_rates_of_both_windows() -> None:
    tracker = SloTracker([ERROR])
    for second in range(3600):
        tracker.add(ERROR, M, *outcome(second % 10 != 0 or second < 3300), float(second))
    fast = burns(tracker, 3599.0)["slo.error.burn_fast"]
    assert (fast.samples, fast.window, fast.identity) == (3600, HOUR, M)
    assert fast.value == pytest.approx(30 / 3600)
    assert fast.baseline == pytest.approx(0.005)
    assert fast.burn_long == pytest.approx(30 / 3600 / 0.005)
    assert fast.burn_short == pytest.approx(0.1 / 0.005)
    assert fast.score == fast.burn_long
    assert fast.budget_remaining == pytest.approx(1 - 30 / (3600 * 0.005))


def test_all_requests_fail_after_a_good_hour() -> None:
    tracker = SloTracker([ERROR])
    serve(tracker, 0, HOUR, 2, 0.0)
    rule = burn_rules(ERROR)[0]
    now = HOUR
    while burns(tracker, now)["slo.error.burn_fast"].score < rule.on:
        serve(tracker, now, now + 10, 2, 1.0)
        now += 10
    # 7.2 % of an hour.
    assert now - HOUR == pytest.approx(0.072 * HOUR, abs=30)


def test_it_is_over_when_the_short_window_is_clean() -> None:
    tracker = SloTracker([ERROR])
    serve(tracker, 0, 1800, 2, 0.5)
    assert burns(tracker, 1800)["slo.error.burn_fast"].score > 14.4
    serve(tracker, 1800, 2130, 2, 0.0)
    fast = burns(tracker, 2130)["slo.error.burn_fast"]
    assert fast.score == fast.burn_short == 0.0
    assert fast.burn_long > 14.4


def test_no_traffic_is_no_problem() -> None:
    tracker = SloTracker([ERROR])
    serve(tracker, 0, 900, 2, 1.0)
    assert burns(tracker, 900 + 301)["slo.error.burn_fast"].score == 0.0
    assert "slo.error.burn_fast" not in burns(tracker, 900 + HOUR + 60)


def test_a_process_that_has_just_started_is_not_judged() -> None:
    tracker = SloTracker([ERROR])
    serve(tracker, 0, 290, 2, 1.0)
    assert burns(tracker, 290) == {}
    serve(tracker, 290, 310, 2, 1.0)
    assert list(burns(tracker, 310)) == ["slo.error.burn_fast"]
    serve(tracker, 310, 1810, 0.1, 1.0)
    assert list(burns(tracker, 1810)) == ["slo.error.burn_fast", "slo.error.burn_slow"]


def few(good: int, bad: int) -> BurnEvidence:
    tracker = SloTracker([ERROR])
    tracker.add(ERROR, M, 1, 0, 0.0)  # long ago
    for number in range(good + bad):
        tracker.add(ERROR, M, *outcome(number < good), 4999.0)
    return burns(tracker, 5000.0)["slo.error.burn_fast"]


def test_four_bad_ones_are_too_few_however_few_there_are() -> None:
    assert few(0, 4).score == 0.0
    assert few(200, 4).score == 0.0


def test_below_thirty_requests_the_cautious_bound_counts() -> None:
    assert few(0, 5).score == pytest.approx(0.5655 / 0.005, rel=1e-3)
    assert few(24, 5).burn_long == pytest.approx(cautious_ratio(5, 29) / 0.005)
    assert few(25, 5).burn_long == pytest.approx(5 / 30 / 0.005)


@pytest.mark.parametrize(
    ("bad", "total", "low"), [(0, 0, 0.0), (0, 10, 0.0), (5, 10, 0.2366), (10, 10, 0.7225), (1, 20, 0.0089), (3, 30, 0.1)]
)  # fmt: skip
def test_the_cautious_bound(bad: int, total: int, low: float) -> None:
    # Wilson's bounds as published for 95 %.
    assert cautious_ratio(bad, total) == pytest.approx(low, abs=1e-4)


@pytest.mark.parametrize(("target", "fast", "slow"), [(0.995, 14.4, 6.0), (0.9, 5.0, 5.0), (0.8, 2.5, 2.5)])
def test_thresholds_are_capped_so_that_they_can_be_reached(target: float, fast: float, slow: float) -> None:
    objective = Objective("mine", "error", target)
    assert [rule.on for rule in burn_rules(objective)] == pytest.approx([fast, slow])
    for rule in burn_rules(objective):
        assert rule.off == pytest.approx(0.8 * rule.on)
        assert rule.on < objective.largest_burn_rate


def test_models_are_judged_by_themselves_or_by_their_own_objective() -> None:
    for_a = Objective("a-ttft", "ttft", 0.99, 0.1, "a")
    tracker = SloTracker([TTFT, for_a])
    for name in ("a", "b"):
        tracker.consume(Request(first=0.2), name, model(name), 0.0)
    assert tracker.totals() == [(TTFT, model("a"), 1, 0), (for_a, model("a"), 0, 1), (TTFT, model("b"), 1, 0)]


def test_examples_are_the_latest_bad_ones() -> None:
    tracker = SloTracker([ERROR])
    for number in range(400):
        trace_id = f"{number:032x}" if number % 2 else None
        tracker.consume(Request("ValueError"), "m", M, float(number), trace_id)
    assert burns(tracker, 400)["slo.error.burn_fast"].trace_ids == (
        f"{399:032x}",
        f"{397:032x}",
        f"{395:032x}",
    )


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slo, "MAX_IDENTITIES", 3)
    tracker = SloTracker([ERROR])
    for number in range(5):
        tracker.add(ERROR, model(str(number)), 1, 0, 0.0)
        tracker.consume(Request(), "m", model(str(number)), 0.0)
    assert len(tracker.totals()) == 3
    assert len(tracker._by_identity) == 3


def test_a_forked_child_starts_from_zero() -> None:
    tracker = SloTracker([ERROR])
    tracker.add(ERROR, M, 0, 1, 0.0)
    tracker.after_fork_in_child()
    assert tracker.totals() == []


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from([0.0, 1.0, 29.0, 30.0, 31.0, 400.0, 3600.0, 9999.0]), st.booleans()),
        max_size=40,
    )
)
def test_counts_are_those_of_the_window(steps: list[tuple[float, bool]]) -> None:
    counts = slo._Counts(30.0, 0.0)
    now = 0.0
    seen: list[tuple[int, bool]] = []
    for passed, good in steps:
        now += passed
        counts.add(int(good), int(not good), now)
        seen.append((int(now // 30), good))
    for seconds in (300.0, 3600.0):
        inside = [good for bucket, good in seen if bucket > int(now // 30) - seconds / 30]
        assert counts.last(seconds, now) == (len(inside), inside.count(False))


def test_an_alert_from_request_to_event() -> None:
    world = World(*burn_rules(ERROR))
    tracker = SloTracker([ERROR])
    for tick in range(360):
        now = tick * 10.0
        serve(tracker, now, now + 10, 5, 0.3 if 60 <= tick < 120 else 0.0, seed=tick)
        world.at(now + 10, *tracker.evidences(now + 10))
    assert next(event.rule for event in world.events if event.state == "firing") == "slo.error.burn_fast"
    world.alerting.shutdown()
    first = world.events[0]
    assert first.severity == "critical"
    assert first.attributes["aimon.alert.burn_rate.long"] >= 14.4
    assert first.attributes["aimon.alert.burn_rate.short"] >= 14.4
    assert first.attributes["aimon.alert.budget_remaining"] < 0
    assert first.body.startswith("The error budget of model m burns ")
    assert {event.state for event in world.events} == {"firing", "resolved"}
    assert len(WINDOWS) == 2
