"""The level of each time of day is learned, between half hours too, and follows habits that change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.analysis.daily_profile import DAY_SECONDS, MEMORY_DAYS, SLOTS, DailyProfile

TICK = 60.0
DAY = int(DAY_SECONDS / TICK)


def rhythm(time: float) -> float:
    return math.sin(2 * math.pi * time / DAY_SECONDS)


def learned(
    days: float = 1.0, offset: float = 0.0, noise: float = 0.0, into: DailyProfile | None = None
) -> DailyProfile:
    profile = into or DailyProfile(TICK)
    values = np.random.default_rng(0).normal(offset, noise, int(days * DAY))
    for place, value in enumerate(values):
        profile.learn(place * TICK, rhythm(place * TICK) + float(value))
    return profile


def error(profile: DailyProfile, offset: float = 0.0) -> float:
    """The largest difference from the truth at any time of day."""
    times = np.linspace(0, DAY_SECONDS, 500, endpoint=False)
    return max(abs((profile.at(time) or math.inf) - rhythm(time) - offset) for time in times)


def test_nothing_is_known_before_something_was_learned() -> None:
    assert DailyProfile().at(0.0) is None


def test_the_first_value_is_the_level_around_it() -> None:
    profile = DailyProfile()
    profile.learn(1000.0, 7.0)
    assert (profile.at(1000.0), profile.at(2000.0), profile.at(40_000.0)) == (7.0, 7.0, None)


def test_a_first_value_that_is_far_off_is_soon_forgotten() -> None:
    # The first tick of a service that then gets two hundred requests in each.
    profile = DailyProfile()
    profile.learn(1000.0, 0.0)
    for place in range(1, 180):
        profile.learn(1000.0 + place * 10.0, math.log(200), most=1.0)
    assert profile.at(1900.0) == pytest.approx(math.log(200), abs=0.1)


def test_a_rhythm_is_learned_within_a_day_and_better_within_some() -> None:
    assert error(learned(2, noise=0.1)) < 0.1
    assert error(learned(4, noise=0.1)) < 0.06


def test_noise_averages_out() -> None:
    # 30 ticks a slot, four days: the standard error is a tenth of the noise.
    errors = [
        (learned(4, noise=0.5).at(time) or 0.0) - rhythm(time) for time in np.linspace(0, DAY_SECONDS, 48)
    ]
    assert float(np.std(errors)) < 0.1


def test_only_the_time_of_day_counts() -> None:
    profile = learned()
    assert profile.at(12_345.0 + 365 * DAY_SECONDS) == pytest.approx(profile.at(12_345.0))


def test_there_is_no_jump_between_half_hours_nor_at_midnight() -> None:
    profile = learned()
    times = np.linspace(0, 2 * DAY_SECONDS, 20_000)
    levels = [profile.at(time) or 0.0 for time in times]
    assert float(np.max(np.abs(np.diff(levels)))) < 0.01


def test_habits_that_change_are_followed_within_its_memory() -> None:
    profile = learned(10)
    assert error(profile) < 0.02
    learned(MEMORY_DAYS * 3, offset=2.0, into=profile)
    assert error(profile, offset=2.0) < 0.2


def test_one_outlier_moves_it_no_further_than_what_counts_the_most() -> None:
    profile = learned(4)
    before = profile.at(1000.0) or 0.0
    profile.learn(1000.0, 1e9, most=0.5)
    assert 0.0 < (profile.at(1000.0) or 0.0) - before < 0.5 / 30


def test_it_is_a_running_mean_until_its_memory_is_full() -> None:
    profile = DailyProfile(TICK)
    values = np.random.default_rng(0).normal(5, 2, 100)
    middle = DAY_SECONDS / SLOTS / 2
    for place, value in enumerate(values, 1):
        profile.learn(middle, float(value))
        if place > 1:
            # The first value is the level, and counts once more as its prior.
            expected = (values[0] + values[:place].sum()) / (place + 1)
            assert profile.at(middle) == pytest.approx(expected)


def test_a_new_half_hour_begins_where_the_last_one_is() -> None:
    profile = DailyProfile(TICK)
    middle = DAY_SECONDS / SLOTS / 2
    for _ in range(100):
        profile.learn(middle, 1.0)
    # A quarter of the way into the next: mostly still the old level.
    profile.learn(middle * 1.5, 3.0)
    assert 1.0 < (profile.at(middle * 1.5) or 0.0) <= 3.0
    assert 1.0 < (profile.at(middle * 3.0) or 0.0) <= 3.0


VALUES = st.lists(st.tuples(st.floats(0.0, 1e6), st.floats(-20.0, 20.0)), max_size=60)


@given(VALUES, st.floats(0.01, 1e6))
def test_whatever_is_learned_stays_near_what_was_seen(values: list[tuple[float, float]], tick: float) -> None:
    profile = DailyProfile(min(tick, 60.0))
    for time, value in values:
        profile.learn(time, value)
        level = profile.at(time)
        assert level is not None
        assert -100.0 < level < 100.0


@given(VALUES, VALUES)
def test_a_restored_one_goes_on_alike(
    before: list[tuple[float, float]], after: list[tuple[float, float]]
) -> None:
    one, other = DailyProfile(TICK), DailyProfile(TICK)
    for time, value in before:
        one.learn(time, value)
    other.restore(one.state())
    assert other.state() == one.state()
    for time, value in after:
        assert other.at(time) == one.at(time)
        one.learn(time, value, 1.0)
        other.learn(time, value, 1.0)
    assert other.state() == one.state()


FLAT = [0.0] * SLOTS


@pytest.mark.parametrize(
    ("levels", "weights"),
    [
        (FLAT[1:], FLAT),
        (FLAT, [*FLAT, 0.0]),
        ([math.nan, *FLAT[1:]], FLAT),
        ([math.inf, *FLAT[1:]], FLAT),
        ([1e300, *FLAT[1:]], FLAT),
        (FLAT, [-1.0, *FLAT[1:]]),
        (FLAT, [math.nan, *FLAT[1:]]),
    ],
)
def test_what_does_not_fit_is_not_restored(levels: list[float], weights: list[float]) -> None:
    profile = learned()
    before = profile.state()
    with pytest.raises(ValueError, match="profile"):
        profile.restore({"levels": levels, "weights": weights})
    assert profile.state() == before
