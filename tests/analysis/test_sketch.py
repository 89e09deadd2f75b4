"""The log-bucket histogram, against exact order statistics."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.analysis.sketch import RELATIVE_ERROR, LogHistogram

seconds = st.floats(min_value=1e-9, max_value=1e5, allow_nan=False)


def histogram(values: list[float]) -> LogHistogram:
    made = LogHistogram()
    for value in values:
        made.add(value)
    return made


@given(st.lists(seconds, min_size=1, max_size=300), st.floats(min_value=0, max_value=1))
def test_a_quantile_is_within_two_percent_of_the_order_statistic(values: list[float], q: float) -> None:
    exact = sorted(values)[int(q * (len(values) - 1))]
    assert histogram(values).quantile(q) == pytest.approx(exact, rel=RELATIVE_ERROR * 1.000001)


@given(st.lists(seconds, max_size=100), st.lists(seconds, max_size=100))
def test_a_merge_is_the_histogram_of_both(one: list[float], other: list[float]) -> None:
    merged = histogram(one)
    merged.merge(histogram(other))
    union = histogram(one + other)
    assert merged.counts == union.counts
    assert merged.count == union.count == len(one) + len(other)
    assert merged.total == pytest.approx(union.total)


@given(st.lists(seconds, min_size=1, max_size=100))
def test_quantiles_grow_with_the_share(values: list[float]) -> None:
    made = histogram(values)
    quantiles = [made.quantile(q / 10) for q in range(11)]
    assert quantiles == sorted(quantiles)  # type: ignore[type-var]


def test_nothing_counted_has_no_quantile() -> None:
    assert LogHistogram().quantile(0.5) is None


def test_no_share_is_above_one() -> None:
    assert histogram([1.0, 2.0]).quantile(2.0) is None


def test_zero_and_less_count_as_a_nanosecond() -> None:
    assert histogram([0.0, -1.0]).quantile(1.0) == pytest.approx(1e-9, rel=RELATIVE_ERROR)


def test_latencies_from_a_nanosecond_to_a_day_take_few_buckets() -> None:
    made = histogram([1e-9 * 1.01**power for power in range(3225)])
    assert len(made.counts) < 900
