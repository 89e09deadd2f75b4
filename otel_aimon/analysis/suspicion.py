"""When something looks wrong enough that nothing is learned from it: what is wrong must not become usual."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_aimon.analysis.error_shift import ErrorShift
    from otel_aimon.analysis.level_shift import LevelShift
    from otel_aimon.analysis.slow_drift import SlowDrift

SHIFT, DRIFT, ERRORS, TRAFFIC = 14.0, 0.9, 3.0, 5.0
"""Scores of the tests from which on nothing is learned."""

QUIET_TICKS = 12
"""Learning goes on so many ticks after the last suspicion."""


def quiet_ticks(before: int, shift: LevelShift, drift: SlowDrift) -> int:
    """Ticks since the last suspicion of a latency, one tick later."""
    return 0 if shift.score >= SHIFT or drift.score >= DRIFT else before + 1


def add_errors(test: ErrorShift, count: int, errors: int, *, known: bool) -> None:
    """Count the requests of a tick, and learn from them unless they look wrong.

    Args:
        test: Takes them.
        count: All of them.
        errors: Those that failed.
        known: It is known what is usual.
    """
    test.add(count, errors, learn=test.score < ERRORS, cautious=known)
