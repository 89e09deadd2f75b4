"""K = N / U below saturation, K = X S0 above, and a square-root headroom."""

from __future__ import annotations

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.hinting.bounds.utilization_law import HEADROOM, LEAST_HEADROOM, UtilizationLaw
from tests.hinting.support import interval


def test_knows_nothing_without_a_completion_or_a_utilisation() -> None:
    law = UtilizationLaw()
    law.add(interval(utilization=None))
    law.add(interval(utilization=0.5, throughput=0.0))
    assert law.limit() is None


@given(capacity=st.floats(1, 500), utilization=st.floats(0.05, 0.89))
def test_below_saturation_all_in_flight_are_in_service(capacity: float, utilization: float) -> None:
    law = UtilizationLaw()
    for _ in range(3):
        law.add(interval(in_flight=capacity * utilization, utilization=utilization))
    assert law.capacity == pytest.approx(capacity)
    assert law.limit() == pytest.approx(capacity + max(LEAST_HEADROOM, HEADROOM * sqrt(capacity)))
    assert not law.saturated


def test_at_least_one_is_worked_on() -> None:
    law = UtilizationLaw()
    law.add(interval(in_flight=0.1, utilization=0.5))
    assert law.limit() == 1.0 + LEAST_HEADROOM


def test_in_saturation_follows_the_throughput() -> None:
    law = UtilizationLaw()
    law.add(interval(in_flight=8, throughput=80, utilization=0.5))
    assert law.service_time == pytest.approx(0.1)
    for _ in range(50):
        law.add(interval(in_flight=14, throughput=80, utilization=1.0))
    assert law.saturated
    assert law.capacity == pytest.approx(8, rel=0.01)


def test_a_deep_queue_says_nothing_about_the_capacity() -> None:
    law = UtilizationLaw()
    law.add(interval(in_flight=8, throughput=80, utilization=0.5))
    for _ in range(50):
        law.add(interval(in_flight=200, throughput=20, utilization=1.0))
    assert law.capacity == pytest.approx(16)


def test_a_measurement_far_off_replaces_and_one_near_by_is_averaged() -> None:
    law = UtilizationLaw()
    law.calibrate(16, saturated_throughput=160)
    assert law.capacity == 16
    assert law.service_time == pytest.approx(0.1)
    law.calibrate(17, saturated_throughput=160)
    assert law.capacity == pytest.approx(16.5)
    law.calibrate(40, saturated_throughput=160)
    assert law.capacity == 40
