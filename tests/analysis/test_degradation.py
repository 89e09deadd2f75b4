"""All models of a service: each fault is told by the evidence that is about it, and by no other."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aimon.alerts.rules import RULES
from otel_aimon.analysis.daily_profile import DAY_SECONDS
from otel_aimon.analysis.degradation import IDLE_SECONDS, MAX_SERIES, Degradation
from otel_aimon.analysis.evidence import Evidence, Identity
from otel_aimon.analysis.lasting import ACCEPTED_SECONDS
from otel_aimon.analysis.tick import TICK_SECONDS, Tick
from tests.analysis.test_autoregression import ar1

DAY = int(DAY_SECONDS / TICK_SECONDS)
ON = {rule.name: rule.on for rule in RULES}
EVERYBODY: Identity = ()


def model(name: str) -> Identity:
    return (("aimon.model.name", name),)


A, B, C = MODELS = (model("a"), model("b"), model("c"))
SHARES = {A: 240.0, B: 100.0, C: 60.0}
"""Requests of each model in a tick, on average."""

Fault = Callable[[Identity, int], dict[str, float]]
"""Model, ticks since it began → what is other than usual: slower, tokens, errors, traffic."""


class Service:
    """Three models with a rhythm of the day, and noise that lasts."""

    def __init__(self, seed: int) -> None:
        self._noise = np.random.default_rng(seed)
        self._level = {who: ar1(seed * 7 + place, 3 * DAY, 0.93, 0.06) for place, who in enumerate(MODELS)}
        self._common = ar1(seed * 7 + 5, 3 * DAY, 0.93, 0.03)

    def tick(
        self, place: int, fault: Fault = lambda _who, _since: {}, since: int = 0
    ) -> dict[Identity, Tick]:
        rhythm = math.sin(2 * math.pi * place / DAY)
        ended = {}
        for who in MODELS:
            changes = fault(who, since)
            count = int(self._noise.poisson(SHARES[who] * (1 + 0.5 * rhythm) * changes.get("traffic", 1.0)))
            if not count:
                continue
            errors = int(self._noise.binomial(count, changes.get("errors", 0.002)))
            error = self._noise.normal(0, 2.1 * 0.4 / math.sqrt(max(1, count - errors)))
            level = 0.2 * rhythm + self._level[who][place] + self._common[place] + error
            each = 0.02 * changes.get("slower", 1.0) * math.exp(level)
            tokens = 200 * changes.get("tokens", 1.0) * math.exp(float(self._noise.normal(0, 0.05)))
            ended[who] = Tick(count, errors, each * tokens, each, 0.4, tokens)
        return ended

    def run(
        self, degradation: Degradation, begin: int, ticks: int, fault: Fault = lambda _who, _since: {}
    ) -> Iterator[list[Evidence]]:
        for since in range(ticks):
            place = begin + since
            yield degradation.tick(place * TICK_SECONDS, self.tick(place, fault, since))


@pytest.fixture(scope="module")
def learned() -> dict[str, Any]:
    """What is known after a day, as a file keeps it."""
    degradation = Degradation()
    for evidences in Service(0).run(degradation, 0, DAY):
        assert {each.rule for each in evidences} <= {"error.ratio"}
    state: dict[str, Any] = json.loads(json.dumps(degradation.state(DAY_SECONDS)))
    return state


def knowing(learned: dict[str, Any]) -> Degradation:
    degradation = Degradation()
    degradation.restore(learned, DAY_SECONDS)
    return degradation


def alarms(evidences: Iterator[list[Evidence]]) -> dict[tuple[str, Identity], int]:
    """What a rule would fire on at least twice in a row: (rule, identity) → ticks until then."""
    found: dict[tuple[str, Identity], int] = {}
    before: set[tuple[str, Identity]] = set()
    for place, each in enumerate(evidences):
        high = {(one.rule, one.identity) for one in each if one.score >= ON[one.rule]}
        for key in high & before:
            found.setdefault(key, place + 1)
        before = high
    return found


def only(who: Identity, **changes: float) -> Fault:
    return lambda each, _since: changes if each == who else {}


def everybody(**changes: float) -> Fault:
    return lambda _who, _since: changes


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_wrong_for_hours_in_which_nothing_is(learned: dict[str, Any], seed: int) -> None:
    assert alarms(Service(seed).run(knowing(learned), DAY, DAY // 4)) == {}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_model_that_became_slower_by_half(learned: dict[str, Any], seed: int) -> None:
    found = alarms(Service(seed).run(knowing(learned), DAY, 60, only(B, slower=1.5)))
    assert next(iter(found)) == ("latency.shift", B)
    assert found["latency.shift", B] <= 15
    assert {who for _, who in found} == {B}


def test_one_model_that_became_twice_as_slow_is_told_from_the_others(learned: dict[str, Any]) -> None:
    found = alarms(Service(1).run(knowing(learned), DAY, 30, only(B, slower=2.0)))
    assert found["latency.shift", B] <= 6
    assert found["model.imbalance", B] <= 15
    # The mean of all is worse too, but no other model is.
    assert {who for _, who in found} == {B}


@pytest.mark.parametrize("models", [(A,), (A, B), (A, C)])
def test_the_model_that_is_slow_is_told_by_its_name_however_few_there_are(
    learned: dict[str, Any], models: tuple[Identity, ...]
) -> None:
    service, degradation = Service(1), knowing(learned)

    def run() -> Iterator[list[Evidence]]:
        for since in range(30):
            ticks = service.tick(DAY + since, only(A, slower=2.0, errors=0.1), since)
            yield degradation.tick((DAY + since) * TICK_SECONDS, {who: ticks[who] for who in models})

    found = alarms(each for each in run())
    told = {(rule, who) for rule, who in found if not rule.startswith("traffic.")}
    assert {("latency.shift", A), ("error.shift", A)} <= told
    assert {who for _, who in told} == {A}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_all_models_that_became_slower_by_half_are_one_fault(learned: dict[str, Any], seed: int) -> None:
    found = alarms(Service(seed).run(knowing(learned), DAY, 60, everybody(slower=1.5)))
    assert next(iter(found)) == ("latency.shift", EVERYBODY)
    assert found["latency.shift", EVERYBODY] <= 12
    assert {who for _, who in found} == {EVERYBODY}


def test_its_values_are_seconds(learned: dict[str, Any]) -> None:
    *_, last = Service(1).run(knowing(learned), DAY, 30, only(B, slower=2.0))
    (evidence,) = (each for each in last if (each.rule, each.identity) == ("latency.shift", B))
    assert evidence.baseline == pytest.approx(0.02, rel=0.2)
    assert evidence.value == pytest.approx(0.04, rel=0.2)
    *_, last = Service(1).run(knowing(learned), DAY, 30, everybody(slower=2.0))
    (evidence,) = (each for each in last if (each.rule, each.identity) == ("latency.shift", EVERYBODY))
    assert evidence.baseline == pytest.approx(0.02, rel=0.2)
    assert evidence.value == pytest.approx(0.04, rel=0.2)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_leak_is_found_by_the_time_it_costs_a_fifth(learned: dict[str, Any], seed: int) -> None:
    leak = Service(seed).run(knowing(learned), DAY, 720, lambda _, since: {"slower": 1 + since / 2160})
    found = alarms(leak)
    assert min(found.values()) < 432
    assert ("latency.drift", EVERYBODY) in found
    assert {rule for rule, _ in found} == {"latency.shift", "latency.drift"}


def test_longer_answers_are_another_workload_and_no_slower_model(learned: dict[str, Any]) -> None:
    found = alarms(Service(1).run(knowing(learned), DAY, 360, everybody(tokens=1.7)))
    assert sorted(found) == [("workload.shift", who) for who in MODELS]


def test_errors_of_one_model(learned: dict[str, Any]) -> None:
    degradation = knowing(learned)
    # So few that all together hide them.
    found = alarms(Service(1).run(degradation, DAY, 30, only(C, errors=0.02)))
    assert next(iter(found)) == ("error.shift", C)


def test_errors_of_all_models_are_one_fault(learned: dict[str, Any]) -> None:
    found = alarms(Service(1).run(knowing(learned), DAY, 30, everybody(errors=0.05)))
    shifts = {who: ticks for (rule, who), ticks in found.items() if rule == "error.shift"}
    assert shifts == {EVERYBODY: 2}
    assert {rule for rule, _ in found} <= {"error.shift", "error.ratio"}


def test_traffic_that_breaks_off_wholly(learned: dict[str, Any]) -> None:
    found = alarms(Service(1).run(knowing(learned), DAY, 30, everybody(traffic=0.0)))
    assert list(found) == [("traffic.drop", EVERYBODY)]
    assert found["traffic.drop", EVERYBODY] <= 6


def test_traffic_that_multiplies(learned: dict[str, Any]) -> None:
    found = alarms(Service(1).run(knowing(learned), DAY, 30, everybody(traffic=5.0)))
    assert list(found) == [("traffic.surge", EVERYBODY)]
    assert found["traffic.surge", EVERYBODY] <= 6


def test_an_hour_of_a_fault_does_not_become_usual(learned: dict[str, Any]) -> None:
    degradation = knowing(learned)
    fault = everybody(slower=2.0, errors=0.1)
    *_, last = Service(1).run(degradation, DAY, 360, fault)
    usual = {(each.rule, each.identity): each.baseline for each in last}
    assert usual["latency.shift", A] == pytest.approx(0.02, rel=0.25)
    assert usual["error.shift", A] == pytest.approx(0.002, abs=0.002)


def test_latency_that_is_wrong_is_not_learned(learned: dict[str, Any]) -> None:
    degradation = knowing(learned)
    for _ in Service(1).run(degradation, DAY, 360, everybody(slower=1.7)):
        pass
    for before, after in zip(learned["series"], degradation.state(0.0)["series"], strict=True):
        known = before["latency"]["per_token"]["levels"]
        # But for the ticks until it is found.
        assert after["latency"]["per_token"]["levels"] == pytest.approx(known, abs=0.01)


def test_traffic_that_is_lost_is_not_learned(learned: dict[str, Any]) -> None:
    degradation = knowing(learned)
    for _ in Service(1).run(degradation, DAY, 360, everybody(traffic=0.1)):
        pass
    state = degradation.state(0.0)
    usual = learned["together"]["traffic"]["levels"]
    assert state["together"]["traffic"]["levels"] == pytest.approx(usual, abs=0.02)
    for before, after in zip(learned["series"], state["series"], strict=True):
        usual = before["latency"]["load"]["levels"]
        assert after["latency"]["load"]["levels"] == pytest.approx(usual, abs=0.02)


def test_the_load_of_each_model_is_learned(learned: dict[str, Any]) -> None:
    for series, share in zip(learned["series"], SHARES.values(), strict=True):
        levels = series["latency"]["load"]["levels"]
        assert sum(levels) / len(levels) == pytest.approx(math.log(share), abs=0.2)


def test_a_service_whose_first_request_fails_is_judged_all_the_same() -> None:
    degradation = Degradation(learning=60.0)
    for place in range(20):
        found = degradation.tick(place * 10.0, {A: Tick(count=1, errors=1)})
    assert {"error.ratio", "error.shift"} <= {each.rule for each in found}


def test_after_learning_everything_is_judged(learned: dict[str, Any]) -> None:
    *_, last = Service(1).run(knowing(learned), DAY, 1)
    rules = {each.rule for each in last}
    judged = {"latency.shift", "latency.drift", "error.shift", "error.ratio", "traffic.drop", "traffic.surge"}
    assert rules == judged | {"latency.spike", "workload.shift", "model.imbalance"}


class TestState:
    def test_it_fits_into_a_file_and_back(self, learned: dict[str, Any]) -> None:
        one = knowing(learned)
        assert one.state(DAY_SECONDS) == learned

    def test_two_that_were_restored_say_the_same(self, learned: dict[str, Any]) -> None:
        one, other = knowing(learned), knowing(learned)
        fault = only(B, slower=1.5, errors=0.02)
        assert list(Service(3).run(one, DAY, 40, fault)) == list(Service(3).run(other, DAY, 40, fault))

    def test_who_was_restored_goes_on_as_who_never_ended(self) -> None:
        one = Degradation()
        for _ in Service(4).run(one, 0, 1500):
            pass
        other = Degradation()
        other.restore(json.loads(json.dumps(one.state(15_000.0))), 15_000.0)
        service, same = Service(5), Service(5)
        for _ in zip(service.run(one, 1500, 500), same.run(other, 1500, 500), strict=True):
            pass
        ours, theirs = one.state(0.0)["series"], other.state(0.0)["series"]
        for mine, restored in zip(ours, theirs, strict=True):
            assert restored["latency"]["per_token"]["levels"] == pytest.approx(
                mine["latency"]["per_token"]["levels"], abs=0.02
            )
            assert restored["errors"]["usual"] == pytest.approx(mine["errors"]["usual"], rel=0.1)

    def test_learning_is_not_interrupted_by_a_restart(self) -> None:
        one = Degradation()
        one.tick(0.0, {A: Tick(count=1, p95=1.0)})
        other = Degradation()
        # Half a day later, and restored another half day after that: it has seen half a day.
        other.restore(one.state(DAY_SECONDS / 2), DAY_SECONDS)
        tick = {A: Tick(count=1, p95=1.0)}
        assert {each.rule for each in other.tick(DAY_SECONDS * 1.49, tick)} == {"error.ratio"}
        assert {each.rule for each in other.tick(DAY_SECONDS * 1.51, tick)} > {"error.ratio"}

    @pytest.mark.parametrize(
        "change",
        [
            {"tick_seconds": 5.0},
            {"learned_seconds": math.nan},
            {"learned_seconds": -1.0},
            {"series": [{}]},
            {"series": 5},
            {"together": None},
        ],
    )
    def test_what_does_not_fit_changes_nothing(self, learned: dict[str, Any], change: dict[str, Any]) -> None:
        degradation = knowing(learned)
        with pytest.raises((ValueError, KeyError, TypeError)):
            degradation.restore({**learned, **change}, 0.0)
        assert degradation.state(DAY_SECONDS) == learned


class TestBounds:
    def test_there_are_only_so_many_series(self) -> None:
        degradation = Degradation(learning=0.0)
        tick = {model(str(number)): Tick(count=1, errors=1) for number in range(2 * MAX_SERIES)}
        found = degradation.tick(0.0, tick)
        assert len({each.identity for each in found} - {EVERYBODY}) == MAX_SERIES
        assert len(degradation.state(0.0)["series"]) == MAX_SERIES

    def test_one_that_is_idle_for_a_day_makes_room(self) -> None:
        degradation = Degradation(learning=0.0)
        tick = Tick(count=1, errors=1)
        full = {model(str(number)): tick for number in range(MAX_SERIES)}
        degradation.tick(0.0, full)
        idle = model("5")
        busy = {who: tick for who in full if who != idle}
        degradation.tick(10.0, busy)

        def is_watched(who: Identity, time: float) -> bool:
            return any(each.identity == who for each in degradation.tick(time, {who: tick}))

        assert not is_watched(model("new"), IDLE_SECONDS - 1.0)
        assert is_watched(model("new"), IDLE_SECONDS)
        assert not is_watched(idle, IDLE_SECONDS)
        assert is_watched(model("6"), IDLE_SECONDS)

    def test_a_restored_file_has_only_so_many(self, learned: dict[str, Any]) -> None:
        (one, *_) = learned["series"]
        many = [{**one, "identity": [["aimon.model.name", str(number)]]} for number in range(MAX_SERIES + 9)]
        degradation = Degradation()
        degradation.restore({**learned, "series": many}, 0.0)
        assert len(degradation.state(0.0)["series"]) == MAX_SERIES


LATENCY = st.one_of(st.none(), st.floats(1e-9, 1e6))


@st.composite
def ticks_of_anything(draw: st.DrawFn) -> Tick:
    count = draw(st.integers(0, 10_000))
    errors = draw(st.integers(0, count))
    return Tick(
        count,
        errors,
        draw(LATENCY),
        draw(LATENCY),
        draw(st.one_of(st.none(), st.floats(0.0, 10.0))),
        draw(st.one_of(st.none(), st.floats(0.0, 1e6))),
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.0, 5000.0), st.dictionaries(st.sampled_from(MODELS), ticks_of_anything())),
        max_size=25,
    ),
    st.sampled_from([0.0, 500.0]),
)
def test_whatever_happens_the_scores_are_numbers(
    ticks: list[tuple[float, dict[Identity, Tick]]], learning: float
) -> None:
    degradation, now = Degradation(learning=learning), 0.0
    for passed, tick in ticks:
        now += passed
        for evidence in degradation.tick(now, tick):
            numbers = (evidence.score, evidence.value or 0.0, evidence.baseline or 0.0)
            assert all(math.isfinite(each) for each in numbers), evidence
    other = Degradation(learning=learning)
    other.restore(json.loads(json.dumps(degradation.state(now))), now)
    for part in ("together", "series"):
        assert other.state(now)[part] == degradation.state(now)[part]


HALF_A_DAY = int(ACCEPTED_SECONDS / TICK_SECONDS)


@pytest.mark.parametrize(
    ("fault", "rule", "who"),
    [
        (only(B, slower=1.6), "latency.shift", B),
        (everybody(slower=1.6), "latency.shift", EVERYBODY),
        (everybody(errors=0.03), "error.shift", EVERYBODY),
        (everybody(traffic=0.2), "traffic.drop", EVERYBODY),
        (everybody(traffic=5.0), "traffic.surge", EVERYBODY),
    ],
)
def test_what_lasts_for_half_a_day_is_usual_then_and_not_before(
    learned: dict[str, Any], fault: Fault, rule: str, who: Identity
) -> None:
    service, degradation = Service(2), knowing(learned)
    evidences = list(service.run(degradation, DAY, HALF_A_DAY + 720, fault))
    scores = [one.score for each in evidences for one in each if (one.rule, one.identity) == (rule, who)]
    # It is told all the time, but for moments ...
    told = [score >= ON[rule] / 4 for score in scores[60 : HALF_A_DAY - 60]]
    assert sum(told) > 0.8 * len(told)
    # ... and then it is what is usual.
    assert alarms(iter(evidences[HALF_A_DAY + 200 :])) == {}
    state = degradation.state((DAY + HALF_A_DAY) * TICK_SECONDS)
    again = knowing(json.loads(json.dumps(state)))
    assert alarms(Service(3).run(again, DAY + HALF_A_DAY + 720, 200, fault)) == {}


def size_of(thing: Any, seen: set[int]) -> int:
    """Bytes of an object with everything that it holds."""
    if thing is None or id(thing) in seen:
        return 0
    seen.add(id(thing))
    inside: list[Any] = []
    if isinstance(thing, (list, tuple, set)):
        inside = list(thing)
    elif isinstance(thing, dict):
        inside = [*thing, *thing.values()]
    for each in type(thing).__mro__:
        inside += [getattr(thing, slot) for slot in getattr(each, "__slots__", ()) if hasattr(thing, slot)]
    return sys.getsizeof(thing) + sum(size_of(each, seen) for each in inside)


def test_a_series_takes_at_most_16_kib(learned: dict[str, Any]) -> None:
    degradation = knowing(learned)
    for _ in Service(1).run(degradation, DAY, 1000, only(B, slower=1.5)):
        pass
    assert all(size_of(series, set()) <= 16 * 1024 for series in degradation._series.values())
