"""Rules that users write: a signal or an expression against a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_aimon.alerts.expressions import Expression, evaluate
from otel_aimon.analysis.evidence import Evidence, Identity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Readings = Mapping[str, Mapping[Identity, float]]
    """Latest values: signal -> what it is about -> value."""

MOST_IDENTITIES = 256


@dataclass(frozen=True, slots=True)
class Threshold:
    """How evidence for a rule of the user's comes about.

    Attributes:
        rule: The rule's name.
        expression: What to evaluate.
        named: Expressions that it may name.
        signals: Signals that it reads in the end.
        where: Attributes that a value must have, where its signal has that attribute at all; they
            are no longer part of the identity.
    """

    rule: str
    expression: Expression
    named: Mapping[str, Expression]
    signals: tuple[str, ...]
    where: tuple[tuple[str, str], ...] = ()

    def evidences(self, readings: Readings, _time: float = 0.0) -> Iterator[Evidence]:
        """Evidence for everything that all of its signals have a value for.

        A value about more, such as the whole process, serves for what is part of it, such as a model.

        Args:
            readings: Latest values.
        """
        by_signal = [self._chosen(readings.get(signal, {})) for signal in self.signals]
        everybody = sorted({identity for values in by_signal for identity in values})[:MOST_IDENTITIES]
        for identity in everybody:
            values = [_nearest(values, identity) for values in by_signal]
            known = {
                signal: value for signal, value in zip(self.signals, values, strict=True) if value is not None
            }
            if len(known) < len(self.signals):
                continue
            score = evaluate(self.expression, self.named, known)
            if score is not None:
                value = None if self.expression.is_condition else score
                yield Evidence(self.rule, identity, score, value=value)

    def _chosen(self, values: Mapping[Identity, float]) -> dict[Identity, float]:
        wanted = dict(self.where)
        return {
            tuple(pair for pair in identity if pair[0] not in wanted): value
            for identity, value in values.items()
            if all(wanted.get(key, found) == found for key, found in identity)
        }


def _nearest(values: Mapping[Identity, float], identity: Identity) -> float | None:
    """The value about ``identity``, or about the least that contains it."""
    if identity in values:
        return values[identity]
    mine = set(identity)
    wider = [other for other in values if mine.issuperset(other)]
    return values[max(wider, key=len)] if wider else None
