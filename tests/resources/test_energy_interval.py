"""The time in which something ran is a union, exact until there are very many separate spans."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.resources.energy_interval import MOST_SPANS, Coverage

spans = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 60)), max_size=60)


@given(spans, st.integers(0, 400))
def test_it_covers_what_any_span_covers(given_spans: list[tuple[int, int]], until: int) -> None:
    coverage = Coverage(0)
    for begin, length in given_spans:
        coverage.add(begin, begin + length)
    covered = {second for begin, length in given_spans for second in range(begin, begin + length)}
    assert coverage.until(until) == sum(second < until for second in covered)


def test_many_spans_one_after_the_other_are_exact() -> None:
    coverage = Coverage(0)
    for begin in range(0, 100_000, 10):
        coverage.add(begin, begin + 3)
    assert coverage.until(100_000) == 30_000
    assert len(coverage._begins) == len(coverage._ends) <= MOST_SPANS
    coverage.add(0, 100_000)
    assert coverage.until(100_000) == 100_000


def test_many_spans_in_any_order_are_nearly_exact() -> None:
    random = Random(1)
    spans_ = [(begin, begin + 3) for begin in range(0, 100_000, 10)]
    random.shuffle(spans_)
    coverage = Coverage(0)
    for begin, end in spans_:
        coverage.add(begin, end)
    assert len(coverage._ends) <= MOST_SPANS
    assert coverage.until(100_000) == pytest.approx(30_000, rel=0.15)
