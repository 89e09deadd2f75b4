"""ExLlamaV2: each job of a dynamic generator is one request, and each call of its ``generate`` with all its jobs.

A generator takes a step with all of its jobs at once, in ``iterate``, and tells what came of it job by job. The
asynchronous generator does so in a task of its own.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from opentelemetry.context import create_key, get_current, set_value

from otel_aimon import semconv
from otel_aimon.core.call import observed
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.batch_members import Alone, Part
from otel_aimon.instrumentation.known import Known

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "exllamav2"

_BATCH = create_key("otel-aimon-exllamav2-batch")
"""Under this key the context carries the call of ``generate`` whose jobs are enqueued."""


def hook_generator(hooks: Hooks, module: Any) -> None:
    """Hook dynamic generators.

    Args:
        hooks: Of ExLlamaV2.
        module: ``exllamav2.generator.dynamic``.
    """
    jobs = _Jobs(hooks.recorder)
    generator = module.ExLlamaV2DynamicGenerator
    hooks.wrap(generator, "generate", jobs.generation, ("prompt",))
    hooks.wrap(generator, "enqueue", jobs.enqueuing, ("job",))
    hooks.wrap(generator, "iterate", jobs.iteration)
    hooks.wrap(generator, "cancel", jobs.cancellation, ("job",))
    if "clear_queue" in vars(generator):
        hooks.wrap(generator, "clear_queue", jobs.clearing)


class _Job(Alone):
    """A job that its user has enqueued."""

    __slots__ = ()

    def tokens(self, count: int) -> None:
        """Note how many tokens there are now."""
        inference = self.inference
        if count > (inference.output_tokens or 0):
            inference.chunk()
        # It goes back where a banned string is taken back.
        inference.output_tokens = count

    def finish(self, result: dict[str, Any]) -> None:
        """End the request, of which the last result has come."""
        inference = self.inference
        _read_last(inference, result)
        inference.finish_reasons = (result["eos_reason"],)
        inference.end()


class _Batch:
    """A call of ``generate``.

    Attributes:
        inference: The request.
        counts: Tokens of each of its jobs.
        reasons: Why each of them has ended.
    """

    __slots__ = ("counts", "inference", "reasons")

    def __init__(self, inference: Inference) -> None:
        self.inference = inference
        self.counts: list[int] = []
        self.reasons: list[str | None] = []


class _Part(Part):
    """A job of such a call."""

    __slots__ = ("_batch", "_place")

    def __init__(self, batch: _Batch) -> None:
        self._batch = batch
        self._place = len(batch.counts)
        batch.counts.append(0)
        batch.reasons.append(None)

    def tokens(self, count: int) -> None:
        """Note how many tokens there are now."""
        batch, inference = self._batch, self._batch.inference
        if count > batch.counts[self._place]:
            inference.chunk()
        batch.counts[self._place] = count
        inference.output_tokens = sum(batch.counts)
        inference.steps = max(batch.counts)

    def finish(self, result: dict[str, Any]) -> None:
        """Note the end of the job."""
        batch = self._batch
        batch.reasons[self._place] = result["eos_reason"]
        if len(batch.counts) == 1:
            _read_last(batch.inference, result)


class _Jobs:
    """Follows the jobs of all generators; keeps none of them alive."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._running: Known[_Job | _Part] = Known(lambda job: job.abandon())

    def _start(self, generator: Any) -> Inference | None:
        name = getattr(generator.model.config, "model_dir", None)
        series = self._recorder.series(FRAMEWORK, semconv.TEXT_COMPLETION, str(name) if name else None)
        inference = self._recorder.start(series, Layer.GENERATE)
        if inference is not None:
            inference.device = "cuda"
        return inference

    def generation(self, original: Any) -> Any:
        """Wrap ``generate``."""

        def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
            inference = self._start(args[0])
            if inference is not None and inference.context is not None:
                prompt = args[1] if len(args) > 1 else kwargs.get("prompt")
                inference.batch_size = len(prompt) if type(prompt) is list else 1
                inference.context = set_value(_BATCH, _Batch(inference), inference.context)
            return inference

        return observed(original, begin, _settle)

    def enqueuing(self, original: Any) -> Any:
        """Wrap ``enqueue``, which calls itself for each job of a list."""

        @functools.wraps(original)
        def enqueue(generator: Any, job: Any, *args: Any, **kwargs: Any) -> Any:
            running = None if isinstance(job, list) else guarded(self._begin, generator, job)
            try:
                return original(generator, job, *args, **kwargs)
            except BaseException as error:
                if running is not None:
                    running.fail(error)
                raise

        return enqueue

    def _begin(self, generator: Any, job: Any) -> _Job | _Part | None:
        prompt = len(job.sequences[0].input_ids)
        batch = get_current().get(_BATCH)
        if isinstance(batch, _Batch) and not batch.inference.end_ns:
            batch.inference.add_input_tokens(prompt)
            return self._running.learn(job, _Part(batch))
        inference = self._start(generator)
        if inference is None:
            return None
        inference.batch_size = 1
        inference.input_tokens = prompt
        return self._running.learn(job, _Job(inference))

    def iteration(self, original: Any) -> Any:
        """Wrap ``iterate``."""

        @functools.wraps(original)
        def iterate(generator: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                results = original(generator, *args, **kwargs)
            except BaseException as error:
                # It is of no one job: the asynchronous generator gives it to all.
                for running in self._all(generator):
                    running.fail(error)
                raise
            guarded(self._read, results)
            return results

        return iterate

    def _read(self, results: list[dict[str, Any]]) -> None:
        for result in results:
            if result["stage"] != "streaming":
                continue
            job = result["job"]
            running = self._running.of(job)
            if running is not None:
                running.tokens(max(job.new_tokens, 0))
                if result["eos"]:
                    running.finish(result)

    def _all(self, generator: Any) -> list[_Job | _Part]:
        jobs = (*generator.active_jobs, *generator.pending_jobs)
        return [running for job in jobs if (running := self._running.of(job)) is not None]

    def cancellation(self, original: Any) -> Any:
        """Wrap ``cancel``."""

        @functools.wraps(original)
        def cancel(generator: Any, job: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(generator, job, *args, **kwargs)
            running = self._running.of(job)
            if running is not None:
                running.cancel()
            return result

        return cancel

    def clearing(self, original: Any) -> Any:
        """Wrap ``clear_queue``, which takes all jobs back."""

        @functools.wraps(original)
        def clear(generator: Any, *args: Any, **kwargs: Any) -> Any:
            taken = guarded(self._all, generator) or []
            result = original(generator, *args, **kwargs)
            for running in taken:
                running.cancel()
            return result

        return clear


def _read_last(inference: Inference, result: dict[str, Any]) -> None:
    # Nought is told too where nothing is reused.
    inference.cached_tokens = result.get("cached_tokens") or None
    waited = result.get("time_enqueued")
    inference.queue_ns = round(waited * 1e9) if isinstance(waited, float) and waited >= 0 else None


def _settle(inference: Inference, _args: Any, _kwargs: Any, result: Any) -> None:
    batch = None if inference.context is None else inference.context.get(_BATCH)
    if not isinstance(batch, _Batch):
        return
    inference.note_finish_reasons(batch.reasons)
    if result is None:
        # Its user's event has told it to stop.
        inference.cancel()
