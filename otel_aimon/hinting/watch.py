"""What the process serves becomes hints: gauges, events, and what ``otel_aimon.hints()`` returns."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import MappingProxyType
from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind

from otel_aimon import semconv
from otel_aimon.analysis.evidence import Evidence
from otel_aimon.analysis.latency_shares import LatencyShares
from otel_aimon.core.guard import swallow
from otel_aimon.hinting import events
from otel_aimon.hinting.batches import BatchLoad
from otel_aimon.hinting.busy_share import own_share
from otel_aimon.hinting.confidence import Confidence
from otel_aimon.hinting.limiter import Mode
from otel_aimon.hinting.model_hints import NO_HINTS, ModelHints
from otel_aimon.hinting.model_load import Conditions, ModelLoad
from otel_aimon.hinting.resource_advice import ResourceAdvisor
from otel_aimon.resources.process import available_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry._logs import Logger

    from otel_aimon.analysis.situation import Situation
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.core.series import Series
    from otel_aimon.hinting.events import HintEvent
    from otel_aimon.hinting.limiters import Limiters
    from otel_aimon.hinting.observation import Slo

STEP_SECONDS = 1.0
ADVICE_SECONDS = 10.0
"""Between two looks at what binds."""

DOMINANT = 0.5
"""Share of the requests in flight in this process: of a model with fewer, the process's CPU time says little."""

RATIO_BAND = 0.1
"""Smaller changes of the number of replicas are told by the gauge only."""

_THROTTLED = frozenset({"hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake"})


class HintWatch:
    """Feeds the hints.

    Args:
        recorder: Whose requests are in flight.
        limiters: Moved once a second.
        logger: Where events go.
        slo: What is promised for a model.
        situation: What resources and engines say.
        looks_at_engines: Nobody else does.
        clock: Monotonic seconds, of the clock that requests are timed with.
        wall: Seconds since 1970.

    Attributes:
        hints: By model: replaced once a second, never changed.
        models: What is followed, by model.
        batches: What is followed, by series.
        resource: Which resource to change.
    """

    def __init__(
        self,
        recorder: Recorder,
        limiters: Limiters,
        logger: Logger,
        *,
        slo: Callable[[str], Slo],
        situation: Situation,
        looks_at_engines: bool = False,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._recorder = recorder
        self.limiters = limiters
        self._emit = events.emit_to(logger, wall)
        self._slo = slo
        self._situation = situation
        self._looks_at_engines = looks_at_engines
        self._clock = clock
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Start from zero: the parent watches itself."""
        self._lock = threading.Lock()
        now = self._clock()
        self.models: dict[str, ModelLoad] = {}
        self.batches: dict[Series, BatchLoad] = {}
        self.resource = ResourceAdvisor()
        self._shares = LatencyShares()
        self.hints: Mapping[str, ModelHints] = NO_HINTS
        self._stepped = self._next_step = self._next_advice = now
        self._cpu = time.process_time()
        self._shed: dict[str, int] = {}
        self._told: dict[tuple[str, ...], float] = {}
        self._told_ratios: dict[str, float] = {}

    # -- What comes in -------------------------------------------------------------------------

    def consume(self, inference: Inference) -> None:
        """Take an ended request or stage; a consumer of the pipeline."""
        series = inference.series
        with self._lock:
            self._shares.add(inference)
            if inference.batch_size is not None and series.kind is not SpanKind.CLIENT:
                self._batch(series).ended(inference)
            if inference.owner is None and series.in_process:
                completed = self._model(series).ended(inference)
                limiter = self.limiters.find(series.model)
                if limiter is not None and limiter.mode is not Mode.OFF:
                    limiter.saw(completed)

    def _batch(self, series: Series) -> BatchLoad:
        found = self.batches.get(series)
        if found is None:
            found = self.batches[series] = BatchLoad()
        return found

    def _model(self, series: Series) -> ModelLoad:
        found = self.models.get(series.model)
        if found is None:
            # As long ago as the last step, so that its first interval has all of its first requests.
            found = self.models[series.model] = ModelLoad(self._slo(series.model), self._stepped)
            found.remote = series.kind is SpanKind.CLIENT
        return found

    # -- What goes on --------------------------------------------------------------------------

    def tick(self) -> None:
        """Let time pass; called often, on the pipeline's thread, after it handed over what ended."""
        now = self._clock()
        if now < self._next_step:
            return
        self._next_step = now + STEP_SECONDS
        seconds = now - self._stepped
        if seconds <= 0:
            return
        told: list[HintEvent | None] = []
        with self._lock:
            cpu = self._cpu_share(seconds)
            for model, load in self.models.items():
                told += self._step_model(model, load, now, cpu)
            for series, batch in self.batches.items():
                told += self._step_batch(series, batch, now, seconds)
            self._step_limiters(seconds)
            self._stepped = now
            self.hints = MappingProxyType({model: self._hints_of(model) for model in self.models})
        if now >= self._next_advice:
            self._next_advice = now + ADVICE_SECONDS
            told += self._advise(now)
        for event in told:
            if event is not None:
                self._tell(event)

    def _tell(self, event: HintEvent) -> None:
        try:
            self._emit(event)
        except Exception as error:
            swallow(error, "the event of a hint")

    def _step_model(
        self, model: str, load: ModelLoad, now: float, cpu: float | None
    ) -> Iterator[HintEvent | None]:
        limiter = self.limiters.find(model)
        shed = 0 if limiter is None else limiter.shed
        conditions = Conditions(
            utilization=self._busy(load.device, cpu) if self._dominates(load) else None,
            kv_utilization=self._kv(model),
            rejected=max(0, shed - self._shed.get(model, 0)),
            queued=0 if limiter is None else limiter.waiting,
            frozen=self._throttled(),
        )
        old = None if load.hint is None else load.hint.limit
        if load.step(self._starts(model), now, conditions) or self._expires("concurrency", model, now=now):
            yield self._remember(events.concurrency_event(model, load, old), "concurrency", model, now=now)
        ratio, old_ratio = load.scaling.ratio, self._told_ratios.get(model)
        # As many as there are is what everybody assumes: not worth an event, unless it was otherwise.
        if ratio is not None and abs(ratio - (old_ratio or 1.0)) > RATIO_BAND * (old_ratio or 1.0):
            self._told_ratios[model] = ratio
            yield events.scaling_event(model, load, old_ratio)

    def _step_batch(
        self, series: Series, load: BatchLoad, now: float, seconds: float
    ) -> Iterator[HintEvent | None]:
        old = load.size
        key = ("batch", *series.attributes.values())
        if load.step(now, seconds, self._slo(series.model).latency) or self._expires(*key, now=now):
            yield self._remember(events.batch_event(series, load, old), *key, now=now)

    def _expires(self, *key: str, now: float) -> bool:
        return key in self._told and now - self._told[key] >= events.TOLD_AGAIN

    def _remember(self, event: HintEvent | None, *key: str, now: float) -> HintEvent | None:
        if event is not None:
            self._told[key] = now
        return event

    def _advise(self, now: float) -> Iterator[HintEvent]:
        if not self.models:
            return
        if self._looks_at_engines:
            deque(self._situation.look_at_engines(now), maxlen=0)
        with self._lock:
            self._situation.input_share, self._situation.downstream_share = self._shares.look()
        old = self.resource.bottleneck
        if self.resource.step(self._situation.bottleneck(), now):
            yield events.resource_event(self.resource.bottleneck, None if old is None else old.name)

    def _step_limiters(self, seconds: float) -> None:
        shed, full = 0, False
        for limiter in self.limiters.all():
            load = self.models.get(limiter.model)
            interval = None if load is None else load.interval
            # Of a model that nobody sees it is inferred from those that hold a slot.
            busy = None if interval is None else interval.utilization
            limiter.step(self._clock(), busy, self._kv(limiter.model), interval)
            if limiter.mode is Mode.ENFORCE:
                shed += max(0, limiter.shed - self._shed.get(limiter.model, 0))
                full = full or limiter.in_flight >= limiter.limit
            self._shed[limiter.model] = limiter.shed
        self._situation.shed, self._situation.at_limit = shed / seconds, full

    # -- What is looked up ---------------------------------------------------------------------

    def _starts(self, model: str) -> Iterator[float]:
        for series in list(self._recorder.series_by_key.values()):
            if series.model == model and series.in_process:
                for start in list(series.active.values()):
                    yield start / 1e9

    def _kv(self, model: str) -> float | None:
        return max(
            (
                engine.kv_cache
                for engine in self._recorder.engines.present()
                if engine.kv_cache is not None and engine.attributes[semconv.AIMON_MODEL_NAME] == model
            ),
            default=None,
        )

    def _cpu_share(self, seconds: float) -> float | None:
        used, before = time.process_time(), self._cpu
        self._cpu = used
        cpus = available_cpus()
        snapshot = self._situation.snapshot
        host = None if snapshot is None else snapshot.host
        quota = None if snapshot is None or snapshot.container is None else snapshot.container.cpu_limit
        share = host.available_cpu_share if host is not None else None
        own = max(0.0, used - before) / seconds
        found = own_share(own, cpus, None if share is None else 1 - share)
        return found if not quota else max(found, min(1.0, own / quota))

    def _busy(self, device: str | None, cpu: float | None) -> float | None:
        """Of the CPU, or of the GPU's multiprocessors: that a kernel runs says little about how full it is."""
        if device is None or device == "cpu":
            return cpu
        snapshot = self._situation.snapshot
        for reading in () if snapshot is None else snapshot.devices:
            if device in reading.device.ordinals:
                return reading.activity.get("sm")
        return None

    def _dominates(self, load: ModelLoad) -> bool:
        """It is this model that keeps the process busy, if anything does."""
        total = sum(each.in_flight for each in self.models.values() if not each.remote)
        return not load.remote and load.in_flight >= DOMINANT * total

    def _throttled(self) -> bool:
        snapshot = self._situation.snapshot
        return snapshot is not None and any(
            reading.visible
            and reading.throttle_reasons
            and not _THROTTLED.isdisjoint(reading.throttle_reasons)
            for reading in snapshot.devices
        )

    # -- What goes out -------------------------------------------------------------------------

    def _hints_of(self, model: str) -> ModelHints:
        load = self.models[model]
        hint = load.hint
        sizes = {
            series.operation: batch.size
            for series, batch in self.batches.items()
            if series.model == model and batch.size is not None
        }
        if hint is None:
            return ModelHints(model, in_flight=load.in_flight, batch_sizes=MappingProxyType(sizes))
        return ModelHints(
            model,
            limit=hint.limit,
            basis=hint.basis,
            confidence=hint.confidence.value,
            lower_bound=hint.lower_bound,
            kv_tokens=hint.kv_tokens,
            in_flight=load.in_flight,
            utilization=load.utilization,
            replicas_ratio=load.scaling.ratio,
            batch_sizes=MappingProxyType(sizes),
            bounds=MappingProxyType({bound.basis: bound.limit for bound in hint.bounds}),
        )

    def evidence(self) -> Iterator[Evidence]:
        """How near each model is to its limit, for the alerts; not where the limit is only a lower bound."""
        for model, load in list(self.models.items()):
            hint = load.hint
            if hint is None or load.utilization is None or hint.confidence is Confidence.LOW:
                continue
            yield Evidence(
                "saturation.concurrency",
                ((semconv.AIMON_MODEL_NAME, model),),
                load.utilization,
                value=load.utilization,
            )
