"""What the process does becomes evidence, and the rules judge it: the alerts of a running service."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_aimon import semconv
from otel_aimon.alerts import problems, rulefile
from otel_aimon.alerts.alerting import Alerting
from otel_aimon.alerts.callbacks import Callbacks
from otel_aimon.alerts.cause import cause_of
from otel_aimon.alerts.events import emit_to
from otel_aimon.alerts.readings import readings_of
from otel_aimon.analysis import learned
from otel_aimon.analysis.degradation import Degradation
from otel_aimon.analysis.error_ratio import WINDOW_SECONDS
from otel_aimon.analysis.evidence import Evidence, Identity
from otel_aimon.analysis.queue_wait import queue_wait
from otel_aimon.analysis.situation import Situation
from otel_aimon.analysis.slo import SloTracker
from otel_aimon.analysis.stall import StallWatch
from otel_aimon.analysis.tick import TickBuilder
from otel_aimon.core.guard import guarded, swallow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry._logs import Logger

    from otel_aimon.alerts.machine import Transition
    from otel_aimon.alerts.rulefile import RuleSet
    from otel_aimon.alerts.rules import Rule
    from otel_aimon.analysis.windows import Windows
    from otel_aimon.config import Settings
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.core.series import Series
    from otel_aimon.resources.snapshot import Snapshot

WATCHDOG_SECONDS = 1.0
"""Between two looks for a stall."""

SAVE_SECONDS = 600.0
"""Between two times that what was learned is written to the file that the user named."""

LOSS_SECONDS = 60.0
"""Over which dropped telemetry is summed up."""

_SAMPLED = frozenset({"memory", "cpu", "gpu"})
"""Domains of rules on what the sampler of resources reads."""

CALLBACKS = Callbacks()
"""Of this process, whether it is instrumented already or not."""


class _Model:
    """What ended of one operation of one model since the last tick."""

    __slots__ = ("builder", "failed_at", "failed_trace", "identity", "slow_trace", "slowest")

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        # Not of the last tick only: it need not have one for its ratio of errors to be high.
        self.failed_trace, self.failed_at = "", 0.0
        self.start_tick()

    def start_tick(self, overhead: float = 0.0) -> None:
        self.builder = TickBuilder(overhead)
        self.slowest = 0.0
        self.slow_trace = ""


class AlertWatch:
    """Feeds the alerts.

    Args:
        settings: Which rules and objectives.
        recorder: Whose requests are in flight.
        windows: What ended in the last window, for rules of the user's.
        logger: Where events go.
        rules: What the settings say of rules and objectives, if it was read already.
        situation: What resources and engines say, if somebody else follows it too.
        dropped: Spans and log records that exporters dropped so far.
        clock: Monotonic seconds.
        wall: Seconds since 1970.

    Attributes:
        situation: What resources and engines say.
        slo: How the objectives are met.
        alerting: The state of each alert.
        more_evidence: What others have to say about capacity.
    """

    def __init__(
        self,
        settings: Settings,
        recorder: Recorder,
        windows: Windows,
        logger: Logger,
        *,
        rules: RuleSet | None = None,
        situation: Situation | None = None,
        dropped: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        loaded = rules or load_rules(settings)
        # The pipeline's thread looks no more often than that.
        settings = replace(settings, alert_tick=max(settings.alert_tick, settings.interval))
        self._settings = settings
        self._state_file = Path(settings.alert_state) if settings.alert_state else None
        self._recorder = recorder
        self._windows = windows
        self._dropped = dropped
        self._clock = clock
        self._wall = wall
        self._thresholds = loaded.thresholds
        self.slo = SloTracker(loaded.objectives)
        self.situation = situation or Situation(recorder)
        mine = [replace(rule, every=_every(rule, settings)) for rule in loaded.rules]
        self.alerting = Alerting(
            mine,
            [emit_to(logger), CALLBACKS.publish],
            clock=clock,
            wall=lambda: int(wall() * 1e9),
            explain=self._explain,
        )
        self._reset()

        self.more_evidence: Callable[[], Iterable[Evidence]] = tuple

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[tuple[str, str], _Model] = {}
        self._stalls: dict[Series, StallWatch] = {}
        self._progress: dict[Series, float] = {}
        self._degradation = Degradation(self._settings.alert_tick, self._settings.alert_learning)
        self._begun = False
        self._saved_at = self._clock()
        ticks = max(1, round(LOSS_SECONDS / self._settings.alert_tick))
        self._drops: deque[int] = deque([self._dropped()], maxlen=ticks + 1)
        self._from_sampler: list[Evidence] = []
        self._next_look = self._next_tick = self._clock()

    def after_fork_in_child(self) -> None:
        """Start from zero: the parent watches itself."""
        self._reset()
        self.situation.after_fork_in_child()
        self.slo.after_fork_in_child()
        self.alerting.after_fork_in_child()
        CALLBACKS.after_fork_in_child()

    # -- What comes in -------------------------------------------------------------------------

    def consume(self, inference: Inference) -> None:
        """Count an ended request; a consumer of the pipeline. Stages belong to their request."""
        if inference.owner is not None:
            return
        series, error = inference.series, inference.error_type
        now = self._clock()
        self._progress[series] = now
        if error == semconv.ERROR_TYPE_CANCELLED:
            return
        trace = _sampled_trace(inference)
        with self._lock:
            if error is None:
                gap = inference.time_to_first_token
                self._stalls.setdefault(series, StallWatch()).learn(
                    inference.duration if gap is None else gap
                )
            model = self._model(series)
            model.builder.add(inference.duration, tokens=_tokens(inference), failed=error is not None)
            if trace and error is not None:
                model.failed_trace, model.failed_at = trace, now
            elif trace and inference.duration > model.slowest:
                model.slowest, model.slow_trace = inference.duration, trace
        self.slo.consume(inference, series.model, model.identity, now, trace or None)

    def _model(self, series: Series) -> _Model:
        key = (series.operation, series.model)
        model = self._models.get(key)
        if model is None:
            model = self._models[key] = _Model(_identity(series))
            model.start_tick(self._degradation.overhead(model.identity))
        return model

    def sampled(self, snapshot: Snapshot, now: float) -> None:
        """Take a snapshot of the resources; called on the sampler's thread."""
        found = self.situation.sampled(snapshot, now)
        with self._lock:
            self._from_sampler = found

    # -- What goes on --------------------------------------------------------------------------

    def tick(self) -> None:
        """Let time pass; called often, on the pipeline's thread."""
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + min(WATCHDOG_SECONDS, self._settings.alert_tick)
        evidences = _without_errors(self._stalled(now))
        if now >= self._next_tick:
            self._next_tick += self._settings.alert_tick
            if self._next_tick <= now:
                # The process slept.
                self._next_tick = now + self._settings.alert_tick
            for source in (
                self._degraded(now), self._burning(now), self._pressed(now), self._queued(), self._lost(),
                self._users(),
            ):  # fmt: skip
                evidences += _without_errors(source)
        with self._lock:
            evidences += self._from_sampler
            self._from_sampler = []
        self.judge(evidences)
        if now - self._saved_at >= SAVE_SECONDS:
            self._save()

    def judge(self, evidences: list[Evidence]) -> None:
        """Let the rules judge evidence, and tell what there is to tell."""
        self.alerting.tick(evidences)

    def _stalled(self, now: float) -> Iterator[Evidence]:
        # Series that differ in their framework alone are one thing to an alert.
        worst: dict[Identity, Evidence] = {}
        for series in list(self._recorder.series_by_key.values()):
            starts = list(series.active.values())
            if not starts and series not in self._stalls:
                continue
            # Silence begins no sooner than the first of them. Later ones are no progress: they come to a hung
            # engine too.
            clock = time.perf_counter_ns()
            begun = now - (clock - min(starts)) / 1e9 if starts else now
            output = now - (clock - series.progress_ns) / 1e9 if series.progress_ns else begun
            progress = max(begun, output, self._progress.get(series, begun))
            with self._lock:
                watch = self._stalls.setdefault(series, StallWatch())
                silence, score = watch.check(now, in_flight=len(starts), last_progress=progress)
            who = _identity(series)
            if who not in worst or score > worst[who].score:
                worst[who] = Evidence("stall", who, score, value=silence, baseline=watch.allowed())
        self.situation.stalled = any(each.score >= 1.0 for each in worst.values())
        yield from worst.values()

    def _degraded(self, now: float) -> Iterator[Evidence]:
        if not self._begun:
            # The first tick with requests is a part of one: counted alone it would look like lost traffic.
            self._begin()
            return
        with self._lock:
            # The slowest first, for what is about all of them.
            models = sorted(self._models.values(), key=lambda model: model.slowest, reverse=True)
            ticks = {model.identity: model.builder.tick() for model in models}
            examples = {
                model.identity: (
                    model.slow_trace,
                    model.failed_trace if now - model.failed_at <= WINDOW_SECONDS else "",
                )
                for model in models
            }
            for model in models:
                model.start_tick(self._degradation.overhead(model.identity))
        ticks = {identity: tick for identity, tick in ticks.items() if tick.count}
        for evidence in self._degradation.tick(self._wall(), ticks):
            yield _with_example(evidence, examples)

    def _begin(self) -> None:
        """Go on from what was learned, in a process that serves: others, and forked ones, may not."""
        if not self._models:
            return
        self._begun = True
        if self._state_file is not None:
            learned.load(self._state_file, self._degradation, self._wall())

    def _burning(self, now: float) -> Iterator[Evidence]:
        yield from self.slo.evidences(now)

    def _pressed(self, now: float) -> Iterator[Evidence]:
        yield from self.situation.look_at_engines(now)
        yield from self.more_evidence()

    def _queued(self) -> Iterator[Evidence]:
        """Who waits, by series or, in an engine's queue, by model; and how fast those ahead of them end."""
        throughput: defaultdict[Identity, float] = defaultdict(float)
        for series, summary in self._windows.summaries():
            throughput[_identity(series)] += summary.throughput
            throughput[_model_alone(series.model)] += summary.throughput
        waiting: Counter[tuple[Identity, str]] = Counter()
        for series, size in self._recorder.queue_sizes():
            waiting[_identity(series), series.model] += size
        for engine in self._recorder.engines.present():
            if engine.waiting is not None:
                model = engine.attributes[semconv.AIMON_MODEL_NAME]
                waiting[_model_alone(model), model] += engine.waiting
        for (who, model), size in waiting.items():
            evidence = queue_wait(who, model, size, throughput[who], self.slo.objectives)
            if evidence is not None:
                yield evidence

    def _lost(self) -> Iterator[Evidence]:
        self._drops.append(self._dropped())
        lost = self._drops[-1] - self._drops[0]
        yield Evidence("telemetry.dropped", (), float(lost), value=float(lost), window=LOSS_SECONDS)

    def _users(self) -> Iterator[Evidence]:
        """Evidence for rules that users wrote."""
        if not self._thresholds:
            return
        readings = readings_of(self.situation.snapshot, self._windows, self._recorder)
        for threshold in self._thresholds:
            yield from threshold.evidences(readings, self._wall())

    def _explain(self, transition: Transition) -> tuple[str, float] | None:
        return guarded(cause_of, transition, self.situation)

    def shutdown(self) -> None:
        """Resolve what fires, because the process ends, and let the callbacks have it."""
        self.alerting.shutdown()
        self._save()
        CALLBACKS.stop()

    def _save(self) -> None:
        if self._state_file is not None and self._begun:
            learned.save(self._state_file, self._degradation, self._wall())
        self._saved_at = self._clock()


def load_rules(settings: Settings) -> RuleSet:
    """Rules and objectives as the settings name them; what is wrong with them is a warning."""
    loaded = rulefile.load(settings.alert_rules or None, slos=settings.slos)
    problems.warn(loaded.problems)
    return loaded


def _without_errors(source: Iterator[Evidence]) -> list[Evidence]:
    """What a source of evidence says; where one fails, the others are judged all the same."""
    found: list[Evidence] = []
    try:
        found.extend(source)
    except Exception as error:
        swallow(error, f"the alerts' evidence ({source.__name__})")  # type: ignore[attr-defined]
    return found


def _every(rule: Rule, settings: Settings) -> float:
    """Seconds between two readings that a rule gets: of the watchdog, the sampler, or a tick.

    A rule that expected more of them than come would fire late.
    """
    if rule.source == "stall":
        return min(rule.every, settings.alert_tick)
    if rule.category != "custom" and rule.domain in _SAMPLED:
        return max(min(rule.every, settings.alert_tick), settings.sample_interval)
    return settings.alert_tick


def _model_alone(model: str) -> Identity:
    return ((semconv.AIMON_MODEL_NAME, model),)


def _identity(series: Series) -> Identity:
    return ((semconv.AIMON_MODEL_NAME, series.model), (semconv.AIMON_OPERATION, series.operation))


def _tokens(inference: Inference) -> int | None:
    """What the latency grows with: the tokens that come out, or else those that go in."""
    if inference.series.generative:
        return inference.output_tokens
    return inference.input_tokens


def _sampled_trace(inference: Inference) -> str:
    """Its trace and span, when a backend has them."""
    context: Any = inference.span.get_span_context() if inference.span is not None else None
    if context is None or not context.trace_flags.sampled:
        return ""
    return f"{context.trace_id:032x}-{context.span_id:016x}"


def _with_example(evidence: Evidence, examples: dict[Identity, tuple[str, str]]) -> Evidence:
    """The slowest request for what is about latency, a failed one for what is about errors."""
    place = 1 if evidence.rule.startswith("error.") else 0
    if evidence.identity in examples:
        traces = [examples[evidence.identity][place]]
    else:
        traces = [each[place] for each in examples.values()]
    found = tuple(trace for trace in traces if trace)
    return replace(evidence, trace_ids=found) if found else evidence
