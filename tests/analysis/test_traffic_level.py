"""Traffic that breaks off or multiplies is found; the rhythm of the day, noise and quiet services are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.analysis.daily_profile import DAY_SECONDS, DailyProfile
from otel_aimon.analysis.traffic_level import CAP, DROPPED, OVER_DISPERSION, SURGED, TrafficLevel

FIRES = 10.0
"""Where the rules fire."""

SUSPICIOUS = 5.0
"""From here on nothing is learned."""

TICK = 10.0
DAY = int(DAY_SECONDS / TICK)


def rate(place: int, mean: float) -> float:
    """More by day than by night, by 60 % either way."""
    return mean * (1 + 0.6 * math.sin(2 * math.pi * place / DAY))


def follow(
    level: TrafficLevel, counts: list[int], begin: int = 0, *, calm: bool = False
) -> tuple[float, float]:
    """The highest scores for a drop and for a surge.

    Args:
        level: Takes the counts.
        counts: One a tick.
        begin: The number of the first tick.
        calm: Nothing is known to be wrong, as before the first day is over.
    """
    drop = surge = 0.0
    for place, count in enumerate(counts, begin):
        learn = calm or max(level.drop, level.surge) < SUSPICIOUS
        level.add(place * TICK, count, learn=learn)
        drop, surge = max(drop, level.drop), max(surge, level.surge)
    return drop, surge


def poisson(seed: int, mean: float, begin: int, ticks: int, factor: float = 1.0) -> list[int]:
    noise = np.random.default_rng(seed)
    return [int(noise.poisson(factor * rate(begin + place, mean))) for place in range(ticks)]


def learned(mean: float, seed: int = 0) -> TrafficLevel:
    level = TrafficLevel(DailyProfile(TICK))
    follow(level, poisson(seed, mean, 0, DAY), calm=True)
    return level


@pytest.mark.parametrize("hour", [0, 6, 18])
def test_a_drop_by_seventy_per_cent_is_found_within_a_minute(hour: int) -> None:
    level, begin = learned(400.0), DAY + hour * 360
    assert follow(level, poisson(1, 400.0, begin, 6, 0.3), begin)[0] >= FIRES


@pytest.mark.parametrize("hour", [0, 6, 18])
def test_five_times_the_traffic_is_found_within_half_a_minute(hour: int) -> None:
    level, begin = learned(400.0), DAY + hour * 360
    assert follow(level, poisson(1, 400.0, begin, 3, 5.0), begin)[1] >= FIRES


def test_silence_of_a_service_with_three_requests_a_minute_is_found_within_twenty() -> None:
    level = learned(0.5)
    assert follow(level, [0] * 120, DAY)[0] >= FIRES


@pytest.mark.parametrize("mean", [0.05, 0.5, 2.0, 400.0])
def test_two_usual_days_are_neither(mean: float) -> None:
    level = learned(mean)
    drop, surge = follow(level, poisson(5, mean, DAY, 2 * DAY), DAY)
    assert (drop < FIRES, surge < FIRES) == (True, True)


def test_half_of_the_traffic_more_or_less_is_nobodys_concern() -> None:
    for factor in (0.6, 1.9):
        assert max(follow(learned(400.0), poisson(1, 400.0, DAY, 360, factor), DAY)) < FIRES


def test_a_drop_is_not_learned_and_ends_within_minutes() -> None:
    level = learned(400.0)
    follow(level, [0] * 360, DAY)
    assert level.drop == CAP
    assert level.usual == pytest.approx(rate(DAY + 359, 400.0), rel=0.05)
    follow(level, poisson(1, 400.0, DAY + 360, 12), DAY + 360)
    assert level.drop < 1.0


def test_the_rhythm_of_the_day_is_learned() -> None:
    level = learned(400.0)
    for hour in (3, 9, 15, 21):
        place = DAY + hour * 360
        level.add(place * TICK, 1, learn=False)
        assert level.usual == pytest.approx(rate(place, 400.0), rel=0.1)


@pytest.mark.parametrize("mean", [0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 50.0])
def test_what_is_said_to_be_usual_is_not_far_off(mean: float) -> None:
    noise = np.random.default_rng(0)
    level = TrafficLevel(DailyProfile(TICK))
    follow(level, [int(each) for each in noise.poisson(mean, DAY)], calm=True)
    assert level.usual is not None
    assert 0.7 * mean - 0.1 < level.usual < 1.15 * mean + 0.05


def test_nothing_is_known_before_the_first_tick() -> None:
    level = TrafficLevel(DailyProfile(TICK))
    level.add(0.0, 1000, learn=False)
    assert (level.usual, level.drop, level.surge) == (None, 0.0, 0.0)


COUNTS = st.lists(st.integers(0, 3000), max_size=30)


@given(COUNTS, st.integers(1, 500))
def test_the_scores_are_the_largest_log_likelihood_ratios_of_a_recent_stretch(
    counts: list[int], usual: int
) -> None:
    level = TrafficLevel(DailyProfile(TICK))
    level.add(0.0, usual, learn=True)
    dispersion = 1 + OVER_DISPERSION * usual
    for ratio, name, mean in ((DROPPED, "drop", float(usual)), (SURGED, "surge", usual + 0.5)):
        level.drop = level.surge = direct = 0.0
        for count in counts:
            # The log-likelihood ratio of a Poisson count, from its definition.
            ours = count * math.log(ratio * mean) - ratio * mean
            theirs = count * math.log(mean) - mean
            direct = min(CAP, max(0.0, direct + (ours - theirs) / dispersion))
            level.add(0.0, count, learn=False)
            assert getattr(level, name) == pytest.approx(direct, abs=1e-6)


@given(COUNTS, COUNTS)
def test_a_restored_one_goes_on_alike(before: list[int], after: list[int]) -> None:
    one, other = TrafficLevel(DailyProfile(TICK)), TrafficLevel(DailyProfile(TICK))
    follow(one, before)
    one.drop = one.surge = 0.0
    other.restore(one.state())
    assert other.state() == one.state()
    assert follow(other, after, len(before)) == follow(one, after, len(before))
