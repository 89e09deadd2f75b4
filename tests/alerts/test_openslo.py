"""OpenSLO v1 documents become objectives, or are named with their line."""

from __future__ import annotations

import pytest

from otel_aimon.alerts.rulefile import parse
from otel_aimon.analysis.slo import DEFAULT_OBJECTIVES, Objective

LATENCY = """
apiVersion: openslo/v1
kind: SLO
metadata:
  name: chat-first-token
  displayName: First token of the chat
spec:
  description: The first token comes within half a second.
  service: chat
  indicator:
    metadata:
      name: first-token
    spec:
      thresholdMetric:
        metricSource:
          type: OpenTelemetry
          spec:
            metric: gen_ai.server.time_to_first_token
  timeWindow:
    - duration: 30d
      isRolling: true
  budgetingMethod: Occurrences
  objectives:
    - displayName: Fast
      op: lte
      value: 0.5
      target: 0.99
"""

RATIO = """
apiVersion: openslo/v1
kind: SLO
metadata: {name: chat availability}
spec:
  service: chat
  indicator:
    metadata: {name: availability}
    spec:
      ratioMetric:
        counter: true
        good:
          metricSource: {type: Prometheus, spec: {query: 'aimon_slo_events_total{outcome="good"}'}}
        total:
          metricSource: {type: Prometheus, spec: {query: aimon_slo_events_total}}
  budgetingMethod: Occurrences
  objectives:
    - targetPercent: 99.9
"""


def added(text: str) -> list[Objective]:
    found = parse(text, file="slo.yaml")
    assert found.problems == ()
    return [each for each in found.objectives if each not in DEFAULT_OBJECTIVES]


def test_a_threshold_metric_on_a_latency() -> None:
    assert added(LATENCY) == [Objective("chat-first-token", "ttft", 0.99, 0.5)]


def test_a_ratio_metric() -> None:
    assert added(RATIO) == [Objective("chat-availability", "error", 0.999)]


def test_several_documents_and_our_own_form_in_one_file() -> None:
    text = f"{LATENCY}---\n{RATIO}---\nslos: {{e2e: off}}\nrules: {{slo.chat-availability.burn_slow: off}}\n"
    found = parse(text)
    assert found.problems == ()
    assert [each.name for each in found.objectives] == [
        "error",
        "ttft",
        "tpot",
        "chat-first-token",
        "chat-availability",
    ]
    names = {rule.name for rule in found.rules}
    assert "slo.chat-availability.burn_fast" in names
    assert "slo.chat-availability.burn_slow" not in names


def test_several_objectives_of_one_slo() -> None:
    text = LATENCY + "    - {op: lt, value: 2s, target: 99.9%}\n"
    assert added(text) == [
        Objective("chat-first-token-1", "ttft", 0.99, 0.5),
        Objective("chat-first-token-2", "ttft", 0.999, 2.0),
    ]


def test_an_indicator_by_reference() -> None:
    text = """
apiVersion: openslo/v1
kind: SLO
metadata: {name: speed}
spec: {indicatorRef: tpot, objectives: [{value: 100ms, target: 0.95}]}
"""
    assert added(text) == [Objective("speed", "tpot", 0.95, 0.1)]


@pytest.mark.parametrize("kind", ["Service", "SLI", "AlertPolicy", "DataSource"])
def test_other_kinds_are_left_alone(kind: str) -> None:
    assert added(f"apiVersion: openslo/v1\nkind: {kind}\nmetadata: {{name: x}}\n") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("openslo/v1\n", "openslo/v2alpha\n"), "slo.yaml:2: 'openslo/v2alpha' is not a version that is read; write openslo/v1."),
        (("kind: SLO\n", ""), "slo.yaml:2: an OpenSLO document without kind; add kind."),
        (("Occurrences", "Timeslices"), "slo.yaml:22: budgetingMethod 'Timeslices' is not supported; use Occurrences: it counts requests."),
        (("op: lte", "op: gte"), "slo.yaml:25: op 'gte' of chat-first-token: a latency is good below its limit; use lte or lt."),
        (("      value: 0.5\n", ""), "slo.yaml:24: the objective chat-first-token on a latency has no value; add value: 0.5, in seconds."),
        (("      target: 0.99\n", ""), "slo.yaml:24: the objective chat-first-token has no target; add target: 0.99."),
        (("target: 0.99", "target: 1"), "slo.yaml:24: chat-first-token is no objective: the target must lie between 0 and 1 (or 0 % and 100 %), not be 1; write it like 99% < 500ms."),
        (("gen_ai.server.time_to_first_token", "http_requests_total"), "slo.yaml:14: an indicator that this process cannot measure; name one of error, ttft, tpot, e2e, or one of our metrics, in metricSource.spec or as the indicator."),
        (("thresholdMetric", "ratioMetric"), "slo.yaml:14: a ratioMetric without good or bad; add good or bad, and total."),
        (("thresholdMetric", "compositeMetric"), "slo.yaml:10: an indicator without a metric; add thresholdMetric or ratioMetric."),
    ],
)  # fmt: skip
def test_what_cannot_be_mapped_is_named(change: tuple[str, str], said: str) -> None:
    assert change[0] in LATENCY
    found = parse(LATENCY.replace(*change), file="slo.yaml")
    assert found.objectives == DEFAULT_OBJECTIVES
    (problem,) = found.problems
    assert str(problem) == said


def test_a_ratio_of_a_latency_is_named() -> None:
    text = RATIO.replace("aimon_slo_events_total", "gen_ai.server.time_to_first_token")
    (problem,) = parse(text).problems
    assert (problem.what, problem.remedy) == ("the indicator ttft is no ratio of ours", "use thresholdMetric")


def test_a_threshold_on_errors_is_named() -> None:
    (problem,) = parse(LATENCY.replace("gen_ai.server.time_to_first_token", "error")).problems
    assert (problem.what, problem.remedy) == (
        "the indicator error is no threshold of ours",
        "use ratioMetric",
    )
