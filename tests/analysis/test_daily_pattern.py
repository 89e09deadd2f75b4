"""The last week by half-hours: what is usual now, and how far it goes on other days."""

from __future__ import annotations

from math import inf

from otel_aimon.analysis.daily_pattern import DailyPattern

DAY = 86_400.0
HALF_HOUR = 1800.0


def fed(days, start=0.0):
    """A pattern that saw some values at noon, and half an hour later, of each day."""
    pattern = DailyPattern()
    for day, (noon, later) in enumerate(days):
        for minute, values in ((0, noon), (30, later)):
            for number, value in enumerate(values):
                pattern.look(start + day * DAY + DAY / 2 + minute * 60 + number * 300)
                pattern.learn(value)
    return pattern


def test_nothing_is_known_at_first():
    pattern = DailyPattern()
    pattern.look(0.0)
    assert (pattern.usual, pattern.lowest, pattern.highest) == (None, inf, -inf)


def test_what_is_usual_is_the_median_of_the_days():
    pattern = fed([([1.0, 3.0], [9.0]), ([2.0], [9.0]), ([500.0], [9.0])])
    pattern.look(3 * DAY + DAY / 2 + 60)
    assert pattern.usual == 2.0
    pattern.look(3 * DAY)
    assert pattern.usual is None


def test_an_even_number_of_days_has_the_mean_of_the_middle_ones():
    pattern = fed([([1.0], []), ([2.0], []), ([4.0], []), ([500.0], [])])
    pattern.look(4 * DAY + DAY / 2)
    assert pattern.usual == 3.0


def test_two_days_are_too_few_for_a_median():
    pattern = fed([([1.0], [1.0]), ([2.0], [2.0])])
    pattern.look(2 * DAY + DAY / 2)
    assert pattern.usual is None
    assert (pattern.lowest, pattern.highest) == (2.0, 1.0)


def test_how_far_it_goes_is_the_second_most_extreme_of_the_days_half_an_hour_around():
    pattern = fed([([5.0, 40.0], [6.0]), ([5.0], [50.0]), ([1.0], [60.0])])
    pattern.look(3 * DAY + DAY / 2)
    assert (pattern.lowest, pattern.highest) == (5.0, 50.0)


def test_today_is_not_an_other_day():
    pattern = fed([([5.0], []), ([5.0], []), ([5.0, 1000.0], [])])
    pattern.look(2 * DAY + DAY / 2 + HALF_HOUR)
    assert pattern.highest == 5.0


def test_what_is_older_than_a_week_is_forgotten():
    pattern = fed([([5.0], [5.0])] * 3)
    pattern.look(5 * DAY + DAY / 2)
    assert pattern.usual == 5.0
    pattern.look(12 * DAY + DAY / 2)
    assert (pattern.usual, pattern.lowest, pattern.highest) == (None, inf, -inf)


def test_any_epoch_does():
    pattern = fed([([1.0], []), ([2.0], []), ([3.0], [])], start=-5 * DAY)
    pattern.look(-2 * DAY + DAY / 2)
    assert pattern.usual == 2.0
