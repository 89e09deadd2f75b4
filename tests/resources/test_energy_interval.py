"""A device's time is shared evenly, exactly until there are very many requests in an interval."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.core.series import Series
from otel_aimon.resources.energy_interval import MOST_SPANS, Timeline

A, B = Series("fw", "predict", "a"), Series("fw", "predict", "b")
spans = st.lists(
    st.tuples(st.sampled_from([A, B, None]), st.integers(0, 300), st.integers(1, 60)), max_size=60
)


@given(spans, st.integers(0, 400))
def test_each_has_its_part_of_each_moment(given_spans: list[tuple[Any, int, int]], until: int) -> None:
    timeline = Timeline(0)
    expected: dict[Any, float] = {}
    for series, begin, length in given_spans:
        timeline.add(series, begin, begin + length)
    for now in range(until):
        running = [series for series, begin, length in given_spans if begin <= now < begin + length]
        for series in running:
            expected[series] = expected.get(series, 0.0) + 1.0 / len(running)
    assert timeline.until(until) == pytest.approx(expected)


def test_many_requests_one_after_the_other_are_exact() -> None:
    timeline = Timeline(0)
    for begin in range(0, 100_000, 10):
        timeline.add(A, begin, begin + 3)
        timeline.add(B, begin + 3, begin + 5)
    assert len(timeline._spans) <= MOST_SPANS
    assert timeline.until(100_000) == {A: pytest.approx(30_000), B: pytest.approx(20_000)}


def test_a_long_request_that_comes_after_very_many_takes_its_part() -> None:
    timeline = Timeline(0)
    for begin in range(0, 100_000, 10):
        timeline.add(A, begin, begin + 4)
    timeline.add(B, 0, 100_000)
    # Alone for 60 %, and half of the rest.
    assert timeline.until(100_000) == pytest.approx({A: 20_000.0, B: 80_000.0})


def test_very_many_in_any_order_are_nearly_exact() -> None:
    random = Random(1)
    begins = list(range(0, 100_000, 10))
    random.shuffle(begins)
    timeline = Timeline(0)
    for begin in begins:
        timeline.add(A, begin, begin + 3)
    assert len(timeline._spans) <= MOST_SPANS
    assert timeline.until(100_000)[A] == pytest.approx(30_000, rel=0.15)


@given(spans)
def test_no_more_than_the_time_there_is_however_much_is_summed_up(
    given_spans: list[tuple[Any, int, int]],
) -> None:
    timeline = Timeline(0)
    for number, (series, begin, length) in enumerate(given_spans):
        timeline.add(series, begin, begin + length)
        if number % 5 == 4 and timeline._spans:
            timeline._fold()
    shares = timeline.until(360)
    assert all(share >= 0.0 for share in shares.values())
    assert sum(shares.values()) <= 360 * (1 + 1e-9)
