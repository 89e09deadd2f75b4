"""How long a queued request waits, against what its first token may take."""

from __future__ import annotations

import pytest

from otel_aimon.analysis.queue_wait import queue_wait
from otel_aimon.analysis.slo import Objective

WHO = (("aimon.model.name", "m"),)
TTFT = Objective("ttft", "ttft", 0.99, 2.0)


def test_littles_law() -> None:
    found = queue_wait(WHO, "m", 30, 10.0, [TTFT])
    assert found is not None
    assert (found.rule, found.identity, found.samples) == ("queue.wait", WHO, 30)
    assert found.value == pytest.approx(3.0)
    assert found.score == pytest.approx(1.5)


def test_the_strictest_objective_that_is_about_the_model_counts() -> None:
    strict, other = Objective("strict", "ttft", 0.9, 1.0, "m"), Objective("other", "ttft", 0.9, 0.1, "n")
    found = queue_wait(WHO, "m", 10, 10.0, [TTFT, strict, other])
    assert found is not None
    assert found.score == pytest.approx(1.0)


def test_without_throughput_the_wait_is_long_but_finite() -> None:
    found = queue_wait(WHO, "m", 2, 0.0, [TTFT])
    assert found is not None
    assert found.value == pytest.approx(120.0)


def test_an_empty_queue_is_clear() -> None:
    found = queue_wait(WHO, "m", 0, 0.0, [TTFT])
    assert found is not None
    assert found.score == 0.0


def test_nothing_is_said_without_an_objective_for_first_tokens() -> None:
    assert queue_wait(WHO, "m", 10, 1.0, [Objective("error", "error", 0.99)]) is None
