"""The probable cause of an alert: the resource that binds while it fires."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_aimon.analysis.bottleneck import CLASSES

if TYPE_CHECKING:
    from otel_aimon.alerts.machine import Transition
    from otel_aimon.analysis.situation import Situation

_EXPLAINED: dict[str, frozenset[str]] = {
    "latency": frozenset({"underused"}),
    "capacity": frozenset({"underused"}),
    "errors": frozenset(CLASSES) - {"gpu_fault", "stalled"},
}
"""Domains of rules that a bottleneck can explain → classes that explain nothing in them: a lack of CPU makes no
request fail. What is about a resource explains itself."""

LEAST_CONFIDENCE = 0.2
"""Below, a signal is so close to its threshold that the cause would be a guess."""


def cause_of(transition: Transition, situation: Situation) -> tuple[str, float] | None:
    """The class of the bottleneck, and how sure it is; None when nothing that is known binds.

    Args:
        transition: Of the alert.
        situation: Of the process.
    """
    leave_out = _EXPLAINED.get(transition.rule.domain)
    if leave_out is None:
        return None
    bottleneck = situation.bottleneck(leave_out=leave_out)
    if bottleneck is None or bottleneck.confidence < LEAST_CONFIDENCE:
        return None
    return bottleneck.name, bottleneck.confidence
