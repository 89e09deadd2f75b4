"""One event for what belongs together: alerts of one domain about one model form a group.

A group opens with its first alert and waits a little for others. Then its worst alert is told, with the
others as its children. A later one is told by itself only when it is worse than all that were told. The
group's last told alert resolves when nothing as bad in the group is active any more, so that one fault
makes one pair of events.

An alert about the whole process joins the one group of its domain that there is, or opens one; and its
group takes in those about single models, so that a fault of all models is told once.

What is inhibited, flapping or over the storm limit is withheld; it is told later if it still fires then.
Only what was told is resolved by an event, and then exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from otel_aimon import semconv
from otel_aimon.alerts.rules import SEVERITIES
from otel_aimon.analysis.evidence import Identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.alerts.machine import Transition
    from otel_aimon.alerts.rules import Rule

    Inhibitor = Callable[[Rule, Identity], str | None]
    Admit = Callable[[Transition, float], bool]

GROUP_WAIT = 5.0
"""Seconds that a new group waits for others: less than a tick of the detectors, which see a fault of all models at
once, and as long as the sampler of resources takes."""

Key = tuple[str, Identity]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell.

    Attributes:
        step: The alert's transition; ``firing``, again ``firing`` as a heartbeat, or ``resolved``.
        at: When it is told.
        children: Rules of the group's other active alerts.
        inhibited_by: The rule that kept this one back until now.
    """

    step: Transition
    at: float
    children: tuple[str, ...] = ()
    inhibited_by: str | None = None


class _Member:
    """An episode in a group."""

    __slots__ = (
        "active",
        "beat",
        "first",
        "inhibitor",
        "limited",
        "step",
        "superseded",
        "told",
        "was_inhibited_by",
    )

    def __init__(self, step: Transition) -> None:
        self.first = step
        self.step = step
        self.active = True
        self.told = False
        self.beat = False
        self.limited = step.flapping
        self.superseded = False
        self.inhibitor: str | None = None
        self.was_inhibited_by: str | None = None

    @property
    def model(self) -> str | None:
        return _model(self.step.identity)

    @property
    def severity(self) -> int:
        return SEVERITIES.index(self.step.rule.severity)

    @property
    def counts(self) -> bool:
        """Whether it keeps its group open."""
        return self.active and self.inhibitor is None and not self.limited

    def start(self) -> Transition:
        """The transition that began it, with what was seen since."""
        last = self.step
        return replace(
            self.first,
            at=last.at if self.active else self.first.at,
            evidence=last.evidence,
            worst=last.worst,
            flap_count=last.flap_count,
        )

    def look(self, inhibitor_of: Inhibitor) -> None:
        self.inhibitor = inhibitor_of(self.step.rule, self.step.identity)
        self.was_inhibited_by = self.inhibitor or self.was_inhibited_by


class _Group:
    __slots__ = ("members", "opened")

    def __init__(self, opened: float) -> None:
        self.opened = opened
        self.members: dict[str, _Member] = {}

    @property
    def is_wide(self) -> bool:
        """Whether it holds an alert about the whole process."""
        return any(not member.step.identity for member in self.members.values())

    def models(self) -> set[str]:
        return {member.model for member in self.members.values() if member.active and member.model}


class Groups:
    """Collects transitions and says what to tell.

    Args:
        wait: Seconds that a new group waits for others.
    """

    def __init__(self, wait: float = GROUP_WAIT) -> None:
        self._wait = wait
        self._groups: dict[Key, _Group] = {}
        self._homes: dict[str, _Group] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def take(self, step: Transition) -> None:
        """Take a transition in; pending alerts and those that recover are nobody's business."""
        if step.state not in {"firing", "resolved"}:
            return
        group = self._homes.get(step.episode)
        if group is None:
            if step.state == "firing" and not step.heartbeat:
                self._supersede(step)
                group = self._homes[step.episode] = self._home(step)
                group.members[step.episode] = _Member(step)
            return
        member = group.members[step.episode]
        member.step = step
        if step.state == "resolved":
            member.active = False
        elif step.heartbeat:
            member.beat = True
            # It has fired for long enough to be told after all.
            member.limited = False

    def _supersede(self, step: Transition) -> None:
        """An episode of the same alert that stands for its group is over for good when the next one begins."""
        for group in self._groups.values():
            for member in group.members.values():
                if (
                    not member.active
                    and member.step.rule is step.rule
                    and member.step.identity == step.identity
                ):
                    member.superseded = True

    def _home(self, step: Transition) -> _Group:
        """The group for a new episode."""
        key = group_key(step.rule, step.identity)
        if (own := self._groups.get(key)) is not None:
            return own
        neighbours = [
            group for other, group in self._groups.items() if other[0] == key[0] and _joins(other[1])
        ]
        if _joins(step.identity):
            for group in neighbours:
                if group.is_wide:
                    return group
            if not step.identity and len(neighbours) == 1:
                return neighbours[0]
        group = self._groups[key] = _Group(step.at)
        return group

    def collect(self, now: float, inhibitor_of: Inhibitor, admit: Admit) -> list[Notice]:
        """What to tell now, in order.

        Args:
            now: Seconds of the machine's clock.
            inhibitor_of: Says which rule inhibits an alert at present.
            admit: Says whether one more alert may be told.
        """
        notices: list[Notice] = []
        for group in self._groups.values():
            for member in group.members.values():
                member.look(inhibitor_of)
            # Before the next episodes of the same alerts.
            notices += _tell_resolved(group, now, superseded=True)
        for group in self._groups.values():
            notices += self._tell_firing(group, now, admit)
            notices += _tell_heartbeats(group, now)
            notices += _tell_resolved(group, now)
        self._forget()
        return notices

    def _forget(self) -> None:
        self._groups = {key: group for key, group in self._groups.items() if group.members}
        left = {episode for group in self._groups.values() for episode in group.members}
        self._homes = {episode: group for episode, group in self._homes.items() if episode in left}

    def _tell_firing(self, group: _Group, now: float, admit: Admit) -> list[Notice]:
        ready = [
            member
            for member in group.members.values()
            if not member.told and not member.limited and member.inhibitor is None
        ]
        # An alert that is over already had its time, unless something had kept it back.
        hurried = [member for member in ready if not member.active and member.was_inhibited_by is None]
        candidates = hurried + [member for member in ready if member.active]
        told = [member.severity for member in group.members.values() if member.told]
        if not candidates or not (told or hurried or now - group.opened >= self._wait):
            return []
        # Among equals, the one model that is ill; or else the whole process.
        one_model = len(group.models()) == 1
        worst = max(candidates, key=lambda member: (member.severity, bool(member.model) == one_model))
        if told and worst.severity <= max(told):
            return []
        if not admit(worst.step, now):
            worst.limited = True
            return []
        worst.told = True
        worst.beat = False
        return [Notice(worst.start(), now, _children(group, worst), worst.was_inhibited_by)]


def _tell_heartbeats(group: _Group, now: float) -> list[Notice]:
    notices = []
    beat = any(member.beat for member in group.members.values())
    for member in group.members.values():
        if not member.told or member.inhibitor is not None:
            continue
        if member.beat:
            notices.append(Notice(member.step, now, _children(group, member)))
        elif beat and not member.active:
            # Over by itself, it still stands for its group.
            step = replace(member.step, state="firing", reason="heartbeat", at=now, since=now, heartbeat=True)
            notices.append(Notice(step, now, _children(group, member)))
    for member in group.members.values():
        member.beat = False
    return notices


def _tell_resolved(group: _Group, now: float, *, superseded: bool = False) -> list[Notice]:
    notices = []
    for episode, member in list(group.members.items()):
        if member.active or (superseded and not member.superseded):
            continue
        if not member.told:
            del group.members[episode]
            continue
        if member.inhibitor is not None:
            continue
        others = [other for other in group.members.values() if other is not member and other.counts]
        if (
            not member.superseded
            and not any(other.told for other in others)
            and any(other.severity >= member.severity for other in others)
        ):
            # They were its children: it stands for them until they are over, too.
            continue
        del group.members[episode]
        notices.append(Notice(member.step, now, _children(group, member)))
    return notices


def _children(group: _Group, lead: _Member) -> tuple[str, ...]:
    others = (member for member in group.members.values() if member is not lead and member.counts)
    return tuple(sorted({_child_name(member, lead) for member in others}))


def _child_name(member: _Member, lead: _Member) -> str:
    """The rule, and the model where that is another one than the lead's."""
    name = member.step.rule.name
    return name if member.model in {None, lead.model} else f"{name}{{{member.model}}}"


def _model(identity: Identity) -> str | None:
    return next((value for key, value in identity if key == semconv.AIMON_MODEL_NAME), None)


def _joins(identity: Identity) -> bool:
    """Whether groups of such alerts are joined: those about models and about the whole process, not devices."""
    return not identity or _model(identity) is not None


def group_key(rule: Rule, identity: Identity) -> Key:
    """Alerts with equal keys are told together: the domain, and the model or else the whole identity."""
    model = tuple(pair for pair in identity if pair[0] == semconv.AIMON_MODEL_NAME)
    return rule.domain, model or identity
