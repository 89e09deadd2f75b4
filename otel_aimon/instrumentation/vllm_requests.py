"""The books of a vLLM engine's front end: which request of ours is which sequence of the engine.

An engine turns a request into one sequence or, with ``n > 1``, into several, and keeps a
``RequestState`` for each. All that a span needs is in there, kept for vLLM's own statistics, so that
nothing is done while a sequence runs: its state is read once, when it ends.
"""

from __future__ import annotations

import os
import weakref
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.context import get_current

from otel_aimon import semconv
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.server_requests import callers_context

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.context import Context

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.vllm_calls import Call

FRAMEWORK = "vllm"
"""Value of ``aimon.framework``."""

ENGINE_ERROR = "engine_error"
"""``error.type`` of a request that the engine gave up with the finish reason ``error``."""

_ABORT = "abort"
_ERROR = "error"
_NANO = 1_000_000_000


class Entry:
    """A request in an engine.

    Attributes:
        inference: Our request; None once it has ended, so that nothing of ours is kept alive by
            the tasks that vLLM starts in the request's context.
        parent: The context in which it was submitted; None once it has ended, likewise.
        call: The user's call that it belongs to, where that is known.
        ledger: Where its sequences are.
        sequences: Ids of all its sequences.
        pending: Sequences that run.
        generative: It generates tokens; a pooling request does not.
        sessional: Its prompt comes piece by piece, so that its first token has no one time.
        times: When each sequence was queued, scheduled, had its first and its last token, in the
            engine's seconds.
        reasons: Why its sequences ended.
    """

    __slots__ = (
        "call",
        "generative",
        "inference",
        "ledger",
        "parent",
        "pending",
        "reasons",
        "sequences",
        "sessional",
        "times",
    )

    def __init__(self, inference: Inference, parent: Context, *, generative: bool) -> None:
        self.inference: Inference | None = inference
        self.parent: Context | None = parent
        self.pending = 0
        self.generative = generative
        self.sessional = False
        self.times: list[tuple[float, float, float, float]] = []
        self.reasons: tuple[str, ...] = ()
        self.sequences: tuple[str, ...] = ()
        self.ledger: Ledger | None = None
        self.call: Call | None = None

    def read(self, state: Any) -> None:
        """Take over what vLLM knows of a sequence that ends.

        Args:
            state: Its ``RequestState``.
        """
        inference = self.inference
        if inference is None:
            return
        if state.is_prefilling:
            # Nothing has come of it yet, and how far its prompt was processed nobody says.
            return
        inference.input_tokens = state.prompt_len
        if state.num_cached_tokens >= 0 and (inference.cached_tokens is None or state.request_index == 0):
            inference.cached_tokens = state.num_cached_tokens
        tokens = 0
        if self.generative and state.detokenizer is not None:
            tokens = _tokens_of(state.detokenizer)
            inference.output_tokens = (inference.output_tokens or 0) + tokens
        if state.stats is not None and not self.sessional:
            self._read_times(inference, state.stats, tokens)

    def _read_times(self, inference: Inference, stats: Any, tokens: int) -> None:
        if not (stats.queued_ts and stats.scheduled_ts and stats.first_token_ts):
            return
        self.times.append((stats.queued_ts, stats.scheduled_ts, stats.first_token_ts, stats.last_token_ts))
        if not self.generative:
            return
        # When the token reached this process, by vLLM's clock, which is this process's wall clock.
        first_unix_ns = int((stats.arrival_time + stats.first_token_latency) * _NANO)
        since_start = max(first_unix_ns - inference.start_unix_ns, 0)
        first_ns = min(inference.start_ns + since_start, perf_counter_ns())
        inference.first_ns = min(inference.first_ns or first_ns, first_ns)
        if tokens > 1:
            inference.decode_ns += int((stats.last_token_ts - stats.first_token_ts) * _NANO)
            inference.decode_steps += tokens - 1

    def end(self, error: BaseException | None = None, *, unwanted: bool = False) -> None:
        """End the request; every sequence that ended has been read.

        Args:
            error: Why it failed, where that is known.
            unwanted: Nobody waits for it any more, and vLLM does not say why it ended.
        """
        inference, self.inference = self.inference, None
        if inference is None:
            return
        self._set_times(inference)
        failed = error is not None or _ERROR in self.reasons
        cancelled = unwanted or _ABORT in self.reasons
        if self.call is not None:
            self.call.settled = self.call.settled or failed or not cancelled
        self.parent = self.call = None
        if self.generative and self.reasons:
            inference.finish_reasons = self.reasons
        if error is not None:
            inference.fail(error)
        elif failed:
            inference.fail_as(ENGINE_ERROR)
        elif cancelled:
            inference.cancel()
        else:
            inference.end()

    def abandon(self) -> None:
        """End it as cancelled, from a finaliser."""
        inference, self.inference = self.inference, None
        if inference is not None:
            inference.abandon()

    def _set_times(self, inference: Inference) -> None:
        if not self.times:
            return
        queued, scheduled, first, last = zip(*self.times, strict=True)
        inference.queue_ns = max(int((min(scheduled) - min(queued)) * _NANO), 0)
        details = {semconv.AIMON_PREFILL_DURATION: max(min(first) - min(scheduled), 0.0)}
        if self.generative:
            details[semconv.AIMON_DECODE_DURATION] = max(max(last) - min(first), 0.0)
            inference.last_ns = inference.first_ns + int(details[semconv.AIMON_DECODE_DURATION] * _NANO)
            if inference.decode_steps:
                details[semconv.AIMON_TIME_PER_OUTPUT_TOKEN] = (
                    inference.decode_ns / inference.decode_steps / _NANO
                )
        inference.details = dict(details)


def _tokens_of(detokenizer: Any) -> int:
    """How many tokens a sequence has, which the oldest versions do not count."""
    count = getattr(detokenizer, "num_output_tokens", None)
    return int(count()) if count is not None else len(detokenizer.output_token_ids)


class Ledger:
    """The sequences that run in one engine, by the engine's id."""

    def __init__(self, recorder: Recorder, *, traces_itself: bool) -> None:
        self.recorder = recorder
        self.traces_itself = traces_itself
        self.sequences: dict[str, tuple[Entry, Any]] = {}

    def enter(self, entry: Entry, request_id: str, state: Any) -> None:
        """Enter a sequence."""
        if request_id not in self.sequences:
            entry.pending += 1
            entry.ledger = self
            entry.sequences = (*entry.sequences, request_id)
            self.sequences[request_id] = (entry, state)

    def finish(self, request_id: str, reason: str | None) -> None:
        """A sequence has ended; with the last one its request ends.

        Args:
            request_id: The engine's id.
            reason: Why, in vLLM's word; None where it does not say.
        """
        found = self.sequences.pop(request_id, None)
        if found is None:
            return
        entry, state = found
        entry.read(state)
        if reason is not None:
            entry.reasons = (*entry.reasons, reason)
        entry.pending -= 1
        if not entry.pending:
            entry.end()

    def abort(self, request_ids: Iterable[str]) -> None:
        """Sequences that nobody wants any more."""
        for request_id in request_ids:
            found = self.sequences.get(request_id)
            if found is not None:
                if found[0].pending == 1:
                    self.give_span(found[0])
                self.finish(request_id, _ABORT)

    def close(self, entry: Entry, error: BaseException | None = None) -> None:
        """End a request whose sequences did not end, as failed or else as cancelled."""
        for request_id in entry.sequences:
            found = self.sequences.pop(request_id, None)
            if found is not None:
                entry.read(found[1])
        self.give_span(entry)
        entry.end(error, unwanted=error is None)

    def close_all(self, error: BaseException | None = None) -> None:
        """End all requests: nothing will come of them."""
        for entry, _ in list(self.sequences.values()):
            self.close(entry, error)

    def give_span(self, entry: Entry) -> None:
        """A span for a request of an engine that traces itself, but not such an end."""
        inference = entry.inference
        if (
            self.traces_itself
            and inference is not None
            and inference.parent is None
            and entry.parent is not None
        ):
            self.recorder.give_late_span(inference, entry.parent)

    def __del__(self) -> None:
        for entry, _ in self.sequences.values():
            entry.abandon()


class Requests:
    """Starts the requests of all engines, and keeps their books."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.ends_are_seen = False
        """Whether this version of vLLM tells when requests end; without that none is started."""
        self._pid = os.getpid()
        self._ledgers: weakref.WeakKeyDictionary[Any, Ledger] = weakref.WeakKeyDictionary()
        self._by_collector: weakref.WeakKeyDictionary[Any, Entry] = weakref.WeakKeyDictionary()

    def close_all(self) -> None:
        """End the requests of all engines: the process ends. A forked one had none of its own."""
        if os.getpid() == self._pid:
            for ledger in list(self._ledgers.values()):
                guarded(ledger.close_all)

    def known(self, processor: Any) -> Ledger | None:
        """The ledger of an ``OutputProcessor`` that has had a request."""
        return self._ledgers.get(processor)

    def ledger(self, processor: Any) -> Ledger:
        """The ledger of an ``OutputProcessor``."""
        found = self._ledgers.get(processor)
        if found is None:
            # Older versions keep their tracer there, newer ones a flag.
            traces_itself = bool(
                getattr(processor, "tracing_enabled", False) or getattr(processor, "tracer", None)
            )
            found = self._ledgers[processor] = Ledger(self.recorder, traces_itself=traces_itself)
        return found

    def submit(
        self,
        engine: Any,
        operation: str,
        lora: Any,
        trace_headers: Mapping[str, str] | None,
        *,
        generative: bool,
    ) -> Entry | None:
        """Start a request.

        Args:
            engine: An ``AsyncLLM`` or ``LLMEngine``.
            operation: ``aimon.operation``.
            lora: The adapter, a ``LoRARequest``, or None.
            trace_headers: Where the request comes from, when no span is current here.
            generative: It generates tokens.
        """
        if not self.ends_are_seen:
            return None
        parent = callers_context(get_current(), trace_headers)
        config = engine.vllm_config
        series = self.recorder.series(FRAMEWORK, operation, model_name(config, lora))
        ledger = self.ledger(engine.output_processor)
        layer = Layer.GENERATE if generative else Layer.MODEL
        inference = self.recorder.start(series, layer, parent, span=not ledger.traces_itself, late=True)
        if inference is None:
            return None
        inference.batch_size = 1
        inference.device = device_name(config)
        entry = Entry(inference, parent, generative=generative)
        entry.ledger = ledger
        return entry

    def collected_by(self, entry: Entry, collector: Any) -> None:
        """Note through what the user gets the outputs: who drops it does not want the rest."""
        if entry.inference is not None:
            entry.inference.watch_over(collector)
            self._by_collector[collector] = entry

    def collector_closed(self, collector: Any) -> None:
        """The user's generator is over; a request that still runs now was left by its user."""
        entry = self._by_collector.pop(collector, None)
        if entry is not None and entry.inference is not None and entry.ledger is not None:
            entry.ledger.close(entry)


def model_name(config: Any, lora: Any = None) -> str | None:
    """The name under which an engine serves its model, or the name of an adapter.

    Args:
        config: A ``VllmConfig``.
        lora: A ``LoRARequest``, or None.
    """
    adapter = getattr(lora, "lora_name", None)
    if isinstance(adapter, str) and adapter:
        return adapter
    model = config.model_config
    names = getattr(model, "served_model_name", None)
    if isinstance(names, (list, tuple)) and names:
        names = names[0]
    return names if isinstance(names, str) and names else getattr(model, "model", None)


def device_name(config: Any) -> str | None:
    """Where an engine runs, such as ``cpu`` or ``cuda``."""
    device = getattr(getattr(config, "device_config", None), "device_type", None)
    return device if isinstance(device, str) and device else None
