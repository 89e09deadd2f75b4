"""How many requests fit in the KV cache, in all but a few seconds."""

from __future__ import annotations

from math import sqrt
from random import Random

import pytest

from otel_aimon.hinting.bounds.kv_capacity import KvCapacity, Z
from tests.hinting.support import interval


def test_nothing_is_known_without_readings() -> None:
    capacity = KvCapacity()
    for _ in range(100):
        capacity.add(interval(in_flight=10, kv_utilization=None))
        capacity.add(interval(in_flight=0.5, kv_utilization=0.1))
        capacity.add(interval(in_flight=100, kv_utilization=0.97))
    assert capacity.limit() is None


def test_equal_requests_fill_the_cache() -> None:
    capacity = KvCapacity()
    for n in range(5, 50):
        capacity.add(interval(in_flight=n, kv_utilization=0.01 * n))
    assert capacity.limit() == pytest.approx(100)


def test_unequal_requests_leave_room_for_their_spread() -> None:
    random = Random(7)
    capacity = KvCapacity()
    share, sd = 0.01, 0.009
    for _ in range(2000):
        n = random.randint(10, 60)
        capacity.add(interval(in_flight=n, kv_utilization=max(0.0, random.gauss(share * n, sd * sqrt(n)))))
    limit = capacity.limit()
    assert limit is not None
    assert share * limit + Z * sd * sqrt(limit) == pytest.approx(1.0, rel=0.07)


def test_fading_lets_new_readings_count_more() -> None:
    slow, quick = KvCapacity(), KvCapacity()
    for capacity in (slow, quick):
        for _ in range(50):
            capacity.add(interval(in_flight=20, kv_utilization=0.2))
    quick.fade(0.2)
    for capacity in (slow, quick):
        for _ in range(5):
            capacity.add(interval(in_flight=20, kv_utilization=0.4))
    old, new = slow.line(), quick.line()
    assert old is not None
    assert new is not None
    assert new.slope > old.slope
