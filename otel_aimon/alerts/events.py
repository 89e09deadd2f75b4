"""An alert as it leaves the process: one log record named ``aimon.alert``.

The fields follow the proposal for alerts in the semantic conventions (issue 1081), which is still open:
``aimon.alert.rule.name`` is its ``alert.rule.name``, and so on.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)

from otel_aimon import semconv
from otel_aimon.alerts.alert_event import AlertEvent
from otel_aimon.analysis.slo import BurnEvidence

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry._logs import Logger

    from otel_aimon.alerts.grouping import Notice
    from otel_aimon.alerts.machine import Transition
    from otel_aimon.alerts.storm import Storm
    from otel_aimon.analysis.evidence import Evidence, Identity

    WallClock = Callable[[float], int]
    """Turns seconds of the machine's clock into nanoseconds since 1970."""

_SEVERITY_NUMBERS = {"info": 9, "warning": 13, "critical": 17}
MOST_EXEMPLARS = 3


def fingerprint(rule: str, identity: Identity) -> str:
    """Sixteen hexadecimal digits that are the same for each alert of a rule and an identity."""
    pairs = (f"{key}={value}" for key, value in sorted(identity))
    return hashlib.sha256("\n".join((rule, *pairs)).encode()).hexdigest()[:16]


def alert_event(notice: Notice, wall: WallClock, cause: tuple[str, float] | None = None) -> AlertEvent:
    """What to export of an alert.

    Args:
        notice: What to tell.
        wall: Turns the machine's time into the world's.
        cause: The bottleneck behind it and how sure that is, where one was found.
    """
    step = notice.step
    rule = step.rule
    resolved = step.state == "resolved"
    trace_ids = _examples(step)
    attributes: dict[str, Any] = {
        semconv.ALERT_ID: step.episode,
        semconv.ALERT_FINGERPRINT: fingerprint(rule.name, step.identity),
        semconv.ALERT_RULE_NAME: rule.name,
        semconv.ALERT_RULE_VERSION: str(rule.version),
        semconv.ALERT_CATEGORY: rule.category,
        semconv.ALERT_STATE: step.state,
        semconv.ALERT_PREVIOUS_STATE: step.previous,
        semconv.ALERT_REASON: step.reason,
        semconv.ALERT_SEVERITY: rule.severity,
        semconv.ALERT_SIGNAL: rule.signal,
        semconv.ALERT_UNIT: rule.unit,
        semconv.ALERT_THRESHOLD: rule.on,
        semconv.ALERT_FOR: rule.hold,
        semconv.ALERT_STARTED_AT: wall(step.started_at),
        semconv.ALERT_DURATION: step.duration,
        semconv.ALERT_FLAP_COUNT: step.flap_count,
        semconv.ALERT_HEARTBEAT: step.heartbeat,
        **_readings(step),
        **dict(step.identity),
    }
    optional = {
        semconv.ALERT_CAUSE: cause and cause[0],
        semconv.ALERT_CAUSE_CONFIDENCE: cause and cause[1],
        semconv.ALERT_INHIBITED_BY: notice.inhibited_by,
        semconv.ALERT_CHILDREN: notice.children or None,
        semconv.ALERT_EXEMPLAR_TRACE_IDS: tuple(each[:32] for each in trace_ids) or None,
    }
    attributes |= {key: value for key, value in optional.items() if value is not None}
    trace_id, span_id = _worst_example(trace_ids)
    return AlertEvent(
        name=semconv.ALERT_EVENT,
        severity="info" if resolved else rule.severity,
        body=_body(notice),
        attributes=attributes,
        timestamp=wall(step.at if step.heartbeat else step.since),
        observed_timestamp=wall(notice.at),
        trace_id=trace_id,
        span_id=span_id,
    )


def storm_event(storm: Storm, wall: WallClock) -> AlertEvent:
    """What to export when the limit on alerts withheld some."""
    return AlertEvent(
        name=semconv.ALERT_STORM_EVENT,
        severity="critical",
        body=f"Too many alerts at once: {storm.withheld} more were withheld, of {', '.join(storm.rules[:5])}"
        f"{' and others' if len(storm.rules) > 5 else ''}. Those that last are told later.",
        attributes={
            semconv.ALERT_STORM_WITHHELD: storm.withheld,
            semconv.ALERT_STORM_RULES: storm.rules,
        },
        timestamp=wall(storm.since),
        observed_timestamp=wall(storm.at),
    )


def emit_to(logger: Logger) -> Callable[[AlertEvent], None]:
    """A function that emits events as log records.

    Args:
        logger: Of our scope.
    """

    def emit(event: AlertEvent) -> None:
        logger.emit(
            timestamp=event.timestamp,
            observed_timestamp=event.observed_timestamp,
            context=_trace_context(event),
            severity_number=SeverityNumber(_SEVERITY_NUMBERS[event.severity]),
            severity_text=_SEVERITY_TEXTS[event.severity],
            body=event.body,
            attributes=dict(event.attributes),
            event_name=event.name,
        )

    return emit


_SEVERITY_TEXTS = {"info": "INFO", "warning": "WARN", "critical": "ERROR"}


def _trace_context(event: AlertEvent) -> Context:
    """A context with nothing but the worst example; without one, no span rather than the thread's own."""
    if not event.trace_id:
        return set_span_in_context(INVALID_SPAN, Context())
    span = SpanContext(
        trace_id=int(event.trace_id, 16),
        span_id=int(event.span_id, 16) if event.span_id else 0,
        is_remote=False,
        # Only sampled requests are kept as examples.
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return set_span_in_context(NonRecordingSpan(span), Context())


_EXAMPLE = re.compile(r"([0-9a-f]{32})(?:-([0-9a-f]{16}))?")


def _examples(step: Transition) -> tuple[str, ...]:
    for evidence in (step.worst, step.evidence):
        if evidence is not None and evidence.trace_ids:
            return evidence.trace_ids[:MOST_EXEMPLARS]
    return ()


def _worst_example(trace_ids: tuple[str, ...]) -> tuple[str, str]:
    found = _EXAMPLE.fullmatch(trace_ids[0]) if trace_ids else None
    return (found[1], found[2] or "") if found else ("", "")


def _readings(step: Transition) -> dict[str, Any]:
    evidence = step.evidence
    if evidence is None:
        return {}
    found: dict[str, Any] = {
        semconv.ALERT_VALUE: evidence.value,
        semconv.ALERT_BASELINE: evidence.baseline,
        semconv.ALERT_SCORE: evidence.score,
        semconv.ALERT_WINDOW: evidence.window or None,
        semconv.ALERT_SAMPLES: evidence.samples or None,
        semconv.ALERT_PEAK: step.worst.value if step.worst is not None else None,
    }
    if isinstance(evidence, BurnEvidence):
        found[semconv.ALERT_BURN_RATE_LONG] = evidence.burn_long
        found[semconv.ALERT_BURN_RATE_SHORT] = evidence.burn_short
        found[semconv.ALERT_BUDGET_REMAINING] = evidence.budget_remaining
    return {key: value for key, value in found.items() if value is not None}


# --- sentences for people ----------------------------------------------------------------------


_ENDS = {
    "clear": "is over after {}",
    "nodata": "has had no data for long, and is given up after {}",
    "shutdown": "was not over when the process ended, after {}",
    "reload": "is no longer judged after {}, because the rules changed",
}
"""By the reason of a resolved alert."""


def _body(notice: Notice) -> str:
    step = notice.step
    if step.state == "resolved":
        end = _ENDS.get(step.reason, _ENDS["clear"]).format(_seconds(step.duration))
        return _sentence(f"{_where(step.identity)}: {step.rule.name} {end}.")
    if step.reason == "nodata" or step.evidence is None:
        return _sentence(f"{_where(step.identity)}: no data for {step.rule.name}.")
    text = _filled(step.rule.summary, step, step.evidence)
    if step.heartbeat:
        text = f"For {_seconds(step.duration)} now: {text}"
    if notice.children:
        text += f" With it: {', '.join(notice.children)}."
    return _sentence(text)


def _filled(template: str, step: Transition, evidence: Evidence) -> str:
    unit = step.rule.unit
    words = {
        "where": _where(step.identity),
        "value": _quantity(evidence.value, unit),
        "threshold": f"{step.rule.on:.3g}",
        "baseline": _quantity(evidence.baseline, unit),
        "score": f"{evidence.score:.3g}",
        "signal": step.rule.signal,
        "window": _seconds(evidence.window),
        "samples": str(evidence.samples),
    }
    return re.sub(r"\{(\w+)\}", lambda found: words.get(found[1], found[0]), template)


def _where(identity: Identity) -> str:
    named = dict(identity)
    if not named:
        return "this process"
    for key, word in ((semconv.AIMON_MODEL_NAME, "model"), (semconv.HW_ID, "device")):
        if key in named:
            return f"{word} {named[key]}"
    return ", ".join(f"{key} {value}" for key, value in identity)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _quantity(value: float | None, unit: str) -> str:
    if value is None:
        return "unknown"
    if unit == "1":
        return f"{value * 100:.3g} %"
    if unit == "s":
        return _seconds(value)
    if unit == "By":
        return _bytes(value)
    noun = re.sub(r"\{(\w+)\}", lambda found: found[1] if value == 1 else f"{found[1]}s", unit)
    return f"{value:.3g} {noun}".replace("/s", " per second")


def _seconds(value: float) -> str:
    for limit, scale, unit in (
        (1e-3, 1e6, "µs"),
        (1.0, 1e3, "ms"),
        (120.0, 1.0, "s"),
        (7200.0, 1 / 60, "min"),
    ):
        if value < limit:
            return f"{value * scale:.3g} {unit}" if value else "0 s"
    return f"{value / 3600:.3g} h"


def _bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"
