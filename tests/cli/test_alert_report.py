"""What the demo says of alerts."""

from __future__ import annotations

from typing import Any

from otel_aimon import semconv
from otel_aimon.cli.alert_report import alert_line, alerts_section
from otel_aimon.cli.faults import ERROR_BURST, SLOWDOWN, Fault
from otel_aimon.cli.receiver import Event, Received
from otel_aimon.cli.sections import Evidence

START = 1_000_000_000_000


def alert(
    at: float,
    state: str,
    rule: str = "latency.shift",
    key: str = "1",
    reason: str = "threshold",
    heartbeat: bool = False,
) -> Event:
    """An event that arrives ``at`` seconds after the start."""
    attributes: dict[str, Any] = {
        semconv.ALERT_ID: key,
        semconv.ALERT_RULE_NAME: rule,
        semconv.ALERT_STATE: state,
        semconv.ALERT_SEVERITY: "warning",
        semconv.ALERT_REASON: reason,
        semconv.ALERT_HEARTBEAT: heartbeat,
        semconv.ALERT_CAUSE: "cpu_host",
        semconv.AIMON_MODEL_NAME: "m",
    }
    ns = START + int(at * 1e9)
    return Event("aimon.alert", f"It is {state}.", 13, attributes, "", "", ns, ns, "otel_aimon", {})


def section(*events: Event, faults: tuple[tuple[Fault, float], ...] = ()) -> Any:
    began = [(fault, START + int(at * 1e9)) for fault, at in faults]
    return alerts_section(Evidence([], Received(events=list(events)), began))


def test_an_alert_is_told_in_a_line_as_it_arrives() -> None:
    assert alert_line(alert(1, "firing")) == "FIRING    latency.shift: It is firing."
    assert alert_line(alert(2, "resolved")) == "RESOLVED  latency.shift: It is resolved."


def test_heartbeats_and_other_events_are_not() -> None:
    assert alert_line(alert(1, "firing", heartbeat=True)) is None
    other = Event("", "text", 9, {}, "", "", 1, 1, "uvicorn", {})
    assert alert_line(other) is None


def test_a_fault_that_was_told_and_resolved() -> None:
    made = section(alert(13, "firing"), alert(20, "resolved", reason="clear"), faults=((SLOWDOWN, 11),))
    assert made.ok
    assert made.title == "Alerts: 1"
    (episode,) = made.data["episodes"]
    assert (episode["rule"], episode["severity"], episode["model"], episode["cause"]) == (
        "latency.shift", "warning", "m", "cpu_host"
    )  # fmt: skip
    assert (episode["seconds"], episode["reason"]) == (7.0, "clear")
    (told,) = made.data["faults"]
    assert (told["fault"], told["rule"], told["told_after_s"]) == ("slowdown", "latency.shift", 2.0)
    assert told["resolved_after_s"] == 9.0 - SLOWDOWN.seconds
    assert made.lines == [
        "alert          lasted  cause",
        "latency.shift  7 s     cpu_host  It is firing.",
        "",
        "The slowdown of 5 s was told by latency.shift 2.0 s after it began, and resolved 4.0 s after it was over.",
    ]


def test_one_that_only_the_end_resolved() -> None:
    made = section(alert(13, "firing"), alert(20, "resolved", reason="shutdown"), faults=((SLOWDOWN, 11),))
    assert made.ok
    assert " ".join(made.lines).endswith("and resolved only by the end of the service.")


def test_a_fault_that_nothing_told_is_wrong() -> None:
    made = section(faults=((ERROR_BURST, 24),))
    assert not made.ok
    assert made.lines[0] == "none"
    assert made.lines[-1] == "The error burst of 4 s was NOT TOLD."


def test_an_alert_of_another_time_or_kind_does_not_tell_it() -> None:
    before, after = alert(23, "firing", "error.shift"), alert(40, "firing", "error.shift", "2")
    another = alert(25, "firing", "latency.shift", "3")
    assert not section(before, after, another, faults=((ERROR_BURST, 24),)).ok


def test_without_faults_and_alerts_there_is_nothing_to_say() -> None:
    made = section()
    assert (made.ok, made.lines, made.data) == (True, ["none"], {"episodes": [], "faults": []})
