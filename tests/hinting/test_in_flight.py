"""Means over time of what was in flight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.hinting.in_flight import HISTORY, InFlightHistory, InFlightIntegral
from otel_aimon.hinting.intervals import IntervalBuilder
from otel_aimon.hinting.observation import Completed, Slo


def test_the_integral_weighs_by_time() -> None:
    integral = InFlightIntegral(10.0)
    integral.change(1, 11.0)
    integral.change(1, 13.0)
    integral.change(-1, 14.0)
    assert integral.until(16.0) == pytest.approx(2 + 2 + 2)
    assert integral.count == 1


def test_time_that_goes_back_adds_nothing() -> None:
    integral = InFlightIntegral()
    integral.change(3, 5.0)
    assert integral.until(6.0) == integral.until(4.0) == 3.0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.data())
def test_the_mean_of_whole_intervals_is_their_mean(values: list[float], data: st.DataObject) -> None:
    history = InFlightHistory()
    for place, value in enumerate(values):
        history.add(place + 1.0, 1.0, value)
    first = data.draw(st.integers(0, len(values) - 1))
    last = data.draw(st.integers(first + 1, len(values)))
    expected = sum(values[first:last]) / (last - first)
    assert history.mean(first, last) == pytest.approx(expected, abs=1e-6)


def test_what_lies_outside_is_cut_off() -> None:
    history = InFlightHistory()
    assert history.mean(0, 1) is None
    history.add(1.0, 1.0, 4.0)
    history.add(2.0, 1.0, 8.0)
    assert history.mean(-5, 50) == pytest.approx(6.0)
    assert history.mean(0.5, 1.5) == pytest.approx(6.0)
    assert history.mean(3, 4) is None
    assert history.mean(1.5, 1.5) is None


def test_the_history_is_bounded() -> None:
    history = InFlightHistory()
    for place in range(5 * HISTORY):
        history.add(place + 1.0, 1.0, 1.0)
    assert len(history._ends) <= 2 * HISTORY + 1
    assert history.mean(0, 10 * HISTORY) == pytest.approx(1.0)


def test_an_interval_sums_up_what_happened() -> None:
    builder = IntervalBuilder(100.0)
    builder.started(100.0)
    builder.started(100.5)
    builder.ended(100.75, 0.75, ok=True)
    builder.ended(101.0, 0.5, ok=False)
    builder.rejected()
    built = builder.build(101.0, 0.5, 0.25)
    assert built is not None
    assert built.in_flight == pytest.approx(0.5 + 0.5 + 0.25)
    assert (built.completions, built.mean_latency, built.rejected) == (1, 0.75, 1)
    assert (built.utilization, built.kv_utilization, built.throughput) == (0.5, 0.25, 1.0)
    assert builder.in_flight == 0
    assert builder.build(101.0) is None
    empty = builder.build(102.0)
    assert empty is not None
    assert (empty.in_flight, empty.completions, empty.mean_latency, empty.rejected) == (0.0, 0, None, 0)


def test_time_per_output_token() -> None:
    request = Completed(10.0, 2.1, True, 50, 101, 0.1)
    assert request.tpot == pytest.approx(0.02)
    assert request.first_token == pytest.approx(8.0)
    assert Completed(10.0, 2.0, True, 50, 1, 0.1).tpot is None
    assert Completed(10.0, 2.0, True, 50, None, 0.1).tpot is None
    assert Completed(10.0, 2.0, True, 50, 100).tpot is None
    assert Completed(10.0, 2.0).first_token is None


def test_a_promise_is_kept_or_broken() -> None:
    request = Completed(10.0, 2.1, True, 50, 101, 0.1)
    assert Slo().met(request)
    assert Slo(2.2, 0.2, 0.03).met(request)
    assert not Slo(latency=2.0).met(request)
    assert not Slo(ttft=0.05).met(request)
    assert not Slo(tpot=0.01).met(request)
    assert not Slo().met(Completed(10.0, 2.1, ok=False))
    # What cannot be judged was not broken.
    assert Slo(ttft=0.05).met(Completed(10.0, 2.0))
