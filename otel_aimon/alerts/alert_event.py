"""What callbacks get, and what is exported, when an alert begins or ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from otel_aimon import semconv

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """One event about an alert, as callbacks get it and as it is exported.

    Attributes:
        name: ``aimon.alert`` or ``aimon.alert.storm``.
        severity: ``info``, ``warning`` or ``critical``; ``info`` for a resolved alert.
        body: One sentence for people.
        attributes: Everything for programs, as in docs/alerts.md.
        timestamp: When the condition of this event began, in nanoseconds since 1970.
        observed_timestamp: When it was told.
        trace_id: The trace of the worst example, 32 hexadecimal digits; empty when there is none.
        span_id: Its span, 16 hexadecimal digits; empty when that is not known.
    """

    name: str
    severity: str
    body: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    timestamp: int = 0
    observed_timestamp: int = 0
    trace_id: str = ""
    span_id: str = ""

    @property
    def state(self) -> str:
        """``firing`` or ``resolved``."""
        return str(self.attributes.get(semconv.ALERT_STATE, ""))

    @property
    def rule(self) -> str:
        """The rule's name."""
        return str(self.attributes.get(semconv.ALERT_RULE_NAME, ""))
