"""The runtime of an instrumented process: makes the parts, connects them, ends them."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from opentelemetry import _logs, metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation

from otel_aimon import fork, processor, selfmon, semconv, shutdown
from otel_aimon.analysis.windows import Windows
from otel_aimon.config import FILE_SECTION, GPU, HOST, Settings, declarative_sections
from otel_aimon.core import instruments
from otel_aimon.core.guard import swallow
from otel_aimon.core.instruments import InferenceInstruments, observe
from otel_aimon.core.pipeline import Pipeline
from otel_aimon.core.recorder import Recorder
from otel_aimon.instrumentation.hooks import Hooks
from otel_aimon.resources.energy import EnergyAttribution
from otel_aimon.resources.monitor import ResourceMonitor
from otel_aimon.telemetry_loss import TelemetryLoss
from otel_aimon.version import __version__
from otel_aimon.watches import Watches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

logger = logging.getLogger("otel_aimon")

_FLUSH_MILLIS = 10_000


class Runtime:
    """Everything of ours that lives in a process while it is instrumented.

    Args:
        settings: Resolved settings.
        tracer_provider: Where spans go; the global provider by default.
        meter_provider: Where metrics go; the global provider by default.
        logger_provider: Where events go; the global provider by default.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        tracer_provider: Any = None,
        meter_provider: Any = None,
        logger_provider: Any = None,
    ) -> None:
        self.settings = settings
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        self._logger_provider = logger_provider
        tracer = trace.get_tracer(
            semconv.SCOPE, __version__, tracer_provider=tracer_provider, schema_url=semconv.SCHEMA_URL
        )
        meter = metrics.get_meter(
            semconv.SCOPE, __version__, meter_provider=meter_provider, schema_url=semconv.SCHEMA_URL
        )
        self.recorder = Recorder(
            tracer,
            queue_size=settings.queue_size,
            max_models=settings.max_models,
            stage_spans=settings.stages,
        )
        self.windows = Windows(settings.window)
        self.energy = EnergyAttribution(
            lambda: list(self.recorder.series_by_key.values()), queue_seconds=settings.interval
        )
        self._counts_energy = bool({GPU, HOST} & set(settings.resources))
        self.instruments = InferenceInstruments(meter)
        self.loss = TelemetryLoss(lambda: self.providers)
        self.watches = Watches(
            settings,
            self.recorder,
            self.windows,
            logger_provider,
            dropped=self.loss.look,
            wake=self._start_pipeline,
        )
        self.pipeline = Pipeline(
            self.recorder,
            (
                self.instruments.record,
                self.windows.consume,
                self.watches.consume,
                *((self.energy.consume,) if self._counts_energy else ()),
            ),
            interval=settings.interval,
            tick=self._tick,
            prepare=self.watches.prepare,
            settle=self.instruments.settle,
        )
        self.processor = processor.InferenceSpanProcessor(self.recorder, self.pipeline.drain)
        self.recorder.on_late_span = self.processor.claim_parent
        self._wants_processor = False
        self.resources = ResourceMonitor(settings)
        if self._counts_energy:
            self.resources.add_consumer(self.energy.sampled)
        self.resources.add_consumer(self.watches.sampled)
        if self.resources.loop_lag is not None:
            self.resources.loop_lag.install(self.recorder)
        self.shutdown_hooks = Hooks("uvicorn", self.recorder, settings)
        # Registered first: its callback drains the queue, so that a collection counts every
        # request that ended before it.
        observe(meter, semconv.INFERENCE_ACTIVE, self._observe_active)
        observe(meter, semconv.INFERENCE_QUEUE_SIZE, self._observe_queues)
        self.recorder.engines.register(meter)
        self.recorder.compilations.register(meter)
        self.windows.register(meter)
        if self._counts_energy:
            self.energy.register(meter)
        self.watches.register(meter)
        self.resources.register(meter)
        selfmon.register(meter, self.recorder, self.pipeline, self.resources.sampler)

    @property
    def meter_provider(self) -> Any:
        """The provider that holds our instruments."""
        return self._meter_provider or metrics.get_meter_provider()

    @property
    def providers(self) -> tuple[Any, Any, Any]:
        """The providers of tracers, meters and loggers that this process uses."""
        return (
            self._tracer_provider or trace.get_tracer_provider(),
            self.meter_provider,
            self._logger_provider or _logs.get_logger_provider(),
        )

    def want_processor(self) -> None:
        """Watch the spans of others as soon as there is a provider that allows it."""
        self._wants_processor = True
        self._attach_processor()
        if self._wants_processor:
            self.pipeline.start_thread()

    def after_fork_in_child(self) -> None:
        """Start from zero: the parent counts what it has seen."""
        self.recorder.after_fork_in_child()
        self.pipeline.after_fork_in_child()
        self.windows.after_fork_in_child()
        self.energy.after_fork_in_child()
        self.processor.after_fork_in_child()
        self.resources.after_fork_in_child()
        self.watches.after_fork_in_child()
        if self._wants_processor:
            self.pipeline.start_thread()

    def _start_pipeline(self) -> None:
        self.pipeline.want()

    def _tick(self) -> None:
        self.watches.tick()
        self._attach_processor()
        self.resources.start()

    def _attach_processor(self) -> None:
        if self._wants_processor and processor.attach(
            self._tracer_provider or trace.get_tracer_provider(), self.processor
        ):
            self._wants_processor = False

    def _observe_active(self, _options: CallbackOptions) -> Iterable[Observation]:
        self.pipeline.drain()
        return [
            Observation(len(series.active), series.attributes)
            for series in list(self.recorder.series_by_key.values())
            if series.in_process
        ]

    def _observe_queues(self, _options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(waiting, series.attributes) for series, waiting in self.recorder.queue_sizes()]

    def force_flush(self, *, providers: bool = False) -> None:
        """Hand everything that ended to the providers.

        Args:
            providers: Flush the providers too, for a process that ends without exit handlers.
        """
        if providers:
            self.collect_dropped_streams()
            self.resources.finish()
        self.pipeline.drain()
        if not providers:
            return
        self.end_alerts()
        for provider in self.providers:
            flush: Callable[[int], object] | None = getattr(provider, "force_flush", None)
            if flush is not None:
                flush(_FLUSH_MILLIS)

    def collect_dropped_streams(self) -> None:
        """Let streams that were dropped in reference cycles end, as nothing else will at a process's end.

        A web framework that cancels the response of a client who left drops the stream like that.
        """
        if any(series.active for series in list(self.recorder.series_by_key.values())):
            gc.collect()

    def end_alerts(self) -> None:
        """Resolve the alerts of a process that ends."""
        self.watches.shutdown()

    def stop(self) -> None:
        """Take no new request, and drain what ended."""
        self.recorder.close()
        self.shutdown_hooks.restore()
        self.processor.active = False
        self._wants_processor = False
        self.pipeline.stop()
        self.resources.stop()
        self.watches.stop()
        self.loss.stop()
        processor.detach(self._tracer_provider or trace.get_tracer_provider(), self.processor)
        instruments.stop_observing()


_lock = threading.Lock()
_current: Runtime | None = None


def current() -> Runtime | None:
    """The runtime of this process, if it is instrumented."""
    return _current


def start(
    arguments: Mapping[str, Any] | None = None,
    *,
    tracer_provider: Any = None,
    meter_provider: Any = None,
    logger_provider: Any = None,
) -> Runtime | None:
    """Start the runtime, or return the one that runs.

    Args:
        arguments: Settings that the program passed.
        tracer_provider: Where spans go.
        meter_provider: Where metrics go.
        logger_provider: Where events go.

    Returns:
        None when the SDK or otel-aimon is disabled: the process stays untouched.
    """
    global _current
    with _lock:
        if _current is not None:
            return _current
        if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            logger.debug("otel-aimon: OTEL_SDK_DISABLED is true, so nothing is instrumented.")
            return None
        settings = Settings.resolve(arguments, _file_section())
        if not settings.enabled:
            logger.debug("otel-aimon: disabled by its settings, so nothing is instrumented.")
            return None
        _current = Runtime(
            settings,
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            logger_provider=logger_provider,
        )
        fork.register(current)
        shutdown.watch(_current, current)
        atexit.register(_at_exit)
        return _current


def _file_section() -> dict[str, Any]:
    return declarative_sections().get(FILE_SECTION, {})


def stop() -> None:
    """Stop the runtime, losing nothing that ended."""
    global _current
    with _lock:
        runtime, _current = _current, None
    if runtime is not None:
        atexit.unregister(_at_exit)
        runtime.stop()


def _at_exit() -> None:
    # Registered after the providers' own exit handlers, so it runs before them.
    runtime = _current
    if runtime is None:
        return
    try:
        runtime.collect_dropped_streams()
        runtime.pipeline.stop()
        runtime.resources.finish(final=True)
        runtime.end_alerts()
    except Exception as error:
        swallow(error, "the exit handler")
