"""Objectives of the alerts are what a hint keeps."""

from __future__ import annotations

from otel_aimon.analysis.slo import DEFAULT_OBJECTIVES, Objective
from otel_aimon.hinting.observation import Slo
from otel_aimon.hinting.promises import slo_of


def test_the_default_objectives() -> None:
    assert slo_of("m", DEFAULT_OBJECTIVES) == Slo(latency=120.0, ttft=2.0, tpot=0.2)


def test_the_tightest_of_those_that_apply() -> None:
    objectives = (
        Objective("all", "ttft", 0.99, 2.0),
        Objective("mine", "ttft", 0.95, 0.5, "m"),
        Objective("another's", "ttft", 0.99, 0.1, "other"),
        Objective("errors", "error", 0.999),
    )
    assert slo_of("m", objectives) == Slo(ttft=0.5)
    assert slo_of("n", objectives) == Slo(ttft=2.0)


def test_nothing_promised() -> None:
    assert slo_of("m", ()) == Slo()
