"""Metric instruments, and how one observation becomes metric points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, set_span_in_context

from otel_aimon import semconv
from otel_aimon.core.guard import swallow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.series import Series


_live: dict[str, tuple[Meter, Callable[[CallbackOptions], Iterable[Observation]]]] = {}
"""Callbacks of the observables. The SDK keeps the first one that it gets for a name for ever."""


def create_histogram(meter: Meter, metric: semconv.Metric) -> Histogram:
    """The histogram of a row of the table, with its advised buckets."""
    return meter.create_histogram(
        metric.name,
        unit=metric.unit,
        description=metric.description,
        explicit_bucket_boundaries_advisory=metric.buckets,
    )


def create_counter(meter: Meter, metric: semconv.Metric) -> Counter:
    """The counter of a row of the table."""
    return meter.create_counter(metric.name, unit=metric.unit, description=metric.description)


def observe(
    meter: Meter, metric: semconv.Metric, callback: Callable[[CallbackOptions], Iterable[Observation]]
) -> None:
    """Register an observable of a row of the table.

    Args:
        meter: Where.
        metric: A row whose kind is observable.
        callback: Returns values that are already there, within microseconds.
    """
    create: dict[str, Any] = {
        "observable_gauge": meter.create_observable_gauge,
        "observable_counter": meter.create_observable_counter,
        "observable_updowncounter": meter.create_observable_up_down_counter,
    }
    _live[metric.name] = (meter, callback)

    def read(options: CallbackOptions) -> Iterable[Observation]:
        live = _live.get(metric.name)
        if live is None or _real(live[0]) is not _real(meter):
            return ()
        try:
            return list(live[1](options))
        except Exception as error:
            swallow(error, metric.name)
            return ()

    create[metric.kind](metric.name, [read], unit=metric.unit, description=metric.description)


def stop_observing() -> None:
    """Let the observables have no values, until they are registered anew."""
    _live.clear()


def _real(meter: Any) -> Any:
    """The SDK's meter behind one that was asked for before the SDK was configured."""
    return getattr(meter, "_real_meter", None) or meter


class InferenceInstruments:
    """Records every ended inference: the pipeline's first consumer.

    Args:
        meter: Where the instruments are made; a no-op meter is fine.
    """

    def __init__(self, meter: Meter) -> None:
        self._duration = create_histogram(meter, semconv.INFERENCE_DURATION).record
        self._batch_size = create_histogram(meter, semconv.INFERENCE_BATCH_SIZE).record
        self._queue_duration = create_histogram(meter, semconv.INFERENCE_QUEUE_DURATION).record
        self._stage_duration = create_histogram(meter, semconv.INFERENCE_STAGE_DURATION).record
        self._audio = create_counter(meter, semconv.INFERENCE_AUDIO_DURATION).add
        self._audio_speed = create_histogram(meter, semconv.INFERENCE_AUDIO_SPEED).record
        self._tokens = create_counter(meter, semconv.INFERENCE_TOKENS).add
        self._server_duration = create_histogram(meter, semconv.SERVER_REQUEST_DURATION).record
        self._server_ttft = create_histogram(meter, semconv.SERVER_TIME_TO_FIRST_TOKEN).record
        self._server_tpot = create_histogram(meter, semconv.SERVER_TIME_PER_OUTPUT_TOKEN).record
        self._client_duration = create_histogram(meter, semconv.CLIENT_OPERATION_DURATION).record
        self._client_first_chunk = create_histogram(meter, semconv.CLIENT_TIME_TO_FIRST_CHUNK).record
        self._client_tokens = create_histogram(meter, semconv.CLIENT_TOKEN_USAGE).record
        self._token_sums: dict[tuple[Series, str], int] = {}

    def record(self, inference: Inference) -> None:
        """Turn an ended inference into metric points.

        The points carry the request's own context, so that their exemplars lead to its trace
        although they are recorded on another thread.
        """
        context = _exemplar_context(inference)
        if inference.owner is not None:
            if inference.recorded:
                attributes = inference.series.with_error(inference.error_type)
                self._stage_duration(inference.duration, attributes, context)
            if inference.series.kind is SpanKind.CLIENT:
                # A remote model is a dependency of its own, wherever it is asked from.
                self._record_client(inference, context)
            return
        series = inference.series
        self._duration(inference.duration, series.with_error(inference.error_type), context)
        if inference.batch_size is not None:
            self._batch_size(inference.batch_size, series.attributes, context)
        if inference.queue_ns is not None:
            self._queue_duration(inference.queue_ns / 1e9, series.attributes, context)
        if (speed := inference.audio_speed) is not None:
            self._audio_speed(speed, series.attributes, context)
            self._audio(inference.audio or 0.0, series.attributes, context)
        self._count_tokens(inference)
        if series.gen_ai_attributes and not inference.foreign:
            self._record_gen_ai(inference, context)

    def settle(self) -> None:
        """Record the tokens of a batch of inferences: a sum is the same however often it is added to."""
        sums, self._token_sums = self._token_sums, {}
        for (series, kind), tokens in sums.items():
            self._tokens(tokens, series.with_token_type(kind))

    def _count_tokens(self, inference: Inference) -> None:
        sums, series = self._token_sums, inference.series
        for kind, tokens in (
            ("input", inference.input_tokens),
            ("output", inference.output_tokens),
            ("cached", inference.cached_tokens),
        ):
            if tokens is not None:
                key = (series, kind)
                sums[key] = sums.get(key, 0) + tokens

    def _record_gen_ai(self, inference: Inference, context: Context | None) -> None:
        series = inference.series
        if series.kind is SpanKind.CLIENT:
            self._record_client(inference, context)
            return
        self._server_duration(inference.duration, series.gen_ai_with_error(inference.error_type), context)
        if inference.error_type is not None or not series.generative:
            return
        if (first := inference.time_to_first_token) is not None:
            self._server_ttft(first, series.gen_ai_attributes, context)
        if (per_token := inference.time_per_output_token) is not None:
            self._server_tpot(per_token, series.gen_ai_attributes, context)

    def _record_client(self, inference: Inference, context: Context | None) -> None:
        series = inference.series
        if not series.gen_ai_attributes:
            return
        self._client_duration(inference.duration, series.gen_ai_with_error(inference.error_type), context)
        if (first := inference.time_to_first_token) is not None:
            self._client_first_chunk(first, series.gen_ai_attributes, context)
        if inference.input_tokens is not None:
            self._client_tokens(inference.input_tokens, series.gen_ai_with_token_type("input"), context)
        if inference.output_tokens is not None:
            self._client_tokens(inference.output_tokens, series.gen_ai_with_token_type("output"), context)


def _exemplar_context(inference: Inference) -> Context | None:
    """A context with nothing but the request's span, when its trace is sampled."""
    span = inference.span
    if span is None or not span.get_span_context().trace_flags.sampled:
        return None
    return set_span_in_context(span, Context())
