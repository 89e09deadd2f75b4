"""The alert state machine: evidence in, transitions out.

It is pure: no thread, no input or output, and no time but the ``now`` that it is given. Each pair of a
rule and an identity goes through

    inactive -> pending -> firing <-> recovering -> resolved

by two thresholds (hysteresis), k of n evaluations, and a time that the alert keeps firing, which
doubles with each episode of the last half hour.
"""

from __future__ import annotations

import math
import uuid
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from otel_aimon.alerts.rules import Rule
    from otel_aimon.analysis.evidence import Evidence, Identity

State = Literal["inactive", "pending", "firing", "recovering", "resolved"]
Reason = Literal["threshold", "clear", "heartbeat", "nodata", "shutdown", "reload"]

FLAP_WINDOW = 1800.0
"""Seconds that flap control looks back."""

FLAPPING_AFTER = 4
"""Firing and resolved transitions within the flap window that make an alert a flapping one."""

LONGEST_KEEP_FIRING = 3600.0
LEAST_NODATA = 60.0
LONGEST_NODATA = 3600.0
"""An alert without data for an hour is about something that is gone: it resolves."""

MAX_STATES = 4096
_EARLY = 0.95
"""Evidence that comes sooner than this share of the rule's period is no evaluation of its own."""


class Active(NamedTuple):
    """An alert that fires or recovers."""

    rule: Rule
    identity: Identity
    episode: str


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of an alert.

    Attributes:
        rule: The rule.
        identity: What the alert is about.
        state: The new state. ``resolved`` is ``inactive`` again, told apart because it ends an episode.
        previous: The old one.
        reason: Why.
        at: When, in seconds of the machine's clock.
        since: When the condition of this transition began.
        episode: Identifies the episode; empty before it fires.
        started_at: When the episode's condition began.
        evidence: The last evidence; None for an alert on missing data.
        worst: The evidence furthest into the condition in this episode.
        flap_count: How often the episode cleared and fired again.
        flapping: The alert fired too often lately: its event can wait for the heartbeat.
        heartbeat: Nothing changed: it still fires.
    """

    rule: Rule
    identity: Identity
    state: State
    previous: State
    reason: Reason
    at: float
    since: float
    episode: str = ""
    started_at: float = 0.0
    evidence: Evidence | None = None
    worst: Evidence | None = None
    flap_count: int = 0
    flapping: bool = False
    heartbeat: bool = False

    @property
    def duration(self) -> float:
        """Seconds since the episode's condition began."""
        return self.at - self.started_at


class _Alert:
    """State of one rule for one identity."""

    __slots__ = (
        "clear_bits",
        "cleared_at",
        "edges",
        "episode",
        "evidence",
        "fired",
        "flap_count",
        "flapping",
        "heard_at",
        "identity",
        "keep_firing",
        "last_tick",
        "met_bits",
        "rule",
        "started_at",
        "state",
        "told_at",
        "worst",
    )

    def __init__(self, rule: Rule, identity: Identity) -> None:
        self.rule = rule
        self.identity = identity
        self.state: State = "inactive"
        self.last_tick = -math.inf
        self.heard_at = -math.inf
        self.evidence: Evidence | None = None
        self.fired: deque[float] = deque(maxlen=16)
        self.edges: deque[float] = deque(maxlen=FLAPPING_AFTER)
        self.forget_episode()

    def forget_episode(self) -> None:
        self.met_bits = self.clear_bits = 0
        self.started_at = self.cleared_at = self.told_at = 0.0
        self.episode = ""
        self.worst: Evidence | None = None
        self.flap_count = 0
        self.flapping = False
        self.keep_firing = self.rule.keep_firing

    @property
    def active(self) -> bool:
        return self.state in {"firing", "recovering"}

    def is_silent(self, now: float) -> bool:
        window = self.evidence.window if self.evidence is not None else 0.0
        return now - self.heard_at > max(2 * window, LEAST_NODATA, 2 * self.rule.every)

    def remembers(self, now: float) -> bool:
        """Whether anything here still matters."""
        if self.state != "inactive" or self.rule.nodata == "alert":
            return True
        return bool(self.fired) and now - self.fired[-1] <= FLAP_WINDOW


class Machine:
    """Judges evidence by rules.

    Args:
        rules: Enabled rules.
        new_id: Makes the id of an episode.
    """

    def __init__(self, rules: Iterable[Rule], new_id: Callable[[], str] = lambda: str(uuid.uuid4())) -> None:
        self._new_id = new_id
        self._alerts: dict[tuple[str, Identity], _Alert] = {}
        self.refused = 0
        self._use(rules)

    def _use(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._by_source: dict[str, list[Rule]] = {}
        for rule in self.rules:
            self._by_source.setdefault(rule.source, []).append(rule)

    def evaluate(self, now: float, evidences: Iterable[Evidence]) -> list[Transition]:
        """Judge evidence, and let time pass for alerts without any.

        Args:
            now: Seconds on a clock that never goes back.
            evidences: At most one for each rule and identity; a rule's evaluations are ``every``
                seconds apart, evidence in between is ignored.

        Returns:
            All steps in the order in which they happened.
        """
        steps: list[Transition] = []
        for evidence in evidences:
            if math.isnan(evidence.score):
                continue
            for rule in self._by_source.get(evidence.rule, ()):
                alert = self._alert(rule, evidence)
                if alert is not None and now - alert.last_tick >= _EARLY * rule.every:
                    alert.last_tick = alert.heard_at = now
                    alert.evidence = evidence
                    steps += self._tick(alert, evidence, now)
        for key, alert in list(self._alerts.items()):
            steps += self._let_time_pass(alert, now)
            if not alert.remembers(now):
                del self._alerts[key]
        return steps

    def active(self) -> list[Active]:
        """Alerts that fire or recover, oldest first."""
        return [
            Active(alert.rule, alert.identity, alert.episode)
            for alert in self._alerts.values()
            if alert.active
        ]

    def known(self) -> Iterator[tuple[Rule, Identity, bool]]:
        """Alerts of the last half hour, and whether they are active."""
        for alert in list(self._alerts.values()):
            if alert.active or alert.fired:
                yield alert.rule, alert.identity, alert.active

    def shutdown(self, now: float) -> list[Transition]:
        """Resolve everything: the process ends."""
        # They stay known, so that the last metrics of the process say that nothing fires any more.
        return [self._resolve(alert, now, "shutdown") for alert in self._alerts.values() if alert.active]

    def reload(self, rules: Iterable[Rule], now: float) -> list[Transition]:
        """Judge by other rules from now on; alerts of unchanged rules go on as they are."""
        before = {rule.name: rule for rule in self.rules}
        self._use(rules)
        unchanged = {rule.name for rule in self.rules if before.get(rule.name) == rule}
        gone = [alert for alert in self._alerts.values() if alert.rule.name not in unchanged]
        steps = []
        for alert in gone:
            if alert.active:
                steps.append(self._resolve(alert, now, "reload"))
            del self._alerts[alert.rule.name, alert.identity]
        return steps

    def _alert(self, rule: Rule, evidence: Evidence) -> _Alert | None:
        key = (rule.name, evidence.identity)
        alert = self._alerts.get(key)
        if alert is not None:
            return alert
        if not _is_met(rule, evidence) and rule.nodata != "alert":
            return None
        if len(self._alerts) >= MAX_STATES and not self._make_room():
            self.refused += 1
            return None
        alert = self._alerts[key] = _Alert(rule, evidence.identity)
        return alert

    def _make_room(self) -> bool:
        for state in ("inactive", "pending"):
            for key, alert in self._alerts.items():
                if alert.state == state:
                    del self._alerts[key]
                    return True
        return False

    def _tick(self, alert: _Alert, evidence: Evidence, now: float) -> Iterator[Transition]:
        rule = alert.rule
        met, clear = _is_met(rule, evidence), _is_clear(rule, evidence)
        if alert.state == "inactive" and met:
            alert.forget_episode()
            alert.started_at = now
            yield self._go(alert, "pending", "threshold", now, now)
        if alert.state == "pending":
            yield from self._tick_pending(alert, evidence, now, met=met, clear=clear)
        elif alert.active:
            if met and (alert.worst is None or rule.is_worse(evidence.score, alert.worst.score)):
                alert.worst = evidence
            if alert.state == "firing" and clear:
                alert.cleared_at = now
                yield self._go(alert, "recovering", "clear", now, now)
            if alert.state == "recovering":
                if met:
                    alert.flap_count += 1
                    yield self._go(alert, "firing", "threshold", now, now)
                elif clear and now - alert.cleared_at >= alert.keep_firing:
                    yield self._resolve(alert, now, "clear")

    def _tick_pending(
        self, alert: _Alert, evidence: Evidence, now: float, *, met: bool, clear: bool
    ) -> Iterator[Transition]:
        rule = alert.rule
        mask = (1 << rule.ticks) - 1
        alert.met_bits = (alert.met_bits << 1 | met) & mask
        alert.clear_bits = (alert.clear_bits << 1 | clear) & mask
        if met and (alert.worst is None or rule.is_worse(evidence.score, alert.worst.score)):
            alert.worst = evidence
        # One good evaluation must not restart the clock; so many that the k of n are out of reach do.
        if not alert.met_bits or alert.clear_bits.bit_count() > rule.ticks - rule.ticks_needed:
            yield self._go(alert, "inactive", "clear", now, now)
        elif met and now - alert.started_at >= rule.hold and alert.met_bits.bit_count() >= rule.ticks_needed:
            yield self._fire(alert, now, "threshold")

    def _let_time_pass(self, alert: _Alert, now: float) -> Iterator[Transition]:
        rule = alert.rule
        if alert.is_silent(now):
            if alert.state == "pending":
                yield self._go(alert, "inactive", "nodata", now, now)
            elif alert.state == "inactive" and rule.nodata == "alert":
                yield from self._alert_on_silence(alert, now)
            elif alert.state == "recovering" and now - alert.cleared_at >= alert.keep_firing:
                yield self._resolve(alert, now, "clear")
            elif (
                alert.active
                and rule.nodata != "alert"
                and now - max(alert.heard_at, alert.started_at) > LONGEST_NODATA
            ):
                yield self._resolve(alert, now, "nodata")
        if alert.active and now - alert.told_at >= rule.repeat:
            alert.told_at = now
            step = self._step(alert, alert.state, alert.state, "heartbeat", now, now)
            yield replace(step, state="firing", heartbeat=True)

    def _alert_on_silence(self, alert: _Alert, now: float) -> Iterator[Transition]:
        alert.forget_episode()
        alert.evidence = None
        alert.started_at = max(alert.heard_at, 0.0)
        yield self._fire(alert, now, "nodata")

    def _fire(self, alert: _Alert, now: float, reason: Reason) -> Transition:
        recent = sum(now - fired <= FLAP_WINDOW for fired in alert.fired)
        alert.keep_firing = max(
            alert.rule.keep_firing, min(LONGEST_KEEP_FIRING, alert.rule.keep_firing * 2.0**recent)
        )
        alert.flapping = sum(now - edge <= FLAP_WINDOW for edge in alert.edges) >= FLAPPING_AFTER
        alert.fired.append(now)
        alert.edges.append(now)
        alert.told_at = now
        alert.episode = self._new_id()
        return self._go(alert, "firing", reason, now, alert.started_at)

    def _resolve(self, alert: _Alert, now: float, reason: Reason) -> Transition:
        since = alert.cleared_at if reason == "clear" else now
        alert.edges.append(now)
        step = self._step(alert, "resolved", alert.state, reason, now, since)
        alert.state = "inactive"
        alert.forget_episode()
        return step

    def _go(self, alert: _Alert, state: State, reason: Reason, now: float, since: float) -> Transition:
        step = self._step(alert, state, alert.state, reason, now, since)
        alert.state = state
        return step

    @staticmethod
    def _step(
        alert: _Alert, state: State, previous: State, reason: Reason, now: float, since: float
    ) -> Transition:
        return Transition(
            rule=alert.rule,
            identity=alert.identity,
            state=state,
            previous=previous,
            reason=reason,
            at=now,
            since=since,
            episode=alert.episode,
            started_at=alert.started_at,
            evidence=alert.evidence,
            worst=alert.worst or alert.evidence,
            flap_count=alert.flap_count,
            flapping=alert.flapping,
        )


def _is_met(rule: Rule, evidence: Evidence) -> bool:
    return evidence.samples >= rule.samples and rule.is_met(evidence.score)


def _is_clear(rule: Rule, evidence: Evidence) -> bool:
    return rule.is_clear(evidence.score)
