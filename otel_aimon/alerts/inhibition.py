"""Which alert explains another one away."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

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
        self._rank = {rule.name: rank(rule) for rule in rules}
        self._patterns = {rule.name: () if rule.name in circular else rule.inhibited_by for rule in rules}

    def inhibitor_of(self, rule: Rule, identity: Identity, active: Iterable[Active]) -> str | None:
        """The rule whose alert inhibits an alert of ``rule``; None when nothing does.

        Args:
            rule: The rule of the alert in question.
            identity: What that alert is about.
            active: Every alert that fires or recovers; the one in question may be among them.
        """
        if never_inhibited(rule):
            return None
        mine = self._rank.get(rule.name)
        patterns = self._patterns.get(rule.name, ())
        for other in active:
            name = other.rule.name
            if name == rule.name or not can_be_one(identity, other.identity):
                continue
            theirs = self._rank.get(name)
            if mine is not None and theirs is not None and theirs < mine:
                return name
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                return name
        return None


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


def circle(rules: Iterable[Rule]) -> list[str]:
    """Rules that would inhibit one another in a circle, in its order; empty when there is none."""
    rules = tuple(rules)
    ranks = {rule.name: rank(rule) for rule in rules}

    def inhibitors(rule: Rule) -> list[Rule]:
        if never_inhibited(rule):
            return []
        mine = ranks[rule.name]
        return [
            other
            for other in rules
            if other.name != rule.name
            and (
                any(fnmatchcase(other.name, pattern) for pattern in rule.inhibited_by)
                or (mine is not None and (theirs := ranks[other.name]) is not None and theirs < mine)
            )
        ]

    done: set[str] = set()
    path: list[str] = []

    def visit(rule: Rule) -> list[str]:
        if rule.name in path:
            return path[path.index(rule.name) :]
        if rule.name in done:
            return []
        path.append(rule.name)
        for other in inhibitors(rule):
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
