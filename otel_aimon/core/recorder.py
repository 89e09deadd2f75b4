"""Starts inferences and takes them when they end. One per instrumented process."""

from __future__ import annotations

from collections import deque
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, SpanKind, set_span_in_context

from otel_aimon import semconv
from otel_aimon.core.compilations import Compilations
from otel_aimon.core.engines import Engines
from otel_aimon.core.inference import Inference
from otel_aimon.core.layers import MAX_STAGES, STAGES_INSIDE, Layer
from otel_aimon.core.naming import MAX_NAME_LENGTH, Capped, bounded_text, clean_model_name
from otel_aimon.core.series import Series

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable

    from opentelemetry.trace import Span, Tracer

INFERENCE_KEY = context_api.create_key("otel-aimon-inference")
"""Under this key the OpenTelemetry context carries the innermost running inference."""

_SPAN_KEY = next(iter(set_span_in_context(INVALID_SPAN, Context())))
"""Under this key the API keeps the current span: known, a context is made in one step."""

LATE_KEY = context_api.create_key("otel-aimon-late")
"""Under this key the context of a span's parent tells that it is the parent of a request that began before."""

_SUPPRESSED = context_api._SUPPRESS_INSTRUMENTATION_KEY
_MOST_REMEMBERED = 4096
"""Names as they come that are remembered; what they mean is capped elsewhere."""

_MAX_ERROR_TYPES = 50
_MAX_OPERATIONS = 50
_MAX_PROVIDERS = 50


class Recorder:
    """The hot path's only shared state.

    Args:
        tracer: Where spans come from; a no-op tracer is fine.
        queue_size: Observations that may wait; beyond it a caller drains a batch itself.
        max_models: Distinct model names before ``other``.
        stage_spans: Whether nested layers get spans and durations of their own.
    """

    def __init__(self, tracer: Tracer, *, queue_size: int, max_models: int, stage_spans: bool) -> None:
        self.tracer = tracer
        self.queue: deque[Inference] = deque()
        self.queue_size = queue_size
        self.stage_spans = stage_spans
        self.closed = False
        """Nothing is started any more."""
        self.series_by_key: dict[tuple[str, str, str, str | None, str | None, SpanKind], Series] = {}
        self._series_by_request: dict[tuple[str, str, str | None, str | None, str | None, bool], Series] = {}
        """The same by the names as they come: most calls ask with names that were asked for before."""
        self.on_submit: Callable[[int], None] = _ignore
        """Called with the queue's length after each append: it keeps the pipeline running."""
        self.on_late_span: Callable[[Context], None] = _ignore
        """Called with the context of its parent when a request starts whose span is made later."""
        self.models = Capped(max_models, semconv.OTHER)
        self.operations = Capped(_MAX_OPERATIONS, semconv.OTHER)
        """Operation names that the user or another instrumentation makes up."""
        self.providers = Capped(_MAX_PROVIDERS, semconv.OTHER)
        """Provider and framework names that another instrumentation makes up."""
        self._error_types = Capped(_MAX_ERROR_TYPES, semconv.ERROR_TYPE_OTHER)
        self.watches: dict[int, weakref.ref[Any]] = {}
        """Tell when the stream that carries a request is garbage: the request's identity → its watch."""
        self._waiting: list[tuple[Series, Callable[[], int | None]]] = []
        self.engines = Engines()
        """Serving engines in this process, with what they tell of themselves."""
        self.compilations = Compilations()
        """What frameworks compile while the process serves."""

    def series(
        self,
        framework: str,
        operation: str,
        model: str | None,
        *,
        gen_ai_operation: str | None = None,
        provider: str | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> Series:
        """The series of a framework, operation and model, made when it is first asked for.

        Args:
            framework: Key in the registry, or ``manual``.
            operation: What the model does; from a bounded set.
            model: The framework's name for the model; None becomes ``unknown``.
            gen_ai_operation: The operation in the gen_ai conventions' words, if that differs.
            provider: ``gen_ai.provider.name`` when it is not the framework.
            kind: INTERNAL, or CLIENT for a client of a remote model.
        """
        asked = (framework, operation, model, gen_ai_operation, provider, kind is SpanKind.CLIENT)
        known = self._series_by_request.get(asked)
        if known is not None:
            return known
        found = self._series(framework, operation, model, gen_ai_operation, provider, kind)
        if len(self._series_by_request) < _MOST_REMEMBERED and (not model or len(model) <= MAX_NAME_LENGTH):
            self._series_by_request[asked] = found
        return found

    def _series(
        self,
        framework: str,
        operation: str,
        model: str | None,
        gen_ai_operation: str | None,
        provider: str | None,
        kind: SpanKind,
    ) -> Series:
        name = clean_model_name(model) if model else "unknown"
        key = (framework, operation, name, gen_ai_operation, provider, kind)
        found = self.series_by_key.get(key)
        if found is None:
            name = self.models.admit(name)
            key = (framework, operation, name, gen_ai_operation, provider, kind)
            made = Series(
                framework, operation, name, gen_ai_operation=gen_ai_operation, provider=provider, kind=kind
            )
            found = self.series_by_key.setdefault(key, made)
        return found

    def series_named_by_others(
        self,
        framework: str,
        operation: str,
        model: str | None,
        *,
        gen_ai_operation: str | None = None,
        provider: str | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> Series:
        """Like :meth:`series`, for names that users or other instrumentations make up: all are bounded."""
        return self.series(
            self.providers.admit(bounded_text(framework)),
            self.operations.admit(bounded_text(operation)),
            model,
            gen_ai_operation=gen_ai_operation,
            provider=self.providers.admit(bounded_text(provider)) if provider else None,
            kind=kind,
        )

    def start(
        self,
        series: Series,
        layer: Layer,
        current: Context | None = None,
        *,
        since: tuple[int, int] | None = None,
        span: bool = True,
        late: bool = False,
    ) -> Inference | None:
        """Start a request, or a stage of the request that runs in this context.

        The caller enters ``inference.context`` while the model works, and leaves it again before
        control returns to the user.

        Args:
            series: From :meth:`series`.
            layer: The layer of the instrumented call.
            current: The context to start in, when it is not the current one.
            since: When it started, on the monotonic and on the wall clock in nanoseconds, if not now.
            span: Whether it gets a span; not where the framework itself makes one.
            late: Its span is made with its end, on the pipeline's thread, so that no caller has to wait for it. For
                layers without stages, in which nothing else is logged or traced: it would find the span around.

        Returns:
            None when the call is a part of the running request that is not recorded, or when
            instrumentation is suppressed.
        """
        if current is None:
            current = context_api.get_current()
        running = running_in(current)
        if running is not None:
            return self._start_stage(series, layer, current, running, since, span=span, late=late)
        if current.get(_SUPPRESSED):
            return None
        start_ns, unix_ns = since or (perf_counter_ns(), time_ns())
        inference = Inference(self, series, layer, None, start_ns, unix_ns)
        self._give_context(inference, current, span=span, late=late)
        series.in_process = True
        series.active[id(inference)] = inference.start_ns
        return inference

    def _give_context(self, inference: Inference, current: Context, *, span: bool, late: bool) -> None:
        if span and not late:
            series = inference.series
            started = inference.span = self.tracer.start_span(
                series.span_name, current, series.kind, series.start_attributes, None, inference.start_unix_ns
            )
            inference.context = Context({**current, _SPAN_KEY: started, INFERENCE_KEY: inference})
            return
        if span:
            self.give_late_span(inference, current)
        inference.context = Context({**current, INFERENCE_KEY: inference})

    def give_late_span(self, inference: Inference, parent: Context) -> None:
        """Let a running request that has no span get one with its end.

        Args:
            inference: The request.
            parent: Context of the span's parent.
        """
        inference.parent = parent
        self.on_late_span(parent)

    def late_span(self, inference: Inference, parent: Context) -> Span:
        """The span of a request that did not get one at its start; it begins when the request did.

        Args:
            inference: From :meth:`give_late_span`.
            parent: Context of the span's parent.
        """
        series = inference.series
        return self.tracer.start_span(
            series.span_name,
            Context({**parent, LATE_KEY: True}),
            series.kind,
            series.start_attributes,
            None,
            inference.start_unix_ns,
        )

    def _start_stage(
        self,
        series: Series,
        layer: Layer,
        current: Context,
        running: Inference,
        since: tuple[int, int] | None,
        *,
        span: bool,
        late: bool,
    ) -> Inference | None:
        if layer not in STAGES_INSIDE[running.layer] or current.get(_SUPPRESSED):
            return None
        owner = running.owner or running
        recorded = owner.stages < MAX_STAGES
        if not recorded and layer is not Layer.GENERATE:
            return None
        owner.stages += 1
        start_ns, unix_ns = since or (perf_counter_ns(), time_ns())
        stage = Inference(self, series, layer, owner, start_ns, unix_ns)
        # A generation past the cap has no span, but its tokens belong to the request all the same.
        stage.recorded = recorded and self.stage_spans
        self._give_context(stage, current, span=span and stage.recorded, late=late)
        series.active_stages[id(stage)] = stage.start_ns
        return stage

    def watch_queue(self, series: Series, size: Callable[[], int | None]) -> None:
        """Observe a queue in which a framework keeps requests until it has room for them.

        Args:
            series: Whose requests wait there.
            size: Returns how many wait, within microseconds and without a lock; None once the
                queue is gone.
        """
        self._waiting.append((series, size))

    def compiled(self, framework: str, seconds: float) -> None:
        """Record that a framework compiled something, on the thread and in the context of this call.

        The request that runs in this context waited for it, and bears the sum.

        Args:
            framework: Key in the registry.
            seconds: How long it took.
        """
        running = running_in(context_api.get_current())
        request = running and (running.owner or running)
        if request is None or request.layer is Layer.QUIET:
            self.compilations.add(framework, None, seconds)
            return
        details = request.details = request.details or {}
        known = details.get(semconv.AIMON_COMPILE_DURATION, 0.0)
        details[semconv.AIMON_COMPILE_DURATION] = known + seconds
        self.compilations.add(framework, request.series.model, seconds)

    def queue_sizes(self) -> list[tuple[Series, int]]:
        """Requests that wait in the frameworks' own queues, one entry per series."""
        sizes: dict[Series, int] = {}
        for watched in list(self._waiting):
            series, size = watched
            waiting = size()
            if waiting is None:
                self._waiting.remove(watched)
            else:
                sizes[series] = sizes.get(series, 0) + waiting
        return list(sizes.items())

    def quiet_context(self) -> Context:
        """The current context, with everything inside it silent: training, warm-up, compilation."""
        return context_api.set_value(INFERENCE_KEY, _QUIET)

    def submit(self, inference: Inference) -> None:
        """Queue an ended inference."""
        queue = self.queue
        queue.append(inference)
        self.on_submit(len(queue))

    def admit_error_type(self, name: str) -> str:
        """``name``, or ``_OTHER`` once there are too many distinct ones."""
        if name == semconv.ERROR_TYPE_CANCELLED:
            return name
        return self._error_types.admit(bounded_text(name))

    def close(self) -> None:
        """Start nothing any more, also through wrapped functions that the user still holds."""
        self.closed = True
        self.start = _start_nothing  # type: ignore[method-assign]

    def after_fork_in_child(self) -> None:
        """Forget the parent's requests: it counts them itself."""
        if running_in(context_api.get_current()) not in {None, _QUIET}:
            # Forked inside a request, as a pool of workers often is: theirs are requests of their own.
            context_api.attach(context_api.set_value(INFERENCE_KEY, None))
        self.queue = deque()
        self.watches = {}
        self.models.after_fork_in_child()
        self.operations.after_fork_in_child()
        self.providers.after_fork_in_child()
        self._error_types.after_fork_in_child()
        self._waiting = []
        self.engines.after_fork_in_child()
        for series in list(self.series_by_key.values()):
            series.active = {}
            series.active_stages = {}
            series.in_process = False


def running_in(context: Context) -> Inference | None:
    """The innermost inference that still runs in ``context``.

    A task that outlives the request which started it carries an ended inference: it is outside.
    """
    found = context.get(INFERENCE_KEY)
    while isinstance(found, Inference):
        if not found.end_ns:
            return found
        found = found.owner
    return None


def _ignore(_told: object) -> None:
    """Stands in until somebody is connected who wants to know."""


def _start_nothing(series: Series, layer: Layer, current: Context | None = None, **_options: Any) -> None:
    """Stand in for :meth:`Recorder.start` in a process that is not instrumented any more."""


class _Quiet(Inference):
    """A running inference that is none: nothing starts inside it."""

    __slots__ = ()

    def __init__(self) -> None:
        self.layer = Layer.QUIET
        self.owner = None
        self.end_ns = 0
        self.stages = 0


_QUIET = _Quiet()
