"""More errors than usual are found; single ones, bunches and what always fails are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.analysis.error_shift import CAP, OVER_DISPERSION, ErrorShift

FIRES = 10.0
"""Where the rule fires."""

CALM = 3.0
"""From here on nothing is learned."""


def follow(test: ErrorShift, ticks: list[tuple[int, int]], *, cautious: bool = True) -> list[float]:
    """Scores of ticks of (requests, errors), learning as the detector does."""
    return [test.add(n, bad, learn=test.score < CALM, cautious=cautious) for n, bad in ticks]


def service(seed: int, ratio: float, ticks: int, requests: float = 400.0) -> list[tuple[int, int]]:
    noise = np.random.default_rng(seed)
    counts = noise.poisson(requests, ticks)
    return [(int(n), int(noise.binomial(n, ratio))) for n in counts]


def learned(seed: int = 0, ratio: float = 0.002, requests: float = 400.0) -> ErrorShift:
    test = ErrorShift()
    follow(test, service(seed, ratio, 2000, requests), cautious=False)
    return test


@pytest.mark.parametrize("ratio", [0.001, 0.01, 0.1, 0.3, 0.6, 0.95])
def test_the_usual_ratio_is_learned(ratio: float) -> None:
    test = ErrorShift()
    # Of what fails often the start must not look like a burst.
    test.usual = ratio / 2
    follow(test, service(0, ratio, 3000), cautious=False)
    assert test.usual == pytest.approx(ratio, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_a_burst_of_five_per_cent_is_found_within_two_ticks(seed: int) -> None:
    test = learned(seed)
    assert max(follow(test, service(seed + 100, 0.05, 2))) >= FIRES


def test_a_creep_to_one_and_a_half_per_cent_is_found_within_a_minute() -> None:
    assert max(follow(learned(), service(1, 0.015, 6))) >= FIRES


@pytest.mark.parametrize("requests", [2.0, 40.0, 400.0])
def test_what_is_usual_is_no_shift_for_days(requests: float) -> None:
    test = learned(requests=requests)
    assert max(follow(test, service(7, 0.002, 2 * 8640, requests))) < FIRES


def test_it_clears_within_a_quarter_of_an_hour_of_forty_requests_a_second() -> None:
    test = learned()
    follow(test, service(1, 0.2, 100))
    assert test.score == CAP
    assert follow(test, service(2, 0.002, 90))[-1] < 1.0


def test_a_burst_teaches_nothing() -> None:
    test = learned()
    before = test.usual
    follow(test, service(1, 0.2, 500))
    assert test.usual == pytest.approx(before, rel=0.05)


def test_one_error_among_few_requests_is_none() -> None:
    test = learned()
    assert follow(test, [(3, 0), (2, 1), (4, 0)])[1] < CALM


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_a_service_whose_very_first_requests_fail_is_judged_all_the_same(count: int) -> None:
    test = ErrorShift()
    scores = follow(test, [(count, count)] * 5 + [(count, 0)] * 5, cautious=False)
    assert all(0.0 <= score <= CAP for score in scores)
    assert 0.0 < test.usual < 1.0


def test_what_fails_always_can_fail_no_more() -> None:
    test = ErrorShift()
    test.usual = 1.0
    # A sum that grows by half a nat a request would fire within the tick.
    assert follow(test, [(1, 1)] * 3)[0] < 1.0
    assert follow(test, [(100, 50)])[-1] == 0.0


def test_no_requests_change_nothing() -> None:
    test = learned()
    follow(test, [(100, 10)])
    before = (test.score, test.state())
    test.add(0, 0, learn=True, cautious=True)
    assert (test.score, test.state()) == before


TICKS = st.lists(st.integers(0, 500).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), max_size=30)


@given(TICKS, st.floats(0.0005, 0.3))
def test_the_score_is_the_largest_sum_of_log_likelihood_ratios_of_a_recent_stretch(
    ticks: list[tuple[int, int]], usual: float
) -> None:
    test = ErrorShift()
    test.usual = usual
    changed = max(3 * usual, usual + 0.005)
    if changed > (1 + usual) / 2:
        changed = (1 + usual) / 2
    steps = [
        (bad * math.log(changed / usual) + (n - bad) * math.log((1 - changed) / (1 - usual)))
        / OVER_DISPERSION
        for n, bad in ticks
    ]
    for place, (n, bad) in enumerate(ticks):
        score = test.add(n, bad, learn=False, cautious=True)
        direct = max([0.0, *(sum(steps[begin : place + 1]) for begin in range(place + 1))])
        if direct >= CAP:
            assert score == CAP
            return
        assert score == pytest.approx(direct, abs=1e-6)


@given(TICKS, TICKS, st.booleans())
def test_a_restored_one_goes_on_alike(
    before: list[tuple[int, int]], after: list[tuple[int, int]], cautious: bool
) -> None:
    one, other = ErrorShift(), ErrorShift()
    follow(one, before, cautious=False)
    one.score = 0.0
    other.restore(one.state())
    assert other.state() == one.state()
    assert follow(other, after, cautious=cautious) == follow(one, after, cautious=cautious)


@pytest.mark.parametrize(
    "state",
    [
        {"usual": -0.1, "seen": 5.0},
        {"usual": 1.1, "seen": 5.0},
        {"usual": math.nan, "seen": 5.0},
        {"usual": 0.1, "seen": -1.0},
        {"usual": 0.1, "seen": math.nan},
    ],
)
def test_what_is_no_ratio_is_not_restored(state: dict[str, float]) -> None:
    test = ErrorShift()
    before = test.state()
    with pytest.raises(ValueError, match=r"usual|seen"):
        test.restore(state)
    assert test.state() == before
