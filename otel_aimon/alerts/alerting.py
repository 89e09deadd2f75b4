"""Everything from evidence to events, in one place that the runtime ticks.

evidence -> machine -> inhibition -> groups -> storm limit -> events -> logger and callbacks
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from otel_aimon import semconv
from otel_aimon.alerts.events import alert_event, storm_event
from otel_aimon.alerts.grouping import GROUP_WAIT, Groups, Notice
from otel_aimon.alerts.inhibition import Inhibition
from otel_aimon.alerts.machine import Machine, Transition
from otel_aimon.alerts.storm import StormLimit
from otel_aimon.core.guard import swallow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_aimon.alerts.alert_event import AlertEvent
    from otel_aimon.alerts.rules import Rule
    from otel_aimon.analysis.evidence import Evidence

    Emit = Callable[[AlertEvent], object]
    Explain = Callable[[Transition], tuple[str, float] | None]

_CLOCK_WAS_SET = 100_000_000
"""Nanoseconds; by less than this the two clocks of a machine only seem to differ."""

_IDENTITY_OF_METRICS = (semconv.AIMON_MODEL_NAME, semconv.HW_ID)


class Alerting:
    """The alerts of a process.

    Args:
        rules: Enabled rules.
        emit: Takes each event, on the thread that ticks; the logger's and the callbacks'.
        clock: Seconds that never go back.
        wall: Nanoseconds since 1970.
        new_id: Makes the id of an episode; random by default.
        group_wait: Seconds that a new group waits for others.
        explain: Finds the bottleneck behind an alert, and how sure that is.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        emit: Iterable[Emit],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = time.time_ns,
        new_id: Callable[[], str] | None = None,
        group_wait: float = GROUP_WAIT,
        explain: Explain | None = None,
    ) -> None:
        self._rules = tuple(rules)
        self._emit = tuple(emit)
        self._clock = clock
        self._wall = wall
        self._new_id = new_id
        self._group_wait = group_wait
        self._explain = explain
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Start without alerts: those of the parent are its own."""
        # Reentrant: a signal handler that shuts down may interrupt the tick.
        self._lock = threading.RLock()
        self._ticking = False
        self._machine = Machine(self._rules, self._new_id) if self._new_id else Machine(self._rules)
        self._inhibition = Inhibition(self._rules)
        self._groups = Groups(self._group_wait)
        self._storm = StormLimit()
        self._transitions: Counter[tuple[str, str, str]] = Counter()
        self._ended = False
        self._apart: int | None = None

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules in force."""
        return self._rules

    def tick(self, evidences: Iterable[Evidence] = ()) -> list[AlertEvent]:
        """Judge evidence, let time pass, and emit what there is to tell.

        Args:
            evidences: New readings; none are needed for time to pass.

        Returns:
            The events that were emitted.
        """
        return self._run(lambda now: self._machine.evaluate(now, evidences))

    def reload(self, rules: Iterable[Rule]) -> list[AlertEvent]:
        """Judge by other rules from now on; alerts of rules that stay the same go on."""
        rules = tuple(rules)

        def act(now: float) -> list[Transition]:
            self._rules = rules
            self._inhibition = Inhibition(rules)
            return self._machine.reload(rules, now)

        return self._run(act)

    def shutdown(self) -> list[AlertEvent]:
        """Resolve every alert, because the process ends; further ticks do nothing."""

        def act(now: float) -> list[Transition]:
            self._ended = True
            return self._machine.shutdown(now)

        return self._run(act)

    def _run(self, act: Callable[[float], list[Transition]]) -> list[AlertEvent]:
        with self._lock:
            # The second: a signal handler that interrupted this very thread's tick.
            if self._ended or self._ticking:
                return []
            self._ticking = True
            try:
                now = self._clock()
                events = self._events(act(now), now)
                for event in events:
                    self._emit_everywhere(event)
                return events
            finally:
                self._ticking = False

    def _emit_everywhere(self, event: AlertEvent) -> None:
        for emit in self._emit:
            _guarded(emit, event)

    def _events(self, steps: list[Transition], now: float) -> list[AlertEvent]:
        for step in steps:
            if not step.heartbeat:
                self._transitions[step.rule.name, step.rule.severity, step.state] += 1
            self._groups.take(step)
        inhibitor_of = self._inhibition.among(self._machine.active())
        offset = self._clocks_apart(now)

        def wall(at: float) -> int:
            return int(at * 1e9) + offset

        notices = self._groups.collect(now, inhibitor_of, self._storm.admit)
        events = [alert_event(notice, wall, self._cause(notice)) for notice in notices]
        storm = self._storm.summary(now)
        if storm is not None:
            events.append(storm_event(storm, wall))
        return events

    def _clocks_apart(self, now: float) -> int:
        """Nanoseconds from the machine's clock to the world's; the same until somebody sets the latter.

        Read each time, it would differ by microseconds, and with it the beginning of one episode.
        """
        apart = self._wall() - int(now * 1e9)
        if self._apart is None or abs(apart - self._apart) > _CLOCK_WAS_SET:
            self._apart = apart
        return self._apart

    def _cause(self, notice: Notice) -> tuple[str, float] | None:
        return self._explain(notice.step) if self._explain is not None else None

    def active_points(self) -> list[tuple[int, dict[str, str]]]:
        """Points of ``aimon.alert.active``: 1 while an alert fires, told or not, and 0 for a while after."""
        points: dict[tuple[tuple[str, str], ...], int] = {}
        with self._lock:
            for rule, identity, active in self._machine.known():
                attributes = {
                    semconv.ALERT_RULE_NAME: rule.name,
                    semconv.ALERT_SEVERITY: rule.severity,
                    **{key: value for key, value in identity if key in _IDENTITY_OF_METRICS},
                }
                key = tuple(attributes.items())
                points[key] = max(points.get(key, 0), int(active))
        return [(value, dict(key)) for key, value in points.items()]

    def transition_points(self) -> list[tuple[int, dict[str, str]]]:
        """Points of ``aimon.alert.transitions``: how often alerts of a rule came into a state."""
        with self._lock:
            return [
                (
                    count,
                    {
                        semconv.ALERT_RULE_NAME: rule,
                        semconv.ALERT_SEVERITY: severity,
                        semconv.ALERT_STATE: state,
                    },
                )
                for (rule, severity, state), count in self._transitions.items()
            ]


def _guarded(emit: Emit, event: AlertEvent) -> None:
    try:
        emit(event)
    except Exception as error:
        swallow(error, "the emission of an alert")
