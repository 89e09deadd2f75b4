"""Utilisation where nothing measures it."""

from __future__ import annotations

import pytest

from otel_aimon.hinting.bounds.inferred_utilization import InferredUtilization
from tests.hinting.support import interval


def test_what_is_measured_stays() -> None:
    inferred = InferredUtilization()
    measured = interval(utilization=0.3)
    assert inferred.complete(measured) is measured


def test_before_saturation_was_seen_nothing_is_known() -> None:
    inferred = InferredUtilization()
    assert inferred.complete(interval(in_flight=4, throughput=40)).utilization is None
    assert inferred.complete(interval(throughput=0.0, rejected=9)).utilization is None


def warmed_up() -> InferredUtilization:
    inferred = InferredUtilization()
    for _ in range(5):
        inferred.complete(interval(in_flight=4, throughput=40))
    return inferred


def test_a_latency_that_has_grown_is_saturation() -> None:
    inferred = warmed_up()
    seen = [inferred.complete(interval(in_flight=64, throughput=160)).utilization for _ in range(3)]
    assert seen[-1] == 1.0
    for _ in range(10):
        found = inferred.complete(interval(in_flight=8, throughput=80))
    assert found.utilization == pytest.approx(0.5, rel=0.05)


def test_the_first_to_end_are_the_short_ones_and_say_nothing() -> None:
    inferred = InferredUtilization()
    inferred.complete(interval(in_flight=1, throughput=40))
    assert inferred.complete(interval(in_flight=4, throughput=40)).utilization is None


def test_rejections_are_saturation_unless_the_limit_was_lowered_on_purpose() -> None:
    inferred = InferredUtilization()
    crowded = interval(in_flight=12, throughput=120, rejected=40)
    assert inferred.complete(crowded).utilization == 1.0
    assert inferred.complete(crowded, saturated_throughput=160).utilization == pytest.approx(0.75)


def test_after_a_probe_rejections_without_waiting_are_a_limit_that_is_too_low() -> None:
    inferred = warmed_up()
    inferred.complete(interval(in_flight=12, throughput=120), saturated_throughput=160)
    crowded = interval(in_flight=12, throughput=120, rejected=40)
    assert inferred.complete(crowded).utilization is None


def test_a_few_rejections_are_a_burst() -> None:
    assert InferredUtilization().complete(interval(throughput=100, rejected=2)).utilization is None
