"""What has been wrong for half a day without a break is accepted."""

from __future__ import annotations

from otel_aimon.analysis.lasting import ACCEPTED_SECONDS, Lasting


def test_it_is_usual_after_half_a_day_and_then_once() -> None:
    lasting = Lasting()
    found = [lasting.is_usual_now(float(time), wrong=True) for time in range(0, 100_000, 100)]
    assert found.index(True) * 100 == ACCEPTED_SECONDS
    assert sum(found) == 2  # the second time after another half a day
    assert not Lasting().is_usual_now(1e9, wrong=True)


def test_a_break_lets_the_time_begin_anew() -> None:
    lasting = Lasting()
    assert not lasting.is_usual_now(0.0, wrong=True)
    assert not lasting.is_usual_now(1000.0, wrong=False)
    assert not lasting.is_usual_now(2000.0, wrong=True)
    assert not lasting.is_usual_now(ACCEPTED_SECONDS + 1000.0, wrong=True)
    assert lasting.is_usual_now(ACCEPTED_SECONDS + 2000.0, wrong=True)
