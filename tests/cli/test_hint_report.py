"""What the demo says of hints."""

from __future__ import annotations

from typing import Any

from otel_aimon import semconv
from otel_aimon.cli.hint_report import hint_line, hints_section
from otel_aimon.cli.receiver import Event, Received
from otel_aimon.cli.sections import Evidence

START = 1_000_000_000_000


def hint(at: float, new: float, model: str = "m", kind: str = "concurrency") -> Event:
    """An event that arrives ``at`` seconds after the start."""
    attributes: dict[str, Any] = {
        semconv.HINT_KIND: kind,
        semconv.HINT_NEW: new,
        semconv.HINT_BASIS: "tpot",
        semconv.HINT_CONFIDENCE: 0.9,
        semconv.HINT_LOWER_BOUND: False,
        semconv.AIMON_MODEL_NAME: model,
    }
    ns = START + int(at * 1e9)
    return Event("aimon.hint", f"{model}: {new:g}.", 9, attributes, "", "", ns, ns, "otel_aimon", {})


def section(*events: Event) -> Any:
    return hints_section(Evidence([], Received(events=list(events))))


def test_a_hint_is_told_in_a_line_as_it_arrives() -> None:
    assert hint_line(hint(1, 8)) == "HINT      concurrency: m: 8."


def test_other_events_are_not() -> None:
    assert hint_line(Event("aimon.alert", "text", 9, {}, "", "", 1, 1, "otel_aimon", {})) is None


def test_the_latest_of_each_is_shown_and_how_often_it_was_told() -> None:
    made = section(hint(1, 8), hint(3, 12), hint(2, 3, model="n"))
    assert made.ok
    assert made.title == "Hints: the latest of 3"
    assert [line.split() for line in made.lines] == [
        ["hint", "told", "sure"],
        ["concurrency", "2", "90%", "m:", "12."],
        ["concurrency", "1", "90%", "n:", "3."],
    ]
    assert [(each["model"], each["new"]) for each in made.data] == [("m", 8), ("n", 3), ("m", 12)]


def test_none() -> None:
    assert section().lines == ["none"]
