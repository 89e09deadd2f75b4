"""A hang is seen; slow requests, quiet times and first requests are none."""

from __future__ import annotations

import pytest

from otel_aimon.analysis.stall import FACTOR, LEAST_SILENCE, UNKNOWN_SILENCE, StallWatch


def busy(watch: StallWatch, gap: float, times: int = 50) -> float:
    """Let requests make progress at equal gaps; returns when the last one did."""
    for place in range(times):
        watch.check(place * gap, in_flight=1, last_progress=place * gap)
    return (times - 1) * gap


def test_silence_longer_than_ten_times_the_usual_is_a_stall() -> None:
    watch = StallWatch()
    last = busy(watch, gap=5.0)
    allowed = watch.allowed()
    assert allowed == pytest.approx(FACTOR * 5.0, rel=0.03)
    silence, score = watch.check(last + allowed * 1.01, in_flight=3, last_progress=last)
    assert silence == pytest.approx(allowed * 1.01)
    assert score > 1.0
    assert watch.check(last + allowed * 0.99, in_flight=3, last_progress=last)[1] < 1.0


def test_half_a_minute_is_never_a_stall() -> None:
    watch = StallWatch()
    busy(watch, gap=0.01)
    assert watch.allowed() == LEAST_SILENCE


def test_a_first_request_may_take_its_time() -> None:
    watch = StallWatch()
    watch.check(0.0, in_flight=1, last_progress=0.0)
    assert watch.check(UNKNOWN_SILENCE - 1, in_flight=1, last_progress=0.0)[1] < 1.0
    assert watch.check(UNKNOWN_SILENCE + 1, in_flight=1, last_progress=0.0)[1] > 1.0


def test_without_requests_nothing_can_stall() -> None:
    watch = StallWatch()
    last = busy(watch, gap=1.0)
    assert watch.check(last + 10_000, in_flight=0, last_progress=last) == (0.0, 0.0)
    # A request after a quiet night starts the clock anew, and the night was no gap.
    assert watch.check(last + 10_001, in_flight=1, last_progress=last + 10_001)[0] == 0.0
    assert watch.allowed() == LEAST_SILENCE


def test_progress_ends_a_stall() -> None:
    watch = StallWatch()
    last = busy(watch, gap=1.0)
    assert watch.check(last + 100, in_flight=1, last_progress=last)[1] > 1.0
    assert watch.check(last + 101, in_flight=1, last_progress=last + 101) == (0.0, 0.0)


def test_what_is_allowed_is_learned_from_requests_that_are_seldom() -> None:
    watch = StallWatch()
    for _ in range(20):
        watch.learn(0.005)
    assert watch.allowed() == LEAST_SILENCE
    for _ in range(20):
        watch.learn(8.0)
    assert watch.allowed() == pytest.approx(80.0, rel=0.05)
