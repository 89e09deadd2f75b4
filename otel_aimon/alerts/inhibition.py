"""Which alert explains another one away."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_aimon.alerts.machine import Active
    from otel_aimon.alerts.rules import Rule
    from otel_aimon.analysis.evidence import Identity

ORDER = ("gpu.error", "stall", "gpu.throttled", "kv.*", "saturation.*", "latency.*", "slo.*.burn_*")
"""Causes before effects: an active alert inhibits those further right that can be about the same thing.

A burn-rate alert that is critical, as all are unless somebody makes them milder, is never inhibited.
"""


class Inhibition:
    """Answers what inhibits an alert.

    Args:
        rules: All rules; ``inhibited_by`` that would form a circle is left out.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        rules = tuple(rules)
        circular = frozenset(circle(rules))
        self._inhibitors = {
            rule.name: tuple(
                other.name for other in _inhibitors(rule, rules, patterns=rule.name not in circular)
            )
            for rule in rules
        }

    def among(self, active: Iterable[Active]) -> Callable[[Rule, Identity], str | None]:
        """A function that names the rule that inhibits an alert; None when nothing does.

        Args:
            active: Every alert that fires or recovers; the ones in question may be among them.
        """
        by_rule: dict[str, list[Identity]] = {}
        for alert in active:
            by_rule.setdefault(alert.rule.name, []).append(alert.identity)

        def inhibitor_of(rule: Rule, identity: Identity) -> str | None:
            for name in self._inhibitors.get(rule.name, ()):
                if any(can_be_one(identity, other) for other in by_rule.get(name, ())):
                    return name
            return None

        return inhibitor_of


def never_inhibited(rule: Rule) -> bool:
    """Whether a rule is told whatever else is active: a critical burn rate."""
    return rule.severity == "critical" and fnmatchcase(rule.name, ORDER[-1])


def rank(rule: Rule) -> int | None:
    """Place in :data:`ORDER`; None for a rule that is not in it."""
    if never_inhibited(rule):
        return None
    return next((place for place, pattern in enumerate(ORDER) if fnmatchcase(rule.name, pattern)), None)


def can_be_one(one: Identity, other: Identity) -> bool:
    """Whether two identities can be about the same thing: they contradict each other nowhere.

    A device and a model can, as can the whole process and anything in it; two models cannot.
    """
    there = dict(other)
    return all(there.get(key, value) == value for key, value in one)


def _inhibitors(rule: Rule, rules: Iterable[Rule], *, patterns: bool = True) -> list[Rule]:
    """Rules whose alerts inhibit those of ``rule``, the strongest first."""
    if never_inhibited(rule):
        return []
    mine = rank(rule)
    found = []
    for other in rules:
        theirs = rank(other)
        by_order = mine is not None and theirs is not None and theirs < mine
        by_name = patterns and any(fnmatchcase(other.name, pattern) for pattern in rule.inhibited_by)
        if other.name != rule.name and (by_order or by_name):
            found.append((len(ORDER) if theirs is None else theirs, other))
    found.sort(key=lambda pair: pair[0])
    return [other for _, other in found]


def circle(rules: Iterable[Rule]) -> list[str]:
    """Rules that would inhibit one another in a circle, in its order; empty when there is none."""
    rules = tuple(rules)
    done: set[str] = set()
    path: list[str] = []

    def visit(rule: Rule) -> list[str]:
        if rule.name in path:
            return path[path.index(rule.name) :]
        if rule.name in done:
            return []
        path.append(rule.name)
        for other in _inhibitors(rule, rules):
            if found := visit(other):
                return found
        path.pop()
        done.add(rule.name)
        return []

    for rule in rules:
        # Without a rule of the user's there is no circle: the order has none.
        if rule.inhibited_by and (found := visit(rule)):
            return found
    return []
