"""Errors of ours are logged once per place, counted, and kept from the application."""

from __future__ import annotations

import logging

import pytest

from otel_aimon.core import guard


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "RERAISE", False)
    monkeypatch.setattr(guard, "_swallowed", guard._Swallowed())


def test_one_log_record_per_place_and_all_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    for place in ("here", "here", "there", "here"):
        guard.swallow(ValueError("x"), place)
    assert guard.swallowed_count() == 4
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    first = caplog.records[0]
    assert first.name == "otel_aimon"
    assert "failed in here (ValueError)" in first.getMessage()
    assert first.exc_info is not None
    assert isinstance(first.exc_info[1], ValueError)


def test_places_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    for number in range(300):
        guard.swallow(ValueError(), f"place {number}")
    assert len(caplog.records) == 256
    assert guard.swallowed_count() == 300


def test_an_error_inside_the_guard_does_not_lock_it() -> None:
    with guard._swallowed._lock:
        guard.swallow(ValueError(), "a finaliser that interrupted its own thread")
    assert guard.swallowed_count() == 1


def test_a_child_counts_from_zero() -> None:
    guard.swallow(ValueError(), "here")
    guard.after_fork_in_child()
    assert guard.swallowed_count() == 0


def test_under_our_own_tests_it_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "RERAISE", True)
    with pytest.raises(ValueError):
        guard.swallow(ValueError(), "here")


def test_a_guarded_call_gives_its_result_or_none() -> None:
    assert guard.guarded(int, "7") == 7
    assert guard.guarded(int, "seven") is None
    assert guard.swallowed_count() == 1
