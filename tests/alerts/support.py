"""Rules and evidence for tests, and a whole alerting that runs on a clock of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from otel_aimon.alerts.alert_event import AlertEvent
from otel_aimon.alerts.alerting import Alerting
from otel_aimon.alerts.rules import Rule
from otel_aimon.analysis.evidence import Evidence, Identity

START = 1_700_000_000_000_000_000
"""The world's time when the machine's clock is at 0."""


def model(name: str) -> Identity:
    return (("aimon.model.name", name),)


M = model("m")


def rule(name: str = "latency.shift", **changes: Any) -> Rule:
    """A rule that fires at once at 10 and is clear below 5, unless changed."""
    values: dict[str, Any] = {
        "name": name,
        "category": "anomaly",
        "domain": "latency",
        "signal": "gen_ai.server.time_per_output_token",
        "unit": "s",
        "severity": "warning",
        "on": 10.0,
        "off": 5.0,
        "needed": 1,
        "of": 1,
        "every": 1.0,
        "keep_firing": 30.0,
        "summary": "{where} became slower: {value} instead of {baseline}.",
        "rationale": "A test.",
    }
    return Rule(**{**values, **changes})


def ids() -> Any:
    counter = itertools.count(1)
    return lambda: f"episode-{next(counter)}"


class World:
    """A whole alerting whose clock moves when it is told to."""

    def __init__(self, *rules: Rule, group_wait: float = 0.0, **more: Any) -> None:
        self.now = 0.0
        self.events: list[AlertEvent] = []
        self.alerting = Alerting(
            rules,
            [self.events.append],
            clock=lambda: self.now,
            wall=lambda: START + int(self.now * 1e9),
            new_id=ids(),
            group_wait=group_wait,
            **more,
        )

    def at(self, now: float, *evidences: Evidence) -> list[AlertEvent]:
        self.now = now
        return self.alerting.tick(evidences)

    def run(self, until: float, evidences: Iterable[Evidence] = (), step: float = 1.0) -> list[AlertEvent]:
        """Tick with the same evidence up to a time; all events on the way."""
        evidences = tuple(evidences)
        found: list[AlertEvent] = []
        while self.now < until:
            found += self.at(self.now + step, *evidences)
        return found

    def told(self) -> list[tuple[str, str, bool]]:
        return [short(event) for event in self.events]


def short(event: AlertEvent) -> tuple[str, str, bool]:
    return event.rule, event.state, bool(event.attributes.get("aimon.alert.heartbeat"))


def seen(score: float, name: str = "latency.shift", identity: Identity = M, **more: Any) -> Evidence:
    return Evidence(name, identity, score, **more)
