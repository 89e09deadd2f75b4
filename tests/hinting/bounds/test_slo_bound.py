"""How many may wait so that the slow ones still end in time."""

from __future__ import annotations

import pytest

from otel_aimon.hinting.bounds.slo_bound import GENERATION, SloBound


def test_as_many_wait_as_the_promise_allows() -> None:
    bound = SloBound()
    for _ in range(100):
        bound.add(0.1)
    # 16 servers of 0.1 s serve 160 a second; in 0.4 s, 64.
    assert bound.limit(0.5, capacity=16, service_time=0.1) == pytest.approx(16 + 64, rel=0.03)


def test_some_wait_even_if_the_promise_is_broken_anyway() -> None:
    bound = SloBound()
    for _ in range(100):
        bound.add(1.0)
    assert bound.limit(0.5, capacity=16, service_time=1.0) == pytest.approx(20)


def test_nothing_is_known_from_few_requests() -> None:
    bound = SloBound()
    bound.add(0.1)
    assert bound.limit(0.5, capacity=16, service_time=0.1) is None


def test_forgets_what_was_long_ago() -> None:
    bound = SloBound()
    for _ in range(GENERATION):
        bound.add(0.4)
    for _ in range(2 * GENERATION):
        bound.add(0.1)
    assert bound.limit(0.5, capacity=16, service_time=0.1) == pytest.approx(80, rel=0.03)
