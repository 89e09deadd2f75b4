"""The hints that arrived: as they arrive, and the latest of each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_aimon import semconv
from otel_aimon.cli.sections import Section
from otel_aimon.cli.text import WIDTH, wrapped, wrapped_table

if TYPE_CHECKING:
    from otel_aimon.cli.receiver import Event
    from otel_aimon.cli.sections import Evidence


def hint_line(event: Event) -> str | None:
    """One line about a hint; None for any other event."""
    if event.name != semconv.HINT_EVENT:
        return None
    kind = event.attributes.get(semconv.HINT_KIND)
    return "\n".join(wrapped(str(event.body), f"HINT      {kind}: ", " " * 10))


def hints_section(evidence: Evidence) -> Section:
    """The latest hint of each kind about each thing, and how often it changed."""
    hints = [event for event in evidence.received.events if event.name == semconv.HINT_EVENT]
    data = [_data(event) for event in sorted(hints, key=lambda each: each.time_ns)]
    latest: dict[tuple[str, ...], dict[str, Any]] = {}
    changes: dict[tuple[str, ...], int] = {}
    for each in data:
        key = (str(each["kind"]), str(each["model"]), str(each["operation"]))
        latest[key] = each
        changes[key] = changes.get(key, 0) + 1
    rows: list[tuple[str, ...]] = [
        ("hint", "told", "sure", ""),
        *(
            (str(each["kind"]), str(changes[key]), _share(each["confidence"]), str(each["body"]))
            for key, each in latest.items()
        ),
    ]
    lines = wrapped_table(rows) if latest else ["none"]
    return Section("hints", f"Hints: the latest of {len(hints)}", data, [line[: WIDTH - 2] for line in lines])


def _share(confidence: object) -> str:
    return f"{confidence:.0%}" if isinstance(confidence, float) else "-"


def _data(event: Event) -> dict[str, Any]:
    attributes = event.attributes
    return {
        "kind": attributes.get(semconv.HINT_KIND),
        "model": attributes.get(semconv.AIMON_MODEL_NAME),
        "operation": attributes.get(semconv.AIMON_OPERATION),
        "old": attributes.get(semconv.HINT_OLD),
        "new": attributes.get(semconv.HINT_NEW, attributes.get(semconv.HINT_BOTTLENECK)),
        "basis": attributes.get(semconv.HINT_BASIS),
        "confidence": attributes.get(semconv.HINT_CONFIDENCE),
        "lower_bound": attributes.get(semconv.HINT_LOWER_BOUND),
        "body": str(event.body),
        "time_ns": event.time_ns,
    }
