"""One inference: a request, or a stage of one, from its start to its end."""

from __future__ import annotations

import weakref
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanKind, Status, StatusCode

from otel_aimon import semconv
from otel_aimon.core.guard import swallow
from otel_aimon.core.layers import Layer
from otel_aimon.core.naming import error_type

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from otel_aimon.core.recorder import Recorder
    from otel_aimon.core.series import Series

_SUMMED = ("input_tokens", "output_tokens", "finish_reasons")
"""What a request has from its stages, summed over all its generations."""

_MOST_FINISH_REASONS = 128
"""Sequences whose reasons a span bears; a request over a whole dataset has none."""


class Inference:
    """What is known of one request while it runs, and the observation that remains of it.

    Instrumentations write what the framework already knows into its attributes; nothing is
    computed on the caller's thread. An attribute that stays ``None`` is unknown and is not exported.
    The object is the observation too: after :meth:`end` it goes through the queue as it is.

    Attributes:
        series: Names and attribute sets of its framework, operation and model.
        layer: Where it stands among the nested layers.
        owner: The request that a stage belongs to; None for a request.
        span: Its span, recording or not; None for a stage whose spans are switched off.
        context: The OpenTelemetry context in which the inference runs, and in which the span is current unless it
            is made later; None after the end.
        parent: Context of the span's parent, where the span is made later than the inference; else None.
        start_ns: Start on the monotonic clock, in nanoseconds.
        start_unix_ns: Start on the wall clock, in nanoseconds.
        first_ns: First token or chunk on the monotonic clock; 0 while there is none.
        last_ns: Latest token or chunk on the monotonic clock.
        end_ns: End on the monotonic clock; 0 while it runs.
        input_tokens: Tokens of the prompts, all sequences together.
        output_tokens: Tokens generated, all sequences together.
        cached_tokens: Prompt tokens taken from a cache.
        steps: Tokens in the longest generated sequence: the decoding steps that passed.
        decode_ns: Nanoseconds between first and last token, summed over the stages.
        decode_steps: Tokens after the first, summed over the stages.
        batch_size: Items in the request.
        device: Where the model runs, such as ``cpu`` or ``cuda:0``.
        finish_reasons: Why generation stopped, one per sequence.
        queue_ns: Nanoseconds in the framework's own queue.
        audio: Seconds of sound that the request is about.
        rest_ns: Nanoseconds in which a lazy result lay with its user and the framework rested.
        details: Further attributes of the span, which only some frameworks know.
        error_type: Class of the error, or ``cancelled``; None for success.
        stages: Stages recorded so far.
        deferred: It has ended, and its span is still to be: the pipeline does that.
        watch: Tells when the stream that carries the request is garbage.
        recorded: A stage that has a span and a duration of its own.
        unknown: Sums that a stage could not contribute to, so that they stay unknown.
        foreign: Another instrumentation made its span, and its ``gen_ai.*`` metrics if any.
    """

    __slots__ = (
        "__weakref__",
        "audio",
        "batch_size",
        "cached_tokens",
        "context",
        "decode_ns",
        "decode_steps",
        "deferred",
        "details",
        "device",
        "end_ns",
        "error_type",
        "finish_reasons",
        "first_ns",
        "foreign",
        "input_tokens",
        "last_ns",
        "layer",
        "output_tokens",
        "owner",
        "parent",
        "queue_ns",
        "recorded",
        "recorder",
        "rest_ns",
        "series",
        "span",
        "stages",
        "start_ns",
        "start_unix_ns",
        "steps",
        "unknown",
        "watch",
    )

    def __init__(
        self,
        recorder: Recorder,
        series: Series,
        layer: Layer,
        owner: Inference | None,
        start_ns: int,
        start_unix_ns: int,
    ) -> None:
        self.recorder = recorder
        self.series = series
        self.layer = layer
        self.owner = owner
        self.start_ns = start_ns
        self.start_unix_ns = start_unix_ns
        self.span: Span | None = None
        self.context: Context | None = None
        self.parent: Context | None = None
        self.first_ns = 0
        self.last_ns = 0
        self.end_ns = 0
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.steps: int | None = None
        self.decode_ns = 0
        self.decode_steps = 0
        self.batch_size: int | None = None
        self.device: str | None = None
        self.finish_reasons: tuple[str, ...] | None = None
        self.queue_ns: int | None = None
        self.audio: float | None = None
        self.rest_ns = 0
        self.details: dict[str, Any] | None = None
        self.error_type: str | None = None
        self.stages = 0
        self.deferred = False
        self.foreign = False
        self.watch: weakref.ref[Any] | None = None
        self.recorded = False
        self.unknown: frozenset[str] = frozenset()

    def chunk(self) -> None:
        """Note that output came out just now: a token, or a chunk of several."""
        now = perf_counter_ns()
        if not self.first_ns:
            self.first_ns = now
        self.last_ns = now
        owner = self.owner
        (self if owner is None else owner).series.progress_ns = now

    def rest(self) -> None:
        """Note that the framework rests from now on, until :meth:`resume`."""
        self.rest_ns -= perf_counter_ns()

    def resume(self) -> None:
        """Note that the framework works again."""
        self.rest_ns += perf_counter_ns()

    def add_input_tokens(self, tokens: int | None) -> None:
        """Count the tokens of one batch of the request; None makes the whole sum unknown."""
        if tokens is None:
            self._forget("input_tokens")
        elif "input_tokens" not in self.unknown:
            self._add("input_tokens", tokens)

    def note_finish_reasons(self, reasons: Sequence[str | None]) -> None:
        """Note why each sequence stopped, where that is known of all of them and they are few enough for a span."""
        known = tuple(reason for reason in reasons if reason is not None)
        if len(known) == len(reasons) <= _MOST_FINISH_REASONS:
            self.finish_reasons = known

    def end(self, at_ns: int | None = None) -> None:
        """End it. Only the first end counts, whichever thread it comes from.

        Args:
            at_ns: When it ended, on the monotonic clock in nanoseconds, if not now: results may lie
                ready long before somebody takes them.
        """
        try:
            self._end(None, at_ns)
        except Exception as error:
            swallow(error, "the end of an inference")

    def fail(self, error: BaseException) -> None:
        """End it as failed, or as cancelled when that is what ``error`` says."""
        if isinstance(error, GeneratorExit):
            # Generators and coroutines are closed by the garbage collector too.
            self.abandon()
            return
        try:
            self._end(error_type(error))
        except Exception as own_error:
            swallow(own_error, "the end of a failed inference")

    def fail_as(self, name: str) -> None:
        """End it as failed with an ``error.type`` that the framework names."""
        try:
            self._end(name)
        except Exception as error:
            swallow(error, "the end of a failed inference")

    def _end(self, outcome: str | None, at_ns: int | None = None) -> None:
        if not self._claim_end(at_ns):
            return
        try:
            if outcome is not None:
                self.error_type = self.recorder.admit_error_type(outcome)
            self.context = None
        finally:
            self.recorder.submit(self)

    def cancel(self) -> None:
        """End it as cancelled: nobody wanted the rest."""
        self.fail_as(semconv.ERROR_TYPE_CANCELLED)

    def abandon(self, *, cancelled: bool = True) -> None:
        """End it from a finaliser, as cancelled as a rule.

        A finaliser may run in the middle of anything, so this takes no lock.

        Args:
            cancelled: That it goes before its end; not where going is the only end that it has.
        """
        if self.end_ns:
            return
        try:
            if not self._claim_end():
                return
            if cancelled:
                self.error_type = semconv.ERROR_TYPE_CANCELLED
            self.recorder.queue.append(self)
        except Exception as error:
            swallow(error, "the end of an abandoned inference")

    def _claim_end(self, at_ns: int | None = None) -> bool:
        # Atomic: of several threads that end it one gets True. What was in flight when the process
        # forked is the parent's: the child finds nothing to claim.
        running = self.series.active if self.owner is None else self.series.active_stages
        if running.pop(id(self), None) is None:
            return False
        self.deferred = True
        self.end_ns = perf_counter_ns() if at_ns is None else max(at_ns, self.start_ns)
        if self.owner is not None and not self.owner.end_ns:
            self._hand_up(self.owner)
        return True

    def finish_span(self) -> None:
        """Put what is known on the span and end it, when the inference ended.

        The pipeline calls it: setting attributes and ending a span costs as much as all the rest of a call,
        and no caller has to wait for it.
        """
        self.deferred = False
        self.context = None
        if self.watch is not None:
            self.watch = None
            self.recorder.watches.pop(id(self), None)
        parent, self.parent = self.parent, None
        if parent is not None:
            self.span = self.recorder.late_span(self, parent)
        span = self.span
        if span is None:
            return
        if span.is_recording():
            if attributes := self.span_attributes():
                span.set_attributes(attributes)
            if self.error_type is not None and self.error_type != semconv.ERROR_TYPE_CANCELLED:
                # The class only: messages of frameworks quote prompts and feature values.
                span.set_status(Status(StatusCode.ERROR, self.error_type))
        span.end(self.start_unix_ns + self.end_ns - self.start_ns)

    def span_attributes(self) -> dict[str, Any]:
        """The attributes that the span did not get at its start."""
        attributes: dict[str, Any] = dict(self.series.end_attributes)
        if self.batch_size is not None:
            attributes[semconv.AIMON_BATCH_SIZE] = self.batch_size
        if self.device is not None:
            attributes[semconv.AIMON_DEVICE] = self.device
        if self.error_type is not None:
            attributes[semconv.ERROR_TYPE] = self.error_type
        if self.input_tokens is not None:
            attributes[semconv.GEN_AI_USAGE_INPUT_TOKENS] = self.input_tokens
        if self.output_tokens is not None:
            attributes[semconv.GEN_AI_USAGE_OUTPUT_TOKENS] = self.output_tokens
        if self.cached_tokens is not None:
            attributes[semconv.GEN_AI_USAGE_CACHED_TOKENS] = self.cached_tokens
        if self.finish_reasons is not None:
            attributes[semconv.GEN_AI_RESPONSE_FINISH_REASONS] = self.finish_reasons
        if self.first_ns:
            # What comes first from a remote server is a chunk, with a token in it or not.
            remote = self.series.kind is SpanKind.CLIENT
            first = (
                semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK if remote else semconv.AIMON_TIME_TO_FIRST_TOKEN
            )
            attributes[first] = (self.first_ns - self.start_ns) / 1e9
        if self.queue_ns is not None:
            attributes[semconv.AIMON_QUEUE_DURATION] = self.queue_ns / 1e9
        if self.audio is not None:
            attributes[semconv.AIMON_AUDIO_DURATION] = self.audio
        if (speed := self.audio_speed) is not None:
            attributes[semconv.AIMON_AUDIO_SPEED] = speed
        if self.details is not None:
            attributes.update(self.details)
        return attributes

    @property
    def duration(self) -> float:
        """Seconds from submission to completion."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def audio_speed(self) -> float | None:
        """Seconds of sound per second of work, the inverse real-time factor; None unless all sound is done."""
        if self.audio is None or self.error_type is not None:
            return None
        work_ns = self.end_ns - self.start_ns - self.rest_ns
        return self.audio * 1e9 / work_ns if work_ns > 0 else None

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from submission to the first token; None when that was not seen."""
        return (self.first_ns - self.start_ns) / 1e9 if self.first_ns else None

    @property
    def time_per_output_token(self) -> float | None:
        """Mean seconds per token after the first: (last - first) / (tokens - 1).

        As ``gen_ai.server.time_per_output_token`` defines it, per sequence: the sequences of a
        batch advance together, so their tokens are steps, not a sum.
        """
        elapsed, steps = self._decoding()
        return elapsed / steps / 1e9 if steps > 0 else None

    def _decoding(self) -> tuple[int, int]:
        steps = self.steps
        if steps is None and (self.batch_size or 1) == 1:
            steps = self.output_tokens
        # A first token alone does not say when the last one came.
        if self.decode_steps or steps is None or self.last_ns == self.first_ns:
            return self.decode_ns, self.decode_steps
        return self.last_ns - self.first_ns, steps - 1

    def _hand_up(self, owner: Inference) -> None:
        """Give the owner what only the stage could see: tokens and their times."""
        if self.cached_tokens is not None:
            owner.cached_tokens = (owner.cached_tokens or 0) + self.cached_tokens
        for name in _SUMMED:
            value = getattr(self, name)
            if name == "output_tokens" and owner.steps is not None:
                # It counts what comes out of it, the stage's tokens among them.
                continue
            if value is not None and name not in owner.unknown:
                owner._add(name, value)
            elif value is None and self.layer is Layer.GENERATE:
                # A sum without this generation's part would be too small: better none.
                owner._forget(name)
        if self.first_ns:
            owner.first_ns = min(owner.first_ns or self.first_ns, self.first_ns)
            owner.last_ns = max(owner.last_ns, self.last_ns)
            elapsed, steps = self._decoding()
            owner.decode_ns += elapsed
            owner.decode_steps += steps

    def watch_over(self, stream: Any) -> None:
        """End it as cancelled when ``stream``, which carries it, is garbage and it still runs.

        A generator that was never started runs no ``finally`` when it is dropped; a weak reference
        is told all the same. The recorder keeps the weak reference: in a reference cycle it would be
        garbage together with the stream, and would never be told.
        """
        watch = self.watch = self.recorder.watches[id(self)] = _Watch(stream, _abandon)
        watch.inference = self

    def _add(self, name: str, value: Any) -> None:
        sum_ = value if (known := getattr(self, name)) is None else known + value
        if isinstance(sum_, tuple) and len(sum_) > _MOST_FINISH_REASONS:
            self._forget(name)
        else:
            setattr(self, name, sum_)

    def _forget(self, name: str) -> None:
        self.unknown |= {name}
        setattr(self, name, None)


class _Watch(weakref.ref[Any]):
    """Tells when the stream that carries an inference is garbage."""

    __slots__ = ("inference",)
    inference: Inference


def _abandon(watch: weakref.ref[Any]) -> None:
    watch.inference.abandon()  # type: ignore[attr-defined]
