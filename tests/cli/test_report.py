"""The report: numbers as people read them, and a verdict that finds what is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from otel_aimon.cli import report
from otel_aimon.cli.load import CASES, Outcome
from otel_aimon.cli.receiver import Event, Point, Received, Span
from otel_aimon.cli.report import Evidence, bucket_bound, make, quantity, seconds

SKLEARN = {"aimon.framework": "sklearn", "aimon.operation": "predict", "aimon.model.name": "SVC"}
RESOURCE = {"service.name": "s"}
COMPLETED, FAILED = CASES[0], CASES[3]


def span(number: int, parent: str = "", **attributes: object) -> Span:
    return Span(
        "predict SVC", 1, "t", f"s{number}", parent, 0, 2_000_000, {**SKLEARN, **attributes}, 0, "otel_aimon", RESOURCE
    )  # fmt: skip


def duration(count: int, **attributes: object) -> Point:
    return Point(
        "aimon.inference.duration", "histogram", "s", {**SKLEARN, **attributes}, RESOURCE, "otel_aimon", 0, 1,
        count=count, total=0.002 * count, bounds=(0.001, 0.0025), bucket_counts=(0, count, 0),
    )  # fmt: skip


def evidence(sent: int, spans: int, counted: int) -> Evidence:
    received = Received([span(number) for number in range(spans)], [duration(counted)] if counted else [])
    return Evidence([Outcome(COMPLETED, "completed", 0.004)] * sent, received)


class TestVerdict:
    def verdict(self, evidence: Evidence) -> report.Section:
        return report.verdict_section(evidence)

    def test_everything_arrived(self) -> None:
        section = self.verdict(evidence(3, 3, 3))
        assert section.ok
        assert section.lines[-1] == "OK: 3 requests sent = 3 request spans = 3 requests in the metrics."

    @pytest.mark.parametrize("numbers", [(3, 2, 3), (3, 3, 2), (2, 3, 3), (3, 0, 0), (0, 0, 0)])
    def test_something_is_missing_or_too_much(self, numbers: tuple[int, int, int]) -> None:
        section = self.verdict(evidence(*numbers))
        assert not section.ok
        sent, spans, counted = numbers
        assert section.lines[-1] == (
            f"FAILED: {sent} requests sent, {spans} request spans, {counted} requests in the metrics."
        )
        assert not make(evidence(*numbers)).ok

    def test_the_wrong_outcome(self) -> None:
        found = evidence(1, 0, 1)
        found.received.spans.append(span(1, **{"error.type": "ValueError"}))
        section = self.verdict(found)
        assert not section.ok
        assert [line.split()[-2:] for line in section.lines if "NOT EQUAL" in line] == [["NOT", "EQUAL"]] * 2

    def test_tokens_are_compared(self) -> None:
        found = evidence(1, 0, 1)
        found.received.spans.append(span(1, **{"gen_ai.usage.output_tokens": 5}))
        assert not self.verdict(found).ok
        tokens = {**SKLEARN, "gen_ai.token.type": "output"}
        found.received.points.append(
            Point("aimon.inference.tokens", "sum", "{token}", tokens, RESOURCE, "otel_aimon", 0, 1, value=5)
        )
        found.outcomes[0] = replace(found.outcomes[0], tokens=5)
        assert self.verdict(found).ok

    def test_stages_are_no_requests(self) -> None:
        found = evidence(1, 1, 1)
        found.received.spans.append(span(7, parent="s0"))
        assert self.verdict(found).ok

    def test_models_that_the_load_does_not_know(self) -> None:
        found = evidence(1, 1, 1)
        found.received.spans.append(span(7, **{"aimon.framework": "torch"}))
        section = self.verdict(found)
        assert not section.ok
        assert any(line.startswith("torch, completed") for line in section.lines)


class TestSections:
    def test_requests_without_an_answer_are_wrong(self) -> None:
        section = report.requests_section(Evidence([Outcome(COMPLETED, "unanswered", 1.0)], Received()))
        assert not section.ok
        assert section.lines[-1] == "1 requests got no answer."

    def test_a_tree_starts_at_the_span_of_the_server(self) -> None:
        server = Span("POST /", 2, "t", "root", "", 0, 5_000_000, {}, 0, "http", RESOURCE)
        odd = span(3, parent="s3")
        found = Evidence([], Received([span(1, parent="root"), server, span(2, parent="s1")]))
        (tree,) = report.traces_section(found).data
        assert (tree["name"], tree["children"][0]["name"]) == ("POST /", "predict SVC")
        assert [child["name"] for child in tree["children"][0]["children"]] == ["predict SVC"]
        assert report._root(odd, {odd.span_id: odd}) is odd

    def test_other_instrumentations_metrics_are_only_counted(self) -> None:
        other = Point("http.server.duration", "gauge", "s", {}, RESOURCE, "http", 0, 1, value=1)
        section = report.metrics_section(Evidence([], Received(points=[duration(2), other])))
        assert [point["metric"] for point in section.data] == ["aimon.inference.duration"]
        assert section.data[0]["mean"] == 0.002
        assert section.data[0]["p95_at_most"] == 0.0025
        assert section.lines[2].split() == [
            "sklearn", "predict", "SVC", "2", "2", "ms", "≤", "2.5", "ms", "≤", "2.5", "ms"
        ]  # fmt: skip
        assert section.lines[-1] == "1 more time series came from other instrumentations."

    def test_an_event_is_counted_by_name(self) -> None:
        alert = Event("aimon.alert", None, 13, {"rule": "latency"}, "t", "s", 1, 1, "otel_aimon", RESOURCE)
        record = Event("", "text", 9, {}, "", "", 1, 1, "uvicorn", RESOURCE)
        section = report.events_section(Evidence([], Received(events=[alert, alert, record])))
        assert section.lines == [
            "aimon.alert: 2, 2 of them in a trace",
            "log record of uvicorn: 1, 0 of them in a trace",
        ]
        assert section.data[0]["attributes"] == {"rule": "latency"}

    def test_nothing_at_all_is_shown_too(self) -> None:
        made = make(Evidence([], Received()))
        assert not made.ok
        assert "Log events: 0\n  none" in made.as_text()
        assert list(made.as_data()) == [
            "requests",
            "traces",
            "metrics",
            "events",
            "alerts",
            "hints",
            "verdict",
        ]

    def test_a_section_may_be_added(self) -> None:
        extra = report.Section("alerts", "Alerts", [], ["none"])
        made = make(evidence(1, 1, 1), (*report.SECTIONS, lambda _evidence: extra))
        assert made.ok
        assert made.as_text().endswith("\n\nAlerts\n  none")

    def test_no_line_is_too_long(self) -> None:
        long = {"aimon.model.name": "M" * 200, "error.type": "package." + "E" * 200}
        found = Evidence([], Received([span(1, **long)], [duration(1, **long)]))
        text = make(found).as_text()
        assert max(len(line) for line in text.splitlines()) == report.WIDTH
        assert "1  2 ms  ≤ 2.5 ms  ≤ 2.5 ms" in text


class TestNumbers:
    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (None, "-"), (0.0, "0 s"), (0.0000123, "12.3 µs"), (0.00234, "2.34 ms"), (0.9996, "1000 ms"),
            (1.5, "1.5 s"), (1234.5, "1234 s"),
        ],
    )  # fmt: skip
    def test_seconds(self, value: float | None, shown: str) -> None:
        assert seconds(value) == shown

    def test_other_units(self) -> None:
        assert (quantity(3.0, "{item}"), quantity(0.12345, "1"), quantity(None, "s")) == ("3", "0.123", "-")
        sizes = [quantity(value, "By") for value in (0, 1023, 1536, 5 * 2**30, 3 * 2**50)]
        assert sizes == ["0 B", "1023 B", "1.5 KiB", "5 GiB", "3072 TiB"]

    def test_the_bucket_of_a_quantile(self) -> None:
        point = replace(duration(0), count=10, bounds=(1.0, 2.0, 5.0), bucket_counts=(5, 4, 0, 1))
        assert bucket_bound(point, 0.5) == 1.0
        assert bucket_bound(point, 0.9) == 2.0
        assert bucket_bound(point, 0.95) is None
