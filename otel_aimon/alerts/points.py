"""The metric points of alerts and objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.metrics import Observation

from otel_aimon import semconv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from otel_aimon.alerts.watch import AlertWatch


def _active(watch: AlertWatch) -> Iterator[Observation]:
    for value, attributes in watch.alerting.active_points():
        yield Observation(value, attributes)


def _transitions(watch: AlertWatch) -> Iterator[Observation]:
    for value, attributes in watch.alerting.transition_points():
        yield Observation(value, attributes)


def _slo_events(watch: AlertWatch) -> Iterator[Observation]:
    for objective, identity, good, bad in watch.slo.totals():
        model = dict(identity).get(semconv.AIMON_MODEL_NAME)
        shared = {semconv.SLO_NAME: objective.name}
        if model is not None:
            shared[semconv.AIMON_MODEL_NAME] = model
        yield Observation(good, {**shared, semconv.SLO_OUTCOME: "good"})
        yield Observation(bad, {**shared, semconv.SLO_OUTCOME: "bad"})


POINTS: dict[str, Callable[[AlertWatch], Iterable[Observation]]] = {
    semconv.ALERT_ACTIVE.name: _active,
    semconv.ALERT_TRANSITIONS.name: _transitions,
    semconv.SLO_EVENTS.name: _slo_events,
}
"""By the metric's name."""
