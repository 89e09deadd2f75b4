"""The alerts that arrived: as they arrive, and against what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_aimon import semconv
from otel_aimon.cli.sections import Section
from otel_aimon.cli.text import WIDTH, seconds, wrapped, wrapped_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_aimon.cli.faults import Fault
    from otel_aimon.cli.receiver import Event
    from otel_aimon.cli.sections import Evidence

_LATEST = 8.0
"""Seconds after a fault until which an alert can be about it: evidence, and the wait for others of its group."""

_FIRING = "firing"
_RESOLVED = "resolved"


def alert_line(event: Event) -> str | None:
    """One line about an alert that fires or is resolved; None for any other event."""
    if event.name != semconv.ALERT_EVENT or event.attributes.get(semconv.ALERT_HEARTBEAT):
        return None
    state = str(event.attributes.get(semconv.ALERT_STATE, "")).upper()
    rule = event.attributes.get(semconv.ALERT_RULE_NAME)
    return "\n".join(wrapped(str(event.body), f"{state:8}  {rule}: ", " " * 10))


def alerts_section(evidence: Evidence) -> Section:
    """The alerts, and for each thing that went wrong on purpose the one that told it."""
    alerts = [event for event in evidence.received.events if event.name == semconv.ALERT_EVENT]
    episodes = _episodes(alerts)
    told = [_told(fault, began, episodes) for fault, began in evidence.faults]
    rows: list[tuple[str, ...]] = [
        ("alert", "lasted", "cause", ""),
        *((each["rule"], seconds(each["seconds"]), each["cause"] or "-", each["body"]) for each in episodes),
    ]
    lines = wrapped_table(rows) if episodes else ["none"]
    for each in told:
        lines += ["", *wrapped(_sentence(each))]
    data = {"episodes": episodes, "faults": told}
    ok = all(each["told_after_s"] is not None for each in told)
    return Section("alerts", f"Alerts: {len(episodes)}", data, [line[: WIDTH - 2] for line in lines], ok)


def _episodes(alerts: Sequence[Event]) -> list[dict[str, Any]]:
    """One entry for each alert, in the order in which they fired."""
    found: dict[str, dict[str, Any]] = {}
    for event in sorted(alerts, key=lambda each: each.time_ns):
        attributes = event.attributes
        key = str(attributes.get(semconv.ALERT_ID))
        if attributes.get(semconv.ALERT_STATE) == _FIRING:
            found.setdefault(
                key,
                {
                    "rule": attributes.get(semconv.ALERT_RULE_NAME),
                    "severity": attributes.get(semconv.ALERT_SEVERITY),
                    "model": attributes.get(semconv.AIMON_MODEL_NAME),
                    "cause": attributes.get(semconv.ALERT_CAUSE),
                    "body": str(event.body),
                    "fired_ns": event.observed_ns,
                    "resolved_ns": None,
                    "reason": None,
                    "seconds": None,
                },
            )
        elif attributes.get(semconv.ALERT_STATE) == _RESOLVED and key in found:
            episode = found[key]
            episode["resolved_ns"] = event.observed_ns
            episode["reason"] = attributes.get(semconv.ALERT_REASON)
            episode["seconds"] = (event.observed_ns - episode["fired_ns"]) / 1e9
    return list(found.values())


def _told(fault: Fault, began: int, episodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first alert that told a fault, before the next one could have begun."""
    until = began + int((fault.seconds + _LATEST) * 1e9)
    for episode in episodes:
        if episode["rule"] in fault.told_by and began <= episode["fired_ns"] <= until:
            return {
                "fault": fault.name,
                "seconds": fault.seconds,
                "rule": episode["rule"],
                "told_after_s": (episode["fired_ns"] - began) / 1e9,
                "resolved_after_s": _resolved_after(episode, began, fault),
            }
    return {
        "fault": fault.name,
        "seconds": fault.seconds,
        "rule": None,
        "told_after_s": None,
        "resolved_after_s": None,
    }


def _resolved_after(episode: dict[str, Any], began: int, fault: Fault) -> float | None:
    """Seconds after the fault's end; None when only the end of the process resolved it."""
    if episode["resolved_ns"] is None or episode["reason"] == "shutdown":
        return None
    return float((episode["resolved_ns"] - began) / 1e9 - fault.seconds)


def _sentence(told: dict[str, Any]) -> str:
    head = f"The {told['fault']} of {told['seconds']:g} s"
    if told["told_after_s"] is None:
        return f"{head} was NOT TOLD."
    resolved = told["resolved_after_s"]
    end = (
        "and resolved only by the end of the service"
        if resolved is None
        else f"and resolved {resolved:.1f} s after it was over"
    )
    return f"{head} was told by {told['rule']} {told['told_after_s']:.1f} s after it began, {end}."
