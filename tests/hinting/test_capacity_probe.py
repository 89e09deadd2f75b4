"""Probes: when, how deep, and what they read."""

from __future__ import annotations

import pytest

from otel_aimon.hinting.bounds.utilization_law import UtilizationLaw
from otel_aimon.hinting.capacity_probe import DEPTH, EVERY_SECONDS, LONGEST, CapacityProbe
from tests.hinting.support import interval


def saturated(end: float, throughput: float = 160.0, in_flight: float = 24.0, rejected: int = 50):
    return interval(end, in_flight=in_flight, throughput=throughput, utilization=1.0, rejected=rejected)


def begun(in_flight: int = 24) -> tuple[UtilizationLaw, CapacityProbe]:
    law = UtilizationLaw()
    probe = CapacityProbe(law)
    law.add(saturated(1.0))
    probe.step(saturated(1.0), in_flight)
    return law, probe


def test_begins_when_nothing_is_known_of_a_server_that_is_saturated() -> None:
    _, probe = begun()
    assert probe.limit == int(DEPTH * 24)


def test_a_server_with_room_is_left_alone() -> None:
    law = UtilizationLaw()
    probe = CapacityProbe(law)
    for second in range(200):
        quiet = interval(second + 1.0, in_flight=8, throughput=80, utilization=0.5)
        law.add(quiet)
        probe.step(quiet, 8)
        assert probe.limit is None


def test_reads_the_capacity_where_nobody_waits() -> None:
    law, probe = begun()
    probe.step(interval(2.0, in_flight=12, throughput=120, utilization=0.75), 12)
    assert probe.limit is None
    assert law.capacity == pytest.approx(16)


def test_deepens_while_there_is_a_queue() -> None:
    law, probe = begun()
    assert probe.limit == 18
    probe.step(saturated(2.0, in_flight=18), 18)
    assert probe.limit == 9
    probe.step(interval(3.0, in_flight=9, throughput=90, utilization=0.6), 9)
    assert law.capacity == pytest.approx(15)


def test_waits_until_the_queue_is_gone() -> None:
    law, probe = begun(200)
    assert probe.limit == 150
    for second in range(5):
        probe.step(saturated(2.0 + second), 180)
        assert probe.limit == 150
    assert law.capacity is None


def test_one_server_is_the_least() -> None:
    law, probe = begun(2)
    assert probe.limit == 1
    probe.step(saturated(2.0, in_flight=1), 1)
    assert probe.limit is None
    assert law.capacity == 1


def test_throughput_that_falls_with_the_limit_is_believed_more_than_a_counter() -> None:
    """One request after another keeps a counter at 1 that many at once would serve better."""
    law, probe = begun()
    probe.step(saturated(2.0, throughput=120, in_flight=18), 18)
    assert probe.limit is None
    assert law.capacity == pytest.approx(18 / 0.75)


def test_gives_up() -> None:
    law, probe = begun()
    for second in range(LONGEST):
        probe.step(interval(2.0 + second, in_flight=30, throughput=0.0, utilization=None), 30)
    assert probe.limit is None
    assert law.capacity is None


def test_comes_again_after_a_minute_or_a_change() -> None:
    law, probe = begun()
    probe.step(interval(2.0, in_flight=12, throughput=120, utilization=0.75), 12)

    def seconds_until_probe(throughput: float, start: float) -> int:
        for second in range(200):
            now = saturated(start + second, throughput=throughput)
            law.add(now)
            probe.step(now, 22)
            if probe.limit is not None:
                return second
        raise AssertionError

    assert seconds_until_probe(160, 3.0) == EVERY_SECONDS - 1
    probe.step(interval(63.0, in_flight=12, throughput=120, utilization=0.75), 12)
    assert seconds_until_probe(80, 64.0) < 10


def test_nobody_turned_away_is_no_reason() -> None:
    law, probe = begun()
    probe.step(interval(2.0, in_flight=12, throughput=120, utilization=0.75), 12)
    for second in range(100):
        now = saturated(3.0 + second, rejected=0)
        law.add(now)
        probe.step(now, 22)
        assert probe.limit is None
