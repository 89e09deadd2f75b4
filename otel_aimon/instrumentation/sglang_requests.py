"""The books of SGLang's front end: which request of ours is which sequence of the scheduler."""

from __future__ import annotations

import weakref
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from otel_aimon import semconv
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.known import Known
from otel_aimon.instrumentation.sglang_engines import Engines
from otel_aimon.instrumentation.sglang_outputs import Output, output_at, output_in, reason_of

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.core.series import Series
    from otel_aimon.instrumentation.sglang_calls import Call
    from otel_aimon.instrumentation.sglang_outputs import Times

FRAMEWORK = "sglang"
"""Value of ``aimon.framework``."""

ENGINE_DEAD = "engine_dead"
"""``error.type`` of a request that ran when SGLang ended its processes because a part had failed."""

_REFUSED = {400: "ValueError"}
_REFUSED_OTHERWISE = "fastapi.exceptions.HTTPException"
"""What SGLang raises for a request that the scheduler refuses, by status code; streams are told so instead."""

_HEALTH_CHECK = "HEALTH_CHECK"
_NANO = 1_000_000_000


class Entry:
    """A request of the scheduler.

    Attributes:
        inference: Our request; None once it has ended.
        generative: It generates tokens.
        streams: Its outputs come piece by piece.
        pending: Sequences that are still to end.
        sequences: Ids of all that went to the scheduler.
        delivered: Its last output went to the user, while the message that brought it is still handled.
        reasons: Why its sequences ended.
        times: Of its sequences.
        last: When the last token of each came, on the monotonic clock in seconds.
    """

    __slots__ = (
        "delivered",
        "generative",
        "inference",
        "last",
        "pending",
        "reasons",
        "sequences",
        "streams",
        "times",
    )

    def __init__(self, inference: Inference, *, generative: bool, streams: bool) -> None:
        self.inference: Inference | None = inference
        self.generative = generative
        self.streams = streams
        self.pending = 1
        self.delivered = False
        self.sequences: tuple[str, ...] = ()
        self.reasons: tuple[str, ...] = ()
        self.times: list[Times] = []
        self.last: list[float] = []

    def read(self, output: Output, state: Any) -> None:
        """Take over what is known of a sequence that has ended.

        Args:
            output: Its end.
            state: SGLang's ``ReqState`` of it.
        """
        inference = self.inference
        if inference is None:
            return
        if output.input_tokens is not None:
            inference.input_tokens = output.input_tokens
        if inference.cached_tokens is None:
            inference.cached_tokens = output.cached_tokens
        if output.reason is not None and self.generative:
            self.reasons = (*self.reasons, output.reason)
        if self.generative and output.output_tokens is not None:
            inference.output_tokens = (inference.output_tokens or 0) + output.output_tokens
            self._read_times(inference, output, state, output.output_tokens)
        elif output.times is not None:
            self.times.append(output.times)

    def _read_times(self, inference: Inference, output: Output, state: Any, tokens: int) -> None:
        now = perf_counter_ns()
        if output.times is not None:
            self.times.append(output.times)
        first = self._first(output, state) if tokens else 0
        if not first:
            return
        first = min(max(first, inference.start_ns), now)
        inference.first_ns = min(inference.first_ns or first, first)
        inference.last_ns = now
        self.last.append(now / _NANO)
        if tokens > 1:
            inference.decode_ns += now - first
            inference.decode_steps += tokens - 1

    def _first(self, output: Output, state: Any) -> int:
        """When the first token came; 0 where nobody knows."""
        inference = self.inference
        if self.streams:
            arrived = getattr(getattr(state, "time_stats", None), "first_token_time", None)
            if isinstance(arrived, float) and arrived > 0:
                return int(arrived * _NANO)
            seen = 0 if inference is None else inference.first_ns
            return seen or perf_counter_ns()
        # What is not streamed comes in pieces of many tokens: only the scheduler knows of the first.
        return int(output.times.first * _NANO) if output.times is not None else 0

    def read_unfinished(self, states: list[Any]) -> None:
        """Take over what has come of sequences that nobody waits for."""
        inference = self.inference
        if inference is None or not self.generative:
            return
        for state in states:
            ids = getattr(state, "output_ids", None)
            if type(ids) is list and ids:
                inference.output_tokens = (inference.output_tokens or 0) + len(ids)

    def end(self, error: BaseException | str | None = None, *, unwanted: bool = False) -> None:
        """End the request.

        Args:
            error: Why it failed, or the name of that.
            unwanted: Nobody waits for it any more.
        """
        inference, self.inference = self.inference, None
        if inference is None:
            return
        self._set_times(inference)
        if self.reasons:
            inference.finish_reasons = self.reasons
        if isinstance(error, str):
            inference.fail_as(error)
        elif error is not None:
            inference.fail(error)
        elif unwanted:
            inference.cancel()
        else:
            inference.end()

    def abandon(self) -> None:
        """End it as cancelled, from a finaliser."""
        inference, self.inference = self.inference, None
        if inference is not None:
            inference.abandon()

    def _set_times(self, inference: Inference) -> None:
        details = {}
        if self.times:
            queued, scheduled, first = zip(*self.times, strict=True)
            inference.queue_ns = int(min(queued) * _NANO)
            details[semconv.AIMON_PREFILL_DURATION] = min(first) - min(scheduled)
            if self.last and self.generative:
                details[semconv.AIMON_DECODE_DURATION] = max(max(self.last) - min(first), 0.0)
        if inference.decode_steps:
            details[semconv.AIMON_TIME_PER_OUTPUT_TOKEN] = (
                inference.decode_ns / inference.decode_steps / _NANO
            )
        if details:
            inference.details = details


class Ledger:
    """The sequences that one tokenizer manager has sent to the scheduler, by their ids.

    Args:
        requests: The books of all managers.
        manager: The ``TokenizerManager``; it is not kept alive.

    Attributes:
        sees_outputs: The scheduler's outputs come by here. Those of an engine that was made before the
            process was instrumented may not.
        engines: The schedulers.
        series: Of requests without an adapter, by their operations.
    """

    def __init__(self, requests: Requests, manager: Any) -> None:
        self.model = _model_name(manager)
        self.device = _device(manager)
        self.engines = Engines(requests.recorder, FRAMEWORK, self.model, manager)
        self.sees_outputs = False
        self.series: dict[str, Series] = {}
        self._traces = bool(_own_tracing(manager))
        self._states: weakref.ref[Any] = weakref.ref(manager)
        self._sequences: dict[str, tuple[Entry, Any, bool]] = {}

    def traces(self, obj: Any) -> bool:
        """Whether SGLang makes a span of a sequence itself."""
        if not self._traces:
            return False
        manager = self._states()
        state = None if manager is None else manager.rid_to_state.get(obj.rid)
        tracing = getattr(getattr(state, "time_stats", None), "trace_ctx", None)
        return bool(getattr(tracing, "tracing_enable", True))

    def enter(self, entry: Entry, rid: str, state: Any, *, warming: bool) -> None:
        """A sequence has gone to the scheduler.

        Args:
            entry: Its request.
            rid: Its id.
            state: SGLang's ``ReqState`` of it.
            warming: It only puts the prompt into the cache.
        """
        self._sequences[rid] = (entry, state, warming)
        entry.sequences = (*entry.sequences, rid)

    def finish(self, outputs: Any, places: list[int]) -> None:
        """Sequences have ended.

        Args:
            outputs: Of all sequences in a step.
            places: Of those that have ended.
        """
        for place in places:
            rid = outputs.rids[place]
            if type(rid) is not str or rid.startswith(_HEALTH_CHECK):
                continue
            output = output_at(outputs, place)
            self.engines.count(outputs, place, output)
            self._finish(rid, output)

    def finish_delivered(self, meta: dict[str, Any]) -> None:
        """A sequence has ended whose last output has gone to the user."""
        self._finish(meta.get("id"), output_in(meta))

    def abort(self, rid: str, told: dict[str, Any] | None) -> None:
        """The scheduler has given up a sequence that had no place in the batch yet.

        Args:
            rid: Its id.
            told: Why, where the scheduler gives another reason than that it was asked to.
        """
        reason, refused = reason_of(told)
        self._finish(rid, Output(None, None, None, reason or "abort", refused))

    def _finish(self, rid: Any, output: Output) -> None:
        found = self._sequences.pop(rid, None)
        if found is None:
            return
        entry, state, warming = found
        if warming and output.reason != "abort":
            # What the sequences after it find in the cache is there because of it.
            if entry.inference is not None:
                entry.inference.cached_tokens = output.cached_tokens
            return
        entry.read(output, state)
        if output.output_tokens is None:
            entry.read_unfinished([state])
        entry.pending -= 1
        if output.refused is not None:
            self._forget(entry)
            entry.end(_REFUSED.get(output.refused, _REFUSED_OTHERWISE))
        elif entry.pending <= 0:
            if len(entry.sequences) > 1:
                self._forget(entry)
            entry.end(unwanted="abort" in entry.reasons or output.aborted)

    def close(self, entry: Entry, error: BaseException | str | None = None, *, success: bool = False) -> None:
        """End a request whose sequences did not end: as failed, else as cancelled.

        Args:
            entry: The request.
            error: Why it failed.
            success: It did end, and nobody said how.
        """
        if entry.inference is not None:
            entry.read_unfinished(self._forget(entry))
            entry.end(error, unwanted=error is None and not success)

    def abandon(self, entry: Entry) -> None:
        """Cancel a request from a finaliser."""
        if entry.inference is not None:
            entry.read_unfinished(self._forget(entry))
            entry.abandon()

    def close_all(self, error: str | None = None) -> None:
        """End all requests: nothing will come of them."""
        for entry, _, _ in list(self._sequences.values()):
            self.close(entry, error)

    def _forget(self, entry: Entry) -> list[Any]:
        """Take out what is left of a request; returns SGLang's states of the sequences that still ran."""
        found = [self._sequences.pop(rid, None) for rid in entry.sequences]
        return [each[1] for each in found if each is not None and not each[2]]


class Requests:
    """Starts the requests of all tokenizer managers, and keeps their books."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._ledgers: Known[Ledger] = Known()

    def known(self, manager: Any) -> Ledger | None:
        """The ledger of a tokenizer manager that has had a request."""
        return self._ledgers.of(manager)

    def ledger(self, manager: Any) -> Ledger:
        """The ledger of a tokenizer manager."""
        return self._ledgers.of(manager) or self._ledgers.learn(manager, Ledger(self, manager))

    def ledgers(self) -> list[Ledger]:
        """All of them."""
        return self._ledgers.values()

    def start(self, call: Call, ledger: Ledger, parent: Context, lora: Any, *, span: bool) -> Entry | None:
        """Start a request.

        Args:
            call: The call that it belongs to; it starts when the call did.
            ledger: Of its tokenizer manager.
            parent: Context of its span's parent.
            lora: The adapter, or None.
            span: Whether it gets a span.
        """
        adapted = isinstance(lora, str) and bool(lora)
        series = None if adapted else ledger.series.get(call.operation)
        if series is None:
            series = self.recorder.series(FRAMEWORK, call.operation, lora if adapted else ledger.model)
            if not adapted:
                ledger.series[call.operation] = series
        layer = Layer.GENERATE if call.generative else Layer.MODEL
        inference = self.recorder.start(series, layer, parent, since=call.start, span=span, late=True)
        if inference is None:
            return None
        inference.batch_size = 1
        inference.device = ledger.device
        return Entry(inference, generative=call.generative, streams=call.streams)


def _model_name(manager: Any) -> str | None:
    """The name under which the model is served."""
    arguments = getattr(manager, "server_args", None)
    for owner, name in (
        (manager, "served_model_name"),
        (arguments, "served_model_name"),
        (arguments, "model_path"),
    ):
        found = getattr(owner, name, None)
        if isinstance(found, str) and found:
            return found
    return None


def _device(manager: Any) -> str | None:
    """Where the model runs, such as ``cpu`` or ``cuda``."""
    device = getattr(getattr(manager, "server_args", None), "device", None)
    return device if isinstance(device, str) and device else None


def _own_tracing(manager: Any) -> Any:
    told = getattr(manager, "enable_trace", None)
    return getattr(getattr(manager, "server_args", None), "enable_trace", False) if told is None else told
