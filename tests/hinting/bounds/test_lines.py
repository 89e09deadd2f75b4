"""Bounds from the lines of TPOT and TTFT."""

from __future__ import annotations

from random import Random

import pytest

from otel_aimon.hinting.bounds.tpot_line import TpotLine, Z
from otel_aimon.hinting.bounds.ttft_line import TtftLine
from otel_aimon.hinting.least_squares import Line

A, B = 0.008, 0.00025


def learned(noise: float = 0.0, most: int = 60) -> TpotLine:
    random = Random(3)
    line = TpotLine()
    for _ in range(2000):
        n = random.uniform(5, most)
        line.add(n, A + B * n + random.gauss(0, noise) * n**0.5)
    return line


def test_extrapolates_to_where_the_promise_ends() -> None:
    assert learned().limit(0.05) == pytest.approx((0.05 - A) / B, rel=0.05)


def test_keeps_away_from_the_promise_by_the_noise() -> None:
    noise = 0.0003
    limit = learned(noise).limit(0.05)
    assert limit is not None
    assert A + B * limit + Z * noise * limit**0.5 == pytest.approx(0.05, rel=0.05)


def test_without_a_promise_stops_where_more_brings_little() -> None:
    assert learned().limit(None) == pytest.approx(4 * A / B, rel=0.1)


def test_nothing_is_known_from_few_requests() -> None:
    line = TpotLine()
    for n in range(19):
        line.add(n, 0.01)
    assert line.limit(0.05) is None
    assert TtftLine().limit(1.0, Line(A, B, 0.0, noise_grows=True), 100) is None


def test_after_a_change_the_new_line_counts() -> None:
    line = learned()
    line.relearn()
    random = Random(4)
    for _ in range(300):
        n = random.uniform(30, 60)
        line.add(n, 2 * (A + B * n))
    new = line.line()
    assert new is not None
    assert new.at(45) == pytest.approx(2 * (A + B * 45), rel=0.03)


def test_late_first_tokens_bound_the_concurrency() -> None:
    """Nobody is late at 50, half of them at 100."""
    random = Random(5)
    line = TtftLine()
    for _ in range(3000):
        n = random.uniform(50, 120)
        line.add(n, 0.01 * n + random.gauss(0, 0.1), 1.0)
    limit = line.limit(1.0, Line(A, B, 0.0, noise_grows=True), 100)
    assert limit is not None
    assert 60 < limit < 95


def test_a_promise_that_long_prompts_break_at_any_concurrency_does_not_bind() -> None:
    """A quarter is late, alone or not: to admit fewer would only cost throughput."""
    random = Random(6)
    line = TtftLine()
    for _ in range(3000):
        n = random.uniform(5, 50)
        line.add(n, random.gauss(0.7, 0.4), 1.0)
    limit = line.limit(1.0, Line(A, B, 0.0, noise_grows=True), 100)
    assert limit is not None
    assert limit > 40


def test_what_is_served_in_time_is_possible() -> None:
    line = TtftLine()
    for _ in range(50):
        line.add(5, 3.0, 1.0)
    for _ in range(200):
        line.add(80, 0.2, 1.0)
    limit = line.limit(1.0, Line(A, B, 0.0, noise_grows=True), 100, throughput=10)
    assert limit is not None
    # Ten a second: four more wait 0.4 s at most, and 0.6 s is the 95th percentile now.
    assert limit >= 83.9
