"""A resource is named when it has bound for a while."""

from __future__ import annotations

from otel_aimon.analysis.bottleneck import Bottleneck
from otel_aimon.hinting.resource_advice import HOLD, HOLD_UNDERUSED, ResourceAdvisor

COMPUTE = Bottleneck("compute", 0.8, "Add replicas.")
UNDERUSED = Bottleneck("underused", 0.8, "Scale down.")


def test_a_moment_is_no_reason() -> None:
    advisor = ResourceAdvisor()
    assert not advisor.step(COMPUTE, 0.0)
    assert not advisor.step(None, HOLD / 2)
    assert not advisor.step(COMPUTE, HOLD)
    assert advisor.bottleneck is None


def test_what_lasts_is_told_once() -> None:
    advisor = ResourceAdvisor()
    assert not advisor.step(COMPUTE, 0.0)
    assert advisor.step(COMPUTE, HOLD)
    assert not advisor.step(COMPUTE, 2 * HOLD)
    assert advisor.bottleneck == COMPUTE


def test_too_much_is_no_hurry() -> None:
    advisor = ResourceAdvisor()
    advisor.step(UNDERUSED, 0.0)
    assert not advisor.step(UNDERUSED, HOLD)
    assert advisor.step(UNDERUSED, HOLD_UNDERUSED)


def test_its_end_must_last_too() -> None:
    advisor = ResourceAdvisor()
    advisor.step(COMPUTE, 0.0)
    advisor.step(COMPUTE, HOLD)
    assert not advisor.step(None, HOLD + 1)
    assert advisor.bottleneck == COMPUTE
    assert advisor.step(None, 2 * HOLD + 1)
    assert advisor.bottleneck is None


def test_a_guess_is_nothing() -> None:
    advisor = ResourceAdvisor()
    guess = Bottleneck("compute", 0.1, "Add replicas.")
    advisor.step(guess, 0.0)
    assert not advisor.step(guess, 10 * HOLD)
