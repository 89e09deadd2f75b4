"""The error ratio of the last five minutes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.analysis.error_ratio import ErrorRatio


def test_nothing_ended_nothing_is_known() -> None:
    assert ErrorRatio(10.0).ratio is None


@given(
    st.lists(st.integers(0, 50).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), max_size=80),
    st.sampled_from([5.0, 10.0, 60.0, 600.0]),
)
def test_it_is_the_ratio_of_the_sums_of_the_window(ticks: list[tuple[int, int]], tick_seconds: float) -> None:
    ratio = ErrorRatio(tick_seconds)
    for tick in ticks:
        ratio.add(*tick)
    last = ticks[-max(1, round(300 / tick_seconds)) :]
    count, errors = sum(n for n, _ in last), sum(e for _, e in last)
    assert (ratio.count, ratio.errors) == (count, errors)
    assert ratio.ratio == (errors / count if count else None)
