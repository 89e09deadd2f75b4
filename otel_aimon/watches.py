"""Alerts and hints of a process: made with its first request, as their rules and models cost time to import."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from opentelemetry import _logs

from otel_aimon import semconv
from otel_aimon.core.instruments import observe
from otel_aimon.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry._logs import Logger
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

    from otel_aimon.alerts.rulefile import RuleSet
    from otel_aimon.alerts.watch import AlertWatch
    from otel_aimon.analysis.situation import Situation
    from otel_aimon.analysis.windows import Windows
    from otel_aimon.config import Settings
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.hinting.observation import Slo
    from otel_aimon.hinting.watch import HintWatch
    from otel_aimon.resources.snapshot import Snapshot

OFF = "off"
"""Of the limiter's modes, the one in which nobody needs it."""


class Watches:
    """What watches the requests of a process.

    Args:
        settings: What is watched.
        recorder: Whose requests are in flight.
        windows: What ended in the last window.
        logger_provider: Where events go; the global provider by default.
        dropped: Spans and log records that exporters dropped so far.
        wake: Makes sure that somebody calls :meth:`tick`.

    Attributes:
        alerts: None before the first request, or where they are switched off.
        hints: Likewise.
    """

    def __init__(
        self,
        settings: Settings,
        recorder: Recorder,
        windows: Windows,
        logger_provider: Any,
        *,
        dropped: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._recorder = recorder
        self._windows = windows
        self._logger_provider = logger_provider
        self._dropped = dropped
        self._rules: RuleSet | None = None
        self._situation: Situation | None = None
        self.alerts: AlertWatch | None = None
        self.hints: HintWatch | None = None
        self._limits = settings.limiter != OFF
        if self._limits:
            from otel_aimon.hinting.limiter import Mode
            from otel_aimon.hinting.limiters import LIMITERS

            LIMITERS.configure(Mode(settings.limiter), self._slo, wake)

    def prepare(self) -> None:
        """Make what is switched on: imported here, so that a process without requests never pays for it."""
        settings = self._settings
        if not (settings.alerts or settings.hints or self._limits):
            return
        from otel_aimon.analysis.situation import Situation

        self._situation = situation = Situation(self._recorder)
        if settings.hints or self._limits:
            self.hints = self._make_hints(situation)
        if settings.alerts:
            self.alerts = self._make_alerts(situation)

    def _make_alerts(self, situation: Situation) -> AlertWatch:
        from otel_aimon.alerts.watch import AlertWatch

        made = AlertWatch(
            self._settings,
            self._recorder,
            self._windows,
            self._logger(),
            rules=self._read_rules(),
            situation=situation,
            dropped=self._dropped,
        )
        if self.hints is not None:
            made.more_evidence = self.hints.evidence
        return made

    def _make_hints(self, situation: Situation) -> HintWatch:
        from otel_aimon.hinting.limiters import LIMITERS
        from otel_aimon.hinting.watch import HintWatch

        return HintWatch(
            self._recorder,
            LIMITERS,
            self._logger(),
            slo=self._slo,
            situation=situation,
            looks_at_engines=not self._settings.alerts,
        )

    def _logger(self) -> Logger:
        return _logs.get_logger(
            semconv.SCOPE,
            __version__,
            logger_provider=self._logger_provider,
            schema_url=semconv.SCHEMA_URL,
        )

    def _read_rules(self) -> RuleSet:
        if self._rules is None:
            from otel_aimon.alerts.watch import load_rules

            self._rules = load_rules(self._settings)
        return self._rules

    def _slo(self, model: str) -> Slo:
        from otel_aimon.hinting.promises import slo_of

        return slo_of(model, self._read_rules().objectives)

    # -- What comes in -------------------------------------------------------------------------

    def consume(self, inference: Inference) -> None:
        """Take an ended request or stage; a consumer of the pipeline."""
        if self.hints is not None:
            self.hints.consume(inference)
        if self.alerts is not None:
            self.alerts.consume(inference)

    def sampled(self, snapshot: Snapshot, now: float) -> None:
        """Take a snapshot of the resources; called on the sampler's thread."""
        if self.alerts is not None:
            self.alerts.sampled(snapshot, now)
        elif self._situation is not None:
            self._situation.sampled(snapshot, now)

    def tick(self) -> None:
        """Let time pass; called often, on the pipeline's thread, after it handed over what ended."""
        # First, while what runs and what was handed over are of one moment.
        if self.hints is not None:
            self.hints.tick()
        if self.alerts is not None:
            self.alerts.tick()

    # -- What goes out -------------------------------------------------------------------------

    def register(self, meter: Meter) -> None:
        """Register the metrics; their values are those of what there is when they are collected."""
        if self._settings.alerts:
            self._observe(meter, "otel_aimon.alerts.points", lambda: self.alerts, semconv.ALERT_METRICS)
        if self._settings.hints:
            self._observe(meter, "otel_aimon.hinting.points", lambda: self.hints, semconv.HINT_METRICS)
        if self._limits:
            self._observe(meter, "otel_aimon.hinting.points", lambda: self.hints, semconv.LIMITER_METRICS)

    def _observe(
        self, meter: Meter, module: str, watch: Callable[[], Any], metrics: tuple[semconv.Metric, ...]
    ) -> None:
        def callback(metric: semconv.Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
            def read(_options: CallbackOptions) -> Iterable[Observation]:
                there = watch()
                return () if there is None else importlib.import_module(module).POINTS[metric.name](there)

            return read

        for metric in metrics:
            observe(meter, metric, callback(metric))

    # -- How it ends ---------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Start from zero: the parent watches itself."""
        for watch in (self.alerts, self.hints):
            if watch is not None:
                watch.after_fork_in_child()
        if self.alerts is None and self._situation is not None:
            self._situation.after_fork_in_child()

    def shutdown(self) -> None:
        """Resolve the alerts of a process that ends."""
        if self.alerts is not None:
            self.alerts.shutdown()

    def stop(self) -> None:
        """End the alerts, and let the limiters pass everything."""
        self.shutdown()
        if self._limits:
            from otel_aimon.hinting.limiter import Mode
            from otel_aimon.hinting.limiters import LIMITERS

            LIMITERS.configure(Mode.OFF)
