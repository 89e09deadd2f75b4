"""The examples in docs/alerts.md work as they stand."""

from __future__ import annotations

import re
from pathlib import Path

from otel_aimon import semconv
from otel_aimon.alerts.rulefile import parse
from otel_aimon.analysis.slo import Objective

PAGE = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_are_read_without_a_problem() -> None:
    found = parse("---\n".join(EXAMPLES))
    assert found.problems == ()
    assert [each.rule for each in found.thresholds] == [
        "cpu.high",
        "p95.slow",
        "cpu.unusual",
        "busy.and.waiting",
    ]
    assert Objective("chat-first-token", "ttft", 0.99, 0.5) in found.objectives
    assert Objective("chat-ttft", "ttft", 0.95, 0.3, "chat") in found.objectives


def test_the_messages_are_what_is_said() -> None:
    text = (
        "rules:\n  latency.shfit: {on: 3}\n  error.ratio: {on: 5s}\n  slo.error.burn_fast:\n    on: 14.4\n"
        "slos: {error: 90%}\n"
    )
    messages = [str(problem) for problem in parse(text).problems]
    assert "\n".join(messages) in PAGE
    assert len(messages) == 3


def test_every_attribute_of_an_alert_is_described() -> None:
    names = {
        value for name, value in vars(semconv).items() if name.startswith("ALERT_") and isinstance(value, str)
    }
    assert {name for name in names if f"`{name}`" not in PAGE} == set()
