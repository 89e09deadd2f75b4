"""What a detector or an objective hands to the alert rules."""

from __future__ import annotations

from dataclasses import dataclass

Identity = tuple[tuple[str, str], ...]
"""What an alert is about: sorted attribute pairs such as ``(("aimon.model.name", "m"),)``; ``()`` is the process."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One reading that a rule judges.

    Attributes:
        rule: Name of the rule.
        identity: What it is about.
        score: Compared with the rule's ``on`` and ``off``.
        value: The signal itself, in the rule's unit, where there is one.
        baseline: What the signal usually is.
        samples: Observations behind the score.
        window: Seconds that the score looks back.
        trace_ids: Traces of examples, worst first: 32 hexadecimal digits, or these, a hyphen and the
            16 digits of the span.
    """

    rule: str
    identity: Identity
    score: float
    value: float | None = None
    baseline: float | None = None
    samples: int = 0
    window: float = 0.0
    trace_ids: tuple[str, ...] = ()
