"""Takes inference spans that others made into the pipeline: each request once.

Others are the official genai packages, OpenLLMetry, OpenInference and the user's own code. A span
counts as an inference when it bears ``gen_ai.operation.name`` or ``aimon.operation``, or what
OpenInference and OpenLLMetry write instead. A span around one of our own inferences, or inside
one, is the same request and is left out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanKind, StatusCode, get_current_span

from otel_aimon import semconv
from otel_aimon.core.guard import swallow
from otel_aimon.core.inference import Inference
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import LATE_KEY, running_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span
    from opentelemetry.trace import SpanContext

    from otel_aimon.core.recorder import Recorder

_MOST_REMEMBERED = 8192
"""Bounds the memory for spans that were claimed or are nested and never end."""

_LONGEST_TEXT = 256

_OPENINFERENCE_KINDS = {"LLM": semconv.CHAT, "EMBEDDING": semconv.EMBEDDINGS, "RERANKER": "rerank"}
_TRACELOOP_TYPES = {
    "chat": semconv.CHAT,
    "completion": semconv.TEXT_COMPLETION,
    "embedding": semconv.EMBEDDINGS,
}
_INFERENCE_OPERATIONS = semconv.GEN_AI_OPERATIONS | {"rerank"}

_MODEL_KEYS = (
    semconv.AIMON_MODEL_NAME,
    semconv.GEN_AI_REQUEST_MODEL,
    semconv.GEN_AI_RESPONSE_MODEL,
    "llm.model_name",
    "embedding.model_name",
    "reranker.model_name",
)
_PROVIDER_KEYS = (semconv.GEN_AI_PROVIDER_NAME, "gen_ai.system", "llm.provider", "llm.system")
_FRAMEWORK_KEYS = (semconv.AIMON_FRAMEWORK, *_PROVIDER_KEYS)
_INPUT_KEYS = (semconv.GEN_AI_USAGE_INPUT_TOKENS, "gen_ai.usage.prompt_tokens", "llm.token_count.prompt")
_OUTPUT_KEYS = (
    semconv.GEN_AI_USAGE_OUTPUT_TOKENS,
    "gen_ai.usage.completion_tokens",
    "llm.token_count.completion",
)
_CACHED_KEYS = (semconv.GEN_AI_USAGE_CACHED_TOKENS, "llm.token_count.prompt_details.cache_read")


class _Operation(NamedTuple):
    """What a foreign span says it did; ``gen_ai`` in the conventions' words where it has one."""

    name: str
    gen_ai: str | None


class InferenceSpanProcessor(SpanProcessor):
    """Watches the spans of the user's provider; never changes one.

    Args:
        recorder: Takes the observations.
        flush: Drains the pipeline, so that nothing waits when the provider is flushed.
    """

    def __init__(self, recorder: Recorder, flush: Callable[[], None]) -> None:
        self._recorder = recorder
        self._flush = flush
        self.active = True
        self._our_scope: object = None
        """That of our tracer, once it was seen: all spans of a tracer share one."""
        self.after_fork_in_child()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Remember a foreign span that starts inside one of our inferences, or around one."""
        try:
            if not self.active:
                return
            if self._is_ours(span):
                # Not when it ends: what is around it may have ended by then.
                if parent_context is None or LATE_KEY not in parent_context:
                    self._claim(span.parent)
                return
            if parent_context is None:
                from opentelemetry.context import get_current

                parent_context = get_current()
            if running_in(parent_context) is not None:
                self._remember(self._nested, span.get_span_context().span_id)
        except Exception as error:
            swallow(error, "the span processor's on_start")

    def claim_parent(self, parent: Context) -> None:
        """Note that the span of a context has a request of ours in it, which gets its own span later."""
        if self.active:
            self._claim(get_current_span(parent).get_span_context())

    def on_end(self, span: ReadableSpan) -> None:
        """Take a foreign inference span as an observation, unless it is a request of ours."""
        try:
            if self.active:
                self._on_end(span)
        except Exception as error:
            swallow(error, "the span processor's on_end")

    def _on_end(self, span: ReadableSpan) -> None:
        context: SpanContext = span.context
        parent = span.parent
        claimed = self._claimed.pop(context.span_id, False)
        nested = self._nested.pop(context.span_id, False)
        if self._is_ours(span):
            return
        if claimed:
            # It holds one of ours. Whatever it is, its ancestors hold that request too.
            self._claim(parent)
            return
        if nested:
            return
        attributes = span.attributes
        if not attributes:
            return
        operation = _operation(attributes)
        if operation is not None:
            self._claim(parent)
            self._submit(span, attributes, operation)

    def _is_ours(self, span: ReadableSpan) -> bool:
        scope = span.instrumentation_scope
        if scope is self._our_scope and scope is not None:
            return True
        if scope is None or scope.name != semconv.SCOPE:
            return False
        self._our_scope = scope
        return True

    def _claim(self, parent: SpanContext | None) -> None:
        if parent is not None and parent.is_valid and not parent.is_remote:
            self._remember(self._claimed, parent.span_id)

    def _remember(self, where: OrderedDict[int, bool], span_id: int) -> None:
        with self._lock:
            where[span_id] = True
            if len(where) > _MOST_REMEMBERED:
                where.popitem(last=False)

    def _submit(self, span: ReadableSpan, attributes: Mapping[str, Any], operation: _Operation) -> None:
        start, end = span.start_time, span.end_time
        if start is None or end is None or end < start:
            return
        recorder = self._recorder
        provider = _first_text(attributes, _PROVIDER_KEYS)
        series = recorder.series_named_by_others(
            _first_text(attributes, _FRAMEWORK_KEYS) or "manual",
            operation.name,
            _first_text(attributes, _MODEL_KEYS),
            gen_ai_operation=operation.gen_ai,
            provider=provider,
            kind=SpanKind.CLIENT if span.kind is SpanKind.CLIENT else SpanKind.INTERNAL,
        )
        observation = Inference(recorder, series, Layer.REQUEST, None, start, start)
        observation.end_ns = end
        observation.foreign = True
        observation.span = NonRecordingSpan(span.context)
        observation.input_tokens = _first_count(attributes, _INPUT_KEYS)
        observation.output_tokens = _first_count(attributes, _OUTPUT_KEYS)
        observation.cached_tokens = _first_count(attributes, _CACHED_KEYS)
        observation.batch_size = _first_count(attributes, (semconv.AIMON_BATCH_SIZE,))
        observation.error_type = self._error_type(span, attributes)
        recorder.submit(observation)

    def _error_type(self, span: ReadableSpan, attributes: Mapping[str, Any]) -> str | None:
        named = _first_text(attributes, (semconv.ERROR_TYPE,))
        if named is None and span.status.status_code is not StatusCode.ERROR:
            return None
        if named is None:
            exceptions = [event.attributes for event in span.events if event.name == "exception"]
            named = _first_text(exceptions[-1] or {}, ("exception.type",)) if exceptions else None
        return self._recorder.admit_error_type(named or semconv.ERROR_TYPE_OTHER)

    def shutdown(self) -> None:
        """Drain the pipeline: the provider is about to stop taking spans."""
        self.force_flush()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002
        """Drain the pipeline, which may end spans of abandoned streams."""
        try:
            self._flush()
        except Exception as error:
            swallow(error, "the span processor's force_flush")
        return True

    def after_fork_in_child(self) -> None:
        """Forget the parent's spans."""
        # Reentrant: a signal handler or a finaliser may end a span in the middle.
        self._lock = threading.RLock()
        self._claimed: OrderedDict[int, bool] = OrderedDict()
        self._nested: OrderedDict[int, bool] = OrderedDict()


def attach(provider: Any, processor: InferenceSpanProcessor) -> bool:
    """Add ``processor`` to a provider, in front of the exporters.

    In front, so that flushing the provider first drains the pipeline, which may end spans of
    abandoned streams, and then exports them.

    Returns:
        Whether the provider takes processors; a proxy or no-op provider does not.
    """
    add = getattr(provider, "add_span_processor", None)
    if add is None:
        return False
    add(processor)
    _move(provider, processor, (processor,))
    return True


def detach(provider: Any, processor: InferenceSpanProcessor) -> None:
    """Take ``processor`` out of a provider again, where its SDK keeps processors as we know it."""
    _move(provider, processor, ())


def _move(
    provider: Any, processor: InferenceSpanProcessor, in_front: tuple[InferenceSpanProcessor, ...]
) -> None:
    try:
        multi = provider._active_span_processor
        with multi._lock:
            others = tuple(each for each in multi._span_processors if each is not processor)
            multi._span_processors = (*in_front, *others)
    except AttributeError:
        # Another SDK keeps its processors elsewhere; last is good enough.
        pass


def _operation(attributes: Mapping[str, Any]) -> _Operation | None:
    """What an inference span did; None for a span that is no inference."""
    own = _first_text(attributes, (semconv.AIMON_OPERATION,))
    if own is not None:
        return _Operation(own, own if own in semconv.GEN_AI_OPERATIONS else None)
    named = _first_text(attributes, (semconv.GEN_AI_OPERATION_NAME,))
    if named is None:
        named = _OPENINFERENCE_KINDS.get(str(attributes.get("openinference.span.kind", "")).upper())
    if named is None:
        named = _TRACELOOP_TYPES.get(str(attributes.get("llm.request.type", "")).lower())
    # invoke_agent, execute_tool and their like hold inferences; they are none.
    if named is None or named not in _INFERENCE_OPERATIONS:
        return None
    return _Operation(named, named if named in semconv.GEN_AI_OPERATIONS else None)


def _first_text(attributes: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    for key in keys:
        value = attributes.get(key)
        if isinstance(value, str) and value:
            return value[-_LONGEST_TEXT:]
    return None


def _first_count(attributes: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        value = attributes.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
